"""The guest's end: an exit code is brought back as it is, and anything else is never a pass."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from thinpoolmgr.errors import UnavailableError, UsageError
from thinpoolmgr.lab import guest
from thinpoolmgr.lab.guest import GuestCrashedError, GuestJob, GuestTimedOutError, read_result, run_guest, sweep_guests

DEAD = "999999999"


@pytest.mark.parametrize("code", [0, 7, 137])
def test_exit_code_is_brought_back(tmp_path: Path, code: int) -> None:
    (tmp_path / "rc").write_text(f"{code}\n", encoding="utf-8")
    (tmp_path / "booted").write_text("2.81\n", encoding="utf-8")
    result = read_result(tmp_path, 5.0)
    assert (result.exit_code, result.boot_seconds, result.total_seconds) == (code, 2.81, 5.0)


@pytest.mark.parametrize("written", [None, "", "\n", "panic"])
def test_no_exit_code_is_never_a_pass(tmp_path: Path, written: str | None) -> None:
    (tmp_path / "stdout").write_text("all tests passed\n", encoding="utf-8")
    (tmp_path / "console").write_text("Kernel panic\n", encoding="utf-8")
    if written is not None:
        (tmp_path / "rc").write_text(written, encoding="utf-8")
    with pytest.raises(GuestCrashedError) as caught:
        read_result(tmp_path, 5.0)
    assert caught.value.exit_code == 125
    assert "Kernel panic" in caught.value.details


def test_time_out_has_the_exit_code_of_a_crash_and_its_own_name() -> None:
    error = GuestTimedOutError("late")
    assert (error.exit_code, error.code) == (125, "LAB_TIMED_OUT")


def test_shell_without_a_terminal_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(UsageError):
        run_guest(GuestJob(command=("true",), interactive=True))


def test_missing_kernel_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, **_options: None if name == "linux.uml" else f"/bin/{name}")
    with pytest.raises(UnavailableError) as caught:
        run_guest(GuestJob(command=("true",)))
    assert "linux.uml" in caught.value.details
    assert "user-mode-linux" in caught.value.resolution


def test_made_root_brings_its_own_lvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, **_options: None if name in {"lvm", "linux.uml"} else "/bin/x")
    with pytest.raises(UnavailableError) as caught:
        run_guest(GuestJob(command=("true",), tree=Path("/srv/tree")))
    assert "lvm" not in caught.value.details


def test_sweep_removes_only_folders_of_dead_labs(tmp_path: Path) -> None:
    dead = tmp_path / f"thinpoolmgr-lab-{DEAD}-abc"
    kept = [
        tmp_path / f"thinpoolmgr-lab-{os.getpid()}-abc",
        tmp_path / "thinpoolmgr-lab-mine-abc",
        tmp_path / f"other-{DEAD}-abc",
    ]
    for folder in (dead, *kept):
        folder.mkdir()
        (folder / "file").touch()
    assert sweep_guests(tmp_path) == (dead,)
    assert not dead.exists()
    assert all((folder / "file").exists() for folder in kept)


def test_sweep_leaves_files_that_only_look_like_a_folder_of_ours(tmp_path: Path) -> None:
    image = tmp_path / f"thinpoolmgr-lab-{DEAD}-abc.img"
    image.touch()
    assert sweep_guests(tmp_path) == ()
    assert image.exists()


@pytest.mark.parametrize(
    ("free_mb", "flags", "expected"),
    [(4096, 0, "/dev/shm"), (100, 0, "/fallback"), (4096, os.ST_NOEXEC, "/fallback")],
)
def test_memory_goes_where_it_has_room(
    monkeypatch: pytest.MonkeyPatch, free_mb: int, flags: int, expected: str
) -> None:
    status = os.statvfs_result((4096, 4096, 0, 0, free_mb * 256, 0, 0, 0, flags, 255))
    monkeypatch.setattr("os.statvfs", lambda _path: status)
    monkeypatch.setattr("os.access", lambda _path, _mode: True)
    assert str(guest._memory_folder(512, Path("/fallback"))) == expected
