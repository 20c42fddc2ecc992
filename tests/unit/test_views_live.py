"""The picture of the live view at 80 and at 120 columns, and its lines for a log: tests/golden/watch-*.txt."""

from __future__ import annotations

import pytest
import support
from cli_support import golden
from measured import report, watched
from msgspec.structs import replace

from thinpoolmgr.cli.views_live import Line, live_lines, log_lines
from thinpoolmgr.core.documents import status_document
from thinpoolmgr.core.live import LivePool, LiveStatus, Readings, live_status
from thinpoolmgr.core.report import LastExtension
from thinpoolmgr.core.trend import Reading, Trend
from thinpoolmgr.units import GIB, MIB

NOW = 100.0


def text(lines: tuple[Line, ...]) -> list[str]:
    return ["".join(word for word, _ in line) for line in lines]


def busy() -> LiveStatus:
    """Return a view of one pool that fills, one that stands still, and one that is not there."""
    pools = (support.pool(), support.pool("other", "/dev/sdc"), support.pool("third", "/dev/sdd"))
    disks = (support.disk("/dev/sdb"), support.disk("/dev/sdc"), support.disk("/dev/sdd"))
    shot = support.with_pool(support.snapshot(*disks), data_extents=1900)
    shot = support.with_status(shot, used_data_blocks=13000)
    told = report(replace(watched(), last_extension=LastExtension(40.0, "data", "done", 0.6, 0.8), extensions_failed=0))
    desired = support.desired(*pools)
    readings: Readings = {("docker", "data"): (Reading(0, 0, 10 * GIB), Reading(10, 40 * MIB, 10 * GIB))}
    return live_status(desired, status_document(desired, shot), readings, told, NOW)


@pytest.mark.parametrize("width", [40, 70, 80, 120])
def test_the_picture(width: int) -> None:
    lines = text(live_lines(busy(), width, 50, "12:00:05", NOW))
    assert max(map(len, lines)) <= width
    golden(f"watch-{width}", "\n".join(lines) + "\n")


def test_a_low_terminal_says_that_there_is_more() -> None:
    whole = text(live_lines(busy(), 80, 50, "12:00:05", NOW))
    lines = text(live_lines(busy(), 80, 5, "12:00:05", NOW))
    assert lines[:4] == whole[:4]
    assert lines[4:] == [f"{len(whole) - 4} more lines: make the terminal higher"]
    assert text(live_lines(busy(), 80, len(whole), "12:00:05", NOW)) == whole


@pytest.mark.parametrize(
    ("trend", "shown"),
    [
        (None, " ..."),
        (Trend(0.2, None), "  0 B/s"),
        (Trend(1536.0, 59.0), "+1.5 KiB/s  full in 59 s"),
        (Trend(1536.0, 3600.0), "+1.5 KiB/s  full in 1 h 0 min"),
        (Trend(5.0, 86400.0 * 30), "+5 B/s  full in 30 days"),
        (Trend(-3.0 * MIB, None), "-3 MiB/s"),
    ],
)
def test_rate_and_time_to_full(trend: Trend | None, shown: str) -> None:
    shot = support.healthy()
    (pool,) = status_document(support.desired(), shot).pools
    line = text(live_lines(LiveStatus((LivePool(pool, trend),), ()), 80, 50, "", NOW))[3]
    assert line.endswith(shown)
    assert len(line) <= 80


def test_what_is_soon_full_or_went_wrong_is_red() -> None:
    (pool,) = status_document(support.desired(), support.healthy()).pools
    failed = LivePool(pool, Trend(1.0, 3599.0), None, watched())
    lines = live_lines(LiveStatus((failed,), ()), 80, 50, "", NOW)
    assert (lines[3][-1][1], lines[5][0][1]) == ("bold red", "red")
    assert "extension of data 1 min 31 s ago: EXTENSION_FAILED, 3 done, 1 failed" in text(lines)[5]
    fine = LivePool(pool, Trend(1.0, 3600.0), None, replace(watched(), last_extension=None, busy_since=96.0))
    lines = live_lines(LiveStatus((fine,), ()), 80, 50, "", NOW)
    assert (lines[3][-1][1], lines[5][0][1]) == ("", "")
    assert "a command runs for 4 s, no extension yet" in text(lines)[5]


def test_names_from_outside_are_obeyed_by_no_terminal() -> None:
    (pool,) = status_document(support.desired(), support.healthy()).pools
    odd = replace(pool, name="a\x1b[31mb", volume_group="g\n")
    lines = text(live_lines(LiveStatus((LivePool(odd),), ()), 80, 50, "", NOW))
    assert r"pool a\x1b[31mb" in lines[2]
    assert not any(char < " " for line in lines for char in line)


def test_the_lines_of_a_log() -> None:
    golden("watch-log", "\n".join(log_lines(busy(), "2026-01-01T12:00:05+00:00")) + "\n")


def test_a_look_that_fails_is_told_over_what_the_last_one_saw() -> None:
    failed = replace(busy(), problem="LVM did not answer:\nit is locked")
    lines = text(live_lines(failed, 60, 50, "12:00:05", NOW))
    assert "\n".join(lines[1:5]).startswith("\nThis is what the last look saw. It cannot be looked now: LVM")
    assert lines[0] == text(live_lines(busy(), 60, 50, "12:00:05", NOW))[0]
    assert list(log_lines(failed, "12:00")) == ["12:00 cannot look: LVM did not answer: it is locked"]
