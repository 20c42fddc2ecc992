"""`thinpoolmgr lab`: what it makes of its words, and how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from thinpoolmgr.cli import lab as cli
from thinpoolmgr.errors import NotRootError, UnavailableError, UsageError
from thinpoolmgr.lab import host
from thinpoolmgr.lab.guest import GuestJob, GuestResult
from thinpoolmgr.lab.loop import SweptDisk

if TYPE_CHECKING:
    from click.testing import Result


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[GuestJob]:
    made: list[GuestJob] = []

    def run(job: GuestJob) -> GuestResult:
        made.append(job)
        return GuestResult(7, 2.0, 3.0)

    monkeypatch.setattr(cli, "run_guest", run)
    monkeypatch.setattr(cli, "ensure_root", lambda: Path("/cache/root"))
    return made


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.sh"
    path.write_text("exit 7\n", encoding="utf-8")
    return path


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli.lab, [str(word) for word in words])


def test_exit_code_of_the_script_is_ours(jobs: list[GuestJob], script: Path) -> None:
    assert invoke("run", script, "--memory", "-x").exit_code == 7
    assert jobs[0].command == ("/bin/sh", str(script), "--memory", "-x")
    assert script.parent in jobs[0].read_only
    assert jobs[0].tree is None


def test_options_reach_the_job(jobs: list[GuestJob], script: Path, tmp_path: Path) -> None:
    words = (
        "--docker",
        "--systemd",
        "--memory",
        1024,
        "--timeout",
        0,
        "--module",
        "dm-flakey",
        "--mount",
        f"{tmp_path}:rw",
    )
    invoke("run", *words, script)
    (job,) = jobs
    assert (job.tree, job.memory_mb, job.timeout_seconds) == (Path("/cache/root"), 1024, None)
    assert job.systemd
    assert (job.modules, job.writable) == (("dm-flakey",), (tmp_path,))


def test_missing_script_is_a_usage_error(jobs: list[GuestJob], tmp_path: Path) -> None:
    assert isinstance(invoke("run", tmp_path / "none").exception, UsageError)
    assert isinstance(invoke("run", tmp_path).exception, UsageError)
    assert not jobs


def test_missing_folder_to_mount_is_a_usage_error(jobs: list[GuestJob], script: Path) -> None:
    assert isinstance(invoke("run", "--mount", "/none", script).exception, UsageError)
    assert not jobs


def test_shell_is_interactive_and_has_no_time_limit(jobs: list[GuestJob]) -> None:
    assert invoke("shell").exit_code == 7
    assert (jobs[0].interactive, jobs[0].timeout_seconds) == (True, None)


def test_root_prints_its_path(jobs: list[GuestJob]) -> None:
    assert invoke("root").output == "/cache/root\n"
    assert not jobs


def test_sweep_says_what_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    disks = (
        SweptDisk("/dev/loop3", Path("/t/a.img"), is_held=False),
        SweptDisk("/dev/loop4", Path("/b"), is_held=True),
    )
    monkeypatch.setattr(cli, "sweep_guests", lambda: (Path("/t/job"),))
    monkeypatch.setattr(cli, "sweep_loops", lambda: disks)
    assert invoke("sweep").output.splitlines() == [
        "removed /t/job",
        "removed /dev/loop3 /t/a.img",
        "still in use, left alone: /dev/loop4 /b",
    ]


def test_host_lab_needs_root_first(monkeypatch: pytest.MonkeyPatch, script: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(host, "has_device_mapper", lambda: False)
    assert isinstance(invoke("run", "--host", script).exception, NotRootError)


def test_host_lab_needs_device_mapper(monkeypatch: pytest.MonkeyPatch, script: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(host, "has_device_mapper", lambda: False)
    assert isinstance(invoke("run", "--host", script).exception, UnavailableError)


def test_a_node_that_does_not_answer_is_no_device_mapper(tmp_path: Path) -> None:
    assert not host.has_device_mapper(tmp_path / "missing")
    (tmp_path / "control").touch()
    assert not host.has_device_mapper(tmp_path / "control")
