"""The journal on disk and the lock: append, fsync, and one change at a time.

One file for each run below `/var/lib/thinpoolmgr/runs`. Nothing is written until there is something to carry out.
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from thinpoolmgr.core.journal import (
    Began,
    DamagedJournalError,
    Record,
    Run,
    StoredRun,
    decode_leniently,
    decode_records,
    encode_record,
    fold_run,
    whole_bytes,
)
from thinpoolmgr.errors import CommandFailedError, LockedError, NeedsPersonError
from thinpoolmgr.host.locks import is_flocked
from thinpoolmgr.host.retry import until_there

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STATE_FOLDER = Path("/var/lib/thinpoolmgr")
LOCK_FILE = Path("/run/thinpoolmgr/lock")
_NAMING = threading.Lock()
"""Held while a run gets its name: the monitor's pools share the lock on the host."""


def now() -> str:
    """Return the present time in UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class RunFile:
    """One run's records, open for appending; each is on the disk before `append` returns."""

    def __init__(self, path: Path) -> None:
        """Open `path`, which is made if need be, for its owner only; a torn record at its end is cut off.

        Raises:
            CommandFailedError: it cannot be opened or written.

        """
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            size = os.fstat(self._fd).st_size
            whole = whole_bytes(os.pread(self._fd, size, 0))
            if whole < size:
                os.ftruncate(self._fd, whole)
        except OSError as error:
            raise _unwritable(path, error) from error

    def append(self, record: Record) -> None:
        """Append `record` and wait until the disk has it.

        Raises:
            CommandFailedError: it could not be written; what it announces must not be done then.

        """
        try:
            _write_all(self._fd, encode_record(record))
            os.fsync(self._fd)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _write_all(fd: int, content: bytes) -> None:
    written = 0
    while written < len(content):
        written += os.write(fd, content[written:])


def _unwritable(path: Path, error: OSError) -> CommandFailedError:
    summary = f"the journal {path} cannot be written"
    resolution = "Make room there, or make it writable; without a journal nothing is changed."
    return CommandFailedError(summary, error.strerror or str(error), resolution)


class Store:
    """Where runs are recorded, and the lock that all changing commands take."""

    on_new_run: Callable[[str], None] | None = None
    """Is told the name of each run that begins here."""

    def __init__(self, folder: Path = STATE_FOLDER, lock_file: Path = LOCK_FILE, *, shares_lock: bool = False) -> None:
        """Use `folder` and `lock_file`; neither needs to exist yet.

        With `shares_lock` others that share it may change something at the same time, and nobody else: the monitor's
        pools, of which none may wait for another's group.
        """
        self._runs = folder / "runs"
        self._lock_file = lock_file
        self.shares_lock = shares_lock

    @contextmanager
    def lock(self, command: str, patience_seconds: float = 0.0) -> Iterator[None]:
        """Hold the lock; the kernel gives it back when the process ends, however it ends.

        Raises:
            LockedError: another run has it, and still had after `patience_seconds`; the details say which.

        """
        try:
            self._lock_file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            fd = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            summary = f"the lock {self._lock_file} cannot be taken"
            resolution = "Make its folder writable; without the lock two runs could change the host at once."
            raise CommandFailedError(summary, error.strerror or str(error), resolution) from error
        try:
            has_it = self._has_locked(fd)
            if not has_it and patience_seconds > 0:
                has_it = until_there(lambda: self._has_locked(fd), bool, patience_seconds)
            if not has_it:
                holder = os.read(fd, 200).decode("utf-8", "replace").strip() or "it has not said who it is"
                summary = "another run of thinpoolmgr is changing this host"
                raise LockedError(summary, f"Holder of {self._lock_file}: {holder}", "Wait until it has ended.")
            # The text only tells others who holds the lock: where there is no room for it, the lock holds all the same.
            with suppress(OSError):
                os.ftruncate(fd, 0)
                _write_all(fd, f"pid {os.getpid()}, {command}, since {now()}\n".encode())
            yield
        finally:
            os.close(fd)

    def _has_locked(self, fd: int) -> bool:
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if self.shares_lock else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def read_runs(self) -> list[tuple[Path, Run]]:
        """Return the recorded runs, oldest first; a file whose first record is torn is left out.

        Raises:
            NeedsPersonError: a file is damaged.

        """
        if not self._runs.is_dir():
            return []
        read = ((path, self._read_run(path)) for path in sorted(self._runs.glob("*.jsonl")))
        return [(path, run) for path, run in read if run is not None]

    def _read_run(self, path: Path) -> Run | None:
        try:
            return fold_run(decode_records(path.read_bytes()))
        except FileNotFoundError:
            return None  # The monitor forgets its old runs at any time, of one pool while another one reads.
        except (DamagedJournalError, OSError) as error:
            summary = f"the journal {path} cannot be trusted"
            resolution = "See whether a run was interrupted (its lines are readable JSON), then move the file away."
            raise NeedsPersonError(summary, str(error), resolution) from error

    def read_leniently(self) -> tuple[StoredRun, ...]:
        """Return what can be read of all recorded runs, oldest first; a damaged file is one of them, never an error."""
        try:
            paths = sorted(path for path in self._runs.iterdir() if path.suffix == ".jsonl")
        except FileNotFoundError:
            return ()
        except OSError as error:
            return (StoredRun(self._runs.name, damage=error.strerror or str(error), file=str(self._runs)),)
        stored = (_read_leniently(path) for path in paths)
        return tuple(run for run in stored if run.records or run.damage)

    def is_locked(self) -> bool:
        """Whether a run is under way, by the kernel's own list of locks: trying the lock would be in that run's way."""
        return is_flocked(self._lock_file)

    def new_run(self, command: str) -> tuple[str, RunFile]:
        """Return the name and the open file of a new run; the folder's entry is on the disk, too.

        Raises:
            CommandFailedError: the journal cannot be written.

        """
        try:
            self._runs.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _NAMING:
                name = f"{self._moment_of_next():%Y%m%dT%H%M%S.%f}Z-{command}-{os.urandom(2).hex()}"
                run_file = RunFile(self._runs / f"{name}.jsonl")
            fd = os.open(self._runs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise _unwritable(self._runs, error) from error
        if self.on_new_run is not None:
            self.on_new_run(name)
        return name, run_file

    def _moment_of_next(self) -> datetime:
        """Return what the next run is called after: the time, but always after all runs that are there.

        Runs are read in the order of their names. A clock that was wrong at boot and was put right, or the other way
        round, must not place a run that failed behind the later one that ended it, nor a new one before those of old.
        """
        at = datetime.now(UTC)
        # Not by glob(): an extension waits for this.
        for name in sorted((name for name in os.listdir(self._runs) if name.endswith(".jsonl")), reverse=True):
            # Whoever named a file otherwise did it by hand.
            with suppress(ValueError, OverflowError):
                newest = datetime.fromisoformat(name.partition("-")[0]).replace(tzinfo=UTC)
                return max(at, newest + timedelta(microseconds=1))
        return at


def _read_leniently(path: Path) -> StoredRun:
    try:
        records, damage = decode_leniently(path.read_bytes())
    except OSError as error:
        return StoredRun(path.stem, damage=error.strerror or str(error), file=str(path))
    if not damage and records and not isinstance(records[0], Began):
        damage = "it does not begin with the record of a run that began"
    return StoredRun(path.stem, tuple(records), damage, str(path))
