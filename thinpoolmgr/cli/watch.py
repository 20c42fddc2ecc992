"""`status --watch`: looks again and again, and draws or logs what it sees."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING

from msgspec.structs import replace

from thinpoolmgr.cli.options import can_draw
from thinpoolmgr.cli.render import Renderer
from thinpoolmgr.cli.views_live import live_lines, log_lines
from thinpoolmgr.cli.waiting import waiting
from thinpoolmgr.core.documents import status_document
from thinpoolmgr.core.live import LiveStatus, Readings, device_names, freshen, live_status, read_uses, with_devices
from thinpoolmgr.errors import ThinpoolmgrError
from thinpoolmgr.host.monitor_report import is_running, read_report

if TYPE_CHECKING:
    from collections.abc import Callable

    from thinpoolmgr.cli.options import Options
    from thinpoolmgr.cli.views_live import Line
    from thinpoolmgr.cli.waiting import Waiter
    from thinpoolmgr.core.desired import DesiredState
    from thinpoolmgr.core.findings import Journal
    from thinpoolmgr.core.model import DmDevice, Snapshot
    from thinpoolmgr.core.report import MonitorReport

WHOLE_LOOK_SECONDS = 60.0
"""How often LVM is asked though the kernel shows no change: its commands take a hundred times as long."""


class Watcher:
    """Looks at the host as cheaply as it can."""

    def __init__(
        self,
        desired: DesiredState,
        observe: Callable[[], Snapshot],
        read_device: Callable[[str], DmDevice | None],
        read_journal: Callable[[], Journal],
        read_monitor: Callable[[], MonitorReport | None],
    ) -> None:
        """Look with these: `observe` asks LVM, `read_device` only the kernel, `read_monitor` a monitor that runs."""
        self._desired = desired
        self._observe = observe
        self._read_device = read_device
        self._read_journal = read_journal
        self._read_monitor = read_monitor
        self._snapshot: Snapshot | None = None
        self._journal: Journal | None = None
        self._looked_at = 0.0
        self._readings: Readings = {}

    def look(self, at: float) -> LiveStatus:
        """Return what there is at the time `at`, of a clock that nobody sets.

        Where LVM does not tell, and did before, the kernel and the monitor still do, and `problem` says so.

        Raises:
            ThinpoolmgrError: the host cannot be observed.

        """
        problem = ""
        if self._snapshot is None:
            shown = self._look_whole(at)
        else:
            read = {name: self._read_device(name) for name in device_names(self._desired, self._snapshot)}
            is_old = at - self._looked_at >= WHOLE_LOOK_SECONDS
            fresh = None if is_old else freshen(self._snapshot, read)
            try:
                shown = self._snapshot = fresh or self._look_whole(at)
            except ThinpoolmgrError as error:
                # LVM is asked again at the next look: what it told last is kept as it was.
                shown, problem = with_devices(self._snapshot, read), _problem(error)
        status = status_document(self._desired, shown, self._journal)
        self._readings = read_uses(self._readings, status, at)
        live = live_status(self._desired, status, self._readings, self._read_monitor(), time.time())
        return replace(live, problem=problem, is_of_the_kernel=bool(problem))

    def _look_whole(self, at: float) -> Snapshot:
        self._snapshot, self._looked_at = self._observe(), at
        self._journal = self._read_journal()
        return self._snapshot


def read_monitor() -> MonitorReport | None:
    """Return the report of the monitor if it runs."""
    report = read_report()
    return report if report is not None and is_running(report) else None


def watch(options: Options, watcher: Watcher, interval_seconds: float) -> int:
    """Show what `watcher` sees every so many seconds until a signal comes; return the exit code.

    On a terminal the picture is drawn again and again; elsewhere there are lines for each look.
    """
    with waiting() as waiter:
        if sys.stdout.isatty() and can_draw():
            _draw(watcher, interval_seconds, waiter, color=options.color is not False)
        else:
            _log(Renderer(options), watcher, interval_seconds, waiter)
        return waiter.exit_code if waiter.is_stopped else 0


def _draw(watcher: Watcher, interval_seconds: float, waiter: Waiter, *, color: bool) -> None:
    from thinpoolmgr.cli.live import drawing  # noqa: PLC0415 - only where a terminal is drawn on

    # The first look takes longest: it is over before the screen is taken, and its errors are seen.
    due = time.monotonic()
    status = watcher.look(due)
    with drawing(color=color) as draw:
        while not waiter.is_stopped:
            draw(_picture(status))
            due += interval_seconds
            while not waiter.is_stopped and waiter.wait(due - time.monotonic()):
                draw(_picture(status))
            if not waiter.is_stopped:
                due = max(due, time.monotonic())
                status = look_again(watcher, status)


def look_again(watcher: Watcher, before: LiveStatus) -> LiveStatus:
    """Return what there is now, or what there was with the reason why that cannot be told: a view goes on."""
    try:
        return watcher.look(time.monotonic())
    except ThinpoolmgrError as error:
        return replace(before, problem=_problem(error), is_of_the_kernel=False)


def _problem(error: ThinpoolmgrError) -> str:
    return f"{error.summary}: {error.details}".rstrip(": ")


def _picture(status: LiveStatus) -> Callable[[int, int], tuple[Line, ...]]:
    def picture(width: int, height: int) -> tuple[Line, ...]:
        return live_lines(status, width, height, f"{datetime.now().astimezone():%H:%M:%S}", time.time())

    return picture


def _log(renderer: Renderer, watcher: Watcher, interval_seconds: float, waiter: Waiter) -> None:
    status = None
    while not (waiter.is_stopped or renderer.is_unread):
        status = look_again(watcher, status) if status else watcher.look(time.monotonic())
        for line in log_lines(status, datetime.now().astimezone().isoformat(timespec="seconds")):
            renderer.out(line)
        due = time.monotonic() + interval_seconds
        while not waiter.is_stopped and waiter.wait(due - time.monotonic()):
            pass
