from __future__ import annotations

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.names import (
    bare_uuid,
    devices_of_group,
    dm_name_problem,
    group_name_problem,
    live_pool_device,
    lv_name_problem,
    pool_dm_name,
)


@pytest.mark.parametrize("name", ["a", "docker", "A-b_c+d.e", "_x", "+x", ".hidden", "...", "9", "x" * 127, "a-"])
def test_names_that_lvm_takes(name: str) -> None:
    assert (group_name_problem(name), lv_name_problem(name)) == ("", "")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "letters"),
        (".", "directory"),
        ("..", "directory"),
        ("-a", "must not begin with -"),
        ("--help", "must not begin with -"),
        ("@tag", "letters"),
        ("a b", "letters"),
        ("a/b", "letters"),
        ("a\n", "letters"),
        ("a\0", "letters"),
        ("\u00e4", "letters"),
        ("$(reboot)", "letters"),
        ("x" * 128, "128 characters"),
    ],
)
def test_names_that_lvm_refuses(name: str, why: str) -> None:
    assert why in group_name_problem(name)
    assert lv_name_problem(name) == group_name_problem(name)


@pytest.mark.parametrize("name", ["pvmove0", "pvmove", "snapshot", "snapshot1"])
def test_reserved_beginnings_are_for_groups_only(name: str) -> None:
    assert "must not begin with" in lv_name_problem(name)
    assert group_name_problem(name) == ""
    assert lv_name_problem(f"my{name}") == ""


@pytest.mark.parametrize(
    "part",
    [
        *("_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_wcorig", "_mimage", "_mlog", "_rimage", "_rmeta"),
        *("_tdata", "_tmeta", "_vdata", "_imeta", "_iorig", "_pmspare", "_vorigin"),
    ],
)
def test_reserved_parts_are_refused_anywhere(part: str) -> None:
    for name in (f"pool{part}", part, f"a{part}b"):
        assert repr(part) in lv_name_problem(name)
    assert lv_name_problem(part.removeprefix("_")) == ""


@pytest.mark.parametrize(
    ("group", "lv", "name"),
    [
        ("docker", "thinpool", "docker-thinpool"),
        ("a-b", "c-d", "a--b-c--d"),
        ("a--b", "c", "a----b-c"),
        ("a-", "b", "a---b"),
    ],
)
def test_device_mapper_doubles_hyphens(group: str, lv: str, name: str) -> None:
    assert pool_dm_name(group, lv) == name


@pytest.mark.parametrize(
    ("group", "fits"), [("g" * 120, True), ("g" * 121, False), ("-" * 60, True), ("-" * 61, False)]
)
def test_the_longest_device_mapper_name_has_127_characters(group: str, *, fits: bool) -> None:
    # GROUP-_tdata: 7 characters beside the mangled group
    assert (dm_name_problem(group, "") == "") is fits


def test_the_name_that_is_too_long_is_shown_with_its_length() -> None:
    assert "134 characters" in dm_name_problem("g" * 119, "thinpool")
    assert len(dm_name_problem("g" * 127, "l" * 127)) < 200


def test_devices_of_a_group_are_told_by_uuid_not_by_name() -> None:
    shot = support.healthy()
    group = shot.groups[0]
    renamed = tuple(replace(d, name=f"x{place}") for place, d in enumerate(shot.dm_devices))
    assert devices_of_group(group.uuid, renamed) == renamed
    assert devices_of_group(support.uuid_of("another"), renamed) == ()


@pytest.mark.parametrize("layer", ["", "-tpool", "-tdata", "-tmeta"])
def test_the_live_device_is_the_one_with_the_pool_target(layer: str) -> None:
    shot = support.healthy()
    group = shot.groups[0]
    lv = group.lvs[0]
    uuid = f"LVM-{bare_uuid(group.uuid)}{bare_uuid(lv.uuid)}"
    live = replace(shot.dm_devices[-1], uuid=uuid + layer)
    cover = replace(live, name="cover", uuid=f"{uuid}-cover", targets=("linear",))
    assert live_pool_device(group, lv.uuid, (cover, live)) == live
    assert live_pool_device(group, lv.uuid, (cover, replace(live, targets=("linear",)))) is None
    assert live_pool_device(group, support.uuid_of("another"), (live,)) is None
