"""A look at this host that takes long: LVM waits without a word, and who asked is not left without one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import support

from thinpoolmgr.cli import pools
from thinpoolmgr.host.perform import RealHost

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Snapshot

ENDS = 30.0


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once it was told that the look takes long; on a kernel that need not be there."""
    event, tell = threading.Event(), pools._tell_late

    def tell_and_set() -> None:
        tell()
        event.set()

    monkeypatch.setattr(pools, "_tell_late", tell_and_set)
    monkeypatch.setattr(pools, "require_thin_pool_target", lambda: None)
    return event


def test_it_is_told_while_it_lasts(
    told: threading.Event, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hangs(_host: RealHost) -> Snapshot:
        assert told.wait(ENDS)
        return support.snapshot()

    monkeypatch.setattr(RealHost, "observe", hangs)
    monkeypatch.setattr(pools, "_LATE_SECONDS", 0.01)
    assert pools.real_host(support.desired()).observe() == support.snapshot()
    out, err = capsys.readouterr()
    assert (out, "has not answered for 10 seconds" in err) == ("", True)


@pytest.mark.parametrize("tells_late", [True, False])
def test_nothing_is_told_of_one_that_is_quick_or_of_one_that_draws(
    told: threading.Event, monkeypatch: pytest.MonkeyPatch, *, tells_late: bool
) -> None:
    timers: list[float] = []

    class Timer(threading.Timer):
        def start(self) -> None:
            timers.append(self.interval)
            super().start()

    monkeypatch.setattr(threading, "Timer", Timer)
    monkeypatch.setattr(RealHost, "observe", lambda _host: support.snapshot())
    monkeypatch.setattr(pools, "_LATE_SECONDS", ENDS)
    pools.real_host(support.desired(), tells_late=tells_late).observe()
    for thread in threading.enumerate():
        if isinstance(thread, Timer):
            thread.join()
    assert (timers, told.is_set()) == ([ENDS] if tells_late else [], False)
