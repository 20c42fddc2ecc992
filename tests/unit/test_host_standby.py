"""LVM that stands by: here a program of the tests, which answers as LVM's library does."""

from __future__ import annotations

import os
import shlex
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest
import tenacity

from thinpoolmgr.errors import CommandFailedError
from thinpoolmgr.host import runner, standby
from thinpoolmgr.host.lvm import held_to
from thinpoolmgr.host.runner import CommandRunner
from thinpoolmgr.host.standby import Standby

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EXTEND = ("lvextend", "--config", "a{b=0 c=1}", "vg/lv")
PROGRAM = """\
told=$0
echo $$ >>{folder}/started
{before}
echo ready >/dev/fd/$told
while read -r line; do echo "$line" >>{folder}/lines; {answer}; done
echo >>{folder}/ended
"""


ALL: list[Standby] = []


@pytest.fixture(autouse=True)
def _end() -> Iterator[None]:
    yield
    while ALL:
        ALL.pop().close()


class Lvm:
    """What stands by in the tests, and what came of it."""

    def __init__(self, folder: Path, before: str = "", answer: str = "echo said >&2; echo 0 >/dev/fd/$told") -> None:
        self.folder = folder
        text = PROGRAM.format(folder=folder, before=before, answer=answer)
        self.standby = Standby(("/bin/sh", "-c", text))
        ALL.append(self.standby)

    def near(self, pool: str = "docker", *, is_near: bool = True) -> None:
        self.standby.set_near(pool, is_near=is_near)

    def until_ready(self) -> None:
        def is_ready() -> bool:
            process = self.standby._process
            return process is not None and process.is_ready()

        wait_until(is_ready)

    def lines_of(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text("utf-8").splitlines() if path.exists() else []


def wait_until(is_true: Callable[[], bool]) -> None:
    policy = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda result: not result),
        wait=tenacity.wait_fixed(0.01),
        stop=tenacity.stop_after_delay(30),
    )
    policy(is_true)


def test_commands_are_run_one_after_another(tmp_path: Path) -> None:
    lvm = Lvm(tmp_path, answer='echo "$line"; echo "said $line" >&2; echo 0 >/dev/fd/$told')
    assert lvm.standby.run(EXTEND) is None
    lvm.near()
    lvm.until_ready()
    for argv, line in (
        (EXTEND, "lvextend --config 'a{b=0 c=1}' vg/lv"),
        (("lvm", "fullreport", 'a{b="%s"}'), "fullreport 'a{b=\"%s\"}'"),
    ):
        run = lvm.standby.run(argv)
        assert run is not None
        assert (run.argv, run.code, run.stdout, run.stderr) == (argv, 0, f"{line}\n", f"said {line}\n")
        assert lvm.lines_of("lines")[-1] == line
    assert len(lvm.lines_of("started")) == 1
    lvm.near(is_near=False)
    wait_until(lambda: bool(lvm.lines_of("ended")))


def test_one_that_failed_is_replaced(tmp_path: Path) -> None:
    lvm = Lvm(tmp_path, answer="echo ${line#* }>/dev/fd/$told")
    lvm.near()
    # a report that fails, as of a group that is not there, is no reason
    for command, code in (("lvchange", 0), ("lvm fullreport", 5), ("lvchange", 5), ("lvchange", 0)):
        lvm.until_ready()
        run = lvm.standby.run((*command.split(), str(code)))
        assert run is not None
        assert run.code == code
        wait_until(lambda: lvm.near() or lvm.standby._process is not None)  # type: ignore[func-returns-value]
    lvm.until_ready()
    assert len(lvm.lines_of("started")) == 2
    assert len(lvm.lines_of("ended")) == 1


def test_one_that_died_of_a_command_is_not_started_again_at_once(tmp_path: Path) -> None:
    lvm = Lvm(tmp_path, answer="exit 1")
    lvm.near()
    lvm.until_ready()
    run = lvm.standby.run(EXTEND)
    assert run is not None
    assert run.code == 5
    lvm.near()
    assert lvm.standby._process is None
    assert len(lvm.lines_of("started")) == 1


def test_it_is_there_as_long_as_any_pool_needs_it(tmp_path: Path) -> None:
    lvm = Lvm(tmp_path)
    lvm.near("one")
    lvm.near("two")
    lvm.until_ready()
    lvm.near("one", is_near=False)
    assert lvm.standby.run(EXTEND) is not None
    lvm.near("two", is_near=False)
    assert lvm.standby.run(EXTEND) is None
    wait_until(lambda: bool(lvm.lines_of("ended")))
    assert len(lvm.lines_of("started")) == 1


def test_who_would_have_to_wait_is_not_made_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    lvm = Lvm(tmp_path, answer=f"read -r code <{tmp_path}/gate; echo $code >/dev/fd/$told")
    lvm.near()
    lvm.until_ready()
    codes: list[int] = []

    def first() -> None:
        run = lvm.standby.run(EXTEND)
        codes.append(run.code if run else -1)

    thread = threading.Thread(target=first)
    thread.start()
    wait_until(lambda: bool(lvm.lines_of("lines")))
    assert lvm.standby.run(("lvs", "x")) is None
    # nor is it taken from the one that uses it
    lvm.near(is_near=False)
    (tmp_path / "gate").write_text("7\n", "utf-8")
    thread.join()
    assert codes == [7]
    wait_until(lambda: bool(lvm.lines_of("ended")))


def test_what_is_not_ready_yet_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    lvm = Lvm(tmp_path, before=f"read -r _ <{tmp_path}/gate")
    lvm.near()
    assert lvm.standby.run(EXTEND) is None
    (tmp_path / "gate").write_text("\n", "utf-8")
    lvm.until_ready()
    assert lvm.standby.run(EXTEND) is not None


def test_while_one_that_was_told_to_end_hangs_there_is_no_other(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    lvm = Lvm(tmp_path, before=f"read -r _ <{tmp_path}/gate")
    for _ in range(3):
        lvm.near()
        lvm.near(is_near=False)
    wait_until(lambda: bool(lvm.lines_of("started")))
    (tmp_path / "gate").write_text("\n", "utf-8")
    wait_until(lambda: all(process.has_ended() for process in lvm.standby._ending))
    assert len(lvm.lines_of("started")) == 1
    lvm.near()
    (tmp_path / "gate").write_text("\n", "utf-8")
    lvm.until_ready()


def test_what_dies_is_not_started_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lvm = Lvm(tmp_path, before="exit 1")
    lvm.near()
    (pid,) = (process._popen.pid for process in (lvm.standby._process,) if process)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    for _ in range(3):
        assert lvm.standby.run(EXTEND) is None
        lvm.near()
    assert len(lvm.lines_of("started")) == 1
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 601)
    lvm.near()
    wait_until(lambda: len(lvm.lines_of("started")) == 2)


def test_one_that_is_killed_in_a_command_has_failed(tmp_path: Path) -> None:
    lvm = Lvm(tmp_path, answer="echo no >&2; kill -KILL $$")
    lvm.near()
    lvm.until_ready()
    with pytest.raises(CommandFailedError) as caught:
        CommandRunner(lvm.standby).change_at_once(EXTEND)
    assert "no\nLVM ended without an answer." in caught.value.details
    assert lvm.standby.run(EXTEND) is None


def test_one_that_never_answers_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "CHANGE_SECONDS", 0.2)
    lvm = Lvm(tmp_path, answer=f"read -r _ <{tmp_path}/gate")
    os.mkfifo(tmp_path / "gate")
    lvm.near()
    lvm.until_ready()
    run = lvm.standby.run(EXTEND)
    assert run is not None
    assert run.code == 5
    (pid,) = lvm.lines_of("started")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), signal.SIGTERM)


@pytest.mark.parametrize("is_ready", [True, False])
def test_a_command_is_run_by_it_or_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_ready: bool
) -> None:
    monkeypatch.setattr(runner, "require_program", lambda _name: "/bin/false")
    lvm = Lvm(tmp_path)
    hands = CommandRunner(lvm.standby)
    if is_ready:
        lvm.near()
        lvm.until_ready()
        assert hands.change_at_once(EXTEND).code == 0
        assert hands.recent[-1].startswith("lvextend --config a{b=0 c=1} vg/lv -> 0 (")
    else:
        with pytest.raises(CommandFailedError):
            hands.change_at_once(EXTEND)
        assert hands.recent[-1].startswith("lvextend --config a{b=0 c=1} vg/lv -> 1 (")


@pytest.mark.parametrize("word", ["a'b", "a\nb", "a;b", "", "$(x)", "\u00e4"])
def test_a_word_that_would_be_read_otherwise_is_not_given_to_it(word: str, tmp_path: Path) -> None:
    lvm = Lvm(tmp_path)
    lvm.near()
    lvm.until_ready()
    assert lvm.standby.run(("lvextend", word)) is None
    assert lvm.lines_of("lines") == []


def test_a_command_that_is_held_to_its_disks_is_given_to_it(tmp_path: Path) -> None:
    lvm = Lvm(tmp_path)
    lvm.near()
    lvm.until_ready()
    command = held_to(EXTEND, ["/dev/sdb"])
    assert command != EXTEND
    assert lvm.standby.run(command) is not None
    assert shlex.split(lvm.lines_of("lines")[0]) == list(command)
