"""The throw-away kernel: runs one command as root under a Linux that has device-mapper, and brings back what it did.

The kernel is User-mode Linux, an ordinary process of an ordinary user. Its root file system is a tree of the host (the
host's own by default) under an overlay in its memory, so nothing is built and nothing is left. The job's files travel
through a folder that both sides see; the exit code is the last thing written there. A guest without an exit code has
crashed or was killed, and is an error whatever it printed before.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar, Final

from thinpoolmgr.errors import InterruptedRunError, ThinpoolmgrError, UnavailableError, UsageError
from thinpoolmgr.lab.guestfiles import (
    DEFAULT_MEMORY_MB,
    KERNEL,
    KERNEL_MODULES,
    GuestDisk,
    GuestJob,
    kernel_command,
    script_command,
    write_files,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

__all__ = [
    "DEFAULT_MEMORY_MB",
    "GuestCrashedError",
    "GuestDisk",
    "GuestJob",
    "GuestResult",
    "GuestTimedOutError",
    "read_result",
    "run_guest",
    "script_command",
    "sweep_guests",
]

_FOLDER_PREFIX: Final = "thinpoolmgr-lab-"
_POLL_SECONDS: Final = 0.05
_CHUNK_BYTES: Final = 1 << 16
_TAIL_LINES: Final = 15
_MEBIBYTE: Final = 1 << 20
# linux.uml keeps page tables and its own heap in the same file as the guest's memory
_MEMORY_MARGIN_MB: Final = 64
_INSTALL: Final = (
    "apt-get install --no-install-recommends user-mode-linux busybox-static "
    "lvm2 thin-provisioning-tools udev kmod dmsetup"
)
_TREE_TOOLS: Final = ("lvm", "dmsetup", "udevadm", "modprobe")


class GuestCrashedError(ThinpoolmgrError):
    """The guest ended without an exit code."""

    exit_code: ClassVar[int] = 125
    default_code: ClassVar[str] = "LAB_CRASHED"


class GuestTimedOutError(GuestCrashedError):
    """The guest was killed because its time was up."""

    default_code: ClassVar[str] = "LAB_TIMED_OUT"


@dataclass(frozen=True, slots=True)
class GuestResult:
    """How a job ended: its exit code, and seconds to the start of the command and in all."""

    exit_code: int
    boot_seconds: float
    total_seconds: float


def run_guest(job: GuestJob, *, out: IO[bytes] | None = None, err: IO[bytes] | None = None) -> GuestResult:
    """Run a job in a throw-away kernel and copy its output as it comes.

    Args:
        job: what to run.
        out: takes the job's standard output; this process's own by default.
        err: takes the job's standard error; this process's own by default.

    Raises:
        GuestCrashedError: the guest brought no exit code back.
        GuestTimedOutError: the time was up.
        InterruptedRunError: a signal came; the guest is gone.
        UnavailableError: a package is missing on the host.
        UsageError: an interactive job without a terminal.

    """
    if job.interactive and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("A lab shell needs a terminal.", resolution="Use `thinpoolmgr lab run SCRIPT` in scripts.")
    busybox = _check_host(job)
    sweep_guests()
    with _job_folder() as folder:
        write_files(job, folder, busybox)
        streams = (out or sys.stdout.buffer, err or sys.stderr.buffer)
        started = time.monotonic()
        with _signals_as_errors(), (folder / "console").open("wb") as console, _terminal(job) as terminal:
            process = subprocess.Popen(
                kernel_command(job, folder, terminal=terminal),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={"PATH": os.environ.get("PATH", os.defpath), "TMPDIR": str(_memory_folder(job.memory_mb, folder))},
                cwd="/",
                pass_fds=terminal or (),
                start_new_session=True,
            )
            try:
                _follow(process, folder, streams, job.timeout_seconds)
            finally:
                _kill(process, folder)
        return read_result(folder, time.monotonic() - started)


def sweep_guests(base: Path | None = None) -> tuple[Path, ...]:
    """Remove what killed labs left: their guests and job folders. Return the folders removed.

    Only folders that carry our name, belong to this user and whose maker is dead are touched.
    """
    swept = []
    for folder in sorted((base or _folder_base()).glob(f"{_FOLDER_PREFIX}*-*")):
        owner = folder.name.removeprefix(_FOLDER_PREFIX).partition("-")[0]
        if not owner.isdecimal() or Path("/proc", owner).exists() or not folder.is_dir():
            continue
        if folder.lstat().st_uid != os.geteuid():
            continue
        _kill_processes(folder)
        shutil.rmtree(folder, ignore_errors=True)
        swept.append(folder)
    return tuple(swept)


def _kill_processes(folder: Path) -> None:
    """Kill the processes of the guest that was booted from a job folder: no other has its path as an argument."""
    marker = f"rootflags={folder}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if marker in (entry / "cmdline").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)


def _check_host(job: GuestJob) -> Path:
    """Return the static busybox.

    Raises:
        UnavailableError: a package is missing on the host.

    """
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    needed = (KERNEL, "busybox", *(_TREE_TOOLS if job.tree is None else ()))
    found = {name: shutil.which(name, path=path) for name in needed}
    missing = [name for name, where in found.items() if where is None]
    if not KERNEL_MODULES.is_dir():
        missing.append(str(KERNEL_MODULES))
    busybox = found["busybox"]
    if missing or busybox is None:
        raise UnavailableError(
            "The host has no throw-away kernel, or lacks a tool that runs in it.",
            details=f"missing: {', '.join(missing)}",
            resolution=_INSTALL,
        )
    return Path(busybox)


def _folder_base() -> Path:
    """Return where job folders go: the kernel command line splits at blanks, so the path may not have one."""
    base = Path(tempfile.gettempdir())
    return base if " " not in str(base) else Path("/var/tmp")  # noqa: S108


@contextlib.contextmanager
def _job_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{os.getpid()}-", dir=_folder_base()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _memory_folder(memory_mb: int, fallback: Path) -> Path:
    """Return where the guest's memory file goes: a guest whose file system fills up dies midway."""
    shared = Path("/dev/shm")  # noqa: S108
    with contextlib.suppress(OSError):
        status = os.statvfs(shared)
        room_mb = status.f_bavail * status.f_frsize // _MEBIBYTE
        usable = os.access(shared, os.W_OK) and not status.f_flag & os.ST_NOEXEC
        if usable and room_mb >= memory_mb + _MEMORY_MARGIN_MB:
            return shared
    return fallback


@contextlib.contextmanager
def _terminal(job: GuestJob) -> Iterator[tuple[int, int] | None]:
    """Give the caller's terminal to the guest, and put its settings back whatever the guest's end was."""
    if not job.interactive:
        yield None
        return
    sys.stdout.flush()
    source = sys.stdin.fileno()
    settings = termios.tcgetattr(source)
    # The guest's console closes what it is given, and wants numbers that are neither its console nor its log.
    terminal = (os.dup(source), os.dup(sys.stdout.fileno()))
    try:
        yield terminal
    finally:
        for number in terminal:
            os.close(number)
        termios.tcsetattr(source, termios.TCSADRAIN, settings)


@contextlib.contextmanager
def _signals_as_errors() -> Iterator[None]:
    """Turn the signals that would end this process at once into an error, so that the guest is killed first."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise InterruptedRunError(number, "A signal stopped the lab.", details=signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _follow(
    process: subprocess.Popen[bytes],
    folder: Path,
    streams: Sequence[IO[bytes]],
    timeout_seconds: float | None,
) -> None:
    """Copy the job's output until the guest has ended.

    Raises:
        GuestTimedOutError: the time was up.

    """
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    with (folder / "stdout").open("rb") as stdout, (folder / "stderr").open("rb") as stderr:
        pairs = tuple(zip((stdout, stderr), streams, strict=True))
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
            for source, target in pairs:
                _pump(source, target)
            if process.returncode is not None:
                return
            if deadline is not None and time.monotonic() > deadline:
                raise GuestTimedOutError(
                    f"The lab's time was up after {timeout_seconds:g} seconds.",
                    details=_console_tail(folder),
                    resolution="Give it more with --timeout.",
                )


def _pump(source: IO[bytes], target: IO[bytes]) -> None:
    copied = False
    while chunk := source.read(_CHUNK_BYTES):
        target.write(chunk)
        copied = True
    if copied:
        target.flush()


def _kill(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Kill what is left of the guest: when the main process dies alone, its helpers live on and hold the disks."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    elif not (folder / "rc").exists():
        _kill_processes(folder)


def read_result(folder: Path, total_seconds: float) -> GuestResult:
    """Read how the job of a folder ended.

    Args:
        folder: the job's folder on the host.
        total_seconds: how long it took.

    Raises:
        GuestCrashedError: there is no exit code.

    """
    code = _read(folder / "rc").strip()
    if not code.isdecimal():
        raise GuestCrashedError(
            "The throw-away kernel ended without an exit code: it crashed or was killed.",
            details=_console_tail(folder),
            resolution="Look at the console's last lines; give it more memory with --memory if it ran out.",
        )
    return GuestResult(int(code), float(_read(folder / "booted") or 0), total_seconds)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _console_tail(folder: Path) -> str:
    return "\n".join(_read(folder / "console").splitlines()[-_TAIL_LINES:])
