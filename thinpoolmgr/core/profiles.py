"""The LVM profile of a pool that dmeventd extends: its text, and the steps that keep file and pool in line.

dmeventd reads its thresholds from the profile attached to the pool's metadata, and the kernel gets the low-water mark
from the same place when a table is loaded (lvmthin(7); measured, LVM 2.03.16). Only `extend.monitor = "dmeventd"` has
one: exactly one owner extends a pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinpoolmgr.core.steps import EditLvmProfile, SetProfile, Step
from thinpoolmgr.core.thinstatus import low_water_blocks

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredPool
    from thinpoolmgr.core.lifecycle import PoolView
    from thinpoolmgr.core.model import DmDevice, LogicalVolume, Snapshot

PROFILE_FOLDER = "/etc/lvm/profile"
PROFILE_PREFIX = "thinpoolmgr-"


def profile_name(pool: DesiredPool) -> str:
    """Return the name of the pool's profile; group and volume as device-mapper joins them, so no two share one."""
    joined = f"{pool.group.replace('-', '--')}-{pool.lv.replace('-', '--')}"
    return f"{PROFILE_PREFIX}{joined}"


def profile_path(name: str) -> str:
    """Return where LVM looks for the profile called `name`."""
    return f"{PROFILE_FOLDER}/{name}.profile"


def profile_text(pool: DesiredPool) -> str:
    """Return the profile that the configuration asks for."""
    return (
        f"# Written by thinpoolmgr for the pool {pool.path}; changes are taken back.\n"
        "activation {\n"
        f"\tthin_pool_autoextend_threshold={threshold_percent(pool)}\n"
        f"\tthin_pool_autoextend_percent={pool.config.extend.step_percent}\n"
        "}\n"
    )


def threshold_percent(pool: DesiredPool) -> int:
    """Return the threshold for dmeventd, which knows one for data and metadata: with the lower none is too late."""
    return min(pool.config.extend.data_threshold_percent, pool.config.extend.metadata_threshold_percent)


def wants_profile(pool: DesiredPool) -> bool:
    """Whether dmeventd is to extend the pool."""
    return pool.config.extend.monitor == "dmeventd"


def write_profile(pool: DesiredPool, snapshot: Snapshot) -> list[Step]:
    """Return the step that makes the profile file as it should be; none when it is."""
    name, text = profile_name(pool), profile_text(pool)
    found = snapshot.find_profile(name)
    if found is not None and found.text == text:
        return []
    reason = "dmeventd is to extend the pool, and reads its thresholds there"
    if found is not None:
        reason = "it does not have the thresholds of the configuration"
    path, old = profile_path(name), found.text if found else None
    return [EditLvmProfile(reason=reason, pool=pool.name, profile=name, path=path, old_text=old, new_text=text)]


def remove_profile(pool: DesiredPool, snapshot: Snapshot, reason: str) -> list[Step]:
    """Return the step that removes the profile file; none when there is none."""
    name = profile_name(pool)
    found = snapshot.find_profile(name)
    if found is None:
        return []
    path = profile_path(name)
    return [EditLvmProfile(reason=reason, pool=pool.name, profile=name, path=path, old_text=found.text, new_text=None)]


def plan_profile(view: PoolView, snapshot: Snapshot) -> list[Step]:
    """Return the steps that give an existing pool its profile, or take it away."""
    pool, lv = view.pool, view.lv
    if lv is None:
        return []
    wanted = profile_name(pool) if wants_profile(pool) else ""
    file = write_profile(pool, snapshot) if wanted else []
    reason = ""
    if lv.profile != wanted:
        reason = f"its LVM profile is {lv.profile or 'none'}, and extend.monitor is {pool.config.extend.monitor!r}"
    elif wanted and file and view.device is None:
        reason = "the kernel is to have the thresholds of the new file, whatever it is activated with"
    elif wanted and not lv.monitored and view.device is not None:
        reason = f"dmeventd does not watch it, and extend.monitor is {pool.config.extend.monitor!r}"
    elif wanted:
        reason = why_not_low_water(threshold_percent(pool), view.device)
    attach: list[Step] = []
    if reason:
        threshold = threshold_percent(pool) if wanted else 0
        attach = [
            SetProfile(
                reason=reason,
                pool=pool.name,
                group=pool.group,
                lv=pool.lv,
                profile=wanted,
                threshold_percent=threshold,
            )
        ]
    gone = [] if wanted else remove_profile(pool, snapshot, "no pool uses it any more")
    return [*file, *attach, *gone]


def why_not_in_charge(lv: LogicalVolume, device: DmDevice | None, threshold: int) -> str:
    """Return why the monitor is not the one that extends the pool; empty when it is.

    dmeventd extends whatever it watches by LVM's own threshold, which an lvm.conf may have set for all pools.
    """
    if lv.monitored:
        return "dmeventd watches it, and would extend it, too, if lvm.conf had a threshold for all pools"
    return why_not_low_water(threshold, device)


def why_not_low_water(threshold: int, device: DmDevice | None) -> str:
    """Return how the kernel's low-water mark differs from what `threshold` (percent) makes of it; empty: not at all.

    LVM takes that share of the blocks, and a threshold of 100 for none (lib/thin/thin.c).
    """
    if device is None or device.pool_status is None or not device.pool_status.total_data_blocks:
        return ""
    present = low_water_blocks(device.table)
    wanted = device.pool_status.total_data_blocks * (100 - threshold) // 100
    if present is None or abs(present - wanted) <= 1:
        return ""
    return f"the kernel's low-water mark is {present} blocks, {threshold} % make it {wanted}"
