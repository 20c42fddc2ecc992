"""What udev knows of block devices, and what it tells when they change: the only user of `pyudev`.

Only names and descriptions come from here, so a dead or missing udevd makes them empty and nothing worse. Whether a
device is in use, and what is on it, is never taken from udev's database: it lags behind the kernel.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from thinpoolmgr.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_MOST_AT_ONCE = 1000
"""Events: a fraction of a second."""


class UdevProperties(Struct, frozen=True):
    """How a device is called and described; empty where udev does not say."""

    serial: str = ""
    wwn: str = ""
    model: str = ""
    links: tuple[str, ...] = ()
    """All stable names below /dev, sorted."""
    transport: str = ""
    """`ata`, `scsi`, `usb`, `nvme`, `virtio` and the like: ID_BUS, or what the kernel's name says."""
    rotational: bool | None = None
    """None: the kernel does not say."""
    id_path: str = ""
    """ID_PATH: where the device is attached, such as `pci-0000:00:05.0-ata-1`."""


def device_properties(devno: str, *, sys: str = "/sys") -> UdevProperties:
    """Return the properties of the block device with the number `devno` (`MAJOR:MINOR`)."""
    rotational = _rotational(Path(sys) / "dev/block" / devno)
    try:
        # Late, and here only: it costs 20 ms, and hosts without libudev still work.
        import pyudev  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415
    except ImportError:
        return UdevProperties(rotational=rotational)
    major, _, minor = devno.partition(":")
    try:
        number = os.makedev(int(major), int(minor))
        device = pyudev.Devices.from_device_number(_context(), "block", number)
    except (ValueError, pyudev.DeviceNotFoundError):
        return UdevProperties(rotational=rotational)
    properties = device.properties
    return UdevProperties(
        serial=_first(properties, "ID_SERIAL_SHORT", "ID_SERIAL", "DM_SERIAL"),
        wwn=_first(properties, "ID_WWN_WITH_EXTENSION", "ID_WWN", "DM_WWN"),
        model=_first(properties, "ID_MODEL"),
        links=tuple(sorted(device.device_links)),
        transport=_first(properties, "ID_BUS") or transport_by_name(device.sys_name),
        rotational=rotational,
        id_path=_first(properties, "ID_PATH"),
    )


class BlockEvents:
    """What udev tells of block devices: a descriptor that is readable when something was added, changed or removed."""

    def __init__(self) -> None:
        """Listen from now on.

        Raises:
            UnavailableError: pyudev or libudev is missing.

        """
        try:
            import pyudev  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415

            self._monitor = pyudev.Monitor.from_netlink(_context())
        except ImportError as error:
            summary = "udev cannot be listened to"
            raise UnavailableError(summary, str(error), "Install libudev1 and pyudev.") from error
        self._monitor.filter_by("block")
        self._monitor.start()

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return int(self._monitor.fileno())

    def take(self) -> bool:
        """Take what has come; return whether anything came, or was lost because too much did (netlink(7)).

        A flood is taken in parts: the descriptor stays readable, and there is more to do than to listen.
        """
        for taken in range(_MOST_AT_ONCE):
            try:
                if self._monitor.poll(timeout=0) is None:
                    return taken > 0
            except OSError as error:
                # Events were lost. pyudev passes on what recv(2) says; of poll(2), that something is wrong, no more.
                if error.errno != errno.ENOBUFS and not self._is_overrun():
                    raise
        return True

    def _is_overrun(self) -> bool:
        """Whether events were lost since this was asked last."""
        with socket.socket(fileno=os.dup(self.fileno())) as asked:
            return asked.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ENOBUFS


def lvm_disks(uuids: Collection[str]) -> tuple[str, ...]:
    """Return the nodes of all devices that udev found one of these LVM disks' uuids on; opens none of them."""
    try:
        import pyudev  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415
    except ImportError:
        return ()
    try:
        found = _context().list_devices(subsystem="block", ID_FS_TYPE="LVM2_member")
        return tuple(sorted(disk.device_node for disk in found if disk.properties.get("ID_FS_UUID") in uuids))
    except pyudev.DeviceNotFoundError:
        # It went while it was looked at.
        return ()


def transport_by_name(name: str) -> str:
    """Return what a kernel name says of the transport: drivers of their own are no bus that udev names."""
    drivers = {"nvme": "nvme", "vd": "virtio", "mmcblk": "mmc"}
    return next((transport for prefix, transport in drivers.items() if name.startswith(prefix)), "")


@functools.cache
def _context() -> Any:
    # Once: each new one looks for libudev anew, with a process of its own (ctypes.util.find_library).
    import pyudev  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415

    return pyudev.Context()


def _first(properties: Mapping[str, str], *names: str) -> str:
    return next((value for name in names if (value := properties.get(name))), "")


def _rotational(folder: Path) -> bool | None:
    # A partition has no queue of its own; its disk is the folder above.
    for queue in (folder / "queue", folder.resolve().parent / "queue"):
        try:
            return (queue / "rotational").read_text().strip() == "1"
        except OSError:
            continue
    return None
