"""What `status --watch` shows: the last look at the host, kept fresh from the kernel's cheap status of the pools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from thinpoolmgr.core.documents import PoolDocument, StatusDocument
from thinpoolmgr.core.findings import FINDINGS, Finding
from thinpoolmgr.core.lifecycle import view_pool
from thinpoolmgr.core.report import MonitorReport, WatchedPool, watched_names
from thinpoolmgr.core.trend import Reading, Trend, keep, trend_of

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredPool, DesiredState
    from thinpoolmgr.core.model import DmDevice, Snapshot

Readings = dict[tuple[str, str], tuple[Reading, ...]]
"""By the pool's name and its part."""


class LivePool(Struct, frozen=True):
    """One pool of the live view."""

    document: PoolDocument
    data: Trend | None = None
    metadata: Trend | None = None
    watched: WatchedPool | None = None
    """What the monitor knows of it; None: no monitor runs, or it does not have this pool."""
    is_unwatched: bool = False
    """The monitor is to extend it, and does not run, or does not look at it."""


class LiveStatus(Struct, frozen=True):
    """The whole view at one time."""

    pools: tuple[LivePool, ...]
    findings: tuple[Finding, ...]
    problem: str = ""
    """Why a later look failed: this is what the last one saw."""
    is_of_the_kernel: bool = False
    """Of that look only LVM's part failed: what the kernel and the monitor tell is new."""


def device_names(desired: DesiredState, snapshot: Snapshot) -> tuple[str, ...]:
    """Return the names of the devices that are the pools, or would be."""
    return tuple(view_pool(pool, snapshot).dm_name for pool in desired.pools)


def freshen(snapshot: Snapshot, read: dict[str, DmDevice | None]) -> Snapshot | None:
    """Return `snapshot` with the devices as they are now; None: more than their use changed, and LVM must be asked."""
    for name, now in read.items():
        before = snapshot.find_dm(name)
        if (before is None) != (now is None) or (before and now and _looks(before) != _looks(now)):
            return None
    return with_devices(snapshot, read)


def with_devices(snapshot: Snapshot, read: dict[str, DmDevice | None]) -> Snapshot:
    """Return `snapshot` with its devices as they are now, whatever has changed; LVM's part is as old as before.

    What is new is left out: of a pool that LVM has not told of yet it would look as if LVM had lost it.
    """
    now = (read.get(device.name, device) for device in snapshot.dm_devices)
    return replace(snapshot, dm_devices=tuple(device for device in now if device))


def _looks(device: DmDevice) -> tuple[object, ...]:
    """What LVM, or a person, does to a pool: its sizes, its table, its mode; not its use."""
    status = device.pool_status
    sizes = (status.total_data_blocks, status.total_metadata_blocks, status.mode, status.needs_check) if status else ()
    return (device.uuid, device.table, device.suspended, *sizes)


def read_uses(readings: Readings, status: StatusDocument, at: float) -> Readings:
    """Return `readings` with what `status` shows, read at the time `at`; pools that do not run have none."""
    uses = {
        (pool.name, part): Reading(at, use.used_bytes, use.total_bytes)
        for pool in status.pools
        for part, use in (("data", pool.data), ("metadata", pool.metadata))
        if use is not None
    }
    return {key: keep(readings.get(key, ()), reading) for key, reading in uses.items()}


def live_status(
    desired: DesiredState, status: StatusDocument, readings: Readings, report: MonitorReport | None, now: float
) -> LiveStatus:
    """Return the view; `report` is that of a monitor that runs, `now` in seconds since 1970."""
    wanted = {pool.name: pool for pool in desired.pools}
    looked_after = watched_names(report, now) if report else ()
    pools = tuple(_live(pool, wanted.get(pool.name), readings, report, looked_after) for pool in status.pools)
    return LiveStatus(pools, with_monitors(status.findings, report))


def _live(
    pool: PoolDocument,
    wanted: DesiredPool | None,
    readings: Readings,
    report: MonitorReport | None,
    looked_after: tuple[str, ...],
) -> LivePool:
    data, metadata = (trend_of(readings.get((pool.name, part), ())) for part in ("data", "metadata"))
    watched = next((each for each in report.pools if each.name == pool.name), None) if report else None
    is_its = wanted is not None and wanted.config.extend.monitor == "thinpoolmgr"
    return LivePool(pool, data, metadata, watched, is_its and pool.name not in looked_after)


def with_monitors(findings: tuple[Finding, ...], report: MonitorReport | None) -> tuple[Finding, ...]:
    """Return `findings` and those of a monitor that runs; what both see is there once."""
    found = {(finding.code, finding.target): finding for finding in findings}
    for pool in report.pools if report else ():
        for seen in pool.findings:
            # A monitor of a later version may know more codes, and BUG is none of the host's.
            severity = FINDINGS[seen.code].severity if seen.code in FINDINGS else "error"
            found.setdefault((seen.code, seen.target), Finding(seen.code, severity, seen.target, seen.summary))
    return tuple(found.values())
