"""`status --watch` as a person at a terminal and a script meet it."""

from __future__ import annotations

import os
import pty
import re
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
import support
from cli_support import Cli, make_cli

from thinpoolmgr.cli import pools, reports, waiting, watch
from thinpoolmgr.cli.waiting import Patience
from thinpoolmgr.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from thinpoolmgr.core.desired import DesiredState
    from thinpoolmgr.core.model import DmDevice
    from thinpoolmgr.host.perform import RealHost

CLOCK = time.monotonic


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    made = make_cli(tmp_path, monkeypatch, capsys)
    made.set(support.healthy(used_data_blocks=18000))

    # make_cli stops the clock.
    monkeypatch.setattr(time, "monotonic", CLOCK)

    def read(name: str) -> DmDevice | None:
        return made.host.snapshot.find_dm(name)

    monkeypatch.setattr("thinpoolmgr.host.dm.read_device", read)
    monkeypatch.setattr(watch, "read_monitor", lambda: None)
    return made


def after(looks: int, act: Callable[[], None]) -> Callable[[support.FakeHost], None]:
    """Return what a host does when it is observed: act at the last of so many looks."""
    seen: list[int] = []

    def on_observe(_host: support.FakeHost) -> None:
        seen.append(1)
        if len(seen) == looks:
            act()

    return on_observe


def end(number: signal.Signals = signal.SIGINT) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_without_a_terminal_there_are_lines_until_a_signal_comes(cli: Cli, number: signal.Signals, code: int) -> None:
    cli.host.on_observe = after(1, end(number))
    ended, out, err = cli("status", "--watch")
    assert (ended, err) == (code, "")
    assert re.fullmatch(r"\d{4}-\S+T\S+ pool docker tight; data 92.5 % of 9.5 GiB; .*; 1 warning\n", out)


def test_each_interval_has_its_lines(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "WHOLE_LOOK_SECONDS", 0.0)
    cli.host.on_observe = after(3, end())
    code, out, _ = cli("status", "--watch", "--interval", "0.2")
    assert (code, len(out.splitlines())) == (130, 3)
    assert out.splitlines()[1].count("0 B/s") == 2


def test_a_later_look_that_fails_does_not_end_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def fail_once(_host: support.FakeHost) -> None:
        looks.append(1)
        if len(looks) == 2:
            raise UnavailableError("no device-mapper")
        if len(looks) == 3:
            end()()

    monkeypatch.setattr(watch, "WHOLE_LOOK_SECONDS", 0.0)
    cli.host.on_observe = fail_once
    code, out, err = cli("status", "--watch", "--interval", "0.2")
    assert (code, err) == (130, "")
    first, second, *others = out.splitlines()
    assert ("cannot look: no device-mapper" in second, "pool docker tight" in first) == (True, True)
    # the kernel's part of the second look, and all of the third
    assert ["pool docker" in line for line in others] == [True, True]


def test_it_waits_less_than_a_minute_and_nothing_else_writes_on_the_screen(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    host = pools.real_host

    def real_host(desired: DesiredState, *, tells_late: bool) -> RealHost:
        asked.append(tells_late)
        return host(desired, tells_late=tells_late)

    class Patient(Patience):
        def __init__(self, *seconds: float) -> None:
            asked.append(seconds)
            super().__init__(*seconds)

    monkeypatch.setattr(reports, "real_host", real_host)
    monkeypatch.setattr(waiting, "Patience", Patient)
    cli.host.on_observe = after(1, end())
    cli("status", "--watch")
    assert asked == [False, (10.0, 30.0)]


def test_an_error_ends_it_as_it_would_end_status(cli: Cli) -> None:
    def fail(_host: support.FakeHost) -> None:
        raise UnavailableError("no device-mapper")

    cli.host.on_observe = fail
    code, out, err = cli("status", "--watch")
    assert (code, out, "no device-mapper" in err) == (69, "", True)


@pytest.mark.parametrize(
    "args",
    [
        ("--watch", "--json"),
        ("--watch", "--check"),
        ("--interval", "5"),
        ("--watch", "--interval", "0"),
        ("--watch", "--interval", "x"),
    ],
)
def test_what_cannot_be_asked_for(cli: Cli, args: tuple[str, ...]) -> None:
    code, _, err = cli("status", *args)
    assert (code, "[USAGE]" in err) == (64, True)


def test_only_root_watches(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli("status", "--watch")[:2] == (77, "")


def test_a_simulated_host_is_watched(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "real_host", None)
    monkeypatch.setattr("thinpoolmgr.core.live.read_uses", None)
    monkeypatch.setattr(watch, "log_lines", lambda status, _: (end()(), [str(status.pools[0].document.state)])[1])
    code, out, _ = cli("status", "--watch", "--simulate")
    assert (code, out) == (130, "absent\n")


class Terminal:
    """A terminal of which everything that is written to it can be read."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.file = os.fdopen(self.slave, "w", encoding="utf-8")
        self.seen = self.seen_before = b""

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Write to it from now on: for a test itself, since pytest gives each phase of one its own streams."""
        monkeypatch.setattr(sys, "stdout", self.file)

    def read_until(self, wanted: bytes) -> None:
        while wanted not in self.seen:
            self.seen += os.read(self.master, 65536)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    made = Terminal()
    # rich asks these, and knows no better in a test.
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "xterm")
    yield made
    made.file.close()
    os.close(made.master)


@pytest.mark.parametrize("way", ["colours", "NO_COLOR", "--no-color"])
def test_a_terminal_is_drawn_on_and_given_back(
    cli: Cli, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")
    terminal.use(monkeypatch)

    def person() -> None:
        terminal.read_until(b"docker/thinpool is tight")
        terminal.seen_before, terminal.seen = terminal.seen, b""
        os.kill(os.getpid(), signal.SIGWINCH)
        terminal.read_until(b"docker/thinpool is tight")
        terminal.seen = terminal.seen_before + terminal.seen
        os.kill(os.getpid(), signal.SIGINT)
        terminal.read_until(b"\x1b[?1049l")

    thread = threading.Thread(target=person, daemon=True)
    thread.start()
    flags = [way] if way.startswith("--") else []
    code, _, err = cli("status", "--watch", "--interval", "3600", *flags)
    thread.join(60)
    assert (code, err) == (130, "")
    # The other screen, without a cursor, and back.
    for sequence in (b"\x1b[?1049h", b"\x1b[?25l", b"\x1b[?25h"):
        assert sequence in terminal.seen
    styles = re.findall(rb"\x1b\[[0-9;]*m", terminal.seen)
    assert (b"\x1b[33m" in styles, bool(styles)) == ((True, True) if way == "colours" else (False, False))
    assert b"thinpoolmgr: 1 pool, 1 warning" in terminal.seen
    # It is never cleared, only written over: that would flicker.
    assert terminal.seen.count(b"\x1b[2J") <= 1


def test_a_terminal_that_obeys_nothing_gets_lines(
    cli: Cli, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.use(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    cli.host.on_observe = after(1, end())
    assert cli("status", "--watch")[0] == 130
    terminal.read_until(b"1 warning")
    assert b"\x1b" not in terminal.seen
