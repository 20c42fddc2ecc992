"""`clean`: stale state is moved aside, deleted only when that is asked for, and everything else is left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.clean import plan_clean
from thinpoolmgr.core.plan import Memory, Request
from thinpoolmgr.core.steps import DeleteSetAside, MoveStateAside, step_mark, step_name, target

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Engine, Snapshot
    from thinpoolmgr.core.plan import Plan

NOTHING = Memory()
CLEAN, PURGE = Request("clean"), Request("clean", purge=True)
STATE = support.desired(engines=(support.engine(),))
BLANK, HEALTHY = support.snapshot(), support.healthy()
STALE = support.docker(state=support.STALE)
OLD = ("/var/lib/docker/thinpoolmgr-stale-1", "/var/lib/docker/thinpoolmgr-stale-2")


def clean(found: Engine, request: Request = CLEAN, shot: Snapshot = BLANK, memory: Memory = NOTHING) -> Plan:
    return plan_clean(request, STATE, support.with_engine(shot, found), memory)


def names(plan: Plan) -> list[str]:
    return [step_name(step) for step in plan.steps]


def codes(plan: Plan) -> list[str]:
    return [refusal.code for refusal in plan.refusals]


def converged(found: Engine, request: Request = CLEAN, shot: Snapshot = BLANK) -> Engine:
    before = support.with_engine(shot, found)
    after = support.carried_out(before, plan_clean(request, STATE, before, NOTHING))
    assert plan_clean(request, STATE, after, NOTHING).is_empty
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


def test_an_engine_that_a_run_before_stopped_is_started_also_when_nothing_is_stale() -> None:
    plan = clean(support.docker(configured=True), memory=Memory(stopped_engines=("docker",)))
    assert names(plan) == ["start-engine"]


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


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ({"state_problem": "Permission denied", "state": None}, "Permission denied"),
        ({"state": replace(support.STALE, loop_files=("/var/lib/docker/devicemapper/data",))}, "is a pool in a file"),
    ],
)
def test_state_that_cannot_be_judged_is_left_alone_with_a_warning(facts: dict[str, Any], word: str) -> None:
    plan = clean(replace(STALE, **facts))
    assert plan.is_empty
    assert word in plan.warnings[0]
    assert "is left alone" in plan.warnings[0]


def test_state_that_may_belong_to_another_pool_is_left_alone() -> None:
    more = support.with_free_disk(HEALTHY, support.disk("/dev/sdc"))
    other = support.with_pool(support.with_group(more, "other"), support.pool("other"), 100)
    assert clean(STALE, shot=other).is_empty
    assert "may be the one" in clean(STALE, shot=other).warnings[0]


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


def test_purge_deletes_what_was_moved_aside_and_what_it_moves_now() -> None:
    plan = clean(replace(STALE, set_aside=OLD), PURGE)
    assert names(plan) == ["move-state-aside", *["delete-set-aside"] * 3]
    move = plan.steps[0]
    assert isinstance(move, MoveStateAside)
    assert [target(step) for step in plan.steps[1:]] == [*OLD, move.into]
    assert {(step.danger, step_mark(step)) for step in plan.steps[1:]} == {("destroys", "-")}
    after = converged(replace(STALE, set_aside=OLD), PURGE)
    assert (after.state, after.set_aside) == (None, ())


def test_without_purge_nothing_that_was_moved_aside_is_deleted() -> None:
    assert clean(support.docker(set_aside=OLD)).is_empty
    assert converged(replace(STALE, set_aside=OLD)).set_aside[:2] == OLD


def test_nothing_is_deleted_below_a_running_engine() -> None:
    running = support.docker(running=True, set_aside=OLD[:1])
    assert names(clean(running, PURGE)) == ["stop-engine", "delete-set-aside", "start-engine"]
    assert converged(running, PURGE).set_aside == ()


def test_a_purge_that_was_cut_short_goes_on() -> None:
    before = support.with_engine(BLANK, replace(STALE, set_aside=OLD))
    plan = plan_clean(PURGE, STATE, before, NOTHING)
    for done in range(len(plan.steps)):
        shot = before
        for step in plan.steps[:done]:
            shot = support.apply_step(shot, step)
        memory = Memory(interrupted=plan.steps[: done + 1], pending=plan.steps[done + 1 :])
        after = support.carried_out(shot, plan_clean(PURGE, STATE, shot, memory))
        engine = after.find_engine("docker")
        assert engine is not None
        assert (engine.state, engine.set_aside) == (None, ())


def test_only_the_engine_that_is_named_is_cleaned() -> None:
    assert names(clean(STALE, Request("clean", engine="docker"))) == ["move-state-aside"]
    assert clean(STALE, Request("clean", engine="containerd")).is_empty


def test_the_folder_to_delete_is_the_engines_own() -> None:
    (step,) = clean(support.docker(set_aside=OLD[:1]), PURGE).steps
    assert isinstance(step, DeleteSetAside)
    assert (step.engine, step.path, step.pool) == ("docker", OLD[0], "docker")
