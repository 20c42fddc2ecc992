"""Where thin devices begin, read from the metadata of a running pool: the same as thin_dump says of a snapshot."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from lab_tool import Tool, sh

from thinpoolmgr.host import dm
from thinpoolmgr.host.superblock import read_block
from thinpoolmgr.host.thinmeta import FirstBlock, find_first_block
from thinpoolmgr.lab.loop import LoopDisk

POOL, CHUNK = "docker-thinpool", 512 * 1024
DEVICES = 300
DEVICE = re.compile(r'<device dev_id="(\d+)".*?(?:</device>|/>)', re.DOTALL)
MAPPING = re.compile(r'<(?:single|range)_mapping origin_(?:block|begin)="0" data_(?:block|begin)="(\d+)"')


def node(part: str) -> str:
    device = dm.read_device(f"{POOL}{part}")
    assert device is not None
    return f"/dev/dm-{device.devno.partition(':')[2]}"


def dumped() -> dict[int, FirstBlock]:
    """Return where the devices begin, by thin_dump's text of a metadata snapshot."""
    sh("dmsetup", "message", POOL, "0", "reserve_metadata_snap")
    text = sh("thin_dump", "--metadata-snap", "--format", "xml", node("_tmeta"))
    sh("dmsetup", "message", POOL, "0", "release_metadata_snap")
    found = {}
    for match in DEVICE.finditer(text):
        first = MAPPING.search(match[0])
        found[int(match[1])] = FirstBlock(exists=True, offset_bytes=int(first[1]) * CHUNK if first else None)
    return found


@pytest.mark.campaign
def test_first_blocks_are_where_thin_dump_has_them(tool: Tool, loop_disks: Callable[..., LoopDisk]) -> None:
    tool.configure(loop_disks(2 * 2**30).path)
    tool.succeed("apply", "--yes")
    for number in range(1, DEVICES + 1):
        sh("dmsetup", "message", POOL, "0", f"create_thin {7 * number}")
    written = {7 * number: f"device {7 * number}".encode().ljust(4096) for number in range(1, 6)}
    for number, content in written.items():
        sh("dmsetup", "create", "one", "--table", f"0 8192 thin /dev/mapper/{POOL} {number}")
        # not only the first block, and not the first of the device first
        Path("/lab/content").write_bytes(bytes(1024**2) + content)
        for seek in ("256", "0"):
            copy = ("if=/lab/content", "of=/dev/mapper/one", "bs=4096", "skip=256", f"seek={seek}", "count=1")
            sh("dd", *copy, "oflag=direct", "conv=fsync", "status=none")
        sh("dmsetup", "remove", "--retry", "one")
    known = dumped()
    metadata, data = node("_tmeta"), node("_tdata")
    assert len(known) == DEVICES
    numbers = [7, 14, 35, 42, 7 * DEVICES]
    assert {number: find_first_block(metadata, number) for number in numbers} == {n: known[n] for n in numbers}
    assert find_first_block(metadata, 8) == FirstBlock(exists=False)
    for number, content in written.items():
        place = find_first_block(metadata, number)
        assert place is not None
        assert place.offset_bytes is not None
        assert read_block(data, place.offset_bytes) == content


def test_what_is_read_while_the_pool_commits_is_never_wrong(tool: Tool, loop_disks: Callable[..., LoopDisk]) -> None:
    tool.configure(loop_disks(2 * 2**30).path)
    tool.succeed("apply", "--yes")
    sh("dmsetup", "message", POOL, "0", "create_thin 1")
    sh("dmsetup", "create", "one", "--table", f"0 8 thin /dev/mapper/{POOL} 1")
    sh("dd", "if=/dev/zero", "of=/dev/mapper/one", "bs=4096", "count=1", "oflag=direct", "conv=fsync", "status=none")
    sh("dmsetup", "remove", "--retry", "one")
    metadata, known = node("_tmeta"), dumped()[1]
    stop = threading.Event()
    commits: list[int] = []

    def commit() -> None:
        while not stop.is_set():
            number = 2 + len(commits)
            commits.append(number)
            sh("dmsetup", "message", POOL, "0", f"create_thin {number}")

    writer = threading.Thread(target=commit)
    writer.start()
    try:
        seen = [find_first_block(metadata, 1) for _ in range(300)]
    finally:
        stop.set()
        writer.join()
    assert len(commits) > 20
    assert set(seen) <= {known, None}
    assert seen.count(known) > len(seen) // 2
