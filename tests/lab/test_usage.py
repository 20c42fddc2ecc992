"""`usage` and `who` on a real pool with a real Docker, held against an independent reading of thin_dump."""

from __future__ import annotations

import os
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_lab import DAEMON_JSON, DATA_ROOT, ENGINE, SETTINGS, Dockerd, load_image
from lab_tool import STATE_FOLDER, Tool, sh

from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]
POOL = "docker-thinpool"
SIZE = 3 * 2**30
RECORDS = STATE_FOLDER / "metadata-snapshots"


@pytest.fixture
def tool(tmp_path: Path) -> Iterator[Tool]:
    clean()
    DAEMON_JSON.parent.mkdir(exist_ok=True)
    DAEMON_JSON.write_text(SETTINGS, "utf-8")
    yield Tool(tmp_path)
    clean()


def clean() -> None:
    shutil.rmtree(STATE_FOLDER, ignore_errors=True)
    shutil.rmtree(DATA_ROOT, ignore_errors=True)
    DAEMON_JSON.unlink(missing_ok=True)


def message(words: str) -> None:
    sh("dmsetup", "message", POOL, "0", words)


def held_root() -> str:
    return sh("dmsetup", "status", "--noflush", POOL).split()[6]


def dumped() -> dict[int, tuple[int, int]]:
    """Return mapped and exclusive blocks of each device, counted from the mappings themselves."""
    message("reserve_metadata_snap")
    try:
        text = sh("thin_dump", "--metadata-snap", "--format", "xml", f"/dev/mapper/{POOL}_tmeta")
    finally:
        message("release_metadata_snap")
    blocks = {int(device.get("dev_id", "")): list(mapped_blocks(device)) for device in ET.fromstring(text)}  # noqa: S314 - thin_dump's own
    users = Counter(block for mapped in blocks.values() for block in mapped)
    return {number: (len(mapped), sum(users[block] == 1 for block in mapped)) for number, mapped in blocks.items()}


def mapped_blocks(device: ET.Element) -> Iterator[int]:
    for mapping in device:
        first = int(mapping.get("data_begin") or mapping.get("data_block") or "")
        yield from range(first, first + int(mapping.get("length", "1")))


def use_of(document: Any) -> dict[int, tuple[int, int]]:
    chunk = 512 * 1024
    return {d["device_id"]: (d["mapped_bytes"] // chunk, d["exclusive_bytes"] // chunk) for d in document["devices"]}


def owner_of(document: Any) -> dict[int, str]:
    return {device["device_id"]: device["owner"] for device in document["devices"]}


def make_containers(folder: Path) -> str:
    """Make an image of a tiny one, with a layer of its own, and two containers."""
    image = load_image(folder)
    sh("docker", "run", "--name=maker", "--network=none", image, "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=20")
    sh("docker", "commit", "maker", "big:1")
    sh("docker", "rm", "maker")
    sh("docker", "create", "--name=idle", "--network=none", "big:1", "sleep", "1000")
    sh("docker", "run", "--detach", "--name=shop", "--network=none", "big:1", "sleep", "1000")
    pid = sh("docker", "inspect", "--format", "{{.State.Pid}}", "shop").strip()
    Path(f"/proc/{pid}/root/more").write_bytes(os.urandom(7 * 2**20))
    os.sync()
    return image


def test_usage_is_what_the_mappings_say_and_names_the_owners(tool: Tool, loop_disks: MakeDisk, tmp_path: Path) -> None:
    tool.configure(loop_disks(SIZE).path, engine=ENGINE)
    tool.succeed("apply", "--yes")
    with Dockerd(tmp_path / "log"):
        image = make_containers(tmp_path)
        running = tool.succeed("usage", "--json").document
        assert use_of(running) == dumped()
        assert held_root() == "-"
        sh("docker", "kill", "shop")
    owners = {(d["owner_kind"], d["owner"]): d for d in running["devices"] if not d["driver_name"].endswith("-init")}
    assert owners["container", "shop"]["dm_name"].startswith("docker-")
    assert owners["container", "shop"]["exclusive_bytes"] >= 7 * 2**20
    assert owners["container", "idle"]["dm_name"] is None
    assert owners["container", "shop"]["images"] == ["big:1"]
    layers = {tuple(d["images"]): d for d in running["devices"] if d["owner_kind"] == "image-layer"}
    assert set(layers) == {("big:1",), tuple(sorted(("big:1", image)))}
    assert layers["big:1",]["owner"].startswith("sha256:")
    assert layers["big:1",]["mapped_bytes"] >= 20 * 2**20
    assert owners["base", "base"]["virtual_bytes"] == 2**30
    assert {d["owner_kind"] for d in running["devices"]} == {"container", "image-layer", "base"}
    assert running["problems"] == []
    stopped = tool.succeed("usage", "--json").document
    assert owner_of(stopped) == owner_of(running)
    assert use_of(stopped) == dumped()
    shown = tool.succeed("usage").out
    assert "container shop of big:1" in shown
    assert max(map(len, shown.splitlines())) <= 100
