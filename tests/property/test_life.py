"""A host's life in any order: runs, faults, drift, disks that come and go. It always ends well, or says why not."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import support
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace
from play import ALL, Quiet

from thinpoolmgr.core.names import OUR_TAG, live_pool_device
from thinpoolmgr.core.planner import plan_activate, plan_apply
from thinpoolmgr.core.steps import (
    CreateThinPool,
    CreateVolumeGroup,
    RemoveThinPool,
    RemoveVolumeGroup,
    SetWhenFull,
    WipeSignatures,
)
from thinpoolmgr.core.teardown import plan_deactivate, plan_destroy
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
    Killed,
    Lies,
    LvmReportsLess,
    PowerCut,
    PowerCutError,
)
from thinpoolmgr.sim.host import SimulatedHost
from thinpoolmgr.sim.steps import apply_step, make_group
from thinpoolmgr.units import MIB

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredState
    from thinpoolmgr.core.model import Disk, Snapshot, VolumeGroup
    from thinpoolmgr.core.plan import Memory, Plan
    from thinpoolmgr.core.steps import Step

GROUP, POOL, STRANGERS = "docker", "thinpool", "precious"
OURS, THEIRS = ("/dev/sdb", "/dev/sdc"), "/dev/sdd"
COMMANDS = ("apply", "destroy", "activate", "deactivate")
LEFT = st.sampled_from(("first", "second", "third", "components", "labels"))
WHEN = st.sampled_from(("before", "inside", "after"))
FAULTS = st.one_of(
    st.builds(Fails, WHEN, LEFT),
    st.builds(Killed, WHEN, LEFT),
    st.builds(PowerCut, WHEN, LEFT),
    st.just(Lies()),
    st.builds(DiskVanishes, st.sampled_from(OURS)),
    st.builds(DiskReturns, st.sampled_from(OURS)),
    st.just(LvmReportsLess(GROUP)),
)
EXAMPLES = int(os.environ.get("LIFECYCLE_EXAMPLES", "300"))
"""How many lives: 300 take about a minute on one slow core."""
RUNS_UNTIL_DONE = 2


def plan_of(command: str, desired: DesiredState, snapshot: Snapshot, memory: Memory) -> Plan:
    """Return what `command` plans."""
    pool = desired.pools[0]
    match command:
        case "apply":
            return plan_apply(desired, snapshot, memory)
        case "destroy":
            return plan_destroy(pool, desired, snapshot, memory)
        case "activate":
            return plan_activate(pool, desired, snapshot, memory)
    return plan_deactivate(pool, desired, snapshot, memory)


class WatchedHost(SimulatedHost):
    """A host that is never asked to make what is there, or to wipe what somebody has."""

    def perform(self, step: Step) -> None:
        truth = self.snapshot
        group = truth.find_group(step.group) if isinstance(step, CreateVolumeGroup | CreateThinPool) else None
        if isinstance(step, CreateVolumeGroup):
            assert group is None, "a group that is there would be made again"
            assert not [d for d in self.away.values() if d.group and d.group.name == step.group], (
                "its disk may come back"
            )
        if isinstance(step, CreateThinPool) and group is not None:
            assert group.find_lv(step.lv) is None, "a pool that is there would be made again"
        if isinstance(step, WipeSignatures):
            assert not [pv for g in truth.groups for pv in g.pvs if pv.path == step.disk.path]
        super().perform(step)


class Life(RuleBasedStateMachine):
    """One host, one journal."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="thinpoolmgr-life-"))
        self.store = Store(self.folder, self.folder / "lock")
        self.log: list[str] = []

    @initialize(when_full=st.sampled_from(("queue", "error")), running=st.booleans())
    def begin(self, when_full: str, running: bool) -> None:  # noqa: FBT001 - drawn by Hypothesis
        shot = support.snapshot(*map(support.disk, (*OURS, THEIRS)))
        shot = replace(shot, configured_devices=shot.configured_devices[:2])
        shot = events.add_volume(make_group(shot, STRANGERS, (THEIRS,)), STRANGERS, "data", 64 * MIB)
        self.host = WatchedHost(support.with_engine(shot, support.docker(running=running)))
        pool = support.pool(GROUP, *OURS, when_full=when_full)
        self.desired = support.desired(pool, engines=(support.engine(),))
        self.theirs = self.of_strangers()

    def of_strangers(self) -> tuple[VolumeGroup | None, Disk]:
        """What others have on the host, without what a boot changes."""
        disk = self.host.snapshot.find_disk(THEIRS)
        assert disk is not None
        return self.host.snapshot.find_group(STRANGERS), replace(disk, holders=())

    def group(self) -> VolumeGroup | None:
        return self.host.snapshot.find_group(GROUP)

    @rule(command=st.sampled_from(COMMANDS))
    def run_in_peace(self, command: str) -> None:
        self.run(command)

    def run(self, command: str) -> str:
        def planner(snapshot: Snapshot, memory: Memory) -> Plan:
            return plan_of(command, self.desired, snapshot, memory)

        try:
            outcome: str = carry_out(command, planner, self.host, self.store, Quiet(), ALL).outcome
        except PowerCutError:
            outcome = "died"
        except RunError as error:
            outcome = error.cause.code
        except ThinpoolmgrError as error:
            outcome = error.code
        assert outcome
        assert outcome != "ERROR"
        self.log.append(f"{command}: {outcome}")
        return outcome

    @rule(command=st.sampled_from(COMMANDS), fault=FAULTS, after=st.integers(0, 5))
    def run_with_fault(self, command: str, fault: Fault, after: int) -> None:
        self.host.lay(fault, after)
        self.log.append(f"lay {fault} after {after}")
        self.run(command)
        self.host.faults.clear()

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

    @precondition(lambda self: self.group())
    @rule()
    def deactivate_by_hand(self) -> None:
        self.host.snapshot = events.deactivate_by_hand(self.host.snapshot, GROUP)

    @precondition(lambda self: self.is_running())
    @rule(answer=st.sampled_from(("queue", "error")))
    def change_by_hand(self, answer: Literal["queue", "error"]) -> None:
        step = SetWhenFull(reason="", group=GROUP, lv=POOL, when_full=answer)
        group = self.group()
        if group is not None and not group.is_partial:
            self.host.snapshot = apply_step(self.host.snapshot, step)

    @precondition(lambda self: self.group())
    @rule()
    def untag(self) -> None:
        self.host.snapshot = events.untag(self.host.snapshot, GROUP)

    @rule()
    def settle(self) -> None:
        """Once nothing goes wrong any more, it takes two runs, and a third changes nothing."""
        self.host.heal()
        foreign = self.is_foreign()
        for command in ("apply", "destroy"):
            outcomes = [self.run(command) for _ in range(RUNS_UNTIL_DONE)]
            if foreign:
                # a step of ours that was interrupted in a group that is no longer ours is for a person to judge
                assert set(outcomes) in ({"POOL_FOREIGN"}, {"NEEDS_PERSON"}), self.log
                continue
            assert set(outcomes) <= {"done", "nothing"}, self.log
            assert self.run(command) == "nothing", self.log
            assert self.is_running() is (command == "apply"), self.log

    def is_foreign(self) -> bool:
        group = self.group()
        return group is not None and OUR_TAG not in group.tags

    def is_running(self) -> bool:
        group = self.group()
        lv = group.find_lv(POOL) if group else None
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
            self.settle()
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
