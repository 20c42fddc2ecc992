from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.guards import (
    check_disk,
    check_paths,
    describe_contents,
    foreign_signatures,
    is_our_leftover,
    is_same_disk,
    warn_of_spares,
)
from thinpoolmgr.core.model import ConfiguredDevice, DmDevice, PhysicalVolume, Signature
from thinpoolmgr.core.plan import Memory
from thinpoolmgr.core.steps import CreateVolumeGroup, DiskRef, RemovePhysicalVolumes
from thinpoolmgr.units import GIB, MIB

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Disk, Snapshot
    from thinpoolmgr.core.plan import Refusal

EXT4 = Signature("ext4", "filesystem", 1080)
GPT = Signature("gpt", "partition table", 512)
NOTHING = Memory()


def check(disk: Disk, *, wipe: bool = False, shot: Snapshot | None = None, memory: Memory = NOTHING) -> list[Refusal]:
    return check_disk(disk, support.pool(wipe_signatures=wipe), shot or support.snapshot(disk), memory)


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "mounted": ({"mounts": ("/srv",)}, "DISK_MOUNTED", "/srv"),
    "swap": ({"swap": True}, "DISK_IS_SWAP", "swap"),
    "held": ({"holders": ("dm-0", "md0")}, "DISK_HELD", "dm-0, md0"),
    "open": ({"opened_exclusively": True}, "DISK_OPEN", "another program"),
    "open unknown": ({"opened_exclusively": None, "probe_error": "timed out"}, "DISK_UNKNOWN", "cannot be judged"),
    "read-only": ({"read_only": True}, "DISK_READ_ONLY", "read-only"),
    "too small": ({"size_bytes": 16 * MIB - 1}, "DISK_TOO_SMALL", "too small"),
    "no size": ({"size_bytes": 0}, "DISK_TOO_SMALL", "too small"),
    "signatures unknown": ({"signatures": None, "probe_error": "I/O error"}, "DISK_UNKNOWN", "cannot be judged"),
}


@pytest.mark.parametrize("wipe", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_a_disk_in_use_or_in_doubt_is_refused_whatever_is_configured(name: str, wipe: bool) -> None:  # noqa: FBT001
    facts, code, text = REFUSED[name]
    (refusal,) = check(support.disk(**facts), wipe=wipe)
    assert (refusal.code, refusal.target, refusal.exit_code) == (code, "/dev/sdb", 3)
    assert text in refusal.summary
    assert refusal.resolution
    assert facts.get("probe_error", "") in refusal.details


@pytest.mark.parametrize("wipe", [False, True])
def test_a_disk_of_a_group_is_refused(wipe: bool) -> None:  # noqa: FBT001
    shot = support.with_group(support.snapshot(), "other", tags=())
    (refusal,) = check(shot.disks[0], wipe=wipe, shot=shot)
    assert (refusal.code, "group other" in refusal.summary) == ("DISK_IN_GROUP", True)


@pytest.mark.parametrize("wipe", [False, True])
def test_a_disk_with_a_partition_in_a_group_is_refused(wipe: bool) -> None:  # noqa: FBT001
    shot = support.with_group(support.snapshot(), "other", tags=())
    group = shot.groups[0]
    on_partition = replace(group, pvs=(replace(group.pvs[0], path="/dev/sdb1"),))
    disk = support.disk(partitions=("/dev/sdb1",), signatures=(GPT,))
    (refusal,) = check(disk, wipe=wipe, shot=replace(shot, disks=(disk,), groups=(on_partition,)))
    assert refusal.code == "DISK_IN_GROUP"


def test_all_that_stands_against_a_disk_is_said() -> None:
    found = check(support.disk(mounts=("/a",), swap=True, holders=("dm-1",), read_only=True, opened_exclusively=True))
    assert [r.code for r in found] == ["DISK_MOUNTED", "DISK_IS_SWAP", "DISK_HELD", "DISK_READ_ONLY"]


@pytest.mark.parametrize(
    "signatures",
    [
        (EXT4,),
        (GPT,),
        (Signature("dos", "partition table", 510),),
        (Signature("swap", "other", 4086),),
        (Signature("crypto_LUKS", "crypto", 0),),
        (Signature("linux_raid_member", "raid", 4096),),
        (Signature("zfs_member", "filesystem", 0),),
        (EXT4, GPT),
    ],
)
def test_any_signature_is_refused_until_wiping_is_allowed(signatures: tuple[Signature, ...]) -> None:
    disk = support.disk(signatures=signatures)
    (refusal,) = check(disk)
    assert refusal.code == "DISK_HAS_SIGNATURE"
    assert all(signature.type in refusal.summary for signature in signatures)
    assert "wipe_signatures" in refusal.resolution
    assert check(disk, wipe=True) == []


def test_a_label_without_a_group_is_a_signature_like_any_other() -> None:
    disk = support.disk(signatures=(support.LABEL,))
    orphan = PhysicalVolume(disk.path, "uuid-of-the-orphan", disk.size_bytes)
    shot = replace(support.snapshot(disk), orphan_pvs=(orphan,))
    assert [refusal.code for refusal in check(disk, shot=shot)] == ["DISK_HAS_SIGNATURE"]
    assert check(disk, wipe=True, shot=shot) == []


@pytest.mark.parametrize("listed", [(), (PhysicalVolume("/dev/sdb", "uuid", 10 * 2**30, duplicate=True),)])
def test_a_label_that_lvm_hides_or_calls_a_duplicate_is_never_wiped(listed: tuple[PhysicalVolume, ...]) -> None:
    disk = support.disk(signatures=(support.LABEL,))
    shot = replace(support.snapshot(disk), orphan_pvs=listed)
    for wipe in (False, True):
        assert [refusal.code for refusal in check(disk, wipe=wipe, shot=shot)] == ["DISK_UNKNOWN"]


def test_a_partition_with_a_label_that_lvm_does_not_list_is_never_wiped() -> None:
    disk = support.disk(partitions=("/dev/sdb1",), labelled_partitions=("/dev/sdb1",), signatures=(GPT,))
    orphan = PhysicalVolume("/dev/sdb1", "uuid", 2**30)
    for wipe in (False, True):
        assert [r.code for r in check(disk, wipe=wipe)] == ["DISK_UNKNOWN"]
    listed = replace(support.snapshot(disk), orphan_pvs=(orphan,))
    assert check(disk, wipe=True, shot=listed) == []
    unreadable = replace(disk, labelled_partitions=None)
    assert [r.code for r in check(unreadable, wipe=True)] == ["DISK_UNKNOWN"]


def test_a_logical_volume_is_no_disk() -> None:
    disk = support.disk("/dev/dm-3", devno="254:3")
    volume = DmDevice("vg-lv", "LVM-abc", "254:3", 0, targets=("linear",))
    shot = replace(support.snapshot(disk), dm_devices=(volume,))
    assert [r.code for r in check(disk, wipe=True, shot=shot)] == ["DISK_IS_LV"]


@pytest.mark.parametrize("order", [("/dev/sdb", "/dev/sdb1"), ("/dev/sdb1", "/dev/sdb")])
def test_a_disk_and_its_partition_are_the_same_disk(order: tuple[str, ...]) -> None:
    whole, part = support.disk("/dev/sdb", partitions=("/dev/sdb1",)), support.disk("/dev/sdb1")
    devices = tuple(ConfiguredDevice(path, path) for path in order)
    shot = replace(support.snapshot(whole, part), configured_devices=devices)
    (refusal,) = check_paths(support.desired(support.pool("docker", *order)), shot)
    assert (refusal.code, refusal.exit_code) == ("SAME_DISK_TWICE", 78)


def test_a_blank_disk_is_taken() -> None:
    assert check(support.disk()) == []
    assert check(support.disk(size_bytes=16 * MIB)) == []


def test_contents_are_told_in_a_few_words() -> None:
    many = tuple(replace(EXT4, offset_bytes=n) for n in range(6))
    text = describe_contents(support.disk(partitions=("/dev/sdb1",)), many)
    assert text.startswith("ext4 at byte 0, ")
    assert text.endswith(", and 2 more (partitions: /dev/sdb1)")


def paths(*devices: ConfiguredDevice) -> list[Refusal]:
    wanted = support.pool("docker", *(d.configured_path for d in devices))
    shot = replace(support.snapshot(), configured_devices=devices)
    return check_paths(support.desired(wanted), shot)


@pytest.mark.parametrize(
    ("problem", "code", "summary"),
    [
        ("missing", "DISK_MISSING", "/dev/x is missing"),
        ("not a block device", "NOT_A_BLOCK_DEVICE", "/dev/x is not a block device"),
        ("Permission denied", "DISK_UNREADABLE", "/dev/x: Permission denied"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused_by_name(problem: str, code: str, summary: str) -> None:
    (refusal,) = paths(ConfiguredDevice("/dev/x", problem=problem))
    assert (refusal.code, refusal.target, refusal.summary, refusal.exit_code) == (code, "/dev/x", summary, 3)


@pytest.mark.parametrize("problem", ["missing", "not a block device", "Permission denied"])
def test_a_spare_disk_that_is_away_is_refused_only_where_the_pool_may_be_on_it(problem: str) -> None:
    wanted = support.pool(spare_devices=("/dev/x",))
    away = ConfiguredDevice("/dev/x", problem=problem)

    def told(shot: Snapshot) -> tuple[list[str], list[str]]:
        shot = replace(shot, configured_devices=(*shot.configured_devices, away))
        return [r.target for r in check_paths(support.desired(wanted), shot)], warn_of_spares(wanted, shot)

    whole = support.deactivated(support.healthy())
    (group,) = whole.groups
    assert told(support.snapshot()) == (["/dev/x"], [])
    assert told(replace(whole, groups=(replace(group, attr="wz-pn-"),))) == (["/dev/x"], [])
    refused, (warning,) = told(whole)
    assert (refused, warning.startswith("/dev/x"), problem in warning) == ([], True, True)


def test_a_path_that_was_not_looked_at_is_refused() -> None:
    (refusal,) = check_paths(support.desired(support.pool("docker", "/dev/sdz")), support.snapshot())
    assert refusal.code == "DISK_UNREADABLE"


def test_a_disk_that_is_there_for_another_reason_does_not_stand_for_a_path() -> None:
    shot = replace(support.snapshot(), configured_devices=())
    (refusal,) = check_paths(support.desired(), shot)
    assert (refusal.code, refusal.target) == ("DISK_UNREADABLE", "/dev/sdb")


def test_the_same_disk_through_a_link_is_an_error_of_the_configuration() -> None:
    (refusal,) = paths(ConfiguredDevice("/dev/sdb", "/dev/sdb"), ConfiguredDevice("/dev/disk/by-id/x", "/dev/sdb"))
    assert (refusal.code, refusal.exit_code) == ("SAME_DISK_TWICE", 78)
    assert refusal.summary == "/dev/disk/by-id/x and /dev/sdb are, or are on, the same disk, /dev/sdb"


def test_the_same_disk_in_two_pools_and_among_the_spares_is_found() -> None:
    links = tuple(ConfiguredDevice(f"/dev/link{n}", "/dev/sdb") for n in range(3))
    a = support.pool("a", "/dev/link0", spare_devices=("/dev/link1",))
    shot = replace(support.snapshot(), configured_devices=links)
    found = check_paths(support.desired(a, support.pool("b", "/dev/link2")), shot)
    assert [(r.code, r.target) for r in found] == [("SAME_DISK_TWICE", "/dev/link1"), ("SAME_DISK_TWICE", "/dev/link2")]


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"devno": "8:99"}, True),
        ({"serial": "other"}, False),
        ({"serial": ""}, False),
        ({"size_bytes": 5 * GIB}, False),
    ],
)
def test_a_disk_is_known_by_serial_and_size(changes: dict[str, Any], same: bool) -> None:  # noqa: FBT001
    disk = support.disk(serial="S")
    assert is_same_disk(DiskRef(disk.path, disk.devno, disk.size_bytes, "S"), replace(disk, **changes)) is same


def test_without_a_serial_the_device_number_counts() -> None:
    disk = support.disk(serial="")
    ref = DiskRef(disk.path, disk.devno, disk.size_bytes)
    assert is_same_disk(ref, disk)
    assert not is_same_disk(ref, replace(disk, devno="8:99"))
    assert not is_same_disk(ref, replace(disk, serial="S"))


def memory(kind: str, disk: Disk) -> Memory:
    refs = (DiskRef(disk.path, disk.devno, disk.size_bytes, disk.serial),)
    create = CreateVolumeGroup(reason="r", group="docker", disks=refs)
    remove = RemovePhysicalVolumes(reason="r", disks=refs, pv_uuids=(support.uuid_of("pv"),))
    return {
        "creating": Memory(interrupted=(create,)),
        "removing": Memory(interrupted=(remove,)),
        "to be removed": Memory(pending=(remove,)),
        "to be created": Memory(pending=(create,)),
        "nothing": Memory(),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "ours"),
    [("creating", True), ("removing", True), ("to be removed", True), ("to be created", False), ("nothing", False)],
)
def test_a_label_without_a_group_is_ours_only_by_the_journals_evidence(kind: str, ours: bool) -> None:  # noqa: FBT001
    disk = support.disk(signatures=(support.LABEL, EXT4))
    orphan = PhysicalVolume(disk.path, support.uuid_of("pv"), disk.size_bytes)
    shot = support.snapshot(disk, orphan_pvs=(orphan,))
    evidence = memory(kind, disk)
    assert is_our_leftover(orphan, disk, evidence) is ours
    assert foreign_signatures(disk, shot, evidence) == ((EXT4,) if ours else (support.LABEL, EXT4))
    assert not is_our_leftover(replace(orphan, duplicate=True), disk, evidence)
    remade = replace(orphan, uuid=support.uuid_of("made again by somebody"))
    assert is_our_leftover(remade, disk, evidence) is (kind == "creating")
    assert not is_our_leftover(orphan, replace(disk, serial="another"), evidence)
    blank_beside_it = replace(disk, signatures=(support.LABEL,))
    assert (check(blank_beside_it, shot=shot, memory=evidence) == []) is ours
