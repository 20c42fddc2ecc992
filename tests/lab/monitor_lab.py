"""The monitor as a process of the lab, and what it watches being filled."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import msgspec
from conftest import wait_until
from lab_tool import Tool, sh

from thinpoolmgr.core.model import DmDevice, ThinPoolStatus
from thinpoolmgr.core.report import REPORT_PATH, MonitorReport, WatchedPool, decode_report
from thinpoolmgr.host import dm

MIB = 2**20
TARGET_MESSAGE, HEADER_BYTES, DATA_START_AT = 14, 312, 16
"""Of linux/dm-ioctl.h: DM_TARGET_MSG, the size of struct dm_ioctl, and where its data_start is."""
CHUNK_BYTES = 64 * 1024
WAIT_SECONDS = 60.0
SMALL = 'data_size = "200MiB"\nmetadata_size = "4MiB"\nchunk_size = "64KiB"\n'
"""A pool with much room around it, on a disk of 1 GiB."""


class Monitor:
    """A monitor that runs."""

    def __init__(self, process: subprocess.Popen[str], said: Path) -> None:
        """Keep the process, and the file that it writes to."""
        self.process = process
        self.said = said

    def report(self) -> MonitorReport | None:
        """Return what this monitor tells of itself; None before it told anything."""
        try:
            report = decode_report(Path(REPORT_PATH).read_bytes())
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return report if report.pid == self.process.pid else None

    def pool(self, name: str = "docker") -> WatchedPool:
        """Return what it tells of a pool."""
        report = self.report()
        assert report is not None
        return next(pool for pool in report.pools if pool.name == name)

    def wait(self, is_so: Callable[[WatchedPool], bool], name: str = "docker") -> WatchedPool:
        """Return what it tells of a pool once that is so."""

        def has_come() -> bool:
            assert self.process.poll() is None, self.said.read_text()
            report = self.report()
            return report is not None and any(pool.name == name and is_so(pool) for pool in report.pools)

        wait_until(has_come, WAIT_SECONDS)
        assert has_come(), (self.report(), self.said.read_text())
        return self.pool(name)

    def codes(self, name: str = "docker") -> list[str]:
        """Return the codes of what it finds about a pool."""
        return [found.code for found in self.pool(name).findings]

    def reload(self) -> None:
        """Have it read its configuration again."""
        self.process.send_signal(signal.SIGHUP)


@contextmanager
def running(tool: Tool, state: str = "", name: str = "docker") -> Iterator[Monitor]:
    """Give a monitor that has seen the pool, in this state if one is named; it must end well when it is told to."""
    said = tool.config.with_suffix(".said")
    Path(REPORT_PATH).unlink(missing_ok=True)
    with said.open("w") as out:
        process = subprocess.Popen(tool.argv("monitor"), stdin=subprocess.DEVNULL, stdout=out, stderr=out, text=True)
        monitor = Monitor(process, said)
        try:
            monitor.wait(lambda pool: state in {"", pool.state} and pool.looked_at > 0, name)
            yield monitor
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(WAIT_SECONDS)
    assert process.returncode in (0, -signal.SIGKILL), said.read_text()
    assert "Traceback" not in said.read_text(), said.read_text()


@contextmanager
def thin_device(pool: str = "docker-thinpool", name: str = "thin", number: int = 1) -> Iterator[Path]:
    """Give a thin device of 8 GiB on the pool with this device-mapper name."""
    sh("dmsetup", "message", pool, "0", f"create_thin {number}")
    sh("dmsetup", "create", name, "--table", f"0 {8 * 2**21} thin /dev/mapper/{pool} {number}")
    try:
        yield Path("/dev/mapper") / name
    finally:
        sh("dmsetup", "remove", "--retry", name)


@contextmanager
def held_group(group: str) -> Iterator[None]:
    """Hold the lock that every command of LVM's on this group waits for."""
    path = Path("/run/lock/lvm") / f"V_{group}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fill(device: Path, size_bytes: int, start_bytes: int = 0) -> None:
    """Write so much, past the page cache."""
    words = (f"bs={MIB}", f"count={size_bytes // MIB}", f"seek={start_bytes // MIB}", "oflag=direct", "conv=notrunc")
    sh("dd", "if=/dev/zero", f"of={device}", *words)


def fill_metadata(pool: str, share: float, first: int = 1000) -> int:
    """Make thin devices until so much of the metadata is used, or there are more; return the number of the next one.

    Who fills on while they are extended races with the monitor, up to the last extent of the group.
    """
    number, total = first, status(pool).total_metadata_blocks
    with Path(dm.CONTROL_PATH).open("rb+", buffering=0) as control:
        while used_share(pool) < share and status(pool).total_metadata_blocks == total:
            send_message(control, pool, f"create_thin {number}")
            number += 1
    return number


def send_message(control: FileIO, pool: str, text: str) -> None:
    """Send one message by ioctl: a process for each would take minutes."""
    message = struct.pack("=Q", 0) + text.encode() + b"\0"
    request = dm.pack_request(pool, 0, HEADER_BYTES + len(message))
    struct.pack_into("=I", request, DATA_START_AT, HEADER_BYTES)
    request[HEADER_BYTES : HEADER_BYTES + len(message)] = message
    fcntl.ioctl(control, dm.request_code(TARGET_MESSAGE), request)


def used_share(pool: str) -> float:
    """Return how much of a pool's metadata is used."""
    found = status(pool)
    return found.used_metadata_blocks / found.total_metadata_blocks


def device(pool: str = "docker-thinpool") -> DmDevice:
    """Return the kernel's word on a pool."""
    found = dm.read_device(pool)
    assert found is not None
    return found


def status(pool: str = "docker-thinpool") -> ThinPoolStatus:
    """Return the kernel's status of a pool."""
    found = device(pool).pool_status
    assert found is not None
    return found


def data_bytes(pool: str = "docker-thinpool") -> int:
    """Return how much data the kernel's pool has."""
    return status(pool).total_data_blocks * CHUNK_BYTES


def kill(pid: int) -> None:
    """Kill a process that we started."""
    os.kill(pid, signal.SIGKILL)
