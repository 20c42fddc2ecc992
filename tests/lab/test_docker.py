"""Docker 20.10 on the pool: configured, used, its pool gone, rebuilt; with nobody but the user to start and stop it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker_lab import (
    DAEMON_JSON,
    DATA_ROOT,
    ENGINE,
    SETTINGS,
    Dockerd,
    host_with_docker,
    load_image,
    run_container,
    storage,
)
from lab_tool import Tool, dm_names, is_blank, sh

from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]
DESTROY = ("destroy", "docker", "--yes", "--allow", "destroy")
SIZE = 3 * 2**30


@pytest.fixture
def tool(tmp_path: Path) -> Iterator[Tool]:
    yield from host_with_docker(tmp_path)


def test_docker_lives_on_the_pool_and_is_built_again_after_destroy(
    tool: Tool, loop_disks: MakeDisk, tmp_path: Path
) -> None:
    disk = loop_disks(SIZE)
    tool.configure(disk.path, engine=ENGINE)
    DAEMON_JSON.chmod(0o640)
    tool.succeed("apply", "--yes")
    text = DAEMON_JSON.read_text("utf-8")
    assert text.startswith(SETTINGS.rstrip("}\n"))
    assert json.loads(text)["storage-driver"] == "devicemapper"
    assert DAEMON_JSON.stat().st_mode & 0o777 == 0o640
    with Dockerd(tmp_path / "log") as dockerd:
        assert storage() == ("devicemapper", "docker-thinpool")
        image = load_image(tmp_path)
        assert "hello" in run_container(image, "echo", "hello")
        status = tool.succeed("status", "--json").document
        engine = status["engines"][0]
        assert (engine["state"], engine["driver"], engine["base_size_bytes"]) == ("running", "devicemapper", 2**30)
        assert status["pools"][0]["transaction_id"] > 0
        assert status["findings"] == []
        assert tool("plan").code == 0
        for command in (DESTROY, ("deactivate", "docker", "--yes", "--allow", "outage")):
            refused = tool(*command)
            assert refused.code == 3
            assert str(dockerd.pid) in refused.err
        assert "hello" in run_container(image, "echo", "hello")
    tool.succeed(*DESTROY)
    assert is_blank(disk.path)
    assert not (DATA_ROOT / "devicemapper").exists()
    (aside,) = DATA_ROOT.glob("thinpoolmgr-stale-*")
    assert (aside / "devicemapper/metadata/base").is_file()
    assert (aside / "image/devicemapper").is_dir()
    tool.succeed("apply", "--yes")
    with Dockerd(tmp_path / "log"):
        assert storage() == ("devicemapper", "docker-thinpool")
        assert "again" in run_container(load_image(tmp_path), "echo", "again")
    tool.succeed(*DESTROY)


def test_state_of_a_pool_that_is_gone_is_moved_aside_whole(tool: Tool, loop_disks: MakeDisk, tmp_path: Path) -> None:
    disk = loop_disks(SIZE)
    tool.configure(disk.path, engine=ENGINE)
    tool.succeed("apply", "--yes")
    with Dockerd(tmp_path / "log"):
        load_image(tmp_path)
    before = {path.relative_to(DATA_ROOT) for path in (DATA_ROOT / "devicemapper").rglob("*")}
    sh("vgremove", "--quiet", "--force", "--yes", "docker")
    sh("pvremove", "--quiet", disk.path)
    status = tool.succeed("status", "--json").document
    assert status["engines"][0]["stale"] is True
    assert "ENGINE_STATE_STALE" in [finding["code"] for finding in status["findings"]]
    planned = tool("plan", "--json").document
    assert [step["do"] for step in planned["steps"]] == ["create-volume-group", "create-thin-pool", "move-state-aside"]
    tool.succeed("apply", "--yes")
    (aside,) = DATA_ROOT.glob("thinpoolmgr-stale-*")
    assert {path.relative_to(aside) for path in (aside / "devicemapper").rglob("*")} == before
    with Dockerd(tmp_path / "log"):
        assert "new" in run_container(load_image(tmp_path), "echo", "new")
    assert tool.succeed("status", "--json").document["engines"][0]["stale"] is False


@pytest.mark.campaign
def test_a_pool_made_anew_under_old_state_is_recognised_by_its_transaction(
    tool: Tool, loop_disks: MakeDisk, tmp_path: Path
) -> None:
    disk = loop_disks(SIZE)
    tool.configure(disk.path, engine=ENGINE)
    tool.succeed("apply", "--yes")
    with Dockerd(tmp_path / "log"):
        load_image(tmp_path)
    sh("vgremove", "--quiet", "--force", "--yes", "docker")
    sh("pvremove", "--quiet", disk.path)
    DATA_ROOT.rename(DATA_ROOT.with_name("docker.kept"))
    tool.succeed("apply", "--yes")
    DATA_ROOT.with_name("docker.kept").rename(DATA_ROOT)
    assert [step["do"] for step in tool("plan", "--json").document["steps"]] == ["move-state-aside"]
    tool.succeed("apply", "--yes")
    with Dockerd(tmp_path / "log"):
        assert storage() == ("devicemapper", "docker-thinpool")


def test_a_docker_on_loop_files_is_refused_and_left_running(tool: Tool, loop_disks: MakeDisk, tmp_path: Path) -> None:
    disk = loop_disks(SIZE)
    tool.configure(disk.path, engine=ENGINE)
    DAEMON_JSON.write_text(SETTINGS.replace("none", 'none",\n\t"storage-driver": "devicemapper'), "utf-8")
    with Dockerd(tmp_path / "log"):
        planned = tool("plan", "--json")
        assert planned.code == 3
        assert [refusal["code"] for refusal in planned.document["refusals"]] == ["ENGINE_LOOP_LVM"]
        assert tool("apply", "--yes", "--allow", "destroy,outage").code == 3
        assert storage()[0] == "devicemapper"
    assert is_blank(disk.path)


@pytest.mark.campaign
def test_a_running_docker_that_nobody_can_stop_for_us_is_named(
    tool: Tool, loop_disks: MakeDisk, tmp_path: Path
) -> None:
    disk = loop_disks(SIZE)
    tool.configure(disk.path, engine=ENGINE)
    DAEMON_JSON.write_text(SETTINGS.replace("none", 'none",\n\t"storage-driver": "vfs'), "utf-8")
    before = DAEMON_JSON.read_text("utf-8")
    with Dockerd(tmp_path / "log") as dockerd:
        refused = tool("apply", "--yes", "--allow", "outage")
        assert refused.code == 3
        assert str(dockerd.pid) in refused.err
        assert "your job" in " ".join(refused.err.split())
    assert is_blank(disk.path)
    assert DAEMON_JSON.read_text("utf-8") == before
    tool.succeed("apply", "--yes")
    with Dockerd(tmp_path / "log"):
        assert storage() == ("devicemapper", "docker-thinpool")


@pytest.mark.parametrize("version", ["25.0.0", "28.2.2"])
def test_a_docker_without_the_driver_stops_everything_first(tool: Tool, loop_disks: MakeDisk, version: str) -> None:
    disk = loop_disks(SIZE)
    tool.configure(disk.path, engine=ENGINE)
    fake = Path("/usr/local/sbin/dockerd")
    fake.write_text(f"#!/bin/sh\necho 'Docker version {version}, build abc'\n", "utf-8")
    fake.chmod(0o755)
    try:
        planned = tool("plan", "--json")
        assert planned.code == 69
        assert planned.document["refusals"][0]["code"] == "ENGINE_UNSUPPORTED"
        applied = tool("apply", "--yes")
        assert applied.code == 69
        assert version in applied.err
        assert "24" in applied.err
        assert tool.succeed("status", "--json").document["engines"][0]["state"] == "unsupported"
    finally:
        fake.unlink()
    assert is_blank(disk.path)
    assert DAEMON_JSON.read_text("utf-8") == SETTINGS


def test_a_broken_daemon_json_is_named_before_anything_is_written(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks(SIZE)
    tool.configure(disk.path, engine=ENGINE)
    DAEMON_JSON.write_text('{"bridge": "none",}', "utf-8")
    refused = tool("apply", "--yes")
    assert refused.code == 3
    assert str(DAEMON_JSON) in refused.err
    assert is_blank(disk.path)
    assert "docker-thinpool" not in dm_names()


def test_a_read_only_etc_is_seen_before_the_pool_is_made(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks(SIZE)
    tool.configure(disk.path, engine=ENGINE)
    sh("mount", "--bind", DAEMON_JSON.parent, DAEMON_JSON.parent)
    sh("mount", "-o", "remount,bind,ro", DAEMON_JSON.parent)
    try:
        refused = tool("apply", "--yes")
    finally:
        sh("umount", DAEMON_JSON.parent)
    assert refused.code == 3
    assert "ENGINE_CONFIG_UNWRITABLE" in refused.err
    assert is_blank(disk.path)


@pytest.mark.parametrize("text", ['{"storage-opts": "dm.fs=xfs"}', '{"storage-opts": [1]}', "[]"])
def test_a_daemon_json_of_the_wrong_shape_is_named(tool: Tool, loop_disks: MakeDisk, text: str) -> None:
    tool.configure(loop_disks(SIZE).path, engine=ENGINE)
    DAEMON_JSON.write_text(text, "utf-8")
    refused = tool("plan")
    assert refused.code == 3
    assert "ENGINE_CONFIG_INVALID" in refused.out
    findings = tool.succeed("status", "--json").document["findings"]
    assert "ENGINE_CONFIG_INVALID" in [finding["code"] for finding in findings]


@pytest.mark.campaign
def test_a_docker_that_the_configuration_leaves_out_keeps_its_pool(
    tool: Tool, loop_disks: MakeDisk, tmp_path: Path
) -> None:
    disk = loop_disks(SIZE)
    tool.configure(disk.path, engine=ENGINE)
    tool.succeed("apply", "--yes")
    tool.configure(disk.path)
    with Dockerd(tmp_path / "log") as dockerd:
        for command in (DESTROY, ("deactivate", "docker", "--yes", "--allow", "outage")):
            refused = tool(*command)
            assert refused.code == 3
            assert str(dockerd.pid) in refused.err
    tool.succeed(*DESTROY)


def test_state_under_a_mount_is_not_moved(tool: Tool, loop_disks: MakeDisk, tmp_path: Path) -> None:
    disk = loop_disks(SIZE)
    tool.configure(disk.path, engine=ENGINE)
    metadata = DATA_ROOT / "devicemapper/metadata"
    metadata.mkdir(parents=True)
    (metadata / "deviceset-metadata").write_text('{"next_device_id": 3, "BaseDeviceUUID": "abc"}', "utf-8")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine", "utf-8")
    point = DATA_ROOT / "devicemapper/mnt"
    point.mkdir()
    sh("mount", "--bind", precious, point)
    try:
        refused = tool("apply", "--yes")
    finally:
        sh("umount", point)
    assert refused.code == 3
    assert (precious / "file").read_text("utf-8") == "mine"
    assert metadata.is_dir()
    assert is_blank(disk.path)
