"""What a file system's superblock says of its size and identity, read from a device and never changed.

Sources: xfs_format.h for XFS (big endian, at byte 0); fs/ext4/ext4.h for ext4 (little endian, at byte 1024).
"""

from __future__ import annotations

import os
import struct
import uuid
from typing import Literal, NamedTuple

READ_BYTES = 4096
# sb_magicnum, sb_blocksize and sb_dblocks at 0, sb_uuid at 32
_XFS = struct.Struct(">4sIQ16x16s")
# s_blocks_count_lo at 4, s_log_block_size at 24, s_magic at 56, s_feature_incompat at 96, s_uuid at 104,
# s_blocks_count_hi at 336
_EXT4 = struct.Struct("<4xI16xI28xH38xI4x16s216xI")
_EXT4_OFFSET, _EXT4_MAGIC, _EXT4_64BIT, _EXT4_MOST_LOG_BLOCK = 1024, 0xEF53, 0x80, 6


class FileSystem(NamedTuple):
    """A file system as its superblock describes it."""

    kind: Literal["xfs", "ext4"]
    size_bytes: int
    uuid: str
    """In lower case, with hyphens, as blkid(8) prints it."""


def read_block(path: str, offset_bytes: int, flags: int = os.O_DIRECT) -> bytes:
    """Return 4 KiB of the block device `path`, fewer at its end.

    Past the page cache (O_DIRECT), which keeps what was there before for as long as anybody has the device open. The
    caller makes sure that the device is not suspended: to read one waits until it is resumed.

    Raises:
        OSError: it cannot be read.

    """
    import mmap  # noqa: PLC0415 - hardly ever needed

    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)
    try:
        # Anonymous memory begins at a page, as O_DIRECT asks.
        with mmap.mmap(-1, READ_BYTES) as buffer:
            return buffer[: os.preadv(fd, [buffer], offset_bytes)]
    finally:
        os.close(fd)


def parse_superblock(data: bytes) -> FileSystem | None:
    """Return what the first 4 KiB of a device tell; None: they hold no superblock of XFS or ext4."""
    if len(data) < READ_BYTES:
        return None
    magic, block_bytes, blocks, xfs_uuid = _XFS.unpack_from(data)
    if magic == b"XFSB":
        return FileSystem("xfs", blocks * block_bytes, str(uuid.UUID(bytes=xfs_uuid)))
    low, log_block, ext_magic, incompatible, ext_uuid, high = _EXT4.unpack_from(data, _EXT4_OFFSET)
    if ext_magic != _EXT4_MAGIC or log_block > _EXT4_MOST_LOG_BLOCK:
        return None
    blocks = low | (high << 32 if incompatible & _EXT4_64BIT else 0)
    return FileSystem("ext4", blocks << (10 + log_block), str(uuid.UUID(bytes=ext_uuid)))
