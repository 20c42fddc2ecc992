"""The facts that a plan relies on, and a hash of them: what changes besides does not make a plan stale.

Left out are use, open counts, transaction ids, LVM's sequence numbers, names and links of disks that mean the same
disk, and every disk, group and device that the configuration has nothing to do with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from thinpoolmgr.core.engine_plan import is_touched
from thinpoolmgr.core.engine_state import judge_state
from thinpoolmgr.core.lifecycle import PoolState, PoolView, view_pool
from thinpoolmgr.core.matching import is_unresolved, is_wanted
from thinpoolmgr.core.names import OUR_TAG
from thinpoolmgr.core.plan import fingerprint_of
from thinpoolmgr.core.profiles import profile_name, wants_profile

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredState
    from thinpoolmgr.core.model import Disk, DmDevice, Engine, Snapshot, VolumeGroup
    from thinpoolmgr.core.plan import Memory

Facts = tuple[object, ...]
_IN_USE = (PoolState.HEALTHY, PoolState.TIGHT)


def fingerprint_of_host(desired: DesiredState, snapshot: Snapshot, memory: Memory) -> str:
    """Return the hash of the facts that plans for `desired` rely on."""
    pools = [_pool(view_pool(pool, snapshot), snapshot, memory) for pool in desired.pools]
    looked_for = {engine.name for engine in desired.engines if not engine.config.pool}
    relied_on = [e for e in snapshot.engines if e.name not in looked_for or is_touched(e, memory)]
    engines = [_engine(engine, desired, snapshot, memory) for engine in relied_on]
    journal = (memory.interrupted, memory.pending, memory.stopped_engines)
    return fingerprint_of(desired, pools, engines, journal)


def _pool(view: PoolView, snapshot: Snapshot, memory: Memory) -> Facts:
    pool, group = view.pool, view.group
    paths = (*pool.config.devices, *pool.config.spare_devices)
    configured = [device for device in snapshot.configured_devices if device.configured_path in paths]
    members = {pv.path for pv in group.pvs} if group else set()
    named = {device.disk for device in configured} | members
    named |= {disk.path for path in paths if (disk := snapshot.find_disk(path))}
    if is_unresolved(pool):
        named |= {disk.path for disk in snapshot.disks if is_wanted(disk, pool, snapshot)}
    disks = [_disk(disk, snapshot, is_member=disk.path in members) for disk in snapshot.disks if disk.path in named]
    state = PoolState.HEALTHY if view.state in _IN_USE else view.state
    status = view.status
    sizes = (status.total_data_blocks, status.total_metadata_blocks) if status else None
    kernel = (sizes, status.when_full, status.mode, status.needs_check) if status else None
    # Who watches a pool that is not dmeventd's to extend comes and goes with each command of LVM's.
    is_watched = view.lv is not None and wants_profile(pool) and view.lv.monitored
    return (
        pool.name,
        state,
        configured,
        sorted(disks, key=str),
        _group(group, memory) if group else (snapshot.lvm_trouble, pool.group in snapshot.dev_names),
        [_part(part, is_stray=view.device is None) for part in view.inner],
        kernel,
        is_watched,
        snapshot.find_profile(profile_name(pool)),
        [made for made in memory.made if view.lv is not None and made.lv_uuid == view.lv.uuid],
    )


def _part(part: DmDevice, *, is_stray: bool) -> Facts:
    """A part that was left over can only be cleared away while nobody has it open."""
    is_busy = is_stray and part.open_count > 0
    return (part.name, part.uuid, part.devno, part.targets, part.table, part.suspended, part.size_bytes, is_busy)


def _disk(disk: Disk, snapshot: Snapshot, *, is_member: bool) -> Facts:
    """Of a disk that carries the pool only which it is; of one that is to, all that forbids it."""
    identity = (disk.path, disk.devno, disk.size_bytes, disk.diskseq, disk.serial)
    if is_member:
        return identity
    parts = {disk.path, *disk.partitions}
    owners = [group.name for group in snapshot.groups if any(pv.path in parts for pv in group.pvs)]
    orphans = [(pv.uuid, pv.duplicate) for pv in snapshot.orphan_pvs if pv.path in parts]
    layers = [device.uuid for device in snapshot.dm_devices if device.devno == disk.devno]
    use = (disk.holders, disk.mounts, disk.swap, disk.opened_exclusively, disk.read_only, disk.partitions)
    contents = (disk.signatures, disk.labelled_partitions, disk.sector_bytes, disk.optimal_io_bytes)
    return (*identity, use, contents, owners, orphans, layers)


def _group(group: VolumeGroup, memory: Memory) -> Facts:
    lvs = [
        (
            (lv.name, lv.uuid, lv.segment_type, lv.size_bytes, lv.tags, lv.pool_lv, lv.profile),
            (lv.chunk_bytes, lv.discards, lv.zero, lv.when_full, lv.metadata_bytes),
            *([lv.signatures] if lv.signatures is not None else []),
        )
        for lv in group.lvs
    ]
    pvs = [(pv.path, pv.uuid, pv.size_bytes, pv.missing, pv.duplicate, pv.is_allocatable) for pv in group.pvs]
    sizes = (group.extent_bytes, group.extent_count, group.free_extents)
    is_known = OUR_TAG in group.tags or group.uuid in memory.our_groups
    return (group.uuid, group.attr, group.tags, group.system_id, sizes, pvs, sorted(lvs, key=str), is_known)


def _engine(found: Engine, desired: DesiredState, snapshot: Snapshot, memory: Memory) -> Facts:
    wanted = next((engine for engine in desired.engines if engine.name == found.name), None)
    pool = desired.find_pool(wanted.config.pool) if wanted else None
    verdict = None
    if pool is not None and not found.config_problem:
        verdict = judge_state(found, view_pool(pool, snapshot), snapshot, memory)
    state = found.state
    on_disk = (state.path, state.related, state.obstacle, state.base_size_bytes) if state else None
    # Of state that is to be moved aside every word counts: the folder it goes to is named after it.
    whole = state if verdict is not None and verdict.kind == "stale" else None
    # Whether it is active, and open, comes and goes.
    base = replace(found.base, dm_name="", is_open=False) if found.base else None
    unit = found.service
    service = (unit.systemd, unit.unit, unit.sockets, unit.active, unit.needs_reload)
    return (
        (found.name, found.installed, found.version, found.running, found.driver, service),
        (found.config_path, found.config_text, found.config_unwritable, found.config_problem),
        (found.files, found.command),
        (verdict.kind if verdict else "", on_disk, whole, found.state_problem, found.set_aside, base),
    )
