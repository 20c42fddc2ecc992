"""Findings about engines: there, supported, readable, on their pool, and whose state is on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from thinpoolmgr.core.engine_base import real_base_bytes, why_left_small
from thinpoolmgr.core.engine_config import check_files
from thinpoolmgr.core.engine_plan import check_engine
from thinpoolmgr.core.engine_state import judge_state, refuse_verdict
from thinpoolmgr.core.engines import ENGINES
from thinpoolmgr.core.engines.docker_config import is_of_storage, say_conflicts
from thinpoolmgr.core.engines.docker_options import DRIVER
from thinpoolmgr.core.findings.pools import APPLY, is_well
from thinpoolmgr.core.findings.sighting import Sighting, sight
from thinpoolmgr.core.names import OUR_TAG
from thinpoolmgr.core.own_setup import SETUP_GROUP, setup_volumes
from thinpoolmgr.core.plan import Request, command_line
from thinpoolmgr.units import exact_size

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredEngine, DesiredPool
    from thinpoolmgr.core.lifecycle import PoolView
    from thinpoolmgr.core.model import Engine, EngineState, Snapshot
    from thinpoolmgr.core.plan import Refusal

_FOR_DOCTOR = ("foreign", "loop_lvm")
_SETUP_OPTION = "dm.directlvm_device"


def engine_sightings(engine: DesiredEngine, found: Engine, view: PoolView, snapshot: Snapshot) -> list[Sighting]:
    """Return what is to be said about `found`, which is to live on the pool of `view`."""
    refusal = check_engine(engine, found)
    if refusal is not None and refusal.code == "ENGINE_MISSING":
        return [sight(refusal.code, found.name, refusal.details), *_state(found, view, snapshot)]
    sightings = []
    if ENGINES[found.kind].supports_driver(found.version) is False:
        what, details, resolution = ENGINES[found.kind].unsupported_text(found.version)
        sightings.append(sight("ENGINE_UNSUPPORTED", found.name, details, what=what, resolution=resolution))
    if found.running is None:
        pids = f"its processes: {', '.join(map(str, found.pids))}" if found.pids else "unknown is not stopped"
        sightings.append(sight("ENGINE_UNKNOWN", found.name, pids, what=f"{found.name} is there and does not answer"))
    elif refusal is not None and refusal.code == "ENGINE_UNKNOWN":
        sightings.append(sight("ENGINE_UNKNOWN", found.name, refusal.resolution, what=refusal.summary))
    if found.config_problem:
        sightings.append(
            sight("ENGINE_CONFIG_INVALID", found.config_path, found.config_problem, because=found.config_problem)
        )
    if check_files(found) is None:
        sightings += _configuration(found)
    sightings += _state(found, view, snapshot)
    return [*(sightings or _running(found, view)), *_remarks(found, view, snapshot)]


def _configuration(found: Engine) -> list[Sighting]:
    """What the engine would not start with, and what has no effect."""
    rules, sightings = ENGINES[found.kind], []
    if conflicts := rules.find_conflicts(found):
        because = f"{found.name} does not start when a directive is set both as a flag and in {found.config_path}"
        way = f"Remove one of each two by hand, then run: thinpoolmgr plan. {say_conflicts(conflicts)}"
        evidence = say_conflicts(conflicts)
        requests = (APPLY,) if all(map(is_of_storage, conflicts)) else ()
        sightings = [
            sight("ENGINE_CONFIG_TWICE", found.config_path, evidence, *requests, because=because, resolution=way)
        ]
    way = "Remove it there, or have the unit read it (EnvironmentFile=, $NAME in ExecStart=): systemctl edit --full"
    return sightings + [
        sight("ENGINE_CONFIG_UNUSED", path, why, resolution=f"{way} {found.service.unit}".rstrip())
        for path, why in rules.find_unused(found)
    ]


def _state(found: Engine, view: PoolView, snapshot: Snapshot) -> list[Sighting]:
    path = found.state.path if found.state else found.data_root
    if found.state_problem:
        way = "Look at it; if the engine may start with nothing, move it away yourself."
        return [sight("ENGINE_STATE_UNKNOWN", found.name, path, because=found.state_problem, resolution=way)]
    verdict = None if found.config_problem else judge_state(found, view, snapshot)
    if verdict is None:
        return []
    refusal = refuse_verdict(found, verdict, view.pool)
    if verdict.kind == "stale":
        stale = sight("ENGINE_STATE_STALE", path, verdict.evidence, Request("clean", engine=found.name))
        return [stale, *([_refused(refusal)] if refusal else [])]
    if refusal is None:
        return []
    requests = (Request("clean", engine=found.name),) if verdict.kind in ("wiped", "loop_lvm") else ()
    return [replace(_refused(refusal), requests=requests, for_doctor=verdict.kind in _FOR_DOCTOR)]


def _remarks(found: Engine, view: PoolView, snapshot: Snapshot) -> list[Sighting]:
    """What does not keep the engine from its pool, and is better known."""
    sightings: list[Sighting] = []
    state, path = found.state, view.pool.path
    if state is None:
        return sightings
    if state.other_drivers:
        evidence = ", ".join(f"{state.path.rpartition('/')[0]}/{driver}" for driver in state.other_drivers)
        sightings.append(sight("ENGINE_OTHER_DRIVERS", found.name, evidence, drivers=", ".join(state.other_drivers)))
    verdict = None if found.config_problem else judge_state(found, view, snapshot)
    if verdict is not None and verdict.kind == "dropped":
        files = " ".join(state.loop_files)
        sightings.append(sight("ENGINE_OPTIONS_DROPPED", found.name, verdict.evidence, APPLY, files=files, path=path))
    if verdict is None or verdict.kind != "stale":
        sightings += _base_size(found, state)
    status = view.status
    if found.running is False and status and state.transaction_id == status.transaction_id + 1:
        evidence = f"its files say {state.transaction_id}, the pool {status.transaction_id}"
        sightings.append(sight("ENGINE_TRANSACTION_OPEN", found.name, evidence, path=path))
    return sightings


def _base_size(found: Engine, state: EngineState) -> list[Sighting]:
    evidence = why_left_small(found)
    if not evidence:
        return []
    recorded, real = exact_size(state.base_size_bytes or 0), exact_size(real_base_bytes(found) or 0)
    return [sight("BASE_SIZE_NOT_GROWN", found.name, evidence, APPLY, recorded=recorded, real=real)]


def setup_sightings(found: Engine, pools: tuple[DesiredPool, ...], snapshot: Snapshot) -> list[Sighting]:
    """Return what Docker's own set-up of a disk left when it was cut short; `setup-config.json` comes last in it.

    It is taken over by `adopt` where a pool of the configuration is to be in its group, and else a matter of hands.
    """
    group = snapshot.find_group(SETUP_GROUP)
    if group is None or OUR_TAG in group.tags or not found.installed or (found.state and found.state.made_by_engine):
        return []
    volumes = setup_volumes(group)
    if volumes is None or not (volumes or _SETUP_OPTION in (found.config_text or "")):
        return []
    disks = " ".join(pv.path for pv in group.pvs)
    names = ", ".join(sorted(lv.name for lv in volumes)) or "no volume"
    evidence = f"the group {group.name} on {disks} has {names} and no thin pool, and there is no setup-config.json"
    then = f"makes the pool, and takes {_SETUP_OPTION} out of {found.name}'s configuration."
    pool = next((pool for pool in pools if pool.group == group.name), None)
    if pool is None:
        way = f"Remove it: vgremove {group.name}; pvremove {disks}. Then thinpoolmgr apply {then}"
        return [sight("ENGINE_SETUP_UNFINISHED", group.name, evidence, engine=found.name, resolution=way)]
    request = Request("adopt", pool.name)
    allow = " --allow destroy" if volumes else ""
    way = f"Take it over: {command_line(request)}{allow}. Then thinpoolmgr apply {then}"
    return [sight("ENGINE_SETUP_UNFINISHED", group.name, evidence, request, engine=found.name, resolution=way)]


def _refused(refusal: Refusal) -> Sighting:
    words = {"what": refusal.summary, "because": refusal.summary, "resolution": refusal.resolution}
    return replace(sight(refusal.code, refusal.target, refusal.details, **words), for_doctor=True)


def _running(found: Engine, view: PoolView) -> list[Sighting]:
    if not is_well(view):
        return []
    path, unit = view.pool.path, found.service.unit or found.name
    if found.running is False:
        by = f"systemd unit {found.service.unit}" if found.service.unit else "no systemd unit runs it"
        request = Request("activate", view.pool.name)
        return [sight("ENGINE_STOPPED", found.name, f"no process of it; {by}", request, path=path, unit=unit)]
    if found.driver not in ("", DRIVER):
        evidence = f"{found.name} itself says so; {found.config_path} is its configuration"
        return [sight("ENGINE_NOT_ON_POOL", found.name, evidence, APPLY, path=path, unit=unit, driver=found.driver)]
    return []
