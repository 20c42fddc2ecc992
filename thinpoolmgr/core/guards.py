"""What must hold before a byte is written to a disk, and the refusal where it does not.

A disk that is mounted, swapped on, held, opened exclusively, part of a volume group, or the home of any signature
is never written to. `wipe_signatures` lifts only the last of these. Unknown is a refusal.
"""

from __future__ import annotations

from thinpoolmgr.core.desired import DesiredPool, DesiredState
from thinpoolmgr.core.matching import multipath_over, needs_spares
from thinpoolmgr.core.model import ConfiguredDevice, Disk, PhysicalVolume, Signature, Snapshot
from thinpoolmgr.core.plan import Memory, Refusal
from thinpoolmgr.core.steps import CreateVolumeGroup, DiskRef, ExtendVolumeGroup, RemovePhysicalVolumes, WipeSignatures

MIN_DISK_BYTES = 16 * 1024 * 1024
PV_SIGNATURE = "LVM2_member"
_PATH_CODES = {"missing": "DISK_MISSING", "not a block device": "NOT_A_BLOCK_DEVICE"}


def check_paths(desired: DesiredState, snapshot: Snapshot) -> list[Refusal]:
    """Return refusals for paths that lead nowhere, to a disk that is named already, or to one that two pools name.

    A spare disk that is away is no reason to keep a pool, and its engine, from running that is whole without it.
    """
    refusals: list[Refusal] = []
    seen: dict[str, tuple[str, str]] = {}
    for pool in desired.pools:
        for path in dict.fromkeys((*pool.config.devices, *pool.config.spare_devices)):
            device = _lead(path, pool, snapshot)
            if device is None or device.problem:
                is_needed = path in pool.config.devices or needs_spares(pool, snapshot)
                refusals += [_unusable(pool, path, device)] if is_needed else []
                continue
            twice = _same_or_nested(device.disk, seen, snapshot)
            if twice and seen[twice] != (pool.name, path):
                refusals.append(_same_disk((pool.name, path), seen[twice], twice))
            seen.setdefault(device.disk, (pool.name, path))
    return refusals


def _lead(path: str, pool: DesiredPool, snapshot: Snapshot) -> ConfiguredDevice | None:
    """What `path` leads to: as it was looked at; a disk that a selector chose was, under another name."""
    disk = snapshot.find_disk(path) if pool.chosen_by and path in pool.config.devices else None
    named = next((d for d in snapshot.configured_devices if d.configured_path == path), None)
    return ConfiguredDevice(path, disk.path) if disk else named


def _same_or_nested(disk: str, seen: dict[str, tuple[str, str]], snapshot: Snapshot) -> str:
    """Return the disk of `seen` that is `disk`, a partition of it, or what it is a partition of; empty when none is."""
    if disk in seen:
        return disk
    for other in snapshot.disks:
        if other.path in seen and disk in other.partitions:
            return other.path
        if other.path == disk:
            return next((part for part in other.partitions if part in seen), "")
    return ""


def _unusable(pool: DesiredPool, path: str, device: ConfiguredDevice | None) -> Refusal:
    problem = device.problem if device else "was not looked at"
    return Refusal(
        path_code(problem),
        path,
        f"{path} is {problem}" if problem in _PATH_CODES else f"{path}: {problem}",
        f"pools.{pool.name} of the configuration names it.",
        "Attach the disk, or correct the path; lsblk -o NAME,SIZE,SERIAL,MODEL and /dev/disk/by-id show what there is.",
    )


def refuse_spares(pool: DesiredPool, snapshot: Snapshot) -> list[Refusal]:
    """Return a refusal for each path of `spare_devices` that leads nowhere: for a run that needs them."""
    led = [(path, _lead(path, pool, snapshot)) for path in pool.config.spare_devices]
    return [_unusable(pool, path, device) for path, device in led if device and device.problem]


def unusable_spares(pool: DesiredPool, snapshot: Snapshot) -> dict[str, str]:
    """Return what is wrong with spare disks that `pool` does without as yet, by their paths in the configuration."""
    group = snapshot.find_group(pool.group)
    if group is None or needs_spares(pool, snapshot):
        return {}
    away = {refusal.target: refusal.summary for refusal in refuse_spares(pool, snapshot)}
    taken = {pv.path for pv in group.pvs}
    there = [(path, snapshot.find_disk(path)) for path in pool.config.spare_devices if path not in away]
    unread = [(path, disk) for path, disk in there if disk and disk.signatures is None and disk.path not in taken]
    return away | {path: f"{path} cannot be read: {disk.probe_error or 'no reason given'}" for path, disk in unread}


def warn_of_spares(pool: DesiredPool, snapshot: Snapshot) -> list[str]:
    """Return what a person should know of spare disks before the pool has to grow."""
    found = unusable_spares(pool, snapshot).values()
    return [f"{what}; as a spare disk of pools.{pool.name} it cannot be taken when the pool is full." for what in found]


def path_code(problem: str) -> str:
    """Return the code for what is wrong with a path of the configuration."""
    return _PATH_CODES.get(problem, "DISK_UNREADABLE")


def _same_disk(second: tuple[str, str], first: tuple[str, str], disk: str) -> Refusal:
    (pool, path), (other_pool, other) = second, first
    summary = f"{path} and {other} are, or are on, the same disk, {disk}"
    details = f"pools.{pool} has it a second time."
    if pool != other_pool:
        details = f"pools.{other_pool} has {other}, and pools.{pool} is to have {path}: a disk carries one pool only."
    if path == other:
        summary = f"pools.{other_pool} and pools.{pool} both take {path}"
    return Refusal("SAME_DISK_TWICE", path, summary, details, "Name each disk once, for one pool.", exit_code=78)


def check_disk(disk: Disk, pool: DesiredPool, snapshot: Snapshot, memory: Memory) -> list[Refusal]:
    """Return why `disk` must not become part of `pool`; empty when it may, perhaps after a wipe."""
    found = [*_check_use(disk, snapshot), *_check_fitness(disk)]
    if found:
        return found
    return _check_signatures(disk, pool, snapshot, memory)


def _check_use(disk: Disk, snapshot: Snapshot) -> list[Refusal]:
    path, refusals = disk.path, []
    if disk.mounts:
        refusals.append(_in_use("DISK_MOUNTED", path, f"is mounted on {', '.join(disk.mounts[:3])}", "unmount it"))
    if disk.swap:
        refusals.append(_in_use("DISK_IS_SWAP", path, "is in use as swap space", "swapoff it"))
    if disk.holders:
        over = multipath_over(disk, snapshot)
        way = f"name the multipath device /dev/mapper/{over} instead" if over else "release it there"
        refusals.append(_in_use("DISK_HELD", path, f"is held by {', '.join(disk.holders)}", way))
    if (own := next((d for d in snapshot.dm_devices if d.devno == disk.devno), None)) and own.uuid.startswith("LVM-"):
        refusals.append(_in_use("DISK_IS_LV", path, f"is the logical volume {own.name}", "name its disk instead"))
    group = snapshot.find_group_on(disk)
    if group is not None:
        refusals.append(
            _in_use("DISK_IN_GROUP", path, f"belongs to the volume group {group.name}", "take it out of that group")
        )
    if disk.opened_exclusively and not refusals:
        refusals.append(_in_use("DISK_OPEN", path, "is opened exclusively by another program", "end that program"))
    if disk.opened_exclusively is None:
        refusals.append(
            _unknown(path, f"whether it is in use could not be found out: {disk.probe_error or 'no reason given'}")
        )
    return refusals


def _in_use(code: str, path: str, what: str, way: str) -> Refusal:
    resolution = (
        f"If {path} really is meant for a pool, {way}, and run this again. Otherwise correct the configuration."
    )
    return Refusal(
        code, path, f"{path} {what}", "A disk in use is never written to; no option changes that.", resolution
    )


def _unknown(path: str, details: str) -> Refusal:
    resolution = "Look at the disk (dmesg, smartctl -a, blkid -p); a disk in doubt is never written to."
    return Refusal("DISK_UNKNOWN", path, f"{path} cannot be judged", details, resolution)


def _check_fitness(disk: Disk) -> list[Refusal]:
    if disk.read_only:
        return [
            Refusal(
                "DISK_READ_ONLY",
                disk.path,
                f"{disk.path} is read-only",
                "",
                "Choose another disk, or make it writable.",
            )
        ]
    if disk.size_bytes < MIN_DISK_BYTES:
        details = f"It has {disk.size_bytes} bytes; a pool with its metadata needs at least {MIN_DISK_BYTES}."
        return [Refusal("DISK_TOO_SMALL", disk.path, f"{disk.path} is too small", details, "Choose a larger disk.")]
    return []


def _check_signatures(disk: Disk, pool: DesiredPool, snapshot: Snapshot, memory: Memory) -> list[Refusal]:
    if disk.signatures is None:
        return [_unknown(disk.path, f"reading its signatures failed: {disk.probe_error or 'no reason given'}")]
    foreign = foreign_signatures(disk, snapshot, memory)
    if any(signature.type == PV_SIGNATURE for signature in foreign) and not _is_listed_orphan(disk, snapshot):
        details = (
            "LVM does not list it as unused: a duplicate, or hidden by a filter or a devices file. It may be in use."
        )
        resolution = (
            f"See what LVM makes of it (pvs -a -o +pv_duplicate; lvmconfig devices); do not wipe {disk.path} blindly."
        )
        return [Refusal("DISK_UNKNOWN", disk.path, f"{disk.path} carries LVM's label", details, resolution)]
    hidden = _hidden_partition(disk, snapshot)
    if hidden:
        resolution = f"See what LVM makes of it (pvs -a; lvmconfig devices); do not wipe {disk.path} blindly."
        return [Refusal("DISK_UNKNOWN", disk.path, f"{disk.path}: {hidden}", "It may be in use.", resolution)]
    # Only a disk that somebody named is wiped: a selector may choose one that nobody thought of.
    if not foreign or (pool.config.wipe_signatures and not pool.chosen_by):
        return []
    listed = describe_contents(disk, foreign)
    way = "name it in devices instead of match, " if pool.chosen_by else ""
    resolution = (
        f"Look what is on it (blkid -p {disk.path}). If it is worthless, {way}set wipe_signatures = true for "
        f"pools.{pool.name}, and apply with --allow destroy."
    )
    summary = f"{disk.path} carries a signature: {listed}"
    return [Refusal("DISK_HAS_SIGNATURE", disk.path, summary, "It may hold data.", resolution)]


def _hidden_partition(disk: Disk, snapshot: Snapshot) -> str:
    """What makes a partition something that a wipe of the whole disk must not touch; empty when nothing does."""
    if disk.labelled_partitions is None:
        return "a partition of it cannot be read"
    orphans = {pv.path for pv in snapshot.orphan_pvs if not pv.duplicate}
    hidden = [path for path in disk.labelled_partitions if path not in orphans]
    return f"its partition {hidden[0]} carries LVM's label, and LVM does not list it as unused" if hidden else ""


def _is_listed_orphan(disk: Disk, snapshot: Snapshot) -> bool:
    return any(pv.path == disk.path and not pv.duplicate for pv in snapshot.orphan_pvs)


def describe_contents(disk: Disk, signatures: tuple[Signature, ...]) -> str:
    """Return what `signatures` and partitions say is on `disk`, in a few words."""
    listed = ", ".join(f"{signature.type} at byte {signature.offset_bytes}" for signature in signatures[:4])
    more = f", and {len(signatures) - 4} more" if len(signatures) > 4 else ""
    partitions = f" (partitions: {', '.join(disk.partitions[:4])})" if disk.partitions else ""
    return f"{listed}{more}{partitions}"


def foreign_signatures(disk: Disk, snapshot: Snapshot, memory: Memory) -> tuple[Signature, ...]:
    """Return the signatures of `disk` that are not the label of a physical volume of our own making.

    A run that was interrupted inside `vgcreate` or before `pvremove` leaves a label without a group.
    """
    signatures = disk.signatures or ()
    orphan = next((pv for pv in snapshot.orphan_pvs if pv.path == disk.path), None)
    if orphan is not None and is_our_leftover(orphan, disk, memory):
        return tuple(signature for signature in signatures if signature.type != PV_SIGNATURE)
    return signatures


def is_our_leftover(orphan: PhysicalVolume, disk: Disk, memory: Memory) -> bool:
    """Whether the journal shows that we were making or unmaking this physical volume when we were interrupted."""
    if orphan.duplicate:
        return False
    begun = [
        step
        for step in memory.interrupted
        if isinstance(step, CreateVolumeGroup | ExtendVolumeGroup | RemovePhysicalVolumes)
    ]
    to_come = [step for step in memory.pending if isinstance(step, RemovePhysicalVolumes)]
    return any(
        is_same_disk(ref, disk)
        for step in (*begun, *to_come)
        if not isinstance(step, RemovePhysicalVolumes) or orphan.uuid in step.pv_uuids
        for ref in step.disks
    )


def is_same_disk(ref: DiskRef, disk: Disk) -> bool:
    """Whether `disk` is the one `ref` meant: by serial where it has one, otherwise by device number; and by size."""
    same = ref.serial == disk.serial if ref.serial or disk.serial else ref.devno == disk.devno
    return same and ref.size_bytes == disk.size_bytes


def disk_ref(disk: Disk) -> DiskRef:
    """Return `disk` as a step refers to it."""
    return DiskRef(disk.path, disk.devno, disk.size_bytes, disk.serial, disk.diskseq)


def check_sector_sizes(disks: list[Disk], pool: DesiredPool) -> list[Refusal]:
    """Return a refusal when `disks`, which are to carry one pool, have different sector sizes."""
    if len({disk.sector_bytes for disk in disks}) <= 1:
        return []
    listed = ", ".join(f"{disk.path} {disk.sector_bytes}" for disk in disks)
    details = f"Bytes a sector: {listed}. A file system made on one kind may not be readable from the other."
    resolution = f"Give pools.{pool.name} disks of one kind, and make another pool of the others."
    return [Refusal("SECTOR_SIZES_DIFFER", pool.path, "the disks have different sector sizes", details, resolution)]


def plan_wipes(disks: list[Disk], pool: DesiredPool, snapshot: Snapshot, memory: Memory) -> list[WipeSignatures]:
    """Return the steps that erase what `check_disk` lets be erased from `disks`."""
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
