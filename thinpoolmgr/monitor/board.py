"""What the monitor's threads tell each other: the state of each pool, as it stands."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from msgspec.structs import replace

if TYPE_CHECKING:
    from thinpoolmgr.core.report import WatchedPool


class Bell:
    """A descriptor that becomes readable when it is rung: what a thread waits for besides the kernel's events."""

    def __init__(self) -> None:
        """Make it, silent."""
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._descriptor

    def ring(self) -> None:
        """Wake whoever waits; once is enough, however often."""
        os.eventfd_write(self._descriptor, 1)

    def hush(self) -> None:
        """Take it as heard."""
        try:
            os.eventfd_read(self._descriptor)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)


class Board:
    """The newest word on each pool, under its name."""

    def __init__(self) -> None:
        """Begin with no pools."""
        self._lock = threading.Lock()
        self._pools: dict[str, WatchedPool] = {}
        self.bell = Bell()
        """Rung when something changed that others should know soon."""

    def put(self, pool: WatchedPool) -> None:
        """Replace what is said of this pool; ring when more changed than its rates and when it was looked at."""
        with self._lock:
            old = self._pools.get(pool.name)
            self._pools[pool.name] = pool
        if old is None or _lasting(old) != _lasting(pool):
            self.bell.ring()

    def remove(self, name: str) -> None:
        """Say nothing any more of a pool that is not in the configuration."""
        with self._lock:
            self._pools.pop(name, None)
        self.bell.ring()

    def read(self) -> tuple[WatchedPool, ...]:
        """Return what is said of all pools, by name."""
        with self._lock:
            return tuple(self._pools[name] for name in sorted(self._pools))


def _lasting(pool: WatchedPool) -> WatchedPool:
    return replace(pool, looked_at=0.0, data_bytes_per_second=0.0, metadata_bytes_per_second=0.0)
