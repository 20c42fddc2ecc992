"""Locks of flock(2) on files: to hold one, and who holds them, by the kernel's own list."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from thinpoolmgr.errors import ThinpoolmgrError

if TYPE_CHECKING:
    from collections.abc import Iterator

_KERNEL_LOCKS = "/proc/locks"


def open_lock(path: str | os.PathLike[str]) -> int:
    """Return a descriptor of the file at `path`, which is made with its folder if need be, and not locked yet.

    Raises:
        ThinpoolmgrError: it cannot be made or opened.

    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ThinpoolmgrError(f"{path} cannot be opened", error.strerror or str(error)) from error


@contextmanager
def flocked(path: str) -> Iterator[int]:
    """Wait for the lock on the file at `path`, hold it while this is open, and give its descriptor.

    Processes that inherit the descriptor hold the lock, too, until the last one of them has ended.

    Raises:
        ThinpoolmgrError: the file cannot be made or opened.

    """
    descriptor = open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def is_flocked(path: str | os.PathLike[str]) -> bool:
    """Whether anybody holds the lock on the file at `path`; to try it would be in its holder's way."""
    try:
        status = os.stat(path)
        with open(_KERNEL_LOCKS, encoding="ascii") as file:
            locks = [line.split() for line in file]
    except OSError:
        return False
    # `1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE START END`; those who wait have `->` before it: proc_locks(5).
    file_id = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    return any(words[1:2] == ["FLOCK"] and words[5] == file_id for words in locks)
