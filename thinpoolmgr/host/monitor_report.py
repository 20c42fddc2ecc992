"""What the monitor wrote about itself, and whether it is still there."""

from __future__ import annotations

from pathlib import Path

import msgspec

from thinpoolmgr.core.report import LOCK_PATH, REPORT_PATH, SCHEMA, MonitorReport, decode_report
from thinpoolmgr.host.locks import is_flocked


def read_report(path: str | Path = REPORT_PATH) -> MonitorReport | None:
    """Return the monitor's report; None: there is none, or it is another version's."""
    try:
        report = decode_report(Path(path).read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return report if report.schema == SCHEMA else None


def is_running(report: MonitorReport, proc: str | Path = "/proc", lock: str | Path = LOCK_PATH) -> bool:
    """Whether the process that wrote `report` runs: another one may have got its number, or be a new monitor."""
    try:
        is_there = b"thinpoolmgr" in (Path(proc) / str(report.pid) / "cmdline").read_bytes()
    except OSError:
        return False
    return is_there and is_flocked(lock)
