"""What Docker's own set-up of a disk (`dm.directlvm_device`) leaves when it is cut short, and when that may go.

It makes a physical volume and the group `docker`, in it the plain volumes `thinpool` and `thinpoolmeta`, then a pool
of the two (daemon/graphdriver/devmapper/device_setup.go of Docker 20.10 to 24). Until there is a pool nothing was ever
in it. Names prove little, so a volume goes only when nobody has it open and it carries no signature.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinpoolmgr.core.names import bare_uuid, devices_of_group
from thinpoolmgr.core.plan import Memory, Refusal
from thinpoolmgr.core.steps import RemoveLeftover
from thinpoolmgr.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinpoolmgr.core.desired import DesiredPool
    from thinpoolmgr.core.model import DmDevice, LogicalVolume, Snapshot, VolumeGroup

SETUP_GROUP = "docker"
_VOLUMES = ("thinpool", "thinpoolmeta")
_PLAIN = ("linear", "striped")


def setup_volumes(group: VolumeGroup) -> tuple[LogicalVolume, ...] | None:
    """Return the half-made volumes that are all that `group` holds; none when it is empty, None when it holds others.

    LVM's spare for metadata does not count: it is nobody's data.
    """
    volumes = tuple(lv for lv in group.lvs if not lv.name.endswith("_pmspare"))
    return volumes if all(_is_half_made(lv, group) for lv in volumes) else None


def _is_half_made(lv: LogicalVolume, group: VolumeGroup) -> bool:
    """Docker puts no tag on anything: what carries one, ours above all, has another story."""
    return group.name == SETUP_GROUP and lv.name in _VOLUMES and lv.segment_type in _PLAIN and not lv.tags


def volume_device(group: VolumeGroup, lv: LogicalVolume, devices: tuple[DmDevice, ...]) -> DmDevice | None:
    """Return the device of a plain volume; None when it is not active."""
    uuid = f"LVM-{bare_uuid(group.uuid)}{bare_uuid(lv.uuid)}"
    return next((device for device in devices if device.uuid == uuid), None)


def volumes_to_go(group: VolumeGroup, memory: Memory) -> tuple[LogicalVolume, ...]:
    """Return those that an interrupted run was to remove, as long as the group still holds nothing else."""
    removals = [step for step in (*memory.interrupted, *memory.pending) if isinstance(step, RemoveLeftover)]
    uuids = {step.lv_uuid for step in removals if step.danger == "destroys"}
    return tuple(lv for lv in setup_volumes(group) or () if lv.uuid in uuids)


def refuse_volumes(
    group: VolumeGroup, volumes: tuple[LogicalVolume, ...], snapshot: Snapshot, memory: Memory
) -> list[Refusal]:
    """Return why `volumes` must not be removed: somebody's data may be in one of them."""
    if not volumes:
        return []
    begun = {begun.step.lv_uuid for begun in memory.open_steps if isinstance(begun.step, RemoveLeftover)}
    found = [(lv, volume_device(group, lv, snapshot.dm_devices)) for lv in volumes]
    reasons = [*_of_report(group, [device for _, device in found], snapshot)]
    for lv, device in found:
        # A kill inside lvremove leaves it listed and not active; before that it had been looked at.
        if device is not None or lv.uuid not in begun:
            path = f"{group.name}/{lv.name}"
            reasons += [(path, *reason) for reason in _of_volume(path, lv, device)]
    return [
        Refusal(
            "VOLUME_MAY_HOLD_DATA",
            target,
            f"{target} may hold somebody's data: {why}",
            "What a killed set-up of Docker's left goes only when all of it is closed, can be read, and is blank.",
            way,
        )
        for target, why, way in reasons
    ]


def _of_report(group: VolumeGroup, known: list[DmDevice | None], snapshot: Snapshot) -> Iterator[tuple[str, str, str]]:
    if snapshot.lvm_trouble:
        way = "Mend what LVM complains about (pvs; dmesg), then run this again."
        yield group.name, f"LVM's report is incomplete: {snapshot.lvm_trouble[0]}", way
    for device in devices_of_group(group.uuid, snapshot.dm_devices):
        if device not in known:
            way = f"See what it is (dmsetup ls --tree); dmsetup remove {device.name}, then run this again."
            yield group.name, f"the kernel has {device.name} of this group, which LVM does not list", way


def _of_volume(path: str, lv: LogicalVolume, device: DmDevice | None) -> Iterator[tuple[str, str]]:
    again, or_else = "and run this again", f"Or remove it yourself: lvremove {path}."
    if device is None:
        look = f"Activate it, so that it can be looked at (lvchange --activate y {path}), {again}."
        yield "it is not active, so nobody can see what is in it", f"{look} {or_else}"
    elif device.suspended:
        yield "its device is suspended", f"Resume it (dmsetup resume {device.name}), {again}."
    elif device.open_count:
        yield "it is open", f"See who has it (thinpoolmgr who {device.name}; lsblk), close it, {again}."
    elif lv.signatures is None:
        yield "what is on it cannot be read", f"See why (dmesg | tail), {again}. {or_else}"
    elif lv.signatures:
        found = ", ".join(signature.type for signature in lv.signatures)
        yield f"it carries {found}", f"Save what is in it, remove it yourself (lvremove {path}), {again}."


def remove_volumes(group: VolumeGroup, volumes: tuple[LogicalVolume, ...], pool: DesiredPool) -> list[RemoveLeftover]:
    """Return the steps that remove `volumes`."""
    return [
        RemoveLeftover(
            reason=f"Docker's own set-up was cut short and left it half-made ({lv.segment_type}, "
            f"{format_size(lv.size_bytes)}); it never was a pool, so no image or container is lost with it",
            danger="destroys",
            pool=pool.name,
            group=group.name,
            lv=lv.name,
            lv_uuid=lv.uuid,
        )
        for lv in volumes
    ]
