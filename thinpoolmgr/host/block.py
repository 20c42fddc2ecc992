"""Block devices as the kernel sees them: sysfs, /proc, and an exclusive open.

Sources: Documentation/ABI/stable/sysfs-block of the kernel; proc(5) for mountinfo and swaps; open(2) for O_EXCL.
What cannot be found out is `None` or named in `probe_error`: it is unknown, never absent.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from thinpoolmgr.core.guards import PV_SIGNATURE
from thinpoolmgr.core.matching import WHOLE_KINDS
from thinpoolmgr.core.model import ConfiguredDevice, Disk, DmDevice, Signature
from thinpoolmgr.host.blkid import ProbeError, probe_signatures
from thinpoolmgr.host.mountinfo import Mount, parse_mountinfo, unescape
from thinpoolmgr.host.processes import list_processes
from thinpoolmgr.units import SECTOR_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinpoolmgr.host.udev import UdevProperties

# Processes end while they are looked at; one that has ended and was not waited for has no mount namespace (EINVAL).
_GONE = {errno.ENOENT, errno.ESRCH, errno.EINVAL}
_MULTIPATH_UUID = re.compile(r"mpath-")
_MULTIPATH_PARTITION_UUID = re.compile(r"part\d+-mpath-")
_NOT_OPENED = "it was not opened, since nothing asks for it"
_KERNEL_TYPE = re.compile(r"(md|sr|fd|ram|zram)\d")


@dataclass(frozen=True)
class Roots:
    """Where the kernel's file systems are mounted."""

    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    dev: Path = Path("/dev")

    def devno(self, path: str | Path) -> str:
        """Return `MAJOR:MINOR` of the block device at `path`; empty when it is something else.

        Raises:
            OSError: there is nothing at `path`, or it cannot be looked at.

        """
        status = os.stat(path)
        if not stat.S_ISBLK(status.st_mode):
            return ""
        return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


@dataclass(frozen=True)
class Usage:
    """Who uses block devices on this host: read once, asked for each disk."""

    mounts: tuple[Mount, ...] = ()
    swaps: tuple[str, ...] = ()
    trouble: str = ""
    """Why the above is incomplete."""


class _Block(NamedTuple):
    """One device's folder in sysfs."""

    folder: Path
    devno: str

    @property
    def name(self) -> str:
        return self.folder.name

    def read(self, attribute: str, default: str = "") -> str:
        try:
            return (self.folder / attribute).read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return default

    def names_in(self, folder: str) -> tuple[str, ...]:
        try:
            return tuple(sorted(os.listdir(self.folder / folder)))
        except FileNotFoundError:
            return ()

    @property
    def queue(self) -> Path:
        # A partition has no queue of its own: that of the disk above counts.
        return (self.folder.parent if (self.folder / "partition").exists() else self.folder) / "queue"

    def partitions(self) -> tuple[_Block, ...]:
        folders = sorted(entry.parent for entry in self.folder.glob("*/partition"))
        return tuple(_Block(folder, (folder / "dev").read_text().strip()) for folder in folders)


_HOST = Roots()


def resolve_device(configured_path: str, roots: Roots = _HOST) -> ConfiguredDevice:
    """Return the device node that `configured_path` leads to through all links, or why it leads to none."""
    try:
        real = os.path.realpath(configured_path, strict=True)
        devno = roots.devno(real)
    except (FileNotFoundError, NotADirectoryError):
        return ConfiguredDevice(configured_path, problem="missing")
    except (OSError, ValueError) as error:
        problem = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        return ConfiguredDevice(configured_path, problem=problem)
    if not devno:
        return ConfiguredDevice(configured_path, problem="not a block device")
    return ConfiguredDevice(configured_path, disk=_node(real, devno, roots))


def read_usage(roots: Roots = _HOST) -> Usage:
    """Return all mounts of all mount namespaces that a process lives in, and all swap areas."""
    trouble = []
    mounts: tuple[Mount, ...] = ()
    swaps: tuple[str, ...] = ()
    try:
        mounts = _read_mounts(roots)
    except OSError as error:
        trouble.append(f"mounts: {_reason(error)}")
    try:
        swaps = _read_swaps(roots)
    except FileNotFoundError:
        # A kernel without swap has no such file.
        pass
    except OSError as error:
        trouble.append(f"swap: {_reason(error)}")
    return Usage(mounts, swaps, "; ".join(trouble))


def list_whole_disks(roots: Roots = _HOST) -> tuple[str, ...]:
    """Return the device nodes of all disks of this host that can carry a pool as a whole, sorted by name.

    Not among them are partitions, drives without a medium, loop devices without a file, memory disks, and
    device-mapper devices other than multipath's.
    """
    folders = (folder.resolve() for folder in sorted((roots.sys / "block").glob("*")))
    blocks = (_Block(folder, _read(folder / "dev", "")) for folder in folders)
    whole = (block for block in blocks if block.devno and _kind(block) in WHOLE_KINDS)
    shown = (block for block in whole if block.read("size", "0") != "0" and block.read("hidden", "0") == "0")
    return tuple(_node(str(roots.dev / block.name), block.devno, roots) for block in shown)


def observe_disk(
    path: str, properties: UdevProperties, usage: Usage | None = None, roots: Roots = _HOST, *, opening: bool = True
) -> Disk:
    """Return all there is to know about the block device at `path`; never raises for what a device does.

    With `usage` of `read_usage` many disks cost one look at /proc. Without `opening` the device is not opened, so it
    stays unknown what is on it: an exclusive open, however short, could make somebody's mount fail.
    """
    devno = ""
    try:
        devno = roots.devno(path)
        if not devno:
            return _unknown(path, devno, "not a block device")
        block = _Block((roots.sys / "dev/block" / devno).resolve(strict=True), devno)
        return _observe(path, block, properties, usage or read_usage(roots), roots, opening=opening)
    except (OSError, ValueError) as error:
        # Half of an observation would look like a disk that nobody uses.
        return _unknown(path, devno, _reason(error))


def _unknown(path: str, devno: str, reason: str) -> Disk:
    return Disk(path, devno, size_bytes=0, opened_exclusively=None, signatures=None, probe_error=reason)


def _observe(  # noqa: PLR0913 - the sources of one observation
    path: str, block: _Block, properties: UdevProperties, usage: Usage, roots: Roots, *, opening: bool
) -> Disk:
    partitions = block.partitions()
    family = (block, *partitions)
    nodes = tuple(_node(str(roots.dev / part.name), part.devno, roots) for part in partitions)
    exclusive, signatures, problems = _probe(path, block) if opening else (None, None, (_NOT_OPENED,))
    return Disk(
        path=path,
        devno=block.devno,
        # In sectors of 512 bytes whatever the device's own are.
        size_bytes=int(block.read("size")) * SECTOR_BYTES,
        diskseq=read_diskseq(block.devno, roots),
        kind=_kind(block),
        sector_bytes=int(_read(block.queue / "logical_block_size", "512")),
        optimal_io_bytes=int(_read(block.queue / "optimal_io_size", "0")),
        read_only=block.read("ro") != "0",
        serial=properties.serial,
        wwn=properties.wwn,
        model=properties.model,
        transport=properties.transport,
        rotational=properties.rotational,
        id_path=properties.id_path,
        links=properties.links,
        partitions=nodes,
        holders=tuple(
            sorted({*_loops_over(family, roots), *(h for member in family for h in member.names_in("holders"))})
        ),
        mounts=_mounts_of(family, usage, roots),
        swap=any(_is_one_of(area, family, roots) for area in usage.swaps),
        # Unknown mounts or swap leave it open whether the disk is in use, whatever the exclusive open says.
        opened_exclusively=None if usage.trouble and not exclusive else exclusive,
        signatures=signatures,
        labelled_partitions=_labelled(nodes) if opening else None,
        probe_error="; ".join(filter(None, (usage.trouble, *problems))),
    )


def mapped_on(disk: Disk, roots: Roots = _HOST) -> tuple[DmDevice, ...]:
    """Return the device-mapper device that `disk` is, and those that stand on it, as far as sysfs tells.

    None is asked for its status: that of a pool on another disk, which hangs, would have to be waited for.
    """
    found = []
    itself = (roots.sys / "dev/block" / disk.devno).resolve().name
    for kernel_name, below in ((itself, ()), *((holder, (disk.devno,)) for holder in disk.holders)):
        folder = roots.sys / "block" / kernel_name
        # One that goes just now; as a holder of the disk it was seen.
        with suppress(OSError):
            if uuid := _read(folder / "dm/uuid", ""):
                name, devno = _read(folder / "dm/name", ""), _read(folder / "dev", "")
                found.append(DmDevice(name, uuid, devno, open_count=0, depends_on=below, is_examined=False))
    return tuple(found)


def _labelled(partitions: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the partitions with LVM's label, also those that a filter hides from LVM; None when one is unreadable."""
    try:
        return tuple(path for path in partitions if any(s.type == PV_SIGNATURE for s in probe_signatures(path)))
    except ProbeError:
        return None


def _loops_over(family: tuple[_Block, ...], roots: Roots) -> set[str]:
    """A loop device does not claim the device that it stands on: neither holders nor an exclusive open show it."""
    found = set()
    folder = roots.sys / "block"
    # Not by a pattern: there may be thousands of other devices.
    for name in (name for name in os.listdir(folder) if name.startswith("loop")):
        with suppress(OSError):
            backing = roots.devno(_read(folder / name / "loop/backing_file", ""))
            if backing and any(backing == member.devno for member in family):
                found.add(name)
    return found


def read_diskseq(devno: str, roots: Roots = _HOST) -> int | None:
    """Return the kernel's count for the disk with this `MAJOR:MINOR`; a partition has its disk's, None is unknown."""
    folder = roots.sys / "dev/block" / devno
    for place in (folder, folder / ".."):
        text = _read(place / "diskseq", "")
        if text.isdigit():
            return int(text)
    return None


def _kind(block: _Block) -> str:
    uuid = block.read("dm/uuid")
    if (block.folder / "partition").exists() or _MULTIPATH_PARTITION_UUID.match(uuid):
        return "partition"
    if (block.folder / "dm").exists():
        return "multipath" if _MULTIPATH_UUID.match(uuid) else "dm"
    if (block.folder / "loop").exists() or block.name.startswith("loop"):
        return "loop"
    named = _KERNEL_TYPE.match(block.name)
    return named[1] if named else "disk"


def _probe(path: str, block: _Block) -> tuple[bool | None, tuple[Signature, ...] | None, tuple[str, ...]]:
    if block.read("dm/suspended") == "1":
        # A read would wait for the resume, for ever perhaps.
        return None, None, ("the device is suspended",)
    problems = []
    exclusive: bool | None
    signatures: tuple[Signature, ...] | None
    try:
        exclusive = _is_opened_exclusively(path)
    except OSError as error:
        exclusive = None
        problems.append(f"exclusive open: {_reason(error)}")
    try:
        signatures = probe_signatures(path)
    except ProbeError as error:
        signatures = None
        problems.append(f"signatures: {_reason(error)}")
    return exclusive, signatures, tuple(problems)


def _is_opened_exclusively(path: str) -> bool:
    try:
        # On a block device O_EXCL without O_CREAT means: fail when it, its disk or a partition is claimed.
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
    return False


def _mounts_of(family: tuple[_Block, ...], usage: Usage, roots: Roots) -> tuple[str, ...]:
    devnos = {member.devno for member in family} | set(_btrfs_siblings(family, roots))
    kin = tuple(_Block(roots.sys / "dev/block" / devno, devno) for devno in sorted(devnos))
    found = {
        mount.point
        for mount in usage.mounts
        if mount.devno in devnos or (mount.is_anonymous and _is_one_of(mount.source, kin, roots))
    }
    return tuple(sorted(found))


def _btrfs_siblings(family: tuple[_Block, ...], roots: Roots) -> Iterator[str]:
    """Give the numbers of all devices of the mounted btrfs file systems that a member of `family` belongs to.

    mountinfo shows such a file system under a number that belongs to no device, and names one device as its source.
    """
    names = {member.name for member in family}
    for folder in (roots.sys / "fs/btrfs").glob("*/devices"):
        members = tuple(folder.iterdir())
        if names & {member.name for member in members}:
            yield from (_read(member / "dev", "") for member in members)


def _is_one_of(path: str, blocks: tuple[_Block, ...], roots: Roots) -> bool:
    if not path.startswith("/dev/"):
        return False
    try:
        devno = roots.devno(roots.dev / path.removeprefix("/dev/"))
    except (OSError, ValueError):
        # Of another mount namespace's /dev, or its node is gone: only the name is left to compare.
        return Path(path).name in {block.name for block in blocks}
    return devno in {block.devno for block in blocks}


def _read_mounts(roots: Roots) -> tuple[Mount, ...]:
    found = dict.fromkeys(parse_mountinfo((roots.proc / "1/mountinfo").read_bytes()))
    seen = {_namespace(roots.proc / "1")}
    for process in (roots.proc / str(pid) for pid in list_processes(roots.proc)):
        namespace = _namespace(process)
        if namespace and namespace in seen:
            continue
        try:
            content = (process / "mountinfo").read_bytes()
        except OSError as error:
            if error.errno in _GONE:
                continue
            raise
        seen.add(namespace)
        found.update(dict.fromkeys(parse_mountinfo(content)))
    return tuple(found)


def _namespace(process: Path) -> str:
    try:
        return os.readlink(process / "ns/mnt")
    except OSError:
        return ""


def _read_swaps(roots: Roots) -> tuple[str, ...]:
    lines = (roots.proc / "swaps").read_bytes().splitlines()[1:]
    return tuple(unescape(os.fsdecode(line).split()[0]).removesuffix(" (deleted)") for line in lines)


def _node(real: str, devno: str, roots: Roots) -> str:
    try:
        name = (roots.sys / "dev/block" / devno).resolve(strict=True).name
        node = roots.dev / name.replace("!", "/")
        return str(node) if roots.devno(node) == devno else real
    except OSError:
        return real


def _read(path: Path, default: str) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return default


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
