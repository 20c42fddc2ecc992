"""Selectors choose among the disks of the real kernel, by what the real udev says of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from device_lab import MIB, SIZE, MakeDisk, codes, live, look_at, multipath
from lab_tool import Tool, fingerprint, is_blank, sh


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


@pytest.mark.campaign
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


@pytest.mark.campaign
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
