"""A smaller base: refused with what would be lost, and with `--allow destroy` a pool made anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import support
from msgspec.structs import replace
from test_requests import Stage, pool_of

from thinpoolmgr.core.engine_graph import EngineContainer, EngineGraph, EngineImage, say_contents
from thinpoolmgr.core.model import EngineDevice, EngineState
from thinpoolmgr.core.plan import Memory, Request, command_line
from thinpoolmgr.core.requests import desired_for, plan_for
from thinpoolmgr.core.steps import MoveStateAside, RemoveThinPool, step_name
from thinpoolmgr.errors import RefusedError
from thinpoolmgr.sim.faults import Killed
from thinpoolmgr.units import GIB

if TYPE_CHECKING:
    from pathlib import Path

    from thinpoolmgr.core.model import Engine, Snapshot
    from thinpoolmgr.core.plan import Plan

GRAPH = EngineGraph(
    images=(EngineImage("sha256:1", ("web:2", "web:1")), EngineImage("sha256:2", ("db@sha256:9",))),
    containers=(EngineContainer("c1", "shop"), EngineContainer("c2")),
)
NAMED = "images db@sha256:9, web:1, web:2, and containers c2, shop"
STATE = EngineState(
    "/var/lib/docker/devicemapper",
    base_device_uuid="u",
    base_size_bytes=10 * GIB,
    transaction_id=7,
    devices=(EngineDevice("base", 1, 10 * GIB, 7),),
    related=("/var/lib/docker/image/devicemapper",),
    containers_folder="/var/lib/docker/containers",
)
DOCKER = support.docker(running=True, configured=True, state=STATE, graph=GRAPH)
USED = support.with_engine(support.healthy(transaction_id=7, used_data_blocks=100), DOCKER)
SMALLER = support.desired(engines=(support.engine(base_size="5GiB"),))
APPLY, EMPTY = Request("apply"), Request("apply", may_empty=True)


def plan(request: Request, shot: Snapshot = USED) -> Plan:
    return plan_for(request, desired_for(request, SMALLER), shot, Memory(), support.apply_step)


def test_a_smaller_base_is_refused_with_what_it_would_cost() -> None:
    (refusal,) = plan(APPLY).refusals
    assert (refusal.code, refusal.exit_code) == ("BASE_SIZE_SHRINKS", 3)
    assert f"Lost with it: {NAMED}." in refusal.details
    assert "--allow outage,destroy" in refusal.resolution


def test_where_it_may_be_lost_the_pool_is_made_anew_as_one_plan() -> None:
    made = plan(EMPTY)
    assert [step_name(step) for step in made.steps] == [
        "stop-engine",
        "deactivate-pool",
        "remove-thin-pool",
        "remove-volume-group",
        "remove-physical-volumes",
        "move-state-aside",
        "create-volume-group",
        "create-thin-pool",
        "write-engine-config",
        "start-engine",
    ]
    removal = next(step for step in made.steps if isinstance(step, RemoveThinPool))
    assert (removal.danger, removal.reason) == (
        "destroys",
        f"docker/thinpool is to be destroyed, and with it {NAMED}",
    )
    (move,) = [step for step in made.steps if isinstance(step, MoveStateAside)]
    assert move.paths == (STATE.containers_folder, *STATE.related, STATE.path)


def test_what_does_not_shrink_is_not_emptied() -> None:
    same = support.desired(engines=(support.engine(),))
    assert plan_for(EMPTY, desired_for(EMPTY, same), USED, Memory(), support.apply_step).is_empty


def test_any_other_trouble_comes_first() -> None:
    with_taken = support.desired(
        support.pool(), support.pool("other", "/dev/sdz"), engines=(support.engine(base_size="5GiB"),)
    )
    made = plan_for(EMPTY, desired_for(EMPTY, with_taken), USED, Memory(), support.apply_step)
    assert [refusal.code for refusal in made.refusals] == ["DISK_UNREADABLE"]


def test_what_keeps_the_pool_from_being_destroyed_keeps_it_from_being_emptied() -> None:
    held = support.with_lv(USED, support.linear("data", support.EXTENT))
    assert [refusal.code for refusal in plan(EMPTY, held).refusals] == ["GROUP_HAS_OTHER_LVS"]
    by_hand = replace(DOCKER, service=support.docker(systemd=False).service)
    assert [refusal.code for refusal in plan(EMPTY, support.with_engine(USED, by_hand)).refusals] == ["ENGINE_RUNNING"]


def test_what_must_be_looked_for() -> None:
    desired = desired_for(EMPTY, SMALLER)
    assert (desired.holders_of, desired.names_contents) == ("docker", True)
    assert desired_for(APPLY, SMALLER) is SMALLER
    assert desired_for(Request("rebuild", "docker"), SMALLER).names_contents
    assert not desired_for(Request("deactivate", "docker"), SMALLER).names_contents
    assert command_line(EMPTY) == "thinpoolmgr apply --allow outage,destroy"


STEPS = range(len(plan(EMPTY).steps))


def engine_of(shot: Snapshot) -> Engine:
    (engine,) = shot.engines
    return engine


@pytest.mark.parametrize("at", STEPS)
@pytest.mark.parametrize("when", ["before", "first", "after"])
def test_interrupted_anywhere_the_same_command_ends_it(tmp_path: Path, at: int, when: str) -> None:
    there = Stage(tmp_path, USED, SMALLER)
    kill = Killed(when) if when in ("before", "after") else Killed("inside", when)  # type: ignore[arg-type]
    there.cut(EMPTY, kill, at)
    there.run(EMPTY)
    found = engine_of(there.host.snapshot)
    assert (found.running, found.state, len(found.set_aside)) == (True, None, 1)
    assert "basesize=5G" in (found.config_text or "")
    assert pool_of(there.host.snapshot).uuid != pool_of(USED).uuid
    took = [step_name(step) for step in there.host.took_effect]
    assert (took.count("remove-thin-pool"), took.count("move-state-aside")) == (1, 1)
    assert there.run(APPLY).outcome == "nothing"
    assert there.unfinished == []


@pytest.mark.parametrize("at", [step for step in STEPS if step >= 3])
def test_once_the_pool_is_gone_a_plain_apply_ends_it_and_moves_the_same(tmp_path: Path, at: int) -> None:
    there = Stage(tmp_path, USED, SMALLER)
    there.cut(EMPTY, Killed("before"), at)
    there.run(APPLY)
    (move,) = [step for step in there.host.took_effect if isinstance(step, MoveStateAside)]
    assert move.paths == (STATE.containers_folder, *STATE.related, STATE.path)
    assert engine_of(there.host.snapshot).running
    assert there.run(APPLY).outcome == "nothing"


def test_before_that_a_plain_apply_is_refused_still(tmp_path: Path) -> None:
    there = Stage(tmp_path, USED, SMALLER)
    there.cut(EMPTY, Killed("after"), 0)
    with pytest.raises(RefusedError, match="base_size asks for 5GiB"):
        there.run(APPLY)


def test_of_a_pool_that_is_gone_it_is_told_what_is_lost_with_it() -> None:
    shot = support.with_engine(support.snapshot(), support.docker(state=STATE, graph=GRAPH))
    (move,) = [step for step in plan(APPLY, shot).steps if isinstance(step, MoveStateAside)]
    assert "its pool is gone: it records 1 device" in move.reason
    assert f"lost with it: {NAMED};" in move.reason


def test_contents_in_words() -> None:
    assert say_contents(None, "docker") == "all images and containers of docker"
    assert say_contents(EngineGraph(), "docker") == "no image, and no container"
    assert say_contents(GRAPH, "docker") == NAMED
    many = EngineGraph(containers=tuple(EngineContainer(f"c{n:03}") for n in range(102)))
    told = say_contents(many, "docker")
    assert ("c099 and 2 more" in told, "c100" in told) == (True, False)
