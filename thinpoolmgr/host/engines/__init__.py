"""One module for each engine kind: what it looks like on this host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinpoolmgr.core.engine_graph import EngineGraph
from thinpoolmgr.host.engines.docker import observe_docker
from thinpoolmgr.host.engines.docker_base import read_base as read_docker_base
from thinpoolmgr.host.engines.docker_graph import read_graph as read_docker_graph

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from thinpoolmgr.core.commands import Argv
    from thinpoolmgr.core.desired import DesiredEngine
    from thinpoolmgr.core.model import BaseDevice, DmDevice, Engine, EngineState, Snapshot
    from thinpoolmgr.host.runner import CompletedRun

OBSERVERS: Mapping[str, Callable[[DesiredEngine, Callable[[Argv], CompletedRun]], Engine]] = {"docker": observe_docker}
_BASES: Mapping[str, Callable[[EngineState, DmDevice, Snapshot, Collection[str]], BaseDevice | None]] = {
    "docker": read_docker_base
}
_GRAPHS: Mapping[str, Callable[..., EngineGraph]] = {"docker": read_docker_graph}


def read_graph(engine: Engine | None, *, with_parents: bool = True) -> EngineGraph:
    """Return the images, layers and containers of an engine, from its files; it need not run.

    Reads some files for each of them: asked for by the commands that name owners, never in every look at the host.
    """
    return _GRAPHS[engine.kind](engine.data_root, with_parents=with_parents) if engine else EngineGraph()


def read_base(engine: Engine, pool: DmDevice | None, snapshot: Snapshot, mounted: Collection[str]) -> BaseDevice | None:
    """Return the engine's base device as the pool has it; None when that is not sure.

    Args:
        engine: the engine, with its state.
        pool: the live pool that it uses.
        snapshot: the device-mapper devices of the host.
        mounted: `MAJOR:MINOR` of mounted devices.

    """
    if engine.state is None or pool is None:
        return None
    return _BASES[engine.kind](engine.state, pool, snapshot, mounted)
