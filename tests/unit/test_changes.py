"""Existing pools are brought to their configuration: steps where that is possible, refusals with a way out where not.

Each plan is carried out on the in-memory host, and the plan after it must be empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from thinpoolmgr.core.changes import room_of
from thinpoolmgr.core.commands import commands
from thinpoolmgr.core.desired import MAX_METADATA_BYTES
from thinpoolmgr.core.model import Signature
from thinpoolmgr.core.plan import MadePool, Memory, OpenStep
from thinpoolmgr.core.planner import plan_apply
from thinpoolmgr.core.steps import (
    CreateThinPool,
    Discards,
    ExtendData,
    ExtendMetadata,
    ExtendVolumeGroup,
    step_mark,
    step_name,
    target,
)
from thinpoolmgr.sim import events
from thinpoolmgr.sim.changes import suspend
from thinpoolmgr.units import GIB, KIB, MIB

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredPool
    from thinpoolmgr.core.model import Disk, LogicalVolume, Snapshot
    from thinpoolmgr.core.plan import Plan

NOTHING = Memory()
HEALTHY = support.healthy()
GROUP = HEALTHY.groups[0]
POOL = GROUP.lvs[0]
SDC = support.disk("/dev/sdc")
BOTH = ("/dev/sdb", "/dev/sdc")
WITH_SDC = support.with_free_disk(HEALTHY, SDC)
SMALL = support.with_pool(support.snapshot(), data_extents=1000)
MADE = MadePool(POOL.uuid, 2431 * support.EXTENT, 12 * MIB)
EXT4 = Signature("ext4", "filesystem", 1080)


def plan(shot: Snapshot, *pools: DesiredPool, memory: Memory = NOTHING) -> Plan:
    return plan_apply(support.desired(*pools), shot, memory)


def names(found: Plan) -> list[str]:
    return [step_name(step) for step in found.steps]


def codes(found: Plan) -> list[str]:
    return [refusal.code for refusal in found.refusals]


def converged(shot: Snapshot, *pools: DesiredPool, memory: Memory = NOTHING) -> Snapshot:
    """Plan, carry out, and make sure that nothing is left to do, with and without what the journal knew."""
    found = plan(shot, *pools, memory=memory)
    assert codes(found) == []
    assert found.steps
    after = support.carried_out(shot, found)
    for known in (NOTHING, Memory(our_groups=memory.our_groups, made=memory.made)):
        rest = plan(after, *pools, memory=known)
        assert (names(rest), codes(rest)) == ([], [])
    return after


def lv_of(shot: Snapshot, name: str = "thinpool") -> LogicalVolume:
    lv = shot.groups[0].find_lv(name)
    assert lv is not None
    return lv


# settings


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"zero_new_blocks": True}, [["lvchange", "--zero", "y", "docker/thinpool"]]),
        ({"discards": "nopassdown"}, [["lvchange", "--discards", "nopassdown", "docker/thinpool"]]),
        ({"when_full": "error"}, [["lvchange", "--errorwhenfull", "y", "docker/thinpool"]]),
        (
            {"metadata_size": "20MiB"},
            [["lvextend", "--poolmetadatasize", "20m", "docker/thinpool"]],
        ),
        ({"data_size": "9990MiB"}, [["lvextend", "--extents", "2498", "docker/thinpool"]]),
        (
            {"when_full": "error", "zero_new_blocks": True, "data_size": "100%FREE", "metadata_size": "16MiB"},
            [
                ["lvchange", "--errorwhenfull", "y", "docker/thinpool"],
                ["lvchange", "--zero", "y", "docker/thinpool"],
                ["lvextend", "--poolmetadatasize", "16m", "docker/thinpool"],
                ["lvextend", "--extents", "2551", "docker/thinpool"],
            ],
        ),
    ],
)
def test_a_key_that_differs_is_changed_with_these_commands(config: dict[str, Any], expected: list[list[str]]) -> None:
    wanted = support.pool(**config)
    found = plan(HEALTHY, wanted)
    assert [list(argv) for step in found.steps for argv in commands(step)] == expected
    assert {step_mark(step) for step in found.steps} == {"~"}
    converged(HEALTHY, wanted)


@pytest.mark.parametrize("now", [True, False])
def test_zeroing_is_changed_both_ways_and_the_reason_shows_what_was_and_what_will_be(now: bool) -> None:  # noqa: FBT001
    before = converged(HEALTHY, support.pool(zero_new_blocks=True)) if now else HEALTHY
    (step,) = plan(before, support.pool(zero_new_blocks=not now)).steps
    words = ["false", "true"]
    assert step.reason == (
        f"docker/thinpool has zero_new_blocks {words[now]}; the configuration asks for {words[not now]}"
    )
    converged(before, support.pool(zero_new_blocks=not now))


DISCARDS = get_args(Discards)


@pytest.mark.parametrize("old", DISCARDS)
@pytest.mark.parametrize("new", DISCARDS)
def test_discards_to_and_from_ignore_only_while_the_pool_is_inactive(old: str, new: str) -> None:
    before = HEALTHY
    if old != "passdown":
        before = support.carried_out(
            support.deactivated(HEALTHY), plan(support.deactivated(HEALTHY), support.pool(discards=old))
        )
    wanted = support.pool(discards=new)
    found = plan(before, wanted)
    if old == new:
        assert found.is_empty
    elif "ignore" in (old, new):
        assert (codes(found), [r.target for r in found.refusals]) == (["SETTING_DIFFERS"], ["pools.docker.discards"])
        assert "thinpoolmgr deactivate docker" in found.refusals[0].resolution
        inactive = support.deactivated(before)
        assert names(plan(inactive, wanted)) == ["set-discards", "activate-pool"]
        converged(inactive, wanted)
    else:
        converged(before, wanted)


def test_a_full_pool_is_still_given_its_setting() -> None:
    full = support.healthy(mode="out_of_data_space")
    assert names(plan(full, support.pool(when_full="error"))) == ["set-when-full"]


# what cannot be changed


def test_another_chunk_size_names_the_present_one_and_rebuild() -> None:
    (refusal,) = plan(HEALTHY, support.pool(chunk_size="1MiB")).refusals
    assert (refusal.code, refusal.target) == ("SETTING_DIFFERS", "pools.docker.chunk_size")
    assert "512KiB" in refusal.summary
    assert "1MiB" in refusal.summary
    assert 'Set it to "512KiB"' in refusal.resolution
    assert "thinpoolmgr rebuild docker" in refusal.resolution


@pytest.mark.parametrize(
    ("key", "value", "made", "shown"),
    [
        ("data_size", "5GiB", MADE, "9724MiB, and 5GiB is"),
        ("data_size", "50%VG", MADE, "9724MiB, and 50%VG (5 GiB) is"),
        ("metadata_size", "8MiB", MADE, "12MiB, and 8MiB is"),
        ("metadata_size", "1%VG", replace(MADE, metadata_bytes=200 * MIB), "200MiB, and 1%VG (100 MiB) is"),
    ],
)
def test_a_pool_that_was_made_larger_is_not_made_smaller(key: str, value: str, made: MadePool, shown: str) -> None:
    memory = Memory(made=(made,))
    found = plan(HEALTHY, support.pool("docker", **{key: value}), memory=memory)
    (refusal,) = found.refusals
    assert (refusal.code, refusal.target, refusal.exit_code) == ("SETTING_DIFFERS", f"pools.docker.{key}", 3)
    assert shown in refusal.summary
    assert "thinpoolmgr rebuild docker" in refusal.resolution
    assert "loses all" in refusal.resolution
    assert refusal.details


@pytest.mark.parametrize(
    "config",
    [
        {"data_size": "5GiB"},
        {"data_size": "50%VG"},
        {"data_size": "50%FREE"},
        {"metadata_size": "4MiB"},
        {"data_size": "1GiB", "metadata_size": "4MiB"},
    ],
)
def test_a_pool_that_has_grown_or_was_made_by_others_is_as_described(config: dict[str, str]) -> None:
    for made in ((), (MadePool(POOL.uuid, GIB, 4 * MIB),), (replace(MADE, lv_uuid="another"),)):
        assert plan(HEALTHY, support.pool(**config), memory=Memory(made=made)).is_empty


@pytest.mark.parametrize("size", ["95%VG", "100%FREE", "50%FREE", "9728MiB", "9725MiB", "1GiB"])
def test_a_pool_just_made_is_not_asked_to_shrink(size: str) -> None:
    wanted = support.pool(data_size=size)
    shot = support.snapshot()
    found = plan(shot, wanted)
    (create,) = [step for step in found.steps if isinstance(step, CreateThinPool)]
    after = support.carried_out(shot, found)
    made = MadePool(lv_of(after).uuid, create.data_extents * create.extent_bytes, create.metadata_bytes)
    assert plan(after, wanted, memory=Memory(made=(made,))).is_empty


def test_refusals_do_not_hide_each_other_and_every_one_has_a_way_out() -> None:
    wanted = support.pool(chunk_size="64KiB", data_size="1GiB", metadata_size="2MiB", discards="ignore")
    found = plan(HEALTHY, wanted, memory=Memory(made=(MADE,)))
    assert [refusal.target for refusal in found.refusals] == [
        "pools.docker.chunk_size",
        "pools.docker.data_size",
        "pools.docker.metadata_size",
        "pools.docker.discards",
    ]
    for refusal in found.refusals:
        assert refusal.summary
        assert refusal.details
        assert refusal.resolution


# sizes


def test_metadata_grows_before_the_data_that_it_is_to_map() -> None:
    disk = support.disk(size_bytes=4000 * GIB)
    shot = support.with_pool(support.snapshot(disk), support.pool(chunk_size="64KiB"), 25000)
    wanted = support.pool(chunk_size="64KiB", data_size="1TiB")
    first, second = plan(shot, wanted).steps
    assert isinstance(first, ExtendMetadata)
    assert isinstance(second, ExtendData)
    assert first.metadata_bytes == 1024 * GIB // (64 * KIB) * 64
    assert "64 B for each of 16777216 chunks" in first.reason
    assert second.reason == "data 97.7 GiB -> 1 TiB: pools.docker asks for data_size 1TiB, metadata_size auto"
    converged(shot, wanted)


def test_a_size_without_room_is_refused_by_how_much_and_leaves_steps_that_can_be_told() -> None:
    found = plan(HEALTHY, support.pool(data_size="20GiB", when_full="error"))
    assert codes(found) == ["DOES_NOT_FIT"]
    assert "too little" in found.refusals[0].details
    assert "pools.docker.devices" in found.refusals[0].resolution
    assert [target(step) for step in found.steps] == ["docker/thinpool"]
    assert all(step_name(step) for step in found.steps)


def test_metadata_share_without_room_leaves_the_data_its_share() -> None:
    assert plan(HEALTHY, support.pool(metadata_size="10%VG")).is_empty
    assert names(plan(HEALTHY, support.pool(metadata_size="2%VG"))) == ["extend-metadata"]
    converged(HEALTHY, support.pool(metadata_size="2%VG"))


# disks


def test_a_configured_disk_that_is_not_in_the_group_is_added_and_a_share_follows() -> None:
    wanted = support.pool("docker", *BOTH)
    found = plan(WITH_SDC, wanted)
    assert names(found) == ["extend-volume-group", "extend-data"]
    assert commands(found.steps[0]) == (("vgextend", "docker", "/dev/sdc"),)
    assert commands(found.steps[1]) == (("lvextend", "--extents", str(5118 * 95 // 100), "docker/thinpool"),)
    assert [step_mark(step) for step in found.steps] == ["+", "~"]
    assert found.steps[0].reason == "the volume group docker does not have /dev/sdc (10 GiB)"
    converged(WITH_SDC, wanted)


@pytest.mark.parametrize("size", ["1GiB", "50%FREE"])
def test_a_disk_is_added_also_where_the_size_does_not_follow(size: str) -> None:
    wanted = support.pool("docker", *BOTH, data_size=size)
    assert names(plan(WITH_SDC, wanted)) == ["extend-volume-group"]
    converged(WITH_SDC, wanted)


def test_an_added_disk_is_counted_for_the_size_that_needs_it() -> None:
    wanted = support.pool("docker", *BOTH, data_size="15GiB")
    assert names(plan(WITH_SDC, wanted)) == ["extend-volume-group", "extend-data"]
    converged(WITH_SDC, wanted)


@pytest.mark.parametrize(
    ("disk", "code"),
    [
        (support.disk("/dev/sdc", mounts=("/srv",)), "DISK_MOUNTED"),
        (support.disk("/dev/sdc", signatures=(EXT4,)), "DISK_HAS_SIGNATURE"),
        (support.disk("/dev/sdc", sector_bytes=4096), "SECTOR_SIZES_DIFFER"),
        (support.disk("/dev/sdc", size_bytes=MIB), "DISK_TOO_SMALL"),
        (support.disk("/dev/sdc", signatures=None), "DISK_UNKNOWN"),
    ],
)
def test_an_added_disk_is_judged_like_any_other(disk: Disk, code: str) -> None:
    found = plan(support.with_free_disk(HEALTHY, disk), support.pool("docker", *BOTH))
    assert codes(found) == [code]
    assert not any(isinstance(step, ExtendVolumeGroup) for step in found.steps)
    assert found.refusals[0].resolution


def test_an_added_disk_is_wiped_where_that_is_allowed() -> None:
    shot = support.with_free_disk(HEALTHY, support.disk("/dev/sdc", signatures=(EXT4,)))
    wanted = support.pool("docker", *BOTH, wipe_signatures=True)
    found = plan(shot, wanted)
    assert names(found) == ["wipe-signatures", "extend-volume-group", "extend-data"]
    assert found.steps[0].danger == "destroys"
    converged(shot, wanted)


def test_a_disk_of_the_group_that_is_not_configured_any_more_stays() -> None:
    two = support.with_pool(support.snapshot(support.disk("/dev/sdb"), SDC), data_extents=4800)
    assert names(plan(two, support.pool("docker", "/dev/sdb", data_size="1GiB"))) == []


# shares never oscillate


def existing(  # noqa: PLR0913, PLR0917 - all sizes there are
    total: int, data: int, metadata: int, spare: int, chunk: int, disk_extents: int = 0
) -> Snapshot:
    """Return a host with a pool of these sizes, in extents, in a group of `total` extents."""
    shot = support.with_group(support.snapshot(support.disk(size_bytes=total * support.EXTENT + MIB)))
    step = replace(support.create_step(support.pool(), data, metadata * support.EXTENT), chunk_bytes=chunk)
    shot = support.apply_step(shot, step)
    shot = support.with_spare(shot, spare)
    extra = support.disk("/dev/sdc", size_bytes=disk_extents * support.EXTENT + MIB)
    return support.with_free_disk(shot, extra) if disk_extents >= 4 else shot


@st.composite
def pools_with_room(draw: st.DrawFn) -> tuple[Snapshot, DesiredPool]:
    chunk = draw(st.sampled_from([64 * KIB, 128 * KIB, 512 * KIB, 64 * MIB]))
    metadata = draw(st.integers(1, 20))
    spare = draw(st.sampled_from([0, 1, metadata - 1, metadata, metadata, metadata, metadata + 1]))
    data = draw(st.integers(max(1, -(-chunk // support.EXTENT)), 40000))
    free = draw(st.integers(0, 60) | st.integers(0, 40000))
    added = draw(st.sampled_from([0, 0, 4, 5, 100, 30000]))
    total = data + metadata + max(spare, metadata) + free
    if spare < metadata:
        free += metadata - spare
    shot = existing(total, data, metadata, spare, chunk, added)
    devices = BOTH if len(shot.disks) > 1 else ("/dev/sdb",)
    data_size = draw(st.sampled_from(["95%VG", "100%FREE", "50%FREE", "1%VG", "100%VG", "99%VG", "90%FREE"]))
    metadata_size = draw(st.sampled_from(["auto", "auto", "1%VG", "50%VG", "10%FREE", "8MiB", "41MiB"]))
    wanted = support.pool("docker", *devices, data_size=data_size, metadata_size=metadata_size, chunk_size=f"{chunk}B")
    return shot, wanted


@settings(deadline=None)
@given(pools_with_room())
def test_a_plan_for_shares_carried_out_leaves_nothing_to_do(case: tuple[Snapshot, DesiredPool]) -> None:
    shot, wanted = case
    found = plan(shot, wanted)
    if found.refusals:
        assert set(codes(found)) == {"DOES_NOT_FIT"}
        assert "MiB" in wanted.config.metadata_size
        return
    after = support.carried_out(shot, found)
    rest = plan(after, wanted)
    assert (rest.steps, rest.refusals) == ((), ())
    old, new = lv_of(shot), lv_of(after)
    assert new.size_bytes >= old.size_bytes
    assert new.metadata_bytes >= old.metadata_bytes
    # Whatever grew can be mapped by the metadata beside it.
    if new.size_bytes > old.size_bytes:
        assert new.metadata_bytes >= min(new.size_bytes // new.chunk_bytes * 64, MAX_METADATA_BYTES)


# the spare


def test_a_missing_spare_comes_back_with_metadata_one_extent_larger() -> None:
    shot = support.with_spare(HEALTHY, 0)
    found = plan(shot)
    (step,) = found.steps
    assert isinstance(step, ExtendMetadata)
    assert step.metadata_bytes == 16 * MIB
    assert "the metadata spare is missing" in step.reason
    after = converged(shot)
    assert (lv_of(after).metadata_bytes, lv_of(after, "lvol0_pmspare").size_bytes) == (16 * MIB, 16 * MIB)


def test_a_spare_that_is_too_small_grows() -> None:
    shot = support.with_spare(HEALTHY, 2)
    assert "is too small" in plan(shot).steps[0].reason
    assert lv_of(converged(shot), "lvol0_pmspare").size_bytes == 16 * MIB


@pytest.mark.parametrize(("spare", "word"), [(0, "missing"), (2, "too small")])
def test_without_room_the_spare_is_a_warning(spare: int, word: str) -> None:
    full = existing(2432 + 6, 2432, 3, spare, support.CHUNK)
    shot = support.with_lv(full, support.linear("other", full.groups[0].free_extents * support.EXTENT))
    found = plan(shot)
    assert found.is_empty
    assert found.warnings == (f"The metadata spare of docker is {word}, and there is no room for it: repairs need it.",)


@pytest.mark.parametrize("size", ["100%FREE", "100%VG", "99%VG"])
def test_a_spare_that_was_removed_comes_back_before_data_takes_its_room(size: str) -> None:
    shot = existing(2432 + 6 + 2, 2432, 3, 0, support.CHUNK)
    wanted = support.pool(data_size=size)
    assert names(plan(shot, wanted))[0] == "extend-metadata"
    spare = converged(shot, wanted).groups[0].spare
    assert spare is not None
    assert spare.size_bytes == 4 * support.EXTENT


def test_the_spare_does_not_make_metadata_larger_than_dm_thin_can_use() -> None:
    most = MAX_METADATA_BYTES // support.EXTENT
    shot = existing(20000, 100, most, 0, support.CHUNK)
    found = plan(shot, support.pool(data_size="1GiB"))
    assert names(found) == ["extend-data"]
    assert "repairs need it" in found.warnings[0]


# what was cut short


def grown(key: str, value: str) -> tuple[DesiredPool, Any]:
    wanted = support.pool(**{key: value})
    (step,) = plan(HEALTHY, wanted).steps
    return wanted, step


@pytest.mark.parametrize(
    ("key", "value"), [("data_size", "100%FREE"), ("data_size", "9990MiB"), ("metadata_size", "20MiB")]
)
@pytest.mark.parametrize("left", ["first", "second", "third", "none"])
def test_an_enlargement_cut_short_anywhere_is_finished_by_one_plan(key: str, value: str, left: str) -> None:
    wanted, step = grown(key, value)
    shot = events.half_done(HEALTHY, step, left)
    memory = Memory(open_steps=(OpenStep(step),), our_groups=(GROUP.uuid,), made=(MADE,))
    after = converged(shot, wanted, memory=memory)
    assert not any(device.suspended for device in after.dm_devices)
    assert (lv_of(after).size_bytes, lv_of(after).metadata_bytes) >= (POOL.size_bytes, POOL.metadata_bytes)
    assert after.groups[0].spare is not None


def test_a_spare_left_visible_is_removed_and_its_room_used_again() -> None:
    full = existing(2432 + 6 + 2, 2432, 3, 0, support.CHUNK)
    wanted = support.pool(metadata_size="16MiB")
    (step,) = plan(full, wanted).steps
    left = events.half_done(full, step, "first")
    assert left.groups[0].free_extents == 0
    found = plan(left, wanted, memory=Memory(open_steps=(OpenStep(step),)))
    assert names(found) == ["remove-leftover", "refresh-pool"]
    assert "no room" in found.warnings[0]
    assert plan(support.carried_out(left, found), wanted).is_empty
    roomy = existing(2432 + 6 + 4, 2432, 3, 0, support.CHUNK)
    left = events.half_done(roomy, step, "first")
    after = converged(left, wanted, memory=Memory(open_steps=(OpenStep(step),)))
    assert lv_of(after).metadata_bytes == 5 * support.EXTENT


@pytest.mark.parametrize(
    ("shot", "known"),
    [
        (support.with_lv(HEALTHY, support.linear("lvol1", 20 * MIB)), ()),
        (support.with_lv(support.with_spare(HEALTHY, 0), support.linear("lvol1", 20 * MIB)), ("lvol1",)),
    ],
    ids=["the spare is there", "it was there before"],
)
def test_a_volume_of_strangers_is_not_taken_for_a_spare_that_was_left(shot: Snapshot, known: tuple[str, ...]) -> None:
    wanted, step = grown("metadata_size", "20MiB")
    memory = Memory(open_steps=(OpenStep(step, tuple(support.uuid_of(f"lv {name}") for name in known)),))
    assert "remove-leftover" not in names(plan(shot, wanted, memory=memory))
    without_memory_of_lvs = Memory(open_steps=(OpenStep(step),))
    assert ("remove-leftover" in names(plan(shot, wanted, memory=without_memory_of_lvs))) is bool(known)


def test_a_pool_that_hangs_is_resumed_from_the_bottom_up() -> None:
    below = tuple(d.name for d in HEALTHY.dm_devices)
    shot = suspend(HEALTHY, below)
    assert names(plan(shot)) == ["resume-device"] * 3
    assert [target(step) for step in plan(shot).steps] == [
        "docker-thinpool_tmeta",
        "docker-thinpool_tdata",
        "docker-thinpool",
    ]
    assert "hangs" in plan(shot).steps[0].reason
    converged(shot)


def test_a_kernel_that_is_behind_lvm_gets_its_table_again() -> None:
    _, step = grown("data_size", "9990MiB")
    shot = events.half_done(HEALTHY, step, "second")
    found = plan(shot)
    assert [argv for step in found.steps for argv in commands(step)] == [("lvchange", "--refresh", "docker/thinpool")]
    converged(shot)


def test_an_inactive_pool_is_activated_and_changed_in_one_plan() -> None:
    wanted = support.pool("docker", *BOTH, when_full="error", discards="ignore", zero_new_blocks=True)
    shot = support.deactivated(WITH_SDC)
    assert names(plan(shot, wanted)) == [
        "set-discards",
        "activate-pool",
        "set-when-full",
        "set-zeroing",
        "extend-volume-group",
        "extend-data",
    ]
    converged(shot, wanted)


@pytest.mark.parametrize("way", [support.deactivated, lambda shot: shot])
def test_everything_at_once_converges(way: Any) -> None:
    shot = way(support.with_spare(support.with_free_disk(SMALL, SDC), 0))
    converged(shot, support.pool("docker", *BOTH, when_full="error", extend={"monitor": "dmeventd"}))


def test_a_disk_that_is_closed_to_lvm_gives_a_pool_no_room() -> None:
    (group,) = support.healthy().groups
    group = replace(group, free_extents=7)
    closed = replace(group.pvs[0], free_bytes=group.free_extents * group.extent_bytes, is_allocatable=False)
    lv = group.find_lv("thinpool")
    assert lv is not None
    assert room_of(group, lv, [], []).free == 7
    assert room_of(replace(group, pvs=(closed,)), lv, [], []).free == 0
