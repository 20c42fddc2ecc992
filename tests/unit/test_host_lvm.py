from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from thinpoolmgr.host.lvm import (
    LvmState,
    held_to,
    parse_report,
    read_lvm,
    read_profiles,
    read_unused,
    report_command,
    vgextend_held_to,
)
from thinpoolmgr.host.runner import CompletedRun

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from thinpoolmgr.core.commands import Argv

PV = {
    "pv_name": "/dev/sdb",
    "pv_uuid": "pv-1",
    "pv_size": "10200547328",
    "dev_size": "10737418240",
    "pv_free": "4194304",
    "pv_missing": "",
    "pv_duplicate": "",
    "pv_tags": "",
    "pv_allocatable": "allocatable",
}
VG = {
    "vg_name": "docker",
    "vg_uuid": "vg-1",
    "vg_attr": "wz--n-",
    "vg_tags": "thinpoolmgr,other",
    "vg_extent_size": "4194304",
    "vg_extent_count": "2559",
    "vg_free_count": "1",
    "vg_seqno": "5",
    "vg_systemid": "",
}
LV = {
    "lv_name": "thinpool",
    "lv_uuid": "lv-1",
    "lv_attr": "twi-a-tz--",
    "lv_tags": "thinpoolmgr",
    "lv_size": "4194304",
    "lv_dm_path": "/dev/mapper/docker-thinpool",
    "data_lv": "[thinpool_tdata]",
    "metadata_lv": "[thinpool_tmeta]",
    "pool_lv": "",
    "lv_health_status": "",
    "lv_when_full": "queue",
    "lv_metadata_size": "4194304",
    "lv_profile": "",
    "lv_time": "1795533856",
}
SEGMENT = {
    "lv_uuid": "lv-1",
    "segtype": "thin-pool",
    "chunk_size": "524288",
    "discards": "passdown",
    "zero": "",
    "devices": "thinpool_tdata(0)",
    "transaction_id": "0",
}


def report(**changes: Any) -> str:
    group = {"vg": [VG], "pv": [PV], "lv": [LV], "seg": [SEGMENT], "pvseg": []}
    return json.dumps({"report": [{**group, **changes}]})


def runner(code: int = 0, stdout: str = "", stderr: str = "") -> Callable[[Argv], CompletedRun]:
    return lambda argv: CompletedRun(argv, code, stdout, stderr, 0.0)


def test_one_command_reads_everything() -> None:
    argv = report_command()
    assert argv[:3] == ("lvm", "fullreport", "--all")
    assert argv.count("--configreport") == 5
    assert {"--units", "b", "--nosuffix", "json"} <= set(argv)


def test_a_group_with_its_pool() -> None:
    (group,), orphans = parse_report(report())
    assert orphans == ()
    assert (group.name, group.tags, group.extent_count, group.free_extents) == (
        "docker",
        ("thinpoolmgr", "other"),
        2559,
        1,
    )
    assert [(pv.path, pv.size_bytes, pv.missing, pv.duplicate) for pv in group.pvs] == [
        ("/dev/sdb", 10737418240, False, False)
    ]
    lv = group.lvs[0]
    assert (lv.is_thin_pool, lv.data_lv, lv.metadata_lv, lv.dm_name) == (
        True,
        "thinpool_tdata",
        "thinpool_tmeta",
        "docker-thinpool",
    )
    assert (lv.chunk_bytes, lv.discards, lv.zero, lv.when_full, lv.transaction_id) == (
        524288,
        "passdown",
        False,
        "queue",
        0,
    )


def test_a_pool_tells_the_profile_that_is_attached_to_it() -> None:
    (group,), _ = parse_report(report(lv=[{**LV, "lv_profile": "thinpoolmgr-docker-thinpool"}]))
    assert group.lvs[0].profile == "thinpoolmgr-docker-thinpool"
    assert parse_report(report())[0][0].lvs[0].profile == ""
    assert "lv_profile" in " ".join(report_command())


def test_profiles_of_our_making_are_read_with_their_text(tmp_path: Path) -> None:
    (tmp_path / "thinpoolmgr-docker-thinpool.profile").write_text("activation {\n}\n")
    (tmp_path / "thinpoolmgr-b.profile").write_bytes(b"\xff\xfe")
    (tmp_path / "thinpoolmgr-c.profile").mkdir()
    (tmp_path / "other.profile").write_text("not ours")
    (tmp_path / "thinpoolmgr-docker-thinpool.profile.bak").write_text("not a profile")
    found = read_profiles(str(tmp_path))
    assert [profile.name for profile in found] == ["thinpoolmgr-b", "thinpoolmgr-c", "thinpoolmgr-docker-thinpool"]
    assert [profile.text.partition(":")[0] for profile in found[:2]] == ["unreadable", "unreadable"]
    assert found[2].text == "activation {\n}\n"
    assert read_profiles(str(tmp_path / "none")) == ()


def test_hidden_names_lose_their_brackets() -> None:
    (group,), _ = parse_report(report(lv=[{**LV, "lv_name": "[lvol0_pmspare]", "lv_uuid": "x"}]))
    lv = group.lvs[0]
    assert (lv.name, lv.segment_type, lv.zero, lv.transaction_id) == ("lvol0_pmspare", "", None, None)


def test_physical_volumes_without_a_group_are_orphans() -> None:
    groups, (orphan,) = parse_report(report(vg=[], lv=[], seg=[]))
    assert (groups, orphan.path) == ((), "/dev/sdb")
    groups, orphans = parse_report(report(vg=[{}], lv=[{}], seg=[]))
    assert (groups, len(orphans)) == ((), 1)


def test_a_missing_disk_belongs_to_its_group() -> None:
    missing = {**PV, "pv_name": "[unknown]", "pv_missing": "missing", "dev_size": "0"}
    stderr = "  WARNING: Couldn't find device with uuid pv-1.\n  WARNING: VG docker is missing PV pv-1.\n"
    state = read_lvm(runner(0, report(pv=[missing]), stderr))
    assert state.trouble == ()
    assert (state.groups[0].is_partial, state.groups[0].pvs[0].size_bytes) == (True, 10200547328)


@pytest.mark.parametrize(
    "message",
    [
        "  Error reading device /dev/sdb at 0 length 512.",
        "  Failed to read lvm info for /dev/sdb.",
        "  Cannot process volume group docker",
        "  Volume group docker not found",
        "  Skipping volume group docker",
    ],
)
def test_what_makes_the_report_incomplete_is_trouble(message: str) -> None:
    assert read_lvm(runner(0, report(), message)).trouble == (message.strip(),)


def test_a_message_from_outside_is_made_harmless() -> None:
    (line,) = read_lvm(runner(0, report(), "Error \x1b[2J\udcff")).trouble
    assert line.isprintable()


def test_an_exit_code_is_trouble_and_the_report_is_kept() -> None:
    state = read_lvm(runner(5, report()))
    assert (len(state.groups), state.trouble) == (1, ("lvm fullreport ended with exit code 5",))


@pytest.mark.parametrize(
    "stdout",
    ["", "{", "[]", "{}", '{"report": 3}', '{"report": [{"pv": [{}]}]}', report(vg=[{**VG, "vg_free_count": "many"}])],
)
def test_a_report_that_cannot_be_read_is_trouble_not_emptiness(stdout: str) -> None:
    state = read_lvm(runner(0, stdout))
    assert (state.groups, state.orphan_pvs) == ((), ())
    assert "could not be read" in state.trouble[0]
    assert isinstance(state, LvmState)


@pytest.mark.parametrize(
    ("text", "expected"), [("1795533856", 1795533856.0), ("", None), ("2026-11-24 15:24:16 +0000", None)]
)
def test_when_a_volume_was_made_is_asked_for_in_seconds(text: str, expected: float | None) -> None:
    (group,), _ = parse_report(report(lv=[LV | {"lv_time": text}]))
    assert group.lvs[0].made_at == expected
    assert 'report{time_format="%s"}' in report_command()


@pytest.mark.parametrize(("changes", "left"), [({}, 5), ({"pv_allocatable": ""}, 4), ({"pv_missing": "missing"}, 4)])
def test_what_is_free_on_a_disk_that_is_closed_to_lvm_is_no_room(changes: dict[str, str], left: int) -> None:
    other = {**PV, "pv_name": "/dev/sdc", "pv_free": "16777216"}
    text = report(vg=[{**VG, "vg_free_count": "5"}], pv=[{**PV, **changes}, other])
    (group,), _ = parse_report(text)
    assert (group.free_extents, group.allocatable_extents) == (5, left)


def test_a_disk_without_a_group_is_not_closed_to_lvm() -> None:
    text = json.dumps({"report": [{"vg": [], "pv": [{**PV, "pv_allocatable": ""}]}]})
    _, (orphan,) = parse_report(text)
    assert orphan.is_allocatable


def test_a_command_held_to_its_disks() -> None:
    held = (
        'devices{use_devicesfile=0 hints="none" filter=["a|.*|"] '
        'global_filter=["a|^/dev/sdb$|","a|^/dev/sdc$|","r|.*|"]}'
    )
    assert held_to(("lvm", "fullreport", "--config", "report{}", "docker"), ["/dev/sdb", "/dev/sdc"]) == (
        "lvm",
        "fullreport",
        "--config",
        f"report{{}} {held}",
        "docker",
    )
    assert held_to(("lvchange", "docker/p"), ["/dev/sdb", "/dev/sdc"]) == ("lvchange", "--config", held, "docker/p")
    assert held_to(("lvm", "fullreport"), ["/dev/sdb", "/dev/sdc"]) == ("lvm", "fullreport", "--config", held)


@pytest.mark.parametrize("paths", [(), ("/dev/sdb", "/dev/mapper/a+b"), ("/dev/sd|",), ('/dev/"',)])
def test_a_command_that_is_held_to_nothing(paths: tuple[str, ...]) -> None:
    assert held_to(("lvextend", "docker/p"), paths) == ("lvextend", "docker/p")


VGEXTEND = ("vgextend", "docker", "/dev/sdc")


@pytest.mark.parametrize(
    ("configured", "uses"),
    [
        ('devices {\n\ttypes=["ubd",16]\n}\n', "global_filter"),
        ('devices {\n\tfilter=["r|/dev/sdc|"]\n}\n', "global_filter"),
        ('devices {\n\tglobal_filter=["r|/dev/sdc|"]\n}\n', "filter"),
        ('devices {\n\tglobal_filter="r|/dev/sdc|"\n\tfilter="a|.*|"\n}\n', ""),
    ],
)
def test_a_disk_is_taken_past_no_filter_that_somebody_has_set(configured: str, uses: str) -> None:
    def run(argv: tuple[str, ...]) -> CompletedRun:
        assert argv == ("lvm", "lvmconfig")
        return CompletedRun(argv, 0, configured, "", 0.0)

    held = f'devices{{{uses}=["a|^/dev/sdb$|","a|^/dev/sdc$|","r|.*|"]}}'
    expected = ("vgextend", "--config", held, "docker", "/dev/sdc") if uses else VGEXTEND
    assert vgextend_held_to(run, VGEXTEND, ["/dev/sdb", "/dev/sdc"]) == expected


def test_what_lvm_hides_is_not_known_where_it_does_not_say_so() -> None:
    def run(argv: tuple[str, ...]) -> CompletedRun:
        return CompletedRun(argv, 3, "", "Failed to load config file", 0.0)

    assert vgextend_held_to(run, VGEXTEND, ["/dev/sdb"]) == VGEXTEND
    assert vgextend_held_to(run, VGEXTEND, []) == VGEXTEND


@pytest.mark.parametrize(
    ("path", "said", "found"),
    [
        ("/dev/sdb", "", ["/dev/sdb"]),
        ("/dev/sdb", "Cannot process volume group a", []),
        ("/dev/sdb", "WARNING: PV /dev/sdb is marked in use but no VG was found using it.", []),
        ("/dev/mapper/a+b", "", []),
    ],
)
def test_a_label_without_a_group_is_told_of_without_waiting(path: str, said: str, found: list[str]) -> None:
    ran: list[str] = []

    def run(argv: tuple[str, ...]) -> CompletedRun:
        ran.append(argv[argv.index("--config") + 1])
        return CompletedRun(argv, 0, json.dumps({"report": [{"vg": [], "pv": [PV]}]}), said, 0.0)

    assert [pv.path for pv in read_unused(run, path)] == found
    assert all("wait_for_locks=0" in settings and f'"a|^{path}$|","r|.*|"' in settings for settings in ran)
    assert bool(ran) == path.startswith("/dev/sd")
