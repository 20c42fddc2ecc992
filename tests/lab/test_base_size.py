"""Growing Docker's base: with nobody in the way, and with the base device held at its old size."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_until
from docker_lab import DATA_ROOT, Dockerd, host_with_docker, load_image, run_container
from lab_tool import Tool, dm_names, sh

from thinpoolmgr.lab.loop import LoopDisk

pytestmark = pytest.mark.campaign

GIB = 2**30
RECORDS = DATA_ROOT / "devicemapper"


@pytest.fixture
def tool(tmp_path: Path) -> Iterator[Tool]:
    yield from host_with_docker(tmp_path)


def base_name() -> str:
    folder = RECORDS.stat()
    return f"docker-{os.major(folder.st_dev)}:{os.minor(folder.st_dev)}-{folder.st_ino}-base"


@contextmanager
def base_held() -> Iterator[None]:
    """Activate Docker's base device with the size that it has now, and hold it open."""
    record = json.loads((RECORDS / "metadata/base").read_text("utf-8"))
    table = f"0 {record['size'] // 512} thin /dev/mapper/docker-thinpool {record['device_id']}"
    sh("dmsetup", "create", base_name(), "--table", table)
    node = Path("/dev/mapper") / base_name()
    with node.open("rb") as held:
        # the old superblock is in the page cache from here on
        held.read(4096)
        yield
    sh("dmsetup", "remove", "--retry", base_name(), check=False)
    wait_until(lambda: base_name() not in dm_names())


def look_by_hand() -> int:
    """Return the size of the base's file system in bytes, read as the documentation says, with Docker stopped."""
    record = json.loads((RECORDS / "metadata/base").read_text("utf-8"))
    table = f"0 {record['size'] // 512} thin /dev/mapper/docker-thinpool {record['device_id']}"
    sh("dmsetup", "create", "look", "--readonly", "--table", table)
    told = sh("xfs_db", "-r", "-c", "sb 0", "-c", "p dblocks blocksize", "/dev/mapper/look")
    sh("dmsetup", "remove", "look")
    numbers = dict(line.split(" = ") for line in told.splitlines())
    return int(numbers["dblocks"]) * int(numbers["blocksize"])


def look(tool: Tool) -> tuple[Any, list[str]]:
    document = tool.succeed("status", "--json").document
    return document["engines"][0], [finding["code"] for finding in document["findings"]]


def container_gib(image: str) -> float:
    """Return the size of a new container's root."""
    # -P: one line for each, however long its device's name
    return int(run_container(image, "df", "-P", "-k", "/").splitlines()[-1].split()[1]) / 2**20


def test_the_base_grows_unless_it_is_held_at_its_old_size(
    tool: Tool, loop_disks: Callable[..., LoopDisk], tmp_path: Path
) -> None:
    disk = loop_disks(3 * GIB)

    def apply(size: str) -> None:
        tool.configure(disk.path, engine=f'[engines.docker]\npool = "docker"\nbase_size = "{size}"\n')
        tool.succeed("apply", "--yes", "--allow", "outage")

    apply("1GiB")
    with Dockerd(tmp_path / "log"):
        image = load_image(tmp_path)
        engine, codes = look(tool)
        assert (engine["base_size_bytes"], engine["effective_base_size_bytes"]) == (GIB, None)
        assert (engine["smaller_devices"], codes) == (0, [])
    apply("2GiB")
    with Dockerd(tmp_path / "log"):
        sh("docker", "run", "--detach", "--name=old", "--network=none", "--stop-timeout=1", image, "sleep", "1000")
        assert 0.9 < container_gib(image) <= 1
        with base_held():
            engine, codes = look(tool)
        assert (engine["base_size_bytes"], engine["effective_base_size_bytes"]) == (2 * GIB, 2 * GIB)
        # the layer of the image, and the two of the container
        assert (engine["smaller_devices"], codes) == (3, [])
        assert "3 devices of images and containers smaller than the base" in tool.succeed("status").out
        sh("docker", "rm", "--force", "old")
        sh("docker", "rmi", image)
        assert 1.9 < container_gib(load_image(tmp_path)) <= 2
    with base_held():
        apply("3GiB")
        with Dockerd(tmp_path / "log"):
            engine, codes = look(tool)
            assert (engine["base_size_bytes"], engine["effective_base_size_bytes"]) == (3 * GIB, 2 * GIB)
            assert codes == ["BASE_SIZE_NOT_GROWN"]
    assert look_by_hand() == 2 * GIB
    apply("4GiB")
    with Dockerd(tmp_path / "log"):
        with base_held():
            engine, codes = look(tool)
        assert (engine["base_size_bytes"], engine["effective_base_size_bytes"], codes) == (4 * GIB, 4 * GIB, [])
        sh("docker", "rmi", image)
        assert 3.9 < container_gib(load_image(tmp_path)) <= 4
    tool.succeed("destroy", "docker", "--yes", "--allow", "destroy,outage")
