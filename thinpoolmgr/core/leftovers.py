"""What a kill inside `lvcreate --type thin-pool` leaves behind, and how it is told from other people's LVs.

lvcreate commits three times (measured, LVM 2.03.16), so a kill leaves one of:

- a visible, untagged linear LV `lvolN` of the metadata's size (it was to become the spare or the metadata);
- an LV with the pool's own name and our tag, but of type linear, beside `lvolN_pmspare`;
- the complete pool, not active.

The journal must show that we were making the pool; type, size and tag must fit. Names alone prove nothing.
"""

from __future__ import annotations

import re

from thinpoolmgr.core.desired import DesiredPool
from thinpoolmgr.core.model import LogicalVolume, VolumeGroup
from thinpoolmgr.core.names import OUR_TAG
from thinpoolmgr.core.plan import Memory, Refusal
from thinpoolmgr.core.steps import CreateThinPool
from thinpoolmgr.units import ceil_to

_GENERATED_NAME = re.compile(r"lvol\d+", re.ASCII)
_HIDDEN_SUFFIXES = ("_tdata", "_tmeta", "_pmspare")


def find_leftovers(group: VolumeGroup, pool: DesiredPool, memory: Memory) -> list[LogicalVolume]:
    """Return the half-made LVs in `group` that an interrupted creation of `pool` left."""
    making = [
        s for s in memory.interrupted if isinstance(s, CreateThinPool) and (s.group, s.lv) == (group.name, pool.lv)
    ]
    return [lv for lv in group.lvs for step in making[-1:] if _is_half_made(lv, step, group)]


def _is_half_made(lv: LogicalVolume, step: CreateThinPool, group: VolumeGroup) -> bool:
    if lv.segment_type not in ("linear", "striped"):
        return False
    metadata_bytes = ceil_to(step.metadata_bytes, group.extent_bytes)
    if _GENERATED_NAME.fullmatch(lv.name):
        return not lv.tags and lv.size_bytes == metadata_bytes
    return (
        lv.name == step.lv
        and OUR_TAG in lv.tags
        and lv.size_bytes in (metadata_bytes, step.data_extents * group.extent_bytes)
    )


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
    return [
        Refusal(
            "GROUP_HAS_OTHER_LVS",
            group.name,
            f"the volume group {group.name} holds what thinpoolmgr did not make: {listed}",
            "It is somebody's data, our pool under another name, or the remains of a step that was not recorded.",
            f"Look at it (lvs -a {group.name}); move it elsewhere or remove it yourself, then run this again.",
        )
    ]
