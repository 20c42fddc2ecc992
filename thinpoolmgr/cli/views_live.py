"""The picture of `status --watch`, as styled words for whoever draws them, and its lines for a log. Prints nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinpoolmgr.cli.text import count, cut, duration, fit, plain
from thinpoolmgr.cli.views import SEVERITY_COLORS, state_color, use_color
from thinpoolmgr.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinpoolmgr.core.documents import Use
    from thinpoolmgr.core.live import LivePool, LiveStatus
    from thinpoolmgr.core.report import LastExtension, WatchedPool
    from thinpoolmgr.core.trend import Trend

Word = tuple[str, str]
"""Text and its style: `bold`, `dim`, a colour, or several."""
Line = tuple[Word, ...]

_LABEL, _PERCENT, _SIZE, _RATE, _FULL, _SEVERITY = 11, 7, 14, 13, 21, 9
"""Columns: of a label with its indent, `100.0 %`, ` of 1023.9 GiB`, `-1023.9 MiB/s`, `  full in 47 h 59 min`."""
_BRACKETS = 2
_FIXED = _LABEL + _BRACKETS + _PERCENT + _SIZE + _RATE + _FULL
_LEAST_BAR, _MOST_BAR = 4, 40
_DAY = 86400


def live_lines(status: LiveStatus, width: int, height: int, clock: str, now: float) -> tuple[Line, ...]:
    """Return the picture in at most `height` lines of at most `width` columns.

    Args:
        status: what is shown.
        width: of the terminal.
        height: of the terminal.
        clock: the time for the headline.
        now: the same in seconds since 1970.

    """
    lines = [_headline(status, width, clock)]
    if status.problem:
        known = (
            "Use and states are the kernel's, as of now; the rest is what the last look saw"
            if status.is_of_the_kernel
            else "This is what the last look saw"
        )
        told = f"{known}. It cannot be looked now: {' '.join(status.problem.split())}"
        lines += [(), *(((line, "bold red"),) for line in fit(plain(told), width))]
    for pool in status.pools:
        lines += [(), *_pool(pool, width, now)]
    lines += [(), *_findings(status, width)]
    if len(lines) > height:
        left = len(lines) - height + 1
        lines = [*lines[: height - 1], ((f"{left} more lines: make the terminal higher", "dim"),)]
    return tuple(_crop(line, width) for line in lines)


def _crop(line: Line, width: int) -> Line:
    kept: list[Word] = []
    for text, style in line:
        kept.append((text[:width], style))
        width -= len(kept[-1][0])
    return tuple(word for word in kept if word[0])


def _headline(status: LiveStatus, width: int, clock: str) -> Line:
    what = cut(
        f"thinpoolmgr: {', '.join([count(len(status.pools), 'pool'), *_noteworthy(status)])}", width - len(clock) - 2
    )
    return ((what, "bold"), (" " * (width - len(what) - len(clock)), ""), (clock, "dim"))


def _pool(pool: LivePool, width: int, now: float) -> Iterator[Line]:
    document = pool.document
    free = f", {format_size(document.free_bytes)} free in the group" if document.free_bytes is not None else ""
    state, color = str(document.state), state_color(document.state)
    place = f"{plain(document.volume_group)}/{plain(document.thin_pool)}{free}"
    yield (
        (f"pool {plain(document.name)}", "bold"),
        ("  ", ""),
        (state, f"bold {color}"),
        (f"  {place}", ""),
    )
    for label, use, trend in (("data", document.data, pool.data), ("metadata", document.metadata, pool.metadata)):
        if use is not None:
            yield _use(label, use, trend, width)
    for text, style in _monitor(pool, now):
        yield ((f"  {'monitor':<{_LABEL - 2}}{text}", style),)


def _use(label: str, use: Use, trend: Trend | None, width: int) -> Line:
    full = _full_in(trend)
    return (
        (f"  {label:<{_LABEL - 2}}", ""),
        *_bar(use, width - _FIXED),
        (f"{use.percent:{_PERCENT - 2}.1f} %", ""),
        (f"{f' of {format_size(use.total_bytes)}':<{_SIZE}}", ""),
        (f"{_rate(trend):>{_RATE}}", ""),
        (f"  {full}" if full else "", "bold red" if _is_soon(trend) else ""),
    )


def _bar(use: Use, room: int) -> Line:
    """Return a bar in `room` columns beside its brackets; where there is none, the numbers must do."""
    if room < _LEAST_BAR:
        return ()
    cells = min(_MOST_BAR, room)
    filled = min(cells, int(use.percent * cells / 100))
    return ("[", ""), ("#" * filled, use_color(use.percent)), ("-" * (cells - filled), "dim"), ("]", "")


def _rate(trend: Trend | None) -> str:
    if trend is None:
        return "..."
    whole = round(abs(trend.bytes_per_second))
    sign = "" if not whole else "-" if trend.bytes_per_second < 0 else "+"
    return f"{sign}{format_size(whole)}/s"


def _full_in(trend: Trend | None) -> str:
    seconds = trend.seconds_to_full if trend else None
    if seconds is None:
        return ""
    if seconds < 2 * _DAY:
        return f"full in {duration(seconds, 0)}"
    return f"full in {seconds / _DAY:.0f} days"


def _is_soon(trend: Trend | None) -> bool:
    return trend is not None and trend.seconds_to_full is not None and trend.seconds_to_full < 3600


def _monitor(pool: LivePool, now: float) -> Iterator[Word]:
    if pool.is_unwatched:
        yield "does not watch it: nothing extends this pool", "yellow"
    watched = pool.watched
    if watched is not None:
        yield ", ".join(_known(watched, now)), "red" if _went_wrong(watched) else ""


def _went_wrong(watched: WatchedPool) -> bool:
    return watched.last_extension is not None and watched.last_extension.result != "done"


def _known(watched: WatchedPool, now: float) -> Iterator[str]:
    if watched.busy_since is not None:
        yield f"a command runs for {duration(max(0.0, now - watched.busy_since), 0)}"
    last = watched.last_extension
    yield _extension(last, now) if last else "no extension yet"
    if last:
        failed = f", {watched.extensions_failed} failed" if watched.extensions_failed else ""
        yield f"{watched.extensions_done} done{failed}"


def _extension(last: LastExtension, now: float) -> str:
    ago = duration(max(0.0, now - last.at), 0)
    if last.result != "done":
        return f"extension of {plain(last.part)} {ago} ago: {plain(last.result)}"
    return f"extended {plain(last.part)} {ago} ago within {duration(last.reaction_seconds, 1)}"


def _findings(status: LiveStatus, width: int) -> Iterator[Line]:
    for finding in status.findings:
        first, *others = fit(plain(finding.summary), max(20, width - _SEVERITY)) or [""]
        yield (f"{finding.severity:<{_SEVERITY}}", f"bold {SEVERITY_COLORS[finding.severity]}"), (first, "")
        yield from (((f"{'':<{_SEVERITY}}{line}", ""),) for line in others)
    if not status.findings:
        yield (("No warnings, no errors.", "green"),)


def log_lines(status: LiveStatus, clock: str) -> Iterator[str]:
    """Return a line for each pool, for where nothing can be drawn."""
    if status.problem:
        yield f"{clock} cannot look: {plain(' '.join(status.problem.split()))}"
        if not status.is_of_the_kernel:
            return
    noteworthy = ", ".join(_noteworthy(status))
    for pool in status.pools:
        document = pool.document
        parts = [
            *_logged("data", document.data, pool.data),
            *_logged("metadata", document.metadata, pool.metadata),
            *([noteworthy] if noteworthy else []),
        ]
        yield "; ".join([f"{clock} pool {plain(document.name)} {document.state}", *parts])


def _logged(label: str, use: Use | None, trend: Trend | None) -> Iterator[str]:
    if use is not None:
        words = [f"{label} {use.percent:.1f} % of {format_size(use.total_bytes)}"]
        words += [_rate(trend), _full_in(trend)] if trend else []
        yield ", ".join(filter(None, words))


def _noteworthy(status: LiveStatus) -> list[str]:
    severities = [finding.severity for finding in status.findings]
    return [count(severities.count(each), each) for each in ("error", "warning") if each in severities]
