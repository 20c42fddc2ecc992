"""Commands that plan and change pools: plan, apply, destroy, activate, deactivate; and how all such are run."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from thinpoolmgr.approval import Approval
from thinpoolmgr.cli.completion import comma_separated, complete_pool
from thinpoolmgr.cli.manner import Manner, beside_other_runs, wait_for_disks
from thinpoolmgr.cli.options import Options, global_options, options_of
from thinpoolmgr.cli.planfile import read_plan, write_plan
from thinpoolmgr.cli.render import Renderer
from thinpoolmgr.cli.telling import tell_began, tell_done, tell_stopped
from thinpoolmgr.config import load_config
from thinpoolmgr.core.documents import apply_document, plan_document
from thinpoolmgr.core.engine_plan import queue_starts
from thinpoolmgr.core.findings import Journal
from thinpoolmgr.core.plan import Request
from thinpoolmgr.core.requests import UnknownPoolError, desired_for, plan_for
from thinpoolmgr.cycle import RunError, carry_out, look
from thinpoolmgr.errors import InterruptedRunError, NotRootError, ThinpoolmgrError, UsageError
from thinpoolmgr.host.observe import require_thin_pool_target
from thinpoolmgr.host.perform import RealHost
from thinpoolmgr.host.runner import called_when_late
from thinpoolmgr.host.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from thinpoolmgr.config_edit import ConfigEdit
    from thinpoolmgr.core.desired import DesiredState
    from thinpoolmgr.core.model import Snapshot
    from thinpoolmgr.core.plan import Memory, Plan, PlanFile, StepResult
    from thinpoolmgr.core.steps import Danger, Step
    from thinpoolmgr.cycle import Host, Planner
    from thinpoolmgr.host.runner import CommandRunner
    from thinpoolmgr.sim.host import SimulatedHost

_LATE_SECONDS = 10.0
_LATE = (
    "This host has not answered for 10 seconds. LVM waits for another command's lock, or for a disk that hangs: "
    "see dmesg, and cat /sys/block/*/inflight."
)
_ALLOWED: dict[str, Danger] = {"outage": "outage", "destroy": "destroys"}


def require_root() -> None:
    """Raise unless we are root: LVM, device-mapper and the journal need it.

    Raises:
        NotRootError: we are not.

    """
    if os.geteuid() != 0:
        raise NotRootError("this needs root", "It reads and changes LVM and device-mapper.", "Run it with sudo.")


def approval_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--yes` and `--allow` to a command that carries out a plan."""
    allow = click.option(
        "--allow",
        "allow",
        multiple=True,
        metavar="outage,destroy",
        callback=_parse_allow,
        shell_complete=comma_separated(_ALLOWED),
        help="Also approve steps that interrupt containers (outage) or lose data (destroy).",
    )
    yes = click.option(
        "--yes", is_flag=True, callback=_mark_as_carrying_out, help="Do not ask; approves harmless steps only."
    )
    return yes(allow(function))


def _mark_as_carrying_out(context: click.Context, _parameter: click.Parameter, value: bool) -> bool:  # noqa: FBT001
    """Every command with this option ends with a run's document, also when it fails before it begins."""
    options_of(context).carries_out = True
    return value


def _parse_allow(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> frozenset[Danger]:
    words = [word.strip() for value in values for word in value.split(",")]
    unknown = [word for word in words if word not in _ALLOWED]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is not one of: {', '.join(_ALLOWED)}")
    return frozenset(_ALLOWED[word] for word in words)


class _SpokenHost(RealHost):
    """This host, which says so where a look at it takes long: LVM waits without a word, and without end."""

    def observe(self) -> Snapshot:
        with called_when_late(_LATE_SECONDS, _tell_late):
            return super().observe()


def _tell_late() -> None:
    renderer = Renderer(Options())
    if sys.stderr.isatty():
        # Something may be drawn on this line.
        renderer.err()
    renderer.remark(_LATE)


def real_host(
    desired: DesiredState,
    runner: CommandRunner | None = None,
    *,
    all_disks: bool = False,
    all_thin_devices: bool = False,
    tells_late: bool = True,
) -> RealHost:
    """Return this host, which shows what `desired` names or selects, or all of its disks and thin devices.

    Raises:
        UnavailableError: its kernel cannot run thin pools.

    """
    require_thin_pool_target()
    kind = _SpokenHost if tells_late else RealHost
    return kind(desired, runner, all_disks=all_disks, all_thin_devices=all_thin_devices or bool(desired.holders_of))


def simulated_host(options: Options, desired: DesiredState) -> SimulatedHost | None:
    """Return the in-memory host when `--simulate` asks for it, and say so beside the result; otherwise None."""
    if not options.simulate:
        return None
    from thinpoolmgr.sim.host import SimulatedHost, simulated_snapshot  # noqa: PLC0415 - seldom needed

    Renderer(options).remark("Simulated: an in-memory host whose disks are all blank; nothing is touched.")
    return SimulatedHost(simulated_snapshot(desired))


@contextmanager
def host_and_store(
    options: Options, desired: DesiredState, *, all_thin_devices: bool = False
) -> Iterator[tuple[Host, Store]]:
    """Give this host and its journal; with `--simulate` an in-memory host, and a journal that goes when it ends.

    Raises:
        NotRootError: this host is meant, and we are not root.
        UnavailableError: its kernel cannot run thin pools.

    """
    simulated = simulated_host(options, desired)
    if simulated is None:
        require_root()
        yield real_host(desired, all_thin_devices=all_thin_devices), Store()
        return
    from tempfile import TemporaryDirectory  # noqa: PLC0415 - as above

    with TemporaryDirectory(prefix="thinpoolmgr-simulated-") as folder:
        yield simulated, Store(Path(folder), Path(folder) / "lock")


def journal(options: Options) -> Store | None:
    """Return this host's journal; None with `--simulate`, which has none.

    Raises:
        NotRootError: we are not root, and only root may read it.

    """
    if options.simulate:
        return None
    require_root()
    return Store()


def read_journal(options: Options) -> Journal:
    """Return what can be read of this host's journal, whatever is wrong with it.

    Raises:
        NotRootError: we are not root, and only root may read it.

    """
    store = journal(options)
    if store is None:
        return Journal()
    # Before and after: a run that begins or ends in between was not interrupted.
    was_locked = store.is_locked()
    stored = store.read_leniently()
    return Journal(stored, was_locked or store.is_locked())


class TerminalReporter:
    """Tells a person at the terminal, or a log, what the run cycle does."""

    def __init__(self, renderer: Renderer, options: Options) -> None:
        """Draw with `renderer`."""
        self._renderer = renderer
        self._options = options
        self._total = 0

    def show_plan(self, plan: Plan) -> None:
        """Print the plan beside the result."""
        if not self._options.json:
            self._renderer.plan(plan, to_stderr=True)

    def begin_step(self, step: Step, total: int) -> None:
        """Show that a step runs."""
        self._total = total
        self._renderer.begin_step(step, total)

    def end_step(self, step: Step, result: StepResult) -> None:
        """Print the step's line."""
        self._renderer.end_step(step, self._total, result)

    def stopping(self, signal_name: str) -> None:
        """Say at once that the signal was heard: a person who sees nothing reaches for kill -9."""
        self._renderer.stopping(signal_name)

    def confirm(self) -> bool | None:
        """Ask at the terminal; None when there is none."""
        if self._options.json or not all(stream and stream.isatty() for stream in (sys.stdin, sys.stderr)):
            return None
        return click.confirm("Carry this out?", default=False, err=True)


def no_such_pool(name: str, desired: DesiredState) -> UsageError:
    """Return the error for a pool that the configuration does not have."""
    names = ", ".join(pool.name for pool in desired.pools)
    return UsageError(f"there is no pool {name!r} in the configuration", f"Its pools: {names}", "Name one of these.")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the plan, for apply FILE.")
@global_options
@click.pass_context
def plan(context: click.Context, *, out: Path | None) -> None:
    """Show what apply would do, and why.

    The host is left as it is. Exit code 2 says that there are steps, 3 that something is refused.
    """
    options = options_of(context)
    request = Request("apply")
    desired = desired_for(request, load_config(options.config).desired)
    with host_and_store(options, desired) as (host, store):
        made = look(planner_of(request, desired), host, store)
    renderer = Renderer(options)
    is_written = out is not None and not made.refusals
    if out is not None and is_written:
        write_plan(out, made)
    if options.json:
        renderer.json(plan_document(made))
    else:
        renderer.plan(made)
        if is_written:
            renderer.remark(f"Written to {out}; to carry out exactly this: thinpoolmgr apply {out}")
    if made.refusals:
        context.exit(made.refusals[0].exit_code)
    context.exit(2 if made.steps else 0)


@click.command()
@click.argument("planfile", required=False, type=click.Path(path_type=Path))
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(min=0, max=86400),
    default=0,
    metavar="SECONDS",
    help="Wait up to so long for configured disks that are missing, and for another run to end.",
)
@click.option(
    "--as-unit", is_flag=True, help="Run by a systemd unit that engines wait for: do not wait for them in turn."
)
@approval_options
@global_options
@click.pass_context
def apply(  # noqa: PLR0913 - as the command line
    context: click.Context,
    planfile: Path | None,
    *,
    wait_seconds: float,
    as_unit: bool,
    yes: bool,
    allow: frozenset[Danger],
) -> None:
    """Make the host as the configuration describes it.

    The plan is shown and confirmed first; each step is checked on the host. After an interruption run it again: it
    finishes what was begun.

    With PLANFILE, written by plan --out, exactly that plan is carried out: exit code 4 when the host or the
    configuration have changed since.
    """
    bound_to = read_plan(planfile) if planfile else None
    run_request(context, Request("apply"), Approval(yes, allow), bound_to, manner=Manner(wait_seconds, as_unit))


@click.command()
@click.argument("pool", shell_complete=complete_pool)
@click.option("--keep-devices", is_flag=True, help="Leave LVM's labels on the disks.")
@approval_options
@global_options
@click.pass_context
def destroy(context: click.Context, pool: str, *, keep_devices: bool, yes: bool, allow: frozenset[Danger]) -> None:
    """Remove a pool with all that is in it.

    Thin devices, volumes, group and labels go; the engine's state is moved aside.
    """
    run_request(context, Request("destroy", pool, keep_devices=keep_devices), Approval(yes, allow))


@click.command()
@click.argument("pool", shell_complete=complete_pool)
@approval_options
@global_options
@click.pass_context
def activate(context: click.Context, pool: str, *, yes: bool, allow: frozenset[Danger]) -> None:
    """Make an existing pool's devices appear.

    The engine that was stopped for it is started again.
    """
    run_request(context, Request("activate", pool), Approval(yes, allow))


@click.command()
@click.argument("pool", shell_complete=complete_pool)
@approval_options
@global_options
@click.pass_context
def deactivate(context: click.Context, pool: str, *, yes: bool, allow: frozenset[Danger]) -> None:
    """Take a pool's devices away; its data stays.

    The engine is stopped and its thin devices are removed first.
    """
    run_request(context, Request("deactivate", pool), Approval(yes, allow))


def planner_of(request: Request, desired: DesiredState, edit: ConfigEdit | None = None) -> Planner:
    """Return what plans `request`, for the run cycle; its plans tell what `edit` has written before them."""
    from thinpoolmgr.sim.steps import apply_step  # noqa: PLC0415 - only a rebuild looks ahead

    def planner(snapshot: Snapshot, memory: Memory) -> Plan:
        made = plan_for(request, desired, snapshot, memory, apply_step)
        return replace(made, notes=(*made.notes, edit.note)) if edit else made

    return planner


def queueing_starts(planner: Planner) -> Planner:
    """Return what plans as `planner` does, with engines that are started when the run has ended."""
    return lambda snapshot, memory: queue_starts(planner(snapshot, memory))


def run_request(  # noqa: PLR0913, PLR0917 - the parts of a request
    context: click.Context,
    request: Request,
    approval: Approval,
    bound_to: PlanFile | None = None,
    edit: ConfigEdit | None = None,
    manner: Manner | None = None,
) -> None:
    """Carry out what was asked for, and print how it went.

    With `edit` the configuration is as it makes it; it is written when the plan is approved.

    Raises:
        UsageError: the configuration has no such pool.
        ThinpoolmgrError: nothing was begun.

    """
    options = options_of(context)
    config = edit.loaded if edit else load_config(options.config)
    loaded = config.desired
    if request.command == "apply" and bound_to is None and "destroys" in approval.allowed:
        # A base size that nobody wrote down is no reason to lose anything.
        is_set = any(f"engines.{engine.name}.base_size" in config.origins for engine in loaded.engines)
        request = replace(request, may_empty=is_set)
    try:
        desired = desired_for(request, loaded)
    except UnknownPoolError as error:
        raise no_such_pool(request.pool, loaded) from error
    renderer = Renderer(options)
    reporter = TerminalReporter(renderer, options)
    written = None if options.simulate else edit
    prepare = written.write if written else None
    planner = planner_of(request, desired, written)
    manner = manner or Manner()
    if manner.as_unit:
        planner = queueing_starts(planner)
    try:
        with renderer.progress(), host_and_store(options, desired) as (host, store):
            if not options.simulate:
                store.on_new_run = partial(tell_began, request)
                wait_for_disks(desired, manner.wait_seconds, renderer.remark)
            result = beside_other_runs(
                lambda: carry_out(request.command, planner, host, store, reporter, approval, bound_to, prepare),
                lambda: look(planner, host, store),
                manner,
            )
    except RunError as error:
        if not options.simulate:
            tell_stopped(request, error)
        if options.json:
            renderer.json(apply_document(error.run, error.outcome, error.steps, error.cause))
            renderer.explain(error.cause)
        else:
            renderer.error(error.cause)
        context.exit(exit_code_of(error.cause))
    if result.run and not options.simulate:
        tell_done(request, result)
    if options.json:
        renderer.json(apply_document(result.run, result.outcome, result.steps))
    else:
        renderer.run_result(result)


def exit_code_of(error: ThinpoolmgrError) -> int:
    """Return the exit code that the contract names for `error`."""
    return 128 + error.signal_number if isinstance(error, InterruptedRunError) else error.exit_code
