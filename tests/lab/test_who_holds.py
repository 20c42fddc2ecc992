"""Who holds a device on a real kernel: other mount namespaces, opened nodes, mounts that are gone, devices on top."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import wait_until
from lab_tool import dm_names, sh

from thinpoolmgr.core.desired import DesiredState
from thinpoolmgr.core.holders import Holder
from thinpoolmgr.core.steps import RemoveDmDevice
from thinpoolmgr.errors import RefusedError
from thinpoolmgr.host.dm import list_dm_devices
from thinpoolmgr.host.holders import find_holders
from thinpoolmgr.host.perform import RealHost
from thinpoolmgr.lab.loop import LoopDisk

NAME = "lab-held"
SECTORS = 32768


@pytest.fixture
def held(loop_disks: Callable[..., LoopDisk]) -> Iterator[Path]:
    sh("dmsetup", "create", NAME, "--table", f"0 {SECTORS} linear {loop_disks(SECTORS * 512).path} 0")
    yield Path("/dev/mapper") / NAME
    sh("dmsetup", "remove", "--retry", NAME)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def find() -> tuple[Holder, ...]:
    number = sh("dmsetup", "info", "-c", "--noheadings", "-o", "major,minor", NAME).strip()
    return find_holders({number: NAME}).found


def test_holders_of_all_kinds_are_named(held: Path, processes: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    sh("mkfs.ext4", "-q", held)
    sh("udevadm", "settle")
    point = tmp_path / "a b"
    point.mkdir()
    sh("mount", held, point)
    assert [(holder.kind, holder.is_host, holder.places) for holder in find()] == [("mount", True, (str(point),))]

    apart = subprocess.Popen(["unshare", "--mount", "sleep", "1000"])
    processes.append(apart)
    wait_until(lambda: len(find()) == 2)
    sh("umount", point)
    (other,) = find()
    assert (other.kind, other.is_host, other.places) == ("mount", False, (str(point),))
    assert [(process.pid, process.command) for process in other.processes] == [(apart.pid, "sleep 1000")]
    apart.kill()
    apart.wait()
    assert find() == ()

    sh("mount", held, point)
    inside = subprocess.Popen(["sleep", "1000"], cwd=point)
    processes.append(inside)
    assert [process.pid for process in find()[0].processes] == [inside.pid]
    sh("umount", "--lazy", point)
    assert [(h.kind, [process.pid for process in h.processes]) for h in find()] == [("files", [inside.pid])]
    inside.kill()
    inside.wait()
    wait_until(lambda: find() == ())

    with held.open("rb") as node:
        reader = subprocess.Popen(["sleep", "1000"], stdin=node)
    processes.append(reader)
    assert [(h.kind, [process.pid for process in h.processes]) for h in find()] == [("open", [reader.pid])]
    reader.kill()
    reader.wait()
    assert find() == ()

    sh("dmsetup", "create", f"{NAME}-top", "--table", f"0 1024 linear {held} 0")
    assert [(holder.kind, holder.places) for holder in find()] == [("stacked", (f"{NAME}-top",))]
    sh("dmsetup", "remove", "--retry", f"{NAME}-top")
    assert find() == ()

    loop = sh("losetup", "--find", "--show", held).strip()
    assert [(holder.kind, holder.places) for holder in find()] == [("stacked", (Path(loop).name,))]
    sh("losetup", "--detach", loop)


@pytest.mark.campaign
def test_what_is_open_is_waited_for_and_then_left(held: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    (device,) = (device for device in list_dm_devices() if device.name == NAME)
    step = RemoveDmDevice(reason="r", name=NAME, uuid="", devno=device.devno)
    host = RealHost(DesiredState())
    with held.open("rb") as node:
        processes.append(subprocess.Popen(["sleep", "1000"], stdin=node))
        with pytest.raises(RefusedError, match="still open after 20 seconds") as refused:
            host.perform(step)
        assert refused.value.code == "DEVICE_OPEN"
        assert f"sleep 1000 (pid {processes[0].pid}" in refused.value.details
        processes[0].kill()
        processes[0].wait()

        # The last one who has it open ends while it is waited for: the kernel removes it then by itself.
        processes.append(subprocess.Popen(["sleep", "8"], stdin=node))
    sh("dmsetup", "remove", "--deferred", NAME)
    assert [device.deferred_remove for device in list_dm_devices() if device.name == NAME] == [True]
    host.perform(step)
    assert NAME not in dm_names()
    sh("dmsetup", "create", NAME, "--table", f"0 {SECTORS} zero")
