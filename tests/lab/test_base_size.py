"""Docker's base: grown, left small and mended, held, and made smaller."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_until
from docker_lab import DAEMON_JSON, DATA_ROOT, Dockerd, host_with_docker, load_image, run_container, storage
from lab_tool import Tool, dm_names, kill_at, sh

from thinpoolmgr.core.steps import GROWN_MOUNT, GROWN_NAME
from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]
GIB = 2**30
RECORDS = DATA_ROOT / "devicemapper"


@pytest.fixture
def tool(tmp_path: Path) -> Iterator[Tool]:
    yield from host_with_docker(tmp_path)


def base_name() -> str:
    folder = RECORDS.stat()
    return f"docker-{os.major(folder.st_dev)}:{os.minor(folder.st_dev)}-{folder.st_ino}-base"


def base_table() -> str:
    record = json.loads((RECORDS / "metadata/base").read_text("utf-8"))
    return f"0 {record['size'] // 512} thin /dev/mapper/docker-thinpool {record['device_id']}"


@contextmanager
def base_held() -> Iterator[None]:
    """Activate Docker's base device with the size that it has now, and hold it open."""
    sh("dmsetup", "create", base_name(), "--table", base_table())
    with (Path("/dev/mapper") / base_name()).open("rb") as held:
        held.read(4096)
        yield
    sh("dmsetup", "remove", "--retry", base_name(), check=False)
    wait_until(lambda: base_name() not in dm_names())


def look_by_hand() -> int:
    """Return the size of the base's file system in bytes, from a read-only device on it, with Docker stopped."""
    sh("dmsetup", "create", "look", "--readonly", "--table", base_table())
    if "xfs" in sh("blkid", "-p", "-s", "TYPE", "-o", "value", "/dev/mapper/look"):
        told = sh("xfs_db", "-r", "-c", "sb 0", "-c", "p dblocks blocksize", "/dev/mapper/look")
        numbers = dict(line.split(" = ") for line in told.splitlines())
        size = int(numbers["dblocks"]) * int(numbers["blocksize"])
    else:
        lines = sh("dumpe2fs", "-h", "/dev/mapper/look").splitlines()
        facts = dict(line.split(":", 1) for line in lines if ":" in line)
        size = int(facts["Block count"]) * int(facts["Block size"])
    sh("dmsetup", "remove", "look")
    return size


def look(tool: Tool) -> tuple[Any, list[str]]:
    document = tool.succeed("status", "--json").document
    return document["engines"][0], [finding["code"] for finding in document["findings"]]


def container_gib(image: str) -> float:
    """Return the size of a new container's root."""
    # -P: one line for each, however long its device's name
    return int(run_container(image, "df", "-P", "-k", "/").splitlines()[-1].split()[1]) / 2**20


def configure(tool: Tool, disk: LoopDisk, size: str, filesystem: str = "xfs") -> None:
    engine = f'[engines.docker]\npool = "docker"\nbase_size = "{size}"\nfilesystem = "{filesystem}"\n'
    tool.configure(disk.path, engine=engine)


def left_small(tool: Tool, disk: LoopDisk, log: Path, filesystem: str = "xfs") -> None:
    """Have Docker record 2 GiB for a base whose file system keeps 1 GiB, and stop it."""
    configure(tool, disk, "1GiB", filesystem)
    tool.succeed("apply", "--yes")
    with Dockerd(log):
        pass
    with base_held():
        DAEMON_JSON.write_text(DAEMON_JSON.read_text("utf-8").replace("basesize=1G", "basesize=2G"), "utf-8")
        with Dockerd(log):
            pass
    configure(tool, disk, "2GiB", filesystem)


@pytest.mark.campaign
def test_the_base_grows_and_what_is_still_smaller_is_named(tool: Tool, loop_disks: MakeDisk, tmp_path: Path) -> None:
    disk = loop_disks(3 * GIB)
    configure(tool, disk, "1GiB")
    tool.succeed("apply", "--yes")
    with Dockerd(tmp_path / "log"):
        image = load_image(tmp_path)
        engine, codes = look(tool)
        assert engine["base_size_bytes"] == engine["effective_base_size_bytes"] == GIB
        assert (engine["smaller_devices"], engine["smaller"], codes) == (0, [], [])
    configure(tool, disk, "2GiB")
    tool.succeed("apply", "--yes", "--allow", "outage")
    with Dockerd(tmp_path / "log"):
        sh("docker", "run", "--detach", "--name=old", "--network=none", "--stop-timeout=1", image, "sleep", "1000")
        assert 0.9 < container_gib(image) <= 1
        engine, codes = look(tool)
        assert engine["base_size_bytes"] == engine["effective_base_size_bytes"] == 2 * GIB
        # the layer of the image, and the two of the container
        assert (engine["smaller_devices"], codes) == (3, [])
        assert engine["smaller"] == [
            {"kind": "image", "name": "lab:1", "size_bytes": GIB},
            {"kind": "container", "name": "old", "size_bytes": GIB},
        ]
        told = " ".join(tool.succeed("status").out.split())
        assert "3 devices of images and containers smaller than the base" in told
        assert "image lab:1 (1 GiB), container old (1 GiB)" in told
        sh("docker", "rm", "--force", "old")
        sh("docker", "rmi", image)
        assert 1.9 < container_gib(load_image(tmp_path)) <= 2
    assert look_by_hand() == 2 * GIB
    tool.succeed("destroy", "docker", "--yes", "--allow", "destroy,outage")


def test_a_base_that_was_left_small_is_told_and_mended(tool: Tool, loop_disks: MakeDisk, tmp_path: Path) -> None:
    left_small(tool, loop_disks(3 * GIB), tmp_path / "log")
    engine, codes = look(tool)
    assert (engine["base_size_bytes"], engine["effective_base_size_bytes"]) == (2 * GIB, GIB)
    assert codes == ["BASE_SIZE_NOT_GROWN"]
    assert look_by_hand() == GIB
    (finding,) = [f for f in tool("doctor", "--json").document["findings"] if f["code"] == "BASE_SIZE_NOT_GROWN"]
    assert [step["do"] for step in finding["fix"]] == ["grow-base"]
    with base_held():
        refused = tool("apply", "--yes", "--json")
        assert (refused.code, refused.document["error"]["code"]) == (3, "DEVICE_OPEN")
    done = tool.succeed("apply", "--yes", "--json").document
    assert [step["do"] for step in done["steps"]] == ["grow-base"]
    engine, codes = look(tool)
    assert (engine["effective_base_size_bytes"], codes) == (2 * GIB, [])
    assert look_by_hand() == 2 * GIB
    with Dockerd(tmp_path / "log"):
        assert 1.9 < container_gib(load_image(tmp_path)) <= 2
        assert tool("plan").code == 0


@pytest.mark.campaign
def test_ext4_is_mended_and_a_kill_in_the_middle_leaves_nothing(
    tool: Tool, loop_disks: MakeDisk, tmp_path: Path
) -> None:
    left_small(tool, loop_disks(3 * GIB), tmp_path / "log", "ext4")
    for program in ("resize2fs", "umount"):
        kill_at(tool, program, "apply", "--yes", before=True)
        assert GROWN_NAME in dm_names()
        assert os.path.ismount(GROWN_MOUNT)
        assert "RUN_INTERRUPTED" in look(tool)[1]
    tool.succeed("apply", "--yes")
    assert (GROWN_NAME in dm_names(), os.path.ismount(GROWN_MOUNT)) == (False, False)
    assert look(tool)[0]["effective_base_size_bytes"] == 2 * GIB
    assert look_by_hand() == 2 * GIB
    with Dockerd(tmp_path / "log"):
        assert 1.8 < container_gib(load_image(tmp_path)) <= 2
    assert tool("plan").code == 0


@pytest.mark.campaign
def test_a_base_that_is_mounted_under_another_name_is_not_mounted_again(
    tool: Tool, loop_disks: MakeDisk, tmp_path: Path
) -> None:
    disk = loop_disks(3 * GIB)
    left_small(tool, disk, tmp_path / "log")
    sh("dmsetup", "create", "rescue", "--table", base_table())
    (tmp_path / "rescue").mkdir()
    sh("mount", "-o", "nouuid", "/dev/mapper/rescue", tmp_path / "rescue")
    refused = tool("apply", "--yes", "--json")
    assert (refused.code, refused.document["error"]["code"]) == (3, "DEVICE_OPEN")
    assert f"{tmp_path}/rescue" in refused.document["error"]["details"]
    sh("umount", tmp_path / "rescue")
    sh("dmsetup", "remove", "--retry", "rescue")
    assert look_by_hand() == GIB
    # What a killed run has mounted goes before Docker mounts it to grow it further.
    kill_at(tool, "umount", "apply", "--yes", before=True)
    configure(tool, disk, "2500MiB")
    done = tool.succeed("apply", "--yes", "--json").document
    assert [step["do"] for step in done["steps"]] == ["write-engine-config", "grow-base"]
    assert (GROWN_NAME in dm_names(), os.path.ismount(GROWN_MOUNT)) == (False, False)
    with Dockerd(tmp_path / "log"):
        assert look(tool)[0]["effective_base_size_bytes"] == 2500 * 2**20
    sh("dmsetup", "create", "look", "--readonly", "--table", base_table())
    sh("xfs_repair", "-n", "/dev/mapper/look")
    sh("dmsetup", "remove", "--retry", "look")


@pytest.mark.campaign
def test_a_base_is_made_smaller_only_where_all_may_be_lost(tool: Tool, loop_disks: MakeDisk, tmp_path: Path) -> None:
    disk = loop_disks(3 * GIB)
    configure(tool, disk, "2GiB")
    tool.succeed("apply", "--yes")
    with Dockerd(tmp_path / "log"):
        sh("docker", "create", "--name", "shop", "--network=none", load_image(tmp_path), "true")
    text = tool.config.read_text("utf-8")
    refused = tool("base-size", "docker", "1GiB", "--yes", "--allow", "outage", "--json")
    assert (refused.code, refused.document["error"]["code"]) == (3, "BASE_SIZE_SHRINKS")
    assert "Lost with it: image lab:1, and container shop." in refused.document["error"]["details"]
    assert tool.config.read_text("utf-8") == text
    done = tool.succeed("base-size", "docker", "1GiB", "--yes", "--allow", "outage,destroy", "--json").document
    steps = [step["do"] for step in done["steps"]]
    assert ("remove-thin-pool" in steps, "move-state-aside" in steps, "create-thin-pool" in steps) == (True,) * 3
    (aside,) = DATA_ROOT.glob("thinpoolmgr-stale-*")
    assert {"devicemapper", "containers"} <= {path.name for path in aside.iterdir()}
    assert 'base_size = "1GiB"' in tool.config.read_text("utf-8")
    with Dockerd(tmp_path / "log"):
        assert storage() == ("devicemapper", "docker-thinpool")
        assert sh("docker", "ps", "--all", "--quiet") == sh("docker", "images", "--quiet") == ""
        assert 0.9 < container_gib(load_image(tmp_path)) <= 1
        assert look(tool)[0]["effective_base_size_bytes"] == GIB
    assert tool("plan").code == 0
