"""What Docker's own set-up of a disk leaves when it is killed: told, taken over by adopt, never with data in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.adopt import plan_adopt
from thinpoolmgr.core.commands import commands
from thinpoolmgr.core.doctor import diagnose
from thinpoolmgr.core.findings import HostFacts, Journal
from thinpoolmgr.core.fingerprint import fingerprint_of_host
from thinpoolmgr.core.journal import Began, Doing, Done, StoredRun, fold_run, remember
from thinpoolmgr.core.model import EngineState
from thinpoolmgr.core.own_setup import setup_volumes
from thinpoolmgr.core.plan import Memory, Plan, Request
from thinpoolmgr.core.planner import plan_apply
from thinpoolmgr.core.steps import RemoveLeftover, TagPool, step_mark, step_name, target
from thinpoolmgr.sim import events
from thinpoolmgr.sim.parts import add_device, find_group, replace_group, set_volumes, volume, with_attributes
from thinpoolmgr.units import MIB

if TYPE_CHECKING:
    from thinpoolmgr.core.doctor import Diagnosis
    from thinpoolmgr.core.model import Engine, Snapshot

NOTHING = Memory()
VOLUMES = ("thinpool", "thinpoolmeta")
KILLED = with_attributes(events.half_made_setup(support.snapshot(), "/dev/sdb"))
DEVICE = KILLED.dm_devices[0]
EMPTY = events.half_made_setup(support.snapshot(), "/dev/sdb", volumes=False)
REMOVALS = ["remove-leftover", "remove-leftover"]
DIRECT = '{"storage-driver": "devicemapper", "storage-opts": ["dm.directlvm_device=/dev/sdb"]}\n'


def adopt(shot: Snapshot, memory: Memory = NOTHING, **config: Any) -> Plan:
    pool = support.pool(**config)
    return plan_adopt(pool, support.desired(pool), shot, memory)


def apply(shot: Snapshot, memory: Memory = NOTHING) -> Plan:
    return plan_apply(support.desired(), shot, memory)


def names(plan: Plan) -> list[str]:
    return [step_name(step) for step in plan.steps]


def codes(plan: Plan) -> list[str]:
    return [refusal.code for refusal in plan.refusals]


def seen(shot: Snapshot) -> Snapshot:
    """Return `shot` as it would be reported."""
    return with_attributes(support.checked(shot))


def change_lv(shot: Snapshot, name: str = "thinpool", **changes: Any) -> Snapshot:
    group = find_group(shot, "docker")
    lvs = tuple(replace(lv, **changes) if lv.name == name else lv for lv in group.lvs)
    return replace_group(shot, replace(group, lvs=lvs))


def change_device(shot: Snapshot, name: str, **changes: Any) -> Snapshot:
    devices = tuple(replace(d, **changes) if d.name == name else d for d in shot.dm_devices)
    return replace(shot, dm_devices=devices)


def change_group(shot: Snapshot, **changes: Any) -> Snapshot:
    return replace_group(shot, replace(find_group(shot, "docker"), **changes))


def without_device(shot: Snapshot, name: str) -> Snapshot:
    return replace(shot, dm_devices=tuple(d for d in shot.dm_devices if d.name != name))


def with_volume(shot: Snapshot, name: str, *tags: str) -> Snapshot:
    group = find_group(shot, "docker")
    return set_volumes(shot, group, (*group.lvs, volume(group, name, 4 * MIB, *tags)))


def interrupted(plan: Plan, *done: str, doing: str = "") -> Memory:
    """Return what the journal knows when the run of `plan` was killed behind the steps `done`, inside `doing`."""
    began = Began("r", "adopt", "t", plan.steps, boot_id=support.BOOT, request=Request("adopt", "docker"))
    steps = [record for step in done for record in (Doing(step, "t"), Done(step, 1.0))]
    run = fold_run([began, *steps, *([Doing(doing, "t")] if doing else [])])
    assert run is not None
    return remember([run], support.BOOT)


def after(shot: Snapshot, plan: Plan, count: int) -> Snapshot:
    return seen(support.carried_out(shot, replace(plan, steps=plan.steps[:count])))


# what adopt plans


def test_half_made_volumes_are_removed_after_the_group_is_tagged() -> None:
    plan = adopt(KILLED)
    assert [argv for step in plan.steps for argv in commands(step)] == [
        ("vgchange", "--addtag", "thinpoolmgr", "docker"),
        ("lvremove", "--yes", "docker/thinpool"),
        ("lvremove", "--yes", "docker/thinpoolmeta"),
    ]
    assert [(step.danger, step_mark(step), target(step)) for step in plan.steps] == [
        ("safe", "~", "docker"),
        ("destroys", "-", "docker/thinpool"),
        ("destroys", "-", "docker/thinpoolmeta"),
    ]
    assert "Docker's own set-up was cut short before it made a pool" in plan.steps[0].reason
    assert "/dev/sdb" in plan.steps[0].reason
    assert "no image or container is lost with it" in plan.steps[1].reason
    assert plan.notes == ("Then make docker/thinpool in it: thinpoolmgr apply.",)


def test_then_apply_makes_the_pool_in_that_group() -> None:
    shot = seen(support.carried_out(KILLED, adopt(KILLED)))
    assert adopt(shot).is_empty
    plan = apply(shot)
    assert (names(plan), codes(plan)) == (["create-thin-pool"], [])
    assert apply(support.carried_out(shot, plan)).is_empty
    assert find_group(support.carried_out(shot, plan), "docker").uuid == find_group(KILLED, "docker").uuid


@pytest.mark.parametrize("name", VOLUMES)
def test_one_volume_is_enough_and_the_pool_may_have_another_name(name: str) -> None:
    shot = seen(events.drop_volume(KILLED, "docker", *(other for other in VOLUMES if other != name)))
    assert names(adopt(shot, thin_pool="pool")) == ["tag-pool", "remove-leftover"]


def test_a_spare_beside_them_is_nobodys_data() -> None:
    assert names(adopt(seen(with_volume(KILLED, "lvol0_pmspare")))) == ["tag-pool", *REMOVALS]


@pytest.mark.parametrize("name", ["docker", "another"])
def test_an_empty_group_of_any_name_is_tagged(name: str) -> None:
    shot = support.with_group(support.snapshot(), name, tags=())
    plan = adopt(shot, volume_group=name)
    assert (names(plan), [step.danger for step in plan.steps]) == (["tag-pool"], ["safe"])
    assert "it is empty" in plan.steps[0].reason
    tagged = support.carried_out(shot, plan)
    assert adopt(tagged, volume_group=name).is_empty
    assert names(plan_apply(support.desired(support.pool(volume_group=name)), tagged, NOTHING)) == ["create-thin-pool"]


# what it refuses


@pytest.mark.parametrize(
    ("shot", "word", "way"),
    [
        (change_lv(KILLED, signatures=(support.LABEL,)), "it carries LVM2_member", "lvremove docker/thinpool"),
        (events.format_volume(KILLED, "docker", "thinpoolmeta"), "it carries ext4", "lvremove docker/thinpoolmeta"),
        (change_device(KILLED, "docker-thinpool", open_count=1), "it is open", "thinpoolmgr who docker-thinpool"),
        (change_device(KILLED, "docker-thinpoolmeta", open_count=2), "it is open", "lsblk"),
        (without_device(KILLED, "docker-thinpool"), "it is not active", "lvchange --activate y docker/thinpool)"),
        (change_device(KILLED, "docker-thinpool", suspended=True), "is suspended", "dmsetup resume docker-thinpool"),
        (change_lv(KILLED, signatures=None), "cannot be read", "dmesg"),
        (replace(KILLED, lvm_trouble=("Error reading device",)), "Error reading device", "pvs"),
        (
            add_device(KILLED, replace(DEVICE, name="docker-x", uuid=f"{DEVICE.uuid}-tmeta")),
            "the kernel has docker-x",
            "dmsetup remove docker-x",
        ),
    ],
)  # fmt: skip
def test_what_may_hold_data_is_refused_with_the_way(shot: Snapshot, word: str, way: str) -> None:
    plan = adopt(shot)
    assert (codes(plan), plan.steps) == (["VOLUME_MAY_HOLD_DATA"], ())
    assert word in plan.refusals[0].summary
    assert way in plan.refusals[0].resolution


def test_of_two_each_says_why() -> None:
    plan = adopt(change_device(change_lv(KILLED, "thinpoolmeta", signatures=None), "docker-thinpool", open_count=1))
    assert [refusal.target for refusal in plan.refusals] == ["docker/thinpool", "docker/thinpoolmeta"]


@pytest.mark.parametrize(
    ("shot", "code"),
    [
        (with_volume(KILLED, "home"), "NOT_A_THIN_POOL"),
        (with_volume(KILLED, "lvol0"), "NOT_A_THIN_POOL"),
        (change_lv(KILLED, tags=("theirs",)), "NOT_A_THIN_POOL"),
        (change_lv(KILLED, tags=("thinpoolmgr",)), "NOT_A_THIN_POOL"),
        (change_lv(KILLED, segment_type="raid1"), "NOT_A_THIN_POOL"),
        (change_group(KILLED, attr="wzx-n-"), "GROUP_NOT_OURS_TO_TAKE"),
        (change_group(KILLED, attr="wz--ns"), "GROUP_NOT_OURS_TO_TAKE"),
        (change_group(KILLED, system_id="other"), "GROUP_NOT_OURS_TO_TAKE"),
        (change_group(EMPTY, system_id="other"), "GROUP_NOT_OURS_TO_TAKE"),
        (change_group(EMPTY, attr="wz-pn-"), "POOL_PARTIAL"),
        (change_group(KILLED, attr="wz-pn-"), "POOL_PARTIAL"),
        (change_group(KILLED, pvs=tuple(replace(pv, duplicate=True) for pv in KILLED.groups[0].pvs)), "STATE_UNKNOWN"),
    ],
)
def test_another_group_than_that_is_refused(shot: Snapshot, code: str) -> None:
    plan = adopt(shot)
    assert (codes(plan), plan.steps) == ([code], ())


def test_in_a_group_of_another_name_they_are_somebodys() -> None:
    group = replace(find_group(KILLED, "docker"), name="data")
    plan = adopt(replace(KILLED, groups=(group,)), volume_group="data")
    assert codes(plan) == ["NOT_A_THIN_POOL"]
    assert setup_volumes(group) is None


def test_nothing_of_it_is_done_by_apply_alone() -> None:
    for shot in (KILLED, EMPTY):
        assert (codes(apply(shot)), apply(shot).steps) == (["POOL_FOREIGN"], ())


# cut short


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_that_was_killed_is_finished_by_apply_and_by_adopt(count: int) -> None:
    plan = adopt(KILLED)
    shot = after(KILLED, plan, count)
    memory = interrupted(plan, *(f"{n:02}" for n in range(1, count + 1)))
    rest = apply(shot, memory)
    assert (names(rest), codes(rest)) == ([*REMOVALS[count - 1 :], "create-thin-pool"], [])
    assert [step.danger for step in rest.steps] == [*["destroys"] * (3 - count), "safe"]
    assert apply(support.carried_out(shot, rest)).is_empty
    assert names(adopt(shot, memory)) == REMOVALS[count - 1 :]


def test_without_the_journal_adopt_finishes_it_and_apply_says_so() -> None:
    shot = after(KILLED, adopt(KILLED), 2)
    plan = apply(shot)
    assert (codes(plan), plan.steps) == (["GROUP_HAS_OTHER_LVS"], ())
    assert "thinpoolmgr adopt docker --allow destroy" in plan.refusals[0].resolution
    assert names(adopt(shot)) == ["remove-leftover"]
    other = with_volume(support.with_group(support.snapshot()), "home")
    assert "adopt" not in apply(other).refusals[0].resolution


def test_what_came_into_it_since_is_refused_by_apply_too() -> None:
    plan = adopt(KILLED)
    shot = events.format_volume(after(KILLED, plan, 1), "docker", "thinpool")
    found = apply(shot, interrupted(plan, "01"))
    assert (codes(found), found.steps) == (["VOLUME_MAY_HOLD_DATA"], ())


def test_a_volume_that_was_deactivated_by_its_own_removal_goes() -> None:
    plan = adopt(KILLED)
    shot = seen(without_device(after(KILLED, plan, 1), "docker-thinpool"))
    assert codes(apply(shot, interrupted(plan, "01"))) == ["VOLUME_MAY_HOLD_DATA"]
    begun = interrupted(plan, "01", doing="02")
    assert names(apply(shot, begun)) == [*REMOVALS, "create-thin-pool"]
    assert names(adopt(shot, begun)) == REMOVALS


def test_another_volume_that_came_since_keeps_all_of_them() -> None:
    plan = adopt(KILLED)
    shot = seen(with_volume(after(KILLED, plan, 1), "home"))
    assert codes(apply(shot, interrupted(plan, "01"))) == ["GROUP_HAS_OTHER_LVS"]


def test_what_is_on_a_volume_is_a_fact_that_a_plan_relies_on() -> None:
    prints = {
        fingerprint_of_host(support.desired(), shot, NOTHING)
        for shot in (KILLED, events.format_volume(KILLED, "docker", "thinpool"), change_lv(KILLED, signatures=None))
    }
    assert len(prints) == 3


# told


def find(
    shot: Snapshot, engine: Engine, *, group: str = "docker", journal: Journal | None = None
) -> dict[str, Diagnosis]:
    desired = support.desired(support.pool(volume_group=group), engines=(support.engine(),))
    found = diagnose(desired, support.with_engine(shot, engine), journal or Journal(), HostFacts())
    return {diagnosis.code: diagnosis for diagnosis in found}


def test_the_doctor_leads_to_the_plan() -> None:
    found = find(KILLED, support.docker(config_text=DIRECT))["ENGINE_SETUP_UNFINISHED"]
    assert "thinpoolmgr adopt docker --allow destroy" in found.resolution
    assert "dm.directlvm_device" in found.resolution
    assert [step_name(step) for step in found.fix or ()] == ["tag-pool", *REMOVALS]
    assert "thinpool, thinpoolmeta and no thin pool" in found.evidence


def test_an_empty_group_counts_when_docker_was_told_to_make_one() -> None:
    found = find(EMPTY, support.docker(config_text=DIRECT))["ENGINE_SETUP_UNFINISHED"]
    assert "thinpoolmgr adopt docker. Then" in found.resolution
    assert [step_name(step) for step in found.fix or ()] == ["tag-pool"]
    assert "ENGINE_SETUP_UNFINISHED" not in find(EMPTY, support.docker())


def test_what_may_hold_data_is_told_with_the_reason() -> None:
    shot = events.format_volume(KILLED, "docker", "thinpool")
    found = find(shot, support.docker(config_text=DIRECT))["ENGINE_SETUP_UNFINISHED"]
    assert found.fix is None
    assert "adopt docker is refused now: docker/thinpool may hold somebody's data: it carries ext4" in found.resolution


def test_in_a_group_of_no_pool_it_is_a_matter_of_hands() -> None:
    found = find(KILLED, support.docker(config_text=DIRECT), group="data")["ENGINE_SETUP_UNFINISHED"]
    assert "vgremove docker; pvremove /dev/sdb" in found.resolution
    assert (found.fix, "adopt" in found.resolution) == (None, False)


def test_it_is_not_told_of_what_is_something_else() -> None:
    made = EngineState("/var/lib/docker/devicemapper", made_by_engine=True)
    others = (
        find(with_volume(KILLED, "home"), support.docker()),
        find(support.untagged(support.healthy()), support.docker(config_text=DIRECT)),
        find(KILLED, support.docker(state=made)),
        find(KILLED, support.docker(installed=False, running=False)),
        find(after(KILLED, adopt(KILLED), 1), support.docker()),
    )
    assert not [found for found in others if "ENGINE_SETUP_UNFINISHED" in found]


def test_half_adopted_the_doctor_names_the_way_with_and_without_the_journal() -> None:
    plan = adopt(KILLED)
    shot = after(KILLED, plan, 1)
    found = find(shot, support.docker(config_text=DIRECT))["POOL_ABSENT"]
    assert "If Docker's own set-up was cut short there, run: thinpoolmgr adopt docker --allow" in found.resolution
    began = Began("r", "adopt", "2026-11-24T08:00:00.000+00:00", plan.steps, request=Request("adopt", "docker"))
    stored = StoredRun("r", (began, Doing("01", "t"), Done("01", 1.0)), "", "/runs/r.jsonl")
    known = find(shot, support.docker(config_text=DIRECT), journal=Journal((stored,)))
    assert [step_name(step) for step in known["POOL_ABSENT"].fix or ()][:3] == [*REMOVALS, "create-thin-pool"]
    assert [step_name(step) for step in known["RUN_INTERRUPTED"].fix or ()] == REMOVALS


def test_the_types_of_the_steps() -> None:
    assert [type(step) for step in adopt(KILLED).steps] == [TagPool, RemoveLeftover, RemoveLeftover]
