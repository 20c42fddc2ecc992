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


@contextmanager
def told_when_late(seconds: float, tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell`, in a thread of its own, where what is done while this is open takes longer than so many seconds."""
    timer = threading.Timer(seconds, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Patience:
    """Looks at the host, one at a time, each given up after a while: LVM waits without end for a disk that hangs."""

    def __init__(self, seconds: float) -> None:
        """Wait so long for each look."""
        self._seconds = seconds
        self._thread: threading.Thread | None = None
        self._began = 0.0

    def look(self, observe: Callable[[], Snapshot]) -> Snapshot:
        """Return what `observe` returns, or raise what it raises.

        Raises:
            UnavailableError: it takes too long, and goes on by itself; or an earlier one still does.

        """
        self._join(0.0)
        seen: list[Snapshot] = []
        failed: list[Exception] = []

        def run() -> None:
            try:
                seen.append(observe())
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                failed.append(error)

        self._began = time.monotonic()
        self._thread = threading.Thread(target=run, name="look", daemon=True)
        self._thread.start()
        self._join(self._seconds)
        if failed:
            raise failed[0]
        return seen[0]

    def _join(self, seconds: float) -> None:
        if self._thread is None:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            asked = time.monotonic() - self._began
            details = f"It was asked {asked:.0f} s ago. LVM reads all disks, and one that hangs holds it up."
            way = "Find that disk: dmesg; cat /sys/block/*/inflight. What has to do with it goes on once it answers."
            raise UnavailableError("the host does not answer", details, way, code="HOST_HANGS")
        self._thread = None
