"""`thinpoolmgr lab demo`: boots the Docker root and shows the main job in it (the stages are in `demo_stages`)."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import Final

from thinpoolmgr.lab.guest import GuestJob, run_guest
from thinpoolmgr.lab.root import ensure_root

_MEMORY_MB: Final = 1500
_TIMEOUT_SECONDS: Final = 900
_MAX_COLUMNS: Final = 100


def run_demo() -> int:
    """Show the main job in a throw-away guest and return 0 only if every stage went as said.

    Raises:
        GuestCrashedError: the guest brought no exit code back.
        UnavailableError: a package is missing on the host.

    """
    tree = ensure_root()
    started = time.monotonic()
    _say("Booting a throw-away kernel with Debian 12 and Docker 20.10. All that follows happens inside it.")
    job = GuestJob(
        command=("/usr/bin/python3", "-m", "thinpoolmgr.lab.demo_stages"),
        tree=tree,
        memory_mb=_MEMORY_MB,
        environment=_terminal_environment(),
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    code = run_guest(job).exit_code
    _say(ending(code, time.monotonic() - started))
    return code


def ending(code: int, seconds: float) -> str:
    """Return the last words: how it went, how long it took, and what it left behind."""
    minutes, rest = divmod(round(seconds), 60)
    how = "All stages went as they should" if code == 0 else f"The demo FAILED (exit code {code}), see above"
    return (
        f"\n{how}, in {minutes} min {rest:02} s.\nThe throw-away kernel is gone; this machine's disks were not touched."
    )


def _terminal_environment() -> dict[str, str]:
    """Return what tells the guest how wide the caller's terminal is, and whether it is one."""
    width = min(_MAX_COLUMNS, shutil.get_terminal_size((_MAX_COLUMNS, 24)).columns)
    variables = {"COLUMNS": str(width)}
    if not sys.stdout.isatty():
        return variables
    variables |= {"LAB_DEMO_TTY": "1", "TERM": os.environ.get("TERM", "linux")}
    if (no_color := os.environ.get("NO_COLOR")) is not None:
        variables["NO_COLOR"] = no_color
    return variables


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
