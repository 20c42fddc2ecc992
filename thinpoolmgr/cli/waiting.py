"""Waits that end: by a signal, for commands that run until they are told to stop, or after a while, for looks."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from thinpoolmgr.cycle import deferred_signals
from thinpoolmgr.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from thinpoolmgr.core.model import Snapshot

_SIGNAL = 128


class Waiter:
    """Waits until something happens."""

    def __init__(self, fd: int, came: list[int]) -> None:
        """Keep `fd`, which can be read when something happened, and the signals that came to stop us."""
        self.fd = fd
        self._came = came

    @property
    def is_stopped(self) -> bool:
        """Whether a signal came to stop us."""
        return bool(self._came)

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as the contract names it."""
        return _SIGNAL + self._came[0]

    @property
    def is_terminated(self) -> bool:
        """Whether it was SIGTERM, which is how a service is ended."""
        return self._came[:1] == [signal.SIGTERM]

    def wait(self, seconds: float) -> bool:
        """Wait so long; return whether something ended it before: a signal, or a terminal of another size."""
        if not select.select([self.fd], [], [], max(0.0, seconds))[0]:
            return False
        os.read(self.fd, 4096)
        return True


@contextmanager
def waiting() -> Iterator[Waiter]:
    """Let signals end waits while this is open, instead of the program."""
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def pass_by(*_: object) -> None:
        """Let a signal end a wait, and do nothing else."""

    # The C part of a handler writes to it: Python's own part runs between two instructions only, and a wait that begins
    # just then would not end (signal.set_wakeup_fd).
    before = signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    try:
        with deferred_signals(pass_by) as came:
            old = signal.signal(signal.SIGWINCH, pass_by)
            try:
                yield Waiter(read_fd, came)
            finally:
                signal.signal(signal.SIGWINCH, old)
    finally:
        signal.set_wakeup_fd(before)
        os.close(read_fd)
        os.close(write_fd)


class Patience:
    """Looks at the host, one at a time, each given up after a while: LVM waits without end for a disk that hangs."""

    def __init__(self, seconds: float, first_seconds: float = 0.0) -> None:
        """Wait so long for each look, and for the first one at least `first_seconds`."""
        self._seconds = seconds
        self._first_seconds = first_seconds
        self._under_way: _Look | None = None

    def look(self, observe: Callable[[], Snapshot]) -> Snapshot:
        """Return what `observe` returns, or raise what it raises.

        Where that takes too long it goes on by itself, and what an earlier one came to after it was given up is
        returned instead: a host that is only slow is seen, too.

        Raises:
            UnavailableError: it takes too long, and there is no such; or an earlier one is still under way.

        """
        earlier = self._under_way
        if earlier is not None and not earlier.has_ended(0.0):
            raise _hangs(earlier)
        self._under_way = look = _Look(observe)
        if look.has_ended(max(self._seconds, self._first_seconds)):
            self._under_way, self._first_seconds = None, 0.0
            return look.result()
        if earlier is None:
            raise _hangs(look)
        return earlier.result()


class _Look:
    """One look, in a thread that ends with the program."""

    def __init__(self, observe: Callable[[], Snapshot]) -> None:
        self.began = time.monotonic()
        self._observe = observe
        self._seen: Snapshot | Exception = UnavailableError("the look has not ended")
        self._thread = threading.Thread(target=self._run, name="look", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._seen = self._observe()
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            self._seen = error

    def has_ended(self, seconds: float) -> bool:
        """Wait so long for it, and return whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> Snapshot:
        """Return what it saw, or raise what it raised."""
        if isinstance(self._seen, Exception):
            raise self._seen
        return self._seen


def _hangs(look: _Look) -> UnavailableError:
    asked = time.monotonic() - look.began
    details = f"It was asked {asked:.0f} s ago. LVM reads all disks, and one that hangs holds it up."
    way = "Find that disk: dmesg; cat /sys/block/*/inflight. What has to do with it goes on once it answers."
    return UnavailableError("the host does not answer", details, way, code="HOST_HANGS")
