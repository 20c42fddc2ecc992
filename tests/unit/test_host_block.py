"""Block devices out of a made-up /sys, /proc and /dev, laid out as the kernel lays them out."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from thinpoolmgr.core.model import ConfiguredDevice
from thinpoolmgr.host import block
from thinpoolmgr.host.blkid import ProbeError
from thinpoolmgr.host.block import Roots, Usage, list_whole_disks, observe_disk, read_usage, resolve_device
from thinpoolmgr.host.mountinfo import Mount
from thinpoolmgr.host.udev import UdevProperties, device_properties, transport_by_name

if TYPE_CHECKING:
    from pathlib import Path

    from thinpoolmgr.core.model import Disk

PLAIN = UdevProperties()
SECTORS = 2048


@dataclass(frozen=True)
class FakeRoots(Roots):
    """Roots whose nodes in /dev are files; `nodes` says which of them count as block devices."""

    nodes: dict[str, str] = field(default_factory=dict)

    def devno(self, path: str | Path) -> str:
        real = os.path.realpath(path, strict=True)
        return self.nodes.get(os.path.relpath(real, self.dev), "")


class FakeHost:
    """Adds devices, mounts, swap areas and processes to the tree."""

    def __init__(self, folder: Path) -> None:
        self.roots = FakeRoots(folder / "sys", folder / "proc", folder / "dev")
        for path in (*(self.roots.sys / name for name in ("dev/block", "block")), self.roots.proc, self.roots.dev):
            path.mkdir(parents=True)
        self.add_process(1, "mnt:[1]", "21 1 0:20 / / rw - tmpfs tmpfs rw")
        (self.roots.proc / "swaps").write_text("Filename\tType\tSize\tUsed\tPriority\n")

    def add_disk(self, name: str, devno: str, *, node: str = "", **attributes: str) -> Path:
        folder = self.roots.sys / "devices/pci0/block" / name
        defaults = {"size": str(SECTORS), "ro": "0", "queue/logical_block_size": "512"}
        return self._add(folder, devno, node or name, defaults | attributes)

    def add_partition(self, disk: str, name: str, devno: str, **attributes: str) -> Path:
        folder = self.roots.sys / "devices/pci0/block" / disk / name
        return self._add(folder, devno, name, {"size": "1024", "ro": "0", "partition": "1"} | attributes)

    def _add(self, folder: Path, devno: str, node: str, attributes: dict[str, str]) -> Path:
        (folder / "holders").mkdir(parents=True)
        for attribute, value in ({"dev": devno} | attributes).items():
            (folder / attribute).parent.mkdir(exist_ok=True)
            (folder / attribute).write_text(value + "\n")
        (self.roots.sys / "dev/block" / devno).symlink_to(folder)
        path = self.roots.dev / node
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(SECTORS * 512))
        self.roots.nodes[node] = devno
        return folder

    def add_process(self, pid: int, namespace: str, *mountinfo: str) -> Path:
        folder = self.roots.proc / str(pid)
        (folder / "ns").mkdir(parents=True)
        (folder / "ns/mnt").symlink_to(namespace)
        (folder / "mountinfo").write_text("".join(f"{line}\n" for line in mountinfo))
        return folder

    def add_swap(self, filename: str) -> None:
        with (self.roots.proc / "swaps").open("a") as file:
            file.write(f"{filename}\tpartition\t1000\t0\t-2\n")

    def observe(self, node: str, properties: UdevProperties = PLAIN) -> Disk:
        return observe_disk(str(self.roots.dev / node), properties, roots=self.roots)


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def test_a_blank_disk_has_every_field(host: FakeHost) -> None:
    host.add_disk("sdb", "8:16", **{"queue/logical_block_size": "4096", "queue/optimal_io_size": "65536"})
    properties = UdevProperties(serial="S1", wwn="0x5", model="M", links=("/dev/disk/by-id/ata-S1",))

    disk = host.observe("sdb", properties)

    assert (disk.devno, disk.size_bytes, disk.kind) == ("8:16", SECTORS * 512, "disk")
    assert (disk.sector_bytes, disk.optimal_io_bytes, disk.read_only) == (4096, 65536, False)
    assert (disk.serial, disk.wwn, disk.model, disk.links) == ("S1", "0x5", "M", ("/dev/disk/by-id/ata-S1",))
    assert (disk.partitions, disk.holders, disk.mounts, disk.swap) == ((), (), (), False)
    assert (disk.opened_exclusively, disk.signatures, disk.probe_error) == (False, (), "")


@pytest.mark.parametrize(
    ("name", "attributes", "kind"),
    [
        ("sdb", {}, "disk"),
        ("nvme0n1", {}, "disk"),
        ("loop3", {}, "loop"),
        ("loop4", {"loop/backing_file": "/x"}, "loop"),
        ("dm-1", {"dm/uuid": "mpath-3600", "dm/suspended": "0"}, "multipath"),
        ("dm-2", {"dm/uuid": "part1-mpath-3600", "dm/suspended": "0"}, "partition"),
        ("dm-3", {"dm/uuid": "CRYPT-LUKS2-x", "dm/suspended": "0"}, "dm"),
        ("dm-4", {"dm/uuid": "", "dm/suspended": "0"}, "dm"),
        ("md0", {}, "md"),
        ("sr0", {}, "sr"),
    ],
)
def test_kinds(host: FakeHost, name: str, attributes: dict[str, str], kind: str) -> None:
    host.add_disk(name, "9:9", **attributes)

    assert host.observe(name).kind == kind


def test_a_partition_takes_sector_sizes_from_its_disk(host: FakeHost) -> None:
    host.add_disk("sdb", "8:16", **{"queue/logical_block_size": "4096"})
    host.add_partition("sdb", "sdb1", "8:17")

    disk = host.observe("sdb1")

    assert (disk.kind, disk.sector_bytes, disk.size_bytes, disk.partitions) == ("partition", 4096, 1024 * 512, ())


def test_read_only(host: FakeHost) -> None:
    host.add_disk("sdb", "8:16", ro="1")

    assert host.observe("sdb").read_only


def test_holders_and_mounts_and_swap_of_partitions_count_for_the_disk(host: FakeHost) -> None:
    disk = host.add_disk("sdb", "8:16")
    partition = host.add_partition("sdb", "sdb1", "8:17")
    host.add_partition("sdb", "sdb2", "8:18")
    (disk / "holders/dm-7").symlink_to(".")
    (partition / "holders/md0").symlink_to(".")
    host.add_process(7, "mnt:[1]", "never read: same namespace as 1")
    (host.roots.proc / "1/mountinfo").write_text("30 21 8:18 / /srv/my\\040data rw,noatime - ext4 /dev/sdb2 rw\n")
    host.add_swap("/dev/sdb1")

    whole, first, second = host.observe("sdb"), host.observe("sdb1"), host.observe("sdb2")

    assert whole.partitions == (str(host.roots.dev / "sdb1"), str(host.roots.dev / "sdb2"))
    assert (whole.holders, whole.mounts, whole.swap) == (("dm-7", "md0"), ("/srv/my data",), True)
    assert (first.holders, first.mounts, first.swap) == (("md0",), (), True)
    assert (second.holders, second.mounts, second.swap) == ((), ("/srv/my data",), False)


def test_a_mount_in_another_namespace_counts(host: FakeHost) -> None:
    host.add_disk("sdb", "8:16")
    host.add_process(40, "mnt:[2]", "30 21 8:16 / /hidden rw shared:1 master:2 - xfs /dev/sdb rw")

    assert host.observe("sdb").mounts == ("/hidden",)


def test_btrfs_is_found_by_its_source(host: FakeHost) -> None:
    host.add_disk("sdb", "8:16")
    host.add_process(40, "mnt:[2]", "30 21 0:44 / /data rw - btrfs /dev/sdb rw")

    assert host.observe("sdb").mounts == ("/data",)


def test_the_other_devices_of_a_btrfs_are_found_as_well(host: FakeHost) -> None:
    host.add_disk("sdb", "8:16")
    second = host.add_disk("sdc", "8:32")
    host.add_disk("sdd", "8:48")
    devices = host.roots.sys / "fs/btrfs/1234/devices"
    devices.mkdir(parents=True)
    (devices / "sdb").symlink_to(second.parent / "sdb")
    (devices / "sdc").symlink_to(second)
    host.add_process(40, "mnt:[2]", "30 21 0:44 / /data rw - btrfs /dev/sdb rw")

    assert (host.observe("sdc").mounts, host.observe("sdd").mounts) == (("/data",), ())


def test_a_source_that_only_looks_like_the_disk_does_not_count(host: FakeHost) -> None:
    host.add_disk("sdb", "8:16")
    host.add_process(40, "mnt:[2]", "30 21 8:32 / /data rw - ext4 /dev/sdb rw", "31 21 0:5 / /x rw - tmpfs sdb rw")

    assert host.observe("sdb").mounts == ()


def test_swap_through_a_link(host: FakeHost) -> None:
    host.add_disk("sdb", "8:16")
    (host.roots.dev / "mapper").mkdir()
    (host.roots.dev / "mapper/swap").symlink_to("../sdb")
    host.add_swap("/dev/mapper/swap")

    assert host.observe("sdb").swap


def test_swap_whose_node_was_deleted_counts_by_name(host: FakeHost) -> None:
    host.add_disk("sdb", "8:16", node="renamed")
    host.add_swap("/dev/sdb\\040(deleted)")

    assert host.observe("renamed").swap


def test_processes_that_end_meanwhile_are_passed_over(host: FakeHost) -> None:
    host.add_disk("sdb", "8:16")
    (host.add_process(40, "mnt:[2]") / "mountinfo").unlink()
    (host.roots.proc / "self").symlink_to("1")

    assert host.observe("sdb").probe_error == ""


def test_mounts_that_cannot_be_read_are_unknown_not_absent(host: FakeHost) -> None:
    host.add_disk("sdb", "8:16")
    (host.roots.proc / "1/mountinfo").unlink()

    disk = host.observe("sdb")

    assert disk.probe_error.startswith("mounts: ")
    assert disk.opened_exclusively is None


def test_a_garbled_mountinfo_is_unknown(host: FakeHost) -> None:
    (host.roots.proc / "1/mountinfo").write_text("21 1 0:20 / /\n")

    assert "mountinfo" in read_usage(host.roots).trouble


def test_usage_is_read_once_for_many_disks(host: FakeHost) -> None:
    host.add_disk("sdb", "8:16")
    usage = Usage(mounts=(Mount("8:16", "/mnt", "/dev/sdb"),))

    disk = observe_disk(str(host.roots.dev / "sdb"), PLAIN, usage, host.roots)

    assert disk.mounts == ("/mnt",)


def test_no_swap_file_means_no_swap(host: FakeHost) -> None:
    (host.roots.proc / "swaps").unlink()

    assert read_usage(host.roots) == Usage(mounts=(Mount("0:20", "/", "tmpfs", "tmpfs"),))


def test_a_suspended_device_is_not_read(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.add_disk("dm-0", "253:0", **{"dm/uuid": "x", "dm/suspended": "1"})
    monkeypatch.setattr(block, "probe_signatures", lambda _: pytest.fail("it was read"))

    disk = host.observe("dm-0")

    assert (disk.opened_exclusively, disk.signatures, disk.probe_error) == (None, None, "the device is suspended")


@pytest.mark.parametrize(
    ("number", "expected", "words"),
    [(errno.EBUSY, True, ""), (errno.EIO, None, "exclusive open: "), (errno.EACCES, None, "exclusive open: ")],
)
def test_exclusive_open(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, *, number: int, expected: bool | None, words: str
) -> None:
    host.add_disk("sdb", "8:16")
    real = os.open

    def refuse_exclusive(path: str, flags: int) -> int:
        if flags & os.O_EXCL:
            raise OSError(number, os.strerror(number), path)
        return real(path, flags)

    monkeypatch.setattr(os, "open", refuse_exclusive)

    disk = host.observe("sdb")

    assert disk.opened_exclusively is expected
    assert disk.probe_error == (words and words + os.strerror(number))
    assert disk.signatures == ()


def test_a_probe_that_fails_is_unknown(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.add_disk("sdb", "8:16")

    def fail(path: str) -> tuple[()]:
        raise ProbeError(errno.EIO, "Input/output error", path)

    monkeypatch.setattr(block, "probe_signatures", fail)

    disk = host.observe("sdb")

    assert (disk.signatures, disk.probe_error) == (None, "signatures: Input/output error")


def test_signatures_are_those_of_libblkid(host: FakeHost) -> None:
    host.add_disk("sdb", "8:16")
    with (host.roots.dev / "sdb").open("r+b") as file:
        file.write(b"LUKS\xba\xbe\0\1")

    assert [item.type for item in host.observe("sdb").signatures or ()] == ["crypto_LUKS"]


def test_the_kernels_count_tells_a_disk_from_the_next_of_its_number(host: FakeHost) -> None:
    host.add_disk("sdb", "8:16", diskseq="7")
    host.add_disk("sdc", "8:32")
    assert host.observe("sdb").diskseq == 7
    assert host.observe("sdc").diskseq is None


@pytest.mark.parametrize("broken", ["size", "queue/logical_block_size"])
def test_an_attribute_that_makes_no_sense_is_unknown(host: FakeHost, broken: str) -> None:
    host.add_disk("sdb", "8:16", **{broken: "many"})

    disk = host.observe("sdb")

    assert (disk.devno, disk.opened_exclusively, disk.signatures) == ("8:16", None, None)
    assert "many" in disk.probe_error


def test_a_device_that_sysfs_does_not_have_is_unknown(host: FakeHost) -> None:
    host.add_disk("sdb", "8:16")
    (host.roots.sys / "dev/block/8:16").unlink()

    disk = host.observe("sdb")

    assert (disk.signatures, disk.opened_exclusively, disk.probe_error) == (None, None, "No such file or directory")


def test_a_path_that_vanished_or_is_a_file_is_unknown(host: FakeHost) -> None:
    (host.roots.dev / "file").write_text("")

    assert host.observe("nothing").probe_error == "No such file or directory"
    assert host.observe("file").probe_error == "not a block device"


def test_resolving_a_link(host: FakeHost) -> None:
    host.add_disk("sdb", "8:16")
    link = host.roots.dev / "disk/by-id/ata-S1"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../sdb")

    assert resolve_device(str(link), host.roots) == ConfiguredDevice(str(link), disk=str(host.roots.dev / "sdb"))


def test_two_names_of_one_device_resolve_to_one_node(host: FakeHost) -> None:
    # Without udev /dev/mapper/NAME is a node of its own beside /dev/dm-N.
    host.add_disk("dm-0", "253:0")
    (host.roots.dev / "mapper").mkdir()
    (host.roots.dev / "mapper/data").write_text("")
    host.roots.nodes["mapper/data"] = "253:0"

    assert resolve_device(str(host.roots.dev / "mapper/data"), host.roots).disk == str(host.roots.dev / "dm-0")


def test_a_kernel_name_with_a_slash(host: FakeHost) -> None:
    host.add_disk("cciss!c0d0", "104:0", node="cciss/c0d0")

    (host.roots.dev / "alias").write_text("")
    host.roots.nodes["alias"] = "104:0"

    assert resolve_device(str(host.roots.dev / "alias"), host.roots).disk == str(host.roots.dev / "cciss/c0d0")


def test_a_node_that_sysfs_does_not_know_keeps_its_path(host: FakeHost) -> None:
    host.add_disk("sdb", "8:16", node="odd")

    assert resolve_device(str(host.roots.dev / "odd"), host.roots).disk == str(host.roots.dev / "odd")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nothing", "missing"),
        ("file/below", "missing"),
        ("file", "not a block device"),
        ("dangling", "missing"),
        ("circle", os.strerror(errno.ELOOP)),
        ("nul\0", "embedded null byte"),
    ],
)
def test_paths_that_lead_nowhere(host: FakeHost, name: str, problem: str) -> None:
    (host.roots.dev / "file").write_text("")
    (host.roots.dev / "dangling").symlink_to("nothing")
    (host.roots.dev / "circle").symlink_to("circle")
    path = f"{host.roots.dev}/{name}"

    assert resolve_device(path, host.roots) == ConfiguredDevice(path, problem=problem)


def test_real_devnos(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    assert Roots().devno(tmp_path / "file") == ""
    assert Roots().devno("/dev/null") == ""
    with pytest.raises(FileNotFoundError):
        Roots().devno(tmp_path / "none")


def test_udev_knows_nothing_of_a_device_that_is_not_there(host: FakeHost) -> None:
    assert device_properties("4095:1048575", sys=str(host.roots.sys)) == UdevProperties()


@pytest.mark.parametrize(("text", "expected"), [("1", True), ("0", False)])
def test_rotational_of_a_disk_and_its_partition(host: FakeHost, text: str, *, expected: bool) -> None:
    host.add_disk("zz", "4095:1048574", **{"queue/rotational": text})
    host.add_partition("zz", "zz1", "4095:1048575")
    sys = str(host.roots.sys)

    assert device_properties("4095:1048574", sys=sys).rotational is expected
    assert device_properties("4095:1048575", sys=sys).rotational is expected


def link_in_sys_block(host: FakeHost, folder: Path) -> None:
    (host.roots.sys / "block").mkdir(exist_ok=True)
    (host.roots.sys / "block" / folder.name).symlink_to(folder)


@pytest.mark.parametrize(
    ("name", "attributes", "listed"),
    [
        ("sdb", {}, True),
        ("cciss!c0d0", {}, True),
        ("loop0", {}, True),
        ("loop1", {"size": "0"}, False),
        ("md0", {}, True),
        ("sr0", {}, False),
        ("ram0", {}, False),
        ("zram0", {}, False),
        ("dm-0", {"dm/uuid": "mpath-36", "dm/suspended": "0"}, True),
        ("dm-1", {"dm/uuid": "LVM-x", "dm/suspended": "0"}, False),
        ("dm-2", {"dm/uuid": "part1-mpath-36", "dm/suspended": "0"}, False),
        ("nvme0c0n1", {"hidden": "1"}, False),
    ],
)
def test_whole_disks_are_listed(host: FakeHost, name: str, attributes: dict[str, str], *, listed: bool) -> None:
    node = name.replace("!", "/")
    link_in_sys_block(host, host.add_disk(name, "8:16", node=node, **attributes))

    assert list_whole_disks(host.roots) == ((str(host.roots.dev / node),) if listed else ())


def test_whole_disks_are_sorted_and_have_a_number(host: FakeHost) -> None:
    folders = [host.add_disk(name, devno) for name, devno in (("sdc", "8:32"), ("sdb", "8:16"), ("nvme0c0n1", "9:1"))]
    (folders[2] / "dev").unlink()
    host.add_partition("sdb", "sdb1", "8:17")
    for folder in folders:
        link_in_sys_block(host, folder)

    assert list_whole_disks(host.roots) == tuple(str(host.roots.dev / name) for name in ("sdb", "sdc"))


def test_what_is_not_opened_is_unknown_and_its_use_is_known(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> bool:
        raise AssertionError(path)

    monkeypatch.setattr(block, "_is_opened_exclusively", fail)
    monkeypatch.setattr(block, "probe_signatures", fail)
    host.add_disk("sdb", "8:16")
    host.add_partition("sdb", "sdb1", "8:17")
    host.add_process(2, "mnt:[2]", "21 1 8:17 / /srv rw - ext4 /dev/sdb1 rw")

    disk = observe_disk(str(host.roots.dev / "sdb"), PLAIN, roots=host.roots, opening=False)

    assert (disk.size_bytes, disk.mounts, disk.probe_error != "") == (SECTORS * 512, ("/srv",), True)
    assert (disk.opened_exclusively, disk.signatures, disk.labelled_partitions) == (None, None, None)


def test_what_udev_says_is_passed_on(host: FakeHost) -> None:
    host.add_disk("sdb", "8:16")

    disk = host.observe("sdb", UdevProperties(transport="ata", rotational=False, id_path="pci-0"))

    assert (disk.transport, disk.rotational, disk.id_path) == ("ata", False, "pci-0")


@pytest.mark.parametrize(
    ("name", "transport"), [("nvme0n1", "nvme"), ("vda", "virtio"), ("mmcblk0", "mmc"), ("sda", ""), ("loop0", "")]
)
def test_drivers_of_their_own_are_told_by_name(name: str, transport: str) -> None:
    assert transport_by_name(name) == transport


def test_what_is_mapped_on_a_disk_is_known_without_asking_it(host: FakeHost) -> None:
    host.add_disk("sdb", "8:16")
    folder = host.add_disk("dm-3", "254:3", **{"dm/name": "paths", "dm/uuid": "mpath-1"})
    link_in_sys_block(host, folder)
    md = host.add_disk("md0", "9:0")
    link_in_sys_block(host, md)
    for name in ("dm-3", "md0"):
        (host.roots.sys / "devices/pci0/block/sdb/holders" / name).mkdir()
    (above,) = block.mapped_on(host.observe("sdb"), host.roots)
    assert (above.name, above.uuid, above.devno, above.depends_on) == ("paths", "mpath-1", "254:3", ("8:16",))
    assert not above.is_examined
    (itself,) = block.mapped_on(host.observe("dm-3"), host.roots)
    assert (itself.name, itself.devno, itself.depends_on) == ("paths", "254:3", ())
    uuid = folder / "dm/uuid"
    uuid.unlink()
    # what cannot be read, as one that is just being removed
    uuid.mkdir()
    assert block.mapped_on(host.observe("sdb"), host.roots) == ()
