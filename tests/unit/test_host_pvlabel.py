from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from thinpoolmgr.host.pvlabel import group_mark, metadata_offsets

if TYPE_CHECKING:
    from pathlib import Path

AREA = 4096


def label(*metadata: int, data: tuple[int, ...] = (1 << 20,), sector: int = 1, magic: bytes = b"LABELONE") -> bytes:
    """Return the first sectors of a disk with LVM's label (lib/label/label.h, lib/format_text/layout.h)."""
    header = struct.pack("<8sQII8s", magic, sector, 0, 32, b"LVM2 001")
    areas = b"".join(struct.pack("<QQ", offset, 0) for offset in (*data, 0, *metadata, 0))
    body = header + b"u" * 32 + struct.pack("<Q", 1 << 30) + areas
    return bytes(512 * sector) + body.ljust(512, b"\0") + bytes(512 * (3 - sector))


def disk(folder: Path, name: str, header: bytes, *metadata: int) -> str:
    path = folder / name
    content = bytearray(label(*metadata).ljust(AREA + 512, b"\0"))
    content[AREA : AREA + len(header)] = header
    path.write_bytes(content)
    return str(path)


def test_metadata_areas_come_after_those_of_data() -> None:
    assert metadata_offsets(label(AREA)) == (AREA,)
    assert metadata_offsets(label(AREA, 1 << 29, data=(1 << 20, 1 << 21))) == (AREA, 1 << 29)
    assert metadata_offsets(label()) == ()
    assert metadata_offsets(label(AREA, sector=3)) == (AREA,)


def test_what_is_no_label_has_no_areas() -> None:
    assert metadata_offsets(b"") == ()
    assert metadata_offsets(bytes(2048)) == ()
    assert metadata_offsets(label(AREA, magic=b"SOMETHNG")) == ()


def test_areas_without_end_end_with_the_sector() -> None:
    assert len(metadata_offsets(label(*[AREA] * 60))) <= 16


def test_the_mark_changes_with_the_header_of_the_metadata(tmp_path: Path) -> None:
    before = group_mark([disk(tmp_path, "a", b"one", AREA)])
    assert before == group_mark([disk(tmp_path, "a", b"one", AREA)])
    assert before != group_mark([disk(tmp_path, "a", b"two", AREA)])
    assert before is not None


def test_without_metadata_or_disk_only_lvm_knows(tmp_path: Path) -> None:
    none = disk(tmp_path, "none", b"one")
    assert group_mark([none]) is None
    assert group_mark([str(tmp_path / "gone")]) is None
    assert group_mark([]) is None
    some = disk(tmp_path, "some", b"one", AREA)
    assert group_mark([none, some]) is not None
    assert group_mark([some, str(tmp_path / "gone")]) is None
