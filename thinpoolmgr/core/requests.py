"""From what was asked for to the plan: one place for all commands that change something, and for running them again.

A request is settled once, on the host as it was when its run began: `+10GiB` becomes the size to reach, `rebuild`
remembers which group it takes down. A run that was interrupted left its settled request in the journal; asking for
the same again goes on with that, so nothing goes twice as far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from thinpoolmgr.core.adopt import plan_adopt
from thinpoolmgr.core.changes import plan_extension, without_repeats
from thinpoolmgr.core.clean import plan_clean
from thinpoolmgr.core.desired import DesiredPool, DesiredState, with_engine_anywhere, with_implied_engine
from thinpoolmgr.core.engine_base import SHRINKS
from thinpoolmgr.core.fingerprint import fingerprint_of_host
from thinpoolmgr.core.guards import check_paths
from thinpoolmgr.core.lifecycle import PoolState, view_pool
from thinpoolmgr.core.matching import is_unresolved, is_wanted, resolve_matches
from thinpoolmgr.core.plan import Memory, Plan, Refusal, Request, command_line, numbered
from thinpoolmgr.core.planner import bring_up, plan_activate, plan_apply, refuse_absent, with_lost_tags
from thinpoolmgr.core.steps import RemoveThinPool, StopEngine
from thinpoolmgr.core.teardown import plan_deactivate, plan_destroy, remove_left_labels
from thinpoolmgr.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from thinpoolmgr.core.lifecycle import PoolView
    from thinpoolmgr.core.model import Disk, Snapshot
    from thinpoolmgr.core.steps import Step

    Predict = Callable[[Snapshot, Step], Snapshot]

_TAKES_DOWN = ("destroy", "deactivate", "rebuild")
_DESTROYS = ("destroy", "rebuild")
_WHOLE_HOST = ("apply", "base-size")
"""They plan all that the configuration asks for; base-size has edited it before."""


class UnknownPoolError(ValueError):
    """The request is for a pool that the configuration does not have."""


def desired_for(request: Request, desired: DesiredState) -> DesiredState:
    """Return `desired` with what must be looked at for `request`: an engine that is not configured, disks to add.

    Raises:
        UnknownPoolError: the configuration has no such pool.

    """
    if request.command == "clean":
        return replace(desired, names_contents=True)
    if not request.pool:
        if request.may_empty and desired.engines:
            desired = replace(desired, holders_of=desired.engines[0].config.pool, names_contents=True)
        return with_engine_anywhere(desired) if request.command in _WHOLE_HOST else desired
    pool = _pool(request, desired)
    if request.command in (*_TAKES_DOWN, "activate"):
        looked_for = pool.name if request.command in _TAKES_DOWN else ""
        names_contents = request.command in _DESTROYS
        return replace(with_implied_engine(desired, pool), holders_of=looked_for, names_contents=names_contents)
    named = (*pool.config.devices, *pool.config.spare_devices)
    more = tuple(device for device in request.add_devices if device not in named)
    if not more:
        return desired
    config = replace(pool.config, spare_devices=(*pool.config.spare_devices, *more))
    pools = tuple(replace(pool, config=config) if other is pool else other for other in desired.pools)
    return replace(desired, pools=pools)


def _pool(request: Request, desired: DesiredState) -> DesiredPool:
    pool = desired.find_pool(request.pool)
    if pool is None:
        raise UnknownPoolError(request.pool)
    return pool


def plan_for(
    request: Request, desired: DesiredState, snapshot: Snapshot, memory: Memory, predict: Predict | None = None
) -> Plan:
    """Return the plan for `request`; the plan's own request is the settled one.

    Args:
        request: as asked for.
        desired: as `desired_for` gives it.
        snapshot: the host.
        memory: the journal; its request is the one under way, or the interrupted one.
        predict: gives the host as it is after a step; only `rebuild` needs it.

    Raises:
        UnknownPoolError: the configuration has no such pool.

    """
    settled = settle(request, desired, snapshot, memory)
    if settled.lv_uuid and _is_over(settled, desired, snapshot, memory):
        refusal = _made_since(_pool(settled, desired), settled)
        return Plan(refusals=(refusal,), fingerprint=fingerprint_of_host(desired, snapshot, memory), request=settled)
    plan = _plan(settled, desired, snapshot, memory, predict)
    return replace(plan, notes=(*plan.notes, *_notes_on_what_was_begun(settled, plan, memory)), request=settled)


def _notes_on_what_was_begun(request: Request, plan: Plan, memory: Memory) -> list[str]:
    """Say where "nothing to do" would mislead: after a rebuild that was finished, and before an extend that is not."""
    if request.command == "rebuild" and request in memory.begun and plan.is_empty:
        return [f"The rebuild of {request.pool} that was interrupted is finished. To make the pool anew, run it again."]
    extensions = [begun for begun in memory.begun if begun.command == "extend" and request.command in _WHOLE_HOST]
    return [f"Not finished: {command_line(begun)}. The same command again finishes it." for begun in extensions]


def settle(request: Request, desired: DesiredState, snapshot: Snapshot, memory: Memory) -> Request:
    """Return `request` with what it comes to on this host, or as it was settled when it was first begun.

    What is settled already, as the journal has it, stays: that is how `resume` asks.
    """
    if request.is_settled:
        return request
    begun = (*memory.begun, *([memory.request] if memory.request else []))
    wanted = _by_disks(request, snapshot)
    same = [other for other in begun if other.is_settled and _by_disks(other, snapshot) == wanted]
    if same and not _is_over(same[-1], desired, snapshot, memory):
        return same[-1]
    if request.purge:
        aside = tuple(path for engine in snapshot.engines for path in engine.set_aside)
        return replace(request, is_settled=True, set_aside=aside)
    if not request.pool:
        return replace(request, is_settled=True)
    view = view_pool(_pool(request, desired), snapshot)
    data = metadata = 0
    if view.lv is not None:
        data = view.lv.size_bytes + parse_size(request.add_data.lstrip("+")) if request.add_data else 0
        metadata = view.lv.metadata_bytes + parse_size(request.add_metadata.lstrip("+")) if request.add_metadata else 0
    group = view.group.uuid if view.group and request.command == "rebuild" else ""
    lv = view.lv.uuid if view.lv and view.lv.is_thin_pool and request.command in {"destroy", "extend"} else ""
    return replace(request, is_settled=True, data_bytes=data, metadata_bytes=metadata, group_uuid=group, lv_uuid=lv)


def _by_disks(request: Request, snapshot: Snapshot) -> Request:
    """Return what was asked for with each disk under the name of its node, whichever of its names was given."""
    found = [(path, snapshot.find_disk(path)) for path in request.add_devices]
    return replace(request, add_devices=tuple(disk.path if disk else path for path, disk in found)).as_asked()


def _is_over(begun: Request, desired: DesiredState, snapshot: Snapshot, memory: Memory) -> bool:
    """Whether what was begun was meant for a pool in whose place there is another one now.

    A rebuild makes that one itself, and goes on with it unless the configuration asks for what it cannot become.
    """
    if not begun.pool:
        return False
    view = view_pool(_pool(begun, desired), snapshot)
    if view.group is None or view.lv is None or not view.lv.is_thin_pool:
        return False
    if begun.command != "rebuild":
        return begun.lv_uuid not in {"", view.lv.uuid}
    if view.group.uuid == begun.group_uuid:
        return False
    refusals = plan_apply(desired, snapshot, memory, only=begun.pool).refusals
    return any(refusal.code == "SETTING_DIFFERS" for refusal in refusals)


def _made_since(pool: DesiredPool, begun: Request) -> Refusal:
    summary = f"{pool.path} was made anew after the {begun.command} that was interrupted"
    details = "To go on with it would enlarge the new pool by what was meant for the old one."
    resolution = f"Ask anew: thinpoolmgr extend {pool.name}; when that ends well, the interrupted run is over, too."
    if begun.command == "destroy":
        details = "To go on with it would destroy the new pool. The engine's old state, or labels on disks, are left."
        resolution = (
            "thinpoolmgr clean moves the old state of an engine in the configuration aside, pvremove takes a label off "
            "a disk that is not used; then thinpoolmgr apply ends the interrupted run. If the new pool is to go, too: "
            f"thinpoolmgr destroy {pool.name}."
        )
    return Refusal("NEEDS_PERSON", pool.path, summary, details, resolution, exit_code=5)


def _plan(request: Request, desired: DesiredState, snapshot: Snapshot, memory: Memory, predict: Predict | None) -> Plan:
    if request.command in _WHOLE_HOST:
        plan = plan_apply(desired, snapshot, memory)
        return _plan_emptying(plan, desired, snapshot, memory, predict) if request.may_empty else plan
    if request.command == "clean":
        return plan_clean(request, desired, snapshot, memory)
    pool = _pool(request, desired)
    match request.command:
        case "destroy":
            return plan_destroy(pool, desired, snapshot, memory, keep_devices=request.keep_devices)
        case "deactivate":
            return plan_deactivate(pool, desired, snapshot, memory)
        case "activate":
            return plan_activate(pool, desired, snapshot, memory)
        case "adopt":
            return plan_adopt(pool, desired, snapshot, memory)
        case "extend":
            return _plan_extend(pool, request, desired, snapshot, memory)
        case "rebuild":
            return _plan_rebuild(pool, request, desired, snapshot, memory, predict)
    msg = f"nothing plans {request.command}"
    raise ValueError(msg)


def _plan_extend(
    pool: DesiredPool, request: Request, desired: DesiredState, snapshot: Snapshot, memory: Memory
) -> Plan:
    fingerprint = fingerprint_of_host(desired, snapshot, memory)
    refusals = _refuse_devices(pool, request, desired, snapshot)
    view, tags = with_lost_tags(view_pool(pool, snapshot), snapshot, memory)
    if view.state is PoolState.ABSENT:
        return Plan(refusals=(*refusals, refuse_absent(view)), fingerprint=fingerprint)
    # Larger metadata is what brings this one back: the kernel leaves its read-only mode by itself.
    can_grow = view.state is PoolState.OUT_OF_METADATA and (request.add_metadata or not request.add_data)
    steps, found = ([], []) if can_grow else bring_up(view, memory)
    if refusals or found:
        return Plan(refusals=(*refusals, *found), fingerprint=fingerprint)
    changes = plan_extension(view, request, snapshot, memory)
    steps = [*tags, *without_repeats(steps, changes.steps), *changes.steps]
    added = [path for path in request.add_devices if path not in pool.config.devices] if steps else []
    notes, warnings = [], changes.warnings
    if pool.config.match:
        warnings += [_say_to_choose(path, pool, snapshot) for path in added]
    else:
        where = f"pools.{pool.name}.devices"
        notes = [f"Add {path} to {where} of the configuration, so that it says what there is." for path in added]
    return Plan(numbered(steps), tuple(changes.refusals), tuple(notes), tuple(warnings), fingerprint)


def _say_to_choose(path: str, pool: DesiredPool, snapshot: Snapshot) -> str:
    """A pool whose disks are chosen cannot name one besides: its selectors must choose this one, too."""
    where, disk = f"pools.{pool.name}.match", snapshot.find_disk(path)
    if disk is not None and is_wanted(disk, pool, snapshot):
        return f"{path} fits {where}: raise its count by one in the configuration, or apply will refuse from then on."
    return f"No {where} chooses {path}: add a [[{where}]] that does, so that the configuration says what there is."


def _refuse_devices(pool: DesiredPool, request: Request, desired: DesiredState, snapshot: Snapshot) -> list[Refusal]:
    """Return why disks that are to be added cannot be used: they lead nowhere, or another pool is to have them."""
    others = tuple(other for other in desired.pools if other is not pool)
    resolved, _ = resolve_matches(replace(desired, pools=others), snapshot)
    # Spare disks may be away, those that are to be added must not.
    added = [path for path in pool.config.spare_devices if path in request.add_devices]
    asked = replace(pool, config=replace(pool.config, devices=(*pool.config.devices, *added)))
    found = check_paths(replace(desired, pools=(*resolved.pools, asked)), snapshot)
    # A disk named twice is refused whichever of its names comes second.
    refusals = [r for r in found if r.target in request.add_devices or r.code == "SAME_DISK_TWICE"]
    disks = [disk for path in request.add_devices if (disk := snapshot.find_disk(path))]
    return refusals + [
        _may_be_chosen(disk, other)
        for other in resolved.pools
        for disk in disks
        if is_unresolved(other) and is_wanted(disk, other, snapshot)
    ]


def _may_be_chosen(disk: Disk, other: DesiredPool) -> Refusal:
    summary = f"pools.{other.name}.match fits {disk.path}, too"
    details = f"It fits more disks than it asks for, or fewer, so that this one may be meant for pools.{other.name}."
    resolution = f"Narrow pools.{other.name}.match, with a serial or a path, until thinpoolmgr plan does not refuse it."
    return Refusal("MATCH_TWICE", disk.path, summary, details, resolution)


def _plan_rebuild(  # noqa: PLR0913, PLR0917 - as plan_for
    pool: DesiredPool,
    request: Request,
    desired: DesiredState,
    snapshot: Snapshot,
    memory: Memory,
    predict: Predict | None,
) -> Plan:
    """Down and up again as one plan: the second half is planned on the host as the first half will leave it."""
    view = view_pool(pool, snapshot)
    is_old = view.group is not None and view.group.uuid == request.group_uuid
    is_down = not is_old and view.state is not PoolState.LOST
    if is_down:
        up = plan_apply(desired, snapshot, memory, only=pool.name)
        return replace(up, steps=numbered([*remove_left_labels(pool, up.steps, snapshot, memory), *up.steps]))
    down = plan_destroy(pool, desired, snapshot, memory)
    if down.refusals or predict is None:
        return down
    return _down_and_up(down, desired, snapshot, memory, predict, only=pool.name)


def _plan_emptying(
    plan: Plan, desired: DesiredState, snapshot: Snapshot, memory: Memory, predict: Predict | None
) -> Plan:
    """Make the pools anew whose engines are to have a smaller base, where nothing else stands against `plan`."""
    others = tuple(refusal for refusal in plan.refusals if refusal.code != SHRINKS)
    # What else is destroyed may be all that was meant to be allowed; and of a pool that does not run nobody knows
    # whether the engine's records are its own.
    is_meant = not others and all(step.danger != "destroys" for step in plan.steps)
    shrinking = {refusal.target for refusal in plan.refusals} if is_meant else set()
    found = [desired.find_pool(engine.config.pool) for engine in desired.engines if engine.name in shrinking]
    pools = [pool for pool in found if pool is not None and _may_go(view_pool(pool, snapshot), memory)]
    if not pools or predict is None:
        return replace(plan, refusals=others or plan.refusals)
    downs = [plan_destroy(pool, desired, snapshot, memory) for pool in pools]
    refusals = tuple(refusal for down in downs for refusal in down.refusals)
    if refusals:
        return replace(plan, steps=(), refusals=refusals)
    down = replace(downs[0], steps=tuple(step for down in downs for step in down.steps))
    return _down_and_up(down, desired, snapshot, memory, predict)


def _may_go(view: PoolView, memory: Memory) -> bool:
    """Whether the pool runs, so that the engine's records were judged; or an interrupted run was to remove it."""
    begun = {step.lv_uuid for step in (*memory.interrupted, *memory.pending) if isinstance(step, RemoveThinPool)}
    return view.status is not None or (view.lv is not None and view.lv.uuid in begun)


def _down_and_up(  # noqa: PLR0913 - as plan_for
    down: Plan, desired: DesiredState, snapshot: Snapshot, memory: Memory, predict: Predict, *, only: str = ""
) -> Plan:
    """Return `down` with what leads up again, planned on the host as `down` will leave it."""
    after = snapshot
    for step in down.steps:
        after = predict(after, step)
    stopped = tuple(step.engine for step in down.steps if isinstance(step, StopEngine))
    up = plan_apply(
        desired,
        after,
        replace(memory, interrupted=(), pending=(), stopped_engines=(*memory.stopped_engines, *stopped)),
        only=only,
    )
    return Plan(
        numbered([*down.steps, *up.steps]) if not up.refusals else (),
        up.refusals,
        tuple(dict.fromkeys((*down.notes, *up.notes))),
        (*down.warnings, *up.warnings),
        down.fingerprint,
    )
