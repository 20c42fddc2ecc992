"""What a plan does about the engine on a pool: stop it, move stale state aside, configure it, start it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinpoolmgr.core.engine_config import check_files, plan_config, with_check
from thinpoolmgr.core.engines import ENGINES
from thinpoolmgr.core.engines.docker import StateVerdict
from thinpoolmgr.core.guards import PV_SIGNATURE
from thinpoolmgr.core.lifecycle import PoolState, PoolView
from thinpoolmgr.core.matching import is_unresolved
from thinpoolmgr.core.plan import Memory, Plan, Refusal, fingerprint_of
from thinpoolmgr.core.steps import MoveStateAside, StartEngine, Step, StopContainers, StopEngine
from thinpoolmgr.units import exact_size, parse_size

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredEngine
    from thinpoolmgr.core.model import Engine, EngineState, Snapshot

_NAMED_CONTAINERS = 100


def plan_engine(engine: DesiredEngine, view: PoolView, snapshot: Snapshot, memory: Memory) -> Plan:
    """Return the steps that put `engine` on the pool of `view`; they come after the pool's own."""
    found = snapshot.find_engine(engine.name)
    refusal = check_engine(engine, found)
    if refusal is not None or found is None:
        return Plan(refusals=(refusal,) if refusal else ())
    options = ENGINES[engine.kind].storage_options(engine.config, view.dm_name)
    verdict = judge_state(found, view, snapshot)
    refusal = refuse_verdict(found, verdict) or _refuse_shrinking(engine, found, verdict)
    if refusal is not None:
        return Plan(refusals=(refusal,))
    configure = plan_config(engine, found, options, view.pool.name)
    if isinstance(configure, Refusal):
        return Plan(refusals=(configure,))
    changes = [*move_stale(found, verdict, view.pool.name, memory), *configure]
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
    verdict = judge_state(found, view, snapshot)
    if verdict is not None and verdict.kind not in ("none", "matching", "stale"):
        return Plan(notes=(f"{found.name} is not started: {verdict.evidence}.",))
    refusal = refuse_verdict(found, verdict)
    if refusal is not None:
        return Plan(refusals=(refusal,))
    return around_engine(move_stale(found, verdict, view.pool.name, memory), found, memory, view.pool.name)


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


def judge_state(found: Engine, view: PoolView, snapshot: Snapshot) -> StateVerdict | None:
    """Return to which pool the engine's state belongs.

    None: there is nothing to judge, because the engine itself runs on the pool, or the pool is not active yet.
    """
    rules = ENGINES[found.kind]
    is_new = view.state is PoolState.ABSENT
    if not is_new and (view.status is None or (found.running and found.driver == "devicemapper")):
        return None
    configured = rules.configured_pool_dm_name(found)
    other = configured not in ("", view.dm_name) and _pool_exists(configured, snapshot)
    verdict = rules.state_verdict(found, is_new, view.status, other)
    if verdict.kind != "stale":
        return verdict
    evidence = _why_not_gone(found, configured, view, snapshot)
    return StateVerdict("unknown", evidence) if evidence else verdict


def _why_not_gone(found: Engine, configured: str, view: PoolView, snapshot: Snapshot) -> str:
    """Return why the pool that stale state describes may be there all the same; empty when it is gone."""
    strangers = [name for name in _pool_names(snapshot) if name != view.dm_name]
    if not configured and strangers:
        return f"{found.config_path} names no pool, and {strangers[0]} may be the one it belongs to"
    if configured not in ("", view.dm_name):
        return f"{found.config_path} names {configured}, which is not to be seen: its disk may only be away"
    return _why_not_absent(view, snapshot) if view.state is PoolState.ABSENT else ""


def _why_not_absent(view: PoolView, snapshot: Snapshot) -> str:
    """Return why LVM may fail to see a pool: a disk of it is away, cannot be read, or is hidden from LVM."""
    pool = view.pool
    if is_unresolved(pool):
        return f"the disks of {pool.path} are chosen by what a disk is, and not all that are asked for are there"
    groups = (view.group,) if view.group else ()
    listed = [pv for pv in (*snapshot.orphan_pvs, *(pv for group in groups for pv in group.pvs)) if not pv.duplicate]
    for path in (*pool.config.devices, *pool.config.spare_devices):
        problem = next((d.problem for d in snapshot.configured_devices if d.configured_path == path), "")
        disk = snapshot.find_disk(path)
        if problem or disk is None:
            return f"{path} {'is ' + problem if problem else 'was not looked at'}, and {pool.path} may be on it"
        if disk.signatures is None:
            return f"{path} cannot be read, and {pool.path} may be on it: {disk.probe_error or 'no reason given'}"
        has_label = any(signature.type == PV_SIGNATURE for signature in disk.signatures)
        if has_label and disk.path not in {pv.path for pv in listed}:
            return f"{path} carries LVM's label, LVM does not list it as unused, and {pool.path} may be on it"
    return ""


def _pool_names(snapshot: Snapshot) -> list[str]:
    """Device-mapper names of all thin pools of the host, active or not."""
    live = [device.name for device in snapshot.dm_devices if device.targets == ("thin-pool",)]
    listed = [lv.dm_name for group in snapshot.groups for lv in group.lvs if lv.is_thin_pool]
    return list(dict.fromkeys(name.removesuffix("-tpool") for name in (*listed, *live)))


def _pool_exists(dm_name: str, snapshot: Snapshot) -> bool:
    return snapshot.find_dm(dm_name) is not None or any(
        lv.dm_name == dm_name for group in snapshot.groups for lv in group.lvs
    )


def refuse_verdict(found: Engine, verdict: StateVerdict | None) -> Refusal | None:
    """Return why an engine with this state is not put on its pool; None when it can be."""
    path = found.state.path if found.state else found.data_root
    if verdict is None or verdict.kind in ("none", "matching"):
        return None
    if verdict.kind == "stale":
        return check_obstacle(found.state)
    texts = {
        "foreign": (
            "ENGINE_STATE_FOREIGN",
            f"{found.name} still has images and containers in another pool",
            f"Empty that pool first (docker rm, docker rmi), or move {path} away yourself if they may be lost.",
        ),
        "loop_lvm": (
            "ENGINE_LOOP_LVM",
            f"{found.name} keeps its images in loop files (loop-lvm)",
            f"Save what you need (docker save), stop {found.name}, move {path} away, and run this again.",
        ),
        "unknown": (
            "ENGINE_STATE_UNKNOWN",
            f"it cannot be told to which pool {path} belongs",
            f"Settle that, and run this again; or, if {found.name} may start with nothing, move {path} away yourself.",
        ),
    }
    code, summary, resolution = texts[verdict.kind]
    return Refusal(code, path, summary, verdict.evidence, resolution)


def _refuse_shrinking(engine: DesiredEngine, found: Engine, verdict: StateVerdict | None) -> Refusal | None:
    """Docker does not start when dm.basesize is below what its base device has (deviceset.go)."""
    present = found.state.base_size_bytes if found.state else None
    wanted = parse_size(engine.config.base_size)
    if present is None or present <= wanted or (verdict is not None and verdict.kind == "stale"):
        return None
    summary = f"{found.name}'s base device has {exact_size(present)}, base_size asks for {exact_size(wanted)}"
    details = f"A base device cannot be made smaller, and {found.name} would not start."
    resolution = f'Set base_size = "{exact_size(present)}", or destroy the pool and apply again.'
    return Refusal("BASE_SIZE_SHRINKS", found.name, summary, details, resolution)


def check_obstacle(state: EngineState | None) -> Refusal | None:
    """Return why the engine's state must not be moved: a link or a mount point on it or below it."""
    if state is None or not state.obstacle:
        return None
    resolution = "Unmount what is mounted there, or replace the link by the directory itself; then run this again."
    return Refusal(
        "ENGINE_STATE_IMMOVABLE", state.path, f"{state.path} cannot be moved aside", state.obstacle, resolution
    )


def move_stale(found: Engine, verdict: StateVerdict | None, pool: str, memory: Memory) -> list[Step]:
    """Return the step that moves the engine's state aside when `verdict` calls it stale."""
    if verdict is None or verdict.kind != "stale" or found.state is None:
        return []
    return [move_aside(found, found.state, f"its pool is gone: {verdict.evidence}", pool, memory)]


def move_aside(found: Engine, state: EngineState, reason: str, pool: str, memory: Memory) -> MoveStateAside:
    """Return the step that moves `state` into a folder beside it; the same state always gives the same folder.

    The driver's own folder goes last: while it is there, what a killed run left to be moved is seen.
    """
    paths = (*state.related, state.path)
    # Beside where it is, also where the data root is a link; a rename across file systems would not be one.
    into = f"{state.path.rpartition('/')[0]}/thinpoolmgr-stale-{fingerprint_of(state)[:12]}"
    begun = [step for step in memory.interrupted if isinstance(step, MoveStateAside) and set(paths) < set(step.paths)]
    if begun:
        paths, into = begun[-1].paths, begun[-1].into
    reason = f"{reason}; it goes to {into}, whole"
    return MoveStateAside(reason=reason, pool=pool, engine=found.name, paths=paths, into=into)


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
    if found.name in memory.stopped_engines and not is_up and by_systemd:
        return Plan(steps=(*changes, _start(found, "thinpoolmgr stopped it", pool)))
    notes = (f"{found.name} is not running: start it when this is done.",) if changes and not found.running else ()
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
    reason = f"live-restore is on, so {found.name} would leave them running on its storage: {_named(found.containers)}"
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
