from __future__ import annotations

from pathlib import Path

import pytest

from thinpoolmgr.core.model import FileSystem
from thinpoolmgr.host.superblock import parse_superblock, read_file_system

UUID = "509079b0-6859-4ae7-9b4d-11c828521da5"


def xfs() -> bytes:
    head = b"XFSB" + (4096).to_bytes(4, "big") + (524288).to_bytes(8, "big") + bytes(16)
    return (head + bytes.fromhex(UUID.replace("-", ""))).ljust(4096, b"\0")


def ext4(*, incompatible: int = 0x80, log_block: int = 2, high: int = 1, low: int = 5) -> bytes:
    block = bytearray(3072)
    for offset, value in ((4, low), (24, log_block), (96, incompatible), (336, high)):
        block[offset : offset + 4] = value.to_bytes(4, "little")
    block[56:58] = (0xEF53).to_bytes(2, "little")
    block[104:120] = bytes.fromhex(UUID.replace("-", ""))
    return bytes(1024) + bytes(block)


def test_xfs() -> None:
    assert parse_superblock(xfs()) == FileSystem("xfs", UUID, 2 * 1024**3)


def test_ext4() -> None:
    assert parse_superblock(ext4()) == FileSystem("ext4", UUID, ((1 << 32) + 5) * 4096)
    # without the feature 64bit the upper half is something else
    assert parse_superblock(ext4(incompatible=0)) == FileSystem("ext4", UUID, 5 * 4096)


@pytest.mark.parametrize("data", [b"", bytes(4096), xfs()[:100], ext4(log_block=7), b"LABELONE".ljust(4096, b"\0")])
def test_anything_else_is_unknown(data: bytes) -> None:
    assert parse_superblock(data) is None


def test_a_device_that_is_not_there_is_unknown(tmp_path: Path) -> None:
    assert read_file_system(str(tmp_path / "x")) is None
    (tmp_path / "x").write_bytes(xfs())
    assert read_file_system(str(tmp_path / "x")) == FileSystem("xfs", UUID, 2 * 1024**3)
