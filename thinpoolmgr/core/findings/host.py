"""Findings about what pools stand on: disks, tools, udev's cookies, and the journal."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from msgspec import Struct

from thinpoolmgr.core.conditions import Condition, condition_of, why_not_done
from thinpoolmgr.core.desired import unstable_names
from thinpoolmgr.core.findings.sighting import Sighting, sight
from thinpoolmgr.core.guards import path_code, unusable_spares
from thinpoolmgr.core.journal import Doing, Done, Failed, Run, StoredRun, finishing_request, fold_run, unfinished_runs
from thinpoolmgr.core.lifecycle import PoolState, PoolView
from thinpoolmgr.core.steps import step_name, target

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredPool
    from thinpoolmgr.core.model import Snapshot
    from thinpoolmgr.core.steps import Step

_COOKIE_SECONDS = 3600.0
"""As long as a command that changes something may take."""
_NO_STABLE_NAME = (
    "No name below /dev/disk/by-id leads to it: give the disk a serial number (in a virtual machine's settings), "
    "and name it by that."
)
_PACKAGES = {
    "lvm": "lvm2",
    "dmsetup": "dmsetup",
    "thin_check": "thin-provisioning-tools",
    "mkfs.xfs": "xfsprogs",
    "mkfs.ext4": "e2fsprogs",
}


class Cookie(Struct, frozen=True):
    """One of udev's cookies for device-mapper: a semaphore that a command waits on."""

    name: str
    """Key of its semaphore, as `ipcrm -S` takes it: `0xd4d1234`."""
    made_at: float
    """Seconds since 1970."""


class HostFacts(Struct, frozen=True):
    """What no snapshot shows and no plan depends on."""

    missing_tools: tuple[str, ...] = ()
    cookies: tuple[Cookie, ...] = ()
    has_monitor: bool = True
    """Whether the monitor runs."""
    watched: tuple[str, ...] | None = None
    """The pools that it says it looks at; None: it has not said."""


class Journal(Struct, frozen=True):
    """The journal as it could be read."""

    stored: tuple[StoredRun, ...] = ()
    is_locked: bool = False
    """A run is under way."""

    @property
    def damaged(self) -> tuple[StoredRun, ...]:
        """The files that cannot be trusted: while there is one, nothing is changed on this host."""
        return tuple(run for run in self.stored if run.damage)

    def runs(self) -> list[Run]:
        """Return the runs, oldest first; none while a file is damaged, because what it holds may matter."""
        if self.damaged:
            return []
        return [run for stored in self.stored if (run := fold_run(list(stored.records))) is not None]


def disk_sightings(pool: DesiredPool, snapshot: Snapshot) -> list[Sighting]:
    """Return what is to be said about the devices that the configuration names for `pool`."""
    spares = unusable_spares(pool, snapshot)
    evidence = f"pools.{pool.name}.spare_devices names it, and the volume group {pool.group} is whole without it"
    found = [sight("SPARE_UNUSABLE", path, evidence, pool=pool.name, what=what) for path, what in spares.items()]
    for path in (*pool.config.devices, *pool.config.spare_devices):
        device = next((d for d in snapshot.configured_devices if d.configured_path == path), None)
        if device is not None and device.problem and path not in spares:
            evidence = f"pools.{pool.name} of the configuration names it: {device.problem}"
            found.append(sight(path_code(device.problem), path, evidence, pool=pool.name))
    for path in unstable_names(pool):
        disk = snapshot.find_disk(path)
        if disk is not None:
            links = [link for link in disk.links if link.startswith("/dev/disk/by-id/")]
            evidence = f"the kernel numbers disks as it finds them; serial {disk.serial or 'unknown'}"
            way = f"Write {links[0]} in pools.{pool.name} instead." if links else _NO_STABLE_NAME
            found.append(sight("DISK_NAME_UNSTABLE", path, evidence, pool=pool.name, resolution=way))
    return found


def tool_sightings(facts: HostFacts, journal: Journal) -> list[Sighting]:
    """Return the tools that are missing, and the cookies that steps of ours left."""
    reasons = {
        "thin_check": "without it LVM activates no thin pool: thin_check: execvp failed",
        "lvm": "without it nothing can be said about any pool",
    }
    missing = [
        sight(
            "TOOL_MISSING",
            tool,
            reasons.get(tool, "it is looked for in the system's folders for programs only"),
            package=_PACKAGES.get(tool, tool),
        )
        for tool in facts.missing_tools
    ]
    spans = _killed_at(journal)
    leaked = []
    for cookie in facts.cookies:
        within = [span for span in spans if -1 <= cookie.made_at - span[0] <= _COOKIE_SECONDS]
        if within:
            _, run, step = within[-1]
            leaked.append(sight("UDEV_COOKIE_LEAKED", cookie.name, f"it was made within step {step} of the run {run}"))
    return [*missing, *leaked]


def watch_sightings(facts: HostFacts, view: PoolView) -> list[Sighting]:
    """Return that nobody extends the pool of `view`: the monitor, whose it is, does not run, or look at it."""
    is_its = view.pool.config.extend.monitor == "thinpoolmgr"
    name, path = view.pool.name, view.pool.path
    is_watched = facts.has_monitor and (facts.watched is None or name in facts.watched)
    if is_watched or not is_its or view.status is None or view.state is PoolState.FOREIGN:
        return []
    what, why = "does not run", "no monitor holds its lock"
    if facts.has_monitor:
        what, why = "does not look at it", "the monitor's report does not have it, or looked at two minutes ago"
    evidence = f"pools.{name}.extend.monitor is thinpoolmgr, and {why}"
    return [sight("MONITOR_NOT_RUNNING", path, evidence, pool=name, path=path, what=what)]


def _killed_at(journal: Journal) -> list[tuple[float, str, str]]:
    """Return when steps began that have neither an end nor a failure, and belong to no run under way."""
    stored = journal.stored[:-1] if journal.is_locked else journal.stored
    return [
        (at, run.name, record.id)
        for run in stored
        for record in run.records
        if isinstance(record, Doing) and not _has_ended(record, run) and (at := _seconds(record.at)) is not None
    ]


def _has_ended(doing: Doing, run: StoredRun) -> bool:
    return any(isinstance(record, Done | Failed) and record.id == doing.id for record in run.records)


def _seconds(at: str) -> float | None:
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return None


def journal_sightings(journal: Journal, snapshot: Snapshot | None) -> list[Sighting]:
    """Return what is wrong with the journal: damage, and a run that was not finished."""
    damaged = [
        sight("JOURNAL_DAMAGED", run.name, f"{run.file}: {run.damage}", file=run.file) for run in journal.damaged
    ]
    unfinished = [] if journal.is_locked else unfinished_runs(journal.runs())
    if damaged or not unfinished or snapshot is None:
        return damaged
    files = {run.name: run.file for run in journal.stored}
    for run in unfinished:
        for step in run.open_steps:
            if condition_of(step, snapshot) is Condition.STUCK:
                evidence = f"{_what(step)}: {why_not_done(step, snapshot)}"
                name = run.began.run
                return [sight("NEEDS_PERSON", name, evidence, file=files.get(name, f"{name}.jsonl"))]
    last = unfinished[-1]
    request = finishing_request(last)
    return [sight("RUN_INTERRUPTED", last.began.run, _where(last), *([request] if request else []))]


def _where(run: Run) -> str:
    steps, total = run.began.steps, len(run.began.steps)
    open_steps = run.open_steps
    if run.failed is not None and open_steps:
        error = run.failed.error.strip().partition("\n")[0]
        return f"step {open_steps[-1].id} of {total}, {_what(open_steps[-1])}, failed: {error}"
    if open_steps:
        return f"step {open_steps[-1].id} of {total}, {_what(open_steps[-1])}, was begun and not seen to be done"
    left = [step for step in steps if step.id not in run.done]
    if left:
        return f"{total - len(left)} of {total} steps are done; the next is {left[0].id}, {_what(left[0])}"
    return f"all {total} steps are done, and the host was not seen to be as described"


def _what(step: Step) -> str:
    return f"{step_name(step).replace('-', ' ')} {target(step)}"
