"""What the doctor asks of a host besides its snapshot: its tools, udev's cookies, whether the monitor runs; reads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from thinpoolmgr.core.findings import Cookie, HostFacts
from thinpoolmgr.core.report import LOCK_PATH, watched_names
from thinpoolmgr.host.locks import is_flocked
from thinpoolmgr.host.monitor_report import read_report
from thinpoolmgr.host.runner import find_program

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredState

_TOOLS = ("lvm", "dmsetup", "thin_check")
_SEMAPHORES = Path("/proc/sysvipc/sem")
# DM_COOKIE_MAGIC of libdevmapper.h: the upper half of each cookie's key.
_COOKIE_MAGIC = 0x0D4D


def read_facts(desired: DesiredState, semaphores: Path = _SEMAPHORES) -> HostFacts:
    """Return missing tools, also of the engines of `desired`, udev's cookies, and whether the monitor runs."""
    wanted = (*_TOOLS, *(f"mkfs.{engine.config.filesystem}" for engine in desired.engines))
    missing = tuple(tool for tool in dict.fromkeys(wanted) if not find_program(tool))
    report = read_report()
    watched = watched_names(report, time.time()) if report else None
    return HostFacts(missing, _read_cookies(semaphores), is_flocked(LOCK_PATH), watched)


def _read_cookies(path: Path) -> tuple[Cookie, ...]:
    """Read them from the kernel's list, sysvipc(5): key and semid first, the time of the last change last."""
    try:
        lines = path.read_text("ascii").splitlines()[1:]
    except OSError:
        return ()
    found = []
    for words in map(str.split, lines):
        key = int(words[0])
        if key >> 16 == _COOKIE_MAGIC:
            # Set once, when the command that waits makes it; waiting itself changes only the time before this one.
            found.append(Cookie(f"0x{key:x}", float(words[-1])))
    return tuple(found)
