"""The in-memory host: its faults, its events, and `--simulate`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.cli.main import main
from thinpoolmgr.core.desired import DesiredPool, PoolConfig
from thinpoolmgr.core.guards import disk_ref
from thinpoolmgr.core.lifecycle import PoolState, view_pool
from thinpoolmgr.core.matching import resolve_matches
from thinpoolmgr.core.model import Signature
from thinpoolmgr.core.names import live_pool_device
from thinpoolmgr.core.plan import Memory
from thinpoolmgr.core.planner import plan_apply
from thinpoolmgr.core.steps import ActivatePool, CreateVolumeGroup, RemovePhysicalVolumes, Step, WipeSignatures
from thinpoolmgr.errors import CommandFailedError
from thinpoolmgr.sim import events
from thinpoolmgr.sim.faults import (
    DiskReturns,
    DiskVanishes,
    Fails,
    Fault,
    Killed,
    Left,
    Lies,
    LvmReportsLess,
    PowerCut,
    PowerCutError,
)
from thinpoolmgr.sim.host import ImpossibleHostError, SimulatedHost, simulated_snapshot
from thinpoolmgr.sim.steps import apply_step, make_group

if TYPE_CHECKING:
    from pathlib import Path

    from thinpoolmgr.core.model import Snapshot

DISKS = ("/dev/sdb", "/dev/sdc")
BLANK = support.snapshot(*map(support.disk, DISKS))
GROUP_ONLY = support.with_group(BLANK)
POOL = support.pool("docker", *DISKS)
HEALTHY = support.with_pool(BLANK, POOL)
CREATE_GROUP = CreateVolumeGroup(reason="", group="docker", disks=tuple(map(disk_ref, BLANK.disks)))
CREATE_POOL = support.create_step(POOL)
ACTIVATE = ActivatePool(reason="", group="docker", lv="thinpool")


def state(shot: Snapshot) -> PoolState:
    return view_pool(POOL, shot).state


def lvs(shot: Snapshot) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(lv.name, lv.segment_type, lv.tags) for lv in shot.groups[0].lvs]


def broken(shot: Snapshot, step: Step, fault: Fault) -> SimulatedHost:
    host = SimulatedHost(shot, {0: fault})
    kind = CommandFailedError if isinstance(fault, Fails) else PowerCutError
    with pytest.raises(kind):
        host.perform(step)
    return host


def test_a_step_takes_effect_once_and_is_remembered() -> None:
    host = SimulatedHost(GROUP_ONLY)
    host.perform(CREATE_POOL)
    assert state(host.observe()) is PoolState.HEALTHY
    assert (host.performed, host.took_effect) == ([CREATE_POOL], [CREATE_POOL])
    assert host.recent_commands == ("create-thin-pool (simulated)",)
    with pytest.raises(CommandFailedError):
        host.perform(CREATE_POOL)


@pytest.mark.parametrize("kind", [Fails, Killed, PowerCut])
def test_a_step_is_broken_off_before_or_after_its_work(kind: type[Fails | Killed | PowerCut]) -> None:
    before = broken(GROUP_ONLY, CREATE_POOL, kind("before"))
    assert (before.snapshot.groups, before.took_effect) == (GROUP_ONLY.groups, [])
    assert state(broken(GROUP_ONLY, CREATE_POOL, kind("after")).snapshot) is PoolState.HEALTHY


def test_each_fault_strikes_once_and_at_its_attempt() -> None:
    host = SimulatedHost(BLANK)
    host.lay(Lies(), after=1)
    host.perform(CREATE_GROUP)
    host.perform(CREATE_POOL)
    assert lvs(host.snapshot) == []
    host.perform(CREATE_POOL)
    assert state(host.snapshot) is PoolState.HEALTHY


SPARE = ("lvol0_pmspare", "linear", ())
HALVES: dict[Left, list[tuple[str, str, tuple[str, ...]]]] = {
    "first": [("lvol0", "linear", ())],
    "second": [("thinpool", "linear", ("thinpoolmgr",)), SPARE],
    "third": [
        ("thinpool", "thin-pool", ("thinpoolmgr",)),
        ("thinpool_tdata", "linear", ()),
        ("thinpool_tmeta", "linear", ()),
        SPARE,
    ],
}


@pytest.mark.parametrize("left", HALVES)
def test_lvcreate_leaves_one_of_three_halves(left: Left) -> None:
    shot = broken(GROUP_ONLY, CREATE_POOL, Killed("inside", left)).snapshot
    assert lvs(shot) == HALVES[left]
    assert live_pool_device(shot.groups[0], shot.groups[0].lvs[0].uuid, shot.dm_devices) is None
    assert state(shot) is (PoolState.INACTIVE if left == "third" else PoolState.ABSENT)


@pytest.mark.parametrize(("shot", "step"), [(GROUP_ONLY, CREATE_POOL), (support.deactivated(HEALTHY), ACTIVATE)])
def test_an_activation_leaves_components(shot: Snapshot, step: Step) -> None:
    left = broken(shot, step, Fails("inside", "components")).snapshot
    assert sorted(device.name for device in left.dm_devices) == ["docker-thinpool_tdata", "docker-thinpool_tmeta"]
    with pytest.raises(CommandFailedError, match="lvchange failed"):
        apply_step(left, ACTIVATE)


def test_vgcreate_leaves_labels_and_pvremove_leaves_some() -> None:
    made = broken(BLANK, CREATE_GROUP, Killed("inside", "labels")).snapshot
    assert (made.groups, [pv.path for pv in made.orphan_pvs]) == ((), list(DISKS))
    remove = RemovePhysicalVolumes(reason="", disks=CREATE_GROUP.disks)
    left = broken(made, remove, Killed("inside", "labels")).snapshot
    assert [pv.path for pv in left.orphan_pvs] == ["/dev/sdc"]


def test_after_a_power_cut_udev_has_activated_what_is_whole() -> None:
    host = broken(support.deactivated(HEALTHY), ACTIVATE, PowerCut("before"))
    assert host.snapshot.boot_id != HEALTHY.boot_id
    assert state(host.snapshot) is PoolState.HEALTHY


def test_a_disk_that_vanishes_takes_a_part_of_its_group_and_brings_it_back() -> None:
    host = SimulatedHost(support.deactivated(HEALTHY), {0: DiskVanishes("/dev/sdc"), 1: DiskReturns("/dev/sdc")})
    with pytest.raises(CommandFailedError) as caught:
        host.perform(ACTIVATE)
    assert "partial" in caught.value.details
    seen = host.observe()
    assert state(seen) is PoolState.PARTIAL
    assert [(device.disk, device.problem) for device in seen.configured_devices][1] == ("", "missing")
    assert [(pv.path, pv.missing) for pv in seen.groups[0].pvs][1] == ("[unknown]", True)
    host.perform(ACTIVATE)
    assert host.snapshot.groups == HEALTHY.groups
    assert state(host.observe()) is PoolState.HEALTHY


def test_with_its_last_disk_a_group_is_gone_and_the_kernel_runs_on() -> None:
    host = SimulatedHost(HEALTHY)
    for path in DISKS:
        host.vanish(path)
    assert state(host.observe()) is PoolState.LOST
    host.bring_back("/dev/sdc")
    assert state(host.observe()) is PoolState.PARTIAL
    host.heal()
    assert host.snapshot.groups == HEALTHY.groups


def test_a_report_that_is_less_than_the_truth_comes_with_its_reason() -> None:
    host = SimulatedHost(support.deactivated(HEALTHY), {0: LvmReportsLess("docker")})
    host.perform(ACTIVATE)
    assert state(host.observe()) is PoolState.LOST
    assert host.observe().lvm_trouble
    host.reboot()
    host.heal()
    assert state(host.observe()) is PoolState.HEALTHY


USED: dict[str, dict[str, Any]] = {
    "mounted": {"mounts": ("/srv",), "opened_exclusively": True},
    "swap": {"swap": True, "opened_exclusively": True},
    "ext4": {"signatures": (Signature("ext4", "filesystem", 1080),)},
    "unreadable": {"signatures": None},
}


@pytest.mark.parametrize("use", USED)
def test_the_simulated_lvm_does_not_take_a_disk_in_use(use: str) -> None:
    shot = support.snapshot(support.disk(**USED[use]))
    with pytest.raises(CommandFailedError, match="vgcreate"):
        make_group(shot, "docker", ("/dev/sdb",))
    if use != "ext4":
        with pytest.raises(CommandFailedError, match="wipefs"):
            apply_step(shot, WipeSignatures(reason="", disk=disk_ref(shot.disks[0]), found=()))


def test_things_made_again_have_other_uuids() -> None:
    first = apply_step(BLANK, CREATE_GROUP, 1).groups[0]
    again = apply_step(BLANK, CREATE_GROUP, 2).groups[0]
    assert first.uuid != again.uuid
    assert {pv.uuid for pv in first.pvs}.isdisjoint(pv.uuid for pv in again.pvs)


def test_an_impossible_host_is_refused() -> None:
    group = HEALTHY.groups[0]
    twice = replace(group, lvs=(*group.lvs, group.lvs[-1]), free_extents=group.free_extents - 3)
    closed = tuple(replace(disk, swap=True, opened_exclusively=False) for disk in BLANK.disks)
    wrong = {"share a name or a uuid": replace(HEALTHY, groups=(twice,)), "not open": replace(BLANK, disks=closed)}
    for why, shot in wrong.items():
        with pytest.raises(ImpossibleHostError, match=why):
            SimulatedHost(shot)


def test_a_disk_that_is_away_explains_devices_that_stand_on_nothing() -> None:
    shot, _ = events.vanish(HEALTHY, "/dev/sdc")
    assert support.check_consistent(shot) == []


CONFIG = 'version = 1\n[pools.docker]\ndevices = ["/dev/disk/by-id/data0"]\n[engines.docker]\npool = "docker"\n'


def test_the_simulated_host_has_all_that_the_configuration_names() -> None:
    state_ = support.desired(support.pool("docker", "/dev/disk/by-id/data0", "/dev/sdz"), engines=(support.engine(),))
    shot = simulated_snapshot(state_)
    assert [shot.find_disk(path) for path in ("/dev/disk/by-id/data0", "/dev/sdz")] == list(shot.disks)
    assert (shot.groups, shot.dm_devices, shot.engines[0].running) == ((), (), False)


SAID = {
    ("plan",): (2, "create volume group docker"),
    ("apply", "--yes"): (0, "Done: 3 steps"),
    ("status",): (0, "absent"),
    ("destroy", "docker", "--yes"): (0, "Nothing to do"),
}


@pytest.mark.parametrize("words", SAID)
def test_simulate_needs_no_root_and_leaves_nothing(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.toml"
    config.write_text(CONFIG, "utf-8")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit) as caught:
        main(["--config", str(config), "--simulate", *words])
    out, err = capsys.readouterr()
    assert caught.value.code == SAID[words][0]
    assert err.startswith("Simulated: ")
    assert SAID[words][1] in out
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    "selector",
    [
        {"serial": "WD-*"},
        {"serial": "WD-1"},
        {"model": "[!a-c]?*[]x]"},
        {"wwn": "0x*", "transport": "nvme", "rotational": False},
        {"path": "/dev/loop*"},
        {"path": "pci-0000:0[0-9]:*-ata-?", "min_size": "4TiB"},
        {"rotational": True, "count": 3},
        {"serial": "odd[", "count": 1},
    ],
)
def test_the_simulated_host_has_what_selectors_ask_for(selector: dict[str, Any]) -> None:
    wanted = DesiredPool("docker", msgspec.convert({"match": [selector]}, PoolConfig))
    state_ = support.desired(wanted, support.pool("second", "/dev/sdz"))
    shot = simulated_snapshot(state_)
    resolved, refusals = resolve_matches(state_, shot)
    assert refusals == []
    assert len(resolved.pools[0].config.devices) == selector.get("count", 1)
    assert plan_apply(state_, shot, Memory()).refusals == ()
