"""One pool, watched by one thread: wait, look, act. A pool that hangs, or a group that is locked, hangs this one alone.

What is done follows from what is seen at each look, never from which event came: one that is lost costs a second.
"""

from __future__ import annotations

import math
import select
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace

from thinpoolmgr.approval import Approval
from thinpoolmgr.core.changes import room_of
from thinpoolmgr.core.extension import (
    FARTHEST_SECONDS,
    FASTEST_SECONDS,
    IDLE_SECONDS,
    NEAR_SECONDS,
    Rate,
    Reading,
    after_growth,
    ahead_of,
    cut_after,
    cut_to_room,
    due_parts,
    extension_request,
    fill_rate,
    is_near,
    needed_growth,
    reading_of,
    recent,
    seconds_to_next_look,
)
from thinpoolmgr.core.journal import MONITOR
from thinpoolmgr.core.lifecycle import PoolState, view_pool
from thinpoolmgr.core.plan import Plan, Request
from thinpoolmgr.core.report import LastExtension, Sighting, WatchedPool
from thinpoolmgr.core.watch import (
    CAN_GROW,
    is_cut_short,
    plan_charge,
    plan_growth,
    plan_mending,
    plan_spare,
    trouble_of,
)
from thinpoolmgr.cycle import RunError, RunResult, carry_out
from thinpoolmgr.errors import LockedError, ThinpoolmgrError
from thinpoolmgr.host.dm_events import Events
from thinpoolmgr.monitor.board import Bell
from thinpoolmgr.monitor.hands import PoolStore
from thinpoolmgr.monitor.seam import Event, Pause, Quiet, WatchedHost

if TYPE_CHECKING:
    from collections.abc import Callable

    from thinpoolmgr.core.desired import DesiredPool
    from thinpoolmgr.core.extension import Part
    from thinpoolmgr.core.lifecycle import PoolView
    from thinpoolmgr.core.model import Snapshot
    from thinpoolmgr.core.plan import Memory
    from thinpoolmgr.cycle import Planner
    from thinpoolmgr.monitor.board import Board

_FIRST_GUESS_SECONDS = 2.0
"""How long an extension takes, before one was measured."""
_WEIGHT = 0.3
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 60.0
_SETTLE_SECONDS = 0.5
"""LVM suspends a pool for a moment whenever it changes it; longer than this, and without its lock, is no moment."""
_HURRY_SECONDS = 1.0
_AFTER_OTHERS_SECONDS = 0.05
_PATIENCE_SECONDS = 10.0
_MOST_ATTEMPTS = 3
"""So often it is tried with the room that the group says it has, before a spare disk is taken."""
_STAND_BY_SECONDS = 600.0
"""So long after it was last written to, LVM is kept ready for a pool near its threshold: it takes 30 MiB."""
_READY_SECONDS = 2.0
"""How long LVM takes until it stands by, on a slow machine: so much earlier it begins, for a pool that fills."""
_LVM_REPORTS = "fuser -v /run/lock/lvm/P_global tells which command does, and may be waiting for a disk or a group"
_MILLISECONDS = 1000
_TIMED_OUT = (PoolState.OUT_OF_DATA, "error", "queue")
_GONE = (PoolState.ABSENT, PoolState.INACTIVE)
_STILL = Rate()


class PoolWatch(threading.Thread):
    """Keeps one pool from filling up, until it is told to stop."""

    def __init__(
        self,
        pool: DesiredPool,
        board: Board,
        tell: Callable[[Event], None],
        host: WatchedHost,
        store: PoolStore,
    ) -> None:
        """Watch `pool` on `host`, write what is seen on `board`, and `tell` what a person may want to read."""
        super().__init__(name=f"pool {pool.name}", daemon=True)
        self.pool = pool
        self._board = board
        self._tell = tell
        self._bell = Bell()
        self._stops = threading.Event()
        self._host = host
        self._store = store
        self._word = WatchedPool(pool.name, pool.group, pool.lv, PoolState.ABSENT, 0.0)
        self._readings: tuple[Reading, ...] = ()
        self._metadata_blocks = 0
        self._extension_seconds = _FIRST_GUESS_SECONDS
        self._pauses: dict[str, Pause] = {}
        self._cut_short_since: float | None = None
        self._has_resumed = self._has_new_room = False
        self._hurries_until = 0.0
        self._filled_at = -math.inf
        self._waits_since: float | None = None
        self._seen_at = 0.0
        self.began_at = host.seconds()
        """When it last began to look; long ago: it hangs, in a look or in what it does."""

    def nudge(self) -> None:
        """Have it look now: something happened that may matter."""
        self._host.heed()
        self._bell.ring()

    def stop(self) -> None:
        """Have it end, after the step that is under way."""
        self._stops.set()
        self._bell.ring()

    def close(self) -> None:
        """Give back what it waited with, once it has ended."""
        self._bell.close()
        self._host.stand_by(is_near=False)

    def run(self) -> None:
        """Wait, look and act until it is stopped."""
        # Known before it was looked at: one that hangs at once is told of, too.
        self._board.put(replace(self._word, state=PoolState.UNKNOWN))
        while not self._stops.is_set():
            try:
                self._watch()
            except ThinpoolmgrError as error:
                self._say(PoolState.UNKNOWN, Sighting("STATE_UNKNOWN", self.pool.path, error.summary))
                self._stops.wait(IDLE_SECONDS)
        self._board.bell.ring()

    def _watch(self) -> None:
        events = Events()
        try:
            while not self._stops.is_set():
                # Armed before the look: whatever happens from here on ends the wait.
                events.arm()
                self._bell.hush()
                self.began_at = self._host.seconds()
                self._wait(events, self._hurried(self.look()))
        finally:
            events.close()

    def _wait(self, events: Events, at_most: float) -> None:
        poll = select.poll()
        poll.register(events, select.POLLIN)
        poll.register(self._bell, select.POLLIN)
        # All pools that are idle wake together, with the whole second: one wake-up for them all.
        pause = at_most if at_most < IDLE_SECONDS else IDLE_SECONDS - self._host.seconds() % IDLE_SECONDS
        ready = {descriptor for descriptor, _ in poll.poll(pause * _MILLISECONDS)}
        if events.fileno() in ready:
            self._hurries_until = self._host.seconds() + _HURRY_SECONDS
            if at_most > NEAR_SECONDS and not self._host.has_event():
                # An event of any device wakes all pools.
                poll.unregister(events)
                poll.poll(_AFTER_OTHERS_SECONDS * _MILLISECONDS)

    def _hurried(self, at_most: float) -> float:
        """Return how long to wait: right after an event a pool that is rather full may be filling fast.

        Metadata that get short raise one, too, once, at a mark of the kernel's own (dm-thin.c, metadata_low_callback).
        """
        is_near = at_most <= NEAR_SECONDS and self._host.seconds() < self._hurries_until
        return min(at_most, FASTEST_SECONDS) if is_near else at_most

    def look(self) -> float:
        """Look at the pool once, do what is to be done; return after how many seconds to look again at the latest."""
        try:
            pause = self._look()
        except LockedError as error:
            # Somebody changes this host; what that comes to is seen at the next look.
            self._wait_for_others(error)
            return IDLE_SECONDS / 4
        except ThinpoolmgrError as error:
            pause = IDLE_SECONDS
            self._say(PoolState.UNKNOWN, Sighting("STATE_UNKNOWN", self.pool.path, error.summary))
        except Exception as error:  # noqa: BLE001 - the loop of a daemon: a pool that nobody watches any more is worse
            what = (
                f"something unexpected happened while {self.pool.path} was looked at: {type(error).__name__}: {error}"
            )
            pause = IDLE_SECONDS
            self._say(PoolState.UNKNOWN, Sighting("BUG", self.pool.path, what))
        self._waits_since = None
        return pause

    def _wait_for_others(self, error: LockedError) -> None:
        """Tell of a lock that others have had for long, while this pool needed something."""
        now = self._host.seconds()
        self._waits_since = now if self._waits_since is None else self._waits_since
        found = self._word.findings
        if now - self._waits_since >= _PATIENCE_SECONDS:
            summary = f"{self.pool.path} needs a change, and waits: {error.summary}: {error.details}"
            others = (sighting for sighting in found if sighting.code != "MONITOR_WAITS")
            found = (*others, Sighting("MONITOR_WAITS", self.pool.path, summary))
        self._say(self._word.state, *found, rate=fill_rate(self._readings))

    def _look(self) -> float:
        view = self._host.view()
        self._seen_at = time.time()
        now = self._host.seconds()
        status = view.status
        if status is None or view.lv is None:
            self._readings = ()
            self._host.stand_by(is_near=False)
            self._say(view.state, *self._trouble(view))
            return IDLE_SECONDS
        reading = reading_of(status, view.lv.chunk_bytes, now)
        if status.total_metadata_blocks != self._metadata_blocks:
            self._readings = after_growth(self._readings, reading)
            self._metadata_blocks = status.total_metadata_blocks
        self._readings = recent(self._readings, reading)
        rate = fill_rate(self._readings)
        if rate != _STILL:
            self._filled_at = now
        if view.state not in CAN_GROW:
            self._host.stand_by(is_near=False)
            self._say(view.state, *self._trouble(view), rate=rate)
            return IDLE_SECONDS
        if self._mend(view, now):
            return 0.0
        if self._resume(view):
            return 0.0
        lost = self._lost_writes(view)
        found = self._extend(view, rate, now)
        if found is None:
            if lost:
                # Once there is room again nothing else shows that there were any.
                self._say(view.state, *lost, rate=rate)
            return 0.0
        self._charge(view, now)
        is_filling = now - self._filled_at < _STAND_BY_SECONDS
        ahead = ahead_of(rate, max(self._extension_seconds, _READY_SECONDS))
        # Room in a full group may come at any moment, a larger limit not before the configuration is read again.
        can_grow = all(sighting.code != "EXTENSION_AT_LIMIT" for sighting in found)
        self._host.stand_by(is_near=can_grow and is_filling and is_near(view, ahead))
        self._say(view.state, *found, *self._undone(), *lost, rate=rate)
        return seconds_to_next_look(status, view, rate)

    def _trouble(self, view: PoolView) -> list[Sighting]:
        code = trouble_of(view)
        return [Sighting(code, self.pool.path, f"{self.pool.path} is {view.state}: {view.because}")] if code else []

    def _undone(self) -> list[Sighting]:
        """What else the monitor tried on the pool, and what still is to be done."""
        return [self._pauses[what].sighting for what in ("mend", "charge") if what in self._pauses]

    def _lost_writes(self, view: PoolView) -> list[Sighting]:
        """A full pool that queues writes fails them after a minute (no_space_timeout), and LVM does not know of it."""
        status, lv = view.status, view.lv
        if status is None or lv is None or (view.state, status.when_full, lv.when_full) != _TIMED_OUT:
            return []
        summary = f"{self.pool.path} was full for too long: the kernel fails writes, and some are lost"
        return [Sighting("POOL_ERRORS_WRITES", self.pool.path, summary)]

    def _mend(self, view: PoolView, now: float) -> bool:
        """Resume what a killed command left suspended; return whether anything was done."""
        if not is_cut_short(view):
            self._cut_short_since = None
            self._pauses.pop("mend", None)
            return False
        if self._cut_short_since is None:
            self._cut_short_since = now
        is_settled = now - self._cut_short_since >= _SETTLE_SECONDS and not self._host.is_changed_by_others()
        if not is_settled or self._is_paused("mend", now):
            return False
        result = self._try("mend", lambda snapshot, _: plan_mending(view_pool(self.pool, snapshot)), "MONITOR_FAILED")
        return result is not None

    def _resume(self, view: PoolView) -> bool:
        """Finish, once, what an earlier monitor was killed in; return whether there was anything."""
        if self._has_resumed or view.lv is None:
            return False
        begun = [run.began.request for run in self._store.unfinished()]
        mine = (r for r in begun if r is not None and r.is_settled and r.lv_uuid == view.lv.uuid)
        request = next(mine, None)
        if request is not None:
            self._grow(view, request)
        # Not before: while another run has the lock this one is still to be finished.
        self._has_resumed = True
        return request is not None

    def _charge(self, view: PoolView, now: float) -> None:
        if not plan_charge(view).steps:
            self._pauses.pop("charge", None)
        elif not self._is_paused("charge", now):
            self._try("charge", lambda snapshot, _: plan_charge(view_pool(self.pool, snapshot)), "MONITOR_FAILED")

    def _extend(self, view: PoolView, rate: Rate, now: float) -> list[Sighting] | None:
        """Extend the pool if it needs to be; return what stands against it, or None when it was extended."""
        ahead = ahead_of(rate, self._extension_seconds)
        wanted = needed_growth(view, ahead)
        if wanted is None or view.group is None or view.lv is None:
            return []
        request = extension_request(view, wanted)
        if request is None:
            return [self._at_limit(view, due_parts(view, ahead))]
        room = room_of(view.group, view.lv, [], [])
        fits = cut_to_room(wanted, view, room)
        failed = self._pauses.get("extend")
        request_now = extension_request(view, cut_after(failed.failures if failed else 0, fits, view, room))
        if request_now is None:
            return self._take_spare(request, now)
        if not self._is_paused("extend", now) and self._grow(view, request_now):
            return None
        failed = self._pauses.get("extend")
        if failed is None:
            return []
        # Where it did not help that there is other room, more of that does not either.
        is_due = failed.failures >= _MOST_ATTEMPTS and not self._has_new_room
        if is_due and self._take_spare(request, now) is None:
            self._has_new_room = True
            # All that is wanted may fit now.
            del self._pauses["extend"]
            return None
        return [failed.sighting]

    def _grow(self, view: PoolView, request: Request) -> bool:
        """Bring the pool to the sizes of the settled `request`; return whether anything was done for that."""
        began = self._host.seconds()
        self._begin(view)
        result = self._try("extend", self._growth_planner(request))
        self._has_new_room = self._has_new_room and result is None
        self._end(request, result, began)
        return result is not None and result.outcome == "done"

    def _growth_planner(self, request: Request) -> Planner:
        return lambda snapshot, memory: plan_growth(view_pool(self.pool, snapshot), request, snapshot, memory)

    def _take_spare(self, request: Request, now: float) -> list[Sighting] | None:
        """Take the next spare disk into the full group; return what stands against it, or None when one was taken."""
        for path in self._host.spare_paths():
            if self._is_paused(path, now):
                continue
            if not self._host.can_take_disks():
                # To wait for it under our lock would keep all commands waiting, too.
                raise LockedError("LVM takes no disk while it reports on all groups", _LVM_REPORTS, "")
            self._host.spare = path
            try:
                with suppress(ThinpoolmgrError):
                    # One that hangs does so here: under the lock it would keep all commands waiting, too.
                    self._host.observe()
                result = self._try(path, self._spare_planner(path, request), "EXTENSION_NO_ROOM")
            finally:
                self._host.spare = ""
            if result is not None and result.outcome == "done":
                return None
            if result is not None:
                self._pause(path, "EXTENSION_NO_ROOM", ThinpoolmgrError(f"{path} cannot be added", "", ""))
        refused = [pause.sighting.summary for what, pause in self._pauses.items() if what.startswith("/")]
        summary = f"{self.pool.path} needs to grow, and there is no room in its group {self.pool.group}"
        because = f"; spare disks were refused: {'; '.join(refused)}" if refused else ", nor a spare disk"
        return [Sighting("EXTENSION_NO_ROOM", self.pool.path, f"{summary}{because}")]

    def _spare_planner(self, path: str, request: Request) -> Planner:
        def plan(snapshot: Snapshot, memory: Memory) -> Plan:
            view, disk = view_pool(self.pool, snapshot), snapshot.find_disk(path)
            in_group = {pv.path for pv in view.group.pvs} if view.group else set()
            if disk is None or disk.path in in_group:
                return Plan(request=request)
            return plan_spare(view, disk, snapshot, memory, request)

        return plan

    def _at_limit(self, view: PoolView, due: tuple[Part, ...]) -> Sighting:
        limits = {
            "data": f"extend.max_size is {self.pool.config.extend.max_size}",
            "metadata": "dm-thin knows no larger metadata",
        }
        because = ", and ".join(limits[part] for part in due)
        summary = f"{self.pool.path} needs to grow ({view.because}) and may not: {because}"
        return Sighting("EXTENSION_AT_LIMIT", self.pool.path, summary)

    def _try(self, what: str, planner: Planner, code: str = "EXTENSION_FAILED") -> RunResult | None:
        """Carry out a plan; return how it went, or None when it failed, and is not tried for a while."""
        try:
            result = carry_out(MONITOR, planner, self._host, self._store, Quiet(), Approval(yes=True))
        except LockedError:
            raise
        except RunError as error:
            self._pause(what, code, error.cause)
            return None
        except ThinpoolmgrError as error:
            self._pause(what, code, error)
            return None
        except Exception as error:  # noqa: BLE001 - no memory, no threads: not tried again at once, either
            unexpected = f"something unexpected happened to {self.pool.path}: {type(error).__name__}: {error}"
            self._pause(what, "BUG", ThinpoolmgrError(unexpected, "", ""))
            return None
        self._pauses.pop(what, None)
        self._forget_old_runs()
        return result

    def _forget_old_runs(self) -> None:
        with suppress(ThinpoolmgrError, OSError):
            self._store.forget_old_runs()

    def _pause(self, what: str, code: str, error: ThinpoolmgrError) -> None:
        old = self._pauses.get(what)
        length = min(old.seconds * 2, _LONGEST_PAUSE_SECONDS) if old else _FIRST_PAUSE_SECONDS
        summary = f"{error.summary}: {error.details}" if error.details else error.summary
        with suppress(ThinpoolmgrError):
            # What a command that failed has changed is no reason to try it again at once.
            self._host.observe()
        self._forget_old_runs()
        until = self._host.seconds() + length
        failures = old.failures + 1 if old else 1
        self._pauses[what] = Pause(until, length, Sighting(code, self.pool.path, summary), self._host.mark, failures)

    def _is_paused(self, what: str, now: float) -> bool:
        """Whether this failed lately; a change of the group ends the pause at once."""
        pause = self._pauses.get(what)
        return pause is not None and now < pause.until and pause.mark == self._host.mark

    def _begin(self, view: PoolView) -> None:
        self._word = replace(self._word, state=view.state, busy_since=time.time())
        self._board.put(self._word)

    def _end(self, request: Request, result: RunResult | None, began: float) -> None:
        taken = self._host.seconds() - began
        part: Literal["data", "metadata", "both"] = "both" if request.data_bytes and request.metadata_bytes else "data"
        if not request.data_bytes:
            part = "metadata"
        if result is not None and result.outcome == "nothing":
            # Somebody else was faster.
            self._word = replace(self._word, busy_since=None)
            self._board.put(self._word)
            return
        if result is not None:
            self._extension_seconds += _WEIGHT * (min(taken, FARTHEST_SECONDS) - self._extension_seconds)
        outcome = "done" if result is not None else self._pauses["extend"].sighting.code
        steps = sum(step.seconds for step in result.steps) if result else 0.0
        last = LastExtension(time.time(), part, outcome, steps, taken)
        self._word = replace(
            self._word,
            busy_since=None,
            extensions_done=self._word.extensions_done + (result is not None),
            extensions_failed=self._word.extensions_failed + (result is None),
            last_extension=last,
            findings=self._word.findings if result is not None else (self._pauses["extend"].sighting,),
        )
        self._board.put(self._word)
        self._tell(Event(self._word, extended=request if result is not None else None))

    def _say(self, state: str, *found: Sighting, rate: Rate = _STILL) -> None:
        old, is_gone = self._word.findings, state in _GONE and self._word.state not in _GONE
        self._word = replace(
            self._word,
            state=state,
            looked_at=self._seen_at,
            busy_since=None,
            data_bytes_per_second=rate.data,
            metadata_bytes_per_second=rate.metadata,
            findings=found,
        )
        self._board.put(self._word)
        if is_gone or [sighting.code for sighting in old] != [sighting.code for sighting in found]:
            self._tell(Event(self._word))
