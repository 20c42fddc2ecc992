from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.lifecycle import PoolState, view_pool
from thinpoolmgr.core.model import DmDevice
from thinpoolmgr.core.names import OUR_TAG
from thinpoolmgr.units import GIB, MIB

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Snapshot


def with_partial_group(shot: Snapshot) -> Snapshot:
    group = shot.groups[0]
    missing = replace(group.pvs[0], path="[unknown]", missing=True)
    partial = replace(group, attr="wz-pn-", pvs=(missing,))
    return support.checked(replace(shot, groups=(partial,)))


def without_tag(shot: Snapshot, lv_only: str = "") -> Snapshot:
    group = shot.groups[0]
    if lv_only:
        return replace(shot, groups=(replace(group, lvs=tuple(replace(lv, tags=()) for lv in group.lvs)),))
    return replace(shot, groups=(replace(group, tags=()),))


HEALTHY = support.healthy()
GROUP_ONLY = support.with_group(support.snapshot())
STATES: dict[str, tuple[Snapshot, PoolState]] = {
    "blank disk": (support.snapshot(), PoolState.ABSENT),
    "group without pool": (GROUP_ONLY, PoolState.ABSENT),
    "LV of our name, another type": (
        support.with_lv(GROUP_ONLY, support.linear("thinpool", 40 * MIB)),
        PoolState.ABSENT,
    ),
    "healthy": (HEALTHY, PoolState.HEALTHY),
    "not active": (support.deactivated(HEALTHY), PoolState.INACTIVE),
    "group of others": (support.with_group(support.snapshot(), tags=()), PoolState.FOREIGN),
    "tag of others": (support.with_group(support.snapshot(), tags=("thinpoolmgr2",)), PoolState.FOREIGN),
    "pool of others": (without_tag(HEALTHY), PoolState.FOREIGN),
    "pool of others in our group": (without_tag(HEALTHY, "lv"), PoolState.FOREIGN),
    "foreign before partial": (with_partial_group(without_tag(HEALTHY)), PoolState.FOREIGN),
    "disk missing": (with_partial_group(HEALTHY), PoolState.PARTIAL),
    "disk missing, inactive": (with_partial_group(support.deactivated(HEALTHY)), PoolState.PARTIAL),
    "partial before absent": (with_partial_group(GROUP_ONLY), PoolState.PARTIAL),
    "data at 80 %": (support.healthy(used_data_blocks=15565), PoolState.TIGHT),
    "data below 80 %": (support.healthy(used_data_blocks=15563), PoolState.HEALTHY),
    "metadata at 80 %": (support.healthy(used_metadata_blocks=2458), PoolState.TIGHT),
    "metadata below 80 %": (support.healthy(used_metadata_blocks=2457), PoolState.HEALTHY),
    "data full": (support.healthy(mode="out_of_data_space", used_data_blocks=19456), PoolState.OUT_OF_DATA),
    "metadata full": (support.healthy(mode="ro", used_metadata_blocks=3072), PoolState.OUT_OF_METADATA),
    "read-only": (support.healthy(mode="ro"), PoolState.READ_ONLY),
    "needs_check": (support.healthy(needs_check=True), PoolState.NEEDS_CHECK),
    "needs_check before full": (
        support.healthy(mode="ro", needs_check=True, used_metadata_blocks=3072),
        PoolState.NEEDS_CHECK,
    ),
    "Fail": (support.healthy(mode="Fail"), PoolState.FAILED),
    "Error": (support.healthy(mode="Error"), PoolState.FAILED),
    "Fail before needs_check": (support.healthy(mode="Fail", needs_check=True), PoolState.FAILED),
    "status unreadable": (
        replace(HEALTHY, dm_devices=tuple(replace(d, pool_status=None) for d in HEALTHY.dm_devices)),
        PoolState.UNKNOWN,
    ),
    "LVM reads nothing": (support.lvm_lost(support.snapshot(), "Error reading device /dev/sdb"), PoolState.UNKNOWN),
    "LVM lost what the kernel runs": (support.lvm_lost(HEALTHY), PoolState.LOST),
    "lost, and LVM says why": (support.lvm_lost(HEALTHY, "Error reading device /dev/sdb"), PoolState.LOST),
}


@pytest.mark.parametrize("name", STATES)
def test_the_state_follows_from_the_snapshot(name: str) -> None:
    shot, state = STATES[name]
    view = view_pool(support.pool(), shot)
    assert view.state is state
    assert view.because


def test_every_state_is_reached() -> None:
    assert {state for _, state in STATES.values()} == set(PoolState)


def test_the_kernel_is_believed_not_lvm() -> None:
    group = HEALTHY.groups[0]
    lies = tuple(replace(lv, attr="twi-aotzF-", health="failed", size_bytes=lv.size_bytes) for lv in group.lvs)
    view = view_pool(support.pool(), replace(HEALTHY, groups=(replace(group, lvs=lies),)))
    assert view.state is PoolState.HEALTHY
    healthy_in_lvm = support.healthy(mode="Fail")
    assert view_pool(support.pool(), healthy_in_lvm).state is PoolState.FAILED


def test_thresholds_are_the_pools_own() -> None:
    wanted = support.pool(extend={"data_threshold_percent": 50, "metadata_threshold_percent": 50})
    assert view_pool(wanted, support.healthy(used_data_blocks=9728)).state is PoolState.TIGHT
    assert view_pool(wanted, support.healthy(used_metadata_blocks=1536)).state is PoolState.TIGHT


def test_two_groups_of_one_name_are_unknown() -> None:
    shot = support.with_pool(support.snapshot(support.disk("/dev/sdb")))
    other = replace(shot.groups[0], uuid=support.uuid_of("other"), pvs=(), lvs=(), extent_count=0, free_extents=0)
    view = view_pool(support.pool(), replace(shot, groups=(shot.groups[0], other)))
    assert (view.state, "2 volume groups" in view.because) == (PoolState.UNKNOWN, True)


def test_a_duplicate_physical_volume_is_unknown() -> None:
    group = HEALTHY.groups[0]
    shot = replace(HEALTHY, groups=(replace(group, pvs=(replace(group.pvs[0], duplicate=True),)),))
    assert view_pool(support.pool(), shot).state is PoolState.UNKNOWN


def test_a_device_that_lvm_did_not_make_is_not_a_lost_pool() -> None:
    other = DmDevice("docker-thinpool", "CRYPT-1", "254:0", 0, targets=("crypt",))
    view = view_pool(support.pool(), replace(support.snapshot(), dm_devices=(other,)))
    assert (view.state, view.inner, view.device) == (PoolState.ABSENT, (), None)


def test_a_lost_pool_has_its_devices_from_the_top_down() -> None:
    view = view_pool(support.pool(), support.with_thin_device(support.lvm_lost(HEALTHY)))
    assert [d.name for d in view.inner] == ["docker-thinpool", "docker-thinpool_tdata", "docker-thinpool_tmeta"]
    assert [d.name for d in view.thin_devices] == ["docker-8:1-42-base"]
    assert view.dm_name == "docker-thinpool"


def test_what_is_left_of_a_lost_pool_is_still_lost() -> None:
    shot = support.lvm_lost(HEALTHY)
    without_pool = tuple(replace(d, open_count=0) for d in shot.dm_devices if d.targets != ("thin-pool",))
    view = view_pool(support.pool(), replace(shot, dm_devices=without_pool))
    assert (view.state, view.device, len(view.inner)) == (PoolState.LOST, None, 2)


def test_the_dm_name_is_the_live_one_or_what_it_will_be() -> None:
    assert view_pool(support.pool("a-b"), support.snapshot()).dm_name == "a--b-thinpool"
    renamed = tuple(
        replace(d, name=d.name.replace("docker-thinpool", "docker-thinpool-tpool")) for d in HEALTHY.dm_devices
    )
    assert view_pool(support.pool(), replace(HEALTHY, dm_devices=renamed)).dm_name == "docker-thinpool-tpool"


def test_thin_devices_are_told_by_what_they_stand_on() -> None:
    shot = support.with_thin_device(HEALTHY, "x")
    stranger = DmDevice("docker-thinpool-snap", "", "254:9", 0, targets=("linear",), depends_on=("8:16",))
    suspended = DmDevice("err", "", "254:8", 0, targets=("error",), depends_on=(shot.dm_devices[2].devno,))
    devices = (*shot.dm_devices, stranger, suspended)
    view = view_pool(support.pool(), replace(shot, dm_devices=devices))
    assert [d.name for d in view.thin_devices] == ["x", "err"]


def test_our_tag_is_what_makes_it_ours() -> None:
    assert OUR_TAG in HEALTHY.groups[0].tags
    assert support.pool().group == HEALTHY.groups[0].name
    assert view_pool(support.pool(), HEALTHY).group == HEALTHY.groups[0]
    assert HEALTHY.disks[0].size_bytes == 10 * GIB
