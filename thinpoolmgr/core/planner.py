"""From a snapshot and the desired state to a plan: which steps lead there, and why.

Reads only; the same snapshot gives the same plan. Every disk and all of the configuration is judged before the
first step is planned: one refusal anywhere, and nothing is carried out.
"""

from __future__ import annotations

from thinpoolmgr.core.desired import DesiredPool, DesiredState, unstable_name_warning, unstable_names
from thinpoolmgr.core.drift import check_drift
from thinpoolmgr.core.engine_plan import plan_engine, plan_engine_start
from thinpoolmgr.core.guards import check_disk, check_paths, describe_contents, foreign_signatures
from thinpoolmgr.core.leftovers import find_leftovers, unexpected_lvs
from thinpoolmgr.core.lifecycle import PoolState, PoolView, view_pool
from thinpoolmgr.core.matching import is_unresolved, is_wanted, resolve_matches
from thinpoolmgr.core.model import Disk, Snapshot
from thinpoolmgr.core.plan import Memory, Plan, Refusal, fingerprint_of, numbered
from thinpoolmgr.core.sizing import DEFAULT_EXTENT_BYTES, DoesNotFitError, PoolSizes, extents_on, pool_sizes
from thinpoolmgr.core.steps import (
    ActivatePool,
    CreateThinPool,
    CreateVolumeGroup,
    DiskRef,
    RemoveDmDevice,
    RemoveLeftover,
    SetWhenFull,
    Step,
    WipeSignatures,
)
from thinpoolmgr.units import format_size


def plan_apply(desired: DesiredState, snapshot: Snapshot, memory: Memory) -> Plan:
    """Return the plan that makes the host as `desired`; empty when it is so already."""
    desired, unmatched = resolve_matches(desired, snapshot)
    refusals = [*unmatched, *check_paths(desired, snapshot)]
    steps: list[Step] = []
    notes: list[str] = []
    warnings: list[str] = []
    for pool in desired.pools:
        named = (*pool.config.devices, *pool.config.spare_devices)
        if is_unresolved(pool) or any(refusal.target in named for refusal in refusals):
            continue  # which disks are meant is not clear, so nothing can be said about them
        view = view_pool(pool, snapshot)
        pool_steps, pool_refusals = _plan_pool(view, snapshot, memory)
        steps += pool_steps
        warnings += _warn_of_names(view, snapshot) if pool_steps else []
        warnings += [f"{pool.path} is {view.state}: {view.because}."] if view.state in _WORTH_A_WARNING else []
        refusals += _without_repeats(pool_refusals, refusals)
        engine = desired.engine_of(pool.name)
        if engine is not None:
            engine_plan = plan_engine(engine, view, snapshot, memory)
            steps += engine_plan.steps
            refusals += engine_plan.refusals
            notes += engine_plan.notes
    return Plan(numbered(steps), tuple(refusals), tuple(notes), tuple(warnings), fingerprint_of_host(desired, snapshot))


def plan_activate(pool: DesiredPool, desired: DesiredState, snapshot: Snapshot, memory: Memory) -> Plan:
    """Return the plan that makes `pool` active, and starts the engine again that we stopped for it."""
    view = view_pool(pool, snapshot)
    if view.state is PoolState.ABSENT:
        refusal = Refusal(
            "POOL_ABSENT", pool.path, f"{pool.path} does not exist", view.because, "thinpoolmgr apply makes it."
        )
        return Plan(refusals=(refusal,), fingerprint=fingerprint_of_host(desired, snapshot))
    steps, refusals = _activate(view)
    engine = desired.engine_of(pool.name)
    notes: tuple[str, ...] = ()
    if engine is not None and not refusals:
        engine_plan = plan_engine_start(engine, snapshot, memory, pool.name)
        steps += engine_plan.steps
        notes = engine_plan.notes
    return Plan(numbered(steps), tuple(refusals), notes, fingerprint=fingerprint_of_host(desired, snapshot))


def fingerprint_of_host(desired: DesiredState, snapshot: Snapshot) -> str:
    """Return a hash of the facts that plans rely on; use and open counts change all the time and are left out."""
    engines = [(e.name, e.version, e.running, e.config_text, e.state, e.service) for e in snapshot.engines]
    devices = [(d.name, d.uuid, d.targets, d.table) for d in snapshot.dm_devices]
    disks = disks_that_matter(desired, snapshot)
    return fingerprint_of(
        desired, snapshot.configured_devices, disks, snapshot.groups, snapshot.orphan_pvs, devices, engines
    )


def disks_that_matter(desired: DesiredState, snapshot: Snapshot) -> tuple[Disk, ...]:
    """Return the disks of `snapshot` that plans rely on: what the others are used for may change meanwhile."""
    if not any(pool.config.match for pool in desired.pools):
        return snapshot.disks
    named = [path for pool in desired.pools for path in (*pool.config.devices, *pool.config.spare_devices)]
    paths = {disk.path for path in named if (disk := snapshot.find_disk(path))}
    paths |= {pv.path for pool in desired.pools if (group := snapshot.find_group(pool.group)) for pv in group.pvs}
    open_pools = [pool for pool in desired.pools if is_unresolved(pool)]
    wanted = (disk.path for disk in snapshot.disks if any(is_wanted(disk, pool, snapshot) for pool in open_pools))
    paths |= set(wanted)
    return tuple(disk for disk in snapshot.disks if disk.path in paths)


def _without_repeats(new: list[Refusal], known: list[Refusal]) -> list[Refusal]:
    targets = {(refusal.code, refusal.target) for refusal in known}
    return [refusal for refusal in new if (refusal.code, refusal.target) not in targets]


def _plan_pool(view: PoolView, snapshot: Snapshot, memory: Memory) -> tuple[list[Step], list[Refusal]]:
    if view.state is PoolState.ABSENT and view.group is None:
        return _plan_new_group(view, snapshot, memory)
    if view.state is PoolState.ABSENT:
        return _plan_new_pool(view, memory)
    return _plan_existing(view, snapshot)


def _plan_new_group(view: PoolView, snapshot: Snapshot, memory: Memory) -> tuple[list[Step], list[Refusal]]:
    pool = view.pool
    disks = [disk for path in pool.config.devices if (disk := snapshot.find_disk(path))]
    refusals = [refusal for disk in disks for refusal in check_disk(disk, pool, snapshot, memory)]
    if len(disks) < len(pool.config.devices):
        return [], refusals  # check_paths has named the ones that are not there
    if len({disk.sector_bytes for disk in disks}) > 1:
        listed = ", ".join(f"{disk.path} {disk.sector_bytes}" for disk in disks)
        details = f"Bytes a sector: {listed}. A file system made on one kind may not be readable from the other."
        resolution = f"Give pools.{pool.name} disks of one kind, and make another pool of the others."
        refusals.append(
            Refusal("SECTOR_SIZES_DIFFER", pool.path, "the disks have different sector sizes", details, resolution)
        )
    if pool.group in snapshot.dev_names:
        summary = f"/dev/{pool.group} exists and is no volume group of LVM's"
        resolution = f"Choose another name: pools.{pool.name}.volume_group."
        refusals.append(
            Refusal("NAME_TAKEN", pool.group, summary, "LVM would need this name for a directory.", resolution)
        )
    total = sum(extents_on(disk) for disk in disks)
    sizes = _fit(pool, total, total, DEFAULT_EXTENT_BYTES, refusals)
    if refusals or sizes is None:
        return [], refusals
    wipes = _wipes(disks, pool, snapshot, memory)
    steps: list[Step] = [*wipes, _create_group(pool, disks, wiped=bool(wipes)), _create_pool(pool, sizes)]
    return [*steps, *_when_full(pool, "queue")], []


def _warn_of_names(view: PoolView, snapshot: Snapshot) -> list[str]:
    """Later LVM knows its disks by uuid; it is now that a name must mean the right one."""
    if view.group is not None:
        return []
    found = [(path, snapshot.find_disk(path)) for path in unstable_names(view.pool)]
    return [unstable_name_warning(path, disk.links) for path, disk in found if disk]


def _fit(pool: DesiredPool, total: int, free: int, extent_bytes: int, refusals: list[Refusal]) -> PoolSizes | None:
    try:
        return pool_sizes(pool, total, free, extent_bytes)
    except DoesNotFitError as error:
        resolution = f"Choose smaller sizes (pools.{pool.name}.data_size, metadata_size) or larger disks."
        refusals.append(
            Refusal("DOES_NOT_FIT", pool.path, f"{pool.path} does not fit on its disks", str(error), resolution)
        )
        return None


def _wipes(disks: list[Disk], pool: DesiredPool, snapshot: Snapshot, memory: Memory) -> list[WipeSignatures]:
    steps = []
    for disk in disks:
        foreign = foreign_signatures(disk, snapshot, memory)
        if foreign:
            reason = f"the disk carries {describe_contents(disk, foreign)}; wipe_signatures allows to erase it"
            found = tuple(signature.type for signature in foreign)
            steps.append(
                WipeSignatures(reason=reason, danger="destroys", pool=pool.name, disk=disk_ref(disk), found=found)
            )
    return steps


def disk_ref(disk: Disk) -> DiskRef:
    """Return `disk` as a step refers to it."""
    return DiskRef(disk.path, disk.devno, disk.size_bytes, disk.serial, disk.diskseq)


def _create_group(pool: DesiredPool, disks: list[Disk], *, wiped: bool) -> CreateVolumeGroup:
    sizes = ", ".join(f"{disk.path} ({format_size(disk.size_bytes)})" for disk in disks)
    verb, condition = (
        "is" if len(disks) == 1 else "are",
        "unused, and blank after the wipe" if wiped else "blank and unused",
    )
    selectors = "; ".join(dict.fromkeys(pool.chosen_by))
    chosen = f"; chosen by {selectors}" if selectors else ""
    reason = f"there is no volume group {pool.group}; {sizes} {verb} {condition}{chosen}"
    return CreateVolumeGroup(
        reason=reason, pool=pool.name, group=pool.group, disks=tuple(disk_ref(disk) for disk in disks)
    )


def _create_pool(pool: DesiredPool, sizes: PoolSizes) -> CreateThinPool:
    data = f"data {format_size(sizes.data_bytes)} ({pool.config.data_size}), chunk {format_size(pool.chunk_bytes)}"
    return CreateThinPool(
        reason=f"there is no thin pool {pool.path}; {data}, {sizes.reasoning}",
        pool=pool.name,
        group=pool.group,
        lv=pool.lv,
        data_extents=sizes.data_extents,
        extent_bytes=sizes.extent_bytes,
        metadata_bytes=sizes.metadata_bytes,
        chunk_bytes=pool.chunk_bytes,
        zero_new_blocks=pool.config.zero_new_blocks,
        discards=pool.config.discards,
        monitored_by_dmeventd=pool.config.extend.monitor == "dmeventd",
    )


def _when_full(pool: DesiredPool, present: str) -> list[SetWhenFull]:
    wanted = pool.config.when_full
    if present == wanted:
        return []
    reason = f"a full pool would {present} writes; when_full asks for {wanted!r}"
    return [SetWhenFull(reason=reason, pool=pool.name, group=pool.group, lv=pool.lv, when_full=wanted)]


def _plan_new_pool(view: PoolView, memory: Memory) -> tuple[list[Step], list[Refusal]]:
    """A group of ours without its pool: made by a run that was interrupted, or the pool was removed by hand."""
    pool, group = view.pool, view.group
    if group is None:  # pragma: no cover - the caller has looked
        return [], []
    leftovers = find_leftovers(group, pool, memory)
    refusals = unexpected_lvs(group, pool, leftovers)
    freed = sum(lv.size_bytes for lv in leftovers) // group.extent_bytes
    spare = next((lv for lv in group.lvs if lv.name.endswith("_pmspare")), None)
    free = group.free_extents + freed + (spare.size_bytes // group.extent_bytes if spare else 0)
    sizes = None if refusals else _fit(pool, group.extent_count, free, group.extent_bytes, refusals)
    if refusals or sizes is None:
        return [], refusals
    removals = [
        RemoveLeftover(
            reason=f"an interrupted run left it half-made ({lv.segment_type}, {format_size(lv.size_bytes)})",
            pool=pool.name,
            group=group.name,
            lv=lv.name,
            lv_uuid=lv.uuid,
        )
        for lv in leftovers
    ]
    return [*removals, _create_pool(pool, sizes), *_when_full(pool, "queue")], []


def _plan_existing(view: PoolView, snapshot: Snapshot) -> tuple[list[Step], list[Refusal]]:
    steps, refusals = _activate(view)
    refusals = refusals or check_drift(view, snapshot)
    return ([], refusals) if refusals else ([*steps, *_correct_when_full(view)], [])


def _activate(view: PoolView) -> tuple[list[Step], list[Refusal]]:
    """Bring the pool up as it is; how it differs from its configuration does not matter for that."""
    pool, refusal = view.pool, refuse_state(view)
    if refusal is None and view.state is PoolState.INACTIVE:
        refusal = refuse_open_parts(view)
    if refusal is not None:
        return [], [refusal]
    if view.state is not PoolState.INACTIVE:
        return [], []
    activate = ActivatePool(reason=view.because, pool=pool.name, group=pool.group, lv=pool.lv)
    return [*remove_parts(view), activate], []


def _correct_when_full(view: PoolView) -> list[SetWhenFull]:
    """Compare with LVM's word and the kernel's; a full pool's own answer is the time-out's, not a setting."""
    by_lvm = view.lv.when_full if view.lv else ""
    status = view.status if view.state in {PoolState.HEALTHY, PoolState.TIGHT} else None
    by_kernel = status.when_full if status else by_lvm
    steps = _when_full(view.pool, by_lvm) if by_lvm in {"queue", "error"} else []
    if not steps and by_kernel in {"queue", "error"} and by_kernel != by_lvm:
        reason = f"the kernel would {by_kernel} writes of a full pool, and LVM says {by_lvm}"
        pool = view.pool
        steps = [
            SetWhenFull(
                reason=reason,
                pool=pool.name,
                group=pool.group,
                lv=pool.lv,
                when_full=pool.config.when_full,
                refresh=True,
            )
        ]
    return steps


def refuse_open_parts(view: PoolView) -> Refusal | None:
    """Return why what an interrupted activation left cannot be cleared away: somebody has it open."""
    busy = next((device for device in view.inner if device.open_count and device.targets != ("thin-pool",)), None)
    if busy is None or view.device is not None:
        return None
    resolution = f"Find who has it (lsof /dev/mapper/{busy.name}; dmsetup ls --tree), close it, and run this again."
    return Refusal(
        "DEVICE_OPEN", busy.name, f"{busy.name}, a part of {view.pool.path}, is open", view.because, resolution
    )


def remove_parts(view: PoolView) -> list[RemoveDmDevice]:
    """Return the steps that clear away what an interrupted activation or deactivation of the pool left."""
    if view.device is not None:
        return []
    reason = f"{view.pool.path} is not active, and this part of it is"
    return [
        RemoveDmDevice(reason=reason, pool=view.pool.name, name=part.name, uuid=part.uuid, devno=part.devno)
        for part in view.inner
    ]


_WORTH_A_WARNING = frozenset({PoolState.TIGHT, PoolState.OUT_OF_DATA})
_SICK = "The kernel keeps the pool from being written until that is settled; what is in it can be read."
_WAYS_OUT = {
    PoolState.FOREIGN: (
        "POOL_FOREIGN",
        "thinpoolmgr did not make it and leaves it alone.",
        "Choose another volume_group. Taking over what was made by hand (adopt) is not in this version.",
    ),
    PoolState.PARTIAL: (
        "POOL_PARTIAL",
        "Nothing is changed while a disk is missing: it may come back with the old pool on it.",
        "Bring the disk back (vgs -o +vg_missing_pv_count; pvs), then run this again.",
    ),
    PoolState.UNKNOWN: (
        "STATE_UNKNOWN",
        "What cannot be seen may still be there, so nothing is created.",
        "Mend what LVM complains about (pvs; dmesg), then run this again.",
    ),
    PoolState.LOST: (
        "POOL_LOST",
        "The kernel still runs the pool, and LVM has lost its description of it.",
        "Save what is in it while it runs; then bring its label back (vgcfgrestore), or let go: thinpoolmgr destroy.",
    ),
    PoolState.FAILED: (
        "POOL_FAILED",
        "The kernel gave up on the pool; nothing is written to it.",
        "Look at dmesg for the first error; deactivate the pool and check its metadata (thin_check) first.",
    ),
    PoolState.NEEDS_CHECK: (
        "POOL_NEEDS_CHECK",
        _SICK,
        "Deactivate it, thin_check its metadata, lvconvert --repair if need be, and activate it with "  # noqa: ISC004
        "--clear-needs-check-flag among LVM's thin_check_options.",
    ),
    PoolState.OUT_OF_METADATA: (
        "POOL_OUT_OF_METADATA",
        _SICK,
        "Enlarge its metadata: lvextend --poolmetadatasize.",
    ),
    PoolState.READ_ONLY: (
        "POOL_READ_ONLY",
        _SICK,
        "Look at dmesg for the reason; deactivate it, thin_check it.",
    ),
}


def refuse_state(view: PoolView) -> Refusal | None:
    """Return why a pool in this state is not touched; None when it may be."""
    if view.state not in _WAYS_OUT:
        return None
    code, details, resolution = _WAYS_OUT[view.state]
    return Refusal(code, view.pool.path, f"{view.pool.path} is {view.state}: {view.because}", details, resolution)
