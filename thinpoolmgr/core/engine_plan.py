"""What a plan does about the engine on a pool: stop it, move stale state aside, configure it, start it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from thinpoolmgr.core.engine_base import plan_growth, refuse_shrinking
from thinpoolmgr.core.engine_config import check_files, plan_config, with_check
from thinpoolmgr.core.engine_state import judge_state, move_stale, refuse_verdict
from thinpoolmgr.core.engines import ENGINES
from thinpoolmgr.core.plan import Memory, Plan, Refusal
from thinpoolmgr.core.steps import MoveStateAside, StartEngine, Step, StopContainers, StopEngine

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredEngine
    from thinpoolmgr.core.lifecycle import PoolView
    from thinpoolmgr.core.model import Engine, Snapshot

_NAMED_CONTAINERS = 100


def plan_engine(engine: DesiredEngine, view: PoolView, snapshot: Snapshot, memory: Memory) -> Plan:
    """Return the steps that put `engine` on the pool of `view`; they come after the pool's own."""
    found = snapshot.find_engine(engine.name)
    refusal = check_engine(engine, found)
    if refusal is not None or found is None:
        return Plan(refusals=(refusal,) if refusal else ())
    options = ENGINES[engine.kind].storage_options(engine.config, view.dm_name)
    verdict = judge_state(found, view, snapshot, memory)
    refusal = refuse_verdict(found, verdict, view.pool) or refuse_shrinking(engine, found, verdict)
    if refusal is not None:
        return Plan(refusals=(refusal,))
    configure = plan_config(engine, found, options, view.pool.name)
    if isinstance(configure, Refusal):
        return Plan(refusals=(configure,))
    moves = move_stale(found, verdict, view.pool.name, memory)
    growth = plan_growth(engine, found, view, snapshot) if not moves else []
    if isinstance(growth, Refusal):
        return Plan(refusals=(growth,))
    changes = [*moves, *configure, *growth]
    return with_check(around_engine(changes, found, memory, view.pool.name), found, configure)


def plan_engine_start(engine: DesiredEngine, snapshot: Snapshot, memory: Memory, pool: str) -> Plan:
    """Return the step that starts an engine which we stopped for a pool's sake; no step when we did not."""
    found = snapshot.find_engine(engine.name)
    return around_engine([], found, memory, pool) if found is not None else Plan()


def plan_implied_engine(engine: DesiredEngine, view: PoolView, snapshot: Snapshot, memory: Memory) -> Plan:
    """Return the steps for an engine on the pool of `view` that the configuration does not put there.

    They finish what we began: the state of a pool that we removed goes aside, and what we stopped is started again.
    """
    found = snapshot.find_engine(engine.name)
    if found is None or found.running or not is_touched(found, memory):
        return Plan()
    trouble = check_process(found) or check_files(found)
    if trouble is not None:
        return Plan(notes=(f"{found.name} is not started: {trouble.summary}.",))
    if not _may_be_on(found, engine, view, memory):
        return Plan()
    verdict = judge_state(found, view, snapshot, memory)
    if verdict is not None and verdict.kind not in ("none", "matching", "dropped", "stale"):
        return Plan(notes=(f"{found.name} is not started: {verdict.evidence}.",))
    refusal = refuse_verdict(found, verdict, view.pool)
    if refusal is not None:
        return Plan(refusals=(refusal,))
    return around_engine(move_stale(found, verdict, view.pool.name, memory), found, memory, view.pool.name)


def queue_starts(plan: Plan) -> Plan:
    """Return `plan` with engines that are started when this run has ended, not waited for.

    A unit that engines are ordered after waits for ever for one that it starts (systemd.unit(5), `After=`).
    """
    steps = tuple(replace(step, queue=True) if isinstance(step, StartEngine) else step for step in plan.steps)
    return replace(plan, steps=steps)


def is_touched(found: Engine, memory: Memory) -> bool:
    """Whether we stopped this engine, or an unfinished run was to stop it or to move its state."""
    return found.name in memory.stopped_engines or bool(_pools_left(found, memory))


def _may_be_on(found: Engine, engine: DesiredEngine, view: PoolView, memory: Memory) -> bool:
    named = ENGINES[found.kind].configured_pool_dm_name(found)
    if named:
        return named == view.dm_name
    return view.pool.name in (_pools_left(found, memory) or {engine.config.pool})


def _pools_left(found: Engine, memory: Memory) -> set[str]:
    """The pools for which unfinished runs were to stop the engine, or to move its state."""
    steps = [step for step in (*memory.interrupted, *memory.pending) if isinstance(step, StopEngine | MoveStateAside)]
    return {step.pool for step in steps if step.engine == found.name}


def check_engine(engine: DesiredEngine, found: Engine | None) -> Refusal | None:
    """Return why nothing can be done for this engine; None when its version, files and process are clear."""
    if found is None or not found.installed:
        details = f"engines.{engine.name} of the configuration wants it on the pool {engine.config.pool}."
        resolution = f"Install it, or remove [engines.{engine.name}] from the configuration."
        return Refusal(
            "ENGINE_MISSING", engine.name, f"{engine.name} is not installed", details, resolution, exit_code=69
        )
    rules = ENGINES[engine.kind]
    supported = rules.supports_driver(found.version)
    if supported is False:
        return Refusal("ENGINE_UNSUPPORTED", engine.name, *rules.unsupported_text(found.version), exit_code=69)
    if supported is None:
        summary = f"the version of {engine.name} could not be found out: {found.version!r}"
        resolution = f"See why {engine.name} does not tell its version; a version without the driver would not start."
        return Refusal("ENGINE_UNKNOWN", engine.name, summary, "", resolution)
    return check_process(found) or check_files(found)


def check_process(found: Engine) -> Refusal | None:
    """Return a refusal when it is unknown whether the engine runs."""
    if found.running is not None:
        return None
    pids = f" (pid {', '.join(map(str, found.pids))})" if found.pids else ""
    resolution = f"See what {found.name} is doing; restart or stop it, and run this again."
    return Refusal(
        "ENGINE_UNKNOWN",
        found.name,
        f"{found.name}{pids} is there and does not answer",
        "Unknown is not stopped.",
        resolution,
    )


def around_engine(changes: list[Step], found: Engine, memory: Memory, pool: str) -> Plan:
    """Put `changes` between stopping and starting the engine, where systemd runs it; else that is the user's job."""
    by_systemd = found.service.systemd and bool(found.service.unit)
    # While systemd starts it, or tries again and again to, it is not stopped either.
    is_up = found.running or (by_systemd and found.service.active is not False)
    if changes and is_up:
        stop = stop_engine(found, "its storage must not change under it", pool)
        if isinstance(stop, Refusal):
            return Plan(refusals=(stop,))
        return Plan(steps=(*stop, *changes, _start(found, "it was running before", pool)))
    # At boot systemd starts it by itself, once the unit that this run may be part of has ended.
    is_down = by_systemd and not is_up and not found.service.queued
    if found.name in memory.stopped_engines and is_down:
        return Plan(steps=(*changes, _start(found, "thinpoolmgr stopped it", pool)))
    is_left = changes and not found.running and not found.service.queued
    notes = (f"{found.name} is not running: start it when this is done.",) if is_left else ()
    return Plan(steps=tuple(changes), notes=notes)


def _units(found: Engine) -> tuple[str, ...]:
    # The socket first: a connection to it would start the service again.
    return (*found.service.sockets, found.service.unit)


def stop_engine(found: Engine, why: str, pool: str) -> list[Step] | Refusal:
    """Return the steps that stop a running engine with its containers, or the refusal where no systemd runs it."""
    containers = f"; running containers: {_named(found.containers)}" if found.containers else ""
    if found.service.systemd and found.service.unit and found.service.active is not False:
        reason = f"{found.name} is running and {why}{containers}"
        stop = StopEngine(reason=reason, danger="outage", pool=pool, engine=found.name, units=_units(found))
        return [*_stop_containers(found, pool), stop]
    pids = ", ".join(map(str, found.pids)) or "unknown"
    before = f"Stop its containers (docker stop), which would outlive it: live-restore is on. Then stop {found.name}"
    stop_it = before if found.live_restore and found.containers else f"Stop {found.name}"
    return Refusal(
        "ENGINE_RUNNING",
        found.name,
        f"{found.name} is running (pid {pids}), and {why}{containers}",
        "No systemd unit runs it, so thinpoolmgr cannot stop and start it: that is your job.",
        f"{stop_it} (kill {pids}), wait until it has ended, and run this again.",
    )


def _stop_containers(found: Engine, pool: str) -> list[Step]:
    """With live-restore (dockerd(8)) containers outlive the daemon, and keep their thin devices open."""
    if not (found.live_restore and found.running and found.containers):
        return []
    reason = (
        f"live-restore is on, so {found.name} would leave them running on its storage: {_named(found.containers)}. "
        "Those with --restart unless-stopped, or without it, do not come back by themselves: docker start NAME"
    )
    return [
        StopContainers(
            reason=reason,
            danger="outage",
            pool=pool,
            engine=found.name,
            socket=found.socket,
            containers=found.containers,
        )
    ]


def _named(containers: tuple[str, ...]) -> str:
    more = len(containers) - _NAMED_CONTAINERS
    return ", ".join(containers[:_NAMED_CONTAINERS]) + (f" and {more} more" if more > 0 else "")


def _start(found: Engine, reason: str, pool: str) -> StartEngine:
    return StartEngine(reason=reason, pool=pool, engine=found.name, units=_units(found))
