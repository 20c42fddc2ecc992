"""What `clean` does: stale state of an engine is moved aside, and with `--purge` deleted for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from thinpoolmgr.core.engine_config import check_files
from thinpoolmgr.core.engine_plan import around_engine, check_process
from thinpoolmgr.core.engine_state import check_obstacle, judge_state, move_lost, move_stale, refuse_verdict
from thinpoolmgr.core.engines import ENGINES
from thinpoolmgr.core.fingerprint import fingerprint_of_host
from thinpoolmgr.core.lifecycle import PoolView, view_pool
from thinpoolmgr.core.matching import resolve_matches
from thinpoolmgr.core.plan import Memory, Plan, Request, numbered
from thinpoolmgr.core.steps import DeleteSetAside, StartEngine, Step

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredEngine, DesiredState
    from thinpoolmgr.core.model import Engine, Snapshot

# What nothing else brings back is moved aside, when that is asked for and allowed; what needs the pool to go is not.
_LET_GO = ("wiped", "loop_lvm")
_REFUSED = ("stale", "unknown", "other_pool", "taken", "damaged")


def plan_clean(request: Request, desired: DesiredState, snapshot: Snapshot, memory: Memory) -> Plan:
    """Return the plan that moves aside what belongs to a pool that is gone, and with `purge` deletes what is aside.

    What is deleted had been aside when the run began: nothing is moved and deleted for good by one command.
    """
    desired, _ = resolve_matches(desired, snapshot)
    plans = [
        _clean(engine, view_pool(pool, snapshot), request, snapshot, memory)
        for engine in desired.engines
        if request.engine in ("", engine.name) and (pool := desired.find_pool(engine.config.pool))
    ]
    return Plan(
        numbered([step for plan in plans for step in plan.steps]),
        tuple(refusal for plan in plans for refusal in plan.refusals),
        tuple(note for plan in plans for note in plan.notes),
        tuple(warning for plan in plans for warning in plan.warnings),
        fingerprint_of_host(desired, snapshot, memory),
    )


def _clean(engine: DesiredEngine, view: PoolView, request: Request, snapshot: Snapshot, memory: Memory) -> Plan:
    found = snapshot.find_engine(engine.name)
    if found is None:
        return Plan()
    refusal = check_process(found) or check_files(found)
    if refusal is not None:
        return Plan(refusals=(refusal,))
    verdict = judge_state(found, view, snapshot, memory)
    moves = move_stale(found, verdict, view.pool.name, memory)
    warnings: tuple[str, ...] = ()
    if verdict is not None and verdict.kind in _LET_GO:
        moves = move_lost(found, verdict, view.pool.name, memory)
        refusal = check_obstacle(found.state) if found.running is False else None
    elif verdict is not None and verdict.kind in _REFUSED:
        refusal = refuse_verdict(found, verdict, view.pool)
    elif verdict is not None and verdict.kind not in ("none", "matching", "dropped"):
        warnings = (f"{found.name}: its state is left alone: {verdict.evidence}.",)
    if refusal is not None:
        return Plan(refusals=(refusal,))
    makes_loop_files = verdict is not None and verdict.kind == "loop_lvm"
    changes = [*moves, *_delete(found, request, view.pool.name)]
    plan = _around(changes, found, snapshot, memory, view.pool.name, stays_stopped=makes_loop_files)
    return replace(plan, warnings=warnings)


def _delete(found: Engine, request: Request, pool: str) -> list[Step]:
    return [
        DeleteSetAside(
            reason="it was moved aside because its pool is gone, and you ask to delete it for good",
            danger="destroys",
            pool=pool,
            engine=found.name,
            path=path,
        )
        for path in found.set_aside
        if path in request.set_aside
    ]


def _around(  # noqa: PLR0913 - as around_engine
    changes: list[Step], found: Engine, snapshot: Snapshot, memory: Memory, pool: str, *, stays_stopped: bool
) -> Plan:
    """Put `changes` where the engine is stopped; only one that this run stopped is started, and not without its pool.

    A run that was cut short has left its start to be done: that tells its engine from one that was stopped otherwise.
    """
    left = {step.engine for step in (*memory.interrupted, *memory.pending) if isinstance(step, StartEngine)}
    stopped = tuple(name for name in memory.stopped_engines if name in left)
    plan = around_engine(changes, found, replace(memory, stopped_engines=stopped), pool)
    named = ENGINES[found.kind].configured_pool_dm_name(found)
    runs = not named or snapshot.find_dm(named) is not None
    if runs and not (stays_stopped and changes):
        return plan
    steps = tuple(step for step in plan.steps if not isinstance(step, StartEngine))
    note = f"{found.name} stays stopped: {found.config_path} names {named}, which does not run."
    if runs:
        note = f"{found.name} stays stopped: it would make loop files again. thinpoolmgr apply puts it on its pool."
    return replace(plan, steps=steps, notes=(note,) if steps else ())
