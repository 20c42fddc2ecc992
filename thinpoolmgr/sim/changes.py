"""What becomes of a pool that is enlarged, set otherwise, refreshed or resumed: LVM's metadata, then the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from thinpoolmgr.core.conditions import why_not_refreshed
from thinpoolmgr.core.model import LogicalVolume, LvmProfile, PhysicalVolume, Snapshot, VolumeGroup
from thinpoolmgr.core.names import OUR_TAG, live_pool_device
from thinpoolmgr.core.sizing import extents_on
from thinpoolmgr.core.steps import (
    EditLvmProfile,
    ExtendData,
    ExtendMetadata,
    ExtendVolumeGroup,
    RefreshPool,
    ResumeDevice,
    SetDiscards,
    SetProfile,
    SetWhenFull,
    SetZeroing,
    TagPool,
    TakeCharge,
)
from thinpoolmgr.core.thinstatus import METADATA_BLOCK_BYTES
from thinpoolmgr.errors import CommandFailedError
from thinpoolmgr.sim.parts import (
    LABEL,
    empty_pool_status,
    find_group,
    low_water,
    pool_table,
    replace_group,
    reserve_blocks,
    set_volumes,
    spare_name,
    uuid_of,
    volume,
)

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Disk, DmDevice, ThinPoolStatus


def find_volume(snapshot: Snapshot, group_name: str, name: str) -> tuple[VolumeGroup, LogicalVolume]:
    """Return a group and its LV.

    Raises:
        CommandFailedError: there is none, or a disk of the group is away.

    """
    group = find_group(snapshot, group_name)
    lv = group.find_lv(name)
    if lv is None:
        raise CommandFailedError("lvm failed", f'Failed to find logical volume "{group_name}/{name}"')
    if group.is_partial:
        raise CommandFailedError("lvm failed", f"Cannot change VG {group.name} while PVs are missing.")
    return group, lv


def extend_group(snapshot: Snapshot, step: ExtendVolumeGroup, seed: str) -> Snapshot:
    """Return `snapshot` with more disks in the group.

    Raises:
        CommandFailedError: a disk is in use, not blank or not there, or one of the group's is away.

    """
    group = find_group(snapshot, step.group)
    paths = [disk.path for disk in step.disks]
    found = [disk for path in paths for disk in snapshot.disks if disk.path == path]
    taken = {pv.path for other in snapshot.groups for pv in other.pvs}
    bad = [disk.path for disk in found if disk.path in taken or not _is_free(disk)]
    if group.is_partial or bad or len(found) < len(paths):
        raise CommandFailedError("vgextend failed", f"Cannot use {', '.join(bad) or 'a device'}.")
    orphans = {pv.path: pv.uuid for pv in snapshot.orphan_pvs}
    sizes = [extents_on(disk, group.extent_bytes) for disk in found]
    pvs = tuple(
        PhysicalVolume(
            disk.path,
            orphans.get(disk.path, uuid_of(f"pv {disk.path}{seed}")),
            disk.size_bytes,
            size * group.extent_bytes,
        )
        for disk, size in zip(found, sizes, strict=True)
    )
    larger = replace(
        group,
        pvs=(*group.pvs, *pvs),
        extent_count=group.extent_count + sum(sizes),
        free_extents=group.free_extents + sum(sizes),
        seqno=group.seqno + 1,
    )
    disks = tuple(replace(disk, signatures=(LABEL,)) if disk.path in paths else disk for disk in snapshot.disks)
    kept = tuple(pv for pv in snapshot.orphan_pvs if pv.path not in paths)
    return replace_group(replace(snapshot, disks=disks, orphan_pvs=kept), larger)


def _is_free(disk: Disk) -> bool:
    is_used = disk.mounts or disk.swap or disk.holders or disk.signatures is None
    return not is_used and set(disk.signatures or ()) <= {LABEL}


def tag(snapshot: Snapshot, step: TagPool) -> Snapshot:
    """Return `snapshot` with our tag on the group, on its pool, or on both."""
    group = find_group(snapshot, step.group)
    lvs = tuple(replace(lv, tags=(*lv.tags, OUR_TAG)) if step.tag_lv and lv.name == step.lv else lv for lv in group.lvs)
    tags = (*group.tags, OUR_TAG) if step.tag_group else group.tags
    written = int(step.tag_group) + int(step.tag_lv)
    return replace_group(snapshot, replace(group, tags=tags, lvs=lvs, seqno=group.seqno + written))


def define_extension(snapshot: Snapshot, step: ExtendData | ExtendMetadata) -> Snapshot:
    """Return `snapshot` with the larger pool in LVM's metadata and not in the kernel.

    Raises:
        CommandFailedError: there is no room, or the new size is not larger.

    """
    group, lv = find_volume(snapshot, step.group, step.lv)
    if isinstance(step, ExtendData):
        size = step.data_extents * step.extent_bytes
        if size <= lv.size_bytes:
            raise CommandFailedError("lvextend failed", "New size given is not larger than existing size")
        sizes = {lv.name: size, lv.data_lv: size}
        new = replace(lv, size_bytes=size)
        spare = None
    else:
        sizes = {lv.metadata_lv: step.metadata_bytes}
        new = replace(lv, metadata_bytes=step.metadata_bytes)
        # A new spare is placed after the metadata has grown.
        placed = replace(group, lvs=tuple(_of_size(x, sizes.get(x.name, 0)) for x in group.lvs))
        spare = group.spare or volume(placed, spare_name(group), 0)
        sizes[spare.name] = max(spare.size_bytes, step.metadata_bytes)
    lvs = [*group.lvs, *([spare] if spare and spare not in group.lvs else [])]
    grown = tuple(_of_size(new if x is lv else x, sizes.get(x.name, 0)) for x in lvs)
    shot = set_volumes(snapshot, group, grown)
    if find_group(shot, step.group).free_extents < 0:
        raise CommandFailedError("lvextend failed", "Insufficient free space")
    return shot


def _of_size(lv: LogicalVolume, size_bytes: int) -> LogicalVolume:
    return replace(lv, size_bytes=max(lv.size_bytes, size_bytes))


def extend(snapshot: Snapshot, step: ExtendData | ExtendMetadata) -> Snapshot:
    """Return `snapshot` with the larger pool in LVM's metadata and, if it runs, in the kernel."""
    shot = define_extension(snapshot, step)
    return reload(shot, *find_volume(shot, step.group, step.lv))


def change_setting(snapshot: Snapshot, step: SetDiscards | SetZeroing | SetProfile | SetWhenFull) -> Snapshot:
    """Return `snapshot` with one setting of the pool changed, in the kernel, too.

    Raises:
        CommandFailedError: LVM refuses it, or there is no such profile.

    """
    shot = define_setting(snapshot, step)
    return reload(shot, *find_volume(shot, step.group, step.lv))


def define_setting(snapshot: Snapshot, step: SetDiscards | SetZeroing | SetProfile | SetWhenFull) -> Snapshot:
    """Return `snapshot` with one setting of the pool changed in LVM's metadata and not in the kernel.

    Raises:
        CommandFailedError: LVM refuses it, or there is no such profile.

    """
    group, lv = find_volume(snapshot, step.group, step.lv)
    match step:
        case SetDiscards():
            is_active = live_pool_device(group, lv.uuid, snapshot.dm_devices) is not None
            if is_active and "ignore" in {lv.discards, step.discards}:
                raise CommandFailedError("lvchange failed", "Cannot change support for discards while pool is active.")
            new = replace(lv, discards=step.discards)
        case SetWhenFull():
            new = lv if step.refresh else replace(lv, when_full=step.when_full)
        case SetZeroing():
            new = replace(lv, zero=step.zero_new_blocks)
        case SetProfile():
            if step.profile and snapshot.find_profile(step.profile) is None:
                raise CommandFailedError("lvchange failed", f"Failed to apply metadata profile {step.profile}.")
            new = replace(lv, profile=step.profile, monitored=bool(step.profile))
    return set_volumes(snapshot, group, tuple(new if x is lv else x for x in group.lvs))


def edit_profile(snapshot: Snapshot, step: EditLvmProfile) -> Snapshot:
    """Return `snapshot` with the profile file written or removed."""
    others = tuple(profile for profile in snapshot.lvm_profiles if profile.name != step.profile)
    new = () if step.new_text is None else (LvmProfile(step.profile, step.new_text),)
    return replace(snapshot, lvm_profiles=(*others, *new))


def refresh(snapshot: Snapshot, step: RefreshPool) -> Snapshot:
    """Return `snapshot` with the kernel's pool as LVM's metadata says.

    Raises:
        CommandFailedError: devices are suspended and LVM's metadata is not ahead of the kernel's.

    """
    group, lv = find_volume(snapshot, step.group, step.lv)
    device = live_pool_device(group, lv.uuid, snapshot.dm_devices)
    if device is not None and device.suspended and device.size_bytes >= lv.size_bytes and not _lags(lv, device):
        raise CommandFailedError("lvchange failed", "Unable to resume. 1 device(s) still suspended.")
    return reload(snapshot, group, lv)


def take_charge(snapshot: Snapshot, step: TakeCharge) -> Snapshot:
    """Return `snapshot` with a pool that dmeventd has let go of, and with its low-water mark."""
    group, lv = find_volume(snapshot, step.group, step.lv)
    new = replace(lv, monitored=False)
    shot = set_volumes(snapshot, group, tuple(new if x is lv else x for x in group.lvs))
    shot = reload(shot, *find_volume(shot, step.group, step.lv))
    device = live_pool_device(group, lv.uuid, shot.dm_devices)
    if device is None:
        return shot
    blocks = lv.size_bytes // lv.chunk_bytes * (100 - step.threshold_percent) // 100
    table = pool_table(lv, device.depends_on, blocks)
    return replace(
        shot, dm_devices=tuple(replace(d, table=table) if d.devno == device.devno else d for d in shot.dm_devices)
    )


def _lags(lv: LogicalVolume, device: DmDevice) -> bool:
    return bool(why_not_refreshed(lv, replace(device, suspended=False)))


def resume(snapshot: Snapshot, step: ResumeDevice) -> Snapshot:
    """Return `snapshot` with the device resumed, on the table that it had; a pool takes all of its metadata device."""
    found = snapshot.find_dm(step.name)
    if found is None:
        return snapshot
    new = replace(found, suspended=False)
    below = next((d for d in snapshot.dm_devices if found.depends_on[:1] == (d.devno,)), None)
    if found.pool_status is not None and below is not None:
        new = replace(new, pool_status=_with_metadata(found.pool_status, below.size_bytes // METADATA_BLOCK_BYTES))
    return replace(snapshot, dm_devices=tuple(new if d is found else d for d in snapshot.dm_devices))


def suspend(snapshot: Snapshot, names: tuple[str, ...]) -> Snapshot:
    """Return `snapshot` with these devices suspended."""
    devices = tuple(replace(d, suspended=True) if d.name in names else d for d in snapshot.dm_devices)
    return replace(snapshot, dm_devices=devices)


def with_size(snapshot: Snapshot, name: str, size_bytes: int) -> Snapshot:
    """Return `snapshot` with a device that has another table."""
    devices = tuple(replace(d, size_bytes=size_bytes) if d.name == name else d for d in snapshot.dm_devices)
    return replace(snapshot, dm_devices=devices)


def reload(snapshot: Snapshot, group: VolumeGroup, lv: LogicalVolume) -> Snapshot:
    """Return `snapshot` with the tables of the running pool loaded anew, and nothing of it suspended."""
    device = live_pool_device(group, lv.uuid, snapshot.dm_devices)
    if device is None or device.pool_status is None:
        return snapshot
    fresh, old = empty_pool_status(lv), device.pool_status
    status = replace(
        old,
        when_full=fresh.when_full,
        discards=fresh.discards,
        total_data_blocks=max(old.total_data_blocks, fresh.total_data_blocks),
    )
    status = _with_metadata(status, fresh.total_metadata_blocks)
    if _has_room_again(old, status):
        status = replace(status, mode="rw")
    table = pool_table(lv, device.depends_on, low_water(lv, snapshot))
    sizes = {device.devno: lv.size_bytes}
    for number, name in zip(device.depends_on, (lv.metadata_lv, lv.data_lv), strict=True):
        part = group.find_lv(name)
        sizes[number] = part.size_bytes if part else 0
    devices = tuple(
        replace(d, size_bytes=sizes[d.devno], suspended=False) if d.devno in sizes else d for d in snapshot.dm_devices
    )
    devices = tuple(replace(d, pool_status=status, table=table) if d.devno == device.devno else d for d in devices)
    return replace(snapshot, dm_devices=devices)


def _has_room_again(old: ThinPoolStatus, new: ThinPoolStatus) -> bool:
    """More of what ran out ends the mode that its lack began (dm-thin.c, maybe_resize_data_dev and _metadata_dev)."""
    if old.mode == "ro" and not old.needs_check:
        return new.total_metadata_blocks > old.total_metadata_blocks
    return old.mode == "out_of_data_space" and new.total_data_blocks > old.total_data_blocks


def _with_metadata(old: ThinPoolStatus, total: int) -> ThinPoolStatus:
    """Used metadata counts a reserve that grows with the total."""
    total = max(total, old.total_metadata_blocks)
    used = old.used_metadata_blocks - reserve_blocks(old.total_metadata_blocks) + reserve_blocks(total)
    return replace(old, total_metadata_blocks=total, used_metadata_blocks=used)
