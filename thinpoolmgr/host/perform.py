"""Carries out one step on this host; whether it worked is decided by looking again, not here."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from thinpoolmgr.core.commands import commands
from thinpoolmgr.core.desired import DesiredState
from thinpoolmgr.core.steps import (
    CreateVolumeGroup,
    DeleteSetAside,
    DiskRef,
    EditLvmProfile,
    ExtendVolumeGroup,
    MoveStateAside,
    RemoveDmDevice,
    RemovePhysicalVolumes,
    Step,
    StopEngine,
    WipeSignatures,
    WriteEngineConfig,
)
from thinpoolmgr.errors import RefusedError
from thinpoolmgr.host import block, files, removal
from thinpoolmgr.host.observe import observe
from thinpoolmgr.host.retry import until_not_busy
from thinpoolmgr.host.runner import CommandRunner, failed

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Snapshot


class RealHost:
    """The host we run on, behind the two methods that the run cycle knows."""

    def __init__(self, desired: DesiredState, runner: CommandRunner | None = None, *, all_disks: bool = False) -> None:
        """Look at what `desired` names or selects, or at all disks, through `runner`."""
        self._desired = desired
        self._all_disks = all_disks
        self._runner = runner or CommandRunner()

    @property
    def recent_commands(self) -> tuple[str, ...]:
        """The last commands that were run, for the report of a failure."""
        return self._runner.recent

    def observe(self) -> Snapshot:
        """Return one look at the host; see `host.observe`."""
        return observe(self._desired, self._runner, all_disks=self._all_disks)

    def perform(self, step: Step) -> None:
        """Carry out `step`.

        Raises:
            CommandFailedError: a command of it failed; the host may have changed in part.
            RefusedError: a disk or a file is no longer what it was when the plan was made; nothing was changed.

        """
        match step:
            case WriteEngineConfig():
                files.write_atomically(step.path, step.new_text, expect_text=step.old_text)
            case EditLvmProfile(new_text=None):
                removal.remove_file(step.path, expect_text=step.old_text)
            case EditLvmProfile(new_text=str(text)):
                files.write_atomically(step.path, text, expect_text=step.old_text)
            case MoveStateAside():
                files.move_aside(step.paths, step.into)
            case DeleteSetAside():
                removal.delete_set_aside(step.path)
            case RemoveDmDevice():
                self._remove_dm_device(step)
            case StopEngine():
                self._stop_engine(step)
            case _:
                for disk in _disks_of(step):
                    _require_same_disk(disk)
                for argv in commands(step):
                    self._runner.change(argv)

    def _stop_engine(self, step: StopEngine) -> None:
        """The engine goes on running when its own check refuses what it is to be started with."""
        if not step.check:
            self._runner.change(commands(step)[-1])
            return
        with suppress(FileNotFoundError):
            os.unlink(step.candidate)
        files.write_atomically(step.candidate, step.candidate_text, expect_text=None)
        try:
            for argv in commands(step):
                self._runner.change(argv)
        finally:
            os.unlink(step.candidate)

    def _remove_dm_device(self, step: RemoveDmDevice) -> None:
        (argv,) = commands(step)
        run = until_not_busy(lambda: self._runner.run(argv), lambda run: "busy" in run.stderr)
        if run.code != 0 and "No such device" not in run.stderr:
            raise failed(run)


def _disks_of(step: Step) -> tuple[DiskRef, ...]:
    match step:
        case WipeSignatures():
            return (step.disk,)
        case CreateVolumeGroup() | ExtendVolumeGroup() | RemovePhysicalVolumes():
            return step.disks
        case _:
            return ()


def _require_same_disk(ref: DiskRef) -> None:
    """A kernel name may have passed to another disk since the plan was made."""
    try:
        status = os.stat(ref.path)
    except OSError as error:
        raise RefusedError(
            f"{ref.path} is no longer there", str(error), "Attach it, and run this again.", code="DISK_MISSING"
        ) from error
    devno = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    swapped = ref.diskseq is not None and block.read_diskseq(devno) != ref.diskseq
    if not stat.S_ISBLK(status.st_mode) or (ref.devno and devno != ref.devno) or swapped:
        summary = f"{ref.path} is another device than when the plan was made"
        raise RefusedError(
            summary,
            f"It was {ref.devno}, disk {ref.diskseq}; it is {devno}, disk {block.read_diskseq(devno)}.",
            "Run this again to plan anew.",
            code="DISK_SWAPPED",
        )
