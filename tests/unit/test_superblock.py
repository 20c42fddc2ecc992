from __future__ import annotations

from pathlib import Path

import pytest

from thinpoolmgr.host.superblock import parse_superblock, read_file_system_bytes


def xfs() -> bytes:
    return (b"XFSB" + (4096).to_bytes(4, "big") + (524288).to_bytes(8, "big")).ljust(4096, b"\0")


def ext4(*, incompatible: int = 0x80, log_block: int = 2, high: int = 1, low: int = 5) -> bytes:
    block = bytearray(3072)
    for offset, value in ((4, low), (24, log_block), (96, incompatible), (336, high)):
        block[offset : offset + 4] = value.to_bytes(4, "little")
    block[56:58] = (0xEF53).to_bytes(2, "little")
    return bytes(1024) + bytes(block)


def test_xfs() -> None:
    assert parse_superblock(xfs()) == 2 * 1024**3


def test_ext4() -> None:
    assert parse_superblock(ext4()) == ((1 << 32) + 5) * 4096
    assert parse_superblock(ext4(log_block=0)) == ((1 << 32) + 5) * 1024
    # without the feature 64bit the upper half is something else
    assert parse_superblock(ext4(incompatible=0)) == 5 * 4096


@pytest.mark.parametrize("data", [b"", bytes(4096), xfs()[:100], ext4(log_block=7), b"LABELONE".ljust(4096, b"\0")])
def test_anything_else_is_unknown(data: bytes) -> None:
    assert parse_superblock(data) is None


def test_a_device_that_is_not_there_or_too_short_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert read_file_system_bytes(str(path), flags=0) is None
    path.write_bytes(xfs())
    assert read_file_system_bytes(str(path), flags=0) == 2 * 1024**3
    path.write_bytes(xfs()[:1000])
    assert read_file_system_bytes(str(path), flags=0) is None
    assert path.read_bytes() == xfs()[:1000]
