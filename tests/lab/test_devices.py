"""Partitions, multipath devices, several devices in one pool, and selectors, on the real kernel with the real udev."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lab_tool import Tool, fingerprint, group_names, is_blank, sh

from thinpoolmgr.core.model import Disk
from thinpoolmgr.host import block, udev
from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]
MIB = 2**20
SIZE = 512 * MIB
# two partitions of 200 MiB
LVM_LOCAL = Path("/etc/lvm/lvmlocal.conf")
TABLE = "label: gpt\nsize=200MiB\nsize=200MiB\n"


def look_at(path: Path | str) -> Disk:
    """Return what the product sees of a device."""
    node = block.resolve_device(str(path)).disk
    return block.observe_disk(node, udev.device_properties(block.Roots().devno(node)))


@contextmanager
def partitions(disk: LoopDisk) -> Iterator[tuple[Path, Path]]:
    """Give two partitions: a second loop device on the disk's file that the kernel reads the table of."""
    sh("sh", "-c", f"printf '{TABLE}' | sfdisk -q {disk.path}")
    disk.detach()
    sh("udevadm", "settle")
    whole = sh("losetup", "--find", "--show", "--partscan", disk.image).strip()
    sh("udevadm", "settle")
    try:
        yield Path(f"{whole}p1"), Path(f"{whole}p2")
    finally:
        sh("vgremove", "-q", "-ff", "-y", "docker", check=False)
        sh("losetup", "--detach", whole)
        sh("udevadm", "settle")
        disk.attach()


@contextmanager
def multipath(disk: LoopDisk, name: str = "test") -> Iterator[Path]:
    """Give a device that looks like multipath's, with `disk` as its only path.

    LVM knows the paths of SCSI and NVMe disks by itself (lib/device/dev-mpath.c); here a filter does the same.
    """
    LVM_LOCAL.write_text(f'devices {{ global_filter = ["r|^{disk.path}$|"] }}\n')
    table = f"0 {disk.size_bytes // 512} linear {disk.path} 0"
    sh("dmsetup", "create", name, "--uuid", f"mpath-{name}", "--table", table)
    sh("udevadm", "settle")
    try:
        yield Path("/dev/mapper") / name
    finally:
        sh("vgremove", "-q", "-ff", "-y", "docker", check=False)
        sh("dmsetup", "remove", "--retry", name)
        LVM_LOCAL.unlink()


def live(tool: Tool, *devices: Path | str) -> None:
    """Go through a pool's whole life on `devices`, which are blank at its end."""
    nodes = {block.resolve_device(str(device)).disk for device in devices}
    tool.succeed("apply", "--yes")
    assert tool("plan").code == 0
    found = tool.pool()
    assert (found["state"], {device["path"] for device in found["devices"]}) == ("healthy", nodes)
    assert tool.succeed("status", "--check").code == 0
    tool.succeed("deactivate", "docker", "--yes")
    assert tool.pool()["state"] == "inactive"
    tool.succeed("activate", "docker", "--yes")
    assert tool.pool()["state"] == "healthy"
    tool.succeed("destroy", "docker", "--yes", "--allow", "destroy")
    assert "docker" not in group_names()
    assert all(is_blank(Path(node)) for node in nodes)
    assert tool.pool()["state"] == "absent"


def codes(tool: Tool) -> list[str]:
    """Return the codes of what a plan refuses."""
    return [refusal["code"] for refusal in tool("plan", "--json").document["refusals"]]


def test_a_partition_carries_a_pool(tool: Tool, loop_disks: MakeDisk) -> None:
    with partitions(loop_disks(SIZE)) as (first, second):
        assert look_at(first).kind == "partition"
        before = fingerprint(second)
        tool.configure(first)
        live(tool, first)
        assert fingerprint(second) == before


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


def test_two_disks_carry_one_pool(tool: Tool, loop_disks: MakeDisk) -> None:
    disks = loop_disks(SIZE), loop_disks(SIZE)
    tool.configure(*(disk.path for disk in disks))
    live(tool, *(disk.path for disk in disks))


def select(tool: Tool, *selectors: str, extra: str = "") -> None:
    """Write a configuration with one pool and these selectors."""
    tables = "\n".join(f"[[pools.docker.match]]\n{selector}\n" for selector in selectors)
    tool.config.write_text(f"version = 1\n[pools.docker]\n{extra}\n{tables}", "utf-8")


def test_selectors_choose_the_disks_of_a_pool(tool: Tool, loop_disks: MakeDisk) -> None:
    small, *large = loop_disks(300 * MIB), loop_disks(SIZE), loop_disks(SIZE)
    select(tool, 'path = "/dev/loop*"\nmin_size = "400MiB"\ncount = 2')
    planned = tool("plan")
    assert planned.code == 2
    assert 'chosen by match[0]: path = "/dev/loop*", min_size = "400MiB"' in " ".join(planned.out.split())
    live(tool, *(disk.path for disk in large))
    assert is_blank(small.path)


def test_a_disk_that_is_plugged_in_later_disturbs_nothing(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks(SIZE)
    select(tool, 'path = "/dev/loop*"')
    tool.succeed("apply", "--yes")
    other = loop_disks(SIZE)
    assert tool("plan").code == 0
    assert tool.succeed("status", "--check").code == 0
    tool.succeed("deactivate", "docker", "--yes")
    assert tool("plan").code == 2
    tool.succeed("apply", "--yes")
    tool.succeed("destroy", "docker", "--yes", "--allow", "destroy")
    assert (is_blank(disk.path), is_blank(other.path)) == (True, True)
    answer = tool("apply", "--yes")
    assert (answer.code, codes(tool)) == (3, ["MATCH_COUNT"])


def test_selectors_that_choose_nothing_list_matches_and_near_misses(
    tool: Tool, loop_disks: MakeDisk, tmp_path: Path
) -> None:
    free, mounted, small = loop_disks(SIZE), loop_disks(SIZE), loop_disks(300 * MIB)
    point = tmp_path / "mnt"
    point.mkdir()
    sh("mkfs.ext4", "-q", mounted.path)
    sh("mount", "-o", "ro,noload", mounted.path, point)
    before = [fingerprint(disk.path) for disk in (free, mounted, small)]
    select(tool, 'path = "/dev/loop*"\nmin_size = "400MiB"')
    answer = tool("apply", "--yes")
    text = " ".join(answer.err.split())
    assert answer.code == 3
    assert "pools.docker.match[0] must match exactly 1 disk, and 2 match [MATCH_COUNT]" in text
    assert f"Matches: {free.path}, 512 MiB, no serial; unused" in text
    assert f"Matches: {mounted.path}, 512 MiB, no serial; mounted on {point}" in text
    assert f"Fails only min_size: {small.path}, 300 MiB, no serial; min_size is 300 MiB" in text
    status = tool.succeed("status", "--json").document
    assert [finding["code"] for finding in status["findings"]] == ["MATCH_COUNT", "POOL_ABSENT"]
    assert [fingerprint(disk.path) for disk in (free, mounted, small)] == before
    sh("umount", point)


@pytest.mark.parametrize(
    ("selector", "has"),
    [
        ('transport = "ata"', "transport is nothing: udev does not say"),
        ('serial = "*"', "serial is nothing: udev does not say"),
    ],
)
def test_what_udev_does_not_say_matches_nothing(tool: Tool, loop_disks: MakeDisk, selector: str, has: str) -> None:
    disk = loop_disks(SIZE)
    select(tool, f'path = "/dev/loop*"\n{selector}')
    answer = tool("plan")
    assert answer.code == 3
    assert f"{disk.path}, 512 MiB, no serial; {has}" in " ".join(answer.out.split())


def test_rotational_is_the_kernels_word(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks(SIZE)
    says = look_at(disk.path).rotational
    assert says is not None
    select(tool, f'path = "/dev/loop*"\nrotational = {str(says).lower()}')
    assert tool("plan").code == 2
    select(tool, f'path = "/dev/loop*"\nrotational = {str(not says).lower()}')
    assert (tool("plan").code, codes(tool)) == (3, ["MATCH_COUNT"])


def test_a_selector_takes_the_multipath_device_and_not_its_path(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks(SIZE)
    with multipath(disk) as whole:
        select(tool, 'path = "/dev/mapper/te*"')
        live(tool, whole)
        select(tool, f'path = "{disk.path}"')
        assert codes(tool) == ["MATCH_COUNT"]


def test_a_disk_with_a_signature_is_chosen_and_refused_even_with_wipe_signatures(
    tool: Tool, loop_disks: MakeDisk
) -> None:
    disk = loop_disks(SIZE)
    sh("mkfs.ext4", "-q", disk.path)
    before = fingerprint(disk.path)
    select(tool, 'path = "/dev/loop*"', extra="wipe_signatures = true")
    assert tool("apply", "--yes", "--allow", "destroy").code == 3
    assert codes(tool) == ["DISK_HAS_SIGNATURE"]
    assert fingerprint(disk.path) == before


def test_only_disks_that_a_selector_matches_are_opened(tool: Tool, loop_disks: MakeDisk) -> None:
    from thinpoolmgr.config import load_config
    from thinpoolmgr.host.perform import RealHost

    chosen, other = loop_disks(SIZE), loop_disks(300 * MIB)
    select(tool, 'path = "/dev/loop*"\nmin_size = "400MiB"')
    snapshot = RealHost(load_config(tool.config).desired).observe()
    found = {disk.path: disk for disk in snapshot.disks}
    assert found[str(chosen.path)].opened_exclusively is False
    assert (found[str(other.path)].opened_exclusively, found[str(other.path)].signatures) == (None, None)
    assert found[str(other.path)].size_bytes == 300 * MIB
    tool.configure(chosen.path)
    assert [disk.path for disk in RealHost(load_config(tool.config).desired).observe().disks] == [str(chosen.path)]


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
