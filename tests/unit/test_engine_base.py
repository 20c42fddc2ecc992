"""The base device: whose it is, whether its file system is as large as recorded, and what mends that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.commands import commands
from thinpoolmgr.core.conditions import why_not_done
from thinpoolmgr.core.engine_base import Smaller, real_base_bytes, smaller_than_base
from thinpoolmgr.core.engine_graph import EngineContainer, EngineGraph, EngineImage, EngineLayer
from thinpoolmgr.core.model import BaseDevice, DmDevice, EngineDevice, EngineState
from thinpoolmgr.core.plan import Memory, Plan
from thinpoolmgr.core.planner import plan_apply
from thinpoolmgr.core.steps import GROWN_NAME, GrowBase, RemoveDmDevice, step_name
from thinpoolmgr.units import GIB, MIB

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Engine, Snapshot

UUID = "0c5d1e0a-9f8b-4e6f-a1b2-c3d4e5f60718"
OTHER = "1c5d1e0a-9f8b-4e6f-a1b2-c3d4e5f60718"
SMALL = BaseDevice(filesystem="xfs", size_bytes=10 * GIB, uuid=UUID)
WELL = replace(SMALL, size_bytes=20 * GIB)
USED = support.healthy(transaction_id=7, used_data_blocks=100)
NAME = "docker-8:1-42-base"


def docker(base: BaseDevice | None, recorded: int = 20 * GIB, **facts: Any) -> Engine:
    state = EngineState(
        "/var/lib/docker/devicemapper",
        base_device_uuid=UUID.upper(),
        base_size_bytes=recorded,
        transaction_id=7,
        devices=(EngineDevice("base", 3, recorded, 1),),
    )
    found = support.docker(configured=True, state=state, base=base, **facts)
    return replace(found, config_text=(found.config_text or "").replace("basesize=10G", f"basesize={recorded // GIB}G"))


def plan(found: Engine, wanted: str = "20GiB", shot: Snapshot = USED) -> Plan:
    state = support.desired(engines=(support.engine(base_size=wanted),))
    return plan_apply(state, support.with_engine(shot, found), Memory())


def names(made: Plan) -> list[str]:
    return [step_name(step) for step in made.steps]


def test_a_base_that_was_left_small_is_grown_while_docker_is_stopped() -> None:
    made = plan(docker(SMALL))
    (step,) = made.steps
    assert isinstance(step, GrowBase)
    assert (step.device_id, step.size_bytes, step.filesystem, step.danger) == (3, 20 * GIB, "xfs", "safe")
    assert "says 20GiB, the superblock of the base device 10GiB" in step.reason
    assert names(plan(docker(SMALL, running=True))) == ["stop-engine", "grow-base", "start-engine"]
    assert plan(docker(WELL)).is_empty


@pytest.mark.parametrize(
    "base",
    [
        None,
        BaseDevice(),
        BaseDevice(filesystem="btrfs", size_bytes=10 * GIB),
        # the last group of blocks may be left out
        replace(SMALL, size_bytes=20 * GIB - 16 * MIB + 512),
    ],
)
def test_what_is_not_known_or_large_enough_is_not_grown(base: BaseDevice | None) -> None:
    assert plan(docker(base)).is_empty


def test_docker_itself_grows_it_to_a_size_that_is_new() -> None:
    assert names(plan(docker(SMALL), "30GiB")) == ["write-engine-config"]


def test_an_active_base_is_let_go_of_before_anybody_grows_it() -> None:
    shot = support.with_thin_device(USED, NAME)
    active = replace(SMALL, dm_name=NAME)
    assert names(plan(docker(active), shot=shot)) == ["remove-dm-device", "grow-base"]
    larger = plan(docker(replace(WELL, dm_name=NAME)), "30GiB", shot)
    assert names(larger) == ["write-engine-config", "remove-dm-device"]
    assert isinstance(larger.steps[1], RemoveDmDevice)
    assert plan(docker(replace(WELL, dm_name=NAME)), shot=shot).is_empty


@pytest.mark.parametrize("wanted", ["20GiB", "30GiB"])
def test_an_open_base_is_refused_before_anything_is_done(wanted: str) -> None:
    shot = support.with_thin_device(USED, NAME, open_count=1)
    made = plan(docker(replace(SMALL, dm_name=NAME, is_open=True)), wanted, shot)
    (refusal,) = made.refusals
    assert (refusal.code, refusal.target, made.steps) == ("DEVICE_OPEN", NAME, ())
    assert f"thinpoolmgr who {NAME}" in refusal.resolution


def test_what_a_killed_run_left_is_cleared_away_by_growing_again() -> None:
    shot = support.with_thin_device(USED, GROWN_NAME)
    (step,) = plan(docker(WELL), shot=shot).steps
    assert isinstance(step, GrowBase)
    assert f"{GROWN_NAME} was left" in step.reason
    assert why_not_done(step, support.with_engine(shot, docker(WELL))) == f"{GROWN_NAME} is still there"
    assert why_not_done(step, support.with_engine(USED, docker(WELL))) == ""
    assert "cannot be seen" in why_not_done(step, support.with_engine(USED, docker(None)))
    assert "10GiB" in why_not_done(step, support.with_engine(USED, docker(SMALL)))


def test_the_commands_for_xfs_and_ext4() -> None:
    (step,) = plan(docker(SMALL)).steps
    assert isinstance(step, GrowBase)
    node, folder = f"/dev/mapper/{GROWN_NAME}", "/run/thinpoolmgr/base"
    table = f"0 {20 * GIB // 512} thin /dev/mapper/docker-thinpool 3"
    assert commands(step) == (
        ("dmsetup", "create", GROWN_NAME, "--table", table),
        ("mount", "--types", "xfs", "--options", "nosuid,nodev,noexec,nouuid", node, folder),
        ("xfs_growfs", folder),
        ("umount", folder),
        ("dmsetup", "remove", "--retry", "--", GROWN_NAME),
    )
    words = commands(replace(step, filesystem="ext4"))
    assert words[1][2:5] == ("ext4", "--options", "nosuid,nodev,noexec")
    assert words[2] == ("resize2fs", node)


@pytest.mark.parametrize(
    ("base", "word"),
    [(BaseDevice(in_pool=False), "no device with the number"), (replace(WELL, uuid=OTHER), f"has the uuid {OTHER}")],
)
def test_another_base_device_is_another_pool(base: BaseDevice, word: str) -> None:
    found = docker(base)
    (refusal,) = plan(found).refusals
    assert refusal.code == "ENGINE_STATE_OTHER_POOL"
    assert word in refusal.details
    assert real_base_bytes(found) is None
    # the transaction that made it may be open: Docker takes that back itself
    opened = replace(found, state=replace(found.state, transaction_id=8) if found.state else None)
    assert plan(opened).is_empty
    assert plan(replace(opened, base=replace(base, size_bytes=GIB))).is_empty
    assert plan(docker(base, running=True)).refusals == ()


def test_a_record_without_a_uuid_says_nothing() -> None:
    found = docker(replace(WELL, uuid=OTHER))
    assert plan(replace(found, state=replace(found.state, base_device_uuid="") if found.state else None)).is_empty


GRAPH = EngineGraph(
    images=(
        EngineImage("sha256:1", ("web:1",), ("sha256:a", "sha256:b")),
        EngineImage("sha256:2", (), ("sha256:a",)),
        EngineImage("sha256:3", ("none:1",), ()),
    ),
    layers=(EngineLayer("sha256:a", "A"), EngineLayer("sha256:b", "B")),
    containers=(EngineContainer("c1", "shop", mount_id="M"), EngineContainer("c2", mount_id="N")),
)


def test_which_images_and_containers_are_smaller() -> None:
    found = docker(WELL)
    assert found.state is not None
    sizes = {"base": 20, "A": 10, "B": 20, "M": 20, "N": 5}
    devices = tuple(EngineDevice(name, place, size * GIB) for place, (name, size) in enumerate(sizes.items()))
    state = replace(found.state, devices=devices)
    small = smaller_than_base(replace(found, state=state, graph=GRAPH))
    # the size of an image is that of its uppermost layer
    assert small == (Smaller("image", "sha256:2", 10 * GIB), Smaller("container", "c2", 5 * GIB))
    assert smaller_than_base(replace(found, state=state)) == ()
    assert smaller_than_base(replace(found, state=None, graph=GRAPH)) == ()


def test_a_thin_device_of_ours_is_no_base_device_of_an_engine() -> None:
    device = DmDevice(GROWN_NAME, "", "253:9", 0, targets=("thin",))
    from thinpoolmgr.core.engines import ENGINES

    assert ENGINES["docker"].driver_name(device.name) == ""
