"""Docker's devicemapper driver: its versions, its options, its names of devices.

Rules without another source are from daemon/graphdriver/devmapper/deviceset.go of Docker 20.10 to 24.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from thinpoolmgr.core.engines.docker_options import DM_PREFIX
from thinpoolmgr.core.model import BASE
from thinpoolmgr.units import parse_size

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import EngineConfig

FIRST_VERSION_WITHOUT_DRIVER = 25
_VERSION = re.compile(r"v?(\d{1,4})(?:[.+~-].*)?", re.ASCII | re.DOTALL)
_DEVICE_NAME = re.compile(r"docker-\d+:\d+-\d+-(.+)", re.ASCII | re.DOTALL)


def storage_options(config: EngineConfig, dm_name: str) -> tuple[str, ...]:
    """Return the `storage-opts` for a pool with this device-mapper name.

    Docker cuts off only `/dev/mapper/`, so the name must be device-mapper's own, never `VG/LV`.

    Raises:
        ValueError: when the configuration's base size is no size.

    """
    return (
        f"dm.thinpooldev={DM_PREFIX}{dm_name}",
        f"dm.fs={config.filesystem}",
        f"dm.basesize={_docker_size(parse_size(config.base_size))}",
        f"dm.use_deferred_removal={_go_bool(config.deferred_removal)}",
        f"dm.use_deferred_deletion={_go_bool(config.deferred_deletion)}",
        f"dm.min_free_space={config.min_free_space_percent}%",
    )


def _docker_size(size_bytes: int) -> str:
    # Docker reads sizes into a float64 and multiplies by powers of 1024: a whole number below 2**53 is exact.
    for power, letter in enumerate("TGMK"):
        factor = 1024 ** (4 - power)
        if size_bytes % factor == 0:
            return f"{size_bytes // factor}{letter}"
    return str(size_bytes)


def _go_bool(value: bool) -> str:  # noqa: FBT001 - the value is the subject
    return "true" if value else "false"


def supports_devicemapper(version: str) -> bool | None:
    """Return whether a Docker of this version has the driver (removed in 25); None when `version` is no version."""
    match = _VERSION.fullmatch(version.strip())
    return int(match[1]) < FIRST_VERSION_WITHOUT_DRIVER if match else None


def unsupported_text(version: str) -> tuple[str, str, str]:
    """Return summary, details and resolution for a Docker without the driver (exit code 69)."""
    shown = ascii(version[:40])[1:-1]
    return (
        f"Docker {shown} has no devicemapper storage driver",
        "Docker removed the driver in version 25; 24.0 is the last that has it.",
        (
            "Either install Docker 24.0 or older and hold the package at that version, or leave Docker on overlay2 and "
            "give the pool to another engine: containerd's devmapper snapshotter is maintained ([engines.containerd])."
        ),
    )


def base_device_name(major: int, minor: int, inode: int) -> str:
    """Return the device-mapper name of the base device, by the file system and inode of the driver's directory."""
    return f"docker-{major}:{minor}-{inode}-{BASE}"


def driver_name(dm_name: str) -> str:
    """Return what the driver calls a device with this device-mapper name: its hash, or `base`; empty: not Docker's.

    `docker-MAJOR:MINOR-INODE-HASH`, the numbers those of the driver's directory (deviceset.go, getDevName).
    """
    match = _DEVICE_NAME.fullmatch(dm_name)
    return match[1] if match else ""
