from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_host_files import fake_proc

from thinpoolmgr.errors import NeedsPersonError, RefusedError
from thinpoolmgr.host import aside
from thinpoolmgr.host.aside import move_aside
from thinpoolmgr.host.files import FileFailedError


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class Tree:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "devicemapper"
        self.image = root / "image" / "devicemapper"
        self.into = root / "thinpoolmgr-stale-20260101T000000Z"
        (self.state / "metadata").mkdir(parents=True)
        (self.state / "metadata" / "base").write_text("b")
        self.image.mkdir(parents=True)
        (self.image / "repositories.json").write_text("r")
        (root / "image" / "overlay2").mkdir()
        (root / "volumes").mkdir()
        self.inode = self.state.stat().st_ino

    def move(self) -> None:
        move_aside((str(self.state), str(self.image)), str(self.into))

    def assert_moved(self) -> None:
        assert names(self.root) == {"image", "volumes", self.into.name}
        assert names(self.root / "image") == {"overlay2"}
        assert names(self.into) == {"manifest.json", "devicemapper", "image"}
        assert (self.into / "devicemapper" / "metadata" / "base").read_text() == "b"
        assert (self.into / "devicemapper").stat().st_ino == self.inode
        assert (self.into / "image" / "devicemapper" / "repositories.json").read_text() == "r"
        assert json.loads((self.into / "manifest.json").read_text()) == {
            "schema": 1,
            "moved": ["devicemapper", "image/devicemapper"],
        }

    def assert_untouched(self) -> None:
        assert (self.state / "metadata" / "base").read_text() == "b"
        assert (self.image / "repositories.json").read_text() == "r"
        assert not self.into.exists()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path.resolve() / "docker")


def test_folders_move_whole_with_their_names(tree: Tree) -> None:
    tree.move()
    tree.assert_moved()
    assert stat.S_IMODE(tree.into.stat().st_mode) == 0o700


def test_again_is_nothing(tree: Tree) -> None:
    tree.move()
    tree.move()
    tree.assert_moved()


class KilledError(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("calls", range(1, 20))
def test_killed_at_any_change_the_same_call_finishes(tree: Tree, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    left = calls
    seen: list[str] = []

    def dying(name: str) -> None:
        real = getattr(os, name)

        def call(*args: object, **keywords: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                raise KilledError
            seen.append(name)
            return real(*args, **keywords)

        monkeypatch.setattr(os, name, call)

    for name in ("mkdir", "rename", "fsync", "unlink"):
        dying(name)
    try:
        tree.move()
    except KilledError:
        assert left <= 0
    else:
        # 3 makes of folders, 3 renames (the manifest's, and 2), their syncs, 1 unlink of what may be left
        assert calls > len(seen) >= 12
    monkeypatch.undo()
    assert (tree.state.exists() + (tree.into / "devicemapper").exists()) == 1
    tree.move()
    tree.assert_moved()


def test_the_manifest_is_on_disk_before_the_first_move(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename

    def rename(source: str, target: str, **keywords: int) -> None:
        if source == "devicemapper":
            assert (tree.into / "manifest.json").exists()
            raise OSError(errno.EIO, "Input/output error")
        real(source, target, **keywords)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(FileFailedError, match="cannot move"):
        tree.move()
    assert tree.state.exists()


def test_really_killed_between_two_renames_it_is_finished(tree: Tree) -> None:
    program = (
        "import os, signal, sys\n"
        "from thinpoolmgr.host import aside\n"
        "real = aside._rename_below\n"
        "def once(*args):\n"
        "    real(*args)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "aside._rename_below = once\n"
        "aside.move_aside(tuple(sys.argv[2:]), sys.argv[1])\n"
    )
    command = (sys.executable, "-c", program, str(tree.into), str(tree.state), str(tree.image))
    killed = subprocess.run(command, check=False, cwd=Path(aside.__file__).parents[2])
    assert killed.returncode == -9
    assert not tree.state.exists()
    assert tree.image.exists()
    tree.move()
    tree.assert_moved()


def test_killed_while_the_manifest_was_written_it_is_finished(tree: Tree) -> None:
    tree.into.mkdir(0o700)
    (tree.into / ".manifest.json.thinpoolmgr").write_text('{"sch')
    tree.move()
    tree.assert_moved()


def test_there_twice_needs_a_person(tree: Tree) -> None:
    tree.move()
    tree.state.mkdir()
    (tree.state / "new").touch()
    with pytest.raises(NeedsPersonError, match="twice"):
        tree.move()
    assert (tree.into / "devicemapper" / "metadata" / "base").read_text() == "b"
    assert (tree.state / "new").exists()


def test_an_empty_folder_that_an_engine_made_anew_in_between_is_no_obstacle(tree: Tree) -> None:
    tree.move()
    tree.state.mkdir()
    tree.move()
    assert (tree.into / "devicemapper" / "metadata" / "base").read_text() == "b"
    assert not tree.state.exists()
    tree.state.symlink_to(tree.into)
    with pytest.raises(NeedsPersonError, match="twice"):
        tree.move()


def test_gone_needs_a_person(tree: Tree) -> None:
    (tree.image / "repositories.json").unlink()
    tree.image.rmdir()
    with pytest.raises(NeedsPersonError, match="gone"):
        tree.move()
    assert tree.state.exists()
    assert not tree.into.exists()


@pytest.mark.parametrize("content", ["file", "manifest", "pipe"])
def test_a_target_that_is_not_ours_is_refused(tree: Tree, content: str) -> None:
    tree.into.mkdir()
    if content == "pipe":
        os.mkfifo(tree.into / "manifest.json")
    elif content == "file":
        (tree.into / "something").write_text("x")
    else:
        (tree.into / "manifest.json").write_text('{"schema": 1, "moved": []}')
    with pytest.raises(RefusedError) as caught:
        tree.move()
    assert caught.value.code == "MOVE_TARGET"
    assert tree.state.exists()
    assert tree.image.exists()


def test_a_link_at_the_place_itself_is_refused(tree: Tree) -> None:
    other = tree.root / "elsewhere"
    tree.state.rename(other)
    tree.state.symlink_to(other)
    with pytest.raises(RefusedError) as caught:
        tree.move()
    assert caught.value.code == "MOVE_LINK"
    assert (other / "metadata" / "base").exists()
    assert not tree.into.exists()


def test_a_link_above_the_place_is_refused(tree: Tree) -> None:
    (tree.root / "image").rename(tree.root / "pictures")
    (tree.root / "image").symlink_to("pictures")
    with pytest.raises(RefusedError) as caught:
        tree.move()
    assert caught.value.code == "MOVE_LINK"
    assert tree.state.exists()


def test_a_link_above_the_root_is_refused(tree: Tree) -> None:
    link = tree.root.parent / "link"
    link.symlink_to(tree.root)
    with pytest.raises(RefusedError) as caught:
        move_aside((f"{link}/devicemapper",), f"{link}/stale")
    assert caught.value.code == "MOVE_LINK"
    tree.assert_untouched()


def test_a_link_put_there_after_the_check_is_not_followed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tree.root.parent / "victim"
    (victim / "devicemapper").mkdir(parents=True)
    real = aside._rename_below

    def swap(root: int, target: int, below: str) -> None:
        if below.startswith("image/"):
            (tree.root / "image").rename(tree.root / "pictures")
            (tree.root / "image").symlink_to(victim)
        real(root, target, below)

    monkeypatch.setattr(aside, "_rename_below", swap)
    with pytest.raises(RefusedError):
        tree.move()
    assert (victim / "devicemapper").exists()


def test_a_file_is_no_folder(tree: Tree) -> None:
    (tree.root / "file").write_text("x")
    with pytest.raises(RefusedError):
        move_aside((str(tree.root / "file"),), str(tree.into))
    tree.assert_untouched()


@pytest.mark.parametrize(
    "path", ["..", "../x", ".", "devicemapper/", "a/../devicemapper", "thinpoolmgr-stale-20260101T000000Z/x"]
)
def test_only_what_is_beside_the_target_moves(tree: Tree, path: str) -> None:
    with pytest.raises(RefusedError) as caught:
        move_aside((f"{tree.root}/{path}",), str(tree.into))
    assert caught.value.code == "MOVE_OUTSIDE"
    tree.assert_untouched()


@pytest.mark.parametrize("pid", ["self", "1"])
@pytest.mark.parametrize("point", ["devicemapper", "devicemapper/mnt/x", "image/devicemapper/layerdb"])
def test_a_mount_point_is_refused(tree: Tree, tmp_path: Path, pid: str, point: str) -> None:
    line = f"9 1 0:1 / {tree.root}/{point} rw - tmpfs none rw\n"
    proc = fake_proc(tmp_path, line if pid == "self" else "", line if pid == "1" else "")
    with pytest.raises(RefusedError, match="mount point") as caught:
        move_aside((str(tree.state), str(tree.image)), str(tree.into), proc=proc)
    assert caught.value.code == "MOVE_MOUNT"
    tree.assert_untouched()


@pytest.mark.root
@pytest.mark.parametrize("point", [".", "metadata"])
def test_a_real_bind_mount_is_refused(tree: Tree, point: str) -> None:
    # The kernel alone would move a folder with a mount below it.
    libc = ctypes.CDLL(None, use_errno=True)
    place = str(tree.state / point).encode()
    assert libc.mount(place, place, b"none", 4096, None) == 0, os.strerror(ctypes.get_errno())
    try:
        with pytest.raises(RefusedError, match="mount point"):
            tree.move()
        assert not tree.into.exists()
    finally:
        libc.umount2(place, 2)
    tree.move()
    tree.assert_moved()


def test_another_file_system_is_refused_by_its_device(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "_refuse_mounts", lambda _paths, _proc: None)
    real = os.stat

    def elsewhere(path: str, **keywords: Any) -> os.stat_result:
        status = real(path, **keywords)
        return os.stat_result((*status[:2], status.st_dev + 1, *status[3:])) if path == "devicemapper" else status

    monkeypatch.setattr(os, "stat", elsewhere)
    with pytest.raises(RefusedError, match="another file system"):
        tree.move()
    monkeypatch.undo()
    tree.assert_untouched()
