"""Where the first block of a thin device lies, read from the metadata of a pool that runs.

Nothing is asked of the kernel and nothing is changed: no device is made active, no snapshot of the metadata is taken.
What a commit of the pool leaves valid is not written to until the next one (persistent-data keeps the blocks of the
last transaction), so all that is read between two looks at the same superblock belongs together.

Sources: drivers/md/dm-thin-metadata.c for the superblock and the mapping trees, dm-btree-internal.h in
drivers/md/persistent-data for their nodes.
"""

from __future__ import annotations

import functools
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from thinpoolmgr.host.superblock import read_block
from thinpoolmgr.units import SECTOR_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[[int], bytes]

BLOCK_BYTES = 4096
_ATTEMPTS = 8
_MOST_LEVELS = 16
# csum, flags, blocknr; magic at 32; data_mapping_root at 320; data_block_size and metadata_block_size (sectors) at 336
_SUPERBLOCK = struct.Struct("<IIQ16xQ280xQ8xII")
_SUPERBLOCK_MAGIC, _SUPERBLOCK_XOR = 27022010, 160774
# csum, flags, blocknr, nr_entries, max_entries, value_size
_NODE = struct.Struct("<IIQIII4x")
_NODE_XOR, _INTERNAL, _LEAF = 121107, 1, 2
_VALUE_BYTES = 8
# A mapping holds the data block in its upper 40 bits, and the time of its making below (pack_block_time).
_TIME_BITS = 24
_CRC32C = 0x82F63B78


class FirstBlock(NamedTuple):
    """What the pool's metadata say of a thin device."""

    exists: bool
    """Whether the pool has a device of that number."""
    offset_bytes: int | None = None
    """Where its first block lies on the pool's data device; None: it is not mapped."""


class _DamagedError(Exception):
    """A block is not what must be there: damaged, or overwritten meanwhile."""


def find_first_block(metadata_path: str, device_id: int, flags: int = os.O_DIRECT) -> FirstBlock | None:
    """Return where the first block of the thin device `device_id` lies.

    None where that is not sure: the metadata cannot be read, are damaged, or changed at each look. The caller makes
    sure that the metadata device is not suspended.
    """
    for _ in range(_ATTEMPTS):
        before = b""
        try:
            before = read_block(metadata_path, 0, flags)
            found = _look_up(lambda number: read_block(metadata_path, number * BLOCK_BYTES, flags), before, device_id)
            if read_block(metadata_path, 0, flags) == before:
                return found
        except _DamagedError:
            if _is_unchanged(metadata_path, before, flags):
                return None
        except OSError:
            return None
    return None


def _is_unchanged(metadata_path: str, before: bytes, flags: int) -> bool:
    try:
        return read_block(metadata_path, 0, flags) == before
    except OSError:
        return True


def _look_up(read: Read, superblock: bytes, device_id: int) -> FirstBlock:
    _check(superblock, _SUPERBLOCK_XOR, 0)
    _, _, _, magic, mapping_root, chunk_sectors, block_sectors = _SUPERBLOCK.unpack_from(superblock)
    if magic != _SUPERBLOCK_MAGIC or block_sectors * SECTOR_BYTES != BLOCK_BYTES:
        raise _DamagedError
    # Two levels of trees: from the number of a device to the root of its mappings, and from its blocks to the data's.
    device_root = _find(read, mapping_root, device_id)
    if device_root is None:
        return FirstBlock(exists=False)
    mapping = _find(read, device_root, 0)
    if mapping is None:
        return FirstBlock(exists=True)
    return FirstBlock(exists=True, offset_bytes=(mapping >> _TIME_BITS) * chunk_sectors * SECTOR_BYTES)


def _find(read: Read, root: int, key: int) -> int | None:
    """Return the value of `key` in the B-tree below the block `root`; None when it is not in there."""
    for _ in range(_MOST_LEVELS):
        node = read(root)
        _check(node, _NODE_XOR, root)
        _, flags, _, count, most, value_bytes = _NODE.unpack_from(node)
        values_at = _NODE.size + most * _VALUE_BYTES
        fits = count <= most and values_at + most * _VALUE_BYTES <= BLOCK_BYTES
        if flags not in {_INTERNAL, _LEAF} or value_bytes != _VALUE_BYTES or not fits:
            raise _DamagedError
        keys = struct.unpack_from(f"<{count}Q", node, _NODE.size)
        place = sum(found <= key for found in keys) - 1
        if place < 0 or (flags == _LEAF and keys[place] != key):
            return None
        (value,) = struct.unpack_from("<Q", node, values_at + place * _VALUE_BYTES)
        if flags == _LEAF:
            return int(value)
        root = value
    raise _DamagedError


def _check(block: bytes, xor: int, number: int) -> None:
    """Each block carries its checksum and its own number (dm-block-manager's validators)."""
    if len(block) < BLOCK_BYTES:
        raise _DamagedError
    checksum, _, blocknr = struct.unpack_from("<IIQ", block)
    if blocknr != number or checksum != crc32c(block[4:]) ^ xor:
        raise _DamagedError


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of `data` as dm_bm_checksum has it: begun with all ones, not inverted at the end."""
    table, value = _table(), 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value


@functools.cache
def _table() -> tuple[int, ...]:
    def shifted(value: int) -> int:
        for _ in range(8):
            value = value >> 1 ^ (_CRC32C if value & 1 else 0)
        return value

    return tuple(shifted(byte) for byte in range(256))
