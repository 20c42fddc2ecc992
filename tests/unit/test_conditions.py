from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.commands import commands
from thinpoolmgr.core.conditions import Condition, condition_of, is_ready, why_not_done
from thinpoolmgr.core.guards import disk_ref
from thinpoolmgr.core.model import BaseDevice, LvmProfile, PhysicalVolume, ServiceState, Signature
from thinpoolmgr.core.names import OUR_TAG
from thinpoolmgr.core.steps import (
    ActivatePool,
    CreateThinPool,
    CreateVolumeGroup,
    DeactivatePool,
    DeleteSetAside,
    EditLvmProfile,
    ExtendData,
    ExtendMetadata,
    ExtendVolumeGroup,
    GrowBase,
    MoveStateAside,
    RefreshPool,
    ReloadUnits,
    RemoveDmDevice,
    RemoveLeftover,
    RemovePhysicalVolumes,
    RemoveThinPool,
    RemoveVolumeGroup,
    ResumeDevice,
    SetDiscards,
    SetProfile,
    SetWhenFull,
    SetZeroing,
    StartEngine,
    Step,
    StopContainers,
    StopEngine,
    TagPool,
    TakeCharge,
    WipeSignatures,
    WriteEngineConfig,
    step_mark,
    step_name,
    target,
)
from thinpoolmgr.sim import events
from thinpoolmgr.units import GIB, MIB

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Snapshot

EXT4 = Signature("ext4", "filesystem", 1080)
BLANK = support.snapshot()
GROUP_ONLY = support.with_group(BLANK)
HEALTHY = support.healthy()
THIN = support.with_thin_device(HEALTHY)
GROUP = HEALTHY.groups[0]
POOL_UUID = GROUP.lvs[0].uuid
REF = disk_ref(BLANK.disks[0])
NAMES: dict[str, Any] = {"reason": "r", "group": "docker", "lv": "thinpool"}
UNITS = ("docker.socket", "docker.service")
LEFTOVER = support.linear("lvol0", 12 * 1024 * 1024)
ORPHANED = support.apply_step(GROUP_ONLY, RemoveVolumeGroup(reason="r", group="docker", group_uuid=GROUP.uuid))
STOPPED = support.with_engine(BLANK, replace(support.docker(), state=support.STALE))
RUNNING = support.with_engine(BLANK, support.docker(running=True))

ASIDE = "/var/lib/docker/thinpoolmgr-stale-1"
TWO_DISKS = support.with_free_disk(HEALTHY, support.disk("/dev/sdc"))
UNTAGGED = support.untagged(HEALTHY)
PROFILE = LvmProfile("thinpoolmgr-docker-thinpool", "activation {\n\tthin_pool_autoextend_threshold=70\n}\n")
GROW_DATA = ExtendData(**NAMES, data_extents=2500, extent_bytes=support.EXTENT, chunk_bytes=support.CHUNK)
GROW_METADATA = ExtendMetadata(**NAMES, metadata_bytes=16 * MIB)

BEFORE: dict[type, tuple[Step, Snapshot]] = {
    ExtendVolumeGroup: (
        ExtendVolumeGroup(reason="r", group="docker", disks=(disk_ref(TWO_DISKS.disks[1]),)),
        TWO_DISKS,
    ),
    TagPool: (
        TagPool(**NAMES, group_uuid=GROUP.uuid, lv_uuid=POOL_UUID, tag_group=True, tag_lv=True),
        UNTAGGED,
    ),
    ExtendMetadata: (GROW_METADATA, HEALTHY),
    ExtendData: (GROW_DATA, HEALTHY),
    SetDiscards: (SetDiscards(**NAMES, discards="nopassdown"), HEALTHY),
    SetZeroing: (SetZeroing(**NAMES, zero_new_blocks=True), HEALTHY),
    EditLvmProfile: (
        EditLvmProfile(reason="r", profile=PROFILE.name, path="/p", old_text=None, new_text=PROFILE.text),
        HEALTHY,
    ),
    SetProfile: (
        SetProfile(**NAMES, profile=PROFILE.name, threshold_percent=70),
        replace(HEALTHY, lvm_profiles=(PROFILE,)),
    ),
    TakeCharge: (TakeCharge(**NAMES, threshold_percent=80), HEALTHY),
    RefreshPool: (RefreshPool(**NAMES), events.half_done(HEALTHY, GROW_DATA, "second")),
    ResumeDevice: (
        ResumeDevice(reason="r", name="docker-thinpool", uuid=HEALTHY.dm_devices[2].uuid),
        events.half_done(HEALTHY, GROW_DATA, "first"),
    ),
    DeleteSetAside: (
        DeleteSetAside(reason="r", engine="docker", path=ASIDE),
        support.with_engine(BLANK, support.docker(set_aside=(ASIDE,))),
    ),
    WipeSignatures: (
        WipeSignatures(reason="r", disk=REF, found=("ext4",)),
        support.snapshot(support.disk(signatures=(EXT4,))),
    ),
    CreateVolumeGroup: (CreateVolumeGroup(reason="r", group="docker", disks=(REF,)), BLANK),
    RemoveLeftover: (
        RemoveLeftover(reason="r", group="docker", lv="lvol0", lv_uuid=LEFTOVER.uuid),
        support.with_lv(GROUP_ONLY, LEFTOVER),
    ),
    CreateThinPool: (support.create_step(support.pool()), GROUP_ONLY),
    SetWhenFull: (SetWhenFull(reason="r", group="docker", lv="thinpool", when_full="error"), HEALTHY),
    ActivatePool: (ActivatePool(reason="r", group="docker", lv="thinpool"), support.deactivated(HEALTHY)),
    DeactivatePool: (DeactivatePool(reason="r", group="docker", lv="thinpool"), HEALTHY),
    RemoveDmDevice: (RemoveDmDevice(reason="r", name="docker-8:1-42-base", uuid="", devno="254:3"), THIN),
    RemoveThinPool: (RemoveThinPool(reason="r", group="docker", lv="thinpool", lv_uuid=POOL_UUID), HEALTHY),
    RemoveVolumeGroup: (RemoveVolumeGroup(reason="r", group="docker", group_uuid=GROUP.uuid), GROUP_ONLY),
    RemovePhysicalVolumes: (
        RemovePhysicalVolumes(reason="r", disks=(REF,), pv_uuids=tuple(pv.uuid for pv in GROUP.pvs)),
        ORPHANED,
    ),
    StopContainers: (
        StopContainers(reason="r", engine="docker", socket="/s", containers=("web",)),
        support.with_engine(BLANK, support.docker(running=True, containers=("web",))),
    ),
    StopEngine: (StopEngine(reason="r", engine="docker", units=UNITS), RUNNING),
    StartEngine: (StartEngine(reason="r", engine="docker", units=UNITS), STOPPED),
    MoveStateAside: (MoveStateAside(reason="r", engine="docker", paths=(support.STALE.path,), into="/x"), STOPPED),
    WriteEngineConfig: (
        WriteEngineConfig(reason="r", engine="docker", path=support.DAEMON_JSON, old_text=None, new_text="{}"),
        STOPPED,
    ),
    GrowBase: (
        GrowBase(
            reason="r",
            engine="docker",
            pool_dm_name="docker-thinpool",
            device_id=1,
            size_bytes=20 * GIB,
            filesystem="xfs",
        ),
        support.with_engine(BLANK, support.docker(state=support.STALE, base=BaseDevice(size_bytes=10 * GIB))),
    ),
    ReloadUnits: (
        ReloadUnits(reason="r", engine="docker"),
        support.with_engine(BLANK, support.docker(service=ServiceState(systemd=True, needs_reload=True))),
    ),
}
KINDS = get_args(Step)


def test_every_kind_of_step_is_shown_here() -> None:
    assert set(BEFORE) == set(KINDS)
    assert len({step_name(step) for step, _ in BEFORE.values()}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_step_is_ready_before_and_done_after_it_was_performed(kind: type) -> None:
    step, shot = BEFORE[kind]
    assert why_not_done(step, shot)
    assert condition_of(step, shot) is Condition.READY
    host = support.FakeHost(shot)
    host.perform(step)
    assert why_not_done(step, host.observe()) == ""
    assert condition_of(step, host.observe()) is Condition.DONE


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_step_that_did_nothing_is_not_done(kind: type) -> None:
    step, shot = BEFORE[kind]
    host = support.FakeHost(shot, {step_name(step): "nothing"})
    host.perform(step)
    assert why_not_done(step, host.observe())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_step_can_be_told_and_carried_out(kind: type) -> None:
    step, _ = BEFORE[kind]
    assert target(step)
    assert step_mark(step) in "+~!-"
    edits_files = isinstance(step, MoveStateAside | DeleteSetAside | WriteEngineConfig | EditLvmProfile)
    asks_an_api = isinstance(step, StopContainers)
    assert bool(commands(step)) is not (edits_files or asks_an_api)
    assert all(isinstance(word, str) and word for argv in commands(step) for word in argv)


TROUBLE = ("Error reading device /dev/sdb",)


@pytest.mark.parametrize("kind", [RemoveThinPool, RemoveLeftover, RemoveVolumeGroup, RemovePhysicalVolumes])
def test_what_lvm_does_not_list_is_gone_only_when_its_report_is_whole(kind: type) -> None:
    step, shot = BEFORE[kind]
    after = support.apply_step(shot, step)
    assert why_not_done(step, after) == ""
    assert "incomplete" in why_not_done(step, replace(after, lvm_trouble=TROUBLE))


def test_a_pool_that_lvm_forgot_and_the_kernel_runs_is_not_removed() -> None:
    step, _ = BEFORE[RemoveThinPool]
    assert "the kernel still has docker-thinpool" in why_not_done(step, support.lvm_lost(HEALTHY))


def test_a_created_pool_must_have_our_tag_and_the_kernels_size() -> None:
    step = support.create_step(support.pool())
    assert why_not_done(step, HEALTHY) == ""
    assert "LVM does not list" in why_not_done(step, BLANK)
    assert "the kernel has no pool" in why_not_done(step, support.deactivated(HEALTHY))
    assert "bytes, not" in why_not_done(step, support.healthy(total_data_blocks=19455))
    assert "bytes, not" in why_not_done(replace(step, data_extents=2433), HEALTHY)
    untagged = replace(GROUP, lvs=tuple(replace(lv, tags=()) for lv in GROUP.lvs))
    assert "does not carry the tag" in why_not_done(step, replace(HEALTHY, groups=(untagged,)))
    unread = tuple(replace(d, pool_status=None) for d in HEALTHY.dm_devices)
    assert "the kernel has no pool" in why_not_done(step, replace(HEALTHY, dm_devices=unread))


def test_a_linear_lv_of_the_pools_name_is_not_the_pool() -> None:
    step = support.create_step(support.pool())
    half = support.with_lv(GROUP_ONLY, support.linear("thinpool", step.metadata_bytes, OUR_TAG))
    assert "does not list a thin pool" in why_not_done(step, half)
    assert condition_of(step, half) is Condition.READY


def test_a_created_group_must_have_our_tag_and_exactly_these_disks() -> None:
    step = CreateVolumeGroup(reason="r", group="docker", disks=(REF,))
    assert why_not_done(step, GROUP_ONLY) == ""
    assert "does not carry" in why_not_done(step, support.with_group(BLANK, tags=()))
    two = support.with_group(support.snapshot(support.disk("/dev/sdb"), support.disk("/dev/sdc")))
    assert "/dev/sdb, /dev/sdc, not /dev/sdb" in why_not_done(step, two)
    assert condition_of(step, two) is Condition.STUCK
    assert condition_of(step, support.with_group(BLANK, tags=())) is Condition.STUCK


@pytest.mark.parametrize("kind", [CreateThinPool, SetWhenFull, ActivatePool, RemoveThinPool])
def test_steps_in_a_group_that_became_foreign_are_stuck(kind: type) -> None:
    step, shot = BEFORE[kind]
    foreign = replace(shot, groups=tuple(replace(g, tags=()) for g in shot.groups))
    assert condition_of(step, foreign) is Condition.STUCK
    assert is_ready(step, BLANK)


def test_when_full_needs_lvms_word_and_the_kernels() -> None:
    step = SetWhenFull(reason="r", group="docker", lv="thinpool", when_full="error")
    done = support.apply_step(HEALTHY, step)
    assert why_not_done(step, done) == ""
    assert "the kernel would queue" in why_not_done(step, support.with_status(done, when_full="queue"))
    assert "LVM says queue" in why_not_done(step, support.healthy(when_full="error"))
    assert why_not_done(step, support.deactivated(done)) == ""
    assert "LVM says nothing" in why_not_done(step, BLANK)


def test_a_wipe_is_done_only_when_the_disk_was_read_and_is_blank() -> None:
    step, shot = BEFORE[WipeSignatures]
    assert "still carries ext4" in why_not_done(step, shot)
    assert "cannot be read" in why_not_done(step, support.snapshot(support.disk(signatures=None)))
    assert "cannot be read" in why_not_done(step, support.snapshot(support.disk("/dev/sdc")))
    swapped = support.snapshot(support.disk(signatures=(EXT4,), serial="another"))
    assert condition_of(step, swapped) is Condition.STUCK
    assert condition_of(step, support.snapshot(support.disk("/dev/sdc"))) is Condition.READY


def test_labels_are_gone_when_neither_lvm_nor_the_disk_shows_them() -> None:
    step, shot = BEFORE[RemovePhysicalVolumes]
    assert "LVM still lists /dev/sdb" in why_not_done(step, shot)
    assert "LVM still lists /dev/sdb" in why_not_done(step, GROUP_ONLY)
    assert condition_of(step, GROUP_ONLY) is Condition.READY  # it was turned round
    assert condition_of(step, support.with_group(BLANK, tags=())) is Condition.STUCK
    assert "still carries LVM's label" in why_not_done(step, replace(shot, orphan_pvs=()))
    other = PhysicalVolume("/dev/sdz", support.uuid_of("z"), 1)
    assert why_not_done(step, replace(BLANK, orphan_pvs=(other,))) == ""


def test_another_device_of_the_same_name_is_not_the_one_to_remove() -> None:
    step = RemoveDmDevice(reason="r", name="docker-8:1-42-base", uuid="LVM-x", devno="254:3")
    assert why_not_done(step, THIN) == ""


@pytest.mark.parametrize("kind", [StopEngine, StartEngine, MoveStateAside, WriteEngineConfig])
def test_an_engine_that_was_not_looked_at_is_unknown(kind: type) -> None:
    step, _ = BEFORE[kind]
    assert why_not_done(step, BLANK) == "docker was not looked at"


def test_an_engine_that_does_not_answer_is_neither_stopped_nor_started() -> None:
    shot = support.with_engine(BLANK, support.docker(running=None))
    assert why_not_done(BEFORE[StopContainers][0], shot)
    assert why_not_done(BEFORE[StopEngine][0], shot)
    assert why_not_done(BEFORE[StartEngine][0], shot)


def test_state_that_cannot_be_read_is_not_moved() -> None:
    step, _ = BEFORE[MoveStateAside]
    assert why_not_done(step, support.with_engine(BLANK, support.docker(state_problem="Permission denied")))
    elsewhere = replace(support.STALE, path="/other")
    assert why_not_done(step, support.with_engine(BLANK, support.docker(state=elsewhere))) == ""


@pytest.mark.parametrize(
    "kind",
    [ExtendVolumeGroup, ExtendMetadata, ExtendData, SetDiscards, SetZeroing, SetProfile, RefreshPool],
)
def test_changes_in_a_group_that_became_foreign_are_stuck(kind: type) -> None:
    step, shot = BEFORE[kind]
    foreign = replace(shot, groups=tuple(replace(g, tags=()) for g in shot.groups))
    assert condition_of(step, foreign) is Condition.STUCK


def test_a_tag_is_for_one_group_and_not_for_another_of_its_name() -> None:
    step, shot = BEFORE[TagPool]
    other = replace(shot, groups=tuple(replace(g, uuid="another") for g in shot.groups))
    assert condition_of(step, other) is Condition.STUCK
    assert condition_of(step, BLANK) is Condition.READY
    assert "docker/thinpool does not carry" in why_not_done(step, support.untagged(HEALTHY, group=False))
    assert "the volume group docker does not carry" in why_not_done(step, support.untagged(HEALTHY, lv=False))


def test_an_enlargement_is_done_when_the_kernel_has_it_not_when_lvm_says_so() -> None:
    for step in (GROW_DATA, GROW_METADATA):
        only_lvm = events.half_done(HEALTHY, step, "third")
        assert "the kernel's pool has" in why_not_done(step, only_lvm)
        done = support.apply_step(HEALTHY, step)
        assert why_not_done(step, done) == ""
        assert "the kernel has no pool" in why_not_done(step, support.deactivated(done))
        assert "LVM does not list" in why_not_done(step, BLANK)


def test_more_than_was_asked_for_is_done_and_one_chunk_less_is_not() -> None:
    done = support.apply_step(HEALTHY, GROW_DATA)
    chunks = 2500 * support.EXTENT // support.CHUNK
    assert why_not_done(GROW_DATA, support.with_status(done, total_data_blocks=chunks + 1)) == ""
    assert why_not_done(GROW_DATA, support.with_status(done, total_data_blocks=chunks - 1))


def test_metadata_is_enlarged_only_with_its_spare() -> None:
    done = support.apply_step(HEALTHY, GROW_METADATA)
    assert "the metadata spare of docker has 0 bytes" in why_not_done(GROW_METADATA, support.with_spare(done, 0))
    assert "has 12582912 bytes" in why_not_done(GROW_METADATA, support.with_spare(done, 3))


def test_a_setting_is_lvms_word_and_a_pool_that_is_gone_has_none() -> None:
    for kind in (SetDiscards, SetZeroing, SetProfile):
        step, _ = BEFORE[kind]
        assert why_not_done(step, BLANK) == "LVM does not list docker/thinpool"
    assert why_not_done(BEFORE[SetZeroing][0], HEALTHY) == "LVM says zero False"
    assert why_not_done(BEFORE[SetDiscards][0], HEALTHY) == "LVM says discards passdown"


def test_a_pool_that_gave_up_or_does_not_run_is_not_behind() -> None:
    step, shot = BEFORE[RefreshPool]
    assert "is suspended" in why_not_done(step, shot)
    assert why_not_done(step, support.deactivated(HEALTHY)) == ""
    assert why_not_done(step, support.with_status(shot, mode="Fail")) == ""
    assert "LVM does not list" in why_not_done(step, BLANK)


def test_another_device_of_the_same_name_is_not_the_one_to_resume() -> None:
    step, shot = BEFORE[ResumeDevice]
    assert isinstance(step, ResumeDevice)
    assert why_not_done(step, shot) == "docker-thinpool is suspended"
    assert why_not_done(replace(step, uuid="LVM-x"), shot) == ""


@pytest.mark.parametrize(("old", "new"), [(None, "a"), ("a", "b"), ("a", None)])
def test_a_profile_file_is_as_it_should_be_or_is_not(old: str | None, new: str | None) -> None:
    step = EditLvmProfile(reason="r", profile="p", path="/p", old_text=old, new_text=new)

    def shot(text: str | None) -> Snapshot:
        return replace(BLANK, lvm_profiles=() if text is None else (LvmProfile("p", text),))

    assert why_not_done(step, shot(old)) == "/p is not as it should be"
    assert why_not_done(step, shot(new)) == ""
    assert step_mark(step) == ("+" if old is None else "~")


def test_a_queued_start_is_done_when_systemd_has_it() -> None:
    step = replace(BEFORE[StartEngine][0], queue=True)
    waiting = ServiceState(systemd=True, unit="docker.service", queued=True)
    assert why_not_done(step, STOPPED)
    assert not why_not_done(step, support.with_engine(BLANK, support.docker(service=waiting)))
    starting = replace(waiting, queued=False, active=None)
    assert not why_not_done(step, support.with_engine(BLANK, support.docker(service=starting)))
    assert why_not_done(BEFORE[StartEngine][0], support.with_engine(BLANK, support.docker(service=waiting)))
