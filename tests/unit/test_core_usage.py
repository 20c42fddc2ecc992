"""Who a thin device belongs to, and how much it maps."""

from __future__ import annotations

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.engine_graph import EngineContainer, EngineGraph, EngineImage, EngineLayer
from thinpoolmgr.core.lifecycle import view_pool
from thinpoolmgr.core.model import DmDevice, Engine, EngineDevice, EngineState, Snapshot
from thinpoolmgr.core.owners import Owner, Ownership, ThinDevice, find_owners
from thinpoolmgr.core.plan import Refusal
from thinpoolmgr.core.usage import (
    PoolUse,
    ThinUse,
    UsageDocument,
    UsageSum,
    parse_thin_use,
    parts_to_ask,
    usage_document,
)
from thinpoolmgr.sim import events
from thinpoolmgr.sim.parts import add_device
from thinpoolmgr.units import GIB, MIB

CHUNK = support.CHUNK
LOW, HIGH = "sha256:1", "sha256:2"
GRAPH = EngineGraph(
    images=(
        EngineImage("sha256:i1", ("web:1", "web@sha256:x"), (LOW, HIGH)),
        EngineImage("sha256:i2", ("db:1",), (LOW,)),
        EngineImage("sha256:i3", (), (LOW,)),
        EngineImage("sha256:i4", ("only@sha256:x",), (LOW,)),
    ),
    layers=(EngineLayer(LOW, "c1"), EngineLayer(HIGH, "c2", LOW)),
    containers=(
        EngineContainer("k1", "shop", "sha256:i1", "m1", "m1-init", HIGH),
        EngineContainer("k2", "", "sha256:gone", "m2"),
        EngineContainer("k3", "", "", "m3"),
    ),
    problems=("/x: damaged",),
)
NAMES = ("base", "c1", "c2", "m1-init", "m1", "m2", "m3", "left")
RECORDS = tuple(EngineDevice(name, number, 10 * GIB, number) for number, name in enumerate(NAMES, start=1))
STATE = EngineState("/var/lib/docker/devicemapper", "u", 10 * GIB, 8, RECORDS)


def host(engine: Engine | None = None, **status: object) -> Snapshot:
    shot = support.healthy(**{"transaction_id": 8, "used_data_blocks": 1000, **status})
    return support.with_engine(shot, engine or support.docker(state=STATE))


def with_active(shot: Snapshot, name: str, device_id: int) -> Snapshot:
    pool = next(d for d in shot.dm_devices if d.targets == ("thin-pool",))
    device = DmDevice(
        name, "", "", 1, targets=("thin",), depends_on=(pool.devno,), size_bytes=GIB, table=f"{pool.devno} {device_id}"
    )
    return add_device(shot, device)


def owners(shot: Snapshot, graph: EngineGraph = GRAPH) -> Ownership:
    return find_owners(view_pool(support.pool(), shot), shot.find_engine("docker"), graph, shot)


def test_a_damaged_record_says_nothing_of_the_others() -> None:
    damaged = replace(STATE, devices=RECORDS[:4], damage="metadata/m1 cannot be read")
    found = owners(host(support.docker(state=damaged)))
    assert sorted(found.devices) == [1, 2, 3, 4]
    assert found.devices[2].owner.kind == "image-layer"
    assert found.problems == ("metadata/m1 cannot be read", "/x: damaged")
    # whether they are of this pool is asked all the same
    other = owners(host(support.docker(state=replace(damaged, transaction_id=99))))
    assert other.devices == {}


def test_records_of_a_pool_in_loop_files_are_not_of_this_one_while_the_engine_runs_on_it() -> None:
    shot = host()
    engine = shot.find_engine("docker")
    assert engine is not None
    state = replace(STATE, loop_files=("/var/lib/docker/devicemapper/devicemapper/data",))
    running = replace(engine, running=True, driver="devicemapper", config_text=None, state=state)
    found = owners(replace(shot, engines=(running,)))
    assert found.devices == {}
    assert any("loop" in problem or "devicemapper/data" in problem for problem in found.problems)


def test_every_record_has_its_owner() -> None:
    found = owners(host())
    assert found.problems == ("/x: damaged",)
    assert {number: device.owner for number, device in found.devices.items()} == {
        1: Owner("base", "base", "base"),
        2: Owner("image-layer", LOW, LOW, ("db:1", "only@sha256:x", "sha256:i3", "web:1")),
        3: Owner("image-layer", HIGH, HIGH, ("web:1",)),
        4: Owner("container", "shop", "k1", ("web:1",)),
        5: Owner("container", "shop", "k1", ("web:1",)),
        6: Owner("container", "k2", "k2", ("sha256:gone",)),
        7: Owner("container", "k3", "k3"),
        8: Owner("snapshot", "left", "left"),
    }


def test_a_device_that_is_active_has_its_names_from_the_kernel() -> None:
    shot = with_active(host(), "docker-8:1-42-m1", 5)
    number = next(d.devno for d in shot.dm_devices if d.name == "docker-8:1-42-m1")
    device = owners(shot).find("docker", 5)
    assert (device.dm_name, device.devno, device.virtual_bytes) == ("docker-8:1-42-m1", number, GIB)
    assert device.owner.name == "shop"
    assert owners(shot).find("docker", 6).dm_name == ""


def test_without_records_active_devices_still_have_owners() -> None:
    shot = with_active(host(support.docker(state_problem="metadata/base is damaged")), "docker-8:1-42-m1", 5)
    found = owners(shot)
    assert found.problems == ("metadata/base is damaged", "/x: damaged")
    assert {number: device.owner.name for number, device in found.devices.items()} == {5: "shop"}


def test_a_device_that_nobody_records_is_unknown() -> None:
    found = owners(with_active(host(), "somebodys", 77))
    assert found.find("docker", 77).owner == Owner()
    assert found.find("docker", 77).dm_name == "somebodys"
    assert found.find("docker", 99) == ThinDevice("docker", 99)


def test_a_device_without_a_table_is_passed_over() -> None:
    shot = support.with_thin_device(host())
    assert set(owners(shot).devices) == set(range(1, 9))


@pytest.mark.parametrize(
    ("engine", "status", "why"),
    [
        (support.docker(state=STATE), {"transaction_id": 3}, "has transaction id 3"),
        (support.docker(state=replace(STATE, loop_files=("/x/data",))), {}, "made by Docker itself"),
        (
            support.docker(state=STATE, config_text='{"storage-opts": ["dm.thinpooldev=/dev/mapper/other-pool"]}'),
            {},
            "configured for other-pool",
        ),
    ],
)
def test_records_of_another_pool_are_not_believed(engine: Engine, status: dict[str, int], why: str) -> None:
    found = owners(host(engine, **status))
    assert found.devices == {}
    assert why in found.problems[0]


def test_without_an_engine_there_are_no_owners() -> None:
    shot = support.healthy()
    assert owners(shot, EngineGraph()) == Ownership({}, ())
    assert owners(support.with_engine(shot, support.docker()), EngineGraph()) == Ownership({}, ())


def test_the_list_of_thin_ls_is_read() -> None:
    text = "       1 5242880  524288 \n16777215       0       0 \n"
    assert parse_thin_use(text) == (ThinUse(1, 5242880, 524288), ThinUse(16777215, 0, 0))
    assert parse_thin_use("") == ()


@pytest.mark.parametrize("line", ["DEV MAPPED EXCLUSIVE", "1 2", "1 2 3 4", "1 5120KiB 1"])
def test_what_is_no_list_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="thin_ls printed"):
        parse_thin_use(f"1 2 3\n{line}\n")


def document(*uses: ThinUse, used_data_blocks: int = 1000) -> UsageDocument:
    shot = with_active(host(), "docker-8:1-42-m1", 5)
    view = view_pool(support.pool(), shot)
    assert view.status is not None
    status = replace(view.status, used_data_blocks=used_data_blocks)
    return usage_document(view, PoolUse(uses, status), owners(shot))


def test_the_document_has_the_largest_first_and_sums() -> None:
    made = document(
        ThinUse(1, 9 * MIB, 0), ThinUse(5, 80 * MIB, 20 * MIB), ThinUse(4, 9 * MIB, 20 * MIB), ThinUse(99, 9 * MIB, 0)
    )
    assert [device.device_id for device in made.devices] == [5, 4, 1, 99]
    assert (made.devices[0].dm_name, made.devices[1].dm_name) == ("docker-8:1-42-m1", None)
    assert (made.devices[1].virtual_bytes, made.devices[3].virtual_bytes) == (10 * GIB, None)
    assert made.sums == (
        UsageSum("container", 2, 40 * MIB),
        UsageSum("base", 1, 0),
        UsageSum("unknown", 1, 0),
    )
    assert (made.exclusive_bytes, made.shared_bytes) == (40 * MIB, 1000 * CHUNK - 40 * MIB)
    assert made.data.used_bytes == 1000 * CHUNK
    assert made.problems == ("/x: damaged",)


def test_a_pool_that_gave_space_back_meanwhile_shares_nothing() -> None:
    assert document(ThinUse(5, 80 * MIB, 20 * MIB), used_data_blocks=1).shared_bytes == 0


HEALTHY = support.healthy()


@pytest.mark.parametrize(
    ("shot", "code"),
    [
        (support.snapshot(), "POOL_ABSENT"),
        (support.deactivated(HEALTHY), "POOL_INACTIVE"),
        (events.untag(HEALTHY, "docker"), "POOL_FOREIGN"),
        (support.healthy(mode="Fail"), "POOL_FAILED"),
        (support.healthy(mode="ro", needs_check=True), "POOL_NEEDS_CHECK"),
        (support.healthy(mode="ro"), "POOL_READ_ONLY"),
        (
            replace(HEALTHY, dm_devices=tuple(replace(d, suspended=True) for d in HEALTHY.dm_devices)),
            "DEVICE_SUSPENDED",
        ),
        (
            replace(HEALTHY, dm_devices=tuple(replace(d, table="9:9 8:8 1") for d in HEALTHY.dm_devices)),
            "STATE_UNKNOWN",
        ),
    ],
)
def test_a_pool_that_cannot_take_a_message_is_refused(shot: Snapshot, code: str) -> None:
    refusal = parts_to_ask(view_pool(support.pool(), shot))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.exit_code) == (code, 3)
    assert refusal.resolution


@pytest.mark.parametrize("mode", ["rw", "out_of_data_space"])
def test_the_parts_of_a_pool_that_can(mode: str) -> None:
    parts = parts_to_ask(view_pool(support.pool(), support.healthy(mode=mode)))
    assert isinstance(parts, tuple)
    assert [part.name for part in parts] == ["docker-thinpool", "docker-thinpool_tmeta"]
