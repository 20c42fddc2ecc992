"""From a snapshot and the desired state to a plan: which steps lead there, and why.

Reads only; the same snapshot gives the same plan. Every disk and all of the configuration is judged before the
first step is planned: one refusal anywhere, and nothing is carried out.
"""

from __future__ import annotations

from msgspec.structs import replace

from thinpoolmgr.core.busy import refuse_open
from thinpoolmgr.core.changes import (
    add_disks,
    discards_while_inactive,
    disks_to_add,
    mend,
    plan_changes,
    when_full,
    without_repeats,
)
from thinpoolmgr.core.desired import DesiredPool, DesiredState, unstable_name_warning, unstable_names
from thinpoolmgr.core.engine_plan import plan_engine, plan_engine_start, plan_implied_engine
from thinpoolmgr.core.fingerprint import fingerprint_of_host
from thinpoolmgr.core.guards import (
    check_disk,
    check_paths,
    check_sector_sizes,
    disk_ref,
    plan_wipes,
    refuse_spares,
    warn_of_spares,
)
from thinpoolmgr.core.holders import Holders
from thinpoolmgr.core.leftovers import find_leftovers, remove_leftovers, unexpected_lvs
from thinpoolmgr.core.lifecycle import PoolState, PoolView, view_pool
from thinpoolmgr.core.matching import is_unresolved, resolve_matches
from thinpoolmgr.core.model import Disk, Snapshot, VolumeGroup
from thinpoolmgr.core.names import OUR_TAG
from thinpoolmgr.core.own_setup import refuse_volumes, remove_volumes, volumes_to_go
from thinpoolmgr.core.plan import Memory, Plan, Refusal, numbered
from thinpoolmgr.core.profiles import profile_name, remove_profile, wants_profile, write_profile
from thinpoolmgr.core.sizing import DEFAULT_EXTENT_BYTES, DoesNotFitError, PoolSizes, extents_on, pool_sizes
from thinpoolmgr.core.steps import (
    ActivatePool,
    CreateThinPool,
    CreateVolumeGroup,
    ExtendVolumeGroup,
    RemoveDmDevice,
    StartEngine,
    Step,
    TagPool,
)
from thinpoolmgr.units import format_size


def plan_apply(desired: DesiredState, snapshot: Snapshot, memory: Memory, only: str = "") -> Plan:
    """Return the plan that makes the host as `desired`; empty when it is so already.

    With `only`, the name of a pool, just that pool and its engine; the trouble of other pools is no obstacle to it.
    """
    desired, unmatched = resolve_matches(desired, snapshot)
    refusals = [*unmatched, *check_paths(desired, snapshot)]
    alone = desired.find_pool(only)
    if alone is not None:
        refusals = [refusal for refusal in refusals if _concerns(refusal, alone)]
    steps: list[Step] = []
    notes: list[str] = []
    warnings: list[str] = []
    for pool in desired.pools:
        if only not in {"", pool.name}:
            continue
        named = (*pool.config.devices, *pool.config.spare_devices)
        if is_unresolved(pool) or any(refusal.target in named for refusal in refusals):
            continue  # which disks are meant is not clear, so nothing can be said about them
        view = view_pool(pool, snapshot)
        pool_plan = _plan_pool(view, snapshot, memory)
        engine = desired.engine_of(pool.name)
        engine_plan, first = Plan(), 0
        if engine is not None and engine.implied:
            engine_plan = plan_implied_engine(engine, view, snapshot, memory)
            # The state of a pool that is gone goes before the new one is made: a kill must not leave the two together.
            first = len([step for step in engine_plan.steps if not isinstance(step, StartEngine)])
        elif engine is not None:
            engine_plan = plan_engine(engine, view, snapshot, memory)
        steps += (*engine_plan.steps[:first], *pool_plan.steps, *engine_plan.steps[first:])
        warnings += _warn_of_names(view, snapshot) if pool_plan.steps else []
        warnings += [f"{pool.path} is {view.state}: {view.because}."] if view.state in _WORTH_A_WARNING else []
        warnings += [*warn_of_spares(pool, snapshot), *pool_plan.warnings]
        refusals += _without_repeats(pool_plan.refusals, refusals)
        if not only and any(isinstance(step, CreateVolumeGroup | ExtendVolumeGroup) for step in pool_plan.steps):
            refusals += _without_repeats(_others_spares(pool, desired, snapshot), refusals)
        refusals += engine_plan.refusals
        notes += engine_plan.notes
    fingerprint = fingerprint_of_host(desired, snapshot, memory)
    return Plan(numbered(steps), tuple(refusals), tuple(dict.fromkeys(notes)), tuple(warnings), fingerprint)


def _others_spares(pool: DesiredPool, desired: DesiredState, snapshot: Snapshot) -> tuple[Refusal, ...]:
    """Return what refuses new disks for `pool`: one of them may be a spare of another pool whose name leads nowhere."""
    return tuple(refusal for other in desired.pools if other is not pool for refusal in refuse_spares(other, snapshot))


def _concerns(refusal: Refusal, pool: DesiredPool) -> bool:
    """Whether `refusal` is about a disk or a selector of `pool`; of two that take one disk only one is the target."""
    names = (f"pools.{pool.name}.", *pool.config.devices, *pool.config.spare_devices)
    is_shared = refusal.code in ("SAME_DISK_TWICE", "MATCH_TWICE") and any(name in refusal.summary for name in names)
    return is_shared or refusal.target in names or refusal.target.startswith(names[0])


def plan_activate(pool: DesiredPool, desired: DesiredState, snapshot: Snapshot, memory: Memory) -> Plan:
    """Return the plan that makes `pool` active, and starts the engine again that we stopped for it."""
    view, tags = with_lost_tags(view_pool(pool, snapshot), snapshot, memory)
    if view.state is PoolState.ABSENT:
        return Plan(refusals=(refuse_absent(view),), fingerprint=fingerprint_of_host(desired, snapshot, memory))
    steps, refusals = bring_up(view)
    engine = desired.engine_of(pool.name)
    notes: tuple[str, ...] = ()
    if engine is not None and not refusals:
        engine_plan = (
            plan_implied_engine(engine, view, snapshot, memory)
            if engine.implied
            else plan_engine_start(engine, snapshot, memory, pool.name)
        )
        steps += engine_plan.steps
        refusals += engine_plan.refusals
        notes = engine_plan.notes
    steps = [*tags, *steps]
    return Plan(numbered(steps), tuple(refusals), notes, fingerprint=fingerprint_of_host(desired, snapshot, memory))


def _without_repeats(new: tuple[Refusal, ...], known: list[Refusal]) -> list[Refusal]:
    targets = {(refusal.code, refusal.target) for refusal in known}
    return [refusal for refusal in new if (refusal.code, refusal.target) not in targets]


def _plan_pool(view: PoolView, snapshot: Snapshot, memory: Memory) -> Plan:
    """Return the pool's part of a plan; its steps are not numbered yet."""
    view, tags = with_lost_tags(view, snapshot, memory)
    if view.group is None and view.state is PoolState.ABSENT:
        steps, refusals = _plan_new_group(view, snapshot, memory)
        return Plan(tuple(steps), tuple(refusals))
    if view.group is not None and view.state is PoolState.ABSENT:
        steps, refusals = _plan_new_pool(view, view.group, snapshot, memory)
        return Plan((*tags, *steps), tuple(refusals))
    steps, refusals = bring_up(view, memory)
    if refusals:
        return Plan(refusals=tuple(refusals))
    changes = plan_changes(view, snapshot, memory)
    steps = [*without_repeats(steps, changes.steps), *changes.steps]
    return Plan((*tags, *steps), tuple(changes.refusals), warnings=tuple(changes.warnings))


def with_lost_tags(view: PoolView, snapshot: Snapshot, memory: Memory) -> tuple[PoolView, list[Step]]:
    """Return `view` as it is with the tags that it has lost, and the step that puts them back.

    The journal must know the group, and a pool without its tag, by their uuids.
    """
    group, lv = view.group, view.lv
    if view.state is not PoolState.FOREIGN or group is None or group.is_exported:
        return view, []
    tag_group = OUR_TAG not in group.tags
    tag_lv = lv is not None and lv.is_thin_pool and OUR_TAG not in lv.tags
    is_ours = not tag_group or group.uuid in memory.our_groups
    is_ours = is_ours and (not tag_lv or (lv is not None and lv.uuid in {made.lv_uuid for made in memory.made}))
    if not is_ours:
        return view, []
    reason = f"{view.because}, and the journal shows that thinpoolmgr made it"
    step = tag_pool(view, group, reason)
    return view_pool(view.pool, with_tags(snapshot, step)), [step]


def tag_pool(view: PoolView, group: VolumeGroup, reason: str) -> TagPool:
    """Return the step that puts our tag wherever it is missing on the group and the pool of `view`."""
    lv = view.lv if view.lv is not None and view.lv.is_thin_pool else None
    return TagPool(
        reason=reason,
        pool=view.pool.name,
        group=group.name,
        group_uuid=group.uuid,
        lv=lv.name if lv else "",
        lv_uuid=lv.uuid if lv else "",
        tag_group=OUR_TAG not in group.tags,
        tag_lv=lv is not None and OUR_TAG not in lv.tags,
    )


def with_tags(snapshot: Snapshot, step: TagPool) -> Snapshot:
    """Return `snapshot` as it is after `step`."""

    def tagged(group: VolumeGroup) -> VolumeGroup:
        if group.uuid != step.group_uuid:
            return group
        lvs = tuple(
            replace(lv, tags=(*lv.tags, OUR_TAG)) if step.tag_lv and lv.uuid == step.lv_uuid else lv for lv in group.lvs
        )
        tags = (*group.tags, OUR_TAG) if step.tag_group else group.tags
        return replace(group, tags=tags, lvs=lvs)

    return replace(snapshot, groups=tuple(tagged(group) for group in snapshot.groups))


def _plan_new_group(view: PoolView, snapshot: Snapshot, memory: Memory) -> tuple[list[Step], list[Refusal]]:
    pool = view.pool
    disks = [disk for path in pool.config.devices if (disk := snapshot.find_disk(path))]
    refusals = [refusal for disk in disks for refusal in check_disk(disk, pool, snapshot, memory)]
    if len(disks) < len(pool.config.devices):
        return [], refusals  # check_paths has named the ones that are not there
    refusals += check_sector_sizes(disks, pool)
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
    wipes = plan_wipes(disks, pool, snapshot, memory)
    group = _create_group(pool, disks, wiped=bool(wipes))
    return [*wipes, group, *_new_pool(pool, sizes, snapshot)], []


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


def _create_group(pool: DesiredPool, disks: list[Disk], *, wiped: bool) -> CreateVolumeGroup:
    sizes = ", ".join(f"{disk.path} ({format_size(disk.size_bytes)})" for disk in disks)
    verb, condition = (
        "is" if len(disks) == 1 else "are",
        "unused, and blank after the wipe" if wiped else "blank and unused",
    )
    reason = f"there is no volume group {pool.group}; {sizes} {verb} {condition}{pool.say_chosen()}"
    return CreateVolumeGroup(
        reason=reason, pool=pool.name, group=pool.group, disks=tuple(disk_ref(disk) for disk in disks)
    )


def _new_pool(pool: DesiredPool, sizes: PoolSizes, snapshot: Snapshot) -> list[Step]:
    """Return the pool's creation, its profile before it, and its answer when full after it."""
    data = f"data {format_size(sizes.data_bytes)} ({pool.config.data_size}), chunk {format_size(pool.chunk_bytes)}"
    create = CreateThinPool(
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
        monitored_by_dmeventd=wants_profile(pool),
        profile=profile_name(pool) if wants_profile(pool) else "",
    )
    answer = when_full(pool, "queue")
    if wants_profile(pool):
        return [*write_profile(pool, snapshot), create, *answer]
    return [create, *answer, *remove_profile(pool, snapshot, "no pool uses it any more")]


def _plan_new_pool(
    view: PoolView, group: VolumeGroup, snapshot: Snapshot, memory: Memory
) -> tuple[list[Step], list[Refusal]]:
    """A group of ours without its pool: a run was interrupted, it was adopted empty, or the pool removed by hand."""
    pool = view.pool
    leftovers, to_go = find_leftovers(group, pool, memory), volumes_to_go(group, memory)
    refusals = unexpected_lvs(group, pool, [*leftovers, *to_go])
    refusals += refuse_volumes(group, to_go, snapshot, memory)
    freed = sum(lv.size_bytes for lv in (*leftovers, *to_go, *([group.spare] if group.spare else [])))
    added = disks_to_add(pool, group, snapshot)
    additions, unfit = add_disks(view, added, snapshot, memory)
    refusals += unfit
    more = sum(extents_on(disk, group.extent_bytes) for disk in added)
    free = group.allocatable_extents + freed // group.extent_bytes + more
    sizes = None if refusals else _fit(pool, group.extent_count + more, free, group.extent_bytes, refusals)
    if refusals or sizes is None:
        return [], refusals
    removals = [*remove_volumes(group, to_go, pool), *remove_leftovers(leftovers, group, pool)]
    return [*removals, *additions, *_new_pool(pool, sizes, snapshot)], []


def bring_up(view: PoolView, memory: Memory | None = None) -> tuple[list[Step], list[Refusal]]:
    """Return the steps that make the pool run as LVM's metadata says; its configuration does not matter for that.

    With `memory` also what an interrupted enlargement left is removed.
    """
    pool, refusal = view.pool, refuse_state(view)
    if refusal is None and view.state is PoolState.INACTIVE:
        refusal = refuse_open_parts(view)
    if refusal is not None:
        return [], [refusal]
    leftovers = find_leftovers(view.group, pool, memory) if memory and view.group else []
    removals: list[Step] = [*remove_leftovers(leftovers, view.group, pool)] if view.group else []
    if view.state is not PoolState.INACTIVE:
        return [*removals, *mend(view)], []
    activate = ActivatePool(reason=view.because, pool=pool.name, group=pool.group, lv=pool.lv)
    before = discards_while_inactive(view) if memory else []
    return [*removals, *remove_parts(view), *before, activate], []


def refuse_open_parts(view: PoolView, holders: Holders | None = None) -> Refusal | None:
    """Return why what an interrupted activation left cannot be cleared away: somebody has it open."""
    busy = next((device for device in view.inner if device.open_count and device.targets != ("thin-pool",)), None)
    if busy is None or view.device is not None:
        return None
    summary = f"{busy.name}, a part of {view.pool.path}, is open"
    if holders is not None:
        return refuse_open(busy.name, summary, replace(holders, found=holders.of(frozenset({busy.devno}))))
    resolution = f"Find who has it (lsof /dev/mapper/{busy.name}; dmsetup ls --tree), close it, and run this again."
    return Refusal("DEVICE_OPEN", busy.name, summary, view.because, resolution)


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
        "Choose another volume_group; or take it over, when it is yours: thinpoolmgr adopt {pool}.",
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
        "Save what is in it while it runs; then bring its label back (vgcfgrestore), or let go: "  # noqa: ISC004
        "thinpoolmgr destroy {pool}.",
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
        "Enlarge its metadata: thinpoolmgr extend {pool} --metadata +SIZE.",
    ),
    PoolState.READ_ONLY: (
        "POOL_READ_ONLY",
        _SICK,
        "Look at dmesg for the reason; deactivate it, thin_check it.",
    ),
}


def refuse_absent(view: PoolView) -> Refusal:
    """Return why nothing can be done to a pool that is not there."""
    path, way_out = view.pool.path, "thinpoolmgr apply makes it."
    return Refusal("POOL_ABSENT", path, f"{path} does not exist", view.because, way_out)


def refuse_state(view: PoolView) -> Refusal | None:
    """Return why a pool in this state is not touched; None when it may be."""
    if view.state not in _WAYS_OUT:
        return None
    code, details, resolution = _WAYS_OUT[view.state]
    summary, way_out = f"{view.pool.path} is {view.state}: {view.because}", resolution.format(pool=view.pool.name)
    return Refusal(code, view.pool.path, summary, details, way_out)
