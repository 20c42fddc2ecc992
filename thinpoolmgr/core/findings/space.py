"""How much a tight pool would be extended by, as requests for the planner, and whether the next step would fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinpoolmgr.core.desired import MAX_METADATA_BYTES
from thinpoolmgr.core.lifecycle import PoolState, PoolView
from thinpoolmgr.core.plan import Request
from thinpoolmgr.core.sizing import MAPPING_BYTES_PER_CHUNK
from thinpoolmgr.units import ceil_to, exact_size, floor_to, parse_size

if TYPE_CHECKING:
    from thinpoolmgr.core.model import LogicalVolume

_MOST_STEPS = 100


def extension_requests(view: PoolView) -> tuple[Request, ...]:
    """Return what `extend` would be asked for: steps until the pool is no longer tight, or, with less room, one step.

    A step is `extend.step_percent` of the size before it. Empty when the pool is neither tight nor full, or may not
    grow any more.
    """
    if view.lv is None or view.group is None or view.status is None:
        return ()
    enough = _request(view, view.lv, view.group.extent_bytes, _MOST_STEPS)
    one = _request(view, view.lv, view.group.extent_bytes, 1)
    return tuple(dict.fromkeys(request for request in (enough, one) if request is not None))


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


def _grown_data(view: PoolView, lv: LogicalVolume, extent: int, most: int) -> int:
    size = _grown(view, "data", lv.size_bytes, extent, most)
    limit = view.pool.config.extend.max_size
    return size if limit == "none" else min(size, floor_to(parse_size(limit), extent))


def _grown(view: PoolView, what: str, size: int, extent: int, most: int) -> int:
    before = size
    for _ in range(most):
        size = ceil_to(size + size * view.pool.config.extend.step_percent // 100, extent)
        if not _is_tight(view, what, before, size):
            break
    return size


def _is_tight(view: PoolView, what: str, before: int, after: int) -> bool:
    """Whether what fills `before` bytes as the kernel says is over the threshold of `after` bytes."""
    status, limits = view.status, view.pool.config.extend
    if status is None or not before:
        return False
    if what == "data":
        used, total, threshold = status.used_data_blocks, status.total_data_blocks, limits.data_threshold_percent
        is_full = view.state is PoolState.OUT_OF_DATA
    else:
        used, total = status.used_metadata_blocks, status.total_metadata_blocks
        threshold, is_full = limits.metadata_threshold_percent, view.state is PoolState.OUT_OF_METADATA
    # In these states the kernel's own count may stay a little below the whole.
    share = 1.0 if is_full else used / total if total else 0.0
    return share * before * 100 >= threshold * after
