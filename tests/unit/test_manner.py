"""What a run waits for: disks that come late, and the end of another run."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import support

from thinpoolmgr.cli import manner
from thinpoolmgr.cli.manner import Manner, beside_other_runs, wait_for_disks
from thinpoolmgr.core.matching import missing_disks
from thinpoolmgr.core.model import ConfiguredDevice, Snapshot
from thinpoolmgr.core.plan import Plan, Refusal
from thinpoolmgr.core.steps import ActivatePool, StartEngine
from thinpoolmgr.cycle import RunResult
from thinpoolmgr.errors import LockedError
from thinpoolmgr.host import lvm, observe, retry
from thinpoolmgr.host.lvm import LvmState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinpoolmgr.core.desired import DesiredState

START = StartEngine(reason="r", engine="docker", units=("docker.service",))
ACTIVATE = ActivatePool(reason="r", group="docker", lv="thinpool")
DONE = RunResult("r", "done")
SOON = 20.0


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "DISK_PAUSE_SECONDS", 0.001)


class Host:
    """A host whose disk comes with so many looks."""

    def __init__(self, comes_at: int) -> None:
        self.comes_at = comes_at
        self.looks = 0

    def look(self, _desired: DesiredState) -> Snapshot:
        self.looks += 1
        problem = "missing" if self.looks < self.comes_at else ""
        return Snapshot(configured_devices=(ConfiguredDevice("/dev/sdb", problem=problem),))


@pytest.mark.parametrize(
    ("comes_at", "seconds", "looks", "said"),
    [
        (1, SOON, 1, []),
        (4, SOON, 4, ["Waiting up to 20 seconds for /dev/sdb."]),
        (9, 0.0, 0, []),
        (10**9, 0.0001, None, ["Waiting up to 0.0001 seconds for /dev/sdb."]),
    ],
)
def test_disks_are_waited_for_until_they_are_there_or_time_is_up(
    monkeypatch: pytest.MonkeyPatch, comes_at: int, seconds: float, looks: int | None, said: list[str]
) -> None:
    host, heard = Host(comes_at), list[str]()
    monkeypatch.setattr(manner, "observe_devices", host.look)
    wait_for_disks(support.desired(), seconds, heard.append)
    assert heard == said
    assert looks is None or host.looks == looks


def test_a_look_for_devices_says_which_are_missing(tmp_path: object) -> None:
    pool = support.pool("docker", f"{tmp_path}/gone")
    found = observe.observe_devices(support.desired(pool))
    assert [device.problem for device in found.configured_devices] == ["missing"]
    assert not found.disks


@pytest.mark.parametrize(("spares", "asked"), [((), 0), (("/dev/nowhere",), 1), (("/dev/null",), 0)])
def test_lvm_is_asked_where_only_it_knows_whether_what_is_missing_is_needed(
    monkeypatch: pytest.MonkeyPatch, spares: tuple[str, ...], asked: int
) -> None:
    asks: list[object] = []

    def read(run: object) -> LvmState:
        asks.append(run)
        return LvmState(support.healthy().groups)

    monkeypatch.setattr(lvm, "read_lvm", read)
    desired = support.desired(support.pool("docker", "/dev/null", spare_devices=spares))
    assert missing_disks(desired, observe.observe_devices(desired)) == ()
    assert len(asks) == asked


def locked_times(times: int) -> Iterator[RunResult | None]:
    yield from itertools.repeat(None, times)
    while True:
        yield DONE


class Runs:
    """Runs that find the lock taken so many times."""

    def __init__(self, times: int) -> None:
        self._results = locked_times(times)

    def __call__(self) -> RunResult:
        result = next(self._results)
        if result is None:
            raise LockedError("another run is changing this host", "", "")
        return result


def test_another_run_is_waited_for() -> None:
    assert beside_other_runs(Runs(3), Plan, Manner(SOON)) is DONE
    assert beside_other_runs(Runs(0), Plan, Manner()) is DONE
    with pytest.raises(LockedError):
        beside_other_runs(Runs(10**9), Plan, Manner(0.001))
    with pytest.raises(LockedError):
        beside_other_runs(Runs(1), Plan, Manner())


def test_a_unit_does_not_wait_for_the_run_that_waits_for_it() -> None:
    """That run starts the engine as its last step, and the engine's unit has this one started first."""
    unit = Manner(0.0, as_unit=True)
    result = beside_other_runs(Runs(10**9), lambda: Plan((START,)), unit)
    assert (result.outcome, "to start the engine" in result.notes[0]) == ("nothing", True)
    with pytest.raises(LockedError):
        beside_other_runs(Runs(10**9), lambda: Plan((ACTIVATE, START)), unit)
    with pytest.raises(LockedError):
        beside_other_runs(Runs(10**9), lambda: Plan(refusals=(Refusal("X", "t", "s", "", ""),)), unit)
    with pytest.raises(LockedError):
        beside_other_runs(Runs(10**9), lambda: Plan((START,)), Manner())
    assert beside_other_runs(Runs(2), lambda: Plan((ACTIVATE,)), Manner(SOON, as_unit=True)) is DONE
