from __future__ import annotations

from collections.abc import Callable

import pytest

from thinpoolmgr.core.desired import DesiredState
from thinpoolmgr.core.steps import RemoveDmDevice
from thinpoolmgr.errors import CommandFailedError, RefusedError
from thinpoolmgr.host import perform
from thinpoolmgr.host.perform import RealHost
from thinpoolmgr.host.runner import CommandRunner, CompletedRun

STEP = RemoveDmDevice(reason="r", name="docker-busybox", uuid="", devno="254:9999")


class Dmsetup(CommandRunner):
    """A dmsetup that fails in the kernel's words."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def run(self, argv: tuple[str, ...], *, seconds: float = 0.0) -> CompletedRun:
        del seconds
        said = f"device-mapper: remove ioctl on {argv[-1]} failed: {self.words}\nCommand failed.\n"
        return CompletedRun(argv, 1, "", said, 0.0)


def remove(dmsetup: Dmsetup, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how often it was found busy."""
    found: list[bool] = []

    def look(attempt: Callable[[], CompletedRun], is_busy: Callable[[CompletedRun], bool]) -> CompletedRun:
        found.append(is_busy(run := attempt()))
        return run

    monkeypatch.setattr(perform, "until_not_busy", look)
    with pytest.raises((CommandFailedError, RefusedError)) as caught:
        RealHost(DesiredState(), dmsetup).perform(STEP)
    assert isinstance(caught.value, RefusedError) is found[0]
    return sum(found)


def test_a_device_that_has_busy_in_its_name_is_not_taken_for_open(monkeypatch: pytest.MonkeyPatch) -> None:
    assert remove(Dmsetup("Invalid argument"), monkeypatch) == 0


def test_a_device_that_is_open_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert remove(Dmsetup("Device or resource busy"), monkeypatch) == 1
