"""`usage` and `who` on a real pool with a real Docker, held against an independent reading of thin_dump."""

from __future__ import annotations

import os
import signal
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from docker_lab import DATA_ROOT, ENGINE, Dockerd, host_with_docker, load_image
from lab_tool import STATE_FOLDER, Tool, sh

from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]
POOL = "docker-thinpool"
SIZE = 3 * 2**30
RECORDS = STATE_FOLDER / "metadata-snapshots"


@pytest.fixture
def tool(tmp_path: Path) -> Iterator[Tool]:
    yield from host_with_docker(tmp_path)


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


@pytest.mark.campaign
def test_usage_and_who_on_a_real_docker(tool: Tool, loop_disks: MakeDisk, tmp_path: Path) -> None:
    tool.configure(loop_disks(SIZE).path, engine=ENGINE)
    tool.succeed("apply", "--yes")
    with Dockerd(tmp_path / "log"):
        image = make_containers(tmp_path)
        running = tool.succeed("usage", "--json").document
        assert use_of(running) == dumped()
        assert held_root() == "-"
        check_who_while_it_runs(tool, running)
        sh("docker", "kill", "shop")
    check_owners(running, image)
    stopped = tool.succeed("usage", "--json").document
    assert owner_of(stopped) == owner_of(running)
    assert use_of(stopped) == dumped()
    shown = tool.succeed("usage").out
    assert "container shop of big:1" in shown
    assert max(map(len, shown.splitlines())) <= 100
    check_who_when_it_is_stopped(tool, running)


def main_devices(document: Any) -> dict[tuple[str, str], Any]:
    own = (device for device in document["devices"] if not device["driver_name"].endswith("-init"))
    return {(device["owner_kind"], device["owner"]): device for device in own}


def check_owners(running: Any, image: str) -> None:
    owners = main_devices(running)
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


def who(tool: Tool, what: str) -> Any:
    return tool.succeed("who", what, "--json").document


def check_who_while_it_runs(tool: Tool, running: Any) -> None:
    """All names of the container's device lead to it, and its process is named."""
    device = main_devices(running)["container", "shop"]
    pid = int(sh("docker", "inspect", "--format", "{{.State.Pid}}", "shop"))
    container = sh("docker", "inspect", "--format", "{{.Id}}", "shop").strip()
    node = Path("/dev/mapper", device["dm_name"]).resolve()
    number = sh("dmsetup", "info", "-c", "--noheadings", "-o", "major,minor", device["dm_name"]).strip()
    mount = DATA_ROOT / "devicemapper/mnt" / device["driver_name"]
    places = (str(node), node.name, f"/dev/mapper/{device['dm_name']}", number, f"/proc/{pid}/root/more", str(mount))
    for name in (*places, str(device["device_id"]), device["driver_name"], device["dm_name"]):
        found = who(tool, name)
        assert (found["kind"], [each["owner"] for each in found["devices"]]) == ("device", ["shop"]), name
    for name in ("shop", container, container[:9]):
        found = who(tool, name)
        assert (found["kind"], found["id"]) == ("container", container)
        assert device["dm_name"] in {each["dm_name"] for each in found["devices"]}
        assert found["images"][0]["names"] == ["big:1"]
        inside = [holder for holder in found["holders"] if not holder["is_host"]]
        processes = [process for holder in inside for process in holder["processes"]]
        assert pid in {process["pid"] for process in processes}
        assert "sleep 1000" in {process["command"] for process in processes}
    assert "sleep 1000" in tool.succeed("who", "shop").out


def check_who_when_it_is_stopped(tool: Tool, running: Any) -> None:
    """Docker's files lead from image and layer to devices and containers, and back."""
    layer = next(d for d in running["devices"] if d["owner_kind"] == "image-layer" and d["images"] == ["big:1"])
    image = who(tool, "big:1")
    assert layer["device_id"] in {device["device_id"] for device in image["devices"]}
    assert {container["name"] for container in image["containers"]} == {"idle", "shop"}
    for name in (layer["owner"], layer["owner"][7:19], layer["driver_name"]):
        found = who(tool, name)
        assert [device["device_id"] for device in found["devices"]] == [layer["device_id"]]
        assert [each["id"] for each in found["images"]] == [image["id"]]
    idle = who(tool, "idle")
    assert (idle["holders"], {device["dm_name"] for device in idle["devices"]}) == ([], {None})
    back = who(tool, str(DATA_ROOT / "containers" / idle["id"] / "config.v2.json"))
    assert (back["kind"], back["name"]) == ("container", "idle")
    assert tool("who", "nonsense").code == 64


@pytest.fixture
def pool(tool: Tool, loop_disks: MakeDisk) -> Tool:
    """A pool with three thin devices, two of them snapshots that were written to."""
    tool.configure(loop_disks(2**30).path)
    tool.succeed("apply", "--yes")
    message("create_thin 1")
    with thin_device(1) as node:
        write(node, 0, 10)
    for number in (2, 3):
        message(f"create_snap {number} 1")
        with thin_device(number) as node:
            write(node, 4 * number, 3 * number)
    return tool


@contextmanager
def thin_device(number: int) -> Iterator[Path]:
    name = f"docker-8:1-42-{number:064}"
    sh("dmsetup", "create", name, "--table", f"0 409600 thin /dev/mapper/{POOL} {number}")
    yield Path("/dev/mapper", name)
    sh("dmsetup", "remove", "--retry", name)


def write(node: Path, first: int, count: int) -> None:
    """Write whole chunks."""
    with node.open("r+b", buffering=0) as file:
        for place in range(first, first + count):
            file.seek(place * 512 * 1024)
            file.write(os.urandom(512 * 1024))
        os.fsync(file.fileno())


class OwnTools:
    """Programs of ours that are found before the real ones."""

    def __init__(self) -> None:
        self._written: list[Path] = []

    def write(self, name: str, script: str) -> None:
        path = Path("/usr/local/sbin", name)
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)
        self._written.append(path)

    def kill_caller(self, name: str, word: str) -> None:
        """Let the program kill who calls it, before or after it did what `word` says."""
        when, _, message_word = word.partition(" ")
        kill, real = "kill -KILL $PPID\n", f'/usr/sbin/{name} "$@"\n'
        doomed = f"{kill}exit 1\n" if when == "before" else f"{real}{kill}"
        self.write(name, f'case "$*" in\n*{message_word}*)\n{doomed};;\nesac\nexec {real}')

    def remove(self) -> None:
        for path in self._written:
            path.unlink()
        self._written.clear()


@pytest.fixture
def own_tools() -> Iterator[OwnTools]:
    tools = OwnTools()
    yield tools
    tools.remove()


RESERVE, RELEASE = "reserve_metadata_snap", "release_metadata_snap"


def check_killed(pool: Tool, own_tools: OwnTools, name: str, word: str, *, held: bool) -> None:
    """Kill a run there, and see that the next one gives back what it took."""
    own_tools.kill_caller(name, word)
    assert pool("usage").code == -signal.SIGKILL
    own_tools.remove()
    assert (held_root() != "-", len(list(RECORDS.iterdir()))) == (held, 1), word
    assert use_of(pool.succeed("usage", "--json").document) == {1: (10, 0), 2: (14, 6), 3: (19, 9)}
    assert (held_root(), list(RECORDS.iterdir())) == ("-", [])


def test_usage_is_what_the_mappings_say_and_a_strangers_snapshot_is_left(pool: Tool, own_tools: OwnTools) -> None:
    assert dumped() == {1: (10, 0), 2: (14, 6), 3: (19, 9)}
    check_killed(pool, own_tools, "thin_ls", "before", held=True)
    message(RESERVE)
    place = held_root()
    refused = pool("usage", "--json")
    assert (refused.code, refused.document["error"]["code"]) == (3, "METADATA_SNAPSHOT_HELD")
    assert held_root() == place != "-"
    message(RELEASE)


@pytest.mark.campaign
def test_whatever_kills_a_run_the_next_gives_its_snapshot_back(pool: Tool, own_tools: OwnTools) -> None:
    check_killed(pool, own_tools, "dmsetup", f"before {RESERVE}", held=False)
    check_killed(pool, own_tools, "dmsetup", f"after {RESERVE}", held=True)
    check_killed(pool, own_tools, "dmsetup", f"before {RELEASE}", held=True)
    check_killed(pool, own_tools, "dmsetup", f"after {RELEASE}", held=False)
    own_tools.kill_caller("thin_ls", "before")
    assert pool("usage").code == -signal.SIGKILL
    own_tools.remove()
    sh("lvchange", "--activate", "n", "docker/thinpool")
    sh("lvchange", "--activate", "y", "docker/thinpool")
    assert held_root() != "-"
    pool.succeed("usage")
    assert held_root() == "-"
    own_tools.write("thin_ls", "kill -TERM $PPID\nexec sleep 1000\n")
    ended = pool("usage")
    own_tools.remove()
    assert (ended.code, held_root(), list(RECORDS.iterdir())) == (128 + signal.SIGTERM, "-", [])
