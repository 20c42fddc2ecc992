"""Loop disks without a kernel: what is refused, and that a sweep touches only what is ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from thinpoolmgr.errors import UsageError
from thinpoolmgr.lab import loop

DEAD = "999999999"


@pytest.fixture
def detached(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(loop, "_detach", lambda path: names.append(str(path)))
    return names


def attach(sys_block: Path, number: int, backing: str, *, held: bool = False) -> None:
    folder = sys_block / f"loop{number}"
    (folder / "loop").mkdir(parents=True)
    (folder / "holders").mkdir()
    (folder / "loop/backing_file").write_text(f"{backing}\n", encoding="utf-8")
    if held:
        (folder / "holders/dm-0").touch()


def test_sweep_detaches_and_deletes_only_ours_of_the_dead(tmp_path: Path, detached: list[str]) -> None:
    sys_block, images = tmp_path / "block", tmp_path / "images"
    images.mkdir()
    dead = images / f"thinpoolmgr-lab-{DEAD}-a.img"
    alive = images / f"thinpoolmgr-lab-{os.getpid()}-b.img"
    foreign = images / "squashfs.img"
    for number, image in enumerate((dead, alive, foreign)):
        image.touch()
        attach(sys_block, number, str(image))
    (swept,) = loop.sweep(images, sys_block=sys_block)
    assert (swept.device, swept.image) == ("/dev/loop0", dead)
    assert detached == ["/dev/loop0"]
    assert not dead.exists()
    assert alive.exists()
    assert foreign.exists()


def test_sweep_leaves_a_device_that_something_stands_on(tmp_path: Path, detached: list[str]) -> None:
    image = tmp_path / f"thinpoolmgr-lab-{DEAD}-a.img"
    image.touch()
    attach(tmp_path / "block", 0, str(image), held=True)
    (swept,) = loop.sweep(tmp_path, sys_block=tmp_path / "block")
    assert swept.is_held
    assert not detached
    assert image.exists()


def test_sweep_knows_an_image_that_is_deleted_already(tmp_path: Path, detached: list[str]) -> None:
    attach(tmp_path / "block", 3, f"/gone/thinpoolmgr-lab-{DEAD}-a.img (deleted)")
    loop.sweep(tmp_path, sys_block=tmp_path / "block")
    assert detached == ["/dev/loop3"]


def test_sweep_deletes_files_that_were_never_attached(tmp_path: Path) -> None:
    lone = tmp_path / f"thinpoolmgr-lab-{DEAD}-a.img"
    lone.touch()
    (tmp_path / "notes.img").touch()
    assert [disk.image for disk in loop.sweep(tmp_path, sys_block=tmp_path / "none")] == [lone]
    assert [path.name for path in tmp_path.iterdir()] == ["notes.img"]


@pytest.mark.parametrize(
    "name", ["thinpoolmgr-lab-x-a.img", "thinpoolmgr-lab--a.img", f"thinpoolmgr-lab-{DEAD}-a", f"lab-{DEAD}-a.img"]
)
def test_foreign_names_are_never_orphans(name: str) -> None:
    assert not loop.is_orphan(Path("/tmp", name))


@pytest.mark.parametrize(("size", "sector"), [(0, 512), (-512, 512), (1000, 512), (6144, 4096), (8192, 513)])
def test_impossible_disks_are_refused(size: int, sector: int) -> None:
    with pytest.raises(UsageError):
        loop.LoopDisk(size, sector_size=sector)


def test_disk_has_no_path_before_it_is_attached() -> None:
    disk = loop.LoopDisk(512)
    with pytest.raises(UsageError):
        _ = disk.path
    disk.close()


def test_disk_is_a_sparse_file_of_the_size_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detached: list[str]
) -> None:
    monkeypatch.setattr(loop, "_attach", lambda _image, _sector: Path("/dev/loop9"))
    with loop.LoopDisk(1 << 30, directory=tmp_path) as disk:
        status = disk.image.stat()
        assert (status.st_size, disk.path) == (1 << 30, Path("/dev/loop9"))
        assert status.st_blocks * 512 < 1 << 20
        assert not loop.is_orphan(disk.image)
    assert detached == ["/dev/loop9"]
    assert not any(tmp_path.iterdir())


def test_all_disks_go_even_if_one_cannot_be_detached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(loop, "_attach", lambda _image, _sector: Path("/dev/loop9"))
    monkeypatch.setattr(loop, "_detach", refuse)
    disks = loop.LoopDisks(tmp_path)
    disks.add(512)
    disks.add(4096, sector_size=4096)
    assert len(disks.disks) == 2
    with pytest.raises(PermissionError):
        disks.close()
    assert not any(tmp_path.iterdir())
