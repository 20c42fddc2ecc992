"""Whether the metadata of a volume group changed, without LVM: a few bytes of each disk, read and compared.

LVM writes a new copy of a group's metadata with each change, and then, in one sector, where that copy is (format text
2: lib/format_text/layout.h, lib/label/label.h). This sector is the mark. What it says does not matter here, only
whether it is another one.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_SECTOR = 512
_LABEL_SECTORS = 4
_LABEL = Struct("<8sQII8s")
"""id, sector number, checksum, offset of what follows, type"""
_AREA = Struct("<QQ")
_UUID_AND_SIZE_BYTES = 40
_MAGIC, _TYPE = b"LABELONE", b"LVM2 001"
_MOST_AREAS = 16

Mark = tuple[tuple[str, bytes], ...]


def group_mark(paths: Iterable[str]) -> Mark | None:
    """Return what tells one state of a group's metadata from another; `paths` are its disks.

    None: a disk could not be read, or none of them holds metadata, and only LVM itself knows.
    """
    marks = []
    for path in paths:
        try:
            mark = _disk_mark(path)
        except OSError:
            return None
        marks.append((path, mark))
    return tuple(marks) if any(mark for _, mark in marks) else None


def _disk_mark(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = os.pread(descriptor, _LABEL_SECTORS * _SECTOR, 0)
        return b"".join(os.pread(descriptor, _SECTOR, offset) for offset in metadata_offsets(head))
    finally:
        os.close(descriptor)


def metadata_offsets(head: bytes) -> tuple[int, ...]:
    """Return where the headers of the metadata areas are, in bytes, from the first four sectors of a disk."""
    for start in range(0, len(head) - _SECTOR + 1, _SECTOR):
        magic, _, _, offset, kind = _LABEL.unpack_from(head, start)
        if (magic, kind) == (_MAGIC, _TYPE):
            return _metadata_areas(head[start : start + _SECTOR], offset + _UUID_AND_SIZE_BYTES)
    return ()


def _metadata_areas(sector: bytes, start: int) -> tuple[int, ...]:
    """Two lists of areas, of data and of metadata, each closed by one that is empty."""
    lists: list[list[int]] = [[], []]
    at = start
    for areas in lists:
        while at + _AREA.size <= len(sector) and len(areas) < _MOST_AREAS:
            offset, _ = _AREA.unpack_from(sector, at)
            at += _AREA.size
            if not offset:
                break
            areas.append(offset)
    return tuple(lists[1])
