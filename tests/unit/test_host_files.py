from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from thinpoolmgr.errors import RefusedError
from thinpoolmgr.host.files import FileFailedError, mounts_on_or_below, read_text, write_atomically, write_generated


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "daemon.json"
    path.parent.mkdir()
    path.write_bytes(b"{}\r\n")
    return path


# read_text


def test_text_comes_back_as_it_stands(config: Path) -> None:
    assert read_text(str(config), 4) == "{}\r\n"


@pytest.mark.parametrize("data", [b"{}\r\nx", b"\xff"])
def test_too_long_or_not_utf8_is_refused(config: Path, data: bytes) -> None:
    config.write_bytes(data)
    with pytest.raises(ValueError, match=r"longer than 4 bytes|byte 0 is 0xff"):
        read_text(str(config), 4)


def test_a_pipe_or_folder_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ValueError, match="not a regular file"):
            read_text(str(path), 4)


def test_links_are_followed_only_when_asked(tmp_path: Path, config: Path) -> None:
    (tmp_path / "link").symlink_to(config)
    assert read_text(str(tmp_path / "link"), 9) == "{}\r\n"
    with pytest.raises(ValueError, match="not a regular file"):
        read_text(str(tmp_path / "link"), 9, follow=False)
    with pytest.raises(FileNotFoundError):
        read_text(str(tmp_path / "none"), 9)


# write_atomically


def test_text_is_replaced_and_nothing_else_is_left(config: Path) -> None:
    inode = config.stat().st_ino
    write_atomically(str(config), '{"é": 1}\r\n', expect_text="{}\r\n")
    assert config.read_bytes() == '{"é": 1}\r\n'.encode()
    assert config.stat().st_ino != inode
    assert names(config.parent) == {"daemon.json"}


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o666, pytest.param(0o4755, marks=pytest.mark.root)])
def test_mode_is_kept(config: Path, mode: int) -> None:
    config.chmod(mode)
    write_atomically(str(config), "new", expect_text="{}\r\n")
    assert stat.S_IMODE(config.stat().st_mode) == mode


@pytest.mark.root
def test_owner_is_kept_with_mode(config: Path) -> None:
    os.chown(config, 12345, 23456)
    config.chmod(0o6640)
    write_atomically(str(config), "new", expect_text="{}\r\n")
    status = config.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 23456, 0o6640)


@pytest.mark.root
def test_extended_attributes_are_kept(config: Path) -> None:
    # Every file system that the tests may run on has trusted attributes; user ones came to tmpfs only in Linux 6.6.
    os.setxattr(config, "trusted.note", b"kept")
    write_atomically(str(config), "new", expect_text="{}\r\n")
    assert os.getxattr(config, "trusted.note") == b"kept"


def test_attributes_other_than_user_are_copied_too(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, bytes] = {}
    monkeypatch.setattr(os, "listxattr", lambda _fd: ["security.selinux"])
    monkeypatch.setattr(os, "getxattr", lambda _fd, name: f"label of {name}".encode())
    monkeypatch.setattr(os, "setxattr", lambda _fd, name, value: written.update({name: value}))
    write_atomically(str(config), "new", expect_text="{}\r\n")
    assert written == {"security.selinux": b"label of security.selinux"}


def test_a_new_file_and_its_folder_are_made(tmp_path: Path) -> None:
    path = tmp_path / "docker" / "daemon.json"
    old_mask = os.umask(0o077)
    try:
        write_atomically(str(path), "new", expect_text=None)
    finally:
        os.umask(old_mask)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_ISDIR(path.parent.stat().st_mode)


def test_only_the_last_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(FileFailedError, match="cannot write"):
        write_atomically(str(tmp_path / "a" / "b" / "c"), "new", expect_text=None)
    assert names(tmp_path) == set()


def test_a_file_that_changed_is_refused(config: Path) -> None:
    for expected in ("{}\n", "", None):
        with pytest.raises(RefusedError, match="changed") as caught:
            write_atomically(str(config), "new", expect_text=expected)
        assert caught.value.code == "FILE_CHANGED"
    config.unlink()
    with pytest.raises(RefusedError, match="changed"):
        write_atomically(str(config), "new", expect_text="{}\r\n")
    assert names(config.parent) == set()


def test_a_file_that_changes_while_the_new_one_is_written_is_refused(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fchmod
    monkeypatch.setattr(os, "fchmod", lambda fd, mode: (config.write_text("other"), real(fd, mode)))
    with pytest.raises(RefusedError, match="changed"):
        write_atomically(str(config), "new", expect_text="{}\r\n")
    assert config.read_text() == "other"
    assert names(config.parent) == {"daemon.json"}


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path, config: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to("etc/daemon.json")
    write_atomically(str(link), "new", expect_text="{}\r\n")
    assert os.readlink(link) == "etc/daemon.json"
    assert config.read_text() == "new"
    assert names(tmp_path) == {"etc", "link.json"}
    assert names(config.parent) == {"daemon.json"}


@pytest.mark.parametrize(
    ("target", "reason"),
    [("nowhere", "leads nowhere"), ("link", "leads nowhere"), (".", "left alone"), ("/dev/null", "left alone")],
)
def test_links_to_nothing_or_to_no_file_are_refused(tmp_path: Path, target: str, reason: str) -> None:
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(RefusedError, match=reason):
        write_atomically(str(tmp_path / "link"), "new", expect_text=None)
    assert names(tmp_path) == {"link"}


def test_a_folder_or_pipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(RefusedError, match="left alone"):
            write_atomically(str(tmp_path / name), "new", expect_text="")
    assert names(tmp_path) == {"folder", "pipe"}


@pytest.mark.parametrize("call", ["fsync", "fchown", "fchmod", "rename"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_nothing_stays_behind_on_any_error(
    config: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    def fail(*_args: object, **_keywords: object) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(FileFailedError if isinstance(error, OSError) else KeyboardInterrupt):
        write_atomically(str(config), "new", expect_text="{}\r\n")
    monkeypatch.undo()
    assert config.read_bytes() == b"{}\r\n"
    assert names(config.parent) == {"daemon.json"}


def test_text_that_is_no_utf8_is_refused(config: Path) -> None:
    with pytest.raises(RefusedError, match="UTF-8"):
        write_atomically(str(config), "\ud800", expect_text="{}\r\n")
    assert names(config.parent) == {"daemon.json"}


def test_what_a_killed_run_left_is_replaced(config: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("safe")
    (config.parent / ".daemon.json.thinpoolmgr").symlink_to(victim)
    write_atomically(str(config), "new", expect_text="{}\r\n")
    assert config.read_text() == "new"
    assert not config.is_symlink()
    assert victim.read_text() == "safe"
    assert names(config.parent) == {"daemon.json"}


def test_the_text_reaches_the_disk_before_the_name_does(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(fd: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else f"file of {os.fstat(fd).st_size}")
        real_fsync(fd)

    monkeypatch.setattr(os, "fsync", fsync)

    def rename(source: str, target: str, **keywords: int) -> None:
        calls.append("rename")
        real_rename(source, target, **keywords)

    monkeypatch.setattr(os, "rename", rename)
    write_atomically(str(config), "new", expect_text="{}\r\n")
    assert calls == ["file of 3", "rename", "folder"]


# mounts_on_or_below

MOUNTINFO = (
    "22 1 254:0 / / rw - ext4 /dev/vda rw\n"
    "30 22 254:0 /x /d/docker/devicemapper/mnt/a\\040b rw shared:1 - ext4 /dev/vda rw\n"
    "31 22 254:0 /é\u2028 /d/docker/é\u2028x rw - ext4 /dev/vda rw\n"
    "cut short\n"
)


def fake_proc(tmp_path: Path, own: str = MOUNTINFO, first: str | None = None) -> str:
    proc = tmp_path / "proc"
    for pid, text in (("self", own), ("1", first)):
        if text is not None:
            (proc / pid).mkdir(parents=True, exist_ok=True)
            (proc / pid / "mountinfo").write_text(text)
    return str(proc)


def test_mounts_are_found_at_and_below_a_path(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path)
    below = "/d/docker/devicemapper/mnt/a b"
    assert mounts_on_or_below(("/d/docker/devicemapper",), proc) == (below,)
    assert mounts_on_or_below((below,), proc) == (below,)
    assert mounts_on_or_below(("/d/docker/device",), proc) == ()
    assert mounts_on_or_below((f"{below}/c",), proc) == ()
    assert mounts_on_or_below(("/d/docker/é\u2028x",), proc) == ("/d/docker/é\u2028x",)


def test_mounts_of_process_1_count_too(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path, "", "9 1 0:1 / /d/x rw - tmpfs none rw\n")
    assert mounts_on_or_below(("/d",), proc) == ("/d/x",)


def test_without_a_word_of_the_kernel_nothing_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        mounts_on_or_below(("/d",), str(tmp_path))


def test_a_generated_file_is_replaced_whole_and_readable_by_all(tmp_path: Path) -> None:
    path = tmp_path / "x.prom"
    write_generated(str(path), b"one\n")
    os.chmod(path, 0o600)
    (tmp_path / ".x.prom.thinpoolmgr").symlink_to(tmp_path / "elsewhere")
    with path.open("rb") as old:
        write_generated(str(path), b"two\n")
        assert old.read() == b"one\n"
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"two\n", 0o644)
    assert os.listdir(tmp_path) == ["x.prom"]


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_nothing_but_a_file_is_replaced_by_a_generated_one(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "x.prom", tmp_path / "other"
    other.write_text("mine")
    if kind == "link":
        path.symlink_to(other)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(RefusedError, match="is left alone"):
        write_generated(str(path), b"x")
    assert (other.read_text(), sorted(os.listdir(tmp_path))) == ("mine", ["other", "x.prom"])


def test_a_generated_file_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(FileFailedError, match="cannot write"):
        write_generated(str(tmp_path / "none/x.prom"), b"x")
