"""LVM's rules for names, and the names and uuids that device-mapper makes of them.

Source: lvm(8) "VALID NAMES", lib/misc/lvm-string.c, libdm/libdm-string.c (LVM 2.03).
"""

from __future__ import annotations

import re

from thinpoolmgr.core.model import DmDevice, VolumeGroup

OUR_TAG = "thinpoolmgr"
_NAME = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]*", re.ASCII)
_MAX_NAME = 127
_RESERVED_PREFIXES = ("pvmove", "snapshot")
_RESERVED_PARTS = (
    *("_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_wcorig", "_mimage", "_mlog", "_rimage", "_rmeta"),
    *("_tdata", "_tmeta", "_vdata", "_imeta", "_iorig", "_pmspare", "_vorigin"),
)
_LAYERS = ("", "-tpool", "-tdata", "-tmeta")


def group_name_problem(name: str) -> str:
    """Return why `name` cannot be a volume group's name; empty when it can."""
    if len(name) > _MAX_NAME:
        return f"is {len(name)} characters long; LVM allows {_MAX_NAME}"
    if name in (".", ".."):
        return "is a directory's name"
    if not _NAME.fullmatch(name):
        return "must consist of letters, digits and _ + . -, and must not begin with -"
    return ""


def lv_name_problem(name: str) -> str:
    """Return why `name` cannot be a logical volume's name; empty when it can."""
    problem = group_name_problem(name)
    if problem:
        return problem
    for prefix in _RESERVED_PREFIXES:
        if name.startswith(prefix):
            return f"must not begin with {prefix!r}, which LVM keeps for itself"
    for part in _RESERVED_PARTS:
        if part in name:
            return f"must not contain {part!r}, which LVM keeps for itself"
    return ""


def dm_name_problem(group: str, pool: str) -> str:
    """Return why the names make a device-mapper name that is too long; empty when they do not.

    LVM notices this only after it has written metadata, so it is checked beforehand.
    """
    longest = pool_dm_name(group, f"{pool}_tdata")
    if len(longest) > _MAX_NAME:
        return (
            f"makes the device-mapper name {longest[:40]}..., {len(longest)} characters long; {_MAX_NAME} are possible"
        )
    return ""


def pool_dm_name(group: str, lv: str) -> str:
    """Return the device-mapper name of an LV: hyphens doubled, joined by one hyphen."""
    return f"{_mangle(group)}-{_mangle(lv)}"


def _mangle(name: str) -> str:
    return name.replace("-", "--")


def bare_uuid(uuid: str) -> str:
    """Return an LVM uuid without its hyphens, as it stands in device-mapper uuids."""
    return uuid.replace("-", "")


def devices_of_group(group_uuid: str, devices: tuple[DmDevice, ...]) -> tuple[DmDevice, ...]:
    """Return the device-mapper devices that LVM made for the group with this uuid."""
    prefix = f"LVM-{bare_uuid(group_uuid)}"
    return tuple(device for device in devices if device.uuid.startswith(prefix))


def live_pool_device(group: VolumeGroup, lv_uuid: str, devices: tuple[DmDevice, ...]) -> DmDevice | None:
    """Return the device whose target is the pool itself; None when the pool is not active.

    Once a pool has an LVM thin volume its live device carries the uuid suffix `-tpool` and the plain one is
    a mere cover; pools for engines have the plain one only. Targets decide, names do not.
    """
    wanted = {f"LVM-{bare_uuid(group.uuid)}{bare_uuid(lv_uuid)}{layer}" for layer in _LAYERS}
    return next((d for d in devices if d.uuid in wanted and d.targets == ("thin-pool",)), None)
