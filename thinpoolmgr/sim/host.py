"""The host in memory, behind the two methods that the run cycle knows."""

from __future__ import annotations

import re
import string
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from thinpoolmgr.core.desired import GLOB_KEYS
from thinpoolmgr.core.model import ConfiguredDevice, Disk, Engine, ServiceState, Snapshot
from thinpoolmgr.core.steps import Step, step_name, target
from thinpoolmgr.errors import CommandFailedError
from thinpoolmgr.sim.consistency import check_consistent
from thinpoolmgr.sim.events import Away, bring_back, half_done, reboot, report_less, vanish
from thinpoolmgr.sim.faults import (
    DiskReturns,
    DiskVanishes,
    Fails,
    Fault,
    Hangs,
    Killed,
    Lies,
    LvmReportsLess,
    PowerCut,
    PowerCutError,
)
from thinpoolmgr.sim.parts import with_attributes
from thinpoolmgr.sim.steps import apply_step
from thinpoolmgr.units import GIB, parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from thinpoolmgr.core.desired import DesiredEngine, DesiredState, MatchConfig

_DISK_BYTES = 100 * GIB
_RECENT = 16
# a set begins with [ and holds at least one character, which may be ]: fnmatch(3)
_PART_OF_GLOB = re.compile(r"\*|\?|\[!?\]?[^]]*\]")
_CHANGE_SECONDS = 3600
"""How long the real host's runner waits for a command that changes something."""


class ImpossibleHostError(AssertionError):
    """A snapshot that no host can look like: a mistake of the simulation, or of the test that made it."""


def checked(snapshot: Snapshot) -> Snapshot:
    """Return `snapshot`.

    Raises:
        ImpossibleHostError: no host can look like it.

    """
    wrong = check_consistent(snapshot)
    if wrong:
        raise ImpossibleHostError("; ".join(wrong))
    return snapshot


class SimulatedHost:
    """A host in memory.

    Attributes:
        snapshot: what is true on the host; what it reports may be less.
        performed: the steps that were attempted.
        took_effect: the steps that were carried out in whole.
        faults: what goes wrong, by the number of the attempt, counted from 0 over the host's whole life.
        away: disks that have vanished, by path.

    """

    def __init__(self, snapshot: Snapshot, faults: Mapping[int, Fault] | None = None) -> None:
        """Begin with `snapshot`, which must be possible."""
        self.snapshot = checked(snapshot)
        self.faults: dict[int, Fault] = dict(faults or {})
        self.performed: list[Step] = []
        self.took_effect: list[Step] = []
        self.away: dict[str, Away] = {}
        self._hidden: dict[str, str] = {}

    @property
    def recent_commands(self) -> tuple[str, ...]:
        """The last steps that were attempted, oldest first."""
        return tuple(f"{step_name(step)} (simulated)" for step in self.performed[-_RECENT:])

    def observe(self) -> Snapshot:
        """Return what the host shows of itself.

        Raises:
            ImpossibleHostError: the simulation went astray.

        """
        shown = with_attributes(checked(self.snapshot))
        for group, message in self._hidden.items():
            shown = report_less(shown, group, message)
        return shown

    def perform(self, step: Step) -> None:
        """Carry out `step`, with the fault that was laid for this attempt.

        Raises:
            CommandFailedError: the step fails.
            PowerCutError: the process ends here.

        """
        number = len(self.performed)
        self.performed.append(step)
        match self.faults.pop(number, None):
            case None:
                self._carry_out(step)
            case Lies():
                pass
            case DiskVanishes(path=path):
                self.vanish(path)
                self._carry_out(step)
            case DiskReturns(path=path):
                self.bring_back(path)
                self._carry_out(step)
            case LvmReportsLess(group=group, message=message):
                self.hide(group, message)
                self._carry_out(step)
            case fault:
                self._break_off(step, fault)

    def lay(self, fault: Fault, after: int = 0) -> None:
        """Lay `fault` for the attempt that comes after so many more."""
        self.faults[len(self.performed) + after] = fault

    def heal(self) -> None:
        """Take back the faults that were laid, show all that LVM knows, and bring back all disks."""
        self.faults.clear()
        self._hidden.clear()
        for path in tuple(self.away):
            self.bring_back(path)

    def hide(self, group: str, message: str) -> None:
        """Let LVM's report leave the group out, with this message."""
        self._hidden[group] = message

    def vanish(self, path: str) -> None:
        """Take the disk away; one that is not there stays away."""
        if self.snapshot.find_disk(path) is not None:
            self.snapshot, self.away[path] = vanish(self.snapshot, path)

    def bring_back(self, path: str) -> None:
        """Bring the disk back; one that was never away stays."""
        if path in self.away:
            disk = self.away.pop(path)
            self.snapshot = bring_back(self.snapshot, disk, tuple(self.away.values()))

    def reboot(self) -> None:
        """Boot the host again."""
        self.snapshot = reboot(self.snapshot)

    def _carry_out(self, step: Step) -> None:
        self.snapshot = checked(apply_step(self.snapshot, step, len(self.performed)))
        self.took_effect.append(step)

    def _break_off(self, step: Step, fault: Fails | Hangs | Killed | PowerCut) -> None:
        if fault.when == "after":
            self._carry_out(step)
        elif fault.when == "inside":
            self.snapshot = checked(half_done(self.snapshot, step, fault.left, len(self.performed)))
        if isinstance(fault, Fails):
            raise CommandFailedError(f"{step_name(step)} failed", "Exit code: 5", "This failure is simulated.")
        if isinstance(fault, Hangs):
            words = f"Command: {step_name(step)} {target(step)}"
            raise CommandFailedError(f"{step_name(step)} did not end within {_CHANGE_SECONDS} seconds", words)
        if isinstance(fault, PowerCut):
            self.reboot()
        raise PowerCutError


def simulated_snapshot(desired: DesiredState) -> Snapshot:
    """Return the host that `--simulate` shows: no group, engines that stand, and all disks blank.

    They are one for each path that the configuration names, and as many as each of its selectors asks for.
    """
    paths = [path for pool in desired.pools for path in (*pool.config.devices, *pool.config.spare_devices)]
    disks = [_disk(path, place) for place, path in enumerate(dict.fromkeys(paths))]
    selectors = [match for pool in desired.pools for match in pool.config.match for _ in range(match.count)]
    matching = [matching_disk(match, place) for place, match in enumerate(selectors, start=len(disks))]
    return checked(
        Snapshot(
            configured_devices=tuple(
                ConfiguredDevice(disk.links[0] if disk.links else disk.path, disk.path) for disk in disks
            ),
            disks=(*disks, *matching),
            engines=tuple(_engine(engine) for engine in desired.engines),
            boot_id="simulated",
        )
    )


def matching_disk(match: MatchConfig, place: int) -> Disk:
    """Return a blank disk that `match` chooses, the one with the number `place` of its host."""
    words = {key: example_of(glob, place) for key in GLOB_KEYS if (glob := getattr(match, key)) is not None}
    where = words.pop("path", "")
    smallest = parse_size(match.min_size) if match.min_size else 0
    return Disk(
        f"/dev/simulated{place}",
        f"259:{place}",
        max(_DISK_BYTES, smallest),
        diskseq=place + 1,
        serial=words.get("serial", f"SIMULATED{place}"),
        wwn=words.get("wwn", ""),
        model=words.get("model", ""),
        transport=words.get("transport", ""),
        rotational=match.rotational,
        links=(where,) if where.startswith("/") else (),
        id_path="" if where.startswith("/") else where,
    )


def example_of(glob: str, place: int) -> str:
    """Return a text that `glob` matches, where it can another one for each `place`."""
    return _PART_OF_GLOB.sub(lambda part: _example_of_part(part[0], place), glob)


def _example_of_part(part: str, place: int) -> str:
    if part == "*":
        return str(place)
    return next((char for char in string.printable if fnmatchcase(char, part)), part)


def _disk(path: str, place: int) -> Disk:
    node = path if path.count("/") == 2 else f"/dev/simulated{place}"
    links = () if node == path else (path,)
    return Disk(node, f"259:{place}", _DISK_BYTES, diskseq=place + 1, serial=f"SIMULATED{place}", links=links)


def _engine(engine: DesiredEngine) -> Engine:
    named = engine.config.config_file
    return Engine(
        name=engine.name,
        kind=engine.kind,
        installed=True,
        version="20.10.24",
        data_root="/var/lib/docker",
        config_path=named if named.startswith("/") else "/etc/docker/daemon.json",
        service=ServiceState(systemd=True, unit="docker.service", sockets=("docker.socket",), enabled=True),
    )
