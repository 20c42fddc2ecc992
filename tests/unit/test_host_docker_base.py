"""When the file system in Docker's base device is read, and when nothing is said of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.engines.docker import base_device_name, driver_name
from thinpoolmgr.core.model import DmDevice, EngineDevice, EngineState, Snapshot
from thinpoolmgr.host import dm
from thinpoolmgr.host.engines import docker_base, read_base_bytes

POOL = DmDevice("docker-thinpool", "LVM-x", "253:2", 1, targets=("thin-pool",))
SIZE = 2 * 1024**3


def state(path: Path) -> EngineState:
    return EngineState(str(path), base_size_bytes=SIZE, devices=(EngineDevice("base", 1, SIZE),))


def base_of(path: Path, **facts: Any) -> DmDevice:
    folder = path.stat()
    name = base_device_name(os.major(folder.st_dev), os.minor(folder.st_dev), folder.st_ino)
    assert driver_name(name) == "base"
    values = {"open_count": 0, "targets": ("thin",), "depends_on": ("253:2",), "table": "253:2 1", **facts}
    return DmDevice(name, "", "253:7", **values)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> dict[str, DmDevice]:
    """The devices that the kernel has; all have a file system of `SIZE`."""
    devices: dict[str, DmDevice] = {}
    monkeypatch.setattr(dm, "read_device", devices.get)
    monkeypatch.setattr(docker_base, "read_file_system_bytes", {"/dev/dm-7": SIZE}.get)
    return devices


def read(path: Path, seen: DmDevice, pool: DmDevice = POOL, mounted: tuple[str, ...] = ()) -> int | None:
    engine = support.docker(state=state(path))
    unexamined = replace(seen, table="", is_examined=False)
    return read_base_bytes(engine, pool, Snapshot(dm_devices=(POOL, unexamined)), mounted)


def test_an_active_base_device_is_read_by_its_node(tmp_path: Path, kernel: dict[str, DmDevice]) -> None:
    base = base_of(tmp_path)
    kernel[base.name] = base
    assert read(tmp_path, base) == SIZE


@pytest.mark.parametrize(
    "facts", [{"suspended": True}, {"table": "253:2 2"}, {"table": ""}, {"depends_on": ("253:3",)}]
)
def test_a_device_in_doubt_is_not_read(tmp_path: Path, kernel: dict[str, DmDevice], facts: dict[str, Any]) -> None:
    base = base_of(tmp_path, **facts)
    kernel[base.name] = base
    assert read(tmp_path, base) is None


def test_nothing_is_read_below_a_suspended_pool_or_a_mount(tmp_path: Path, kernel: dict[str, DmDevice]) -> None:
    base = base_of(tmp_path)
    kernel[base.name] = base
    assert read(tmp_path, base, pool=replace(POOL, suspended=True)) is None
    assert read(tmp_path, base, mounted=("253:7",)) is None


def test_what_is_not_there_is_unknown(tmp_path: Path, kernel: dict[str, DmDevice]) -> None:
    base = base_of(tmp_path)
    # gone since it was listed
    assert read(tmp_path, base) is None
    kernel[base.name] = base
    assert read(tmp_path, replace(base, name="docker-8:1-42-base")) is None
    assert read(tmp_path / "gone", base) is None
    shot = Snapshot(dm_devices=(base,))
    assert read_base_bytes(support.docker(), POOL, shot, ()) is None
    assert read_base_bytes(support.docker(state=state(tmp_path)), None, shot, ()) is None
