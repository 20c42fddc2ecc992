"""Docker run by a real systemd: stopped and started by the plan, with its socket, and only when that is allowed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker_lab import DAEMON_JSON, DATA_ROOT, ENGINE, SETTINGS, load_image, run_container, storage
from lab_tool import STATE_FOLDER, Tool, sh

from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]
SIZE = 3 * 2**30
UNITS = ("docker.socket", "docker.service")


@pytest.fixture
def tool(tmp_path: Path) -> Iterator[Tool]:
    DAEMON_JSON.parent.mkdir(exist_ok=True)
    DAEMON_JSON.write_text(SETTINGS.replace("none", 'none",\n\t"storage-driver": "vfs'), "utf-8")
    yield Tool(tmp_path)
    sh("systemctl", "stop", *UNITS)
    shutil.rmtree(STATE_FOLDER, ignore_errors=True)
    shutil.rmtree(DATA_ROOT, ignore_errors=True)


def state(unit: str) -> str:
    return sh("systemctl", "is-active", unit, check=False).strip()


def test_a_running_docker_is_moved_to_the_pool_and_taken_off_again(
    tool: Tool, loop_disks: MakeDisk, tmp_path: Path
) -> None:
    tool.configure(loop_disks(SIZE).path, engine=ENGINE)
    sh("systemctl", "start", *UNITS)
    assert storage()[0] == "vfs"
    planned = tool("plan", "--json").document
    assert [(step["do"], step["danger"]) for step in planned["steps"]] == [
        ("create-volume-group", "safe"),
        ("create-thin-pool", "safe"),
        ("stop-engine", "outage"),
        ("write-engine-config", "safe"),
        ("start-engine", "safe"),
    ]
    assert planned["steps"][2]["commands"] == [["systemctl", "stop", *UNITS]]
    refused = tool("apply", "--yes")
    assert refused.code == 3
    assert "--allow outage" in refused.err
    assert storage()[0] == "vfs"
    tool.succeed("apply", "--yes", "--allow", "outage")
    assert storage() == ("devicemapper", "docker-thinpool")
    assert "hello" in run_container(load_image(tmp_path), "echo", "hello")
    assert tool("plan").code == 0

    tool.succeed("deactivate", "docker", "--yes", "--allow", "outage")
    assert [state(unit) for unit in UNITS] == ["inactive", "inactive"]
    assert tool.pool()["state"] == "inactive"
    tool.succeed("activate", "docker", "--yes")
    assert [state(unit) for unit in UNITS] == ["active", "active"]
    assert "again" in run_container("lab:1", "echo", "again")

    sh("docker", "run", "--detach", "--name", "busy", "--network=none", "lab:1", "sleep", "1000")
    planned_away = tool("destroy", "docker", "--yes")
    assert planned_away.code == 3
    assert "busy" in planned_away.err
    tool.succeed("destroy", "docker", "--yes", "--allow", "outage,destroy")
    assert [state(unit) for unit in UNITS] == ["inactive", "inactive"]
    assert tool.pool()["state"] == "absent"
    tool.succeed("apply", "--yes")
    assert [state(unit) for unit in UNITS] == ["active", "active"]
    assert storage() == ("devicemapper", "docker-thinpool")
