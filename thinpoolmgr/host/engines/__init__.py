"""One module for each engine kind: what it looks like on this host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinpoolmgr.core.engine_graph import EngineGraph
from thinpoolmgr.host.engines.docker import observe_docker
from thinpoolmgr.host.engines.docker_graph import read_graph as read_docker_graph

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from thinpoolmgr.core.commands import Argv
    from thinpoolmgr.core.desired import DesiredEngine
    from thinpoolmgr.core.model import Engine
    from thinpoolmgr.host.runner import CompletedRun

OBSERVERS: Mapping[str, Callable[[DesiredEngine, Callable[[Argv], CompletedRun]], Engine]] = {"docker": observe_docker}
_GRAPHS: Mapping[str, Callable[[str], EngineGraph]] = {"docker": read_docker_graph}


def read_graph(engine: Engine | None) -> EngineGraph:
    """Return the images, layers and containers of an engine, from its files; it need not run.

    Reads some files for each of them: asked for by the commands that name owners, never in every look at the host.
    """
    return _GRAPHS[engine.kind](engine.data_root) if engine else EngineGraph()
