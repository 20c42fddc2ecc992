"""A pool taken down under Docker as systemd runs it: its socket, containers that would outlive it, pinned mounts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import wait_until
from docker_lab import DAEMON_JSON, DATA_ROOT, ENGINE, SETTINGS, load_image, storage
from lab_tool import STATE_FOLDER, Tool, is_blank, sh

from thinpoolmgr.core.desired import DesiredState
from thinpoolmgr.core.steps import StopEngine
from thinpoolmgr.errors import CommandFailedError
from thinpoolmgr.host import perform
from thinpoolmgr.lab.loop import LoopDisk

SIZE = 3 * 2**30
UNITS = ("docker.socket", "docker.service")
PIN, IDLE = "lab-pin.service", "lab-idle.service"


@pytest.fixture
def tool(tmp_path: Path) -> Iterator[Tool]:
    DAEMON_JSON.parent.mkdir(exist_ok=True)
    DAEMON_JSON.write_text(json.dumps({**json.loads(SETTINGS), "live-restore": True}), "utf-8")
    yield Tool(tmp_path)
    sh("systemctl", "stop", PIN, IDLE, check=False)
    sh("systemctl", "stop", *UNITS)
    shutil.rmtree(STATE_FOLDER, ignore_errors=True)
    shutil.rmtree(DATA_ROOT, ignore_errors=True)


def states() -> list[str]:
    return [sh("systemctl", "is-active", unit, check=False).strip() for unit in UNITS]


def test_a_service_that_does_not_stop_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perform, "STOP_ENGINE_SECONDS", 3.0)
    deaf = ("sh", "-c", "trap '' TERM; while :; do sleep 1000; done")
    sh("systemd-run", "--quiet", f"--unit={PIN}", "--property=TimeoutStopSec=infinity", *deaf)
    step = StopEngine(reason="r", engine="docker", units=(PIN,))
    with pytest.raises(CommandFailedError, match="docker could not be stopped") as failed:
        perform.RealHost(DesiredState()).perform(step)
    assert "did not end within 3 seconds" in failed.value.details
    assert PIN in failed.value.resolution
    sh("systemctl", "kill", "--signal=KILL", PIN)
    wait_until(lambda: sh("systemctl", "is-active", PIN, check=False).strip() in {"failed", "inactive", "unknown"})
    sh("systemctl", "reset-failed", PIN, check=False)


@pytest.mark.campaign
def test_containers_that_would_outlive_docker_are_stopped_and_a_pinning_service_is_named(
    tool: Tool, loop_disks: Callable[..., LoopDisk], tmp_path: Path
) -> None:
    disk = loop_disks(SIZE)
    tool.configure(disk.path, engine=ENGINE)
    tool.succeed("apply", "--yes")
    sh("systemctl", "start", *UNITS)
    assert storage() == ("devicemapper", "docker-thinpool")
    image = load_image(tmp_path)
    for name in ("web", "db"):
        sh("docker", "run", "--detach", "--name", name, "--network=none", "--stop-timeout=1", image, "sleep", "1000")
    refused = tool("destroy", "docker", "--yes", "--json")
    assert refused.code == 3
    assert "--allow outage,destroy" in refused.document["error"]["summary"]
    assert "web" in refused.document["error"]["details"]
    assert "db" in refused.document["error"]["details"]

    private = "--property=PrivateMounts=yes"
    # Copies of the mounts that nobody uses go when Docker unmounts its own.
    sh("systemd-run", "--quiet", f"--unit={IDLE}", private, "sleep", "4000")
    (mount, _) = DATA_ROOT.glob("devicemapper/mnt/*/rootfs")
    sh("systemd-run", "--quiet", f"--unit={PIN}", private, f"--working-directory={mount}", "sleep", "3000")
    pid = sh("systemctl", "show", "--property=MainPID", "--value", PIN).strip()
    wait_until(lambda: Path(f"/proc/{pid}/comm").read_text("ascii") == "sleep\n")
    destroy = ("destroy", "docker", "--yes", "--allow", "outage,destroy", "--json")
    pinned = tool(*destroy)
    assert (pinned.code, pinned.document["error"]["code"]) == (3, "DEVICE_OPEN")
    assert f"sleep 3000 (pid {pid}, {PIN})" in pinned.document["error"]["details"]
    assert IDLE not in pinned.document["error"]["details"]
    assert f"Restart {PIN}" in pinned.document["error"]["resolution"]
    assert len(sh("docker", "ps", "--quiet").split()) == 2
    sh("systemctl", "stop", PIN)

    done = tool.succeed(*destroy).document
    assert [step["do"] for step in done["steps"]][:2] == ["stop-containers", "stop-engine"]
    assert states() == ["inactive", "inactive"]
    assert is_blank(disk.path)
