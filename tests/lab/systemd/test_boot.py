"""Boot and hot-plug with the units and rules as installed: engines start behind their pools, or not at all."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from boot_lab import (
    APPLY,
    DOCKER,
    NOT_READY,
    SCSI_DISK,
    SERIAL,
    InstalledTool,
    has_started,
    installed,
    log_of,
    plug,
    pull,
    result,
    runs_of,
    scsi_host,
    shown,
    state,
    until,
    wait_for_end,
)
from docker_lab import DATA_ROOT, storage
from lab_tool import group_names, is_blank, sh

from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]
SIZE = 3 * 2**30
BY_SERIAL = f'[[pools.docker.match]]\nserial = "{SERIAL}"\n'
ON_POOL = ("devicemapper", "docker-thinpool")
# Linux 6.1, drivers/md/dm-thin-metadata.c: struct thin_disk_superblock, SUPERBLOCK_CSUM_XOR
SUPERBLOCK_BYTES, CHECKSUM_XOR, NEEDS_CHECK = 4096, 160774, 1


@pytest.fixture
def tool() -> Iterator[InstalledTool]:
    with installed() as found:
        yield found


@pytest.fixture
def hasty() -> Iterator[InstalledTool]:
    """Give a host whose units wait for no disk."""
    with installed(wait_seconds=0) as found:
        yield found


def on(disk: LoopDisk) -> str:
    return f'[pools.docker]\ndevices = ["{disk.path}"]\n'


def test_docker_starts_behind_its_pool(tool: InstalledTool, loop_disks: MakeDisk) -> None:
    tool.want(on(loop_disks(SIZE)))
    assert has_started(DOCKER), log_of(DOCKER)
    assert storage() == ON_POOL
    assert (result(APPLY), state(APPLY)) == ("success", "inactive")
    ended, began = (
        int(shown(unit, f"{name}TimestampMonotonic"))
        for unit, name in ((APPLY, "InactiveEnter"), (DOCKER, "ExecMainStart"))
    )
    assert 0 < ended < began
    assert not NOT_READY.exists()
    assert tool("plan").code == 0


@pytest.mark.campaign
def test_a_disk_that_comes_late_is_waited_for(tool: InstalledTool) -> None:
    tool.want(BY_SERIAL)
    with scsi_host():
        sh("systemctl", "start", "--no-block", DOCKER)
        until(lambda: "Waiting up to 60 seconds for pools.docker.match[0]" in log_of(APPLY))
        assert state(DOCKER) == "inactive"
        plug()
        until(lambda: state(DOCKER) == "active")
        assert storage() == ON_POOL
        assert runs_of(APPLY) >= 1
        sh("systemctl", "stop", "docker.socket", DOCKER)
        tool.succeed("destroy", "docker", "--yes", "--allow", "destroy")


@pytest.mark.campaign
def test_without_its_disk_docker_does_not_start_and_the_disk_makes_the_pool(hasty: InstalledTool) -> None:
    hasty.want(BY_SERIAL)
    with scsi_host():
        assert not has_started(DOCKER)
        assert "pools.docker.match[0] must match exactly 1 disk, and none match" in log_of(APPLY)
        assert "Dependency failed for docker.service" in log_of(DOCKER)
        assert (result(APPLY), state(DOCKER), NOT_READY.exists()) == ("exit-code", "inactive", True)
        # Nor round the dependencies, and never on loop files.
        sh("systemctl", "start", "--job-mode=ignore-dependencies", DOCKER, check=False)
        assert (state(DOCKER), "Assertion failed" in log_of(DOCKER)) == ("inactive", True)
        assert not (DATA_ROOT / "devicemapper").exists()

        runs = runs_of(APPLY)
        plug()
        until(lambda: "docker" in group_names() and state(APPLY) == "inactive")
        assert (runs_of(APPLY), hasty.pool()["state"], NOT_READY.exists()) == (runs + 1, "healthy", False)
        assert has_started(DOCKER)
        assert storage() == ON_POOL
        sh("systemctl", "stop", "docker.socket", DOCKER)
        # What takes the label off is a change of the disk: it must not have the pool made anew.
        runs = runs_of(APPLY)
        hasty.succeed("destroy", "docker", "--yes", "--allow", "destroy")
        sh("udevadm", "settle")
        assert (state(APPLY), runs_of(APPLY), group_names()) == ("inactive", runs, set())


@pytest.mark.campaign
def test_a_disk_with_another_serial_becomes_no_pool(hasty: InstalledTool) -> None:
    hasty.want(BY_SERIAL.replace(SERIAL, "WD-1"), engine="")
    with scsi_host():
        runs = runs_of(APPLY)
        plug()
        wait_for_end(APPLY, runs + 1)
        assert (result(APPLY), group_names(), is_blank(SCSI_DISK)) == ("exit-code", set(), True)
        assert "Fails only serial: /dev/sda" in log_of(APPLY)


@pytest.mark.campaign
def test_a_missing_physical_volume_comes_back_and_the_pool_with_it(hasty: InstalledTool, loop_disks: MakeDisk) -> None:
    disk = loop_disks()
    # It asks, too, and without a configuration for nothing; a run that is under way counts for both disks.
    sh("udevadm", "settle")
    until(lambda: state(APPLY) == "inactive")
    hasty.want(f'[pools.docker]\ndevices = ["{disk.path}", "{SCSI_DISK}"]\n', engine="")
    with scsi_host():
        plug()
        until(lambda: hasty.pool()["state"] == "healthy" and state(APPLY) == "inactive")
        sh("vgchange", "-q", "--activate", "n", "docker")
        pull()
        assert not has_started(APPLY)
        assert f"{SCSI_DISK} is missing" in log_of(APPLY)
        assert hasty.pool()["state"] == "partial"
        plug()
        until(lambda: hasty.pool()["state"] == "healthy")
        until(lambda: state(APPLY) in {"inactive", "failed"})
        assert (result(APPLY), hasty("plan").code) == ("success", 0)
        hasty.succeed("destroy", "docker", "--yes", "--allow", "destroy")


@pytest.mark.campaign
def test_a_spare_disk_that_died_keeps_no_pool_from_being_activated(tool: InstalledTool, loop_disks: MakeDisk) -> None:
    disk, dead = loop_disks(SIZE), "/dev/disk/by-id/dead"
    tool.want(on(disk))
    tool.succeed("apply", "--yes")
    sh("vgchange", "-q", "--activate", "n", "docker")
    tool.want(f'{on(disk)}spare_devices = ["{dead}"]\n')
    assert tool.pool()["state"] == "inactive"
    assert has_started(DOCKER), log_of(APPLY)
    assert (result(APPLY), tool.pool()["state"], storage()) == ("success", "healthy", ON_POOL)
    assert (f"seconds for {dead}" in log_of(APPLY), f"{dead} is missing" in log_of(APPLY)) == (False, True)


@pytest.mark.campaign
def test_a_spare_disk_that_the_pool_is_on_is_waited_for(tool: InstalledTool, loop_disks: MakeDisk) -> None:
    tool.want(f'{on(loop_disks(SIZE))}spare_devices = ["{SCSI_DISK}"]\n', engine="")
    with scsi_host():
        plug()
        assert has_started(APPLY), log_of(APPLY)
        tool.succeed("extend", "docker", "--add-device", str(SCSI_DISK), "--yes")
        sh("vgchange", "-q", "--activate", "n", "docker")
        pull()
        sh("systemctl", "start", "--no-block", APPLY)
        until(lambda: f"Waiting up to 60 seconds for {SCSI_DISK}" in log_of(APPLY))
        plug()
        until(lambda: state(APPLY) == "inactive")
        assert (result(APPLY), tool.pool()["state"]) == ("success", "healthy")
        tool.succeed("destroy", "docker", "--yes", "--allow", "destroy")


@pytest.mark.campaign
def test_docker_does_not_start_on_a_pool_that_needs_a_check(hasty: InstalledTool, loop_disks: MakeDisk) -> None:
    disk = loop_disks(SIZE)
    hasty.want(on(disk))
    hasty.succeed("apply", "--yes")
    *_, offset = sh("dmsetup", "table", "docker-thinpool_tmeta").split()
    sh("vgchange", "-q", "--activate", "n", "docker")
    set_needs_check(disk.path, int(offset) * 512)
    assert not has_started(DOCKER)
    assert hasty.pool()["state"] == "needs_check"
    assert "needs_check" in log_of(APPLY)
    assert (result(APPLY), state(DOCKER), (DATA_ROOT / "devicemapper").exists()) == ("exit-code", "inactive", False)


def set_needs_check(path: Path, offset_bytes: int) -> None:
    """Set the flag in the superblock of thin metadata, as the kernel does when a write of its metadata has failed."""
    fd = os.open(path, os.O_RDWR | os.O_SYNC)
    try:
        block = bytearray(os.pread(fd, SUPERBLOCK_BYTES, offset_bytes))
        assert struct.unpack_from("<Q", block, 32) == (27022010,)
        block[4] |= NEEDS_CHECK
        struct.pack_into("<I", block, 0, crc32c(bytes(block[4:])) ^ CHECKSUM_XOR)
        os.pwrite(fd, block, offset_bytes)
    finally:
        os.close(fd)


def crc32c(content: bytes) -> int:
    """Return the kernel's crc32c(~0, content), which is not inverted at its end."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


@pytest.mark.campaign
@pytest.mark.parametrize("is_done", [False, True])
def test_a_run_that_was_cut_short_is_finished_by_the_next_start(
    tool: InstalledTool, loop_disks: MakeDisk, *, is_done: bool
) -> None:
    tool.want(on(loop_disks(SIZE)))
    program = Path("/usr/local/sbin/lvcreate")
    program.write_text(f"#!/bin/sh\n{'/usr/sbin/lvcreate $@' if is_done else ''}\nkill -9 $PPID\n", "utf-8")
    program.chmod(0o755)
    try:
        assert not has_started(DOCKER)
    finally:
        program.unlink()
    assert (result(APPLY), state(DOCKER), NOT_READY.exists()) == ("signal", "inactive", True)
    assert has_started(DOCKER), log_of(APPLY)
    assert storage() == ON_POOL
    assert sh("lvs", "--noheadings", "--options", "lv_name", "docker").split() == ["thinpool"]
    assert not NOT_READY.exists()


@pytest.mark.campaign
def test_a_run_by_hand_starts_docker_although_docker_waits_for_the_unit(
    tool: InstalledTool, loop_disks: MakeDisk
) -> None:
    tool.want(on(loop_disks(SIZE)))
    assert has_started(DOCKER)
    tool.succeed("deactivate", "docker", "--yes", "--allow", "outage")
    assert (state(DOCKER), tool.pool()["state"]) == ("inactive", "inactive")
    tool.succeed("activate", "docker", "--yes")
    assert (state(DOCKER), storage()) == ("active", ON_POOL)
    assert "has left nothing to do here" in log_of(APPLY)
    # Stopped by a run that did not start it again: the unit starts it without waiting for it.
    tool.succeed("deactivate", "docker", "--yes", "--allow", "outage")
    assert has_started(APPLY), log_of(APPLY)
    until(lambda: state(DOCKER) == "active")
    assert storage() == ON_POOL
    # A restart goes through the unit, too, and leaves the pool as it is.
    runs = runs_of(APPLY)
    sh("systemctl", "restart", DOCKER)
    assert (runs_of(APPLY) > runs, storage()) == (True, ON_POOL)


@pytest.mark.campaign
def test_without_a_configuration_docker_starts_as_ever(tool: InstalledTool) -> None:
    assert not tool.config.exists()
    sh("systemctl", "start", DOCKER)
    assert (state(DOCKER), runs_of(APPLY) > 0, storage()[0]) == ("active", True, storage()[0])


@pytest.mark.campaign
def test_a_configuration_that_is_given_up_holds_nobody_up(hasty: InstalledTool) -> None:
    hasty.want(BY_SERIAL)
    assert not has_started(DOCKER)
    assert NOT_READY.exists()
    hasty.config.unlink()
    assert has_started(DOCKER), log_of(DOCKER)


@pytest.mark.campaign
def test_a_running_docker_is_not_stopped_through_the_unit(tool: InstalledTool, loop_disks: MakeDisk) -> None:
    tool.want(on(loop_disks(SIZE)))
    assert has_started(DOCKER)
    for verb in ("stop", "restart"):
        refused = subprocess.run(["systemctl", verb, APPLY], capture_output=True, text=True, check=False)
        assert (refused.returncode != 0, "may be requested by dependency only" in refused.stderr) == (True, True)
    assert has_started(APPLY), log_of(APPLY)
    assert state(DOCKER) == "active"
