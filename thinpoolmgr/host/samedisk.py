"""Whether a disk is still the one that a step means."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from thinpoolmgr.errors import RefusedError
from thinpoolmgr.host import block

if TYPE_CHECKING:
    from thinpoolmgr.core.steps import DiskRef


def require_same_disk(ref: DiskRef) -> None:
    """Make sure that the disk of `ref` is there: a kernel name may have passed to another one since the plan was made.

    Raises:
        RefusedError: it is not.

    """
    try:
        status = os.stat(ref.path)
    except OSError as error:
        raise RefusedError(
            f"{ref.path} is no longer there", str(error), "Attach it, and run this again.", code="DISK_MISSING"
        ) from error
    devno = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    swapped = ref.diskseq is not None and block.read_diskseq(devno) != ref.diskseq
    if not stat.S_ISBLK(status.st_mode) or (ref.devno and devno != ref.devno) or swapped:
        summary = f"{ref.path} is another device than when the plan was made"
        raise RefusedError(
            summary,
            f"It was {ref.devno}, disk {ref.diskseq}; it is {devno}, disk {block.read_diskseq(devno)}.",
            "Run this again to plan anew.",
            code="DISK_SWAPPED",
        )
