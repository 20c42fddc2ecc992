"""Who holds file locks, by the kernel's own list: trying a lock would be in its holder's way."""

from __future__ import annotations

import os

_KERNEL_LOCKS = "/proc/locks"


def is_flocked(path: str | os.PathLike[str]) -> bool:
    """Whether anybody holds the lock of flock(2) on the file at `path`."""
    try:
        status = os.stat(path)
        with open(_KERNEL_LOCKS, encoding="ascii") as file:
            locks = [line.split() for line in file]
    except OSError:
        return False
    # `1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE START END`; those who wait have `->` before it: proc_locks(5).
    file_id = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    return any(words[1:2] == ["FLOCK"] and words[5] == file_id for words in locks)
