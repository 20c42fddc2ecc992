"""The monitor as a service: starts a watch for each pool, listens to udev and to signals, tells systemd and others.

It writes what it knows to a small file (core/report.py) for those who would rather not ask it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from thinpoolmgr.config import file_stamps, load_config
from thinpoolmgr.core.report import LOCK_PATH, REPORT_PATH, SCHEMA, MonitorReport, Sighting
from thinpoolmgr.errors import ConfigError, LockedError
from thinpoolmgr.host import journald, udev
from thinpoolmgr.host.locks import open_lock
from thinpoolmgr.host.standby import Standby
from thinpoolmgr.monitor.board import Board
from thinpoolmgr.monitor.hands import PoolHost, PoolStore
from thinpoolmgr.monitor.seam import Event
from thinpoolmgr.monitor.telling import tell, told_config_again, told_config_problem
from thinpoolmgr.monitor.watch import PoolWatch

if TYPE_CHECKING:
    from pathlib import Path

    from systemd_watchdog.systemd_watchdog import WatchDog

    from thinpoolmgr.core.desired import DesiredPool
    from thinpoolmgr.core.report import WatchedPool

_REPORT_SECONDS = 15.0
_STOP_SECONDS = 60.0
"""How long a command that is under way is waited for; it goes on when we end (KillMode= of the unit)."""
_HANGING_SECONDS = 30.0
_PING_SECONDS = 1.0
_ENDING_SECONDS = 0.2
_TOGETHER_SECONDS = 0.2
_MILLISECONDS = 1000
_MOST_SIGNALS = 4096
_M_ARENA_MAX = -8
"""Of malloc.h."""


class Monitor:
    """The daemon: `run` returns when it was asked to stop."""

    def __init__(self, config: Path | None, watchdog: WatchDog | None) -> None:
        """Read the configuration from `config`, or where it is by default; nothing is watched yet.

        Raises:
            ConfigError: it is wrong.

        """
        self._config = config
        self._watchdog = watchdog
        self._board = Board()
        self._standby = Standby()
        self._watches: dict[str, PoolWatch] = {}
        self._started_at = time.time()
        self._hanging: set[str] = set()
        self._problem = ""
        # Taken before the files are read: a change in between is seen at the next turn.
        self._stamps = file_stamps(config)
        self._pools = self._load()

    def _load(self) -> dict[str, DesiredPool]:
        """Return the pools that are ours to extend."""
        pools = load_config(self._config).desired.pools
        return {pool.name: pool for pool in pools if pool.config.extend.monitor == "thinpoolmgr"}

    def run(self) -> None:
        """Watch until SIGTERM or SIGINT comes; SIGHUP has the configuration read again.

        Raises:
            LockedError: another monitor runs.
            ThinpoolmgrError: the kernel or udev cannot be listened to.

        """
        lock = _only_one()
        _keep_one_arena()
        try:
            signals = _signals_to(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
            events = udev.BlockEvents()
            self._watch_all()
            if self._watchdog is not None:
                self._watchdog.ready()
            self._listen(events, signals)
            self._stop()
        finally:
            os.close(lock)

    def _watch_all(self) -> None:
        """Have one watch for each pool of the configuration, begun anew where its part of it changed.

        One that is under way ends in its own time; what takes its place begins when it has.
        """
        for name, watch in tuple(self._watches.items()):
            if self._pools.get(name) != watch.pool:
                watch.stop()
            if not watch.is_alive():
                del self._watches[name]
                watch.close()
                self._board.remove(name)
        for name, pool in self._pools.items():
            if name not in self._watches:
                host, store = PoolHost(pool, self._standby), PoolStore(name)
                self._watches[name] = watch = PoolWatch(pool, self._board, tell, host, store)
                watch.start()

    def _listen(self, events: udev.BlockEvents, signals: int) -> None:
        poll, urgent = select.poll(), select.poll()
        for source in (events, signals):
            poll.register(source, select.POLLIN)
            urgent.register(source, select.POLLIN)
        poll.register(self._board.bell, select.POLLIN)
        while True:
            self._reload_changed()
            self._watch_all()
            self._write_report()
            self._ping()
            ready = {descriptor for descriptor, _ in poll.poll(self._pause() * _MILLISECONDS)}
            if ready == {self._board.bell.fileno()}:
                # Who rings is at work on a pool just now, and has more to tell soon: to write it down can wait.
                ready |= {descriptor for descriptor, _ in urgent.poll(_TOGETHER_SECONDS * _MILLISECONDS)}
            if events.fileno() in ready and events.take():
                for watch in self._watches.values():
                    watch.nudge()
            self._board.bell.hush()
            if signals in ready:
                if set(os.read(signals, _MOST_SIGNALS)) != {signal.SIGHUP}:
                    return
                self._reload()

    def _ping(self) -> None:
        # ping() of the library sends nothing for as long as the clock was set back.
        if self._watchdog is not None:
            self._watchdog.notify()

    def _pause(self) -> float:
        ending = [watch for name, watch in self._watches.items() if self._pools.get(name) != watch.pool]
        if any(time.monotonic() - watch.began_at < _HANGING_SECONDS for watch in ending):
            # They were told to stop, and what takes their place begins when they have. One that hangs rings then.
            return _ENDING_SECONDS
        if self._watchdog is None or not self._watchdog.is_enabled:
            return _REPORT_SECONDS
        return min(_REPORT_SECONDS, self._watchdog.timeout_td.total_seconds() / 4)

    def _reload_changed(self) -> None:
        """Read the configuration again if its files changed: nobody must be told to, and no pool is left alone."""
        if file_stamps(self._config) != self._stamps:
            self._reload()

    def _reload(self) -> None:
        """Read the configuration again; a wrong one changes nothing but what is told."""
        self._stamps = file_stamps(self._config)
        try:
            self._pools = self._load()
        except ConfigError as error:
            self._problem = f"{error.summary}: {error.details}"
            told_config_problem(error)
            return
        if self._problem:
            self._problem = ""
            told_config_again()

    def _stop(self) -> None:
        """Wait, not for ever, until each watch has ended its step."""
        for watch in self._watches.values():
            watch.stop()
        until = time.monotonic() + _STOP_SECONDS
        for watch in self._watches.values():
            while watch.is_alive() and time.monotonic() < until:
                watch.join(_PING_SECONDS)
                self._ping()

    def _with_hanging(self, pool: WatchedPool) -> WatchedPool:
        """Return what is said of a pool, and of its watch, which cannot say itself that it hangs; tell of it once."""
        watch = self._watches.get(pool.name)
        seconds = time.monotonic() - watch.began_at if watch is not None and watch.is_alive() else 0.0
        if seconds < _HANGING_SECONDS:
            if pool.name in self._hanging:
                self._hanging.remove(pool.name)
                tell(Event(pool))
            return pool
        what = "a command on it has not ended" if pool.busy_since is not None else "it does not answer"
        summary = f"{pool.group}/{pool.lv} is not looked after: for {seconds:.0f} s {what}"
        pool = replace(pool, findings=(Sighting("MONITOR_HANGS", f"{pool.group}/{pool.lv}", summary),))
        if pool.name not in self._hanging:
            self._hanging.add(pool.name)
            tell(Event(pool))
        return pool

    def _write_report(self) -> None:
        pools = tuple(self._with_hanging(pool) for pool in self._board.read())
        report = MonitorReport(SCHEMA, os.getpid(), self._started_at, time.time(), pools, self._problem)
        new = f"{REPORT_PATH}.new"
        try:
            with open(new, "wb") as file:
                file.write(msgspec.json.encode(report))
            os.replace(new, REPORT_PATH)
        except (OSError, UnicodeEncodeError) as error:
            # It is for others to read; the pools are watched all the same.
            journald.send(f"{REPORT_PATH} cannot be written: {error}", journald.WARNING)


def _keep_one_arena() -> None:
    """Have all threads allocate in one place: else each leaves what it once needed to none but its next one.

    glibc gives threads arenas of their own, up to eight for each processor (mallopt(3)), and ours come and go.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _signals_to(*numbers: int) -> int:
    """Return a descriptor from which the numbers of these signals are read as they come, a byte each.

    The C part of a handler writes them: Python's own part runs between two instructions only, and a wait that begins
    just then would not end (signal.set_wakeup_fd).
    """
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    return reading


def _only_one() -> int:
    """Return the open lock of this monitor.

    Raises:
        LockedError: another monitor has it.
        ThinpoolmgrError: it cannot be opened.

    """
    descriptor = open_lock(LOCK_PATH)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        way = "One is enough: systemctl status thinpoolmgr-monitor."
        raise LockedError("another monitor runs on this host", f"It holds {LOCK_PATH}.", way) from error
    return descriptor
