"""Docker under systemd, its storage configured in each of four ways, and in two of them at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import pytest
from docker_lab import DAEMON_JSON, DATA_ROOT, ENGINE, SETTINGS, storage
from lab_tool import STATE_FOLDER, Tool, sh

from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]
SIZE = 3 * 2**30
UNITS = ("docker.socket", "docker.service")
DROP_INS = Path("/etc/systemd/system/docker.service.d")
SYSCONFIG = Path("/etc/sysconfig/docker-storage")
DEFAULT = Path("/etc/default/docker")
EXEC = "/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock"


def in_daemon_json() -> Path:
    DAEMON_JSON.write_text(SETTINGS.replace("none", 'none",\n\t"storage-driver": "vfs'), "utf-8")
    return DAEMON_JSON


def in_sysconfig() -> Path:
    SYSCONFIG.parent.mkdir(exist_ok=True)
    SYSCONFIG.write_text("# mine\nDOCKER_STORAGE_OPTIONS='--storage-driver vfs'\n", "utf-8")
    text = (
        f"[Service]\nEnvironmentFile=-{SYSCONFIG}\nExecStart=\nExecStart={EXEC} $DOCKER_OPTS $DOCKER_STORAGE_OPTIONS\n"
    )
    (DROP_INS / "a.conf").write_text(text, "utf-8")
    return SYSCONFIG


def in_drop_in() -> Path:
    text = f"[Service]\nExecStart=\nExecStart={EXEC} --storage-driver=vfs $DOCKER_OPTS $DOCKER_STORAGE_OPTIONS\n"
    (DROP_INS / "b.conf").write_text(text, "utf-8")
    return DROP_INS / "b.conf"


def in_default() -> Path:
    DEFAULT.write_text('DOCKER_OPTS="-s vfs"\n', "utf-8")
    return DEFAULT


WAYS = {"daemon.json": in_daemon_json, "sysconfig": in_sysconfig, "drop-in": in_drop_in, "default": in_default}


@pytest.fixture
def tool(tmp_path: Path) -> Iterator[Tool]:
    DAEMON_JSON.parent.mkdir(exist_ok=True)
    DAEMON_JSON.write_text(SETTINGS, "utf-8")
    DROP_INS.mkdir(exist_ok=True)
    yield Tool(tmp_path)
    sh("systemctl", "stop", *UNITS)
    for path in (STATE_FOLDER, DATA_ROOT, DROP_INS):
        shutil.rmtree(path, ignore_errors=True)
    for file in (SYSCONFIG, DEFAULT):
        file.unlink(missing_ok=True)
    sh("systemctl", "daemon-reload")
    sh("systemctl", "reset-failed", *UNITS)


def texts() -> dict[str, str]:
    files = [DAEMON_JSON, SYSCONFIG, DEFAULT, *sorted(DROP_INS.glob("*.conf"))]
    return {str(file): file.read_text("utf-8") for file in files if file.exists()}


def apply_and_start(tool: Tool) -> None:
    tool.succeed("apply", "--yes", "--allow", "outage")
    sh("systemctl", "start", *UNITS)
    assert storage() == ("devicemapper", "docker-thinpool")
    assert tool("plan").code == 0
    assert [path for path, text in texts().items() if "dm.thinpooldev" in text][1:] == []


@pytest.mark.campaign
@pytest.mark.parametrize("way", WAYS)
def test_storage_stays_where_this_host_configures_it(tool: Tool, loop_disks: MakeDisk, way: str) -> None:
    tool.configure(loop_disks(SIZE).path, engine=ENGINE)
    file = WAYS[way]()
    sh("systemctl", "daemon-reload")
    sh("systemctl", "start", *UNITS)
    assert storage()[0] == "vfs"
    before = texts()
    apply_and_start(tool)
    assert [path for path, text in texts().items() if text != before[path]] == [str(file)]


@pytest.mark.campaign
@pytest.mark.parametrize("pair", tuple(combinations(WAYS, 2)), ids="+".join)
def test_what_stands_in_two_places_is_told_and_settled(tool: Tool, loop_disks: MakeDisk, pair: tuple[str, str]) -> None:
    tool.configure(loop_disks(SIZE).path, engine=ENGINE)
    files = [WAYS[way]() for way in pair]
    sh("systemctl", "daemon-reload")
    if "daemon.json" in pair:
        found = tool("doctor", "--json").document["findings"]
        (conflict,) = [finding for finding in found if finding["code"] == "ENGINE_CONFIG_TWICE"]
        assert all(f"{file}, line " in conflict["evidence"] for file in files)
    apply_and_start(tool)
