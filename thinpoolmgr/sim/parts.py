"""Volume groups, logical volumes and device-mapper devices, as LVM 2.03.16 and Linux 6.1 were seen to make them."""

from __future__ import annotations

import hashlib
import re
from itertools import pairwise
from typing import TYPE_CHECKING

from msgspec.structs import replace

from thinpoolmgr.core.model import Disk, DmDevice, LogicalVolume, PhysicalVolume, Signature, ThinPoolStatus
from thinpoolmgr.core.names import bare_uuid, devices_of_group, live_pool_device, pool_dm_name
from thinpoolmgr.core.own_setup import setup_volumes, volume_device
from thinpoolmgr.errors import CommandFailedError
from thinpoolmgr.units import MIB, SECTOR_BYTES, ceil_to

if TYPE_CHECKING:
    from collections.abc import Callable

    from thinpoolmgr.core.model import Snapshot, VolumeGroup

EXTENT_BYTES = 4 * MIB
LABEL = Signature("LVM2_member", "raid", 536)
_METADATA_BLOCK_BYTES = 4096
_RESERVE_BLOCKS = 4096
_THRESHOLD = re.compile(r"thin_pool_autoextend_threshold=(\d+)", re.ASCII)


def uuid_of(seed: str) -> str:
    """Return an LVM uuid, always the same for the same seed."""
    letters = hashlib.sha256(seed.encode()).hexdigest()[:32]
    cuts = (0, 6, 10, 14, 18, 22, 26, 32)
    return "-".join(letters[a:b] for a, b in pairwise(cuts))


def find_group(snapshot: Snapshot, name: str) -> VolumeGroup:
    """Return the group called `name`.

    Raises:
        CommandFailedError: there is none, as LVM's commands say it.

    """
    group = snapshot.find_group(name)
    if group is None:
        raise CommandFailedError("lvm failed", f'Volume group "{name}" not found')
    return group


def with_groups(snapshot: Snapshot, change: Callable[[VolumeGroup], VolumeGroup]) -> Snapshot:
    """Return `snapshot` with each group changed."""
    return replace(snapshot, groups=tuple(change(group) for group in snapshot.groups))


def replace_group(snapshot: Snapshot, new: VolumeGroup) -> Snapshot:
    """Return `snapshot` with `new` in the place of the group that has its uuid."""
    return with_groups(snapshot, lambda group: new if group.uuid == new.uuid else group)


def set_volumes(snapshot: Snapshot, group: VolumeGroup, lvs: tuple[LogicalVolume, ...]) -> Snapshot:
    """Return `snapshot` with these LVs in `group`, its free extents counted anew, its metadata written once more."""
    extent = group.extent_bytes
    used = sum(ceil_to(lv.size_bytes, extent) for lv in lvs if not lv.is_thin_pool) // extent
    new = replace(group, lvs=lvs, free_extents=group.extent_count - used, seqno=group.seqno + 1)
    return replace_group(snapshot, replace(new, pvs=_with_free_bytes(new)))


def _with_free_bytes(group: VolumeGroup) -> tuple[PhysicalVolume, ...]:
    """Data fills the last disk first, all else the first one: so LVM does with disks of one size."""
    data = sum(lv.size_bytes for lv in group.lvs if lv.name.endswith("_tdata"))
    rest = sum(lv.size_bytes for lv in group.lvs if not lv.is_thin_pool and not lv.name.endswith("_tdata"))
    room = {pv.uuid: pv_extents(pv, group) * group.extent_bytes for pv in group.pvs}
    for size, order in ((rest, group.pvs), (data, tuple(reversed(group.pvs)))):
        left = size
        for pv in order:
            taken = min(left, room[pv.uuid])
            room[pv.uuid] -= taken
            left -= taken
    return tuple(pv if pv.missing else replace(pv, free_bytes=room[pv.uuid]) for pv in group.pvs)


def pv_extents(pv: PhysicalVolume, group: VolumeGroup) -> int:
    """Return how many extents `pv` has; LVM's own metadata takes the first mebibyte."""
    return max(0, pv.size_bytes - (0 if pv.missing else MIB)) // group.extent_bytes


def place(group: VolumeGroup, size_bytes: int) -> tuple[str, ...]:
    """Return where LVM puts a new LV: into the largest gap; `PATH(EXTENT)` as its report says it."""
    gaps = [gap for pv in group.pvs if not pv.missing for gap in _gaps(pv, group)]
    whole = [gap for gap in gaps if gap[0] * group.extent_bytes >= size_bytes] or gaps
    if not whole:
        return ()
    size, path, start = max(whole, key=lambda gap: gap[0])
    del size
    return (f"{path}({start})",)


def _gaps(pv: PhysicalVolume, group: VolumeGroup) -> list[tuple[int, str, int]]:
    taken = sorted(_range(lv, group) for lv in group.lvs if lv.devices and lv.devices[0].startswith(f"{pv.path}("))
    gaps, start = [], 0
    for first, after in (*taken, (pv_extents(pv, group),) * 2):
        if first > start:
            gaps.append((first - start, pv.path, start))
        start = max(start, after)
    return gaps


def _range(lv: LogicalVolume, group: VolumeGroup) -> tuple[int, int]:
    start = int(lv.devices[0].partition("(")[2].rstrip(")"))
    return start, start + ceil_to(lv.size_bytes, group.extent_bytes) // group.extent_bytes


def volume(group: VolumeGroup, name: str, size_bytes: int, *tags: str, seed: str = "") -> LogicalVolume:
    """Return a new linear LV as it would be placed in `group`."""
    return LogicalVolume(
        name,
        uuid_of(f"lv {group.uuid} {name}{seed}"),
        "linear",
        size_bytes,
        "-wi-------",
        tags=tags,
        dm_name=pool_dm_name(group.name, name),
        devices=place(group, size_bytes),
    )


def spare_name(group: VolumeGroup) -> str:
    """Return the name that LVM makes up for a new metadata spare."""
    taken = {lv.name.partition("_")[0] for lv in group.lvs}
    return next(f"lvol{n}_pmspare" for n in range(1000) if f"lvol{n}" not in taken)


def next_devno(snapshot: Snapshot) -> str:
    """Return the number that the kernel gives to the next device-mapper device."""
    used = {int(d.devno.partition(":")[2]) for d in snapshot.dm_devices}
    return f"254:{next(n for n in range(1000) if n not in used)}"


def add_device(snapshot: Snapshot, device: DmDevice) -> Snapshot:
    """Return `snapshot` with `device`, numbered, which opens what it stands on."""
    new = replace(device, devno=next_devno(snapshot))
    devices = [
        replace(d, open_count=d.open_count + 1) if d.devno in device.depends_on else d for d in snapshot.dm_devices
    ]
    return replace(snapshot, dm_devices=(*devices, new))


def drop_devices(snapshot: Snapshot, gone: tuple[DmDevice, ...]) -> Snapshot:
    """Return `snapshot` without these devices; what they stood on is closed."""
    numbers = [number for device in gone for number in device.depends_on]
    kept = tuple(
        replace(d, open_count=d.open_count - numbers.count(d.devno)) for d in snapshot.dm_devices if d not in gone
    )
    return replace(snapshot, dm_devices=kept)


def activate_volume(snapshot: Snapshot, group: VolumeGroup, lv: LogicalVolume, layer: str = "") -> Snapshot:
    """Return `snapshot` with the linear device of `lv`."""
    uuid = f"LVM-{bare_uuid(group.uuid)}{bare_uuid(lv.uuid)}{layer}"
    below = _numbers_below(snapshot, group, lv)
    name = pool_dm_name(group.name, lv.name)
    return add_device(
        snapshot, DmDevice(name, uuid, "", 0, targets=("linear",), depends_on=below, size_bytes=lv.size_bytes)
    )


def _numbers_below(snapshot: Snapshot, group: VolumeGroup, lv: LogicalVolume) -> tuple[str, ...]:
    home = next((pv for pv in group.pvs if lv.devices and lv.devices[0].startswith(f"{pv.path}(")), None)
    beside = sum(
        x.size_bytes for x in group.lvs if x is not lv and not x.is_thin_pool and x.devices[:1] == lv.devices[:1]
    )
    fits = home is not None and lv.size_bytes + beside <= pv_extents(home, group) * group.extent_bytes
    paths = {home.path} if home is not None and fits else {pv.path for pv in group.pvs}
    return tuple(disk.devno for disk in snapshot.disks if disk.path in paths)


def activate_components(snapshot: Snapshot, group: VolumeGroup, lv: LogicalVolume) -> Snapshot:
    """Return `snapshot` with the metadata and data devices of the pool `lv`: what a kill midway leaves."""
    for name, layer in ((lv.metadata_lv, "-tmeta"), (lv.data_lv, "-tdata")):
        part = group.find_lv(name)
        if part is not None:
            snapshot = activate_volume(snapshot, group, part, layer)
    return snapshot


def activate_pool(snapshot: Snapshot, group: VolumeGroup, lv: LogicalVolume) -> Snapshot:
    """Return `snapshot` with the pool `lv` running.

    Raises:
        CommandFailedError: a disk is away, or a part of the pool is in the kernel already.

    """
    if group.is_partial:
        raise CommandFailedError("lvchange failed", f"Refusing activation of partial LV {group.name}/{lv.name}.")
    if live_pool_device(group, lv.uuid, snapshot.dm_devices) is not None:
        return snapshot
    names = {pool_dm_name(group.name, name) for name in (lv.name, lv.data_lv, lv.metadata_lv)}
    if any(device.name in names for device in snapshot.dm_devices):
        raise CommandFailedError("lvchange failed", f"Thin pool {group.name}/{lv.name} has active components.")
    snapshot = activate_components(snapshot, group, lv)
    numbers = tuple(
        d.devno
        for name in (lv.metadata_lv, lv.data_lv)
        if (d := snapshot.find_dm(pool_dm_name(group.name, name))) is not None
    )
    uuid = f"LVM-{bare_uuid(group.uuid)}{bare_uuid(lv.uuid)}-tpool"
    pool = DmDevice(
        pool_dm_name(group.name, lv.name),
        uuid,
        "",
        0,
        targets=("thin-pool",),
        depends_on=numbers,
        size_bytes=lv.size_bytes,
        pool_status=empty_pool_status(lv),
        table=pool_table(lv, numbers, low_water(lv, snapshot)),
    )
    return add_device(snapshot, pool)


def empty_pool_status(lv: LogicalVolume) -> ThinPoolStatus:
    """Return the kernel's word on a pool in which nothing is."""
    total = lv.metadata_bytes // _METADATA_BLOCK_BYTES
    words = {"passdown": "discard_passdown", "nopassdown": "no_discard_passdown", "ignore": "ignore_discard"}
    return ThinPoolStatus(
        mode="rw",
        used_metadata_blocks=reserve_blocks(total),
        total_metadata_blocks=total,
        total_data_blocks=lv.size_bytes // lv.chunk_bytes,
        discards=words.get(lv.discards, ""),
        when_full=lv.when_full,
    )


def reserve_blocks(total: int) -> int:
    """Return how many of `total` metadata blocks dm-thin keeps as a reserve and counts as used: 10 %, up to 16 MiB."""
    return min(_RESERVE_BLOCKS, total // 10)


def low_water(lv: LogicalVolume, snapshot: Snapshot) -> int:
    """Return the low-water mark that the pool's profile makes, in data blocks; 0 without a profile."""
    profile = snapshot.find_profile(lv.profile) if lv.profile else None
    match = _THRESHOLD.search(profile.text) if profile else None
    return lv.size_bytes // lv.chunk_bytes * (100 - int(match[1])) // 100 if match else 0


def pool_table(lv: LogicalVolume, numbers: tuple[str, ...], low_water_blocks: int = 0) -> str:
    """Return the pool's table as the kernel shows it, features in its order (dm-thin.c, emit_flags)."""
    features = [
        *([] if lv.zero else ["skip_block_zeroing"]),
        *{"ignore": ["ignore_discard"], "nopassdown": ["no_discard_passdown"]}.get(lv.discards, []),
        *(["error_if_no_space"] if lv.when_full == "error" else []),
    ]
    return " ".join(
        (*numbers, str(lv.chunk_bytes // SECTOR_BYTES), str(low_water_blocks), str(len(features)), *features)
    )


def deactivate_group(snapshot: Snapshot, group: VolumeGroup) -> Snapshot:
    """Return `snapshot` without any device of `group`."""
    return drop_devices(snapshot, devices_of_group(group.uuid, snapshot.dm_devices))


def settle(snapshot: Snapshot) -> Snapshot:
    """Return `snapshot` with the facts about disks that follow from the device-mapper devices on them."""
    return replace(snapshot, disks=tuple(_with_holders(disk, snapshot) for disk in snapshot.disks))


def _kernel_name(device: DmDevice) -> str:
    return f"dm-{device.devno.partition(':')[2]}"


def _with_holders(disk: Disk, snapshot: Snapshot) -> Disk:
    now = sorted(_kernel_name(d) for d in snapshot.dm_devices if disk.devno in d.depends_on)
    others = [name for name in disk.holders if not name.startswith("dm-")]
    holders = tuple(dict.fromkeys((*others, *now)))
    if holders == disk.holders:
        return disk
    is_open = bool(holders or disk.mounts or disk.swap)
    return replace(disk, holders=holders, opened_exclusively=is_open)


def with_attributes(snapshot: Snapshot) -> Snapshot:
    """Return `snapshot` with all LVs as they would be reported now: their attributes, and what half-made ones carry.

    No signatures on a volume, not even an empty tuple of them, means that it is blank.
    """
    return with_groups(snapshot, lambda group: _with_signatures(_with_attributes(group, snapshot), snapshot))


def _with_signatures(group: VolumeGroup, snapshot: Snapshot) -> VolumeGroup:
    """What is not half-made, not active, or open is not looked at: see host/observe.py."""
    half_made = setup_volumes(group) or ()

    def seen(lv: LogicalVolume) -> LogicalVolume:
        device = volume_device(group, lv, snapshot.dm_devices) if lv in half_made else None
        is_read = device is not None and not device.suspended and not device.open_count
        return replace(lv, signatures=(lv.signatures or ()) if is_read else None)

    return replace(group, lvs=tuple(seen(lv) for lv in group.lvs))


def _with_attributes(group: VolumeGroup, snapshot: Snapshot) -> VolumeGroup:
    devices = devices_of_group(group.uuid, snapshot.dm_devices)
    gone = any(pv.missing for pv in group.pvs)
    return replace(group, lvs=tuple(_with_attribute(lv, group, devices, gone=gone) for lv in group.lvs))


def _with_attribute(
    lv: LogicalVolume, group: VolumeGroup, devices: tuple[DmDevice, ...], *, gone: bool
) -> LogicalVolume:
    uuid = f"LVM-{bare_uuid(group.uuid)}{bare_uuid(lv.uuid)}"
    device = next((d for d in devices if d.uuid in (uuid, f"{uuid}-tpool", f"{uuid}-tdata", f"{uuid}-tmeta")), None)
    kind = "twi" if lv.is_thin_pool else "Twi" if lv.name.endswith("_tdata") else "-wi"
    if lv.name.endswith(("_tmeta", "_pmspare")):
        kind = "ewi"
    letters = [
        f"{kind}-",
        "-" if device is None else "s" if device.suspended else "a",
        "o" if device and device.open_count else "-",
        "t" if lv.is_thin_pool else "-",
        "z" if lv.zero else "-",
        "p" if gone else "-",
        "-",
    ]
    # LVM finds no segment of its own in the kernel's table, which is shorter or longer (2.03.16).
    if lv.name.endswith("_tmeta") and device is not None and device.size_bytes != lv.size_bytes:
        letters[1:3], letters[5] = ["X", "X"], "X"
    return replace(lv, attr="".join(letters))
