"""An engine's state on disk: whose it is, whether the engine may be put on its pool with it, and how it goes aside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from thinpoolmgr.core.engine_graph import say_contents
from thinpoolmgr.core.engines import ENGINES
from thinpoolmgr.core.engines.docker_state import StateVerdict
from thinpoolmgr.core.guards import PV_SIGNATURE
from thinpoolmgr.core.lifecycle import PoolState, PoolView
from thinpoolmgr.core.matching import is_unresolved
from thinpoolmgr.core.plan import Memory, Refusal, fingerprint_of
from thinpoolmgr.core.steps import MoveStateAside, Step

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredPool
    from thinpoolmgr.core.model import Engine, EngineState, Snapshot


def judge_state(found: Engine, view: PoolView, snapshot: Snapshot) -> StateVerdict | None:
    """Return to which pool the engine's state belongs.

    None: there is nothing to judge, because the engine itself runs on the pool, or the pool is not active yet.
    """
    rules = ENGINES[found.kind]
    is_new = view.state is PoolState.ABSENT
    is_on_files = found.state is not None and bool(found.state.loop_files)
    configured = rules.configured_pool_dm_name(found)
    names_it = configured in ("", view.dm_name)
    runs_on_pool = found.running and found.driver == "devicemapper" and not is_on_files and names_it
    if not is_new and (view.status is None or runs_on_pool):
        return None
    other = not names_it and _pool_exists(configured, snapshot)
    verdict = rules.state_verdict(found, is_new, view.status, other, view.lv.made_at if view.lv else None)
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


_WELL = ("none", "matching", "dropped")
_REFUSED = {
    "foreign": (
        "ENGINE_STATE_FOREIGN",
        "{engine} still has images and containers in another pool",
        "Empty that pool first (docker rm, docker rmi), or move {path} away yourself if they may be lost.",
    ),
    "loop_lvm": (
        "ENGINE_LOOP_LVM",
        "{engine} keeps its images in loop files (loop-lvm)",
        (
            "Save what you need (docker save). Then let go of the rest: thinpoolmgr clean {engine} --allow "
            "outage,destroy moves it aside, and thinpoolmgr apply puts {engine} on the pool."
        ),
    ),
    "other_pool": (
        "ENGINE_STATE_OTHER_POOL",
        "{path} does not belong to the pool {pool}",
        (
            "Bring its own pool back, if there is one. To let go of all images and containers in both: "
            "thinpoolmgr rebuild {name} --allow outage,destroy"
        ),
    ),
    "taken": (
        "ENGINE_POOL_TAKEN",
        "the pool {pool} has been used, and not by this {engine}",
        (
            "If its data root was moved, name the right one (data-root). Else give {engine} a pool of its own; or, if "
            "what is in this one may be lost: thinpoolmgr rebuild {name} --allow outage,destroy"
        ),
    ),
    "wiped": (
        "ENGINE_POOL_WIPED",
        "the metadata of {pool} was wiped: the pool is empty, and {engine} has images and containers in it",
        (
            "Do not start {engine}. With a copy of the metadata (thin_dump) they can be brought back: thin_restore. If "
            "they may be lost: thinpoolmgr clean {engine} --allow outage,destroy moves {path} aside."
        ),
    ),
    "damaged": (
        "ENGINE_STATE_DAMAGED",
        "a record of {engine} is damaged, and {engine} does not start with it",
        (
            "Bring that file back from a backup. Or move it away: what is on that one device is lost then (all, if "
            "it is base). Or begin with nothing: thinpoolmgr rebuild {name} --allow outage,destroy"
        ),
    ),
    "unknown": (
        "ENGINE_STATE_UNKNOWN",
        "it cannot be told to which pool {path} belongs",
        "Settle that, and run this again; or, if {engine} may start with nothing, move {path} away yourself.",
    ),
}


def refuse_verdict(found: Engine, verdict: StateVerdict | None, pool: DesiredPool) -> Refusal | None:
    """Return why an engine with this state is not put on `pool`; None when it can be."""
    path = found.state.path if found.state else found.data_root
    if verdict is None or verdict.kind in _WELL:
        return None
    if verdict.kind == "stale":
        return check_obstacle(found.state)
    code, summary, resolution = (
        text.format(engine=found.name, path=path, pool=pool.path, name=pool.name) for text in _REFUSED[verdict.kind]
    )
    return Refusal(code, path, summary, verdict.evidence, resolution)


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
    lost = f"; lost with it: {say_contents(found.graph, found.name)}" if found.graph else ""
    return [move_aside(found, found.state, f"its pool is gone: {verdict.evidence}{lost}", pool, memory)]


def move_lost(found: Engine, verdict: StateVerdict, pool: str, memory: Memory) -> list[Step]:
    """Return the step that lets go of state whose contents nothing else brings back: the user decides, not we."""
    if found.state is None:
        return []
    reason = f"{verdict.evidence}; lost with it: {say_contents(found.graph, found.name)}"
    step = move_aside(found, found.state, reason, pool, memory, with_containers=True)
    return [replace(step, danger="destroys")]


def move_aside(  # noqa: PLR0913 - what is moved, why, for whom, and how much
    found: Engine, state: EngineState, reason: str, pool: str, memory: Memory, *, with_containers: bool = False
) -> MoveStateAside:
    """Return the step that moves `state` into a folder beside it; the same state always gives the same folder.

    The driver's own folder goes last: while it is there, what a killed run left to be moved is seen. The containers'
    folder is moved only where all of them are lost, and stays where it may have those of another storage driver.
    """
    has_containers = with_containers and state.containers_folder and not state.other_drivers
    paths = (*((state.containers_folder,) if has_containers else ()), *state.related, state.path)
    # Beside where it is, also where the data root is a link; a rename across file systems would not be one.
    # Not by the time of writing: the engine rewrites the same words at each start.
    name = fingerprint_of(replace(state, written_at=None))[:12]
    into = f"{state.path.rpartition('/')[0]}/thinpoolmgr-stale-{name}"
    asked = [step for step in (*memory.interrupted, *memory.pending) if isinstance(step, MoveStateAside)]
    begun = [step for step in asked if set(paths) < set(step.paths)]
    if begun:
        paths, into = begun[-1].paths, begun[-1].into
    reason = f"{reason}; it goes to {into}, whole"
    return MoveStateAside(reason=reason, pool=pool, engine=found.name, paths=paths, into=into)
