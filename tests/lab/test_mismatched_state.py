"""Docker's state and its pool do not fit: what is told apart, what is refused, and the way back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import wait_until
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
from lab_tool import Tool, dm_names, fingerprint, sh

from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]
pytestmark = pytest.mark.campaign

SIZE = 3 * 2**30
METADATA = DATA_ROOT / "devicemapper/metadata"
END_SECONDS = 120.0


@pytest.fixture
def tool(tmp_path: Path) -> Iterator[Tool]:
    yield from host_with_docker(tmp_path)


@pytest.fixture
def used(tool: Tool, loop_disks: MakeDisk, tmp_path: Path) -> Tool:
    """Return the command line of a host on which Docker has an image and a container in its pool, and is stopped."""
    tool.configure(loop_disks(SIZE).path, engine=ENGINE)
    tool.succeed("apply", "--yes")
    with Dockerd(tmp_path / "log"):
        sh("docker", "create", "--name", "web", "--network=none", load_image(tmp_path), "true")
    return tool


def findings(tool: Tool) -> dict[str, str]:
    return {f["code"]: f["summary"] for f in tool.succeed("status", "--json").document["findings"]}


def why_docker_ends(log: Path) -> str:
    """Start a dockerd that cannot start, wait until it has ended, and return what it said."""
    with log.open("wb") as output:
        process = subprocess.Popen(["dockerd"], stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        try:
            process.wait(END_SECONDS)
        finally:
            process.kill()
    return log.read_text("utf-8", "replace")


def refused(tool: Tool, *command: str) -> str:
    answer = tool(*command)
    assert answer.code == 3, (answer.out, answer.err)
    return answer.err


def test_a_wiped_superblock_is_seen_and_let_go_of_only_when_that_is_allowed(used: Tool, tmp_path: Path) -> None:
    words = sh("dmsetup", "table", "docker-thinpool_tmeta").split()
    sh("lvchange", "--activate", "n", "docker/thinpool")
    disk = next(
        Path("/dev") / path.parent.name for path in Path("/sys/block").glob("*/dev") if is_number(path, words[3])
    )
    with disk.open("r+b") as file:
        file.seek(int(words[4]) * 512)
        file.write(bytes(4096))
        os.fsync(file.fileno())
    sh("lvchange", "--activate", "y", "docker/thinpool")
    assert "ENGINE_POOL_WIPED" in findings(used)
    assert "ENGINE_POOL_WIPED" in refused(used, "apply", "--yes", "--allow", "outage,destroy")
    message = refused(used, "clean", "--yes")
    assert "--allow destroy" in message
    assert "lost with it: image lab:1, and container web" in " ".join(used("clean").err.split())
    assert METADATA.is_dir()
    used.succeed("clean", "--yes", "--allow", "destroy")
    (aside,) = DATA_ROOT.glob("thinpoolmgr-stale-*")
    assert (aside / "devicemapper/metadata/base").is_file()
    assert [path.name for path in aside.iterdir() if path.name == "containers"] == ["containers"]
    assert len(list((aside / "containers").iterdir())) == 1
    with Dockerd(tmp_path / "log"):
        assert storage() == ("devicemapper", "docker-thinpool")
        assert sh("docker", "ps", "--all", "--quiet") == ""
        assert "new" in run_container(load_image(tmp_path), "echo", "new")
    assert findings(used) == {}


def is_number(path: Path, number: str) -> bool:
    return path.read_text("ascii").strip() == number


def test_a_truncated_record_is_named_and_a_rebuild_begins_with_nothing(used: Tool, tmp_path: Path) -> None:
    record = next(path for path in METADATA.iterdir() if len(path.name) == 64)
    whole = record.read_text("utf-8")
    record.write_text(whole[:20], "utf-8")
    assert "Failed to load device files" in why_docker_ends(tmp_path / "log")
    assert "ENGINE_STATE_DAMAGED" in findings(used)
    assert record.name[:40] in "".join(refused(used, "apply", "--yes").split())
    record.write_text(whole, "utf-8")
    assert "ENGINE_STATE_DAMAGED" not in findings(used)
    # A transaction that was cut short is taken back by Docker itself.
    transaction = METADATA / "transaction-metadata"
    opened = json.loads(transaction.read_text("utf-8"))
    opened |= {"open_transaction_id": opened["open_transaction_id"] + 1, "device_hash": "x", "device_id": 99}
    transaction.write_text(json.dumps(opened), "utf-8")
    assert "ENGINE_TRANSACTION_OPEN" in [f["code"] for f in used("doctor", "--json").document["findings"]]
    assert used("plan").code == 0
    with Dockerd(tmp_path / "log"):
        assert sh("docker", "ps", "--all", "--format", "{{.Names}}").strip() == "web"
    assert "ENGINE_TRANSACTION_OPEN" not in [f["code"] for f in used("doctor", "--json").document["findings"]]
    record.write_text("", "utf-8")
    used.succeed("rebuild", "docker", "--yes", "--allow", "destroy")
    with Dockerd(tmp_path / "log"):
        assert "new" in run_container(load_image(tmp_path), "echo", "new")


def test_a_pool_whose_data_root_is_gone_counts_as_taken(used: Tool, tmp_path: Path) -> None:
    for folder in DATA_ROOT.iterdir():
        shutil.rmtree(folder)
    assert "Unable to take ownership of thin-pool" in why_docker_ends(tmp_path / "log")
    assert "ENGINE_POOL_TAKEN" in findings(used)
    assert "ENGINE_POOL_TAKEN" in refused(used, "apply", "--yes", "--allow", "outage,destroy")
    used.succeed("rebuild", "docker", "--yes", "--allow", "destroy")
    with Dockerd(tmp_path / "log"):
        assert "new" in run_container(load_image(tmp_path), "echo", "new")


def test_the_state_of_another_pool_is_known_by_its_base_device(used: Tool, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(DATA_ROOT / "devicemapper", old, symlinks=True)
    used.succeed("rebuild", "docker", "--yes", "--allow", "destroy")
    with Dockerd(tmp_path / "log"):
        image = load_image(tmp_path)
        for number in range(3):
            sh("docker", "create", "--name", f"web{number}", "--network=none", image, "true")
    # The pool has gone further than the old state: by transactions alone it could be its own.
    shutil.move(DATA_ROOT / "devicemapper", tmp_path / "new")
    shutil.copytree(old, DATA_ROOT / "devicemapper", symlinks=True)
    message = why_docker_ends(tmp_path / "log")
    assert "Base Device UUID" in message
    assert "ENGINE_STATE_OTHER_POOL" in findings(used)
    assert "the base device there has the uuid" in " ".join(refused(used, "apply", "--yes").split())
    # A record with a number that the pool does not have.
    base = METADATA / "base"
    base.write_text(json.dumps(json.loads(base.read_text("utf-8")) | {"device_id": 777}), "utf-8")
    assert "no device with the number of the base device" in " ".join(refused(used, "apply", "--yes").split())
    shutil.rmtree(DATA_ROOT / "devicemapper")
    shutil.move(tmp_path / "new", DATA_ROOT / "devicemapper")
    assert findings(used) == {}
    used.succeed("rebuild", "docker", "--yes", "--allow", "destroy")


def test_loop_files_of_dropped_options_are_told_from_those_that_are_used(used: Tool, tmp_path: Path) -> None:
    right = DAEMON_JSON.read_text("utf-8")
    DAEMON_JSON.write_text(SETTINGS.replace("none", 'none",\n\t"storage-driver": "devicemapper'), "utf-8")
    before = dm_names()
    assert "Base Device UUID and Filesystem verification failed" in why_docker_ends(tmp_path / "log")
    for name in dm_names() - before:
        sh("dmsetup", "remove", "--retry", name)
    assert (DATA_ROOT / "devicemapper/devicemapper/data").is_file()
    assert "ENGINE_OPTIONS_DROPPED" in findings(used)
    assert [step["do"] for step in used("plan", "--json").document["steps"]] == ["write-engine-config"]
    used.succeed("apply", "--yes")
    assert json.loads(DAEMON_JSON.read_text("utf-8")) == json.loads(right)
    with Dockerd(tmp_path / "log"):
        assert storage() == ("devicemapper", "docker-thinpool")
        assert "still there" in run_container("lab:1", "echo", "still there")
        assert "ENGINE_OPTIONS_DROPPED" in findings(used)
    shutil.rmtree(DATA_ROOT / "devicemapper/devicemapper")
    assert findings(used) == {}


def begin_own_setup(disk: Path, folder: Path, before: str = "") -> Callable[[], None]:
    """Start a dockerd that sets `disk` up by itself, and return what kills it with all that it started.

    Instead of the command `before` it gets one that never ends; `folder`/there tells that it has come so far.
    """
    own = json.dumps([f"dm.directlvm_device={disk}", "dm.directlvm_device_force=true"])
    storage_lines = f'none",\n\t"storage-driver": "devicemapper", "storage-opts": {own}'
    DAEMON_JSON.write_text(SETTINGS.replace('none"', storage_lines), "utf-8")
    if before:
        script = folder / "bin" / before
        script.parent.mkdir()
        script.write_text(f"#!/bin/sh\ntouch {folder}/there\nexec sleep 1000\n", "utf-8")
        script.chmod(0o755)
    path = f"{folder}/bin:{os.environ['PATH']}"
    with (folder / "log").open("wb") as output:
        dockerd = subprocess.Popen(
            ["dockerd"],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PATH": path},
        )

    def kill() -> None:
        os.killpg(dockerd.pid, signal.SIGKILL)
        dockerd.wait()
        sh("dmsetup", "udevcomplete_all", "--yes")

    return kill


def steps_of(tool: Tool, *command: str) -> list[str]:
    done = tool.succeed(*command, "--yes", "--json").document
    return [step["do"] for step in done["steps"]]


def require_docker_on_the_pool(tool: Tool, folder: Path) -> None:
    """Apply what is left, and see Docker work on the pool, without its own set-up in its configuration."""
    tool.succeed("apply", "--yes")
    assert "directlvm" not in DAEMON_JSON.read_text("utf-8")
    with Dockerd(folder / "log"):
        assert storage() == ("devicemapper", "docker-thinpool")
        assert "new" in run_container(load_image(folder), "echo", "new")
    assert findings(tool) == {}


@pytest.mark.parametrize("device", ["docker-thinpool", "docker-thinpoolmeta"])
def test_a_set_up_of_dockers_own_that_was_killed_is_adopted_and_the_pool_is_made(
    tool: Tool, loop_disks: MakeDisk, tmp_path: Path, device: str
) -> None:
    disk = loop_disks(SIZE).path
    tool.configure(disk, engine=ENGINE)
    kill = begin_own_setup(disk, tmp_path)
    wait_until(lambda: device in dm_names(), END_SECONDS)
    kill()
    assert "already part of a volume group" in why_docker_ends(tmp_path / "log")
    assert "ENGINE_SETUP_UNFINISHED" in findings(tool)
    assert "POOL_FOREIGN" in refused(tool, "apply", "--yes", "--allow", "outage,destroy")
    found = {f["code"]: f for f in tool("doctor", "--json").document["findings"]}["ENGINE_SETUP_UNFINISHED"]
    assert "thinpoolmgr adopt docker --allow destroy" in found["resolution"]
    volumes = [lv for lv in ("thinpool", "thinpoolmeta") if f"docker-{lv}" in dm_names()]
    assert [step["target"] for step in found["fix"]] == ["docker", *(f"docker/{lv}" for lv in volumes)]
    message = refused(tool, "adopt", "docker", "--yes")
    assert "--allow destroy" in message
    assert "no image or container is lost with it" in " ".join(message.split())
    removals = ["remove-leftover"] * len(volumes)
    assert steps_of(tool, "adopt", "docker", "--allow", "destroy") == ["tag-pool", *removals]
    assert sh("lvs", "--noheadings", "docker").split() == []
    require_docker_on_the_pool(tool, tmp_path)


@pytest.mark.parametrize(
    ("before", "steps"),
    [
        ("lvcreate", ["tag-pool"]),
        ("lvconvert", ["tag-pool", "remove-leftover", "remove-leftover"]),
        ("lvchange", ["tag-pool"]),
    ],
)
def test_a_set_up_of_dockers_own_is_adopted_wherever_it_was_killed(
    tool: Tool, loop_disks: MakeDisk, tmp_path: Path, before: str, steps: list[str]
) -> None:
    disk = loop_disks(SIZE).path
    tool.configure(disk, engine=ENGINE)
    kill = begin_own_setup(disk, tmp_path, before)
    wait_until((tmp_path / "there").exists, END_SECONDS)
    if before == "lvconvert":
        message = refused(tool, "adopt", "docker", "--yes", "--allow", "destroy")
        assert "it may be in the middle of its set-up" in " ".join(message.split())
    kill()
    # With a whole pool and no `setup-config.json` it is a pool that somebody made.
    assert ("ENGINE_SETUP_UNFINISHED" in findings(tool)) == (before != "lvchange")
    allowed = ("--allow", "destroy") if len(steps) > 1 else ()
    assert steps_of(tool, "adopt", "docker", *allowed) == steps
    require_docker_on_the_pool(tool, tmp_path)
    Path("/etc/lvm/profile/docker-thinpool.profile").unlink(missing_ok=True)


def test_a_volume_with_a_file_system_is_not_adopted_whatever_it_is_called(
    tool: Tool, loop_disks: MakeDisk, tmp_path: Path
) -> None:
    disk = loop_disks().path
    tool.configure(disk, engine=ENGINE)
    sh("vgcreate", "docker", disk)
    sh("lvcreate", "--yes", "--name", "thinpool", "--extents", "50%VG", "docker")
    sh("mkfs.ext4", "-q", "/dev/docker/thinpool")
    mounts = tmp_path / "mnt"
    mounts.mkdir()
    sh("mount", "/dev/docker/thinpool", mounts)
    (mounts / "precious").write_text("precious", "utf-8")
    message = refused(tool, "adopt", "docker", "--yes", "--allow", "destroy")
    assert "VOLUME_MAY_HOLD_DATA" in message
    assert "it is open" in message
    sh("umount", mounts)
    # While the volume is active the disk's own cache keeps what was read before it was written through the volume.
    sh("lvchange", "--activate", "n", "docker/thinpool")
    before = fingerprint(disk)
    message = refused(tool, "adopt", "docker", "--yes", "--allow", "destroy")
    assert "lvchange --activate y docker/thinpool" in message
    sh("lvchange", "--activate", "y", "docker/thinpool")
    sh("dmsetup", "suspend", "docker-thinpool")
    message = refused(tool, "adopt", "docker", "--yes", "--allow", "destroy")
    assert "dmsetup resume docker-thinpool" in message
    sh("dmsetup", "resume", "docker-thinpool")
    for _ in range(2):
        assert "it carries ext4" in refused(tool, "adopt", "docker", "--yes", "--allow", "destroy")
    sh("lvchange", "--activate", "n", "docker/thinpool")
    assert fingerprint(disk) == before
