"""LVM's whole state from one `lvm fullreport`: the one file that knows its report format.

Sources: lvmreport(7), lvm-fullreport(8); columns that change a report's type must stand in their own section, or the
command exits 5 and mixes text into the JSON (measured, LVM 2.03.16).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from thinpoolmgr.core.model import LogicalVolume, LvmProfile, PhysicalVolume, VolumeGroup
from thinpoolmgr.core.profiles import PROFILE_FOLDER, PROFILE_PREFIX
from thinpoolmgr.host.locks import is_flocked
from thinpoolmgr.host.runner import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from thinpoolmgr.core.commands import Argv
    from thinpoolmgr.host.runner import CompletedRun

_LOCK_FOLDER = "/run/lock/lvm"
_COLUMNS = {
    "vg": "vg_name,vg_uuid,vg_attr,vg_tags,vg_extent_size,vg_extent_count,vg_free_count,vg_seqno,vg_systemid",
    "pv": "pv_name,pv_uuid,pv_size,dev_size,pv_free,pv_missing,pv_duplicate,pv_tags,pv_allocatable",
    "lv": "lv_name,lv_uuid,lv_attr,lv_tags,lv_size,lv_dm_path,data_lv,metadata_lv,pool_lv,lv_health_status,"
    "lv_when_full,lv_metadata_size,lv_profile,lv_time",
    "seg": "lv_uuid,segtype,chunk_size,discards,zero,devices,transaction_id,seg_monitor",
    "pvseg": "pvseg_start",
}
# What LVM says about a missing PV belongs to its group, which it lists as partial; it hides nothing else. Nor does
# a device of a killed lvextend, of which only the attributes cannot be told (2.03.16).
_HIDES_NOTHING = re.compile(
    r"missing PV|Couldn't find device|devices? (?:file|not found)|Cannot find matching \S+ segment for", re.IGNORECASE
)
# The report itself leaves `pv_duplicate` empty on the device that LVM prefers; only this warning tells (2.03.16).
_DUPLICATE = re.compile(r"Not using device \S+ for PV (\w[\w-]*)")
_TROUBLE = re.compile(r"error|fail|cannot|unable|corrupt|not found|skipping|locked|invalid", re.IGNORECASE)

_PLAIN = re.compile(r"[\w/:@.-]+", re.ASCII)
"""What a path may consist of so that it means itself, or little more, in a pattern of LVM's."""

Row = dict[str, str]


class LvmState(Struct, frozen=True):
    """What LVM lists, and the messages that make the list incomplete."""

    groups: tuple[VolumeGroup, ...] = ()
    orphan_pvs: tuple[PhysicalVolume, ...] = ()
    trouble: tuple[str, ...] = ()


def held_to(argv: Argv, paths: Sequence[str]) -> Argv:
    """Return one of LVM's commands such that it reads these disks alone; of none, all of the host.

    Without that a command waits for each disk of the host that hangs, whatever group it is about (measured, 2.03.16).
    It is not done by `--devices`: in a process that runs several commands (liblvm2cmd) the first one's list holds for
    all that come after it (tools/lvmcmdline.c, enable_devices_list), a `--config` is taken back at each one's end.
    A devices file lists other groups' disks, too, and has LVM ignore all filters, even one in lvm.conf that would hide
    these disks. Hints are for all disks.
    """
    if not (these := _filter_of(paths)):
        return argv
    return _with_settings(argv, f'devices{{use_devicesfile=0 hints="none" filter=["a|.*|"] global_filter={these}}}')


def vgextend_held_to(run: Callable[[Argv], CompletedRun], argv: Argv, paths: Sequence[str]) -> Argv:
    """Return a `vgextend` such that it reads these disks alone; all, where LVM has no room for another filter.

    What hides a disk from LVM must hide it from this command, too: of LVM's two filters it sets the one that nobody has
    set. Nor are hints and devices file switched off: it clears the former, or other commands would miss the new disk,
    and enters that in the latter (lib/label/hints.c, edit_devices_file in tools/vgextend.c). Where there is a devices
    file no filter counts, and all disks in it are read.
    """
    if not (these := _filter_of(paths)):
        return argv
    known = run(("lvm", "lvmconfig"))
    free = [name for name in ("global_filter", "filter") if not re.search(rf"^\s*{name}\b", known.stdout, re.MULTILINE)]
    return _with_settings(argv, f"devices{{{free[0]}={these}}}") if free and known.code == 0 else argv


def _filter_of(paths: Sequence[str]) -> str:
    """Return the filter that lets LVM have these disks alone; empty where it cannot be said."""
    if not paths or not all(_PLAIN.fullmatch(path) for path in paths):
        return ""
    patterns = ",".join(f'"a|^{path}$|"' for path in paths)
    return f'[{patterns},"r|.*|"]'


def _with_settings(argv: Argv, settings: str) -> Argv:
    if "--config" in argv:
        at = argv.index("--config") + 1
        return (*argv[:at], f"{argv[at]} {settings}", *argv[at + 1 :])
    words = 2 if argv[0] == "lvm" else 1
    return (*argv[:words], "--config", settings, *argv[words:])


def report_command(group: str = "") -> Argv:
    """Return the one command that reports groups, physical and logical volumes and segments as JSON.

    With the name of a `group` only that one is in it, and no lock of another one is waited for.
    """
    sections = [word for name, columns in _COLUMNS.items() for word in ("--configreport", name, "-o", columns)]
    return (
        "lvm",
        "fullreport",
        "--all",
        "--foreign",
        "--shared",
        "--reportformat",
        "json",
        "--units",
        "b",
        "--nosuffix",
        # Whatever lvm.conf asks for: seconds since 1970.
        "--config",
        'report{time_format="%s"}',
        *sections,
        *([group] if group else []),
    )


def read_lvm(run: Callable[[Argv], CompletedRun], group: str = "", disks: Sequence[str] = ()) -> LvmState:
    """Return LVM's state on this host, or of one `group`; runs one process, and locks no longer than a report does.

    With `disks` it is what these alone tell (`held_to`).

    Raises:
        UnavailableError: LVM is not installed.

    """
    done = run(held_to(report_command(group), disks))
    trouble = [line.strip() for line in printable(done.stderr).splitlines() if _is_trouble(line)]
    try:
        groups, orphans = parse_report(done.stdout)
    except (ValueError, KeyError, TypeError) as error:
        return LvmState(trouble=(*trouble, f"lvm fullreport (exit code {done.code}) could not be read: {error!r}"))
    twice = set(_DUPLICATE.findall(done.stderr))
    groups = tuple(msgspec.structs.replace(group, pvs=_marked(group.pvs, twice)) for group in groups)
    orphans = _marked(orphans, twice)
    if done.code != 0:
        trouble.append(f"lvm fullreport ended with exit code {done.code}")
    return LvmState(groups, orphans, tuple(trouble))


def read_unused(run: Callable[[Argv], CompletedRun], disk: str) -> tuple[PhysicalVolume, ...]:
    """Return `disk` if it carries LVM's label and is in no group; nothing where that is in doubt.

    No lock is waited for: the group that it may well be in has one, too.
    """
    if not _filter_of((disk,)):
        return ()
    said: list[str] = []

    def read(argv: Argv) -> CompletedRun:
        done = run(_with_settings(argv, "global{wait_for_locks=0}"))
        said.append(done.stderr)
        return done

    state = read_lvm(read, disks=(disk,))
    # A disk of a group whose metadata are on its other disks alone (pvcreate --pvmetadatacopies 0).
    is_used = any("marked in use" in text for text in said)
    return () if state.trouble or state.groups or is_used else state.orphan_pvs


def _marked(pvs: tuple[PhysicalVolume, ...], twice: set[str]) -> tuple[PhysicalVolume, ...]:
    return tuple(msgspec.structs.replace(pv, duplicate=pv.duplicate or pv.uuid in twice) for pv in pvs)


def _is_trouble(line: str) -> bool:
    return bool(_TROUBLE.search(line)) and not _HIDES_NOTHING.search(line)


def is_group_locked(group: str) -> bool:
    """Whether a command of LVM's is changing `group` just now, by the kernel's list of locks (lvm(8), file locking)."""
    return is_flocked(f"{_LOCK_FOLDER}/V_{group}")


def can_take_disks() -> bool:
    """Whether the lock that LVM needs for that is free: a report on all groups has it, and may wait for any of them."""
    return not is_flocked(f"{_LOCK_FOLDER}/P_global")


def read_profiles(folder: str = PROFILE_FOLDER) -> tuple[LvmProfile, ...]:
    """Return the profile files of our making, by name; what cannot be read has a text that no profile has."""
    found = []
    for path in sorted(Path(folder).glob(f"{PROFILE_PREFIX}*.profile")):
        try:
            text = path.read_text("utf-8")
        except (OSError, ValueError) as error:
            text = f"unreadable: {error}"
        found.append(LvmProfile(path.name.removesuffix(".profile"), text))
    return tuple(found)


def parse_report(stdout: str) -> tuple[tuple[VolumeGroup, ...], tuple[PhysicalVolume, ...]]:
    """Return the volume groups and the physical volumes without one, from a report's JSON.

    Raises:
        ValueError: it is no JSON, or a number in it is none.
        KeyError: a column is missing.
        TypeError: it is another document than LVM's.

    """
    groups: list[VolumeGroup] = []
    orphans: list[PhysicalVolume] = []
    for report in json.loads(stdout)["report"]:
        pvs = tuple(_pv(row) for row in report.get("pv", ()))
        rows = report.get("vg", ())
        if rows and rows[0]:
            groups.append(_group(rows[0], pvs, report))
        else:
            # LVM calls none allocatable that is in no group.
            orphans += (msgspec.structs.replace(pv, is_allocatable=True) for pv in pvs)
    return tuple(groups), tuple(orphans)


def _group(row: Row, pvs: tuple[PhysicalVolume, ...], report: dict[str, Any]) -> VolumeGroup:
    segments: dict[str, Row] = {}
    for segment in report.get("seg", ()):
        segments.setdefault(segment["lv_uuid"], segment)
    return VolumeGroup(
        name=row["vg_name"],
        uuid=row["vg_uuid"],
        attr=row["vg_attr"],
        extent_bytes=int(row["vg_extent_size"]),
        extent_count=int(row["vg_extent_count"]),
        free_extents=int(row["vg_free_count"]),
        seqno=int(row["vg_seqno"]),
        tags=_words(row["vg_tags"]),
        system_id=row["vg_systemid"],
        pvs=pvs,
        lvs=tuple(_lv(lv, segments.get(lv["lv_uuid"], {})) for lv in report.get("lv", ()) if lv),
    )


def _pv(row: Row) -> PhysicalVolume:
    return PhysicalVolume(
        path=row["pv_name"],
        uuid=row["pv_uuid"],
        size_bytes=_number(row["dev_size"]) or _number(row["pv_size"]),
        free_bytes=_number(row["pv_free"]),
        missing=bool(row["pv_missing"]),
        duplicate=bool(row["pv_duplicate"]),
        tags=_words(row["pv_tags"]),
        is_allocatable=bool(row["pv_allocatable"]),
    )


def _lv(row: Row, segment: Row) -> LogicalVolume:
    is_pool = segment.get("segtype") == "thin-pool"
    return LogicalVolume(
        name=_bare(row["lv_name"]),
        uuid=row["lv_uuid"],
        segment_type=segment.get("segtype", ""),
        size_bytes=_number(row["lv_size"]),
        attr=row["lv_attr"],
        tags=_words(row["lv_tags"]),
        dm_name=row["lv_dm_path"].removeprefix("/dev/mapper/"),
        data_lv=_bare(row["data_lv"]),
        metadata_lv=_bare(row["metadata_lv"]),
        pool_lv=_bare(row["pool_lv"]),
        chunk_bytes=_number(segment.get("chunk_size", "")) if is_pool else 0,
        discards=segment.get("discards", ""),
        zero=segment.get("zero") == "zero" if is_pool else None,
        when_full=row["lv_when_full"],
        transaction_id=_number(segment.get("transaction_id", "")) if is_pool else None,
        metadata_bytes=_number(row["lv_metadata_size"]),
        health=row["lv_health_status"],
        devices=_words(segment.get("devices", "")),
        profile=row["lv_profile"],
        made_at=_seconds(row["lv_time"]),
        monitored=segment.get("seg_monitor") == "monitored",
    )


def _seconds(text: str) -> float | None:
    return float(text) if text.isdecimal() else None


def _bare(name: str) -> str:
    # Hidden volumes are shown in brackets.
    return name.strip("[]")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _number(text: str) -> int:
    return int(text) if text else 0
