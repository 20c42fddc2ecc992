"""What must hold before a step and after it, judged on a fresh snapshot.

Whether a step is done is never an exit code: `done` asks the host. A step that was begun and not recorded as done is
judged by the same rules: done, record it; ready, plan it again; half-made in a known way, the plan cleans up; anything
else stops for a person.
"""

from __future__ import annotations

from enum import StrEnum

from thinpoolmgr.core.guards import PV_SIGNATURE, is_same_disk
from thinpoolmgr.core.model import DmDevice, Snapshot
from thinpoolmgr.core.names import OUR_TAG, bare_uuid, live_pool_device
from thinpoolmgr.core.steps import (
    ActivatePool,
    CreateThinPool,
    CreateVolumeGroup,
    DeactivatePool,
    MoveStateAside,
    RemoveDmDevice,
    RemoveLeftover,
    RemovePhysicalVolumes,
    RemoveThinPool,
    RemoveVolumeGroup,
    SetWhenFull,
    StartEngine,
    Step,
    StopEngine,
    WipeSignatures,
    WriteEngineConfig,
)


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
        case CreateThinPool() | SetWhenFull() | ActivatePool() | DeactivatePool() | RemoveThinPool() | RemoveLeftover():
            group = snapshot.find_group(step.group)
            return group is None or OUR_TAG in group.tags
        case RemovePhysicalVolumes():
            return not any(pv.uuid in step.pv_uuids for group in snapshot.groups for pv in group.pvs)
        case WipeSignatures():
            disk = snapshot.find_disk(step.disk.path)
            return disk is not None and is_same_disk(step.disk, disk)
        case _:
            return True


def why_not_done(step: Step, snapshot: Snapshot) -> str:
    """Return what of `step`'s post-condition does not hold in `snapshot`; empty when it is done."""
    match step:
        case WipeSignatures():
            return _wipe(step, snapshot)
        case CreateVolumeGroup():
            return _create_group(step, snapshot)
        case CreateThinPool():
            return _create_pool(step, snapshot)
        case SetWhenFull():
            return _when_full(step, snapshot)
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
        case StopEngine() | StartEngine() | MoveStateAside() | WriteEngineConfig():
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


def _engine(step: StopEngine | StartEngine | MoveStateAside | WriteEngineConfig, snapshot: Snapshot) -> str:
    engine = snapshot.find_engine(step.engine)
    if engine is None:
        return f"{step.engine} was not looked at"
    match step:
        case StopEngine():
            return "" if engine.running is False else f"{step.engine} is still running"
        case StartEngine():
            return "" if engine.running else f"{step.engine} is not running"
        case MoveStateAside():
            still = engine.state is not None and engine.state.path in step.paths
            return f"{step.paths[-1]} is still there" if still or engine.state_problem else ""
        case WriteEngineConfig():
            return "" if engine.config_text == step.new_text else f"{step.path} does not have the new text"
