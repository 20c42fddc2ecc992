"""Fixtures of the tests that need a real device-mapper: they run as root inside the lab's guest.

Every test gets its disks from `loop_disks`, and whatever it built on them (mounts, volume groups, device-mapper
devices) is taken down after it. What it leaves elsewhere fails it.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import tenacity
from lab_tool import STATE_FOLDER, Tool

from thinpoolmgr.core.report import LOCK_PATH
from thinpoolmgr.errors import ThinpoolmgrError
from thinpoolmgr.lab.host import check_host
from thinpoolmgr.lab.loop import LoopDisk, LoopDisks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GIBIBYTE: Final = 1 << 30
SYS_BLOCK: Final = Path("/sys/block")
SCRATCH: Final = Path("/lab")
HOW_TO_RUN: Final = "These tests run in the lab: `make test`, or thinpoolmgr lab run --docker --memory 1024 SCRIPT"
WAIT_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.05


@pytest.fixture(scope="session", autouse=True)
def lab_kernel() -> None:
    """Stop with an error, never skip, where there is no device-mapper or no root."""
    try:
        check_host()
    except ThinpoolmgrError as error:
        pytest.fail(f"{error.summary} {HOW_TO_RUN}", pytrace=False)


@pytest.fixture(autouse=True)
def no_leftovers(lab_kernel: None) -> Iterator[None]:  # noqa: ARG001 - first the kernel, then what it holds
    """Fail a test that leaves device-mapper devices or attached loop devices behind."""
    before = dm_names(), attached_loops()
    yield
    wait_until(lambda: dm_names() <= before[0] and attached_loops() <= before[1])
    left = sorted((dm_names() - before[0]) | (attached_loops() - before[1]))
    assert not left, f"the test left block devices behind: {left}"


@pytest.fixture
def tool(no_leftovers: None, tmp_path: Path) -> Iterator[Tool]:  # noqa: ARG001 - its disks are torn down before
    """Return the product's command line, on a host that it has never been run on."""
    shutil.rmtree(STATE_FOLDER, ignore_errors=True)
    yield Tool(tmp_path)
    shutil.rmtree(STATE_FOLDER, ignore_errors=True)


@pytest.fixture
def a_monitor_that_runs() -> Iterator[None]:
    """Hold the monitor's lock, as one that runs does: without one the doctor has a finding more for each pool."""
    path = Path(LOCK_PATH)
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def loop_disks(no_leftovers: None, tmp_path: Path) -> Iterator[Callable[..., LoopDisk]]:  # noqa: ARG001 - torn down first
    """Return a maker of disks: `loop_disks(size_bytes=..., sector_size=...)`; each is a `LoopDisk` with a `path`."""

    def make(size_bytes: int = GIBIBYTE, sector_size: int = 512) -> LoopDisk:
        return disks.add(size_bytes, sector_size=sector_size)

    with LoopDisks(SCRATCH if SCRATCH.is_dir() else tmp_path) as disks:
        yield make
        release(tuple(disk.path for disk in disks.disks))


def release(devices: tuple[Path, ...]) -> None:
    """Take down all that stands on these devices, top first: mounts, foreign dm devices, volume groups, the rest."""
    if not devices:
        return
    unmount({dev_number(name) for device in devices for name in holders(device.name)})
    remove_dm(devices, is_ours=lambda name: not dm_uuid(name).startswith("LVM-"))
    only = ("--devices", ",".join(str(device) for device in devices))
    listed = run("pvs", "--noheadings", "--options", "vg_name", *only, check=False).stdout.split()
    for group in sorted(set(listed)):
        run("vgremove", "--quiet", "--force", "--force", "--yes", *only, group, check=False)
    remove_dm(devices, is_ours=lambda _name: True)
    run("udevadm", "settle", check=False)


def remove_dm(devices: tuple[Path, ...], is_ours: Callable[[str], bool]) -> None:
    """Remove the dm devices on these devices, those on top first, suspended or failed ones too."""
    names = dict.fromkeys(name for device in devices for name in holders(device.name) if is_ours(name))
    for name in names:
        if (SYS_BLOCK / name).is_dir():
            run("dmsetup", "remove", "--retry", "--force", dm_name(name), check=False)


def unmount(numbers: set[str]) -> None:
    """Unmount the file systems on these devices (major:minor), the last mounted first."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    for words in reversed(lines):
        if words[2] in numbers:
            run("umount", words[4], check=False)


def holders(name: str) -> tuple[str, ...]:
    """Return the kernel names of all block devices above one, the top ones first."""
    above = sorted(path.name for path in (SYS_BLOCK / name / "holders").glob("*"))
    upper = tuple(deep for direct in above for deep in holders(direct))
    return tuple(dict.fromkeys((*upper, *above)))


def dm_name(kernel_name: str) -> str:
    """Return the device-mapper name of dm-N."""
    return (SYS_BLOCK / kernel_name / "dm/name").read_text(encoding="utf-8").strip()


def dm_uuid(kernel_name: str) -> str:
    """Return the device-mapper UUID of dm-N."""
    return (SYS_BLOCK / kernel_name / "dm/uuid").read_text(encoding="utf-8").strip()


def dev_number(kernel_name: str) -> str:
    """Return major:minor of a block device."""
    return (SYS_BLOCK / kernel_name / "dev").read_text(encoding="utf-8").strip()


def dm_names() -> set[str]:
    """Return the names of all device-mapper devices."""
    return {
        path.parent.parent.name + " " + path.read_text(encoding="utf-8").strip()
        for path in SYS_BLOCK.glob("dm-*/dm/name")
    }


def attached_loops() -> set[str]:
    """Return the loop devices that have a file."""
    return {path.parent.name for path in SYS_BLOCK.glob("loop*/loop")}


def wait_until(is_true: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    """Wait, not for ever, until something that ends by itself is over."""
    policy = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda result: not result),
        wait=tenacity.wait_fixed(POLL_SECONDS),
        stop=tenacity.stop_after_delay(seconds),
        retry_error_callback=lambda _state: False,
    )
    policy(is_true)


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command of the clean-up and return what it said."""
    return subprocess.run(command, check=check, capture_output=True, text=True, stdin=subprocess.DEVNULL)
