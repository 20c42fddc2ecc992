"""What the monitor looks at before it takes a spare disk, and what that forbids."""

from __future__ import annotations

import pytest
import support
from msgspec.structs import replace
from watch_lab import SPARE

from thinpoolmgr.core.guards import disk_ref
from thinpoolmgr.core.lifecycle import view_pool
from thinpoolmgr.core.model import (
    ConfiguredDevice,
    Disk,
    DmDevice,
    PhysicalVolume,
    Signature,
    Snapshot,
)
from thinpoolmgr.core.plan import Memory, Plan, Request
from thinpoolmgr.core.steps import ExtendVolumeGroup
from thinpoolmgr.core.watch import plan_spare
from thinpoolmgr.host import block, dm, lvm
from thinpoolmgr.monitor import spare

POOL = support.pool(spare_devices=(SPARE,))
LABEL = Signature("LVM2_member", "raid", 536)
ORPHAN = PhysicalVolume(SPARE, "pv-uuid", support.disk(SPARE).size_bytes)


class Host:
    """A host of one pool's disk and a spare one, as far as they are looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.disk = support.disk(SPARE)
        self.unused: tuple[PhysicalVolume, ...] = ()
        self.mapped: tuple[DmDevice, ...] = ()
        self.asked: list[str] = []
        self.opened: list[str] = []
        self.memory = Memory()

        def observe_disks(paths: list[str], _usage: object) -> tuple[Disk, ...]:
            self.opened += paths
            return tuple(self.disk if path == SPARE else support.disk(path) for path in paths)

        def read_unused(_run: object, path: str) -> tuple[PhysicalVolume, ...]:
            self.asked.append(path)
            return self.unused

        monkeypatch.setattr(spare, "observe_disks", observe_disks)
        monkeypatch.setattr(spare, "resolve_configured", lambda _desired: (ConfiguredDevice(SPARE, SPARE),))
        monkeypatch.setattr(block, "resolve_device", lambda path: ConfiguredDevice(path, path))
        monkeypatch.setattr(block, "read_usage", block.Usage)
        monkeypatch.setattr(block, "mapped_on", lambda _disk: self.mapped)
        monkeypatch.setattr(lvm, "read_unused", read_unused)
        # Neither all devices nor all groups are asked for: one may hang.
        monkeypatch.setattr(dm, "list_dm_devices", None)
        monkeypatch.setattr(lvm, "read_lvm", None)

    def look(self) -> Snapshot:
        healthy = support.healthy()
        seen = Snapshot(groups=healthy.groups, dm_devices=healthy.dm_devices)
        return spare.with_spare(seen, POOL, SPARE, support)  # type: ignore[arg-type]

    def plan(self) -> Plan:
        shot = self.look()
        disk = shot.find_disk(SPARE)
        assert disk is not None
        return plan_spare(view_pool(POOL, shot), disk, shot, self.memory, Request("extend", "docker"))

    def codes(self) -> list[str]:
        return [refusal.code for refusal in self.plan().refusals]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_a_blank_disk_is_taken_and_lvm_is_not_asked_about_it(host: Host) -> None:
    (step,) = host.plan().steps
    assert isinstance(step, ExtendVolumeGroup)
    assert [ref.path for ref in step.disks] == [SPARE]
    assert host.asked == []
    assert host.opened == [SPARE, "/dev/sdb"]


def test_a_disk_of_a_group_that_nobody_told_of_is_refused(host: Host) -> None:
    host.disk = replace(host.disk, signatures=(LABEL,))
    assert (host.codes(), host.asked) == (["DISK_UNKNOWN"], [SPARE])


def test_a_partition_with_a_label_is_refused(host: Host) -> None:
    host.disk = replace(host.disk, partitions=(f"{SPARE}1",), labelled_partitions=(f"{SPARE}1",))
    assert host.codes() == ["DISK_UNKNOWN"]


def test_only_a_label_that_our_own_killed_vgextend_left_is_no_hindrance(host: Host) -> None:
    host.disk = replace(host.disk, signatures=(LABEL,))
    host.unused = (ORPHAN,)
    assert host.codes() == ["DISK_HAS_SIGNATURE"]
    begun = ExtendVolumeGroup(reason="r", pool="docker", group="docker", disks=(disk_ref(host.disk),))
    host.memory = Memory(interrupted=(begun,))
    assert [type(step) for step in host.plan().steps] == [ExtendVolumeGroup]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"holders": ("dm-7",)}, "DISK_HELD"),
        ({"mounts": ("/srv",)}, "DISK_MOUNTED"),
        ({"swap": True}, "DISK_IS_SWAP"),
        ({"opened_exclusively": True}, "DISK_OPEN"),
        ({"opened_exclusively": None}, "DISK_UNKNOWN"),
        ({"signatures": None}, "DISK_UNKNOWN"),
    ],
)
def test_a_disk_in_use_is_refused_whatever_lvm_knows(host: Host, changes: dict[str, object], code: str) -> None:
    host.disk = replace(host.disk, **changes)
    assert host.codes() == [code]


def test_a_volume_of_another_group_is_refused(host: Host) -> None:
    host.mapped = (DmDevice("other-lv", "LVM-xyz", host.disk.devno, 0, is_examined=False),)
    assert host.codes() == ["DISK_IS_LV"]


def test_the_name_of_the_multipath_device_over_it_is_told(host: Host) -> None:
    host.disk = replace(host.disk, holders=("dm-7",))
    host.mapped = (DmDevice("paths", "mpath-1", "254:7", 0, depends_on=(host.disk.devno,), is_examined=False),)
    (refusal,) = host.plan().refusals
    assert "/dev/mapper/paths" in refusal.resolution


def test_a_disk_that_went_is_not_looked_at(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "resolve_configured", lambda _desired: (ConfiguredDevice(SPARE, problem="missing"),))
    assert host.look().find_disk(SPARE) is None
    assert host.opened == ["/dev/sdb"]
