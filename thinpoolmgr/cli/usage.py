"""Who uses a pool's space, and who owns or holds a device: `usage` and `who`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from thinpoolmgr.approval import refusal_error
from thinpoolmgr.cli.completion import complete_pool
from thinpoolmgr.cli.options import Options, global_options, options_of
from thinpoolmgr.cli.pools import exit_code_of, host_and_store, no_such_pool
from thinpoolmgr.cli.render import Renderer
from thinpoolmgr.cli.views_usage import UsageView
from thinpoolmgr.config import load_config
from thinpoolmgr.core.desired import with_engine_anywhere, with_implied_engine
from thinpoolmgr.core.lifecycle import view_pool
from thinpoolmgr.core.owners import find_owners
from thinpoolmgr.core.plan import Refusal
from thinpoolmgr.core.usage import parts_to_ask, usage_document
from thinpoolmgr.core.who import Known, Query, devices_to_watch, find_relations, find_subjects, who_document
from thinpoolmgr.cycle import deferred_signals
from thinpoolmgr.errors import CommandFailedError, InterruptedRunError, UsageError
from thinpoolmgr.host.engines import read_graph
from thinpoolmgr.host.holders import find_holders
from thinpoolmgr.host.places import locate
from thinpoolmgr.host.runner import CommandRunner
from thinpoolmgr.host.thintools import SnapshotLeftError, read_pool_use

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinpoolmgr.core.desired import DesiredPool, DesiredState
    from thinpoolmgr.core.engine_graph import EngineGraph
    from thinpoolmgr.core.holders import Holders
    from thinpoolmgr.core.model import DmDevice, Engine, Snapshot
    from thinpoolmgr.core.usage import PoolUse, UsageDocument
    from thinpoolmgr.core.who import Subject
    from thinpoolmgr.cycle import Host

_LISTED = 10


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
        snapshot, graph, use = _simulated(desired, pool, renderer)
        _parts(pool, snapshot)
        engine = _engine_of(pool, desired, snapshot)
    else:
        with host_and_store(options, desired, all_thin_devices=True) as (host, store), store.lock("usage"):
            snapshot, use = _ask_host(pool, host, renderer)
        engine = _engine_of(pool, desired, snapshot)
        graph = read_graph(engine, with_parents=False)
    view = view_pool(pool, snapshot)
    return usage_document(view, use, find_owners(view, engine, graph, snapshot))


def _simulated(desired: DesiredState, pool: DesiredPool, renderer: Renderer) -> tuple[Snapshot, EngineGraph, PoolUse]:
    from thinpoolmgr.sim.usage import simulated_use  # noqa: PLC0415 - seldom needed

    renderer.remark("Simulated: an in-memory host after apply, with made-up images and containers; nothing is touched.")
    return simulated_use(desired, pool)


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
        except CommandFailedError as error:
            # thin_ls, when it was ended by us.
            if not came or isinstance(error, SnapshotLeftError):
                raise
        if came:
            raise InterruptedRunError(came[0], "stopped by a signal", "The snapshot of the metadata is given back.")
    return snapshot, use


@click.command()
@click.argument("what", metavar="PATH|DEVICE|CONTAINER|LAYER")
@global_options
@click.pass_context
def who(context: click.Context, what: str) -> None:
    """Tell whose a thin device is, and who holds it.

    From any of its names to all others: a path on it, a name below /dev, MAJOR:MINOR, its device id, the name or id of
    a container, an image or a layer, or the beginning of an id. Docker need not run: its files are read.
    """
    options = options_of(context)
    desired = with_engine_anywhere(load_config(options.config).desired)
    renderer = Renderer(options)
    if options.simulate:
        snapshot, graph, _ = _simulated(desired, desired.pools[0], renderer)
        query = Query(what)
    else:
        with host_and_store(options, desired, all_thin_devices=True) as (host, _):
            snapshot = host.observe()
        graph, query = read_graph(next(iter(snapshot.engines), None)), locate(what)
    known = _known(desired, snapshot, graph)
    subject = _choose_subject(query, known)
    relations = find_relations(subject, known)
    held = _holders(devices_to_watch(subject, relations, known), options)
    document = who_document(query, subject, relations, held, known)
    if options.json:
        renderer.json(document)
    else:
        UsageView(renderer).who(document)


def _holders(watched: dict[str, str], options: Options) -> Holders:
    if options.simulate:
        from thinpoolmgr.sim.usage import simulated_holders  # noqa: PLC0415 - seldom needed

        return simulated_holders(watched)
    return find_holders(watched)


def _known(desired: DesiredState, snapshot: Snapshot, graph: EngineGraph) -> Known:
    views = tuple(view_pool(pool, snapshot) for pool in desired.pools)
    owned = [find_owners(view, _engine_of(view.pool, desired, snapshot), graph, snapshot) for view in views]
    devices = tuple(device for ownership in owned for device in ownership.devices.values())
    problems = tuple(dict.fromkeys(problem for ownership in owned for problem in ownership.problems))
    roots = tuple(os.path.realpath(engine.data_root) for engine in snapshot.engines if engine.data_root)
    return Known(views, devices, graph, roots, problems)


def _choose_subject(query: Query, known: Known) -> Subject:
    found = find_subjects(query, known)
    if len(found) == 1:
        return found[0]
    if found:
        listed = "\n".join(f"{each.kind} {each.id}{f' ({each.name})' if each.name else ''}" for each in found[:_LISTED])
        more = f"\nand {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise UsageError(
            f"{query.text!r} may mean {len(found)} things", f"{listed}{more}", "Give more of the one meant."
        )
    details = "\n".join((*_hints(query), *known.problems[:_LISTED]))
    way = "Name what docker ps --all, docker image ls --digests, dmsetup ls or thinpoolmgr usage --json shows."
    raise UsageError(f"no thin device, container, image or layer is called {query.text!r}", details, way)


def _hints(query: Query) -> Iterator[str]:
    if query.path and query.devno:
        yield f"{query.path} is, or lies on, device {query.devno}."
    if query.text.isdigit():
        yield "A device that is neither active nor recorded is in the pool's metadata alone: thinpoolmgr usage --all."
