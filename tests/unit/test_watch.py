from __future__ import annotations

import support
from msgspec.structs import replace

from thinpoolmgr.core.extension import Ahead, extension_request, needed_growth
from thinpoolmgr.core.guards import disk_ref
from thinpoolmgr.core.lifecycle import PoolState, PoolView, view_pool
from thinpoolmgr.core.model import Signature, Snapshot, VolumeGroup
from thinpoolmgr.core.plan import Memory, Plan, Request
from thinpoolmgr.core.steps import DiskRef, ExtendData, ExtendMetadata, ExtendVolumeGroup, ResumeDevice, TakeCharge
from thinpoolmgr.core.watch import (
    CAN_GROW,
    STEPS,
    is_cut_short,
    plan_charge,
    plan_growth,
    plan_mending,
    plan_spare,
    trouble_of,
)
from thinpoolmgr.sim import events
from thinpoolmgr.sim.changes import suspend

POOL = support.pool()
HEALTHY = support.healthy()
WITH_ROOM = support.with_free_disk(HEALTHY)
EXT4 = Signature("ext4", "filesystem", 1080)


def view(shot: Snapshot) -> PoolView:
    return view_pool(POOL, shot)


def tight(shot: Snapshot) -> Snapshot:
    return support.with_status(shot, used_data_blocks=int(0.9 * 19456))


def roomy() -> Snapshot:
    """A tight pool in a group with a second disk's worth of room."""
    shot = support.with_free_disk(HEALTHY, support.disk("/dev/sdc"))
    step = ExtendVolumeGroup(reason="r", group="docker", disks=(ref(shot, "/dev/sdc"),))
    return tight(support.apply_step(shot, step))


def ref(shot: Snapshot, path: str) -> DiskRef:
    found = shot.find_disk(path)
    assert found is not None
    return disk_ref(found)


def growth(shot: Snapshot) -> Request:
    wanted = needed_growth(view(shot), Ahead())
    assert wanted is not None
    request = extension_request(view(shot), wanted)
    assert request is not None
    return request


def kinds(plan: Plan) -> list[type]:
    return [type(step) for step in plan.steps]


def test_trouble_is_all_that_an_extension_cannot_mend() -> None:
    assert trouble_of(view(HEALTHY)) == ""
    assert trouble_of(view(tight(HEALTHY))) == ""
    assert trouble_of(view(support.snapshot())) == ""
    assert trouble_of(view(support.deactivated(HEALTHY))) == ""
    assert trouble_of(view(support.with_status(HEALTHY, needs_check=True))) == "POOL_NEEDS_CHECK"
    assert trouble_of(view(support.with_status(HEALTHY, mode="Fail"))) == "POOL_FAILED"
    assert trouble_of(view(support.with_status(HEALTHY, mode="ro"))) == "POOL_READ_ONLY"
    assert trouble_of(view(support.untagged(HEALTHY))) == "POOL_FOREIGN"


def test_growth_is_planned_and_nothing_more_when_it_is_there() -> None:
    shot = roomy()
    request = growth(shot)
    plan = plan_growth(view(shot), request, shot, Memory())
    assert (kinds(plan), plan.request) == ([ExtendData], request)
    # Who reads the journal later must not think that a person did it.
    assert plan.steps[0].reason.endswith(": the pool fills up")
    after = support.carried_out(shot, plan)
    assert plan_growth(view(after), request, after, Memory()).is_empty


def test_metadata_grow_before_data() -> None:
    shot = support.with_status(roomy(), used_metadata_blocks=2900)
    assert kinds(plan_growth(view(shot), growth(shot), shot, Memory())) == [ExtendMetadata, ExtendData]


def test_a_pool_that_is_not_well_is_not_extended() -> None:
    shot = roomy()
    request = growth(shot)
    for changes in ({"needs_check": True}, {"mode": "Fail"}, {"mode": "ro"}):
        sick = support.with_status(shot, **changes)
        plan = plan_growth(view(sick), request, sick, Memory())
        assert plan.steps == ()
        assert plan.refusals[0].code.startswith("POOL_")
    foreign = support.untagged(shot)
    assert plan_growth(view(foreign), request, foreign, Memory()).refusals[0].code == "POOL_FOREIGN"


def test_a_spare_disk_passes_the_guards_of_apply_and_is_never_wiped() -> None:
    request = growth(roomy())
    blank = support.with_free_disk(HEALTHY, support.disk("/dev/sdc"))
    spare = blank.find_disk("/dev/sdc")
    assert spare is not None
    assert kinds(plan_spare(view(blank), spare, blank, Memory(), request)) == [ExtendVolumeGroup]
    signed = replace(spare, signatures=(EXT4,))
    plan = plan_spare(view(blank), signed, blank, Memory(), request)
    assert (plan.steps, plan.refusals[0].code) == ((), "DISK_HAS_SIGNATURE")
    wiping = view_pool(replace(POOL, config=replace(POOL.config, wipe_signatures=True)), blank)
    plan = plan_spare(wiping, signed, blank, Memory(), request)
    assert (plan.steps, plan.refusals[0].code) == ((), "NOT_THE_MONITORS")
    mounted = replace(spare, mounts=("/srv",))
    assert plan_spare(view(blank), mounted, blank, Memory(), request).refusals[0].code == "DISK_MOUNTED"


def test_charge_is_taken_once() -> None:
    assert kinds(plan_charge(view(HEALTHY))) == [TakeCharge]
    after = support.carried_out(HEALTHY, plan_charge(view(HEALTHY)))
    assert plan_charge(view(after)).is_empty
    watched = replace(after, groups=(with_monitoring(after),))
    assert "dmeventd watches it" in plan_charge(view(watched)).steps[0].reason
    assert plan_charge(view(support.deactivated(HEALTHY))).is_empty
    assert plan_charge(view(support.with_status(HEALTHY, needs_check=True))).is_empty


def with_monitoring(shot: Snapshot) -> VolumeGroup:
    (group,) = shot.groups
    return replace(group, lvs=tuple(replace(lv, monitored=lv.is_thin_pool) for lv in group.lvs))


def test_what_was_cut_short_is_mended() -> None:
    assert not is_cut_short(view(HEALTHY))
    hung = suspend(HEALTHY, ("docker-thinpool",))
    assert is_cut_short(view(hung))
    plan = plan_mending(view(hung))
    assert kinds(plan) == [ResumeDevice]
    assert plan_mending(view(support.carried_out(hung, plan))).is_empty
    step = ExtendData(
        reason="r",
        pool="docker",
        group="docker",
        lv="thinpool",
        data_extents=2433,
        extent_bytes=support.EXTENT,
        chunk_bytes=support.CHUNK,
    )
    for left in ("first", "second", "third"):
        half = events.half_done(roomy(), step, left)
        assert all(isinstance(planned, STEPS) for planned in plan_mending(view(half)).steps)


def test_the_monitor_may_do_six_things() -> None:
    assert {kind.__struct_config__.tag for kind in STEPS} == {
        "extend-volume-group",
        "extend-metadata",
        "extend-data",
        "refresh-pool",
        "resume-device",
        "take-charge",
    }
    assert PoolState.OUT_OF_METADATA in CAN_GROW


def test_a_pool_in_trouble_takes_no_spare_disk() -> None:
    shot = support.with_status(WITH_ROOM, needs_check=True)
    plan = plan_spare(view(shot), shot.disks[-1], shot, Memory(), Request("extend", "docker"))
    assert ([refusal.code for refusal in plan.refusals], plan.steps) == (["POOL_NEEDS_CHECK"], ())
