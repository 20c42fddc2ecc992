"""Deletes files and folders of our own, and nothing else: never through a symbolic link, never across a mount point.

`shutil.rmtree` empties a bind mount of the same file system: device numbers do not show it, mount ids do (proc(5),
`/proc/PID/fdinfo`).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from thinpoolmgr.errors import RefusedError
from thinpoolmgr.host.aside import MANIFEST, SET_ASIDE_PREFIX
from thinpoolmgr.host.files import FileFailedError, mounts_on_or_below, read_text

_FOLDER_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
_LIMIT_BYTES = 1024**2


class _OtherMountError(Exception):
    """Something is mounted where we were about to delete."""


def find_set_aside(data_root: str) -> tuple[str, ...]:
    """Return the folders beside an engine's state into which we moved it, by name; those without our manifest not."""
    root = os.path.realpath(data_root)
    try:
        names = sorted(name for name in os.listdir(root) if name.startswith(SET_ASIDE_PREFIX))
    except OSError:
        return ()
    return tuple(f"{root}/{name}" for name in names if _has_manifest(f"{root}/{name}"))


def _has_manifest(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path) and os.path.isfile(f"{path}/{MANIFEST}")


def remove_file(path: str, *, expect_text: str | None) -> None:
    """Remove a file that holds what is expected; one that is gone already is no error.

    Raises:
        RefusedError: it holds something else, or is no regular file; it stays.
        FileFailedError: the operating system refused.

    """
    folder, name = os.path.split(path)
    try:
        fd = os.open(folder, _FOLDER_FLAGS & ~os.O_NOFOLLOW)
        try:
            if read_text(name, _LIMIT_BYTES, dir_fd=fd, follow=False) != expect_text:
                raise RefusedError(f"{path} changed", "its text is not the one that was planned with", "Plan again.")
            os.unlink(name, dir_fd=fd)
            os.fsync(fd)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return
    except ValueError as error:
        raise RefusedError(f"{path} is left alone", str(error), code="FILE_UNEXPECTED") from error
    except OSError as error:
        raise _failed(path, error) from error


def delete_set_aside(path: str) -> None:
    """Delete a folder into which state was moved, with all that is in it; its manifest goes last.

    Killed midway, the same call goes on; a folder that is gone already is no error.

    Raises:
        RefusedError: it is not ours, is reached through a link, or something is mounted on or below it.
        FileFailedError: the operating system refused; what was deleted until then is gone.

    """
    if not os.path.lexists(path):
        return
    if not os.path.basename(path).startswith(SET_ASIDE_PREFIX) or not _has_manifest(path):
        summary = f"{path} is no folder into which thinpoolmgr moved something"
        raise RefusedError(summary, f"It has no {MANIFEST}, or another name.", "Look at it; delete it yourself.")
    if os.path.realpath(path) != path:
        raise RefusedError(
            f"{path} is reached through a symbolic link", os.path.realpath(path), "Name the real folder."
        )
    try:
        mounts = mounts_on_or_below((path,))
        if mounts:
            raise RefusedError(f"{mounts[0]} is a mount point", ", ".join(mounts[:10]), "Unmount it, then run again.")
        _delete(path)
    except _OtherMountError as error:
        raise RefusedError(f"{error} is a mount point", "", "Unmount it, then run again.", code="MOVE_MOUNT") from error
    except OSError as error:
        raise _failed(path, error) from error


def _delete(path: str) -> None:
    parent, name = os.path.split(path)
    above = os.open(parent, _FOLDER_FLAGS)
    try:
        folder = os.open(name, _FOLDER_FLAGS, dir_fd=above)
        try:
            _empty(folder, path, _mount_id(folder), keep=MANIFEST)
            os.unlink(MANIFEST, dir_fd=folder)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=above)
        os.fsync(above)
    finally:
        os.close(above)


def _empty(folder: int, shown: str, mount_id: str, keep: str = "") -> None:
    """Delete all in an open folder; a link is deleted itself, and what is on another mount stops everything."""
    for name in os.listdir(folder):
        if name == keep:
            continue
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=folder)
            continue
        below = os.open(name, _FOLDER_FLAGS, dir_fd=folder)
        try:
            if _mount_id(below) != mount_id:
                raise _OtherMountError(f"{shown}/{name}")
            _empty(below, f"{shown}/{name}", mount_id)
        finally:
            os.close(below)
        os.rmdir(name, dir_fd=folder)


def _mount_id(fd: int) -> str:
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text("ascii").splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("mnt_id:"))


def _failed(path: str, error: OSError) -> FileFailedError:
    resolution = "See to the cause (a full or read-only file system, an immutable file), then run again."
    return FileFailedError(f"cannot delete {path}", str(error), resolution)
