"""All changes to files: whole and durable, or not at all, and never through a symbolic link or across a mount point."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import sys
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from thinpoolmgr.errors import RefusedError, ThinpoolmgrError

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEXT_LIMIT_BYTES = 1024**2
_PIECE_BYTES = 1024**2
_MOUNTINFO_LIMIT_BYTES = 64 * 1024**2
_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
FOLDER_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
# include/uapi/linux/fs.h, for a 64-bit kernel.
_FS_IOC_GETFLAGS = 0x80086601
_FS_IMMUTABLE = 0x10
_ESCAPE = re.compile(r"\\([0-7]{3})", re.ASCII)


class FileFailedError(ThinpoolmgrError):
    """The operating system refused to write or move a file."""

    default_code = "FILE_FAILED"


class FileRead(NamedTuple):
    """A file as it was read; its extended attributes only where they were asked for."""

    text: str
    status: os.stat_result
    xattrs: dict[str, bytes]


def read_text(path: str, limit_bytes: int, *, dir_fd: int | None = None, follow: bool = True) -> str:
    """Return the text of a regular file, exactly as it stands (no newline is translated).

    Args:
        path: the file; relative to `dir_fd` when that is given.
        limit_bytes: more than this is refused, not cut.
        dir_fd: an open folder.
        follow: whether `path` itself may be a symbolic link.

    Raises:
        OSError: when there is no such file, or it cannot be read.
        ValueError: with a text for people, when it is no regular file, too long, or not UTF-8.

    """
    return read_file(path, limit_bytes, dir_fd, follow=follow).text


def read_file(
    path: str, limit_bytes: int, dir_fd: int | None = None, *, follow: bool = True, with_xattrs: bool = False
) -> FileRead:
    """Return a regular file with its status at that time; arguments and errors are those of `read_text`."""
    # Looked at before it is opened (opening a device can do things) and after (it may be another one by then).
    _refuse_irregular(path, os.stat(path, dir_fd=dir_fd, follow_symlinks=follow))
    fd = os.open(path, _READ_FLAGS | (0 if follow else os.O_NOFOLLOW), dir_fd=dir_fd)
    try:
        status = os.fstat(fd)
        _refuse_irregular(path, status)
        data = _read_most(fd, limit_bytes + 1, status.st_size)
        xattrs = _read_xattrs(fd) if with_xattrs else {}
    finally:
        os.close(fd)
    if len(data) > limit_bytes:
        msg = f"{path} is longer than {limit_bytes} bytes"
        raise ValueError(msg)
    try:
        return FileRead(data.decode(), status, xattrs)
    except UnicodeDecodeError as error:
        msg = f"{path} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}"
        raise ValueError(msg) from error


def _read_most(fd: int, most_bytes: int, expected_bytes: int) -> bytes:
    # Few calls, since some files are read by the ten thousand; those of proc(5) say that they have 0 bytes.
    data = b""
    while len(data) < most_bytes and (piece := os.read(fd, min(most_bytes - len(data), _PIECE_BYTES))):
        data += piece
        if len(data) >= expected_bytes > 0:
            break
    return data


def _refuse_irregular(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        msg = f"{path} is not a regular file"
        raise ValueError(msg)


def _read_xattrs(fd: int) -> dict[str, bytes]:
    try:
        return {name: os.getxattr(fd, name) for name in os.listxattr(fd)}
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS):
            return {}
        raise


def write_atomically(path: str, text: str, *, expect_text: str | None) -> None:
    """Put `text` into a file: after any crash the file holds the old text or the new one.

    Mode, owner and extended attributes (ACL, SELinux label) of the old file are kept; a new file is 0644. A symbolic
    link stays: the regular file it leads to is replaced. The file's folder is made when only it is missing.

    Args:
        path: absolute path.
        text: the new text, written as UTF-8.
        expect_text: what the caller knows the file to hold; None: that there is no file.

    Raises:
        RefusedError: nothing was changed: the file holds something else, or is no regular file.
        FileFailedError: nothing was changed: the operating system refused.

    """
    try:
        target = _follow_link(path)
        _make_folder(os.path.dirname(target))
        with _open_folder(os.path.dirname(target), follow=True) as folder:
            replace_in_folder(folder, target, text.encode(), expect_text)
    except UnicodeEncodeError as error:
        summary = f"the new text of {path} cannot be written as UTF-8"
        raise RefusedError(summary, str(error), code="FILE_TEXT") from error
    except OSError as error:
        raise file_failed(f"cannot write {path}", error) from error


def write_generated(path: str, data: bytes) -> None:
    """Put a file that is made anew each time in the place of the last one, whole, mode 0644; its folder must be there.

    The folder may be another user's: nothing but a regular file is replaced, and no link in it is followed.

    Raises:
        RefusedError: `path` is a link, a device, or something else that is no regular file.
        FileFailedError: the operating system refused; the last one is still there.

    """
    folder, name = os.path.split(os.path.abspath(path))
    temporary = f".{name}.thinpoolmgr"
    try:
        with _open_folder(folder, follow=True) as fd:
            with suppress(FileNotFoundError):
                if not stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                    raise RefusedError(f"{path} is left alone", "It is no regular file.", code="FILE_UNEXPECTED")
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=fd)
            _write_new(fd, temporary, data, None)
            os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
    except OSError as error:
        raise file_failed(f"cannot write {path}", error) from error


def why_not_writable(path: str) -> str:
    """Return why `path` could not be replaced by `write_atomically`; empty when nothing stands against it.

    Even root cannot write on a read-only file system, nor replace an immutable file (chattr(1), flag `i`).
    """
    real = os.path.realpath(path)
    folder = os.path.dirname(real)
    if not os.path.isdir(folder) and os.path.isdir(os.path.dirname(folder)):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        return f"its folder {folder} does not exist"
    if not os.access(folder, os.W_OK):
        return f"its folder {folder} is read-only, or not ours to write"
    immutable = next((place for place in (real, folder) if _is_immutable(place)), "")
    return f"{immutable} is immutable (lsattr)" if immutable else ""


def _is_immutable(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        flags = fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(8))
    except OSError:
        # Not every file system has such flags.
        return False
    finally:
        os.close(fd)
    return bool(int.from_bytes(flags[:4], sys.byteorder) & _FS_IMMUTABLE)


def _follow_link(path: str) -> str:
    if not os.path.islink(path):
        return path
    try:
        return os.path.realpath(path, strict=True)
    except OSError as error:
        raise RefusedError(f"{path} is a symbolic link that leads nowhere", str(error), code="FILE_LINK") from error


def file_failed(summary: str, error: OSError) -> FileFailedError:
    """Return the error for what the operating system refused."""
    resolution = "See to the cause (a full or read-only file system, a mount), then run again."
    return FileFailedError(summary, str(error), resolution)


def _make_folder(folder: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(folder, 0o755)
        with _open_folder(os.path.dirname(folder), follow=True) as above:
            os.fsync(above)


@contextmanager
def _open_folder(path: str, *, follow: bool = False, dir_fd: int | None = None) -> Iterator[int]:
    fd = os.open(path, FOLDER_FLAGS & ~(os.O_NOFOLLOW if follow else 0), dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def replace_in_folder(folder: int, target: str, data: bytes, expect_text: str | None) -> None:
    """Replace the file `target` in its open folder, whole or not at all; raises as `write_atomically`, and OSError."""
    name = os.path.basename(target)
    # One fixed name: what a killed run left is replaced by the next one, and the lock keeps a second run away.
    temporary = f".{name}.thinpoolmgr"
    old = _expect(folder, name, target, expect_text)
    with suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=folder)
    try:
        _write_new(folder, temporary, data, old)
        _expect(folder, name, target, expect_text)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)


def _expect(folder: int, name: str, shown: str, expect_text: str | None) -> FileRead | None:
    try:
        old = read_file(name, _TEXT_LIMIT_BYTES, folder, follow=False, with_xattrs=True)
    except FileNotFoundError:
        old = None
    except ValueError as error:
        raise RefusedError(f"{shown} is left alone", str(error), code="FILE_UNEXPECTED") from error
    if (old.text if old else None) != expect_text:
        details = "it is not there any more" if old is None else "its text is not the one that was planned with"
        raise RefusedError(f"{shown} changed", details, "Plan again.", code="FILE_CHANGED")
    return old


def _write_new(folder: int, name: str, data: bytes, old: FileRead | None) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=folder)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        if old:
            os.fchown(fd, old.status.st_uid, old.status.st_gid)
        # After chown, which clears the set-id bits.
        os.fchmod(fd, stat.S_IMODE(old.status.st_mode) if old else 0o644)
        for attribute, value in (old.xattrs if old else {}).items():
            os.setxattr(fd, attribute, value)
        file.flush()
        os.fsync(fd)


def mounts_on_or_below(paths: tuple[str, ...], proc: str = "/proc") -> tuple[str, ...]:
    """Return the mount points at or below `paths`, bind mounts too, as this process and process 1 see them.

    Raises:
        OSError: when this process's own mounts cannot be read; without them nothing may be moved.

    """
    found = set(_mount_points(f"{proc}/self/mountinfo"))
    with suppress(OSError):
        found |= set(_mount_points(f"{proc}/1/mountinfo"))
    return tuple(sorted(m for m in found if any(m == path or m.startswith(f"{path}/") for path in paths)))


def _mount_points(mountinfo: str) -> Iterator[str]:
    data = Path(mountinfo).read_bytes()[:_MOUNTINFO_LIMIT_BYTES].decode(errors="surrogateescape")
    for line in data.split("\n"):
        fields = line.split(" ", 5)
        if len(fields) > 5:
            yield _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])


@contextmanager
def open_path(path: str, dir_fd: int | None = None, *, make: bool = False) -> Iterator[int]:
    """Open a folder one name after the other, so that no symbolic link is followed anywhere.

    Args:
        path: absolute, or below `dir_fd`; that itself when empty.
        dir_fd: an open folder.
        make: whether what is missing on the way is made.

    Raises:
        OSError: ELOOP or ENOTDIR for a symbolic link or another kind of file on the way.

    """
    with ExitStack() as stack:
        fd = dir_fd if dir_fd is not None else stack.enter_context(_open_folder("/"))
        for part in path.split("/"):
            if part in ("", "."):
                continue
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=fd)
                    os.fsync(fd)
            fd = stack.enter_context(_open_folder(part, dir_fd=fd))
        yield fd
