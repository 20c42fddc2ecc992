"""The JSON documents that others script against, as values; `status` for people is drawn from the same."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from thinpoolmgr.core.commands import Argv, commands
from thinpoolmgr.core.desired import DesiredState
from thinpoolmgr.core.engine_base import real_base_bytes, smaller_than_base
from thinpoolmgr.core.engines import ENGINES
from thinpoolmgr.core.findings import Finding, Journal, find_all, is_stale
from thinpoolmgr.core.lifecycle import PoolState, PoolView, view_pool
from thinpoolmgr.core.matching import resolve_matches
from thinpoolmgr.core.model import Engine, Snapshot
from thinpoolmgr.core.plan import Plan, Refusal, StepResult
from thinpoolmgr.core.steps import Danger, Step, step_name, target
from thinpoolmgr.core.thinstatus import METADATA_BLOCK_BYTES
from thinpoolmgr.errors import ThinpoolmgrError
from thinpoolmgr.units import percent_of

SCHEMA: Literal[1] = 1
"""The version of all documents: fields are added without a new one, and none is removed or given a new meaning."""
Outcome = Literal["done", "nothing", "refused", "failed", "interrupted"]
EngineState = Literal["running", "stopped", "absent", "unsupported", "unknown"]


class StepDocument(Struct, frozen=True):
    """One step of a plan."""

    id: str
    do: str
    target: str
    danger: Danger
    reason: str
    commands: tuple[Argv, ...]


class PlanDocument(Struct, frozen=True):
    """`plan --json`."""

    schema: Literal[1]
    changes: bool
    fingerprint: str
    steps: tuple[StepDocument, ...]
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


class ErrorDocument(Struct, frozen=True):
    """An error as others read it."""

    code: str
    summary: str
    details: str
    resolution: str


class FailureDocument(Struct, frozen=True):
    """What `--json` prints when a command that carries nothing out fails, whatever it would have printed."""

    schema: Literal[1]
    error: ErrorDocument


class ApplyDocument(Struct, frozen=True):
    """`apply --json`, and that of every other command that carries out a plan."""

    schema: Literal[1]
    run: str
    outcome: Outcome
    steps: tuple[StepResult, ...]
    error: ErrorDocument | UnsetType = UNSET
    """Left out when nothing went wrong."""


class Use(Struct, frozen=True):
    """How full something is."""

    used_bytes: int
    total_bytes: int
    percent: float


class DeviceDocument(Struct, frozen=True):
    """One disk of a pool."""

    path: str
    size_bytes: int


class PoolDocument(Struct, frozen=True):
    """One pool of the configuration; `data` and `metadata` are null while the kernel does not run it."""

    name: str
    volume_group: str
    thin_pool: str
    dm_name: str
    state: PoolState
    because: str
    active: bool
    data: Use | None
    metadata: Use | None
    chunk_bytes: int | None
    transaction_id: int | None
    when_full: str | None
    discards: str | None
    needs_check: bool | None
    devices: tuple[DeviceDocument, ...]
    free_bytes: int | None
    thin_devices: int


class SmallerDocument(Struct, frozen=True):
    """An image or a container whose root is smaller than the engine's base."""

    kind: Literal["image", "container"]
    name: str
    size_bytes: int


class EngineDocument(Struct, frozen=True):
    """One engine of the configuration."""

    name: str
    kind: str
    state: EngineState
    version: str
    driver: str
    pool: str
    base_size_bytes: int | None
    effective_base_size_bytes: int | None
    """Size of the file system in the base device; None: the pool is not active, or it cannot be told for sure."""
    stale: bool
    smaller_devices: int | None
    """Recorded devices of images and containers that are smaller than the base; None: no base is recorded."""
    smaller: tuple[SmallerDocument, ...]
    """The images and containers whose root is such a device."""


class StatusDocument(Struct, frozen=True):
    """`status --json`."""

    schema: Literal[1]
    pools: tuple[PoolDocument, ...]
    engines: tuple[EngineDocument, ...]
    findings: tuple[Finding, ...]


class ConfigCheckDocument(Struct, frozen=True):
    """`config check --json`; a configuration that is not valid is an error instead."""

    schema: Literal[1]
    valid: Literal[True]
    files: tuple[str, ...]
    warnings: tuple[str, ...]


class ConfigShowDocument(Struct, frozen=True):
    """`config show --json`: the merged tables; with `--origin` the file of each key, too."""

    schema: Literal[1]
    config: dict[str, Any]
    origins: dict[str, str] | UnsetType = UNSET


class ExplainDocument(Struct, frozen=True):
    """`explain CODE --json`; `severity` only where it is a finding's code."""

    schema: Literal[1]
    code: str
    summary: str
    means: str
    comes: str
    harms: str
    do: tuple[str, ...]
    avoid: str
    severity: str | UnsetType = UNSET


class CodeDocument(Struct, frozen=True):
    """One code of `explain --json`; `severity` only where it is a finding's code."""

    code: str
    summary: str
    severity: str | UnsetType = UNSET


class CodesDocument(Struct, frozen=True):
    """`explain --json` without a code: all there are."""

    schema: Literal[1]
    codes: tuple[CodeDocument, ...]


def plan_document(plan: Plan) -> PlanDocument:
    """Return `plan` as others read it."""
    steps = tuple(step_document(step) for step in plan.steps)
    return PlanDocument(SCHEMA, bool(plan.steps), plan.fingerprint, steps, plan.refusals, plan.notes, plan.warnings)


def step_document(step: Step) -> StepDocument:
    """Return `step` as others read it."""
    return StepDocument(step.id, step_name(step), target(step), step.danger, step.reason, commands(step))


def error_document(error: ThinpoolmgrError) -> ErrorDocument:
    """Return `error` as others read it."""
    return ErrorDocument(error.code, error.summary, error.details, error.resolution)


def failure_document(error: ThinpoolmgrError) -> FailureDocument:
    """Return an error that ended a command which carries nothing out."""
    return FailureDocument(SCHEMA, error_document(error))


def apply_document(
    run: str, outcome: Outcome, steps: tuple[StepResult, ...], error: ThinpoolmgrError | None = None
) -> ApplyDocument:
    """Return a run as others read it."""
    return ApplyDocument(SCHEMA, run, outcome, steps, error_document(error) if error else UNSET)


def status_document(desired: DesiredState, snapshot: Snapshot, journal: Journal | None = None) -> StatusDocument:
    """Return pools, engines and findings of `snapshot`, in the order of the configuration, and the journal's own."""
    resolved, _ = resolve_matches(desired, snapshot)
    views = {pool.name: view_pool(pool, snapshot) for pool in resolved.pools}
    engines = []
    for engine in desired.engines:
        found = snapshot.find_engine(engine.name)
        if found is not None:
            engines.append(_engine(found, views[engine.config.pool], engine.config.pool, snapshot))
    pools = tuple(_pool(view) for view in views.values())
    return StatusDocument(SCHEMA, pools, tuple(engines), find_all(desired, snapshot, journal))


def _pool(view: PoolView) -> PoolDocument:
    status, lv, group = view.status, view.lv, view.group
    chunk_bytes = lv.chunk_bytes if lv and lv.is_thin_pool else None
    is_known = status is not None and status.total_metadata_blocks > 0
    return PoolDocument(
        name=view.pool.name,
        volume_group=view.pool.group,
        thin_pool=view.pool.lv,
        dm_name=view.dm_name,
        state=view.state,
        because=view.because,
        active=view.device is not None,
        data=_use(status.used_data_blocks, status.total_data_blocks, chunk_bytes)
        if is_known and status and chunk_bytes
        else None,
        metadata=_use(status.used_metadata_blocks, status.total_metadata_blocks, METADATA_BLOCK_BYTES)
        if is_known and status
        else None,
        chunk_bytes=chunk_bytes,
        transaction_id=status.transaction_id if is_known and status else None,
        when_full=(status.when_full if is_known and status else "") or (lv.when_full if lv else "") or None,
        discards=lv.discards if lv and lv.is_thin_pool else None,
        needs_check=status.needs_check if is_known and status else None,
        devices=tuple(DeviceDocument(pv.path, pv.size_bytes) for pv in group.pvs) if group else (),
        free_bytes=group.free_extents * group.extent_bytes if group else None,
        thin_devices=len(view.thin_devices),
    )


def _use(used_blocks: int, total_blocks: int, block_bytes: int) -> Use:
    return Use(used_blocks * block_bytes, total_blocks * block_bytes, percent_of(used_blocks, total_blocks))


def _engine_state(found: Engine) -> EngineState:
    if not found.installed:
        return "absent"
    if ENGINES[found.kind].supports_driver(found.version) is False:
        return "unsupported"
    if found.running is None:
        return "unknown"
    return "running" if found.running else "stopped"


def _engine(found: Engine, view: PoolView, pool: str, snapshot: Snapshot) -> EngineDocument:
    return EngineDocument(
        name=found.name,
        kind=found.kind,
        state=_engine_state(found),
        version=found.version,
        driver=found.driver,
        pool=pool,
        base_size_bytes=found.state.base_size_bytes if found.state else None,
        effective_base_size_bytes=real_base_bytes(found),
        stale=is_stale(found, view, snapshot),
        smaller_devices=found.state.smaller_devices if found.state else None,
        smaller=tuple(SmallerDocument(*smaller) for smaller in smaller_than_base(found)),
    )
