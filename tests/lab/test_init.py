"""`init` on a host with real disks, and the life of the pool that it describes."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from device_lab import SIZE, MakeDisk, live, look_at, multipath, partitions
from lab_tool import Tool, fingerprint, sh


def init(tool: Tool, *arguments: str) -> Any:
    """Return the document of `init`, which must succeed."""
    return tool.succeed("init", "--json", *arguments).document


def test_init_finds_the_blank_disk_among_others(tool: Tool, loop_disks: MakeDisk, tmp_path: Path) -> None:
    blank, mounted, signed = loop_disks(SIZE), loop_disks(SIZE), loop_disks(SIZE)
    point = tmp_path / "mnt"
    point.mkdir()
    sh("mkfs.ext4", "-q", mounted.path)
    sh("mount", "-o", "ro,noload", mounted.path, point)
    sh("mkfs.xfs", "-q", signed.path)
    before = [fingerprint(disk.path) for disk in (blank, mounted, signed)]

    answer = tool.succeed("init")

    lines = [line for line in answer.out.splitlines() if "loop" in line]
    assert lines[0].split()[:2] == [str(blank.path), "512"]
    assert f"{mounted.path} is mounted on {point}" in " ".join(answer.out.split())
    assert f"{signed.path} carries a signature: xfs at byte 0" in " ".join(answer.out.split())
    assert [fingerprint(disk.path) for disk in (blank, mounted, signed)] == before
    assert stat.S_IMODE(tool.config.stat().st_mode) == 0o644
    text = tool.config.read_text()
    again = tool("init")
    assert (again.code, "[CONFIG_EXISTS]" in again.err, tool.config.read_text()) == (3, True, text)
    tool.succeed("config", "check")
    live(tool, blank.path)
    assert [fingerprint(disk.path) for disk in (mounted, signed)] == before[1:]
    sh("umount", point)


def test_init_says_of_each_disk_why_not(tool: Tool, loop_disks: MakeDisk) -> None:
    blank, member, path = loop_disks(SIZE), loop_disks(SIZE), loop_disks(SIZE)
    sh("vgcreate", "-q", "others", member.path)
    with multipath(path) as whole:
        document = init(tool)
        assert {disk["path"] for disk in document["candidates"]} >= {str(blank.path), look_at(whole).path}
        codes_by_path = {found["path"]: found["code"] for found in document["rejected"]}
        assert codes_by_path[str(member.path)] == "DISK_IN_GROUP"
        assert codes_by_path[str(path.path)] == "DISK_HELD"
    assert (document["written"], document["devices"]) == (True, [])
    checked = tool("config", "check")
    assert (checked.code, "found no device" in checked.err) == (78, True)


def test_init_takes_the_devices_that_are_named(tool: Tool, loop_disks: MakeDisk, tmp_path: Path) -> None:
    with partitions(loop_disks(SIZE)) as (first, second):
        document = init(tool, "--device", str(second), "--engine", "docker")
        assert document["devices"] == [str(second)]
        tool.succeed("config", "check")
        tool.config.unlink()
        link = tmp_path / "link"
        link.symlink_to(first)
        refused = tool("init", "--device", str(first), "--device", str(link))
        assert (refused.code, tool.config.exists()) == (78, False)
        sh("mkfs.ext4", "-q", first)
        refused = tool("init", "--device", str(first))
        assert (refused.code, "DISK_HAS_SIGNATURE" in refused.err, tool.config.exists()) == (3, True, False)
        refused = tool("init", "--device", "/dev/nothing")
        assert (refused.code, "/dev/nothing is missing" in refused.err, tool.config.exists()) == (3, True, False)


def test_init_without_a_blank_disk_writes_nothing(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks(SIZE)
    sh("mkswap", disk.path)
    answer = tool("init")
    assert (answer.code, tool.config.exists()) == (3, False)
    assert "no disk of this host is blank and unused [NO_CANDIDATE]" in " ".join(answer.err.split())
    assert f"{disk.path} (512 MiB): {disk.path} carries a signature: swap" in " ".join(answer.err.split())
