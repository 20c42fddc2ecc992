"""A thin pool that a watcher keeps from filling up: made anew for each trial, filled, and looked at meanwhile.

What a trial changes is changed by ioctls of this process: a command would take longer than what is measured.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import threading
import time
from contextlib import contextmanager
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from thin_devices import SIZE_SECTORS, activate, send_message
from tools import silently

from thinpoolmgr.core.commands import commands
from thinpoolmgr.core.steps import CreateThinPool
from thinpoolmgr.core.thinstatus import parse_pool_status
from thinpoolmgr.host import dm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from thinpoolmgr.core.model import ThinPoolStatus

LV = "thinpool"
CHUNK_BYTES = 512 << 10
EXTENT_BYTES = 4 << 20
METADATA_BYTES = 4 << 20
DATA_BYTES = 256 << 20
THRESHOLD_PERCENT = 80
STEP_PERCENT = 20
# include/uapi/linux/fs.h
BLKDISCARD = 0x1277
RANGE = Struct("=QQ")
PAGE_BYTES = 4096
FILL_SECONDS = 12.0
PAUSE_SECONDS = 0.25
MOST_OF_A_DEVICE = SIZE_SECTORS * 512
SOONEST_LOOK_SECONDS = 0.01
# The one CPU of the lab is the watcher's, too: the longer it takes, the less often it is looked.
LOOK_AGAIN_RATIO = 0.01


@contextmanager
def _before_all_others() -> Iterator[None]:
    """Have this process run whenever it can: what is measured is the kernel's pool, not how late we look at it.

    There is one processor, and a watcher's LVM, which raises its own priority, would be served first.
    """
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


class Crossing(NamedTuple):
    """The moment (monotonic) when more than the threshold was in use, and how large the pool was before."""

    at: float
    total: int


class FilledPool:
    """One pool in a volume group of its own, and the one thin device that its data is written through."""

    def __init__(self, group: str, disk: Path, profile: str) -> None:
        """Name the group that is on `disk`; `profile` holds the thresholds of dmeventd; empty: it has none."""
        self.group = group
        self.dm_name = f"{group}-{LV}"
        self.disk = disk
        self.begun_at = 0.0
        self._profile = profile
        self._control = os.open(dm.CONTROL_PATH, os.O_RDWR | os.O_CLOEXEC)
        self._thin_name = f"written-{group}"
        self._thin = -1
        self._writer = threading.Thread()
        self._page = mmap.mmap(-1, PAGE_BYTES)
        self._next_chunk = 0
        self._next_device = 2
        self._dm = dm.Control.open()

    def make_anew(self, data_bytes: int = DATA_BYTES) -> None:
        """Replace the pool by an empty one of the size that a trial begins with."""
        self.remove()
        self.make(data_bytes)

    def remove(self) -> None:
        """Remove the pool, all data given back before."""
        self._forget_thin()
        silently("lvremove", "--yes", f"{self.group}/{LV}")

    def make(self, data_bytes: int = DATA_BYTES) -> None:
        """Make the pool and its thin device."""
        step = CreateThinPool(
            reason="",
            group=self.group,
            lv=LV,
            data_extents=data_bytes // EXTENT_BYTES,
            extent_bytes=EXTENT_BYTES,
            metadata_bytes=METADATA_BYTES,
            chunk_bytes=CHUNK_BYTES,
            zero_new_blocks=False,
            discards="passdown",
            monitored_by_dmeventd=bool(self._profile),
            profile=self._profile,
        )
        self.begun_at = time.time()
        for command in commands(step):
            silently(*command)
        send_message(self._control, self.dm_name, "create_thin 1")
        node = activate(self._control, self._thin_name, os.stat(f"/dev/mapper/{self.dm_name}").st_rdev, 1)
        self._thin = os.open(f"/dev/dm-{os.minor(node)}", os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        self._next_chunk, self._next_device = 0, 2

    def _forget_thin(self) -> None:
        if self._thin < 0:
            return
        self.discard()
        os.close(self._thin)
        self._thin = -1
        silently("dmsetup", "remove", "--retry", self._thin_name)

    @property
    def thin_path(self) -> str:
        """Where the thin device can be opened."""
        return f"/dev/dm-{os.minor(os.fstat(self._thin).st_rdev)}"

    def status(self) -> ThinPoolStatus:
        """Return what the kernel says of the pool, without having it commit anything."""
        while True:
            targets = dm.parse_targets(self._dm.ask(dm.TABLE_STATUS, self.dm_name, dm.NOFLUSH_FLAG))
            status = parse_pool_status(targets[0].params) if targets else None
            if status is not None:
                return status

    def fill_data(self, percent: int, seconds: float = FILL_SECONDS) -> None:
        """Write for so many seconds until so much of the data is in use.

        Slowly, for the trials that begin below a threshold: a pool that fills fast is extended before it is reached.
        """
        status = self.status()
        _slowly(self._write_chunks, status.total_data_blocks * percent // 100 - status.used_data_blocks, seconds)

    def fill_metadata(self, percent: int) -> None:
        """Make thin devices, about a block of metadata each, until so much is in use; as slowly as data are written."""
        seconds = FILL_SECONDS
        while (missing := _share(self.status(), percent)) > 0:
            _slowly(self._create_devices, missing, seconds)
            seconds = 0

    @_before_all_others()
    def cross_data(self) -> Crossing:
        """Have the few blocks written by which more than the threshold is in use.

        The time counts from before the block that crosses, and the pool is looked at meanwhile: a watcher that acts at
        once holds up this very write.
        """
        status = self.status()
        self._write_chunks(status.total_data_blocks * THRESHOLD_PERCENT // 100 - 1 - status.used_data_blocks)
        crossing = Crossing(time.monotonic(), status.total_data_blocks)
        # One for the threshold; the kernel looks at its low-water mark before it takes a block, not after.
        self._writer = threading.Thread(target=self._write_chunks, args=(4,))
        self._writer.start()
        return crossing

    @_before_all_others()
    def cross_metadata(self) -> Crossing:
        """Make the few thin devices by which more than the threshold is in use, and a few more; timed as data are."""
        total = self.status().total_metadata_blocks
        while (missing := total * THRESHOLD_PERCENT // 100 - 1 - self.status().used_metadata_blocks) > 0:
            self._create_devices(missing)
        crossing = Crossing(time.monotonic(), total)
        self._create_devices(2 + total // 50)
        return crossing

    def discard(self) -> None:
        """Give all data blocks back."""
        fcntl.ioctl(self._thin, BLKDISCARD, RANGE.pack(0, MOST_OF_A_DEVICE))
        self._next_chunk = 0

    def until_data_grown(self, crossing: Crossing, limit_seconds: float) -> float:
        """Return after how many seconds the kernel had more data blocks; infinity: not within the limit."""
        seconds = self._until(lambda status: status.total_data_blocks > crossing.total, crossing.at, limit_seconds)
        self._writer.join()
        return seconds

    def until_metadata_grown(self, crossing: Crossing, limit_seconds: float) -> float:
        """Return after how many seconds the kernel had more metadata blocks; infinity: not within the limit."""
        return self._until(lambda status: status.total_metadata_blocks > crossing.total, crossing.at, limit_seconds)

    @_before_all_others()
    def _until(self, has_grown: Callable[[ThinPoolStatus], bool], since: float, limit_seconds: float) -> float:
        while True:
            grown, seconds = has_grown(self.status()), time.monotonic() - since
            if grown:
                return seconds
            if seconds > limit_seconds:
                return math.inf
            time.sleep(max(SOONEST_LOOK_SECONDS, seconds * LOOK_AGAIN_RATIO))

    def _write_chunks(self, count: int) -> None:
        for _ in range(count):
            # One page takes a whole block: nothing is zeroed, and the lab's memory is small.
            os.pwrite(self._thin, self._page, self._next_chunk * CHUNK_BYTES)
            self._next_chunk += 1

    def _create_devices(self, count: int) -> None:
        for _ in range(count):
            send_message(self._control, self.dm_name, f"create_thin {self._next_device}")
            self._next_device += 1

    def close(self) -> None:
        """Let go of the pool, and remove the group."""
        self._forget_thin()
        silently("vgremove", "--force", "--yes", self.group)
        silently("pvremove", str(self.disk))
        os.close(self._control)


def _slowly(use: Callable[[int], None], count: int, seconds: float) -> None:
    """Have `count` blocks used, evenly over so many seconds."""
    turns = max(1, int(seconds / PAUSE_SECONDS))
    for turn in range(turns):
        use(count * (turn + 1) // turns - count * turn // turns)
        time.sleep(PAUSE_SECONDS if turns > 1 else 0)


def _share(status: ThinPoolStatus, percent: int) -> int:
    return status.total_metadata_blocks * percent // 100 - status.used_metadata_blocks
