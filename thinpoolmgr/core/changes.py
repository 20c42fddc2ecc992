"""What brings an existing pool to its configuration: steps where it can be changed as it runs, refusals where not.

What LVM or a kill left half done comes first, then activation, then settings, disks, sizes and the spare. A pool that
is larger than configured has grown, which is no difference; one that was *made* larger is asked to shrink, which no
thin pool can (dm-thin.c refuses a smaller data or metadata device).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from thinpoolmgr.core.conditions import why_not_refreshed, why_other_features
from thinpoolmgr.core.desired import DesiredPool, parse_share, toml_value
from thinpoolmgr.core.guards import check_disk, check_sector_sizes, disk_ref, plan_wipes, refuse_spares
from thinpoolmgr.core.leftovers import find_leftovers
from thinpoolmgr.core.lifecycle import PoolState, PoolView
from thinpoolmgr.core.names import pool_dm_name
from thinpoolmgr.core.plan import Refusal
from thinpoolmgr.core.profiles import plan_profile
from thinpoolmgr.core.sizing import (
    DoesNotFitError,
    Growth,
    Room,
    checked_growth,
    extents_on,
    grown_for,
    growth_by_config,
    size_by_config,
    with_spare,
)
from thinpoolmgr.core.steps import (
    ExtendData,
    ExtendMetadata,
    ExtendVolumeGroup,
    RefreshPool,
    ResumeDevice,
    SetDiscards,
    SetWhenFull,
    SetZeroing,
    Step,
)
from thinpoolmgr.units import ceil_to, exact_size, format_size

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Disk, LogicalVolume, Snapshot, VolumeGroup
    from thinpoolmgr.core.plan import Memory, Request


class Changes(NamedTuple):
    """Steps, or why there are none, and what should be thought about."""

    steps: list[Step]
    refusals: list[Refusal]
    warnings: list[str]


def mend(view: PoolView) -> list[Step]:
    """Return the steps that settle what a command that was cut short left of a running pool.

    Measured, LVM 2.03.16, `kill -9` inside `lvextend`: when LVM's metadata has the new size and the kernel has not,
    or all is suspended, `lvchange --refresh` settles it. When LVM still has the old size the refresh fails; dropping
    the table that waits, and resuming, gives the pool back with its old data. Its metadata device has its new size
    by then, and a pool that is resumed takes all of it: LVM must come to know of it, or the next activation fails.
    """
    lv, device, pool = view.lv, view.device, view.pool
    if lv is None or device is None:
        return []
    behind = why_not_refreshed(lv, device)
    suspended = [d for d in reversed(view.inner) if d.suspended]
    if behind and (not suspended or device.size_bytes < lv.size_bytes):
        return [RefreshPool(reason=behind, pool=pool.name, group=pool.group, lv=pool.lv)]
    resumes = [
        ResumeDevice(
            reason=f"a command that was cut short left it suspended: all that uses {pool.path} hangs",
            pool=pool.name,
            name=part.name,
            uuid=part.uuid,
        )
        for part in suspended
    ]
    other = why_other_features(lv, device) if suspended else ""
    refresh = [RefreshPool(reason=other, pool=pool.name, group=pool.group, lv=pool.lv)] if other else []
    return [*resumes, *_catch_up(view, lv), *refresh] if suspended else []


def _catch_up(view: PoolView, lv: LogicalVolume) -> list[Step]:
    pool, name = view.pool, pool_dm_name(view.pool.group, lv.metadata_lv)
    size = next((part.size_bytes for part in view.inner if part.name == name), 0)
    if size <= lv.metadata_bytes:
        return []
    reason = f"the kernel's metadata device has {format_size(size)} already, and LVM does not know of it"
    return [ExtendMetadata(reason=reason, pool=pool.name, group=pool.group, lv=pool.lv, metadata_bytes=size)]


def without_repeats(first: list[Step], then: list[Step]) -> list[Step]:
    """Return the steps of `first` without an enlargement of the metadata that `then` contains or exceeds."""
    sizes = [step.metadata_bytes for step in then if isinstance(step, ExtendMetadata)]
    return [s for s in first if not (isinstance(s, ExtendMetadata) and max(sizes, default=0) >= s.metadata_bytes)]


def plan_changes(view: PoolView, snapshot: Snapshot, memory: Memory) -> Changes:
    """Return what else brings the pool of `view`, which is or will be active, to its configuration."""
    pool, group, lv = view.pool, view.group, view.lv
    if group is None or lv is None:
        return Changes([], [], [])
    refusals = [*_refuse_chunk_size(pool, lv), *_refuse_shrinking(pool, group, lv, memory)]
    settings = [*_settings(view, lv, refusals), *plan_profile(view, snapshot)]
    added = disks_to_add(pool, group, snapshot)
    additions, unfit = add_disks(view, added, snapshot, memory)
    refusals += unfit
    freed = find_leftovers(group, pool, memory)
    room = room_of(group, lv, added, freed)
    growth = Growth(room.data, room.metadata)
    try:
        growth = checked_growth(growth_by_config(pool, room), room)
    except DoesNotFitError as error:
        refusals.append(_does_not_fit(pool, str(error)))
    reason = f"pools.{pool.name} asks for data_size {pool.config.data_size}, metadata_size {pool.config.metadata_size}"
    sizes, warnings = grow(pool, group, growth, room, reason)
    return Changes([*settings, *additions, *sizes], refusals, warnings)


def disks_to_add(pool: DesiredPool, group: VolumeGroup, snapshot: Snapshot) -> list[Disk]:
    """Return the disks of the configuration that are not in the group yet."""
    return [disk for path in pool.config.devices if (disk := snapshot.find_disk(path)) and not _is_in(disk, group)]


def _is_in(disk: Disk, group: VolumeGroup) -> bool:
    return any(pv.path == disk.path for pv in group.pvs)


def room_of(group: VolumeGroup, lv: LogicalVolume, added: list[Disk], freed: list[LogicalVolume]) -> Room:
    """Return what the pool has in its group once the disks `added` are in it, and the volumes `freed` are gone."""
    extent = group.extent_bytes
    more = sum(extents_on(disk, extent) for disk in added)
    return Room(
        data=lv.size_bytes // extent,
        metadata=ceil_to(lv.metadata_bytes, extent) // extent,
        spare=group.spare.size_bytes // extent if group.spare else 0,
        total=group.extent_count + more,
        free=group.allocatable_extents + more + sum(ceil_to(left.size_bytes, extent) // extent for left in freed),
        extent_bytes=extent,
    )


def grow(
    pool: DesiredPool, group: VolumeGroup, growth: Growth, room: Room, reason: str
) -> tuple[list[Step], list[str]]:
    """Return the steps from `room` to `growth`, metadata first: data that it cannot map is of no use."""
    extent, warnings = room.extent_bytes, []
    growth = with_spare(growth, room)
    metadata_reason = growth.reasoning or reason
    if growth.metadata == room.metadata and room.spare < room.metadata:
        lacks = "too small" if group.spare else "missing"
        warnings = [f"The metadata spare of {group.name} is {lacks}, and there is no room for it: repairs need it."]
    steps: list[Step] = []
    if growth.metadata > room.metadata:
        size = growth.metadata * extent
        what = f"metadata {format_size(room.metadata * extent)} -> {format_size(size)}: {metadata_reason}"
        steps.append(ExtendMetadata(reason=what, pool=pool.name, group=group.name, lv=pool.lv, metadata_bytes=size))
    if growth.data > room.data:
        what = f"data {format_size(room.data * extent)} -> {format_size(growth.data * extent)}: {reason}"
        steps.append(
            ExtendData(
                reason=what,
                pool=pool.name,
                group=group.name,
                lv=pool.lv,
                data_extents=growth.data,
                extent_bytes=extent,
                chunk_bytes=group_chunk(group, pool),
            )
        )
    return steps, warnings


def group_chunk(group: VolumeGroup, pool: DesiredPool) -> int:
    """Return the chunk size that the pool has, whatever is configured, in bytes."""
    lv = group.find_lv(pool.lv)
    return lv.chunk_bytes if lv and lv.chunk_bytes else pool.chunk_bytes


def add_disks(
    view: PoolView, disks: list[Disk], snapshot: Snapshot, memory: Memory
) -> tuple[list[Step], list[Refusal]]:
    """Return the steps that put `disks` into the pool's group, or why they must not be."""
    pool, group = view.pool, view.group
    if group is None or not disks:
        return [], []
    refusals = [refusal for disk in disks for refusal in check_disk(disk, pool, snapshot, memory)]
    there = [disk for pv in group.pvs if (disk := snapshot.find_disk(pv.path))]
    refusals += check_sector_sizes([*there, *disks], pool)
    if refusals:
        return [], refusals
    named = ", ".join(f"{disk.path} ({format_size(disk.size_bytes)})" for disk in disks)
    step = ExtendVolumeGroup(
        reason=f"the volume group {group.name} does not have {named}{pool.say_chosen()}",
        pool=pool.name,
        group=group.name,
        disks=tuple(disk_ref(disk) for disk in disks),
    )
    return [*plan_wipes(disks, pool, snapshot, memory), step], []


def plan_extension(
    view: PoolView, request: Request, snapshot: Snapshot, memory: Memory, because: str = "asked for by hand"
) -> Changes:
    """Return the steps of `extend`: named disks into the group, then metadata, then data, to the sizes of `request`.

    Where the group has too little room, spare devices of the configuration are taken, in their order, as far as
    they are needed. `because` is why the pool is to grow, for who reads the plan or the journal.
    """
    pool, group, lv = view.pool, view.group, view.lv
    if group is None or lv is None:
        return Changes([], [], [])
    added = [disk for path in request.add_devices if (disk := snapshot.find_disk(path)) and not _is_in(disk, group)]
    spares = [
        disk
        for path in pool.config.spare_devices
        if path not in request.add_devices and (disk := snapshot.find_disk(path)) and not _is_in(disk, group)
    ]
    extent = group.extent_bytes
    freed = find_leftovers(group, pool, memory)
    wanted = tuple(ceil_to(size, extent) // extent for size in (request.data_bytes, request.metadata_bytes))
    while True:
        room = room_of(group, lv, added, freed)
        growth = grown_for(pool, room, max(room.data, wanted[0]), max(room.metadata, wanted[1]))
        if growth.needs(room) <= room.free or not spares:
            break
        added.append(spares.pop(0))
    additions, refusals = add_disks(view, added, snapshot, memory)
    try:
        checked_growth(growth, room)
    except DoesNotFitError as error:
        return Changes([], [*refusals, _no_room(pool, str(error)), *refuse_spares(pool, snapshot)], [])
    sizes, warnings = grow(pool, group, growth, room, because)
    return Changes([*additions, *sizes], refusals, warnings)


def _no_room(pool: DesiredPool, details: str) -> Refusal:
    resolution = (
        f"Ask for less, or add a disk in the same run: thinpoolmgr extend {pool.name} --add-device DEVICE ...; "
        f"pools.{pool.name}.spare_devices are taken by themselves."
    )
    return Refusal("DOES_NOT_FIT", pool.path, f"{pool.path} cannot grow so far", details, resolution)


def _does_not_fit(pool: DesiredPool, details: str) -> Refusal:
    resolution = f"Add a disk to pools.{pool.name}.devices, or choose smaller sizes."
    return Refusal("DOES_NOT_FIT", pool.path, f"{pool.path} cannot grow to its configured size", details, resolution)


def _settings(view: PoolView, lv: LogicalVolume, refusals: list[Refusal]) -> list[Step]:
    pool, config, path = view.pool, view.pool.config, view.pool.path
    steps: list[Step] = [*correct_when_full(view)]
    if lv.discards not in ("", config.discards):
        reason = f"{path} has discards {lv.discards}; the configuration asks for {config.discards}"
        if "ignore" in {lv.discards, config.discards} and view.state is not PoolState.INACTIVE:
            refusals.append(_refuse_discards(pool, lv))
        elif view.state is not PoolState.INACTIVE:
            steps.append(set_discards(view, reason))
    if lv.zero is not None and lv.zero != config.zero_new_blocks:
        present, wanted = toml_value(lv.zero), toml_value(config.zero_new_blocks)
        reason = f"{path} has zero_new_blocks {present}; the configuration asks for {wanted}"
        steps.append(
            SetZeroing(
                reason=reason, pool=pool.name, group=pool.group, lv=pool.lv, zero_new_blocks=config.zero_new_blocks
            )
        )
    return steps


def set_discards(view: PoolView, reason: str) -> SetDiscards:
    """Return the step that gives the pool the discards of its configuration."""
    pool = view.pool
    return SetDiscards(reason=reason, pool=pool.name, group=pool.group, lv=pool.lv, discards=pool.config.discards)


def discards_while_inactive(view: PoolView) -> list[SetDiscards]:
    """Return the change of discards that belongs before an activation: to and from `ignore` there is no other time."""
    if view.lv is None or view.lv.discards in ("", view.pool.config.discards):
        return []
    return [set_discards(view, f"it is not active, so discards can become {view.pool.config.discards}")]


def _refuse_discards(pool: DesiredPool, lv: LogicalVolume) -> Refusal:
    wanted = pool.config.discards
    summary = f"{pool.path} has discards {lv.discards}, and pools.{pool.name}.discards asks for {wanted}"
    details = "LVM changes to and from ignore only while the pool is not active."
    resolution = f"thinpoolmgr deactivate {pool.name}, then thinpoolmgr apply; or set it back."
    return Refusal("SETTING_DIFFERS", f"pools.{pool.name}.discards", summary, details, resolution)


def when_full(pool: DesiredPool, present: str) -> list[SetWhenFull]:
    """Return the step that makes a full pool answer as configured; none when `present` is that."""
    wanted = pool.config.when_full
    if present == wanted:
        return []
    reason = f"a full pool would {present} writes; when_full asks for {wanted!r}"
    return [SetWhenFull(reason=reason, pool=pool.name, group=pool.group, lv=pool.lv, when_full=wanted)]


def correct_when_full(view: PoolView) -> list[SetWhenFull]:
    """Compare with LVM's word and the kernel's; a full pool's own answer is the time-out's, not a setting."""
    by_lvm = view.lv.when_full if view.lv else ""
    status = view.status if view.state in {PoolState.HEALTHY, PoolState.TIGHT} else None
    by_kernel = status.when_full if status else by_lvm
    steps = when_full(view.pool, by_lvm) if by_lvm in {"queue", "error"} else []
    if not steps and by_kernel in {"queue", "error"} and by_kernel != by_lvm:
        reason = f"the kernel would {by_kernel} writes of a full pool, and LVM says {by_lvm}"
        pool, wanted = view.pool, view.pool.config.when_full
        steps = [
            SetWhenFull(reason=reason, pool=pool.name, group=pool.group, lv=pool.lv, when_full=wanted, refresh=True)
        ]
    return steps


def _refuse_chunk_size(pool: DesiredPool, lv: LogicalVolume) -> list[Refusal]:
    if lv.chunk_bytes in (0, pool.chunk_bytes):
        return []
    present = exact_size(lv.chunk_bytes)
    summary = (
        f"{pool.path} has chunk_size {present}, and pools.{pool.name}.chunk_size asks for {pool.config.chunk_size}"
    )
    return [_only_by_rebuild(pool, "chunk_size", summary, "The chunk size of a pool cannot be changed.", present)]


def _refuse_shrinking(pool: DesiredPool, group: VolumeGroup, lv: LogicalVolume, memory: Memory) -> list[Refusal]:
    made = next((made for made in memory.made if made.lv_uuid == lv.uuid), None)
    if made is None:
        return []
    refusals = []
    for key, made_bytes in (("data_size", made.data_bytes), ("metadata_size", made.metadata_bytes)):
        wanted = size_by_config(pool, key, group.extent_count, group.extent_bytes)
        if wanted is not None and made_bytes > wanted:
            text = getattr(pool.config, key)
            shown = f"{text} ({format_size(wanted)})" if parse_share(text) else text
            summary = f"{pool.path} was made with {key} {exact_size(made_bytes)}, and {shown} is asked for now"
            refusals.append(
                _only_by_rebuild(pool, key, summary, "A thin pool cannot be made smaller.", exact_size(made_bytes))
            )
    return refusals


def _only_by_rebuild(pool: DesiredPool, key: str, summary: str, details: str, present: str) -> Refusal:
    resolution = (
        f'Set it to "{present}"; or make the pool anew, which loses all that is in it: thinpoolmgr rebuild {pool.name}'
    )
    return Refusal("SETTING_DIFFERS", f"pools.{pool.name}.{key}", summary, details, resolution)
