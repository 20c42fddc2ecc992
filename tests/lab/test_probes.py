"""The probes on a real kernel: what dm, LVM, block, blkid and udev say of real devices, by the tools' own words."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import SYS_BLOCK, wait_until

from thinpoolmgr.core.thinstatus import parse_pool_status
from thinpoolmgr.host.blkid import ProbeError, probe_signatures
from thinpoolmgr.host.block import observe_disk, resolve_device
from thinpoolmgr.host.dm import event_number, has_target, list_dm_devices
from thinpoolmgr.host.lvm import held_to, read_lvm, report_command
from thinpoolmgr.host.observe import dm_users_of
from thinpoolmgr.host.standby import Standby
from thinpoolmgr.host.udev import BlockEvents, UdevProperties, device_properties, lvm_disks
from thinpoolmgr.lab.loop import LoopDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from thinpoolmgr.core.model import Disk, DmDevice

MEBIBYTE = 1 << 20
DISK_BYTES = 64 * MEBIBYTE
DISK_SECTORS = DISK_BYTES // 512
MEBIBYTE_SECTORS = MEBIBYTE // 512


def run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL).stdout


def observe(path: str | Path) -> Disk:
    return observe_disk(str(path), UdevProperties())


def devno(path: str | Path) -> str:
    status = os.stat(path)
    assert stat.S_ISBLK(status.st_mode)
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def find(name: str) -> DmDevice:
    return next(device for device in list_dm_devices() if device.name == name)


@contextmanager
def dm_device(name: str, *table: str) -> Iterator[str]:
    subprocess.run(
        ["dmsetup", "create", name, "--uuid", f"TPMTEST-{name}"], input="\n".join(table), text=True, check=True
    )
    try:
        yield f"/dev/mapper/{name}"
    finally:
        run("dmsetup", "remove", "--retry", name)


@contextmanager
def mounted(path: str, folder: Path) -> Iterator[None]:
    run("mount", path, str(folder))
    try:
        yield
    finally:
        run("umount", str(folder))


@pytest.fixture
def disk(loop_disks: Callable[..., LoopDisk]) -> str:
    return str(loop_disks(DISK_BYTES).path)


@pytest.fixture
def pool(disk: str) -> Iterator[str]:
    with (
        dm_device("tpm_meta", f"0 {4 * MEBIBYTE_SECTORS} linear {disk} 0"),
        dm_device("tpm_data", f"0 {32 * MEBIBYTE_SECTORS} linear {disk} {4 * MEBIBYTE_SECTORS}"),
        dm_device("tpm_pool", f"0 {32 * MEBIBYTE_SECTORS} thin-pool /dev/mapper/tpm_meta /dev/mapper/tpm_data 128 8"),
    ):
        run("dmsetup", "message", "tpm_pool", "0", "create_thin 7")
        with dm_device("tpm_thin", f"0 {8 * MEBIBYTE_SECTORS} thin /dev/mapper/tpm_pool 7"):
            run("dd", "if=/dev/zero", "of=/dev/mapper/tpm_thin", "bs=1M", "count=2", "oflag=direct", "status=none")
            yield "tpm_pool"


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("name", ["tpm_meta", "tpm_data", "tpm_pool", "tpm_thin"])
def test_each_device_is_what_dmsetup_says(name: str) -> None:
    fields = "name,uuid,major,minor,open,events,segments"
    line = run("dmsetup", "info", "-c", "--noheadings", "--separator", "|", "-o", fields, name).strip()
    table = run("dmsetup", "table", name).split()

    device = find(name)

    major, _, minor = device.devno.partition(":")
    ours = (device.name, device.uuid, major, minor, str(device.open_count), str(event_number(name)), "1")
    assert "|".join(ours) == line
    assert (device.size_bytes, device.targets) == (int(table[1]) * 512, (table[2],))
    assert device.table == (" ".join(table[3:]) if table[2].startswith("thin") else "")
    below = run("dmsetup", "deps", "-o", "devno", name)
    assert all(f"({number.replace(':', ', ')})" in below for number in device.depends_on)
    assert below.count("(") == len(device.depends_on) > 0


def test_pool_status_is_the_kernel_s_line(pool: str) -> None:
    def line() -> str:
        return run("dmsetup", "status", "--noflush", pool).split("thin-pool", 1)[1]

    before, status, after = line(), find(pool).pool_status, line()

    assert status is not None
    # a new pool's commit frees blocks a second later
    assert status in {parse_pool_status(before), parse_pool_status(after)}
    assert (status.mode, status.used_data_blocks, status.total_data_blocks) == ("rw", 32, 512)


def test_all_devices_are_listed_like_dmsetup_ls(pool: str) -> None:
    names = {line.split()[0] for line in run("dmsetup", "ls").splitlines()}

    assert {device.name for device in list_dm_devices()} == names
    assert pool in names


def test_thin_devices_are_known_without_being_examined(pool: str) -> None:
    whole = {device.name: device for device in list_dm_devices()}
    quick = {device.name: device for device in list_dm_devices(users_of=dm_users_of)}

    assert [name for name, device in quick.items() if not device.is_examined] == ["tpm_thin"]
    thin, examined = quick.pop("tpm_thin"), whole.pop("tpm_thin")
    assert (thin.devno, thin.uuid, thin.targets) == (examined.devno, examined.uuid, examined.targets)
    assert thin.depends_on == examined.depends_on == (whole[pool].devno,)
    assert quick == whole


def test_suspended_and_tableless_devices(disk: str) -> None:
    with dm_device("tpm_linear", f"0 {DISK_SECTORS} linear {disk} 0"):
        run("dmsetup", "suspend", "tpm_linear")
        try:
            assert find("tpm_linear").suspended
            observed = observe(resolve_device("/dev/mapper/tpm_linear").disk)
            assert (observed.signatures, observed.probe_error) == (None, "the device is suspended")
        finally:
            run("dmsetup", "resume", "tpm_linear")
        assert not find("tpm_linear").suspended
    run("dmsetup", "create", "tpm_empty", "--notable")
    try:
        assert (find("tpm_empty").has_table, find("tpm_empty").targets) == (False, ())
    finally:
        run("dmsetup", "remove", "tpm_empty")


def test_segments_of_different_targets(disk: str) -> None:
    with dm_device("tpm_mixed", f"0 1024 linear {disk} 0", "1024 1024 error"):
        assert (find("tpm_mixed").targets, find("tpm_mixed").size_bytes) == (("linear", "error"), MEBIBYTE)


def test_has_target_loads_the_module() -> None:
    subprocess.run(["modprobe", "-r", "dm_dust"], check=False)
    assert "dm_dust" not in Path("/proc/modules").read_text()

    assert has_target("dust")

    assert "dm_dust" in Path("/proc/modules").read_text()
    assert has_target("thin-pool")
    assert not has_target("no-such")


def test_event_number_of_a_device_that_is_not_there() -> None:
    assert event_number("tpm_nothing") is None


def test_event_number_moves_when_the_pool_passes_its_low_water_mark(pool: str) -> None:
    before = event_number(pool)
    run("dmsetup", "message", pool, "0", "create_thin 8")

    with dm_device("tpm_filler", f"0 {40 * MEBIBYTE_SECTORS} thin /dev/mapper/{pool} 8"):
        run("dd", "if=/dev/zero", "of=/dev/mapper/tpm_filler", "bs=1M", "count=30", "oflag=direct", "status=none")
        deadline = time.monotonic() + 10
        while event_number(pool) == before and time.monotonic() < deadline:
            time.sleep(0.05)

        assert event_number(pool) != before


def test_a_blank_disk(disk: str) -> None:
    observed = observe(disk)

    assert (observed.path, observed.devno, observed.size_bytes, observed.kind) == (
        disk,
        devno(disk),
        DISK_BYTES,
        "loop",
    )
    assert (observed.mounts, observed.holders, observed.swap, observed.read_only) == ((), (), False, False)
    assert (observed.opened_exclusively, observed.signatures, observed.probe_error) == (False, (), "")


def test_4k_sectors_and_read_only() -> None:
    with LoopDisk(DISK_BYTES, sector_size=4096) as made:
        run("blockdev", "--setro", str(made.path))
        try:
            observed = observe(made.path)
        finally:
            # The flag would stay with the loop device's number and meet the next disk there.
            run("blockdev", "--setrw", str(made.path))

        assert (observed.sector_bytes, observed.size_bytes, observed.read_only) == (4096, DISK_BYTES, True)
        assert (observed.opened_exclusively, observed.signatures, observed.probe_error) == (False, (), "")


def test_a_mounted_file_system(disk: str, tmp_path: Path) -> None:
    run("mkfs.ext4", "-q", disk)

    with mounted(disk, tmp_path):
        used = observe(disk)
    free = observe(disk)

    assert (used.mounts, used.opened_exclusively) == ((str(tmp_path),), True)
    assert (free.mounts, free.opened_exclusively) == ((), False)
    assert {item.type for item in used.signatures or ()} == {item.type for item in free.signatures or ()} == {"ext4"}


def test_a_mount_that_only_another_namespace_has(disk: str, tmp_path: Path) -> None:
    run("mkfs.ext4", "-q", disk)
    script = f"mount {disk} {tmp_path} && echo ready && exec cat"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()

        observed = observe(disk)

        process.communicate("")
    assert (observed.mounts, observed.opened_exclusively) == ((str(tmp_path),), True)


def test_swap(disk: str) -> None:
    run("mkswap", disk)
    assert not observe(disk).swap
    run("swapon", disk)
    try:
        observed = observe(disk)
    finally:
        run("swapoff", disk)

    assert (observed.swap, observed.opened_exclusively) == (True, True)
    assert [item.type for item in observed.signatures or ()] == ["swap"]


def test_a_disk_that_somebody_holds_exclusively(disk: str) -> None:
    holder = os.open(disk, os.O_RDONLY | os.O_EXCL)
    try:
        assert observe(disk).opened_exclusively is True
    finally:
        os.close(holder)
    assert observe(disk).opened_exclusively is False


def test_a_disk_below_a_dm_device(disk: str) -> None:
    with dm_device("tpm_linear", f"0 {DISK_SECTORS} linear {disk} 0") as path:
        node = resolve_device(path).disk

        below, above = observe(disk), observe(node)

        assert node.startswith("/dev/dm-")
        assert (below.holders, below.opened_exclusively) == ((Path(node).name,), True)
        assert (above.kind, above.holders, above.opened_exclusively) == ("dm", (), False)


def test_partitions_count_for_the_whole(tmp_path: Path) -> None:
    image, folder = tmp_path / "disk.img", tmp_path / "mnt"
    folder.mkdir()
    entry = bytes((0, 0, 2, 0, 0x83, 0, 2, 0)) + (2048).to_bytes(4, "little") + (32768).to_bytes(4, "little")
    image.write_bytes(bytes(446) + entry + bytes(48) + b"\x55\xaa")
    os.truncate(image, DISK_BYTES)
    whole = run("losetup", "--find", "--show", "--partscan", str(image)).strip()
    part = f"{whole}p1"
    try:
        run("mkfs.ext4", "-q", part)
        with mounted(part, folder):
            disk, partition = observe(whole), observe(part)
    finally:
        run("losetup", "--detach", whole)

    assert (disk.partitions, disk.mounts, disk.opened_exclusively) == ((part,), (str(folder),), True)
    assert [item.type for item in disk.signatures or ()] == ["dos"]
    assert (partition.kind, partition.size_bytes) == ("partition", 16 * MEBIBYTE)
    assert (partition.mounts, [item.type for item in partition.signatures or ()]) == ((str(folder),), ["ext4"])


@pytest.mark.parametrize(
    ("bad_start", "bad_length"),
    [
        (0, DISK_SECTORS),
        (0, 8),
        (128, 8),
        (MEBIBYTE_SECTORS - 8, 8),
        (DISK_SECTORS - MEBIBYTE_SECTORS, 8),
        (DISK_SECTORS - 8, 8),
    ],
)
def test_unreadable_sectors_make_signatures_unknown(disk: str, bad_start: int, bad_length: int) -> None:
    after = bad_start + bad_length
    table = [
        f"0 {bad_start} linear {disk} 0" if bad_start else "",
        f"{bad_start} {bad_length} error",
        f"{after} {DISK_SECTORS - after} linear {disk} {after}" if after < DISK_SECTORS else "",
    ]
    with dm_device("tpm_bad", *filter(None, table)) as path:
        observed = observe(resolve_device(path).disk)

        assert observed.signatures is None
        assert "Input/output error" in observed.probe_error
        with pytest.raises(ProbeError):
            probe_signatures(path)


def test_a_failing_disk_hides_no_signature_it_still_shows(disk: str) -> None:
    run("mkfs.ext4", "-q", disk)
    with dm_device("tpm_dust", f"0 {DISK_SECTORS} dust {disk} 0 512") as path:
        assert [item.type for item in probe_signatures(path)] == ["ext4"]
        run("dmsetup", "message", "tpm_dust", "0", "addbadblock 2")
        run("dmsetup", "message", "tpm_dust", "0", "enable")
        run("blockdev", "--flushbufs", path)

        with pytest.raises(ProbeError):
            probe_signatures(path)


def test_a_zero_sized_disk() -> None:
    with LoopDisk(DISK_BYTES) as made:
        path = str(made.path)
        made.detach()
        # While udev's worker still has it open the kernel puts the detaching off.
        wait_until(lambda: not (SYS_BLOCK / Path(path).name / "loop").is_dir())

        observed = observe(path)

    assert (observed.size_bytes, observed.signatures or ()) == (0, ())


def test_udev_s_names_lead_back_to_the_device(disk: str) -> None:
    with dm_device("tpm_named", f"0 {DISK_SECTORS} linear {disk} 0") as path:
        run("udevadm", "settle", "--timeout=10")
        number = devno(path)

        links = device_properties(number).links

        assert path in links
        assert {devno(link) for link in links} == {number}


def test_rotational_is_the_kernel_s_word(disk: str) -> None:
    word = Path(f"/sys/block/{Path(disk).name}/queue/rotational").read_text().strip()

    assert device_properties(devno(disk)).rotational is (word == "1")


def test_what_one_command_is_held_to_holds_for_none_after_it(disk: str, loop_disks: Callable[..., LoopDisk]) -> None:
    def paths(*held: str) -> list[set[str]]:
        done = standby.run(held_to(report_command(), held))
        assert done is not None
        groups = read_lvm(lambda _argv: done).groups
        return [{pv.path for pv in group.pvs if not pv.missing} for group in groups]

    run("vgcreate", "--quiet", "tpm_one", disk)
    standby = Standby()
    standby.set_near("pool", is_near=True)
    wait_until(lambda: standby.run(("lvm", "version")) is not None)
    assert paths(disk) == [{disk}]
    second = str(loop_disks(DISK_BYTES).path)
    run("vgextend", "--quiet", "tpm_one", second)
    assert [paths(disk), paths(disk, second), paths(second), paths()] == [
        [{disk}],
        [{disk, second}],
        [{second}],
        [{disk, second}],
    ]
    standby.close()
    run("vgremove", "--quiet", "tpm_one")
    run("pvremove", "--quiet", disk, second)


@pytest.mark.usefixtures("disk")
def test_events_that_were_too_many_are_told_of_and_later_ones_still_come() -> None:
    events = BlockEvents()
    with socket.socket(fileno=os.dup(events.fileno())) as asked:
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for _ in range(5):
        run("udevadm", "trigger", "--settle", "--subsystem-match=block", "--sysname-match=loop*")
    with pytest.raises(OSError, match="polling"):
        events._monitor.poll(timeout=0)
    assert (events.take(), events.take()) == (True, False)
    run("udevadm", "trigger", "--settle", "--sysname-match=loop0")
    assert events.take()


def test_udev_knows_all_disks_with_a_uuid_of_lvm_s(disk: str, loop_disks: Callable[..., LoopDisk]) -> None:
    run("pvcreate", "--quiet", disk)
    (uuid,) = run("pvs", "--noheadings", "-o", "pv_uuid", disk).split()
    # udevd is told of a written disk by inotify, which "settle" alone may be too early for.
    run("udevadm", "trigger", "--settle", disk)
    assert lvm_disks({uuid}) == (disk,)
    assert lvm_disks({"another"}) == ()
    copy = str(loop_disks(DISK_BYTES).path)
    run("dd", f"if={disk}", f"of={copy}", "bs=1M", "count=4", "conv=fsync", "status=none")
    run("udevadm", "trigger", "--settle", copy)
    assert set(lvm_disks({uuid})) == {disk, copy}
    run("wipefs", "--quiet", "--all", copy)
