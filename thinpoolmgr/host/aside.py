"""Moves folders aside, whole: an engine's stale state, beside where it was.

Nothing is copied, deleted or followed: only renames, from opened folders.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from thinpoolmgr.errors import NeedsPersonError, RefusedError
from thinpoolmgr.host.files import file_failed, mounts_on_or_below, open_path, read_text, replace_in_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFEST = "manifest.json"
SET_ASIDE_PREFIX = "thinpoolmgr-stale-"
_TEXT_LIMIT_BYTES = 1024**2


def move_aside(paths: tuple[str, ...], into: str, *, proc: str = "/proc") -> None:
    """Move folders, whole, into the folder `into` beside them, with their names below its parent kept.

    Only renames are used, from opened folders, so nothing is copied, deleted or followed. `into` gets a manifest
    before the first rename; the same call after a crash finishes the work, and after success does nothing.

    Args:
        paths: absolute real paths (no symbolic link in them) below the parent of `into`.
        into: absolute path, such as `/var/lib/docker/thinpoolmgr-stale-20260101T000000Z`.
        proc: where proc is mounted.

    Raises:
        RefusedError: nothing was changed: a symbolic link, a mount point, another file system, or `into` is not ours.
        NeedsPersonError: a folder is on both sides, or on neither.
        FileFailedError: the operating system refused; calling again goes on from there.

    """
    parent, name = os.path.split(into)
    relative = tuple(os.path.relpath(path, parent) for path in paths)
    for path, below in zip(paths, relative, strict=True):
        parts = below.split("/")
        if os.path.normpath(path) != path or ".." in parts or parts[0] in (".", name):
            raise RefusedError(f"{path} is not moved into {into}", "it is not beside it", code="MOVE_OUTSIDE")
    try:
        _refuse_mounts((*paths, into), proc)
        with open_path(parent) as root:
            places = [_find_places(root, name, below) for below in relative]
            for path, below, (source, moved) in zip(paths, relative, places, strict=True):
                _check_place(root, path, below, source, moved)
            with _prepare_target(root, name, into, relative) as target:
                for below, (source, moved) in zip(relative, places, strict=True):
                    if source is not None and moved is not None:
                        _remove_empty(root, below)
                    elif source is not None:
                        _rename_below(root, target, below)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            summary = f"{parent} or something below it is a symbolic link, or no folder"
            raise RefusedError(summary, str(error), code="MOVE_LINK") from error
        raise file_failed(f"cannot move {', '.join(paths)} into {into}", error) from error


def _refuse_mounts(paths: tuple[str, ...], proc: str) -> None:
    # The kernel lets a folder with mounts below it be renamed: only looking finds them.
    mounts = mounts_on_or_below(paths, proc)
    if mounts:
        resolution = "Unmount what is mounted there, then run again."
        raise RefusedError(f"{mounts[0]} is a mount point", ", ".join(mounts[:10]), resolution, code="MOVE_MOUNT")


def _find_places(root: int, name: str, below: str) -> tuple[os.stat_result | None, os.stat_result | None]:
    """Return what is at the source and what is at the target; None for nothing."""
    return _status_below(root, below), _status_below(root, f"{name}/{below}")


def _status_below(root: int, below: str) -> os.stat_result | None:
    folder, _, last = below.rpartition("/")
    try:
        with open_path(folder, root) as fd:
            return os.stat(last, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _check_place(
    root: int, path: str, below: str, source: os.stat_result | None, target: os.stat_result | None
) -> None:
    if source is None and target is None:
        details = "it is neither here nor where it was to be moved"
        raise NeedsPersonError(f"{path} is gone", details, code="MOVE_GONE")
    if source is None:
        return
    if target is not None and not _is_empty_folder(root, below, source):
        details = "it was moved, and is here again: something made a new one in between"
        raise NeedsPersonError(f"{path} is there twice", details, "Look at both, remove one.", code="MOVE_TWICE")
    if not stat.S_ISDIR(source.st_mode):
        raise RefusedError(f"{path} is a symbolic link, or no folder", code="MOVE_LINK")
    if source.st_dev != os.fstat(root).st_dev:
        raise RefusedError(f"{path} is on another file system", code="MOVE_MOUNT")


def _is_empty_folder(root: int, below: str, found: os.stat_result) -> bool:
    """Whether it is what an engine that was started in between makes anew, and has not used yet."""
    if not stat.S_ISDIR(found.st_mode):
        return False
    with open_path(below, root) as folder:
        return not os.listdir(folder)


def _remove_empty(root: int, below: str) -> None:
    folder, _, last = below.rpartition("/")
    with open_path(folder, root) as above:
        # Nothing but an empty folder goes that way.
        os.rmdir(last, dir_fd=above)
        os.fsync(above)


@contextmanager
def _prepare_target(root: int, name: str, into: str, relative: tuple[str, ...]) -> Iterator[int]:
    manifest = json.dumps({"schema": 1, "moved": list(relative)}, indent=2) + "\n"
    with open_path(name, root, make=True) as target:
        try:
            known = read_text(MANIFEST, _TEXT_LIMIT_BYTES, dir_fd=target, follow=False)
        except FileNotFoundError:
            # A run killed before its manifest was whole leaves at most the temporary file.
            if set(os.listdir(target)) - {f".{MANIFEST}.thinpoolmgr"}:
                raise RefusedError(f"{into} is there already, and not ours", code="MOVE_TARGET") from None
            replace_in_folder(target, f"{into}/{MANIFEST}", manifest.encode(), None)
            known = manifest
        except ValueError as error:
            raise RefusedError(f"{into} is there already, and not ours", str(error), code="MOVE_TARGET") from error
        if known != manifest:
            raise RefusedError(f"{into} holds another move", known[:500], code="MOVE_TARGET")
        yield target


def _rename_below(root: int, target: int, below: str) -> None:
    folder, _, last = below.rpartition("/")
    with open_path(folder, root) as source, open_path(folder, target, make=True) as destination:
        os.rename(last, last, src_dir_fd=source, dst_dir_fd=destination)
        # The new place first: a crash between the two leaves the folder in both or in the new one, never in none.
        os.fsync(destination)
        os.fsync(source)
