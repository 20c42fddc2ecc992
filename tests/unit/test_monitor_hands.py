"""The monitor's hands, on no host, and its part of the journal."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal

import pytest
import support
from msgspec.structs import replace
from test_conditions import BEFORE

from thinpoolmgr.core.journal import Began, Ended
from thinpoolmgr.core.steps import ExtendData, ExtendVolumeGroup, ResumeDevice, Step, TakeCharge
from thinpoolmgr.core.watch import STEPS
from thinpoolmgr.errors import CommandFailedError, LockedError, NeedsPersonError, RefusedError
from thinpoolmgr.host import dm, lvm, samedisk
from thinpoolmgr.host.lvm import LvmState
from thinpoolmgr.host.runner import CommandRunner, CompletedRun
from thinpoolmgr.host.standby import Standby
from thinpoolmgr.host.store import Store
from thinpoolmgr.monitor import hands, spare
from thinpoolmgr.monitor.hands import PoolHost, PoolStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from thinpoolmgr.core.commands import Argv
    from thinpoolmgr.core.model import PhysicalVolume


def test_pools_share_the_lock_and_nobody_else_does(tmp_path: Path) -> None:
    one, two = (PoolStore(name, tmp_path, tmp_path / "lock") for name in ("a", "b"))
    with one.lock("monitor"), two.lock("monitor"), pytest.raises(LockedError):
        Store(tmp_path, tmp_path / "lock").lock("apply").__enter__()


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
    ran.clear()
    monkeypatch.setattr(host, "_groups", support.healthy().groups)
    monkeypatch.setattr(samedisk, "require_same_disk", lambda _disk: None)
    monkeypatch.setattr(CommandRunner, "run", lambda _self, argv: CompletedRun(argv, 0, "", "", 0.0))
    host.spare = "/dev/sdc"
    for step in (BEFORE[ExtendData][0], BEFORE[ResumeDevice][0], BEFORE[ExtendVolumeGroup][0]):
        host.perform(step)
    assert [(argv[0], any("global_filter" in word for word in argv)) for argv in ran] == [
        ("lvextend", True),
        ("dmsetup", False),
        ("dmsetup", False),
        ("vgextend", True),
    ]
    assert '"a|^/dev/sdb$|","a|^/dev/sdc$|","r|.*|"' in ran[-1][2]
    # Hints would tell others of a group without its new disk, a devices file hide it for good.
    assert "hints" not in ran[-1][2]
    assert "use_devicesfile" not in ran[-1][2]


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
    def host(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[PoolHost]:
        shot = support.healthy()
        device = next(device for device in shot.dm_devices if device.pool_status)
        self.asked = 0
        self.read: list[tuple[str, ...]] = []
        self.is_twice = self.hides_own = False
        self.udev_s: tuple[str, ...] = ("/dev/sdb",)
        self.trouble: tuple[str, ...] = ()
        self.others_answer = threading.Event()
        self.others_answer.set()
        self.groups = shot.groups
        self.mark: object = (("/dev/sdb", b"1"),)
        self.time = 100.0

        def read_lvm(_run: object, group: str, disks: Sequence[str] = ()) -> LvmState:
            assert group == "docker"
            self.asked += 1
            self.read.append(tuple(disks))
            if not disks:
                self.others_answer.wait()
            groups = tuple(replace(group, pvs=seen_on(group.pvs, disks)) for group in self.groups)
            groups = () if disks and self.hides_own else groups
            return LvmState(groups, trouble=self.trouble)

        def seen_on(pvs: tuple[PhysicalVolume, ...], disks: Sequence[str]) -> tuple[PhysicalVolume, ...]:
            if disks:
                return tuple(replace(pv, missing=pv.missing or pv.path not in disks) for pv in pvs)
            return tuple(replace(pv, duplicate=pv.duplicate or self.is_twice) for pv in pvs)

        monkeypatch.setattr(lvm, "read_lvm", read_lvm)
        monkeypatch.setattr(hands, "lvm_disks", lambda uuids: self.udev_s if uuids else ())
        monkeypatch.setattr(hands, "group_mark", lambda paths: self.mark if list(paths) else None)
        monkeypatch.setattr(PoolHost, "seconds", lambda _self: self.time)
        monkeypatch.setattr(PoolHost, "_find_device", lambda _self: device)
        monkeypatch.setattr(PoolHost, "_parts", lambda _self, _device: ())
        host = PoolHost(support.pool(), Standby())
        yield host
        self.others_answer.set()
        if host._asking:
            host._asking.join()

    def look(self, host: PoolHost, times: int = 1, after: float = 0.25) -> int:
        for _ in range(times):
            self.time += after
            host.view()
            if host._asking and self.others_answer.is_set():
                host._asking.join()
        return self.asked

    def test_once_and_then_only_when_the_metadata_change(self, host: PoolHost) -> None:
        # the second time makes sure that nothing changed while it was asked first; then by the thread of each minute
        assert self.look(host, 20) == 3
        self.mark = (("/dev/sdb", b"2"),)
        assert self.look(host, 1) == 4
        self.look(host, 8)
        settled = self.asked
        assert settled <= 5
        assert self.look(host, 20) == settled

    def test_of_its_own_disks_once_they_are_known(self, host: PoolHost) -> None:
        self.look(host, 20)
        assert self.read == [(), ("/dev/sdb",), ("/dev/sdb",)]
        (group,) = self.groups
        self.groups = (replace(group, pvs=(*group.pvs, replace(group.pvs[0], path="/dev/sdc", uuid="new"))),)
        self.mark = (("/dev/sdb", b"2"),)
        self.look(host)
        assert self.read[3:] == [("/dev/sdb",), ()]
        assert host.observe().groups == self.groups
        assert host._own_disks() == ("/dev/sdb", "/dev/sdc")

    def test_of_a_spare_disk_too_while_that_is_taken(self, host: PoolHost, monkeypatch: pytest.MonkeyPatch) -> None:
        self.look(host, 20)
        monkeypatch.setattr(spare, "with_spare", lambda seen, _pool, path, _run: replace(seen, boot_id=path))
        monkeypatch.setattr(CommandRunner, "change", lambda _self, _argv: None)
        monkeypatch.setattr(CommandRunner, "run", lambda _self, argv: CompletedRun(argv, 0, "", "", 0.0))
        monkeypatch.setattr(samedisk, "require_same_disk", lambda _disk: None)
        host.spare = "/dev/sdc"
        assert host.observe().boot_id == "/dev/sdc"
        (group,) = self.groups
        self.groups = (replace(group, pvs=(*group.pvs, replace(group.pvs[0], path="/dev/sdc", uuid="new"))),)
        self.mark = (("/dev/sdb", b"2"),)
        host.perform(BEFORE[ExtendVolumeGroup][0])
        assert host.observe().groups == self.groups
        host.spare = ""
        self.look(host, 8)
        # No other disk of the host is waited for, then or later.
        assert self.read.count(()) == 1
        assert self.read[-1] == ("/dev/sdb", "/dev/sdc")

    def test_of_all_disks_where_those_are_not_all_to_lvm(self, host: PoolHost) -> None:
        self.hides_own = True
        self.look(host, 20)
        assert self.read[-1] == ()
        assert host.observe().groups == self.groups
        assert host._own_disks() == ()
        settled = len(self.read)
        self.look(host, 20)
        assert len(self.read) == settled

    def test_of_what_the_kernel_has_the_pool_on_at_first(self, host: PoolHost, monkeypatch: pytest.MonkeyPatch) -> None:
        (part,) = (device for device in support.healthy().dm_devices if device.name.endswith("_tdata"))
        monkeypatch.setattr(PoolHost, "_parts", lambda _self, _device: (replace(part, depends_on=("8:16",)),))
        monkeypatch.setattr(hands, "_node_of", {"8:16": "/dev/sdb"}.get)
        self.look(host, 20)
        assert self.read == [("/dev/sdb",)] * 3
        assert host.observe().groups == self.groups

    def test_of_all_disks_where_the_kernel_s_are_not_all(self, host: PoolHost, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(PoolHost, "_disks_below", lambda _self, _device: ("/dev/sda",))
        self.look(host)
        assert self.read == [("/dev/sda",), ()]
        assert host.observe().groups == self.groups

    def test_that_a_disk_is_there_twice_is_seen_within_a_minute(self, host: PoolHost) -> None:
        self.look(host, 20)
        self.is_twice = True
        self.udev_s = ("/dev/sdb", "/dev/sdx")
        assert not host.observe().groups[0].pvs[0].duplicate
        self.look(host, 2, after=60.0)
        assert host.observe().groups[0].pvs[0].duplicate
        self.is_twice = False
        self.udev_s = ("/dev/sdb",)
        self.look(host, 2, after=2.0)
        assert host.observe().groups == self.groups

    def test_another_name_of_its_disk_is_no_second_disk(self, host: PoolHost, tmp_path: Path) -> None:
        link = tmp_path / "link"
        link.symlink_to("/dev/sdb")
        self.udev_s = (str(link),)
        self.look(host, 20)
        self.look(host, 3, after=60.0)
        assert set(self.read) == {(), ("/dev/sdb",)}
        assert self.read.count(()) == 1

    def test_who_watches_the_pool_is_seen_within_a_minute(self, host: PoolHost) -> None:
        self.look(host, 20)
        (group,) = self.groups
        self.groups = (replace(group, lvs=tuple(replace(lv, monitored=True) for lv in group.lvs)),)
        self.look(host, 2, after=60.0)
        assert host.observe().groups == self.groups

    def test_whose_event_it_was(self, host: PoolHost, monkeypatch: pytest.MonkeyPatch) -> None:
        numbers = {"docker-thinpool": 7}
        monkeypatch.setattr(dm, "event_number", lambda name: numbers[name])
        assert not host.has_event()
        self.look(host)
        assert [host.has_event() for _ in range(2)] == [True, False]
        numbers["docker-thinpool"] = 8
        assert [host.has_event() for _ in range(2)] == [True, False]

        def gone(_name: str) -> int:
            raise CommandFailedError("no such device", "")

        monkeypatch.setattr(dm, "event_number", gone)
        assert host.has_event()

    def test_who_watches_a_pool_that_was_activated_is_seen_within_seconds(
        self, host: PoolHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.look(host, 20)
        find = PoolHost._find_device
        monkeypatch.setattr(PoolHost, "_find_device", lambda _self: None)
        self.look(host, 4)
        monkeypatch.setattr(PoolHost, "_find_device", find)
        self.look(host, 4)
        (group,) = self.groups
        self.groups = (replace(group, lvs=tuple(replace(lv, monitored=True) for lv in group.lvs)),)
        self.look(host, 2, after=3.0)
        assert host.observe().groups == self.groups

    def test_a_disk_of_another_group_that_hangs_holds_nothing_up(self, host: PoolHost) -> None:
        self.look(host, 20)
        self.others_answer.clear()
        self.look(host, 3, after=60.0)
        self.mark = (("/dev/sdb", b"2"),)
        self.look(host)
        assert set(self.read[1:]) == {("/dev/sdb",)}
        self.others_answer.set()

    def test_whether_a_device_that_went_left_a_pool_behind(
        self, host: PoolHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.look(host, 20)
        settled = self.asked
        monkeypatch.setattr(PoolHost, "_find_device", lambda _self: None)
        assert host.view().state == "inactive"
        assert self.look(host, 20) <= settled + 2
        # of its own disks only
        assert self.read.count(()) == 1
        self.groups, self.mark = (), (("/dev/sdb", b"9"),)
        settled = self.look(host)
        assert host.view().state == "absent"
        assert self.look(host, 20, after=60.0) == settled

    def test_never_about_a_pool_that_was_never_seen(self, host: PoolHost, monkeypatch: pytest.MonkeyPatch) -> None:
        # It would have to read all disks, and one that hangs would keep it from the pool when that is activated.
        monkeypatch.setattr(PoolHost, "_find_device", lambda _self: None)
        assert (host.view().state, self.look(host, 20)) == ("absent", 0)

    def test_what_lvm_complained_of_is_forgotten_with_the_pool(
        self, host: PoolHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.trouble = ("read failed",)
        self.look(host)
        assert host.observe().lvm_trouble
        self.groups = ()
        monkeypatch.setattr(PoolHost, "_find_device", lambda _self: None)
        self.look(host)
        assert host.view().state == "absent"

    def test_after_each_step_of_its_own(self, host: PoolHost, monkeypatch: pytest.MonkeyPatch) -> None:
        self.look(host, 20)
        monkeypatch.setattr(CommandRunner, "change", lambda _self, _argv: None)
        host.perform(BEFORE[TakeCharge][0])
        assert self.look(host) == 4

    def test_once_a_minute_for_what_the_mark_does_not_tell(self, host: PoolHost) -> None:
        settled = self.look(host, 20)
        assert self.look(host, 1, after=50.0) == settled
        assert self.look(host, 1, after=20.0) == settled + 1
        assert self.look(host, 1, after=50.0) <= settled + 2

    def test_not_while_what_stands_by_is_used(self, host: PoolHost) -> None:
        settled = self.look(host, 20)
        host._standby._is_used = True
        assert self.look(host, 1, after=70.0) == settled
        host._standby._is_used = False
        assert self.look(host, 1) == settled + 1

    @pytest.mark.parametrize("trouble", ["missing", "duplicate"])
    def test_again_and_again_while_a_disk_is_missing_or_there_twice(self, host: PoolHost, trouble: str) -> None:
        (group,) = self.groups
        self.groups = (replace(group, pvs=(replace(group.pvs[0], **{trouble: True}),)),)
        assert self.look(host, 4) <= 2
        self.groups = (group,)
        self.look(host, 1, after=2.0)
        assert host.observe().groups == (group,)

    def test_less_and_less_often_while_a_disk_stays_away_and_soon_when_something_happens(self, host: PoolHost) -> None:
        (group,) = self.groups
        self.groups = (replace(group, pvs=(replace(group.pvs[0], missing=True),)),)
        # ten of these by the thread of each minute
        assert self.look(host, 600, after=1.0) <= 26
        self.groups = (group,)
        host.heed()
        self.look(host, 1, after=2.0)
        assert host.observe().groups == (group,)
        self.look(host, 2, after=2.0)
        assert host._unsure_seconds == hands._UNSURE_SECONDS

    @pytest.mark.parametrize("each_second", [1, 4])
    def test_not_more_often_where_one_event_follows_the_other(self, host: PoolHost, each_second: int) -> None:
        (group,) = self.groups
        self.groups = (replace(group, pvs=(replace(group.pvs[0], missing=True),)),)
        for _ in range(600 * each_second):
            host.heed()
            self.look(host, after=1 / each_second)
        # every 1.5 s would be 400
        assert self.asked <= 400

    def test_soon_whether_a_pool_whose_device_went_is_gone(
        self, host: PoolHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (group,) = self.groups
        self.groups = (replace(group, pvs=(replace(group.pvs[0], missing=True),)),)
        self.look(host, 4)
        monkeypatch.setattr(PoolHost, "_find_device", lambda _self: None)
        self.look(host, 4)
        self.groups = ()
        host.heed()
        self.look(host, 2, after=2.0)
        assert host.view().state == "absent"

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


def test_who_has_to_wait_for_a_lock_leaves_what_stands_by_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []

    class Ready(Standby):
        def run(self, argv: Argv) -> CompletedRun | None:
            used.append("stands by")
            return CompletedRun(tuple(argv), 0, "", "", 0.1)

    def start(_self: CommandRunner, argv: Argv, *_: object) -> CompletedRun:
        used.append("started")
        return CompletedRun(tuple(argv), 0, "", "", 0.1)

    monkeypatch.setattr(CommandRunner, "_run", start)
    monkeypatch.setattr(hands, "lvm_disks", lambda _uuids: ())
    host = PoolHost(support.pool(), Ready())
    for is_locked in (True, False):
        monkeypatch.setattr(lvm, "is_group_locked", lambda _group, is_locked=is_locked: is_locked)
        host.perform(BEFORE[ExtendData][0])
        # All else, too, unless all disks are read for it: a process has the group's lock for longer.
        for groups in (support.healthy().groups, ()):
            monkeypatch.setattr(host, "_groups", groups)
            host._not_enough = ()
            host._compare()
            # It tells nothing, of its own disks first and then of all.
            host._read_group(None)
    assert used == [*["started"] * 6, *["stands by"] * 3, *["started"] * 3]
    monkeypatch.setattr(host, "_own_disks", lambda: ("/dev/sdb", "/dev/sdc"))
    host.spare = "/dev/sdc"
    host._read_group(None)
    assert used[12:] == ["started"] * 2
