"""How fast something fills, and when it will be full: from successive readings of the kernel's counters.

Two things look like a trend and are none. An extension changes the capacity, not the use: only the newest capacity
counts. And what is given back at once, as when an image is removed, says nothing of how fast the rest goes on being
written: such a fall begins anew. Small falls are the coming and going of containers, and count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

WINDOW_SECONDS = 60.0
_LEAST_READINGS = 5
"""So many are kept though they are older: where somebody looks once a minute."""
_FALL = 0.01
"""A fall by a larger share of the capacity than this begins anew."""
_LONGEST_SECONDS = 366 * 86400.0
"""What takes longer than a year to fill is not worth a number."""


class Reading(Struct, frozen=True):
    """The use of something at one time."""

    at: float
    """Seconds of a clock that nobody sets."""
    used_bytes: int
    total_bytes: int


class Trend(Struct, frozen=True):
    """How fast it fills; negative where it empties."""

    bytes_per_second: float
    seconds_to_full: float | None
    """None: it does not fill, or not within a year."""


def keep(readings: Sequence[Reading], newest: Reading) -> tuple[Reading, ...]:
    """Return the readings that still say something when `newest` has come, which is the last of them."""
    if readings and _begins_anew(readings[-1], newest):
        return (newest,)
    kept = (*readings, newest)
    first = next(place for place, reading in enumerate(kept) if reading.at >= newest.at - WINDOW_SECONDS)
    return kept[min(first, max(0, len(kept) - _LEAST_READINGS)) :]


def _begins_anew(before: Reading, newest: Reading) -> bool:
    fell = before.used_bytes - newest.used_bytes
    # Of the larger capacity: a pool that was made anew, smaller, is another one in any case.
    return newest.at <= before.at or fell > _FALL * max(before.total_bytes, newest.total_bytes)


def trend_of(readings: Sequence[Reading]) -> Trend | None:
    """Return the trend of what `keep` has kept; None: one reading alone tells none."""
    if len(readings) < 2:
        return None
    rate = _slope(readings)
    free = readings[-1].total_bytes - readings[-1].used_bytes
    seconds = free / rate if rate > 0 else None
    return Trend(rate, seconds if seconds is not None and seconds <= _LONGEST_SECONDS else None)


def _slope(readings: Sequence[Reading]) -> float:
    """Return the slope of the line that fits best: one burst at either end does not decide alone."""
    middle_at = sum(reading.at for reading in readings) / len(readings)
    middle_used = sum(reading.used_bytes for reading in readings) / len(readings)
    spread = sum((reading.at - middle_at) ** 2 for reading in readings)
    return sum((reading.at - middle_at) * (reading.used_bytes - middle_used) for reading in readings) / spread
