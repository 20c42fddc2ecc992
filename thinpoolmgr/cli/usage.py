"""Who uses a pool's space, and who owns or holds a device: `usage` and `who`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from thinpoolmgr.approval import refusal_error
from thinpoolmgr.cli.completion import complete_pool
from thinpoolmgr.cli.options import Options, global_options, options_of
from thinpoolmgr.cli.pools import exit_code_of, host_and_store, no_such_pool
from thinpoolmgr.cli.render import Renderer
from thinpoolmgr.cli.views_usage import UsageView
from thinpoolmgr.config import load_config
from thinpoolmgr.core.desired import with_implied_engine
from thinpoolmgr.core.lifecycle import view_pool
from thinpoolmgr.core.owners import find_owners
from thinpoolmgr.core.plan import Refusal
from thinpoolmgr.core.usage import parts_to_ask, usage_document
from thinpoolmgr.cycle import deferred_signals
from thinpoolmgr.errors import CommandFailedError, InterruptedRunError, UsageError
from thinpoolmgr.host.engines import read_graph
from thinpoolmgr.host.runner import CommandRunner
from thinpoolmgr.host.thintools import read_pool_use

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredPool, DesiredState
    from thinpoolmgr.core.model import DmDevice, Engine, Snapshot
    from thinpoolmgr.core.usage import PoolUse, UsageDocument
    from thinpoolmgr.cycle import Host

_SIMULATED = "Simulated: an in-memory host after apply, with made-up images and containers; nothing is touched."


@click.command()
@click.argument("pool", required=False, default="", shell_complete=complete_pool)
@click.option("--all", "show_all", is_flag=True, help="Show every thin device, not only the largest.")
@global_options
@click.pass_context
def usage(context: click.Context, pool: str, *, show_all: bool) -> None:
    """Show who uses the space of a pool.

    Each thin device with its owner (a container, the images that share a layer), with all that it maps, and with what
    only it maps: that comes free when it goes. The largest come first.

    Without POOL, the only pool of the configuration. For a moment the kernel holds a snapshot of the pool's metadata.
    """
    options = options_of(context)
    loaded = load_config(options.config).desired
    chosen = _choose_pool(pool, loaded)
    desired = with_implied_engine(loaded, chosen)
    renderer = Renderer(options)
    try:
        document = _usage_of(chosen, desired, options, renderer)
    except InterruptedRunError as error:
        renderer.error(error)
        context.exit(exit_code_of(error))
    if options.json:
        renderer.json(document)
    else:
        UsageView(renderer).usage(document, show_all=show_all)


def _choose_pool(name: str, desired: DesiredState) -> DesiredPool:
    if not name and len(desired.pools) == 1:
        return desired.pools[0]
    if not name:
        names = ", ".join(pool.name for pool in desired.pools)
        summary = "the configuration has more than one pool"
        raise UsageError(summary, f"Its pools: {names}", "Name one: thinpoolmgr usage POOL.")
    found = desired.find_pool(name)
    if found is None:
        raise no_such_pool(name, desired)
    return found


def _usage_of(pool: DesiredPool, desired: DesiredState, options: Options, renderer: Renderer) -> UsageDocument:
    if options.simulate:
        from thinpoolmgr.sim.usage import simulated_use  # noqa: PLC0415 - seldom needed

        renderer.remark(_SIMULATED)
        snapshot, graph, use = simulated_use(desired, pool)
        _parts(pool, snapshot)
        engine = _engine_of(pool, desired, snapshot)
    else:
        with host_and_store(options, desired) as (host, store), store.lock("usage"):
            snapshot, use = _ask_host(pool, host, renderer)
        engine = _engine_of(pool, desired, snapshot)
        graph = read_graph(engine)
    view = view_pool(pool, snapshot)
    return usage_document(view, use, find_owners(view, engine, graph, snapshot))


def _engine_of(pool: DesiredPool, desired: DesiredState, snapshot: Snapshot) -> Engine | None:
    engine = desired.engine_of(pool.name)
    return snapshot.find_engine(engine.name) if engine else None


def _parts(pool: DesiredPool, snapshot: Snapshot) -> tuple[DmDevice, DmDevice]:
    parts = parts_to_ask(view_pool(pool, snapshot))
    if isinstance(parts, Refusal):
        raise refusal_error(parts)
    return parts


def _ask_host(pool: DesiredPool, host: Host, renderer: Renderer) -> tuple[Snapshot, PoolUse]:
    runner = CommandRunner()

    def tell(signal_name: str) -> None:
        renderer.stopping(signal_name)
        runner.end_reading()

    with deferred_signals(tell) as came:
        snapshot = host.observe()
        try:
            use = read_pool_use(*_parts(pool, snapshot), runner)
        except CommandFailedError:
            # thin_ls, when it was ended by us.
            if not came:
                raise
        if came:
            raise InterruptedRunError(came[0], "stopped by a signal", "The snapshot of the metadata is given back.")
    return snapshot, use
