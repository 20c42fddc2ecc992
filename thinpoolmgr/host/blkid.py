"""Signatures on a device: the one file that knows libblkid.

It asks the way `wipefs` does (misc-utils/wipefs.c of util-linux), which sees more than `blkid` does: every signature
and not just the deciding one, those with a wrong checksum, and the backups at the end of the device.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from thinpoolmgr.core.model import Signature

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTITION_TABLE_USAGE = "partition-table"

_LIBRARY = "libblkid.so.1"
_SUBLKS_TYPE = 1 << 5
_SUBLKS_USAGE = 1 << 7
_SUBLKS_MAGIC = 1 << 9
_SUBLKS_BADCSUM = 1 << 10
_PARTS_FORCE_GPT = 1 << 1
_PARTS_MAGIC = 1 << 3

_MEBIBYTE = 1 << 20
_MOST_SIGNATURES = 1024


class ProbeError(OSError):
    """The device could not be probed: what is on it is unknown."""


def probe_signatures(path: str) -> tuple[Signature, ...]:
    """Return all signatures on the block device or file at `path`, by offset; none when it is too small for any.

    Texts come from the device: printable, and not to be trusted.

    Raises:
        ProbeError: the device could not be opened or read, or libblkid failed.

    """
    try:
        # O_NONBLOCK: a drive without a medium, or a fifo, answers instead of waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ProbeError(error.errno, error.strerror, path) from error
    try:
        return probe_descriptor(descriptor, path)
    finally:
        os.close(descriptor)


def probe_descriptor(descriptor: int, path: str) -> tuple[Signature, ...]:
    """Return all signatures behind an open descriptor; `path` is for messages only.

    Raises:
        ProbeError: the device could not be read, or libblkid failed.

    """
    try:
        size_bytes = os.lseek(descriptor, 0, os.SEEK_END)
        if not size_bytes:
            return ()
        # What the page cache still has may be gone from the disk: look at the disk itself.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        _require_readable(descriptor, size_bytes)
    except OSError as error:
        raise ProbeError(error.errno, error.strerror, path) from error
    with _new_probe(descriptor, path) as probe:
        found = set(_walk(probe, path))
    return tuple(sorted(found, key=lambda signature: (signature.offset_bytes, signature.type)))


def _require_readable(descriptor: int, size_bytes: int) -> None:
    # libblkid takes some read errors for "nothing there"; every place it looks for a magic is in these two pieces.
    for start in (0, max(0, size_bytes - _MEBIBYTE)):
        position, end = start, min(start + _MEBIBYTE, size_bytes)
        while position < end:
            piece = os.pread(descriptor, end - position, position)
            if not piece:
                raise OSError(errno.EIO, f"nothing to read at byte {position} of {size_bytes}")
            position += len(piece)


@contextmanager
def _new_probe(descriptor: int, path: str) -> Iterator[int]:
    library = _library()
    probe = library.blkid_new_probe()
    if not probe:
        raise ProbeError(errno.ENOMEM, "libblkid made no probe", path)
    try:
        superblocks = _SUBLKS_TYPE | _SUBLKS_USAGE | _SUBLKS_MAGIC | _SUBLKS_BADCSUM
        _require(library.blkid_probe_set_device(probe, descriptor, 0, 0), "set_device", path)
        _require(library.blkid_probe_enable_superblocks(probe, 1), "enable_superblocks", path)
        _require(library.blkid_probe_set_superblocks_flags(probe, superblocks), "set_superblocks_flags", path)
        _require(library.blkid_probe_enable_partitions(probe, 1), "enable_partitions", path)
        _require(library.blkid_probe_set_partitions_flags(probe, _PARTS_MAGIC | _PARTS_FORCE_GPT), "set_flags", path)
        yield probe
    finally:
        library.blkid_free_probe(probe)


def _walk(probe: int, path: str) -> Iterator[Signature]:
    library = _library()
    for _ in range(_MOST_SIGNATURES):
        ctypes.set_errno(0)
        result = library.blkid_do_probe(probe)
        if result == 1:
            return
        _require(result, "do_probe", path)
        for prefix, kind_name, usage_name in (("SB", "TYPE", "USAGE"), ("PT", "PTTYPE", "")):
            kind = _value(probe, kind_name)
            if not kind:
                continue
            offset = _offset(probe, f"{prefix}MAGIC_OFFSET", path)
            usage = _text(_value(probe, usage_name)) if usage_name else PARTITION_TABLE_USAGE
            yield Signature(type=_text(kind), usage=usage, offset_bytes=offset)
            _hide(probe, offset, len(_value(probe, f"{prefix}MAGIC")))
    raise ProbeError(errno.ELOOP, f"libblkid reports more than {_MOST_SIGNATURES} signatures", path)


def _hide(probe: int, offset: int, length: int) -> None:
    # As wipefs: the same prober is asked again without what it found, and tells of its next copy (GPT, ZFS, FAT).
    # Hidden in libblkid's memory only. Before util-linux 2.31 only the first copy is seen.
    library = _library()
    if length and hasattr(library, "blkid_probe_hide_range"):
        _require(library.blkid_probe_hide_range(probe, offset, length), "hide_range", "")
        library.blkid_probe_step_back(probe)


def _offset(probe: int, name: str, path: str) -> int:
    text = _value(probe, name)
    try:
        return int(text) if text else 0
    except ValueError as error:
        raise ProbeError(errno.EINVAL, f"libblkid gives {name} as {text!r}", path) from error


def _value(probe: int, name: str) -> bytes:
    """Return the raw value called `name`, without libblkid's closing NUL; empty when the probe has none."""
    data = ctypes.c_void_p()
    length = ctypes.c_size_t()
    if _library().blkid_probe_lookup_value(probe, name.encode(), ctypes.byref(data), ctypes.byref(length)) < 0:
        return b""
    raw = ctypes.string_at(data, length.value) if data.value else b""
    # Texts are counted with their NUL; a magic is binary, may end in NUL itself and is counted exactly.
    return raw if name.endswith("MAGIC") else raw.rstrip(b"\0")


def _text(raw: bytes) -> str:
    text = raw.decode("utf-8", errors="replace")
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _require(result: int, call: str, path: str) -> None:
    if result < 0:
        # Some calls return -errno, some -1 with errno set, some -1 alone.
        number = ctypes.get_errno() or (-result if result < -1 else errno.EIO)
        raise ProbeError(number, f"libblkid failed in {call}: {os.strerror(number)}", path)


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY, use_errno=True)
    except OSError as error:
        raise ProbeError(errno.ELIBACC, f"{_LIBRARY} cannot be loaded: {error}", _LIBRARY) from error
    pointer, integer, offset = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    library.blkid_new_probe.restype = pointer
    library.blkid_free_probe.argtypes = [pointer]
    library.blkid_free_probe.restype = None
    library.blkid_probe_set_device.argtypes = [pointer, integer, offset, offset]
    for name in ("enable_superblocks", "set_superblocks_flags", "enable_partitions", "set_partitions_flags"):
        getattr(library, f"blkid_probe_{name}").argtypes = [pointer, integer]
    library.blkid_do_probe.argtypes = [pointer]
    library.blkid_probe_lookup_value.argtypes = [
        pointer,
        ctypes.c_char_p,
        ctypes.POINTER(ctypes.c_void_p),
        ctypes.POINTER(ctypes.c_size_t),
    ]
    if hasattr(library, "blkid_probe_hide_range"):
        library.blkid_probe_hide_range.argtypes = [pointer, ctypes.c_uint64, ctypes.c_uint64]
        library.blkid_probe_step_back.argtypes = [pointer]
    return library
