"""The run cycle: from a look at the host to a plan carried out and seen to hold.

Lock, recover, observe, plan, guard, show, approve; then for each step: journal *doing*, perform, observe, check its
post-condition, journal *done*; at the end the new plan must be empty.

Nothing here knows LVM, a disk or an engine: it talks to a host with two methods and tells a reporter what happens.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Literal, Protocol

from msgspec import Struct
from msgspec.structs import replace

from thinpoolmgr import __version__
from thinpoolmgr.approval import Approval, approve, raise_refusals, require_fresh, require_same_plan
from thinpoolmgr.core.conditions import Condition, condition_of, why_not_done
from thinpoolmgr.core.journal import (
    Began,
    Doing,
    Done,
    Ended,
    Failed,
    Record,
    Run,
    may_settle,
    remember,
    settles,
    unfinished_runs,
)
from thinpoolmgr.core.model import Snapshot
from thinpoolmgr.core.plan import Memory, Plan, PlanFile, Request, StepResult
from thinpoolmgr.core.steps import (
    CreateThinPool,
    CreateVolumeGroup,
    ExtendData,
    ExtendMetadata,
    Step,
    step_name,
    target,
)
from thinpoolmgr.errors import (
    CommandFailedError,
    IncoherentError,
    InterruptedRunError,
    NeedsPersonError,
    ThinpoolmgrError,
)
from thinpoolmgr.host.store import RunFile, Store, now

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PATIENCE_SECONDS = 10.0
"""How long what has begun since the look is waited for: the monitor's extensions are short."""
Planner = Callable[[Snapshot, Memory], Plan]


class Host(Protocol):
    """What the run cycle needs of a host, real or simulated."""

    @property
    def recent_commands(self) -> tuple[str, ...]:
        """The last commands that were run, oldest first."""
        ...

    def observe(self) -> Snapshot:
        """Look at the host."""
        ...

    def perform(self, step: Step) -> None:
        """Carry out one step, or raise a ThinpoolmgrError."""
        ...


class Reporter(Protocol):
    """Who is told what happens, as it happens."""

    def show_plan(self, plan: Plan) -> None:
        """The plan is about to be approved."""
        ...

    def begin_step(self, step: Step, total: int) -> None:
        """A step begins."""
        ...

    def end_step(self, step: Step, result: StepResult) -> None:
        """A step ended, well or not."""
        ...

    def stopping(self, signal_name: str) -> None:
        """A signal came: the step under way is finished, then the run stops."""
        ...

    def confirm(self) -> bool | None:
        """Ask whether to carry out the plan; None when there is nobody to ask."""
        ...


class RunResult(Struct, frozen=True):
    """How a run went."""

    run: str
    outcome: Literal["done", "nothing"]
    steps: tuple[StepResult, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """Only where nothing was to do; otherwise they were shown with the plan."""


class RunError(Exception):
    """A run that did not end well: what was done until then, and why it stopped."""

    def __init__(self, run: str, steps: tuple[StepResult, ...], cause: ThinpoolmgrError) -> None:
        """Keep the run's name, its finished steps and the error."""
        super().__init__(str(cause))
        self.run = run
        self.steps = steps
        self.cause = cause

    @property
    def outcome(self) -> Literal["failed", "interrupted"]:
        """How the run ended."""
        return "interrupted" if isinstance(self.cause, InterruptedRunError) else "failed"


def look(planner: Planner, host: Host, store: Store) -> Plan:
    """Return the plan for the host as it is now; takes no lock and changes nothing.

    Raises:
        ThinpoolmgrError: the host cannot be observed, or the journal is damaged.

    """
    snapshot = host.observe()
    return planner(snapshot, remember([run for _, run in store.read_runs()], snapshot.boot_id))


def carry_out(  # noqa: PLR0913, PLR0917 - the parts of a run
    command: str,
    planner: Planner,
    host: Host,
    store: Store,
    reporter: Reporter,
    approval: Approval,
    bound_to: PlanFile | None = None,
    prepare: Callable[[], None] | None = None,
) -> RunResult:
    """Plan with `planner` and carry the plan out; run again after any kind of end, it finishes.

    With `bound_to` only that very plan is carried out, on a host that is as it was made for. `prepare` writes down what
    the host is to become, before the run begins: it is called when the plan is approved, which a plan without steps
    then needs, too. After a kill behind it `apply` does the rest; after one before it nothing has happened.

    While a person is asked the lock is free; what was agreed to must still be the plan when it is taken again.

    Raises:
        StalePlanError: the host, or what it should be, is not what the plan of `bound_to` was made for, or that was
            agreed to.
        ThinpoolmgrError: nothing was begun: refused, not approved, locked, or the journal needs a person.
        RunError: a step went wrong, or a signal came; its cause has the exit code.

    """
    with ExitStack() as lock:
        runs, snapshot, memory = _lock_and_recall(lock, command, host, store)
        plan = planner(snapshot, memory)
        if bound_to is not None:
            require_fresh(bound_to, plan)
        raise_refusals(plan.refusals)
        if not plan.steps and prepare is None:
            _close_unfinished(command, runs, plan.request, snapshot)
            return RunResult("", "nothing", notes=plan.notes, warnings=plan.warnings)
        reporter.show_plan(plan)
        if not approval.yes:
            # A person may think for hours, and the monitor must be able to extend pools meanwhile.
            lock.close()
        if approve(plan, approval, reporter.confirm):
            runs, snapshot, memory = _lock_and_recall(lock, command, host, store)
            require_same_plan(planner(snapshot, replace(memory, request=plan.request)), plan)
        memory = replace(memory, request=plan.request)
        if prepare is not None:
            prepare()
        if not plan.steps:
            _close_unfinished(command, runs, plan.request, snapshot)
            return RunResult("", "nothing", notes=plan.notes)
        name, run_file = store.new_run(command)
        try:
            run = _Run(name, run_file, host, reporter, snapshot)
            run.begin(command, plan)
            try:
                run.perform_all(plan)
                run.require_finished(planner(run.snapshot, _after(memory, plan)))
                not_settled = [(path, other) for path, other in runs if not settles(plan.request, other)]
                _close_unfinished(command, not_settled, plan.request, run.snapshot)
            except ThinpoolmgrError as error:
                # The journal could not be written: what was done until then must be told all the same.
                raise RunError(name, tuple(run.results), error) from error
        finally:
            run_file.close()
        return RunResult(name, "done", tuple(run.results), plan.notes)


def _lock_and_recall(
    lock: ExitStack, command: str, host: Host, store: Store
) -> tuple[list[tuple[Path, Run]], Snapshot, Memory]:
    """Take the lock, look at the host, and settle what the journal left open.

    Who takes the lock for itself alone looks before: a disk that hangs would keep the monitor from all pools else. What
    was seen counts if no other run has changed anything meanwhile, and each writes to the journal before it does.
    """
    seen: tuple[list[tuple[Path, Run]], Snapshot] | None = None
    if not store.shares_lock:
        with store.lock(command):
            # Another run is told of before the look, which may take long.
            before = store.read_runs()
        seen = before, host.observe()
    lock.enter_context(store.lock(command, _PATIENCE_SECONDS if seen else 0.0))
    runs = store.read_runs()
    snapshot = seen[1] if seen is not None and seen[0] == runs else host.observe()
    runs = _recover(runs, snapshot)
    return runs, snapshot, remember([run for _, run in runs], snapshot.boot_id)


def _after(memory: Memory, plan: Plan) -> Memory:
    """What is remembered when all steps are done: nothing is under way any more."""
    return Memory(our_groups=memory.our_groups, made=memory.made, request=plan.request)


def _recover(runs: list[tuple[Path, Run]], snapshot: Snapshot) -> list[tuple[Path, Run]]:
    """Settle the steps that were begun and not recorded as done: done after all, to be planned again, or stuck."""
    unfinished = unfinished_runs([run for _, run in runs])
    return [(path, _settle(path, run, snapshot) if run in unfinished else run) for path, run in runs]


def _settle(path: Path, run: Run, snapshot: Snapshot) -> Run:
    for step in run.open_steps:
        condition = condition_of(step, snapshot)
        if condition is Condition.STUCK:
            raise _needs_person(path, step, snapshot)
        group, lv = (
            (_made_group(step, snapshot), _pool_uuid(step, snapshot)) if condition is Condition.DONE else ("", "")
        )
        if group or lv:
            _append(path, Done(step.id, 0.0, group, lv))
            groups = (*run.group_uuids, *([group] if group else []))
            lvs = (*run.lv_uuids, *([(step.id, lv)] if lv else []))
            run = replace(run, done=(*run.done, step.id), group_uuids=groups, lv_uuids=lvs)
    return run


def _made_group(step: Step, snapshot: Snapshot) -> str:
    """Uuid of the group that `step` made: what shows that it is ours when LVM has lost it."""
    group = snapshot.find_group(step.group) if isinstance(step, CreateVolumeGroup) else None
    return group.uuid if group else ""


def _pool_uuid(step: Step, snapshot: Snapshot) -> str:
    """Uuid of the thin pool that `step` made or enlarged."""
    if not isinstance(step, CreateThinPool | ExtendData | ExtendMetadata):
        return ""
    group = snapshot.find_group(step.group)
    lv = group.find_lv(step.lv) if group else None
    return lv.uuid if lv else ""


def _volumes_before(step: Step, snapshot: Snapshot) -> tuple[str, ...]:
    """Uuids of what the group of `step` has, where a kill may leave a volume that looks like anybody's."""
    if not isinstance(step, CreateThinPool | ExtendMetadata):
        return ()
    group = snapshot.find_group(step.group)
    return tuple(lv.uuid for lv in group.lvs) if group else ()


def _append(path: Path, record: Record) -> None:
    run_file = RunFile(path)
    try:
        run_file.append(record)
    finally:
        run_file.close()


def _needs_person(path: Path, step: Step, snapshot: Snapshot) -> NeedsPersonError:
    what = f"{step_name(step)} {target(step)}"
    summary = f"an interrupted run stopped inside {what}, and the host fits neither before nor after it"
    details = f"Step: {what} ({step.reason})\nHost: {why_not_done(step, snapshot)}\nJournal: {path}"
    resolution = "Look at what is there. When it is settled by hand, move the journal file away and run this again."
    return NeedsPersonError(summary, details, resolution)


def _close_unfinished(command: str, runs: list[tuple[Path, Run]], request: Request | None, snapshot: Snapshot) -> None:
    """Nothing is left to do for `request`, so what was interrupted and belongs to it is finished, too."""
    unfinished = unfinished_runs([run for _, run in runs])
    for path, run in runs:
        if run in unfinished and may_settle(command, request, run) and settles(request, run, snapshot):
            _append(path, Ended("done", now()))


class _Run:
    """One run being carried out."""

    def __init__(self, name: str, run_file: RunFile, host: Host, reporter: Reporter, snapshot: Snapshot) -> None:
        self.name = name
        self.results: list[StepResult] = []
        self.snapshot = snapshot
        self._file = run_file
        self._host = host
        self._reporter = reporter

    def begin(self, command: str, plan: Plan) -> None:
        self._file.append(
            Began(
                self.name,
                command,
                now(),
                plan.steps,
                plan.fingerprint,
                self.snapshot.boot_id,
                __version__,
                plan.request,
            )
        )

    def perform_all(self, plan: Plan) -> None:
        with deferred_signals(self._reporter.stopping) as came:
            for step in plan.steps:
                self._perform(step, len(plan.steps))
                if came and step is not plan.steps[-1]:
                    self._stop(came[0], len(plan.steps))

    def _perform(self, step: Step, total: int) -> None:
        self._reporter.begin_step(step, total)
        self._file.append(Doing(step.id, now(), _volumes_before(step, self.snapshot)))
        started = time.monotonic()
        already = not why_not_done(step, self.snapshot)
        try:
            if not already:
                self._host.perform(step)
                self.snapshot = self._host.observe()
            self._require_done(step)
        except ThinpoolmgrError as error:
            self._fail(step, error, time.monotonic() - started)
        result = StepResult(
            step.id,
            step_name(step),
            target(step),
            "already" if already else "done",
            round(time.monotonic() - started, 3),
        )
        made = _made_group(step, self.snapshot)
        self._file.append(Done(step.id, result.seconds, made, _pool_uuid(step, self.snapshot)))
        self.results.append(result)
        self._reporter.end_step(step, result)

    def _require_done(self, step: Step) -> None:
        reason = why_not_done(step, self.snapshot)
        if reason:
            summary = f"{step_name(step)} {target(step)} reported success, and the host does not show it"
            raise IncoherentError(
                summary, reason, "Look at the host before anything else is done; then run this again."
            )

    def _fail(self, step: Step, error: ThinpoolmgrError, seconds: float) -> None:
        result = StepResult(step.id, step_name(step), target(step), "failed", round(seconds, 3))
        self.results.append(result)
        self._reporter.end_step(step, result)
        # A journal that cannot be written must not hide what went wrong; the next run finds the step undone.
        with suppress(CommandFailedError):
            self._file.append(Failed(step.id, f"{error.summary}\n{error.details}", self._host.recent_commands))
            self._file.append(Ended("failed", now()))
        raise RunError(self.name, tuple(self.results), error) from error

    def _stop(self, signal_number: int, total: int) -> None:
        self._file.append(Ended("interrupted", now()))
        name = signal.Signals(signal_number).name
        summary = f"stopped by {name} after the step that was under way"
        details = f"Steps done: {len(self.results)} of {total}."
        way = "Run the same command again, or thinpoolmgr resume, to finish."
        error = InterruptedRunError(signal_number, summary, details, way)
        raise RunError(self.name, tuple(self.results), error)

    def require_finished(self, rest: Plan) -> None:
        """Success is said only when the host, looked at again, leaves nothing to do."""
        if rest.is_empty:
            self._file.append(Ended("done", now()))
            return
        self._file.append(Ended("failed", now()))
        left = [f"{step_name(step)} {target(step)}: {step.reason}" for step in rest.steps]
        left += [refusal.summary for refusal in rest.refusals]
        summary = "all steps are done, and the host is still not as described"
        error = IncoherentError(summary, "\n".join(left), "See what changed the host meanwhile, and run this again.")
        raise RunError(self.name, tuple(self.results), error)


@contextmanager
def deferred_signals(tell: Callable[[str], None]) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them: a command that changes something is always finished.

    Args:
        tell: is called, from the handler, with the name of the first signal that comes.

    Only the main thread is told of signals (signal(7), Python's signal module): in another one nothing ever comes.

    """
    if threading.current_thread() is not threading.main_thread():
        yield []
        return
    came: list[int] = []

    def note(number: int, _frame: object) -> None:
        if not came:
            tell(signal.Signals(number).name)
        came.append(number)

    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield came
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
