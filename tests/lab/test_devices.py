"""Partitions, multipath devices, and several devices in one pool, on the real kernel with the real LVM."""

from __future__ import annotations

from pathlib import Path

import pytest
from device_lab import SIZE, MakeDisk, codes, live, look_at, multipath, partitions
from lab_tool import Tool, fingerprint, is_blank, sh


@pytest.mark.campaign
def test_a_partition_carries_a_pool(tool: Tool, loop_disks: MakeDisk) -> None:
    with partitions(loop_disks(SIZE)) as (first, second):
        assert look_at(first).kind == "partition"
        before = fingerprint(second)
        tool.configure(first)
        live(tool, first)
        assert fingerprint(second) == before


@pytest.mark.campaign
def test_two_partitions_carry_one_pool(tool: Tool, loop_disks: MakeDisk) -> None:
    with partitions(loop_disks(SIZE)) as (first, second):
        tool.configure(first, second)
        live(tool, first, second)


def test_a_partition_beside_a_mounted_one_is_taken_the_mounted_one_is_not(
    tool: Tool, loop_disks: MakeDisk, tmp_path: Path
) -> None:
    point = tmp_path / "mnt"
    point.mkdir()
    with partitions(loop_disks(SIZE)) as (first, second):
        sh("mkfs.ext4", "-q", second)
        sh("mount", second, point)
        try:
            tool.configure(second, extra="wipe_signatures = true")
            assert codes(tool) == ["DISK_MOUNTED"]
            tool.configure(str(first)[:-2], extra="wipe_signatures = true")
            assert codes(tool) == ["DISK_MOUNTED"]
            tool.configure(first)
            live(tool, first)
        finally:
            sh("umount", point)


def test_a_disk_whose_partition_carries_a_pool_is_refused(tool: Tool, loop_disks: MakeDisk) -> None:
    with partitions(loop_disks(SIZE)) as (first, _):
        tool.configure(first)
        tool.succeed("apply", "--yes")
        tool.configure(str(first)[:-2], name="second", extra="wipe_signatures = true")
        refused = codes(tool)
        assert refused
        assert set(refused) <= {"DISK_HELD", "DISK_IN_GROUP"}
        tool.configure(first, str(first)[:-2])
        assert tool("plan").code == 78
        tool.configure(first)
        tool.succeed("destroy", "docker", "--yes", "--allow", "destroy")


def test_a_multipath_device_carries_a_pool(tool: Tool, loop_disks: MakeDisk) -> None:
    with multipath(loop_disks(SIZE)) as whole:
        assert look_at(whole).kind == "multipath"
        tool.configure(whole)
        live(tool, whole)


@pytest.mark.campaign
def test_a_multipath_device_and_a_disk_carry_one_pool(tool: Tool, loop_disks: MakeDisk) -> None:
    other = loop_disks(SIZE)
    with multipath(loop_disks(SIZE)) as whole:
        tool.configure(whole, other.path)
        live(tool, whole, other.path)


def test_a_path_of_a_multipath_device_is_refused_with_the_devices_name(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks(SIZE)
    with multipath(disk) as whole:
        tool.configure(disk.path, extra="wipe_signatures = true")
        answer = tool("apply", "--yes", "--allow", "destroy")
        assert (answer.code, codes(tool)) == (3, ["DISK_HELD"])
        assert f"name the multipath device {whole} instead" in " ".join(answer.err.split())
        tool.configure(whole, disk.path)
        assert "DISK_HELD" in codes(tool)
    assert is_blank(disk.path)


@pytest.mark.campaign
def test_two_disks_carry_one_pool(tool: Tool, loop_disks: MakeDisk) -> None:
    disks = loop_disks(SIZE), loop_disks(SIZE)
    tool.configure(*(disk.path for disk in disks))
    live(tool, *(disk.path for disk in disks))
