from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st

from thinpoolmgr.core.desired import MAX_METADATA_BYTES, MIN_METADATA_BYTES
from thinpoolmgr.core.sizing import (
    DoesNotFitError,
    Growth,
    PoolSizes,
    Room,
    checked_growth,
    extents_on,
    grown_for,
    growth_by_config,
    pool_sizes,
    size_by_config,
    with_spare,
)
from thinpoolmgr.units import GIB, KIB, MIB, TIB, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

EXTENT = 4 * MIB


def sizes_on(size_bytes: int, **config: object) -> PoolSizes:
    total = extents_on(support.disk(size_bytes=size_bytes))
    return pool_sizes(support.pool("docker", **config), total, total, EXTENT)


def check(sizes: PoolSizes, total_extents: int, chunk_bytes: int) -> None:
    assert sizes.data_extents + 2 * sizes.metadata_extents <= total_extents
    assert sizes.data_bytes >= chunk_bytes
    assert MIN_METADATA_BYTES <= sizes.metadata_bytes <= MAX_METADATA_BYTES
    mappings = sizes.data_bytes // chunk_bytes * 64
    assert sizes.metadata_bytes >= min(mappings, MAX_METADATA_BYTES // EXTENT * EXTENT)


@given(
    st.integers(64 * MIB, 100 * TIB),
    st.sampled_from([64 * KIB, 128 * KIB, 512 * KIB, MIB, 64 * MIB, GIB]),
    st.integers(1, 100),
    st.sampled_from(["VG", "FREE"]),
)
def test_a_share_with_automatic_metadata_fits_or_says_so(size_bytes: int, chunk: int, percent: int, of: str) -> None:
    total = extents_on(support.disk(size_bytes=size_bytes))
    wanted = support.pool(data_size=f"{percent}%{of}", chunk_size=f"{chunk}B")
    try:
        sizes = pool_sizes(wanted, total, total, EXTENT)
    except DoesNotFitError as error:
        assert "than one chunk" in str(error) or "is there" in str(error)  # noqa: PT017 - either outcome is right
        return
    check(sizes, total, chunk)


@given(st.integers(400 * MIB, 100 * TIB))
def test_the_default_share_fits_on_every_ordinary_disk(size_bytes: int) -> None:
    sizes = sizes_on(size_bytes)
    total = extents_on(support.disk(size_bytes=size_bytes))
    check(sizes, total, 512 * KIB)
    assert sizes.data_extents == total * 95 // 100


def test_a_disk_too_small_for_the_spare_is_refused_with_the_sums() -> None:
    with pytest.raises(DoesNotFitError, match=r"data 56 MiB, metadata 4 MiB .* need 64 MiB; 60 MiB is there"):
        sizes_on(64 * MIB)


def test_no_extent_at_all_is_smaller_than_a_chunk() -> None:
    with pytest.raises(DoesNotFitError, match="smaller than one chunk"):
        sizes_on(8 * MIB)


@pytest.mark.parametrize("size_bytes", [64 * MIB, GIB, 10 * GIB, TIB, 100 * TIB])
def test_all_that_is_free_leaves_nothing_over(size_bytes: int) -> None:
    sizes = sizes_on(size_bytes, data_size="100%FREE")
    total = extents_on(support.disk(size_bytes=size_bytes))
    check(sizes, total, 512 * KIB)
    assert sizes.data_extents + 2 * sizes.metadata_extents == total


def test_fixed_sizes_are_taken_as_they_are() -> None:
    sizes = sizes_on(10 * GIB, data_size="5GiB", metadata_size="20MiB")
    assert (sizes.data_bytes, sizes.metadata_bytes) == (5 * GIB, 20 * MIB)
    assert "as configured" in sizes.reasoning


def test_fixed_sizes_are_rounded_up_to_extents() -> None:
    sizes = sizes_on(10 * GIB, data_size="5G", metadata_size="21MiB")
    assert sizes.metadata_bytes == 24 * MIB
    assert sizes_on(10 * GIB, data_size="1B", metadata_size="2MiB").data_bytes == EXTENT


@pytest.mark.parametrize("config", [{"data_size": "10GiB"}, {"data_size": "9GiB", "metadata_size": "1GiB"}])
def test_fixed_sizes_that_do_not_fit_are_refused(config: dict[str, str]) -> None:
    with pytest.raises(DoesNotFitError, match=r"need .* is there"):
        sizes_on(10 * GIB, **config)


def test_a_share_for_metadata_stays_within_what_dm_thin_can_use() -> None:
    assert sizes_on(100 * TIB, data_size="50%VG", metadata_size="10%VG").metadata_bytes <= MAX_METADATA_BYTES
    assert sizes_on(GIB, data_size="50%VG", metadata_size="1%VG").metadata_bytes == 8 * MIB
    assert sizes_on(200 * MIB, data_size="50%VG", metadata_size="1%VG").metadata_bytes == EXTENT


def test_a_share_of_free_is_of_what_is_free_now() -> None:
    sizes = pool_sizes(support.pool(data_size="50%FREE"), 1000, 400, EXTENT)
    assert sizes.data_extents == 200


def test_metadata_is_twice_the_mappings_and_room_for_a_thousand_devices() -> None:
    sizes = sizes_on(100 * GIB)
    chunks = sizes.data_bytes // (512 * KIB)
    wanted = 2 * 64 * chunks + 1000 * 8 * KIB
    assert 0 <= sizes.metadata_bytes - wanted < EXTENT
    assert f"each of {chunks} chunks" in sizes.reasoning


def test_metadata_is_cut_to_what_data_leaves() -> None:
    assert "what data leaves" in sizes_on(200 * MIB).reasoning


def test_the_start_of_a_disk_is_one_optimal_transfer_or_a_mebibyte() -> None:
    assert extents_on(support.disk(size_bytes=41 * MIB)) == 10
    assert extents_on(support.disk(size_bytes=41 * MIB, optimal_io_bytes=3 * MIB)) == 9
    assert extents_on(support.disk(size_bytes=41 * MIB, optimal_io_bytes=64 * KIB)) == 10
    assert extents_on(support.disk(size_bytes=0)) == 0


# existing pools


def room(**changes: int) -> Room:
    return Room(
        **{"data": 1000, "metadata": 3, "spare": 3, "total": 2000, "free": 994, "extent_bytes": EXTENT, **changes}
    )


def grown(there: Room, **config: Any) -> Growth:
    return growth_by_config(support.pool("docker", **config), there)


def after(there: Room, growth: Growth) -> Room:
    """What lvextend leaves: the spare follows the metadata when that grows."""
    spare = max(there.spare, growth.metadata) if growth.metadata > there.metadata else there.spare
    left = there.free - growth.needs(there)
    return msgspec.structs.replace(there, data=growth.data, metadata=growth.metadata, spare=spare, free=left)


SHARES = ["95%VG", "100%VG", "1%VG", "100%FREE", "50%FREE", "99%FREE"]
EXACT: dict[str, Callable[[Room], int]] = {
    "less than it has": lambda there: max(1, there.data - 3),
    "what it has": lambda there: there.data,
    "a little more": lambda there: there.data + 2,
    "half of what is free": lambda there: there.data + there.free // 2,
    "all that is free": lambda there: there.data + there.free,
}
CHUNKS = [64 * KIB, 128 * KIB, 256 * KIB, MIB]


@st.composite
def rooms(draw: st.DrawFn) -> Room:
    # Near multiples of 1024 extents the metadata of 64 KiB chunks needs one extent more: there it goes wrong.
    data = draw(st.integers(1, 20).map(lambda n: n * 1024) | st.integers(1, 20000)) + draw(st.integers(-3, 3))
    metadata = draw(st.integers(1, 24))
    spare = draw(st.sampled_from([0, metadata, metadata, metadata, metadata + 1, max(0, metadata - 1)]))
    free = draw(st.integers(0, 12) | st.integers(0, 9).map(lambda n: n * 1024 + 3) | st.integers(0, 20000))
    data = max(1, data)
    return Room(data, metadata, spare, data + metadata + spare + free, free, draw(st.sampled_from([EXTENT, 64 * MIB])))


@settings(max_examples=1500, deadline=None)
@given(
    rooms(),
    st.sampled_from([*SHARES, *EXACT]),
    st.sampled_from(["auto", "1%VG", "10%VG", "10%FREE", "8MiB"]),
    st.sampled_from(CHUNKS),
)
def test_growth_by_config_is_reached_at_once_and_never_shrinks(
    there: Room, data_size: str, metadata_size: str, chunk: int
) -> None:
    data_size = f"{EXACT[data_size](there) * there.extent_bytes}B" if data_size in EXACT else data_size
    config = {"data_size": data_size, "metadata_size": metadata_size, "chunk_size": f"{chunk}B"}
    try:
        growth = grown(there, **config)
    except DoesNotFitError:
        # Only an exact size can be too much: that of the metadata, or that of the data with what maps them.
        wanted = support.pool("docker", **config)
        data = max(there.data, parse_size(data_size) // there.extent_bytes) if data_size.endswith("B") else there.data
        assert metadata_size == "8MiB" or grown_for(wanted, there, data, there.metadata).needs(there) > there.free
        return
    assert growth.data >= there.data
    assert growth.metadata >= there.metadata
    assert 0 <= growth.needs(there) <= there.free
    next_time = grown(after(there, growth), **config)
    assert (next_time.data, next_time.metadata) == (growth.data, growth.metadata)


@settings(max_examples=500, deadline=None)
@given(rooms(), st.sampled_from(CHUNKS))
def test_all_that_is_free_means_the_last_extent_that_can_be_used(there: Room, chunk: int) -> None:
    wanted = support.pool(data_size="100%FREE", chunk_size=f"{chunk}B")
    growth = growth_by_config(wanted, there)
    one_more = grown_for(wanted, there, growth.data + 1, growth.metadata)
    assert one_more.needs(there) > there.free


@pytest.mark.parametrize(
    ("data_size", "data"),
    [("95%VG", 1900), ("100%VG", 1994), ("100%FREE", 1994), ("50%FREE", 1000), ("10%VG", 1000), ("6GiB", 1536)],
)
def test_what_a_size_asks_of_a_pool_in_a_half_used_group(data_size: str, data: int) -> None:
    assert (grown(room(), data_size=data_size).data, grown(room(), data_size=data_size).metadata) == (data, 3)


def test_metadata_grows_with_the_data_that_needs_it_and_its_spare_counts() -> None:
    there = room(metadata=1, spare=1, free=998)
    growth = grown(there, data_size="100%FREE", chunk_size="64KiB")
    assert (growth.metadata, growth.data) == (2, 1996)
    assert growth.needs(there) == 998
    assert "64 B for each of" in growth.reasoning


def test_an_exact_size_that_does_not_fit_is_told_by_how_much() -> None:
    with pytest.raises(DoesNotFitError, match=r"need 4.1 GiB more; 3.9 GiB is free, 220 MiB too little"):
        grown(room(), data_size="8196MiB")
    with pytest.raises(DoesNotFitError, match="too little"):
        grown(room(free=0, total=1006), metadata_size="16MiB")


@pytest.mark.parametrize("data_size", ["4000MiB", "4GiB", "1000MiB"])
def test_a_share_for_metadata_that_the_data_left_no_room_for_is_no_error(data_size: str) -> None:
    """As of a pool that was extended into a spare disk: of the larger group a share is more, and nothing is free."""
    there = room(free=100, total=1106)
    assert grown(there, data_size=data_size, metadata_size="1%VG").metadata == 11
    there = room(free=25, total=1031)
    growth = grown(there, data_size=data_size, metadata_size="2%VG")
    assert (growth.data, growth.metadata) == (1024 if data_size == "4GiB" else 1000, 3)
    with pytest.raises(DoesNotFitError, match=r"data 4.1 GiB, metadata 12 MiB and its spare need .* too little"):
        grown(there, data_size="4200MiB", metadata_size="2%VG")


def test_metadata_beyond_what_dm_thin_can_use_is_refused() -> None:
    most = MAX_METADATA_BYTES // EXTENT
    there = room(free=20000, total=21006)
    assert checked_growth(Growth(1000, most), there).metadata == most
    with pytest.raises(DoesNotFitError, match=r"metadata of 15.8 GiB is more than dm-thin can use, which is 15.8 GiB"):
        checked_growth(Growth(1000, most + 1), there)
    larger = room(metadata=most + 5, spare=most + 5, free=10, total=20000)
    assert checked_growth(Growth(1001, most + 5), larger).data == 1001


@pytest.mark.parametrize(
    ("there", "metadata"),
    [
        (room(), 3),
        (room(spare=0), 4),
        (room(spare=1), 4),
        (room(spare=0, free=5), 4),
        (room(spare=0, free=4), 3),
        (room(spare=9), 3),
        (room(metadata=MAX_METADATA_BYTES // EXTENT, spare=0, free=9000), MAX_METADATA_BYTES // EXTENT),
    ],
)
def test_a_spare_comes_back_where_there_is_room(there: Room, metadata: int) -> None:
    growth = with_spare(Growth(there.data, there.metadata), there)
    assert growth.metadata == metadata
    assert bool(growth.reasoning) is (metadata > there.metadata)
    assert with_spare(Growth(there.data, there.metadata + 7), there).metadata == there.metadata + 7


@pytest.mark.parametrize(
    ("config", "key", "expected"),
    [
        ({"data_size": "95%VG"}, "data_size", 1900 * EXTENT),
        ({"data_size": "100%FREE"}, "data_size", None),
        ({"data_size": "50%FREE"}, "data_size", None),
        ({"data_size": "5G"}, "data_size", 5 * GIB),
        ({"data_size": "4097KiB"}, "data_size", 2 * EXTENT),
        ({}, "metadata_size", None),
        ({"metadata_size": "1%VG"}, "metadata_size", 20 * EXTENT),
        ({"metadata_size": "1%FREE"}, "metadata_size", None),
        ({"metadata_size": "5MiB"}, "metadata_size", 2 * EXTENT),
    ],
)
def test_what_a_size_means_for_a_group_by_itself(config: dict[str, str], key: str, expected: int | None) -> None:
    assert size_by_config(support.pool("docker", **config), key, 2000, EXTENT) == expected
