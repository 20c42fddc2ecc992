"""The builders of the other tests: what they make is possible, and what is impossible is refused."""

from __future__ import annotations

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.model import ConfiguredDevice, DmDevice
from thinpoolmgr.units import MIB


def test_a_pool_looks_as_lvm_makes_it() -> None:
    shot = support.with_thin_device(support.healthy())
    group = shot.groups[0]
    prefix = f"LVM-{group.uuid.replace('-', '')}"
    by_name = {d.name: d for d in shot.dm_devices}
    lv_uuid = group.lvs[0].uuid.replace("-", "")
    assert set(by_name) == {"docker-thinpool", "docker-thinpool_tdata", "docker-thinpool_tmeta", "docker-8:1-42-base"}
    assert by_name["docker-thinpool"].uuid == f"{prefix}{lv_uuid}-tpool"
    assert by_name["docker-thinpool_tdata"].uuid.endswith("-tdata")
    assert [lv.name for lv in group.lvs] == ["thinpool", "thinpool_tdata", "thinpool_tmeta", "lvol0_pmspare"]
    assert support.check_consistent(shot) == []


def test_impossible_snapshots_are_refused() -> None:
    shot = support.with_thin_device(support.healthy())
    group, device = shot.groups[0], shot.dm_devices[0]
    impossible = {
        "share a name": replace(shot, dm_devices=(*shot.dm_devices, device)),
        "stands on nothing": replace(shot, dm_devices=(DmDevice("x", "", "9:9", 0, depends_on=("7:7",)),)),
        "open 0 times": replace(shot, dm_devices=tuple(replace(d, open_count=0) for d in shot.dm_devices)),
        "a pool's status": replace(shot, dm_devices=tuple(replace(d, targets=("linear",)) for d in shot.dm_devices)),
        "unknown disk": replace(shot, configured_devices=(ConfiguredDevice("/dev/x", "/dev/x"),)),
        "two places": replace(shot, orphan_pvs=group.pvs),
        "do not add up": replace(shot, groups=(replace(group, free_extents=0),)),
        "partial in one place": replace(shot, groups=(replace(group, attr="wz-pn-"),)),
        "lacks its data": replace(shot, groups=(replace(group, lvs=group.lvs[:1], free_extents=group.extent_count),)),
        "is not installed": replace(shot, engines=(support.docker(running=True, installed=False),)),
        "has a process": replace(shot, engines=(support.docker(running=False, pids=(1,)),)),
    }
    for why, wrong in impossible.items():
        with pytest.raises(AssertionError, match=why):
            support.checked(wrong)


def test_a_group_has_no_room_for_a_second_pool_of_the_same_name() -> None:
    with pytest.raises(Exception, match="lvcreate failed"):
        support.apply_step(support.healthy(), support.create_step(support.pool(), 1, 4 * MIB))
