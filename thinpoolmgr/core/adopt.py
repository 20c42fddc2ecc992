"""Taking over a volume group and a pool that somebody made by hand: looked at, compared, tagged.

Only tags are written. How the pool differs from its configuration is shown, and is for the next `apply` to settle.
Of a group in which there is no pool yet, only what a killed set-up of Docker's own left half-made is removed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec.structs import replace

from thinpoolmgr.core.changes import plan_changes
from thinpoolmgr.core.fingerprint import fingerprint_of_host
from thinpoolmgr.core.leftovers import unexpected_lvs
from thinpoolmgr.core.lifecycle import PoolState, view_pool
from thinpoolmgr.core.names import OUR_TAG
from thinpoolmgr.core.own_setup import refuse_volumes, remove_volumes, setup_volumes
from thinpoolmgr.core.plan import Memory, Plan, Refusal, numbered
from thinpoolmgr.core.planner import refuse_absent, refuse_state, tag_pool, with_tags
from thinpoolmgr.core.steps import step_name, target

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredPool, DesiredState
    from thinpoolmgr.core.lifecycle import PoolView
    from thinpoolmgr.core.model import LogicalVolume, Snapshot, VolumeGroup

_SHARED = ("c", "s")
_NEVER = (PoolState.PARTIAL, PoolState.UNKNOWN, PoolState.LOST)


def plan_adopt(pool: DesiredPool, desired: DesiredState, snapshot: Snapshot, memory: Memory) -> Plan:
    """Return the plan that makes the group and the pool ours; empty when they are."""
    fingerprint = fingerprint_of_host(desired, snapshot, memory)
    view = view_pool(pool, snapshot)
    group, lv = view.group, view.lv
    if view.state in _NEVER and (refusal := refuse_state(view)):
        return Plan(refusals=(refusal,), fingerprint=fingerprint)
    if group is None:
        return Plan(refusals=(refuse_absent(view),), fingerprint=fingerprint)
    volumes = setup_volumes(group)
    if volumes is not None:
        return replace(_plan_without_pool(view, group, volumes, snapshot, memory), fingerprint=fingerprint)
    refusals = [*_refuse_group(group), *_refuse_contents(view, group, lv)]
    if refusals or lv is None:
        return Plan(refusals=tuple(refusals), fingerprint=fingerprint)
    if OUR_TAG in group.tags and OUR_TAG in lv.tags:
        return Plan(fingerprint=fingerprint)
    disks = ", ".join(pv.path for pv in group.pvs)
    step = tag_pool(view, group, f"it was made by hand on {disks}, and you ask thinpoolmgr to take it over")
    tagged = view_pool(pool, with_tags(snapshot, step))
    if tagged.state in _NEVER and (refusal := refuse_state(tagged)):
        return Plan(refusals=(refusal,), fingerprint=fingerprint)
    warnings = _differences(tagged, with_tags(snapshot, step), memory)
    return Plan(numbered([step]), warnings=tuple(warnings), fingerprint=fingerprint)


def _plan_without_pool(
    view: PoolView, group: VolumeGroup, volumes: tuple[LogicalVolume, ...], snapshot: Snapshot, memory: Memory
) -> Plan:
    """A group without any volume, or with what a killed set-up of Docker's left: `apply` makes the pool in it."""
    refusals = [*_refuse_group(group), *refuse_volumes(group, volumes, snapshot, memory)]
    disks = ", ".join(pv.path for pv in group.pvs)
    what = "Docker's own set-up was cut short before it made a pool of it" if volumes else "it is empty"
    reason = f"{what}, it stands on {disks}, and you ask thinpoolmgr to take it over"
    tags = [] if OUR_TAG in group.tags else [tag_pool(view, group, reason)]
    for tag in tags:
        tagged = view_pool(view.pool, with_tags(snapshot, tag))
        if tagged.state in _NEVER and (refusal := refuse_state(tagged)):
            refusals.append(refusal)
    if refusals:
        return Plan(refusals=tuple(refusals))
    notes = (f"Then make {view.pool.path} in it: thinpoolmgr apply.",)
    return Plan(numbered([*tags, *remove_volumes(group, volumes, view.pool)]), notes=notes)


def _refuse_group(group: VolumeGroup) -> list[Refusal]:
    """Return why nothing on this host may take the group over."""
    if group.is_exported:
        what, way = "is exported", f"Import it first: vgimport {group.name}"
    elif group.attr[5:6] in _SHARED:
        what, way = "is shared between hosts", "thinpoolmgr works on groups of one host only."
    elif group.system_id:
        what = f"belongs to the system {group.system_id!r}"
        way = f"If it is this host's now, take the system id away: vgchange --systemid '' {group.name}"
    else:
        return []
    return [Refusal("GROUP_NOT_OURS_TO_TAKE", group.name, f"the volume group {group.name} {what}", "", way)]


def _refuse_contents(view: PoolView, group: VolumeGroup, lv: LogicalVolume | None) -> list[Refusal]:
    pool = view.pool
    if lv is None or not lv.is_thin_pool:
        pools = ", ".join(f"{group.name}/{other.name}" for other in group.lvs if other.is_thin_pool) or "none"
        what = f"{pool.path} is of type {lv.segment_type}" if lv else f"there is no {pool.path}"
        way = f"Name the pool in the configuration: pools.{pool.name}.thin_pool."
        return [Refusal("NOT_A_THIN_POOL", pool.path, what, f"Thin pools of this group: {pools}.", way)]
    volumes = [other.name for other in group.lvs if other.pool_lv == pool.lv]
    if volumes:
        summary = f"{pool.path} carries LVM's thin volumes: {', '.join(volumes[:5])}"
        way = "A pool of an engine carries nothing else; move them elsewhere first."
        return [Refusal("GROUP_HAS_OTHER_LVS", group.name, summary, "No engine made them.", way)]
    # What lvconvert --repair kept of the old metadata is the pool's own, though it is never deleted unasked.
    backup = re.compile(rf"{re.escape(pool.lv)}_meta\d+", re.ASCII)
    others = replace(group, lvs=tuple(other for other in group.lvs if not backup.fullmatch(other.name)))
    return unexpected_lvs(others, pool, [])


def _differences(view: PoolView, snapshot: Snapshot, memory: Memory) -> list[str]:
    """Return how the pool differs from its configuration: what the next apply would do, or refuse."""
    if refusal := refuse_state(view):
        return [f"Then apply would refuse: {refusal.summary}."]
    changes = plan_changes(view, snapshot, memory)
    refused = [f"Then apply would refuse: {refusal.summary}." for refusal in changes.refusals]
    done = [
        f"Then apply would {step_name(step).replace('-', ' ')} {target(step)}: {step.reason}." for step in changes.steps
    ]
    return [*refused, *done, *changes.warnings]
