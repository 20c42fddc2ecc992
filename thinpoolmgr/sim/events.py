"""What happens to a host besides the steps: disks vanish and come back, power goes, people change things by hand."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from thinpoolmgr.core.model import Disk, PhysicalVolume, Signature, Snapshot, VolumeGroup
from thinpoolmgr.core.names import devices_of_group, live_pool_device, pool_dm_name
from thinpoolmgr.core.own_setup import SETUP_GROUP
from thinpoolmgr.core.steps import (
    ActivatePool,
    CreateThinPool,
    CreateVolumeGroup,
    DeactivatePool,
    ExtendData,
    ExtendMetadata,
    ExtendVolumeGroup,
    RemovePhysicalVolumes,
    SetDiscards,
    SetProfile,
    SetWhenFull,
    SetZeroing,
    Step,
    TagPool,
)
from thinpoolmgr.errors import CommandFailedError
from thinpoolmgr.sim.changes import define_extension, define_setting, find_volume, suspend, with_size
from thinpoolmgr.sim.parts import (
    EXTENT_BYTES,
    LABEL,
    activate_components,
    activate_pool,
    activate_volume,
    deactivate_group,
    drop_devices,
    find_group,
    replace_group,
    set_volumes,
    settle,
    spare_name,
    uuid_of,
    volume,
)
from thinpoolmgr.sim.steps import apply_step, define_pool, make_group, remove_volume, stopped

MISSING = "[unknown]"


class Away(Struct, frozen=True):
    """A disk that has vanished, with what it carries."""

    disk: Disk
    pv: PhysicalVolume | None = None
    group: VolumeGroup | None = None


def vanish(snapshot: Snapshot, path: str) -> tuple[Snapshot, Away]:
    """Return `snapshot` without the disk, and the disk; devices that stand on it stay in the kernel.

    LVM reads a group from any of its disks: with the last one the group is gone from its report.
    """
    disk = next(disk for disk in snapshot.disks if disk.path == path)
    group = next((g for g in snapshot.groups if any(pv.path == path for pv in g.pvs)), None)
    pvs = (*snapshot.orphan_pvs, *(group.pvs if group else ()))
    away = Away(disk, next((pv for pv in pvs if pv.path == path), None), group)
    shot = replace(
        snapshot,
        disks=tuple(d for d in snapshot.disks if d is not disk),
        configured_devices=tuple(
            replace(device, disk="", problem="missing") if device.disk == path else device
            for device in snapshot.configured_devices
        ),
        orphan_pvs=tuple(pv for pv in snapshot.orphan_pvs if pv.path != path),
    )
    if group is None:
        return shot, away
    pvs = tuple(_missing(pv, group) if pv.path == path else pv for pv in group.pvs)
    if all(pv.missing for pv in pvs):
        return _unlist(shot, group), away
    return settle(replace_group(shot, _partial(group, pvs))), away


def _missing(pv: PhysicalVolume, group: VolumeGroup) -> PhysicalVolume:
    # what is left to know is the size in the group's metadata: whole extents
    usable = max(0, pv.size_bytes - 1) // group.extent_bytes * group.extent_bytes
    return replace(pv, path=MISSING, missing=True, size_bytes=usable)


def _partial(group: VolumeGroup, pvs: tuple[PhysicalVolume, ...]) -> VolumeGroup:
    letter = "p" if any(pv.missing for pv in pvs) else "-"
    return replace(group, pvs=pvs, attr=group.attr[:3] + letter + group.attr[4:])


def _unlist(snapshot: Snapshot, group: VolumeGroup) -> Snapshot:
    left = tuple(g for g in snapshot.groups if g.uuid != group.uuid)
    names = {*snapshot.dev_names, *([group.name] if devices_of_group(group.uuid, snapshot.dm_devices) else [])}
    return replace(snapshot, groups=left, dev_names=tuple(sorted(names)))


def bring_back(snapshot: Snapshot, away: Away, others: tuple[Away, ...] = ()) -> Snapshot:
    """Return `snapshot` with the disk again; udev activates a group that is whole by it. `others` are still away."""
    disk = replace(away.disk, holders=(), opened_exclusively=False)
    configured = tuple(
        replace(device, disk=disk.path, problem="")
        if device.problem == "missing" and device.configured_path in (disk.path, *disk.links)
        else device
        for device in snapshot.configured_devices
    )
    shot = replace(snapshot, disks=(*snapshot.disks, disk), configured_devices=configured)
    if away.pv is None:
        return settle(shot)
    if away.group is None:
        return settle(replace(shot, orphan_pvs=(*shot.orphan_pvs, away.pv)))
    listed = next((group for group in shot.groups if group.uuid == away.group.uuid), None)
    if listed is None:
        absent = {other.pv.uuid for other in others if other.pv}
        known = {other.pv.uuid: other.pv for other in (*others, away) if other.pv}
        pvs = tuple(known.get(pv.uuid, pv) for pv in away.group.pvs)
        pvs = tuple(_missing(pv, away.group) if pv.uuid in absent else pv for pv in pvs)
        names = tuple(name for name in shot.dev_names if name != away.group.name)
        group = _partial(away.group, pvs)
        shot = replace(shot, groups=(*shot.groups, group), dev_names=names)
    else:
        group = _partial(listed, tuple(away.pv if pv.uuid == away.pv.uuid else pv for pv in listed.pvs))
        shot = replace_group(shot, group)
    return settle(shot if group.is_partial else activate_by_udev(shot, group))


def activate_by_udev(snapshot: Snapshot, group: VolumeGroup) -> Snapshot:
    """Return `snapshot` with all of `group` active, as far as nothing is in the way."""
    if group.is_exported or group.is_partial:
        return snapshot
    running = {d.uuid for d in devices_of_group(group.uuid, snapshot.dm_devices)}
    for lv in group.lvs:
        if lv.is_thin_pool:
            try:
                snapshot = activate_pool(snapshot, group, lv)
            except CommandFailedError:
                continue
        elif not lv.name.endswith(("_tdata", "_tmeta", "_pmspare")) and not any(
            _has(uuid, lv.uuid) for uuid in running
        ):
            snapshot = activate_volume(snapshot, group, lv)
    return snapshot


def _has(dm_uuid: str, lv_uuid: str) -> bool:
    return lv_uuid.replace("-", "") in dm_uuid


def reboot(snapshot: Snapshot) -> Snapshot:
    """Return the host after its next boot: the kernel knows nothing, udev activates each whole group, engines stand."""
    engines = tuple(stopped(engine) for engine in snapshot.engines)
    shot = replace(snapshot, dm_devices=(), dev_names=(), engines=engines, boot_id=f"{snapshot.boot_id}+")
    for group in shot.groups:
        shot = activate_by_udev(shot, group)
    return settle(shot)


def deactivate_by_hand(snapshot: Snapshot, group_name: str) -> Snapshot:
    """Return `snapshot` after `vgchange -an`; thin devices of engines are gone, too."""
    group = find_group(snapshot, group_name)
    numbers = {d.devno for d in devices_of_group(group.uuid, snapshot.dm_devices)}
    thin = tuple(d for d in snapshot.dm_devices if d.targets == ("thin",) and numbers & set(d.depends_on))
    return settle(deactivate_group(drop_devices(snapshot, thin), group))


def untag(snapshot: Snapshot, group_name: str, lv_name: str = "") -> Snapshot:
    """Return `snapshot` after somebody took all tags from the group or, with `lv_name`, from that volume of it."""
    group = find_group(snapshot, group_name)
    if not lv_name:
        return replace_group(snapshot, replace(group, tags=(), seqno=group.seqno + 1))
    lvs = tuple(replace(lv, tags=()) if lv.name == lv_name else lv for lv in group.lvs)
    return replace_group(snapshot, replace(group, lvs=lvs, seqno=group.seqno + 1))


def remove_spare(snapshot: Snapshot, group_name: str) -> Snapshot:
    """Return `snapshot` after `lvremove` of the group's metadata spare by somebody."""
    group = find_group(snapshot, group_name)
    return set_volumes(snapshot, group, tuple(lv for lv in group.lvs if lv is not group.spare))


def lose_labels(snapshot: Snapshot, group_name: str) -> Snapshot:
    """Return `snapshot` after somebody wiped the labels of the group's disks under it."""
    group = find_group(snapshot, group_name)
    paths = {pv.path for pv in group.pvs}
    disks = tuple(replace(disk, signatures=()) if disk.path in paths else disk for disk in snapshot.disks)
    return _unlist(replace(snapshot, disks=disks), group)


def report_less(snapshot: Snapshot, group_name: str, message: str) -> Snapshot:
    """Return `snapshot` as LVM tells it when it cannot read the group's disks: it lists neither group nor labels."""
    group = snapshot.find_group(group_name)
    shot = _unlist(snapshot, group) if group else snapshot
    return replace(shot, lvm_trouble=(*shot.lvm_trouble, message))


def half_done(snapshot: Snapshot, step: Step, left: str, generation: int = 0) -> Snapshot:
    """Return what a kill inside `step` leaves; `snapshot` itself where the step leaves nothing of this kind.

    `first`, `second` and `third` are the commits of `lvcreate --type thin-pool`: the metadata as a visible linear
    LV; the right name and tag on a linear LV beside the spare; the whole pool, not active. `components` is a pool
    of which only data and metadata run, `labels` a group that is not there yet, or a label that is not there any more.
    Of `lvextend` the first is LVM's old metadata over a suspended pool, or a spare that is made anew as a visible LV;
    the others are LVM's new metadata over the kernel's old pool, suspended with its parts or alone. So are those of
    `lvchange` of a setting.
    """
    seed = f" #{generation}" if generation else ""
    match step:
        case CreateThinPool() if left in ("first", "second"):
            shot = _first_commits(snapshot, step, left, seed)
        case CreateThinPool() if left in ("third", "components"):
            shot = define_pool(snapshot, step, seed)
            shot = _only_components(shot, step.group, step.lv) if left == "components" else shot
        case ActivatePool() | DeactivatePool() if left == "components":
            shot = _only_components(snapshot, step.group, step.lv)
        case CreateVolumeGroup() if left == "labels":
            made = find_group(apply_step(snapshot, step, generation), step.group)
            shot = _only_labels(snapshot, made)
        case ExtendVolumeGroup() if left == "labels":
            made = find_group(apply_step(snapshot, step, generation), step.group)
            paths = {disk.path for disk in step.disks}
            shot = _only_labels(snapshot, replace(made, pvs=tuple(pv for pv in made.pvs if pv.path in paths)))
        case ExtendData() | ExtendMetadata() if left in ("first", "second", "third"):
            shot = _half_extended(snapshot, step, left)
        case TagPool() if left == "first" and step.tag_group and step.tag_lv:
            shot = apply_step(snapshot, replace(step, tag_lv=False), generation)
        case SetDiscards() | SetZeroing() | SetWhenFull() if left in ("first", "second", "third"):
            shot = _half_set(snapshot, step, left)
        case SetProfile() if left in ("first", "second"):
            shot = define_setting(snapshot, step)
        case RemovePhysicalVolumes() if left == "labels":
            shot = apply_step(snapshot, replace(step, disks=step.disks[:1]), generation)
        case _:
            shot = snapshot
    return settle(shot)


def _half_extended(snapshot: Snapshot, step: ExtendData | ExtendMetadata, left: str) -> Snapshot:
    """Measured, LVM 2.03.16, by kills at each ioctl of `lvextend`."""
    group, lv = find_volume(snapshot, step.group, step.lv)
    part = lv.data_lv if isinstance(step, ExtendData) else lv.metadata_lv
    shot = define_extension(snapshot, step)
    larger = next(x.size_bytes for x in find_group(shot, step.group).lvs if x.name == part)
    if isinstance(step, ExtendMetadata) and group.spare is None and left == "first":
        return _spare_in_sight(shot, step.group)
    # The part has its new table before the pool is suspended and LVM's metadata is written.
    shot = with_size(snapshot if left == "first" else shot, pool_dm_name(group.name, part), larger)
    names = (lv.name, lv.data_lv, lv.metadata_lv) if left == "second" else (lv.name,)
    return suspend(shot, tuple(pool_dm_name(group.name, name) for name in names))


def _half_set(snapshot: Snapshot, step: SetDiscards | SetZeroing | SetWhenFull, left: str) -> Snapshot:
    """Measured, LVM 2.03.16, by kills at each ioctl of `lvchange`: first the pool is suspended, then LVM's metadata."""
    group, lv = find_volume(snapshot, step.group, step.lv)
    shot = snapshot if left == "first" else define_setting(snapshot, step)
    names = (lv.name, lv.data_lv, lv.metadata_lv) if left == "second" else (lv.name,)
    return suspend(shot, tuple(pool_dm_name(group.name, name) for name in names))


def _spare_in_sight(snapshot: Snapshot, group_name: str) -> Snapshot:
    """A spare that is made anew is a volume like others at first."""
    group = find_group(snapshot, group_name)
    if group.spare is None:
        return snapshot
    name = group.spare.name.removesuffix("_pmspare")
    visible = replace(group.spare, name=name, dm_name=pool_dm_name(group.name, name))
    return replace_group(snapshot, replace(group, lvs=tuple(visible if x is group.spare else x for x in group.lvs)))


def _first_commits(snapshot: Snapshot, step: CreateThinPool, left: str, seed: str) -> Snapshot:
    group = find_group(snapshot, step.group)
    if left == "first":
        name = spare_name(group).partition("_")[0]
        lv = volume(group, name, step.metadata_bytes, seed=seed)
        shot = set_volumes(snapshot, group, (*group.lvs, lv))
        return activate_volume(shot, find_group(shot, step.group), lv)
    spares = [x for x in group.lvs if x.name.endswith("_pmspare")] or [
        volume(group, spare_name(group), step.metadata_bytes, seed=seed)
    ]
    others = tuple(x for x in group.lvs if x not in spares)
    lv = volume(replace(group, lvs=(*others, *spares)), step.lv, step.metadata_bytes, *group.tags, seed=seed)
    return set_volumes(snapshot, group, (*others, lv, *spares))


def _only_components(snapshot: Snapshot, group_name: str, name: str) -> Snapshot:
    group = find_group(snapshot, group_name)
    lv = group.find_lv(name)
    if lv is None or not lv.is_thin_pool:
        return snapshot
    running = live_pool_device(group, lv.uuid, snapshot.dm_devices)
    if running is not None:
        return snapshot if running.open_count else drop_devices(snapshot, (running,))
    if devices_of_group(group.uuid, snapshot.dm_devices):
        return snapshot
    return activate_components(snapshot, group, lv)


def _only_labels(snapshot: Snapshot, made: VolumeGroup) -> Snapshot:
    paths = {pv.path for pv in made.pvs}
    disks = tuple(replace(disk, signatures=(LABEL,)) if disk.path in paths else disk for disk in snapshot.disks)
    kept = tuple(pv for pv in snapshot.orphan_pvs if pv.path not in paths)
    orphans = tuple(replace(pv, free_bytes=pv.size_bytes) for pv in made.pvs)
    return replace(snapshot, disks=disks, orphan_pvs=(*kept, *orphans))


def add_volume(snapshot: Snapshot, group_name: str, name: str, size_bytes: int, *tags: str) -> Snapshot:
    """Return `snapshot` after `lvcreate` of a linear LV, which is active, by somebody."""
    group = find_group(snapshot, group_name)
    lv = volume(group, name, size_bytes, *tags)
    shot = set_volumes(snapshot, group, (*group.lvs, lv))
    return settle(activate_volume(shot, find_group(shot, group_name), lv))


def half_made_setup(snapshot: Snapshot, path: str, *, volumes: bool = True) -> Snapshot:
    """Return `snapshot` after Docker's own set-up of this disk was killed, before it had made a pool of its volumes."""
    shot = make_group(snapshot, SETUP_GROUP, (path,))
    if volumes:
        extents = find_group(shot, SETUP_GROUP).extent_count
        shot = add_volume(shot, SETUP_GROUP, "thinpool", extents * 95 // 100 * EXTENT_BYTES)
        shot = add_volume(shot, SETUP_GROUP, "thinpoolmeta", extents // 100 * EXTENT_BYTES)
    return settle(shot)


def format_volume(snapshot: Snapshot, group_name: str, name: str) -> Snapshot:
    """Return `snapshot` after `mkfs.ext4` on a volume by somebody."""
    group = find_group(snapshot, group_name)
    found = (Signature("ext4", "filesystem", 1080),)
    lvs = tuple(replace(lv, signatures=found) if lv.name == name else lv for lv in group.lvs)
    return replace_group(snapshot, replace(group, lvs=lvs))


def drop_volume(snapshot: Snapshot, group_name: str, name: str) -> Snapshot:
    """Return `snapshot` after `lvremove` of an LV by somebody."""
    group = find_group(snapshot, group_name)
    lv = group.find_lv(name)
    return settle(remove_volume(snapshot, group, lv.uuid)) if lv else snapshot


def stranger_pool(snapshot: Snapshot, step: CreateThinPool) -> Snapshot:
    """Return `snapshot` with the pool of `step`, made by somebody without tags."""
    shot = define_pool(snapshot, step, uuid_of("stranger"), tags=())
    group = find_group(shot, step.group)
    lv = group.find_lv(step.lv)
    return settle(activate_pool(shot, group, lv)) if lv else shot
