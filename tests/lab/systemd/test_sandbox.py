"""The units' sandboxes: tight, wide enough for LVM, and without a mount namespace that would pin Docker's mounts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from boot_lab import (
    APPLY,
    CHECKOUT,
    MONITOR,
    PROGRAM,
    InstalledTool,
    change_unit,
    has_started,
    installed,
    log_of,
    shown,
)
from lab_tool import sh

from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]
DEVICE = "docker-0:1-2-3c4d"
METRICS = "thinpoolmgr-metrics.service"
ANOTHER_COMMAND = "[Service]\nType={kind}\nWatchdogSec=0\nRestart=no\nExecStart=\nExecStart={command}\n{more}"
# What the monitor does: it listens to udev, asks device-mapper, looks at what is on disks, and has LVM extend pools.
STAND_IN = """
import os, subprocess, sys
import pyudev
from thinpoolmgr.host import dm
from thinpoolmgr.host.blkid import probe_signatures
disk = sys.argv[1]
monitor = pyudev.Monitor.from_netlink(pyudev.Context())
monitor.filter_by("block")
monitor.start()
subprocess.run(["udevadm", "trigger", "--action=change", disk], check=True)
print("udev:", monitor.poll(20).device_node)
print("device-mapper:", *sorted(device.name for device in dm.list_dm_devices()))
print("on the disk:", *(found.type for found in probe_signatures(disk)), flush=True)
os.execv(sys.argv[2], [sys.argv[2], "extend", "docker", "--data", "+128MiB", "--metadata", "+4MiB", "--yes"])
"""


@pytest.fixture
def tool() -> Iterator[InstalledTool]:
    with installed(wait_seconds=0) as found:
        yield found


def on(disk: LoopDisk) -> str:
    return f'[pools.docker]\ndevices = ["{disk.path}"]\ndata_size = "50%VG"\n'


@pytest.mark.parametrize(("unit", "exposure"), [(APPLY, 3.2), (MONITOR, 3.7), (METRICS, 3.3)])
def test_exposures_are_low(unit: str, exposure: float) -> None:
    path = CHECKOUT / "systemd" / unit
    threshold = f"--threshold={exposure * 10:.0f}"
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", threshold, path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-300:]
    assert "Overall exposure level" in done.stdout


@pytest.mark.campaign
def test_lvm_works_in_the_monitors_sandbox(tool: InstalledTool, loop_disks: MakeDisk, tmp_path: Path) -> None:
    disk = loop_disks()
    tool.want(on(disk), engine="")
    assert has_started(APPLY), log_of(APPLY)
    before = tool.pool()
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN, "utf-8")
    environment = f"Environment=PYTHONPATH={os.environ['PYTHONPATH']}\n"
    command = f"/usr/bin/python3 {script} {disk.path} {PROGRAM}"
    change_unit(MONITOR, ANOTHER_COMMAND.format(kind="oneshot", command=command, more=environment))
    assert has_started(MONITOR), log_of(MONITOR)
    said = log_of(MONITOR)
    assert f"udev: {disk.path}" in said
    assert "device-mapper: docker-thinpool docker-thinpool_tdata docker-thinpool_tmeta" in said
    assert "on the disk: LVM2_member" in said
    # LVM says so where it may not lock its memory, set its priority, or do anything else it tries.
    assert not [line for line in said.splitlines() if "failed" in line or "WARNING" in line or "permitted" in line]
    after = tool.pool()
    assert after["data"]["total_bytes"] == before["data"]["total_bytes"] + 128 * 2**20
    assert after["metadata"]["total_bytes"] == before["metadata"]["total_bytes"] + 4 * 2**20


@pytest.mark.campaign
def test_looking_works_in_the_sandbox_of_metrics(tool: InstalledTool, loop_disks: MakeDisk) -> None:
    tool.want(on(loop_disks()), engine="")
    assert has_started(APPLY), log_of(APPLY)
    folder = Path("/var/lib/prometheus/node-exporter")
    folder.mkdir(parents=True, exist_ok=True)
    assert has_started(METRICS), log_of(METRICS)
    said = log_of(METRICS)
    assert "WARNING" not in said
    assert "permitted" not in said
    document = (folder / "thinpoolmgr.prom").read_text("utf-8")
    assert "thinpoolmgr_up 1.0" in document
    assert 'state="healthy"' in document


@pytest.mark.campaign
@pytest.mark.parametrize("has_namespace", [False, True])
def test_a_unit_that_stays_pins_no_mount(
    tool: InstalledTool, loop_disks: MakeDisk, tmp_path: Path, *, has_namespace: bool
) -> None:
    """Shown on the monitor as it is, and on one with ProtectSystem=, which makes a mount namespace.

    Mounted as Docker does it, below a folder whose mounts are private. Docker removes the place after it, too, and from
    Linux 3.18 on copies that nobody uses go with that; whoever only unmounts finds the device busy.
    """
    disk, home = loop_disks(), tmp_path / "home"
    tool.want(on(disk), engine="")
    (home / "mnt").mkdir(parents=True)
    sh("mount", "--bind", home, home)
    sh("mount", "--make-private", home)
    sh("dmsetup", "create", DEVICE, "--table", f"0 {64 * 2048} linear {disk.path} 0")
    sh("mkfs.ext4", "-q", f"/dev/mapper/{DEVICE}")
    sh("mount", f"/dev/mapper/{DEVICE}", home / "mnt")
    more = "ProtectSystem=yes\n" if has_namespace else ""
    change_unit(MONITOR, ANOTHER_COMMAND.format(kind="exec", command="/usr/bin/sleep 1000", more=more))
    sh("systemctl", "start", MONITOR)
    namespaces = {os.readlink(f"/proc/{pid}/ns/mnt") for pid in ("1", shown(MONITOR, "MainPID"))}
    sh("umount", home / "mnt")
    removed = subprocess.run(["dmsetup", "remove", "--retry", DEVICE], capture_output=True, text=True, check=False)
    sh("systemctl", "stop", MONITOR)
    sh("umount", home)
    if has_namespace:
        sh("dmsetup", "remove", "--retry", DEVICE)
    assert (len(namespaces), "busy" in removed.stderr) == ((2, True) if has_namespace else (1, False)), removed.stderr
