"""base-size on a real Docker 20.10: the configuration, daemon.json and Docker's own base device follow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker_lab import DAEMON_JSON, ENGINE, Dockerd, host_with_docker, load_image, run_container
from lab_tool import Tool

from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]
pytestmark = pytest.mark.campaign

COMMENTED = ENGINE.replace('"1GiB"\n', '"1GiB"   # what the images need\n# end\n')


@pytest.fixture
def tool(tmp_path: Path) -> Iterator[Tool]:
    yield from host_with_docker(tmp_path)


def base_bytes(tool: Tool) -> int:
    found = tool.succeed("status", "--json").document["engines"][0]["base_size_bytes"]
    assert isinstance(found, int)
    return found


def test_docker_grows_its_base_device_after_base_size(tool: Tool, loop_disks: MakeDisk, tmp_path: Path) -> None:
    tool.configure(loop_disks(3 * 2**30).path, engine=COMMENTED)
    text = tool.config.read_text("utf-8")
    tool.config.chmod(0o640)
    tool.succeed("apply", "--yes")
    larger = ("base-size", "docker", "2GiB", "--yes", "--allow", "outage")
    with Dockerd(tmp_path / "log"):
        load_image(tmp_path)
        assert base_bytes(tool) == 2**30
        refused = tool(*larger, "--json")
        assert (refused.code, refused.document["error"]["code"]) == (3, "ENGINE_RUNNING")
        assert tool.config.read_text("utf-8") == text
    done = tool.succeed(*larger, "--json").document
    assert (done["outcome"], [step["do"] for step in done["steps"]]) == ("done", ["write-engine-config"])
    assert tool.config.read_text("utf-8") == text.replace('"1GiB"', '"2GiB"')
    assert tool.config.stat().st_mode & 0o777 == 0o640
    assert "dm.basesize=2G" in json.loads(DAEMON_JSON.read_text("utf-8"))["storage-opts"]
    assert tool.succeed(*larger, "--json").document["outcome"] == "nothing"
    with Dockerd(tmp_path / "log"):
        assert base_bytes(tool) == 2 * 2**30
        assert "hello" in run_container("lab:1", "echo", "hello")
        assert tool("plan").code == 0
    refused = tool("base-size", "docker", "1GiB", "--yes", "--allow", "outage")
    assert (refused.code, "[BASE_SIZE_SHRINKS]" in refused.err) == (3, True)
    assert tool.config.read_text("utf-8") == text.replace('"1GiB"', '"2GiB"')
    tool.succeed("base-size", "docker", "1GiB", "--yes", "--allow", "outage,destroy")
    assert tool.config.read_text("utf-8") == text
    with Dockerd(tmp_path / "log"):
        assert base_bytes(tool) == 2**30
    tool.succeed("destroy", "docker", "--yes", "--allow", "destroy")
