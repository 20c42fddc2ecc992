"""Carries out one step on this host; whether it worked is decided by looking again, not here."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from thinpoolmgr.core.busy import refuse_open
from thinpoolmgr.core.commands import Argv, commands
from thinpoolmgr.core.desired import DesiredState
from thinpoolmgr.core.steps import (
    GROWN_MOUNT,
    GROWN_NAME,
    CheckedStop,
    CreateVolumeGroup,
    DeleteSetAside,
    DiskRef,
    EditLvmProfile,
    ExtendVolumeGroup,
    GrowBase,
    MoveStateAside,
    RemoveDmDevice,
    RemovePhysicalVolumes,
    StartEngine,
    Step,
    StopContainers,
    StopEngine,
    WipeSignatures,
    WriteEngineConfig,
)
from thinpoolmgr.core.thinstatus import thin_device_id
from thinpoolmgr.errors import CommandFailedError, RefusedError
from thinpoolmgr.host import aside, dm, files, removal
from thinpoolmgr.host.observe import observe
from thinpoolmgr.host.retry import BUSY_SECONDS, until_not_busy
from thinpoolmgr.host.runner import CommandRunner, failed
from thinpoolmgr.host.samedisk import require_same_disk

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Snapshot

# EBUSY in the words of the C locale: the name of a device may have the shorter word in it.
_BUSY = "Device or resource busy"
STOP_ENGINE_SECONDS = 300.0
"""systemd kills a service that does not end within 90 s, unless its unit says to wait for ever (TimeoutSec=0)."""


class RealHost:
    """The host we run on, behind the two methods that the run cycle knows."""

    def __init__(
        self,
        desired: DesiredState,
        runner: CommandRunner | None = None,
        *,
        all_disks: bool = False,
        all_thin_devices: bool = True,
    ) -> None:
        """Look at what `desired` names or selects, or at all disks, through `runner`; see `host.observe`."""
        self._desired = desired
        self._all_disks = all_disks
        self._all_thin_devices = all_thin_devices
        self._runner = runner or CommandRunner()
        self._names_what_may_be_lost = True

    @property
    def recent_commands(self) -> tuple[str, ...]:
        """The last commands that were run, for the report of a failure."""
        return self._runner.recent

    def observe(self) -> Snapshot:
        """Return one look at the host; see `host.observe`."""
        return observe(
            self._desired,
            self._runner,
            all_disks=self._all_disks,
            all_thin_devices=self._all_thin_devices,
            with_names=self._names_what_may_be_lost,
        )

    def perform(self, step: Step) -> None:
        """Carry out `step`.

        Raises:
            CommandFailedError: a command of it failed; the host may have changed in part.
            RefusedError: a disk or a file is no longer what it was when the plan was made, or a device stays open;
                nothing was changed.

        """
        # Once it is carried out nobody asks any more what it will cost, and to find out is slow.
        self._names_what_may_be_lost = False
        match step:
            case WriteEngineConfig():
                files.write_atomically(step.path, step.new_text, expect_text=step.old_text)
            case EditLvmProfile(new_text=None):
                removal.remove_file(step.path, expect_text=step.old_text)
            case EditLvmProfile(new_text=str(text)):
                files.write_atomically(step.path, text, expect_text=step.old_text)
            case MoveStateAside():
                aside.move_aside(step.paths, step.into)
            case DeleteSetAside():
                removal.delete_set_aside(step.path)
            case RemoveDmDevice():
                self._remove_dm_device(step)
            case GrowBase():
                self._grow_base(step)
            case StopContainers():
                self._check_config(step)
                _stop_containers(step)
            case StopEngine():
                self._check_config(step)
                self._stop_engine(step)
            case _:
                for disk in _disks_of(step):
                    require_same_disk(disk)
                for argv in commands(step):
                    self._runner.change(argv, is_long=isinstance(step, StartEngine))

    def _check_config(self, step: CheckedStop) -> None:
        """All goes on running when the engine's own check refuses what it is to be started with."""
        if not step.check:
            return
        with suppress(FileNotFoundError):
            os.unlink(step.candidate)
        files.write_atomically(step.candidate, step.candidate_text, expect_text=None)
        try:
            self._runner.change(step.check)
        finally:
            os.unlink(step.candidate)

    def _remove_dm_device(self, step: RemoveDmDevice) -> None:
        (argv,) = commands(step)
        run = until_not_busy(lambda: self._runner.run(argv), lambda run: _BUSY in run.stderr)
        if run.code == 0 or "No such device" in run.stderr:
            return
        raise _still_open(step) if _BUSY in run.stderr else failed(run)

    def _grow_base(self, step: GrowBase) -> None:
        """Whatever goes wrong, the base device is let go of again; what a killed run had left is, first of all."""
        *growing, unmount, remove = commands(step)
        self._let_go_of_base(unmount, remove)
        _refuse_second_mount(step)
        try:
            os.makedirs(GROWN_MOUNT, mode=0o700, exist_ok=True)
        except OSError as error:
            raise files.file_failed(f"cannot make {GROWN_MOUNT}", error) from error
        try:
            for argv in growing:
                self._runner.change(argv)
        finally:
            self._let_go_of_base(unmount, remove)

    def _let_go_of_base(self, unmount: Argv, remove: Argv) -> None:
        if files.mounts_on_or_below((GROWN_MOUNT,)):
            self._runner.change(unmount)
        if dm.read_device(GROWN_NAME) is not None:
            self._runner.change(remove)

    def _stop_engine(self, step: StopEngine) -> None:
        argv = commands(step)[-1]
        try:
            self._runner.change(argv, is_long=True, seconds=STOP_ENGINE_SECONDS)
        except CommandFailedError as error:
            details = f"{error.summary}\n{error.details}"
            resolution = f"See journalctl --unit={step.units[-1]} and systemctl list-jobs; then run this again."
            raise CommandFailedError(f"{step.engine} could not be stopped", details, resolution) from error


def _refuse_second_mount(step: GrowBase) -> None:
    """A file system that is mounted twice destroys itself; whoever has the base under another name comes first."""
    pool = dm.read_device(step.pool_dm_name)
    number = pool.devno if pool else ""
    same = [d for d in dm.list_dm_devices() if number in d.depends_on and thin_device_id(d.table) == step.device_id]
    busy = next((device for device in same if device.open_count), None)
    if busy is None:
        return
    from thinpoolmgr.host.holders import find_holders  # noqa: PLC0415 - seldom needed

    refusal = refuse_open(
        busy.name,
        f"{busy.name} is {step.engine}'s base device, too, and is open",
        find_holders({busy.devno: busy.name}),
    )
    raise RefusedError(refusal.summary, refusal.details, refusal.resolution, code=refusal.code)


def _stop_containers(step: StopContainers) -> None:
    """Stop them through the engine's API, with a deadline."""
    from thinpoolmgr.host.engines import docker_api  # noqa: PLC0415 - seldom needed

    resolution = f"See docker ps and journalctl for {step.engine}; end them (docker kill NAME), and run this again."
    try:
        left = docker_api.stop_containers(step.socket)
    except docker_api.ApiError as error:
        raise CommandFailedError(f"{step.engine} did not stop its containers", str(error), resolution) from error
    if left:
        names = ", ".join(container.name for container in left)
        raise CommandFailedError(f"containers of {step.engine} do not stop: {names}", "", resolution)


def _still_open(step: RemoveDmDevice) -> RefusedError:
    """Somebody has it, and nothing that is open is removed; who, is looked for when all waiting was in vain."""
    from thinpoolmgr.host.holders import find_holders  # noqa: PLC0415 - seldom needed

    holders = find_holders({step.devno: step.name})
    summary = f"{step.name} is still open after {BUSY_SECONDS:.0f} seconds, so it was not removed"
    refusal = refuse_open(step.name, summary, holders)
    return RefusedError(refusal.summary, refusal.details, refusal.resolution, code=refusal.code)


def _disks_of(step: Step) -> tuple[DiskRef, ...]:
    match step:
        case WipeSignatures():
            return (step.disk,)
        case CreateVolumeGroup() | ExtendVolumeGroup() | RemovePhysicalVolumes():
            return step.disks
        case _:
            return ()
