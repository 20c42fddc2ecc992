"""The clock of a step that runs: calls back once a second from a thread of its own, until it is stopped."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_SECONDS = 1.0


class Ticker:
    """Tells at each tick for how many seconds something has run."""

    def __init__(self, tell: Callable[[float], None], clock: Callable[[], float] = time.monotonic) -> None:
        """Begin to count now; `start` begins to tell."""
        self._tell = tell
        self._clock = clock
        self._began = clock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)

    def start(self) -> None:
        """Tell from now on; where the system has no thread left, the step runs untold."""
        with suppress(RuntimeError):
            self._thread.start()

    def tick(self) -> None:
        """Tell once; a stream that is gone must not end the telling thread with a traceback."""
        with suppress(OSError, ValueError):
            self._tell(self._clock() - self._began)

    def stop(self) -> None:
        """Tell no more: when this returns, the last word has been said."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        # Signals are for the main thread: it alone decides when a run stops.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while not self._over.wait(_SECONDS):
            self.tick()
