"""From what was asked for to the plan, and what asking again means: extend, rebuild, and runs that were cut short."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import msgspec
import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.approval import Approval
from thinpoolmgr.core.commands import commands
from thinpoolmgr.core.desired import DesiredPool, PoolConfig
from thinpoolmgr.core.journal import unfinished_runs
from thinpoolmgr.core.model import ConfiguredDevice, LvmProfile, Signature
from thinpoolmgr.core.plan import MadePool, Memory, Plan, Request
from thinpoolmgr.core.requests import UnknownPoolError, desired_for, plan_for, settle
from thinpoolmgr.core.steps import ExtendData, ExtendMetadata, StopEngine, step_name
from thinpoolmgr.cycle import RunError, carry_out
from thinpoolmgr.errors import NeedsPersonError, RefusedError
from thinpoolmgr.host.store import Store
from thinpoolmgr.sim import events
from thinpoolmgr.sim.faults import Fails, Killed, Left, PowerCutError
from thinpoolmgr.sim.host import SimulatedHost
from thinpoolmgr.sim.parts import settle as settle_disks
from thinpoolmgr.sim.steps import apply_step
from thinpoolmgr.units import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from thinpoolmgr.core.desired import DesiredState
    from thinpoolmgr.core.journal import Run
    from thinpoolmgr.core.model import Disk, Engine, LogicalVolume, Snapshot
    from thinpoolmgr.cycle import RunResult

NOTHING = Memory()
ALL = Approval(yes=True, allowed=frozenset({"outage", "destroys"}))
GROW = Request("extend", "docker", add_data="+1GiB")
REBUILD = Request("rebuild", "docker")
APPLY = Request("apply")
SDC, SDD = support.disk("/dev/sdc"), support.disk("/dev/sdd")
GONE = ConfiguredDevice("/dev/sdc", problem="missing")
LINK = support.pool("b", "/dev/link")
STEPS = range(10)
SMALL = support.with_pool(support.snapshot(), data_extents=1000)
PLAIN = support.desired(support.pool(data_size="1GiB"))


def plan(request: Request, shot: Snapshot, state: DesiredState = PLAIN, memory: Memory = NOTHING) -> Plan:
    return plan_for(request, desired_for(request, state), shot, memory, apply_step)


def names(found: Plan) -> list[str]:
    return [step_name(step) for step in found.steps]


def codes(found: Plan) -> list[str]:
    return [refusal.code for refusal in found.refusals]


def pool_of(shot: Snapshot) -> LogicalVolume:
    return next(lv for lv in shot.groups[0].lvs if lv.is_thin_pool)


def with_spares(*paths: str, **config: Any) -> DesiredState:
    return support.desired(support.pool(data_size="1GiB", spare_devices=paths, **config))


def chosen(name: str, **selector: Any) -> DesiredPool:
    """Return a pool whose only disk a selector chooses."""
    return replace(support.pool(name), config=msgspec.convert({"match": [selector]}, PoolConfig))


# what is looked at


def test_disks_to_add_are_looked_at_as_spare_devices_of_that_pool_only() -> None:
    state = support.desired(support.pool(), support.pool("other", "/dev/sdz"))
    request = Request("extend", "docker", add_devices=("/dev/sdb", "/dev/sdc"))
    found = desired_for(request, state)
    assert found.pools[0].config.spare_devices == ("/dev/sdc",)
    assert found.pools[1] == state.pools[1]
    assert desired_for(GROW, state) is state


@pytest.mark.parametrize(
    ("command", "pool"), [("destroy", "docker"), ("deactivate", "docker"), ("rebuild", "docker"), ("activate", "")]
)
def test_holders_are_looked_for_when_a_pool_is_to_go(command: Any, pool: str) -> None:
    assert desired_for(Request(command, "docker"), PLAIN).holders_of == pool


@pytest.mark.parametrize("command", ["destroy", "deactivate", "rebuild", "activate"])
def test_an_engine_is_looked_for_that_is_not_configured_or_on_another_pool(command: Any) -> None:
    elsewhere = support.desired(*PLAIN.pools, support.pool("b", "/dev/sdc"), engines=(support.engine("b"),))
    for state in (PLAIN, elsewhere):
        (engine,) = desired_for(Request(command, "docker"), state).engines
        assert (engine.implied, engine.config.pool) == (True, "docker")
    here = support.desired(*PLAIN.pools, engines=(support.engine("docker", config_file="/x"),))
    assert desired_for(Request(command, "docker"), here).engines == here.engines
    moved = support.desired(*elsewhere.pools, engines=(support.engine("b", config_file="/x"),))
    assert desired_for(Request(command, "docker"), moved).engines[0].config.config_file == "/x"


def test_apply_looks_for_an_engine_that_an_interrupted_run_may_have_stopped() -> None:
    (engine,) = desired_for(APPLY, PLAIN).engines
    assert (engine.implied, engine.config.pool) == (True, "")
    configured = support.desired(engines=(support.engine(),))
    assert desired_for(APPLY, configured) is configured


@pytest.mark.parametrize("command", ["destroy", "rebuild", "activate", "deactivate", "extend", "adopt"])
def test_a_pool_that_is_not_configured_is_an_error_of_its_own(command: Any) -> None:
    with pytest.raises(UnknownPoolError):
        desired_for(Request(command, "nonsense"), PLAIN)
    with pytest.raises(UnknownPoolError):
        plan_for(Request(command, "nonsense"), PLAIN, SMALL, NOTHING)


def test_what_nobody_plans_is_said() -> None:
    with pytest.raises(ValueError, match="nothing plans repair"):
        plan(Request("repair", "docker"), SMALL)


# settling


def test_what_is_added_becomes_the_size_to_reach() -> None:
    found = settle(Request("extend", "docker", add_data="+1GiB", add_metadata="+4MiB"), PLAIN, SMALL, NOTHING)
    assert (found.is_settled, found.data_bytes, found.metadata_bytes) == (True, 1000 * support.EXTENT + GIB, 16 * MIB)
    assert found.as_asked() == Request("extend", "docker", add_data="+1GiB", add_metadata="+4MiB")
    only = settle(GROW, PLAIN, SMALL, NOTHING)
    assert only.metadata_bytes == 0


def test_a_rebuild_remembers_the_group_that_it_takes_down() -> None:
    assert settle(REBUILD, PLAIN, SMALL, NOTHING).group_uuid == SMALL.groups[0].uuid
    assert settle(REBUILD, PLAIN, support.snapshot(), NOTHING) == replace(REBUILD, is_settled=True)
    assert settle(GROW, PLAIN, SMALL, NOTHING).group_uuid == ""


def test_a_request_that_is_settled_stays_so() -> None:
    once = settle(GROW, PLAIN, SMALL, NOTHING)
    larger = support.carried_out(SMALL, plan(GROW, SMALL))
    assert settle(once, PLAIN, larger, NOTHING) == once


def test_the_same_request_goes_on_with_what_was_begun_and_another_does_not() -> None:
    once = settle(GROW, PLAIN, SMALL, NOTHING)
    larger = support.carried_out(SMALL, plan(GROW, SMALL))
    for memory in (Memory(request=once), Memory(begun=(once, Request("apply", is_settled=True)))):
        assert settle(GROW, PLAIN, larger, memory) == once
        assert plan(GROW, larger, memory=memory).is_empty
        other = replace(GROW, add_data="+2GiB")
        assert settle(other, PLAIN, larger, memory).data_bytes == 1000 * support.EXTENT + 3 * GIB
    unsettled = Memory(request=GROW)
    assert settle(GROW, PLAIN, larger, unsettled).data_bytes == 1000 * support.EXTENT + 2 * GIB


def test_the_plan_carries_the_settled_request() -> None:
    for request in (APPLY, GROW, REBUILD, Request("clean"), Request("activate", "docker")):
        made = plan(request, SMALL).request
        assert made is not None
        assert made.is_settled
        assert made.as_asked() == request


# extend


def test_data_grows_by_what_was_asked() -> None:
    found = plan(GROW, SMALL)
    (step,) = found.steps
    assert commands(step) == (("lvextend", "--extents", "1256", "docker/thinpool"),)
    assert step.reason == "data 3.9 GiB -> 4.9 GiB: asked for by hand"
    assert (found.refusals, found.notes, found.warnings) == ((), (), ())


def test_metadata_grows_before_data_and_the_spare_with_it() -> None:
    request = replace(GROW, add_metadata="+5MiB")
    found = plan(request, SMALL)
    assert [argv for step in found.steps for argv in commands(step)] == [
        ("lvextend", "--poolmetadatasize", "20m", "docker/thinpool"),
        ("lvextend", "--extents", "1256", "docker/thinpool"),
    ]
    after = support.carried_out(SMALL, found)
    assert after.groups[0].spare is not None
    assert after.groups[0].spare.size_bytes == 20 * MIB


def test_the_chunk_size_that_the_pool_has_counts_not_the_configured_one() -> None:
    (step,) = plan(GROW, SMALL, support.desired(support.pool(data_size="1GiB", chunk_size="1MiB"))).steps
    assert isinstance(step, ExtendData)
    assert step.chunk_bytes == support.CHUNK


def test_a_named_disk_is_taken_into_the_group_with_a_note_to_write_it_down() -> None:
    shot = support.with_free_disk(SMALL, SDC)
    request = Request("extend", "docker", add_devices=("/dev/sdc",))
    found = plan(request, shot)
    assert names(found) == ["extend-volume-group"]
    assert found.notes == ("Add /dev/sdc to pools.docker.devices of the configuration, so that it says what there is.",)
    after = support.carried_out(shot, found)
    again = plan(request, after)
    assert again.is_empty
    assert again.notes == ()
    assert plan(APPLY, after).is_empty


def test_a_disk_for_a_pool_whose_disks_are_chosen_comes_with_a_warning_that_a_selector_must_choose_it() -> None:
    shot = support.with_free_disk(SMALL, SDC)
    request = Request("extend", "docker", add_devices=("/dev/sdc",))
    fits = plan(request, shot, support.desired(chosen("docker", serial="S-?")))
    assert (names(fits), fits.notes) == (["extend-volume-group"], ())
    (warning,) = fits.warnings
    assert warning.startswith("/dev/sdc fits pools.docker.match: raise its count by one")
    misfits = plan(request, shot, support.desired(chosen("docker", serial="S-b")))
    (warning,) = misfits.warnings
    assert warning.startswith("No pools.docker.match chooses /dev/sdc: add a [[pools.docker.match]] that does")
    after = support.carried_out(shot, fits)
    assert plan(request, after, support.desired(chosen("docker", serial="S-?"))).warnings == ()
    assert codes(plan(APPLY, after, support.desired(chosen("docker", serial="S-?")))) == ["MATCH_COUNT"]
    assert codes(plan(APPLY, after, support.desired(chosen("docker", serial="S-?", count=2)))) == []


def test_spare_devices_are_taken_in_their_order_and_only_as_far_as_needed() -> None:
    shot = support.with_free_disk(SMALL, SDC, SDD)
    state = with_spares("/dev/sdd", "/dev/sdc")
    assert names(plan(GROW, shot, state)) == ["extend-data"]
    more = plan(replace(GROW, add_data="+10GiB"), shot, state)
    assert [commands(step)[0] for step in more.steps if step_name(step) == "extend-volume-group"] == [
        ("vgextend", "docker", "/dev/sdd")
    ]
    most = plan(replace(GROW, add_data="+20GiB"), shot, state)
    assert commands(most.steps[0])[0] == ("vgextend", "docker", "/dev/sdd", "/dev/sdc")
    after = support.carried_out(shot, most)
    assert pool_of(after).size_bytes == 1000 * support.EXTENT + 20 * GIB


@pytest.mark.parametrize("add", [{"add_data": "+100GiB"}, {"add_metadata": "+10GiB"}])
def test_more_than_there_is_room_for_is_refused_by_how_much(add: dict[str, Any]) -> None:
    found = plan(Request("extend", "docker", **add), support.with_free_disk(SMALL, SDC), with_spares("/dev/sdc"))
    assert (codes(found), names(found)) == (["DOES_NOT_FIT"], [])
    assert "too little" in found.refusals[0].details
    assert "--add-device" in found.refusals[0].resolution


def test_metadata_that_dm_thin_cannot_use_is_refused_before_lvm_cuts_it() -> None:
    big = support.with_pool(support.snapshot(support.disk(size_bytes=200 * GIB)), data_extents=1000)
    found = plan(Request("extend", "docker", add_metadata="+16GiB"), big)
    assert (codes(found), names(found)) == (["DOES_NOT_FIT"], [])
    assert "more than dm-thin can use" in found.refusals[0].details


@pytest.mark.parametrize(
    ("disk", "code"),
    [
        (support.disk("/dev/sdc", mounts=("/srv",)), "DISK_MOUNTED"),
        (support.disk("/dev/sdc", swap=True), "DISK_IS_SWAP"),
        (support.disk("/dev/sdc", sector_bytes=4096), "SECTOR_SIZES_DIFFER"),
    ],
)
def test_a_disk_in_use_is_not_taken_by_name_nor_as_a_spare(disk: Disk, code: str) -> None:
    shot = support.with_free_disk(SMALL, disk)
    by_name = plan(Request("extend", "docker", add_data="+1GiB", add_devices=("/dev/sdc",)), shot)
    assert codes(by_name) == [code]
    as_spare = plan(replace(GROW, add_data="+10GiB"), shot, with_spares("/dev/sdc"))
    assert codes(as_spare) == [code]
    assert names(plan(GROW, shot, with_spares("/dev/sdc"))) == ["extend-data"]


def test_a_named_disk_that_is_not_there_is_refused_by_name() -> None:
    found = plan(Request("extend", "docker", add_devices=("/dev/sdx",)), SMALL)
    assert (codes(found), found.refusals[0].target) == (["DISK_UNREADABLE"], "/dev/sdx")
    assert found.steps == ()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_disk_that_another_pool_is_to_have_is_not_taken(order: tuple[int, int]) -> None:
    link = "/dev/disk/by-id/c"
    shot = support.with_free_disk(SMALL, support.disk("/dev/sdc", links=(link,)))
    configured = (*shot.configured_devices, replace(shot.configured_devices[1], configured_path=link))
    pools = (support.pool(data_size="1GiB"), support.pool("other", "/dev/sdc"))
    state = support.desired(*(pools[place] for place in order))
    request = Request("extend", "docker", add_devices=(link,))
    found = plan(request, replace(shot, configured_devices=configured), state)
    assert (codes(found), names(found)) == (["SAME_DISK_TWICE"], [])
    assert found.refusals[0].exit_code == 78


OTHERS = [
    support.pool("other", "/dev/sdc"),
    support.pool("other", "/dev/sdz", spare_devices=("/dev/sdc",)),
    chosen("other", serial="S-c"),
]


@pytest.mark.parametrize("other", OTHERS, ids=["named", "spare", "chosen"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_disk_that_another_pool_names_or_chooses_is_not_taken_under_its_very_name(
    order: tuple[int, int], other: DesiredPool
) -> None:
    disk = support.disk("/dev/sdc", signatures=(Signature("ext4", "filesystem", 1080),))
    pools = (support.pool(data_size="1GiB", wipe_signatures=True), other)
    state = support.desired(*(pools[place] for place in order))
    found = plan(Request("extend", "docker", add_devices=("/dev/sdc",)), support.with_free_disk(SMALL, disk), state)
    assert (codes(found), names(found)) == (["SAME_DISK_TWICE"], [])
    assert "pools.docker" in found.refusals[0].details
    assert "pools.other" in found.refusals[0].details


def test_a_partition_of_a_disk_that_another_pool_chooses_is_not_taken() -> None:
    whole, part = support.disk("/dev/sdc", partitions=("/dev/sdc1",)), support.disk("/dev/sdc1", devno="8:33")
    shot = support.with_free_disk(SMALL, whole, replace(part, kind="partition"))
    state = support.desired(support.pool(data_size="1GiB"), chosen("other", serial="S-c"))
    assert codes(plan(Request("extend", "docker", add_devices=("/dev/sdc1",)), shot, state)) == ["SAME_DISK_TWICE"]


def test_a_disk_that_another_pool_may_choose_is_not_taken() -> None:
    shot = support.with_free_disk(SMALL, SDC, SDD)
    state = support.desired(support.pool(data_size="1GiB"), chosen("other", serial="S-[cd]"))
    found = plan(Request("extend", "docker", add_devices=("/dev/sdc",)), shot, state)
    assert (codes(found), names(found)) == (["MATCH_TWICE"], [])
    assert "pools.other.match" in found.refusals[0].resolution


def test_a_disk_beyond_those_that_another_pool_stands_on_is_taken() -> None:
    other = chosen("other", serial="S-[cd]")
    shot = support.with_pool(support.with_free_disk(SMALL, SDC), other)
    shot = support.with_free_disk(shot, SDD)
    state = support.desired(support.pool(data_size="1GiB"), other)
    assert names(plan(Request("extend", "docker", add_devices=("/dev/sdd",)), shot, state)) == ["extend-volume-group"]


def test_a_device_that_is_configured_and_missing_does_not_keep_a_pool_from_growing() -> None:
    state = support.desired(support.pool("docker", "/dev/sdb", "/dev/sdx", data_size="1GiB"))
    assert (codes(plan(GROW, SMALL, state)), names(plan(GROW, SMALL, state))) == ([], ["extend-data"])


def test_a_spare_device_that_is_missing_does_not_matter_until_it_is_needed() -> None:
    away = ConfiguredDevice("/dev/sdx", problem="missing")
    shot, state = replace(SMALL, configured_devices=(*SMALL.configured_devices, away)), with_spares("/dev/sdx")
    assert names(plan(GROW, shot, state)) == ["extend-data"]
    found = plan(replace(GROW, add_data="+100GiB"), shot, state)
    assert [(r.code, r.target) for r in found.refusals] == [
        ("DOES_NOT_FIT", "docker/thinpool"),
        ("DISK_MISSING", "/dev/sdx"),
    ]
    by_name = plan(replace(GROW, add_devices=("/dev/sdx",)), shot, state)
    assert (codes(by_name), by_name.steps) == (["DISK_MISSING"], ())


def test_a_pool_that_is_not_there_cannot_grow() -> None:
    for shot in (support.snapshot(), support.with_group(support.snapshot())):
        found = plan(GROW, shot)
        assert (codes(found), names(found)) == (["POOL_ABSENT"], [])
        assert found.refusals[0].resolution


@pytest.mark.parametrize(
    ("shot", "code"),
    [
        (support.untagged(SMALL), "POOL_FOREIGN"),
        (support.healthy(mode="Fail"), "POOL_FAILED"),
        (support.healthy(needs_check=True), "POOL_NEEDS_CHECK"),
        (support.healthy(mode="ro"), "POOL_READ_ONLY"),
        (support.lvm_lost(SMALL), "POOL_LOST"),
    ],
)
def test_a_pool_that_is_foreign_or_ill_does_not_grow(shot: Snapshot, code: str) -> None:
    found = plan(GROW, shot)
    assert (codes(found), names(found)) == ([code], [])


def test_a_pool_that_ran_out_of_metadata_gets_more_of_it() -> None:
    shot = support.healthy(mode="ro", used_metadata_blocks=3072)
    request = Request("extend", "docker", add_metadata="+8MiB")
    found = plan(request, shot)
    assert names(found) == ["extend-metadata"]
    after = support.carried_out(shot, found)
    memory = Memory(request=found.request)
    assert plan(request, after, memory=memory).is_empty


def test_more_data_is_no_help_for_a_pool_that_ran_out_of_metadata() -> None:
    shot = support.with_free_disk(support.healthy(mode="ro", used_metadata_blocks=3072), SDC)
    for request in (GROW, replace(GROW, add_devices=("/dev/sdc",))):
        found = plan(request, shot)
        assert (codes(found), names(found)) == (["POOL_OUT_OF_METADATA"], [])
        assert "--metadata +SIZE" in found.refusals[0].resolution
    assert names(plan(Request("extend", "docker", add_devices=("/dev/sdc",)), shot)) == ["extend-volume-group"]
    both = replace(GROW, add_metadata="+8MiB", add_devices=("/dev/sdc",))
    assert names(plan(both, shot)) == ["extend-volume-group", "extend-metadata", "extend-data"]


def test_a_full_pool_grows_and_an_inactive_one_is_activated_first() -> None:
    full = support.with_status(SMALL, mode="out_of_data_space", used_data_blocks=8000)
    after = support.carried_out(full, plan(GROW, full))
    assert after.dm_devices[-1].pool_status is not None
    assert after.dm_devices[-1].pool_status.mode == "rw"
    assert names(plan(GROW, support.deactivated(SMALL))) == ["activate-pool", "extend-data"]


def test_a_pool_of_ours_that_lost_its_tags_is_tagged_and_grows() -> None:
    memory = Memory(
        our_groups=(SMALL.groups[0].uuid,), made=(MadePool(pool_of(SMALL).uuid, 1000 * support.EXTENT, 12 * MIB),)
    )
    shot = support.untagged(SMALL)
    found = plan(GROW, shot, memory=memory)
    assert names(found) == ["tag-pool", "extend-data"]
    support.carried_out(shot, found)


def test_a_missing_spare_comes_back_with_an_extension() -> None:
    shot = support.with_spare(SMALL, 0)
    assert names(plan(GROW, shot)) == ["extend-metadata", "extend-data"]


# runs


class Stage:
    """A host in memory and a journal, on which requests run one after the other."""

    def __init__(self, tmp_path: Path, shot: Snapshot, state: DesiredState = PLAIN) -> None:
        self.host = SimulatedHost(shot)
        self.store = Store(tmp_path / "state", tmp_path / "run" / "lock")
        self.state = state

    def run(self, request: Request) -> RunResult:
        desired = desired_for(request, self.state)

        def planner(shot: Snapshot, memory: Memory) -> Plan:
            return plan_for(request, desired, shot, memory, apply_step)

        return carry_out(request.command, planner, self.host, self.store, support.Listener(), ALL)

    def cut(self, request: Request, fault: Killed, after: int = 0) -> None:
        self.host.lay(fault, after)
        with pytest.raises(PowerCutError):
            self.run(request)
        self.host.faults.clear()

    @property
    def data_bytes(self) -> int:
        return pool_of(self.host.snapshot).size_bytes

    @property
    def unfinished(self) -> list[Run]:
        return unfinished_runs([run for _, run in self.store.read_runs()])


def replace_uuid(shot: Snapshot, uuid: str) -> Snapshot:
    """Return `shot` with another uuid where `uuid` is: as if somebody had made that volume anew."""
    new = support.uuid_of("made anew by hand")
    text = msgspec.json.encode(shot).replace(uuid.encode(), new.encode())
    return msgspec.json.decode(
        text.replace(uuid.replace("-", "").encode(), new.replace("-", "").encode()), type=type(shot)
    )


@pytest.fixture
def stage(tmp_path: Path) -> Callable[..., Stage]:
    return lambda *args: Stage(tmp_path, *args)


def test_a_finished_extension_followed_by_the_same_command_grows_again(stage: Callable[..., Stage]) -> None:
    there = stage(SMALL)
    for times in (1, 2, 3):
        assert there.run(GROW).outcome == "done"
        assert there.data_bytes == 1000 * support.EXTENT + times * GIB


KILLS = [
    Killed("before"),
    *(Killed("inside", left) for left in get_args(Left)),
    Killed("after"),
]


@pytest.mark.parametrize("kill", KILLS, ids=str)
@pytest.mark.parametrize("at", [0, 1])
def test_an_interrupted_extension_continues_to_the_same_size(
    stage: Callable[..., Stage], kill: Killed, at: int
) -> None:
    there = stage(SMALL)
    request = replace(GROW, add_metadata="+8MiB")
    there.cut(request, kill, at)
    result = there.run(request)
    pool = pool_of(there.host.snapshot)
    assert pool.size_bytes == 1000 * support.EXTENT + GIB
    # A kill inside may cost the spare, which comes back with one extent more of metadata.
    assert pool.metadata_bytes in (20 * MIB, 24 * MIB)
    assert result.outcome in ("done", "nothing")
    assert there.run(APPLY).outcome == "nothing"
    again = there.run(GROW)
    assert (again.outcome, there.data_bytes) == ("done", 1000 * support.EXTENT + 2 * GIB)


def test_an_interrupted_extension_is_found_behind_a_later_run_that_failed(stage: Callable[..., Stage]) -> None:
    there = stage(SMALL)
    there.cut(GROW, Killed("after"))
    there.state = support.desired(support.pool(data_size="1GiB", when_full="error"))
    there.cut(APPLY, Killed("before"))
    assert there.run(GROW).outcome == "nothing"
    assert there.data_bytes == 1000 * support.EXTENT + GIB


def test_a_command_with_nothing_to_do_does_not_make_an_extension_forgotten(stage: Callable[..., Stage]) -> None:
    there = stage(SMALL)
    there.cut(GROW, Killed("after"))
    assert there.run(Request("activate", "docker")).outcome == "nothing"
    assert there.run(Request("clean")).outcome == "nothing"
    assert there.run(GROW).outcome == "nothing"
    assert there.data_bytes == 1000 * support.EXTENT + GIB
    assert there.run(GROW).outcome == "done"


def test_an_apply_with_nothing_to_do_ends_what_was_interrupted(stage: Callable[..., Stage]) -> None:
    there = stage(SMALL)
    there.cut(Request("deactivate", "docker"), Killed("before"))
    assert [run.began.command for run in there.unfinished] == ["deactivate"]
    assert there.run(APPLY).outcome == "nothing"
    assert there.unfinished == []


@pytest.mark.parametrize("kill", [Killed("before"), Killed("inside", "second"), Killed("after")], ids=str)
def test_an_apply_mends_what_an_extension_left_and_does_not_end_it(stage: Callable[..., Stage], kill: Killed) -> None:
    there = stage(SMALL)
    there.cut(GROW, kill)
    there.run(APPLY)
    again = there.run(APPLY)
    assert again.outcome == "nothing"
    assert again.notes == ("Not finished: thinpoolmgr extend docker --data +1GiB. The same command again finishes it.",)
    (unfinished,) = there.unfinished
    assert unfinished.began.command == "extend"
    there.run(GROW)
    assert there.data_bytes == 1000 * support.EXTENT + GIB
    assert there.unfinished == []
    assert there.run(GROW).outcome == "done"
    assert there.data_bytes == 1000 * support.EXTENT + 2 * GIB


def test_a_disk_under_another_of_its_names_is_the_same(stage: Callable[..., Stage]) -> None:
    link = "/dev/disk/by-id/c"
    shot = support.with_free_disk(SMALL, support.disk("/dev/sdc", links=(link,)))
    named = replace(shot.configured_devices[1], configured_path=link)
    there = stage(replace(shot, configured_devices=(*shot.configured_devices, named)))
    there.cut(replace(GROW, add_devices=(link,)), Killed("after"), 1)
    assert there.run(replace(GROW, add_devices=("/dev/sdc",))).outcome == "nothing"
    assert there.data_bytes == 1000 * support.EXTENT + GIB
    assert there.unfinished == []


def test_a_later_extension_that_ends_well_gives_up_the_one_that_failed(stage: Callable[..., Stage]) -> None:
    there = stage(SMALL)
    two = replace(GROW, add_data="+2GiB")
    there.cut(two, Killed("before"))
    there.run(GROW)
    assert there.unfinished == []
    there.run(two)
    assert there.data_bytes == 1000 * support.EXTENT + 3 * GIB


def test_an_extension_of_a_pool_that_is_made_anew_is_not_gone_on_with(stage: Callable[..., Stage]) -> None:
    there = stage(SMALL)
    there.cut(GROW, Killed("before"))
    (unfinished,) = there.unfinished
    there.host.snapshot = support.with_pool(support.snapshot(), data_extents=256)
    there.host.snapshot = replace_uuid(there.host.snapshot, pool_of(SMALL).uuid)
    assert unfinished.began.request is not None
    with pytest.raises(NeedsPersonError, match="made anew after the extend"):
        there.run(unfinished.began.request)
    there.run(GROW)
    assert there.data_bytes == 2 * GIB
    assert there.unfinished == []


def test_an_apply_does_not_end_a_destroy_that_has_left_a_label(stage: Callable[..., Stage]) -> None:
    there = stage(support.with_pool(support.with_free_disk(support.snapshot(), SDC), data_extents=1000))
    there.cut(Request("destroy", "docker"), Killed("after"), 2)
    assert there.run(APPLY).outcome == "done"
    assert [pv.path for pv in there.host.snapshot.orphan_pvs] == ["/dev/sdc"]
    new = pool_of(there.host.snapshot).uuid
    (unfinished,) = there.unfinished
    assert unfinished.began.request is not None
    with pytest.raises(NeedsPersonError, match="made anew after the destroy"):
        there.run(unfinished.began.request)
    assert pool_of(there.host.snapshot).uuid == new
    blank = tuple(
        replace(disk, signatures=()) if disk.path == "/dev/sdc" else disk for disk in there.host.snapshot.disks
    )
    there.host.snapshot = replace(there.host.snapshot, orphan_pvs=(), disks=blank)
    assert there.run(APPLY).outcome == "nothing"
    assert there.unfinished == []


def test_a_destroy_that_is_asked_for_takes_down_the_pool_that_was_made_since(stage: Callable[..., Stage]) -> None:
    there = stage(USED)
    there.cut(Request("destroy", "docker"), Killed("after"), 3)
    there.run(APPLY)
    assert there.run(Request("destroy", "docker")).outcome == "done"
    assert (there.host.snapshot.groups, there.unfinished) == ((), [])


def test_a_destroy_whose_labels_are_used_again_is_ended_by_apply(stage: Callable[..., Stage]) -> None:
    there = stage(SMALL)
    there.cut(Request("destroy", "docker"), Killed("after"), 2)
    assert there.host.snapshot.orphan_pvs
    assert there.run(APPLY).outcome == "done"
    assert there.unfinished == []


def test_a_command_with_nothing_to_do_leaves_the_labels_of_an_interrupted_destroy_known(
    stage: Callable[..., Stage],
) -> None:
    there = stage(SMALL)
    destroy = Request("destroy", "docker")
    there.cut(destroy, Killed("before"), 3)
    assert there.host.snapshot.orphan_pvs
    assert there.run(Request("deactivate", "docker")).outcome == "nothing"
    assert there.run(destroy).outcome == "done"
    assert there.host.snapshot.orphan_pvs == ()


def test_what_grew_by_hand_is_not_asked_to_shrink(stage: Callable[..., Stage]) -> None:
    there = stage(support.snapshot())
    there.run(APPLY)
    there.run(GROW)
    assert there.run(APPLY).outcome == "nothing"
    there.state = support.desired(support.pool(data_size="512MiB"))
    with pytest.raises(RefusedError, match="was made with data_size 1GiB, and 512MiB"):
        there.run(APPLY)


def test_what_the_configuration_enlarged_is_not_made_smaller(stage: Callable[..., Stage]) -> None:
    there = stage(support.snapshot())
    there.run(APPLY)
    there.state = support.desired(support.pool(data_size="2GiB"))
    there.run(APPLY)
    there.state = PLAIN
    with pytest.raises(RefusedError, match="was made with data_size 2GiB, and 1GiB"):
        there.run(APPLY)


def test_a_volume_of_strangers_is_not_taken_for_what_an_extension_left(stage: Callable[..., Stage]) -> None:
    there = stage(support.with_lv(SMALL, support.linear("lvol1", 20 * MIB)))
    request = replace(GROW, add_metadata="+8MiB")
    there.cut(request, Killed("after"))
    there.run(request)
    assert "lvol1" in {lv.name for lv in there.host.snapshot.groups[0].lvs}
    there.cut(request, Killed("before"), 1)
    there.host.snapshot = events.add_volume(there.host.snapshot, "docker", "lvol2", 28 * MIB)
    there.run(APPLY)
    there.run(request)
    assert "lvol2" in {lv.name for lv in there.host.snapshot.groups[0].lvs}


def test_before_a_step_that_lvm_begins_with_a_volume_of_its_own_naming_the_volumes_are_journaled(
    stage: Callable[..., Stage],
) -> None:
    there = stage(SMALL)
    there.cut(replace(GROW, add_metadata="+8MiB"), Killed("after"), 1)
    (_, run) = there.store.read_runs()[-1]
    assert run.lvs_before == (("01", tuple(lv.uuid for lv in SMALL.groups[0].lvs)),)


# rebuild


DOCKER = replace(support.docker(running=True, configured=True), state=support.STALE)
WITH_ENGINE = support.desired(support.pool(data_size="1GiB", chunk_size="1MiB"), engines=(support.engine(),))
USED = support.with_engine(support.with_thin_device(SMALL, open_count=1), DOCKER)


def test_a_rebuild_is_one_plan_down_and_up_with_one_outage() -> None:
    found = plan(REBUILD, USED, WITH_ENGINE)
    assert codes(found) == []
    assert names(found) == [
        "stop-engine",
        "remove-dm-device",
        "deactivate-pool",
        "remove-thin-pool",
        "remove-volume-group",
        "remove-physical-volumes",
        "move-state-aside",
        "create-volume-group",
        "create-thin-pool",
        "start-engine",
    ]
    assert [step.id for step in found.steps] == [f"{place:02}" for place in range(1, 11)]
    assert {step.danger for step in found.steps} == {"outage", "destroys", "safe"}


def test_a_rebuild_that_is_refused_in_either_half_does_nothing() -> None:
    other = support.with_lv(SMALL, support.linear("home", 40 * MIB))
    assert (codes(plan(REBUILD, other)), names(plan(REBUILD, other))) == (["GROUP_HAS_OTHER_LVS"], [])
    too_large = plan(REBUILD, SMALL, support.desired(support.pool(data_size="1TiB")))
    assert (codes(too_large), names(too_large)) == (["DOES_NOT_FIT"], [])
    foreign = plan(REBUILD, support.untagged(SMALL))
    assert (codes(foreign), names(foreign)) == (["POOL_FOREIGN"], [])


def test_a_rebuild_of_a_pool_that_is_not_there_makes_it() -> None:
    assert names(plan(REBUILD, support.snapshot())) == ["create-volume-group", "create-thin-pool"]


def test_a_rebuild_of_one_pool_leaves_the_others_alone() -> None:
    shot = support.with_free_disk(SMALL, SDC)
    state = support.desired(support.pool(data_size="1GiB"), support.pool("other", "/dev/sdc"))
    assert {step.pool for step in plan(REBUILD, shot, state).steps} == {"docker"}


def test_a_rebuild_configures_no_engine_unasked() -> None:
    assert codes(plan(REBUILD, SMALL)) == []
    not_there = support.with_engine(SMALL, support.docker(installed=False, version=""))
    elsewhere = support.with_engine(SMALL, support.docker(running=True, driver="overlay2"))
    for shot in (not_there, elsewhere):
        found = plan(REBUILD, shot)
        assert codes(found) == []
        assert names(found)[-2:] == ["create-volume-group", "create-thin-pool"]
        assert not any(isinstance(step, StopEngine) for step in found.steps)


def test_a_rebuild_starts_an_unconfigured_engine_that_it_had_to_stop() -> None:
    found = plan(REBUILD, USED)
    assert (names(found)[0], names(found)[-1]) == ("stop-engine", "start-engine")
    assert "write-engine-config" not in names(found)


# engines that the configuration does not put on the pool


TWO_DISKS = support.with_free_disk(SMALL, SDC)
ELSEWHERE = support.desired(*PLAIN.pools, support.pool("b", "/dev/sdc"), engines=(support.engine("b"),))
UNASKED = support.with_engine(support.with_thin_device(SMALL, open_count=1), DOCKER)


def engine_of(shot: Snapshot) -> Engine:
    found = shot.find_engine("docker")
    assert found is not None
    return found


@pytest.mark.parametrize("command", ["destroy", "deactivate", "rebuild"])
def test_an_engine_that_is_configured_for_another_pool_is_stopped_where_it_really_is(command: Any) -> None:
    found = plan(Request(command, "docker"), support.with_engine(TWO_DISKS, DOCKER), ELSEWHERE)
    assert (names(found)[0], found.steps[0].danger) == ("stop-engine", "outage")
    assert "write-engine-config" not in names(found)
    assert ("move-state-aside" in names(found)) is (command != "deactivate")
    assert (names(found)[-1] == "start-engine") is (command == "rebuild")


def test_an_engine_that_is_where_it_is_configured_does_not_mind_another_pool() -> None:
    text = (DOCKER.config_text or "").replace("docker-thinpool", "b-thinpool")
    there = support.with_engine(TWO_DISKS, replace(DOCKER, config_text=text))
    for command in ("destroy", "deactivate"):
        assert names(plan(Request(command, "docker"), there, ELSEWHERE))[0] == "deactivate-pool"


@pytest.mark.parametrize("at", STEPS)
@pytest.mark.parametrize("when", ["before", "first", "components", "labels", "after"])
@pytest.mark.parametrize("named", [True, False])
def test_a_rebuild_interrupted_anywhere_moves_the_state_of_an_engine_that_is_not_configured(
    stage: Callable[..., Stage], at: int, when: str, *, named: bool
) -> None:
    found = DOCKER if named else replace(DOCKER, config_text="{}")
    there = stage(support.with_engine(UNASKED, found))
    kill = Killed(when) if when in ("before", "after") else Killed("inside", when)  # type: ignore[arg-type]
    there.cut(REBUILD, kill, at)
    assert there.run(REBUILD).outcome in ("done", "nothing")
    engine = engine_of(there.host.snapshot)
    assert (engine.running, engine.state, len(engine.set_aside)) == (True, None, 1)
    assert engine.config_text == found.config_text
    took = [step_name(step) for step in there.host.took_effect]
    assert took.count("remove-thin-pool") == 1
    began = [step_name(step) for step in there.host.performed]
    assert began.index("move-state-aside") < began.index("create-thin-pool")


@pytest.mark.parametrize("at", range(3, 7))
@pytest.mark.parametrize("named", [True, False])
def test_an_apply_after_an_interrupted_destroy_moves_the_state_and_starts_the_engine(
    stage: Callable[..., Stage], at: int, *, named: bool
) -> None:
    there = stage(support.with_engine(UNASKED, DOCKER if named else replace(DOCKER, config_text="{}")))
    there.cut(Request("destroy", "docker"), Killed("after"), at)
    assert there.run(APPLY).outcome == "done"
    engine = engine_of(there.host.snapshot)
    assert (engine.running, engine.state, len(engine.set_aside)) == (True, None, 1)
    assert there.run(APPLY).outcome == "nothing"


def test_apply_leaves_an_engine_alone_that_no_run_of_ours_has_touched() -> None:
    for found in (DOCKER, replace(DOCKER, running=False, pids=(), driver="", service=support.docker().service)):
        shot = support.with_engine(support.snapshot(), found)
        assert names(plan(APPLY, shot)) == ["create-volume-group", "create-thin-pool"]
        assert plan(APPLY, shot).fingerprint == plan(APPLY, support.snapshot()).fingerprint


def test_an_engine_that_somebody_started_again_is_left_alone(stage: Callable[..., Stage]) -> None:
    there = stage(support.with_engine(UNASKED, replace(DOCKER, config_text="{}")))
    there.cut(Request("destroy", "docker"), Killed("after"), 5)
    by_hand = support.docker(running=True, driver="overlay2", config_text="{}", state=support.STALE)
    there.host.snapshot = support.with_engine(there.host.snapshot, by_hand)
    assert [step.do for step in there.run(APPLY).steps] == ["create-volume-group", "create-thin-pool"]
    assert engine_of(there.host.snapshot) == by_hand


def test_an_engine_whose_state_cannot_be_judged_is_not_started(stage: Callable[..., Stage]) -> None:
    other = support.with_pool(support.with_group(TWO_DISKS, "b"), support.pool("b", "/dev/sdc"), 100)
    there = stage(support.with_engine(other, replace(DOCKER, config_text="{}")))
    there.cut(REBUILD, Killed("after"), 3)
    notes = there.run(REBUILD).notes
    assert any("docker is not started" in note and "b-thinpool may be the one" in note for note in notes)
    engine = engine_of(there.host.snapshot)
    assert (engine.running, engine.state) == (False, support.STALE)


@pytest.mark.parametrize("found", [DOCKER, replace(DOCKER, config_text="{}")])
def test_activation_starts_the_engine_that_the_deactivation_stopped(stage: Callable[..., Stage], found: Engine) -> None:
    there = stage(support.with_engine(SMALL, found))
    there.run(Request("deactivate", "docker"))
    assert engine_of(there.host.snapshot).running is False
    result = there.run(Request("activate", "docker"))
    assert [step.do for step in result.steps] == ["activate-pool", "start-engine"]
    assert engine_of(there.host.snapshot).running


def test_activation_starts_no_engine_that_nobody_stopped_or_that_is_on_another_pool() -> None:
    activate, stopped = Request("activate", "docker"), Memory(stopped_engines=("docker",))
    inactive = support.deactivated(SMALL)
    resting = support.with_engine(inactive, support.docker(configured=True))
    assert names(plan(activate, resting)) == ["activate-pool"]
    text = (DOCKER.config_text or "").replace("docker-thinpool", "b-thinpool")
    elsewhere = support.with_engine(inactive, support.docker(config_text=text))
    assert names(plan(activate, elsewhere, memory=stopped)) == ["activate-pool"]
    assert names(plan(activate, resting, memory=stopped)) == ["activate-pool", "start-engine"]


def test_a_configuration_of_the_engine_that_cannot_be_read_is_said_and_is_no_crash() -> None:
    broken = support.docker(config_text="{x", config_problem="line 1, column 2", state=support.STALE)
    configured = support.desired(*PLAIN.pools, engines=(support.engine(),))
    for command in ("destroy", "rebuild"):
        shot = support.with_engine(SMALL, broken)
        assert codes(plan(Request(command, "docker"), shot, configured)) == ["ENGINE_CONFIG_INVALID"]
    stopped = Memory(stopped_engines=("docker",))
    for request in (APPLY, Request("activate", "docker")):
        found = plan(request, support.with_engine(support.deactivated(SMALL), broken), memory=stopped)
        assert names(found) == ["activate-pool"]
        assert found.notes == ("docker is not started: /etc/docker/daemon.json cannot be read.",)


# rebuild, its disks and other pools


@pytest.mark.parametrize("at", range(1, 6))
def test_an_interrupted_rebuild_leaves_no_label_on_disks_that_only_an_extension_named(
    stage: Callable[..., Stage], at: int
) -> None:
    there = stage(TWO_DISKS)
    grow = Request("extend", "docker", add_devices=("/dev/sdc",))
    there.run(grow)
    there.cut(REBUILD, Killed("after"), at)
    there.run(REBUILD)
    assert there.host.snapshot.orphan_pvs == ()
    assert there.host.snapshot.find_disk("/dev/sdc") == SDC
    assert there.run(grow).outcome == "done"


def test_the_trouble_of_another_pool_does_not_stop_a_rebuild_half_way(stage: Callable[..., Stage]) -> None:
    state = support.desired(*PLAIN.pools, support.pool("b", "/dev/sdc"))
    away = replace(SMALL, configured_devices=(*SMALL.configured_devices, GONE))
    assert codes(plan(REBUILD, away, state)) == []
    assert codes(plan(APPLY, away, state)) == ["DISK_MISSING"]
    there = stage(TWO_DISKS, state)
    there.cut(REBUILD, Killed("after"), 3)
    there.host.vanish("/dev/sdc")
    assert there.run(REBUILD).outcome == "done"
    matching = support.desired(*PLAIN.pools, support.pool("b", devices=(), match=({"serial": "none"},)))
    assert codes(plan(REBUILD, SMALL, matching)) == []


def test_a_disk_that_another_pool_names_or_chooses_too_stops_a_rebuild() -> None:
    linked = replace(SMALL, configured_devices=(*SMALL.configured_devices, ConfiguredDevice("/dev/link", "/dev/sdb")))
    for pools in ((*PLAIN.pools, LINK), (LINK, *PLAIN.pools)):
        assert codes(plan(REBUILD, linked, support.desired(*pools))) == ["SAME_DISK_TWICE"]
    taken = support.pool("b", devices=(), match=({"serial": "S-b"},))
    assert codes(plan(REBUILD, SMALL, support.desired(*PLAIN.pools, taken))) == ["MATCH_TWICE"]
    third = support.desired(*PLAIN.pools, support.pool("b", "/dev/sdc"), support.pool("c", "/dev/other"))
    twice = (ConfiguredDevice("/dev/sdc", "/dev/sdc"), ConfiguredDevice("/dev/other", "/dev/sdc"))
    others = replace(TWO_DISKS, configured_devices=(*SMALL.configured_devices, *twice))
    assert codes(plan(REBUILD, others, third)) == []


@pytest.mark.parametrize("monitor", ["dmeventd", "thinpoolmgr"])
def test_a_rebuild_with_a_profile_converges(stage: Callable[..., Stage], monitor: str) -> None:
    before = support.desired(support.pool(data_size="1GiB", extend={"monitor": "dmeventd"}))
    there = stage(support.snapshot(), before)
    there.run(APPLY)
    there.state = support.desired(support.pool(data_size="1GiB", extend={"monitor": monitor}))
    assert there.run(REBUILD).outcome == "done"
    assert bool(there.host.snapshot.lvm_profiles) is (monitor == "dmeventd")
    assert there.run(APPLY).outcome == "nothing"


def test_a_rebuild_followed_by_the_same_command_rebuilds_again(stage: Callable[..., Stage]) -> None:
    there = stage(SMALL)
    uuids = {pool_of(there.host.snapshot).uuid}
    for times in (2, 3):
        there.run(REBUILD)
        uuids.add(pool_of(there.host.snapshot).uuid)
        assert len(uuids) == times


@pytest.mark.parametrize("at", STEPS)
@pytest.mark.parametrize("when", ["before", "first", "components", "labels", "after"])
def test_a_rebuild_interrupted_anywhere_converges_and_keeps_the_new_pool(
    stage: Callable[..., Stage], at: int, when: str
) -> None:
    there = stage(USED, WITH_ENGINE)
    old = pool_of(USED).uuid
    kill = Killed(when) if when in ("before", "after") else Killed("inside", when)  # type: ignore[arg-type]
    there.cut(REBUILD, kill, at)
    made = (
        [pool_of(there.host.snapshot)]
        if any(lv.is_thin_pool for g in there.host.snapshot.groups for lv in g.lvs)
        else []
    )
    new = [lv.uuid for lv in made if lv.uuid != old]
    assert there.run(REBUILD).outcome in ("done", "nothing")
    after = there.host.snapshot
    assert pool_of(after).uuid != old
    assert pool_of(after).chunk_bytes == MIB
    if new:
        assert [pool_of(after).uuid] == new
    engine = after.find_engine("docker")
    assert engine is not None
    assert (engine.running, engine.state, len(engine.set_aside)) == (True, None, 1)
    assert there.run(APPLY).outcome == "nothing"
    took = [step_name(step) for step in there.host.took_effect]
    assert took.count("remove-thin-pool") == 1


def test_a_rebuild_interrupted_in_its_second_half_is_found_behind_a_later_run_that_failed(
    stage: Callable[..., Stage],
) -> None:
    there = stage(SMALL)
    there.cut(REBUILD, Killed("after"), 5)
    new = pool_of(there.host.snapshot).uuid
    assert new != pool_of(SMALL).uuid
    there.state = support.desired(support.pool(data_size="1GiB", when_full="error"))
    there.cut(APPLY, Killed("before"))
    there.run(REBUILD)
    assert pool_of(there.host.snapshot).uuid == new


def test_a_rebuild_that_is_done_but_for_the_engine_is_not_in_the_way_of_another(stage: Callable[..., Stage]) -> None:
    there = stage(USED, WITH_ENGINE)
    there.cut(REBUILD, Killed("before"), 9)
    made = pool_of(there.host.snapshot)
    there.state = support.desired(support.pool(data_size="1GiB", chunk_size="256KiB"), engines=(support.engine(),))
    (unfinished,) = there.unfinished
    assert unfinished.began.request is not None
    with pytest.raises(RefusedError, match="chunk_size"):
        there.run(unfinished.began.request)
    assert there.run(REBUILD).outcome == "done"
    assert pool_of(there.host.snapshot).uuid != made.uuid
    assert pool_of(there.host.snapshot).chunk_bytes == 256 * 1024
    assert there.unfinished == []


def test_a_rebuild_that_is_done_already_says_so_and_that_once_more_makes_the_pool_anew(
    stage: Callable[..., Stage],
) -> None:
    there = stage(USED, WITH_ENGINE)
    there.cut(REBUILD, Killed("after"), 9)
    made = pool_of(there.host.snapshot)
    result = there.run(REBUILD)
    assert (result.outcome, pool_of(there.host.snapshot).uuid) == ("nothing", made.uuid)
    assert any("is finished. To make the pool anew, run it again." in note for note in result.notes)
    again = there.run(REBUILD)
    assert (again.outcome, pool_of(there.host.snapshot).uuid == made.uuid) == ("done", False)
    assert not any("is finished" in note for note in again.notes)


def test_a_group_of_strangers_in_the_place_of_a_rebuild_is_left_alone(stage: Callable[..., Stage]) -> None:
    there = stage(SMALL)
    there.cut(REBUILD, Killed("after"), 2)
    assert there.host.snapshot.groups == ()
    blank = replace(there.host.snapshot, orphan_pvs=(), disks=tuple(replace(d, signatures=()) for d in SMALL.disks))
    there.host.snapshot = support.with_group(settle_disks(blank), tags=())
    with pytest.raises(RefusedError, match="foreign"):
        there.run(REBUILD)


def test_a_stale_profile_does_not_keep_a_new_pool_from_being_as_described(stage: Callable[..., Stage]) -> None:
    profile = LvmProfile("thinpoolmgr-docker-thinpool", "old")
    there = stage(replace(support.snapshot(), lvm_profiles=(profile,)))
    assert there.run(APPLY).outcome == "done"
    assert there.host.snapshot.lvm_profiles == ()


def test_steps_beside_refusals_can_still_be_shown() -> None:
    found = plan(APPLY, support.with_free_disk(SMALL, SDC), support.desired(support.pool(chunk_size="1MiB")))
    assert codes(found) == ["SETTING_DIFFERS"]
    assert [commands(step) for step in found.steps]
    assert isinstance(found.steps[0], ExtendData | ExtendMetadata)


def test_an_error_in_a_run_is_told_with_its_steps(stage: Callable[..., Stage]) -> None:
    there = stage(SMALL)
    there.host.lay(Fails("before"))
    with pytest.raises(RunError) as caught:
        there.run(GROW)
    assert [step.result for step in caught.value.steps] == ["failed"]
    there.host.faults.clear()
    assert there.run(GROW).outcome == "done"
    assert there.data_bytes == 1000 * support.EXTENT + GIB
