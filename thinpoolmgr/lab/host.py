"""The lab on the host itself, where its kernel has device-mapper and the user is root."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from thinpoolmgr.errors import NotRootError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONTROL: Final = Path("/dev/mapper/control")
# struct dm_ioctl and DM_VERSION of linux/dm-ioctl.h: 312 bytes, request 0 of type 0xfd, read and write
_DM_IOCTL: Final = struct.Struct("=3I 304x")
_DM_VERSION: Final = 0xC138FD00


def has_device_mapper(control: Path = _CONTROL) -> bool:
    """Return whether this kernel answers as device-mapper; the node alone proves nothing."""
    request = bytearray(_DM_IOCTL.pack(4, 0, 0))
    struct.pack_into("=I", request, 12, len(request))
    try:
        with control.open("rb", buffering=0) as file:
            fcntl.ioctl(file, _DM_VERSION, request)
    except OSError:
        return False
    return True


def check_host() -> None:
    """Check that the lab can run on the host itself.

    Raises:
        NotRootError: this user is not root.
        UnavailableError: the kernel has no device-mapper.

    """
    if os.geteuid() != 0:
        raise NotRootError("The lab on the host needs root.", resolution="Leave --host out, or run it as root.")
    if not has_device_mapper():
        raise UnavailableError(
            "The host's kernel has no device-mapper.",
            details=f"{_CONTROL} does not answer",
            resolution="Leave --host out: the lab then boots its own kernel.",
        )


def run_on_host(command: tuple[str, ...], environment: Mapping[str, str], timeout_seconds: float | None = None) -> int:
    """Run a command on the host itself, on its real disks, and return its exit code as a shell would give it.

    Raises:
        NotRootError: this user is not root.
        UnavailableError: the kernel has no device-mapper, or the time was up.

    """
    check_host()
    try:
        code = subprocess.run(
            command, check=False, env={**os.environ, **environment}, timeout=timeout_seconds
        ).returncode
    except subprocess.TimeoutExpired as error:
        raise UnavailableError("The lab's time was up.", str(error), "Give it more with --timeout.") from error
    return 128 - code if code < 0 else code
