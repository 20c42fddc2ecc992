from __future__ import annotations

import pytest
import support
from hypothesis import given
from hypothesis import strategies as st

from thinpoolmgr.core.desired import MAX_METADATA_BYTES, MIN_METADATA_BYTES
from thinpoolmgr.core.sizing import DoesNotFitError, PoolSizes, extents_on, pool_sizes
from thinpoolmgr.units import GIB, KIB, MIB, TIB

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
