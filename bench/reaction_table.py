"""The tables of `reaction.py`, and the goals that their numbers are held against."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reaction_parts import Series

TITLES = {
    "resident": "resident memory after the first extension, MiB",
    "growth": "resident KiB more than after a tenth of the cycles, at each other tenth",
    "metadata": "metadata threshold to extended, s",
    "data": "data threshold to extended, s",
    "room": "new disk in a full group to extended, s",
    "undisturbed": "data threshold to extended, of two pools the second, s",
    "stuck": "the same later, while the first one's group is locked for 45 s, s",
    "race": "out of space while 1.5 GiB are written, s",
}
HEADER = "| {} | values | least | median | 99th percentile | greatest |\n|---|---|---|---|---|---|"
NOISE_KIB = 256
"""Pages come and go; a leak of one small object a cycle is more than that in 10,000."""


class Goal(NamedTuple):
    """A number made of the monitor's values and dmeventd's, and the most that it may be."""

    what: str
    number: Callable[[Sequence[float], Sequence[float]], float]
    most: float


def percentile_99(values: Sequence[float]) -> float:
    """Return the 99th percentile, between the values as `statistics.quantiles` does; of few it is near the greatest."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * 0.99
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    # Of two infinite ones the difference is no number.
    return low if low == high else low + (high - low) * (place % 1)


GOALS = {
    "resident": [Goal("Ratio", lambda ours, theirs: ours[0] / theirs[0], 0.6)],
    "growth": [Goal("Growth in KiB", lambda ours, _: ours[-1], NOISE_KIB)],
    "metadata": [
        Goal("Ratio of medians", lambda ours, theirs: statistics.median(ours) / statistics.median(theirs), 0.1),
        Goal("Ratio of 99th percentiles", lambda ours, theirs: percentile_99(ours) / percentile_99(theirs), 0.15),
    ],
    "data": [Goal("Ratio of 99th percentiles", lambda ours, theirs: percentile_99(ours) / percentile_99(theirs), 1.5)],
    "room": [Goal("Greatest", lambda ours, _: max(ours), 2)],
    "stuck": [Goal("Greatest", lambda ours, _: max(ours), 1)],
    "race": [Goal("Greatest", lambda ours, _: max(ours), 0)],
}
GOALS_WITHOUT_DMEVENTD = ("growth", "room", "stuck", "race")


def table(name: str, series: Series) -> str:
    """Return a series as a Markdown table with the verdict on its goals."""
    rows = [f"| {watcher} | {_columns(values)} |" for watcher, values in series.items()]
    return "\n".join(["", HEADER.format(TITLES[name]), *rows, *_verdicts(name, series)])


def _columns(values: Sequence[float]) -> str:
    numbers = (min(values), statistics.median(values), percentile_99(values), max(values))
    return " | ".join([str(len(values)), *map(_number, numbers)])


def _number(value: float) -> str:
    return "no reaction" if math.isinf(value) else f"{value:.3f}"


def _verdicts(name: str, series: Series) -> list[str]:
    ours, theirs = series.get("monitor", []), series.get("dmeventd", [])
    if not ours or not (theirs or name in GOALS_WITHOUT_DMEVENTD):
        return []
    return ["", *(_verdict(goal, goal.number(ours, theirs)) for goal in GOALS.get(name, ()))]


def _verdict(goal: Goal, number: float) -> str:
    word = "met" if number <= goal.most else "missed"
    return f"{goal.what} {number:.3f}, at most {goal.most} is the goal: **{word}**."
