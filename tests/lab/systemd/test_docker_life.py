"""A Docker on its pool over the years, under a real systemd: grown, emptied, its pool gone, its state damaged."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import wait_until
from docker_lab import DAEMON_JSON, DATA_ROOT, ENGINE, SETTINGS, load_image, run_container, storage
from lab_tool import STATE_FOLDER, Tool, dm_names, sh

from thinpoolmgr.lab.loop import LoopDisk

pytestmark = pytest.mark.campaign

MakeDisk = Callable[..., LoopDisk]
SIZE, GIB = 3 * 2**30, 2**30
UNITS = ("docker.socket", "docker.service")
ALL = ("--yes", "--allow", "outage,destroy")


@pytest.fixture
def tool(tmp_path: Path, loop_disks: MakeDisk) -> Iterator[Tool]:
    """Return the command line of a host whose Docker runs on its pool, with an image and a running container."""
    DAEMON_JSON.parent.mkdir(exist_ok=True)
    DAEMON_JSON.write_text(SETTINGS, "utf-8")
    made = Tool(tmp_path)
    made.configure(loop_disks(SIZE).path, engine=ENGINE)
    made.succeed("apply", "--yes")
    sh("systemctl", "start", *UNITS)
    run_shop(load_image(tmp_path))
    yield made
    sh("systemctl", "stop", *UNITS)
    sh("systemctl", "reset-failed", *UNITS)
    shutil.rmtree(STATE_FOLDER, ignore_errors=True)
    shutil.rmtree(DATA_ROOT, ignore_errors=True)


def run_shop(image: str) -> None:
    sh("docker", "run", "--detach", "--name=shop", "--network=none", "--stop-timeout=1", image, "sleep", "1000")


def disk_of(tool: Tool) -> str:
    return str(tool.pool()["devices"][0]["path"])


def states() -> list[str]:
    return [sh("systemctl", "is-active", unit, check=False).strip() for unit in UNITS]


def look(tool: Tool) -> tuple[int, int]:
    """Return the base size as recorded and as it is."""
    engine = tool.succeed("status", "--json").document["engines"][0]
    return engine["base_size_bytes"], engine["effective_base_size_bytes"]


def steps(document: dict[str, list[dict[str, str]]]) -> list[str]:
    return [step["do"] for step in document["steps"]]


def test_a_base_size_that_grows_is_mended_and_shrinks(tool: Tool, tmp_path: Path) -> None:
    done = tool.succeed("base-size", "docker", "2GiB", "--yes", "--allow", "outage", "--json").document
    assert steps(done) == ["stop-engine", "write-engine-config", "start-engine"]
    assert (states(), look(tool)) == (["active", "active"], (2 * GIB, 2 * GIB))
    # Docker records what it does not reach: its base is held open at its old size.
    folder = (DATA_ROOT / "devicemapper").stat()
    name = f"docker-{os.major(folder.st_dev)}:{os.minor(folder.st_dev)}-{folder.st_ino}-base"
    number = json.loads((DATA_ROOT / "devicemapper/metadata/base").read_text("utf-8"))["device_id"]
    sh("systemctl", "stop", *UNITS)
    table = f"0 {2 * GIB // 512} thin /dev/mapper/docker-thinpool {number}"
    sh("dmsetup", "create", name, "--table", table)
    with (Path("/dev/mapper") / name).open("rb"):
        DAEMON_JSON.write_text(DAEMON_JSON.read_text("utf-8").replace("=2G", "=2500M"), "utf-8")
        sh("systemctl", "start", *UNITS)
    sh("dmsetup", "remove", "--retry", name, check=False)
    wait_until(lambda: name not in dm_names())
    assert look(tool) == (2500 * 2**20, 2 * GIB)
    assert "BASE_SIZE_NOT_GROWN" in tool.succeed("status").out + tool("doctor").out
    text = tool.config.read_text("utf-8").replace("2GiB", "2500MiB")
    tool.config.write_text(text, "utf-8")
    assert tool("apply", "--yes").code == 3
    done = tool.succeed("apply", "--yes", "--allow", "outage", "--json").document
    assert steps(done) == ["stop-engine", "grow-base", "start-engine"]
    assert (states(), look(tool)) == (["active", "active"], (2500 * 2**20, 2500 * 2**20))

    sh("docker", "start", "shop")
    refused = tool("base-size", "docker", "1GiB", "--yes", "--allow", "destroy")
    assert (refused.code, "--allow outage" in refused.err, "shop" in refused.err) == (3, True, True)
    done = tool.succeed("base-size", "docker", "1GiB", *ALL, "--json").document
    assert steps(done)[0] == "stop-engine"
    assert steps(done)[-2:] == ["write-engine-config", "start-engine"]
    assert (states(), storage(), look(tool)) == (["active", "active"], ("devicemapper", "docker-thinpool"), (GIB, GIB))
    assert sh("docker", "ps", "--all", "--quiet") == ""
    assert "new" in run_container(load_image(tmp_path), "echo", "new")


def test_a_pool_that_was_removed_behind_dockers_back_is_made_anew(tool: Tool, tmp_path: Path) -> None:
    told = tool.succeed("who", "shop").out
    assert "it is mounted at / in the mount namespace of sleep 1000" in told
    devices = tool.succeed("usage", "--json").document["devices"]
    assert {"lab:1", "shop"} <= {word for device in devices for word in (device["owner"], *device["images"])}
    disk = disk_of(tool)
    sh("systemctl", "stop", *UNITS)
    for name in (name for name in dm_names() if name.startswith("docker-") and ":" in name):
        sh("dmsetup", "remove", "--retry", name)
    sh("vgremove", "--yes", "--force", "docker")
    sh("pvremove", disk)
    assert "ENGINE_STATE_STALE" in [f["code"] for f in tool("doctor", "--json").document["findings"]]
    (move,) = [step for step in tool("plan", "--json").document["steps"] if step["do"] == "move-state-aside"]
    assert "lost with it: image lab:1, and container shop" in move["reason"]
    tool.succeed("apply", *ALL)
    sh("systemctl", "start", *UNITS)
    assert storage() == ("devicemapper", "docker-thinpool")
    assert sh("docker", "images", "--quiet") == ""
    assert "new" in run_container(load_image(tmp_path), "echo", "new")
    (aside,) = DATA_ROOT.glob("thinpoolmgr-stale-*")
    tool.succeed("clean", "--purge", *ALL)
    assert not aside.exists()
    assert tool("plan").code == 0


def test_state_that_fits_no_pool_is_let_go_of_while_systemd_runs_docker(tool: Tool, tmp_path: Path) -> None:
    sh("systemctl", "stop", *UNITS)
    record = next(path for path in (DATA_ROOT / "devicemapper/metadata").iterdir() if len(path.name) == 64)
    record.write_text("{", "utf-8")
    sh("systemctl", "start", *UNITS, check=False)
    wait_until(lambda: states()[1] == "failed", 120)
    codes = [f["code"] for f in tool("doctor", "--json").document["findings"]]
    assert "ENGINE_STATE_DAMAGED" in codes
    assert tool("apply", *ALL).code == 3
    refused = tool("rebuild", "docker", "--yes")
    assert (refused.code, "lab:1" in refused.err, "shop" in refused.err) == (3, True, True)
    tool.succeed("rebuild", "docker", *ALL)
    sh("systemctl", "reset-failed", *UNITS)
    sh("systemctl", "start", *UNITS)
    assert storage() == ("devicemapper", "docker-thinpool")
    assert "new" in run_container(load_image(tmp_path), "echo", "new")
