"""What a kill inside `lvcreate` or `lvextend` leaves behind, and how it is told from other people's LVs.

`lvcreate --type thin-pool` commits three times (measured, LVM 2.03.16), so a kill leaves one of:

- a visible, untagged linear LV `lvolN` of the metadata's size (it was to become the spare or the metadata), no pool;
- an LV with the pool's own name and our tag, but of type linear, beside `lvolN_pmspare`;
- the complete pool, not active.

`lvextend --poolmetadatasize` makes its new spare the same way: a kill leaves a visible, untagged `lvolN` of the new
size, and no spare. For what carries no tag the journal must show that we were at it and that the LV was not there
before; type, size and tag must fit. Names alone prove nothing.
"""

from __future__ import annotations

import re

from thinpoolmgr.core.desired import DesiredPool
from thinpoolmgr.core.model import LogicalVolume, VolumeGroup
from thinpoolmgr.core.names import OUR_TAG
from thinpoolmgr.core.own_setup import setup_volumes
from thinpoolmgr.core.plan import Memory, Refusal
from thinpoolmgr.core.steps import CreateThinPool, ExtendMetadata, RemoveLeftover, Step
from thinpoolmgr.units import ceil_to, format_size

_GENERATED_NAME = re.compile(r"lvol\d+", re.ASCII)
_PLAIN = ("linear", "striped")
_HIDDEN_SUFFIXES = ("_tdata", "_tmeta", "_pmspare")


def find_leftovers(group: VolumeGroup, pool: DesiredPool, memory: Memory) -> list[LogicalVolume]:
    """Return the half-made LVs in `group` that an interrupted creation or enlargement of `pool` left."""
    return [lv for lv in group.lvs if _is_half_made(lv, pool, group) or _was_begun(lv, pool, group, memory)]


def _is_half_made(lv: LogicalVolume, pool: DesiredPool, group: VolumeGroup) -> bool:
    """Name, tag, type and the spare beside it together: nothing but an `lvcreate` of ours makes that."""
    return lv.name == pool.lv and OUR_TAG in lv.tags and lv.segment_type in _PLAIN and group.spare is not None


def _was_begun(lv: LogicalVolume, pool: DesiredPool, group: VolumeGroup, memory: Memory) -> bool:
    """What was there before a step began is not of its making, whatever it looks like."""
    new_since = [begun.step for begun in memory.open_steps if lv.uuid not in begun.lv_uuids]
    return any(_was_made_by(lv, step, pool, group) for step in new_since)


def _was_made_by(lv: LogicalVolume, step: Step, pool: DesiredPool, group: VolumeGroup) -> bool:
    """Whether `step`, begun and not seen to be done, leaves such an LV; a spare, or the pool, shows that it did not."""
    if not isinstance(step, CreateThinPool | ExtendMetadata) or (step.group, step.lv) != (group.name, pool.lv):
        return False
    made = group.find_lv(pool.lv)
    is_over = group.spare is not None if isinstance(step, ExtendMetadata) else made is not None and made.is_thin_pool
    if is_over or lv.segment_type not in _PLAIN:
        return False
    metadata_bytes = ceil_to(step.metadata_bytes, group.extent_bytes)
    if _GENERATED_NAME.fullmatch(lv.name):
        return not lv.tags and lv.size_bytes == metadata_bytes
    return (
        isinstance(step, CreateThinPool)
        and lv.name == step.lv
        and OUR_TAG in lv.tags
        and lv.size_bytes in (metadata_bytes, step.data_extents * group.extent_bytes)
    )


def remove_leftovers(leftovers: list[LogicalVolume], group: VolumeGroup, pool: DesiredPool) -> list[RemoveLeftover]:
    """Return the steps that remove `leftovers`."""
    return [
        RemoveLeftover(
            reason=f"an interrupted run left it half-made ({lv.segment_type}, {format_size(lv.size_bytes)})",
            pool=pool.name,
            group=group.name,
            lv=lv.name,
            lv_uuid=lv.uuid,
        )
        for lv in leftovers
    ]


def unexpected_lvs(group: VolumeGroup, pool: DesiredPool, leftovers: list[LogicalVolume]) -> list[Refusal]:
    """Return a refusal when `group` holds an LV that is neither the pool's nor a leftover of ours."""
    names = [
        lv.name
        for lv in group.lvs
        if lv not in leftovers
        and not lv.name.endswith(_HIDDEN_SUFFIXES)
        and not (lv.name == pool.lv and lv.is_thin_pool)
    ]
    if not names:
        return []
    listed = ", ".join(f"{group.name}/{name}" for name in names[:5])
    look = f"Look at it (lvs -a {group.name}); move it elsewhere or remove it yourself, then run this again."
    return [
        Refusal(
            "GROUP_HAS_OTHER_LVS",
            group.name,
            f"the volume group {group.name} holds what thinpoolmgr did not make: {listed}",
            "It is somebody's data, our pool under another name, or the remains of a step that was not recorded.",
            f"{_say_adopt(group, pool)}{look}",
        )
    ]


def _say_adopt(group: VolumeGroup, pool: DesiredPool) -> str:
    """Return the way out that there is for what a killed set-up of Docker's own left; empty for anything else."""
    if not setup_volumes(group):
        return ""
    return f"If Docker's own set-up was cut short there, run: thinpoolmgr adopt {pool.name} --allow destroy. "
