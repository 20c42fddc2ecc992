"""What Docker's devicemapper driver keeps below its data root, read and never changed.

Layout and file names: daemon/graphdriver/devmapper/deviceset.go, Docker 20.10 to 24.
"""

from __future__ import annotations

import os
import re
import stat

import msgspec

from thinpoolmgr.core.model import EngineDevice, EngineState
from thinpoolmgr.host.files import mounts_on_or_below, read_small

_FILE_LIMIT_BYTES = 64 * 1024
_MAX_FILES = 1_000_000
_FOLDER_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
_REMAPPED = re.compile(r"\d+\.\d+", re.ASCII)
_SET_FILE, _TRANSACTION_FILE = "deviceset-metadata", "transaction-metadata"
# What Docker looks for before it chooses a driver (daemon/graphdriver/driver.go, scanPriorDrivers): never vfs.
_OTHER_DRIVERS = ("aufs", "btrfs", "fuse-overlayfs", "overlay", "overlay2", "zfs")


class StateUnreadableError(Exception):
    """There is state, and what it says cannot be known."""


class _DeviceSet(msgspec.Struct, frozen=True):
    base_uuid: str = msgspec.field(default="", name="BaseDeviceUUID")


class _Transaction(msgspec.Struct, frozen=True):
    open_transaction_id: int


class _Device(msgspec.Struct, frozen=True):
    device_id: int
    size: int
    transaction_id: int


def read_state(data_root: str, proc: str = "/proc") -> EngineState | None:
    """Return the devicemapper state below `data_root`; None when there is none, or an empty folder.

    Symbolic links that lead to the data root are resolved; one below it is an obstacle, and is not followed.

    Raises:
        StateUnreadableError: with the file and the reason.

    """
    root = os.path.realpath(data_root)
    path = f"{root}/devicemapper"
    try:
        _refuse_remapped(root)
        if not os.path.lexists(path):
            return None
        if stat.S_ISLNK(os.lstat(path).st_mode):
            return EngineState(path=path, obstacle=f"{path} is a symbolic link")
        return _read_below(path, root, proc)
    except (OSError, ValueError) as error:
        raise StateUnreadableError(str(error)) from error


def _refuse_remapped(root: str) -> None:
    # With userns-remap Docker works in <data root>/<uid>.<gid>: which of them is in use is not ours to guess.
    for name in os.listdir(root) if os.path.isdir(root) else ():
        if _REMAPPED.fullmatch(name) and os.path.lexists(f"{root}/{name}/devicemapper"):
            msg = f"{root}/{name}/devicemapper is the state of a user namespace (userns-remap), which is not supported"
            raise ValueError(msg)


def _read_below(path: str, root: str, proc: str) -> EngineState | None:
    related = tuple(folder for folder in (f"{root}/image/devicemapper",) if os.path.lexists(folder))
    fd = os.open(path, _FOLDER_FLAGS)
    try:
        names = os.listdir(fd)
        if not names:
            return None
        records = _read_records(path, fd)
    finally:
        os.close(fd)
    base = records.devices.get("base")
    loop_files = tuple(file for name in ("data", "metadata") if os.path.lexists(file := f"{path}/devicemapper/{name}"))
    return EngineState(
        path=path,
        base_device_uuid=records.device_set.base_uuid,
        base_size_bytes=base.size if base else None,
        transaction_id=records.transaction_id,
        devices=tuple(EngineDevice(n, d.device_id, d.size, d.transaction_id) for n, d in records.devices.items()),
        loop_files=loop_files,
        related=related,
        obstacle=_find_obstacle((path, *related), proc),
        damage=records.damage,
        written_at=records.written_at,
        loop_data_bytes=os.lstat(loop_files[0]).st_blocks * 512 if loop_files else None,
        containers_folder=f"{root}/containers" if os.path.isdir(f"{root}/containers") else "",
        other_drivers=tuple(name for name in _OTHER_DRIVERS if _has_entries(f"{root}/{name}")),
        made_by_engine="setup-config.json" in names,
    )


def _has_entries(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except (FileNotFoundError, NotADirectoryError):
        return False


class _Records:
    """What could be read of the driver's records, and the first that could not."""

    def __init__(self) -> None:
        self.device_set = _DeviceSet()
        self.transaction_id: int | None = None
        self.devices: dict[str, _Device] = {}
        self.written_at: float | None = None
        self.damage = ""


def _read_records(path: str, fd: int) -> _Records:
    records = _Records()
    try:
        metadata = os.open("metadata", _FOLDER_FLAGS, dir_fd=fd)
    except FileNotFoundError:
        return records
    shown = f"{path}/metadata"
    try:
        names = sorted(os.listdir(metadata))
        if len(names) > _MAX_FILES:
            msg = f"{shown} holds more than {_MAX_FILES} files"
            raise ValueError(msg)
        for name in names:
            # The driver itself passes over these two kinds: what it was about to write, and what it converted.
            if not name.startswith(".") and not name.endswith(".migrated"):
                _read_into(records, metadata, name, shown)
    finally:
        os.close(metadata)
    return records


def _read_into(records: _Records, folder: int, name: str, shown: str) -> None:
    try:
        text, written_at = read_small(name, _FILE_LIMIT_BYTES, folder)
        if name == _TRANSACTION_FILE:
            records.transaction_id = msgspec.json.decode(text, type=_Transaction).open_transaction_id
            return
        records.written_at = max(written_at, records.written_at or written_at)
        if name == _SET_FILE:
            records.device_set = msgspec.json.decode(text, type=_DeviceSet)
            return
        records.devices[name] = msgspec.json.decode(text, type=_Device)
    except FileNotFoundError:
        # A running engine removes devices while we read.
        return
    except (msgspec.DecodeError, RecursionError) as error:
        records.damage = records.damage or f"{shown}/{name} cannot be read as Docker's record: {error}"
    except (OSError, ValueError) as error:
        msg = f"{shown}/{name} cannot be read as Docker's record: {error}"
        raise ValueError(msg) from error


def _find_obstacle(paths: tuple[str, ...], proc: str) -> str:
    for path in paths:
        # `image` too: only the data root itself may be reached through a link.
        for folder in (path, os.path.dirname(path)):
            if os.path.islink(folder):
                return f"{folder} is a symbolic link"
    mounts = mounts_on_or_below(paths, proc)
    return f"{mounts[0]} is a mount point" if mounts else ""
