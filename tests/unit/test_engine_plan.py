from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.commands import commands
from thinpoolmgr.core.engine_plan import check_engine, plan_engine_start, queue_starts, stop_engine
from thinpoolmgr.core.engine_state import move_aside
from thinpoolmgr.core.model import ServiceState
from thinpoolmgr.core.plan import Memory, Refusal
from thinpoolmgr.core.planner import plan_apply
from thinpoolmgr.core.steps import (
    MoveStateAside,
    StartEngine,
    StopContainers,
    StopEngine,
    WriteEngineConfig,
    step_mark,
    step_name,
)

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Engine, Snapshot
    from thinpoolmgr.core.plan import Plan

NOTHING = Memory()
HEALTHY = support.healthy()
STATE = support.desired(engines=(support.engine(),))


def plan(found: Engine, shot: Snapshot = HEALTHY, memory: Memory = NOTHING) -> Plan:
    return plan_apply(STATE, support.with_engine(shot, found), memory)


def names(found: Plan) -> list[str]:
    return [step_name(step) for step in found.steps]


def codes(found: Plan) -> list[str]:
    return [refusal.code for refusal in found.refusals]


def test_a_configured_engine_needs_nothing() -> None:
    for running in (True, False):
        assert plan(support.docker(running=running, configured=True)).is_empty


@pytest.mark.parametrize("found", [support.docker(installed=False, config_text=None), None])
def test_an_engine_that_is_missing_is_unavailable(found: Engine | None) -> None:
    shot = support.with_engine(HEALTHY, found) if found else HEALTHY
    refused = plan_apply(STATE, shot, NOTHING)
    assert (codes(refused), refused.refusals[0].exit_code) == (["ENGINE_MISSING"], 69)
    assert "[engines.docker]" in refused.refusals[0].resolution


@pytest.mark.parametrize("version", ["25.0.0", "28.1.1", "v27.0"])
def test_an_engine_without_the_driver_is_unavailable(version: str) -> None:
    refused = plan(support.docker(version=version))
    assert (codes(refused), refused.refusals[0].exit_code) == (["ENGINE_UNSUPPORTED"], 69)
    assert version in refused.refusals[0].summary


@pytest.mark.parametrize("version", ["", "unknown", "library-import"])
def test_an_unknown_version_is_refused(version: str) -> None:
    refused = plan(support.docker(version=version))
    assert (codes(refused), refused.refusals[0].exit_code) == (["ENGINE_UNKNOWN"], 3)
    assert names(refused) == []


def test_an_engine_that_does_not_answer_is_refused_with_its_pid() -> None:
    refused = plan(support.docker(running=None, pids=(12, 13)))
    assert (codes(refused), "(pid 12, 13)" in refused.refusals[0].summary) == (["ENGINE_UNKNOWN"], True)


def test_a_configuration_that_cannot_be_read_is_refused() -> None:
    refused = plan(support.docker(config_problem="line 1: no JSON"))
    assert (codes(refused), refused.refusals[0].target) == (["ENGINE_CONFIG_INVALID"], support.DAEMON_JSON)
    assert refused.refusals[0].details == "line 1: no JSON"


def test_a_refused_engine_hides_no_refusal_of_its_pool() -> None:
    shot = support.snapshot(support.disk(mounts=("/srv",)))
    assert codes(plan(support.docker(version="25.0"), shot)) == ["DISK_MOUNTED", "ENGINE_UNSUPPORTED"]


def test_the_engine_follows_its_pool() -> None:
    found = plan(support.docker(), support.snapshot())
    assert names(found) == ["create-volume-group", "create-thin-pool", "write-engine-config"]
    assert found.notes == ("docker is not running: start it when this is done.",)
    write = found.steps[2]
    assert isinstance(write, WriteEngineConfig)
    assert (write.path, write.old_text) == (support.DAEMON_JSON, '{"debug": true}\n')
    assert "dm.thinpooldev=/dev/mapper/docker-thinpool" in json.loads(write.new_text)["storage-opts"]
    assert step_mark(write) == "~"


def test_a_file_that_does_not_exist_is_created() -> None:
    (write,) = plan(support.docker(config_text=None)).steps
    assert (step_mark(write), "does not exist" in write.reason) == ("+", True)


def test_a_running_engine_is_stopped_before_and_started_after() -> None:
    found = plan(replace(support.docker(running=True), state=support.STALE), support.snapshot())
    assert names(found)[2:] == ["stop-engine", "move-state-aside", "write-engine-config", "start-engine"]
    stop, move, _, start = found.steps[2:]
    assert isinstance(stop, StopEngine)
    assert isinstance(move, MoveStateAside)
    assert isinstance(start, StartEngine)
    assert (stop.danger, move.danger, start.danger) == ("outage", "safe", "safe")
    assert stop.units == start.units == ("docker.socket", "docker.service")
    assert move.paths == ("/var/lib/docker/image/devicemapper", "/var/lib/docker/devicemapper")
    assert move.into.startswith("/var/lib/docker/thinpoolmgr-stale-")
    assert found.notes == ()


def test_a_running_engine_without_systemd_is_refused_with_its_pid() -> None:
    refused = plan(support.docker(running=True, systemd=False))
    assert codes(refused) == ["ENGINE_RUNNING"]
    assert "pid 4711" in refused.refusals[0].summary
    assert "kill 4711" in refused.refusals[0].resolution


def test_an_engine_started_by_hand_beside_its_unit_is_not_stopped_by_systemd() -> None:
    by_hand = support.docker(running=True, service=ServiceState(systemd=True, unit="docker.service"))
    refused = plan(by_hand)
    assert (codes(refused), "4711" in refused.refusals[0].summary) == (["ENGINE_RUNNING"], True)


def test_a_stopped_engine_without_systemd_is_configured_with_a_note() -> None:
    found = plan(support.docker(systemd=False))
    assert names(found) == ["write-engine-config"]
    assert found.notes == ("docker is not running: start it when this is done.",)


def test_what_we_stopped_is_started_even_when_nothing_else_is_left() -> None:
    stopped = Memory(stopped_engines=("docker",))
    assert names(plan(support.docker(configured=True), memory=stopped)) == ["start-engine"]
    assert names(plan(support.docker(), memory=stopped)) == ["write-engine-config", "start-engine"]
    assert plan(support.docker(configured=True, running=True), memory=stopped).is_empty
    assert plan(support.docker(configured=True, systemd=False), memory=stopped).is_empty
    assert plan(support.docker(configured=True), memory=Memory(stopped_engines=("other",))).is_empty


def test_what_systemd_is_about_to_start_is_neither_started_nor_asked_for() -> None:
    waiting = ServiceState(systemd=True, unit="docker.service", sockets=("docker.socket",), queued=True)
    assert plan(support.docker(configured=True, service=waiting), memory=Memory(stopped_engines=("docker",))).is_empty
    found = plan(support.docker(service=waiting))
    assert (names(found), found.notes) == (["write-engine-config"], ())


def test_a_unit_that_engines_wait_for_does_not_wait_for_them() -> None:
    found = plan(support.docker(), memory=Memory(stopped_engines=("docker",)))
    queued = queue_starts(found)
    assert names(queued) == names(found)
    assert commands(found.steps[-1])[-1] == ("systemctl", "start", "docker.socket", "docker.service")
    assert commands(queued.steps[-1])[-1] == ("systemctl", "start", "--no-block", "docker.socket", "docker.service")
    assert queued.steps[:-1] == found.steps[:-1]


def test_state_of_a_pool_that_is_gone_is_moved_aside() -> None:
    found = plan(support.docker(configured=True, state=support.STALE))
    assert names(found) == ["move-state-aside"]
    assert "its pool is gone" in found.steps[0].reason


def test_state_of_this_pool_stays() -> None:
    used = support.healthy(transaction_id=7, used_data_blocks=100)
    assert plan(support.docker(configured=True, state=support.STALE), used).is_empty


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (support.docker(state=replace(support.STALE, loop_files=("/l/data",))), "ENGINE_LOOP_LVM"),
        (support.docker(state_problem="Permission denied"), "ENGINE_STATE_UNKNOWN"),
        (support.docker(state=replace(support.STALE, obstacle="a mount point")), "ENGINE_STATE_IMMOVABLE"),
    ],
)
def test_state_that_is_not_known_to_be_stale_is_left_alone(found: Engine, code: str) -> None:
    for shot in (support.snapshot(), HEALTHY):
        refused = plan(found, shot)
        assert codes(refused) == [code]
        assert "move-state-aside" not in names(refused)


def test_state_of_another_pool_that_exists_is_foreign() -> None:
    text = '{"storage-driver": "devicemapper", "storage-opts": ["dm.thinpooldev=/dev/mapper/old-thinpool"]}'
    shot = support.with_pool(
        support.snapshot(support.disk("/dev/sdb"), support.disk("/dev/sdc")), support.pool("old", "/dev/sdb")
    )
    blank = replace(shot, disks=(*shot.disks, support.disk("/dev/sdd")))
    configured = replace(blank, configured_devices=support.snapshot(*blank.disks).configured_devices)
    state = support.desired(support.pool("docker", "/dev/sdd"), engines=(support.engine(),))
    found = support.with_engine(configured, support.docker(config_text=text, state=support.STALE))
    refused = plan_apply(state, found, NOTHING)
    assert codes(refused) == ["ENGINE_STATE_FOREIGN"]
    assert codes(plan_apply(state, support.deactivated(found, "old"), NOTHING)) == ["ENGINE_STATE_FOREIGN"]


@pytest.mark.parametrize("name", ["old", "gone"])
def test_an_engine_that_runs_on_another_pool_is_not_put_on_ours(name: str) -> None:
    shot = support.with_free_disk(HEALTHY, support.disk("/dev/sdz"))
    shot = support.with_pool(shot, support.pool("old", "/dev/sdz"))
    text = f'{{"storage-driver": "devicemapper", "storage-opts": ["dm.thinpooldev=/dev/mapper/{name}-thinpool"]}}'
    found = support.docker(running=True, driver="devicemapper", config_text=text, state=support.STALE)
    refused = plan(found, shot)
    assert codes(refused) == ["ENGINE_STATE_FOREIGN" if name == "old" else "ENGINE_STATE_UNKNOWN"]


def test_state_that_no_name_ties_to_a_pool_stays_when_there_is_another_pool() -> None:
    shot = support.with_pool(
        support.snapshot(support.disk("/dev/sdb"), support.disk("/dev/sdc")), support.pool("old", "/dev/sdb")
    )
    configured = replace(shot, configured_devices=support.snapshot(*shot.disks).configured_devices)
    state = support.desired(support.pool("docker", "/dev/sdc"), engines=(support.engine(),))
    found = support.with_engine(configured, support.docker(config_text="{}", state=support.STALE))
    (refusal,) = [r for r in plan_apply(state, found, NOTHING).refusals if r.code == "ENGINE_STATE_UNKNOWN"]
    assert "old-thinpool" in refusal.details


def test_stale_state_is_seen_while_the_engine_runs_on_another_driver() -> None:
    running = support.docker(running=True, driver="vfs", state=support.STALE)
    assert names(plan(running))[:2] == ["stop-engine", "move-state-aside"]


def test_an_engine_that_systemd_keeps_trying_to_start_is_stopped_first() -> None:
    service = ServiceState(systemd=True, unit="docker.service", active=None)
    trying = support.docker(state=support.STALE, service=service)
    assert names(plan(trying)) == ["stop-engine", "move-state-aside", "write-engine-config", "start-engine"]


def test_a_configuration_that_cannot_be_written_is_refused_before_the_pool_is_made() -> None:
    refused = plan(support.docker(config_unwritable="its folder is read-only"), support.snapshot())
    assert codes(refused) == ["ENGINE_CONFIG_UNWRITABLE"]
    assert plan(support.docker(configured=True, config_unwritable="its folder is read-only")).is_empty


def test_the_folder_aside_is_the_same_for_the_same_state() -> None:
    found = support.docker()
    first = move_aside(found, support.STALE, "r", "p", NOTHING)
    assert move_aside(found, support.STALE, "another", "p", NOTHING).into == first.into
    assert move_aside(found, replace(support.STALE, written_at=9.0), "r", "p", NOTHING).into == first.into
    assert move_aside(found, replace(support.STALE, transaction_id=8), "r", "p", NOTHING).into != first.into


def test_a_move_that_was_cut_short_goes_on_into_the_same_folder() -> None:
    found = support.docker()
    first = move_aside(found, support.STALE, "r", "p", NOTHING)
    half = replace(support.STALE, related=())
    second = move_aside(found, half, "r", "p", Memory(interrupted=(first,)))
    assert (second.paths, second.into) == (first.paths, first.into)
    assert move_aside(found, half, "r", "p", NOTHING).into != first.into


def test_a_base_size_below_what_docker_has_is_refused() -> None:
    used = replace(support.STALE, transaction_id=1, devices=())
    shot = support.with_status(HEALTHY, transaction_id=1, used_data_blocks=10)
    big = support.docker(configured=True, state=replace(used, base_size_bytes=20 * 2**30))
    refused = plan(big, shot)
    assert codes(refused) == ["BASE_SIZE_SHRINKS"]
    assert 'base_size = "20GiB"' in refused.refusals[0].resolution
    assert plan(support.docker(configured=True, state=used), shot).is_empty


def test_starting_alone_needs_that_we_stopped_it() -> None:
    engine = support.engine()
    shot = support.with_engine(HEALTHY, support.docker())
    assert plan_engine_start(engine, shot, NOTHING, "docker").is_empty
    assert plan_engine_start(engine, HEALTHY, Memory(stopped_engines=("docker",)), "docker").is_empty
    (start,) = plan_engine_start(engine, shot, Memory(stopped_engines=("docker",)), "docker").steps
    assert start.reason == "thinpoolmgr stopped it"


def test_stopping_names_the_containers_that_end() -> None:
    steps = stop_engine(support.docker(running=True, containers=("a", "b")), "why", "docker")
    assert isinstance(steps, list)
    assert [step.reason for step in steps] == ["docker is running and why; running containers: a, b"]
    many = support.docker(running=True, containers=tuple(f"c{number}" for number in range(103)))
    steps = stop_engine(many, "why", "docker")
    assert isinstance(steps, list)
    assert steps[0].reason.endswith("c98, c99 and 3 more")


def test_containers_that_would_outlive_their_engine_are_stopped_first() -> None:
    found = support.docker(running=True, live_restore=True, containers=("a", "b"), socket="/run/docker.sock")
    steps = stop_engine(found, "why", "docker")
    assert isinstance(steps, list)
    first, second = steps
    assert isinstance(first, StopContainers)
    assert isinstance(second, StopEngine)
    assert (first.danger, first.socket, first.containers) == ("outage", "/run/docker.sock", ("a", "b"))
    assert "live-restore is on" in first.reason
    assert "a, b" in first.reason
    without = stop_engine(replace(found, containers=()), "why", "docker")
    assert isinstance(without, list)
    assert [step_name(step) for step in without] == ["stop-engine"]


@pytest.mark.parametrize("live_restore", [False, True])
def test_the_engine_checks_its_new_configuration_before_anything_stops(*, live_restore: bool) -> None:
    found = support.docker(running=True, version="24.0.7", live_restore=live_restore, containers=("a",))
    stops = [step for step in plan(found).steps if isinstance(step, StopContainers | StopEngine)]
    assert [bool(step.check) for step in stops] == ([True, False] if live_restore else [True])
    assert commands(stops[0])[0][:2] == ("dockerd", "--validate")
    assert "devicemapper" in stops[0].candidate_text


def test_a_person_is_told_to_stop_containers_that_would_outlive_their_engine() -> None:
    by_hand = support.docker(running=True, live_restore=True, containers=("a",), systemd=False)
    refusal = stop_engine(by_hand, "why", "docker")
    assert isinstance(refusal, Refusal)
    assert "running containers: a" in refusal.summary
    assert "docker stop" in refusal.resolution


def test_an_engine_in_order_is_not_refused() -> None:
    assert check_engine(support.engine(), support.docker()) is None
