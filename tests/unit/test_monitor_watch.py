"""The monitor's watch on the in-memory host."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, Any

import pytest
import support
from msgspec.structs import replace
from watch_lab import CONFIGS, DEAD, SPARE, Lab, with_disk, with_room, with_spares

from thinpoolmgr.core.journal import Began, Ended
from thinpoolmgr.core.model import Signature
from thinpoolmgr.core.plan import Request
from thinpoolmgr.core.steps import ExtendData, ExtendVolumeGroup, Step, TakeCharge, step_name
from thinpoolmgr.errors import CommandFailedError
from thinpoolmgr.host.dm_events import Events
from thinpoolmgr.host.store import Store
from thinpoolmgr.monitor.hands import PoolStore
from thinpoolmgr.monitor.watch import PoolWatch
from thinpoolmgr.sim.changes import suspend
from thinpoolmgr.sim.faults import Fails, Lies

if TYPE_CHECKING:
    from pathlib import Path

    from thinpoolmgr.core.lifecycle import PoolView
    from thinpoolmgr.core.model import Snapshot
    from thinpoolmgr.core.report import WatchedPool


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, with_room(support.healthy()))


def test_a_quiet_pool_is_taken_charge_of_and_left_alone(lab: Lab) -> None:
    lab.use(0.2)
    assert lab.look() == 1.0
    assert (lab.did(), lab.word.state, lab.codes()) == ([TakeCharge], "healthy", [])
    lab.look(5)
    assert lab.did() == [TakeCharge]


def test_a_tight_pool_is_extended_and_told_of(lab: Lab) -> None:
    lab.use(0.2)
    lab.look()
    lab.use(0.85)
    assert lab.look() == 0.0
    assert lab.did() == [TakeCharge, ExtendData]
    last = lab.word.last_extension
    assert last is not None
    assert (lab.word.extensions_done, last.part, last.result, lab.word.busy_since) == (1, "data", "done", None)
    extended = lab.told[-1].extended
    assert extended is not None
    assert extended.data_bytes == lab.host.view().lv.size_bytes  # type: ignore[union-attr]
    assert lab.look() > 0.0
    assert (lab.did(), lab.codes()) == ([TakeCharge, ExtendData], [])


def test_lvm_stands_by_while_an_extension_is_near_and_the_pool_is_written_to(lab: Lab) -> None:
    seen = []
    for share in (0.2, 0.69, 0.71, 0.5):
        lab.use(share)
        lab.look(20)
        seen.append(lab.host.stands_by)
    assert seen == [False, False, True, False]
    lab.use(0.2, 0.75)
    lab.look(20)
    assert lab.host.stands_by
    lab.look(20, after=60.0)
    assert not lab.host.stands_by
    lab.use(0.2, 0.76)
    lab.look()
    assert lab.host.stands_by
    lab.watch.close()
    assert not lab.host.stands_by


def test_lvm_begins_to_stand_by_before_a_pool_that_fills_is_near(lab: Lab) -> None:
    # Extensions that were quick are no reason to be late.
    lab.watch._extension_seconds = 0.05
    seen = []
    for percent in range(42, 66, 3):
        lab.use(percent / 100)
        lab.look()
        seen.append((percent, lab.host.stands_by))
    assert [percent for percent, stands_by in seen if stands_by] == [60, 63]


@pytest.mark.parametrize(
    ("at_most", "is_its_own", "waits"), [(1.0, False, [True, False]), (1.0, True, [True]), (0.25, False, [True])]
)
def test_a_pool_that_is_far_from_its_threshold_lets_the_others_look_first(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, at_most: float, waits: list[bool], *, is_its_own: bool
) -> None:
    lab.host.is_its_own = is_its_own
    event = os.eventfd(1)
    heard = []

    class Poll:
        """Tells whether the event is waited for."""

        def __init__(self) -> None:
            self.sources: list[object] = []
            self.register = lambda source, _what: self.sources.append(source)
            self.unregister = self.sources.remove

        def poll(self, _milliseconds: float) -> list[tuple[int, int]]:
            heard.append(events in self.sources)
            return [(event, select.POLLIN)]

    class Raised(Events):
        def __init__(self) -> None:
            """Have something to read."""

        def fileno(self) -> int:
            return event

    events = Raised()
    monkeypatch.setattr(select, "poll", Poll)
    lab.watch._wait(events, at_most)
    assert heard == waits
    os.close(event)


@pytest.mark.parametrize("is_there", [True, False])
def test_lvm_does_not_stand_by_for_a_pool_that_cannot_grow(lab: Lab, *, is_there: bool) -> None:
    lab.use(0.71)
    lab.look(3)
    lab.use(0.72)
    lab.look()
    assert lab.host.stands_by
    if is_there:
        lab.use(0.72, needs_check=True)
    else:
        lab.host.snapshot = support.snapshot()
    lab.look()
    assert not lab.host.stands_by


def test_the_larger_reserve_of_more_metadata_is_no_filling(lab: Lab) -> None:
    lab.use(0.2, 0.81)
    lab.look()
    assert lab.word.extensions_done == 1
    lab.use(0.2, 0.75)
    lab.look(2)
    assert (lab.word.extensions_done, lab.word.metadata_bytes_per_second) == (1, 0.0)


def test_what_a_cache_writes_out_right_after_an_extension_is_no_reason_for_another(lab: Lab) -> None:
    for percent in range(50, 84, 2):
        lab.use(percent / 100)
        lab.look()
    assert lab.word.extensions_done == 1
    used = lab.host.view().status.used_data_blocks  # type: ignore[union-attr]
    total = lab.host.view().status.total_data_blocks  # type: ignore[union-attr]
    for more in (0.0, 0.04):
        lab.use(used / total + more)
        lab.look(after=0.05)
    assert lab.word.extensions_done == 1


def test_what_somebody_else_has_extended_meanwhile_is_no_extension_of_the_monitors(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.use(0.79)
    lab.look(20)
    lab.use(0.81)
    begin = lab.watch._begin

    def somebody_extends(view: PoolView) -> None:
        begin(view)
        step, _ = interrupted(lab)
        lab.host.snapshot = support.apply_step(lab.host.snapshot, replace(step, data_extents=step.data_extents + 1000))

    monkeypatch.setattr(lab.watch, "_begin", somebody_extends)
    lab.look()
    assert (lab.word.extensions_done, lab.word.last_extension, lab.word.busy_since) == (0, None, None)
    assert ExtendData not in lab.did()


def test_what_is_left_is_taken_first_then_a_spare(tmp_path: Path) -> None:
    pool = support.pool(spare_devices=(SPARE,))
    lab = Lab(tmp_path, with_disk(support.with_spare(support.healthy(), 3), SPARE), pool)
    (group,) = lab.host.snapshot.groups
    lab.use(0.95)
    lab.look()
    assert lab.did() == [ExtendData]
    # first that which leaves room for metadata, then all
    assert lab.host.snapshot.groups[0].free_extents == 2
    lab.use(0.95)
    lab.look()
    assert [kind for kind in lab.did() if kind is not TakeCharge] == [ExtendData, ExtendData]
    assert lab.host.snapshot.groups[0].free_extents == 0
    lab.use(0.95)
    assert group.free_extents > 0
    lab.look()
    assert lab.codes() == ["EXTENSION_NO_ROOM"]
    assert lab.told[-1].pool.findings[0].code == "EXTENSION_NO_ROOM"
    told = len(lab.told)
    lab.look(50)
    # loud, and once
    assert len(lab.told) == told
    lab.host.spares = (SPARE,)
    lab.look(2)
    assert [kind for kind in lab.did() if kind is not TakeCharge] == [
        ExtendData,
        ExtendData,
        ExtendVolumeGroup,
        ExtendData,
    ]
    lab.look()
    assert lab.codes() == []


def test_a_spare_disk_in_doubt_keeps_no_other_from_being_taken(tmp_path: Path) -> None:
    pool = support.pool(spare_devices=("/dev/sdx", SPARE), wipe_signatures=True)
    shot = with_disk(with_disk(support.healthy(), SPARE), "/dev/sdx")
    signed = tuple(
        replace(disk, signatures=(Signature("ext4", "filesystem", 1080),)) if disk.path == "/dev/sdx" else disk
        for disk in shot.disks
    )
    lab = Lab(tmp_path, replace(shot, disks=signed), pool)
    lab.host.spares = pool.config.spare_devices
    lab.use(0.99)
    lab.look(3)
    (added,) = (step for step in lab.host.took_effect if isinstance(step, ExtendVolumeGroup))
    assert [disk.path for disk in added.disks] == [SPARE]
    assert lab.host.snapshot.find_disk("/dev/sdx") == signed[-1]


@pytest.mark.parametrize("config", CONFIGS)
def test_what_the_monitor_does_leaves_apply_nothing_to_refuse(tmp_path: Path, config: dict[str, Any]) -> None:
    """Or engines would not start after the next boot."""
    lab = Lab(tmp_path, with_spares(support.healthy()), support.pool(spare_devices=(DEAD, SPARE), **config))
    lab.host.spares = (SPARE,)
    assert lab.apply_plan().refusals == ()
    for _ in range(20):
        lab.use(0.95)
        lab.look()
        assert lab.apply_plan().refusals == ()
    # the group is full again
    assert (ExtendVolumeGroup in lab.did(), lab.codes()) == (True, ["EXTENSION_NO_ROOM"])
    lab.host.snapshot = support.deactivated(lab.host.snapshot)
    plan = lab.apply_plan()
    assert ([step_name(step) for step in plan.steps], plan.refusals) == (["activate-pool"], ())


def test_a_pool_at_its_limit_is_told_of(tmp_path: Path) -> None:
    pool = support.pool()
    extend = replace(pool.config.extend, max_size="1GiB")
    lab = Lab(tmp_path, with_room(support.healthy()), replace(pool, config=replace(pool.config, extend=extend)))
    lab.use(0.9)
    lab.watch.look()
    assert (lab.codes(), ExtendData in lab.did()) == (["EXTENSION_AT_LIMIT"], False)


@pytest.mark.parametrize("limit", ["none", "1GiB"])
def test_lvm_stands_by_for_a_full_group_and_not_for_a_pool_that_may_not_grow(tmp_path: Path, limit: str) -> None:
    pool = support.pool(extend={"max_size": limit})
    lab = Lab(tmp_path, support.healthy(), pool)
    for _ in range(3):
        # what there is
        lab.use(0.95)
        lab.look()
    lab.use(0.7)
    lab.look(20)
    lab.use(0.75)
    lab.look()
    assert lab.host.stands_by
    lab.use(0.85)
    lab.look()
    assert lab.codes() == ["EXTENSION_NO_ROOM" if limit == "none" else "EXTENSION_AT_LIMIT"]
    assert lab.host.stands_by == (limit == "none")


def refuse_room(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> list[type[Step]]:
    """Have LVM refuse to use what is free until a spare disk is in the group; return what was tried."""
    perform, tried = lab.host.perform, []
    before = len(lab.host.snapshot.groups[0].pvs)

    def refuse(step: Step) -> None:
        tried.append(type(step))
        if isinstance(step, ExtendData) and len(lab.host.snapshot.groups[0].pvs) == before:
            raise CommandFailedError("lvextend failed", "Insufficient suitable allocatable extents", "")
        perform(step)

    monkeypatch.setattr(lab.host, "perform", refuse)
    return tried


def test_a_spare_disk_is_taken_where_lvm_cannot_use_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(tmp_path, with_disk(with_room(support.healthy()), SPARE), support.pool(spare_devices=(SPARE,)))
    lab.use(0.2)
    lab.look()
    lab.use(0.9)
    tried = refuse_room(lab, monkeypatch)
    lab.host.spares = (SPARE,)
    # at once, and after one second and two more
    lab.look(2)
    assert (lab.codes(), ExtendVolumeGroup in tried) == (["EXTENSION_FAILED"], False)
    lab.look(3)
    assert [kind for kind in tried if kind is not TakeCharge] == [*[ExtendData] * 3, ExtendVolumeGroup, ExtendData]
    lab.look()
    assert (lab.codes(), lab.word.extensions_done, lab.word.extensions_failed) == ([], 1, 3)
    # All that is wanted, not an eighth of it: the next one is not due yet.
    lab.look(20)
    assert lab.word.extensions_done == 1


def test_only_one_spare_disk_is_taken_where_that_does_not_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (SPARE, "/dev/sde", "/dev/sdf")
    shot = with_room(support.healthy())
    for name in names:
        shot = with_disk(shot, name)
    lab = Lab(tmp_path, shot, support.pool(spare_devices=names))
    lab.use(0.2)
    lab.look()
    lab.use(0.9)
    perform = lab.host.perform

    def fail(step: Step) -> None:
        if isinstance(step, ExtendData):
            raise CommandFailedError("lvextend failed", "lvm.conf cannot be parsed", "")
        perform(step)

    monkeypatch.setattr(lab.host, "perform", fail)
    lab.host.spares = names
    before = len(lab.host.snapshot.groups[0].pvs)
    lab.look(120)
    assert (lab.codes(), len(lab.host.snapshot.groups[0].pvs)) == (["EXTENSION_FAILED"], before + 1)
    monkeypatch.setattr(lab.host, "perform", perform)
    lab.look(120)
    assert (lab.codes(), lab.word.extensions_done > 0) == ([], True)


@pytest.mark.parametrize("is_there", [True, False])
def test_without_a_spare_disk_a_failure_stays_one(lab: Lab, monkeypatch: pytest.MonkeyPatch, *, is_there: bool) -> None:
    lab.use(0.2)
    lab.look()
    lab.use(0.9)
    tried = refuse_room(lab, monkeypatch)
    # One that is in the group already, which counts as refused.
    lab.host.spares = ("/dev/sdc",) if is_there else ()
    lab.look(60)
    assert lab.codes() == ["EXTENSION_FAILED"]
    assert "Insufficient suitable" in lab.word.findings[0].summary
    # after 1, 2, 4, 8, 16 and 32 seconds, in this minute
    assert tried.count(ExtendData) == 6
    assert {event.pool.findings[0].code for event in lab.told if event.pool.findings} == {"EXTENSION_FAILED"}


def test_a_spare_disk_waits_while_lvm_reports_on_all_groups_and_nobody_waits_with_it(tmp_path: Path) -> None:
    lab = Lab(tmp_path, with_disk(support.healthy(), SPARE), support.pool(spare_devices=(SPARE,)))
    lab.host.spares, lab.host.is_reported = (SPARE,), True
    lab.use(0.99)
    lab.look(3)
    lab.use(0.99)
    lab.look(15)
    assert ExtendVolumeGroup not in lab.did()
    assert lab.codes() == ["MONITOR_WAITS"]
    assert "fuser" in lab.word.findings[0].summary
    with Store(lab.folder, lab.lock_file).lock("apply"):
        pass
    lab.host.is_reported = False
    lab.look(3)
    assert (ExtendVolumeGroup in lab.did(), lab.codes()) == (True, [])


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"needs_check": True}, "POOL_NEEDS_CHECK"),
        ({"mode": "Fail"}, "POOL_FAILED"),
        ({"mode": "ro"}, "POOL_READ_ONLY"),
    ],
)
def test_what_cannot_work_is_not_tried(lab: Lab, status: dict[str, Any], code: str) -> None:
    lab.use(0.95, **status)
    lab.look(3)
    assert (lab.did(), lab.codes()) == ([], [code])


def test_lost_writes_are_told_of_and_the_pool_is_extended_all_the_same(lab: Lab) -> None:
    lab.use(1.0, mode="out_of_data_space", when_full="error")
    lab.look()
    assert ExtendData in lab.did()
    # With room again nothing shows any more that there were any: so it is told at once.
    told = [[found.code for found in event.pool.findings] for event in lab.told if event.extended is None]
    assert ["POOL_ERRORS_WRITES"] in told
    lab.host.faults = {len(lab.host.performed): Fails("before")}
    lab.use(1.0, mode="out_of_data_space", when_full="error")
    lab.look()
    assert lab.codes() == ["EXTENSION_FAILED", "POOL_ERRORS_WRITES"]


def test_another_ones_pool_is_left_alone(tmp_path: Path) -> None:
    lab = Lab(tmp_path, support.untagged(with_room(support.healthy())))
    lab.use(0.95)
    lab.look(3)
    assert (lab.did(), lab.codes()) == ([], ["POOL_FOREIGN"])


def test_a_failure_is_told_of_and_tried_again_later(lab: Lab) -> None:
    lab.use(0.2)
    lab.look()
    attempts = len(lab.host.performed)
    lab.host.faults = {attempts: Fails("before"), attempts + 1: Fails("before")}
    lab.use(0.9)
    lab.look()
    assert (lab.codes(), lab.word.extensions_failed) == (["EXTENSION_FAILED"], 1)
    lab.look(after=0.1)
    assert len(lab.host.performed) == attempts + 1
    lab.look(after=1.0)
    assert (len(lab.host.performed), lab.word.extensions_failed) == (attempts + 2, 2)
    # twice as long, now
    lab.look(after=1.0)
    assert len(lab.host.performed) == attempts + 2
    lab.look(after=1.1)
    assert (lab.word.extensions_done, lab.word.extensions_failed) == (1, 2)
    lab.look(20)
    assert (lab.codes(), lab.word.extensions_failed) == ([], 2)


def test_a_charge_that_cannot_be_taken_is_told_of_until_it_is(lab: Lab) -> None:
    lab.host.faults = {0: Fails("before"), 1: Fails("before")}
    lab.use(0.2)
    lab.look()
    assert lab.codes() == ["MONITOR_FAILED"]
    assert lab.told[-1].pool.findings[0].code == "MONITOR_FAILED"
    lab.look(4)
    assert (lab.codes(), lab.did()) == ([], [TakeCharge])


def test_a_resume_that_fails_is_told_of_until_nothing_is_suspended(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.use(0.2)
    lab.look()
    running = lab.host.snapshot
    lab.host.snapshot = suspend(running, ("docker-thinpool",))

    def fail(_step: Step) -> None:
        raise CommandFailedError("dmsetup failed", "Device or resource busy", "")

    with monkeypatch.context() as patched:
        patched.setattr(lab.host, "perform", fail)
        lab.look(3)
    assert lab.codes() == ["MONITOR_FAILED"]
    lab.host.snapshot = running
    lab.look()
    assert lab.codes() == []


def test_a_pool_that_cannot_be_looked_at_was_not_looked_at(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.use(0.2)
    lab.look()
    before = lab.word.looked_at

    def fail() -> Snapshot:
        raise CommandFailedError("the kernel did not answer")

    monkeypatch.setattr(lab.host, "view", fail)
    monkeypatch.setattr(time, "time", lambda: before + 100.0)
    lab.look(3)
    assert (lab.codes(), lab.word.state, lab.word.looked_at) == (["STATE_UNKNOWN"], "unknown", before)


def test_a_change_in_the_group_ends_the_pause_at_once(lab: Lab) -> None:
    lab.use(0.2)
    lab.look()
    attempts = len(lab.host.performed)
    lab.host.faults = {attempts: Fails("before")}
    lab.use(0.9)
    lab.look()
    (group,) = lab.host.snapshot.groups
    lab.host.snapshot = replace(lab.host.snapshot, groups=(replace(group, seqno=group.seqno + 1),))
    lab.look(after=0.01)
    assert lab.word.extensions_done == 1


def test_a_command_that_only_says_so_has_not_extended(lab: Lab) -> None:
    lab.use(0.2)
    lab.look()
    lab.host.faults = {len(lab.host.performed): Lies()}
    lab.use(0.9)
    lab.look()
    assert (lab.word.extensions_done, lab.codes()) == (0, ["EXTENSION_FAILED"])
    assert "kernel's pool has" in lab.word.findings[0].summary


def test_while_somebody_else_holds_the_lock_nothing_is_done(lab: Lab) -> None:
    lab.use(0.9)
    with Store(lab.folder, lab.lock_file).lock("apply"):
        assert lab.look() == 0.25
        assert lab.did() == []
    lab.look()
    assert ExtendData in lab.did()


def test_what_nobody_thought_of_does_not_end_the_watch(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Snapshot:
        raise ValueError("nobody thought of this")

    with monkeypatch.context() as patched:
        patched.setattr(lab.host, "view", fail)
        assert lab.look() == 1.0
    assert lab.codes() == ["BUG"]
    assert "ValueError: nobody thought of this" in lab.word.findings[0].summary
    lab.look()
    assert lab.codes() == []


def test_one_that_waits_for_the_lock_is_not_busy_and_says_so_when_it_lasts(lab: Lab) -> None:
    lab.use(0.9)
    with Store(lab.folder, lab.lock_file).lock("apply"):
        lab.look()
        assert (lab.word.busy_since, lab.codes()) == (None, [])
        told = len(lab.told)
        lab.look(60, after=1.0)
        assert lab.codes() == ["MONITOR_WAITS"]
        assert "another run of thinpoolmgr is changing this host" in lab.word.findings[0].summary
        assert "apply" in lab.word.findings[0].summary
        assert len(lab.told) == told + 1
    lab.look(2)
    assert (lab.word.extensions_done, lab.codes()) == (1, [])


def test_the_rate_is_told_while_it_waits(lab: Lab) -> None:
    lab.use(0.5)
    lab.look()
    lab.use(0.9)
    with Store(lab.folder, lab.lock_file).lock("apply"):
        lab.look()
        assert lab.word.data_bytes_per_second > 0


def test_half_as_much_is_tried_after_each_failure(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.use(0.2)
    lab.look()
    lab.use(0.9)
    lv = lab.host.view().lv
    assert lv is not None
    before, tried, perform = lv.size_bytes // support.EXTENT, [], lab.host.perform

    def refuse_much(step: Step) -> None:
        if isinstance(step, ExtendData):
            tried.append(step.data_extents - before)
            if tried[-1] > most:
                raise CommandFailedError("lvextend failed", "Insufficient suitable allocatable extents", "")
        perform(step)

    monkeypatch.setattr(lab.host, "perform", refuse_much)
    most = 100
    lab.look(8, after=70.0)
    assert lab.word.extensions_done == 1
    whole = tried[0]
    assert tried[1:4] == [-(-whole // parts) for parts in (2, 4, 8)]
    # what worked is no reason to go on with less
    assert tried[4] > most


def test_an_attempt_that_takes_longer_than_its_pause_is_not_repeated_at_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.use(0.2)
    lab.look()
    lab.use(0.9)
    attempts = []

    def fail(step: Step) -> None:
        attempts.append(step)
        lab.host.time += 130.0
        raise CommandFailedError("lvextend failed", "it waited for a lock", "")

    monkeypatch.setattr(lab.host, "perform", fail)
    lab.look(2, after=0.1)
    assert len(attempts) == 1
    assert "it waited for a lock" in lab.told[-1].pool.findings[0].summary


def test_metadata_as_large_as_they_can_be_are_not_blamed_on_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = support.pool(extend={"max_size": "100GiB"})
    lab = Lab(tmp_path, with_room(support.healthy()), pool)
    lab.use(0.2)
    lab.look()
    lab.use(0.2, 0.9)
    monkeypatch.setattr("thinpoolmgr.monitor.watch.extension_request", lambda _view, _growth: None)
    lab.look()
    assert lab.codes() == ["EXTENSION_AT_LIMIT"]
    assert lab.word.findings[0].summary.endswith("dm-thin knows no larger metadata")


def test_a_nudge_is_passed_on(lab: Lab) -> None:
    lab.watch.nudge()
    assert lab.host.heeds == 1


def test_a_pool_that_goes_away_is_told_of_once(lab: Lab) -> None:
    lab.use(0.2)
    lab.look(2)
    told = len(lab.told)
    lab.host.snapshot = replace(lab.host.snapshot, dm_devices=())
    lab.look(3)
    assert [event.pool.state for event in lab.told[told:]] == ["inactive"]


def test_a_spare_that_is_in_the_group_already_is_not_looked_at_again_and_again(lab: Lab) -> None:
    lab.use(0.2)
    lab.look()
    lab.host.spares = ("/dev/sdc",)
    for _ in range(3):
        lab.use(0.95)
        lab.look()
    assert lab.host.snapshot.groups[0].free_extents == 0
    lab.use(0.95)
    looks = []
    observe = lab.host.observe
    lab.host.observe = lambda: looks.append(bool(lab.host.spare)) or observe()  # type: ignore[func-returns-value, method-assign]
    lab.look(20, after=0.04)
    assert looks.count(True) <= 2
    assert lab.codes() == ["EXTENSION_NO_ROOM"]


def test_what_hangs_is_resumed_when_nobody_is_at_it(lab: Lab) -> None:
    lab.use(0.2)
    lab.look()
    lab.host.snapshot = suspend(lab.host.snapshot, ("docker-thinpool",))
    lab.host.locked = True
    lab.look(5)
    assert lab.host.view().device.suspended  # type: ignore[union-attr]
    lab.host.locked = False
    lab.look()
    assert not lab.host.view().device.suspended  # type: ignore[union-attr]


def test_a_pool_that_hangs_for_a_moment_is_left_alone(lab: Lab) -> None:
    lab.use(0.2)
    lab.look()
    lab.host.snapshot = suspend(lab.host.snapshot, ("docker-thinpool",))
    lab.look(after=0.0)
    assert lab.host.view().device.suspended  # type: ignore[union-attr]


def interrupted(lab: Lab) -> tuple[ExtendData, Request]:
    """Return an extension of the lab's pool, and what was asked for by it."""
    lv = lab.host.view().lv
    assert lv is not None
    size = lv.size_bytes + 8 * support.EXTENT
    request = Request("extend", "docker", is_settled=True, add_data="+32MiB", data_bytes=size, lv_uuid=lv.uuid)
    step = ExtendData(
        reason="r",
        pool="docker",
        group="docker",
        lv="thinpool",
        data_extents=size // support.EXTENT,
        extent_bytes=support.EXTENT,
        chunk_bytes=support.CHUNK,
        id="01",
    )
    return step, request


def test_what_an_earlier_monitor_began_is_finished(lab: Lab) -> None:
    step, request = interrupted(lab)
    _, run_file = PoolStore("docker", lab.folder, lab.lock_file).new_run("monitor")
    run_file.append(Began("r", "monitor", "t", (step,), request=request))
    run_file.close()
    lab.use(0.2)
    lab.look()
    assert lab.host.view().lv.size_bytes == request.data_bytes  # type: ignore[union-attr]
    assert lab.watch._store.unfinished() == []


def test_a_resume_that_had_to_wait_is_made_up_for(lab: Lab) -> None:
    step, request = interrupted(lab)
    _, run_file = PoolStore("docker", lab.folder, lab.lock_file).new_run("monitor")
    run_file.append(Began("r", "monitor", "t", (step,), request=request))
    run_file.close()
    lab.use(0.2)
    with Store(lab.folder, lab.lock_file).lock("apply"):
        assert lab.look() > 0.0
    lab.look()
    assert lab.host.view().lv.size_bytes == request.data_bytes  # type: ignore[union-attr]


def test_a_run_that_failed_is_not_finished_after_a_start(lab: Lab) -> None:
    step, request = interrupted(lab)
    _, run_file = PoolStore("docker", lab.folder, lab.lock_file).new_run("monitor")
    run_file.append(Began("r", "monitor", "t", (step,), request=request))
    run_file.append(Ended("failed", "t"))
    run_file.close()
    lab.use(0.2)
    lab.look(3)
    assert lab.did() == [TakeCharge]


def test_a_pool_that_hangs_in_its_first_look_is_known(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[WatchedPool] = []

    def hangs(_self: PoolWatch) -> None:
        seen.extend(lab.board.read())
        lab.watch.stop()

    monkeypatch.setattr(PoolWatch, "_watch", hangs)
    lab.watch.run()
    assert [(pool.name, pool.state, pool.looked_at) for pool in seen] == [("docker", "unknown", 0.0)]


def test_what_nobody_thought_of_is_not_tried_again_at_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Step] = []

    def perform(step: Step) -> None:
        tried.append(step)
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(lab.host, "perform", perform)
    lab.use(0.9)
    lab.look(8)
    assert lab.codes()[0] == "BUG"
    assert "Cannot allocate memory" in lab.word.findings[0].summary
    # after one, two and four seconds; each time the low-water mark, too
    assert len([step for step in tried if isinstance(step, ExtendData)]) == 4
