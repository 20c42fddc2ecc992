"""Fill rate and time to full from readings, with extensions and discards among them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinpoolmgr.core.trend import Reading, Trend, keep, trend_of


def kept(*readings: tuple[float, int] | tuple[float, int, int]) -> tuple[Reading, ...]:
    held: tuple[Reading, ...] = ()
    for at, used, *total in readings:
        held = keep(held, Reading(at, used, total[0] if total else 1000))
    return held


def test_one_reading_tells_nothing() -> None:
    assert (trend_of(()), trend_of(kept((0, 5)))) == (None, None)


def test_steady_filling() -> None:
    assert trend_of(kept((0, 100), (2, 120), (4, 140))) == Trend(10.0, 86.0)


def test_what_stands_still_is_never_full() -> None:
    assert trend_of(kept((0, 100), (2, 100))) == Trend(0.0, None)


def test_what_empties_slowly_is_never_full() -> None:
    assert trend_of(kept((0, 100), (10, 95), (20, 90))) == Trend(-0.5, None)


def test_what_takes_more_than_a_year_has_no_number() -> None:
    assert trend_of(kept((0, 0, 10**12), (1, 10, 10**12))) == Trend(10.0, None)


def test_full_is_now() -> None:
    assert trend_of(kept((0, 900), (1, 1000))) == Trend(100.0, 0.0)


def test_an_extension_changes_the_time_and_not_the_rate() -> None:
    before, after = (0, 100, 200), (2, 120, 200)
    assert trend_of(kept(before, after)) == Trend(10.0, 8.0)
    assert trend_of(kept(before, after, (4, 140, 1140))) == Trend(10.0, 100.0)


def test_what_is_given_back_at_once_hides_no_filling() -> None:
    assert trend_of(kept((0, 500), (2, 520), (4, 100))) is None
    assert trend_of(kept((0, 500), (2, 520), (4, 100), (6, 120))) == Trend(10.0, 88.0)


def test_coming_and_going_is_no_trend() -> None:
    readings = [(float(at), 500 + at % 2 * 10) for at in range(41)]
    trend = trend_of(kept(*readings))
    assert trend is not None
    assert abs(trend.bytes_per_second) < 0.01


def test_one_burst_does_not_decide_alone() -> None:
    still = [(float(at), 100) for at in range(10)]
    trend = trend_of(kept(*still, (10.0, 200)))
    assert trend is not None
    assert 0 < trend.bytes_per_second < 10


def test_a_clock_that_stands_still_begins_anew() -> None:
    assert kept((5, 1), (5, 2)) == kept((5, 2))


def test_old_readings_go_but_for_the_last_few() -> None:
    assert [reading.at for reading in kept(*((float(at), at) for at in range(0, 300, 10)))] == [
        float(at) for at in range(230, 300, 10)
    ]
    assert [reading.at for reading in kept(*((float(at), at) for at in range(0, 3000, 300)))] == [
        1500.0,
        1800.0,
        2100.0,
        2400.0,
        2700.0,
    ]


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 2**40), st.integers(1, 2**40)), min_size=1, max_size=30))
def test_whatever_is_read_the_newest_counts_and_nothing_breaks(steps: list[tuple[int, int, int]]) -> None:
    held: tuple[Reading, ...] = ()
    at = 0.0
    for pause, used, total in steps:
        at += pause
        held = keep(held, Reading(at, min(used, total), total))
        assert held[-1].at == at
        trend = trend_of(held)
        assert (trend is None) == (len(held) < 2)
        assert trend is None or trend.seconds_to_full is None or trend.seconds_to_full >= 0


@pytest.mark.parametrize("rate", [1, 1000, 10**9])
def test_the_rate_is_that_of_the_readings_whatever_its_size(rate: int) -> None:
    trend = trend_of(kept(*((float(at), at * rate, 10**12) for at in range(10))))
    assert trend is not None
    assert trend.bytes_per_second == pytest.approx(rate)
