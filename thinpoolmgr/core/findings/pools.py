"""Findings about pools: their state, the kernel against LVM, metadata, room, and what else is in their groups."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from thinpoolmgr.core.changes import correct_when_full, room_of
from thinpoolmgr.core.conditions import why_not_refreshed
from thinpoolmgr.core.desired import MAX_METADATA_BYTES
from thinpoolmgr.core.extension import extension_requests, metadata_request, needed_metadata
from thinpoolmgr.core.findings.sighting import Sighting, sight
from thinpoolmgr.core.leftovers import find_leftovers, unexpected_lvs
from thinpoolmgr.core.lifecycle import RUNNING_STATES, STATE_CODES, PoolState, PoolView
from thinpoolmgr.core.plan import Memory, Request
from thinpoolmgr.core.planner import with_lost_tags
from thinpoolmgr.core.profiles import plan_profile
from thinpoolmgr.units import exact_size, format_size, percent_of

if TYPE_CHECKING:
    from thinpoolmgr.core.model import LogicalVolume, Snapshot, VolumeGroup

_NOT_OURS_OR_UNSURE = (PoolState.FOREIGN, PoolState.UNKNOWN, PoolState.PARTIAL, PoolState.ABSENT)
APPLY = Request("apply")
NEAR_CAP_PERCENT = 90


def pool_sightings(view: PoolView, snapshot: Snapshot, memory: Memory) -> list[Sighting]:
    """Return what is to be said about the pool of `view`."""
    found = []
    tagged, tags = with_lost_tags(view, snapshot, memory)
    if tags:
        found.append(_sight("TAG_LOST", view, view.pool.path, tags[0].reason, APPLY))
        view = tagged
    found += [*_state(view), *_kernel(view)]
    if view.group is None or view.state is PoolState.FOREIGN:
        return found
    found += _leftovers(view, view.group, memory)
    if view.lv is None or view.state in _NOT_OURS_OR_UNSURE:
        return found
    return [
        *found,
        *_settings(view, snapshot),
        *_spare(view, view.group, view.lv),
        *_metadata(view, view.lv),
        *_others(view, view.group, memory),
    ]


def _sight(code: str, view: PoolView, target: str, evidence: str, *requests: Request, **words: str) -> Sighting:
    return sight(code, target, evidence, *requests, pool=view.pool.name, path=view.pool.path, **words)


def _state(view: PoolView) -> list[Sighting]:
    if view.state not in STATE_CODES:
        return []
    requests: tuple[Request, ...] = ()
    hint = limit = ""
    if view.state is PoolState.ABSENT:
        requests, hint = (APPLY,), "; apply makes it" if view.group is None or view.lv is not None else ""
    elif view.state is PoolState.INACTIVE:
        requests, hint = (Request("activate", view.pool.name),), "; apply activates it"
    elif view.state in {PoolState.TIGHT, PoolState.OUT_OF_DATA, PoolState.OUT_OF_METADATA}:
        requests = extension_requests(view)
        limit = "" if requests else _limit(view)
    words = {"state": view.state.value, "because": view.because, "hint": hint, "group": view.pool.group}
    return [_sight(STATE_CODES[view.state], view, view.pool.path, _evidence(view), *requests, limit=limit, **words)]


def _limit(view: PoolView) -> str:
    """Return what to do with a tight pool that may not be extended at all."""
    return (
        f"It may not grow any further: data up to extend.max_size ({view.pool.config.extend.max_size}), metadata up to "
        f"{format_size(MAX_METADATA_BYTES)}. Raise pools.{view.pool.name}.extend.max_size, or remove what is not "
        "needed: docker image prune, docker container prune."
    )


def _evidence(view: PoolView) -> str:
    """Return the kernel's and LVM's own numbers, as far as there are any."""
    parts = []
    status, lv, group = view.status, view.lv, view.group
    if status is not None and status.total_data_blocks and lv is not None:
        parts.append(
            f"the kernel says {status.mode}, {status.used_data_blocks} of {status.total_data_blocks} data blocks and "
            f"{status.used_metadata_blocks} of {status.total_metadata_blocks} metadata blocks used"
        )
        # An extension of a pool that needs a check returns 0, LVM shows it, and the kernel does not grow (2.03.16).
        if lv.chunk_bytes and (size := status.total_data_blocks * lv.chunk_bytes) <= lv.size_bytes - lv.chunk_bytes:
            parts.append(f"LVM lists {format_size(lv.size_bytes)} of data, the kernel has {format_size(size)}")
    elif lv is not None:
        parts.append(f"LVM lists it as {lv.segment_type} with lv_attr {lv.attr}")
    if group is not None and view.state in {PoolState.TIGHT, PoolState.OUT_OF_DATA, PoolState.OUT_OF_METADATA}:
        parts.append(f"{format_size(group.allocatable_extents * group.extent_bytes)} free in the group {group.name}")
    if group is not None and (missing := [pv.uuid for pv in group.pvs if pv.missing]):
        parts.append(f"missing physical volumes: {', '.join(missing)}")
    return "; ".join(parts) or view.because


def _kernel(view: PoolView) -> list[Sighting]:
    path, lv, status = view.pool.path, view.lv, view.status
    suspended = [device.name for device in view.inner if device.suspended]
    found = []
    if suspended and view.state is not PoolState.FOREIGN:
        found.append(
            _sight("DEVICE_SUSPENDED", view, suspended[0], f"device-mapper: {', '.join(suspended)} suspended", APPLY)
        )
    if lv is None or status is None:
        return found
    if status.held_root not in ("-", "0"):
        evidence = f"the kernel holds it at block {status.held_root}; changes to the pool take more metadata meanwhile"
        found.append(_sight("METADATA_SNAPSHOT_HELD", view, view.dm_name, evidence))
    behind = "" if suspended else why_not_refreshed(lv, view.device)
    if behind and view.state not in _NOT_OURS_OR_UNSURE:
        found.append(_sight("KERNEL_BEHIND", view, path, behind, APPLY))
    # The no-space time-out (60 s) turns queueing into errors without LVM's knowledge; a pool with room has it back.
    fails = status.when_full not in ("", lv.when_full) and view.state not in (PoolState.HEALTHY, PoolState.TIGHT)
    if fails:
        evidence = f"the kernel says {status.when_full}_if_no_space, LVM {lv.when_full}; the state is {view.state}"
        requests = extension_requests(view)
        words = {"by_lvm": lv.when_full, "limit": "" if requests else _limit(view)}
        found.append(_sight("POOL_ERRORS_WRITES", view, path, evidence, *requests, **words))
    return found


def _settings(view: PoolView, snapshot: Snapshot) -> list[Sighting]:
    found = []
    if steps := correct_when_full(view):
        found.append(_sight("WHEN_FULL_DIFFERS", view, view.pool.path, steps[0].reason, APPLY))
    if profile := plan_profile(view, snapshot):
        reasons = "; ".join(dict.fromkeys(step.reason for step in profile))
        found.append(_sight("AUTOEXTEND_DIFFERS", view, view.pool.path, reasons, APPLY))
    return found


def _spare(view: PoolView, group: VolumeGroup, lv: LogicalVolume) -> list[Sighting]:
    room = room_of(group, lv, [], [])
    if room.spare >= room.metadata:
        return []
    have = format_size(room.spare * room.extent_bytes) if group.spare else "none"
    evidence = (
        f"metadata has {format_size(lv.metadata_bytes)}, the spare: {have}; "
        f"{format_size(room.free * room.extent_bytes)} free; LVM makes it anew when the metadata grows"
    )
    code = "METADATA_SPARE_SMALL" if group.spare else "METADATA_SPARE_MISSING"
    return [_sight(code, view, group.name, evidence, APPLY)]


def _metadata(view: PoolView, lv: LogicalVolume) -> list[Sighting]:
    path, found = view.pool.path, []
    request = metadata_request(view)
    if request is not None:
        evidence = (
            f"{exact_size(lv.metadata_bytes)} of metadata; 64 B for each chunk of {format_size(lv.chunk_bytes)} "
            f"in {format_size(lv.size_bytes)} of data make {format_size(needed_metadata(lv))}"
        )
        found.append(_sight("METADATA_TOO_SMALL", view, path, evidence, request))
    share = percent_of(lv.metadata_bytes, MAX_METADATA_BYTES)
    if share >= NEAR_CAP_PERCENT:
        evidence = f"{format_size(lv.metadata_bytes)} of the {format_size(MAX_METADATA_BYTES)} that dm-thin can use"
        found.append(_sight("METADATA_NEAR_CAP", view, path, evidence))
    return found


def _leftovers(view: PoolView, group: VolumeGroup, memory: Memory) -> list[Sighting]:
    return [
        _sight(
            "LEFTOVER_LVS", view, f"{group.name}/{lv.name}", f"{lv.segment_type}, {format_size(lv.size_bytes)}", APPLY
        )
        for lv in find_leftovers(group, view.pool, memory)
    ]


def _others(view: PoolView, group: VolumeGroup, memory: Memory) -> list[Sighting]:
    backup = re.compile(rf"{re.escape(view.pool.lv)}_meta\d+", re.ASCII)
    kept = [lv for lv in group.lvs if backup.fullmatch(lv.name)]
    found = [
        _sight(
            "METADATA_BACKUP_KEPT",
            view,
            f"{group.name}/{lv.name}",
            f"lvconvert --repair kept it: {lv.segment_type}, {format_size(lv.size_bytes)}",
        )
        for lv in kept
    ]
    leftovers = find_leftovers(group, view.pool, memory)
    found += [
        _sight("GROUP_HAS_OTHER_LVS", view, group.name, refusal.summary)
        for refusal in unexpected_lvs(group, view.pool, [*leftovers, *kept])
    ]
    return found


def is_well(view: PoolView) -> bool:
    """Whether an engine can work on the pool."""
    return view.state in RUNNING_STATES and not any(device.suspended for device in view.inner)
