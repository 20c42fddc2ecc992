"""Signatures on image files: made by the real mkfs tools where they exist, otherwise by hand."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from thinpoolmgr.host import blkid
from thinpoolmgr.host.blkid import PARTITION_TABLE_USAGE, ProbeError, probe_signatures

if TYPE_CHECKING:
    from collections.abc import Mapping

MEBIBYTE = 1 << 20
IMAGE_BYTES = 64 * MEBIBYTE
SECTOR = 512


def make_image(folder: Path, pieces: Mapping[int, bytes], size_bytes: int = IMAGE_BYTES) -> str:
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(size_bytes)
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)
    return str(image)


def patch(size: int, pieces: Mapping[int, bytes]) -> bytes:
    block = bytearray(size)
    for offset, data in pieces.items():
        block[offset : offset + len(data)] = data
    return bytes(block)


def dos_table() -> bytes:
    entry = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0x83, b"\0\2\0", 2048, 20480)
    return patch(SECTOR, {446: entry, 510: b"\x55\xaa"})


def gpt_header(own: int, other: int, last: int) -> bytes:
    entries = 2 if own == 1 else last - 32
    entries_crc = zlib.crc32(bytes(128 * 128))
    fields = (b"EFI PART", 0x00010000, 92, 0, 0, own, other, 34, last - 33, bytes(range(16)), entries, 128, 128)
    header = struct.pack("<8sIIIIQQQQ16sQIII", *fields, entries_crc)
    return header[:16] + struct.pack("<I", zlib.crc32(header)) + header[20:]


def gpt(*, primary: bool = True) -> dict[int, bytes]:
    last = IMAGE_BYTES // SECTOR - 1
    protective = patch(SECTOR, {446: struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff" * 3, 1, last)})
    backup = {last * SECTOR: gpt_header(last, 1, last)}
    if not primary:
        return backup
    return {0: protective[:510] + b"\x55\xaa", SECTOR: gpt_header(1, last, last)} | backup


def crc32c_like(data: bytes, seed: int, polynomial: int) -> int:
    value = seed
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (polynomial if value & 1 else 0)
    return value


def lvm2_label() -> bytes:
    body = struct.pack("<I8s", 32, b"LVM2 001") + b"x" * 32 + bytes(448)
    crc = crc32c_like(body, 0xF597A6CF, 0xEDB88320)
    return struct.pack("<8sQI", b"LABELONE", 1, crc) + body


def md_superblock() -> bytes:
    return patch(4096, {0: struct.pack("<II", 0xA92B4EFC, 1), 16: bytes(range(16)), 144: struct.pack("<Q", 8)})


def zfs_label() -> dict[int, bytes]:
    # The uberblock ring of the first label; libblkid wants at least four.
    magic = struct.pack("<QQ", 0x00BAB10C, 28)
    return {128 * 1024 + slot * 1024: magic for slot in range(8)}


def bcache_superblock() -> bytes:
    magic = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
    body = patch(208, {0: struct.pack("<QQ", 8, 3), 16: magic})
    crc = 0xFFFFFFFFFFFFFFFF
    for byte in body:
        crc ^= byte << 56
        for _ in range(8):
            crc = (crc << 1 ^ (0x42F0E1EBA9EA3693 if crc >> 63 else 0)) & 0xFFFFFFFFFFFFFFFF
    return struct.pack("<Q", crc ^ 0xFFFFFFFFFFFFFFFF) + body


HANDMADE: dict[str, tuple[dict[int, bytes], tuple[str, str, int]]] = {
    "LVM2": ({SECTOR: lvm2_label()}, ("LVM2_member", "raid", 536)),
    "LUKS": ({0: b"LUKS\xba\xbe" + struct.pack(">H", 1)}, ("crypto_LUKS", "crypto", 0)),
    "swap": ({4096 - 10: b"SWAPSPACE2", 1024: struct.pack("<II", 1, 1000)}, ("swap", "other", 4086)),
    "MD member": ({4096: md_superblock()}, ("linux_raid_member", "raid", 4096)),
    "btrfs": ({65536: patch(4096, {64: b"_BHRfS_M"})}, ("btrfs", "filesystem", 65600)),
    "ext2": ({1024: patch(1024, {56: b"\x53\xef", 0: struct.pack("<II", 16, 64)})}, ("ext2", "filesystem", 1080)),
    "bcache": ({4096: bcache_superblock()}, ("bcache", "other", 4120)),
    "BlueStore": ({0: b"bluestore block device\n" + b"f" * 37}, ("ceph_bluestore", "other", 0)),
    "ZFS": (zfs_label(), ("zfs_member", "filesystem", 132 * 1024)),
    "MBR": ({0: dos_table()}, ("dos", PARTITION_TABLE_USAGE, 510)),
}


@pytest.mark.parametrize("case", HANDMADE)
def test_a_signature_made_by_hand(case: str, tmp_path: Path) -> None:
    pieces, expected = HANDMADE[case]

    found = probe_signatures(make_image(tmp_path, pieces))

    assert expected in {(item.type, item.usage, item.offset_bytes) for item in found}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("mkfs.ext4", "-q", "-F"), ("ext4", "filesystem", 1080)),
        (("mkfs.xfs", "-q", "-f"), ("xfs", "filesystem", 0)),
        (("mkswap", "-q"), ("swap", "other", 4086)),
    ],
)
def test_what_the_real_tools_make(command: tuple[str, ...], expected: tuple[str, str, int], tmp_path: Path) -> None:
    tool = shutil.which(command[0], path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert tool is not None, f"{command[0]} is not installed; make setup installs it"
    image = make_image(tmp_path, {}, 512 * MEBIBYTE)
    subprocess.run([tool, *command[1:], image], check=True, capture_output=True)

    found = probe_signatures(image)

    assert expected in {(item.type, item.usage, item.offset_bytes) for item in found}


def test_gpt_is_seen_with_its_backup_and_protective_mbr(tmp_path: Path) -> None:
    found = probe_signatures(make_image(tmp_path, gpt()))

    assert [(item.type, item.offset_bytes) for item in found] == [
        ("PMBR", 510),
        ("gpt", SECTOR),
        ("gpt", IMAGE_BYTES - SECTOR),
    ]
    assert {item.usage for item in found} == {PARTITION_TABLE_USAGE}


def test_gpt_of_which_only_the_backup_is_left(tmp_path: Path) -> None:
    found = probe_signatures(make_image(tmp_path, gpt(primary=False)))

    assert [(item.type, item.offset_bytes) for item in found] == [("gpt", IMAGE_BYTES - SECTOR)]


def test_several_signatures_are_all_told(tmp_path: Path) -> None:
    pieces = {0: dos_table()} | HANDMADE["btrfs"][0] | HANDMADE["swap"][0]

    found = probe_signatures(make_image(tmp_path, pieces))

    assert {item.type for item in found} == {"dos", "btrfs", "swap"}


def test_a_wrong_checksum_is_still_a_signature(tmp_path: Path) -> None:
    broken = bytearray(lvm2_label())
    broken[200] ^= 0xFF

    found = probe_signatures(make_image(tmp_path, {SECTOR: bytes(broken)}))

    assert [item.type for item in found] == ["LVM2_member"]


@pytest.mark.parametrize("size_bytes", [0, 1, 511, SECTOR, 4096, IMAGE_BYTES])
def test_zeros_of_any_size_carry_nothing(size_bytes: int, tmp_path: Path) -> None:
    assert probe_signatures(make_image(tmp_path, {}, size_bytes)) == ()


def test_garbage_carries_nothing(tmp_path: Path) -> None:
    noise = b"".join(zlib.crc32(struct.pack("<I", number)).to_bytes(4, "little") for number in range(50_000))

    assert probe_signatures(make_image(tmp_path, {0: noise})) == ()


def test_a_truncated_file_system_is_still_seen(tmp_path: Path) -> None:
    found = probe_signatures(make_image(tmp_path, HANDMADE["ext2"][0], 4096))

    assert [item.type for item in found] in ([], ["ext2"])


def test_probing_changes_nothing(tmp_path: Path) -> None:
    image = Path(make_image(tmp_path, gpt()))
    before = image.read_bytes()

    probe_signatures(str(image))

    assert image.read_bytes() == before


def test_descriptors_do_not_leak(tmp_path: Path) -> None:
    image = make_image(tmp_path, gpt())
    before = sorted(os.listdir("/proc/self/fd"))

    for _ in range(20):
        probe_signatures(image)

    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_missing_device_is_unknown() -> None:
    with pytest.raises(ProbeError) as caught:
        probe_signatures("/no/such/device")

    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "/no/such/device")


@pytest.mark.parametrize("bad_from", [0, IMAGE_BYTES - MEBIBYTE])
def test_a_read_error_is_unknown_never_nothing(bad_from: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_image(tmp_path, {})
    real = os.pread

    def failing(descriptor: int, length: int, offset: int) -> bytes:
        if bad_from <= offset < bad_from + MEBIBYTE:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", failing)

    with pytest.raises(ProbeError) as caught:
        probe_signatures(image)

    assert caught.value.errno == errno.EIO


def test_a_library_that_cannot_be_loaded_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blkid, "_LIBRARY", "libblkid-that-is-not.so.9")
    blkid._library.cache_clear()
    try:
        with pytest.raises(ProbeError, match="cannot be loaded"):
            probe_signatures(make_image(tmp_path, {}))
    finally:
        blkid._library.cache_clear()


def test_text_of_a_device_is_made_printable() -> None:
    assert blkid._text(b"a\x1b[31m\xff\n") == "a?[31m??".replace("?", "\N{REPLACEMENT CHARACTER}")
