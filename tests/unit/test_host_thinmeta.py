"""Where the first block of a thin device lies: metadata made here, block by block, as the kernel lays them out."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from thinpoolmgr.host import thinmeta
from thinpoolmgr.host.superblock import read_block
from thinpoolmgr.host.thinmeta import BLOCK_BYTES, FirstBlock, crc32c, find_first_block

CHUNK_SECTORS = 1024
SUPERBLOCK_XOR, NODE_XOR = 160774, 121107
INTERNAL, LEAF = 1, 2
MOST = 252


def sealed(body: bytes, xor: int) -> bytes:
    """Give a block whose first four bytes are missing its checksum."""
    body = body.ljust(BLOCK_BYTES - 4, b"\0")
    return struct.pack("<I", crc32c(body) ^ xor) + body


def superblock(root: int, *, magic: int = 27022010, block_sectors: int = 8, number: int = 0) -> bytes:
    head = struct.pack("<IQ16xQIIQQ", 0, number, magic, 2, 1, 7, 0)
    body = head.ljust(316, b"\0") + struct.pack("<QQII", root, 0, CHUNK_SECTORS, block_sectors)
    return sealed(body, SUPERBLOCK_XOR)


def node(number: int, flags: int, entries: dict[int, int], *, value_bytes: int = 8, most: int = MOST) -> bytes:
    head = struct.pack("<IQIII4x", flags, number, len(entries), most, value_bytes)
    keys = struct.pack(f"<{len(entries)}Q", *entries).ljust(most * 8, b"\0")
    return sealed(head + keys + struct.pack(f"<{len(entries)}Q", *entries.values()), NODE_XOR)


def mapping(data_block: int) -> int:
    return data_block << 24 | 5


BLOCKS = {
    0: superblock(1),
    # devices 1 to 9 and from 10 on, below an internal node
    1: node(1, INTERNAL, {1: 2, 10: 3}),
    2: node(2, LEAF, {1: 4, 7: 5, 8: 6}),
    3: node(3, LEAF, {10: 4}),
    4: node(4, LEAF, {0: mapping(20), 1: mapping(21)}),
    5: node(5, LEAF, {3: mapping(9)}),
    6: node(6, LEAF, {}),
}


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    path = tmp_path / "metadata"
    path.write_bytes(b"".join(BLOCKS.values()))
    return path


def put(path: Path, number: int, block: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(number * BLOCK_BYTES)
        file.write(block)


def find(path: Path, device_id: int) -> FirstBlock | None:
    return find_first_block(str(path), device_id, flags=0)


def test_the_checksum_is_crc32c_as_the_kernel_has_it() -> None:
    # RFC 3720, appendix B.4, before its last inversion
    assert crc32c(bytes(32)) ^ 0xFFFFFFFF == 0x8A9136AA
    assert crc32c(bytes(range(32))) ^ 0xFFFFFFFF == 0x46DD794E


@pytest.mark.parametrize("device_id", [1, 10])
def test_a_mapped_first_block(metadata: Path, device_id: int) -> None:
    assert find(metadata, device_id) == FirstBlock(exists=True, offset_bytes=20 * CHUNK_SECTORS * 512)


@pytest.mark.parametrize("device_id", [7, 8])
def test_a_device_whose_first_block_is_not_mapped(metadata: Path, device_id: int) -> None:
    assert find(metadata, device_id) == FirstBlock(exists=True)


@pytest.mark.parametrize("device_id", [0, 2, 9, 11, 2**24 - 1])
def test_a_number_that_no_device_has(metadata: Path, device_id: int) -> None:
    assert find(metadata, device_id) == FirstBlock(exists=False)


@pytest.mark.parametrize(
    ("number", "block"),
    [
        (0, superblock(1, magic=27022011)),
        (0, superblock(1, block_sectors=16)),
        (0, superblock(1, number=1)),
        (0, superblock(99)),
        (2, node(3, LEAF, {1: 4})),
        (2, node(2, 3, {1: 4})),
        (2, node(2, LEAF, {1: 4}, value_bytes=4)),
        (2, node(2, LEAF, {1: 4}, most=300)),
        (2, BLOCKS[2][:200] + b"\xff" + BLOCKS[2][201:]),
        # a tree that leads back into itself
        (2, node(2, INTERNAL, {1: 2})),
    ],
)
def test_what_is_damaged_is_unknown(metadata: Path, number: int, block: bytes) -> None:
    put(metadata, number, block)
    assert find(metadata, 1) is None


def test_what_is_not_there_or_cut_short_is_unknown(metadata: Path, tmp_path: Path) -> None:
    assert find(tmp_path / "gone", 1) is None
    metadata.write_bytes(metadata.read_bytes()[: 3 * BLOCK_BYTES - 1])
    assert find(metadata, 1) is None


@pytest.mark.parametrize("times", [1, 3])
def test_a_commit_meanwhile_is_looked_at_again(metadata: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """While we look the pool commits: the old tree is overwritten, and the superblock leads to a new one."""
    read = read_block
    looks: list[int] = []

    def reading(path: str, offset_bytes: int, flags: int) -> bytes:
        block = read(path, offset_bytes, flags)
        if offset_bytes == 0 and len(looks) < times:
            looks.append(offset_bytes)
            put(metadata, 1, b"\xff" * BLOCK_BYTES if len(looks) % 2 else BLOCKS[1])
            put(metadata, 0, superblock(7 + len(looks)))
            put(metadata, 7 + len(looks), node(7 + len(looks), LEAF, {1: 7}))
            put(metadata, 7, node(7, LEAF, {0: mapping(30)}))
        return block

    monkeypatch.setattr(thinmeta, "read_block", reading)
    assert find(metadata, 1) == FirstBlock(exists=True, offset_bytes=30 * CHUNK_SECTORS * 512)


def test_a_pool_that_commits_all_the_time_is_unknown(metadata: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, count = read_block, iter(range(1000))

    def reading(path: str, offset_bytes: int, flags: int) -> bytes:
        if offset_bytes == 0:
            put(metadata, 0, superblock(1, block_sectors=8) if next(count) % 2 else superblock(3))
        return read(path, offset_bytes, flags)

    monkeypatch.setattr(thinmeta, "read_block", reading)
    assert find(metadata, 1) is None
