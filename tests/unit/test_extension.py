from __future__ import annotations

from typing import Any

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.extension import (
    Ahead,
    Rate,
    Reading,
    after_growth,
    ahead_of,
    cut_after,
    cut_to_room,
    extension_request,
    fill_rate,
    needed_growth,
    reading_of,
    recent,
    seconds_to_next_look,
)
from thinpoolmgr.core.lifecycle import PoolView, view_pool
from thinpoolmgr.core.model import ThinPoolStatus
from thinpoolmgr.core.sizing import Growth, Room
from thinpoolmgr.units import GIB, MIB

EXTENT = 4 * MIB
# of the pool that `support` makes: 2,432 extents of data, 3 of metadata
DATA, METADATA = 2432, 3


def view(data: float = 0.1, metadata: float = 0.1, mode: str = "rw", **extend: Any) -> PoolView:
    """Return a pool of which these shares are used."""
    total = support.healthy().dm_devices[2].pool_status
    assert total is not None
    used = {
        "used_data_blocks": int(data * total.total_data_blocks),
        "used_metadata_blocks": int(metadata * total.total_metadata_blocks),
    }
    pool = support.pool()
    pool = replace(pool, config=replace(pool.config, extend=replace(pool.config.extend, **extend)))
    return view_pool(pool, support.healthy(mode=mode, **used))


def status_of(found: PoolView) -> ThinPoolStatus:
    assert found.status is not None
    return found.status


class TestRate:
    def test_of_nothing_and_of_one_reading_is_zero(self) -> None:
        assert fill_rate(()) == Rate()
        assert fill_rate((Reading(1.0, 5, 5),)) == Rate()

    def test_is_that_of_the_window_or_of_the_last_second(self) -> None:
        steady = tuple(Reading(float(at), at * 100, at * 10) for at in range(11))
        assert fill_rate(steady) == Rate(100.0, 10.0)
        burst = (*steady[:-1], Reading(10.0, steady[-2].data_bytes + 5000, 90))
        assert fill_rate(burst).data == 5000.0
        stopped = [Reading(float(at), min(at, 5) * 100, 0) for at in range(11)]
        assert fill_rate(stopped).data == 50.0

    def test_is_not_made_of_less_than_a_second_where_there_is_more(self) -> None:
        readings = (Reading(0.0, 0, 0), Reading(1.0, 0, 0), Reading(1.05, 1000, 0))
        assert fill_rate(readings).data == pytest.approx(1000 / 1.05)

    def test_what_comes_in_a_moment_is_taken_as_a_seconds_work(self) -> None:
        assert fill_rate((Reading(1.0, 5, 5), Reading(1.0, 9, 9))) == Rate(4.0, 4.0)
        assert fill_rate((Reading(1.0, 0, 0), Reading(1.05, 1000, 0))) == Rate(1000.0, 0.0)

    def test_goes_on_over_an_extension_whose_larger_reserve_is_no_filling(self) -> None:
        readings = (Reading(0.0, 0, 10), Reading(1.0, 1000, 20))
        grown = Reading(2.0, 2000, 90)
        assert after_growth(readings, grown) == (Reading(0.0, 0, 80), Reading(1.0, 1000, 90))
        assert fill_rate((*after_growth(readings, grown), grown)) == Rate(1000.0, 5.0)
        assert after_growth((), grown) == ()

    def test_what_was_given_back_is_not_negative(self) -> None:
        assert fill_rate((Reading(0.0, 900, 90), Reading(1.0, 100, 10))) == Rate()
        assert fill_rate((Reading(0.0, 900, 0), Reading(1.0, 100, 0), Reading(2.0, 300, 0))) == Rate(200.0, 0.0)

    def test_readings_are_kept_for_ten_seconds_and_one_before(self) -> None:
        kept: tuple[Reading, ...] = ()
        for at in range(30):
            kept = recent(kept, Reading(float(at), at, 0))
        assert [reading.at for reading in kept] == [18.0, *(float(at) for at in range(19, 30))]

    def test_a_reading_has_bytes(self) -> None:
        status = ThinPoolStatus("rw", used_data_blocks=3, used_metadata_blocks=7)
        assert reading_of(status, 64 * 1024, 9.0) == Reading(9.0, 3 * 64 * 1024, 7 * 4096)


class TestNeededGrowth:
    @pytest.mark.parametrize(("data", "metadata"), [(0.0, 0.1), (0.79, 0.79), (0.5, 0.2)])
    def test_there_is_none_below_the_thresholds(self, data: float, metadata: float) -> None:
        assert needed_growth(view(data, metadata), Ahead()) is None

    def test_data_grows_by_steps_until_it_is_below_the_threshold(self) -> None:
        one = needed_growth(view(0.81), Ahead())
        assert one == Growth(-(-DATA * 12 // 10), METADATA)
        two = needed_growth(view(0.97), Ahead())
        assert two is not None
        assert two.data == -(-one.data * 12 // 10)
        assert 0.97 * DATA / two.data < 0.8 <= 0.97 * DATA / one.data

    def test_metadata_grows_and_data_does_not(self) -> None:
        assert needed_growth(view(0.1, 0.81), Ahead()) == Growth(DATA, METADATA + 1)

    def test_what_comes_meanwhile_makes_it_grow_further(self) -> None:
        coming = Ahead(data=3 * GIB)
        without, with_it = needed_growth(view(0.81), Ahead()), needed_growth(view(0.81), coming)
        assert without is not None
        assert with_it is not None
        assert with_it.data * EXTENT * 0.8 > 0.81 * DATA * EXTENT + 3 * GIB
        assert with_it.data > without.data

    def test_it_grows_before_the_threshold_when_it_would_be_full_too_soon(self) -> None:
        assert needed_growth(view(0.5), Ahead(data=4 * GIB)) is None
        grown = needed_growth(view(0.5), Ahead(data=5 * GIB))
        assert grown is not None
        assert grown.data * EXTENT * 0.8 > DATA * EXTENT // 2 + 5 * GIB
        assert needed_growth(view(0.1, 0.5), Ahead(metadata=5 * MIB)) is None
        assert needed_growth(view(0.1, 0.5), Ahead(metadata=7 * MIB)) is not None

    def test_a_full_pool_grows_whatever_the_kernel_counts(self) -> None:
        assert needed_growth(view(0.0, mode="out_of_data_space"), Ahead()) is not None

    def test_it_does_not_pass_the_largest_size(self) -> None:
        grown = needed_growth(view(0.9, max_size="10GiB"), Ahead())
        assert grown == Growth(10 * GIB // EXTENT, METADATA)
        at_limit = view(0.9, max_size=f"{DATA * 4}MiB")
        same = needed_growth(at_limit, Ahead())
        assert same == Growth(DATA, METADATA)
        assert extension_request(at_limit, same) is None
        below = view(0.9, max_size="1GiB")
        assert needed_growth(below, Ahead()) == Growth(DATA, METADATA)

    def test_a_pool_that_does_not_run_needs_nothing(self) -> None:
        pool = support.pool()
        assert needed_growth(view_pool(pool, support.deactivated(support.healthy())), Ahead(data=GIB)) is None
        assert needed_growth(view_pool(pool, support.snapshot()), Ahead()) is None


def room(free: int) -> Room:
    return Room(DATA, METADATA, METADATA, DATA + 2 * METADATA + free, free, EXTENT)


class TestRoom:
    def test_all_of_it_when_it_fits(self) -> None:
        assert cut_to_room(Growth(3000, 4), view(), room(1000)) == Growth(3000, 4)

    def test_the_metadata_come_first(self) -> None:
        # one extent more of metadata takes one for the spare
        assert cut_to_room(Growth(3000, 4), view(), room(2)) == Growth(DATA, 4)
        assert cut_to_room(Growth(3000, 4), view(), room(1)) == Growth(DATA + 1, METADATA)
        assert cut_to_room(Growth(3000, 9), view(), room(7)) == Growth(DATA + 1, 6)

    def test_data_take_the_rest(self) -> None:
        assert cut_to_room(Growth(3000, METADATA), view(), room(10)) == Growth(DATA + 8, METADATA)
        assert cut_to_room(Growth(DATA + 8, METADATA), view(), room(10)) == Growth(DATA + 8, METADATA)

    def test_room_for_a_step_of_metadata_is_left_while_there_is_other(self) -> None:
        # an extent for the metadata, one for its spare
        assert cut_to_room(Growth(3000, METADATA), view(), room(3)) == Growth(DATA + 1, METADATA)
        assert cut_to_room(Growth(3000, METADATA), view(), room(2)) == Growth(DATA + 2, METADATA)
        assert cut_to_room(Growth(3000, METADATA), view(), room(0)) == Growth(DATA, METADATA)

    def test_what_is_not_one_block_more_is_no_room(self) -> None:
        found = view()
        assert found.lv is not None
        large = replace(found, lv=replace(found.lv, chunk_bytes=4 * EXTENT))
        assert cut_to_room(Growth(3000, METADATA), large, room(3)) == Growth(DATA, METADATA)
        assert cut_to_room(Growth(3000, METADATA), large, room(4)) == Growth(DATA + 4, METADATA)

    def test_half_as_much_after_each_failure_and_never_less_than_a_block(self) -> None:
        found = view()
        assert found.lv is not None
        large = replace(found, lv=replace(found.lv, chunk_bytes=4 * EXTENT))
        fits = Growth(DATA + 32, METADATA + 8)
        tried = [cut_after(failures, fits, large, room(100)) for failures in (0, 1, 2, 3, 4, 99)]
        assert [growth.data - DATA for growth in tried] == [32, 16, 8, 4, 4, 4]
        assert [growth.metadata - METADATA for growth in tried] == [8, 4, 2, 1, 1, 1]
        assert cut_after(9, Growth(DATA + 2, METADATA), large, room(2)).data == DATA + 2
        assert cut_after(9, Growth(DATA, METADATA + 1), large, room(2)) == Growth(DATA, METADATA + 1)

    def test_more_data_than_the_metadata_can_map_take_metadata(self) -> None:
        grown = cut_to_room(Growth(60 * DATA, METADATA), view(), room(100 * DATA))
        assert (grown.data, grown.metadata) == (60 * DATA, -(-60 * DATA * 8 * 64 // EXTENT))


def test_a_request_is_settled_with_the_sizes_to_reach() -> None:
    found = view(0.9)
    request = extension_request(found, Growth(3000, METADATA))
    assert request is not None
    assert (request.is_settled, request.data_bytes, request.metadata_bytes) == (True, 3000 * EXTENT, 0)
    assert request.add_data == f"+{(3000 - DATA) * 4}MiB"
    assert found.lv is not None
    assert request.lv_uuid == found.lv.uuid
    assert extension_request(found, Growth(DATA, METADATA)) is None


class TestWhenToLookAgain:
    @pytest.mark.parametrize(
        ("data", "metadata", "seconds"), [(0.1, 0.1, 1.0), (0.5, 0.1, 0.5), (0.1, 0.65, 0.25), (0.9, 0.1, 0.25)]
    )
    def test_the_fuller_the_sooner(self, data: float, metadata: float, seconds: float) -> None:
        found = view(data, metadata)
        assert seconds_to_next_look(status_of(found), found, Rate()) == seconds

    def test_before_half_of_the_time_to_the_threshold_is_over(self) -> None:
        found = view(0.7)
        size = DATA * EXTENT
        assert seconds_to_next_look(status_of(found), found, Rate(data=size * 0.5)) == pytest.approx(0.1, rel=0.01)
        assert seconds_to_next_look(status_of(found), found, Rate(data=size * 5.0)) == 0.05
        assert seconds_to_next_look(status_of(found), found, Rate(data=size * 0.01)) == 0.25


def test_what_comes_is_the_rate_times_twice_the_time_an_extension_takes() -> None:
    assert ahead_of(Rate(100.0, 7.0), 3.0) == Ahead(600, 42)
    # an extension that waited for a lock for an hour tells nothing of the next one
    assert ahead_of(Rate(100.0, 7.0), 3600.0) == Ahead(6000, 420)
