"""Taking over what somebody made by hand: only tags are written, and what is not ours to take is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.adopt import plan_adopt
from thinpoolmgr.core.commands import commands
from thinpoolmgr.core.lifecycle import PoolState, view_pool
from thinpoolmgr.core.model import LogicalVolume
from thinpoolmgr.core.plan import MadePool, Memory
from thinpoolmgr.core.planner import plan_activate, plan_apply
from thinpoolmgr.core.steps import TagPool, step_name
from thinpoolmgr.sim import events
from thinpoolmgr.units import MIB

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredPool
    from thinpoolmgr.core.model import Snapshot
    from thinpoolmgr.core.plan import Plan

NOTHING = Memory()
OURS = support.healthy()
BY_HAND = support.untagged(OURS)
GROUP, POOL = OURS.groups[0], OURS.groups[0].lvs[0]
KNOWN = Memory(our_groups=(GROUP.uuid,), made=(MadePool(POOL.uuid, POOL.size_bytes, POOL.metadata_bytes),))


def adopt(shot: Snapshot, pool: DesiredPool | None = None) -> Plan:
    wanted = pool or support.pool()
    return plan_adopt(wanted, support.desired(wanted), shot, NOTHING)


def apply(shot: Snapshot, memory: Memory = NOTHING) -> Plan:
    return plan_apply(support.desired(), shot, memory)


def codes(found: Plan) -> list[str]:
    return [refusal.code for refusal in found.refusals]


def group_with(shot: Snapshot, **changes: Any) -> Snapshot:
    return replace(shot, groups=tuple(replace(group, **changes) for group in shot.groups))


def with_volume(lv: LogicalVolume) -> Snapshot:
    return support.with_lv(BY_HAND, lv)


@pytest.mark.parametrize(
    ("group", "lv", "expected"),
    [
        (
            True,
            True,
            [
                ("vgchange", "--addtag", "thinpoolmgr", "docker"),
                ("lvchange", "--addtag", "thinpoolmgr", "docker/thinpool"),
            ],
        ),
        (True, False, [("vgchange", "--addtag", "thinpoolmgr", "docker")]),
        (False, True, [("lvchange", "--addtag", "thinpoolmgr", "docker/thinpool")]),
    ],
)
def test_only_the_tags_that_are_missing_are_written(group: bool, lv: bool, expected: list[tuple[str, ...]]) -> None:  # noqa: FBT001
    shot = support.untagged(OURS, group=group, lv=lv)
    found = adopt(shot)
    assert [argv for step in found.steps for argv in commands(step)] == expected
    assert (codes(found), found.warnings) == ([], ())
    assert "made by hand on /dev/sdb" in found.steps[0].reason
    after = support.carried_out(shot, found)
    assert adopt(after).is_empty
    assert apply(after).is_empty
    assert view_pool(support.pool(), after).state is PoolState.HEALTHY


def test_other_tags_stay() -> None:
    lvs = tuple(replace(lv, tags=("theirs",)) if lv.is_thin_pool else lv for lv in BY_HAND.groups[0].lvs)
    shot = group_with(BY_HAND, tags=("theirs",), lvs=lvs)
    after = support.carried_out(shot, adopt(shot)).groups[0]
    assert (after.tags, after.lvs[0].tags) == (("theirs", "thinpoolmgr"), ("theirs", "thinpoolmgr"))


@pytest.mark.parametrize("shot", [support.deactivated(BY_HAND), support.untagged(support.healthy(mode="Fail"))])
def test_a_pool_that_does_not_run_can_be_adopted_too(shot: Snapshot) -> None:
    assert [step_name(step) for step in adopt(shot).steps] == ["tag-pool"]


@pytest.mark.parametrize(
    ("shot", "code", "word"),
    [
        (group_with(BY_HAND, attr="wzx-n-"), "GROUP_NOT_OURS_TO_TAKE", "is exported"),
        (group_with(OURS, attr="wzx-n-"), "GROUP_NOT_OURS_TO_TAKE", "is exported"),
        (group_with(BY_HAND, attr="wz--ns"), "GROUP_NOT_OURS_TO_TAKE", "is shared between hosts"),
        (group_with(BY_HAND, attr="wz--nc"), "GROUP_NOT_OURS_TO_TAKE", "is shared between hosts"),
        (group_with(BY_HAND, system_id="other"), "GROUP_NOT_OURS_TO_TAKE", "belongs to the system 'other'"),
        (with_volume(support.linear("home", 4 * MIB)), "GROUP_HAS_OTHER_LVS", "docker/home"),
        (
            with_volume(LogicalVolume("web", support.uuid_of("web"), "thin", 0, "", pool_lv="thinpool")),
            "GROUP_HAS_OTHER_LVS",
            "carries LVM's thin volumes: web",
        ),
        (with_volume(support.linear("thinpool_metax", 4 * MIB)), "GROUP_HAS_OTHER_LVS", "thinpool_metax"),
        (
            support.with_lv(support.with_group(support.snapshot(), tags=()), support.linear("home", 4 * MIB)),
            "NOT_A_THIN_POOL",
            "there is no docker/thinpool",
        ),
        (
            support.with_lv(
                support.with_group(support.snapshot(), tags=()), support.linear("thinpool", 4 * MIB, "theirs")
            ),
            "NOT_A_THIN_POOL",
            "docker/thinpool is of type linear",
        ),
        (support.snapshot(), "POOL_ABSENT", "does not exist"),
        (events.vanish(support.untagged(support.with_pool(support.snapshot(
            support.disk("/dev/sdb"), support.disk("/dev/sdc")))), "/dev/sdc")[0], "POOL_PARTIAL", "partial"),
        (support.lvm_lost(BY_HAND), "POOL_LOST", "lost"),
        (support.lvm_lost(support.snapshot(), "Error reading device"), "STATE_UNKNOWN", "unknown"),
        (group_with(BY_HAND, pvs=tuple(replace(pv, duplicate=True) for pv in GROUP.pvs)), "STATE_UNKNOWN", "a copy"),
        (replace(BY_HAND, dm_devices=tuple(replace(d, pool_status=None) for d in BY_HAND.dm_devices)),
         "STATE_UNKNOWN", "could not be read"),
    ],
)  # fmt: skip
def test_what_is_not_ours_to_take_is_refused_with_a_way_out(shot: Snapshot, code: str, word: str) -> None:
    found = adopt(shot)
    assert (codes(found), found.steps) == ([code], ())
    (refusal,) = found.refusals
    assert word in f"{refusal.summary} {refusal.details}"
    assert refusal.resolution
    assert refusal.exit_code == 3


def test_the_pools_that_there_are_are_named() -> None:
    (refusal,) = adopt(BY_HAND, support.pool(thin_pool="another")).refusals
    assert refusal.code == "NOT_A_THIN_POOL"
    assert "docker/thinpool" in refusal.details
    assert "pools.docker.thin_pool" in refusal.resolution


def test_what_a_repair_kept_of_the_old_metadata_is_the_pools_own() -> None:
    assert adopt(with_volume(support.linear("thinpool_meta0", 12 * MIB))).refusals == ()


def test_all_reasons_that_forbid_it_are_told() -> None:
    shot = group_with(with_volume(support.linear("home", 4 * MIB)), attr="wzx-n-")
    assert codes(adopt(shot)) == ["GROUP_NOT_OURS_TO_TAKE", "GROUP_HAS_OTHER_LVS"]


def test_how_it_differs_is_shown_and_left_to_apply() -> None:
    wanted = support.pool(chunk_size="1MiB", when_full="error", metadata_size="16MiB")
    found = adopt(BY_HAND, wanted)
    assert [step_name(step) for step in found.steps] == ["tag-pool"]
    assert [warning.partition(":")[0] for warning in found.warnings] == [
        "Then apply would refuse",
        "Then apply would set when full docker/thinpool",
        "Then apply would extend metadata docker/thinpool",
    ]
    assert all(warning.endswith(".") and not warning.endswith("..") for warning in found.warnings)
    after = support.carried_out(BY_HAND, found)
    rest = plan_apply(support.desired(wanted), after, NOTHING)
    assert codes(rest) == ["SETTING_DIFFERS"]
    assert [step_name(step) for step in rest.steps] == ["set-when-full", "extend-metadata"]


def test_a_pool_that_is_ill_is_adopted_with_the_warning_that_nothing_else_will_be_done() -> None:
    found = adopt(support.untagged(support.healthy(needs_check=True)), support.pool(when_full="error"))
    assert len(found.steps) == 1
    assert found.warnings == (
        "Then apply would refuse: docker/thinpool is needs_check: the kernel has set needs_check.",
    )


def test_a_missing_spare_is_a_warning_of_adopt() -> None:
    found = adopt(support.with_spare(BY_HAND, 0))
    assert "spare is missing" in found.warnings[0]


# tags that were lost


@pytest.mark.parametrize(("group", "lv"), [(True, True), (True, False), (False, True)])
def test_tags_of_what_the_journal_knows_are_put_back(group: bool, lv: bool) -> None:  # noqa: FBT001
    shot = support.untagged(OURS, group=group, lv=lv)
    found = apply(shot, KNOWN)
    (step,) = found.steps
    assert isinstance(step, TagPool)
    assert (step.tag_group, step.tag_lv) == (group, lv)
    assert "the journal shows that thinpoolmgr made it" in step.reason
    assert support.carried_out(shot, found) == replace(OURS, groups=(replace(GROUP, seqno=GROUP.seqno + group + lv),))


@pytest.mark.parametrize(
    ("group", "lv", "memory"),
    [
        (True, True, NOTHING),
        (True, False, NOTHING),
        (False, True, NOTHING),
        (True, True, replace(KNOWN, made=())),
        (True, True, replace(KNOWN, our_groups=())),
        (False, True, replace(KNOWN, made=())),
        (True, False, replace(KNOWN, our_groups=("another",))),
        (False, True, replace(KNOWN, made=(replace(KNOWN.made[0], lv_uuid="another"),))),
    ],
)
def test_what_the_journal_does_not_know_stays_foreign(group: bool, lv: bool, memory: Memory) -> None:  # noqa: FBT001
    found = apply(support.untagged(OURS, group=group, lv=lv), memory)
    assert (codes(found), found.steps) == (["POOL_FOREIGN"], ())
    assert "thinpoolmgr adopt" in found.refusals[0].resolution


@pytest.mark.parametrize(("group", "lv", "memory"), [
    (True, False, replace(KNOWN, made=())),
    (False, True, replace(KNOWN, our_groups=())),
])  # fmt: skip
def test_each_tag_needs_only_its_own_evidence(group: bool, lv: bool, memory: Memory) -> None:  # noqa: FBT001
    assert [step_name(step) for step in apply(support.untagged(OURS, group=group, lv=lv), memory).steps] == ["tag-pool"]


def test_lost_tags_are_put_back_before_anything_else_is_done() -> None:
    shot = support.untagged(support.deactivated(OURS))
    found = plan_apply(support.desired(support.pool(when_full="error")), shot, KNOWN)
    assert [step_name(step) for step in found.steps] == ["tag-pool", "activate-pool", "set-when-full"]
    support.carried_out(shot, found)
    alone = events.untag(support.with_group(support.snapshot()), "docker")
    known = Memory(our_groups=(alone.groups[0].uuid,))
    assert [step_name(step) for step in apply(alone, known).steps] == ["tag-pool", "create-thin-pool"]
    support.carried_out(alone, apply(alone, known))


def test_an_exported_group_of_ours_is_not_tagged() -> None:
    shot = group_with(BY_HAND, attr="wzx-n-")
    for found in (apply(shot, KNOWN), plan_activate(support.pool(), support.desired(), shot, KNOWN)):
        assert (codes(found), found.steps) == (["POOL_FOREIGN"], ())
