from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.commands import commands
from thinpoolmgr.core.fingerprint import fingerprint_of_host
from thinpoolmgr.core.model import ConfiguredDevice, PhysicalVolume, Signature
from thinpoolmgr.core.plan import Memory, OpenStep, fingerprint_of
from thinpoolmgr.core.planner import plan_activate, plan_apply
from thinpoolmgr.core.steps import CreateThinPool, StartEngine, step_mark, step_name, target
from thinpoolmgr.units import MIB

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredPool
    from thinpoolmgr.core.model import LogicalVolume, Snapshot
    from thinpoolmgr.core.plan import Plan

NOTHING = Memory()
EXT4 = Signature("ext4", "filesystem", 1080)
HEALTHY = support.healthy()
GROUP_ONLY = support.with_group(support.snapshot())


def plan(shot: Snapshot, *pools: DesiredPool, memory: Memory = NOTHING) -> Plan:
    return plan_apply(support.desired(*pools), shot, memory)


def names(found: Plan) -> list[str]:
    return [step_name(step) for step in found.steps]


def codes(found: Plan) -> list[str]:
    return [refusal.code for refusal in found.refusals]


def test_a_plain_pool_takes_exactly_two_changing_commands() -> None:
    found = plan(support.snapshot())
    assert (found.refusals, found.notes) == ((), ())
    assert [argv for step in found.steps for argv in commands(step)] == [
        ("vgcreate", "--addtag", "thinpoolmgr", "docker", "/dev/sdb"),
        (
            *("lvcreate", "--type", "thin-pool", "--name", "thinpool", "--extents", "2431"),
            *("--poolmetadatasize", "12m", "--chunksize", "512k", "--zero", "n", "--discards", "passdown"),
            *("--monitor", "n", "--addtag", "thinpoolmgr", "docker"),
        ),
    ]
    assert [step.id for step in found.steps] == ["01", "02"]
    assert {(step.danger, step.pool, step_mark(step)) for step in found.steps} == {("safe", "docker", "+")}
    assert "/dev/sdb (10 GiB) is blank and unused" in found.steps[0].reason


def test_a_plan_carried_out_leaves_nothing_to_do() -> None:
    shot = support.snapshot()
    for step in plan(shot).steps:
        shot = support.checked(support.apply_step(shot, step))
    assert plan(shot).is_empty
    assert plan(HEALTHY).is_empty


def test_when_full_error_adds_one_command() -> None:
    wanted = support.pool(when_full="error")
    found = plan(support.snapshot(), wanted)
    assert names(found) == ["create-volume-group", "create-thin-pool", "set-when-full"]
    assert commands(found.steps[2]) == (("lvchange", "--errorwhenfull", "y", "docker/thinpool"),)
    assert names(plan(HEALTHY, wanted)) == ["set-when-full"]


def test_when_full_is_set_back() -> None:
    (step,) = plan(support.apply_step(HEALTHY, plan(HEALTHY, support.pool(when_full="error")).steps[0])).steps
    assert commands(step) == (("lvchange", "--errorwhenfull", "n", "docker/thinpool"),)


def test_a_name_that_may_change_is_warned_of_while_it_matters() -> None:
    stable = "/dev/disk/by-id/ata-1"
    shot = support.snapshot(support.disk("/dev/sdb", links=("/dev/disk/by-path/x", stable)))
    (warning,) = plan(shot).warnings
    assert warning.startswith("/dev/sdb may be another disk")
    assert stable in warning
    assert plan(shot, support.pool("docker", stable)).warnings == ()
    assert plan(support.deactivated(HEALTHY)).warnings == ()


def test_a_kernel_that_does_not_do_what_lvm_says_gets_its_table_again() -> None:
    (step,) = plan(support.with_status(HEALTHY, when_full="error")).steps
    assert commands(step) == (("lvchange", "--refresh", "docker/thinpool"),)


@pytest.mark.parametrize("mode", ["out_of_data_space", "ro"])
def test_a_full_pools_failing_writes_are_no_setting_to_correct(mode: str) -> None:
    assert plan(support.with_status(HEALTHY, when_full="error", mode=mode)).steps == ()


def test_disks_of_different_sector_sizes_are_refused() -> None:
    shot = support.snapshot(support.disk("/dev/sdb"), support.disk("/dev/sdc", sector_bytes=4096))
    found = plan(shot, support.pool("docker", "/dev/sdb", "/dev/sdc"))
    assert (codes(found), found.steps) == (["SECTOR_SIZES_DIFFER"], ())
    assert "/dev/sdc 4096" in found.refusals[0].details


def test_the_configuration_reaches_the_command() -> None:
    wanted = support.pool(
        "p-1",
        thin_pool="tp",
        data_size="1GiB",
        metadata_size="8MiB",
        chunk_size="64KiB",
        zero_new_blocks=True,
        discards="ignore",
        extend={"monitor": "dmeventd"},
    )
    found = plan(support.snapshot(), wanted)
    assert names(found) == ["create-volume-group", "edit-lvm-profile", "create-thin-pool"]
    assert " ".join(commands(found.steps[2])[0]) == (
        "lvcreate --type thin-pool --name tp --extents 256 --poolmetadatasize 8m --chunksize 64k --zero y "
        "--discards ignore --monitor y --metadataprofile thinpoolmgr-p--1-tp --addtag thinpoolmgr p-1"
    )


def test_two_disks_make_one_group() -> None:
    shot = support.snapshot(support.disk("/dev/sdb"), support.disk("/dev/sdc"))
    found = plan(shot, support.pool("docker", "/dev/sdb", "/dev/sdc"))
    assert commands(found.steps[0])[0][-2:] == ("/dev/sdb", "/dev/sdc")
    assert "are blank and unused" in found.steps[0].reason
    create = found.steps[1]
    assert isinstance(create, CreateThinPool)
    assert create.data_extents == 2 * 2559 * 95 // 100


def test_a_link_leads_to_the_node_that_is_used() -> None:
    link = "/dev/disk/by-id/virtio-data0"
    shot = replace(support.snapshot(), configured_devices=(ConfiguredDevice(link, "/dev/sdb"),))
    assert target(plan(shot, support.pool("docker", link)).steps[0]) == "docker"
    assert commands(plan(shot, support.pool("docker", link)).steps[0])[0][-1] == "/dev/sdb"


def test_an_inactive_pool_is_activated() -> None:
    found = plan(support.deactivated(HEALTHY))
    assert [argv for step in found.steps for argv in commands(step)] == [
        ("lvchange", "--activate", "y", "docker/thinpool")
    ]
    assert step_mark(found.steps[0]) == "~"


def test_a_spare_disk_that_is_away_keeps_no_pool_from_being_activated() -> None:
    wanted = support.pool(spare_devices=("/dev/disk/by-id/dead",))
    away = ConfiguredDevice("/dev/disk/by-id/dead", problem="missing")
    shot = replace(HEALTHY, configured_devices=(*HEALTHY.configured_devices, away))
    found = plan(support.deactivated(shot), wanted)
    assert (names(found), codes(found)) == (["activate-pool"], [])
    assert found.warnings == (
        "/dev/disk/by-id/dead is missing; as a spare disk of pools.docker it cannot be taken when the pool is full.",
    )
    # A device is what the pool is to have, and nothing says that a pool which is not there is not on the spare disk.
    assert codes(plan(shot, support.pool("docker", "/dev/sdb", away.configured_path))) == ["DISK_MISSING"]
    new = replace(support.snapshot(), configured_devices=shot.configured_devices)
    assert (codes(plan(new, wanted)), names(plan(new, wanted))) == (["DISK_MISSING"], [])


def test_no_disk_is_taken_for_a_pool_while_it_may_be_another_one_s_spare() -> None:
    whole = support.pool(spare_devices=("/dev/disk/by-id/dead",))
    away = ConfiguredDevice("/dev/disk/by-id/dead", problem="missing")
    other = support.pool("other", "/dev/sdc")
    shot = support.with_free_disk(HEALTHY, support.disk("/dev/sdc"))
    shot = replace(shot, configured_devices=(*shot.configured_devices, away))
    for pools in ((whole, other), (other, whole)):
        found = plan_apply(support.desired(*pools), shot, Memory())
        assert codes(found) == ["DISK_MISSING"]
    # What was taken before is nobody's spare.
    alone = plan_apply(support.desired(support.pool(), other), shot, Memory())
    assert (codes(alone), "create-volume-group" in names(alone)) == ([], True)
    made = support.carried_out(shot, alone)
    assert codes(plan_apply(support.desired(whole, other), made, Memory())) == []


@pytest.mark.parametrize("status", [{"used_data_blocks": 19000}, {"mode": "out_of_data_space"}])
def test_a_pool_that_is_merely_full_is_warned_of(status: dict[str, object]) -> None:
    found = plan(support.healthy(**status))
    assert found.is_empty
    assert "docker/thinpool is" in found.warnings[0]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"needs_check": True}, "POOL_NEEDS_CHECK"),
        ({"mode": "ro", "used_metadata_blocks": 3072}, "POOL_OUT_OF_METADATA"),
        ({"mode": "ro"}, "POOL_READ_ONLY"),
    ],
)
def test_a_pool_that_cannot_be_written_is_not_as_described(status: dict[str, object], code: str) -> None:
    found = plan(support.healthy(**status))
    assert (codes(found), found.steps) == ([code], ())


def test_the_way_out_of_a_state_is_a_command_that_can_be_copied() -> None:
    full = plan(support.healthy(mode="ro", used_metadata_blocks=3072)).refusals[0]
    foreign = plan(support.untagged(HEALTHY)).refusals[0]
    assert "thinpoolmgr extend docker --metadata +" in full.resolution
    assert "thinpoolmgr adopt docker." in foreign.resolution


def test_what_differs_does_not_keep_a_pool_from_being_activated() -> None:
    wanted = support.pool(discards="ignore", data_size="20GiB")
    found = plan_activate(wanted, support.desired(wanted), support.deactivated(HEALTHY), NOTHING)
    assert (names(found), codes(found)) == (["activate-pool"], [])


def test_a_pool_that_has_grown_is_as_described() -> None:
    assert plan(HEALTHY, support.pool(data_size="1GiB", metadata_size="4MiB")).is_empty


def test_signatures_are_wiped_only_where_that_is_allowed_and_marked_as_destruction() -> None:
    shot = support.snapshot(support.disk(signatures=(EXT4,)))
    assert codes(plan(shot)) == ["DISK_HAS_SIGNATURE"]
    found = plan(shot, support.pool(wipe_signatures=True))
    assert names(found) == ["wipe-signatures", "create-volume-group", "create-thin-pool"]
    assert commands(found.steps[0]) == (("wipefs", "--all", "/dev/sdb"),)
    assert (found.steps[0].danger, step_mark(found.steps[0])) == ("destroys", "-")
    assert "ext4 at byte 1080" in found.steps[0].reason


def test_all_refusals_of_all_pools_are_collected() -> None:
    disks = (
        support.disk("/dev/sdb", mounts=("/srv",)),
        support.disk("/dev/sdc", signatures=(EXT4,)),
        support.disk("/dev/sdd"),
        support.disk("/dev/sde"),
    )
    pools = (
        support.pool("a", "/dev/sdb", "/dev/sdc"),
        support.pool("b", "/dev/sdd", "/dev/sdx"),
        support.pool("c", "/dev/sde", data_size="1TiB"),
    )
    configured = (*support.snapshot(*disks).configured_devices, ConfiguredDevice("/dev/sdx", problem="missing"))
    found = plan(replace(support.snapshot(*disks), configured_devices=configured), *pools)
    assert codes(found) == ["DISK_MISSING", "DISK_MOUNTED", "DISK_HAS_SIGNATURE", "DOES_NOT_FIT"]
    assert names(found) == []


def test_one_refused_pool_does_not_hide_that_the_plan_is_refused() -> None:
    disks = (support.disk("/dev/sdb"), support.disk("/dev/sdc", swap=True))
    found = plan(support.snapshot(*disks), support.pool("a", "/dev/sdb"), support.pool("b", "/dev/sdc"))
    assert codes(found) == ["DISK_IS_SWAP"]
    assert not found.is_empty


def test_a_name_taken_in_dev_is_refused() -> None:
    found = plan(support.snapshot(dev_names=("docker",)))
    assert (codes(found), names(found)) == (["NAME_TAKEN"], [])
    assert "pools.docker.volume_group" in found.refusals[0].resolution
    assert plan(support.snapshot(dev_names=("other",))).refusals == ()


def partial(shot: Snapshot) -> Snapshot:
    group = shot.groups[0]
    missing = replace(group.pvs[0], path="[unknown]", missing=True)
    return replace(shot, groups=(replace(group, attr="wz-pn-", pvs=(missing,)),))


@pytest.mark.parametrize(
    ("shot", "code"),
    [
        (support.with_group(support.snapshot(), tags=()), "POOL_FOREIGN"),
        (partial(HEALTHY), "POOL_PARTIAL"),
        (partial(GROUP_ONLY), "POOL_PARTIAL"),
        (support.lvm_lost(support.snapshot(), "Error reading device /dev/sdb"), "STATE_UNKNOWN"),
        (support.lvm_lost(HEALTHY), "POOL_LOST"),
        (support.lvm_lost(HEALTHY, "Error reading device /dev/sdb"), "POOL_LOST"),
        (support.healthy(mode="Fail"), "POOL_FAILED"),
        (support.healthy(mode="Error"), "POOL_FAILED"),
    ],
)
def test_what_is_foreign_broken_or_unknown_is_left_alone(shot: Snapshot, code: str) -> None:
    for wanted in (support.pool(), support.pool(wipe_signatures=True, when_full="error")):
        found = plan(shot, wanted)
        assert (codes(found), names(found)) == ([code], [])
        assert found.refusals[0].exit_code == 3
        assert found.refusals[0].resolution


def test_another_chunk_size_is_refused_with_the_present_one() -> None:
    found = plan(HEALTHY, support.pool(chunk_size="1MiB"))
    assert (codes(found), names(found)) == (["SETTING_DIFFERS"], [])
    assert '"512KiB"' in found.refusals[0].resolution


def test_a_group_of_ours_without_its_pool_gets_one_in_the_room_that_is_left() -> None:
    found = plan(GROUP_ONLY)
    assert names(found) == ["create-thin-pool"]
    assert found.steps == (replace(plan(support.snapshot()).steps[1], id="01"),)


def test_an_lv_of_strangers_in_our_group_is_refused() -> None:
    found = plan(support.with_lv(GROUP_ONLY, support.linear("home", 40 * MIB)))
    assert (codes(found), names(found)) == (["GROUP_HAS_OTHER_LVS"], [])
    assert "docker/home" in found.refusals[0].summary


CREATE = support.create_step(support.pool(), 2431)
METADATA = CREATE.metadata_bytes
INTERRUPTED = Memory(interrupted=(CREATE,), open_steps=(OpenStep(CREATE),))
SPARE = support.linear("lvol0_pmspare", METADATA)
K1 = (support.linear("lvol0", METADATA),)
K2 = (support.linear("thinpool", METADATA, "thinpoolmgr"), SPARE)
K2_DATA = (support.linear("thinpool", 2431 * support.EXTENT, "thinpoolmgr"), SPARE)


def with_lvs(*lvs: LogicalVolume) -> Snapshot:
    shot = GROUP_ONLY
    for lv in lvs:
        shot = support.with_lv(shot, lv)
    return shot


@pytest.mark.parametrize(
    ("lvs", "removed"),
    [(K1, "docker/lvol0"), (K2, "docker/thinpool"), (K2_DATA, "docker/thinpool"), ((*K1, SPARE), "docker/lvol0")],
)
def test_what_a_kill_inside_lvcreate_left_is_removed_by_the_journals_evidence(
    lvs: tuple[LogicalVolume, ...], removed: str
) -> None:
    shot = with_lvs(*lvs)
    found = plan(shot, memory=INTERRUPTED)
    assert names(found) == ["remove-leftover", "create-thin-pool"]
    assert commands(found.steps[0]) == (("lvremove", "--yes", removed),)
    for step in found.steps:
        shot = support.checked(support.apply_step(shot, step))
    assert plan(shot).is_empty


def test_a_kill_at_the_end_of_lvcreate_leaves_a_pool_to_activate() -> None:
    assert names(plan(support.deactivated(HEALTHY), memory=INTERRUPTED)) == ["activate-pool"]


def test_the_spare_that_was_left_is_used_again() -> None:
    found = plan(with_lvs(SPARE), memory=INTERRUPTED)
    assert (names(found), codes(found)) == (["create-thin-pool"], [])


NO_EVIDENCE = [
    NOTHING,
    Memory(pending=(CREATE,)),
    Memory(open_steps=(OpenStep(replace(CREATE, group="other")),)),
    Memory(open_steps=(OpenStep(replace(CREATE, lv="other")),)),
    Memory(open_steps=(OpenStep(replace(CREATE, metadata_bytes=METADATA * 2, data_extents=1)),)),
    Memory(open_steps=(OpenStep(CREATE, tuple(lv.uuid for lv in (*K1, *K2, *K2_DATA))),)),
    Memory(interrupted=(CREATE,)),
    Memory(our_groups=(GROUP_ONLY.groups[0].uuid,)),
]


@pytest.mark.parametrize("lvs", [K1, K2[:1], K2_DATA[:1], (*K1, SPARE)])
@pytest.mark.parametrize("memory", NO_EVIDENCE)
def test_without_evidence_nothing_is_removed(lvs: tuple[LogicalVolume, ...], memory: Memory) -> None:
    found = plan(with_lvs(*lvs), memory=memory)
    assert (names(found), codes(found)[0]) == ([], "GROUP_HAS_OTHER_LVS")


@pytest.mark.parametrize("lvs", [K2, K2_DATA])
@pytest.mark.parametrize("memory", NO_EVIDENCE)
def test_our_tag_on_the_pools_name_beside_a_spare_is_evidence_enough(
    lvs: tuple[LogicalVolume, ...], memory: Memory
) -> None:
    found = plan(with_lvs(*lvs), memory=memory)
    assert (names(found), codes(found)) == (["remove-leftover", "create-thin-pool"], [])
    assert commands(found.steps[0]) == (("lvremove", "--yes", "docker/thinpool"),)


@pytest.mark.parametrize(
    "lv",
    [
        support.linear("lvol0", METADATA, "precious"),
        support.linear("lvol0", METADATA + support.EXTENT),
        support.linear("lvola", METADATA),
        support.linear("thinpool", METADATA),
        support.linear("thinpool", METADATA, "precious"),
        support.linear("thinpool", METADATA * 7, "thinpoolmgr"),
        replace(support.linear("lvol0", METADATA), segment_type="raid1"),
    ],
)
def test_an_lv_that_does_not_fit_the_evidence_is_left_alone(lv: LogicalVolume) -> None:
    found = plan(with_lvs(lv), memory=INTERRUPTED)
    assert (names(found), codes(found)) == ([], ["GROUP_HAS_OTHER_LVS"])


def test_a_label_that_an_interrupted_vgcreate_left_is_used_again() -> None:
    create = plan(support.snapshot()).steps[0]
    disk = support.disk(signatures=(support.LABEL,))
    shot = support.snapshot(disk, orphan_pvs=(PhysicalVolume("/dev/sdb", support.uuid_of("pv"), disk.size_bytes),))
    assert codes(plan(shot)) == ["DISK_HAS_SIGNATURE"]
    assert names(plan(shot, memory=Memory(interrupted=(create,)))) == ["create-volume-group", "create-thin-pool"]


def test_activating_does_nothing_else() -> None:
    wanted = support.pool(when_full="error")
    state = support.desired(wanted, engines=(support.engine(),))
    shot = support.with_engine(support.deactivated(HEALTHY), support.docker())
    assert names(plan_activate(wanted, state, shot, NOTHING)) == ["activate-pool"]
    assert plan_activate(wanted, state, support.with_engine(HEALTHY, support.docker()), NOTHING).is_empty


def test_activating_starts_the_engine_that_was_stopped_for_it() -> None:
    state = support.desired(engines=(support.engine(),))
    shot = support.with_engine(support.deactivated(HEALTHY), support.docker(configured=True))
    found = plan_activate(state.pools[0], state, shot, Memory(stopped_engines=("docker",)))
    assert names(found) == ["activate-pool", "start-engine"]
    assert isinstance(found.steps[1], StartEngine)


@pytest.mark.parametrize(
    ("shot", "code"),
    [(support.snapshot(), "POOL_ABSENT"), (GROUP_ONLY, "POOL_ABSENT"), (partial(HEALTHY), "POOL_PARTIAL")],
)
def test_only_what_is_there_and_whole_can_be_activated(shot: Snapshot, code: str) -> None:
    found = plan_activate(support.pool(), support.desired(), shot, Memory(stopped_engines=("docker",)))
    assert (codes(found), names(found)) == ([code], [])


def test_the_fingerprint_is_of_the_facts_and_not_of_their_use() -> None:
    state = support.desired()
    first = fingerprint_of_host(state, HEALTHY, NOTHING)
    assert fingerprint_of_host(state, support.healthy(used_data_blocks=7), NOTHING) == first
    assert fingerprint_of_host(state, support.healthy(used_metadata_blocks=7), NOTHING) == first
    opened = tuple(replace(d, open_count=d.open_count + 1) for d in HEALTHY.dm_devices)
    assert fingerprint_of_host(state, replace(HEALTHY, dm_devices=opened), NOTHING) == first
    others = [
        fingerprint_of_host(state, support.deactivated(HEALTHY), NOTHING),
        fingerprint_of_host(state, support.snapshot(), NOTHING),
        fingerprint_of_host(state, support.snapshot(support.disk(signatures=(EXT4,))), NOTHING),
        fingerprint_of_host(support.desired(support.pool(when_full="error")), HEALTHY, NOTHING),
        fingerprint_of_host(state, support.with_engine(HEALTHY, support.docker()), NOTHING),
        fingerprint_of_host(state, support.with_engine(HEALTHY, support.docker(running=True)), NOTHING),
    ]
    assert len({first, *others}) == len(others) + 1


def test_facts_keep_their_places_in_a_fingerprint() -> None:
    assert fingerprint_of("ab", "c") != fingerprint_of("a", "bc")
    assert fingerprint_of({"a": 1, "b": 2}) == fingerprint_of({"b": 2, "a": 1})


def test_a_part_of_a_pool_that_somebody_has_open_is_refused() -> None:
    parts = tuple(d for d in HEALTHY.dm_devices if d.targets != ("thin-pool",))
    half = replace(HEALTHY, dm_devices=tuple(replace(part, open_count=0) for part in parts))
    assert names(plan(half)) == ["remove-dm-device", "remove-dm-device", "activate-pool"]
    held = replace(half, dm_devices=tuple(replace(part, open_count=1) for part in parts))
    assert (codes(plan(held)), names(plan(held))) == (["DEVICE_OPEN"], [])
