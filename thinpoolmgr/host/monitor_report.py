"""What the monitor wrote about itself, and whether it is still there."""

from __future__ import annotations

from pathlib import Path

import msgspec

from thinpoolmgr.core.report import REPORT_PATH, SCHEMA, MonitorReport, decode_report


def read_report(path: str | Path = REPORT_PATH) -> MonitorReport | None:
    """Return the monitor's report; None: there is none, or it is another version's."""
    try:
        report = decode_report(Path(path).read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return report if report.schema == SCHEMA else None


def is_running(report: MonitorReport, proc: str | Path = "/proc") -> bool:
    """Whether the process that wrote `report` runs; another one may have got its number since."""
    try:
        return b"thinpoolmgr" in (Path(proc) / str(report.pid) / "cmdline").read_bytes()
    except OSError:
        return False
