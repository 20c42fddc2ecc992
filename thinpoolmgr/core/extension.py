"""When a pool is to grow and how far, from its thresholds, its fill rate and the room there is; pure.

A step is `extend.step_percent` of the size before it. A pool grows by steps until what is used, and what will be used
by the time an extension is through, is below the threshold: a threshold alone is too late for one that fills fast.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from msgspec.structs import replace

from thinpoolmgr.core.desired import MAX_METADATA_BYTES
from thinpoolmgr.core.lifecycle import PoolState, PoolView
from thinpoolmgr.core.plan import Request
from thinpoolmgr.core.sizing import MAPPING_BYTES_PER_CHUNK, Growth, Room, grown_for
from thinpoolmgr.core.thinstatus import METADATA_BLOCK_BYTES
from thinpoolmgr.units import ceil_to, exact_size, floor_to, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from thinpoolmgr.core.model import LogicalVolume, ThinPoolStatus

Part = Literal["data", "metadata"]
_MOST_STEPS = 100
_MOST_HALVINGS = 30
_RATE_SECONDS, _BURST_SECONDS = 10.0, 1.0
"""How far back a fill rate looks: what filled a pool a minute ago may be over, and what began just now counts."""
FARTHEST_SECONDS = 60.0
"""Farther ahead is nothing taken, however long the last extension waited: what a group has given is not given back."""
_MARGIN = 2.0
"""An extension is taken to last so many times as long as the last ones did: LVM may wait for a lock, or for udev."""
IDLE_SECONDS = 1.0
FILLING_SECONDS = 0.5
NEAR_SECONDS = 0.25
FASTEST_SECONDS = 0.05
_NEAR_POINTS = 10
_FILLING_SHARE, _NEAR_SHARE = 0.4, 0.6


class Reading(Struct, frozen=True):
    """What of a pool was used at one moment."""

    at: float
    """Seconds, of a clock that never jumps."""
    data_bytes: int
    metadata_bytes: int


class Rate(Struct, frozen=True):
    """How fast a pool fills, in bytes a second; never below 0."""

    data: float = 0.0
    metadata: float = 0.0


class Ahead(Struct, frozen=True):
    """How many bytes more will be used by the time an extension that begins now is through."""

    data: int = 0
    metadata: int = 0


_NOTHING = Ahead()


def reading_of(status: ThinPoolStatus, chunk_bytes: int, at: float) -> Reading:
    """Return what the kernel's `status` of a pool with chunks of so many bytes says is used."""
    return Reading(at, status.used_data_blocks * chunk_bytes, status.used_metadata_blocks * METADATA_BLOCK_BYTES)


def recent(readings: Sequence[Reading], newest: Reading) -> tuple[Reading, ...]:
    """Return the readings that a fill rate is taken from: those of the last seconds, one older, and `newest`."""
    old = [reading for reading in readings if reading.at < newest.at - _RATE_SECONDS]
    return (*old[-1:], *(reading for reading in readings if reading.at >= newest.at - _RATE_SECONDS), newest)


def after_growth(readings: Sequence[Reading], newest: Reading) -> tuple[Reading, ...]:
    """Return `readings` as they would be if the pool's metadata had been as large already as they are at `newest`.

    More metadata have a larger reserve, which counts as used (dm-thin-metadata.c): that is no filling.
    """
    more = newest.metadata_bytes - readings[-1].metadata_bytes if readings else 0
    return tuple(replace(reading, metadata_bytes=reading.metadata_bytes + more) for reading in readings)


def fill_rate(readings: Sequence[Reading]) -> Rate:
    """Return how fast the pool fills: the larger of what it did in the last ten seconds and in the last one.

    What was given back between two readings counts as nothing, not as less. Readings of less than a second are taken
    as that second's: what a cache writes out at once, in a moment, is no speed.
    """
    if not readings:
        return Rate()
    newest = readings[-1].at
    older = [reading for reading in readings if reading.at <= newest - _BURST_SECONDS]
    burst = [*older[-1:], *(reading for reading in readings if reading.at > newest - _BURST_SECONDS)]
    slow, fast = _average(readings), _average(burst)
    return Rate(max(slow.data, fast.data), max(slow.metadata, fast.metadata))


def _average(readings: Sequence[Reading]) -> Rate:
    seconds = max(readings[-1].at - readings[0].at, _BURST_SECONDS)
    pairs = list(itertools.pairwise(readings))
    data = sum(max(0, after.data_bytes - before.data_bytes) for before, after in pairs)
    metadata = sum(max(0, after.metadata_bytes - before.metadata_bytes) for before, after in pairs)
    return Rate(data / seconds, metadata / seconds)


def ahead_of(rate: Rate, extension_seconds: float) -> Ahead:
    """Return what will be used more when an extension of so many seconds is through, with a margin."""
    seconds = min(extension_seconds * _MARGIN, FARTHEST_SECONDS)
    return Ahead(int(rate.data * seconds), int(rate.metadata * seconds))


def seconds_to_next_look(status: ThinPoolStatus, view: PoolView, rate: Rate) -> float:
    """Return after how long the pool is to be looked at again, should no event come before: 50 ms to 1 s.

    A crossed metadata threshold raises no event of the kernel's. The fuller a pool is the sooner it is looked at, and
    one that fills before half of the time to its threshold is over.
    """
    limits = view.pool.config.extend
    parts = (
        (status.used_data_blocks, status.total_data_blocks, limits.data_threshold_percent, rate.data),
        (status.used_metadata_blocks, status.total_metadata_blocks, limits.metadata_threshold_percent, rate.metadata),
    )
    sizes = (view.lv.size_bytes, view.lv.metadata_bytes) if view.lv else (0, 0)
    seconds = IDLE_SECONDS
    for (used, total, threshold, speed), size in zip(parts, sizes, strict=True):
        share = used / total if total else 0.0
        by_share = NEAR_SECONDS if share > _NEAR_SHARE else FILLING_SECONDS if share > _FILLING_SHARE else IDLE_SECONDS
        left = size * (threshold / 100 - share)
        by_rate = left / speed / 2 if speed > 0 and left > 0 else IDLE_SECONDS
        seconds = min(seconds, by_share, max(by_rate, FASTEST_SECONDS))
    return seconds


def extension_requests(view: PoolView) -> tuple[Request, ...]:
    """Return what `extend` would be asked for: steps until the pool is no longer tight, or, with less room, one step.

    Empty when the pool is neither tight nor full, or may not grow any more.
    """
    if view.lv is None or view.group is None or view.status is None:
        return ()
    enough = _request(view, view.lv, view.group.extent_bytes, _MOST_STEPS)
    one = _request(view, view.lv, view.group.extent_bytes, 1)
    return tuple(dict.fromkeys(request for request in (enough, one) if request is not None))


def needed_growth(view: PoolView, ahead: Ahead) -> Growth | None:
    """Return the sizes, in extents, that the pool is to have now; None when it is large enough.

    It is not when a threshold is reached, or would be full before an extension is through. Sizes may be those that it
    has, where `max_size` or dm-thin's own limit allows no more.
    """
    if view.lv is None or view.group is None or view.status is None:
        return None
    lv, extent = view.lv, view.group.extent_bytes
    data, metadata = lv.size_bytes // extent, ceil_to(lv.metadata_bytes, extent) // extent
    due = due_parts(view, ahead)
    if not due:
        return None
    if "data" in due:
        data = max(data, _grown_data(view, lv, extent, _MOST_STEPS, ahead) // extent)
    if "metadata" in due:
        size = _grown(view, "metadata", metadata * extent, extent, _MOST_STEPS, ahead)
        metadata = max(metadata, min(size, floor_to(MAX_METADATA_BYTES, extent)) // extent)
    return Growth(data, metadata)


def due_parts(view: PoolView, ahead: Ahead) -> tuple[Part, ...]:
    """Return what has reached its threshold, or would be full before an extension is through."""
    return tuple(what for what, size in _parts(view.lv) if _is_due(view, what, size, ahead)) if view.lv else ()


def is_near(view: PoolView, ahead: Ahead) -> bool:
    """Whether data or metadata are within ten points of their threshold, or will be soon."""
    if view.lv is None:
        return False
    limits = view.pool.config.extend
    thresholds = (limits.data_threshold_percent, limits.metadata_threshold_percent)
    return any(
        (_used_bytes(view, what, size) + _coming(ahead, what)) * 100 >= (threshold - _NEAR_POINTS) * size
        for (what, size), threshold in zip(_parts(view.lv), thresholds, strict=True)
    )


def cut_to_room(wanted: Growth, view: PoolView, room: Room) -> Growth:
    """Return the most of `wanted` that fits into `room`: all of the metadata, as far as possible, before any data.

    Data leave room for one more step of metadata, as long as they can grow at all: a pool without metadata is worse off
    than one without data (it is read-only at once), and data that fill fast could take the whole group.
    """
    metadata = _most(room.metadata, wanted.metadata, lambda size: Growth(room.data, size).needs(room) <= room.free)
    step = ceil_to(metadata * view.pool.config.extend.step_percent, 100) // 100
    reserve = Growth(room.data, metadata + step).needs(room) - Growth(room.data, metadata).needs(room)
    chunk = view.lv.chunk_bytes if view.lv and view.lv.chunk_bytes else 1
    for left in (room.free - reserve, room.free):
        data = _most(
            room.data,
            wanted.data,
            lambda size, left=left: grown_for(view.pool, room, size, metadata).needs(room) <= left,  # type: ignore[misc]
        )
        # what is not one block more for the kernel is no room
        if data * room.extent_bytes // chunk > room.data * room.extent_bytes // chunk:
            break
    else:
        data = room.data
    return grown_for(view.pool, room, data, metadata)


def cut_after(failures: int, growth: Growth, view: PoolView, room: Room) -> Growth:
    """Return how much of `growth` is tried after so many attempts that failed: half as much after each.

    Not all that is free can be used: LVM's allocation policy may want it in one piece, or on certain disks (lvm(8)).
    Less than one block is never tried: for the kernel that is no growth.
    """
    parts = 2 ** min(failures, _MOST_HALVINGS)
    chunk = ceil_to(view.lv.chunk_bytes if view.lv else 0, room.extent_bytes) // room.extent_bytes
    data = min(growth.data, max(room.data + chunk, room.data - (room.data - growth.data) // parts))
    metadata = room.metadata - (room.metadata - growth.metadata) // parts
    return grown_for(view.pool, room, data, metadata)


def _most(fits: int, wanted: int, does_fit: Callable[[int], bool]) -> int:
    too_much = max(fits, wanted) + 1
    while too_much - fits > 1:
        middle = (fits + too_much) // 2
        fits, too_much = (middle, too_much) if does_fit(middle) else (fits, middle)
    return fits


def extension_request(view: PoolView, growth: Growth) -> Request | None:
    """Return the settled request that brings the pool to `growth`; None when it has that already."""
    if view.lv is None or view.group is None:
        return None
    extent = view.group.extent_bytes
    data, metadata = growth.data * extent, growth.metadata * extent
    asked = _extend(view, data - view.lv.size_bytes, metadata - ceil_to(view.lv.metadata_bytes, extent))
    if asked is None:
        return None
    return replace(
        asked,
        is_settled=True,
        data_bytes=data if asked.add_data else 0,
        metadata_bytes=metadata if asked.add_metadata else 0,
        lv_uuid=view.lv.uuid,
    )


def _parts(lv: LogicalVolume) -> tuple[tuple[Part, int], tuple[Part, int]]:
    return ("data", lv.size_bytes), ("metadata", lv.metadata_bytes)


def _is_due(view: PoolView, what: Part, size: int, ahead: Ahead) -> bool:
    used = _used_bytes(view, what, size)
    is_full_soon = size > 0 and used + _coming(ahead, what) >= size
    return is_full_soon or _is_tight(view, what, size, size)


def next_step(view: PoolView) -> Request | None:
    """Return the request for one more step of data; None when `max_size` forbids it or the size is unknown."""
    if view.lv is None or view.group is None:
        return None
    return _extend(view, _grown_data(view, view.lv, view.group.extent_bytes, 1) - view.lv.size_bytes, 0)


def metadata_request(view: PoolView) -> Request | None:
    """Return the request that gives a pool the metadata which all of its data needs; None when it has that."""
    if view.lv is None or view.group is None or not view.lv.chunk_bytes:
        return None
    extent = view.group.extent_bytes
    missing = ceil_to(needed_metadata(view.lv), extent) - ceil_to(view.lv.metadata_bytes, extent)
    return _extend(view, 0, missing)


def needed_metadata(lv: LogicalVolume) -> int:
    """Return the bytes that the mappings of all of the pool's data take: 64 a chunk, lvmthin(7)."""
    needed = ceil_to(lv.size_bytes, lv.chunk_bytes) // lv.chunk_bytes * MAPPING_BYTES_PER_CHUNK
    return min(needed, MAX_METADATA_BYTES)


def _request(view: PoolView, lv: LogicalVolume, extent: int, most: int) -> Request | None:
    data = metadata = 0
    if _is_tight(view, "data", lv.size_bytes, lv.size_bytes):
        data = _grown_data(view, lv, extent, most) - lv.size_bytes
    if _is_tight(view, "metadata", lv.metadata_bytes, lv.metadata_bytes):
        size = _grown(view, "metadata", ceil_to(lv.metadata_bytes, extent), extent, most)
        metadata = min(size, floor_to(MAX_METADATA_BYTES, extent)) - ceil_to(lv.metadata_bytes, extent)
    return _extend(view, data, metadata)


def _extend(view: PoolView, data: int, metadata: int) -> Request | None:
    if data <= 0 and metadata <= 0:
        return None
    return Request(
        "extend",
        view.pool.name,
        add_data=f"+{exact_size(data)}" if data > 0 else "",
        add_metadata=f"+{exact_size(metadata)}" if metadata > 0 else "",
    )


def _grown_data(view: PoolView, lv: LogicalVolume, extent: int, most: int, ahead: Ahead = _NOTHING) -> int:
    size = _grown(view, "data", lv.size_bytes, extent, most, ahead)
    limit = view.pool.config.extend.max_size
    return size if limit == "none" else min(size, floor_to(parse_size(limit), extent))


def _grown(  # noqa: PLR0913, PLR0917 - what grows, and by what rules
    view: PoolView, what: Part, size: int, extent: int, most: int, ahead: Ahead = _NOTHING
) -> int:
    before = size
    for _ in range(most):
        size = ceil_to(size + size * view.pool.config.extend.step_percent // 100, extent)
        if not _is_tight(view, what, before, size, ahead):
            break
    return size


def _is_tight(view: PoolView, what: Part, before: int, after: int, ahead: Ahead = _NOTHING) -> bool:
    """Whether what fills `before` bytes as the kernel says, and what comes, is over the threshold of `after` bytes."""
    if view.status is None or not before:
        return False
    limits = view.pool.config.extend
    threshold = limits.data_threshold_percent if what == "data" else limits.metadata_threshold_percent
    return (_used_bytes(view, what, before) + _coming(ahead, what)) * 100 >= threshold * after


def _coming(ahead: Ahead, what: Part) -> int:
    return ahead.data if what == "data" else ahead.metadata


def _used_bytes(view: PoolView, what: Part, size: int) -> float:
    """Return how much of a part of so many bytes is used."""
    status = view.status
    if status is None:
        return 0.0
    # In these states the kernel's own count may stay a little below the whole.
    if view.state is (PoolState.OUT_OF_DATA if what == "data" else PoolState.OUT_OF_METADATA):
        return float(size)
    if what == "data":
        used, total = status.used_data_blocks, status.total_data_blocks
    else:
        used, total = status.used_metadata_blocks, status.total_metadata_blocks
    return used / total * size if total else 0.0
