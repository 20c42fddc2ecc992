"""What the monitor tells of itself, for `metrics` and `status`: one small document, rewritten as things change."""

from __future__ import annotations

import msgspec
from msgspec import Struct

REPORT_PATH = "/run/thinpoolmgr/monitor.json"
LOCK_PATH = "/run/thinpoolmgr/monitor.lock"
"""Held by the monitor for as long as it runs."""
SCHEMA = 1
_STALE_SECONDS = 120.0


class LastExtension(Struct, frozen=True, omit_defaults=True):
    """How the newest extension of a pool went."""

    at: float
    """When it ended, in seconds since 1970."""
    part: str
    """`data`, `metadata` or `both`."""
    result: str
    """`done`, or the code of why not."""
    seconds: float = 0.0
    """From its first command to the kernel's agreement."""
    reaction_seconds: float = 0.0
    """From the look that saw the need to the kernel's agreement."""


class Sighting(Struct, frozen=True, omit_defaults=True):
    """One finding of the monitor's own, as it stands now."""

    code: str
    target: str
    summary: str


class WatchedPool(Struct, frozen=True, omit_defaults=True):
    """One pool as the monitor knows it."""

    name: str
    group: str
    lv: str
    state: str
    looked_at: float
    """When it last answered, in seconds since 1970; an old one says that the pool does not answer."""
    busy_since: float | None = None
    """While a command runs for this pool: since when."""
    data_bytes_per_second: float = 0.0
    metadata_bytes_per_second: float = 0.0
    extensions_done: int = 0
    extensions_failed: int = 0
    last_extension: LastExtension | None = None
    findings: tuple[Sighting, ...] = ()


class MonitorReport(Struct, frozen=True):
    """The whole document."""

    schema: int
    pid: int
    started_at: float
    written_at: float
    pools: tuple[WatchedPool, ...] = ()
    config_problem: str = ""
    """Why the configuration that was to be reloaded is not in use: the last good one is."""


def watched_names(report: MonitorReport, now: float) -> tuple[str, ...]:
    """Return the pools that the monitor looks at: not one that has not answered for two minutes.

    Nor any when the monitor itself stands still; `now` is in seconds since 1970.
    """
    return tuple(pool.name for pool in report.pools if now - pool.looked_at < _STALE_SECONDS)


def decode_report(content: bytes) -> MonitorReport:
    """Return the report in `content`.

    Raises:
        msgspec.DecodeError: it is none.

    """
    return msgspec.json.decode(content, type=MonitorReport)
