"""Loop disks on a real kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from thinpoolmgr.lab.loop import IMAGE_PREFIX, LoopDisk, sweep

if TYPE_CHECKING:
    from collections.abc import Callable

MEBIBYTE = 1 << 20


def sysfs(disk: LoopDisk, attribute: str) -> str:
    return Path("/sys/block", disk.path.name, attribute).read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_disk_has_the_size_and_the_sectors_asked_for(loop_disks: Callable[..., LoopDisk], sector_size: int) -> None:
    disk = loop_disks(size_bytes=64 * MEBIBYTE, sector_size=sector_size)
    assert disk.path.is_block_device()
    assert int(sysfs(disk, "size")) * 512 == 64 * MEBIBYTE
    assert int(sysfs(disk, "queue/logical_block_size")) == sector_size
    assert sysfs(disk, "loop/backing_file") == str(disk.image)


def test_content_outlives_a_detach(loop_disks: Callable[..., LoopDisk]) -> None:
    disk = loop_disks(size_bytes=MEBIBYTE)
    # unbuffered: udev may have the disk open, and then closing it writes nothing back
    with disk.path.open("r+b", buffering=0) as file:
        file.write(b"kept")
        os.fsync(file.fileno())
    disk.detach()
    with disk.attach().open("rb") as file:
        assert file.read(4) == b"kept"


def test_nothing_is_left_when_the_body_fails(tmp_path: Path) -> None:
    devices = []

    def fail_with_a_disk() -> None:
        with LoopDisk(MEBIBYTE, directory=tmp_path) as disk:
            devices.append(disk.path.name)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_with_a_disk()
    assert not any(tmp_path.iterdir())
    # udev, which has it open to look at it, may be the last to let go
    subprocess.run(("udevadm", "settle"), check=True)
    assert not Path("/sys/block", devices[0], "loop").exists()


def test_disk_that_cannot_be_made_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thinpoolmgr.lab.loop._CONTROL", tmp_path / "missing")
    with pytest.raises(Exception, match="No loop disk"), LoopDisk(MEBIBYTE, directory=tmp_path):
        pass
    assert not any(tmp_path.iterdir())


def test_sweep_cleans_what_a_killed_process_left(loop_disks: Callable[..., LoopDisk], tmp_path: Path) -> None:
    mine = loop_disks(size_bytes=MEBIBYTE)
    code = (
        "import signal, sys; from pathlib import Path; from thinpoolmgr.lab.loop import LoopDisk; "
        "disk = LoopDisk(1 << 20, directory=Path(sys.argv[1])); print(disk.attach(), flush=True); signal.pause()"
    )
    with subprocess.Popen((sys.executable, "-c", code, str(tmp_path)), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        device = process.stdout.readline().strip()
        assert not sweep(tmp_path), "a living process keeps its disks"
        process.send_signal(signal.SIGKILL)
    (swept,) = sweep(tmp_path)
    assert (swept.device, swept.is_held) == (device, False)
    assert swept.image.name.startswith(IMAGE_PREFIX)
    assert not any(tmp_path.iterdir())
    assert mine.path.is_block_device()


def test_thin_pool_on_a_loop_disk_is_cleaned_up_by_the_fixture(loop_disks: Callable[..., LoopDisk]) -> None:
    disk = loop_disks()
    for command in (
        ("vgcreate", "--quiet", "labvg", str(disk.path)),
        ("lvcreate", "--quiet", "--yes", "--type=thin-pool", "--name=pool", "--extents=50%VG", "labvg"),
        ("lvcreate", "--quiet", "--yes", "--virtualsize=400M", "--thinpool=labvg/pool", "--name=thin"),
        ("mkfs.xfs", "-q", "/dev/labvg/thin"),
        ("mount", "/dev/labvg/thin", "/mnt"),
    ):
        subprocess.run(command, check=True, capture_output=True, text=True)
    assert Path("/dev/mapper/labvg-thin").exists()
