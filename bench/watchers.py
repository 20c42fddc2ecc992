"""The two that extend a pool by themselves: dmeventd, and `thinpoolmgr monitor`; each has pools of its own to watch."""

from __future__ import annotations

import signal
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import msgspec
from filled_pool import (
    CHUNK_BYTES,
    DATA_BYTES,
    LV,
    METADATA_BYTES,
    STEP_PERCENT,
    THRESHOLD_PERCENT,
    FilledPool,
)
from tools import silently

from thinpoolmgr.core.profiles import PROFILE_PREFIX
from thinpoolmgr.core.report import REPORT_PATH, decode_report
from thinpoolmgr.lab.loop import LoopDisks

if TYPE_CHECKING:
    from collections.abc import Iterable

DISK_BYTES = 4 << 30
FOLDER = Path("/lab")
DMEVENTD_PID = Path("/run/dmeventd.pid")
UP_SECONDS = 60.0
# systemd/thinpoolmgr-monitor.service, Nice=
UNIT_NICE = "-18"
POOL_CONFIGURATION = f"""
[pools.{{group}}]
thin_pool = "{LV}"
devices = ["{{disk}}"]
data_size = "{DATA_BYTES >> 20}MiB"
metadata_size = "{METADATA_BYTES >> 20}MiB"
chunk_size = "{CHUNK_BYTES >> 10}KiB"

[pools.{{group}}.extend]
data_threshold_percent = {THRESHOLD_PERCENT}
metadata_threshold_percent = {THRESHOLD_PERCENT}
step_percent = {STEP_PERCENT}
monitor = "{{monitor}}"
"""


class Watcher(ABC):
    """One of the two, with two pools that `apply` has made: `first` and `second`."""

    name: ClassVar[str]
    groups: ClassVar[tuple[str, str]]
    owner: ClassVar[str]

    def __init__(self) -> None:
        """Make the pools and start the watcher."""
        self._disks = LoopDisks(FOLDER)
        disks = [self._disks.add(DISK_BYTES).path for _ in self.groups]
        self.config = FOLDER / f"{self.name}.toml"
        pools = (
            POOL_CONFIGURATION.format(group=group, disk=disk, monitor=self.owner)
            for group, disk in zip(self.groups, disks, strict=True)
        )
        self.config.write_text("version = 1\n" + "".join(pools), "utf-8")
        silently("thinpoolmgr", "--config", str(self.config), "apply", "--yes")
        self.first, self.second = (
            FilledPool(group, disk, self.profile(group)) for group, disk in zip(self.groups, disks, strict=True)
        )
        self.start()

    @abstractmethod
    def profile(self, group: str) -> str:
        """Return the name of the LVM profile that a pool is made with; empty: none."""

    @abstractmethod
    def start(self) -> None:
        """Have it watch the pools."""

    @abstractmethod
    def stop(self) -> None:
        """Have it watch no more."""

    @abstractmethod
    def require_watching(self, pool: FilledPool) -> None:
        """Return when it watches `pool` as that is now; raises SystemExit when it does not within a minute."""

    @abstractmethod
    def pids(self) -> Iterable[int]:
        """Return its processes."""

    def resident_kib(self) -> int:
        """Return the resident memory of its processes."""
        return sum(map(_resident_kib, self.pids()))

    def __enter__(self) -> Self:
        """Return itself, watching."""
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Stop it and remove the pools; after an error the lab goes as it is, and what failed is shown."""
        if error is not None:
            return
        self.stop()
        for pool in (self.first, self.second):
            pool.close()
        self._disks.close()


class Dmeventd(Watcher):
    """LVM's own: a profile has the thresholds, `lvchange --monitor y` (or lvcreate's) registers a pool."""

    name = "dmeventd"
    groups = ("dma", "dmb")
    owner = "dmeventd"

    def profile(self, group: str) -> str:
        """Return the profile that `apply` has written."""
        return f"{PROFILE_PREFIX}{group}-{LV}"

    def start(self) -> None:
        """`apply` has registered the pools, and LVM has started it."""
        for pool in (self.first, self.second):
            self.require_watching(pool)

    def stop(self) -> None:
        """Have it forget the pools; it ends by itself an hour later."""
        for pool in (self.first, self.second):
            silently("lvchange", "--monitor", "n", f"{pool.group}/{LV}")

    def require_watching(self, pool: FilledPool) -> None:
        """Ask LVM, which asks dmeventd."""
        if not _is_dmeventds(pool):
            raise SystemExit(f"dmeventd does not watch {pool.group}")

    def pids(self) -> Iterable[int]:
        """Return the one process."""
        return (int(DMEVENTD_PID.read_text("utf-8")),)


class Monitor(Watcher):
    """Ours."""

    name = "monitor"
    groups = ("tpa", "tpb")
    owner = "thinpoolmgr"

    def profile(self, group: str) -> str:
        """Return none: dmeventd is to leave these pools alone."""
        del group
        return ""

    def start(self) -> None:
        """Start the daemon, as urgent as its unit has it (dmeventd makes itself so); it writes to /lab/monitor.log."""
        with (FOLDER / "monitor.log").open("ab") as log:
            self._process = subprocess.Popen(
                ("nice", "-n", UNIT_NICE, "thinpoolmgr", "--config", str(self.config), "monitor"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        for pool in (self.first, self.second):
            self.require_watching(pool)

    def stop(self) -> None:
        """Stop the daemon as systemd does."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(UP_SECONDS)

    def require_watching(self, pool: FilledPool) -> None:
        """Keep dmeventd away, and wait until its report tells of a look at the pool that there is now.

        Whatever a pool was made with, udev's rules for LVM activate it once more, and that registers it with dmeventd.
        """
        silently("udevadm", "settle")
        silently("lvchange", "--monitor", "n", f"{pool.group}/{LV}")
        if _is_dmeventds(pool):
            raise SystemExit(f"dmeventd watches {pool.group}, too")
        deadline = time.monotonic() + UP_SECONDS
        while not _is_looked_at(pool):
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (FOLDER / "monitor.log").read_text("utf-8", "replace")
                raise SystemExit(f"the monitor does not watch {pool.group}; it said:\n{log[-4000:]}")
            time.sleep(0.1)

    def pids(self) -> Iterable[int]:
        """Return the daemon and all that it has started."""
        parents = {int(path.name): _parent(path) for path in Path("/proc").glob("[0-9]*")}
        family = {self._process.pid}
        while more := {pid for pid, parent in parents.items() if parent in family} - family:
            family |= more
        return family


def _is_dmeventds(pool: FilledPool) -> bool:
    command = ("lvs", "--noheadings", "--options", "seg_monitor", f"{pool.group}/{LV}")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "monitored"


def _is_looked_at(pool: FilledPool) -> bool:
    try:
        report = decode_report(Path(REPORT_PATH).read_bytes())
    except (OSError, msgspec.DecodeError):
        return False
    return any(
        known.group == pool.group and known.looked_at > pool.begun_at and known.state == "healthy"
        for known in report.pools
    )


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text("utf-8").rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _resident_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)
