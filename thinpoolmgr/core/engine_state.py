"""An engine's state on disk: whose it is, whether the engine may be put on its pool with it, and how it goes aside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinpoolmgr.core.engines import ENGINES
from thinpoolmgr.core.engines.docker_state import StateVerdict
from thinpoolmgr.core.guards import PV_SIGNATURE
from thinpoolmgr.core.lifecycle import PoolState, PoolView
from thinpoolmgr.core.matching import is_unresolved
from thinpoolmgr.core.plan import Memory, Refusal, fingerprint_of
from thinpoolmgr.core.steps import MoveStateAside, Step
from thinpoolmgr.units import exact_size, parse_size

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredEngine
    from thinpoolmgr.core.model import Engine, EngineState, Snapshot


def judge_state(found: Engine, view: PoolView, snapshot: Snapshot) -> StateVerdict | None:
    """Return to which pool the engine's state belongs.

    None: there is nothing to judge, because the engine itself runs on the pool, or the pool is not active yet.
    """
    rules = ENGINES[found.kind]
    is_new = view.state is PoolState.ABSENT
    if not is_new and (view.status is None or (found.running and found.driver == "devicemapper")):
        return None
    configured = rules.configured_pool_dm_name(found.config_text)
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


def refuse_shrinking(engine: DesiredEngine, found: Engine, verdict: StateVerdict | None) -> Refusal | None:
    """Return why the base size is not made smaller.

    Docker does not start when dm.basesize is below what its base device has (deviceset.go).
    """
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
