"""What a file system's superblock says of itself, read from the device and never changed.

Sources: xfs_db(8) and xfs_format.h for XFS (big endian, at byte 0); ext4.h for ext4 (little endian, at byte 1024).
"""

from __future__ import annotations

import os
import struct
from uuid import UUID

from thinpoolmgr.core.model import FileSystem

_READ_BYTES = 4096
_XFS = struct.Struct(">4sIQ16x16s")
# s_blocks_count_lo at 4, s_log_block_size at 24, s_magic at 56, s_feature_incompat at 96, s_uuid at 104,
# s_blocks_count_hi at 336
_EXT4 = struct.Struct("<4xI16xI28xH38xI4x16s216xI")
_EXT4_OFFSET, _EXT4_MAGIC, _EXT4_64BIT = 1024, 0xEF53, 0x80


def read_file_system(path: str) -> FileSystem | None:
    """Return what is on the block device `path`; None when that is neither XFS nor ext4, or cannot be read.

    The caller makes sure that the device is not suspended: reading one would wait until it is resumed.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return parse_superblock(os.pread(fd, _READ_BYTES, 0))
        finally:
            os.close(fd)
    except OSError:
        return None


def parse_superblock(data: bytes) -> FileSystem | None:
    """Return what the first 4 KiB of a device say; None when they are no superblock of XFS or ext4."""
    if len(data) < _READ_BYTES:
        return None
    magic, block_bytes, blocks, uuid = _XFS.unpack_from(data)
    if magic == b"XFSB":
        return FileSystem("xfs", str(UUID(bytes=uuid)), blocks * block_bytes)
    low, log_block, ext_magic, incompatible, uuid, high = _EXT4.unpack_from(data, _EXT4_OFFSET)
    if ext_magic != _EXT4_MAGIC or log_block > 6:
        return None
    blocks = low | (high << 32 if incompatible & _EXT4_64BIT else 0)
    return FileSystem("ext4", str(UUID(bytes=uuid)), blocks << (10 + log_block))
