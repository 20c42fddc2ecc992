"""Looks at a host in memory with everything that can be measured."""

from __future__ import annotations

from typing import Any

import support

from thinpoolmgr.core.documents import status_document
from thinpoolmgr.core.history import PastRun
from thinpoolmgr.core.measures import Look
from thinpoolmgr.core.report import SCHEMA, LastExtension, MonitorReport, Sighting, WatchedPool

RUN = PastRun("r1", "extend", "2026-01-01T00:00:00+00:00", "2026-01-01T00:01:00+00:00", 60.0, "failed", ())


def report(*pools: WatchedPool, config_problem: str = "") -> MonitorReport:
    """Return what a monitor tells that started at 1.0 and wrote at 2.0."""
    return MonitorReport(SCHEMA, 42, 1.0, 2.0, pools, config_problem)


def watched(findings: tuple[Sighting, ...] = ()) -> WatchedPool:
    """Return a pool that the monitor has extended three times, and then failed to."""
    last = LastExtension(9.0, "data", "EXTENSION_FAILED", 0.5, 1.5)
    return WatchedPool("docker", "docker", "thinpool", "tight", 10.0, None, 2.0, 0.5, 3, 1, last, findings)


def full_look(
    *,
    monitor_runs: bool = True,
    findings: tuple[Sighting, ...] = (),
    told: MonitorReport | None = None,
    **status: Any,
) -> Look:
    """Return a look with a pool, an engine, a monitor and a run; `status` changes the kernel's word on the pool."""
    engine = support.engine()
    shot = support.with_engine(support.healthy(**status), support.docker(running=True, configured=True))
    return Look(
        "1.0",
        100.0,
        0.25,
        pools=(support.pool(),),
        status=status_document(support.desired(engines=(engine,)), shot),
        runs=(PastRun("r0", "apply", "", "", None, "done", ()), RUN),
        report=told or report(watched(findings)),
        monitor_runs=monitor_runs,
    )
