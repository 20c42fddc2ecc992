"""Findings: coded statements about the health of a host, derived from what was observed and what the journal knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinpoolmgr.core.engine_state import judge_state
from thinpoolmgr.core.findings.engines import engine_sightings, setup_sightings
from thinpoolmgr.core.findings.host import (
    Cookie,
    HostFacts,
    Journal,
    disk_sightings,
    journal_sightings,
    tool_sightings,
    watch_sightings,
)
from thinpoolmgr.core.findings.pools import pool_sightings
from thinpoolmgr.core.findings.sighting import Finding, Sighting, sight
from thinpoolmgr.core.findings.table import FINDINGS, SEVERITIES, Kind, Severity
from thinpoolmgr.core.lifecycle import view_pool
from thinpoolmgr.core.matching import resolve_matches
from thinpoolmgr.core.plan import Memory

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredState
    from thinpoolmgr.core.lifecycle import PoolView
    from thinpoolmgr.core.model import Engine, Snapshot

__all__ = [
    "FINDINGS",
    "SEVERITIES",
    "Cookie",
    "Finding",
    "HostFacts",
    "Journal",
    "Kind",
    "Severity",
    "Sighting",
    "find_all",
    "is_stale",
    "journal_sightings",
    "sight",
    "sightings_of_host",
    "tool_sightings",
    "watch_sightings",
]


def find_all(desired: DesiredState, snapshot: Snapshot, journal: Journal | None = None) -> tuple[Finding, ...]:
    """Return what `status` shows: what needs no journal, in the order of the configuration, then the journal's own."""
    sightings = [*sightings_of_host(desired, snapshot, Memory())]
    sightings += journal_sightings(journal, snapshot) if journal else []
    shown = (sighting for sighting in sightings if FINDINGS[sighting.code].in_status and not sighting.for_doctor)
    return tuple(sighting.finding() for sighting in shown)


def sightings_of_host(desired: DesiredState, snapshot: Snapshot, memory: Memory) -> list[Sighting]:
    """Return all that `snapshot` and `memory` show, in the order of the configuration."""
    desired, unmatched = resolve_matches(desired, snapshot)
    found = [
        sight(refusal.code, refusal.target, refusal.details, what=refusal.summary, resolution=refusal.resolution)
        for refusal in unmatched
    ]
    for pool in desired.pools:
        view = view_pool(pool, snapshot)
        found += [*pool_sightings(view, snapshot, memory), *disk_sightings(pool, snapshot)]
        engine = desired.engine_of(pool.name)
        seen = snapshot.find_engine(engine.name) if engine else None
        if engine is not None and seen is not None:
            found += engine_sightings(engine, seen, view, snapshot, memory)
            found += setup_sightings(seen, desired.pools, snapshot)
    return found


def is_stale(found: Engine, view: PoolView, snapshot: Snapshot) -> bool:
    """Whether the engine's state on disk belongs to a pool that is gone."""
    if found.config_problem:
        return False
    verdict = judge_state(found, view, snapshot)
    return verdict is not None and verdict.kind == "stale"
