"""The monitor's watch on the in-memory host, its hands on none, and what its threads tell each other."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pytest
import support
from msgspec.structs import replace
from test_conditions import BEFORE

from thinpoolmgr.core.guards import disk_ref
from thinpoolmgr.core.journal import Began, Ended
from thinpoolmgr.core.lifecycle import view_pool
from thinpoolmgr.core.model import Signature
from thinpoolmgr.core.plan import Request
from thinpoolmgr.core.report import MonitorReport, Sighting, WatchedPool, decode_report
from thinpoolmgr.core.steps import ExtendData, ExtendMetadata, ExtendVolumeGroup, Step, TakeCharge
from thinpoolmgr.core.watch import STEPS
from thinpoolmgr.errors import CommandFailedError, ConfigError, LockedError, NeedsPersonError, RefusedError
from thinpoolmgr.host import journald, lvm
from thinpoolmgr.host.lvm import LvmState
from thinpoolmgr.host.runner import CommandRunner, CompletedRun
from thinpoolmgr.host.standby import Standby
from thinpoolmgr.host.store import Store
from thinpoolmgr.monitor import hands
from thinpoolmgr.monitor.board import Bell, Board
from thinpoolmgr.monitor.hands import PoolHost, PoolStore
from thinpoolmgr.monitor.seam import Event
from thinpoolmgr.monitor.telling import tell, told_config_problem
from thinpoolmgr.monitor.watch import PoolWatch
from thinpoolmgr.sim.changes import suspend, take_charge
from thinpoolmgr.sim.faults import Fails, Lies
from thinpoolmgr.sim.host import SimulatedHost

if TYPE_CHECKING:
    from pathlib import Path

    from thinpoolmgr.core.commands import Argv
    from thinpoolmgr.core.desired import DesiredPool
    from thinpoolmgr.core.lifecycle import PoolView
    from thinpoolmgr.core.model import Snapshot

TOTAL = 19456
SPARE = "/dev/sdd"


class PoolInMemory(SimulatedHost):
    """The in-memory host as a watch sees it."""

    reads_all = False
    locked = False
    time = 1000.0
    stands_by = False
    spares: tuple[str, ...] = ()

    def __init__(self, pool: DesiredPool, snapshot: Snapshot) -> None:
        super().__init__(snapshot)
        self._pool = pool

    @property
    def mark(self) -> tuple[tuple[str, bytes], ...]:
        return (("disk", repr(self.snapshot.groups).encode()),)

    def view(self) -> PoolView:
        return view_pool(self._pool, self.observe())

    def is_changed_by_others(self) -> bool:
        return self.locked

    def seconds(self) -> float:
        return self.time

    def spare_paths(self) -> tuple[str, ...]:
        return self.spares

    def stand_by(self, *, is_near: bool) -> None:
        self.stands_by = is_near

    def perform(self, step: Step) -> None:
        super().perform(step)
        if isinstance(step, ExtendData | ExtendMetadata):
            # the mark goes with each of its commands
            mark = TakeCharge(reason="r", group=step.group, lv=step.lv, threshold_percent=80)
            self.snapshot = take_charge(self.snapshot, mark)


class Lab:
    """One watch, its clock and its host."""

    def __init__(self, folder: Path, snapshot: Snapshot, pool: DesiredPool | None = None) -> None:
        self.pool = pool or support.pool()
        self.host = PoolInMemory(self.pool, snapshot)
        self.folder, self.lock_file = folder / "state", folder / "lock"
        self.told: list[Event] = []
        self.board = Board()
        store = PoolStore(self.pool.name, self.folder, self.lock_file)
        self.watch = PoolWatch(self.pool, self.board, self.told.append, self.host, store)

    def use(self, data: float = 0.1, metadata: float = 0.1, **changes: Any) -> None:
        (device,) = (d for d in self.host.snapshot.dm_devices if d.pool_status)
        assert device.pool_status is not None
        total = device.pool_status
        self.host.snapshot = support.with_status(
            self.host.snapshot,
            used_data_blocks=int(data * total.total_data_blocks),
            used_metadata_blocks=int(metadata * total.total_metadata_blocks),
            **changes,
        )

    def look(self, times: int = 1, after: float = 1.0) -> float:
        wait = 0.0
        for _ in range(times):
            self.host.time += after
            wait = self.watch.look()
        return wait

    @property
    def word(self) -> WatchedPool:
        (word,) = self.board.read()
        return word

    def codes(self) -> list[str]:
        return [found.code for found in self.word.findings]

    def did(self) -> list[type[Step]]:
        return [type(step) for step in self.host.took_effect]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, with_room(support.healthy()))


def with_disk(shot: Snapshot, path: str = "/dev/sdc") -> Snapshot:
    return support.with_free_disk(shot, support.disk(path))


def with_room(shot: Snapshot) -> Snapshot:
    """Put a second disk into the group."""
    shot = with_disk(shot)
    disk = shot.find_disk("/dev/sdc")
    assert disk is not None
    return support.apply_step(shot, ExtendVolumeGroup(reason="r", group="docker", disks=(disk_ref(disk),)))


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


def test_the_larger_reserve_of_more_metadata_is_no_filling(lab: Lab) -> None:
    lab.use(0.2)
    lab.look(3)
    lab.use(0.2, 0.85)
    lab.look(4)
    assert lab.word.metadata_bytes_per_second == 0.0
    assert lab.word.extensions_done == 1


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


def test_a_pool_at_its_limit_is_told_of(tmp_path: Path) -> None:
    pool = support.pool()
    extend = replace(pool.config.extend, max_size="1GiB")
    lab = Lab(tmp_path, with_room(support.healthy()), replace(pool, config=replace(pool.config, extend=extend)))
    lab.use(0.9)
    lab.watch.look()
    assert (lab.codes(), ExtendData in lab.did()) == (["EXTENSION_AT_LIMIT"], False)


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
    lab.look()
    assert lab.codes() == []


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
        assert lab.codes() == ["EXTENSION_FAILED"]
        assert "waits for another run of thinpoolmgr" in lab.word.findings[0].summary
        assert "apply" in lab.word.findings[0].summary
        assert len(lab.told) == told + 1
    lab.look(2)
    assert (lab.word.extensions_done, lab.codes()) == (1, [])


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
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.use(0.2)
    lab.look()
    lab.use(0.2, 0.9)
    monkeypatch.setattr("thinpoolmgr.monitor.watch.extension_request", lambda _view, _growth: None)
    lab.look()
    assert lab.codes() == ["EXTENSION_AT_LIMIT"]
    assert lab.word.findings[0].summary.endswith("dm-thin knows no larger metadata")


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
    lab.host.observe = lambda: looks.append(lab.host.reads_all) or observe()  # type: ignore[func-returns-value, method-assign]
    lab.look(20, after=0.04)
    assert looks.count(True) <= 2
    assert lab.codes() == ["EXTENSION_NO_ROOM"]


def test_pools_share_the_lock_and_nobody_else_does(tmp_path: Path) -> None:
    one, two = (PoolStore(name, tmp_path, tmp_path / "lock") for name in ("a", "b"))
    with one.lock("monitor"), two.lock("monitor"), pytest.raises(LockedError):
        Store(tmp_path, tmp_path / "lock").lock("apply").__enter__()


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


def test_runs_of_other_pools_that_are_under_way_are_none_of_its_business(tmp_path: Path) -> None:
    step = replace(BEFORE[ExtendData][0], pool="other", id="01")
    store = PoolStore("docker", tmp_path, tmp_path / "lock")
    for command, outcome in (("apply", None), ("monitor", None), ("apply", "done"), ("monitor", "done")):
        _, run_file = store.new_run(command)
        run_file.append(Began("r", command, "t", (step,)))
        if outcome:
            run_file.append(Ended("done", "t"))
        run_file.close()
    assert len(Store(tmp_path, tmp_path / "lock").read_runs()) == 4
    assert [(run.began.command, run.outcome) for _, run in store.read_runs()] == [("apply", "done")]


def test_old_runs_of_its_own_are_forgotten(tmp_path: Path) -> None:
    store = PoolStore("docker", tmp_path, tmp_path / "lock")
    step = replace(BEFORE[ExtendData][0], pool="docker", id="01")
    for command in ["apply", *["monitor"] * 60]:
        _, run_file = store.new_run(command)
        run_file.append(Began("r", command, "t", (step,)))
        run_file.append(Ended("done", "t"))
        run_file.close()
    store.forget_old_runs()
    commands = [run.began.command for _, run in store.read_runs()]
    assert (commands.count("apply"), commands.count("monitor")) == (1, 50)


def test_failed_runs_are_forgotten_too_and_one_that_was_killed_is_not(tmp_path: Path) -> None:
    store = PoolStore("docker", tmp_path, tmp_path / "lock")
    step = replace(BEFORE[ExtendData][0], pool="docker", id="01")
    outcomes: list[Literal["failed"] | None] = [None]
    outcomes += ["failed"] * 60
    for outcome in outcomes:
        _, run_file = store.new_run("monitor")
        run_file.append(Began("r", "monitor", "t", (step,)))
        if outcome:
            run_file.append(Ended(outcome, "t"))
        run_file.close()
    store.forget_old_runs()
    assert [run.outcome for _, run in store.read_runs()] == [None, *["failed"] * 50]


@pytest.mark.parametrize(("pool", "stops"), [("other", False), ("docker", True)])
def test_only_a_damaged_run_of_its_own_stops_a_pool(tmp_path: Path, pool: str, *, stops: bool) -> None:
    store = PoolStore("docker", tmp_path, tmp_path / "lock")
    _, run_file = store.new_run("apply")
    run_file.append(Began("r", "apply", "t", (replace(BEFORE[ExtendData][0], pool=pool, id="01"),)))
    run_file.close()
    with run_file.path.open("ab") as file:
        file.write(b"damaged\nand more\n")
    if stops:
        with pytest.raises(NeedsPersonError):
            store.read_runs()
    else:
        assert store.read_runs() == []
    with pytest.raises(NeedsPersonError):
        Store(tmp_path, tmp_path / "lock").read_runs()


def test_a_file_of_which_nothing_can_be_read_stops_every_pool(tmp_path: Path) -> None:
    store = PoolStore("docker", tmp_path, tmp_path / "lock")
    _, run_file = store.new_run("apply")
    run_file.close()
    run_file.path.write_bytes(b"damaged\nand more\n")
    with pytest.raises(NeedsPersonError):
        store.read_runs()


def test_what_has_ended_well_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PoolStore("docker", tmp_path, tmp_path / "lock")
    for pool in ("docker", "other"):
        _, run_file = store.new_run("monitor")
        run_file.append(Began("r", "monitor", "t", (replace(BEFORE[ExtendData][0], pool=pool, id="01"),)))
        run_file.append(Ended("done", "t"))
        run_file.close()
    before = store.read_runs()
    assert [[step.pool for step in run.began.steps] for _, run in before] == [["docker"]]
    monkeypatch.setattr(type(tmp_path), "read_bytes", None)
    assert store.read_runs() == before


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


@pytest.mark.parametrize("kind", [kind for kind in BEFORE if not issubclass(kind, STEPS)])
def test_its_hands_take_no_other_step(kind: type[Step], monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[object] = []
    monkeypatch.setattr(CommandRunner, "_run", lambda *args: ran.append(args))
    host = PoolHost(support.pool(), Standby())
    with pytest.raises(RefusedError, match="does not carry out"):
        host.perform(BEFORE[kind][0])
    assert ran == []


def test_its_commands_keep_dmeventd_away_and_the_mark_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(CommandRunner, "change", lambda _self, argv: ran.append(argv))
    host = PoolHost(support.pool(), Standby())
    for kind in (ExtendData, TakeCharge):
        host.perform(BEFORE[kind][0])
    settings = ("--config", "activation{monitoring=0 udev_sync=0 thin_pool_autoextend_threshold=80}")
    assert ran == [
        ("lvextend", *settings, "--extents", "2500", "docker/thinpool"),
        ("lvchange", "--monitor", "n", "docker/thinpool"),
        ("lvchange", *settings, "--refresh", "docker/thinpool"),
    ]


def test_a_spare_that_is_in_the_group_by_another_name_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, other = tmp_path / "disk", tmp_path / "other"
    for path in (disk, other):
        path.touch()
    link = tmp_path / "link"
    link.symlink_to(disk)
    host = PoolHost(support.pool(extend={}, spare_devices=[str(link), str(other), str(tmp_path / "none")]), Standby())
    assert host.spare_paths() == (str(link), str(other))
    (group,) = support.healthy().groups
    monkeypatch.setattr(host, "_groups", (replace(group, pvs=(replace(group.pvs[0], path=str(disk)),)),))
    assert host.spare_paths() == (str(other),)


class TestWhenLvmIsAsked:
    """`PoolHost` with the kernel's and LVM's answers put in."""

    @pytest.fixture
    def host(self, monkeypatch: pytest.MonkeyPatch) -> PoolHost:
        shot = support.healthy()
        device = next(device for device in shot.dm_devices if device.pool_status)
        self.asked = 0
        self.groups = shot.groups
        self.mark: object = (("/dev/sdb", b"1"),)
        self.time = 100.0

        def read_lvm(_run: object, group: str) -> LvmState:
            assert group == "docker"
            self.asked += 1
            return LvmState(self.groups)

        monkeypatch.setattr(lvm, "read_lvm", read_lvm)
        monkeypatch.setattr(hands, "group_mark", lambda paths: self.mark if list(paths) else None)
        monkeypatch.setattr(PoolHost, "seconds", lambda _self: self.time)
        monkeypatch.setattr(PoolHost, "_find_device", lambda _self: device)
        monkeypatch.setattr(PoolHost, "_parts", lambda _self, _device: ())
        return PoolHost(support.pool(), Standby())

    def look(self, host: PoolHost, times: int = 1, after: float = 0.25) -> int:
        for _ in range(times):
            self.time += after
            host.view()
        return self.asked

    def test_once_and_then_only_when_the_metadata_change(self, host: PoolHost) -> None:
        # the second time makes sure that nothing changed while it was asked first
        assert self.look(host, 20) == 2
        self.mark = (("/dev/sdb", b"2"),)
        assert self.look(host, 1) == 3
        self.look(host, 8)
        settled = self.asked
        assert settled <= 4
        assert self.look(host, 20) == settled

    def test_after_each_step_of_its_own(self, host: PoolHost, monkeypatch: pytest.MonkeyPatch) -> None:
        self.look(host, 20)
        monkeypatch.setattr(CommandRunner, "change", lambda _self, _argv: None)
        host.perform(BEFORE[TakeCharge][0])
        assert self.look(host) == 3

    def test_once_a_minute_for_what_the_mark_does_not_tell(self, host: PoolHost) -> None:
        settled = self.look(host, 20)
        assert self.look(host, 1, after=50.0) == settled
        assert self.look(host, 1, after=20.0) == settled + 1
        assert self.look(host, 1, after=50.0) <= settled + 2

    @pytest.mark.parametrize("trouble", ["missing", "duplicate"])
    def test_again_and_again_while_a_disk_is_missing_or_there_twice(self, host: PoolHost, trouble: str) -> None:
        (group,) = self.groups
        self.groups = (replace(group, pvs=(replace(group.pvs[0], **{trouble: True}),)),)
        assert self.look(host, 4) <= 2
        self.groups = (group,)
        self.look(host, 1, after=2.0)
        assert host.observe().groups == (group,)

    def test_seldom_where_a_disk_cannot_be_read_or_lvm_lists_no_group(self, host: PoolHost) -> None:
        self.mark = None
        assert self.look(host, 12) <= 3
        self.groups = ()
        before = self.asked
        assert self.look(host, 12) <= before + 3
        assert self.look(host, 1, after=5.0) > before


@pytest.mark.parametrize("code", [0, 5])
def test_a_pool_is_extended_by_the_lvm_that_stands_by(code: int) -> None:
    class Ready(Standby):
        def run(self, argv: Argv) -> CompletedRun | None:
            return CompletedRun(tuple(argv), code, "", "Insufficient free space", 0.1)

    host = PoolHost(support.pool(), Ready())
    if code == 0:
        host.perform(BEFORE[ExtendData][0])
        (line,) = host.recent_commands
        assert line.startswith("lvextend --config")
    else:
        with pytest.raises(CommandFailedError) as caught:
            host.perform(BEFORE[ExtendData][0])
        assert "Insufficient free space" in caught.value.details


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
