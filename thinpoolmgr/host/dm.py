"""Device-mapper, straight from the kernel: the one file that knows its ioctl interface.

Sources: include/uapi/linux/dm-ioctl.h for the structures, drivers/md/dm-ioctl.c for what fills them. All of it only
reads: nothing here creates, changes or removes a device.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from contextlib import contextmanager
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, Self

from thinpoolmgr.core.model import DmDevice, ThinPoolStatus
from thinpoolmgr.core.thinstatus import parse_pool_status
from thinpoolmgr.errors import CommandFailedError, NotRootError, ThinpoolmgrError, UnavailableError
from thinpoolmgr.units import SECTOR_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

CONTROL_PATH = "/dev/mapper/control"

LIST_DEVICES = 2
DEV_STATUS = 7
TABLE_DEPS = 11
TABLE_STATUS = 12
LIST_VERSIONS = 13
GET_TARGET_VERSION = 17

SUSPEND_FLAG = 1 << 1
STATUS_TABLE_FLAG = 1 << 4
ACTIVE_PRESENT_FLAG = 1 << 5
BUFFER_FULL_FLAG = 1 << 8
NOFLUSH_FLAG = 1 << 11
UUID_FLAG = 1 << 14
DEFERRED_REMOVE_FLAG = 1 << 17

_HEADER = Struct("=3I2IIiIIIQ128s129s7x")
# The part of the header that every answer is read by.
_COUNTS = Struct("=IIiI")
_COUNTS_OFFSET = 16
_NAME_ENTRY = Struct("=QI")
_NAME_TAIL = Struct("=II")
_HAS_UUID, _HAS_NO_UUID = 1, 2
_TARGET = Struct("=QQiI16s")
_DEPS = Struct("=II")
_DEV = Struct("=Q")
_VERSION_ENTRY = Struct("=I3I")
# pool, device id, external origin
_THIN_TABLE = re.compile(r"(\d+:\d+) \d+(?: (\d+:\d+))?")

_VERSION = (4, 0, 0)  # the kernel refuses callers with a newer minor than its own
_LIST_BYTES = 64 * 1024
# fcntl.ioctl gives up Python's global lock (GIL) up to here only (CPython 3.11 to 3.13, fcntlmodule.c, IOCTL_BUFSZ).
_MOST_FCNTL_BYTES = 1024
_DEVICE_BYTES = _MOST_FCNTL_BYTES
_MOST_BYTES = 256 * 1024 * 1024
_MOST_TYPE_NAME_BYTES = 15


class Header(NamedTuple):
    """The part of an answer that every ioctl fills in; `event_number` counts since the device was made."""

    data_start: int
    target_count: int
    open_count: int
    flags: int
    event_number: int
    devno: str
    name: str
    uuid: str


class Target(NamedTuple):
    """One segment of a table, or of its status."""

    start_sectors: int
    length_sectors: int
    type: str
    params: str


class Listed(NamedTuple):
    """A device as the list of all names it; an older kernel's tells no `uuid`."""

    devno: str
    name: str
    uuid: str | None


class Answer(NamedTuple):
    """What the kernel returned: where its data begin, how many targets they describe, and the whole buffer."""

    data_start: int
    target_count: int
    buffer: bytes

    @property
    def header(self) -> Header:
        """The header that begins the buffer."""
        return parse_header(self.buffer)


def request_code(number: int) -> int:
    """Return the request code of device-mapper's ioctl `number`: `_IOWR(0xfd, number, struct dm_ioctl)`."""
    return 3 << 30 | _HEADER.size << 16 | 0xFD << 8 | number


def pack_request(name: str, flags: int, size_bytes: int) -> bytearray:
    """Return a buffer of `size_bytes` that asks about the device (or target type) called `name`."""
    buffer = bytearray(max(size_bytes, _HEADER.size))
    _HEADER.pack_into(buffer, 0, *_VERSION, len(buffer), _HEADER.size, 0, 0, flags, 0, 0, 0, os.fsencode(name), b"")
    return buffer


def parse_header(buffer: bytes | bytearray) -> Header:
    """Return the header at the start of `buffer`."""
    fields = _HEADER.unpack_from(buffer)
    data_start, target_count, open_count, flags, event_number, _, dev, name, uuid = fields[4:]
    return Header(data_start, target_count, open_count, flags, event_number, _devno(dev), _text(name), _text(uuid))


def parse_names(answer: Answer) -> tuple[Listed, ...]:
    """Return the devices in an answer to DM_LIST_DEVICES, those that were made first before the others."""
    found = []
    offset = answer.data_start
    while True:
        dev, following = _NAME_ENTRY.unpack_from(answer.buffer, offset)
        # An empty list is one entry with device number 0.
        if dev:
            found.append((dev, _listed(answer.buffer, offset)))
        if not following:
            return tuple(listed for _, listed in sorted(found))
        offset += following


def _listed(buffer: bytes, offset: int) -> Listed:
    start = offset + _NAME_ENTRY.size
    end = buffer.index(b"\0", start)
    devno, name = _devno(_NAME_ENTRY.unpack_from(buffer, offset)[0]), os.fsdecode(buffer[start:end])
    # Behind the name, aligned to 8 bytes: event number, flags, uuid; older kernels leave our zeros where flags are.
    after = (end + 8) // 8 * 8
    _, flags = _NAME_TAIL.unpack_from(buffer, after) if after + _NAME_TAIL.size <= len(buffer) else (0, 0)
    uuid = _text_at(buffer, after + _NAME_TAIL.size) if flags & _HAS_UUID else None
    return Listed(devno, name, "" if flags & _HAS_NO_UUID else uuid)


def parse_targets(answer: Answer) -> tuple[Target, ...]:
    """Return the segments in an answer to DM_TABLE_STATUS."""
    targets = []
    offset = start = answer.data_start
    for _ in range(answer.target_count):
        first, length, _, following, kind = _TARGET.unpack_from(answer.buffer, offset)
        targets.append(Target(first, length, _text(kind), _text_at(answer.buffer, offset + _TARGET.size)))
        # Unlike in a name list, the kernel counts from the first entry here.
        offset = start + following
    return tuple(targets)


def parse_deps(answer: Answer) -> tuple[str, ...]:
    """Return the `MAJOR:MINOR` numbers in an answer to DM_TABLE_DEPS, in numerical order."""
    start = answer.data_start
    count, _ = _DEPS.unpack_from(answer.buffer, start)
    first = start + _DEPS.size
    devs = [_DEV.unpack_from(answer.buffer, first + index * _DEV.size)[0] for index in range(count)]
    return tuple(_devno(dev) for dev in sorted(devs))


def parse_target_types(answer: Answer) -> tuple[str, ...]:
    """Return the names of the target types in an answer to DM_LIST_VERSIONS."""
    names = []
    offset = answer.data_start
    while True:
        following, *_ = _VERSION_ENTRY.unpack_from(answer.buffer, offset)
        names.append(_text_at(answer.buffer, offset + _VERSION_ENTRY.size))
        if not following:
            return tuple(names)
        offset += following


class Control:
    """The open control node; `ioctl` fills the buffer it is given, or raises OSError."""

    def __init__(self, ioctl: Callable[[int, bytearray], object], close: Callable[[], object] = lambda: None) -> None:
        self._ioctl = ioctl
        self._close = close

    @classmethod
    def open(cls, path: str = CONTROL_PATH) -> Self:
        """Open the control node at `path`.

        Raises:
            UnavailableError: the kernel has no device-mapper.
            NotRootError: it is not ours to open.

        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise explain_error(error, path) from error
        return cls(
            lambda number, buffer: _ioctl(descriptor, request_code(number), buffer),
            lambda: os.close(descriptor),
        )

    def __enter__(self) -> Self:
        """Return itself, open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the control node."""
        self._close()

    def ask(self, number: int, name: str = "", flags: int = 0, size_bytes: int = _DEVICE_BYTES) -> Answer:
        """Return the kernel's answer, with as large a buffer as it takes.

        Raises:
            OSError: as the kernel said it; ENXIO says that there is no such device.

        """
        while True:
            buffer = pack_request(name, flags, size_bytes)
            self._ioctl(number, buffer)
            data_start, target_count, _, answer_flags = _COUNTS.unpack_from(buffer, _COUNTS_OFFSET)
            if not answer_flags & BUFFER_FULL_FLAG:
                return Answer(data_start, target_count, bytes(buffer))
            size_bytes *= 2
            if size_bytes > _MOST_BYTES:
                raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE), name)


def _ioctl(descriptor: int, request: int, buffer: bytearray) -> None:
    """Call ioctl without Python's global lock: what waits for a hanging disk must not stop other threads."""
    if len(buffer) <= _MOST_FCNTL_BYTES:
        fcntl.ioctl(descriptor, request, buffer)
        return
    import ctypes  # noqa: PLC0415 - costs memory, and what the monitor asks all the time is smaller

    ioctl = ctypes.CDLL(None, use_errno=True).ioctl
    ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
    if ioctl(descriptor, request, (ctypes.c_char * len(buffer)).from_buffer(buffer)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextmanager
def _asking(control: Control | None, target: str) -> Iterator[Control]:
    with control or Control.open() as opened:
        try:
            yield opened
        except OSError as error:
            raise explain_error(error, target) from error


def list_dm_devices(
    control: Control | None = None, users_of: Callable[[str], Collection[str]] | None = None
) -> tuple[DmDevice, ...]:
    """Return all device-mapper devices by name; one that vanishes meanwhile is left out.

    Costs one ioctl, and two (three for thin pools) for each device. With `users_of`, which tells the numbers of what
    stands on a device, thin devices of an engine cost none: they are not examined.

    Raises:
        UnavailableError: the kernel has no device-mapper.
        NotRootError: the caller may not ask it.
        CommandFailedError: the kernel answered with another error.

    """
    with _asking(control, CONTROL_PATH) as opened:
        listed = parse_names(opened.ask(LIST_DEVICES, flags=UUID_FLAG, size_bytes=_LIST_BYTES))
        found = tuple(_observe_all(opened, listed, users_of))
    return tuple(sorted(found, key=lambda device: device.name))


def read_device(name: str, control: Control | None = None) -> DmDevice | None:
    """Return the device-mapper device called `name`; None when there is none. Raises what `list_dm_devices` does."""
    with _asking(control, name) as opened:
        return _observe(opened, name)


def has_target(name: str, control: Control | None = None) -> bool:
    """Return whether the kernel has the target type `name`, such as `thin-pool`; loads its module when there is one.

    Kernels before 5.5 cannot be asked to load it: there only types that are loaded already are seen.
    Raises what `list_dm_devices` does.
    """
    if len(os.fsencode(name)) > _MOST_TYPE_NAME_BYTES:
        return False
    with _asking(control, CONTROL_PATH) as opened:
        return _has_target(opened, name)


def event_number(name: str, control: Control | None = None) -> int | None:
    """Return how many events the device called `name` has raised; None: there is none. Raises as `list_dm_devices`."""
    with control or Control.open() as opened:
        try:
            return opened.ask(DEV_STATUS, name).header.event_number
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            raise explain_error(error, name) from error


def explain_error(error: OSError, target: str) -> ThinpoolmgrError:
    """Return what an error of the control node means for a user."""
    details = f"{target}: {error.strerror or error}"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return NotRootError("only root may ask device-mapper", details, "run the command as root")
    if error.errno in {errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTTY}:
        return UnavailableError(
            "this kernel has no device-mapper",
            details,
            "load it with `modprobe dm_mod` and `modprobe dm_thin_pool`; where the kernel has no such modules "
            "(as in many containers), `thinpoolmgr lab` offers a throw-away kernel that does",
            code="NO_DEVICE_MAPPER",
        )
    return CommandFailedError("device-mapper did not answer", details, "look at the kernel's log (`dmesg`)")


def _observe_all(
    control: Control, listed: tuple[Listed, ...], users_of: Callable[[str], Collection[str]] | None
) -> Iterator[DmDevice]:
    pool_of: dict[str, str] = {}
    # A pool has a lower number than what stands on it, mostly; what LVM put there is its own.
    for devno, name, uuid in listed:
        pool = pool_of.get(devno)
        if pool is not None and not (uuid or "").startswith("LVM-"):
            yield DmDevice(name, uuid or "", devno, 0, targets=("thin",), depends_on=(pool,), is_examined=False)
            continue
        if (device := _observe(control, name)) is None:
            continue
        yield device
        if users_of is not None and device.targets == ("thin-pool",) and not name.endswith("-tpool"):
            pool_of.update(dict.fromkeys(users_of(device.devno), device.devno))


def _observe(control: Control, name: str) -> DmDevice | None:
    try:
        # Never without NOFLUSH: a thin pool would commit its metadata, and hang where its disk does.
        status = control.ask(TABLE_STATUS, name, NOFLUSH_FLAG)
        header = status.header
        targets = parse_targets(status)
        only = targets[0] if len(targets) == 1 else None
        table = _thin_table(control, name, only)
        return DmDevice(
            name=header.name,
            uuid=header.uuid,
            devno=header.devno,
            open_count=header.open_count,
            suspended=bool(header.flags & SUSPEND_FLAG),
            has_table=bool(header.flags & ACTIVE_PRESENT_FLAG),
            targets=tuple(dict.fromkeys(target.type for target in targets)),
            depends_on=_depends_on(control, name, only, table) if targets else (),
            size_bytes=sum(target.length_sectors for target in targets) * SECTOR_BYTES,
            pool_status=_pool_status(only),
            table=table,
            deferred_remove=bool(header.flags & DEFERRED_REMOVE_FLAG),
        )
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def _depends_on(control: Control, name: str, target: Target | None, table: str) -> tuple[str, ...]:
    # A thin device's table names all that it stands on, and there may be thousands of them (dm-thin.c, thin_ctr).
    if target is not None and target.type == "thin" and (below := _THIN_TABLE.fullmatch(table)):
        return tuple(sorted(filter(None, below.groups()), key=_by_number))
    return parse_deps(control.ask(TABLE_DEPS, name))


def _by_number(devno: str) -> tuple[int, ...]:
    return tuple(map(int, devno.split(":")))


def _pool_status(target: Target | None) -> ThinPoolStatus | None:
    return parse_pool_status(target.params) if target and target.type == "thin-pool" else None


def _thin_table(control: Control, name: str, target: Target | None) -> str:
    # Tables of other targets are not even asked for: that of dm-crypt holds the key.
    if target is None or target.type not in {"thin", "thin-pool"}:
        return ""
    lines = parse_targets(control.ask(TABLE_STATUS, name, NOFLUSH_FLAG | STATUS_TABLE_FLAG))
    return lines[0].params.strip() if lines else ""


def _has_target(control: Control, name: str) -> bool:
    try:
        control.ask(GET_TARGET_VERSION, name)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        if error.errno == errno.ENOTTY:
            return name in parse_target_types(control.ask(LIST_VERSIONS))
        raise
    return True


def _devno(dev: int) -> str:
    return f"{os.major(dev)}:{os.minor(dev)}"


def _text(field: bytes) -> str:
    return os.fsdecode(field.partition(b"\0")[0])


def _text_at(buffer: bytes, offset: int) -> str:
    return os.fsdecode(buffer[offset : buffer.index(b"\0", offset)])
