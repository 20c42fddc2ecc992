"""What is read of Docker's base device in the pool, and when nothing is said of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import support
from msgspec.structs import replace
from test_superblock import SAID, xfs

from thinpoolmgr.core.engines.docker import base_device_name, driver_name
from thinpoolmgr.core.model import BaseDevice, DmDevice, EngineDevice, EngineState, Snapshot
from thinpoolmgr.host import dm
from thinpoolmgr.host.engines import docker_base, read_base
from thinpoolmgr.host.thinmeta import FirstBlock

POOL = DmDevice("docker-thinpool", "LVM-x", "253:2", 1, targets=("thin-pool",), table="253:0 253:1 1024 0 0")
METADATA = DmDevice("docker-thinpool_tmeta", "LVM-y", "253:0", 1, targets=("linear",))
SIZE = 2 * 1024**3
CHUNK = 524288
FOUND = BaseDevice(filesystem="xfs", size_bytes=SIZE, uuid=SAID)


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
    """The devices that the kernel has; device 1 of the pool begins in its third chunk, with XFS."""
    devices: dict[str, DmDevice] = {}
    monkeypatch.setattr(dm, "read_device", devices.get)
    places = {("/dev/dm-0", 1): FirstBlock(exists=True, offset_bytes=2 * CHUNK)}
    monkeypatch.setattr(docker_base, "find_first_block", lambda path, number: places.get((path, number)))
    blocks = {("/dev/dm-1", 2 * CHUNK): xfs()}
    monkeypatch.setattr(docker_base, "read_block", lambda path, offset: blocks[path, offset])
    return devices


def read(
    path: Path, *seen: DmDevice, pool: DmDevice = POOL, mounted: tuple[str, ...] = (), known: EngineState | None = None
) -> BaseDevice | None:
    engine = support.docker(state=known or state(path))
    unexamined = [replace(device, table="", is_examined=False) for device in seen]
    return read_base(engine, pool, Snapshot(dm_devices=(pool, METADATA, *unexamined)), mounted)


def test_a_base_device_need_not_be_active(tmp_path: Path, kernel: dict[str, DmDevice]) -> None:
    assert kernel == {}
    assert read(tmp_path) == FOUND


@pytest.mark.parametrize("count", [0, 1])
def test_one_that_is_active_is_named(tmp_path: Path, kernel: dict[str, DmDevice], count: int) -> None:
    base = base_of(tmp_path, open_count=count)
    kernel[base.name] = base
    assert read(tmp_path, base) == replace(FOUND, dm_name=base.name, is_open=count > 0)


@pytest.mark.parametrize("facts", [{"table": "253:2 2"}, {"table": ""}, {"depends_on": ("253:3",)}])
def test_another_device_of_that_name_is_not_it(
    tmp_path: Path, kernel: dict[str, DmDevice], facts: dict[str, Any]
) -> None:
    other = base_of(tmp_path, **facts)
    kernel[other.name] = other
    assert read(tmp_path, other) == FOUND


def test_nothing_is_read_of_what_is_suspended_or_mounted(tmp_path: Path, kernel: dict[str, DmDevice]) -> None:
    base = base_of(tmp_path)
    kernel[base.name] = base
    assert read(tmp_path, base, mounted=("253:7",)) is None
    assert read(tmp_path, pool=replace(POOL, suspended=True)) is None
    kernel[base.name] = replace(base, suspended=True)
    assert read(tmp_path, base) is None
    shot = Snapshot(dm_devices=(POOL, replace(METADATA, suspended=True)))
    assert read_base(support.docker(state=state(tmp_path)), POOL, shot, ()) is None


def test_a_number_that_the_pool_does_not_have(
    tmp_path: Path, kernel: dict[str, DmDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kernel == {}
    for place in (FirstBlock(exists=False), FirstBlock(exists=True)):
        monkeypatch.setattr(docker_base, "find_first_block", lambda *_, place=place: place)
        assert read(tmp_path) == BaseDevice(in_pool=place.exists)


def test_what_cannot_be_read_is_unknown(
    tmp_path: Path, kernel: dict[str, DmDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kernel == {}
    # no record of a base device, a record of one that the metadata do not tell of, no pool, no state
    assert read(tmp_path, known=EngineState(str(tmp_path))) is None
    assert read(tmp_path, known=EngineState(str(tmp_path), devices=(EngineDevice("base", 5, SIZE),))) is None
    assert read_base(support.docker(state=state(tmp_path)), None, Snapshot(), ()) is None
    assert read_base(support.docker(), POOL, Snapshot(), ()) is None
    monkeypatch.setattr(docker_base, "read_block", lambda *_: bytes(4096))
    assert read(tmp_path) == BaseDevice()

    def failing(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(docker_base, "read_block", failing)
    assert read(tmp_path) is None
