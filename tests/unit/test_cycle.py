from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.approval import Approval, approve, raise_refusals
from thinpoolmgr.core.findings import Journal, journal_sightings
from thinpoolmgr.core.history import past_runs
from thinpoolmgr.core.journal import Began, Ended
from thinpoolmgr.core.measures import Look, measures
from thinpoolmgr.core.model import Signature
from thinpoolmgr.core.plan import Memory, Plan, Refusal
from thinpoolmgr.core.planner import plan_activate, plan_apply
from thinpoolmgr.core.steps import step_name
from thinpoolmgr.core.teardown import plan_destroy
from thinpoolmgr.cycle import RunError, RunResult, carry_out, look
from thinpoolmgr.errors import (
    CommandFailedError,
    ConfigError,
    InterruptedRunError,
    LockedError,
    NeedsPersonError,
    RefusedError,
    StalePlanError,
    ThinpoolmgrError,
    UnavailableError,
)
from thinpoolmgr.host import store as store_module
from thinpoolmgr.host.store import RunFile, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import support

    from thinpoolmgr.core.journal import Record, Run
    from thinpoolmgr.core.model import LogicalVolume, Snapshot
    from thinpoolmgr.core.steps import Danger, Step
    from thinpoolmgr.cycle import Planner

YES = Approval(yes=True)
ALL = Approval(yes=True, allowed=frozenset({"outage", "destroys"}))
PLAIN = support.desired()
EXT4 = Signature("ext4", "filesystem", 1080)


def apply_planner(shot: Snapshot, memory: Memory) -> Plan:
    return plan_apply(PLAIN, shot, memory)


def full_planner(shot: Snapshot, memory: Memory) -> Plan:
    """Plan every kind of step there is on the way up."""
    wanted = support.pool(wipe_signatures=True, when_full="error")
    return plan_apply(support.desired(wanted, engines=(support.engine(),)), shot, memory)


def destroy_planner(shot: Snapshot, memory: Memory) -> Plan:
    state = support.desired(engines=(support.engine(),))
    return plan_destroy(state.pools[0], state, shot, memory)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state", tmp_path / "run" / "lock")


def run(
    host: support.FakeHost,
    store: Store,
    planner: Planner = apply_planner,
    approval: Approval = YES,
    listener: support.Listener | None = None,
) -> RunResult:
    return carry_out("apply", planner, host, store, listener or support.Listener(), approval)


def journal(store: Store) -> Run:
    return store.read_runs()[-1][1]


def written(tmp_path: Path) -> list[str]:
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())


def test_a_pool_is_made_recorded_and_found_to_be_there(store: Store) -> None:
    host, listener = support.FakeHost(support.snapshot()), support.Listener()
    result = run(host, store, listener=listener)
    assert (result.outcome, [step.result for step in result.steps]) == ("done", ["done", "done"])
    assert tuple(listener.ended) == result.steps
    assert host.took_effect == ["create-volume-group", "create-thin-pool"]
    recorded = journal(store)
    assert (recorded.doing, recorded.done, recorded.outcome) == (("01", "02"), ("01", "02"), "done")
    assert recorded.group_uuids == (host.snapshot.groups[0].uuid,)
    assert (recorded.began.run, recorded.began.boot_id) == (result.run, support.BOOT)
    assert recorded.began.steps == listener.shown[0].steps


def test_a_second_run_does_nothing_and_writes_nothing(store: Store, tmp_path: Path) -> None:
    host = support.FakeHost(support.snapshot())
    run(host, store)
    before = written(tmp_path)
    listener = support.Listener()
    assert run(host, store, listener=listener) == RunResult("", "nothing")
    assert (written(tmp_path), listener.shown, len(host.performed)) == (before, [], 2)


def test_looking_takes_no_lock_and_writes_nothing(store: Store, tmp_path: Path) -> None:
    host = support.FakeHost(support.snapshot())
    assert len(look(apply_planner, host, store).steps) == 2
    assert written(tmp_path) == []
    with store.lock("apply"):
        assert len(look(apply_planner, host, store).steps) == 2


def test_a_refusal_anywhere_means_that_nothing_is_done_or_written(store: Store, tmp_path: Path) -> None:
    shot = support.snapshot(support.disk("/dev/sdb"), support.disk("/dev/sdc", mounts=("/srv",), swap=True))
    state = support.desired(support.pool("a", "/dev/sdb"), support.pool("b", "/dev/sdc"))
    host, listener = support.FakeHost(shot), support.Listener()
    with pytest.raises(RefusedError) as caught:
        run(host, store, lambda s, m: plan_apply(state, s, m), listener=listener)
    assert (caught.value.code, caught.value.exit_code) == ("DISK_MOUNTED", 3)
    assert "Also: /dev/sdc is in use as swap space" in caught.value.details
    assert (host.performed, host.snapshot, listener.shown) == ([], shot, [])
    assert written(tmp_path) == ["run/lock"]


@pytest.mark.parametrize(("code", "kind"), [(3, RefusedError), (69, UnavailableError), (78, ConfigError)])
def test_a_refusals_exit_code_chooses_the_error(code: int, kind: type[ThinpoolmgrError]) -> None:
    refusals = (Refusal("A", "t", "s", "d", "r", exit_code=code), Refusal("B", "t", "other"))
    with pytest.raises(kind) as caught:
        raise_refusals(refusals)
    assert (caught.value.exit_code, caught.value.code, caught.value.resolution) == (code, "A", "r")
    assert caught.value.details == "d\nAlso: other"
    raise_refusals(())


OUTAGE: frozenset[Danger] = frozenset({"outage"})
DESTROYS: frozenset[Danger] = frozenset({"destroys"})


@pytest.mark.parametrize(
    ("dangers", "approval", "answer", "outcome"),
    [
        ("safe", Approval(), None, "--yes"),
        ("safe", Approval(), False, "not approved"),
        ("safe", Approval(), True, "asked"),
        ("safe", YES, None, "unasked"),
        ("safe", YES, False, "unasked"),
        ("outage", YES, True, "--allow outage"),
        ("outage", Approval(), None, "--yes --allow outage"),
        ("outage", Approval(), True, "asked"),
        ("outage", Approval(yes=True, allowed=OUTAGE), None, "unasked"),
        ("outage", Approval(yes=True, allowed=DESTROYS), None, "--allow outage"),
        ("destroys", YES, True, "--allow destroy"),
        ("destroys", Approval(yes=True, allowed=DESTROYS), None, "unasked"),
        ("destroys", Approval(yes=True, allowed=OUTAGE), None, "--allow destroy"),
        ("destroys", Approval(yes=False, allowed=DESTROYS), None, "--yes"),
        ("destroys", Approval(yes=False, allowed=DESTROYS), False, "not approved"),
        ("outage destroys", YES, True, "--allow outage,destroy"),
        ("outage destroys", Approval(yes=True, allowed=OUTAGE), None, "--allow destroy"),
        ("outage destroys", ALL, None, "unasked"),
    ],
)
def test_approval(dangers: str, approval: Approval, answer: bool | None, outcome: str) -> None:  # noqa: FBT001
    step: Any = support.create_step(support.pool())
    plan = Plan(steps=tuple(replace(step, danger=danger) for danger in dangers.split()))
    listener = support.Listener(answer=answer)
    if outcome in ("asked", "unasked"):
        assert approve(plan, approval, listener.confirm) is (outcome == "asked")
        assert listener.asked == (outcome == "asked")
        return
    with pytest.raises(RefusedError) as caught:
        approve(plan, approval, listener.confirm)
    assert (caught.value.code, caught.value.exit_code) == ("NOT_APPROVED", 3)
    flags = outcome.startswith("--")
    assert caught.value.summary == (
        f"this needs {outcome}; nothing was changed" if flags else f"{outcome}; nothing was changed"
    )


@pytest.mark.parametrize(("approval", "answer"), [(Approval(), None), (Approval(), False)])
def test_without_approval_nothing_is_done_or_written(
    store: Store,
    tmp_path: Path,
    approval: Approval,
    answer: bool | None,  # noqa: FBT001
) -> None:
    host, listener = support.FakeHost(support.snapshot()), support.Listener(answer=answer)
    with pytest.raises(RefusedError):
        run(host, store, approval=approval, listener=listener)
    assert (host.performed, len(listener.shown), written(tmp_path)) == ([], 1, ["run/lock"])


def test_yes_alone_destroys_nothing(store: Store) -> None:
    shot = support.snapshot(support.disk(signatures=(EXT4,)))
    host = support.FakeHost(support.with_engine(shot, support.docker()))
    with pytest.raises(RefusedError, match="--allow destroy") as caught:
        run(host, store, full_planner)
    assert "01 wipe-signatures /dev/sdb: data is destroyed" in caught.value.details
    assert host.performed == []


def test_a_host_that_changed_while_the_question_was_open_makes_the_plan_stale(store: Store, tmp_path: Path) -> None:
    host, listener = support.FakeHost(support.snapshot()), support.Listener(answer=True)

    def mount() -> None:
        host.snapshot = support.snapshot(support.disk(mounts=("/srv",)))

    listener.on_confirm = mount
    with pytest.raises(StalePlanError) as caught:
        run(host, store, approval=Approval(), listener=listener)
    assert (caught.value.exit_code, host.performed, written(tmp_path)) == (4, [], ["run/lock"])


def test_others_may_change_the_host_while_a_person_is_asked(store: Store) -> None:
    host, listener = support.FakeHost(support.snapshot()), support.Listener(answer=True)
    others: list[str] = []

    def change_something_else() -> None:
        with store.lock("monitor"):
            others.append("monitor")

    listener.on_confirm = change_something_else
    assert run(host, store, approval=Approval(), listener=listener).outcome == "done"
    assert (others, listener.asked, len(host.performed)) == (["monitor"], 1, 2)


def test_what_another_run_did_while_the_question_was_open_is_not_done_again(store: Store) -> None:
    host, listener = support.FakeHost(support.snapshot()), support.Listener(answer=True)

    def apply_too() -> None:
        run(host, store)

    listener.on_confirm = apply_too
    with pytest.raises(StalePlanError, match="changed while the question was open"):
        run(host, store, approval=Approval(), listener=listener)
    assert (len(host.performed), len(store.read_runs())) == (2, 1)


def test_a_yes_while_another_run_has_the_lock_does_nothing(store: Store) -> None:
    host, listener = support.FakeHost(support.snapshot()), support.Listener(answer=True)
    with ExitStack() as other:
        listener.on_confirm = lambda: other.enter_context(store.lock("destroy"))
        with pytest.raises(LockedError) as caught:
            run(host, store, approval=Approval(), listener=listener)
        assert ", destroy, since" in caught.value.details
    assert (host.performed, store.read_runs()) == ([], [])


def test_a_yes_at_the_terminal_carries_the_plan_out(store: Store) -> None:
    host = support.FakeHost(support.snapshot())
    assert run(host, store, approval=Approval(), listener=support.Listener(answer=True)).outcome == "done"


def test_a_step_that_fails_is_recorded_with_the_last_commands(store: Store) -> None:
    host = support.FakeHost(support.snapshot(), {"create-thin-pool": "before"})
    listener = support.Listener()
    with pytest.raises(RunError) as caught:
        run(host, store, listener=listener)
    error = caught.value
    assert (error.cause.exit_code, error.outcome, error.run) == (1, "failed", journal(store).began.run)
    assert [step.result for step in error.steps] == ["done", "failed"]
    assert tuple(listener.ended) == error.steps
    recorded = journal(store)
    assert recorded.failed is not None
    assert recorded.failed.error == "create-thin-pool failed\nExit code: 5"
    assert recorded.failed.commands == ("create-volume-group -> 5 (0.01 s)", "create-thin-pool -> 5 (0.01 s)")
    assert (recorded.done, recorded.outcome) == (("01",), "failed")
    host.faults.clear()
    assert run(host, store).outcome == "done"
    assert host.took_effect == ["create-volume-group", "create-thin-pool"]


def test_nothing_follows_a_step_that_failed(store: Store) -> None:
    host = support.FakeHost(support.snapshot(), {"create-volume-group": "before"})
    with pytest.raises(RunError):
        run(host, store)
    assert [step_name(step) for step in host.performed] == ["create-volume-group"]


def test_a_step_that_failed_after_its_work_is_not_done_twice(store: Store) -> None:
    host = support.FakeHost(support.snapshot(), {"create-volume-group": "after"})
    with pytest.raises(RunError) as caught:
        run(host, store)
    assert caught.value.cause.exit_code == 1
    host.faults.clear()
    assert run(host, store).outcome == "done"
    assert host.took_effect == ["create-volume-group", "create-thin-pool"]


@pytest.mark.parametrize("name", ["create-volume-group", "create-thin-pool"])
def test_a_success_that_the_host_does_not_show_is_incoherent(store: Store, name: str) -> None:
    host = support.FakeHost(support.snapshot(), {name: "nothing"})
    with pytest.raises(RunError) as caught:
        run(host, store)
    assert (caught.value.cause.exit_code, caught.value.outcome) == (6, "failed")
    assert name in caught.value.cause.summary
    assert caught.value.cause.details
    host.faults.clear()
    assert run(host, store).outcome == "done"


def test_a_host_that_still_differs_at_the_end_is_incoherent(store: Store) -> None:
    def planner(shot: Snapshot, memory: Memory) -> Plan:
        plan = apply_planner(shot, memory)
        return plan if plan.steps else Plan(refusals=(Refusal("X", "t", "somebody mounted it"),))

    host = support.FakeHost(support.snapshot())
    with pytest.raises(RunError) as caught:
        run(host, store, planner)
    assert (caught.value.cause.exit_code, caught.value.cause.details) == (6, "somebody mounted it")
    assert [step.result for step in caught.value.steps] == ["done", "done"]
    assert journal(store).outcome == "failed"


def test_a_step_that_is_done_already_is_not_performed(store: Store) -> None:
    def planner(shot: Snapshot, memory: Memory) -> Plan:
        plan = apply_planner(support.snapshot(), memory)
        return Plan() if shot.dm_devices else plan

    host = support.FakeHost(support.with_group(support.snapshot()))
    result = run(host, store, planner)
    assert [step.result for step in result.steps] == ["already", "done"]
    assert host.took_effect == ["create-thin-pool"]


def test_a_step_that_was_interrupted_and_fits_nowhere_needs_a_person(store: Store) -> None:
    host = support.FakeHost(support.snapshot(), {"create-volume-group": "crash-before"})
    with pytest.raises(support.CrashError):
        run(host, store)
    host.snapshot = support.with_group(support.snapshot(), tags=())
    host.faults.clear()
    with pytest.raises(NeedsPersonError) as caught:
        run(host, store)
    assert caught.value.exit_code == 5
    assert "create-volume-group docker" in caught.value.summary
    assert "does not carry the tag" in caught.value.details
    assert str(store.read_runs()[0][0]) in caught.value.details
    assert len(host.performed) == 1


def test_a_run_that_failed_while_the_clock_was_ahead_is_over_when_a_later_one_ends_well(store: Store) -> None:
    host = support.FakeHost(support.snapshot(), {"create-thin-pool": "before"})
    with pytest.raises(RunError):
        run(host, store)
    (path, _) = store.read_runs()[0]
    path.rename(path.with_name("20991231T235959.000000Z-apply-ffff.jsonl"))
    assert told(store, host) == (["RUN_INTERRUPTED"], "failed")
    host.faults.clear()
    run(host, store)
    assert told(store, host) == ([], "done")


def test_a_run_that_fails_while_the_clock_is_behind_is_not_over_by_those_before_it(store: Store) -> None:
    host = support.FakeHost(support.snapshot())
    run(host, store)
    (path, _) = store.read_runs()[0]
    path.rename(path.with_name("20991231T235959.000000Z-apply-ffff.jsonl"))
    host.snapshot, host.faults = support.snapshot(), {"create-thin-pool": "before"}
    with pytest.raises(RunError):
        run(host, store)
    assert told(store, host) == (["RUN_INTERRUPTED"], "failed")


def told(store: Store, host: support.FakeHost) -> tuple[list[str], str]:
    """Return the codes of what doctor finds in the journal, and how the last run went, as metrics have it."""
    stored = store.read_leniently()
    measured = measures(Look("1", 0.0, 0.0, runs=past_runs(stored, is_locked=False)))
    (outcomes,) = (measure.samples for measure in measured if measure.name == "thinpoolmgr_last_run_outcome")
    (outcome,) = (labels["outcome"] for number, labels in outcomes if number)
    return [found.code for found in journal_sightings(Journal(stored), host.snapshot)], outcome


def test_a_damaged_journal_needs_a_person(store: Store, tmp_path: Path) -> None:
    run(support.FakeHost(support.snapshot()), store)
    (path,) = (tmp_path / "state" / "runs").iterdir()
    path.write_bytes(path.read_bytes().replace(b"docker", b"podman", 1))
    host = support.FakeHost(support.snapshot())
    with pytest.raises(NeedsPersonError):
        run(host, store)
    with pytest.raises(NeedsPersonError):
        look(apply_planner, host, store)
    assert host.performed == []


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_disk_that_hangs_while_a_run_looks_keeps_no_other_from_the_lock(store: Store, *, is_begun: bool) -> None:
    host = support.FakeHost(support.healthy())
    looks = []

    def others_run(_host: support.FakeHost) -> None:
        looks.append(store.is_locked())
        if is_begun and len(looks) == 1:
            with store.lock("monitor"):
                _, run_file = store.new_run("monitor")
                run_file.append(Began("r", "monitor", "t", ()))
                run_file.append(Ended("done", "t"))
                run_file.close()

    host.on_observe = others_run
    assert run(host, store).outcome == "nothing"
    # What another run changed meanwhile was not seen.
    assert looks == ([False, True] if is_begun else [False])


@pytest.mark.parametrize("ends", [True, False])
def test_an_extension_that_began_during_the_look_is_waited_for(
    store: Store, monkeypatch: pytest.MonkeyPatch, *, ends: bool
) -> None:
    host, extension = support.FakeHost(support.healthy()), ExitStack()
    host.on_observe = lambda _host: extension.enter_context(store.lock("monitor")) if not store.is_locked() else None
    waited = []

    def wait(look: Callable[[], bool], _is_there: object, seconds: float) -> bool:
        waited.append(seconds)
        if ends:
            extension.close()
        return look()

    monkeypatch.setattr(store_module, "until_there", wait)
    if ends:
        assert run(host, store).outcome == "nothing"
    else:
        with extension, pytest.raises(LockedError, match="another run"):
            run(host, store)
    assert waited == [10.0]


def test_a_second_run_is_told_who_holds_the_lock(store: Store) -> None:
    host = support.FakeHost(support.snapshot())
    with store.lock("destroy"), pytest.raises(LockedError, match="another run") as caught:
        run(host, store)
    assert f"pid {os.getpid()}, destroy" in caught.value.details
    assert host.performed == []


@pytest.mark.parametrize("place", ["state", "run"])
def test_without_a_journal_or_lock_nothing_is_done(store: Store, tmp_path: Path, place: str) -> None:
    (tmp_path / place).write_text("in the way")
    host = support.FakeHost(support.snapshot())
    with pytest.raises(CommandFailedError, match=r"cannot be (written|taken)"):
        run(host, store)
    assert host.performed == []


Kind = Literal["before", "torn", "after", "full"]


class Countdown:
    """Raises at one of the moments of a run: around each record that is written and each step that is performed."""

    def __init__(self, at: int) -> None:
        self.left = at

    def tick(self) -> None:
        self.left -= 1
        if self.left < 0:
            self.left = 10**9
            raise support.CrashError


class MortalHost(support.FakeHost):
    def __init__(self, shot: Snapshot, clock: Countdown) -> None:
        super().__init__(shot)
        self.clock = clock

    def perform(self, step: Step) -> None:
        self.clock.tick()
        super().perform(step)
        self.clock.tick()


@pytest.fixture
def mortal_journal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Countdown]]:
    clocks: list[Countdown] = []
    whole = RunFile.append

    def append(self: RunFile, record: Record) -> None:
        if not clocks:
            whole(self, record)
            return
        clocks[-1].tick()
        size = os.fstat(self._fd).st_size
        whole(self, record)
        try:
            clocks[-1].tick()
        except support.CrashError:
            os.ftruncate(self._fd, size + (os.fstat(self._fd).st_size - size) // 2)
            raise
        clocks[-1].tick()

    monkeypatch.setattr(RunFile, "append", append)
    yield clocks
    clocks.clear()


def reboot(shot: Snapshot) -> Snapshot:
    """The kernel forgets its devices; the engine is started by the boot."""
    engines = tuple(
        replace(e, running=True, pids=(1,), driver="x", service=replace(e.service, active=True)) if e.installed else e
        for e in shot.engines
    )
    return replace(shot, dm_devices=(), engines=engines, boot_id=f"{shot.boot_id}+")


def same_boot(shot: Snapshot) -> Snapshot:
    return shot


SCENARIOS: dict[str, tuple[Planner, Snapshot]] = {
    "plain": (apply_planner, support.snapshot()),
    "up": (
        full_planner,
        support.with_engine(
            support.snapshot(support.disk(signatures=(EXT4,))),
            replace(support.docker(running=True), state=support.STALE),
        ),
    ),
    "down": (
        destroy_planner,
        support.with_engine(
            support.with_thin_device(support.healthy(), open_count=1),
            replace(support.docker(running=True, configured=True), state=support.STALE),
        ),
    ),
}
ONCE = {"create-volume-group", "create-thin-pool", "wipe-signatures", "move-state-aside", "remove-thin-pool"}


def crash_at(clock: Countdown, planner: Planner, shot: Snapshot, store: Store) -> tuple[bool, support.FakeHost]:
    host = MortalHost(shot, clock)
    try:
        run(host, store, planner, ALL)
    except support.CrashError:
        return True, host
    return False, host


@pytest.mark.parametrize("then", [same_boot, reboot], ids=["killed", "power cut"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_crash_at_any_moment_is_repaired_by_running_again(
    tmp_path: Path, mortal_journal: list[Countdown], scenario: str, then: Callable[[Snapshot], Snapshot]
) -> None:
    planner, shot = SCENARIOS[scenario]
    for moment in range(10_000):
        store = Store(tmp_path / str(moment), tmp_path / "lock")
        clock = Countdown(moment)
        mortal_journal[:] = [clock]
        crashed, host = crash_at(clock, planner, shot, store)
        mortal_journal.clear()
        if not crashed:
            break
        again = support.FakeHost(then(host.snapshot))
        run(again, store, planner, ALL)
        effects = [name for name in (*host.took_effect, *again.took_effect) if name in ONCE]
        assert len(effects) == len(set(effects)), moment
        assert look(planner, again, store).is_empty, moment
        assert run(again, store, planner, ALL).outcome == "nothing", moment
        assert not journal(store).is_unfinished, moment
    assert moment >= 3 * 6 + 2 * 2


def test_two_crashes_at_any_two_moments_are_repaired(tmp_path: Path, mortal_journal: list[Countdown]) -> None:
    planner, shot = SCENARIOS["plain"]
    pairs = 0
    for first in range(100):
        for second in range(100):
            store = Store(tmp_path / f"{first}-{second}", tmp_path / "lock")
            mortal_journal[:] = [Countdown(first)]
            crashed, host = crash_at(mortal_journal[0], planner, shot, store)
            if not crashed:
                break
            mortal_journal[:] = [Countdown(second)]
            crashed, middle = crash_at(mortal_journal[0], planner, host.snapshot, store)
            mortal_journal.clear()
            last = support.FakeHost(middle.snapshot)
            run(last, store)
            effects = [*host.took_effect, *middle.took_effect, *last.took_effect]
            assert sorted(effects) == ["create-thin-pool", "create-volume-group"]
            assert look(planner, last, store).is_empty
            pairs += 1
            if not crashed:
                break
    assert pairs > 100


HALF = {
    "K1": (support.linear("lvol0", 12 * 1024 * 1024),),
    "K2": (
        support.linear("thinpool", 12 * 1024 * 1024, "thinpoolmgr"),
        support.linear("lvol0_pmspare", 12 * 1024 * 1024),
    ),
    "K3": (),
}


@pytest.mark.parametrize("kind", HALF)
def test_a_kill_inside_lvcreate_is_repaired_by_running_again(store: Store, kind: str) -> None:
    lvs: tuple[LogicalVolume, ...] = HALF[kind]
    host = support.FakeHost(support.snapshot(), {"create-thin-pool": "crash-before" if lvs else "crash-after"})
    with pytest.raises(support.CrashError):
        run(host, store)
    for lv in lvs:
        host.snapshot = support.with_lv(host.snapshot, lv)
    if not lvs:
        host.snapshot = support.deactivated(host.snapshot)
    host.faults.clear()
    result = run(host, store)
    expected = ["remove-leftover", "create-thin-pool"] if lvs else ["activate-pool"]
    assert [step.do for step in result.steps] == expected
    assert host.took_effect.count("create-thin-pool") == 1
    assert run(host, store).outcome == "nothing"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_the_step_finish_and_then_stops(store: Store, number: signal.Signals) -> None:
    host = support.FakeHost(support.snapshot())
    host.on_perform = lambda _step: os.kill(os.getpid(), number)
    before = signal.getsignal(number)
    listener = support.Listener()
    with pytest.raises(RunError) as caught:
        run(host, store, listener=listener)
    assert listener.stopped_by == number.name
    cause = caught.value.cause
    assert isinstance(cause, InterruptedRunError)
    assert (cause.signal_number, caught.value.outcome) == (number, "interrupted")
    assert number.name in cause.summary
    assert (host.took_effect, [s.result for s in caught.value.steps]) == (["create-volume-group"], ["done"])
    assert (journal(store).done, journal(store).outcome) == (("01",), "interrupted")
    assert signal.getsignal(number) == before
    host.on_perform = None
    assert [step.do for step in run(host, store).steps] == ["create-thin-pool"]


def test_a_signal_in_the_last_step_comes_too_late(store: Store) -> None:
    host = support.FakeHost(support.with_group(support.snapshot()))
    host.on_perform = lambda _step: os.kill(os.getpid(), signal.SIGTERM)
    assert run(host, store).outcome == "done"
    assert journal(store).outcome == "done"


@pytest.mark.parametrize("record", range(1, 6))
def test_a_journal_that_fills_up_stops_the_run_before_the_next_step(
    store: Store, monkeypatch: pytest.MonkeyPatch, record: int
) -> None:
    whole, left = RunFile.append, [record]

    def append(self: RunFile, entry: Record) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise CommandFailedError("the journal cannot be written", "No space left on device")
        whole(self, entry)

    monkeypatch.setattr(RunFile, "append", append)
    host = support.FakeHost(support.snapshot())
    with pytest.raises(RunError) as caught:
        run(host, store)
    assert (caught.value.cause.exit_code, caught.value.outcome) == (1, "failed")
    assert len(host.performed) == record // 2
    assert len(caught.value.steps) == max(0, record - 1) // 2
    monkeypatch.setattr(RunFile, "append", whole)
    run(host, store)
    assert host.took_effect == ["create-volume-group", "create-thin-pool"]


def test_a_host_that_cannot_be_looked_at_after_a_step_fails_the_step(store: Store) -> None:
    host = support.FakeHost(support.snapshot())

    def observe(looked_at: support.FakeHost) -> None:
        if looked_at.took_effect:
            raise UnavailableError("lvm is not installed")

    host.on_observe = observe
    with pytest.raises(RunError) as caught:
        run(host, store)
    assert (caught.value.cause.exit_code, journal(store).outcome) == (69, "failed")
    host.on_observe = None
    assert run(host, store).outcome == "done"
    assert host.took_effect == ["create-volume-group", "create-thin-pool"]


def test_what_was_stopped_for_a_tear_down_is_started_by_the_next_apply(store: Store) -> None:
    planner, shot = SCENARIOS["down"]
    host = support.FakeHost(shot)
    run(host, store, planner, ALL)
    assert host.snapshot.engines[0].running is False
    state = support.desired(engines=(support.engine(),))
    result = run(host, store, lambda s, m: plan_apply(state, s, m))
    assert result.steps[-1].do == "start-engine"
    assert host.snapshot.engines[0].running is True
    assert plan_activate(state.pools[0], state, host.snapshot, Memory()).is_empty


def test_notes_are_passed_on(store: Store) -> None:
    state = support.desired(engines=(support.engine(),))
    host = support.FakeHost(support.with_engine(support.snapshot(), support.docker(systemd=False)))
    result = run(host, store, lambda s, m: plan_apply(state, s, m))
    assert result.notes == ("docker is not running: start it when this is done.",)
