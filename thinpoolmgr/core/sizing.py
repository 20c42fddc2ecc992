"""How many extents a pool gets: data, metadata and the spare that LVM keeps for repairs.

Sources: lvmthin(7) "Metadata space" (64 bytes a chunk), thin_metadata_size(8), LVM's tools/lvcreate.c for shares.
"""

from __future__ import annotations

from msgspec import Struct

from thinpoolmgr.core.desired import MAX_METADATA_BYTES, MIN_METADATA_BYTES, DesiredPool, parse_share
from thinpoolmgr.core.model import Disk
from thinpoolmgr.units import KIB, MIB, ceil_to, floor_to, format_size, parse_size

DEFAULT_EXTENT_BYTES = 4 * MIB
MAPPING_BYTES_PER_CHUNK = 64
BYTES_PER_DEVICE = 8 * KIB
EXPECTED_DEVICES = 1000
_DATA_ALIGNMENT_BYTES = MIB


class PoolSizes(Struct, frozen=True):
    """Exact sizes of a new pool, and how the metadata's was found."""

    data_extents: int
    metadata_extents: int
    extent_bytes: int
    reasoning: str

    @property
    def data_bytes(self) -> int:
        """Size of the data LV."""
        return self.data_extents * self.extent_bytes

    @property
    def metadata_bytes(self) -> int:
        """Size of the metadata LV; the spare has the same."""
        return self.metadata_extents * self.extent_bytes


class Room(Struct, frozen=True):
    """What an existing pool has in its group, all in extents."""

    data: int
    metadata: int
    spare: int
    total: int
    free: int
    extent_bytes: int


class Growth(Struct, frozen=True):
    """What an existing pool is to have, in extents, and how that was found."""

    data: int
    metadata: int
    reasoning: str = ""

    def needs(self, room: Room) -> int:
        """Return how many free extents it takes from `room`; LVM enlarges the spare with the metadata."""
        spare = self.metadata if self.metadata > room.metadata else room.spare
        return self.data - room.data + self.metadata - room.metadata + max(0, spare - room.spare)


class DoesNotFitError(ValueError):
    """The sizes asked for do not fit into the group; the text says by how much."""


def extents_on(disk: Disk, extent_bytes: int = DEFAULT_EXTENT_BYTES) -> int:
    """Return how many extents LVM makes on a blank disk.

    The first mebibyte, or one optimal I/O size where that is greater, holds LVM's own metadata.
    """
    start = max(_DATA_ALIGNMENT_BYTES, ceil_to(_DATA_ALIGNMENT_BYTES, disk.optimal_io_bytes or _DATA_ALIGNMENT_BYTES))
    return max(0, disk.size_bytes - start) // extent_bytes


def pool_sizes(pool: DesiredPool, total_extents: int, free_extents: int, extent_bytes: int) -> PoolSizes:
    """Return the sizes of a new `pool` in a group with so many extents.

    Raises:
        DoesNotFitError: data, metadata and spare together need more than is free.

    """
    if pool.config.data_size == "100%FREE":
        data, metadata, reasoning = _fill_free(pool, total_extents, free_extents, extent_bytes)
    else:
        data = _data_extents(pool, total_extents, free_extents, extent_bytes)
        metadata, reasoning = _metadata_extents(pool, data, total_extents, free_extents, extent_bytes)
    sizes = PoolSizes(data, metadata, extent_bytes, reasoning)
    if data * extent_bytes < pool.chunk_bytes or data < 1:
        have, chunk = format_size(max(0, sizes.data_bytes)), format_size(pool.chunk_bytes)
        msg = f"data of {have} is smaller than one chunk of {chunk}"
        raise DoesNotFitError(msg)
    if data + 2 * metadata > free_extents:
        raise DoesNotFitError(_shortage(sizes, free_extents))
    return sizes


def size_by_config(pool: DesiredPool, key: str, total_extents: int, extent_bytes: int) -> int | None:
    """Return the bytes that `data_size` or `metadata_size` means for this pool; None where that depends on more.

    A share of what is free, and computed metadata, meant something only when the pool was made.
    """
    text = str(getattr(pool.config, key))
    share = parse_share(text)
    if text == "auto" or (share and share[1] == "FREE"):
        return None
    if key == "data_size":
        return _data_extents(pool, total_extents, 0, extent_bytes) * extent_bytes
    return _metadata_extents(pool, 0, total_extents, 0, extent_bytes)[0] * extent_bytes


def growth_by_config(pool: DesiredPool, room: Room) -> Growth:
    """Return the sizes that the configuration asks of an existing pool: never less than it has.

    `95%VG` follows the group when that grows, and `100%FREE` takes what is there; other shares of what is free, and
    metadata that is computed, say how a pool is made. Computed metadata only grows along with its data, and a share
    for it that there is no room for, such as that of a group which the data filled as it grew, is let be.

    Raises:
        DoesNotFitError: an exact size that is asked for needs more than is free.

    """
    metadata = max(room.metadata, _wanted_metadata(pool, room))
    share = parse_share(pool.config.data_size)
    if share is None:
        data = max(room.data, _data_extents(pool, room.total, room.free, room.extent_bytes))
        growth = grown_for(pool, room, data, metadata)
        if growth.needs(room) > room.free and parse_share(pool.config.metadata_size):
            growth = grown_for(pool, room, data, room.metadata)
        return checked_growth(growth, room)
    least = with_spare(Growth(room.data, metadata), room)
    if least.needs(room) > room.free and parse_share(pool.config.metadata_size):
        least = with_spare(Growth(room.data, room.metadata), room)
    left = room.free - checked_growth(least, room).needs(room)
    wanted = room.data + (left if share == (100, "FREE") else 0)
    if share[1] == "VG":
        wanted = min(room.total * share[0] // 100, room.data + left)
    return _largest(pool, room, wanted, least)


def _wanted_metadata(pool: DesiredPool, room: Room) -> int:
    share = parse_share(pool.config.metadata_size)
    if pool.config.metadata_size == "auto" or (share and share[1] == "FREE"):
        return 0
    return _metadata_extents(pool, room.data, room.total, room.free, room.extent_bytes)[0]


def _largest(pool: DesiredPool, room: Room, data: int, least: Growth) -> Growth:
    """Cut a share of data to what fits together with its metadata: to the extent, or the next plan would find more."""
    fits, too_much = room.data, max(room.data, data) + 1
    growth = least
    while too_much - fits > 1:
        middle = (fits + too_much) // 2
        larger = grown_for(pool, room, middle, least.metadata)
        if larger.needs(room) <= room.free:
            fits, growth = middle, larger
        else:
            too_much = middle
    return growth if growth.reasoning else Growth(growth.data, growth.metadata, least.reasoning)


def with_spare(growth: Growth, room: Room) -> Growth:
    """Return `growth` with what brings back a spare that is missing or too small; unchanged without room for it.

    That is metadata one extent larger: no command of LVM's makes a spare alone (2.03.16).
    """
    if growth.metadata > room.metadata or room.spare >= room.metadata:
        return growth
    lacks = "too small" if room.spare else "missing"
    reasoning = f"the metadata spare is {lacks}; LVM makes it anew when metadata grows"
    larger = Growth(growth.data, growth.metadata + 1, reasoning)
    fits = larger.needs(room) <= room.free and larger.metadata <= _most_metadata(room)
    return larger if fits else growth


def _most_metadata(room: Room) -> int:
    return floor_to(MAX_METADATA_BYTES, room.extent_bytes) // room.extent_bytes


def grown_for(pool: DesiredPool, room: Room, data: int, metadata: int) -> Growth:
    """Return the growth to `data` with at least `metadata`, and more where the mappings of so much data need it."""
    chunks = ceil_to(data * room.extent_bytes, pool.chunk_bytes) // pool.chunk_bytes
    least = _extents_between(chunks * MAPPING_BYTES_PER_CHUNK, room.extent_bytes)
    if data <= room.data or least <= metadata:
        return Growth(data, metadata)
    size = format_size(least * room.extent_bytes)
    return Growth(data, least, f"64 B for each of {chunks} chunks of the larger data need {size} of metadata")


def checked_growth(growth: Growth, room: Room) -> Growth:
    """Return `growth`.

    Raises:
        DoesNotFitError: it needs more than is free, and the text says by how much; or more than dm-thin can use.

    """
    if growth.metadata > max(room.metadata, _most_metadata(room)):
        wanted, most = format_size(growth.metadata * room.extent_bytes), format_size(MAX_METADATA_BYTES)
        msg = f"metadata of {wanted} is more than dm-thin can use, which is {most}"
        raise DoesNotFitError(msg)
    if growth.needs(room) > room.free:
        raise DoesNotFitError(_missing(growth, room))
    return growth


def _missing(growth: Growth, room: Room) -> str:
    need, have = growth.needs(room) * room.extent_bytes, room.free * room.extent_bytes
    return (
        f"data {format_size(growth.data * room.extent_bytes)}, "
        f"metadata {format_size(growth.metadata * room.extent_bytes)} and its spare need {format_size(need)} more; "
        f"{format_size(have)} is free, {format_size(need - have)} too little"
    )


def _shortage(sizes: PoolSizes, free_extents: int) -> str:
    need = (sizes.data_extents + 2 * sizes.metadata_extents) * sizes.extent_bytes
    have = free_extents * sizes.extent_bytes
    return (
        f"data {format_size(sizes.data_bytes)}, metadata {format_size(sizes.metadata_bytes)} and its spare of the same "
        f"size need {format_size(need)}; {format_size(have)} is there, {format_size(need - have)} too little "
        "(100%FREE leaves room for both)"
    )


def _data_extents(pool: DesiredPool, total_extents: int, free_extents: int, extent_bytes: int) -> int:
    share = parse_share(pool.config.data_size)
    if share is not None:
        percent, of = share
        return (total_extents if of == "VG" else free_extents) * percent // 100
    return ceil_to(parse_size(pool.config.data_size), extent_bytes) // extent_bytes


def _metadata_extents(
    pool: DesiredPool, data_extents: int, total_extents: int, free_extents: int, extent_bytes: int
) -> tuple[int, str]:
    if pool.config.metadata_size == "auto":
        room = max(0, free_extents - data_extents) // 2
        return _auto_metadata(pool, data_extents * extent_bytes, room, extent_bytes)
    share = parse_share(pool.config.metadata_size)
    if share is None:
        size = parse_size(pool.config.metadata_size)
        return ceil_to(size, extent_bytes) // extent_bytes, f"metadata {pool.config.metadata_size} as configured"
    percent, of = share
    extents = (total_extents if of == "VG" else free_extents) * percent // 100
    most = floor_to(MAX_METADATA_BYTES, extent_bytes) // extent_bytes
    least = ceil_to(MIN_METADATA_BYTES, extent_bytes) // extent_bytes
    return min(max(extents, least), most), f"metadata {pool.config.metadata_size} as configured"


def _auto_metadata(pool: DesiredPool, data_bytes: int, room_extents: int, extent_bytes: int) -> tuple[int, str]:
    """Twice the mappings of a full pool plus the device tree, cut to what the data leaves, never below the mappings."""
    chunks = ceil_to(data_bytes, pool.chunk_bytes) // pool.chunk_bytes
    least = _extents_between(chunks * MAPPING_BYTES_PER_CHUNK, extent_bytes)
    wanted = _extents_between(2 * chunks * MAPPING_BYTES_PER_CHUNK + EXPECTED_DEVICES * BYTES_PER_DEVICE, extent_bytes)
    extents = max(least, min(wanted, room_extents))
    size = format_size(extents * extent_bytes)
    if extents == wanted:
        return (
            extents,
            f"metadata {size}: 2 x 64 B for each of {chunks} chunks and 8 KiB for each of {EXPECTED_DEVICES} devices",
        )
    return (
        extents,
        f"metadata {size}: what data leaves; {format_size(wanted * extent_bytes)} suit {EXPECTED_DEVICES} devices",
    )


def _extents_between(size_bytes: int, extent_bytes: int) -> int:
    size = min(max(size_bytes, MIN_METADATA_BYTES), floor_to(MAX_METADATA_BYTES, extent_bytes))
    return ceil_to(size, extent_bytes) // extent_bytes


def _fill_free(pool: DesiredPool, total_extents: int, free_extents: int, extent_bytes: int) -> tuple[int, int, str]:
    """All that is free, less metadata and spare, as LVM itself does for `100%FREE`."""
    metadata, reasoning = _metadata_extents(pool, 0, total_extents, free_extents, extent_bytes)
    if pool.config.metadata_size == "auto":
        room = max(1, free_extents // 20)
        metadata, reasoning = _auto_metadata(pool, free_extents * extent_bytes, room, extent_bytes)
    return free_extents - 2 * metadata, metadata, reasoning
