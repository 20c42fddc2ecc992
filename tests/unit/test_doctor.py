"""The doctor: what it finds in a snapshot, the journal and the host's tools, and that each fix is a command's plan."""

from __future__ import annotations

import os
import string
from typing import TYPE_CHECKING, Any

import pytest
import support
from cli_support import PLAIN, Cli, golden, make_cli
from msgspec.structs import replace

from thinpoolmgr.cli import diagnosis, pools
from thinpoolmgr.core.desired import MAX_METADATA_BYTES
from thinpoolmgr.core.doctor import diagnose
from thinpoolmgr.core.engines.docker import storage_options
from thinpoolmgr.core.findings import FINDINGS, Cookie, HostFacts, Journal, find_all
from thinpoolmgr.core.journal import Began, Doing, Done, Ended, Failed, Record, StoredRun, encode_record
from thinpoolmgr.core.model import BaseDevice, ConfiguredDevice, EngineDevice, EngineState, LvmProfile
from thinpoolmgr.core.plan import Memory, Plan, Request
from thinpoolmgr.core.requests import desired_for, plan_for
from thinpoolmgr.core.steps import CreateVolumeGroup, DiskRef, ExtendData, SetWhenFull, step_name
from thinpoolmgr.errors import UnavailableError
from thinpoolmgr.sim import events
from thinpoolmgr.sim.parts import find_group, replace_group, set_volumes
from thinpoolmgr.units import GIB, MIB

if TYPE_CHECKING:
    from pathlib import Path

    from thinpoolmgr.core.desired import DesiredState
    from thinpoolmgr.core.doctor import Diagnosis
    from thinpoolmgr.core.model import LogicalVolume, Snapshot

BY_ID = "/dev/disk/by-id/S-b"
POOL = support.pool("docker", BY_ID)
DESIRED = support.desired(POOL)
HALF = support.desired(support.pool("docker", BY_ID, data_size="50%VG"))
WITH_ENGINE = support.desired(POOL, engines=(support.engine(),))
AT = "2026-11-24T08:00:00.000+00:00"


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return make_cli(tmp_path, monkeypatch, capsys)


def host(extents: int = 2432, **status: Any) -> Snapshot:
    """Return a host with a pool of ours on a disk that is named so that the name stays."""
    disk = support.disk(links=(BY_ID,))
    blank = replace(support.snapshot(disk), configured_devices=(ConfiguredDevice(BY_ID, disk.path),))
    shot = support.with_pool(blank, POOL, extents)
    return support.with_status(shot, **status) if status else shot


def change_lv(shot: Snapshot, name: str = "thinpool", **changes: Any) -> Snapshot:
    group = find_group(shot, "docker")
    lvs = tuple(replace(lv, **changes) if lv.name == name else lv for lv in group.lvs)
    return replace_group(shot, replace(group, lvs=lvs))


def find(
    shot: Snapshot | None,
    desired: DesiredState = DESIRED,
    journal: Journal | None = None,
    facts: HostFacts | None = None,
) -> dict[str, Diagnosis]:
    found = diagnose(desired, shot, journal or Journal(), facts or HostFacts())
    return {diagnosis.code: diagnosis for diagnosis in found}


def planned(request: Request, shot: Snapshot, desired: DesiredState, memory: Memory | None = None) -> Plan:
    return plan_for(request, desired_for(request, desired), shot, memory or Memory())


def stored(*records: Record, name: str = "run", damage: str = "") -> StoredRun:
    return StoredRun(name, records, damage, f"/runs/{name}.jsonl")


def test_nothing_is_found_where_all_is_well() -> None:
    assert find(host()) == {}
    assert find(support.with_engine(host(), support.docker(running=True, configured=True)), WITH_ENGINE) == {}


def partial() -> Snapshot:
    """Return the host when one of its group's two disks is away."""
    two = support.snapshot(support.disk(links=(BY_ID,)), support.disk("/dev/sdc"))
    shot = support.with_pool(support.with_group(two, "docker"), support.pool("docker", BY_ID, "/dev/sdc"), 4000)
    return events.vanish(events.deactivate_by_hand(shot, "docker"), "/dev/sdc")[0]


STATES = [
    (events.deactivate_by_hand(host(), "docker"), "POOL_INACTIVE", Request("activate", "docker")),
    (host(1280, used_data_blocks=9000), "POOL_TIGHT", Request("extend", "docker", add_data="+1GiB")),
    (
        host(1280, used_data_blocks=10240, mode="out_of_data_space"),
        "POOL_OUT_OF_DATA",
        Request("extend", "docker", add_data="+2256MiB"),
    ),
    (
        host(1280, used_metadata_blocks=3072, mode="ro"),
        "POOL_OUT_OF_METADATA",
        Request("extend", "docker", add_metadata="+4MiB"),
    ),
    (
        host(1280, used_metadata_blocks=2600),
        "POOL_TIGHT",
        Request("extend", "docker", add_metadata="+4MiB"),
    ),
]


@pytest.mark.parametrize(("shot", "code", "request_"), STATES)
def test_a_fix_is_the_plan_of_the_command_that_is_named(shot: Snapshot, code: str, request_: Request) -> None:
    found = find(shot, HALF)[code]
    assert found.fix == planned(request_, shot, HALF).steps
    assert found.fix
    for word in (request_.command, request_.pool, request_.add_data, request_.add_metadata):
        assert word in found.resolution
    after = shot
    for step in found.fix:
        after = support.apply_step(after, step)
    # With room the kernel goes on by itself.
    assert code not in find(support.with_status(after, mode="rw"), HALF)


def test_an_absent_pool_is_made() -> None:
    shot = replace(
        support.snapshot(support.disk(links=(BY_ID,))), configured_devices=(ConfiguredDevice(BY_ID, "/dev/sdb"),)
    )
    found = find(shot)
    assert list(found) == ["POOL_ABSENT"]
    assert [step_name(step) for step in found["POOL_ABSENT"].fix or ()] == ["create-volume-group", "create-thin-pool"]
    assert found["POOL_ABSENT"].resolution == "Run: thinpoolmgr apply"


@pytest.mark.parametrize(
    ("shot", "code"),
    [
        (events.untag(host(), "docker"), "POOL_FOREIGN"),
        (host(mode="ro"), "POOL_READ_ONLY"),
        (host(mode="ro", needs_check=True), "POOL_NEEDS_CHECK"),
        (host(mode="Fail"), "POOL_FAILED"),
        (events.lose_labels(host(), "docker"), "POOL_LOST"),
        (events.report_less(events.deactivate_by_hand(host(), "docker"), "docker", "read error"), "STATE_UNKNOWN"),
        (partial(), "POOL_PARTIAL"),
    ],
)
def test_what_no_plan_mends_has_no_fix_and_a_way_out(shot: Snapshot, code: str) -> None:
    found = find(shot)[code]
    assert (found.fix, "thinpoolmgr" in found.resolution, bool(found.evidence)) == (None, True, True)
    assert "{" not in found.resolution.replace("global{", "")


def test_without_room_the_exact_size_is_named_all_the_same() -> None:
    found = find(host(used_data_blocks=16000))
    assert list(found) == ["POOL_TIGHT", "GROUP_NEARLY_FULL"]
    assert found["POOL_TIGHT"].fix is None
    assert "thinpoolmgr extend docker --add-device DEVICE --data +1948MiB" in found["POOL_TIGHT"].resolution
    assert "too little" in found["GROUP_NEARLY_FULL"].evidence


def test_one_step_is_taken_where_more_do_not_fit() -> None:
    shot = host(1800, used_data_blocks=14400, mode="out_of_data_space")
    assert find(shot, HALF)["POOL_OUT_OF_DATA"].resolution == "Run: thinpoolmgr extend docker --data +1440MiB"


def test_a_pool_is_not_extended_beyond_its_largest_size() -> None:
    limited = support.desired(support.pool("docker", BY_ID, data_size="50%VG", extend={"max_size": "5500MiB"}))
    shot = host(1280, used_data_blocks=9000)
    assert find(shot, limited)["POOL_TIGHT"].resolution == "Run: thinpoolmgr extend docker --data +380MiB"
    at_its_end = support.desired(support.pool("docker", BY_ID, data_size="50%VG", extend={"max_size": "5GiB"}))
    assert find(shot, at_its_end)["POOL_TIGHT"].fix is None
    assert "max_size" in find(shot, at_its_end)["POOL_TIGHT"].resolution


def test_room_is_no_matter_while_there_is_time() -> None:
    assert find(host(used_data_blocks=7000)) == {}
    assert list(find(host(used_data_blocks=8000))) == ["GROUP_NEARLY_FULL"]
    unwatched = support.desired(support.pool("docker", BY_ID, extend={"monitor": "none"}))
    assert find(host(used_data_blocks=8000), unwatched) == {}
    assert find(host(1280, used_data_blocks=5000), HALF) == {}


def test_writes_that_were_lost() -> None:
    found = find(host(1280, used_data_blocks=10240, mode="out_of_data_space", when_full="error"), HALF)
    assert list(found) == ["POOL_OUT_OF_DATA", "POOL_ERRORS_WRITES"]
    lost = found["POOL_ERRORS_WRITES"]
    assert lost.summary == "docker/thinpool: the kernel fails writes, though LVM says queue: writes were lost"
    assert (lost.fix == found["POOL_OUT_OF_DATA"].fix, "fsck" in lost.resolution) == (True, True)


def test_a_table_that_differs_is_no_loss() -> None:
    found = find(host(when_full="error"))
    assert list(found) == ["WHEN_FULL_DIFFERS"]
    assert [step_name(step) for step in found["WHEN_FULL_DIFFERS"].fix or ()] == ["set-when-full"]


def test_a_metadata_snapshot_that_is_held() -> None:
    found = find(support.with_status(host(), held_root="135"))
    assert list(found) == ["METADATA_SNAPSHOT_HELD"]
    told = found["METADATA_SNAPSHOT_HELD"]
    assert (told.severity, "at block 135" in told.evidence) == ("info", True)
    assert "dmsetup message docker-thinpool 0 release_metadata_snap" in told.resolution
    assert "thinpoolmgr usage docker gives back" in told.resolution
    assert [finding.code for finding in find_all(DESIRED, host(held_root="135"))] == ["METADATA_SNAPSHOT_HELD"]


def suspended(shot: Snapshot, name: str) -> Snapshot:
    return replace(shot, dm_devices=tuple(replace(d, suspended=d.name == name) for d in shot.dm_devices))


def test_suspended_devices_of_ours_and_of_nobody_else() -> None:
    shot = suspended(host(), "docker-thinpool")
    found = find(shot)
    assert list(found) == ["DEVICE_SUSPENDED"]
    assert found["DEVICE_SUSPENDED"].fix == planned(Request("apply"), shot, DESIRED).steps
    others = support.with_pool(support.snapshot(support.disk("/dev/sdc")), support.pool("other", "/dev/sdc"))
    both = replace(
        host(),
        dm_devices=(*host().dm_devices, *(replace(d, suspended=True, devno=f"9:{d.devno}") for d in others.dm_devices)),
    )
    assert find(both) == {}


def test_a_kernel_that_is_behind() -> None:
    step = ExtendData(
        reason="r",
        pool="docker",
        group="docker",
        lv="thinpool",
        data_extents=1500,
        extent_bytes=4 * MIB,
        chunk_bytes=MIB,
    )
    half = events.half_done(host(1280), step, "third")
    shot = replace(half, dm_devices=tuple(replace(d, suspended=False) for d in half.dm_devices))
    found = find(shot, HALF)
    assert [step_name(step) for step in found["KERNEL_BEHIND"].fix or ()] == ["refresh-pool"]
    assert "DEVICE_SUSPENDED" not in found
    assert "DEVICE_SUSPENDED" in find(half, HALF)
    assert "KERNEL_BEHIND" not in find(half, HALF)


def test_a_profile_that_is_not_as_configured() -> None:
    wanted = support.desired(support.pool("docker", BY_ID, extend={"monitor": "dmeventd"}))
    found = find(host(), wanted)
    assert [step_name(step) for step in found["AUTOEXTEND_DIFFERS"].fix or ()] == ["edit-lvm-profile", "set-profile"]
    unused = replace(host(), lvm_profiles=(LvmProfile("thinpoolmgr-docker-thinpool", "x"),))
    assert [step_name(step) for step in find(unused)["AUTOEXTEND_DIFFERS"].fix or ()] == ["edit-lvm-profile"]


def without_spare(shot: Snapshot) -> Snapshot:
    group = find_group(shot, "docker")
    return set_volumes(shot, group, tuple(lv for lv in group.lvs if not lv.name.endswith("_pmspare")))


def test_a_spare_that_is_missing_or_too_small() -> None:
    found = find(without_spare(host(1280)), HALF)
    assert list(found) == ["METADATA_SPARE_MISSING"]
    assert [step_name(step) for step in found["METADATA_SPARE_MISSING"].fix or ()] == ["extend-metadata"]
    small = find(change_lv(host(1280), "lvol0_pmspare", size_bytes=4 * MIB), HALF)
    assert list(small) == ["METADATA_SPARE_SMALL"]
    full = without_spare(host())
    group = find_group(full, "docker")
    full = replace_group(full, replace(group, free_extents=1))
    missing = find(full)["METADATA_SPARE_MISSING"]
    assert (missing.fix, "--add-device DEVICE" in missing.resolution) == (None, True)


def test_metadata_that_is_too_small_for_its_data() -> None:
    tiny = change_lv(host(1280), chunk_bytes=64 * 1024, metadata_bytes=4 * MIB)
    desired = support.desired(support.pool("docker", BY_ID, data_size="50%VG", chunk_size="64KiB"))
    found = find(tiny, desired)["METADATA_TOO_SMALL"]
    assert found.resolution == "Run: thinpoolmgr extend docker --metadata +4MiB"
    assert [step_name(step) for step in found.fix or ()] == ["extend-metadata"]
    assert "METADATA_TOO_SMALL" not in find(change_lv(tiny, metadata_bytes=8 * MIB), desired)


def test_metadata_near_its_end() -> None:
    assert "METADATA_NEAR_CAP" in find(change_lv(host(), metadata_bytes=MAX_METADATA_BYTES * 95 // 100))
    assert "METADATA_NEAR_CAP" not in find(change_lv(host(), metadata_bytes=MAX_METADATA_BYTES * 85 // 100))
    huge = change_lv(host(), metadata_bytes=MAX_METADATA_BYTES, size_bytes=200_000 * GIB)
    assert "METADATA_TOO_SMALL" not in find(huge)


def made(shot: Snapshot) -> StoredRun:
    """Return the journal's record of the run that made the pool."""
    group = find_group(shot, "docker")
    lv = pool_lv(shot)
    disks = (DiskRef("/dev/sdb", "8:16", 10 * GIB, "S-b"),)
    steps = (
        CreateVolumeGroup(id="01", reason="r", pool="docker", group="docker", disks=disks),
        replace(support.create_step(POOL, 2431), id="02"),
    )
    began = Began("made", "apply", AT, steps, request=Request("apply"))
    done = (Doing("01", AT), Done("01", 1.0, group.uuid), Doing("02", AT), Done("02", 1.0, "", lv.uuid))
    return stored(began, *done, Ended("done", AT), name="made")


def pool_lv(shot: Snapshot) -> LogicalVolume:
    lv = find_group(shot, "docker").find_lv("thinpool")
    assert lv is not None
    return lv


def test_a_lost_tag_is_put_back_where_the_journal_knows_the_group() -> None:
    shot = events.untag(host(), "docker")
    found = find(shot, journal=Journal((made(shot),)))
    assert list(found) == ["TAG_LOST"]
    assert [step_name(step) for step in found["TAG_LOST"].fix or ()] == ["tag-pool"]
    assert list(find(shot)) == ["POOL_FOREIGN"]


def test_others_in_the_group_and_the_metadata_before_a_repair() -> None:
    shot = support.with_lv(
        support.with_lv(host(1280), support.linear("precious", 8 * MIB)), support.linear("thinpool_meta0", 12 * MIB)
    )
    found = find(shot, HALF)
    assert list(found) == ["METADATA_BACKUP_KEPT", "GROUP_HAS_OTHER_LVS"]
    assert "docker/precious" in found["GROUP_HAS_OTHER_LVS"].evidence
    assert "meta0" not in found["GROUP_HAS_OTHER_LVS"].evidence
    assert "lvremove docker/thinpool_meta0" in found["METADATA_BACKUP_KEPT"].resolution


def test_what_a_killed_lvcreate_left() -> None:
    step = replace(support.create_step(POOL), id="01")
    empty = support.with_group(
        replace(
            support.snapshot(support.disk(links=(BY_ID,))), configured_devices=(ConfiguredDevice(BY_ID, "/dev/sdb"),)
        )
    )
    shot = events.half_done(empty, step, "second")
    began = Began("killed", "apply", AT, (step,), request=Request("apply"))
    found = find(shot, journal=Journal((stored(began, Doing("01", AT), name="killed"),)))
    assert {"LEFTOVER_LVS", "RUN_INTERRUPTED", "POOL_ABSENT"} == set(found)
    names = [step_name(step) for step in found["LEFTOVER_LVS"].fix or ()]
    assert names == ["remove-leftover", "create-thin-pool"]
    assert found["RUN_INTERRUPTED"].fix == found["LEFTOVER_LVS"].fix


SET = SetWhenFull(id="01", reason="r", pool="docker", group="docker", lv="thinpool", when_full="error")
BEGAN = Began("r", "apply", AT, (SET,), request=Request("apply", is_settled=True))
ERROR = support.desired(support.pool("docker", BY_ID, when_full="error"))


@pytest.mark.parametrize(
    ("records", "evidence"),
    [
        ((BEGAN, Doing("01", AT)), "was begun and not seen to be done"),
        (
            (BEGAN, Doing("01", AT), Failed("01", "lvchange failed\nmore"), Ended("failed", AT)),
            "failed: lvchange failed",
        ),
        ((BEGAN,), "0 of 1 steps are done; the next is 01"),
        ((BEGAN, Doing("01", AT), Done("01", 1.0)), "all 1 steps are done"),
    ],
)
def test_a_run_that_was_not_finished(records: tuple[Record, ...], evidence: str) -> None:
    shot = host()
    journal = Journal((stored(*records),))
    found = find(shot, ERROR, journal)["RUN_INTERRUPTED"]
    assert (found.severity, found.target, found.resolution) == ("warning", "r", "Run: thinpoolmgr resume")
    assert evidence in found.evidence
    assert [step_name(step) for step in found.fix or ()] == ["set-when-full"]
    assert "RUN_INTERRUPTED" not in find(shot, ERROR, replace(journal, is_locked=True))
    ended = Journal((*journal.stored, stored(BEGAN, Ended("done", AT), name="later")))
    assert "RUN_INTERRUPTED" not in find(shot, ERROR, ended)


def test_a_run_with_nothing_left_to_do_is_closed_by_resume() -> None:
    found = find(host(), journal=Journal((stored(BEGAN, Doing("01", AT)),)))
    assert (list(found), found["RUN_INTERRUPTED"].fix) == (["RUN_INTERRUPTED"], None)
    assert found["RUN_INTERRUPTED"].resolution == "Run: thinpoolmgr resume"


def test_what_the_monitor_was_mending_is_finished_by_apply() -> None:
    began = replace(BEGAN, command="monitor", request=None)
    found = find(host(), ERROR, Journal((stored(began, Doing("01", AT)),)))["RUN_INTERRUPTED"]
    assert found.resolution == "Run: thinpoolmgr resume"
    assert [step_name(step) for step in found.fix or ()] == ["set-when-full"]


def test_a_run_of_a_pool_that_is_not_configured_any_more() -> None:
    began = replace(BEGAN, request=Request("activate", "other"))
    found = find(host(), journal=Journal((stored(began, Doing("01", AT)),)))["RUN_INTERRUPTED"]
    assert (found.fix, "Put pools.other back" in found.resolution) == (None, True)


def test_a_run_that_needs_a_person_leaves_no_fix_anywhere() -> None:
    shot = events.untag(events.deactivate_by_hand(host(), "docker"), "docker")
    found = find(shot, ERROR, Journal((stored(BEGAN, Doing("01", AT)),)))
    assert found["NEEDS_PERSON"].severity == "error"
    assert "mv /runs/run.jsonl" in found["NEEDS_PERSON"].resolution or "r.jsonl" in found["NEEDS_PERSON"].resolution
    assert all(diagnosis.fix is None for diagnosis in found.values())


def test_a_damaged_journal_comes_first_and_leaves_no_fix() -> None:
    shot = events.deactivate_by_hand(host(), "docker")
    damaged = stored(BEGAN, name="bad", damage="line 2 is damaged")
    found = find(shot, journal=Journal((damaged,)))
    assert list(found) == ["JOURNAL_DAMAGED", "POOL_INACTIVE"]
    assert found["JOURNAL_DAMAGED"].evidence == "/runs/bad.jsonl: line 2 is damaged"
    assert "mv /runs/bad.jsonl" in found["JOURNAL_DAMAGED"].resolution
    assert (found["POOL_INACTIVE"].fix, "thinpoolmgr activate docker" in found["POOL_INACTIVE"].resolution) == (
        None,
        True,
    )


def test_while_a_file_is_damaged_nothing_is_believed_of_the_journal() -> None:
    shot = events.untag(host(), "docker")
    journal = Journal((made(shot), stored(Done("01", 1.0), damage="x")))
    assert list(find(shot, journal=journal)) == ["JOURNAL_DAMAGED", "POOL_FOREIGN"]


def test_a_plan_that_is_refused_in_part_is_no_fix() -> None:
    two = support.snapshot(support.disk(), support.disk("/dev/sdc", mounts=("/srv",)))
    desired = support.desired(support.pool(), support.pool("other", "/dev/sdc"))
    found = find(two, desired)["POOL_ABSENT"]
    assert found.fix is None
    assert found.resolution.startswith("thinpoolmgr apply is refused now: /dev/sdc is mounted on /srv. ")


def docker(**facts: Any) -> Any:
    return support.docker(configured=True, **facts)


MATCHING = replace(support.STALE, transaction_id=5, devices=())
ENGINES = [
    (docker(installed=False), "ENGINE_MISSING", []),
    (docker(version="25.0"), "ENGINE_UNSUPPORTED", []),
    (docker(running=None), "ENGINE_UNKNOWN", []),
    (docker(version="nonsense"), "ENGINE_UNKNOWN", []),
    (docker(config_problem="line 1 is wrong"), "ENGINE_CONFIG_INVALID", []),
    (docker(state_problem="unreadable"), "ENGINE_STATE_UNKNOWN", []),
    (docker(state=support.STALE), "ENGINE_STATE_STALE", ["move-state-aside"]),
    (docker(state=replace(support.STALE, obstacle="a mount")), "ENGINE_STATE_IMMOVABLE", []),
    (docker(state=EngineState("/x", loop_files=("/x/data",))), "ENGINE_LOOP_LVM", ["move-state-aside"]),
    (docker(), "ENGINE_STOPPED", []),
    (replace(docker(running=True), driver="overlay2"), "ENGINE_NOT_ON_POOL", []),
    (support.docker(running=True), "ENGINE_NOT_ON_POOL", ["stop-engine", "write-engine-config", "start-engine"]),
]


@pytest.mark.parametrize(("found", "code", "fix"), ENGINES)
def test_engines(found: Any, code: str, fix: list[str]) -> None:
    diagnoses = find(support.with_engine(host(), found), WITH_ENGINE)
    assert code in diagnoses
    assert [step_name(step) for step in diagnoses[code].fix or ()] == fix
    assert diagnoses[code].resolution
    for other in {entry[1] for entry in ENGINES} - {code, "ENGINE_STATE_STALE"}:
        assert other not in diagnoses


def test_an_engine_can_be_unknown_and_unsupported() -> None:
    found = find(support.with_engine(host(), docker(version="25.0", running=None)), WITH_ENGINE)
    assert {"ENGINE_UNSUPPORTED", "ENGINE_UNKNOWN"} <= set(found)


def test_an_engine_that_runs_on_its_pool_is_well() -> None:
    assert find(support.with_engine(host(), docker(running=True)), WITH_ENGINE) == {}


@pytest.mark.parametrize(
    ("recorded", "real", "is_told"),
    [
        (20 * GIB, 10 * GIB, True),
        (20 * GIB, 20 * GIB - 16 * MIB, True),
        # the last group of blocks may be left out
        (20 * GIB, 20 * GIB - 16 * MIB + 512, False),
        (20 * GIB, 20 * GIB, False),
        (10 * GIB, 20 * GIB, False),
        (20 * GIB, None, False),
        (None, 10 * GIB, False),
    ],
)
def test_a_base_that_did_not_grow(recorded: int | None, real: int | None, is_told: bool) -> None:  # noqa: FBT001
    base = EngineDevice("base", 1, recorded or GIB, 7)
    grown = replace(support.STALE, base_size_bytes=recorded, devices=(base,))
    wanted = support.engine(base_size=f"{(recorded or 20 * GIB) // GIB}GiB")
    text = docker().config_text.replace("dm.basesize=10G", f"dm.basesize={(recorded or 20 * GIB) // GIB}G")
    found = docker(running=True, state=grown, base=BaseDevice(filesystem="xfs", size_bytes=real), config_text=text)
    diagnoses = find(support.with_engine(host(), found), support.desired(POOL, engines=(wanted,)))
    assert list(diagnoses) == (["BASE_SIZE_NOT_GROWN"] if is_told else [])
    if real == 10 * GIB and is_told:
        told = diagnoses["BASE_SIZE_NOT_GROWN"]
        assert "says 20GiB, the superblock of the base device 10GiB" in told.evidence
        assert "thinpoolmgr apply grows it" in told.resolution
        assert [step_name(step) for step in told.fix or ()] == ["stop-engine", "grow-base", "start-engine"]


def test_of_a_stale_base_nothing_is_said() -> None:
    found = docker(state=support.STALE, base=BaseDevice(size_bytes=GIB))
    assert list(find(support.with_engine(host(), found), WITH_ENGINE)) == ["ENGINE_STATE_STALE"]


def test_an_engine_that_we_stopped_is_started_by_activate() -> None:
    from thinpoolmgr.core.steps import StopEngine

    stop = StopEngine(id="01", reason="r", pool="docker", engine="docker", units=("docker.service",))
    began = Began("r", "apply", AT, (stop,), boot_id=support.BOOT, request=Request("apply"))
    journal = Journal((stored(began, Doing("01", AT), Done("01", 1.0), Ended("done", AT)),))
    found = find(support.with_engine(host(), docker()), WITH_ENGINE, journal)["ENGINE_STOPPED"]
    assert (found.resolution, [step_name(step) for step in found.fix or ()]) == (
        "Run: thinpoolmgr activate docker",
        ["start-engine"],
    )


def test_an_engine_on_another_pool() -> None:
    options = storage_options(support.engine().config, "other-pool")
    text = '{"storage-driver": "devicemapper", "storage-opts": ["%s"]}' % options[0]  # noqa: UP031 - braces
    other = support.with_pool(
        support.snapshot(support.disk("/dev/sdc")), support.pool("other", "/dev/sdc", thin_pool="pool")
    )
    disk = other.disks[0]
    shot = host()
    shot = replace(
        shot,
        disks=(*shot.disks, disk),
        groups=(*shot.groups, *other.groups),
    )
    found = find(support.with_engine(shot, docker(config_text=text, state=support.STALE)), WITH_ENGINE)
    assert "ENGINE_STATE_FOREIGN" in found


def test_devices_of_the_configuration() -> None:
    desired = support.desired(support.pool("docker", BY_ID, "/dev/x", "/etc/passwd", "/dev/y"))
    more = (
        ConfiguredDevice("/dev/x", problem="missing"),
        ConfiguredDevice("/etc/passwd", problem="not a block device"),
        ConfiguredDevice("/dev/y", problem="Too many levels of symbolic links"),
    )
    shot = replace(host(), configured_devices=(*host().configured_devices, *more))
    found = find(shot, desired)
    assert {code: diagnosis.target for code, diagnosis in found.items()} == {
        "DISK_MISSING": "/dev/x",
        "NOT_A_BLOCK_DEVICE": "/etc/passwd",
        "DISK_UNREADABLE": "/dev/y",
    }


DEAD = "/dev/disk/by-id/dead"


@pytest.mark.parametrize(
    ("device", "what", "code"),
    [
        (ConfiguredDevice(DEAD, problem="missing"), "is missing", "DISK_MISSING"),
        (ConfiguredDevice(DEAD, problem="not a block device"), "is not a block device", "NOT_A_BLOCK_DEVICE"),
        (ConfiguredDevice(DEAD, problem="Permission denied"), ": Permission denied", "DISK_UNREADABLE"),
        (ConfiguredDevice(DEAD, "/dev/sdc"), "cannot be read: Input/output error", ""),
    ],
)
def test_a_spare_disk_that_cannot_be_used_is_a_warning_while_the_pool_is_whole_without_it(
    device: ConfiguredDevice, what: str, code: str
) -> None:
    desired = support.desired(support.pool("docker", BY_ID, spare_devices=(DEAD,)))
    unread = support.disk("/dev/sdc", signatures=None, probe_error="Input/output error")
    shot = replace(host(), disks=(*host().disks, unread))
    shot = replace(shot, configured_devices=(*shot.configured_devices, device))
    assert list(find(shot, desired)) == ["SPARE_UNUSABLE"]
    (finding,) = find_all(desired, shot)
    assert (finding.severity, finding.target) == ("warning", DEAD)
    assert finding.summary.startswith(DEAD)
    assert finding.summary.endswith(f"{what}; it is a spare disk of pools.docker")
    # It may be what the group lacks.
    partial = replace(shot, groups=(replace(shot.groups[0], attr="wz-pn-"),))
    assert [finding.code for finding in find_all(desired, partial)] == ["POOL_PARTIAL", *([code] if code else [])]


def test_a_name_that_may_change() -> None:
    desired = support.desired(support.pool("docker", "/dev/sdb"))
    found = find(host(), desired)["DISK_NAME_UNSTABLE"]
    assert (found.severity, BY_ID in found.resolution) == ("info", True)
    assert "serial number" in find(support.healthy(), desired)["DISK_NAME_UNSTABLE"].resolution


def test_what_apply_would_do_beside_all_that() -> None:
    zero = support.desired(support.pool("docker", BY_ID, zero_new_blocks=True))
    found = find(host(), zero)
    assert list(found) == ["CONFIG_NOT_APPLIED"]
    assert [step_name(step) for step in found["CONFIG_NOT_APPLIED"].fix or ()] == ["set-zeroing"]
    chunk = support.desired(support.pool("docker", BY_ID, chunk_size="1MiB"))
    refused = find(host(), chunk)["CONFIG_REFUSED"]
    assert (refused.fix, "[SETTING_DIFFERS]" in refused.evidence) == (None, True)


def test_missing_tools_are_told_even_where_nothing_else_can_be() -> None:
    found = find(host(), facts=HostFacts(("thin_check", "dmsetup")))
    assert list(found) == ["TOOL_MISSING"]
    both = diagnose(DESIRED, None, Journal(), HostFacts(("lvm", "thin_check")))
    assert [(d.target, d.resolution) for d in both] == [
        ("lvm", "Run: apt-get install lvm2"),
        ("thin_check", "Run: apt-get install thin-provisioning-tools"),
    ]
    assert "thin_check: execvp failed" in both[1].evidence


def test_only_cookies_made_within_a_killed_step_of_ours_are_told() -> None:
    killed = stored(BEGAN, Doing("01", AT))
    begun = 1795507200.0
    ours, early, late = (Cookie(f"0xd4d000{n}", begun + after) for n, after in enumerate((5.0, -60.0, 4000.0)))
    facts = HostFacts(cookies=(ours, early, late))
    found = [d for d in diagnose(DESIRED, host(), Journal((killed,)), facts) if d.code == "UDEV_COOKIE_LEAKED"]
    assert [(d.target, d.fix) for d in found] == [("0xd4d0000", None)]
    assert "ipcrm -S 0xd4d0000" in found[0].resolution
    assert find(host(), facts=facts) == {}
    ended = stored(BEGAN, Doing("01", AT), Done("01", 1.0), Ended("done", AT))
    assert find(host(), journal=Journal((ended,)), facts=facts) == {}
    assert find(host(), journal=Journal((killed,), is_locked=True), facts=facts) == {}


def test_the_worst_comes_first() -> None:
    shot = host(used_data_blocks=16000)
    found = diagnose(DESIRED, shot, Journal((stored(damage="x"),)), HostFacts(("dmsetup",)))
    assert [d.severity for d in found] == ["error", "error", "warning", "info"]
    named_by_the_kernel = support.desired(support.pool("docker", "/dev/sdb"), engines=(support.engine(),))
    stopped = support.with_engine(support.healthy(), docker())
    assert list(find(stopped, named_by_the_kernel)) == ["ENGINE_STOPPED", "DISK_NAME_UNSTABLE"]


def test_the_words_of_the_table_ask_for_what_they_get() -> None:
    known = {
        *("target", "pool", "path", "command", "asked", "state", "because", "hint", "group", "by_lvm", "what"),
        *("resolution", "unit", "driver", "file", "package", "files", "drivers", "disks", "engine", "recorded", "real"),
    }
    for code, kind in FINDINGS.items():
        for text in (kind.summary, kind.way_out, kind.otherwise):
            assert {name for _, name, _, _ in string.Formatter().parse(text) if name} <= known, code


def test_status_shows_the_journals_own_and_not_what_only_the_doctor_knows() -> None:
    shot = without_spare(host(1280))
    assert find_all(HALF, shot) == ()
    journal = Journal((stored(BEGAN, Doing("01", AT)),))
    assert [finding.code for finding in find_all(HALF, shot, journal)] == ["RUN_INTERRUPTED"]
    damaged = Journal((stored(damage="x"),))
    assert [finding.code for finding in find_all(HALF, shot, damaged)] == ["JOURNAL_DAMAGED"]


@pytest.fixture
def facts(monkeypatch: pytest.MonkeyPatch) -> list[HostFacts]:
    given = [HostFacts()]
    monkeypatch.setattr(diagnosis, "read_facts", lambda _desired: given[0])
    return given


NAMED = PLAIN.replace("/dev/sdb", BY_ID)


def test_doctor_says_with_its_code_whether_something_is_wrong(cli: Cli, facts: list[HostFacts]) -> None:
    cli.set(host(), NAMED)
    assert cli("doctor") == (0, "Nothing found.\n", "")
    assert cli.json("doctor") == (0, {"schema": 1, "findings": []})
    cli.set(host(used_data_blocks=8000), NAMED)
    code, document = cli.json("doctor")
    assert (code, [f["severity"] for f in document["findings"]]) == (0, ["info"])
    cli.set(host(used_data_blocks=16000), NAMED)
    assert cli("doctor")[0] == 2
    facts[0] = HostFacts(("thin_check",))
    assert cli.json("doctor")[1]["findings"][0]["code"] == "TOOL_MISSING"
    assert cli.host.performed == []
    assert not (cli.config.parent / "state").exists()


def test_the_doctors_document(cli: Cli, facts: list[HostFacts]) -> None:
    del facts
    cli.set(events.deactivate_by_hand(host(), "docker"), NAMED)
    code, document = cli.json("doctor")
    (finding,) = document["findings"]
    assert (code, document["schema"]) == (2, 1)
    assert set(finding) == {"code", "severity", "target", "summary", "evidence", "resolution", "fix"}
    assert [set(step) for step in finding["fix"]] == [{"id", "do", "target", "danger", "reason", "commands"}]
    assert (
        finding["fix"][0]["commands"] == [["lvchange", "--activate", "y", "docker/thinpool"]]
        or finding["fix"][0]["commands"]
    )
    done = cli.json("activate", "docker", "--yes")[1]
    assert [step["do"] for step in done["steps"]] == [step["do"] for step in finding["fix"]]
    cli.set(events.untag(host(), "docker"), NAMED)
    assert cli.json("doctor")[1]["findings"][0]["fix"] is None


def test_the_doctor_is_drawn(cli: Cli, facts: list[HostFacts]) -> None:
    facts[0] = HostFacts(("thin_check",))
    cli.set(
        host(1280, used_data_blocks=10240, mode="out_of_data_space", when_full="error"), NAMED + 'data_size = "50%VG"\n'
    )
    code, out, err = cli("doctor")
    assert (code, err, max(map(len, out.splitlines())) <= 100) == (2, "", True)
    golden("doctor", out)
    code, out, err = cli("doctor", "-v")
    assert (code, err, max(map(len, out.splitlines())) <= 100) == (2, "", True)
    golden("doctor-verbose", out)
    assert out.count("lvextend") == 1


def test_without_lvm_the_doctor_says_so(cli: Cli, facts: list[HostFacts], monkeypatch: pytest.MonkeyPatch) -> None:
    def observe() -> Snapshot:
        raise UnavailableError("lvm is not installed")

    monkeypatch.setattr(cli.host, "observe", observe)
    assert cli("doctor")[0] == 69
    facts[0] = HostFacts(("lvm",))
    code, document = cli.json("doctor")
    assert (code, [(f["code"], f["target"]) for f in document["findings"]]) == (2, [("TOOL_MISSING", "lvm")])


def test_doctor_needs_root_and_the_kernels_target(
    cli: Cli,
    facts: list[HostFacts],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del facts
    monkeypatch.setattr(pools, "Store", lambda *_: cli.store)
    code, out, err = cli("doctor", "--simulate")
    assert (code, "[POOL_ABSENT]" in out, err.startswith("Simulated:")) == (2, True, True)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli("doctor")[0] == 77

    def no_host(_desired: DesiredState, **_: bool) -> support.FakeHost:
        raise UnavailableError("this kernel has no device-mapper target thin-pool")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pools, "real_host", no_host)
    assert cli("doctor")[0] == 69


def test_status_shows_what_is_wrong_with_the_journal(cli: Cli) -> None:
    cli.set(host(), NAMED)
    folder = cli.config.parent / "state" / "runs"
    folder.mkdir(parents=True)
    (folder / "a.jsonl").write_bytes(encode_record(BEGAN) + encode_record(Doing("01", AT)))
    code, document = cli.json("status")
    assert (code, [set(f) for f in document["findings"]]) == (0, [{"code", "severity", "target", "summary"}])
    assert document["findings"][0]["code"] == "RUN_INTERRUPTED"
    assert cli("status", "--check")[0] == 2
    with cli.store.lock("apply"):
        assert cli("status", "--check")[0] == 0
    (folder / "a.jsonl").write_bytes(b"nonsense\n" + encode_record(BEGAN))
    code, out, _ = cli("status")
    assert (code, "error    the journal file of the run a is damaged" in out) == (0, True)
    assert cli.json("doctor")[1]["findings"][0]["code"] == "JOURNAL_DAMAGED"
    assert cli("apply", "--yes")[0] == 5


def test_nobody_who_extends_is_told_of_where_the_monitor_is_to() -> None:
    alone = HostFacts(has_monitor=False)
    assert "MONITOR_NOT_RUNNING" not in find(host())
    found = find(host(), facts=alone)["MONITOR_NOT_RUNNING"]
    assert (found.severity, found.target) == ("info", "docker/thinpool")
    assert "systemctl enable --now thinpoolmgr-monitor" in found.resolution
    assert "MONITOR_NOT_RUNNING" not in find(support.snapshot(support.disk()), facts=alone)
    assert "MONITOR_NOT_RUNNING" not in find(host(), facts=HostFacts(watched=("docker",)))
    found = find(host(), facts=HostFacts(watched=("other",)))["MONITOR_NOT_RUNNING"]
    assert (found.summary.endswith("does not look at it"), "restart" in found.resolution) == (True, True)
    config = replace(DESIRED.pools[0].config, extend=replace(DESIRED.pools[0].config.extend, monitor="none"))
    nobody = replace(DESIRED, pools=(replace(DESIRED.pools[0], config=config),))
    assert all(found.code != "MONITOR_NOT_RUNNING" for found in diagnose(nobody, host(), Journal(), alone))
