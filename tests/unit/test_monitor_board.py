"""What the monitor's threads tell each other, and what they tell people."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import msgspec
import pytest
import support
from msgspec.structs import replace
from watch_lab import Lab, with_room

from thinpoolmgr.core.report import MonitorReport, Sighting, WatchedPool, decode_report
from thinpoolmgr.errors import ConfigError
from thinpoolmgr.host import journald
from thinpoolmgr.monitor.board import Bell, Board
from thinpoolmgr.monitor.telling import tell, told_config_again, told_config_problem

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, with_room(support.healthy()))


def test_the_board_rings_for_what_lasts() -> None:
    board, poll = Board(), select.poll()
    poll.register(board.bell, select.POLLIN)
    word = WatchedPool("docker", "docker", "thinpool", "healthy", 1.0)
    board.put(word)
    assert poll.poll(0)
    board.bell.hush()
    board.put(replace(word, looked_at=2.0, data_bytes_per_second=5.0))
    assert not poll.poll(0)
    board.put(replace(word, findings=(Sighting("POOL_TIGHT", "t", "s"),)))
    assert poll.poll(0)
    assert board.read() == (replace(word, findings=(Sighting("POOL_TIGHT", "t", "s"),)),)
    board.remove("docker")
    assert board.read() == ()


def test_a_bell_rings_until_it_is_hushed() -> None:
    bell, poll = Bell(), select.poll()
    poll.register(bell, select.POLLIN)
    bell.hush()
    bell.ring()
    bell.ring()
    assert poll.poll(0)
    bell.hush()
    assert not poll.poll(0)
    bell.close()


def test_the_report_is_read_as_it_was_written() -> None:
    report = MonitorReport(1, 7, 1.0, 2.0, (WatchedPool("a", "b", "c", "healthy", 1.0),))
    assert decode_report(msgspec.json.encode(report)) == report


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, dict[str, object]]]:
    sent: list[tuple[str, int, dict[str, object]]] = []
    monkeypatch.setattr(journald, "send", lambda message, priority, **fields: sent.append((message, priority, fields)))
    return sent


def test_what_the_watch_tells_goes_to_the_journal(lab: Lab, entries: list[tuple[str, int, dict[str, object]]]) -> None:
    lab.use(0.2)
    lab.look()
    lab.use(0.85)
    lab.look()
    lab.use(0.2, needs_check=True)
    lab.look()
    lab.use(0.2, needs_check=False)
    lab.look()
    for event in lab.told:
        tell(event)
    (extended, sick, well) = entries
    assert "docker/thinpool was extended: data to" in extended[0]
    assert extended[1:] == (journald.NOTICE, {"event": "extension-done", "pool": "docker"})
    assert sick[1:] == (journald.ERROR, {"code": "POOL_NEEDS_CHECK", "pool": "docker", "target": "docker/thinpool"})
    assert well == ("docker/thinpool is healthy", journald.NOTICE, {"pool": "docker"})


def test_a_configuration_that_is_wrong_is_told_of(entries: list[tuple[str, int, dict[str, object]]]) -> None:
    told_config_problem(ConfigError("x.toml is wrong", "pools.docker: devices"))
    message = "the configuration stays as it was: x.toml is wrong: pools.docker: devices"
    assert entries == [(message, journald.WARNING, {"code": "CONFIG"})]
    told_config_again()
    assert entries[1:] == [("the configuration was read again", journald.NOTICE, {})]
