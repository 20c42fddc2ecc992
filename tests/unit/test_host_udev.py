from __future__ import annotations

import errno
import os
import socket
from typing import Any

import pytest
import pyudev

from thinpoolmgr.host.udev import BlockEvents


class FakeMonitor:
    """What pyudev's monitor does, without a netlink socket."""

    def __init__(self, answers: list[object]) -> None:
        self.answers = answers

    def filter_by(self, _subsystem: str) -> None: ...

    def start(self) -> None: ...

    def fileno(self) -> int:
        return 7

    def poll(self, timeout: float) -> object:
        assert timeout == 0
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, OSError):
            raise answer
        return answer


def events(monkeypatch: pytest.MonkeyPatch, *answers: object) -> BlockEvents:
    def from_netlink(_context: Any) -> FakeMonitor:
        return FakeMonitor(list(answers))

    monkeypatch.setattr(pyudev.Monitor, "from_netlink", from_netlink)
    return BlockEvents()


def test_all_that_came_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = events(monkeypatch, "sda", "sdb")
    assert (found.fileno(), found.take(), found.take()) == (7, True, False)


def test_a_flood_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = events(monkeypatch, *["sda"] * 1500)
    assert [found.take(), found.take(), found.take()] == [True, True, False]


def test_what_was_lost_while_it_was_received_counts_as_something_that_came(monkeypatch: pytest.MonkeyPatch) -> None:
    found = events(monkeypatch, OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS)), "sda")
    monkeypatch.setattr(BlockEvents, "_is_overrun", lambda _self: False)
    assert [found.take(), found.take()] == [True, False]


@pytest.mark.parametrize("is_overrun", [True, False])
def test_what_was_lost_counts_as_something_that_came(monkeypatch: pytest.MonkeyPatch, *, is_overrun: bool) -> None:
    # of pyudev, which sees no more than POLLERR; tests/lab/test_probes.py has it happen
    found = events(monkeypatch, OSError("Error while polling fd: 7"))
    monkeypatch.setattr(BlockEvents, "_is_overrun", lambda _self: is_overrun)
    if is_overrun:
        assert (found.take(), found.take()) == (True, False)
    else:
        with pytest.raises(OSError, match="polling"):
            found.take()


def test_a_descriptor_without_an_error_was_not_overrun(monkeypatch: pytest.MonkeyPatch) -> None:
    found = events(monkeypatch)
    with socket.socket() as quiet:
        monkeypatch.setattr(BlockEvents, "fileno", lambda _self: quiet.fileno())
        assert not found._is_overrun()
        assert quiet.fileno() >= 0
