"""How large the file system in Docker's base device is: what Docker itself remembers is the size it wanted."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from thinpoolmgr.core.engines.docker import BASE, base_device_name
from thinpoolmgr.core.thinstatus import thin_device_id
from thinpoolmgr.host import dm
from thinpoolmgr.host.superblock import read_file_system_bytes

if TYPE_CHECKING:
    from collections.abc import Collection

    from thinpoolmgr.core.model import DmDevice, EngineState, Snapshot


def read_base_bytes(state: EngineState, pool: DmDevice, snapshot: Snapshot, mounted: Collection[str]) -> int | None:
    """Return the size of the file system in the base device of `state`.

    None where that is not sure: the device is not active (which is the rule, and a look never makes it active), it is
    suspended, mounted (XFS may have a new size only in its log), or not the recorded device of this pool.

    Args:
        state: Docker's records.
        pool: the live pool that Docker uses.
        snapshot: the device-mapper devices of the host.
        mounted: `MAJOR:MINOR` of mounted devices.

    """
    try:
        folder = os.stat(state.path)
    except OSError:
        return None
    name = base_device_name(os.major(folder.st_dev), os.minor(folder.st_dev), folder.st_ino)
    if snapshot.find_dm(name) is None or (device := dm.read_device(name)) is None:
        return None
    recorded = next((each.device_id for each in state.devices if each.name == BASE), None)
    is_it = device.depends_on == (pool.devno,) and thin_device_id(device.table) == recorded is not None
    if not is_it or device.suspended or pool.suspended or device.devno in mounted:
        return None
    return read_file_system_bytes(f"/dev/dm-{device.devno.partition(':')[2]}")
