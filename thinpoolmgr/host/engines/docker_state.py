"""What Docker's devicemapper driver keeps below its data root, read and never changed.

Layout and file names: daemon/graphdriver/devmapper/deviceset.go, Docker 20.10 to 24.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TypeVar

import msgspec

from thinpoolmgr.core.model import EngineDevice, EngineState
from thinpoolmgr.host.files import mounts_on_or_below, read_text

_FILE_LIMIT_BYTES = 64 * 1024
_MAX_FILES = 1_000_000
_FOLDER_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
_REMAPPED = re.compile(r"\d+\.\d+", re.ASCII)
_SET_FILE, _TRANSACTION_FILE = "deviceset-metadata", "transaction-metadata"
_Record = TypeVar("_Record")


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
    path, related = f"{root}/devicemapper", f"{root}/image/devicemapper"
    try:
        _refuse_remapped(root)
        if not os.path.lexists(path):
            return None
        if stat.S_ISLNK(os.lstat(path).st_mode):
            return EngineState(path=path, obstacle=f"{path} is a symbolic link")
        return _read_below(path, tuple(folder for folder in (related,) if os.path.lexists(folder)), proc)
    except (OSError, ValueError) as error:
        raise StateUnreadableError(str(error)) from error


def _refuse_remapped(root: str) -> None:
    # With userns-remap Docker works in <data root>/<uid>.<gid>: which of them is in use is not ours to guess.
    for name in os.listdir(root) if os.path.isdir(root) else ():
        if _REMAPPED.fullmatch(name) and os.path.lexists(f"{root}/{name}/devicemapper"):
            msg = f"{root}/{name}/devicemapper is the state of a user namespace (userns-remap), which is not supported"
            raise ValueError(msg)


def _read_below(path: str, related: tuple[str, ...], proc: str) -> EngineState | None:
    fd = os.open(path, _FOLDER_FLAGS)
    try:
        if not os.listdir(fd):
            return None
        device_set, transaction, devices = _read_records(path, fd)
    finally:
        os.close(fd)
    base = next((device for device in devices if device.name == "base"), None)
    loop_files = (f"{path}/devicemapper/{name}" for name in ("data", "metadata"))
    return EngineState(
        path=path,
        base_device_uuid=device_set.base_uuid if device_set else "",
        base_size_bytes=base.size_bytes if base else None,
        transaction_id=transaction.open_transaction_id if transaction else None,
        devices=devices,
        loop_files=tuple(file for file in loop_files if os.path.lexists(file)),
        related=related,
        obstacle=_find_obstacle((path, *related), proc),
    )


def _read_records(path: str, fd: int) -> tuple[_DeviceSet | None, _Transaction | None, tuple[EngineDevice, ...]]:
    try:
        metadata = os.open("metadata", _FOLDER_FLAGS, dir_fd=fd)
    except FileNotFoundError:
        return None, None, ()
    shown = f"{path}/metadata"
    try:
        names = sorted(os.listdir(metadata))
        if len(names) > _MAX_FILES:
            msg = f"{shown} holds more than {_MAX_FILES} files"
            raise ValueError(msg)
        special = (_SET_FILE, _TRANSACTION_FILE)
        # The driver itself passes over these two kinds: what it was about to write, and what it converted.
        of_devices = [n for n in names if n not in special and not n.startswith(".") and not n.endswith(".migrated")]
        found = ((name, _read_record(metadata, name, _Device, shown)) for name in of_devices)
        devices = tuple(EngineDevice(n, d.device_id, d.size, d.transaction_id) for n, d in found if d)
        device_set = _read_record(metadata, _SET_FILE, _DeviceSet, shown)
        return device_set, _read_record(metadata, _TRANSACTION_FILE, _Transaction, shown), devices
    finally:
        os.close(metadata)


def _read_record(folder: int, name: str, record: type[_Record], shown: str) -> _Record | None:
    try:
        return msgspec.json.decode(read_text(name, _FILE_LIMIT_BYTES, dir_fd=folder, follow=False), type=record)
    except FileNotFoundError:
        # A running engine removes devices while we read.
        return None
    except (OSError, ValueError, RecursionError) as error:
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
