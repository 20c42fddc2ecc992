"""`clean`: stale state is moved aside, deleted only when that is asked for, and everything else is left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.clean import plan_clean
from thinpoolmgr.core.model import ConfiguredDevice, PhysicalVolume
from thinpoolmgr.core.plan import MadePool, Memory, Request
from thinpoolmgr.core.requests import plan_for
from thinpoolmgr.core.steps import DeleteSetAside, MoveStateAside, step_mark, step_name, target

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredState
    from thinpoolmgr.core.model import Engine, EngineState, Snapshot
    from thinpoolmgr.core.plan import Plan

NOTHING = Memory()
CLEAN, PURGE = Request("clean"), Request("clean", purge=True)
STATE = support.desired(engines=(support.engine(),))
BLANK, HEALTHY = support.snapshot(), support.healthy()
STALE = support.docker(state=support.STALE)
OLD = ("/var/lib/docker/thinpoolmgr-stale-1", "/var/lib/docker/thinpoolmgr-stale-2")


def clean(found: Engine, request: Request = CLEAN, shot: Snapshot = BLANK, memory: Memory = NOTHING) -> Plan:
    return plan_for(request, STATE, support.with_engine(shot, found), memory)


def names(plan: Plan) -> list[str]:
    return [step_name(step) for step in plan.steps]


def codes(plan: Plan) -> list[str]:
    return [refusal.code for refusal in plan.refusals]


def converged(found: Engine, request: Request = CLEAN, shot: Snapshot = BLANK) -> Engine:
    before = support.with_engine(shot, found)
    plan = plan_for(request, STATE, before, NOTHING)
    after = support.carried_out(before, plan)
    assert plan_for(request, STATE, after, Memory(request=plan.request)).is_empty
    engine = after.find_engine("docker")
    assert engine is not None
    return engine


@pytest.mark.parametrize("shot", [BLANK, HEALTHY])
def test_state_whose_pool_is_gone_is_moved_aside(shot: Snapshot) -> None:
    plan = clean(STALE, shot=shot)
    (step,) = plan.steps
    assert isinstance(step, MoveStateAside)
    assert (step.danger, plan.notes) == ("safe", ("docker is not running: start it when this is done.",))
    assert "its pool is gone" in step.reason
    after = converged(STALE, shot=shot)
    assert (after.state, after.set_aside) == (None, (step.into,))


def test_the_engine_is_stopped_for_it_and_started_again() -> None:
    running = replace(STALE, running=True, driver="overlay2", pids=(1,), service=support.docker(running=True).service)
    plan = clean(running)
    assert names(plan) == ["stop-engine", "move-state-aside", "start-engine"]
    assert [step.danger for step in plan.steps] == ["outage", "safe", "safe"]
    assert converged(running).running


def test_an_engine_that_another_run_stopped_stays_stopped() -> None:
    memory = Memory(stopped_engines=("docker",))
    for found in (support.docker(), support.docker(configured=True)):
        assert clean(found, memory=memory).is_empty
    assert names(clean(STALE, memory=memory)) == ["move-state-aside"]
    assert names(clean(support.docker(set_aside=OLD[:1]), PURGE, memory=memory)) == ["delete-set-aside"]


def test_an_engine_that_the_same_run_stopped_before_it_was_cut_short_is_started() -> None:
    running = replace(STALE, running=True, driver="overlay2", pids=(1,), service=support.docker(running=True).service)
    whole = clean(running).steps
    for done in (1, 2):
        shot = support.with_engine(BLANK, running)
        for step in whole[:done]:
            shot = support.apply_step(shot, step)
        memory = Memory(interrupted=whole[:done], pending=whole[done:], stopped_engines=("docker",))
        assert names(plan_for(CLEAN, STATE, shot, memory)) == names(clean(running))[done:]


def test_an_engine_is_not_started_on_a_pool_that_does_not_run() -> None:
    service = support.docker(running=True).service
    trying = support.docker(configured=True, state=support.STALE, service=replace(service, active=None))
    plan = clean(trying)
    assert names(plan) == ["stop-engine", "move-state-aside"]
    assert plan.notes == ("docker stays stopped: /etc/docker/daemon.json names docker-thinpool, which does not run.",)
    assert names(clean(trying, shot=HEALTHY)) == ["stop-engine", "move-state-aside", "start-engine"]
    resting = clean(replace(trying, service=support.docker().service))
    assert (names(resting), resting.notes) == (["move-state-aside"], plan.notes)


@pytest.mark.parametrize(
    "found", [support.docker(), replace(support.docker(), installed=False, version=""), support.docker(running=True)]
)
def test_where_there_is_no_state_there_is_nothing_to_do(found: Engine) -> None:
    assert clean(found).is_empty
    assert clean(found, PURGE).is_empty


def test_an_engine_that_was_not_looked_at_is_left_alone() -> None:
    assert plan_clean(PURGE, STATE, BLANK, NOTHING).is_empty


def test_state_of_a_living_pool_is_left_alone() -> None:
    used = support.with_status(HEALTHY, transaction_id=7, used_data_blocks=100)
    for request in (CLEAN, PURGE):
        plan = clean(replace(STALE, config_text=support.docker(configured=True).config_text), request, used)
        assert (plan.is_empty, plan.warnings) == (True, ())


LOOP = replace(support.STALE, loop_files=("/var/lib/docker/devicemapper/data",), loop_data_bytes=4096)


def test_state_in_loop_files_is_let_go_of_only_when_that_is_allowed() -> None:
    service = support.docker(running=True).service
    plan = clean(
        replace(STALE, state=LOOP, running=True, driver="devicemapper", pids=(1,), service=service), shot=HEALTHY
    )
    assert [(step_name(step), step.danger) for step in plan.steps] == [
        ("stop-engine", "outage"),
        ("move-state-aside", "destroys"),
    ]
    assert plan.notes == (
        "docker stays stopped: it would make loop files again. thinpoolmgr apply puts it on its pool.",
    )
    assert converged(replace(STALE, state=LOOP)).state is None


def test_state_of_a_wiped_pool_is_let_go_of_with_the_containers_and_says_what_is_lost() -> None:
    made_at = 1000.0
    group = HEALTHY.groups[0]
    lvs = tuple(replace(lv, made_at=made_at) for lv in group.lvs)
    shot = replace(HEALTHY, groups=(replace(group, lvs=lvs),))
    state = replace(support.STALE, written_at=made_at + 1, containers_folder="/var/lib/docker/containers")
    found = replace(STALE, state=state)
    (step,) = clean(found, shot=shot).steps
    assert isinstance(step, MoveStateAside)
    assert (step.danger, step.paths[0]) == ("destroys", "/var/lib/docker/containers")
    assert "lost with it: all images and containers of docker" in step.reason
    (kept,) = clean(replace(found, state=replace(state, other_drivers=("overlay2",))), shot=shot).steps
    assert isinstance(kept, MoveStateAside)
    assert "/var/lib/docker/containers" not in kept.paths
    older = replace(found, state=replace(state, written_at=made_at - 1))
    assert [step.danger for step in clean(older, shot=shot).steps] == ["safe"]
    mounted = clean(replace(found, state=replace(state, obstacle="/x is a mount point")), shot=shot)
    assert codes(mounted) == ["ENGINE_STATE_IMMOVABLE"]


def test_without_lvms_word_of_when_the_pool_was_made_the_journal_decides_or_nobody() -> None:
    pool = HEALTHY.groups[0].lvs[0]
    found = replace(STALE, state=replace(support.STALE, written_at=1001.0))

    def judged(*made: MadePool) -> Plan:
        return clean(found, shot=HEALTHY, memory=Memory(made=made))

    assert [step.danger for step in judged(MadePool(pool.uuid, 1, 1, 1000.0)).steps] == ["destroys"]
    assert [step.danger for step in judged(MadePool(pool.uuid, 1, 1, 1002.0)).steps] == ["safe"]
    for made in ((), (MadePool(pool.uuid, 1, 1),), (MadePool("another", 1, 1, 1002.0),)):
        plan = judged(*made)
        assert (codes(plan), plan.steps) == (["ENGINE_STATE_UNKNOWN"], ())
        assert "nothing tells when it was made" in plan.refusals[0].details
    apply = plan_for(Request("apply"), STATE, support.with_engine(HEALTHY, found), NOTHING)
    assert codes(apply) == ["ENGINE_STATE_UNKNOWN"]


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (replace(support.STALE, damage="base cannot be read"), "ENGINE_STATE_DAMAGED"),
        (support.STALE, "ENGINE_STATE_OTHER_POOL"),
        (None, "ENGINE_POOL_TAKEN"),
    ],
)
def test_what_needs_a_new_pool_is_refused_and_the_way_out_named(state: EngineState | None, code: str) -> None:
    plan = clean(replace(STALE, state=state), shot=support.healthy(transaction_id=3, used_data_blocks=9))
    assert (codes(plan), plan.steps) == ([code], ())
    assert "thinpoolmgr rebuild docker --allow outage,destroy" in plan.refusals[0].resolution


def refused(found: Engine, shot: Snapshot, word: str, state: DesiredState = STATE) -> None:
    for request in (CLEAN, PURGE):
        plan = plan_for(request, state, support.with_engine(shot, found), NOTHING)
        assert (codes(plan), plan.steps) == (["ENGINE_STATE_UNKNOWN"], ())
        assert word in plan.refusals[0].details
        assert "/var/lib/docker/devicemapper away yourself" in plan.refusals[0].resolution


def test_state_that_cannot_be_read_or_may_be_another_pools_is_refused() -> None:
    more = support.with_free_disk(HEALTHY, support.disk("/dev/sdc"))
    other = support.with_pool(support.with_group(more, "other"), support.pool("other"), 100)
    refused(STALE, other, "may be the one")
    unread = clean(replace(STALE, state_problem="Permission denied", state=None))
    assert (codes(unread), unread.refusals[0].details) == (["ENGINE_STATE_UNKNOWN"], "Permission denied")


AWAY = replace(BLANK, disks=(), configured_devices=(ConfiguredDevice("/dev/sdb", problem="missing"),))
SPARE = ConfiguredDevice("/dev/sdc", problem="missing")
HIDDEN = support.disk(signatures=(support.LABEL,))


@pytest.mark.parametrize(
    ("shot", "word"),
    [
        (AWAY, "/dev/sdb is missing"),
        (replace(BLANK, disks=(), configured_devices=()), "/dev/sdb was not looked at"),
        (replace(BLANK, configured_devices=(*BLANK.configured_devices, SPARE)), "/dev/sdc is missing"),
        (support.snapshot(support.disk(signatures=None, probe_error="I/O error")), "/dev/sdb cannot be read"),
        (support.snapshot(HIDDEN), "/dev/sdb carries LVM's label"),
        (
            support.snapshot(HIDDEN, orphan_pvs=(PhysicalVolume("/dev/sdb", "u", HIDDEN.size_bytes, duplicate=True),)),
            "/dev/sdb carries LVM's label",
        ),
        (support.with_group(BLANK, "renamed"), "/dev/sdb carries LVM's label"),
    ],
)
def test_state_of_a_pool_that_may_only_be_away_is_left_alone(shot: Snapshot, word: str) -> None:
    state = support.desired(support.pool(spare_devices=("/dev/sdc",)), engines=(support.engine(),))
    refused(STALE, shot, word, state if SPARE in shot.configured_devices else STATE)


def test_state_of_a_pool_whose_selectors_choose_no_disk_is_left_alone() -> None:
    match = support.pool(devices=(), match=({"serial": "S-?"},))
    state = support.desired(match, engines=(support.engine(),))
    refused(STALE, replace(BLANK, disks=(), configured_devices=()), "chosen by what a disk is", state)
    blank = support.with_engine(replace(BLANK, configured_devices=()), STALE)
    assert names(plan_for(CLEAN, state, blank, NOTHING)) == ["move-state-aside"]


@pytest.mark.parametrize("shot", [BLANK, HEALTHY])
def test_state_of_a_pool_that_is_named_and_not_seen_is_left_alone(shot: Snapshot) -> None:
    text = (support.docker(configured=True).config_text or "").replace("docker-thinpool", "old-thinpool")
    refused(replace(STALE, config_text=text), shot, "names old-thinpool")


def test_labels_that_are_kept_on_purpose_do_not_hide_a_pool() -> None:
    pv = PhysicalVolume("/dev/sdb", "u", HIDDEN.size_bytes)
    for shot in (support.snapshot(HIDDEN, orphan_pvs=(pv,)), support.with_group(BLANK)):
        assert names(clean(STALE, shot=shot)) == ["move-state-aside"]


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"running": None}, "ENGINE_UNKNOWN"),
        ({"config_problem": "line 1: no JSON"}, "ENGINE_CONFIG_INVALID"),
        ({"state": replace(support.STALE, obstacle="/x is a mount point")}, "ENGINE_STATE_IMMOVABLE"),
        (
            {"running": True, "pids": (4711,), "driver": "overlay2", "service": support.docker(systemd=False).service},
            "ENGINE_RUNNING",
        ),
    ],
)
@pytest.mark.parametrize("request_", [CLEAN, PURGE])
def test_what_stands_against_it_is_refused_with_a_way_out(facts: dict[str, Any], code: str, request_: Request) -> None:
    plan = clean(replace(STALE, set_aside=OLD, **facts), request_)
    assert (codes(plan), plan.steps) == ([code], ())
    assert plan.refusals[0].summary
    assert plan.refusals[0].resolution


def test_purge_deletes_only_what_had_been_moved_aside_before() -> None:
    plan = clean(replace(STALE, set_aside=OLD), PURGE)
    assert names(plan) == ["move-state-aside", *["delete-set-aside"] * 2]
    move = plan.steps[0]
    assert isinstance(move, MoveStateAside)
    assert [target(step) for step in plan.steps[1:]] == [*OLD]
    assert {(step.danger, step_mark(step)) for step in plan.steps[1:]} == {("destroys", "-")}
    after = converged(replace(STALE, set_aside=OLD), PURGE)
    assert (after.state, after.set_aside) == (None, (move.into,))
    assert [target(step) for step in clean(after, PURGE).steps] == [move.into]


def test_without_purge_nothing_that_was_moved_aside_is_deleted() -> None:
    assert clean(support.docker(set_aside=OLD)).is_empty
    assert converged(replace(STALE, set_aside=OLD)).set_aside[:2] == OLD


def test_nothing_is_deleted_below_a_running_engine() -> None:
    running = support.docker(running=True, set_aside=OLD[:1])
    assert names(clean(running, PURGE)) == ["stop-engine", "delete-set-aside", "start-engine"]
    assert converged(running, PURGE).set_aside == ()


def test_a_purge_that_was_cut_short_goes_on_and_deletes_no_more() -> None:
    before = support.with_engine(BLANK, replace(STALE, set_aside=OLD))
    plan = plan_for(PURGE, STATE, before, NOTHING)
    assert plan.request is not None
    for done in range(len(plan.steps) + 1):
        shot = before
        for step in plan.steps[:done]:
            shot = support.apply_step(shot, step)
        begun = (plan.request,)
        memory = Memory(interrupted=plan.steps[: done + 1], pending=plan.steps[done + 1 :], begun=begun)
        after = support.carried_out(shot, plan_for(PURGE, STATE, shot, memory))
        engine = after.find_engine("docker")
        assert engine is not None
        assert (engine.state, len(engine.set_aside)) == (None, 1)


def test_only_the_engine_that_is_named_is_cleaned() -> None:
    assert names(clean(STALE, Request("clean", engine="docker"))) == ["move-state-aside"]
    assert clean(STALE, Request("clean", engine="containerd")).is_empty


def test_the_folder_to_delete_is_the_engines_own() -> None:
    (step,) = clean(support.docker(set_aside=OLD[:1]), PURGE).steps
    assert isinstance(step, DeleteSetAside)
    assert (step.engine, step.path, step.pool) == ("docker", OLD[0], "docker")
