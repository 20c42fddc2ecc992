"""Deleting what is ours and nothing else: no link is followed, no mount is emptied, a kill midway is no loss."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from thinpoolmgr.errors import RefusedError
from thinpoolmgr.host import removal
from thinpoolmgr.host.aside import MANIFEST, move_aside
from thinpoolmgr.host.files import FileFailedError
from thinpoolmgr.host.removal import delete_set_aside, find_set_aside, remove_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "thinpoolmgr-stale-1"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def aside(tmp_path: Path) -> Path:
    """A folder as `move_aside` makes it, beside things that must stay."""
    root = tmp_path.resolve() / "docker"
    for folder in ("devicemapper/metadata", "devicemapper/mnt/abc", "image/devicemapper", "volumes"):
        (root / folder).mkdir(parents=True)
    (root / "devicemapper/metadata/base").write_text("{}")
    (root / "volumes/precious").write_text("precious")
    move_aside((str(root / "image/devicemapper"), str(root / "devicemapper")), str(root / NAME))
    return root / NAME


# find


def test_folders_with_our_manifest_are_found_by_name(aside: Path) -> None:
    root = aside.parent
    (root / "thinpoolmgr-stale-0").mkdir()
    (root / "thinpoolmgr-stale-2").symlink_to(aside)
    (root / "thinpoolmgr-stale-3").write_text("a file")
    (root / "other").mkdir()
    (root / "other" / MANIFEST).write_text("{}")
    (root / "thinpoolmgr-stale-4" / MANIFEST).mkdir(parents=True)
    assert find_set_aside(str(root)) == (str(aside),)


def test_a_data_root_that_is_a_link_or_not_there(aside: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(aside.parent)
    assert find_set_aside(str(tmp_path / "link")) == (str(aside),)
    assert find_set_aside(str(tmp_path / "none")) == ()
    assert find_set_aside(str(aside.parent / "volumes/precious")) == ()


# delete


def test_the_folder_is_gone_whole_and_nothing_else(aside: Path) -> None:
    delete_set_aside(str(aside))
    assert names(aside.parent) == {"volumes", "image"}
    assert (aside.parent / "volumes/precious").read_text() == "precious"
    assert find_set_aside(str(aside.parent)) == ()
    delete_set_aside(str(aside))


def test_links_inside_are_removed_not_followed(aside: Path) -> None:
    volumes = aside.parent / "volumes"
    (aside / "to-folder").symlink_to(volumes)
    (aside / "to-file").symlink_to(volumes / "precious")
    (aside / "to-parent").symlink_to("..")
    (aside / "to-root").symlink_to("/")
    (aside / "dangling").symlink_to("/nonexistent/x")
    (aside / "devicemapper/deep").symlink_to(volumes)
    delete_set_aside(str(aside))
    assert not aside.exists()
    assert names(volumes) == {"precious"}


def test_files_of_every_kind_are_deleted_without_being_opened(aside: Path) -> None:
    os.mkfifo(aside / "pipe")
    (aside / "hard").hardlink_to(aside.parent / "volumes/precious")
    (aside / "locked").write_text("x")
    (aside / "locked").chmod(0)
    (aside / "b\udcff\n").write_text("odd name")
    delete_set_aside(str(aside))
    assert not aside.exists()
    assert (aside.parent / "volumes/precious").read_text() == "precious"


def without_manifest(aside: Path) -> Path:
    (aside / MANIFEST).unlink()
    return aside


def other_name(aside: Path) -> Path:
    return aside.rename(aside.with_name("devicemapper.bak"))


def manifest_is_a_folder(aside: Path) -> Path:
    (aside / MANIFEST).unlink()
    (aside / MANIFEST).mkdir()
    return aside


def link_to_it(aside: Path) -> Path:
    link = aside.with_name("thinpoolmgr-stale-2")
    link.symlink_to(aside)
    return link


def plain_file(aside: Path) -> Path:
    path = aside.with_name("thinpoolmgr-stale-2")
    path.write_text("x")
    return path


@pytest.mark.parametrize("make", [without_manifest, other_name, manifest_is_a_folder, link_to_it, plain_file])
def test_what_is_not_ours_is_refused_and_stays(aside: Path, make: Callable[[Path], Path]) -> None:
    path = make(aside)
    with pytest.raises(RefusedError, match="no folder into which thinpoolmgr moved") as caught:
        delete_set_aside(str(path))
    assert caught.value.resolution
    assert os.path.lexists(path)
    assert len([x for x in aside.parent.rglob("base") if x.is_file()]) == 1


@pytest.mark.parametrize("odd", ["{link}/" + NAME, "{root}/./" + NAME, "{root}/volumes/../" + NAME])
def test_a_path_that_leads_through_a_link_or_back_is_refused(aside: Path, tmp_path: Path, odd: str) -> None:
    link = tmp_path / "link"
    link.symlink_to(aside.parent)
    path = odd.format(link=link, root=aside.parent)
    with pytest.raises(RefusedError, match="symbolic link"):
        delete_set_aside(path)
    assert aside.is_dir()


def test_what_is_mounted_below_is_found_before_anything_is_deleted(
    aside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "mounts_on_or_below", lambda paths: (f"{paths[0]}/mnt",))
    with pytest.raises(RefusedError, match="is a mount point"):
        delete_set_aside(str(aside))
    assert (aside / "devicemapper/metadata/base").exists()


def test_a_mount_that_came_after_that_look_stops_it(aside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = removal._mount_id

    def mount_id(fd: int) -> str:
        return "other" if os.readlink(f"/proc/self/fd/{fd}").endswith("/metadata") else whole(fd)

    monkeypatch.setattr(removal, "_mount_id", mount_id)
    with pytest.raises(RefusedError, match="devicemapper/metadata is a mount point") as caught:
        delete_set_aside(str(aside))
    assert caught.value.code == "MOVE_MOUNT"
    assert (aside / "devicemapper/metadata/base").exists()
    assert (aside / MANIFEST).exists()
    monkeypatch.setattr(removal, "_mount_id", whole)
    delete_set_aside(str(aside))


_MS_BIND = 4096


@pytest.fixture
def bind() -> Iterator[Callable[[Path, Path], None]]:
    libc = ctypes.CDLL(None, use_errno=True)
    mounted: list[Path] = []

    def mount(source: Path, target: Path) -> None:
        assert libc.mount(os.fsencode(source), os.fsencode(target), None, _MS_BIND, None) == 0, ctypes.get_errno()
        mounted.append(target)

    yield mount
    for target in reversed(mounted):
        assert libc.umount2(os.fsencode(target), 2) == 0


@pytest.mark.root
@pytest.mark.parametrize("look", [True, False])
def test_a_bind_mount_of_the_same_file_system_is_not_emptied(
    aside: Path,
    bind: Callable[[Path, Path], None],
    monkeypatch: pytest.MonkeyPatch,
    look: bool,  # noqa: FBT001
) -> None:
    volumes = aside.parent / "volumes"
    bind(volumes, aside / "devicemapper/mnt")
    if not look:
        monkeypatch.setattr(removal, "mounts_on_or_below", lambda _paths: ())
    with pytest.raises(RefusedError, match="is a mount point"):
        delete_set_aside(str(aside))
    assert (volumes / "precious").read_text() == "precious"


class KilledError(BaseException):
    pass


def test_killed_anywhere_the_same_call_goes_on(aside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        (aside / f"devicemapper/metadata/{number}").write_text("{}")
    left = [0]
    whole_unlink, whole_rmdir = os.unlink, os.rmdir

    def mortal(whole: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any, **kwargs: Any) -> None:
            if left[0] == 0:
                raise KilledError
            left[0] -= 1
            whole(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "unlink", mortal(whole_unlink))
    monkeypatch.setattr(os, "rmdir", mortal(whole_rmdir))
    kills = 0
    while aside.exists():
        if not (aside / MANIFEST).exists():
            # Killed between the manifest and the empty folder: nothing of the state is left.
            assert names(aside) == set()
            assert find_set_aside(str(aside.parent)) == ()
            break
        assert find_set_aside(str(aside.parent)) == (str(aside),)
        left[0] = 1
        with pytest.raises(KilledError):
            delete_set_aside(str(aside))
        kills += 1
    assert kills > 10


def test_what_the_system_refuses_is_an_error_of_its_own_and_can_be_gone_on_with(
    aside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.unlink

    def unlink(path: str, *, dir_fd: int | None = None) -> None:
        if path == "base":
            raise PermissionError(1, "Operation not permitted", path)
        whole(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(FileFailedError, match="cannot delete") as caught:
        delete_set_aside(str(aside))
    assert "Operation not permitted" in caught.value.details
    assert caught.value.resolution
    monkeypatch.setattr(os, "unlink", whole)
    delete_set_aside(str(aside))
    assert not aside.exists()


def test_no_descriptor_stays_open(aside: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (aside / "manifest-too").mkdir()
    delete_set_aside(str(aside))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_tree_deeper_than_there_are_descriptors_is_an_error_that_can_be_gone_on_with(aside: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    place = aside
    for _ in range(60):
        place /= "d"
    place.mkdir(parents=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        with pytest.raises(FileFailedError, match="cannot delete"):
            delete_set_aside(str(aside))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    delete_set_aside(str(aside))
    assert not aside.exists()


# remove_file


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "thinpoolmgr-a-b.profile"
    path.write_text("activation {\n}\n")
    return path


def test_a_file_with_the_expected_text_is_removed(profile: Path) -> None:
    (profile.parent / "other").write_text("stays")
    remove_file(str(profile), expect_text="activation {\n}\n")
    assert names(profile.parent) == {"other"}
    remove_file(str(profile), expect_text="activation {\n}\n")
    remove_file(str(profile.parent / "none/file"), expect_text="")


def test_a_file_that_changed_stays(profile: Path) -> None:
    for text in ("activation {}", None):
        with pytest.raises(RefusedError, match="changed") as caught:
            remove_file(str(profile), expect_text=text)
        assert caught.value.resolution
    assert profile.exists()


def test_what_is_no_regular_file_stays(profile: Path) -> None:
    link, folder, pipe = (profile.with_name(name) for name in ("link", "folder", "pipe"))
    link.symlink_to(profile)
    folder.mkdir()
    os.mkfifo(pipe)
    profile.with_name("binary").write_bytes(b"\xff")
    for name in ("link", "folder", "pipe", "binary"):
        with pytest.raises(RefusedError, match="is left alone") as caught:
            remove_file(str(profile.with_name(name)), expect_text="activation {\n}\n")
        assert caught.value.code == "FILE_UNEXPECTED"
    assert names(profile.parent) == {"link", "folder", "pipe", "binary", profile.name}


def test_what_the_system_refuses_is_told(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(FileFailedError, match="cannot delete"):
        remove_file(str(profile), expect_text="activation {\n}\n")
    with pytest.raises(FileFailedError):
        remove_file(f"{profile}/below", expect_text="")
