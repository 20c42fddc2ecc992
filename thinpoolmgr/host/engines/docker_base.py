"""Docker's base device as it is in the pool: what Docker itself remembers of it is what it wanted."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from thinpoolmgr.core.engines.docker import base_device_name
from thinpoolmgr.core.model import BaseDevice
from thinpoolmgr.core.thinstatus import data_devno, metadata_devno, thin_device_id
from thinpoolmgr.host import dm
from thinpoolmgr.host.superblock import parse_superblock, read_block
from thinpoolmgr.host.thinmeta import find_first_block

if TYPE_CHECKING:
    from collections.abc import Collection

    from thinpoolmgr.core.model import DmDevice, EngineState, Snapshot


def read_base(state: EngineState, pool: DmDevice, snapshot: Snapshot, mounted: Collection[str]) -> BaseDevice | None:
    """Return what the pool has under the number of the base device of `state`, whether that is active or not.

    None where that is not sure: nothing is recorded, the pool is suspended, its metadata cannot be read, or the base
    device is mounted (XFS may have a new size only in its log).

    Args:
        state: Docker's records.
        pool: the live pool that Docker uses.
        snapshot: the device-mapper devices of the host.
        mounted: `MAJOR:MINOR` of mounted devices.

    """
    recorded = state.base_device_id
    parts = {metadata_devno(pool.table), data_devno(pool.table)}
    suspended = any(device.suspended for device in snapshot.dm_devices if device.devno in {pool.devno, *parts})
    active = _find_active(state, snapshot)
    if recorded is None or suspended or (active is not None and (active.suspended or active.devno in mounted)):
        return None
    block = find_first_block(_node(metadata_devno(pool.table)), recorded)
    if block is None:
        return None
    is_base = active is not None and active.depends_on == (pool.devno,) and thin_device_id(active.table) == recorded
    name, is_open = (active.name, active.open_count > 0) if active is not None and is_base else ("", False)
    if block.offset_bytes is None:
        return BaseDevice(in_pool=block.exists, dm_name=name, is_open=is_open)
    try:
        found = parse_superblock(read_block(_node(data_devno(pool.table)), block.offset_bytes))
    except OSError:
        return None
    if found is None:
        return BaseDevice(dm_name=name, is_open=is_open)
    return BaseDevice(
        filesystem=found.kind, size_bytes=found.size_bytes, uuid=found.uuid, dm_name=name, is_open=is_open
    )


def _find_active(state: EngineState, snapshot: Snapshot) -> DmDevice | None:
    """Return the base device while it is active, as the kernel has it now."""
    try:
        folder = os.stat(state.path)
    except OSError:
        return None
    name = base_device_name(os.major(folder.st_dev), os.minor(folder.st_dev), folder.st_ino)
    return dm.read_device(name) if snapshot.find_dm(name) is not None else None


def _node(devno: str) -> str:
    """The kernel's own name; links in /dev/mapper are udev's."""
    return f"/dev/dm-{devno.partition(':')[2]}"
