"""Disks that must never be written to, as the real kernel and the real tools make them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from lab_tool import Tool, fingerprint, group_names, is_blank, sh

from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]
SIZE = 512 * 2**20


def refuse(tool: Tool, disk: LoopDisk, code: str, *, exit_code: int = 3) -> None:
    """Plan and apply refuse the disk with this code, say its name, and leave each byte as it was."""
    before = fingerprint(disk.path)
    planned = tool("plan", "--json")
    assert planned.code == exit_code
    assert [refusal["code"] for refusal in planned.document["refusals"]][:1] == [code]
    applied = tool("apply", "--yes", "--allow", "destroy,outage")
    assert applied.code == exit_code
    assert str(disk.path) in applied.err
    assert fingerprint(disk.path) == before
    assert "docker" not in group_names()


MAKERS: dict[str, tuple[tuple[str, ...], str]] = {
    "ext4": (("mkfs.ext4", "-q"), ""),
    "xfs": (("mkfs.xfs", "-q"), ""),
    "swap": (("mkswap",), ""),
    "orphan pv": (("pvcreate", "-q"), ""),
    "gpt": (("sfdisk", "-q"), "label: gpt\n"),
    "dos": (("sfdisk", "-q"), "label: dos\n"),
}


def make(disk: LoopDisk, kind: str) -> None:
    command, text = MAKERS[kind]
    if text:
        sh("sh", "-c", f"printf '{text}' | {' '.join(command)} {disk.path}")
    else:
        sh(*command, disk.path)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.campaign if kind in {"xfs", "swap", "dos"} else ()) for kind in MAKERS],
)
def test_any_signature_is_refused(tool: Tool, loop_disks: MakeDisk, kind: str) -> None:
    disk = loop_disks(SIZE)
    make(disk, kind)
    tool.configure(disk.path)
    refuse(tool, disk, "DISK_HAS_SIGNATURE")


@pytest.mark.parametrize("kind", ["ext4", *(pytest.param(k, marks=pytest.mark.campaign) for k in ("gpt", "orphan pv"))])
def test_wipe_signatures_lets_old_ones_go_when_destroying_is_allowed(
    tool: Tool, loop_disks: MakeDisk, kind: str
) -> None:
    disk = loop_disks(SIZE)
    make(disk, kind)
    tool.configure(disk.path, extra="wipe_signatures = true")
    before = fingerprint(disk.path)
    refused = tool("apply", "--yes")
    assert refused.code == 3
    assert "--allow destroy" in refused.err
    assert fingerprint(disk.path) == before
    tool.succeed("apply", "--yes", "--allow", "destroy")
    assert tool.pool()["state"] == "healthy"


def test_wipe_signatures_never_lifts_a_mount(tool: Tool, loop_disks: MakeDisk, tmp_path: Path) -> None:
    disk = loop_disks(SIZE)
    make(disk, "ext4")
    point = tmp_path / "mnt"
    point.mkdir()
    sh("mount", "-o", "ro,noload", disk.path, point)
    tool.configure(disk.path, extra="wipe_signatures = true")
    refuse(tool, disk, "DISK_MOUNTED")
    sh("umount", point)


def test_swap_in_use_is_refused(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks(SIZE)
    make(disk, "swap")
    tool.configure(disk.path, extra="wipe_signatures = true")
    sh("swapon", disk.path)
    try:
        refuse(tool, disk, "DISK_IS_SWAP")
    finally:
        sh("swapoff", disk.path)


def test_a_disk_held_by_device_mapper_is_refused(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks(SIZE)
    sh("dmsetup", "create", "held", "--table", f"0 1000 linear {disk.path} 0")
    tool.configure(disk.path, extra="wipe_signatures = true")
    refuse(tool, disk, "DISK_HELD")
    sh("dmsetup", "remove", "held")


def test_a_disk_under_a_loop_device_is_refused(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks(SIZE)
    loop = sh("losetup", "--find", "--show", "--offset", str(100 * 2**20), disk.path).strip()
    try:
        sh("mkfs.ext4", "-q", loop)
        tool.configure(disk.path, extra="wipe_signatures = true")
        refuse(tool, disk, "DISK_HELD")
    finally:
        sh("losetup", "--detach", loop)


def test_a_logical_volume_is_refused(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks(SIZE)
    sh("vgcreate", "-q", "others", disk.path)
    sh("lvcreate", "-q", "-y", "-L", "200M", "-n", "lv", "others")
    tool.configure("/dev/others/lv", extra="wipe_signatures = true")
    planned = tool("plan", "--json")
    assert planned.code == 3
    assert [refusal["code"] for refusal in planned.document["refusals"]] == ["DISK_IS_LV"]


def test_a_copy_of_our_disk_makes_the_pool_unknown(tool: Tool, loop_disks: MakeDisk) -> None:
    disk, copy = loop_disks(SIZE), loop_disks(SIZE)
    tool.configure(disk.path)
    tool.succeed("apply", "--yes")
    tool.succeed("deactivate", "docker", "--yes")
    sh("dd", f"if={disk.path}", f"of={copy.path}", "bs=1M", "conv=fsync")
    sh("udevadm", "settle")
    assert tool.pool()["state"] == "unknown"
    for command in (("apply",), ("destroy", "docker"), ("activate", "docker")):
        assert tool(*command, "--yes", "--allow", "destroy,outage").code == 3
    sh("wipefs", "--all", "--force", copy.path)
    sh("udevadm", "settle")
    tool.succeed("apply", "--yes")
    assert tool.pool()["state"] == "healthy"


def test_a_disk_opened_exclusively_is_refused(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks(SIZE)
    tool.configure(disk.path, extra="wipe_signatures = true")
    descriptor = os.open(disk.path, os.O_RDWR | os.O_EXCL)
    try:
        refuse(tool, disk, "DISK_OPEN")
    finally:
        os.close(descriptor)


def test_a_disk_of_another_group_is_refused(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks(SIZE)
    sh("vgcreate", "-q", "others", disk.path)
    tool.configure(disk.path, extra="wipe_signatures = true")
    refuse(tool, disk, "DISK_IN_GROUP")


def test_a_disk_that_cannot_be_read_is_refused(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks(SIZE)
    sectors = SIZE // 512
    sh("dmsetup", "create", "broken", "--table", f"0 {sectors} error")
    tool.configure("/dev/mapper/broken", extra="wipe_signatures = true")
    planned = tool("plan", "--json")
    assert planned.code == 3
    assert "DISK_UNKNOWN" in [refusal["code"] for refusal in planned.document["refusals"]]
    assert tool("apply", "--yes", "--allow", "destroy").code == 3
    sh("dmsetup", "remove", "broken")
    assert is_blank(disk.path)


def test_a_tiny_disk_is_refused(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks(4 * 2**20)
    tool.configure(disk.path)
    refuse(tool, disk, "DISK_TOO_SMALL")


def test_one_bad_disk_keeps_the_good_one_untouched(tool: Tool, loop_disks: MakeDisk) -> None:
    good, bad = loop_disks(SIZE), loop_disks(SIZE)
    make(bad, "ext4")
    tool.configure(good.path, bad.path)
    refuse(tool, bad, "DISK_HAS_SIGNATURE")
    assert is_blank(good.path)


def test_a_bad_pool_keeps_the_good_one_unbuilt(tool: Tool, loop_disks: MakeDisk) -> None:
    good, bad = loop_disks(SIZE), loop_disks(SIZE)
    make(bad, "xfs")
    tool.configure(good.path, extra=f'[pools.second]\ndevices = ["{bad.path}"]')
    refuse(tool, bad, "DISK_HAS_SIGNATURE")
    assert is_blank(good.path)


def test_the_same_disk_through_a_link_is_a_configuration_error(
    tool: Tool, loop_disks: MakeDisk, tmp_path: Path
) -> None:
    disk = loop_disks(SIZE)
    link = tmp_path / "link"
    link.symlink_to(disk.path)
    tool.configure(disk.path, link)
    refuse(tool, disk, "SAME_DISK_TWICE", exit_code=78)


def test_a_missing_device_and_a_file_are_named(tool: Tool, tmp_path: Path) -> None:
    tool.configure("/dev/disk/by-id/virtio-nothing")
    missing = tool("apply", "--yes")
    assert missing.code == 3
    assert "/dev/disk/by-id/virtio-nothing is missing" in missing.err
    file = tmp_path / "file"
    file.write_bytes(b"\0" * 2**20)
    tool.configure(file)
    no_device = tool("apply", "--yes")
    assert no_device.code == 3
    assert f"{file} is not a block device" in " ".join(no_device.err.split())
    assert file.read_bytes() == b"\0" * 2**20


def test_a_stable_name_reaches_the_disk(tool: Tool, loop_disks: MakeDisk, tmp_path: Path) -> None:
    disk = loop_disks(SIZE)
    link = tmp_path / "by-id"
    link.symlink_to(disk.path)
    tool.configure(link)
    tool.succeed("apply", "--yes")
    assert tool.pool()["devices"][0]["path"] == str(disk.path)
    tool.succeed("destroy", "docker", "--yes", "--allow", "destroy")
    assert is_blank(disk.path)


def test_a_second_run_is_told_who_holds_the_lock(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks(SIZE).path)
    from thinpoolmgr.host.store import Store

    with Store().lock("apply"):
        locked = tool("apply", "--yes")
    assert locked.code == 75
    assert f"pid {os.getpid()}, apply" in locked.err
    with closing(open("/run/thinpoolmgr/lock", encoding="utf-8")):
        tool.succeed("apply", "--yes")
