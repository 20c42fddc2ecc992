from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from thinpoolmgr.errors import CommandFailedError, UnavailableError
from thinpoolmgr.host.locks import flocked, is_flocked
from thinpoolmgr.host.retry import until_not_busy
from thinpoolmgr.host.runner import CommandRunner, CompletedRun, failed, find_program, printable

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def script(tmp_path: Path) -> str:
    """Return a program that shows how it was called."""
    path = tmp_path / "tool"
    path.write_text('#!/bin/sh\nfor a in "$@"; do printf "<%s>" "$a"; done\nenv >&2\ncat\npwd >&2\nexit "${1:-0}"\n')
    path.chmod(0o755)
    return str(path)


def test_arguments_reach_the_program_as_they_are(script: str) -> None:
    argv = (script, "0", "a b", "$(id)", "*", "--x=;rm", "\u00e9", "")
    run = CommandRunner().run(argv)
    assert (run.code, run.argv) == (0, argv)
    assert run.stdout == "<0><a b><$(id)><*><--x=;rm><\u00e9><>"


def test_the_environment_is_made_from_nothing(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVM_SYSTEM_DIR", "/evil")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    lines = CommandRunner().run((script, "0")).stderr.splitlines()
    assert "LC_ALL=C" in lines
    assert not any(line.startswith("LVM_SYSTEM_DIR") for line in lines)
    assert lines[-1] == "/"


def test_an_exit_code_is_returned_by_run_and_raised_by_change(script: str) -> None:
    runner = CommandRunner()
    assert runner.run((script, "5")).code == 5
    with pytest.raises(CommandFailedError) as caught:
        runner.change((script, "5"))
    assert "Exit code: 5" in caught.value.details
    assert len(runner.recent) == 2
    assert runner.recent[0].startswith(f"{script} 5 -> 5 (")


def test_a_long_command_is_run_and_reported_as_any_other(script: str) -> None:
    runner = CommandRunner()
    argv = (script, "0", "a b", "$(id)", "\u00e9", "\udcff")
    assert runner.change(argv, is_long=True).stdout == runner.run(argv).stdout == "<0><a b><$(id)><\u00e9><\udcff>"
    with pytest.raises(CommandFailedError) as caught:
        runner.change((script, "5"), is_long=True)
    assert "Exit code: 5" in caught.value.details
    with pytest.raises(CommandFailedError) as caught:
        runner.change(("/bin/sh", "-c", "kill -ILL $$"), is_long=True)
    assert (caught.value.summary, "SIGILL" in caught.value.details) == ("/bin/sh was ended by a signal", True)
    ends = [line.rpartition(" (")[0].rpartition(" -> ")[2] for line in runner.recent]
    assert ends == ["0", "0", "5", "ended by SIGILL"]


@pytest.mark.parametrize("is_long", [False, True])
def test_no_command_gets_a_ctrl_c_of_ours(is_long: bool) -> None:  # noqa: FBT001
    show = "read -r pid _ _ _ _ sid _ </proc/$$/stat; echo $sid $pid"
    run = CommandRunner().change(("/bin/sh", "-c", show), is_long=is_long)
    session, pid = run.stdout.split()
    assert session == pid


def test_only_the_last_commands_are_kept(script: str) -> None:
    runner = CommandRunner()
    for number in range(18):
        runner.run((script, "0", str(number)))
    assert len(runner.recent) == 16
    assert runner.recent[0].startswith(f"{script} 0 2 -> 0")


def test_a_program_that_is_missing_is_unavailable_with_its_package() -> None:
    with pytest.raises(UnavailableError) as caught:
        CommandRunner().run(("no-such-tool-at-all",))
    assert (caught.value.exit_code, "no-such-tool-at-all" in caught.value.summary) == (69, True)


def test_programs_are_looked_for_in_the_fixed_path_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only-here").write_text("")
    (tmp_path / "only-here").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_program("only-here") == ""
    assert find_program(str(tmp_path / "only-here")) == str(tmp_path / "only-here")
    assert os.path.isabs(find_program("sh"))


def test_a_failure_speaks_in_the_programs_own_words() -> None:
    def details(stdout: str, stderr: str) -> str:
        return failed(CompletedRun(("lvcreate", "x"), 5, stdout, stderr, 0.1)).details

    assert details("out", " err\n") == "Command: lvcreate x\nExit code: 5\nerr"
    assert details("out\n", "").endswith("\nout")
    assert details("", " ").endswith("\nit said nothing")
    assert "\x1b" not in details("", "\x1b[2J")


def test_unprintable_text_is_escaped() -> None:
    assert printable("a\x1b\x07\n\tb") == "a\\x1b\\x07\n\tb"


def test_a_first_result_that_is_not_busy_is_returned_at_once() -> None:
    tries: list[int] = []

    def attempt() -> int:
        tries.append(1)
        return len(tries)

    assert until_not_busy(attempt, lambda result: result > 99, seconds=1000) == 1


def test_when_time_is_up_the_last_result_is_returned() -> None:
    assert until_not_busy(lambda: "busy", lambda result: result == "busy", seconds=0) == "busy"


@pytest.mark.parametrize("is_long", [False, True])
def test_a_program_that_is_none_is_unavailable(tmp_path: Path, *, is_long: bool) -> None:
    path = tmp_path / "tool"
    path.write_text("echo no first line\n")
    path.chmod(0o755)
    with pytest.raises(UnavailableError, match="cannot be started") as caught:
        CommandRunner().change((str(path),), is_long=is_long)
    assert ("Exec format error" in caught.value.details, caught.value.exit_code) == (True, 69)
    assert find_program(str(tmp_path)) == ""


def test_a_command_that_did_not_end_is_kept_too(tmp_path: Path) -> None:
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    dying = tmp_path / "dying"
    dying.write_text("#!/bin/sh\nkill -KILL $$\n")
    dying.chmod(0o755)
    runner = CommandRunner()
    with pytest.raises(CommandFailedError):
        runner.run((str(sleeper),), seconds=0.2)
    with pytest.raises(CommandFailedError):
        runner.run((str(dying), "\udcff\n"))
    first, second = runner.recent
    assert first.startswith(f"{sleeper} -> still running, was sent SIGTERM (")
    assert second.startswith(f"{dying} \\xdcff\n -> ended by SIGKILL (")


def test_a_command_that_does_not_end_is_terminated() -> None:
    with pytest.raises(CommandFailedError) as caught:
        CommandRunner().run(("sleep", "60"), seconds=0.05)
    assert caught.value.summary == "sleep did not end within 0 seconds"


def test_a_command_that_only_reads_is_ended_early(tmp_path: Path) -> None:
    go, ended, runner = tmp_path / "go", threading.Event(), CommandRunner()
    os.mkfifo(go)

    def end() -> None:
        # Opening waits for the command to open its end.
        with go.open("w"):
            runner.end_reading()
            ended.wait()

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(CommandFailedError, match="ended by a signal"):
        runner.read(("/bin/sh", "-c", f"read line <{go}"))
    ended.set()
    thread.join()


def test_what_is_to_be_ended_may_begin_later_and_all_else_is_left_to_its_end() -> None:
    runner = CommandRunner()
    runner.end_reading()
    assert runner.run(("echo", "whole")).stdout == "whole\n"
    with pytest.raises(CommandFailedError, match="ended by a signal"):
        runner.read(("sleep", "60"))


def test_a_command_that_dies_of_a_signal_says_which(script: str) -> None:
    with pytest.raises(CommandFailedError) as caught:
        CommandRunner().run(("/bin/sh", "-c", "kill -ILL $$", script))
    assert (caught.value.summary, "SIGILL" in caught.value.details) == ("/bin/sh was ended by a signal", True)


def test_more_output_than_a_pipe_holds_comes_whole() -> None:
    assert len(CommandRunner().run(("head", "-c", "300000", "/dev/zero")).stdout) == 300000


def test_a_child_that_keeps_the_output_open_is_not_waited_for() -> None:
    run = CommandRunner().run(("/bin/sh", "-c", "sleep 30 & echo $!"))
    os.kill(int(run.stdout), 15)
    assert run.code == 0


def test_a_lock_lasts_as_long_as_a_command_that_hangs(tmp_path: Path) -> None:
    path = str(tmp_path / "run/lock")
    with flocked(path) as lock:
        run = CommandRunner(held=lock).run(("/bin/sh", "-c", "exec 3<&0; sleep 300 <&3 & echo $!"))
    assert is_flocked(path)
    os.kill(int(run.stdout), signal.SIGTERM)
    with flocked(path):
        assert is_flocked(path)
