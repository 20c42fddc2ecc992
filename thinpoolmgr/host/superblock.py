"""How large a file system's superblock says that it is, read from the device and never changed.

Sources: xfs_format.h for XFS (big endian, at byte 0); fs/ext4/ext4.h for ext4 (little endian, at byte 1024).
"""

from __future__ import annotations

import os
import struct

_READ_BYTES = 4096
_XFS = struct.Struct(">4sIQ")
# s_blocks_count_lo at 4, s_log_block_size at 24, s_magic at 56, s_feature_incompat at 96, s_blocks_count_hi at 336
_EXT4 = struct.Struct("<4xI16xI28xH38xI236xI")
_EXT4_OFFSET, _EXT4_MAGIC, _EXT4_64BIT, _EXT4_MOST_LOG_BLOCK = 1024, 0xEF53, 0x80, 6


def read_file_system_bytes(path: str, flags: int = os.O_DIRECT) -> int | None:
    """Return the size of the file system on the block device `path`; None: it is neither XFS nor ext4, or unreadable.

    Past the page cache (O_DIRECT), which keeps an old superblock for as long as anybody has the device open. The caller
    makes sure that the device is not suspended: to read one waits until it is resumed.
    """
    import mmap  # noqa: PLC0415 - hardly ever needed

    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)
        try:
            # Anonymous memory begins at a page, as O_DIRECT asks.
            with mmap.mmap(-1, _READ_BYTES) as buffer:
                return parse_superblock(buffer[: os.preadv(fd, [buffer], 0)])
        finally:
            os.close(fd)
    except OSError:
        return None


def parse_superblock(data: bytes) -> int | None:
    """Return the size in bytes that the first 4 KiB of a device tell; None: they hold no superblock of XFS or ext4."""
    if len(data) < _READ_BYTES:
        return None
    magic, block_bytes, blocks = _XFS.unpack_from(data)
    if magic == b"XFSB":
        return int(blocks * block_bytes)
    low, log_block, ext_magic, incompatible, high = _EXT4.unpack_from(data, _EXT4_OFFSET)
    if ext_magic != _EXT4_MAGIC or log_block > _EXT4_MOST_LOG_BLOCK:
        return None
    blocks = low | (high << 32 if incompatible & _EXT4_64BIT else 0)
    return int(blocks << (10 + log_block))
