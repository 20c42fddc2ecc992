"""Loop disks: sparse files as block devices of a chosen size and sector size, attached by ioctl, always cleaned up.

A disk's file is named `thinpoolmgr-lab-PID-....img` after the process that made it. So a later `sweep` can tell what a
killed process left from what a living one uses, and never touches a loop device that is not ours.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from thinpoolmgr.errors import CommandFailedError, UnavailableError, UsageError

if TYPE_CHECKING:
    from types import TracebackType

IMAGE_PREFIX: Final = "thinpoolmgr-lab-"
IMAGE_SUFFIX: Final = ".img"
SECTOR_SIZES: Final = (512, 1024, 2048, 4096)

# linux/loop.h
_LOOP_SET_FD: Final = 0x4C00
_LOOP_CLR_FD: Final = 0x4C01
_LOOP_SET_BLOCK_SIZE: Final = 0x4C09
_LOOP_CONFIGURE: Final = 0x4C0A
_LOOP_CTL_GET_FREE: Final = 0x4C82
_LOOP_MAJOR: Final = 7
# struct loop_config: fd, block_size, struct loop_info64 (232 bytes, all zero here), 64 reserved bytes
_LOOP_CONFIG: Final = struct.Struct("=II 232x 64x")

_CONTROL: Final = Path("/dev/loop-control")
_SYS_BLOCK: Final = Path("/sys/block")
_DELETED: Final = " (deleted)"
# Every try asks for a free number anew; another process can only win so many races.
_ATTEMPTS: Final = 64


@dataclass(frozen=True, slots=True)
class SweptDisk:
    """What `sweep` found of a dead process: the loop device ("" for a lone file), and whether it still has holders."""

    device: str
    image: Path
    is_held: bool


class LoopDisk:
    """A sparse file as a block device, attached on entry, detached and deleted on exit.

    Args:
        size_bytes: the size of the disk, a multiple of the sector size.
        sector_size: the logical sector size in bytes.
        directory: where the file goes; the default is the temporary folder.

    Raises:
        UsageError: the size or the sector size is impossible.

    """

    def __init__(self, size_bytes: int, *, sector_size: int = 512, directory: Path | None = None) -> None:
        if sector_size not in SECTOR_SIZES:
            raise UsageError(f"A loop disk cannot have sectors of {sector_size} bytes.")
        if size_bytes <= 0 or size_bytes % sector_size:
            raise UsageError(f"A loop disk of {size_bytes} bytes is not a whole number of sectors.")
        self.size_bytes = size_bytes
        self.sector_size = sector_size
        self._directory = directory
        self._image: Path | None = None
        self._path: Path | None = None

    @property
    def image(self) -> Path:
        """The file behind the disk."""
        if self._image is None:
            raise UsageError("The loop disk has not been made yet.")
        return self._image

    @property
    def path(self) -> Path:
        """The block device, such as /dev/loop0."""
        if self._path is None:
            raise UsageError("The loop disk is not attached.")
        return self._path

    def attach(self) -> Path:
        """Attach the file, made at the first call, to a free loop device and return the device.

        Raises:
            UnavailableError: the kernel has no loop devices, or this user may not use them.

        """
        if self._path is not None:
            return self._path
        if self._image is None:
            self._image = _make_image(self.size_bytes, self._directory)
        self._path = _attach(self._image, self.sector_size)
        return self._path

    def detach(self) -> None:
        """Detach the device; the file stays, and `attach` brings its content back.

        While something holds the device open, the kernel puts this off until the last holder is gone
        (LO_FLAGS_AUTOCLEAR).
        """
        if self._path is None:
            return
        path, self._path = self._path, None
        _detach(path)

    def close(self) -> None:
        """Detach the device and delete the file."""
        try:
            self.detach()
        finally:
            if self._image is not None:
                self._image.unlink(missing_ok=True)
                self._image = None

    def __enter__(self) -> Self:
        """Make and attach the disk."""
        try:
            self.attach()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Detach and delete, whatever happened."""
        self.close()


class LoopDisks:
    """Several loop disks that are cleaned up together, the last made first."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self._disks: list[LoopDisk] = []

    def add(self, size_bytes: int, *, sector_size: int = 512) -> LoopDisk:
        """Make and attach another disk."""
        disk = self._stack.enter_context(LoopDisk(size_bytes, sector_size=sector_size, directory=self._directory))
        self._disks.append(disk)
        return disk

    @property
    def disks(self) -> tuple[LoopDisk, ...]:
        """The disks made so far."""
        return tuple(self._disks)

    def close(self) -> None:
        """Detach and delete all of them, each even if another fails."""
        self._disks.clear()
        self._stack.close()

    def __enter__(self) -> Self:
        """Start with no disks."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Detach and delete, whatever happened."""
        self.close()


def sweep(
    directory: Path | None = None, *, sys_block: Path = _SYS_BLOCK, proc: Path = Path("/proc")
) -> tuple[SweptDisk, ...]:
    """Detach and delete the loop disks of processes that are dead.

    A device that something still holds, such as an active volume group, is left as it is and reported: letting go of
    it is not this module's to decide.

    Args:
        directory: where lone files (made, never attached) are looked for; the default is the temporary folder.
        sys_block: the kernel's list of block devices.
        proc: the kernel's list of processes.

    """
    swept = []
    for entry in sorted(sys_block.glob("loop*/loop/backing_file")):
        image = Path(entry.read_text(encoding="utf-8").rstrip("\n").removesuffix(_DELETED))
        block = entry.parent.parent
        if not is_orphan(image, proc):
            continue
        is_held = any((block / "holders").glob("*"))
        if not is_held:
            _detach(Path("/dev", block.name))
            image.unlink(missing_ok=True)
        swept.append(SweptDisk(f"/dev/{block.name}", image, is_held))
    held = {disk.image for disk in swept}
    for image in sorted((directory or Path(tempfile.gettempdir())).glob(f"{IMAGE_PREFIX}*{IMAGE_SUFFIX}")):
        if image not in held and is_orphan(image, proc):
            image.unlink(missing_ok=True)
            swept.append(SweptDisk("", image, is_held=False))
    return tuple(swept)


def is_orphan(image: Path, proc: Path = Path("/proc")) -> bool:
    """Return whether a file is the image of a loop disk of ours whose process is dead."""
    name = image.name
    if not (name.startswith(IMAGE_PREFIX) and name.endswith(IMAGE_SUFFIX)):
        return False
    owner = name.removeprefix(IMAGE_PREFIX).partition("-")[0]
    return owner.isdecimal() and not (proc / owner).exists()


def _make_image(size_bytes: int, directory: Path | None) -> Path:
    number, name = tempfile.mkstemp(prefix=f"{IMAGE_PREFIX}{os.getpid()}-", suffix=IMAGE_SUFFIX, dir=directory)
    try:
        os.truncate(number, size_bytes)
    finally:
        os.close(number)
    return Path(name).absolute()


def _attach(image: Path, sector_size: int) -> Path:
    try:
        with image.open("r+b", buffering=0) as file, _CONTROL.open("r+b", buffering=0) as control:
            for _ in range(_ATTEMPTS):
                device = _node(fcntl.ioctl(control, _LOOP_CTL_GET_FREE))
                if _configure(device, file.fileno(), sector_size):
                    return device
    except OSError as error:
        raise UnavailableError(
            "No loop disk can be made here.",
            details=str(error),
            resolution="Run it as root in the lab: thinpoolmgr lab run SCRIPT",
        ) from error
    raise CommandFailedError("No loop disk could be attached: others took every free number.")


def _node(number: int) -> Path:
    """Return the device node of a loop device, made here where neither devtmpfs nor udev has (as in a container)."""
    path = Path(f"/dev/loop{number}")
    with contextlib.suppress(FileExistsError):
        os.mknod(path, stat.S_IFBLK | 0o660, os.makedev(_LOOP_MAJOR, number))
    return path


def _configure(device: Path, backing: int, sector_size: int) -> bool:
    """Bind a file to a loop device; return False if another process was faster."""
    with device.open("r+b", buffering=0) as file:
        try:
            fcntl.ioctl(file, _LOOP_CONFIGURE, _LOOP_CONFIG.pack(backing, sector_size))
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            # LOOP_CONFIGURE is of Linux 5.8; before, an unknown request is EINVAL
            if error.errno not in {errno.EINVAL, errno.ENOTTY}:
                raise
            return _configure_old(file.fileno(), backing, sector_size)
    return True


def _configure_old(loop: int, backing: int, sector_size: int) -> bool:
    try:
        fcntl.ioctl(loop, _LOOP_SET_FD, backing)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    fcntl.ioctl(loop, _LOOP_SET_BLOCK_SIZE, sector_size)
    return True


def _detach(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
        try:
            fcntl.ioctl(file, _LOOP_CLR_FD)
        except OSError as error:
            # ENXIO: it is detached already
            if error.errno != errno.ENXIO:
                raise
