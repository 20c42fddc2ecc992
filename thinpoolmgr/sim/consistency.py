"""Which snapshots are impossible: a test that starts from one proves nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinpoolmgr.units import ceil_to

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Snapshot, VolumeGroup


def check_consistent(snapshot: Snapshot) -> list[str]:
    """Return why no host can look like `snapshot`; empty when one can."""
    return [
        *_device_problems(snapshot),
        *_disk_problems(snapshot),
        *(problem for group in snapshot.groups for problem in _group_problems(group)),
        *_engine_problems(snapshot),
    ]


def _device_problems(snapshot: Snapshot) -> list[str]:
    wrong: list[str] = []
    devices = snapshot.dm_devices
    names, numbers = [d.name for d in devices], [d.devno for d in devices]
    if len(set(names)) < len(names) or len(set(numbers)) < len(numbers):
        wrong.append("two device-mapper devices share a name or a number")
    known = {*numbers, *(d.devno for d in snapshot.disks)}
    if not _is_a_disk_away(snapshot):
        wrong += [f"{d.name} stands on nothing" for d in devices if not set(d.depends_on) <= known]
    for device in devices:
        users = sum(device.devno in other.depends_on for other in devices)
        if device.open_count < users:
            wrong.append(f"{device.name} is held by {users} devices and open {device.open_count} times")
        if device.pool_status is not None and device.targets != ("thin-pool",):
            wrong.append(f"{device.name} has a pool's status and is none")
    return wrong


def _is_a_disk_away(snapshot: Snapshot) -> bool:
    """The kernel keeps devices whose disk has gone."""
    missing = any(pv.missing for group in snapshot.groups for pv in group.pvs)
    return missing or any(device.problem == "missing" for device in snapshot.configured_devices)


def _disk_problems(snapshot: Snapshot) -> list[str]:
    paths = {disk.path for disk in snapshot.disks}
    wrong = [
        f"{device.configured_path} leads to an unknown disk"
        for device in snapshot.configured_devices
        if device.disk and device.disk not in paths
    ]
    in_groups = [pv.uuid for group in snapshot.groups for pv in group.pvs if not pv.duplicate]
    if len(set(in_groups)) < len(in_groups) or set(in_groups) & {pv.uuid for pv in snapshot.orphan_pvs}:
        wrong.append("a physical volume stands in two places")
    used = [disk for disk in snapshot.disks if disk.swap]
    return [*wrong, *(f"{disk.path} is in use and not open" for disk in used if disk.opened_exclusively is False)]


def _group_problems(group: VolumeGroup) -> list[str]:
    wrong = []
    used = sum(ceil_to(lv.size_bytes, group.extent_bytes) for lv in group.lvs if not lv.is_thin_pool)
    if used // group.extent_bytes + group.free_extents != group.extent_count:
        wrong.append(f"the extents of {group.name} do not add up")
    if any(pv.missing for pv in group.pvs) != (group.attr[3:4] == "p"):
        wrong.append(f"{group.name} is partial in one place only")
    parts = {lv.name for lv in group.lvs}
    if len(parts) < len(group.lvs) or len({lv.uuid for lv in group.lvs}) < len(group.lvs):
        wrong.append(f"two volumes of {group.name} share a name or a uuid")
    pools = [lv for lv in group.lvs if lv.is_thin_pool and not {lv.data_lv, lv.metadata_lv} <= parts]
    return [*wrong, *(f"{group.name}/{lv.name} lacks its data or metadata LV" for lv in pools)]


def _engine_problems(snapshot: Snapshot) -> list[str]:
    wrong = []
    for engine in snapshot.engines:
        if engine.running and not engine.installed:
            wrong.append(f"{engine.name} runs and is not installed")
        if engine.running is False and (engine.pids or engine.driver):
            wrong.append(f"{engine.name} does not run and has a process or a driver")
    return wrong
