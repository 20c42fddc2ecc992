"""Which disks the selectors of a configuration, `[[pools.NAME.match]]`, choose: exactly as many as asked for, or none.

Only what makes a pool needs to know its disks. To activate it, or to take it down, LVM finds them by uuid: what the
selectors would choose by then stops neither.

A selector judges what a disk is, never whether it is in use: of two disks that it cannot tell apart, the one that
happens to be free must not be taken. Whether a chosen disk may be written to is decided by the guards, as for a disk
that is named.

One exception keeps a host that is as described from being refused when a disk is added to it: physical volumes of the
pool's own group come first, and when they are as many as asked for, the others that match are spares on the shelf.

Spare disks of the pool are left out as long as they are not in its group. Once the monitor has taken one, `count` may
count it or not: the host is as described either way, and no other disk is chosen for it.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from msgspec import Struct
from msgspec.structs import replace

from thinpoolmgr.core.desired import GLOB_KEYS, SELECTOR_KEYS, DesiredPool, DesiredState, MatchConfig, toml_value
from thinpoolmgr.core.model import Disk, Snapshot, VolumeGroup
from thinpoolmgr.core.names import OUR_TAG
from thinpoolmgr.core.plan import Refusal
from thinpoolmgr.units import format_size, parse_size

WHOLE_KINDS = frozenset({"disk", "loop", "md", "multipath"})
"""Kinds of disks that a selector may choose; all others have to be named."""
_MULTIPATH_UUID = "mpath-"
_LISTED = 20
# Names that stay when a disk is plugged in elsewhere, the best first. What LVM writes on a disk is not the disk's.
_BY_ID = "/dev/disk/by-id/"
_OF_CONTENTS = (f"{_BY_ID}lvm-pv-uuid-",)
_STABLE = (
    *(f"{_BY_ID}{kind}" for kind in ("wwn-", "nvme-eui.", "nvme-uuid.", "dm-uuid-mpath-", "md-uuid-", "")),
    "/dev/mapper/",
    "/dev/disk/by-path/",
)


class Miss(Struct, frozen=True):
    """One key of a selector that a disk does not meet, and what the disk has instead."""

    key: str
    has: str


def resolve_matches(desired: DesiredState, snapshot: Snapshot) -> tuple[DesiredState, list[Refusal]]:
    """Return `desired` with the disks that its selectors choose as devices, and why some of them choose none.

    A pool with a refusal keeps its selectors and has no devices. Resolving what is resolved already changes nothing.
    """
    taken = _named_disks(desired, snapshot)
    refusals: list[Refusal] = []
    pools = []
    for pool in desired.pools:
        resolved, problems = (pool, []) if pool.config.devices else _resolve_pool(pool, snapshot, taken)
        pools.append(resolved)
        refusals += problems
    return replace(desired, pools=tuple(pools)), refusals


def is_unresolved(pool: DesiredPool) -> bool:
    """Whether `pool` has selectors, and what they choose is not known."""
    return bool(pool.config.match) and not pool.config.devices


def missing_disks(desired: DesiredState, snapshot: Snapshot) -> tuple[str, ...]:
    """Return what `desired` names or selects and `snapshot`, of which devices, disks and groups count, does not have.

    A selector that more disks fit than it asks for misses none: no disk that is still to come would change that. Spare
    disks are not missing where the groups are known, and the pool's is whole.
    """
    gone = {device.configured_path for device in snapshot.configured_devices if device.problem == "missing"}
    named = [path for pool in desired.pools for path in pool.config.devices]
    named += [path for pool in desired.pools if needs_spares(pool, snapshot) for path in pool.config.spare_devices]
    selectors = [
        f"pools.{pool.name}.match[{place}] ({describe_selector(match)})"
        for pool in desired.pools
        for place, match in enumerate(pool.config.match)
        if len(_there(match, pool, snapshot)) < match.count
    ]
    return (*(path for path in dict.fromkeys(named) if path in gone), *selectors)


def needs_spares(pool: DesiredPool, snapshot: Snapshot) -> bool:
    """Whether a spare disk that is away may carry `pool`, or a part of it: one of them is not there, or not whole."""
    group = snapshot.find_group(pool.group)
    return group is None or group.is_partial or group.find_lv(pool.lv) is None


def _there(match: MatchConfig, pool: DesiredPool, snapshot: Snapshot) -> list[Disk]:
    """Return the disks that match; without spare disks where another one of the pool's group is still to come."""
    fitting, group = _choose(match, pool, snapshot)[1], _our_group(pool, snapshot)
    spares = _own_spares(pool, snapshot) if group and group.is_partial else {}
    return [disk for disk in fitting if disk.path not in spares]


def is_wanted(disk: Disk, pool: DesiredPool, snapshot: Snapshot) -> bool:
    """Whether any selector of `pool` may choose `disk`."""
    return is_candidate(disk, snapshot) and any(not misses(match, disk) for match in pool.config.match)


def is_candidate(disk: Disk, snapshot: Snapshot) -> bool:
    """Whether a selector may choose `disk` at all: a whole disk with a size that is no path of a multipath device."""
    return disk.kind in WHOLE_KINDS and disk.size_bytes > 0 and not multipath_over(disk, snapshot)


def multipath_over(disk: Disk, snapshot: Snapshot) -> str:
    """Return the name of the multipath device that `disk` is a path of; empty when it is none."""
    maps = (d for d in snapshot.dm_devices if d.uuid.startswith(_MULTIPATH_UUID) and disk.devno in d.depends_on)
    return next((device.name for device in maps), "")


def misses(match: MatchConfig, disk: Disk) -> list[Miss]:
    """Return the keys of `match` that `disk` does not meet; none when it matches. What is unknown is not met."""
    given = [key for key in SELECTOR_KEYS if getattr(match, key) is not None]
    return [Miss(key, _has(disk, key)) for key in given if not _meets(disk, key, match)]


def _meets(disk: Disk, key: str, match: MatchConfig) -> bool:
    wanted = getattr(match, key)
    if key in GLOB_KEYS:
        return any(value and fnmatchcase(value, wanted) for value in _values(disk, key))
    if key == "min_size":
        return disk.size_bytes >= parse_size(wanted)
    return disk.rotational is not None and disk.rotational == wanted


def _values(disk: Disk, key: str) -> tuple[str, ...]:
    return (disk.id_path, disk.path, *disk.links) if key == "path" else (getattr(disk, key),)


def _has(disk: Disk, key: str) -> str:
    if key == "min_size":
        return format_size(disk.size_bytes)
    if key == "rotational":
        return {True: "true", False: "false", None: "nothing: the kernel does not say"}[disk.rotational]
    return ", ".join(value for value in _values(disk, key)[:2] if value) or "nothing: udev does not say"


def describe_selector(match: MatchConfig) -> str:
    """Return what `match` asks of a disk, as the configuration says it, without its count."""
    words = {key: getattr(match, key) for key in SELECTOR_KEYS if getattr(match, key) is not None}
    return ", ".join(f"{key} = {toml_value(value)}" for key, value in words.items())


def stable_name(disk: Disk, snapshot: Snapshot) -> str:
    """Return the name of `disk` that stays the same for longest, its device node when it has no other.

    A name that another disk claims, too, is none: disks with equal serials, and the paths of a multipath device.
    """
    elsewhere = {link for other in snapshot.disks if other.path != disk.path for link in other.links}
    usable = [link for link in disk.links if link not in elsewhere and not link.startswith(_OF_CONTENTS)]
    for prefix in _STABLE:
        found = [link for link in usable if link.startswith(prefix)]
        if found:
            return min(found, key=lambda link: (len(link), link))
    return disk.path


def describe_disk(disk: Disk) -> str:
    """Return what tells `disk` from others, in one line."""
    facts = [f"serial {disk.serial}" if disk.serial else "no serial", f"model {disk.model}" if disk.model else ""]
    return ", ".join(filter(None, (disk.path, format_size(disk.size_bytes), *facts)))


def _named_disks(desired: DesiredState, snapshot: Snapshot) -> dict[str, str]:
    """Return who has which disk already: those that pools name, by the paths of the disks."""
    named: dict[str, str] = {}
    for pool in desired.pools:
        for key, paths in (("devices", pool.config.devices), ("spare_devices", pool.config.spare_devices)):
            named |= {disk.path: f"pools.{pool.name}.{key}" for p in paths if (disk := snapshot.find_disk(p))}
    return named


def _resolve_pool(pool: DesiredPool, snapshot: Snapshot, taken: dict[str, str]) -> tuple[DesiredPool, list[Refusal]]:
    """Choose for each selector of `pool`; what is chosen is entered in `taken`."""
    chosen: list[tuple[Disk, str]] = []
    refusals: list[Refusal] = []
    for place, match in enumerate(pool.config.match):
        where = f"pools.{pool.name}.match[{place}]"
        disks, fitting = _choose(match, pool, snapshot)
        if len(disks) != match.count:
            refusals.append(_wrong_count(match, where, fitting, pool, snapshot))
            continue
        own = f"pools.{pool.name}.spare_devices"
        refusals += [_taken_twice(disk, where, by) for disk in disks if (by := taken.get(disk.path, own)) != own]
        taken |= {disk.path: where for disk in disks}
        chosen += [(disk, f"match[{place}]: {describe_selector(match)}") for disk in disks]
    if refusals:
        return pool, refusals
    # A spare disk that is counted has one name only, or it would be a disk that is named twice.
    spares = _own_spares(pool, snapshot)
    names = tuple(spares.get(disk.path) or stable_name(disk, snapshot) for disk, _ in chosen)
    config = replace(pool.config, devices=names)
    return replace(pool, config=config, chosen_by=tuple(selector for _, selector in chosen)), []


def _choose(match: MatchConfig, pool: DesiredPool, snapshot: Snapshot) -> tuple[list[Disk], list[Disk]]:
    """Return the disks that are chosen, and all that match: of the pool's own spare disks those in its group."""
    group, spares = _our_group(pool, snapshot), _own_spares(pool, snapshot)
    present = {pv.path for pv in group.pvs} if group else set()
    fitting = [disk for disk in _all_fitting(match, snapshot) if disk.path in present or disk.path not in spares]
    ours = [disk for disk in fitting if disk.path in present and disk.path not in spares]
    taken = [disk for path in spares for disk in fitting if disk.path == path]
    if len(ours) <= match.count <= len(ours) + len(taken):
        return [*ours, *taken[: match.count - len(ours)]], fitting
    return fitting, fitting


def _all_fitting(match: MatchConfig, snapshot: Snapshot) -> list[Disk]:
    return [disk for disk in snapshot.disks if is_candidate(disk, snapshot) and not misses(match, disk)]


def _own_spares(pool: DesiredPool, snapshot: Snapshot) -> dict[str, str]:
    """Return how the configuration names the spare disks of `pool` that are there, by their paths and in its order."""
    return {disk.path: path for path in pool.config.spare_devices if (disk := snapshot.find_disk(path))}


def _our_group(pool: DesiredPool, snapshot: Snapshot) -> VolumeGroup | None:
    group = snapshot.find_group(pool.group)
    return group if group is not None and OUR_TAG in group.tags else None


def _wrong_count(match: MatchConfig, where: str, fitting: list[Disk], pool: DesiredPool, snapshot: Snapshot) -> Refusal:
    found = len(fitting)
    is_plural = match.count > 1
    summary = f"{where} must match exactly {match.count} disk{'s' if is_plural else ''}, and {found or 'none'} "
    lines = [f"It asks for {describe_selector(match)}."]
    lines += _at_most([f"Matches: {describe_disk(disk)}; {describe_use(disk, snapshot)}" for disk in fitting])
    left_out = [disk for disk in _all_fitting(match, snapshot) if disk not in fitting]
    lines += [f"Left out: {describe_disk(disk)}; pools.{pool.name}.spare_devices names it" for disk in left_out]
    lines += _at_most(_near_misses(match, snapshot))
    group = _our_group(pool, snapshot)
    lines += [f"A disk of the volume group {group.name} is missing."] if group and group.is_partial else []
    more = f"Narrow it, with a serial or a path; or set count = {found} if all of them are meant."
    fewer = "Attach the disk, or change what is asked for: udevadm info --query=property DEVICE shows what a disk has."
    resolution = more if found > match.count else fewer
    return Refusal("MATCH_COUNT", where, summary + ("matches" if found == 1 else "match"), "\n".join(lines), resolution)


def _at_most(lines: list[str]) -> list[str]:
    left = len(lines) - _LISTED
    return [*lines[:_LISTED], f"... and {left} more like this"] if left > 0 else lines


def _near_misses(match: MatchConfig, snapshot: Snapshot) -> list[str]:
    found = [(disk, misses(match, disk)) for disk in snapshot.disks if is_candidate(disk, snapshot)]
    # With one key only, every disk would be a near miss: those of a host are few, and shown what they have instead.
    return [
        f"Fails only {miss[0].key}: {describe_disk(disk)}; {miss[0].key} is {miss[0].has}"
        for disk, miss in found
        if len(miss) == 1
    ]


def describe_use(disk: Disk, snapshot: Snapshot) -> str:
    """Return by what `disk` is in use, as far as it was looked at; `unused` when by nothing."""
    group = snapshot.find_group_on(disk)
    uses = [
        f"mounted on {', '.join(disk.mounts[:3])}" if disk.mounts else "",
        "swap" if disk.swap else "",
        f"in the volume group {group.name}" if group else "",
        f"held by {', '.join(disk.holders[:3])}" if disk.holders and not group else "",
    ]
    opened = {True: "opened exclusively", False: "unused", None: "whether it is in use is unknown"}
    return ", ".join(filter(None, uses)) or opened[disk.opened_exclusively]


def _taken_twice(disk: Disk, where: str, other: str) -> Refusal:
    return Refusal(
        "MATCH_TWICE",
        where,
        f"{where} and {other} both take {disk.path}",
        f"It is {describe_disk(disk)}.",
        f"Narrow one of the two, so that each disk is taken once: {where}.",
    )
