"""thin_ls on a running pool, through a snapshot of its metadata that is always given back.

The kernel keeps one such snapshot a pool, on the disk, so that it outlives its maker and even a reboot; it costs
metadata as the pool changes (dm-thin-metadata.c, __reserve_metadata_snap). A record below our state folder, written
before it is taken and again when its place is known, tells ours from another tool's.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from thinpoolmgr.core.commands import list_thin_use, pool_message
from thinpoolmgr.core.usage import PoolUse, parse_thin_use
from thinpoolmgr.errors import CommandFailedError, RefusedError
from thinpoolmgr.host import dm
from thinpoolmgr.host.files import read_text, write_atomically
from thinpoolmgr.host.retry import until_not_busy
from thinpoolmgr.host.runner import failed, require_program
from thinpoolmgr.host.store import STATE_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from thinpoolmgr.core.model import DmDevice, ThinPoolStatus
    from thinpoolmgr.host.runner import CommandRunner

SNAPSHOT_RECORDS = STATE_FOLDER / "metadata-snapshots"
_NONE_HELD = "-"
_RECORD_LIMIT_BYTES = 64 * 1024
_RESERVE, _RELEASE = "reserve_metadata_snap", "release_metadata_snap"


class SnapshotLeftError(CommandFailedError):
    """A snapshot of ours is still held, since the kernel or dmsetup did not release it; the next run tries again."""


class _Taken(msgspec.Struct, frozen=True):
    """A metadata snapshot of ours; `held_root` is empty until it is known that it was taken, and where it is."""

    pool: str
    held_root: str = ""


def read_pool_use(
    pool: DmDevice,
    metadata: DmDevice,
    runner: CommandRunner,
    folder: Path = SNAPSHOT_RECORDS,
    read_device: Callable[[str], DmDevice | None] = dm.read_device,
) -> PoolUse:
    """Return what each thin device of the running `pool` maps; one process, however many devices there are.

    The caller holds the lock until thin_ls has ended: when a pool is deactivated whose metadata somebody reads, LVM
    returns 0, leaves the metadata's device, and refuses to activate the pool while that is there (2.03.16). Whatever
    ends this, the next run gives back what it took.

    Args:
        pool: the live pool's device, as just observed.
        metadata: the device that holds its metadata.
        runner: runs dmsetup and thin_ls; `end_reading` of it ends thin_ls early.
        folder: where it is recorded that a snapshot is ours; it is made when it is missing.
        read_device: asks the kernel for a device by its name.

    Raises:
        UnavailableError: thin_ls is not installed; nothing was changed.
        RefusedError: somebody else holds a metadata snapshot, and it is left alone.
        FileFailedError: the record cannot be written; nothing was changed.
        CommandFailedError: a command failed, or printed what is no list.
        SnapshotLeftError: what was taken was not given back.

    """
    for program in ("dmsetup", "thin_ls"):
        require_program(program)
    # That name is the kernel's own; links in /dev/mapper are udev's.
    path = f"/dev/dm-{metadata.devno.partition(':')[2]}"
    with _MetadataSnapshot(pool, metadata, runner, folder, read_device).held() as status:
        run = runner.read(list_thin_use(path))
    if run.code != 0:
        raise failed(run)
    try:
        return PoolUse(parse_thin_use(run.stdout), status)
    except ValueError as error:
        raise CommandFailedError("the list of thin_ls cannot be read", str(error)) from error


class _MetadataSnapshot:
    def __init__(
        self,
        pool: DmDevice,
        metadata: DmDevice,
        runner: CommandRunner,
        folder: Path,
        read_device: Callable[[str], DmDevice | None],
    ) -> None:
        self._pool = pool
        self._metadata = metadata
        self._runner = runner
        self._record = folder / f"{pool.uuid}.json"
        self._read_device = read_device

    @contextmanager
    def held(self) -> Iterator[ThinPoolStatus]:
        """Take the snapshot, and give it back however the block ends; gives the kernel's status of that moment."""
        self._give_back_what_a_killed_run_took()
        announced = self._write(_Taken(self._pool.uuid), None)
        run = self._runner.run(pool_message(self._pool.name, _RESERVE))
        if run.code != 0:
            # The kernel refused: what is held now, if anything, is not ours.
            self._record.unlink()
            raise failed(run)
        try:
            status = self._status()
            self._write(_Taken(self._pool.uuid, status.held_root), announced)
            yield status
        finally:
            self._give_back()

    def _give_back_what_a_killed_run_took(self) -> None:
        held, taken = self._status().held_root, self._read_record()
        if held == _NONE_HELD:
            self._record.unlink(missing_ok=True)
            return
        # Without a place the run was killed while it took it; before, it had seen that nobody held one.
        if taken is None or taken.held_root not in ("", held):
            raise self._refuse(held, "thinpoolmgr did not take it: another tool did, such as a backup.")
        # thin_ls of the killed run may still read. Whoever reads after that is not ours: no snapshot goes under it.
        if until_not_busy(self._is_read, bool):
            raise self._refuse(held, f"A run of thinpoolmgr took it, and {self._metadata.name} is still being read.")
        self._give_back()

    def _give_back(self) -> None:
        try:
            if self._status().held_root != _NONE_HELD:
                self._runner.change(pool_message(self._pool.name, _RELEASE))
        except CommandFailedError as error:
            summary = f"the snapshot of the metadata of {self._pool.name} was not given back"
            way = f"{error.resolution} The next thinpoolmgr usage gives it back.".lstrip()
            raise SnapshotLeftError(summary, f"{error.summary}\n{error.details}", way) from error
        self._record.unlink(missing_ok=True)

    def _is_read(self) -> bool:
        """Whether somebody has the metadata open besides the pool itself."""
        found = self._read_device(self._metadata.name)
        return found is None or found.open_count > 1

    def _status(self) -> ThinPoolStatus:
        found = self._read_device(self._pool.name)
        if found is None or found.uuid != self._pool.uuid or found.pool_status is None:
            summary = f"the kernel says nothing of the pool {self._pool.name} any more"
            raise CommandFailedError(summary, "It was there a moment ago.", "Look at it: thinpoolmgr status.")
        return found.pool_status

    def _read_record(self) -> _Taken | None:
        try:
            taken = msgspec.json.decode(read_text(str(self._record), _RECORD_LIMIT_BYTES, follow=False), type=_Taken)
        except (OSError, ValueError, RecursionError):
            return None
        return taken if taken.pool == self._pool.uuid else None

    def _write(self, taken: _Taken, old_text: str | None) -> str:
        text = msgspec.json.encode(taken).decode()
        self._record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(str(self._record), text, expect_text=old_text)
        return text

    def _refuse(self, held_root: str, details: str) -> RefusedError:
        summary = f"a snapshot of the metadata of {self._pool.name} is held, at block {held_root}"
        release = " ".join(pool_message(self._pool.name, _RELEASE))
        way = f"Wait until that has ended, and ask again. When you are sure that nobody needs it: {release}"
        return RefusedError(summary, details, way, code="METADATA_SNAPSHOT_HELD")
