"""The fingerprint: equal while the plan would be the same, different when it would be another one."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from thinpoolmgr.approval import without_reasons
from thinpoolmgr.core.fingerprint import fingerprint_of_host
from thinpoolmgr.core.model import (
    ConfiguredDevice,
    DmDevice,
    EngineDevice,
    LvmProfile,
    PhysicalVolume,
    ServiceState,
    Signature,
)
from thinpoolmgr.core.plan import MadePool, Memory, fingerprint_of
from thinpoolmgr.core.planner import plan_apply
from thinpoolmgr.core.steps import ExtendData
from thinpoolmgr.errors import CommandFailedError
from thinpoolmgr.sim import events
from thinpoolmgr.sim.changes import suspend
from thinpoolmgr.sim.consistency import check_consistent
from thinpoolmgr.sim.steps import make_group
from thinpoolmgr.units import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from thinpoolmgr.core.desired import DesiredState
    from thinpoolmgr.core.model import Snapshot

    Change = Callable[[Snapshot], Snapshot]

NOTHING = Memory()
EXT4 = Signature("ext4", "filesystem", 1080)
HEALTHY = support.healthy()
GROUP = HEALTHY.groups[0]
ENGINE = support.docker(running=True, configured=True, driver="devicemapper")
STALE = replace(support.docker(), state=support.STALE)
WITH_ENGINE = support.desired(engines=(support.engine(),))
PLAIN = support.desired()


def of(shot: Snapshot, state: DesiredState = WITH_ENGINE, memory: Memory = NOTHING) -> str:
    return fingerprint_of_host(state, shot, memory)


FULL = support.with_engine(support.with_thin_device(HEALTHY), ENGINE)


def status(**changes: object) -> Change:
    return lambda shot: support.with_status(shot, **changes)


def in_group(**changes: object) -> Change:
    return lambda shot: replace(shot, groups=tuple(replace(group, **changes) for group in shot.groups))


def engines(**changes: object) -> Change:
    return lambda shot: replace(shot, engines=tuple(replace(engine, **changes) for engine in shot.engines))


def disks(**changes: object) -> Change:
    return lambda shot: replace(shot, disks=tuple(replace(disk, **changes) for disk in shot.disks))


def opened(shot: Snapshot) -> Snapshot:
    return replace(shot, dm_devices=tuple(replace(d, open_count=d.open_count + 3) for d in shot.dm_devices))


def other_group(shot: Snapshot) -> Snapshot:
    more = replace(shot, disks=(*shot.disks, support.disk("/dev/sdy")))
    return make_group(more, "other", ("/dev/sdy",))


def other_device(shot: Snapshot) -> Snapshot:
    return replace(shot, dm_devices=(*shot.dm_devices, DmDevice("crypt", "CRYPT-1", "254:99", 1, targets=("crypt",))))


UNRELATED: dict[str, Change] = {
    "data use": status(used_data_blocks=7),
    "tight": status(used_data_blocks=19000),
    "metadata use": status(used_metadata_blocks=1200),
    "held root": status(held_root="7"),
    "kernel's transaction id": status(transaction_id=9, used_data_blocks=4),
    "open counts": opened,
    "another disk": lambda shot: replace(shot, disks=(*shot.disks, support.disk("/dev/sdz"))),
    "another group": other_group,
    "another dm device": other_device,
    "another orphan": lambda shot: replace(shot, orphan_pvs=(PhysicalVolume("/dev/sdz", support.uuid_of("z"), GIB),)),
    "another profile": lambda shot: replace(shot, lvm_profiles=(LvmProfile("thinpoolmgr-x-y", ""),)),
    "a thin device more": lambda shot: support.with_thin_device(shot, "docker-8:1-43-web", 1),
    "LVM's sequence number": in_group(seqno=99),
    "links of the disk": disks(links=("/dev/disk/by-id/x",), model="M", wwn="w"),
    "who holds our disk": disks(holders=("dm-7",)),
    "containers": engines(containers=("web", "db")),
    "pids": engines(pids=(1, 2)),
    "enabled": engines(service=replace(ENGINE.service, enabled=True)),
    "another boot": lambda shot: replace(shot, boot_id="boot-2"),
}


@pytest.mark.parametrize("change", UNRELATED.values(), ids=UNRELATED.keys())
def test_what_the_plan_does_not_rely_on_does_not_make_it_stale(change: Change) -> None:
    changed = change(FULL)
    assert changed != FULL
    assert of(changed) == of(FULL)


def lv_with(shot: Snapshot, **changes: object) -> Snapshot:
    group = shot.groups[0]
    lvs = tuple(replace(lv, **changes) if lv.is_thin_pool else lv for lv in group.lvs)
    return replace(shot, groups=(replace(group, lvs=lvs), *shot.groups[1:]))


RELATED: dict[str, Change] = {
    "LVM grew": lambda shot: lv_with(shot, size_bytes=2433 * support.EXTENT),
    "metadata": lambda shot: lv_with(shot, metadata_bytes=16 * MIB),
    "chunk": lambda shot: lv_with(shot, chunk_bytes=MIB),
    "discards": lambda shot: lv_with(shot, discards="ignore"),
    "zeroing": lambda shot: lv_with(shot, zero=True),
    "when full, LVM": lambda shot: lv_with(shot, when_full="error"),
    "when full, kernel": status(when_full="error"),
    "mode": status(mode="out_of_data_space"),
    "needs check": status(needs_check=True),
    "kernel grew": status(total_data_blocks=19457),
    "the pool is another one": lambda shot: lv_with(shot, uuid=support.uuid_of("new")),
    "profile": lambda shot: lv_with(shot, profile="theirs"),
    "our profile's file": lambda shot: replace(shot, lvm_profiles=(LvmProfile("thinpoolmgr-docker-thinpool", "x"),)),
    "tags": lambda shot: support.untagged(shot, lv=False),
    "another volume": lambda shot: support.with_lv(shot, support.linear("home", 4 * MIB)),
    "spare gone": lambda shot: support.with_spare(shot, 0),
    "inactive": support.deactivated,
    "suspended": lambda shot: suspend(shot, ("docker-thinpool",)),
    "lost": support.lvm_lost,
    "system id": in_group(system_id="x"),
    "exported": in_group(attr="wzx-n-"),
    "disk swapped": disks(serial="another"),
    "disk again": disks(diskseq=77),
    "disk grew": disks(size_bytes=11 * GIB),
    "number": disks(devno="8:99"),
    "missing": lambda shot: replace(shot, configured_devices=(ConfiguredDevice("/dev/sdb", problem="missing"),)),
    "engine stopped": engines(running=False, driver="", pids=()),
    "engine does not answer": engines(running=None),
    "version": engines(version="25.0"),
    "configuration text": engines(config_text="{}"),
    "unwritable": engines(config_unwritable="read-only"),
    "configuration broken": engines(config_problem="no JSON"),
    "without systemd": engines(service=ServiceState()),
    "sockets": engines(service=replace(ENGINE.service, sockets=())),
    "state": engines(state=support.STALE),
    "state unreadable": engines(state_problem="Permission denied"),
    "set aside": engines(set_aside=("/x",)),
}


@pytest.mark.parametrize("change", RELATED.values(), ids=RELATED.keys())
def test_what_the_plan_relies_on_makes_it_stale(change: Change) -> None:
    assert of(change(FULL)) != of(FULL)


def test_no_two_of_these_changes_look_the_same() -> None:
    assert len({of(change(FULL)) for change in RELATED.values()}) == len(RELATED)


BLANK = support.snapshot()


@pytest.mark.parametrize(
    "facts",
    [
        {"signatures": (EXT4,)},
        {"signatures": None},
        {"mounts": ("/srv",), "opened_exclusively": True},
        {"swap": True, "opened_exclusively": True},
        {"holders": ("md0",)},
        {"opened_exclusively": True},
        {"opened_exclusively": None},
        {"read_only": True},
        {"partitions": ("/dev/sdb1",)},
        {"labelled_partitions": ("/dev/sdb1",)},
        {"sector_bytes": 4096},
        {"optimal_io_bytes": 2 * MIB},
    ],
)
def test_of_a_disk_that_is_to_be_written_all_that_forbids_it_counts(facts: dict[str, object]) -> None:
    assert of(disks(**facts)(BLANK), PLAIN) != of(BLANK, PLAIN)


def test_lvms_trouble_and_a_name_in_dev_count_while_there_is_no_group() -> None:
    assert of(replace(BLANK, lvm_trouble=("Error",)), PLAIN) != of(BLANK, PLAIN)
    assert of(replace(BLANK, dev_names=("docker",)), PLAIN) != of(BLANK, PLAIN)
    assert of(replace(BLANK, dev_names=("another",)), PLAIN) == of(BLANK, PLAIN)


def test_every_word_of_the_configuration_counts() -> None:
    states = [
        PLAIN,
        support.desired(support.pool(when_full="error")),
        support.desired(support.pool(data_size="94%VG")),
        support.desired(support.pool(extend={"step_percent": 21})),
        support.desired(support.pool(spare_devices=("/dev/sdc",))),
        support.desired(support.pool(), support.pool("more", "/dev/sdc")),
        WITH_ENGINE,
        support.desired(engines=(support.engine(base_size="20GiB"),)),
    ]
    assert len({of(HEALTHY, state) for state in states}) == len(states)


def test_what_the_journal_shows_counts() -> None:
    step = support.create_step(support.pool())
    memories = [
        NOTHING,
        Memory(interrupted=(step,)),
        Memory(pending=(step,)),
        Memory(stopped_engines=("docker",)),
        Memory(made=(MadePool(GROUP.lvs[0].uuid, 1, 1),)),
    ]
    assert len({of(HEALTHY, PLAIN, memory) for memory in memories}) == len(memories)
    assert of(HEALTHY, PLAIN, Memory(made=(MadePool("another", 1, 1),))) == of(HEALTHY, PLAIN)
    untagged = support.untagged(HEALTHY, lv=False)
    assert of(untagged, PLAIN, Memory(our_groups=(GROUP.uuid,))) != of(untagged, PLAIN)
    assert of(untagged, PLAIN, Memory(our_groups=("another",))) == of(untagged, PLAIN)


def test_a_left_over_part_that_somebody_has_open_counts() -> None:
    parts = tuple(replace(d, open_count=0) for d in HEALTHY.dm_devices if d.targets != ("thin-pool",))
    half = replace(HEALTHY, dm_devices=parts)
    held = replace(HEALTHY, dm_devices=tuple(replace(part, open_count=1) for part in parts))
    assert of(half) != of(held)


def test_of_stale_state_every_word_counts_for_its_folder_is_named_after_it() -> None:
    first = support.with_engine(BLANK, STALE)
    more = replace(support.STALE, devices=(*support.STALE.devices, EngineDevice("x", 2, GIB, 7)))
    second = support.with_engine(BLANK, replace(STALE, state=more))
    plans = [plan_apply(WITH_ENGINE, shot, NOTHING).steps for shot in (first, second)]
    assert plans[0] != plans[1]
    assert of(first) != of(second)


def test_facts_keep_their_places() -> None:
    assert fingerprint_of("ab", "c") != fingerprint_of("a", "bc")
    assert fingerprint_of({"a": 1, "b": 2}) == fingerprint_of({"b": 2, "a": 1})


# soundness


GROW = ExtendData(
    reason="r", group="docker", lv="thinpool", data_extents=2500, extent_bytes=support.EXTENT, chunk_bytes=support.CHUNK
)
SDC = support.disk("/dev/sdc")
CHANGES: tuple[Change, ...] = (
    *RELATED.values(),
    *UNRELATED.values(),
    events.reboot,
    lambda shot: events.vanish(shot, "/dev/sdb")[0],
    lambda shot: events.lose_labels(shot, "docker"),
    lambda shot: events.report_less(shot, "docker", "Error reading device"),
    lambda shot: events.untag(shot, "docker"),
    lambda shot: events.drop_volume(shot, "docker", "thinpool"),
    lambda shot: events.add_volume(shot, "docker", "lvol7", 12 * MIB),
    lambda shot: events.stranger_pool(
        make_group(replace(shot, disks=(*shot.disks, support.disk("/dev/sdx"))), "x", ("/dev/sdx",)),
        support.create_step(support.pool("x"), 100),
    ),
    *((lambda shot, left=left: events.half_done(shot, GROW, left)) for left in ("first", "second")),
    lambda shot: events._only_components(shot, "docker", "thinpool"),
    engines(state=None),
    engines(driver="overlay2"),
    lambda shot: replace(
        shot,
        disks=tuple(replace(d, signatures=(EXT4,)) if d.path == "/dev/sdc" else d for d in shot.disks),
    ),
    lambda shot: replace(
        shot,
        disks=tuple(replace(d, size_bytes=5 * GIB) if d.path == "/dev/sdc" else d for d in shot.disks),
    ),
)
BASES = [
    BLANK,
    HEALTHY,
    FULL,
    support.with_engine(BLANK, STALE),
    support.with_engine(HEALTHY, replace(support.docker(running=True), state=support.STALE)),
    support.with_group(BLANK),
    support.with_free_disk(FULL, SDC),
]
CONFIGURATIONS = [
    PLAIN,
    WITH_ENGINE,
    support.desired(support.pool("docker", "/dev/sdb", "/dev/sdc", wipe_signatures=True)),
    support.desired(support.pool(data_size="100%FREE", metadata_size="16MiB", when_full="error")),
    support.desired(support.pool(chunk_size="1MiB", extend={"monitor": "dmeventd"}, zero_new_blocks=True)),
    support.desired(support.pool(discards="ignore", data_size="5GiB", spare_devices=("/dev/sdc",))),
]
MEMORIES = [
    NOTHING,
    Memory(interrupted=(GROW,), made=(MadePool(GROUP.lvs[0].uuid, 2431 * support.EXTENT, 12 * MIB),)),
    Memory(our_groups=(GROUP.uuid,), made=(MadePool(GROUP.lvs[0].uuid, GIB, 4 * MIB),), stopped_engines=("docker",)),
    Memory(interrupted=(support.create_step(support.pool()),)),
]


def changed(shot: Snapshot, picks: list[Change]) -> Snapshot:
    """Return `shot` after those changes that are possible one after the other."""
    for change in picks:
        try:
            new = change(shot)
        except (CommandFailedError, AssertionError, StopIteration, IndexError):
            continue
        if not check_consistent(new):
            shot = new
    return shot


@st.composite
def hosts(draw: st.DrawFn) -> tuple[Snapshot, Snapshot]:
    base = draw(st.sampled_from(BASES))
    common = draw(st.lists(st.sampled_from(CHANGES), max_size=2))
    return changed(base, common), changed(
        base, [*common, *draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=2))]
    )


def outcome(shot: Snapshot, state: DesiredState, memory: Memory) -> tuple[object, ...]:
    """What a plan does, and which refusals there are; words for people left out."""
    plan = plan_apply(state, shot, memory)
    return (without_reasons(plan.steps), [(refusal.code, refusal.target) for refusal in plan.refusals])


@settings(max_examples=500, deadline=None)
@given(hosts(), st.sampled_from(CONFIGURATIONS), st.sampled_from(MEMORIES))
def test_another_plan_has_another_fingerprint(
    pair: tuple[Snapshot, Snapshot], state: DesiredState, memory: Memory
) -> None:
    first, second = pair
    if outcome(first, state, memory) != outcome(second, state, memory):
        assert of(first, state, memory) != of(second, state, memory)


@pytest.mark.parametrize("state", CONFIGURATIONS)
def test_every_single_change_of_every_base(state: DesiredState) -> None:
    for memory in MEMORIES[:2]:
        seen: dict[str, tuple[object, ...]] = {}
        for base in BASES:
            for change in CHANGES:
                shot = changed(base, [change])
                found = outcome(shot, state, memory)
                assert seen.setdefault(of(shot, state, memory), found) == found


def test_another_configuration_or_memory_that_gives_another_plan_has_another_fingerprint() -> None:
    for base in BASES:
        cases = [(state, memory) for state in CONFIGURATIONS for memory in MEMORIES]
        for one, other in combinations(cases, 2):
            if outcome(base, *one) != outcome(base, *other):
                assert of(base, *one) != of(base, *other)
