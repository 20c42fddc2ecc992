"""A host's life in any order: runs, faults, drift, disks that come and go. It always ends well, or says why not."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import drift
import support
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace
from play import ALL, Quiet
from watched import GROUP, OURS, POOL, STRANGERS, THEIRS, THIRD, WatchedHost

from thinpoolmgr.core.journal import remember, unfinished_runs
from thinpoolmgr.core.names import OUR_TAG, live_pool_device
from thinpoolmgr.core.plan import Request
from thinpoolmgr.core.requests import desired_for, plan_for
from thinpoolmgr.core.steps import CreateThinPool, CreateVolumeGroup, RemoveThinPool, RemoveVolumeGroup
from thinpoolmgr.cycle import RunError, carry_out
from thinpoolmgr.errors import ThinpoolmgrError
from thinpoolmgr.host.store import Store
from thinpoolmgr.sim import events
from thinpoolmgr.sim.consistency import check_consistent
from thinpoolmgr.sim.faults import (
    DiskReturns,
    DiskVanishes,
    Fails,
    Fault,
    Hangs,
    Killed,
    Left,
    Lies,
    LvmReportsLess,
    PowerCut,
    PowerCutError,
)
from thinpoolmgr.sim.steps import apply_step, make_group
from thinpoolmgr.units import MIB, ceil_to, parse_size

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Disk, LogicalVolume, Snapshot, VolumeGroup
    from thinpoolmgr.core.plan import Memory, Plan

APPLY, DESTROY, REBUILD, ADOPT = Request("apply"), *(Request(word, GROUP) for word in ("destroy", "rebuild", "adopt"))
EXTENSIONS = (
    Request("extend", GROUP, add_data="+64MiB"),
    Request("extend", GROUP, add_metadata="+8MiB"),
    Request("extend", GROUP, add_data="+1GiB", add_devices=(THIRD,)),
)
REQUESTS = (
    APPLY,
    DESTROY,
    REBUILD,
    ADOPT,
    *EXTENSIONS,
    Request("activate", GROUP),
    Request("deactivate", GROUP),
    Request("clean"),
    Request("clean", purge=True),
)
ASKED = st.one_of(st.sampled_from((APPLY, DESTROY, *EXTENSIONS)), st.sampled_from(REQUESTS))
LEFTS: tuple[Left, ...] = ("first", "second", "third", "components", "labels")
LEFT = st.sampled_from(LEFTS)
WHEN = st.sampled_from(("before", "inside", "after"))
FAULTS = st.one_of(
    st.builds(Fails, WHEN, LEFT),
    st.builds(Hangs, WHEN, LEFT),
    st.builds(Killed, WHEN, LEFT),
    st.builds(PowerCut, WHEN, LEFT),
    st.just(Lies()),
    st.builds(DiskVanishes, st.sampled_from(OURS)),
    st.builds(DiskReturns, st.sampled_from(OURS)),
    st.just(LvmReportsLess(GROUP)),
)
CUTS = st.builds(
    lambda kind, left: kind("inside", left), st.sampled_from((Fails, Hangs, Killed)), st.sampled_from(LEFTS[:3])
)
CONFIGS = st.fixed_dictionaries(
    {
        "data_size": st.sampled_from(("1GiB", "2GiB", "40%VG", "60%VG", "100%FREE")),
        "metadata_size": st.sampled_from(("auto", "12MiB", "20MiB")),
        "when_full": st.sampled_from(("queue", "error")),
        "discards": st.sampled_from(("passdown", "nopassdown", "ignore")),
        "zero_new_blocks": st.booleans(),
        "extend": st.sampled_from(({"monitor": "thinpoolmgr"}, {"monitor": "dmeventd"})),
        "devices": st.sampled_from((OURS, OURS[:1])),
    }
)
EXAMPLES = int(os.environ.get("LIFECYCLE_EXAMPLES", "300"))
"""How many lives: 300 take about a minute on one slow core."""
RUNS_UNTIL_DONE = 2
CODE = re.compile(r"[A-Z][A-Z_]+")
ONLY_ANEW = {"SETTING_DIFFERS", "DOES_NOT_FIT"}
"""What only another configuration settles, or a pool that is made anew."""


def short(request: Request) -> str:
    """Return what was asked for, for the log."""
    return f"{request.command} {request.add_data} {request.add_metadata} {' '.join(request.add_devices)}".strip()


class Life(RuleBasedStateMachine):
    """One host, one journal."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="thinpoolmgr-life-"))
        self.journals = 0
        self.log: list[str] = []
        self.forgotten: set[str] = set()
        self.sizes: dict[str, tuple[int, int]] = {}
        self.forget_journal()

    def forget_journal(self) -> None:
        self.journals += 1
        self.store = Store(self.folder / str(self.journals), self.folder / "lock")

    @initialize(config=CONFIGS, running=st.booleans(), made=st.sampled_from((True, True, False)))
    def begin(self, config: dict[str, Any], running: bool, made: bool) -> None:  # noqa: FBT001 - Hypothesis draws
        shot = support.snapshot(*map(support.disk, (*OURS, THIRD, THEIRS)))
        shot = replace(shot, configured_devices=shot.configured_devices[:3])
        shot = events.add_volume(make_group(shot, STRANGERS, (THEIRS,)), STRANGERS, "data", 64 * MIB)
        self.host = WatchedHost(support.with_engine(shot, support.docker(running=running)))
        self.theirs = self.of_strangers()
        self.configure(config)
        if made:
            assert self.run(APPLY) == "done", self.log

    @rule(config=CONFIGS)
    def configure(self, config: dict[str, Any]) -> None:
        """Somebody writes another configuration."""
        self.desired = support.desired(support.pool(GROUP, **config), engines=(support.engine(),))
        self.log.append(str(config))

    def of_strangers(self) -> tuple[VolumeGroup | None, Disk]:
        """What others have on the host, without what a boot changes."""
        disk = self.host.snapshot.find_disk(THEIRS)
        assert disk is not None
        return self.host.snapshot.find_group(STRANGERS), replace(disk, holders=())

    def group(self) -> VolumeGroup | None:
        return self.host.snapshot.find_group(GROUP)

    def lv(self) -> LogicalVolume | None:
        group = self.group()
        lv = group.find_lv(POOL) if group else None
        return lv if lv and lv.is_thin_pool else None

    @rule(request=ASKED)
    def run_in_peace(self, request: Request) -> None:
        self.run(request)

    @rule()
    def resume(self) -> None:
        """Ask again for what the last unfinished run was asked for."""
        unfinished = unfinished_runs([run for _, run in self.store.read_runs()])
        if unfinished and unfinished[-1].began.request:
            self.run(unfinished[-1].began.request)

    def run(self, request: Request) -> str:
        desired = desired_for(request, self.desired)
        before, first = self.lv(), self.begun(request)

        def planner(snapshot: Snapshot, memory: Memory) -> Plan:
            return plan_for(request, desired, snapshot, memory, apply_step)

        try:
            outcome: str = carry_out(request.command, planner, self.host, self.store, Quiet(), ALL).outcome
        except PowerCutError:
            outcome = "died"
        except RunError as error:
            outcome = error.cause.code
            self.log.append(f"{error.cause.summary}; {error.cause.details}")
        except ThinpoolmgrError as error:
            outcome = error.code
        self.log.append(f"{short(request)}: {outcome}")
        assert outcome in {"done", "nothing", "died"} or (CODE.fullmatch(outcome) and outcome != "ERROR"), self.log
        if request.command in {"apply", "rebuild"} and outcome in {"done", "nothing"}:
            # A removal that was cut short, and then not wanted any more, may leave a label on a disk that no
            # configuration names: nobody's business from then on.
            self.forgotten |= {pv.path for pv in self.host.snapshot.orphan_pvs} & {THIRD}
        if request.command == "extend" and outcome in {"done", "nothing"} and before is not None:
            self.require_extended(request, before, first)
        return outcome

    def begun(self, request: Request) -> Request | None:
        """The request as it was when it was begun last, if that was interrupted."""
        runs = [run for _, run in self.store.read_runs()]
        memory = remember(runs, self.host.snapshot.boot_id)
        same = [begun for begun in memory.begun if begun.as_asked() == request.as_asked()]
        return same[-1] if same else None

    def require_extended(self, request: Request, before: LogicalVolume, first: Request | None) -> None:
        """An extension that was interrupted ends where it was to end when it was first begun."""
        now = self.lv()
        assert now is not None, self.log
        data = before.size_bytes + parse_size(request.add_data.lstrip("+")) if request.add_data else 0
        if first is not None:
            data = max(before.size_bytes, first.data_bytes)
        if request.add_data:
            assert now.size_bytes == ceil_to(data, 4 * MIB), self.log

    @rule(request=ASKED, fault=FAULTS, after=st.integers(0, 5))
    def run_with_fault(self, request: Request, fault: Fault, after: int) -> None:
        self.host.lay(fault, after)
        self.log.append(f"lay {fault} after {after}")
        self.run(request)
        self.host.faults.clear()

    @precondition(lambda self: self.lv())
    @rule(request=st.sampled_from((APPLY, *EXTENSIONS)), fault=CUTS, after=st.integers(0, 1))
    def cut_short(self, request: Request, fault: Fault, after: int) -> None:
        """What LVM leaves half done of a pool that exists."""
        self.run_with_fault(request, fault, after)

    @rule(path=st.sampled_from(OURS))
    def vanish(self, path: str) -> None:
        self.host.vanish(path)

    @rule(path=st.sampled_from(OURS))
    def bring_back(self, path: str) -> None:
        self.host.bring_back(path)

    @rule()
    def hide(self) -> None:
        self.host.hide(GROUP, "Error reading device /dev/sdb")

    @rule()
    def reboot(self) -> None:
        self.host.reboot()

    @precondition(lambda self: not unfinished_runs([run for _, run in self.store.read_runs()]))
    @rule()
    def lose_journal(self) -> None:
        """The machine's /var was made anew; an interrupted run that is forgotten is for a person."""
        self.forget_journal()

    @precondition(lambda self: self.group())
    @rule(what=st.sampled_from(sorted(drift.BY_HAND)))
    def change_by_hand(self, what: str) -> None:
        self.log.append(what)
        self.host.snapshot = drift.BY_HAND[what](self.host.snapshot, GROUP, POOL)

    @rule()
    def settle(self) -> None:
        """Once nothing goes wrong any more, it takes two runs, and a third changes nothing."""
        self.host.heal()
        self.log.append("healed")
        if not self.settle_tags():
            return
        outcomes = self.run_twice(APPLY)
        if set(outcomes) & ONLY_ANEW:
            assert len(set(outcomes)) == 1, self.log
            outcomes = self.run_twice(REBUILD)
        assert set(outcomes) <= {"done", "nothing"}, self.log
        assert self.run(APPLY) == "nothing", self.log
        assert self.is_running(), self.log

    def end(self) -> None:
        """What can be made can be unmade."""
        self.settle()
        if self.is_foreign():
            return
        assert set(self.run_twice(DESTROY)) <= {"done", "nothing"}, self.log
        assert self.run(DESTROY) == "nothing", self.log
        self.nothing_is_left()

    def run_twice(self, request: Request) -> list[str]:
        return [self.run(request) for _ in range(RUNS_UNTIL_DONE)]

    def settle_tags(self) -> bool:
        """A pool that lost its tags is ours again by the journal or by `adopt`; False: a person must judge."""
        if not self.is_foreign():
            return True
        outcomes = set(self.run_twice(APPLY))
        if outcomes == {"NEEDS_PERSON"}:
            # a step of ours that was interrupted in a group that is no longer ours
            return False
        if outcomes == {"POOL_FOREIGN"}:
            outcomes = set(self.run_twice(ADOPT))
            assert outcomes <= {"done", "nothing", "NOT_A_THIN_POOL", "GROUP_HAS_OTHER_LVS"}, self.log
        return not self.is_foreign()

    def nothing_is_left(self) -> None:
        shot = self.host.snapshot
        assert (self.group(), shot.lvm_profiles) == (None, ()), self.log
        ours = {*OURS, THIRD} - self.forgotten
        assert not ours & {pv.path for pv in shot.orphan_pvs}, self.log
        assert not [disk.path for disk in shot.disks if disk.path in ours and disk.signatures], self.log

    def is_foreign(self) -> bool:
        group, lv = self.group(), self.lv()
        return group is not None and (OUR_TAG not in group.tags or (lv is not None and OUR_TAG not in lv.tags))

    def is_running(self) -> bool:
        group, lv = self.group(), self.lv()
        return bool(group and lv and live_pool_device(group, lv.uuid, self.host.snapshot.dm_devices))

    @invariant()
    def strangers_are_left_alone(self) -> None:
        if hasattr(self, "theirs"):
            assert self.of_strangers() == self.theirs

    @invariant()
    def the_host_is_possible(self) -> None:
        if hasattr(self, "host"):
            assert check_consistent(self.host.snapshot) == []

    @invariant()
    def the_journal_can_be_read(self) -> None:
        for _, run in self.store.read_runs():
            assert set(run.done) <= set(run.doing)

    @invariant()
    def no_pool_gets_smaller(self) -> None:
        lv = self.lv() if hasattr(self, "host") else None
        if lv is not None:
            data, metadata = self.sizes.get(lv.uuid, (0, 0))
            assert lv.size_bytes >= data, self.log
            assert lv.metadata_bytes >= metadata, self.log
            self.sizes[lv.uuid] = lv.size_bytes, lv.metadata_bytes

    @invariant()
    def nothing_is_made_twice(self) -> None:
        there = {"group": 0, "pool": 0}
        for step in self.host.took_effect if hasattr(self, "host") else ():
            match step:
                case CreateVolumeGroup():
                    there["group"] += 1
                case CreateThinPool():
                    there["pool"] += 1
                case RemoveVolumeGroup():
                    there["group"] = 0
                case RemoveThinPool():
                    there["pool"] = 0
            assert max(there.values()) <= 1, self.log

    def teardown(self) -> None:
        if hasattr(self, "host"):
            self.end()
        shutil.rmtree(self.folder, ignore_errors=True)


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=12,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
