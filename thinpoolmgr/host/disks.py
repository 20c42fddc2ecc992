"""Disks, as far as a snapshot tells of them: what the configuration names, what LVM uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from thinpoolmgr.core.model import ConfiguredDevice, Disk, PhysicalVolume, VolumeGroup
from thinpoolmgr.host import block, udev

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredState


def resolve_configured(desired: DesiredState) -> tuple[ConfiguredDevice, ...]:
    """Return what the paths of the configuration lead to."""
    paths = [path for pool in desired.pools for path in (*pool.config.devices, *pool.config.spare_devices)]
    return tuple(block.resolve_device(path) for path in dict.fromkeys(paths))


def with_node_paths(group: VolumeGroup) -> VolumeGroup:
    """Return `group` with its disks under the names of their nodes."""
    return msgspec.structs.replace(group, pvs=tuple(with_node_path(pv) for pv in group.pvs))


def with_node_path(pv: PhysicalVolume) -> PhysicalVolume:
    """Return `pv` under the name of its node: LVM may report a disk by another, the snapshot has one for each."""
    if pv.missing:
        return pv
    return msgspec.structs.replace(pv, path=block.resolve_device(pv.path).disk or pv.path)


def observe_disks(paths: list[str], usage: block.Usage, *, opening: bool = True) -> tuple[Disk, ...]:
    """Return all there is to know about the disks at `paths`; without `opening` only what needs no open."""
    disks = []
    for path in dict.fromkeys(paths):
        try:
            properties = udev.device_properties(block.Roots().devno(path))
        except OSError as error:
            # Gone since LVM named it: what is on it is unknown.
            disks.append(Disk(path, "", 0, opened_exclusively=None, signatures=None, probe_error=str(error)))
        else:
            disks.append(block.observe_disk(path, properties, usage, opening=opening))
    return tuple(disks)
