"""The reverse path: from a running pool down to blank disks, from the top of the holders' tree to its bottom.

Order: engine, thin devices, pool, logical volume, volume group, physical volumes; then the engine's state, which has
lost its pool. Nothing that is open is ever removed, and what we did not make is not touched.
"""

from __future__ import annotations

from msgspec.structs import replace

from thinpoolmgr.core.busy import refuse_busy, refuse_stopping
from thinpoolmgr.core.changes import mend
from thinpoolmgr.core.desired import DesiredPool, DesiredState
from thinpoolmgr.core.engine_config import check_files
from thinpoolmgr.core.engine_graph import say_contents
from thinpoolmgr.core.engine_plan import check_process, stop_engine
from thinpoolmgr.core.engine_state import check_obstacle, judge_state, move_aside, refuse_verdict
from thinpoolmgr.core.engines import ENGINES
from thinpoolmgr.core.fingerprint import fingerprint_of_host
from thinpoolmgr.core.guards import disk_ref, is_our_leftover
from thinpoolmgr.core.leftovers import find_leftovers, remove_leftovers, unexpected_lvs
from thinpoolmgr.core.lifecycle import PoolState, PoolView, view_pool
from thinpoolmgr.core.matching import is_unresolved, is_wanted, resolve_matches
from thinpoolmgr.core.model import Disk, DmDevice, Engine, PhysicalVolume, Snapshot, VolumeGroup
from thinpoolmgr.core.names import bare_uuid
from thinpoolmgr.core.plan import Memory, Plan, Refusal, numbered
from thinpoolmgr.core.planner import refuse_open_parts, refuse_state, remove_parts
from thinpoolmgr.core.profiles import remove_profile
from thinpoolmgr.core.steps import (
    CreateVolumeGroup,
    Danger,
    DeactivatePool,
    DiskRef,
    ExtendVolumeGroup,
    MoveStateAside,
    RemoveDmDevice,
    RemovePhysicalVolumes,
    RemoveThinPool,
    RemoveVolumeGroup,
    Step,
    StopEngine,
)

_NOT_TORN_DOWN = frozenset({PoolState.FOREIGN, PoolState.PARTIAL, PoolState.UNKNOWN})


def plan_deactivate(pool: DesiredPool, desired: DesiredState, snapshot: Snapshot, memory: Memory) -> Plan:
    """Return the plan that takes `pool` out of the kernel and leaves its data on the disks."""
    view = view_pool(pool, snapshot)
    steps, refusals = _release(view, desired, snapshot, memory, "outage")
    if view.state is PoolState.INACTIVE:
        busy = refuse_open_parts(view, snapshot.holders)
        refusals += [busy] if busy else []
        steps += remove_parts(view)
    elif not refusals and view.device is not None and view.state is not PoolState.LOST:
        steps.append(_deactivate(view, is_known=_engine_on(view, desired, snapshot) is not None))
    return Plan(
        () if refusals else numbered(steps), tuple(refusals), fingerprint=fingerprint_of_host(desired, snapshot, memory)
    )


def plan_destroy(
    pool: DesiredPool, desired: DesiredState, snapshot: Snapshot, memory: Memory, *, keep_devices: bool = False
) -> Plan:
    """Return the plan that removes `pool` with all that is in it, and makes its disks blank again."""
    view = view_pool(pool, snapshot)
    steps, refusals = _release(view, desired, snapshot, memory, "destroys")
    found = _engine_on(view, desired, snapshot)
    if not refusals:
        below_steps, below_refusals = _destroy_below(view, found, snapshot, memory, keep_devices=keep_devices)
        steps += below_steps
        refusals += below_refusals
    steps += [] if refusals else remove_profile(pool, snapshot, "its pool is gone")
    notes: list[str] = []
    if found is not None and not refusals:
        moves, notes, obstacles = _move_state(found, view, steps, memory)
        steps += moves
        refusals += obstacles
        if moves and (refusal := _refuse_state_in_doubt(found, view, desired, snapshot, memory)):
            refusals.append(refusal)
    return Plan(
        () if refusals else numbered(steps),
        tuple(refusals),
        tuple(notes),
        fingerprint=fingerprint_of_host(desired, snapshot, memory),
    )


def _release(
    view: PoolView, desired: DesiredState, snapshot: Snapshot, memory: Memory, danger: Danger
) -> tuple[list[Step], list[Refusal]]:
    """Everything above the pool, and the pool itself where only the kernel still knows it."""
    if view.state in _NOT_TORN_DOWN and (refusal := refuse_state(view)):
        return [], [refusal]
    if view.state is PoolState.LOST and (refusal := _refuse_unknown_owner(view, memory)):
        return [], [refusal]
    if refusal := _refuse_thin_volumes(view):
        return [], [refusal]
    # Whatever is asked of a suspended device waits for ever, LVM and the engine not least (measured, LVM 2.03.16).
    steps: list[Step] = mend(view) if any(part.suspended for part in view.inner) else []
    refusals: list[Refusal] = []
    found = _engine_on(view, desired, snapshot)
    stop = _stop(found, view)
    if isinstance(stop, Refusal):
        return [], [stop]
    steps += stop
    refusals += _refuse_open(view, found, snapshot, stopping=bool(stop))
    steps += [_remove(device, f"it is a thin device of {view.pool.path}", view) for device in view.thin_devices]
    if view.state is PoolState.LOST:
        reason = f"LVM does not know {view.pool.path} any more, so its devices are removed from the kernel one by one"
        steps += [_remove(device, reason, view, danger) for device in view.inner]
    return steps, refusals


def _refuse_thin_volumes(view: PoolView) -> Refusal | None:
    """LVM's own thin volumes in the pool: no engine made them, and their owner takes them down with LVM."""
    names = [lv.name for lv in view.group.lvs if lv.pool_lv == view.pool.lv] if view.group else []
    if not names:
        return None
    summary = f"{view.pool.path} carries LVM's thin volumes: {', '.join(names[:5])}"
    resolution = f"Move what is in them elsewhere, remove them (lvremove {view.pool.group}/NAME), and run this again."
    return Refusal("GROUP_HAS_OTHER_LVS", view.pool.group, summary, "No engine made them.", resolution)


def _refuse_unknown_owner(view: PoolView, memory: Memory) -> Refusal | None:
    ours = tuple(f"LVM-{bare_uuid(uuid)}" for uuid in memory.our_groups)
    strangers = [device for device in view.inner if not device.uuid.startswith(ours)] if ours else list(view.inner)
    if not strangers:
        return None
    summary = f"{view.pool.path} is lost, and nothing shows that thinpoolmgr made it"
    resolution = f"If it may go, remove its devices yourself: dmsetup remove {' '.join(d.name for d in view.inner)}"
    return Refusal("POOL_FOREIGN", view.pool.path, summary, view.because, resolution)


def _engine_on(view: PoolView, desired: DesiredState, snapshot: Snapshot) -> Engine | None:
    """Return the engine on this pool; one that the configuration does not name, when its own files or driver say so."""
    engine = desired.engine_of(view.pool.name)
    found = snapshot.find_engine(engine.name) if engine else None
    if engine is None or found is None or not engine.implied:
        return found
    try:
        named = ENGINES[found.kind].configured_pool_dm_name(found)
    except ValueError:
        named = ""
    may_be = not named and found.running is not False and found.driver in ("", "devicemapper")
    return found if named == view.dm_name or may_be else None


def _stop(found: Engine | None, view: PoolView) -> list[Step] | Refusal:
    if found is None or not _needs_stop(found, view):
        return []
    return check_process(found) or stop_engine(found, f"it uses the pool {view.pool.path}", view.pool.name)


def _needs_stop(found: Engine, view: PoolView) -> bool:
    if found.running is False:
        return found.service.systemd and found.service.active is not False
    return found.running is None or found.driver in ("", "devicemapper") or bool(view.thin_devices)


def _refuse_open(view: PoolView, found: Engine | None, snapshot: Snapshot, *, stopping: bool) -> list[Refusal]:
    """Open devices: while the engine is to be stopped first its own are expected, otherwise somebody else has them."""
    busy = [device for device in view.thin_devices if device.open_count or not device.is_examined]
    if not busy:
        return []
    if stopping and found is not None:
        refusal = refuse_stopping(busy, snapshot.holders, found, view.pool.path)
    else:
        refusal = refuse_busy(busy, snapshot.holders, found, view.pool.path)
    return [refusal] if refusal else []


def _remove(device: DmDevice, reason: str, view: PoolView, danger: Danger = "safe") -> RemoveDmDevice:
    return RemoveDmDevice(
        reason=reason, danger=danger, pool=view.pool.name, name=device.name, uuid=device.uuid, devno=device.devno
    )


def _destroy_below(
    view: PoolView, found: Engine | None, snapshot: Snapshot, memory: Memory, *, keep_devices: bool
) -> tuple[list[Step], list[Refusal]]:
    pool, group = view.pool, view.group
    if group is None:
        labels, hidden = _remove_labels(view, snapshot, memory, keep_devices=keep_devices)
        return [*labels], hidden
    leftovers = find_leftovers(group, pool, memory)
    refusals = unexpected_lvs(group, pool, leftovers)
    if refusals:
        return [], refusals
    steps: list[Step] = [replace(step, danger="destroys") for step in remove_leftovers(leftovers, group, pool)]
    if view.lv is not None and view.lv.is_thin_pool:
        steps += _remove_pool(view, view.lv.uuid, found)
    reason = f"the volume group carries nothing but {pool.path}"
    steps.append(
        RemoveVolumeGroup(reason=reason, danger="destroys", pool=pool.name, group=group.name, group_uuid=group.uuid)
    )
    if not keep_devices:
        steps.append(_remove_pvs(group, pool, snapshot, _left_labels(pool, snapshot, memory)))
    return steps, []


def _deactivate(view: PoolView, *, is_known: bool) -> DeactivatePool:
    """A pool that was used, by nobody knows whom, is somebody's outage."""
    pool, status = view.pool, view.status
    used = bool(view.thin_devices) or (status is not None and status.transaction_id > 0)
    reason = f"{pool.path} is active"
    if used and not is_known:
        reason += ", it has been used, and no [engines.*] of the configuration says by whom"
    danger: Danger = "outage" if used and not is_known else "safe"
    return DeactivatePool(reason=reason, danger=danger, pool=pool.name, group=pool.group, lv=pool.lv)


def _remove_pool(view: PoolView, lv_uuid: str, found: Engine | None) -> list[Step]:
    pool = view.pool
    contents = say_contents(found.graph, found.name) if found is not None else "all that is in it"
    remove = RemoveThinPool(
        reason=f"{pool.path} is to be destroyed, and with it {contents}",
        danger="destroys",
        pool=pool.name,
        group=pool.group,
        lv=pool.lv,
        lv_uuid=lv_uuid,
    )
    if view.device is None:
        return [remove]
    return [DeactivatePool(reason=f"{pool.path} is active", pool=pool.name, group=pool.group, lv=pool.lv), remove]


def _remove_pvs(
    group: VolumeGroup, pool: DesiredPool, snapshot: Snapshot, left: list[tuple[PhysicalVolume, Disk]]
) -> RemovePhysicalVolumes:
    return RemovePhysicalVolumes(
        reason="so that the disks are blank again and can be used for something else",
        danger="destroys",
        pool=pool.name,
        disks=(*(_pv_ref(pv, snapshot) for pv in group.pvs), *(disk_ref(disk) for _, disk in left)),
        pv_uuids=(*(pv.uuid for pv in group.pvs), *(pv.uuid for pv, _ in left)),
    )


def _pv_ref(pv: PhysicalVolume, snapshot: Snapshot) -> DiskRef:
    disk = snapshot.find_disk(pv.path)
    return disk_ref(disk) if disk else DiskRef(pv.path, "", pv.size_bytes)


def _remove_labels(
    view: PoolView, snapshot: Snapshot, memory: Memory, *, keep_devices: bool
) -> tuple[list[RemovePhysicalVolumes], list[Refusal]]:
    """No group any more: labels that an interrupted run of ours left, and no others."""
    pool = view.pool
    disks = _disks_of(pool, snapshot)
    unreadable = [disk for disk in disks if disk.signatures is None]
    if view.state is PoolState.LOST and unreadable:
        path = unreadable[0].path
        resolution = f"Bring {path} back, or only take the pool out of the kernel: thinpoolmgr deactivate {pool.name}"
        details = unreadable[0].probe_error
        return [], [
            Refusal("DISK_UNKNOWN", path, f"{path} cannot be read, so it cannot be made blank", details, resolution)
        ]
    ours = _left_labels(pool, snapshot, memory)
    if not keep_devices and (refusal := _refuse_hidden_label(pool, snapshot, memory)):
        return [], [refusal]
    return ([] if keep_devices else _erase(ours, pool)), []


def remove_left_labels(
    pool: DesiredPool, steps: tuple[Step, ...], snapshot: Snapshot, memory: Memory
) -> list[RemovePhysicalVolumes]:
    """Return the step that removes labels which interrupted runs for `pool` left on disks that `steps` do not use."""
    added = [step for step in steps if isinstance(step, CreateVolumeGroup | ExtendVolumeGroup)]
    used = {ref.path for step in added for ref in step.disks}
    return _erase([(pv, disk) for pv, disk in _left_labels(pool, snapshot, memory) if disk.path not in used], pool)


def _erase(labels: list[tuple[PhysicalVolume, Disk]], pool: DesiredPool) -> list[RemovePhysicalVolumes]:
    if not labels:
        return []
    reason = "an interrupted run left their labels"
    refs, uuids = tuple(disk_ref(disk) for _, disk in labels), tuple(pv.uuid for pv, _ in labels)
    return [RemovePhysicalVolumes(reason=reason, danger="destroys", pool=pool.name, disks=refs, pv_uuids=uuids)]


def _disks_of(pool: DesiredPool, snapshot: Snapshot) -> list[Disk]:
    """The disks that are named, or all that the selectors match by now."""
    if is_unresolved(pool):
        return [disk for disk in snapshot.disks if is_wanted(disk, pool, snapshot)]
    return [disk for path in pool.config.devices if (disk := snapshot.find_disk(path))]


def _refuse_hidden_label(pool: DesiredPool, snapshot: Snapshot, memory: Memory) -> Refusal | None:
    """A disk that is away when labels are removed would come back with its own, and nobody would know whose it is."""
    begun = [s for s in memory.interrupted if isinstance(s, CreateVolumeGroup | ExtendVolumeGroup)]
    removals = [s for s in (*memory.interrupted, *memory.pending) if isinstance(s, RemovePhysicalVolumes)]
    away = [d for d in snapshot.configured_devices if d.configured_path in pool.config.devices and d.problem]
    if not away or all(step.pool != pool.name for step in (*begun, *removals)):
        return None
    path = away[0].configured_path
    summary = f"{path} is {away[0].problem}, and LVM's label may still be on it"
    resolution = f"Attach it, and run this again; or take it out of pools.{pool.name}.devices, if it is gone for good."
    return Refusal("DISK_MISSING", path, summary, "A run was interrupted while its disks had labels.", resolution)


def _left_labels(pool: DesiredPool, snapshot: Snapshot, memory: Memory) -> list[tuple[PhysicalVolume, Disk]]:
    """Labels that interrupted runs for `pool` left, also on disks that only an extension has named."""

    def for_it(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        return tuple(step for step in steps if step.pool == pool.name)

    ours = replace(memory, interrupted=for_it(memory.interrupted), pending=for_it(memory.pending))
    found = [(pv, snapshot.find_disk(pv.path)) for pv in snapshot.orphan_pvs]
    return [(pv, disk) for pv, disk in found if disk is not None and is_our_leftover(pv, disk, ours)]


def _refuse_state_in_doubt(
    found: Engine, view: PoolView, desired: DesiredState, snapshot: Snapshot, memory: Memory
) -> Refusal | None:
    """A pool that is not seen was removed by the run that goes on, or must be gone for sure."""
    moves = [step for step in (*memory.interrupted, *memory.pending) if isinstance(step, MoveStateAside)]
    if view.state is not PoolState.ABSENT or view.pool.name in {step.pool for step in moves}:
        return None
    resolved, _ = resolve_matches(desired, snapshot)
    pool = resolved.find_pool(view.pool.name) or view.pool
    verdict = judge_state(found, view_pool(pool, snapshot), snapshot)
    return refuse_verdict(found, verdict, pool) if verdict is not None and verdict.kind == "unknown" else None


def _move_state(
    found: Engine, view: PoolView, steps: list[Step], memory: Memory
) -> tuple[list[MoveStateAside], list[str], list[Refusal]]:
    """The engine's state goes with its pool, but only a state that is known to be this pool's."""
    state = found.state
    stays_running = found.running is not False and not any(isinstance(step, StopEngine) for step in steps)
    if state is None or state.loop_files or stays_running:
        return [], ([f"{found.name}: {found.state_problem}"] if found.state_problem else []), []
    if refusal := check_files(found):
        return [], [], [refusal]
    if ENGINES[found.kind].configured_pool_dm_name(found) not in ("", view.dm_name):
        return [], [], []
    # The mounts of running containers end with the engine; what is mounted after that is seen when it is moved.
    is_stopped_first = any(isinstance(step, StopEngine) for step in steps)
    if not is_stopped_first and (obstacle := check_obstacle(state)):
        return [], [], [obstacle]
    reason = f"it describes the images and containers in {view.pool.path}, which is gone"
    return [move_aside(found, state, reason, view.pool.name, memory, with_containers=True)], [], []
