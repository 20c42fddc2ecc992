from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.inventory import (
    check_named,
    init_document,
    name_device,
    refuse_without_candidate,
    take_inventory,
)
from thinpoolmgr.core.model import ConfiguredDevice, DmDevice, Signature

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Snapshot

EXT4 = Signature("ext4", "filesystem", 1080)
BY_ID = "/dev/disk/by-id/ata-b"
BLANK = support.disk("/dev/sdb", model="M", links=("/dev/disk/by-path/pci-1", BY_ID))
MOUNTED = support.disk("/dev/sda", mounts=("/",))
SIGNED = support.disk("/dev/sdc", signatures=(EXT4,))


def named(*pairs: tuple[str, str], shot: Snapshot | None = None) -> Snapshot:
    devices = tuple(ConfiguredDevice(path, disk) for path, disk in pairs)
    return replace(shot or support.snapshot(MOUNTED, BLANK, SIGNED), configured_devices=devices)


def test_blank_and_unused_disks_are_candidates_all_others_have_a_reason() -> None:
    inventory = take_inventory(support.snapshot(MOUNTED, BLANK, SIGNED))
    assert inventory.candidates == (BLANK,)
    assert [(found.disk.path, found.refusals[0].code, found.reason) for found in inventory.rejected] == [
        ("/dev/sda", "DISK_MOUNTED", "/dev/sda is mounted on /"),
        ("/dev/sdc", "DISK_HAS_SIGNATURE", "/dev/sdc carries a signature: ext4 at byte 1080"),
    ]


def test_all_reasons_are_told() -> None:
    (found,) = take_inventory(support.snapshot(support.disk(mounts=("/srv",), holders=("md0",)))).rejected
    assert found.reason == "/dev/sdb is mounted on /srv; /dev/sdb is held by md0"


@pytest.mark.parametrize(
    ("facts", "candidates", "rejected"),
    [
        ({"kind": "loop"}, 1, 0),
        ({"kind": "multipath"}, 1, 0),
        ({"kind": "partition"}, 0, 0),
        ({"kind": "dm"}, 0, 0),
        ({"size_bytes": 1024}, 0, 1),
        ({"read_only": True}, 0, 1),
        ({"signatures": None}, 0, 1),
        ({"opened_exclusively": None}, 0, 1),
    ],
)
def test_kinds_and_doubts(facts: dict[str, Any], candidates: int, rejected: int) -> None:
    inventory = take_inventory(support.snapshot(replace(BLANK, **facts)))
    assert (len(inventory.candidates), len(inventory.rejected)) == (candidates, rejected)


def test_the_disk_of_a_group_is_rejected() -> None:
    (found,) = take_inventory(support.healthy()).rejected
    assert "DISK_IN_GROUP" in [refusal.code for refusal in found.refusals]


def test_the_path_of_a_multipath_device_is_rejected() -> None:
    device = DmDevice("mpatha", "mpath-36", "254:0", 0, targets=("multipath",), depends_on=(BLANK.devno,))
    shot = support.snapshot(replace(BLANK, holders=("dm-0",), opened_exclusively=True), dm_devices=(device,))
    assert [found.refusals[0].code for found in take_inventory(shot).rejected] == ["DISK_HELD"]


def test_good_devices_are_not_refused() -> None:
    shot = named((BY_ID, "/dev/sdb"))
    assert check_named((BY_ID,), shot) == []


@pytest.mark.parametrize(
    ("paths", "code", "exit_code"),
    [
        (("/dev/nothing",), "DISK_UNREADABLE", 3),
        (("/dev/sda",), "DISK_MOUNTED", 3),
        (("/dev/sdc",), "DISK_HAS_SIGNATURE", 3),
        (("/dev/sdb", BY_ID), "SAME_DISK_TWICE", 78),
        (("/dev/sdb", "/dev/sdb"), "SAME_DISK_TWICE", 78),
    ],
)
def test_bad_devices_are_refused_once(paths: tuple[str, ...], code: str, exit_code: int) -> None:
    shot = named(*((f"/dev/sd{x}", f"/dev/sd{x}") for x in "abc"), (BY_ID, "/dev/sdb"))
    assert [(refusal.code, refusal.exit_code) for refusal in check_named(paths, shot)] == [(code, exit_code)]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/dev/sdb", BY_ID),
        ("/dev/disk/by-path/pci-1", BY_ID),
        ("/dev/disk/by-id/other", "/dev/disk/by-id/other"),
        ("/link/to/c", "/link/to/c"),
        ("/dev/nothing", "/dev/nothing"),
    ],
)
def test_the_name_that_is_written(path: str, name: str) -> None:
    shot = named((path, "/dev/sdc" if path.endswith("c") else "/dev/sdb" if path != "/dev/nothing" else ""))
    assert name_device(path, shot).name == name


def test_a_host_without_a_candidate_is_told_of_every_disk() -> None:
    refusal = refuse_without_candidate(take_inventory(support.snapshot(MOUNTED, SIGNED)))
    assert (refusal.code, refusal.exit_code) == ("NO_CANDIDATE", 3)
    assert refusal.details.splitlines() == [
        "/dev/sda (10 GiB): /dev/sda is mounted on /",
        "/dev/sdc (10 GiB): /dev/sdc carries a signature: ext4 at byte 1080",
    ]


def test_the_document() -> None:
    shot = support.snapshot(MOUNTED, BLANK)
    document = init_document("/f", take_inventory(shot), (name_device("/dev/sdb", shot),), shot, written=True)
    assert (document.schema, document.file, document.written, document.devices) == (1, "/f", True, (BY_ID,))
    (candidate,), (rejected,) = document.candidates, document.rejected
    assert (candidate.path, candidate.size_bytes, candidate.serial, candidate.model) == (
        "/dev/sdb",
        BLANK.size_bytes,
        "S-b",
        "M",
    )
    assert (candidate.links, candidate.name) == (BLANK.links, BY_ID)
    assert (rejected.path, rejected.size_bytes, rejected.code) == ("/dev/sda", MOUNTED.size_bytes, "DISK_MOUNTED")
    assert rejected.reason == "/dev/sda is mounted on /"
