"""Commands that plan and change pools: plan, apply, destroy, activate, deactivate."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from thinpoolmgr.cli.completion import comma_separated, complete_pool
from thinpoolmgr.cli.options import Options, global_options, options_of
from thinpoolmgr.cli.render import Renderer
from thinpoolmgr.config import load_config
from thinpoolmgr.core.desired import with_implied_engine
from thinpoolmgr.core.documents import StepResult, apply_document, plan_document
from thinpoolmgr.core.planner import plan_activate, plan_apply
from thinpoolmgr.core.teardown import plan_deactivate, plan_destroy
from thinpoolmgr.cycle import Approval, RunError, carry_out, look
from thinpoolmgr.errors import InterruptedRunError, NotRootError, ThinpoolmgrError, UsageError
from thinpoolmgr.host.observe import require_thin_pool_target
from thinpoolmgr.host.perform import RealHost
from thinpoolmgr.host.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from thinpoolmgr.core.desired import DesiredPool, DesiredState
    from thinpoolmgr.core.model import Snapshot
    from thinpoolmgr.core.plan import Memory, Plan
    from thinpoolmgr.core.steps import Danger, Step
    from thinpoolmgr.cycle import Host, Planner
    from thinpoolmgr.sim.host import SimulatedHost

_ALLOWED: dict[str, Danger] = {"outage": "outage", "destroy": "destroys"}


def require_root() -> None:
    """Raise unless we are root: LVM, device-mapper and the journal need it.

    Raises:
        NotRootError: we are not.

    """
    if os.geteuid() != 0:
        raise NotRootError("this needs root", "It reads and changes LVM and device-mapper.", "Run it with sudo.")


def _approval_options(function: Callable[..., Any]) -> Callable[..., Any]:
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


def real_host(desired: DesiredState, *, all_disks: bool = False) -> RealHost:
    """Return this host, which shows what `desired` names or selects, or all of its disks.

    Raises:
        UnavailableError: its kernel cannot run thin pools.

    """
    require_thin_pool_target()
    return RealHost(desired, all_disks=all_disks)


def simulated_host(options: Options, desired: DesiredState) -> SimulatedHost | None:
    """Return the in-memory host when `--simulate` asks for it, and say so beside the result; otherwise None."""
    if not options.simulate:
        return None
    from thinpoolmgr.sim.host import SimulatedHost, simulated_snapshot  # noqa: PLC0415 - seldom needed

    Renderer(options).remark("Simulated: an in-memory host whose disks are all blank; nothing is touched.")
    return SimulatedHost(simulated_snapshot(desired))


@contextmanager
def host_and_store(options: Options, desired: DesiredState) -> Iterator[tuple[Host, Store]]:
    """Give this host and its journal; with `--simulate` an in-memory host, and a journal that goes when it ends.

    Raises:
        NotRootError: this host is meant, and we are not root.
        UnavailableError: its kernel cannot run thin pools.

    """
    simulated = simulated_host(options, desired)
    if simulated is None:
        require_root()
        yield real_host(desired), Store()
        return
    with TemporaryDirectory(prefix="thinpoolmgr-simulated-") as folder:
        yield simulated, Store(Path(folder), Path(folder) / "lock")


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

    def confirm(self) -> bool | None:
        """Ask at the terminal; None when there is none."""
        if self._options.json or not all(stream and stream.isatty() for stream in (sys.stdin, sys.stderr)):
            return None
        return click.confirm("Carry this out?", default=False, err=True)


def find_pool(desired: DesiredState, name: str) -> DesiredPool:
    """Return the pool called `name`.

    Raises:
        UsageError: the configuration has none of this name.

    """
    pool = desired.find_pool(name)
    if pool is None:
        names = ", ".join(pool.name for pool in desired.pools)
        raise UsageError(f"there is no pool {name!r} in the configuration", f"Its pools: {names}", "Name one of these.")
    return pool


@click.command()
@global_options
@click.pass_context
def plan(context: click.Context) -> None:
    """Show what apply would do, and why.

    Nothing is written. Exit code 2 says that there are steps, 3 that something is refused.
    """
    options = options_of(context)
    desired = load_config(options.config).desired
    with host_and_store(options, desired) as (host, store):
        made = look(lambda snapshot, memory: plan_apply(desired, snapshot, memory), host, store)
    renderer = Renderer(options)
    if options.json:
        renderer.json(plan_document(made))
    else:
        renderer.plan(made)
    if made.refusals:
        context.exit(made.refusals[0].exit_code)
    context.exit(2 if made.steps else 0)


@click.command()
@_approval_options
@global_options
@click.pass_context
def apply(context: click.Context, *, yes: bool, allow: frozenset[Danger]) -> None:
    """Make the host as the configuration describes it.

    The plan is shown and confirmed first; each step is checked on the host. After an interruption run it again: it
    finishes what was begun.
    """
    desired = load_config(options_of(context).config).desired
    _carry_out(
        context, "apply", desired, lambda snapshot, memory: plan_apply(desired, snapshot, memory), Approval(yes, allow)
    )


@click.command()
@click.argument("pool", shell_complete=complete_pool)
@click.option("--keep-devices", is_flag=True, help="Leave LVM's labels on the disks.")
@_approval_options
@global_options
@click.pass_context
def destroy(context: click.Context, pool: str, *, keep_devices: bool, yes: bool, allow: frozenset[Danger]) -> None:
    """Remove a pool with all that is in it.

    Thin devices, volumes, group and labels go; the engine's state is moved aside.
    """
    desired = load_config(options_of(context).config).desired
    wanted = find_pool(desired, pool)
    desired = with_implied_engine(desired, wanted)

    def planner(snapshot: Snapshot, memory: Memory) -> Plan:
        return plan_destroy(wanted, desired, snapshot, memory, keep_devices=keep_devices)

    _carry_out(context, "destroy", desired, planner, Approval(yes, allow))


@click.command()
@click.argument("pool", shell_complete=complete_pool)
@_approval_options
@global_options
@click.pass_context
def activate(context: click.Context, pool: str, *, yes: bool, allow: frozenset[Danger]) -> None:
    """Make an existing pool's devices appear.

    The engine that was stopped for it is started again.
    """
    desired = load_config(options_of(context).config).desired
    wanted = find_pool(desired, pool)
    _carry_out(
        context,
        "activate",
        desired,
        lambda snapshot, memory: plan_activate(wanted, desired, snapshot, memory),
        Approval(yes, allow),
    )


@click.command()
@click.argument("pool", shell_complete=complete_pool)
@_approval_options
@global_options
@click.pass_context
def deactivate(context: click.Context, pool: str, *, yes: bool, allow: frozenset[Danger]) -> None:
    """Take a pool's devices away; its data stays.

    The engine is stopped and its thin devices are removed first.
    """
    desired = load_config(options_of(context).config).desired
    wanted = find_pool(desired, pool)
    desired = with_implied_engine(desired, wanted)
    _carry_out(
        context,
        "deactivate",
        desired,
        lambda snapshot, memory: plan_deactivate(wanted, desired, snapshot, memory),
        Approval(yes, allow),
    )


def _carry_out(
    context: click.Context, command: str, desired: DesiredState, planner: Planner, approval: Approval
) -> None:
    options = options_of(context)
    renderer = Renderer(options)
    reporter = TerminalReporter(renderer, options)
    try:
        with renderer.progress(), host_and_store(options, desired) as (host, store):
            result = carry_out(command, planner, host, store, reporter, approval)
    except RunError as error:
        if options.json:
            renderer.json(apply_document(error.run, error.outcome, error.steps, error.cause))
            renderer.explain(error.cause)
        else:
            renderer.error(error.cause)
        context.exit(exit_code_of(error.cause))
    if options.json:
        renderer.json(apply_document(result.run, result.outcome, result.steps))
    else:
        renderer.run_result(result)


def exit_code_of(error: ThinpoolmgrError) -> int:
    """Return the exit code that the contract names for `error`."""
    return 128 + error.signal_number if isinstance(error, InterruptedRunError) else error.exit_code
