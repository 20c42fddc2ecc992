"""What journald is told of runs: of each that changes something when it begins and how it ends, of nothing else."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest
import support
from cli_support import PLAIN, Cli, make_cli

from thinpoolmgr.core.messages import message_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from thinpoolmgr.core.steps import Step

Told = list[dict[str, str]]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return make_cli(tmp_path, monkeypatch, capsys)


@pytest.fixture
def told(cli: Cli, tmp_path: Path) -> Iterator[Callable[[], Told]]:
    """Return what gives the entries that came since it was last asked."""
    assert cli.host
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        journal.setblocking(False)  # noqa: FBT003 - its only argument

        def take() -> Told:
            entries: Told = []
            while True:
                try:
                    lines = journal.recv(65536).decode().splitlines()
                except BlockingIOError:
                    return entries
                entries.append({name: value for name, _, value in (line.partition("=") for line in lines)})

        yield take


def test_a_run_is_told_when_it_begins_and_when_it_is_done(cli: Cli, told: Callable[[], Told]) -> None:
    assert cli("apply", "--yes")[0] == 0
    began, done = told()
    (run,) = cli.json("history")[1]["runs"]
    assert began == {
        "MESSAGE": "thinpoolmgr apply began to change this host",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "thinpoolmgr",
        "MESSAGE_ID": message_id("run-began"),
        "THINPOOLMGR_COMMAND": "apply",
        "THINPOOLMGR_EVENT": "run-began",
        "THINPOOLMGR_RUN": run["run"],
    }
    assert (done["THINPOOLMGR_EVENT"], done["THINPOOLMGR_RUN"], done["PRIORITY"]) == ("run-done", run["run"], "6")
    assert done["MESSAGE"] == "thinpoolmgr apply is done: 2 steps in 0.0 s"


def test_what_changes_nothing_is_not_told(cli: Cli, told: Callable[[], Told]) -> None:
    assert cli("apply")[0] == 3
    cli.set(support.healthy())
    for args in (["apply", "--yes"], ["status"], ["plan"], ["doctor"]):
        cli(*args)
    assert cli("apply", "--yes", "--simulate")[0] == 0
    assert told() == []


def test_a_run_that_fails_is_told_with_its_code(cli: Cli, told: Callable[[], Told]) -> None:
    cli.host.faults["create-thin-pool"] = "before"
    assert cli("apply", "--yes")[0] == 1
    _, failed = told()
    assert failed["MESSAGE"] == "thinpoolmgr apply failed: create-thin-pool failed"
    assert failed["MESSAGE_ID"] == message_id("run-failed")
    assert (failed["PRIORITY"], failed["THINPOOLMGR_CODE"]) == ("3", "COMMAND_FAILED")


def test_a_run_that_is_stopped_is_told_as_a_warning(cli: Cli, told: Callable[[], Told]) -> None:
    def stop(_step: Step) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    cli.host.on_perform = stop
    assert cli("apply", "--yes")[0] == 143
    _, stopped = told()
    assert (stopped["THINPOOLMGR_EVENT"], stopped["PRIORITY"]) == ("run-interrupted", "4")


def test_the_pool_that_is_meant_is_a_field(cli: Cli, told: Callable[[], Told]) -> None:
    cli.set(support.healthy(), PLAIN)
    assert cli("deactivate", "docker", "--yes")[0] == 0
    assert [(entry["THINPOOLMGR_POOL"], entry["THINPOOLMGR_COMMAND"]) for entry in told()] == [
        ("docker", "deactivate")
    ] * 2


def test_without_a_journal_nothing_is_said_about_it(cli: Cli) -> None:
    code, _, err = cli("apply", "--yes")
    assert (code, "<6>" in err) == (0, False)
