"""Taking a pool down under a real dockerd: containers, hung and killed daemons, mounts in other namespaces."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import wait_until
from docker_lab import DAEMON_JSON, DATA_ROOT, ENGINE, Dockerd, host_with_docker, load_image
from lab_tool import Tool, is_blank, sh

from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]
pytestmark = pytest.mark.campaign

DESTROY = ("destroy", "docker", "--yes", "--allow", "destroy,outage", "--json")
DEACTIVATE = ("deactivate", "docker", "--yes", "--allow", "outage", "--json")
SIZE = 3 * 2**30


@pytest.fixture
def tool(tmp_path: Path) -> Iterator[Tool]:
    yield from host_with_docker(tmp_path)


def set_live_restore() -> None:
    settings = json.loads(DAEMON_JSON.read_text("utf-8"))
    DAEMON_JSON.write_text(json.dumps({**settings, "live-restore": True}), "utf-8")


def run_in_background(image: str, name: str) -> int:
    """Start a container that goes on, and return the process id of its first process."""
    sh("docker", "run", "--detach", "--name", name, "--network=none", "--stop-timeout=1", image, "sleep", "1000")
    return int(sh("docker", "inspect", "--format", "{{.State.Pid}}", name))


@contextmanager
def apart(script: str) -> Iterator[int]:
    """Run `script`, which ends with `sleep 2000`, in a mount namespace of its own."""
    process = subprocess.Popen(["unshare", "--mount", "sh", "-e", "-c", f"{script}; exec sleep 2000"])
    try:
        wait_until(lambda: Path(f"/proc/{process.pid}/comm").read_text("ascii") == "sleep\n")
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_a_hung_docker_is_unknown_and_a_pinned_mount_is_named(tool: Tool, loop_disks: MakeDisk, tmp_path: Path) -> None:
    disk = loop_disks(SIZE)
    tool.configure(disk.path, engine=ENGINE)
    tool.succeed("apply", "--yes")
    with Dockerd(tmp_path / "log") as dockerd:
        run_in_background(load_image(tmp_path), "busy")
        refused = tool(*DESTROY)
        assert refused.code == 3
        assert "busy" in refused.document["error"]["summary"]

        os.kill(dockerd.pid, signal.SIGSTOP)
        hung = tool(*DESTROY)
        assert (hung.code, hung.document["error"]["code"]) == (3, "ENGINE_UNKNOWN")
        assert f"pid {dockerd.pid}" in hung.document["error"]["summary"]
        assert tool.pool()["state"] == "healthy"
        os.kill(dockerd.pid, signal.SIGCONT)

        # An idle copy of the mount does not keep it: Docker removes its folder. One that is mounted elsewhere does.
        (mount,) = DATA_ROOT.glob("devicemapper/mnt/*/rootfs")
        with apart(f"mount --bind {mount} /mnt") as pinning, apart("true") as idle:
            dockerd.stop()
            refused = tool(*DESTROY)
            assert (refused.code, refused.document["error"]["code"]) == (3, "DEVICE_OPEN")
            assert f"sleep 2000 (pid {pinning}" in refused.document["error"]["details"]
            assert f"(pid {idle}" not in refused.document["error"]["details"]
            assert f"--target {pinning} --mount umount /mnt" in refused.document["error"]["resolution"]
            assert tool.pool()["state"] == "healthy"
    tool.succeed(*DESTROY)
    assert is_blank(disk.path)


def test_containers_that_outlive_docker_are_named(tool: Tool, loop_disks: MakeDisk, tmp_path: Path) -> None:
    tool.configure(loop_disks(SIZE).path, engine=ENGINE)
    tool.succeed("apply", "--yes")
    set_live_restore()
    with Dockerd(tmp_path / "log") as dockerd:
        inside = run_in_background(load_image(tmp_path), "survivor")
        refused = tool(*DESTROY)
        assert refused.code == 3
        assert "survivor" in refused.document["error"]["summary"]
        assert "docker stop" in refused.document["error"]["resolution"]
        dockerd.stop()
    refused = tool(*DEACTIVATE)
    assert (refused.code, refused.document["error"]["code"]) == (3, "DEVICE_OPEN")
    assert f"sleep 1000 (pid {inside}" in refused.document["error"]["details"]
    assert "containerd-shim" in refused.document["error"]["details"]
    with Dockerd(tmp_path / "log"):
        sh("docker", "stop", "--time", "1", "survivor")
    tool.succeed(*DEACTIVATE)
    tool.succeed(*DESTROY)


def test_what_a_killed_docker_leaves_is_named(tool: Tool, loop_disks: MakeDisk, tmp_path: Path) -> None:
    disk = loop_disks(SIZE)
    tool.configure(disk.path, engine=ENGINE)
    tool.succeed("apply", "--yes")
    with Dockerd(tmp_path / "log") as dockerd:
        inside = run_in_background(load_image(tmp_path), "orphan")
        os.kill(dockerd.pid, signal.SIGKILL)
    refused = tool(*DESTROY)
    assert (refused.code, refused.document["error"]["code"]) == (3, "DEVICE_OPEN")
    assert f"pid {inside}" in refused.document["error"]["details"]
    assert "containerd-shim" in refused.document["error"]["details"]
    assert "Start docker" in refused.document["error"]["resolution"]
    Path("/var/run/docker.pid").unlink(missing_ok=True)
    with Dockerd(tmp_path / "log"):
        sh("docker", "stop", "--time", "1", "orphan", check=False)
    tool.succeed(*DESTROY)
    assert is_blank(disk.path)
