from __future__ import annotations

from pathlib import Path

import pytest

from thinpoolmgr.host.superblock import FileSystem, parse_superblock, read_block

UUID = bytes.fromhex("0c5d1e0a9f8b4e6fa1b2c3d4e5f60718")
SAID = "0c5d1e0a-9f8b-4e6f-a1b2-c3d4e5f60718"


def xfs() -> bytes:
    head = b"XFSB" + (4096).to_bytes(4, "big") + (524288).to_bytes(8, "big")
    return (head.ljust(32, b"\0") + UUID).ljust(4096, b"\0")


def ext4(*, incompatible: int = 0x80, log_block: int = 2, high: int = 1, low: int = 5) -> bytes:
    block = bytearray(3072)
    for offset, value in ((4, low), (24, log_block), (96, incompatible), (336, high)):
        block[offset : offset + 4] = value.to_bytes(4, "little")
    block[56:58] = (0xEF53).to_bytes(2, "little")
    block[104:120] = UUID
    return bytes(1024) + bytes(block)


def test_xfs() -> None:
    assert parse_superblock(xfs()) == FileSystem("xfs", 2 * 1024**3, SAID)


def test_ext4() -> None:
    assert parse_superblock(ext4()) == FileSystem("ext4", ((1 << 32) + 5) * 4096, SAID)
    assert parse_superblock(ext4(log_block=0)) == FileSystem("ext4", ((1 << 32) + 5) * 1024, SAID)
    # without the feature 64bit the upper half is something else
    assert parse_superblock(ext4(incompatible=0)) == FileSystem("ext4", 5 * 4096, SAID)


@pytest.mark.parametrize("data", [b"", bytes(4096), xfs()[:100], ext4(log_block=7), b"LABELONE".ljust(4096, b"\0")])
def test_anything_else_is_unknown(data: bytes) -> None:
    assert parse_superblock(data) is None


def test_a_block_is_read_where_it_is_and_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(FileNotFoundError):
        read_block(str(path), 0, flags=0)
    path.write_bytes(bytes(8192) + xfs() + b"end")
    assert read_block(str(path), 8192, flags=0) == xfs()
    assert read_block(str(path), 12288, flags=0) == b"end"
    assert path.read_bytes() == bytes(8192) + xfs() + b"end"
