"""What a path that a user gives is on this host: a block device, or a file on a file system."""

from __future__ import annotations

import os
import re
import stat

from thinpoolmgr.core.who import Query

_KERNEL_NAME = re.compile(r"dm-\d+", re.ASCII)


def locate(text: str, dev: str = "/dev") -> Query:
    """Return `text` with what it leads to when it is an absolute path, or a kernel name such as `dm-3`.

    What is not there, or must not be looked at, keeps its path: it may be a mount point that others see.
    """
    path = f"{dev}/{text}" if _KERNEL_NAME.fullmatch(text) else text
    if not path.startswith("/"):
        return Query(text)
    real = os.path.realpath(path)
    try:
        # Not the resolved one: /proc/PID/root leads elsewhere than what it reads as (proc(5)).
        status = os.stat(path)
    except (OSError, ValueError):
        return Query(text, real)
    number = status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_dev
    return Query(text, real, f"{os.major(number)}:{os.minor(number)}")
