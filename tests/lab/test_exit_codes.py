"""Every exit code of the contract, reached on the real kernel; what was refused leaves the host as it was."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab_tool import STATE_FOLDER, Tool, group_names, is_blank, sh

from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]
SMALL = 'data_size = "300MiB"\nmetadata_size = "8MiB"'
LOCK = Path("/run/thinpoolmgr/lock")


@contextmanager
def instead_of(program: str, script: str) -> Iterator[None]:
    """Put a program of our own before the real one in the search path."""
    wrapper = Path("/usr/local/sbin") / program
    wrapper.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    wrapper.chmod(0o755)
    try:
        yield
    finally:
        wrapper.unlink()


@pytest.fixture
def disk(tool: Tool, loop_disks: MakeDisk) -> LoopDisk:
    """Return a blank disk that the configuration names."""
    made = loop_disks()
    tool.configure(made.path, extra=SMALL)
    return made


def test_0_done_or_nothing_to_do(tool: Tool, disk: LoopDisk) -> None:
    assert tool("apply", "--yes").code == 0
    assert tool("apply", "--yes").code == 0
    assert tool("plan").code == 0
    assert str(disk.path) in sh("pvs")


def test_1_a_command_of_the_host_fails(tool: Tool, disk: LoopDisk) -> None:
    with instead_of("vgcreate", "echo no such luck >&2; exit 5"):
        failed = tool("apply", "--yes", "--json")
    assert (failed.code, failed.document["outcome"]) == (1, "failed")
    assert (failed.document["error"]["code"], "no such luck" in failed.err) == ("COMMAND_FAILED", True)
    assert is_blank(disk.path)
    assert tool("apply", "--yes").code == 0


def test_2_there_are_steps_or_findings(tool: Tool, disk: LoopDisk) -> None:
    assert tool("plan").code == 2
    assert tool("status", "--check").code == 2
    assert tool("status").code == 0
    assert is_blank(disk.path)


def test_3_refused_or_not_approved(tool: Tool, disk: LoopDisk) -> None:
    unasked = tool("apply")
    assert (unasked.code, "--yes" in unasked.err) == (3, True)
    sh("mkfs.ext4", "-q", disk.path)
    refused = tool("apply", "--yes", "--json")
    assert (refused.code, refused.document["outcome"]) == (3, "refused")
    assert refused.document["error"]["code"] == "DISK_HAS_SIGNATURE"


def test_4_the_plan_file_is_stale(tool: Tool, disk: LoopDisk, tmp_path: Path) -> None:
    file = tmp_path / "plan"
    tool("plan", "--out", str(file))
    tool.configure(disk.path, extra='data_size = "200MiB"')
    assert tool("apply", str(file), "--yes").code == 4
    assert is_blank(disk.path)


def test_5_the_journal_needs_a_person(tool: Tool, disk: LoopDisk) -> None:
    with instead_of("vgcreate", "exit 5"):
        tool("apply", "--yes")
    (journal,) = (STATE_FOLDER / "runs").iterdir()
    journal.write_bytes(journal.read_bytes().replace(b"create", b"cReate", 1))
    stuck = tool("apply", "--yes")
    assert (stuck.code, str(journal) in stuck.err) == (5, True)
    assert is_blank(disk.path)


def test_6_a_step_says_that_it_is_done_and_is_not(tool: Tool, disk: LoopDisk) -> None:
    with instead_of("vgcreate", "exit 0"):
        lied = tool("apply", "--yes", "--json")
    assert (lied.code, lied.document["error"]["code"]) == (6, "POST_CONDITION_FALSE")
    assert is_blank(disk.path)
    assert tool("apply", "--yes").code == 0


def test_64_the_command_line_is_wrong(tool: Tool, disk: LoopDisk) -> None:
    assert [
        tool(*words).code for words in (("aply",), ("apply", "--now"), ("destroy",), ("destroy", "x", "--yes"))
    ] == [64] * 4
    assert tool("extend", "docker", "--data", "10G", "--yes").code == 64
    assert tool("apply", "/nonexistent", "--yes").code == 64
    assert is_blank(disk.path)


def test_69_an_engine_without_the_driver(tool: Tool, disk: LoopDisk) -> None:
    tool.configure(disk.path, engine='[engines.docker]\npool = "docker"', extra=SMALL)
    with instead_of("dockerd", "echo Docker version 25.0.3, build 1"):
        missing = tool("apply", "--yes")
    assert (missing.code, "ENGINE_UNSUPPORTED" in missing.err) == (69, True)
    assert is_blank(disk.path)


def test_75_another_run_has_the_lock(tool: Tool, disk: LoopDisk) -> None:
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("pid 4711, apply")
        lock.flush()
        locked = tool("apply", "--yes")
        assert tool("plan").code == 2
    assert (locked.code, "pid 4711, apply" in locked.err) == (75, True)
    assert is_blank(disk.path)


def test_77_not_root(tool: Tool, disk: LoopDisk) -> None:
    tool.config.chmod(0o644)
    for folder in tool.config.parents:
        if folder.stat().st_uid == 0 and str(folder) not in ("/", "/tmp", "/lab"):
            folder.chmod(0o755)
    as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    done = subprocess.run([*as_nobody, *tool.argv("apply", "--yes")], capture_output=True, text=True, check=False)
    assert (done.returncode, "NOT_ROOT" in done.stderr) == (77, True)
    assert is_blank(disk.path)


def test_78_the_configuration_is_wrong(tool: Tool, disk: LoopDisk) -> None:
    tool.configure(disk.path, extra="data_sise = 1")
    wrong = tool("apply", "--yes")
    assert (wrong.code, "pools.docker.data_sise" in wrong.err) == (78, True)
    tool.configure(disk.path, disk.path)
    assert tool("apply", "--yes").code == 78
    assert is_blank(disk.path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_128_and_more_a_signal_ends_the_run_after_its_step(tool: Tool, disk: LoopDisk, number: signal.Signals) -> None:
    with instead_of("vgcreate", f'kill -{number.value} $PPID; exec /usr/sbin/vgcreate "$@"'):
        ended = tool("apply", "--yes", "--json")
    assert (ended.code, ended.document["outcome"]) == (128 + number, "interrupted")
    assert [step["result"] for step in ended.document["steps"]] == ["done"]
    assert "thinpoolmgr resume" in ended.err
    assert group_names() == {"docker"}
    assert str(disk.path) in sh("pvs")
    finished = tool.succeed("resume", "--yes", "--json").document
    assert [step["do"] for step in finished["steps"]] == ["create-thin-pool"]
    assert json.loads(tool.succeed("resume", "--json").out)["outcome"] == "nothing"
