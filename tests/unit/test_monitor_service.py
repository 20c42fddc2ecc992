"""The monitor's main loop: when it reads its configuration again, how long it waits, and what never ends it."""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.report import WatchedPool
from thinpoolmgr.monitor import service
from thinpoolmgr.monitor.board import Bell
from thinpoolmgr.monitor.seam import Event
from thinpoolmgr.monitor.service import Monitor

CONFIG = 'version = 1\n[pools.docker]\ndevices = ["/dev/disk/by-id/x"]\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "thinpoolmgr.toml"
    path.write_text(CONFIG)
    return path


def test_a_configuration_that_changed_is_read_again_unasked(config: Path) -> None:
    monitor = Monitor(config, None)
    config.write_text(f'{CONFIG}[pools.docker.extend]\nmonitor = "dmeventd"\n')
    monitor._reload_changed()
    assert monitor._pools == {}


def test_a_wrong_configuration_is_told_of_and_so_is_one_that_was_put_right(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(service, "told_config_problem", lambda error: told.append(error.code))
    monkeypatch.setattr(service, "told_config_again", lambda: told.append("again"))
    monitor = Monitor(config, None)
    monitor._reload()
    assert told == []
    config.write_text("nonsense")
    monitor._reload_changed()
    assert (bool(monitor._problem), list(monitor._pools), told) == (True, ["docker"], ["CONFIG"])
    config.write_text(CONFIG)
    monitor._reload_changed()
    assert (monitor._problem, told) == ("", ["CONFIG", "again"])


def test_what_takes_the_place_of_a_watch_does_not_wait_long(config: Path) -> None:
    monitor = Monitor(config, None)
    assert monitor._pause() == 15
    ending = SimpleNamespace(pool=support.pool(), began_at=time.monotonic())
    monitor._watches["other"] = ending  # type: ignore[assignment]
    assert monitor._pause() < 1
    # one that hangs would have the report written five times a second
    ending.began_at -= 60.0
    assert monitor._pause() == 15


def test_the_watchdog_hears_of_it_whatever_the_clock_says(config: Path) -> None:
    heard: list[str] = []
    watchdog = SimpleNamespace(ping=lambda: heard.append("ping"), notify=lambda: heard.append("notify"))
    monitor = Monitor(config, watchdog)  # type: ignore[arg-type]
    monitor._ping()
    assert heard == ["notify"]


def test_a_signal_that_came_before_the_wait_ends_it(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "REPORT_PATH", str(tmp_path / "monitor.json"))
    numbers = (signal.SIGHUP, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    monitor, events = Monitor(config, None), SimpleNamespace(fileno=Bell().fileno, take=lambda: False)
    monitor._pools = {}
    signals = service._signals_to(*numbers)
    try:
        for number in numbers:
            os.kill(os.getpid(), number)
        assert select.select([signals], [], [], 0)[0]
        monitor._listen(events, signals)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGHUP)
        assert os.read(signals, 9) == bytes([signal.SIGHUP])
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_what_is_told_in_quick_succession_is_written_down_once_and_a_signal_does_not_wait(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor, events = Monitor(config, None), SimpleNamespace(fileno=Bell().fileno, take=lambda: False)
    monitor._pools = {}
    reading, writing = os.pipe()
    waits: list[tuple[frozenset[int], float]] = []
    written: list[int] = []
    bell = monitor._board.bell.fileno()
    answers = iter([[bell], [], [bell], [reading]])

    class Poll:
        def __init__(self) -> None:
            self.sources: set[int] = set()

        def register(self, source: Any, _mask: int) -> None:
            self.sources.add(source if isinstance(source, int) else source.fileno())

        def poll(self, milliseconds: float) -> list[tuple[int, int]]:
            waits.append((frozenset(self.sources), milliseconds))
            ready = next(answers)
            if reading in ready:
                os.write(writing, bytes([signal.SIGTERM]))
            return [(descriptor, select.POLLIN) for descriptor in ready]

    monkeypatch.setattr(service.select, "poll", Poll)  # type: ignore[attr-defined]
    monkeypatch.setattr(monitor, "_write_report", lambda: written.append(1))
    monitor._listen(events, reading)  # type: ignore[arg-type]
    urgent = frozenset({events.fileno(), reading})
    assert waits == [(urgent | {bell}, 15_000), (urgent, 200)] * 2
    assert len(written) == 2
    os.close(reading)
    os.close(writing)


def test_a_watch_that_hangs_is_told_of_once_and_when_it_is_over(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Event] = []
    monkeypatch.setattr(service, "tell", told.append)
    monitor, word = Monitor(config, None), WatchedPool("docker", "docker", "thinpool", "healthy", 1.0)
    watch = SimpleNamespace(began_at=time.monotonic() - 31, is_alive=lambda: True)
    monitor._watches["docker"] = watch  # type: ignore[assignment]
    for _ in range(3):
        (found,) = monitor._with_hanging(word).findings
        assert (found.code, found.target) == ("MONITOR_HANGS", "docker/thinpool")
    assert "it does not answer" in found.summary
    assert "a command on it" in monitor._with_hanging(replace(word, busy_since=1.0)).findings[0].summary
    watch.began_at = time.monotonic()
    assert [monitor._with_hanging(word), monitor._with_hanging(word)] == [word, word]
    assert [[found.code for found in event.pool.findings] for event in told] == [["MONITOR_HANGS"], []]


def test_a_text_that_is_no_text_does_not_end_it(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "REPORT_PATH", str(tmp_path / "monitor.json"))
    monitor = Monitor(config, None)
    monitor._problem = "\udcff"
    monitor._write_report()
