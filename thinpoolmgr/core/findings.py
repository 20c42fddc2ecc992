"""Findings: coded statements about the health of a host, in one table, derived from a snapshot."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from thinpoolmgr.core.desired import DesiredState
from thinpoolmgr.core.engine_plan import judge_state
from thinpoolmgr.core.engines import ENGINES
from thinpoolmgr.core.lifecycle import PoolState, PoolView, view_pool
from thinpoolmgr.core.matching import resolve_matches
from thinpoolmgr.core.model import Engine, Snapshot

Severity = Literal["info", "warning", "error"]


class Finding(Struct, frozen=True):
    """One statement about the host: stable code, how bad, about what, and one line for people."""

    code: str
    severity: Severity
    target: str
    summary: str


_OF_STATE: dict[PoolState, tuple[str, Severity]] = {
    PoolState.ABSENT: ("POOL_ABSENT", "warning"),
    PoolState.FOREIGN: ("POOL_FOREIGN", "warning"),
    PoolState.INACTIVE: ("POOL_INACTIVE", "warning"),
    PoolState.TIGHT: ("POOL_TIGHT", "warning"),
    PoolState.OUT_OF_DATA: ("POOL_OUT_OF_DATA", "error"),
    PoolState.OUT_OF_METADATA: ("POOL_OUT_OF_METADATA", "error"),
    PoolState.READ_ONLY: ("POOL_READ_ONLY", "error"),
    PoolState.NEEDS_CHECK: ("POOL_NEEDS_CHECK", "error"),
    PoolState.FAILED: ("POOL_FAILED", "error"),
    PoolState.PARTIAL: ("POOL_PARTIAL", "error"),
    PoolState.UNKNOWN: ("STATE_UNKNOWN", "error"),
    PoolState.LOST: ("POOL_LOST", "error"),
}


_HINTS = {
    PoolState.ABSENT: "; apply makes it",
    PoolState.INACTIVE: "; apply activates it",
}


def find_all(desired: DesiredState, snapshot: Snapshot) -> tuple[Finding, ...]:
    """Return all findings, in the order of the configuration."""
    desired, unmatched = resolve_matches(desired, snapshot)
    findings = [Finding(refusal.code, "error", refusal.target, refusal.summary) for refusal in unmatched]
    for pool in desired.pools:
        view = view_pool(pool, snapshot)
        findings += _pool_findings(view, snapshot)
        engine = desired.engine_of(pool.name)
        found = snapshot.find_engine(engine.name) if engine else None
        if found is not None:
            findings += _engine_findings(found, view, snapshot)
    return tuple(findings)


def _pool_findings(view: PoolView, snapshot: Snapshot) -> list[Finding]:
    findings = []
    if view.state in _OF_STATE:
        code, severity = _OF_STATE[view.state]
        hint = _HINTS.get(view.state, "") if view.group is None or view.lv is not None else ""
        findings.append(
            Finding(code, severity, view.pool.path, f"{view.pool.path} is {view.state}: {view.because}{hint}")
        )
    status = view.status
    if status is not None and view.lv is not None and status.when_full not in ("", view.lv.when_full):
        # The kernel's no-space time-out (60 s) turns queueing into errors without LVM's knowledge.
        summary = f"{view.pool.path}: the kernel fails writes, though LVM says {view.lv.when_full}: writes were lost"
        findings.append(Finding("POOL_ERRORS_WRITES", "error", view.pool.path, summary))
    for path in view.pool.config.devices:
        device = next((d for d in snapshot.configured_devices if d.configured_path == path), None)
        if device is not None and device.problem:
            code = "DISK_MISSING" if device.problem == "missing" else "NOT_A_BLOCK_DEVICE"
            findings.append(Finding(code, "error", path, f"{path} of pools.{view.pool.name} is {device.problem}"))
    return findings


def _engine_findings(found: Engine, view: PoolView, snapshot: Snapshot) -> list[Finding]:
    findings = []
    if found.installed and ENGINES[found.kind].supports_driver(found.version) is False:
        summary = ENGINES[found.kind].unsupported_text(found.version)[0]
        findings.append(Finding("ENGINE_UNSUPPORTED", "error", found.name, summary))
    if found.running is None:
        findings.append(Finding("ENGINE_UNKNOWN", "error", found.name, f"{found.name} is there and does not answer"))
    if found.config_problem:
        findings.append(Finding("ENGINE_CONFIG_INVALID", "error", found.config_path, found.config_problem))
    if found.state_problem:
        findings.append(Finding("ENGINE_STATE_UNKNOWN", "warning", found.name, found.state_problem))
    elif is_stale(found, view, snapshot):
        path = found.state.path if found.state else found.data_root
        findings.append(
            Finding(
                "ENGINE_STATE_STALE", "warning", path, f"{path} belongs to a pool that is gone; apply moves it aside"
            )
        )
    return findings


def is_stale(found: Engine, view: PoolView, snapshot: Snapshot) -> bool:
    """Whether the engine's state on disk belongs to a pool that is gone."""
    if found.config_problem:
        return False
    verdict = judge_state(found, view, snapshot)
    return verdict is not None and verdict.kind == "stale"
