"""One look at the host: LVM's report, the kernel's device-mapper, the disks, the engines. Nothing is changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from thinpoolmgr.core.engine_base import shrinks
from thinpoolmgr.core.lifecycle import view_pool
from thinpoolmgr.core.matching import is_wanted, missing_disks
from thinpoolmgr.core.model import (
    Disk,
    DmDevice,
    Engine,
    Signature,
    Snapshot,
    VolumeGroup,
)
from thinpoolmgr.core.own_setup import setup_volumes, volume_device
from thinpoolmgr.errors import UnavailableError
from thinpoolmgr.host import block, dm, lvm
from thinpoolmgr.host.blkid import probe_signatures
from thinpoolmgr.host.disks import observe_disks, resolve_configured, with_node_path, with_node_paths
from thinpoolmgr.host.engines import OBSERVERS, read_base, read_graph
from thinpoolmgr.host.runner import CommandRunner

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredEngine, DesiredState

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TARGET = "thin-pool"


def require_thin_pool_target() -> None:
    """Make sure that the kernel can run thin pools; this loads its module where it is not loaded yet.

    Raises:
        UnavailableError: the kernel has no device-mapper, or no `thin-pool` target.

    """
    if not dm.has_target(_TARGET):
        summary = f"this kernel has no device-mapper target {_TARGET}"
        raise UnavailableError(summary, "", "Load its module (modprobe dm_thin_pool), or try thinpoolmgr lab run.")


def observe(
    desired: DesiredState,
    runner: CommandRunner,
    *,
    all_disks: bool = False,
    all_thin_devices: bool = True,
    with_names: bool = True,
) -> Snapshot:
    """Return the snapshot of this host, as far as `desired` has to do with it.

    Where a pool has selectors, all disks are in it, and those that no selector matches are not opened. With
    `all_disks` everything is found out about every disk. Without `all_thin_devices` those of engines, of which there
    may be thousands, are not examined. Without `with_names` images and containers are not looked for.

    Raises:
        UnavailableError: LVM is not installed, or the kernel has no device-mapper.

    """
    dm_devices = dm.list_dm_devices(users_of=None if all_thin_devices else dm_users_of)
    state = lvm.read_lvm(runner.run)
    configured = resolve_configured(desired)
    ours = {pool.group for pool in desired.pools}
    groups = tuple(with_node_paths(group) for group in state.groups)
    groups = tuple(_with_signatures(group, dm_devices) if group.name in ours else group for group in groups)
    orphans = tuple(with_node_path(pv) for pv in state.orphan_pvs)
    pv_paths = [pv.path for group in groups if group.name in ours for pv in group.pvs if not pv.missing]
    # A disk that was only named for an extension may be left with its label when that, or its removal, is cut short.
    pv_paths += [pv.path for pv in orphans if not pv.missing]
    named = [device.disk for device in configured if device.disk] + pv_paths
    usage = block.read_usage()
    disks = observe_disks([*named, *block.list_whole_disks()] if all_disks else named, usage)
    if not all_disks and any(pool.config.match for pool in desired.pools):
        disks = _with_wanted(disks, usage, desired, Snapshot(dm_devices=dm_devices))
    snapshot = Snapshot(
        configured_devices=configured,
        disks=disks,
        groups=groups,
        orphan_pvs=orphans,
        lvm_trouble=state.trouble,
        dm_devices=dm_devices,
        engines=_observe_engines(desired, runner),
        dev_names=_taken_names(ours - {group.name for group in groups}),
        boot_id=_BOOT_ID.read_text("ascii").strip(),
        lvm_profiles=lvm.read_profiles(),
    )
    return _with_holders(_with_what_is_in_pools(snapshot, desired, usage, with_names=with_names), desired)


def observe_devices(desired: DesiredState) -> Snapshot:
    """Return what there is of the disks that `desired` names or selects: quick, and none is opened.

    LVM is asked only where something is missing that may be, or stand in for, a spare disk that no pool needs.
    """
    configured = resolve_configured(desired)
    disks: tuple[Disk, ...] = ()
    if any(pool.config.match for pool in desired.pools):
        disks = observe_disks(list(block.list_whole_disks()), block.read_usage(), opening=False)
    snapshot = Snapshot(configured_devices=configured, disks=disks)
    has_spares = any(pool.config.spare_devices for pool in desired.pools)
    if not has_spares or not missing_disks(desired, snapshot):
        return snapshot
    groups = lvm.read_lvm(CommandRunner().run).groups
    return msgspec.structs.replace(snapshot, groups=tuple(with_node_paths(group) for group in groups))


def _with_what_is_in_pools(
    snapshot: Snapshot, desired: DesiredState, usage: block.Usage, *, with_names: bool
) -> Snapshot:
    """Add what the pools have where the engines' records have their base devices, and the names of what may be lost."""
    mounted = {mount.devno for mount in usage.mounts}
    engines = []
    for engine in desired.engines:
        found = snapshot.find_engine(engine.name)
        if found is not None and found.state is not None:
            pool = desired.find_pool(engine.config.pool)
            device = view_pool(pool, snapshot).device if pool else None
            is_asked = with_names and _is_asked_for_names(engine, found, desired, device)
            graph = read_graph(found) if is_asked else None
            base = read_base(found, device, snapshot, mounted)
            found = msgspec.structs.replace(found, base=base, graph=graph)
        engines += [found] if found else []
    return msgspec.structs.replace(snapshot, engines=tuple(engines))


def _is_asked_for_names(engine: DesiredEngine, found: Engine, desired: DesiredState, device: DmDevice | None) -> bool:
    """What names images and containers reads some files for each: where they are lost, or smaller than the base."""
    is_smaller = desired.names_smaller and found.state is not None and bool(found.state.smaller_devices)
    is_lost = bool(engine.config.pool) and device is None
    return desired.names_contents or is_smaller or is_lost or shrinks(engine, found)


def _with_holders(snapshot: Snapshot, desired: DesiredState) -> Snapshot:
    """Add who holds the open devices of the pool that is to be taken down: a look through all processes."""
    pool = desired.find_pool(desired.holders_of)
    if pool is None:
        return snapshot
    from thinpoolmgr.host.holders import find_holders  # noqa: PLC0415 - only a teardown asks

    view = view_pool(pool, snapshot)
    # The parts of a pool that runs are open by the pool itself.
    devices = view.thin_devices if view.device else view.inner
    opened = {device.devno: device.name for device in devices if device.open_count}
    return msgspec.structs.replace(snapshot, holders=find_holders(opened))


def dm_users_of(devno: str) -> tuple[str, ...]:
    """Return `MAJOR:MINOR` of the device-mapper devices that stand on the device-mapper device `devno`.

    Their kernel names hold their minor numbers (drivers/md/dm.c), so that no file of theirs is read.
    """
    try:
        names = os.listdir(f"/sys/dev/block/{devno}/holders")
    except OSError:
        # What is not known to stand on it is examined.
        return ()
    major, _, _ = devno.partition(":")
    return tuple(f"{major}:{name.removeprefix('dm-')}" for name in names if name.startswith("dm-"))


def _with_signatures(group: VolumeGroup, devices: tuple[DmDevice, ...]) -> VolumeGroup:
    """Look at what is on the volumes of `group` where those are all that a set-up of Docker's own may have left."""
    half_made = setup_volumes(group)
    if not half_made:
        return group
    seen = [(lv, volume_device(group, lv, devices) if lv in half_made else None) for lv in group.lvs]
    lvs = tuple(msgspec.structs.replace(lv, signatures=_signatures_of(device)) if device else lv for lv, device in seen)
    return msgspec.structs.replace(group, lvs=lvs)


def _signatures_of(device: DmDevice) -> tuple[Signature, ...] | None:
    # What is open is somebody's, whatever is on it; a read of a suspended device would wait for the resume.
    if device.suspended or device.open_count:
        return None
    path = f"/dev/mapper/{device.name}"
    try:
        return probe_signatures(path) if block.Roots().devno(path) == device.devno else None
    except OSError:
        return None


def _with_wanted(
    known: tuple[Disk, ...], usage: block.Usage, desired: DesiredState, maps: Snapshot
) -> tuple[Disk, ...]:
    """Add the other disks of the host, those that a selector may choose with all there is to know."""
    paths = [path for path in block.list_whole_disks() if path not in {disk.path for disk in known}]
    seen = observe_disks(paths, usage, opening=False)
    # Only what may be chosen is opened: an exclusive open, however short, could make somebody's mount fail.
    may_be = [disk.path for disk in seen if any(is_wanted(disk, pool, maps) for pool in desired.pools)]
    whole = {disk.path: disk for disk in observe_disks(may_be, usage)}
    return (*known, *(whole.get(disk.path, disk) for disk in seen))


def _observe_engines(desired: DesiredState, runner: CommandRunner) -> tuple[Engine, ...]:
    return tuple(OBSERVERS[engine.kind](engine, runner.run) for engine in desired.engines)


def _taken_names(groups: set[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in groups if os.path.lexists(f"/dev/{name}")))
