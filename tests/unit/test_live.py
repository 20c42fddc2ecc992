"""The live view's state: fresh from the kernel, LVM asked only when something other than the use changed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import support
from measured import report, watched
from msgspec.structs import replace

from thinpoolmgr.cli.watch import WHOLE_LOOK_SECONDS, Watcher, look_again
from thinpoolmgr.core.findings import Finding, Journal
from thinpoolmgr.core.live import device_names, freshen, with_devices, with_monitors
from thinpoolmgr.core.report import Sighting
from thinpoolmgr.core.trend import Trend
from thinpoolmgr.errors import UnavailableError

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredState
    from thinpoolmgr.core.live import LiveStatus
    from thinpoolmgr.core.model import DmDevice, Snapshot
    from thinpoolmgr.core.report import MonitorReport

NAME = "docker-thinpool"
HEALTHY = support.healthy(used_data_blocks=1000)


def device(shot: Snapshot) -> DmDevice:
    found = shot.find_dm(NAME)
    assert found is not None
    return found


def test_the_names_are_those_of_running_pools_and_of_those_to_come() -> None:
    assert device_names(support.desired(), HEALTHY) == (NAME,)
    assert device_names(support.desired(), support.snapshot()) == (NAME,)


def test_only_the_use_is_taken_over() -> None:
    fuller = support.healthy(used_data_blocks=2000)
    assert freshen(HEALTHY, {NAME: device(fuller)}) == fuller
    assert freshen(support.snapshot(), {NAME: None}) == support.snapshot()


@pytest.mark.parametrize(
    "status",
    [
        {"total_data_blocks": 20000},
        {"total_metadata_blocks": 4000},
        {"mode": "out_of_data_space", "used_data_blocks": 19456},
        {"mode": "ro", "needs_check": True},
    ],
)
def test_lvm_must_be_asked_when_more_changed(status: dict[str, Any]) -> None:
    before = device(HEALTHY)
    assert before.pool_status is not None
    changed = replace(before, pool_status=replace(before.pool_status, **status))
    assert freshen(HEALTHY, {NAME: changed}) is None


def test_lvm_must_be_asked_when_a_pool_comes_or_goes_or_is_another_one() -> None:
    assert freshen(HEALTHY, {NAME: None}) is None
    assert freshen(support.snapshot(), {NAME: device(HEALTHY)}) is None
    assert freshen(HEALTHY, {NAME: replace(device(HEALTHY), uuid="LVM-another")}) is None
    assert freshen(HEALTHY, {NAME: replace(device(HEALTHY), suspended=True)}) is None


def test_what_went_is_seen_without_lvm_and_what_came_is_not_taken_for_a_loss() -> None:
    assert with_devices(HEALTHY, {NAME: None}).find_dm(NAME) is None
    assert with_devices(HEALTHY, {"new": replace(device(HEALTHY), name="new")}) == HEALTHY
    eyes = Eyes(support.desired(), support.snapshot())
    eyes.look(0.0)
    eyes.hangs, eyes.shot = True, HEALTHY
    (pool,) = eyes.look(1.0).pools
    assert pool.document.state == "absent"


class Eyes:
    """Counts what a watcher looks at."""

    def __init__(self, desired: DesiredState, shot: Snapshot, told: MonitorReport | None = None) -> None:
        self.shot = shot
        self.whole = self.cheap = 0
        self.hangs = self.is_blind = False
        self.watcher = Watcher(desired, self.observe, self.read, Journal, lambda: told)

    def observe(self) -> Snapshot:
        self.whole += 1
        if self.hangs:
            raise UnavailableError("the host does not answer", "It was asked 5 s ago.")
        return self.shot

    def read(self, name: str) -> DmDevice | None:
        self.cheap += 1
        if self.is_blind:
            raise UnavailableError("no device-mapper")
        return self.shot.find_dm(name)

    def look(self, at: float) -> LiveStatus:
        return self.watcher.look(at)


def test_while_lvm_hangs_the_kernel_and_the_monitor_still_tell() -> None:
    told = report(watched())
    eyes = Eyes(support.desired(), HEALTHY, told)
    assert eyes.look(0.0).problem == ""
    eyes.hangs = True
    # a change that LVM would have to be asked for, at the first look of these
    eyes.shot = support.with_status(HEALTHY, used_data_blocks=5000, mode="out_of_data_space")
    for at in (1.0, 2.0, 70.0):
        live = eyes.look(at)
        (pool,) = live.pools
        assert (live.problem, live.is_of_the_kernel) == ("the host does not answer: It was asked 5 s ago.", True)
        assert pool.document.state == "out_of_data"
        assert pool.document.data is not None
        assert pool.document.data.used_bytes == 5000 * support.CHUNK
        assert pool.watched == told.pools[0]
    # asked each time: it may be over
    assert eyes.whole == 4
    eyes.hangs = False
    assert (eyes.look(71.0).problem, eyes.whole) == ("", 5)
    assert (eyes.look(72.0).problem, eyes.whole) == ("", 5)


def test_what_is_as_old_as_the_last_look_is_not_told_as_the_kernel_s() -> None:
    eyes = Eyes(support.desired(), HEALTHY)
    eyes.look(0.0)
    eyes.hangs = True
    live = eyes.look(70.0)
    assert live.is_of_the_kernel
    eyes.is_blind = True
    old = look_again(eyes.watcher, live)
    assert (old.is_of_the_kernel, old.problem, old.pools) == (False, "no device-mapper", live.pools)


def test_the_kernel_is_asked_each_time_and_lvm_seldom() -> None:
    eyes = Eyes(support.desired(), HEALTHY)
    looks = []
    for second in range(10):
        eyes.shot = support.healthy(used_data_blocks=1000 + 10 * second)
        looks.append(eyes.look(float(second)))
    assert (eyes.whole, eyes.cheap) == (1, 9)
    (pool,) = looks[-1].pools
    assert pool.document.data is not None
    assert pool.document.data.used_bytes == 1090 * support.CHUNK
    free = pool.document.data.total_bytes - pool.document.data.used_bytes
    assert pool.data == Trend(10.0 * support.CHUNK, free / (10 * support.CHUNK))
    eyes.look(WHOLE_LOOK_SECONDS)
    assert eyes.whole == 2


def test_a_state_that_changes_is_seen_at_once_with_its_finding() -> None:
    eyes = Eyes(support.desired(), HEALTHY)
    assert eyes.look(0.0).pools[0].document.state == "healthy"
    eyes.shot = support.healthy(used_data_blocks=18000)
    look = eyes.look(1.0)
    assert (eyes.whole, look.pools[0].document.state) == (1, "tight")
    assert [finding.code for finding in look.findings] == ["POOL_TIGHT"]
    eyes.shot = support.deactivated(HEALTHY)
    assert (eyes.look(2.0).pools[0].document.state, eyes.whole) == ("inactive", 2)
    eyes.shot = HEALTHY
    look = eyes.look(3.0)
    assert (look.pools[0].document.state, look.pools[0].data, eyes.whole) == ("healthy", None, 3)


def test_what_a_running_monitor_knows_is_shown_and_a_missing_one_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 20.0)
    (pool,) = Eyes(support.desired(), HEALTHY, report(watched())).look(0.0).pools
    assert (pool.watched, pool.is_unwatched) == (watched(), False)
    (pool,) = Eyes(support.desired(), HEALTHY).look(0.0).pools
    assert (pool.watched, pool.is_unwatched) == (None, True)
    (pool,) = Eyes(support.desired(), HEALTHY, report()).look(0.0).pools
    assert (pool.watched, pool.is_unwatched) == (None, True)
    other = support.desired(support.pool(extend={"monitor": "dmeventd"}))
    assert not Eyes(other, HEALTHY).look(0.0).pools[0].is_unwatched
    # one that stands still tells nothing new
    monkeypatch.setattr(time, "time", lambda: 500.0)
    assert Eyes(support.desired(), HEALTHY, report(watched())).look(0.0).pools[0].is_unwatched


def test_what_both_see_is_there_once_and_new_codes_are_errors() -> None:
    own = (Finding("POOL_FAILED", "error", "docker/thinpool", "status says"),)
    seen = (Sighting("POOL_FAILED", "docker/thinpool", "monitor"), Sighting("NEWCODE", "docker/thinpool", "monitor"))
    assert with_monitors(own, report(watched(seen))) == (
        *own,
        Finding("NEWCODE", "error", "docker/thinpool", "monitor"),
    )
    assert with_monitors(own, None) == own
