"""What must hold before a step and after it, judged on a fresh snapshot.

Whether a step is done is never an exit code: `done` asks the host. A step that was begun and not recorded as done is
judged by the same rules: done, record it; ready, plan it again; half-made in a known way, the plan cleans up; anything
else stops for a person.
"""

from __future__ import annotations

from enum import StrEnum

from thinpoolmgr.core.desired import MAX_METADATA_BYTES
from thinpoolmgr.core.engine_base import why_left_small
from thinpoolmgr.core.guards import PV_SIGNATURE, is_same_disk
from thinpoolmgr.core.model import DmDevice, LogicalVolume, Snapshot
from thinpoolmgr.core.names import OUR_TAG, bare_uuid, live_pool_device
from thinpoolmgr.core.profiles import why_not_in_charge, why_not_low_water
from thinpoolmgr.core.steps import (
    GROWN_NAME,
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
from thinpoolmgr.core.thinstatus import METADATA_BLOCK_BYTES
from thinpoolmgr.units import SECTOR_BYTES

_FEATURES = {"passdown": "", "nopassdown": "no_discard_passdown", "ignore": "ignore_discard"}


class Condition(StrEnum):
    """Where a step that was begun stands."""

    DONE = "done"
    READY = "ready"
    STUCK = "stuck"


def condition_of(step: Step, snapshot: Snapshot) -> Condition:
    """Return whether `step` is done, can be performed, or is neither."""
    if not why_not_done(step, snapshot):
        return Condition.DONE
    return Condition.READY if is_ready(step, snapshot) else Condition.STUCK


def is_ready(step: Step, snapshot: Snapshot) -> bool:
    """Whether nothing stands against planning `step` again: what it works on is gone, untouched, or half-made by us."""
    match step:
        case CreateVolumeGroup():
            return snapshot.find_group(step.group) is None
        case TagPool():
            group = snapshot.find_group(step.group)
            return group is None or group.uuid == step.group_uuid
        case (
            CreateThinPool()
            | ExtendVolumeGroup()
            | ExtendMetadata()
            | ExtendData()
            | SetWhenFull()
            | SetDiscards()
            | SetZeroing()
            | SetProfile()
            | TakeCharge()
            | RefreshPool()
            | ActivatePool()
            | DeactivatePool()
            | RemoveThinPool()
            | RemoveLeftover()
        ):
            group = snapshot.find_group(step.group)
            return group is None or OUR_TAG in group.tags
        case RemovePhysicalVolumes():
            # in a group of ours again, when its removal was turned round
            foreign = [group for group in snapshot.groups if OUR_TAG not in group.tags]
            return not any(pv.uuid in step.pv_uuids for group in foreign for pv in group.pvs)
        case WipeSignatures():
            disk = snapshot.find_disk(step.disk.path)
            return disk is None or is_same_disk(step.disk, disk)
        case _:
            return True


def is_left_over(step: Step, snapshot: Snapshot) -> bool:
    """Whether something is still there that `step`, begun or planned and not done, leaves where nobody else looks."""
    match step:
        case MoveStateAside():
            engine = snapshot.find_engine(step.engine)
            # It does not start on state that belongs to another pool.
            runs_on_a_pool = engine is not None and engine.running and engine.driver == "devicemapper"
            return not runs_on_a_pool and bool(why_not_done(step, snapshot))
        case RemovePhysicalVolumes():
            return any(pv.uuid in step.pv_uuids for pv in snapshot.orphan_pvs)
        case CreateVolumeGroup() | ExtendVolumeGroup():
            return any(pv.path == disk.path for pv in snapshot.orphan_pvs for disk in step.disks)
        case _:
            return False


def why_not_done(step: Step, snapshot: Snapshot) -> str:  # noqa: PLR0912 - one branch a step
    """Return what of `step`'s post-condition does not hold in `snapshot`; empty when it is done."""
    match step:
        case WipeSignatures():
            return _wipe(step, snapshot)
        case CreateVolumeGroup():
            return _create_group(step, snapshot)
        case CreateThinPool():
            return _create_pool(step, snapshot)
        case ExtendVolumeGroup():
            return _extend_group(step, snapshot)
        case TagPool():
            return _tag(step, snapshot)
        case ExtendMetadata() | ExtendData():
            return _extend(step, snapshot)
        case SetWhenFull():
            return _when_full(step, snapshot)
        case SetDiscards() | SetZeroing() | SetProfile():
            return _setting(step, snapshot)
        case EditLvmProfile():
            profile = snapshot.find_profile(step.profile)
            return "" if (profile.text if profile else None) == step.new_text else f"{step.path} is not as it should be"
        case RefreshPool():
            return _refresh(step, snapshot)
        case TakeCharge():
            return _take_charge(step, snapshot)
        case ResumeDevice():
            device = snapshot.find_dm(step.name)
            return f"{step.name} is suspended" if device and device.uuid == step.uuid and device.suspended else ""
        case ActivatePool():
            return "" if _pool_device(step, snapshot) else f"the kernel has no pool {step.group}/{step.lv}"
        case DeactivatePool():
            device = _pool_device(step, snapshot)
            return f"the kernel still has {device.name}" if device else ""
        case RemoveDmDevice():
            found = snapshot.find_dm(step.name)
            return f"the kernel still has {step.name}" if found and found.uuid == step.uuid else ""
        case RemoveThinPool() | RemoveLeftover():
            return _remove_lv(step, snapshot)
        case RemoveVolumeGroup():
            return _remove_group(step, snapshot)
        case RemovePhysicalVolumes():
            return _remove_pvs(step, snapshot)
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
            return _engine(step, snapshot)


def _wipe(step: WipeSignatures, snapshot: Snapshot) -> str:
    disk = snapshot.find_disk(step.disk.path)
    if disk is None or disk.signatures is None:
        return f"{step.disk.path} cannot be read"
    return f"{step.disk.path} still carries {disk.signatures[0].type}" if disk.signatures else ""


def _create_group(step: CreateVolumeGroup, snapshot: Snapshot) -> str:
    group = snapshot.find_group(step.group)
    if group is None:
        return f"LVM does not list the volume group {step.group}"
    if OUR_TAG not in group.tags:
        return f"the volume group {step.group} does not carry the tag {OUR_TAG}"
    paths, wanted = {pv.path for pv in group.pvs}, {disk.path for disk in step.disks}
    return (
        ""
        if paths == wanted
        else f"its physical volumes are {', '.join(sorted(paths))}, not {', '.join(sorted(wanted))}"
    )


def _extend_group(step: ExtendVolumeGroup, snapshot: Snapshot) -> str:
    group = snapshot.find_group(step.group)
    if group is None:
        return f"LVM does not list the volume group {step.group}"
    missing = [disk.path for disk in step.disks if disk.path not in {pv.path for pv in group.pvs}]
    return f"{', '.join(missing)} is not in the volume group {step.group}" if missing else ""


def _tag(step: TagPool, snapshot: Snapshot) -> str:
    group = snapshot.find_group(step.group)
    if group is None or (step.tag_group and OUR_TAG not in group.tags):
        return f"the volume group {step.group} does not carry the tag {OUR_TAG}"
    lv = group.find_lv(step.lv)
    if step.tag_lv and (lv is None or OUR_TAG not in lv.tags):
        return f"{step.group}/{step.lv} does not carry the tag {OUR_TAG}"
    return ""


def _extend(step: ExtendMetadata | ExtendData, snapshot: Snapshot) -> str:
    """The kernel's pool decides: lvextend of a pool that needs a check returns 0 and changes nothing there."""
    group = snapshot.find_group(step.group)
    lv = group.find_lv(step.lv) if group else None
    if group is None or lv is None:
        return f"LVM does not list {step.group}/{step.lv}"
    device = live_pool_device(group, lv.uuid, snapshot.dm_devices)
    if device is None or device.pool_status is None:
        return f"the kernel has no pool {step.group}/{step.lv}"
    if isinstance(step, ExtendData):
        have = device.pool_status.total_data_blocks * step.chunk_bytes
        want = step.data_extents * step.extent_bytes // step.chunk_bytes * step.chunk_bytes
        return "" if have >= want else f"the kernel's pool has {have} bytes of data, not {want}"
    have, want = device.pool_status.total_metadata_blocks * METADATA_BLOCK_BYTES, step.metadata_bytes
    if have < want:
        return f"the kernel's pool has {have} bytes of metadata, not {want}"
    spare = group.spare.size_bytes if group.spare else 0
    return "" if spare >= want else f"the metadata spare of {step.group} has {spare} bytes, not {want}"


def _setting(step: SetDiscards | SetZeroing | SetProfile, snapshot: Snapshot) -> str:
    group = snapshot.find_group(step.group)
    lv = group.find_lv(step.lv) if group else None
    if group is None or lv is None:
        return f"LVM does not list {step.group}/{step.lv}"
    match step:
        case SetDiscards():
            return "" if lv.discards == step.discards else f"LVM says discards {lv.discards}"
        case SetZeroing():
            return "" if lv.zero == step.zero_new_blocks else f"LVM says zero {lv.zero}"
        case SetProfile() if lv.profile != step.profile:
            return f"LVM says profile {lv.profile or 'none'}"
        case SetProfile() if step.profile and not lv.monitored:
            return f"LVM says that dmeventd does not watch {step.group}/{step.lv}"
        case SetProfile():
            device = live_pool_device(group, lv.uuid, snapshot.dm_devices)
            return why_not_low_water(step.threshold_percent, device) if step.profile else ""


def _take_charge(step: TakeCharge, snapshot: Snapshot) -> str:
    group = snapshot.find_group(step.group)
    lv = group.find_lv(step.lv) if group else None
    if group is None or lv is None:
        return f"LVM does not list {step.group}/{step.lv}"
    device = live_pool_device(group, lv.uuid, snapshot.dm_devices)
    return why_not_in_charge(lv, device, step.threshold_percent)


def _refresh(step: RefreshPool, snapshot: Snapshot) -> str:
    group = snapshot.find_group(step.group)
    lv = group.find_lv(step.lv) if group else None
    device = live_pool_device(group, lv.uuid, snapshot.dm_devices) if group and lv else None
    return why_not_refreshed(lv, device) if lv else f"LVM does not list {step.group}/{step.lv}"


def why_not_refreshed(lv: LogicalVolume, device: DmDevice | None) -> str:
    """Return in what the kernel's running pool is behind LVM's metadata; empty when it is not, or does not run."""
    if device is None or device.pool_status is None or device.pool_status.mode in ("Fail", "Error"):
        return ""
    if device.suspended:
        return f"{device.name} is suspended"
    if device.size_bytes and device.size_bytes < lv.size_bytes // SECTOR_BYTES * SECTOR_BYTES:
        return f"the kernel's pool has {device.size_bytes} bytes, LVM's {lv.size_bytes}"
    metadata_bytes = device.pool_status.total_metadata_blocks * METADATA_BLOCK_BYTES
    if device.pool_status.total_metadata_blocks and metadata_bytes < lv.metadata_bytes <= MAX_METADATA_BYTES:
        return f"the kernel's pool has {metadata_bytes} bytes of metadata, LVM's {lv.metadata_bytes}"
    return why_other_features(lv, device)


def why_other_features(lv: LogicalVolume, device: DmDevice) -> str:
    """Return how the kernel's zeroing and discards differ from LVM's: a killed `lvchange` may leave that.

    The table says what was asked for; the status what the disks below can do (dm-thin.c, emit_flags).
    """
    if not device.table or lv.zero is None or lv.discards not in _FEATURES:
        return ""
    wanted = {_FEATURES[lv.discards], "" if lv.zero else "skip_block_zeroing"} - {""}
    present = set(device.table.split()[5:]) & {*_FEATURES.values(), "skip_block_zeroing"}
    names = [" ".join(sorted(words)) or "none" for words in (present, wanted)]
    return "" if present == wanted else f"the kernel's pool has the features {names[0]}, LVM's {names[1]}"


def _create_pool(step: CreateThinPool, snapshot: Snapshot) -> str:
    group = snapshot.find_group(step.group)
    lv = group.find_lv(step.lv) if group else None
    if group is None or lv is None or not lv.is_thin_pool:
        return f"LVM does not list a thin pool {step.group}/{step.lv}"
    if OUR_TAG not in lv.tags:
        return f"{step.group}/{step.lv} does not carry the tag {OUR_TAG}"
    device = live_pool_device(group, lv.uuid, snapshot.dm_devices)
    if device is None or device.pool_status is None:
        return f"the kernel has no pool {step.group}/{step.lv}"
    kernel_bytes = device.pool_status.total_data_blocks * step.chunk_bytes
    wanted_bytes = step.data_extents * step.extent_bytes // step.chunk_bytes * step.chunk_bytes
    return "" if kernel_bytes == wanted_bytes else f"the kernel's pool has {kernel_bytes} bytes, not {wanted_bytes}"


def _when_full(step: SetWhenFull, snapshot: Snapshot) -> str:
    group = snapshot.find_group(step.group)
    lv = group.find_lv(step.lv) if group else None
    if lv is None or lv.when_full != step.when_full:
        return f"LVM says {lv.when_full if lv else 'nothing'} of {step.group}/{step.lv}"
    device = _pool_device(step, snapshot)
    if device is None or device.pool_status is None or device.pool_status.when_full in ("", step.when_full):
        return ""
    return f"the kernel would {device.pool_status.when_full} writes"


def _pool_device(step: ActivatePool | DeactivatePool | SetWhenFull, snapshot: Snapshot) -> DmDevice | None:
    group = snapshot.find_group(step.group)
    lv = group.find_lv(step.lv) if group else None
    return live_pool_device(group, lv.uuid, snapshot.dm_devices) if group and lv else None


def _remove_lv(step: RemoveThinPool | RemoveLeftover, snapshot: Snapshot) -> str:
    for group in snapshot.groups:
        if any(lv.uuid == step.lv_uuid for lv in group.lvs):
            return f"LVM still lists {group.name}/{step.lv}"
    devices = [d.name for d in snapshot.dm_devices if bare_uuid(step.lv_uuid) in d.uuid]
    return f"the kernel still has {devices[0]}" if devices else _trouble(snapshot)


def _remove_group(step: RemoveVolumeGroup, snapshot: Snapshot) -> str:
    if any(group.uuid == step.group_uuid for group in snapshot.groups):
        return f"LVM still lists the volume group {step.group}"
    return _trouble(snapshot)


def _remove_pvs(step: RemovePhysicalVolumes, snapshot: Snapshot) -> str:
    listed = [pv.path for pv in snapshot.orphan_pvs if pv.uuid in step.pv_uuids]
    listed += [pv.path for group in snapshot.groups for pv in group.pvs if pv.uuid in step.pv_uuids]
    if listed:
        return f"LVM still lists {', '.join(listed)}"
    for ref in step.disks:
        disk = snapshot.find_disk(ref.path)
        if disk and any(signature.type == PV_SIGNATURE for signature in disk.signatures or ()):
            return f"{ref.path} still carries LVM's label"
    return _trouble(snapshot)


def _trouble(snapshot: Snapshot) -> str:
    """What LVM does not list counts as gone only when its report is complete."""
    return f"LVM's report is incomplete: {snapshot.lvm_trouble[0]}" if snapshot.lvm_trouble else ""


def _engine(step: EngineStep, snapshot: Snapshot) -> str:
    engine = snapshot.find_engine(step.engine)
    if engine is None:
        return f"{step.engine} was not looked at"
    match step:
        case StopContainers():
            # An engine that does not answer may have any number of them.
            left = "it does not answer" if engine.running is None else ", ".join(engine.containers)
            return f"{step.engine} still runs containers: {left}" if left else ""
        case StopEngine():
            return "" if engine.running is False else f"{step.engine} is still running"
        case StartEngine():
            is_begun = step.queue and (engine.service.queued or engine.service.active is None)
            return "" if engine.running or is_begun else f"{step.engine} is not running"
        case MoveStateAside():
            still = engine.state is not None and engine.state.path in step.paths
            return f"{step.paths[-1]} is still there" if still or engine.state_problem else ""
        case DeleteSetAside():
            return f"{step.path} is still there" if step.path in engine.set_aside else ""
        case GrowBase():
            left = f"{GROWN_NAME} is still there" if snapshot.find_dm(GROWN_NAME) else ""
            unknown = f"the size of {step.engine}'s base device cannot be seen" if engine.base is None else ""
            return left or unknown or why_left_small(engine, step.size_bytes)
        case WriteEngineConfig():
            return "" if engine.text_of(step.path) == step.new_text else f"{step.path} does not have the new text"
        case ReloadUnits():
            return "systemd has not read the unit files again" if engine.service.needs_reload else ""
