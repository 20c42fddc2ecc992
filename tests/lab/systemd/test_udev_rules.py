"""What engines and pools make for themselves is hidden from whatever looks at disks, whoever caused the event."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from boot_lab import CHECKOUT, shown
from lab_tool import sh

from thinpoolmgr.lab.loop import LoopDisk

RULES = tuple(sorted((CHECKOUT / "udev").glob("*.rules")))
SECTORS = 64 * 2**20 // 512
ENGINES = ("docker-254:0-1837-0c1d2e3f-init", "docker-thinpool-snap-12", "thinpoolmgr-base")
# What only looks like one: another name (Docker's own 80-docker.rules hides docker-*), or a volume of LVM's.
OTHERS = {"data": "", "pool-snap-shot": "", "vg--snap-1lv": f"LVM-{'a' * 64}"}


@pytest.fixture(autouse=True)
def rules() -> Iterator[None]:
    """Put the rules there, and nothing else of what is installed."""
    folder = Path("/run/udev/rules.d")
    folder.mkdir(exist_ok=True)
    for rule in RULES:
        (folder / rule.name).write_bytes(rule.read_bytes())
    sh("udevadm", "control", "--reload")
    yield
    for rule in RULES:
        (folder / rule.name).unlink()
    sh("udevadm", "control", "--reload")


def properties(name: str) -> dict[str, str]:
    lines = sh("udevadm", "info", "--query=property", Path("/dev/mapper") / name).splitlines()
    return dict(line.partition("=")[::2] for line in lines)


def test_file_systems_of_containers_are_nobodys_disks(loop_disks: Callable[..., LoopDisk]) -> None:
    disk = loop_disks()
    devices = dict.fromkeys(ENGINES, "") | OTHERS
    for place, (name, uuid) in enumerate(devices.items()):
        table = f"0 {SECTORS} linear {disk.path} {place * SECTORS}"
        sh("dmsetup", "create", name, *(("--uuid", uuid) if uuid else ()), "--table", table)
        sh("mkfs.ext4", "-q", f"/dev/mapper/{name}")
    # Not device-mapper's own events: a close after a write, and a person.
    sh("udevadm", "trigger", "--settle", "--action=change", "--subsystem-match=block", "--sysname-match=dm-*")
    for name in devices:
        found, is_hidden = properties(name), name in ENGINES
        assert (found.get("UDISKS_IGNORE") == "1") is is_hidden, (name, found)
        assert (found.get("DM_UDEV_DISABLE_OTHER_RULES_FLAG") == "1") is is_hidden, (name, found)
        assert ("ID_FS_UUID" not in found) is is_hidden, (name, found)
        assert ("/dev/disk/" not in found["DEVLINKS"]) is is_hidden, (name, found)
        unit = sh("systemd-escape", "--path", "--suffix=device", f"/dev/mapper/{name}").strip()
        assert (shown(unit, "ActiveState") == "inactive") is is_hidden, name


@pytest.mark.campaign
def test_inner_devices_of_a_pool_are_hidden_and_the_pool_keeps_its_unit(loop_disks: Callable[..., LoopDisk]) -> None:
    disk = loop_disks()
    sh("vgcreate", "-q", "vg", disk.path)
    sh("lvcreate", "-q", "--type", "thin-pool", "-n", "thinpool", "-l", "50%VG", "vg")
    sh("udevadm", "trigger", "--settle", "--action=change", "--subsystem-match=block", "--sysname-match=dm-*")
    for name in ("vg-thinpool_tdata", "vg-thinpool_tmeta", "vg-thinpool"):
        found = properties(name)
        assert (found.get("UDISKS_IGNORE"), found.get("ID_FS_TYPE")) == ("1", None), (name, found)
        assert (found.get("SYSTEMD_READY") == "0") is (name != "vg-thinpool"), (name, found)
    assert shown("dev-mapper-vg\\x2dthinpool.device", "ActiveState") == "active"


def test_a_partition_that_appears_blank_is_offered_and_one_with_a_file_system_is_not(
    loop_disks: Callable[..., LoopDisk],
) -> None:
    disk = loop_disks()
    sh("mkfs.ext4", "-q", "-E", f"offset={200 * 2**20}", disk.path, "50M")
    table = "label: gpt\nstart=2048, size=100MiB\nstart=200MiB, size=100MiB\n"
    subprocess.run(["sfdisk", "--quiet", "--no-tell-kernel", disk.path], input=table, text=True, check=True)
    sh("partx", "--add", disk.path)
    try:
        sh("udevadm", "settle")
        blank, used = (properties(f"{disk.path}p{number}") for number in (1, 2))
        assert (blank.get("ID_PART_TABLE_TYPE"), blank.get("ID_FS_TYPE")) == ("gpt", None)
        assert (blank.get("THINPOOLMGR_OFFERED"), blank.get("SYSTEMD_WANTS")) == ("1", "thinpoolmgr-apply.service")
        assert (used.get("ID_FS_TYPE"), used.get("THINPOOLMGR_OFFERED")) == ("ext4", None)
        # What was put on it and wiped from it is no reason to ask once more.
        for kind, command in (("ext4", ("mkfs.ext4", "-q")), (None, ("wipefs", "--quiet", "--all"))):
            sh(*command, f"{disk.path}p1")
            sh("udevadm", "trigger", "--settle", "--action=change", f"{disk.path}p1")
            blank = properties(f"{disk.path}p1")
            assert (blank.get("ID_FS_TYPE"), blank.get("THINPOOLMGR_OFFERED")) == (kind, "1")
            assert "SYSTEMD_WANTS" not in blank
    finally:
        sh("partx", "--delete", disk.path)
        sh("udevadm", "settle")


def test_of_device_mapper_s_only_multipath_is_a_disk(loop_disks: Callable[..., LoopDisk]) -> None:
    table = f"0 {SECTORS} linear {loop_disks().path} 0"
    uuids = {"mpatha": "mpath-3600508b4000156d700012000000b0000", "crypt": "CRYPT-LUKS2-1", "plain": ""}
    for name, uuid in uuids.items():
        sh("dmsetup", "create", name, *(("--uuid", uuid) if uuid else ()), "--table", table)
        found = properties(name)
        assert ("THINPOOLMGR_OFFERED" in found, "SYSTEMD_WANTS" in found) == ((name == "mpatha"),) * 2, (name, found)
    # A change that is nobody's, and what boot does when the initial file system has made it already.
    for action, is_wanted in (("change", False), ("add", True)):
        sh("udevadm", "trigger", "--settle", f"--action={action}", "/dev/mapper/mpatha")
        found = properties("mpatha")
        assert (found.get("THINPOOLMGR_OFFERED"), "SYSTEMD_WANTS" in found) == ("1", is_wanted), (action, found)
