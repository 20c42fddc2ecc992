"""What the in-memory kernel does when a pool grows, or is activated with a profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.model import LvmProfile
from thinpoolmgr.core.steps import ActivatePool, ExtendData, ExtendMetadata
from thinpoolmgr.core.thinstatus import low_water_blocks
from thinpoolmgr.sim.events import reboot
from thinpoolmgr.units import MIB

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Snapshot
    from thinpoolmgr.core.steps import Step


@pytest.mark.parametrize(
    ("before", "step", "mode"),
    [
        ({"mode": "ro"}, "metadata", "rw"),
        ({"mode": "ro", "needs_check": True}, "metadata", "ro"),
        ({"mode": "ro"}, "data", "ro"),
        ({"mode": "out_of_data_space"}, "data", "rw"),
        ({"mode": "out_of_data_space"}, "metadata", "out_of_data_space"),
        ({"mode": "rw"}, "data", "rw"),
    ],
)
def test_more_of_what_ran_out_makes_a_pool_writable_again(before: dict[str, object], step: str, mode: str) -> None:
    names: dict[str, Any] = {"reason": "r", "group": "docker", "lv": "thinpool"}
    grow: Step = ExtendMetadata(**names, metadata_bytes=20 * MIB)
    if step == "data":
        grow = ExtendData(**names, data_extents=2500, extent_bytes=support.EXTENT, chunk_bytes=support.CHUNK)
    after = support.apply_step(support.healthy(**before), grow)
    (status,) = [device.pool_status for device in after.dm_devices if device.pool_status]
    assert status.mode == mode


def low_water(shot: Snapshot) -> int | None:
    (table,) = [device.table for device in shot.dm_devices if device.pool_status]
    return low_water_blocks(table)


def test_a_pool_that_is_activated_has_the_low_water_mark_of_its_profile() -> None:
    profile = LvmProfile("thinpoolmgr-docker-thinpool", "thin_pool_autoextend_threshold=75")
    made = replace(support.create_step(support.pool()), profile=profile.name)
    base = replace(support.with_group(support.snapshot()), lvm_profiles=(profile,))
    shot = support.apply_step(base, made)
    wanted = 2432 * support.EXTENT // support.CHUNK * 25 // 100
    again = support.apply_step(support.deactivated(shot), ActivatePool(reason="r", group="docker", lv="thinpool"))
    assert [low_water(host) for host in (shot, again, reboot(shot))] == [wanted] * 3
    assert low_water(support.healthy()) == 0
