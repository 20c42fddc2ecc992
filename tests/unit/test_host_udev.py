from __future__ import annotations

import errno
import os
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


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_all_that_came_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = events(monkeypatch, "sda", "sdb")
    assert (found.fileno(), found.take(), found.take()) == (7, True, False)


def test_what_was_lost_counts_as_something_that_came(monkeypatch: pytest.MonkeyPatch) -> None:
    found = events(monkeypatch, error(errno.ENOBUFS))
    assert (found.take(), found.take()) == (True, False)


def test_another_error_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = events(monkeypatch, error(errno.EBADF))
    with pytest.raises(OSError, match="Bad file"):
        found.take()
