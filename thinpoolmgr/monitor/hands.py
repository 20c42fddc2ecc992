"""What the monitor does to the host: a few kinds of steps on one pool, and nothing else.

Nothing that wipes, removes, unmounts or moves can be reached from here; an import contract and a test hold it to that.
LVM is asked only when the metadata of the group have changed since it was asked last, which a few bytes of the disks
tell, and only about this one group and on its own disks: a report waits for the lock of each group that it tells of,
and any command for each disk that it reads. What those bytes do not tell, who watches the pool, and by udev's word
whether another disk says it is one of them, is asked once a minute and soon after an activation, by a thread that
nothing waits for.
"""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from thinpoolmgr.core.commands import commands, with_low_water
from thinpoolmgr.core.journal import MONITOR, unfinished_runs
from thinpoolmgr.core.lifecycle import below, view_pool
from thinpoolmgr.core.model import DmDevice, Snapshot
from thinpoolmgr.core.names import pool_dm_name
from thinpoolmgr.core.steps import ExtendData, ExtendMetadata, ExtendVolumeGroup, RefreshPool
from thinpoolmgr.core.watch import STEPS
from thinpoolmgr.errors import NeedsPersonError, RefusedError, ThinpoolmgrError
from thinpoolmgr.host import dm, lvm
from thinpoolmgr.host.pvlabel import Mark, group_mark
from thinpoolmgr.host.runner import CommandRunner
from thinpoolmgr.host.store import Store
from thinpoolmgr.host.udev import lvm_disks

if TYPE_CHECKING:
    from pathlib import Path

    from thinpoolmgr.core.commands import Argv
    from thinpoolmgr.core.desired import DesiredPool
    from thinpoolmgr.core.journal import Run
    from thinpoolmgr.core.lifecycle import PoolView
    from thinpoolmgr.core.model import VolumeGroup
    from thinpoolmgr.core.steps import Step
    from thinpoolmgr.host.lvm import LvmState
    from thinpoolmgr.host.runner import CompletedRun
    from thinpoolmgr.host.standby import Standby

_KEPT_RUNS = 50
_UNSURE_SECONDS, _LONGEST_SECONDS = 0.75, 60.0
"""What only LVM knows it is asked again and again, after twice as long each time as nothing happens."""
_HEED_SECONDS = 5.0
_ACTIVATION_SECONDS = 5.0
_OF_ONE_GROUP = frozenset({"lvextend", "lvchange"})
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class PoolHost:
    """One pool of this host, behind the two methods that the run cycle knows."""

    def __init__(self, pool: DesiredPool, standby: Standby) -> None:
        """Look at `pool`; nothing is asked yet. `standby` is shared with other pools."""
        self._pool = pool
        self._standby = standby
        self._runner = CommandRunner(standby)
        self._groups: tuple[VolumeGroup, ...] = ()
        self._trouble: tuple[str, ...] = ()
        self._mark: Mark | None = None
        self._known_uuid = self._dm_name = ""
        self._event_number: int | None = None
        self._asked_at = self._asked_again_at = -math.inf
        self._asking: threading.Thread | None = None
        self._unsure_seconds = _UNSURE_SECONDS
        self._heeded_at = -math.inf
        self._is_stale = self._is_doubtful = False
        self._not_enough: tuple[str, ...] = ()
        self._boot_id = _read_boot_id()
        self.spare = ""
        """The path of a spare disk that `observe` looks at, too: for all that `apply` looks for."""

    @property
    def recent_commands(self) -> tuple[str, ...]:
        """The last commands that were run, for the report of a failure."""
        return self._runner.recent

    @property
    def mark(self) -> Mark | None:
        """What tells the state of the group that was seen last from another one."""
        return self._mark

    def seconds(self) -> float:
        """Return the time of a clock that never jumps."""
        return time.monotonic()

    def spare_paths(self) -> tuple[str, ...]:
        """Return the spare disks of the configuration that are there, and not in the group yet."""
        in_group = {os.path.realpath(pv.path) for group in self._groups for pv in group.pvs}
        there = (path for path in self._pool.config.spare_devices if os.path.exists(path))
        return tuple(path for path in there if os.path.realpath(path) not in in_group)

    def is_changed_by_others(self) -> bool:
        """Whether a command of LVM's is changing the group just now."""
        return lvm.is_group_locked(self._pool.group)

    def has_event(self) -> bool:
        """Whether the pool itself has had an event since this was asked last; True where that is not known."""
        if not self._dm_name:
            return False
        try:
            before, self._event_number = self._event_number, dm.event_number(self._dm_name)
        except ThinpoolmgrError:
            return True
        return before is None or before != self._event_number

    def can_take_disks(self) -> bool:
        """Whether LVM could take a spare disk now without waiting for what others do."""
        return lvm.can_take_disks()

    def heed(self) -> None:
        """Something happened to a disk: what only LVM knows may have changed, and it is asked soon.

        Not anew for each event: a host that starts and stops containers has one after the other.
        """
        if self.seconds() - self._heeded_at >= _HEED_SECONDS:
            self._heeded_at = self.seconds()
            self._unsure_seconds = _UNSURE_SECONDS

    def view(self) -> PoolView:
        """Return the pool as it is now; LVM is asked only when its metadata, or the device, are not those it told of.

        Raises:
            ThinpoolmgrError: the kernel or LVM did not answer.

        """
        return view_pool(self._pool, self.observe())

    def observe(self) -> Snapshot:
        """Return the pool, its group and its devices; with a `spare` disk that, too, and all that forbids to take it.

        Raises:
            ThinpoolmgrError: the kernel or LVM did not answer.

        """
        device = self._find_device()
        self._dm_name = device.name if device else ""
        if device is None:
            # Whoever activates it has dmeventd watch it last of all.
            self._asked_again_at = self.seconds() - _LONGEST_SECONDS + _ACTIVATION_SECONDS
        if not self._is_current(device):
            self._ask_lvm(device)
        elif device and not self.spare:
            self._ask_again()
        devices = (device, *self._parts(device)) if device else ()
        seen = Snapshot(groups=self._groups, lvm_trouble=self._trouble, dm_devices=devices, boot_id=self._boot_id)
        if not self.spare:
            return seen
        from thinpoolmgr.monitor.spare import with_spare  # noqa: PLC0415 - seldom needed

        return with_spare(seen, self._pool, self.spare, self._runner.run)

    def _find_device(self) -> DmDevice | None:
        """The live pool: `VG-POOL`, or `VG-POOL-tpool` where it has thin volumes of LVM's own."""
        name = pool_dm_name(self._pool.group, self._pool.lv)
        found = (dm.read_device(name), dm.read_device(f"{name}-tpool"))
        return next((device for device in found if device and device.targets == ("thin-pool",)), None)

    def _parts(self, device: DmDevice) -> tuple[DmDevice, ...]:
        names = (f"{self._pool.lv}{suffix}" for suffix in ("_tdata", "_tmeta"))
        found = [part for name in names if (part := dm.read_device(pool_dm_name(self._pool.group, name)))]
        return below(device, tuple(found))

    def _is_current(self, device: DmDevice | None) -> bool:
        uuid = device.uuid if device else ""
        if not uuid and not self._groups:
            # There is nothing to extend, and nothing is known of it: LVM is not asked again and again about that.
            self._trouble, self._mark, self._known_uuid = (), None, ""
            return True
        if uuid != self._known_uuid or self._is_stale:
            # Also when the device goes: whether the pool is inactive then, or gone, LVM knows.
            return False
        if self._mark is None:
            # Only LVM knows: a disk cannot be read, is missing or there twice, or it lists no such group.
            return self.seconds() - self._asked_at < self._unsure_seconds
        return self._mark == self._present_mark()

    def _present_mark(self) -> Mark | None:
        return group_mark(pv.path for group in self._groups for pv in group.pvs if not pv.missing)

    def _ask_lvm(self, device: DmDevice | None) -> None:
        before = self._present_mark() or ()
        self._is_stale = False
        state = self._read_group(device)
        self._asked_at = self.seconds()
        self._groups = tuple(group for group in state.groups if group.name == self._pool.group)
        self._trouble, self._known_uuid = state.trouble, device.uuid if device else ""
        after = self._present_mark() or ()
        # A change writes to all disks of a group: one whose mark stayed the same shows that LVM told of this state.
        is_same = any(mark and mark in before for mark in after) and not any(
            dict(before).get(path, mark) != mark for path, mark in after
        )
        self._mark = after if is_same and _is_whole(self._groups) else None
        self._unsure_seconds = _UNSURE_SECONDS if self._mark else min(self._unsure_seconds * 2, _LONGEST_SECONDS)

    def _read_group(self, device: DmDevice | None) -> LvmState:
        """Return LVM's word on the group, from its own disks where they are known and are all there is to it."""
        if own := self._own_disks() or self._disks_below(device):
            state = lvm.read_lvm(self._read_at_once, self._pool.group, own)
            if state.groups and _is_whole(state.groups):
                return state
            self._not_enough = own
        self._is_doubtful = False
        # What reads all disks may wait for one of others, and with what stands by all pools would.
        return lvm.read_lvm(self._runner.run, self._pool.group)

    def _read_at_once(self, argv: Argv) -> CompletedRun:
        return self._read_by(self._runner, argv)

    def _read_by(self, runner: CommandRunner, argv: Argv) -> CompletedRun:
        # What stands by is there for all pools: who has to wait for a lock, or perhaps for a disk that nobody uses yet,
        # must not keep it from the others.
        return (runner.run if self.spare or self.is_changed_by_others() else runner.run_at_once)(argv)

    def _change_at_once(self, argv: Argv) -> CompletedRun:
        return (self._runner.change if self.is_changed_by_others() else self._runner.change_at_once)(argv)

    def _own_disks(self) -> tuple[str, ...]:
        """Return the disks that LVM is to be held to, with a spare one at hand; none while it must read all."""
        if not self._groups or self._is_doubtful or not _is_whole(self._groups):
            return ()
        own = tuple(pv.path for group in self._groups for pv in group.pvs)
        own += (os.path.realpath(self.spare),) if self.spare else ()
        return own if own != self._not_enough else ()

    def _disks_below(self, device: DmDevice | None) -> tuple[str, ...]:
        """Return what the kernel has the pool on, before LVM has told of the group."""
        if device is None or self._groups or self._is_doubtful:
            return ()
        below = {devno for part in self._parts(device) for devno in part.depends_on}
        disks = tuple(sorted(map(_node_of, below)))
        return disks if disks != self._not_enough else ()

    def _ask_again(self) -> None:
        """Ask, once a minute, for what the group's own disks do not show; nothing waits for the answer."""
        is_due = self.seconds() - self._asked_again_at >= _LONGEST_SECONDS
        if is_due and not self._standby.is_used and (self._asking is None or not self._asking.is_alive()):
            self._asked_again_at = self.seconds()
            self._not_enough = ()
            self._asking = threading.Thread(target=self._compare, name=f"{self._pool.name}-again", daemon=True)
            self._asking.start()

    def _compare(self) -> None:
        before, own = self._groups, self._own_disks()
        uuids = {pv.uuid for group in before for pv in group.pvs}
        with suppress(ThinpoolmgrError, OSError):
            others = {os.path.realpath(path) for path in lvm_disks(uuids)} - {os.path.realpath(path) for path in own}
            if own and others:
                # Whether that is a second disk with the same metadata only LVM can tell, and only of all disks.
                self._is_doubtful = self._is_stale = True
                return
            runner = CommandRunner(self._standby)
            # A process of LVM's has the group's lock ten times as long, and an extension would have to wait for it.
            read = partial(self._read_by, runner) if own else runner.run
            found = lvm.read_lvm(read, self._pool.group, own).groups
            self._is_stale = tuple(group for group in found if group.name == self._pool.group) != before

    def perform(self, step: Step) -> None:
        """Carry out `step`, if it is one of the monitor's.

        Raises:
            RefusedError: it is not; or a spare disk is no longer what it was.
            CommandFailedError: a command failed.

        """
        if not isinstance(step, STEPS):
            raise RefusedError(f"the monitor does not carry out {type(step).__name__}", "", "Run thinpoolmgr apply.")
        if isinstance(step, ExtendVolumeGroup):
            from thinpoolmgr.host.samedisk import require_same_disk  # noqa: PLC0415 - as above

            for disk in step.disks:
                require_same_disk(disk)
        # Not all that LVM tells of is in a group's metadata: who watches the pool is not.
        self._known_uuid = ""
        threshold = self._pool.config.extend.data_threshold_percent
        loads_table = isinstance(step, ExtendData | ExtendMetadata | RefreshPool)
        for argv in commands(step):
            command = with_low_water(argv, threshold) if loads_table else argv
            if argv[0] in _OF_ONE_GROUP:
                command = lvm.held_to(command, self._own_disks())
            elif isinstance(step, ExtendVolumeGroup):
                command = lvm.vgextend_held_to(self._runner.run, command, self._own_disks())
            (self._change_at_once if loads_table else self._runner.change)(command)

    def stand_by(self, *, is_near: bool) -> None:
        """Have LVM ready while an extension `is_near`, and only then."""
        self._standby.set_near(self._pool.name, is_near=is_near)


class PoolStore(Store):
    """The journal as far as it has to do with one pool; its lock is shared with the monitor's other pools."""

    def __init__(self, pool: str, *args: Path) -> None:
        """Read and write the runs of the pool with this name."""
        super().__init__(*args, shares_lock=True)
        self._pool = pool
        self._known: dict[Path, Run | None] = {}

    def read_runs(self) -> list[tuple[Path, Run]]:
        """Return the recorded runs, oldest first, without those of other pools that are the monitor's, or not ended.

        Raises:
            NeedsPersonError: a file is damaged, and may be of this pool.

        """
        runs = super().read_runs()
        return [(path, run) for path, run in runs if not run.is_unfinished or self._is_of_pool(run)]

    def _read_run(self, path: Path) -> Run | None:
        """Return a run; those of the monitor that have ended well are read once: they come by thousands."""
        if path in self._known:
            return self._known[path]
        try:
            run = super()._read_run(path)
        except NeedsPersonError:
            if not self._is_of_others(path):
                raise
            return None
        if run is not None and run.began.command == MONITOR and not run.is_unfinished:
            run = self._known[path] = run if self._is_of_pool(run) else None
        return run

    def _is_of_others(self, path: Path) -> bool:
        """Whether a damaged file tells, before all else, that its steps are those of other pools."""
        try:
            steps = msgspec.json.decode(path.read_bytes().partition(b"\n")[0].partition(b" ")[2])["steps"]
            return bool(steps) and all(step["pool"] != self._pool for step in steps)
        except (OSError, msgspec.DecodeError, KeyError, TypeError):
            return False

    def _is_of_pool(self, run: Run) -> bool:
        return any(step.pool == self._pool for step in run.began.steps)

    def unfinished(self) -> list[Run]:
        """Return the monitor's own runs for this pool that a kill cut short.

        Raises:
            NeedsPersonError: a file is damaged.

        """
        runs = unfinished_runs([run for _, run in self.read_runs()])
        return [run for run in runs if run.began.command == MONITOR and run.outcome is None]

    def forget_old_runs(self) -> None:
        """Delete all but the newest of the monitor's own runs for this pool, of those that have come to an end."""
        ended = [
            path
            for path, run in self.read_runs()
            if run.began.command == MONITOR and run.outcome is not None and self._is_of_pool(run)
        ]
        for path in ended[:-_KEPT_RUNS]:
            path.unlink(missing_ok=True)
        self._known = {path: run for path, run in self._known.items() if path.exists()}


def _is_whole(groups: tuple[VolumeGroup, ...]) -> bool:
    return not any(pv.missing or pv.duplicate for group in groups for pv in group.pvs)


def _node_of(devno: str) -> str:
    """Return the node of a disk by the name that LVM has for it, too."""
    folder = os.path.realpath(f"/sys/dev/block/{devno}")
    try:
        with open(f"{folder}/dm/name", encoding="utf-8") as file:
            return f"/dev/mapper/{file.read().strip()}"
    except OSError:
        return f"/dev/{os.path.basename(folder).replace('!', '/')}"


def _read_boot_id() -> str:
    with open(_BOOT_ID, encoding="ascii") as file:
        return file.read().strip()
