"""What `metrics` measures, as plain values; names, units and labels by Prometheus' conventions.

Base units (bytes, seconds, ratios of 1), the unit last in the name, `_total` for what only grows, `_info` for words,
and one gauge of 0 or 1 for each state that something may be in: https://prometheus.io/docs/practices/naming.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Literal, get_args

from msgspec import Struct

from thinpoolmgr.core.desired import DesiredPool
from thinpoolmgr.core.documents import EngineState, PoolDocument, StatusDocument
from thinpoolmgr.core.findings import SEVERITIES, Finding
from thinpoolmgr.core.history import PastRun, RunOutcome
from thinpoolmgr.core.lifecycle import PoolState
from thinpoolmgr.core.live import with_monitors
from thinpoolmgr.core.report import MonitorReport, WatchedPool

_PREFIX = "thinpoolmgr_"
Labels = dict[str, str]
Point = tuple[str, float, Labels]
"""Name without prefix, value, labels."""


class Look(Struct, frozen=True):
    """One look at the host, as far as it is measured."""

    version: str
    at: float
    """When it began, in seconds since 1970."""
    seconds: float
    error_code: str = ""
    """Why the host could not be observed."""
    pools: tuple[DesiredPool, ...] = ()
    status: StatusDocument | None = None
    runs: tuple[PastRun, ...] = ()
    report: MonitorReport | None = None
    monitor_runs: bool = False


class Measure(Struct, frozen=True):
    """All that is known under one name."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    samples: tuple[tuple[float, Labels], ...]


HELP: dict[str, str] = {
    "up": "Whether the host could be observed.",
    "build_info": "The version that made this document.",
    "observation_timestamp_seconds": "When the host was looked at for this document; a textfile that is old is stale.",
    "observation_duration_seconds": "How long that look took.",
    "observation_error_info": "The code of the error because of which the host could not be observed.",
    "pool_state": "Whether the pool is in this state, one series for each that there is.",
    "pool_used_bytes": "What is used of the pool's data or metadata, by the kernel's word.",
    "pool_size_bytes": "Capacity of the pool's data or metadata, by the kernel's word.",
    "pool_threshold_ratio": "The share of the capacity from which on the pool counts as tight and is extended.",
    "pool_thin_devices": "Thin devices of the pool that are active.",
    "volume_group_free_bytes": "Space of the volume group that no volume has.",
    "engine_state": "Whether the container engine is in this state, one series for each that there is.",
    "findings": "Findings as status shows them, with those of the monitor, by severity.",
    "finding_info": "A finding, as status shows it; thinpoolmgr explain CODE tells its story.",
    "last_run_timestamp_seconds": "When the last run that changed something ended, or began if it did not end.",
    "last_run_duration_seconds": "How long the last run that ended took.",
    "last_run_outcome": "Whether the last run went so, one series for each way that there is.",
    "last_run_info": "The command of the last run.",
    "monitor_up": "Whether the monitor runs and has told of itself; only where a pool is to be extended by it.",
    "monitor_start_time_seconds": "When the monitor started.",
    "monitor_report_timestamp_seconds": "When the monitor last told of itself.",
    "monitor_config_last_reload_successful": "Whether the monitor uses the configuration as it was last reloaded.",
    "monitor_last_look_timestamp_seconds": "When the kernel last answered the monitor about the pool.",
    "pool_growth_bytes_per_second": "How fast the pool fills, as the monitor sees it.",
    "pool_extensions_total": "Extensions of the pool by the monitor since it started, by their result.",
    "pool_last_extension_timestamp_seconds": "When the monitor's last extension of the pool ended.",
    "pool_last_extension_success": "Whether the monitor's last extension of the pool went well.",
    "pool_last_extension_duration_seconds": "How long that took, from its first command to the kernel's agreement.",
    "pool_last_extension_reaction_seconds": "The same from the look that saw the need.",
}
"""What there is, by its name without prefix, in the order of the document."""
NAMES = tuple(f"{_PREFIX}{name}" for name in HELP)


def measures(look: Look) -> tuple[Measure, ...]:
    """Return what `look` measured, in the order of `HELP`; what is not known is left out."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {name: {} for name in HELP}
    for name, value, labels in _points(look):
        # One series only where two things go by the same labels, such as a finding that is there twice.
        found[name][tuple(sorted(labels.items()))] = value
    return tuple(
        Measure(f"{_PREFIX}{name}", "counter" if name.endswith("_total") else "gauge", HELP[name], _samples(series))
        for name, series in found.items()
        if series
    )


def _samples(series: dict[tuple[tuple[str, str], ...], float]) -> tuple[tuple[float, Labels], ...]:
    return tuple((value, dict(labels)) for labels, value in series.items())


def _points(look: Look) -> Iterator[Point]:
    yield "up", look.status is not None, {}
    yield "build_info", 1, {"version": look.version}
    yield "observation_timestamp_seconds", look.at, {}
    yield "observation_duration_seconds", look.seconds, {}
    if look.error_code:
        yield "observation_error_info", 1, {"code": look.error_code}
    # What a monitor that is gone had seen may be over.
    report = look.report if look.monitor_runs else None
    if look.status is not None:
        yield from _status(look.status, look.pools)
        yield from _findings(with_monitors(look.status.findings, report))
    elif report is not None:
        # A disk that hangs is no reason to say nothing of the pools on others.
        for pool in report.pools:
            yield from _states("pool_state", tuple(PoolState), pool.state, _labels(pool.name, pool.group, pool.lv))
        yield from _findings(with_monitors((), report))
    yield from _last_run(look.runs)
    yield from _monitor(look, report)


def _states(name: str, states: tuple[str, ...], present: str, labels: Labels) -> Iterator[Point]:
    for state in states:
        yield name, state == present, {**labels, "state": state}


def _status(status: StatusDocument, wanted: tuple[DesiredPool, ...]) -> Iterator[Point]:
    for pool in status.pools:
        yield from _pool(pool)
    for desired in wanted:
        labels, extend = _labels(desired.name, desired.group, desired.lv), desired.config.extend
        yield "pool_threshold_ratio", extend.data_threshold_percent / 100, {**labels, "part": "data"}
        yield "pool_threshold_ratio", extend.metadata_threshold_percent / 100, {**labels, "part": "metadata"}
    for engine in status.engines:
        labels = {"engine": engine.name, "pool": engine.pool}
        yield from _states("engine_state", get_args(EngineState), engine.state, labels)


def _pool(pool: PoolDocument) -> Iterator[Point]:
    labels = _labels(pool.name, pool.volume_group, pool.thin_pool)
    yield from _states("pool_state", tuple(PoolState), pool.state, labels)
    for part, use in (("data", pool.data), ("metadata", pool.metadata)):
        if use is not None:
            yield "pool_used_bytes", use.used_bytes, {**labels, "part": part}
            yield "pool_size_bytes", use.total_bytes, {**labels, "part": part}
    if pool.active:
        yield "pool_thin_devices", pool.thin_devices, labels
    if pool.free_bytes is not None:
        yield "volume_group_free_bytes", pool.free_bytes, {"volume_group": pool.volume_group}


def _labels(pool: str, group: str, lv: str) -> Labels:
    return {"pool": pool, "volume_group": group, "thin_pool": lv}


def _findings(findings: tuple[Finding, ...]) -> Iterator[Point]:
    distinct = {(finding.code, finding.target): finding.severity for finding in findings}
    for severity in SEVERITIES:
        yield "findings", list(distinct.values()).count(severity), {"severity": severity}
    for (code, target), severity in distinct.items():
        yield "finding_info", 1, {"code": code, "severity": severity, "target": target}


def _last_run(runs: tuple[PastRun, ...]) -> Iterator[Point]:
    for run in runs[-1:]:
        at = seconds_since_1970(run.ended or run.began)
        if at is not None:
            yield "last_run_timestamp_seconds", at, {}
        if run.seconds is not None:
            yield "last_run_duration_seconds", run.seconds, {}
        for outcome in get_args(RunOutcome):
            yield "last_run_outcome", outcome == run.outcome, {"outcome": outcome}
        yield "last_run_info", 1, {"command": run.command}


def seconds_since_1970(text: str) -> float | None:
    """Return the time that the journal writes as `text`; None: it is none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _monitor(look: Look, report: MonitorReport | None) -> Iterator[Point]:
    is_known = bool(look.pools) or look.status is not None
    is_wanted = any(pool.config.extend.monitor == "thinpoolmgr" for pool in look.pools)
    # Without a configuration that can be read, one that ran is taken to be wanted.
    if report is not None or (is_wanted if is_known else look.report is not None):
        yield "monitor_up", report is not None, {}
    if report is None:
        return
    yield "monitor_start_time_seconds", report.started_at, {}
    yield "monitor_report_timestamp_seconds", report.written_at, {}
    yield "monitor_config_last_reload_successful", not report.config_problem, {}
    for pool in report.pools:
        yield from _watched(pool)


def _watched(pool: WatchedPool) -> Iterator[Point]:
    labels = _labels(pool.name, pool.group, pool.lv)
    yield "monitor_last_look_timestamp_seconds", pool.looked_at, labels
    yield "pool_growth_bytes_per_second", pool.data_bytes_per_second, {**labels, "part": "data"}
    yield "pool_growth_bytes_per_second", pool.metadata_bytes_per_second, {**labels, "part": "metadata"}
    yield "pool_extensions_total", pool.extensions_done, {**labels, "result": "done"}
    yield "pool_extensions_total", pool.extensions_failed, {**labels, "result": "failed"}
    last = pool.last_extension
    if last is not None:
        yield "pool_last_extension_timestamp_seconds", last.at, labels
        yield "pool_last_extension_success", last.result == "done", labels
        yield "pool_last_extension_duration_seconds", last.seconds, labels
        yield "pool_last_extension_reaction_seconds", last.reaction_seconds, labels
