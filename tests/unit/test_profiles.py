"""The LVM profile of a pool that dmeventd extends: file, attachment and low-water mark are kept in line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import support
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from thinpoolmgr.core.commands import commands
from thinpoolmgr.core.model import LvmProfile
from thinpoolmgr.core.plan import Memory
from thinpoolmgr.core.planner import plan_apply
from thinpoolmgr.core.profiles import (
    profile_name,
    profile_path,
    profile_text,
    threshold_percent,
    why_not_low_water,
)
from thinpoolmgr.core.steps import EditLvmProfile, SetProfile, step_mark, step_name
from thinpoolmgr.core.teardown import plan_destroy
from thinpoolmgr.core.thinstatus import low_water_blocks
from thinpoolmgr.sim.events import reboot

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredPool
    from thinpoolmgr.core.model import DmDevice, Snapshot
    from thinpoolmgr.core.plan import Plan

NOTHING = Memory()
HEALTHY = support.healthy()
NAME = "thinpoolmgr-docker-thinpool"


def watched(**extend: Any) -> DesiredPool:
    return support.pool(extend={"monitor": "dmeventd", **extend})


def plan(shot: Snapshot, pool: DesiredPool) -> Plan:
    return plan_apply(support.desired(pool), shot, NOTHING)


def names(found: Plan) -> list[str]:
    return [step_name(step) for step in found.steps]


def converged(shot: Snapshot, pool: DesiredPool) -> Snapshot:
    after = support.carried_out(shot, plan(shot, pool))
    assert plan(after, pool).is_empty
    return after


def device_of(shot: Snapshot) -> DmDevice:
    return next(device for device in shot.dm_devices if device.pool_status)


WATCHED = support.carried_out(HEALTHY, plan(HEALTHY, watched()))


def test_the_text_has_the_lower_threshold_and_the_step() -> None:
    pool = watched(data_threshold_percent=85, metadata_threshold_percent=70, step_percent=25)
    assert threshold_percent(pool) == 70
    assert profile_text(pool) == (
        "# Written by thinpoolmgr for the pool docker/thinpool; changes are taken back.\n"
        "activation {\n"
        "\tthin_pool_autoextend_threshold=70\n"
        "\tthin_pool_autoextend_percent=25\n"
        "}\n"
    )


NAMES = st.text("a-", max_size=4)


@given(NAMES, NAMES, NAMES, NAMES)
@example("-a-", "", "", "a-")
@example("-a-", "", "", "-a")
def test_no_two_pools_share_a_profile(group: str, lv: str, other_group: str, other_lv: str) -> None:
    def name(vg: str, thin: str) -> str:
        return profile_name(support.pool("p", volume_group=f"a{vg}", thin_pool=f"a{thin}"))

    assert (name(group, lv) == name(other_group, other_lv)) is ((group, lv) == (other_group, other_lv))


def test_the_path_is_where_lvm_looks() -> None:
    assert profile_path("x") == "/etc/lvm/profile/x.profile"


def test_a_pool_that_dmeventd_is_to_extend_gets_its_profile() -> None:
    found = plan(HEALTHY, watched())
    assert names(found) == ["edit-lvm-profile", "set-profile"]
    assert step_mark(found.steps[0]) == "+"
    assert commands(found.steps[1]) == (
        ("lvchange", "--metadataprofile", NAME, "docker/thinpool"),
        ("lvchange", "--monitor", "y", "docker/thinpool"),
        ("lvchange", "--refresh", "docker/thinpool"),
    )
    after = converged(HEALTHY, watched())
    total = 2432 * support.EXTENT // support.CHUNK
    assert low_water_blocks(device_of(after).table) == total * 20 // 100


def test_a_new_pool_is_made_with_its_profile() -> None:
    shot = support.snapshot()
    assert names(plan(shot, watched())) == ["create-volume-group", "edit-lvm-profile", "create-thin-pool"]
    converged(shot, watched())


@pytest.mark.parametrize("monitor", ["thinpoolmgr", "none"])
def test_another_monitor_takes_the_profile_away_and_the_file_last(monitor: str) -> None:
    found = plan(WATCHED, support.pool(extend={"monitor": monitor}))
    assert names(found) == ["set-profile", "edit-lvm-profile"]
    assert commands(found.steps[0])[:2] == (
        ("lvchange", "--detachprofile", "docker/thinpool"),
        ("lvchange", "--monitor", "n", "docker/thinpool"),
    )
    assert isinstance(found.steps[1], EditLvmProfile)
    assert found.steps[1].new_text is None
    after = converged(WATCHED, support.pool(extend={"monitor": monitor}))
    assert after.lvm_profiles == ()
    assert low_water_blocks(device_of(after).table) == 0


def test_other_thresholds_are_written_and_loaded() -> None:
    found = plan(WATCHED, watched(data_threshold_percent=50))
    assert names(found) == ["edit-lvm-profile", "set-profile"]
    assert "does not have the thresholds" in found.steps[0].reason
    assert "50 % make it" in found.steps[1].reason
    converged(WATCHED, watched(data_threshold_percent=50))
    assert names(plan(WATCHED, watched(step_percent=30))) == ["edit-lvm-profile"]
    converged(WATCHED, watched(step_percent=30))


@pytest.mark.parametrize("text", ["", "changed by hand", "unreadable: Permission denied"])
def test_a_file_that_was_changed_is_changed_back(text: str) -> None:
    shot = replace(WATCHED, lvm_profiles=(LvmProfile(NAME, text),))
    (step,) = plan(shot, watched()).steps
    assert isinstance(step, EditLvmProfile)
    assert (step.old_text, step.new_text) == (text, profile_text(watched()))
    converged(shot, watched())


def test_a_file_that_is_gone_comes_back_without_touching_the_pool() -> None:
    assert names(plan(replace(WATCHED, lvm_profiles=()), watched())) == ["edit-lvm-profile"]
    converged(replace(WATCHED, lvm_profiles=()), watched())


def test_a_profile_of_somebody_else_is_detached_and_its_file_is_not_ours() -> None:
    theirs = LvmProfile("theirs", "activation {}")
    lvs = tuple(replace(lv, profile="theirs") if lv.is_thin_pool else lv for lv in HEALTHY.groups[0].lvs)
    shot = replace(HEALTHY, groups=(replace(HEALTHY.groups[0], lvs=lvs),), lvm_profiles=(theirs,))
    found = plan(shot, support.pool())
    assert names(found) == ["set-profile"]
    assert "its LVM profile is theirs" in found.steps[0].reason
    assert support.carried_out(shot, found).lvm_profiles == (theirs,)


def test_the_mark_follows_the_pool_when_it_grows_and_comes_back_after_a_boot() -> None:
    larger = replace(watched(), config=replace(watched().config, data_size="100%FREE"))
    after = converged(WATCHED, larger)
    assert plan(reboot(after), larger).is_empty
    off = support.deactivated(after)
    assert names(plan(off, larger)) == ["activate-pool"]
    converged(off, larger)


def test_an_inactive_pool_gets_its_profile_and_is_as_described_at_once() -> None:
    shot = support.deactivated(HEALTHY)
    assert names(plan(shot, watched())) == ["activate-pool", "edit-lvm-profile", "set-profile"]
    converged(shot, watched())


def test_destroying_a_pool_removes_its_profile() -> None:
    state = support.desired(watched())
    found = plan_destroy(state.pools[0], state, WATCHED, NOTHING)
    assert "edit-lvm-profile" in names(found)
    after = support.carried_out(WATCHED, found)
    assert after.lvm_profiles == ()
    assert plan_destroy(state.pools[0], state, after, NOTHING).is_empty
    left = replace(after, lvm_profiles=WATCHED.lvm_profiles)
    assert names(plan_destroy(state.pools[0], state, left, NOTHING)) == ["edit-lvm-profile"]


@settings(deadline=None)
@given(st.integers(50, 100), st.integers(1, 100), st.sampled_from(["dmeventd", "none"]), st.booleans())
def test_any_thresholds_converge(threshold: int, step: int, before: str, active: bool) -> None:  # noqa: FBT001
    shot = WATCHED if before == "dmeventd" else HEALTHY
    shot = shot if active else support.deactivated(shot)
    wanted = watched(data_threshold_percent=threshold, metadata_threshold_percent=100, step_percent=step)
    converged(shot, wanted)


def test_a_mark_one_block_off_is_rounding_and_two_are_not() -> None:
    device = device_of(WATCHED)
    words = device.table.split()
    mark = int(words[3])

    def off(by: int) -> str:
        table = " ".join([*words[:3], str(mark + by), *words[4:]])
        return why_not_low_water(80, replace(device, table=table))

    assert [bool(off(by)) for by in (-2, -1, 0, 1, 2)] == [True, False, False, False, True]
    assert why_not_low_water(80, None) == ""
    assert why_not_low_water(80, replace(device, pool_status=None)) == ""
    assert why_not_low_water(80, replace(device, table="")) == ""
    assert why_not_low_water(100, HEALTHY.dm_devices[2]) == ""


def test_a_step_whose_mark_the_kernel_does_not_have_is_not_done() -> None:
    from thinpoolmgr.core.conditions import why_not_done

    step = SetProfile(reason="r", group="docker", lv="thinpool", profile=NAME, threshold_percent=80)
    assert why_not_done(step, WATCHED) == ""
    assert "80 % make it" in why_not_done(replace(step, threshold_percent=80), _without_mark(WATCHED))
    assert why_not_done(step, HEALTHY) == "LVM says profile none"


def _without_mark(shot: Snapshot) -> Snapshot:
    devices = tuple(replace(d, table=HEALTHY.dm_devices[2].table) if d.pool_status else d for d in shot.dm_devices)
    return replace(shot, dm_devices=devices)
