"""A look at a spare disk before it is taken: for all that `apply` looks for, and at no other disk, device or group.

It is taken under the lock: what hangs elsewhere would keep the pool from its disk, and all commands from theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from thinpoolmgr.core.desired import DesiredState
from thinpoolmgr.core.guards import PV_SIGNATURE
from thinpoolmgr.host import block, lvm
from thinpoolmgr.host.disks import observe_disks, resolve_configured, with_node_path, with_node_paths

if TYPE_CHECKING:
    from collections.abc import Callable

    from thinpoolmgr.core.commands import Argv
    from thinpoolmgr.core.desired import DesiredPool
    from thinpoolmgr.core.model import Disk, PhysicalVolume, Snapshot
    from thinpoolmgr.host.runner import CompletedRun


def with_spare(seen: Snapshot, pool: DesiredPool, path: str, run: Callable[[Argv], CompletedRun]) -> Snapshot:
    """Return what was `seen` of `pool` and its group with the spare disk at `path`, and all that forbids to take it.

    A disk of another group shows itself by LVM's label; what mounts it, has it open or stands on it is known without
    LVM. Only of one with a label LVM is asked whether it is in no group: a killed `vgextend` of ours may have left it.
    """
    groups = tuple(with_node_paths(group) for group in seen.groups)
    seen = replace(seen, configured_devices=resolve_configured(DesiredState((pool,))), groups=groups)
    spare = [device.disk for device in seen.configured_devices if device.configured_path == path and device.disk]
    ours = [pv.path for group in groups for pv in group.pvs if not pv.missing]
    seen = replace(seen, disks=observe_disks([*spare, *ours], block.read_usage()))
    disk = seen.find_disk(path)
    if disk is None:
        return seen
    others = [device for device in block.mapped_on(disk) if seen.find_dm(device.name) is None]
    unused = _unused(disk, run) if disk.path not in ours else ()
    return replace(seen, orphan_pvs=unused, dm_devices=(*seen.dm_devices, *others))


def _unused(disk: Disk, run: Callable[[Argv], CompletedRun]) -> tuple[PhysicalVolume, ...]:
    if not any(signature.type == PV_SIGNATURE for signature in disk.signatures or ()):
        return ()
    return tuple(with_node_path(pv) for pv in lvm.read_unused(run, disk.path))
