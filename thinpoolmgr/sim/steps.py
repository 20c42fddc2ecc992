"""What a snapshot becomes when a step is carried out, and what the host's commands fail with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from thinpoolmgr.core.model import LogicalVolume, PhysicalVolume, VolumeGroup
from thinpoolmgr.core.names import OUR_TAG, bare_uuid, pool_dm_name
from thinpoolmgr.core.sizing import extents_on
from thinpoolmgr.core.steps import (
    ActivatePool,
    CreateThinPool,
    CreateVolumeGroup,
    DeactivatePool,
    DeleteSetAside,
    EditLvmProfile,
    EngineStep,
    ExtendData,
    ExtendMetadata,
    ExtendVolumeGroup,
    GrowBase,
    MoveStateAside,
    RefreshPool,
    ReloadUnits,
    RemoveDmDevice,
    RemoveLeftover,
    RemovePhysicalVolumes,
    RemoveThinPool,
    RemoveVolumeGroup,
    ResumeDevice,
    SetDiscards,
    SetProfile,
    SetWhenFull,
    SetZeroing,
    StartEngine,
    Step,
    StopContainers,
    StopEngine,
    TagPool,
    TakeCharge,
    WipeSignatures,
    WriteEngineConfig,
)
from thinpoolmgr.errors import CommandFailedError
from thinpoolmgr.sim import changes
from thinpoolmgr.sim.parts import (
    EXTENT_BYTES,
    LABEL,
    activate_pool,
    drop_devices,
    find_group,
    set_volumes,
    settle,
    spare_name,
    uuid_of,
    volume,
)
from thinpoolmgr.units import ceil_to

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Disk, Engine, Snapshot
    from thinpoolmgr.core.steps import DiskRef


def apply_step(snapshot: Snapshot, step: Step, generation: int = 0) -> Snapshot:
    """Return what `snapshot` becomes when `step` is carried out; what is made anew gets uuids of its `generation`.

    Raises:
        CommandFailedError: what the host's commands would fail with.

    """
    return settle(_apply(snapshot, step, f" #{generation}" if generation else ""))


def _apply(snapshot: Snapshot, step: Step, seed: str) -> Snapshot:  # noqa: PLR0912 - one branch a step
    match step:
        case WipeSignatures():
            return _blank(snapshot, (step.disk,), "wipefs")
        case CreateVolumeGroup():
            return make_group(snapshot, step.group, tuple(disk.path for disk in step.disks), (OUR_TAG,), seed)
        case CreateThinPool():
            return _create_pool(snapshot, step, seed)
        case ExtendVolumeGroup():
            return changes.extend_group(snapshot, step, seed)
        case TagPool():
            return changes.tag(snapshot, step)
        case ExtendData() | ExtendMetadata():
            return changes.extend(snapshot, step)
        case SetWhenFull() | SetDiscards() | SetZeroing() | SetProfile():
            return changes.change_setting(snapshot, step)
        case EditLvmProfile():
            return changes.edit_profile(snapshot, step)
        case TakeCharge():
            return changes.take_charge(snapshot, step)
        case RefreshPool():
            return changes.refresh(snapshot, step)
        case ResumeDevice():
            return changes.resume(snapshot, step)
        case ActivatePool():
            group, lv = _find_volume(snapshot, step.group, step.lv)
            return activate_pool(snapshot, group, lv)
        case DeactivatePool():
            group, lv = _find_volume(snapshot, step.group, step.lv)
            return deactivate(snapshot, group, lv)
        case RemoveDmDevice():
            return _remove_dm(snapshot, step)
        case RemoveLeftover() | RemoveThinPool():
            return remove_volume(snapshot, find_group(snapshot, step.group), step.lv_uuid)
        case RemoveVolumeGroup():
            return _remove_group(snapshot, find_group(snapshot, step.group))
        case RemovePhysicalVolumes():
            paths = {ref.path for ref in step.disks}
            if any(pv.path in paths for group in snapshot.groups for pv in group.pvs):
                raise CommandFailedError("pvremove failed", "PV is used by a volume group.")
            orphans = tuple(pv for pv in snapshot.orphan_pvs if pv.path not in paths)
            return replace(_blank(snapshot, step.disks, "pvremove"), orphan_pvs=orphans)
        case (
            StopContainers()
            | StopEngine()
            | StartEngine()
            | MoveStateAside()
            | DeleteSetAside()
            | GrowBase()
            | WriteEngineConfig()
            | ReloadUnits()
        ):
            return _apply_to_engine(snapshot, step)


def _find_volume(snapshot: Snapshot, group_name: str, name: str) -> tuple[VolumeGroup, LogicalVolume]:
    group = find_group(snapshot, group_name)
    lv = group.find_lv(name)
    if lv is None:
        raise CommandFailedError("lvm failed", f'Failed to find logical volume "{group_name}/{name}"')
    return group, lv


def _refuse_partial(group: VolumeGroup, command: str) -> None:
    if group.is_partial:
        raise CommandFailedError(f"{command} failed", f"Cannot change VG {group.name} while PVs are missing.")


def _blank(snapshot: Snapshot, refs: tuple[DiskRef, ...], command: str) -> Snapshot:
    paths = {ref.path for ref in refs}
    disks = [disk for disk in settle(snapshot).disks if disk.path in paths]
    busy = [disk.path for disk in disks if disk.mounts or disk.swap or disk.holders or disk.signatures is None]
    if busy or len(disks) < len(paths):
        raise CommandFailedError(f"{command} failed", f"{', '.join(busy) or 'a disk'}: busy, unreadable or not there")
    blank = tuple(replace(disk, signatures=()) if disk.path in paths else disk for disk in snapshot.disks)
    orphans = tuple(pv for pv in snapshot.orphan_pvs if pv.path not in paths)
    return replace(snapshot, disks=blank, orphan_pvs=orphans)


def make_group(
    snapshot: Snapshot, name: str, paths: tuple[str, ...], tags: tuple[str, ...] = (), seed: str = ""
) -> Snapshot:
    """Return `snapshot` with a new, empty group on these disks, which must be blank or unused physical volumes.

    Raises:
        CommandFailedError: the name is taken, or a disk is in use, not blank or not there.

    """
    if snapshot.find_group(name):
        raise CommandFailedError("vgcreate failed", f"A volume group called {name} already exists.")
    found = sorted((d for d in snapshot.disks if d.path in paths), key=lambda disk: paths.index(disk.path))
    bad = [disk.path for disk in found if disk.mounts or disk.swap or disk.holders or not _is_free(disk)]
    taken = [pv.path for group in snapshot.groups for pv in group.pvs if pv.path in paths]
    if bad or taken or len(found) < len(paths):
        raise CommandFailedError("vgcreate failed", f"Cannot use {', '.join(bad + taken) or 'a device'}.")
    orphans = {pv.path: pv.uuid for pv in snapshot.orphan_pvs}
    sizes = [extents_on(disk) for disk in found]
    pvs = tuple(
        PhysicalVolume(
            disk.path, orphans.get(disk.path, uuid_of(f"pv {disk.path}{seed}")), disk.size_bytes, size * EXTENT_BYTES
        )
        for disk, size in zip(found, sizes, strict=True)
    )
    total = sum(sizes)
    uuid = uuid_of(f"vg {name}{seed}")
    group = VolumeGroup(name, uuid, "wz--n-", EXTENT_BYTES, total, total, 1, tags=tags, pvs=pvs)
    disks = tuple(replace(disk, signatures=(LABEL,)) if disk.path in paths else disk for disk in snapshot.disks)
    kept = tuple(pv for pv in snapshot.orphan_pvs if pv.path not in paths)
    return replace(snapshot, groups=(*snapshot.groups, group), disks=disks, orphan_pvs=kept)


def _is_free(disk: Disk) -> bool:
    return disk.signatures is not None and set(disk.signatures) <= {LABEL}


def _create_pool(snapshot: Snapshot, step: CreateThinPool, seed: str) -> Snapshot:
    made = define_pool(snapshot, step, seed)
    group, lv = _find_volume(made, step.group, step.lv)
    return activate_pool(made, group, lv)


def define_pool(
    snapshot: Snapshot, step: CreateThinPool, seed: str = "", tags: tuple[str, ...] = (OUR_TAG,)
) -> Snapshot:
    """Return `snapshot` with the pool of `step` in LVM's metadata and not in the kernel.

    Raises:
        CommandFailedError: the name is taken, a disk is away, or there is no room.

    """
    group = find_group(snapshot, step.group)
    _refuse_partial(group, "lvcreate")
    spares = [lv for lv in group.lvs if lv.name.endswith("_pmspare")]
    metadata = ceil_to(step.metadata_bytes, group.extent_bytes)
    data = step.data_extents * group.extent_bytes
    needed = (data + metadata * (1 if spares else 2)) // group.extent_bytes
    if group.find_lv(step.lv) or needed > group.free_extents:
        raise CommandFailedError("lvcreate failed", f"{step.lv} exists, or {needed} extents are not free")
    grown = group
    names = [
        *([] if spares else [(spare_name(group), metadata)]),
        (f"{step.lv}_tdata", data),
        (f"{step.lv}_tmeta", metadata),
    ]
    for name, size in names:
        made = replace(volume(grown, name, size, seed=seed), profile=step.profile)
        grown = replace(grown, lvs=(*grown.lvs, made))
    parts = grown.lvs[len(group.lvs) :]
    lv = LogicalVolume(
        step.lv,
        uuid_of(f"{group.uuid} {step.lv}{seed}"),
        "thin-pool",
        data,
        "",
        tags=tags,
        dm_name=pool_dm_name(step.group, step.lv),
        data_lv=f"{step.lv}_tdata",
        metadata_lv=f"{step.lv}_tmeta",
        chunk_bytes=step.chunk_bytes,
        discards=step.discards,
        zero=step.zero_new_blocks,
        when_full="queue",
        transaction_id=0,
        metadata_bytes=metadata,
        monitored=step.monitored_by_dmeventd,
        devices=(f"{step.lv}_tdata(0)",),
        profile=step.profile,
    )
    return set_volumes(snapshot, group, (*group.lvs, lv, *parts[-2:], *parts[:-2]))


def deactivate(snapshot: Snapshot, group: VolumeGroup, lv: LogicalVolume) -> Snapshot:
    """Return `snapshot` without the devices of `lv` and of its parts.

    Raises:
        CommandFailedError: it is open.

    """
    names = (lv.name, lv.data_lv, lv.metadata_lv)
    uuids = [f"LVM-{bare_uuid(group.uuid)}{bare_uuid(part.uuid)}" for part in group.lvs if part.name in names]
    devices = tuple(d for d in snapshot.dm_devices if d.uuid.startswith(tuple(uuids)))
    top = next((d for d in devices if d.name == pool_dm_name(group.name, lv.name)), None)
    if top is not None and top.open_count:
        raise CommandFailedError("lvm failed", f"Logical volume {group.name}/{lv.name} in use.")
    if any(device.suspended for device in devices):
        raise CommandFailedError("lvm did not end within 3600 seconds", f"{group.name}/{lv.name} is suspended.")
    return drop_devices(snapshot, devices)


def remove_volume(snapshot: Snapshot, group: VolumeGroup, uuid: str) -> Snapshot:
    """Return `snapshot` without this LV, its parts and, with the last pool, the spare; lvremove asks no disk.

    Raises:
        CommandFailedError: there is none, or it is open.

    """
    lv = next((lv for lv in group.lvs if lv.uuid == uuid), None)
    if lv is None:
        raise CommandFailedError("lvremove failed", "Failed to find logical volume")
    gone = {lv.uuid}
    if lv.is_thin_pool:
        gone |= {x.uuid for x in group.lvs if x.name in (lv.data_lv, lv.metadata_lv) or x.name.endswith("_pmspare")}
    return set_volumes(deactivate(snapshot, group, lv), group, tuple(x for x in group.lvs if x.uuid not in gone))


def _remove_group(snapshot: Snapshot, group: VolumeGroup) -> Snapshot:
    _refuse_partial(group, "vgremove")
    if any(not lv.name.endswith("_pmspare") for lv in group.lvs):
        raise CommandFailedError("vgremove failed", "it has logical volumes")
    others = tuple(g for g in snapshot.groups if g is not group)
    orphans = tuple(replace(pv, free_bytes=pv.size_bytes) for pv in group.pvs)
    return replace(snapshot, groups=others, orphan_pvs=(*snapshot.orphan_pvs, *orphans))


def _remove_dm(snapshot: Snapshot, step: RemoveDmDevice) -> Snapshot:
    device = snapshot.find_dm(step.name)
    if device is None:
        return snapshot
    if device.open_count:
        raise CommandFailedError("dmsetup failed", f"{step.name}: Device or resource busy")
    without = drop_devices(snapshot, (device,))
    left = {d.name.partition("-")[0] for d in without.dm_devices if d.uuid.startswith("LVM-")}
    return replace(without, dev_names=tuple(name for name in without.dev_names if name in left))


def stopped(engine: Engine) -> Engine:
    """Return `engine` when it does not run."""
    service = replace(engine.service, active=False)
    return replace(engine, running=False, pids=(), driver="", containers=(), container_ids=(), service=service)


def _apply_to_engine(snapshot: Snapshot, step: EngineStep) -> Snapshot:
    found = snapshot.find_engine(step.engine)
    if found is None:
        raise CommandFailedError(f"{step.engine} failed", "Unit not found.")
    devices = snapshot.dm_devices
    match step:
        case StopContainers():
            new: Engine = replace(found, containers=(), container_ids=())
        case StopEngine():
            new = stopped(found)
            # live-restore: containers go on without their engine, and so do their devices
            if not (found.live_restore and found.containers):
                devices = tuple(replace(d, open_count=0) if d.targets == ("thin",) else d for d in devices)
        case StartEngine():
            texts = (found.config_text, *(file.text for file in found.files))
            driver = "devicemapper" if any("devicemapper" in (text or "") for text in texts) else "overlay2"
            service = replace(found.service, active=True)
            new = replace(found, running=True, pids=(4712,), driver=driver, service=service)
        case MoveStateAside():
            new = replace(found, state=None, base=None, set_aside=tuple(dict.fromkeys((*found.set_aside, step.into))))
        case DeleteSetAside():
            new = replace(found, set_aside=tuple(path for path in found.set_aside if path != step.path))
        case GrowBase():
            new = replace(found, base=replace(found.base, size_bytes=step.size_bytes) if found.base else None)
        case WriteEngineConfig():
            is_unit = any(file.path == step.path and file.kind == "unit" for file in found.files)
            service = replace(found.service, needs_reload=found.service.needs_reload or is_unit)
            new = replace(found.with_text(step.path, step.new_text), service=service)
        case ReloadUnits():
            new = replace(found, service=replace(found.service, needs_reload=False))
    engines = tuple(new if engine is found else engine for engine in snapshot.engines)
    return replace(snapshot, dm_devices=devices, engines=engines)
