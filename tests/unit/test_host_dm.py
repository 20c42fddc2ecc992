"""The ioctl buffers of device-mapper, packed as the kernel packs them, and a small kernel that answers with them."""

from __future__ import annotations

import errno
import os
import struct
import termios
from dataclasses import dataclass, field

import pytest

from thinpoolmgr.core.model import DmDevice, ThinPoolStatus
from thinpoolmgr.errors import CommandFailedError, NotRootError, ThinpoolmgrError, UnavailableError
from thinpoolmgr.host import dm

POOL_LINE = "3 141/2048 29/400 - rw discard_passdown queue_if_no_space - 1024"
NAME_AT, DATA_AT = 48, 312


@dataclass
class FakeDevice:
    """One device of the fake kernel; `targets` are (length, type, status, table)."""

    name: str
    uuid: str = ""
    dev: int = os.makedev(253, 0)
    open_count: int = 0
    flags: int = dm.ACTIVE_PRESENT_FLAG
    event: int = 0
    targets: tuple[tuple[int, str, str, str], ...] = ()
    deps: tuple[int, ...] = ()
    gone: bool = False


@dataclass
class FakeKernel:
    """Answers ioctls as drivers/md/dm-ioctl.c does, buffer-full flag and alignment included."""

    devices: tuple[FakeDevice, ...] = ()
    types: tuple[str, ...] = ("linear", "thin-pool")
    old: bool = False
    closed: bool = False
    calls: list[tuple[int, str, int, int]] = field(default_factory=list)

    def control(self) -> dm.Control:
        self.closed = False
        return dm.Control(self.ioctl, self.close)

    def close(self) -> None:
        self.closed = True

    def ioctl(self, number: int, buffer: bytearray) -> None:
        assert not self.closed
        name = os.fsdecode(bytes(buffer[NAME_AT : NAME_AT + 128]).rstrip(b"\0"))
        flags = struct.unpack_from("=I", buffer, 28)[0]
        assert struct.unpack_from("=I", buffer, 12)[0] == len(buffer)
        self.calls.append((number, name, flags, len(buffer)))
        if number == dm.LIST_DEVICES:
            return self.fill(
                buffer, FakeDevice(""), name_list(self.devices, uuids=bool(flags & dm.UUID_FLAG) and not self.old)
            )
        if number == dm.LIST_VERSIONS:
            return self.fill(buffer, FakeDevice(""), version_list(self.types))
        if number == dm.GET_TARGET_VERSION:
            if self.old:
                raise OSError(errno.ENOTTY, "Inappropriate ioctl")
            if name not in self.types:
                raise OSError(errno.EINVAL, "Invalid argument")
            return None
        device = next((device for device in self.devices if device.name == name), None)
        if device is None or device.gone:
            raise OSError(errno.ENXIO, "No such device or address")
        if number == dm.TABLE_DEPS:
            data = struct.pack(f"=II{len(device.deps)}Q", len(device.deps), 0, *device.deps)
        elif number == dm.TABLE_STATUS:
            assert flags & dm.NOFLUSH_FLAG
            wants_table = flags & dm.STATUS_TABLE_FLAG
            data = target_list(tuple((t[0], t[1], t[3] if wants_table else t[2]) for t in device.targets))
        else:
            data = b""
        return self.fill(buffer, device, data)

    def fill(self, buffer: bytearray, device: FakeDevice, data: bytes) -> None:
        flags = device.flags
        if DATA_AT + len(data) > len(buffer):
            flags, data = flags | dm.BUFFER_FULL_FLAG, b""
        struct.pack_into("=IIiII", buffer, 16, DATA_AT, len(device.targets), device.open_count, flags, device.event)
        struct.pack_into("=Q128s129s", buffer, 40, device.dev, os.fsencode(device.name), os.fsencode(device.uuid))
        buffer[DATA_AT : DATA_AT + len(data)] = data


def align(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def name_list(devices: tuple[FakeDevice, ...], *, uuids: bool) -> bytes:
    if not devices:
        return struct.pack("=QI", 0, 0) + b"\0"
    entries = []
    for device in devices:
        named = align(bytes(12) + os.fsencode(device.name) + b"\0")[12:]
        rest = struct.pack("=II", device.event, (1 if device.uuid else 2) if uuids else 0)
        rest += os.fsencode(device.uuid) + b"\0" if uuids and device.uuid else b""
        entries.append((device.dev, align(bytes(12) + named + rest)[12:]))
    last = len(entries) - 1
    return b"".join(
        struct.pack("=QI", dev, 0 if index == last else 12 + len(body)) + body
        for index, (dev, body) in enumerate(entries)
    )


def target_list(targets: tuple[tuple[int, str, str], ...]) -> bytes:
    data, start = b"", 0
    for length, kind, params in targets:
        text = os.fsencode(params) + b"\0"
        following = len(data) + len(align(bytes(40) + text))
        data += struct.pack("=QQiI16s", start, length, 0, following, kind.encode()) + text
        data = align(data)
        start += length
    return data


def version_list(types: tuple[str, ...]) -> bytes:
    bodies = [align(bytes(16) + name.encode() + b"\0")[16:] for name in types]
    last = len(bodies) - 1
    return b"".join(
        struct.pack("=I3I", 0 if index == last else 16 + len(body), 1, 2, 3) + body for index, body in enumerate(bodies)
    )


def test_request_codes_are_those_of_the_header_file() -> None:
    assert dm.request_code(dm.LIST_DEVICES) == 0xC138FD02
    assert dm.request_code(dm.GET_TARGET_VERSION) == 0xC138FD11


def test_request_is_a_version_4_header_that_tells_its_size() -> None:
    request = dm.pack_request("vg-pool", dm.NOFLUSH_FLAG, 4096)

    assert len(request) == 4096
    assert struct.unpack_from("=3I5I", request) == (4, 0, 0, 4096, 312, 0, 0, 1 << 11)
    assert bytes(request[NAME_AT : NAME_AT + 8]) == b"vg-pool\0"


def test_a_thin_pool_with_its_status_table_and_parents() -> None:
    table = "253:1 253:2 1024 1024 1 skip_block_zeroing "
    pool = FakeDevice(
        "vg-pool",
        "LVM-uuid-tpool",
        os.makedev(253, 3),
        open_count=2,
        targets=((409600, "thin-pool", POOL_LINE, table),),
        deps=(os.makedev(253, 10), os.makedev(253, 2)),
    )

    assert dm.list_dm_devices(FakeKernel((pool,)).control()) == (
        DmDevice(
            name="vg-pool",
            uuid="LVM-uuid-tpool",
            devno="253:3",
            open_count=2,
            targets=("thin-pool",),
            depends_on=("253:2", "253:10"),
            size_bytes=409600 * 512,
            pool_status=ThinPoolStatus("rw", 3, 141, 2048, 29, 400, "-", "discard_passdown", "queue"),
            table=table.strip(),
        ),
    )


def test_table_of_another_target_is_not_read_as_it_may_hold_a_key() -> None:
    crypt = FakeDevice("secret", targets=((8, "crypt", "", "aes-xts-plain64 deadbeef 0 8:0 0"),))
    kernel = FakeKernel((crypt,))

    (device,) = dm.list_dm_devices(kernel.control())

    assert device.table == ""
    assert not [call for call in kernel.calls if call[2] & dm.STATUS_TABLE_FLAG]


def test_a_thin_device_keeps_its_table() -> None:
    thin = FakeDevice("docker-0:1-2-base", targets=((2048, "thin", "0 -", "253:3 7"),))

    assert dm.list_dm_devices(FakeKernel((thin,)).control())[0].table == "253:3 7"


def test_segments_of_one_type_are_one_target_and_add_up() -> None:
    linear = FakeDevice("root", targets=((100, "linear", "", "8:0 1"), (28, "linear", "", "8:16 1")))

    (device,) = dm.list_dm_devices(FakeKernel((linear,)).control())

    assert (device.targets, device.size_bytes) == (("linear",), 128 * 512)


def test_segments_of_two_types_are_told_in_order() -> None:
    mixed = FakeDevice("mixed", targets=((8, "linear", "", "8:0 0"), (8, "error", "", ""), (8, "linear", "", "8:0 8")))

    targets = dm.list_dm_devices(FakeKernel((mixed,)).control())[0]

    assert (targets.targets, targets.table, targets.pool_status) == (("linear", "error"), "", None)


def test_a_device_without_table_and_a_suspended_one() -> None:
    empty = FakeDevice("empty", flags=0)
    suspended = FakeDevice("held", flags=dm.ACTIVE_PRESENT_FLAG | dm.SUSPEND_FLAG, targets=((8, "error", "", ""),))

    first, second = dm.list_dm_devices(FakeKernel((empty, suspended)).control())

    assert (first.has_table, first.suspended, first.targets, first.size_bytes) == (False, False, (), 0)
    assert (second.has_table, second.suspended, second.targets) == (True, True, ("error",))


def test_a_device_that_goes_when_it_is_closed() -> None:
    going = FakeDevice("going", flags=dm.ACTIVE_PRESENT_FLAG | dm.DEFERRED_REMOVE_FLAG)
    stays = FakeDevice("stays")

    assert [d.deferred_remove for d in dm.list_dm_devices(FakeKernel((going, stays)).control())] == [True, False]


@pytest.mark.parametrize("word", ["Fail", "Error"])
def test_a_failed_pool_has_its_mode_only(word: str) -> None:
    pool = FakeDevice("p", targets=((8, "thin-pool", word, "253:1 253:2 128 0"),))

    assert dm.list_dm_devices(FakeKernel((pool,)).control())[0].pool_status == ThinPoolStatus(word)


def test_an_unreadable_pool_status_is_unknown() -> None:
    pool = FakeDevice("p", targets=((8, "thin-pool", "", "253:1 253:2 128 0"),))

    assert dm.list_dm_devices(FakeKernel((pool,)).control())[0].pool_status is None


def test_no_devices() -> None:
    kernel = FakeKernel()

    assert dm.list_dm_devices(kernel.control()) == ()
    assert [call[0] for call in kernel.calls] == [dm.LIST_DEVICES]


def test_devices_come_by_name_and_one_that_vanishes_is_left_out() -> None:
    kernel = FakeKernel((FakeDevice("b"), FakeDevice("gone", gone=True), FakeDevice("a")))

    assert [device.name for device in dm.list_dm_devices(kernel.control())] == ["a", "b"]


def test_one_device_is_read_by_its_name() -> None:
    kernel = FakeKernel((FakeDevice("b", open_count=2), FakeDevice("a"), FakeDevice("gone", gone=True)))
    found = dm.read_device("b", kernel.control())
    assert found is not None
    assert (found.name, found.open_count) == ("b", 2)
    assert dm.read_device("gone", kernel.control()) is None


def test_a_device_that_cannot_be_read_is_an_error() -> None:
    def fail(_number: int, _buffer: bytearray) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    with pytest.raises(NotRootError):
        dm.read_device("b", dm.Control(fail))


def test_thousands_of_devices_cost_one_list_that_grows_and_two_calls_each() -> None:
    thins = tuple(
        FakeDevice(f"pool-snap-{n}", f"uuid-{n}" * 4, os.makedev(253, n), targets=((8, "thin", "0 -", f"253:3 {n}"),))
        for n in range(5000)
    )
    kernel = FakeKernel(thins)

    found = dm.list_dm_devices(kernel.control())

    lists = [call for call in kernel.calls if call[0] == dm.LIST_DEVICES]
    assert {device.devno for device in found} == {f"253:{n}" for n in range(5000)}
    assert [call[3] for call in lists] == [64 * 1024 * 2**n for n in range(len(lists))]
    assert len(lists) > 1
    assert len(kernel.calls) - len(lists) == 2 * 5000
    assert {device.depends_on for device in found} == {("253:3",)}


@pytest.mark.parametrize("old", [False, True])
def test_thin_devices_of_an_engine_cost_nothing_when_their_pool_tells_of_them(*, old: bool) -> None:
    pool = FakeDevice(
        "docker-thinpool", "LVM-x-tpool", os.makedev(253, 2), targets=((8, "thin-pool", "", "253:0 253:1"),)
    )
    thins = tuple(FakeDevice(f"docker-{n}", "", os.makedev(253, n)) for n in range(3, 300))
    other = FakeDevice("crypt", "CRYPT-1", os.makedev(253, 400), targets=((8, "crypt", "", ""),))
    volume = FakeDevice("docker-vol", "LVM-vgvol", os.makedev(253, 401), targets=((8, "thin", "0 -", "253:2 7"),))
    kernel = FakeKernel((*thins, other, pool, volume), old=old)
    users = {"253:2": tuple(dm.Listed(f"253:{n}", "", None).devno for n in (*range(3, 300), 401))}

    found = {device.name: device for device in dm.list_dm_devices(kernel.control(), users.__getitem__)}

    # An old kernel's list has no uuids: LVM's own thin volume is not told from an engine's.
    examined = {"crypt", "docker-thinpool"} | (set() if old else {"docker-vol"})
    assert {name for name, device in found.items() if device.is_examined} == examined
    assert {name for number, name, *_ in kernel.calls if number == dm.TABLE_STATUS} == examined
    assert found["docker-3"].depends_on == ("253:2",)
    assert (found["docker-3"].targets, found["docker-3"].devno) == (("thin",), "253:3")
    assert found["crypt"].targets == ("crypt",)


def test_what_stands_on_a_pool_of_lvms_thin_volumes_is_examined() -> None:
    pool = FakeDevice(
        "vg-pool-tpool", "LVM-x-tpool", os.makedev(253, 2), targets=((8, "thin-pool", "", "253:0 253:1"),)
    )
    cover = FakeDevice("vg-pool", "LVM-x", os.makedev(253, 3), targets=((8, "linear", "", ""),))
    found = dm.list_dm_devices(FakeKernel((pool, cover), old=True).control(), lambda _: ("253:3",))
    assert [device.targets for device in found] == [("linear",), ("thin-pool",)]


@pytest.mark.parametrize(
    ("table", "below"),
    [
        ("253:3 7 253:10", ("253:3", "253:10")),
        ("253:10 7 9:127", ("9:127", "253:10")),
        # in fail mode the kernel shows no table
        ("Fail", ("253:3",)),
        ("-", ("253:3",)),
    ],
)
def test_what_a_thin_device_stands_on_is_in_its_table(table: str, below: tuple[str, ...]) -> None:
    thin = FakeDevice("snap", targets=((8, "thin", "Fail", table),), deps=(os.makedev(253, 3),))

    (device,) = dm.list_dm_devices(FakeKernel((thin,)).control())

    assert device.depends_on == below


def test_what_is_asked_of_a_pool_leaves_other_threads_running() -> None:
    # the status of a pool waits for the disk of its metadata; CPython keeps its lock in fcntl.ioctl above 1024 bytes
    kernel = FakeKernel((FakeDevice("p", targets=((8, "thin-pool", POOL_LINE, "253:1 253:2 128 0 0"),)),))
    assert dm.read_device("p", kernel.control()) is not None
    assert dm.event_number("p", kernel.control()) == 0
    assert {call[3] for call in kernel.calls} == {1024}


def test_a_large_buffer_does_not_go_through_fcntl(monkeypatch: pytest.MonkeyPatch) -> None:
    def small_only(_descriptor: int, _request: int, buffer: bytearray) -> None:
        assert len(buffer) <= 1024

    reader, writer = os.pipe()
    os.write(writer, b"seven b")
    monkeypatch.setattr("fcntl.ioctl", small_only)
    monkeypatch.setattr(dm, "request_code", lambda number: number)
    with dm.Control.open(f"/proc/self/fd/{writer}") as control:
        buffer = bytearray(4096)
        control._ioctl(termios.FIONREAD, buffer)
        assert struct.unpack_from("=I", buffer) == (7,)
        control._ioctl(termios.FIONREAD, bytearray(1024))
        with pytest.raises(OSError, match="Inappropriate ioctl") as caught:
            control._ioctl(dm.TABLE_STATUS, bytearray(4096))
    assert caught.value.errno == errno.ENOTTY
    os.close(reader)
    os.close(writer)


def test_a_table_larger_than_the_first_buffer_is_asked_for_again() -> None:
    linear = FakeDevice("many", targets=tuple((8, "linear", "x" * 100, "") for _ in range(500)))

    assert dm.list_dm_devices(FakeKernel((linear,)).control())[0].size_bytes == 500 * 8 * 512


def test_a_buffer_that_never_suffices_is_an_error_and_no_endless_loop() -> None:
    control = dm.Control(lambda _, buffer: struct.pack_into("=I", buffer, 28, dm.BUFFER_FULL_FLAG))

    with pytest.raises(CommandFailedError):
        dm.list_dm_devices(control)


def test_odd_bytes_in_names_survive() -> None:
    name = os.fsdecode(b"caf\xe9 \\x20")

    assert dm.list_dm_devices(FakeKernel((FakeDevice(name, uuid=name),)).control())[0].name == name


def test_big_device_numbers() -> None:
    device = FakeDevice("x", dev=os.makedev(253, 70000), targets=((8, "linear", "", ""),), deps=(os.makedev(8, 300),))

    (found,) = dm.list_dm_devices(FakeKernel((device,)).control())

    assert (found.devno, found.depends_on) == ("253:70000", ("8:300",))


@pytest.mark.parametrize("old", [False, True])
def test_target_types(*, old: bool) -> None:
    kernel = FakeKernel(old=old)

    assert dm.has_target("thin-pool", kernel.control())
    assert not dm.has_target("thin", kernel.control())
    assert not dm.has_target("no-such-target-of-this-length", kernel.control())


def test_event_number() -> None:
    kernel = FakeKernel((FakeDevice("p", event=7),))

    assert dm.event_number("p", kernel.control()) == 7
    assert dm.event_number("q", kernel.control()) is None


@pytest.mark.parametrize(
    ("number", "expected", "exit_code"),
    [
        (errno.ENOENT, UnavailableError, 69),
        (errno.ENODEV, UnavailableError, 69),
        (errno.ENXIO, UnavailableError, 69),
        (errno.EACCES, NotRootError, 77),
        (errno.EPERM, NotRootError, 77),
        (errno.ENOMEM, CommandFailedError, 1),
    ],
)
def test_what_an_error_means(number: int, expected: type[ThinpoolmgrError], exit_code: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(expected) as caught:
        dm.list_dm_devices(dm.Control(fail))

    assert caught.value.exit_code == exit_code
    assert os.strerror(number) in caught.value.details
    assert caught.value.resolution


def test_without_the_control_node_there_is_no_device_mapper() -> None:
    with pytest.raises(UnavailableError, match="no device-mapper") as caught:
        dm.Control.open("/no/such/control")

    assert "modprobe dm_mod" in caught.value.resolution
    assert "/no/such/control" in caught.value.details
