"""What is said of a step while it runs: no test sleeps, ticks are given by hand."""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import support
from cli_support import PLAIN, Cli, golden, make_cli, picture

from thinpoolmgr.cli import progress, render
from thinpoolmgr.cli.options import Options
from thinpoolmgr.cli.progress import Ticker
from thinpoolmgr.cli.render import Renderer
from thinpoolmgr.cli.text import duration
from thinpoolmgr.core.plan import StepResult

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from thinpoolmgr.core.steps import Step

STEP = support.create_step(support.pool())
DONE = StepResult("02", "create-thin-pool", "docker/thinpool", "done", 75.0)


class HandTicker:
    """A ticker that ticks when the test says so."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self.tell = tell
        self.calls: list[str] = []
        TICKERS.append(self)

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        assert "stop" not in self.calls
        self.calls.append("stop")


TICKERS: list[HandTicker] = []


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    TICKERS.clear()
    monkeypatch.setattr(render, "Ticker", HandTicker)
    return make_cli(tmp_path, monkeypatch, capsys)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


@pytest.fixture
def terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    # The captured streams of a fixture are others than those of its test: both are of this class.
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _self: True)
    return cli


def test_on_a_terminal_the_line_is_redrawn_with_the_time(terminal: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    renderer = Renderer(Options(no_color=True))
    renderer.begin_step(STEP, 2)
    (ticker,) = TICKERS
    ticker.tell(1.0)
    ticker.tell(12.9)
    ticker.tell(75.2)
    renderer.end_step(STEP, 2, DONE)
    assert ticker.calls == ["start", "stop"]
    text = said(capsys)
    assert text.startswith("\r[")
    *redrawn, last = text.replace("\r\r", "\r")[1:].split("\r")
    assert [line[-10:] for line in redrawn] == ["...... ...", "...... 1 s", "..... 12 s", "1 min 15 s"]
    assert last.endswith("done 1 min 15 s\n")
    assert {len(line) for line in (*redrawn, last[:-1])} == {99}
    assert terminal.host.performed == []


@pytest.mark.usefixtures("cli")
def test_in_a_log_a_long_step_is_told_of_after_10_seconds_and_then_once_a_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    renderer = Renderer(Options())
    renderer.begin_step(STEP, 2)
    told: dict[float, str] = {}
    for seconds in (1.0, 9.9, 10.2, 11.2, 69.9, 70.1, 71.1, 400.0, 401.0, 430.5):
        TICKERS[0].tell(seconds)
        told[seconds] = said(capsys)
    assert {seconds: text.rpartition(", ")[2].strip() for seconds, text in told.items() if text} == {
        10.2: "10 s",
        70.1: "1 min 10 s",
        400.0: "6 min 40 s",
        430.5: "7 min 10 s",
    }
    assert "[2/2] + create thin pool docker/thinpool (9.5 GiB, metadata 12 MiB): still running, " in told[10.2]
    assert "\r" not in "".join(told.values())


def test_the_picture_of_a_long_step_in_a_log(cli: Cli) -> None:
    def perform(_step: Step) -> None:
        TICKERS[-1].tell(10)
        TICKERS[-1].tell(70)

    cli.host.on_perform = perform
    golden("apply-long", picture(cli, "apply", "--yes"))


def test_a_terminal_that_is_dumb_is_told_like_a_log(
    terminal: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal("apply", "--yes")
    Renderer(Options()).begin_step(STEP, 2)
    TICKERS[-1].tell(5)
    assert said(capsys) == ""


def test_with_json_nothing_is_told(terminal: Cli) -> None:
    code, out, err = terminal("apply", "--yes", "--json")
    assert (code, err, TICKERS, out[:1]) == (0, "", [], "{")


@pytest.mark.parametrize("fault", ["before", "crash-before"])
def test_however_a_run_ends_its_ticker_is_stopped(cli: Cli, fault: support.Fault) -> None:
    cli.host.faults["create-thin-pool"] = fault
    if fault == "before":
        assert cli("apply", "--yes")[0] == 1
    else:
        with pytest.raises(support.CrashError):
            cli.raw("--config", str(cli.config), "apply", "--yes")
    assert [ticker.calls for ticker in TICKERS] == [["start", "stop"], ["start", "stop"]]


@pytest.mark.parametrize(("begins", "ending"), [(False, ""), (True, " ...\r\n")])
def test_the_line_of_a_step_that_never_ended_stays(
    terminal: Cli, capsys: pytest.CaptureFixture[str], *, begins: bool, ending: str
) -> None:
    renderer = Renderer(Options(no_color=True))
    with renderer.progress():
        if begins:
            renderer.begin_step(STEP, 2)
    assert said(capsys)[-len(" ...\r\n") :] == ending
    assert terminal.host.performed == []


@pytest.mark.usefixtures("cli")
def test_without_a_standard_error_nothing_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    renderer = Renderer(Options())
    renderer.begin_step(STEP, 2)
    TICKERS[0].tell(100)
    renderer.end_step(STEP, 2, DONE)


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("I/O operation on closed file")])
def test_a_stream_that_is_gone_ends_no_ticker(error: Exception) -> None:
    def tell(_seconds: float) -> None:
        raise error

    Ticker(tell).tick()


def test_a_ticker_counts_from_its_making() -> None:
    times = iter((100.0, 112.5))
    told: list[float] = []
    Ticker(told.append, lambda: next(times)).tick()
    assert told == [12.5]


def test_a_ticker_ticks_by_itself_with_all_signals_blocked_until_it_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    came = threading.Event()
    blocked: list[set[int]] = []

    def tell(_seconds: float) -> None:
        blocked.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
        came.set()

    ticker = Ticker(tell)
    ticker.start()
    assert came.wait(10)
    ticker.stop()
    count = len(blocked)
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= blocked[0]
    assert not [thread for thread in threading.enumerate() if thread.name == "ticker"]
    assert len(blocked) == count
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_system_without_threads_left_only_leaves_the_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    ticker = Ticker(lambda _seconds: None)
    ticker.start()
    ticker.stop()


@pytest.mark.parametrize(
    ("seconds", "decimals", "text"),
    [
        (0, 2, "0.00 s"),
        (12.34, 2, "12.34 s"),
        (59.0, 0, "59 s"),
        (60, 0, "1 min 0 s"),
        (3599, 2, "59 min 59 s"),
        (3720, 2, "1 h 2 min"),
    ],
)
def test_times_for_people(seconds: float, decimals: int, text: str) -> None:
    assert duration(seconds, decimals) == text


def test_the_width_of_a_step_line_is_that_of_the_terminal(
    terminal: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.config.write_text(PLAIN)
    for width in (40, 60, 80, 100, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        renderer = Renderer(Options(no_color=True))
        for result in ("done", "already", "failed"):
            renderer.begin_step(STEP, 2)
            TICKERS[-1].tell(10)
            renderer.end_step(STEP, 2, StepResult("02", "create-thin-pool", "docker/thinpool", result, 1.0))
        lines = said(capsys).replace("\r", "\n").replace("\n\n", "\n").strip().split("\n")
        assert {len(line) for line in lines} == {min(width, 100) - 1}
