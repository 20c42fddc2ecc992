"""Runs host commands: the one file that starts processes, and knows `sh`. Argument vectors only, never a shell.

Every command gets an environment made from nothing (locale C, a fixed search path), no standard input, and a session
of its own, so that a Ctrl-C at the terminal never reaches LVM in the middle of a metadata write.

Commands that take minutes, such as the stop of a service, go through `sh`. All others are spawned with vfork(2), which
copies nothing of this process: each look at the host runs one, and a fork of an interpreter is ten times as dear
(docs/performance.md).
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from msgspec import Struct

from thinpoolmgr.errors import CommandFailedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinpoolmgr.core.commands import Argv
    from thinpoolmgr.host.standby import Standby

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
READ_SECONDS = 120.0
CHANGE_SECONDS = 3600.0
"""thin_check alone takes minutes on large metadata (28 s to 6 min at 16 GiB)."""
_KEPT_COMMANDS = 16
# minus the number of the signal that ended it, or an exit code
_ANY_CODE = tuple(range(-64, 256))
ENVIRONMENT = {"LC_ALL": "C", "PATH": SEARCH_PATH, "HOME": "/", "LVM_SUPPRESS_FD_WARNINGS": "1"}
_PACKAGES = {
    "lvm": "lvm2",
    "vgcreate": "lvm2",
    "lvcreate": "lvm2",
    "dmsetup": "dmsetup",
    "wipefs": "util-linux",
    "systemctl": "systemd",
    "thin_ls": "thin-provisioning-tools",
}


class CompletedRun(Struct, frozen=True):
    """A command that ended: its exit code and its output, undecodable bytes kept as surrogates."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float


class CommandRunner:
    """Runs commands and keeps the last 16 for the report of a failure."""

    def __init__(self, standby: Standby | None = None, held: int | None = None) -> None:
        """Start with no commands run; `standby` is LVM that has been started already.

        `held` is the descriptor of a locked, empty file, which commands get for their standard input: it stays locked
        for as long as one of them is there, also when we are not. LVM closes all others that it inherits.
        """
        self._recent: deque[str] = deque(maxlen=_KEPT_COMMANDS)
        self._standby = standby
        self._held = held
        self._reading: _Process | None = None
        self._ends_reading = False

    @property
    def recent(self) -> tuple[str, ...]:
        """The last commands with their exit codes, oldest first, as lines of text."""
        return tuple(self._recent)

    def _remember(self, argv: Argv, how: str, started: float) -> None:
        # Undecodable bytes must not keep the record of a failure from being written: JSON has none.
        self._recent.append(f"{printable(' '.join(argv))} -> {how} ({time.monotonic() - started:.2f} s)")

    def run(self, argv: Argv, *, seconds: float = READ_SECONDS) -> CompletedRun:
        """Run `argv` and return what came of it, whatever the exit code.

        Raises:
            UnavailableError: the program is not installed.
            CommandFailedError: it did not end within `seconds` and was sent SIGTERM; or a signal ended it.

        """
        return self._run(argv, seconds, _spawn)

    def read(self, argv: Argv) -> CompletedRun:
        """Run a command that only reads, and may take minutes, as `run` does; `end_reading` ends it early.

        Raises:
            CommandFailedError: a signal ended it.
            UnavailableError: the program is not installed.

        """
        return self._run(argv, CHANGE_SECONDS, self._spawn_reading)

    def _spawn_reading(self, argv: tuple[str, ...], nothing: BinaryIO, out: BinaryIO, err: BinaryIO) -> _Process:
        self._reading = process = _spawn(argv, nothing, out, err)
        if self._ends_reading:
            # The signal came before there was anything to end.
            self.end_reading()
        return process

    def end_reading(self) -> None:
        """Send SIGTERM to the command of `read`, under way or next; for handlers of signals."""
        self._ends_reading = True
        if self._reading is not None:
            with suppress(ProcessLookupError):
                self._reading.send_signal(signal.SIGTERM)

    def change(self, argv: Argv, *, is_long: bool = False, seconds: float = CHANGE_SECONDS) -> CompletedRun:
        """Run a command that changes something; `is_long` where it may well take minutes.

        Raises:
            CommandFailedError: it returned something else than 0, and the details hold its own words; or it did not
                end within `seconds`.
            UnavailableError: the program is not installed.

        """
        run = self._run(argv, seconds, _start_with_sh if is_long else _spawn)
        if run.code != 0:
            raise failed(run)
        return run

    def run_at_once(self, argv: Argv) -> CompletedRun:
        """Run one of LVM's commands as `run` does, by what stands by for it where something does."""
        return self._run_by_standby(argv) or self.run(argv)

    def change_at_once(self, argv: Argv) -> CompletedRun:
        """Run one of LVM's commands as `change` does, by what stands by for it where something does."""
        run = self._run_by_standby(argv)
        if run is None:
            return self.change(argv)
        if run.code != 0:
            raise failed(run)
        return run

    def _run_by_standby(self, argv: Argv) -> CompletedRun | None:
        started = time.monotonic()
        run = self._standby.run(argv) if self._standby else None
        if run is not None:
            self._remember(argv, str(run.code), started)
        return run

    def _run(self, argv: Argv, seconds: float, start: _Start) -> CompletedRun:
        program = require_program(argv[0])
        started = time.monotonic()
        # Files, not pipes: a child that keeps a pipe open (dmeventd does) would be waited for.
        with self._no_input() as nothing, memory_file() as out, memory_file() as err:
            process = start((program, *argv[1:]), nothing, out, err)
            with called_when_late(seconds, lambda: _terminate(process)) as is_late:
                code = process.wait()
            taken = time.monotonic() - started
            run = CompletedRun(tuple(argv), code, content_of(out), content_of(err), taken)
        if is_late.is_set():
            self._remember(argv, "still running, was sent SIGTERM", started)
            raise CommandFailedError(
                f"{argv[0]} did not end within {seconds:.0f} seconds",
                f"Command: {' '.join(argv)}",
                "See what it waits for (dmesg, dmsetup udevcookies), then run this again.",
            )
        if code < 0:
            name = signal.Signals(-code).name
            self._remember(argv, f"ended by {name}", started)
            raise CommandFailedError(f"{argv[0]} was ended by a signal", f"Command: {' '.join(argv)}: {name}")
        self._remember(argv, str(code), started)
        return run

    def _no_input(self) -> BinaryIO:
        if self._held is None:
            return open(os.devnull, "rb")
        return open(self._held, "rb", closefd=False)


class _Process(Protocol):
    """A command that was started."""

    def wait(self) -> int:
        """Return its exit code; minus the number of the signal that ended it."""
        ...

    def send_signal(self, number: int, /) -> None:
        """Send it a signal."""
        ...


_Start = Callable[[tuple[str, ...], BinaryIO, BinaryIO, BinaryIO], _Process]


def _spawn(argv: tuple[str, ...], nothing: BinaryIO, out: BinaryIO, err: BinaryIO) -> _Process:
    try:
        return subprocess.Popen(
            argv, stdin=nothing, stdout=out, stderr=err, env=ENVIRONMENT, cwd="/", start_new_session=True
        )
    except OSError as error:
        # Such as a script without its first line, or a program for another processor (execve(2)).
        raise _not_started(argv[0], error.strerror or str(error)) from error


class _ShProcess:
    """A process of `sh`."""

    def __init__(self, process: Any) -> None:
        self._process = process

    def wait(self) -> int:
        return int(self._process.exit_code)

    def send_signal(self, number: int, /) -> None:
        self._process.signal(number)


def _start_with_sh(argv: tuple[str, ...], nothing: BinaryIO, out: BinaryIO, err: BinaryIO) -> _Process:
    # Imported late: 0.3 s on a slow machine, and few runs need it.
    import sh  # noqa: PLC0415

    command = sh.Command(argv[0])
    try:
        return _ShProcess(_start_in_background(command, argv, nothing, out, err))
    except sh.ForkException as error:
        # The traceback of the child, as text.
        raise _not_started(argv[0], str(error).strip().rpartition("\n")[2]) from error


def _start_in_background(command: Any, argv: tuple[str, ...], nothing: BinaryIO, out: BinaryIO, err: BinaryIO) -> Any:
    return command(
        # Each byte one character: arguments reach the program exactly as the kernel gave them to us.
        *(os.fsencode(word).decode("latin-1") for word in argv[1:]),
        _env=ENVIRONMENT,
        _in=nothing,
        _out=out,
        _err=err,
        _cwd="/",
        _ok_code=_ANY_CODE,
        _encoding="latin-1",
        _close_fds=True,
        _new_session=True,
        # Time is kept here: with `_timeout` sh looks ten times a second whether the command has ended.
        _bg=True,
        _bg_exc=False,
    )


def _terminate(process: _Process) -> None:
    with suppress(ProcessLookupError):
        # SIGKILL in the middle of a metadata write is what this tool exists to avoid.
        process.send_signal(signal.SIGTERM)


@contextmanager
def called_when_late(seconds: float, call: Callable[[], None]) -> Iterator[threading.Event]:
    """Do `call` where what is done while this is open takes longer than `seconds`; the event then says so.

    It is called in a thread of its own.
    """
    is_late = threading.Event()

    def late() -> None:
        is_late.set()
        call()

    timer = threading.Timer(seconds, late)
    timer.daemon = True
    timer.start()
    try:
        yield is_late
    finally:
        timer.cancel()


def memory_file() -> BinaryIO:
    """Return a new file in memory, for what a command says."""
    return open(os.memfd_create("output"), "w+b")


def content_of(file: BinaryIO) -> str:
    """Return what a command wrote to `file`; undecodable bytes are kept as surrogates."""
    # By its descriptor: the command shares its position, and a file object keeps what it has read.
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode("utf-8", "surrogateescape")


def find_program(name: str) -> str:
    """Return the path of `name`, looked for in the fixed search path unless absolute; empty when it is missing."""
    candidates = [name] if name.startswith("/") else [f"{folder}/{name}" for folder in SEARCH_PATH.split(":")]
    return next((path for path in candidates if os.path.isfile(path) and os.access(path, os.X_OK)), "")


def require_program(name: str) -> str:
    """Return the path of `name`; see `find_program`.

    Raises:
        UnavailableError: it is not installed.

    """
    path = find_program(name)
    if not path:
        raise _missing(name)
    return path


def failed(run: CompletedRun) -> CommandFailedError:
    """Return the error for a command that failed, with its own words and a way out."""
    words = printable(run.stderr.strip() or run.stdout.strip() or "it said nothing")
    details = f"Command: {' '.join(run.argv)}\nExit code: {run.code}\n{words}"
    return CommandFailedError(
        f"{run.argv[0]} failed", details, "Mend what it complains about, then run the same command again."
    )


def printable(text: str) -> str:
    """Return `text` of unknown origin without what a terminal would obey or could not show."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)


def _not_started(program: str, why: str) -> UnavailableError:
    way = f"See what it is (file {program}), and install it anew."
    return UnavailableError(f"{program} cannot be started", why, way)


def _missing(name: str) -> UnavailableError:
    package = _PACKAGES.get(name, name)
    return UnavailableError(
        f"{name} is not installed", f"It was looked for in {SEARCH_PATH}.", f"Install the package {package}."
    )
