"""Device-mapper's events: the kernel tells that something happened to a device, not what."""

from __future__ import annotations

import fcntl
import os

from thinpoolmgr.host.dm import CONTROL_PATH, explain_error, pack_request, request_code

_ARM_POLL = 16


class Events:
    """Device-mapper's events, of all devices together: a descriptor that becomes readable after the next one.

    The kernel says that something happened, not what (drivers/md/dm-ioctl.c, dm_poll): arm first, then look at what
    matters, then wait; whatever happens after the first of these ends the wait.
    """

    def __init__(self) -> None:
        """Open the control node.

        Raises:
            UnavailableError: the kernel has no device-mapper.
            NotRootError: it is not ours to open.

        """
        try:
            self._descriptor = os.open(CONTROL_PATH, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise explain_error(error, CONTROL_PATH) from error

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._descriptor

    def arm(self) -> None:
        """Count from now on.

        Raises:
            CommandFailedError: the kernel does not have this, which came with Linux 4.14.

        """
        try:
            fcntl.ioctl(self._descriptor, request_code(_ARM_POLL), pack_request("", 0, 0))
        except OSError as error:
            raise explain_error(error, CONTROL_PATH) from error

    def close(self) -> None:
        """Close the control node."""
        os.close(self._descriptor)
