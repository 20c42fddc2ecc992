from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.commands import commands
from thinpoolmgr.core.desired import with_implied_engine
from thinpoolmgr.core.holders import Holder, Holders, Process
from thinpoolmgr.core.model import ConfiguredDevice, PhysicalVolume, ServiceState
from thinpoolmgr.core.plan import Memory, OpenStep
from thinpoolmgr.core.steps import (
    RemoveDmDevice,
    RemovePhysicalVolumes,
    StopEngine,
    step_mark,
    step_name,
    target,
)
from thinpoolmgr.core.teardown import plan_deactivate, plan_destroy
from thinpoolmgr.units import MIB

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredState
    from thinpoolmgr.core.model import Snapshot
    from thinpoolmgr.core.plan import Plan

NOTHING = Memory()
HEALTHY = support.healthy()
GROUP_ONLY = support.with_group(support.snapshot())
OURS = Memory(our_groups=(HEALTHY.groups[0].uuid,))
PLAIN = support.desired()
WITH_DOCKER = support.desired(engines=(support.engine(),))


def destroy(shot: Snapshot, memory: Memory = NOTHING, state: DesiredState = PLAIN, *, keep: bool = False) -> Plan:
    return plan_destroy(state.pools[0], state, shot, memory, keep_devices=keep)


def deactivate(shot: Snapshot, memory: Memory = NOTHING, state: DesiredState = PLAIN) -> Plan:
    return plan_deactivate(state.pools[0], state, shot, memory)


def held(shot: Snapshot, *holders: Holder) -> Snapshot:
    return replace(shot, holders=Holders(holders))


def names(found: Plan) -> list[str]:
    return [step_name(step) for step in found.steps]


def codes(found: Plan) -> list[str]:
    return [refusal.code for refusal in found.refusals]


def after(shot: Snapshot, found: Plan) -> Snapshot:
    for step in found.steps:
        shot = support.checked(support.apply_step(shot, step))
    return shot


def test_a_pool_goes_from_its_top_to_its_disks() -> None:
    shot = support.with_thin_device(HEALTHY)
    found = destroy(shot)
    assert [argv for step in found.steps for argv in commands(step)] == [
        ("dmsetup", "remove", "--retry", "--", "docker-8:1-42-base"),
        ("lvchange", "--activate", "n", "docker/thinpool"),
        ("lvremove", "--yes", "docker/thinpool"),
        ("vgremove", "docker"),
        ("pvremove", "/dev/sdb"),
    ]
    assert "".join(step_mark(step) for step in found.steps) == "~~---"
    assert after(shot, found) == support.snapshot()
    assert destroy(support.snapshot()).is_empty


def test_a_pool_that_is_not_active_needs_no_deactivation() -> None:
    found = destroy(support.deactivated(HEALTHY))
    assert names(found) == ["remove-thin-pool", "remove-volume-group", "remove-physical-volumes"]


def test_the_disks_can_be_kept() -> None:
    found = destroy(HEALTHY, keep=True)
    assert names(found)[-1] == "remove-volume-group"
    left = after(HEALTHY, found)
    assert [pv.path for pv in left.orphan_pvs] == ["/dev/sdb"]
    assert destroy(left, keep=True).is_empty


@pytest.mark.parametrize("steps_done", range(5))
def test_from_any_step_on_the_rest_is_planned(steps_done: int) -> None:
    shot = support.with_thin_device(HEALTHY)
    whole = destroy(shot)
    for step in whole.steps[:steps_done]:
        shot = support.apply_step(shot, step)
    memory = Memory(interrupted=whole.steps[:steps_done], pending=whole.steps[steps_done:])
    assert names(destroy(shot, memory)) == names(whole)[steps_done:]


def test_a_name_that_dmsetup_would_mangle_is_given_raw() -> None:
    shot = support.with_thin_device(HEALTHY, "odd name\u00e9")
    assert commands(destroy(shot).steps[0]) == (
        ("dmsetup", "remove", "--manglename", "none", "--retry", "--", "odd name\u00e9"),
    )
    option = support.with_thin_device(HEALTHY, "--force")
    assert commands(destroy(option).steps[0])[0][-2:] == ("--", "--force")


def test_open_thin_devices_are_refused_by_name() -> None:
    shot = support.with_thin_device(support.with_thin_device(HEALTHY, "a", open_count=2), "b")
    for found in (destroy(shot), deactivate(shot)):
        assert (codes(found), names(found)) == (["DEVICE_OPEN"], [])
        assert "a (2 times)" in found.refusals[0].summary
        assert "b (" not in found.refusals[0].summary


def test_who_has_a_device_open_is_told_by_pid() -> None:
    shot = support.with_thin_device(HEALTHY, "a", open_count=1)
    pinned = Holder("a", shot.dm_devices[-1].devno, "mount", ("/x",), processes=(Process(9, "sh"),), process_count=1)
    for found in (destroy(held(shot, pinned)), deactivate(held(shot, pinned))):
        assert (codes(found), names(found)) == (["DEVICE_OPEN"], [])
        assert "sh (pid 9)" in found.refusals[0].details


def test_a_device_that_goes_by_itself_is_waited_for() -> None:
    shot = support.with_thin_device(HEALTHY, "a", open_count=1)
    going = replace(shot, dm_devices=(*shot.dm_devices[:-1], replace(shot.dm_devices[-1], deferred_remove=True)))
    assert names(deactivate(held(going))) == ["remove-dm-device", "deactivate-pool"]
    assert codes(deactivate(going)) == ["DEVICE_OPEN"]
    assert codes(deactivate(held(shot))) == ["DEVICE_OPEN"]


def test_an_engine_is_not_stopped_where_somebody_else_has_its_devices() -> None:
    shot = with_docker(support.with_thin_device(HEALTHY, "a", open_count=2), running=True)
    devno = shot.find_dm("a").devno  # type: ignore[union-attr]
    own = Holder("a", devno, "mount", ("/var/lib/docker/devicemapper/mnt/a",), "mnt:[1]", is_host=True)
    other = Holder("a", devno, "mount", ("/x",), "mnt:[2]", processes=(Process(9, "sh"),), process_count=1)
    assert names(destroy(held(shot, own), state=WITH_DOCKER))[0] == "stop-engine"
    found = destroy(held(shot, own, other), state=WITH_DOCKER)
    assert (codes(found), names(found)) == (["DEVICE_OPEN"], [])
    assert "sh (pid 9)" in found.refusals[0].details
    assert "/devicemapper/mnt" not in found.refusals[0].details


def test_containers_that_outlive_their_engine_are_stopped_before_it() -> None:
    engine = support.docker(running=True, configured=True, live_restore=True, containers=("web",))
    shot = support.with_engine(support.with_thin_device(HEALTHY, open_count=1), engine)
    found = deactivate(shot, state=WITH_DOCKER)
    assert names(found) == ["stop-containers", "stop-engine", "remove-dm-device", "deactivate-pool"]
    assert deactivate(after(shot, found), state=WITH_DOCKER).is_empty
    # without that step the devices stay open, and nothing is removed
    left = support.apply_step(shot, found.steps[1])
    assert codes(deactivate(left, state=WITH_DOCKER)) == ["DEVICE_OPEN"]


@pytest.mark.parametrize("steps_done", range(8))
def test_from_any_step_on_the_rest_is_planned_when_containers_outlive_their_engine(steps_done: int) -> None:
    engine = support.docker(running=True, configured=True, live_restore=True, containers=("web",), state=support.STALE)
    shot = support.with_engine(support.with_thin_device(HEALTHY, open_count=1), engine)
    whole = destroy(shot, state=WITH_DOCKER)
    assert len(whole.steps) == 8
    for step in whole.steps[:steps_done]:
        shot = support.apply_step(shot, step)
    memory = Memory(interrupted=whole.steps[:steps_done], pending=whole.steps[steps_done:])
    assert names(destroy(shot, memory, WITH_DOCKER)) == names(whole)[steps_done:]


def test_who_has_a_part_of_a_pool_that_does_not_run_is_told() -> None:
    parts = tuple(replace(d, open_count=1) for d in HEALTHY.dm_devices if d.targets != ("thin-pool",))
    half = replace(HEALTHY, dm_devices=parts)
    first = min(parts, key=lambda part: part.name)
    reader = Holder(first.name, first.devno, "open", processes=(Process(9, "dd"),), process_count=1)
    for shot in (held(half, reader), held(half, replace(reader, devno="1:1"))):
        found = deactivate(shot)
        assert (codes(found), names(found)) == (["DEVICE_OPEN"], [])
        assert ("dd (pid 9)" in found.refusals[0].details) is (shot.holders == Holders((reader,)))


def test_an_lv_of_strangers_in_our_group_stops_it() -> None:
    shot = support.with_lv(support.healthy(), support.linear("home", 4 * MIB))
    found = destroy(shot)
    assert (codes(found), names(found)) == (["GROUP_HAS_OTHER_LVS"], [])


def test_a_group_of_ours_without_its_pool_goes_too() -> None:
    assert names(destroy(GROUP_ONLY)) == ["remove-volume-group", "remove-physical-volumes"]


def test_half_made_leftovers_go_by_the_journals_evidence_only() -> None:
    create = support.create_step(support.pool())
    shot = support.with_lv(GROUP_ONLY, support.linear("lvol0", create.metadata_bytes))
    assert codes(destroy(shot)) == ["GROUP_HAS_OTHER_LVS"]
    found = destroy(shot, Memory(open_steps=(OpenStep(create),)))
    assert names(found) == ["remove-leftover", "remove-volume-group", "remove-physical-volumes"]
    assert step_mark(found.steps[0]) == "-"


def partial(shot: Snapshot) -> Snapshot:
    group = shot.groups[0]
    missing = replace(group.pvs[0], path="[unknown]", missing=True)
    return replace(shot, groups=(replace(group, attr="wz-pn-", pvs=(missing,)),))


@pytest.mark.parametrize(
    ("shot", "code"),
    [
        (replace(HEALTHY, groups=(replace(HEALTHY.groups[0], tags=()),)), "POOL_FOREIGN"),
        (partial(HEALTHY), "POOL_PARTIAL"),
        (support.lvm_lost(support.snapshot(), "Error reading /dev/sdb"), "STATE_UNKNOWN"),
    ],
)
def test_what_is_foreign_partial_or_unknown_is_not_torn_down(shot: Snapshot, code: str) -> None:
    for memory in (NOTHING, OURS):
        for found in (destroy(shot, memory), deactivate(shot, memory)):
            assert (codes(found), names(found)) == ([code], [])


def test_a_failed_pool_can_be_destroyed() -> None:
    assert names(destroy(support.healthy(mode="Fail")))[0] == "deactivate-pool"


def test_a_lost_pool_is_let_go_of_only_when_the_journal_shows_that_it_is_ours() -> None:
    lost = support.with_thin_device(support.lvm_lost(HEALTHY, "Error reading /dev/sdb"))
    for memory in (NOTHING, Memory(our_groups=(support.uuid_of("another"),))):
        assert (codes(destroy(lost, memory)), names(destroy(lost, memory))) == (["POOL_FOREIGN"], [])
        assert codes(deactivate(lost, memory)) == ["POOL_FOREIGN"]
    found = destroy(lost, OURS)
    assert [target(step) for step in found.steps] == [
        "docker-8:1-42-base",
        "docker-thinpool",
        "docker-thinpool_tdata",
        "docker-thinpool_tmeta",
    ]
    assert [step.danger for step in found.steps] == ["safe", "destroys", "destroys", "destroys"]
    assert all(isinstance(step, RemoveDmDevice) for step in found.steps)
    assert after(lost, found).dm_devices == ()
    assert [step.danger for step in deactivate(lost, OURS).steps] == ["safe", "outage", "outage", "outage"]


def test_a_lost_pool_on_a_disk_that_cannot_be_read_is_not_said_to_be_blank() -> None:
    lost = support.lvm_lost(HEALTHY, "Error reading /dev/sdb")
    unreadable = replace(lost, disks=(replace(lost.disks[0], signatures=None, probe_error="I/O error"),))
    found = destroy(unreadable, OURS)
    assert (codes(found), names(found)) == (["DISK_UNKNOWN"], [])
    assert "deactivate docker" in found.refusals[0].resolution
    assert names(deactivate(unreadable, OURS)) == ["remove-dm-device"] * 3


def test_labels_without_a_group_are_erased_by_evidence_only() -> None:
    disk = support.disk(signatures=(support.LABEL,))
    pv = PhysicalVolume("/dev/sdb", HEALTHY.groups[0].pvs[0].uuid, disk.size_bytes)
    shot = support.snapshot(disk, orphan_pvs=(pv,))
    assert destroy(shot).is_empty
    (remove,) = (step for step in destroy(HEALTHY).steps if isinstance(step, RemovePhysicalVolumes))
    for memory in (Memory(interrupted=(remove,)), Memory(pending=(remove,))):
        assert names(destroy(shot, memory)) == ["remove-physical-volumes"]
        assert destroy(shot, memory, keep=True).is_empty


def with_docker(shot: Snapshot, *, running: bool | None, systemd: bool = True, state: bool = True) -> Snapshot:
    found = support.docker(running=running, systemd=systemd, configured=True, containers=("web",) if running else ())
    return support.with_engine(shot, replace(found, state=support.STALE if state else None))


def test_a_running_engine_is_stopped_first_and_its_state_moved_last() -> None:
    shot = with_docker(support.with_thin_device(HEALTHY, open_count=1), running=True)
    found = destroy(shot, state=WITH_DOCKER)
    assert names(found) == [
        "stop-engine",
        "remove-dm-device",
        "deactivate-pool",
        "remove-thin-pool",
        "remove-volume-group",
        "remove-physical-volumes",
        "move-state-aside",
    ]
    stop = found.steps[0]
    assert isinstance(stop, StopEngine)
    assert (stop.danger, stop.units) == ("outage", ("docker.socket", "docker.service"))
    assert "running containers: web" in stop.reason
    assert commands(stop) == (("systemctl", "stop", "docker.socket", "docker.service"),)
    left = after(shot, found)
    assert (left.groups, left.dm_devices, left.engines[0].state) == ((), (), None)


def test_an_engine_that_no_systemd_runs_must_be_stopped_by_a_person() -> None:
    shot = with_docker(support.with_thin_device(HEALTHY), running=True, systemd=False)
    for found in (destroy(shot, state=WITH_DOCKER), deactivate(shot, state=WITH_DOCKER)):
        assert (codes(found), names(found)) == (["ENGINE_RUNNING"], [])
        assert "pid 4711" in found.refusals[0].summary


def test_an_engine_that_does_not_answer_is_not_taken_for_stopped() -> None:
    shot = with_docker(HEALTHY, running=None)
    found = destroy(shot, state=WITH_DOCKER)
    assert (codes(found), names(found)) == (["ENGINE_UNKNOWN"], [])


def test_a_running_engine_on_another_driver_is_left_alone() -> None:
    engine = replace(support.docker(running=True), state=support.STALE)
    found = destroy(support.with_engine(HEALTHY, engine), state=WITH_DOCKER)
    assert "stop-engine" not in names(found)
    assert "move-state-aside" not in names(found)


def test_a_running_engine_on_another_driver_with_thin_devices_here_is_stopped() -> None:
    shot = support.with_engine(support.with_thin_device(HEALTHY), support.docker(running=True))
    assert names(destroy(shot, state=WITH_DOCKER))[0] == "stop-engine"


def test_the_state_of_a_stopped_engine_goes_with_its_pool() -> None:
    found = destroy(with_docker(HEALTHY, running=False), state=WITH_DOCKER)
    assert names(found)[-1] == "move-state-aside"
    assert names(found)[0] == "deactivate-pool"


def test_state_that_belongs_to_another_pool_stays() -> None:
    engine = replace(
        support.docker(config_text='{"storage-driver": "devicemapper", "storage-opts": ["dm.thinpooldev=x"]}'),
        state=support.STALE,
    )
    assert "move-state-aside" not in names(destroy(support.with_engine(HEALTHY, engine), state=WITH_DOCKER))
    loop = replace(support.docker(), state=replace(support.STALE, loop_files=("data",)))
    assert "move-state-aside" not in names(destroy(support.with_engine(HEALTHY, loop), state=WITH_DOCKER))


def test_the_state_of_a_pool_that_may_only_be_away_stays() -> None:
    away = replace(support.snapshot(), disks=(), configured_devices=(ConfiguredDevice("/dev/sdb", problem="missing"),))
    found = destroy(with_docker(away, running=False), state=WITH_DOCKER)
    assert (codes(found), names(found)) == (["ENGINE_STATE_UNKNOWN"], [])
    assert "/dev/sdb is missing" in found.refusals[0].details
    assert destroy(with_docker(away, running=False, state=False), state=WITH_DOCKER).is_empty
    assert names(destroy(with_docker(support.snapshot(), running=False), state=WITH_DOCKER)) == ["move-state-aside"]
    chosen = support.desired(support.pool(devices=(), match=({"serial": "S-b"},)), engines=(support.engine(),))
    assert codes(destroy(with_docker(away, running=False), state=chosen)) == ["ENGINE_STATE_UNKNOWN"]
    assert names(destroy(with_docker(support.snapshot(), running=False), state=chosen)) == ["move-state-aside"]
    move = destroy(with_docker(HEALTHY, running=False), state=WITH_DOCKER).steps[-1]
    begun = destroy(with_docker(away, running=False), Memory(pending=(move,)), WITH_DOCKER)
    assert names(begun) == ["move-state-aside"]


def test_state_that_cannot_be_moved_is_found_before_anything_is_destroyed() -> None:
    engine = replace(support.docker(), state=replace(support.STALE, obstacle="/x is a mount point"))
    found = destroy(support.with_engine(HEALTHY, engine), state=WITH_DOCKER)
    assert (codes(found), names(found)) == (["ENGINE_STATE_IMMOVABLE"], [])


def test_mounts_of_running_containers_do_not_stand_against_stopping_them() -> None:
    state = replace(support.STALE, obstacle="devicemapper/mnt/1 is a mount point")
    running = support.docker(running=True, configured=True, state=state, containers=("web",))
    found = destroy(support.with_engine(HEALTHY, running), state=WITH_DOCKER)
    assert names(found)[0] == "stop-engine"
    assert names(found)[-1] == "move-state-aside"


@pytest.mark.parametrize("configured", [True, False])
def test_an_engine_that_the_configuration_leaves_out_is_looked_for(*, configured: bool) -> None:
    pool = support.pool()
    implied = with_implied_engine(support.desired(pool), pool)
    running = support.docker(running=True, configured=configured, driver="devicemapper" if configured else "overlay2")
    found = plan_deactivate(pool, implied, support.with_engine(HEALTHY, running), NOTHING)
    assert names(found)[0] == ("stop-engine" if configured else "deactivate-pool")


def test_lvms_own_thin_volumes_are_not_taken_down() -> None:
    volume = replace(support.linear("mine", 2**30), segment_type="thin", pool_lv="thinpool")
    shot = replace(HEALTHY, groups=(replace(HEALTHY.groups[0], lvs=(*HEALTHY.groups[0].lvs, volume)),))
    for found in (destroy(shot), deactivate(shot)):
        assert (codes(found), names(found)) == (["GROUP_HAS_OTHER_LVS"], [])
        assert "mine" in found.refusals[0].summary


def test_taking_away_a_pool_that_somebody_unknown_uses_is_an_outage() -> None:
    used = support.with_status(HEALTHY, transaction_id=3)
    (step,) = plan_deactivate(support.pool(), support.desired(), used, NOTHING).steps
    assert step.danger == "outage"
    (step,) = plan_deactivate(support.pool(), support.desired(), HEALTHY, NOTHING).steps
    assert step.danger == "safe"


def test_deactivation_stops_the_engine_and_leaves_the_data() -> None:
    shot = with_docker(support.with_thin_device(HEALTHY, open_count=1), running=True)
    found = deactivate(shot, state=WITH_DOCKER)
    assert names(found) == ["stop-engine", "remove-dm-device", "deactivate-pool"]
    left = after(shot, found)
    assert (left.groups, left.engines[0].state) == (HEALTHY.groups, support.STALE)
    assert deactivate(left, state=WITH_DOCKER).is_empty


def test_an_engine_without_systemd_that_is_stopped_needs_nothing() -> None:
    found = support.docker(service=ServiceState())
    assert names(deactivate(support.with_engine(HEALTHY, found), state=WITH_DOCKER)) == ["deactivate-pool"]
