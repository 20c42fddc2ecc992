"""One module for each engine kind: what it looks like on this host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinpoolmgr.host.engines.docker import observe_docker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from thinpoolmgr.core.commands import Argv
    from thinpoolmgr.core.desired import DesiredEngine
    from thinpoolmgr.core.model import Engine
    from thinpoolmgr.host.runner import CompletedRun

OBSERVERS: Mapping[str, Callable[[DesiredEngine, Callable[[Argv], CompletedRun]], Engine]] = {"docker": observe_docker}
