"""The one table of findings: code, how bad, the words, and whether `status` shows it, too.

In the words, `{target}` is what it is about, `{pool}` the pool's name in the configuration, `{path}` its `VG/LV`,
`{command}` the command whose plan is the fix, and `{asked}` the sizes in it. `explain` tells the whole story of a code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


class Kind(Struct, frozen=True):
    """One kind of finding."""

    severity: Severity
    summary: str
    way_out: str
    """What to do: the command, exactly."""
    otherwise: str = ""
    """What to do when that command has nothing to do or is refused; empty: `way_out`, or what the refusal says."""
    in_status: bool = True


_RUN = "Run: {command}"
_CHECK = (
    "Take it out of use: thinpoolmgr deactivate {pool} --allow outage. Then let LVM check and clear it: "
    'lvchange -ay --config \'global{{thin_check_options=["-q","--clear-needs-check-flag"]}}\' {path}. '
    "Only when that fails: lvconvert --repair {path}, then thinpoolmgr activate {pool}."
)
_NO_ROOM = (
    "There is no room for a step: thinpoolmgr extend {pool} --add-device DEVICE {asked} takes a disk in and grows "
    "at once. Or remove what is not needed: docker image prune, docker container prune."
)
_STATE = "{path} is {state}: {because}"

FINDINGS: Mapping[str, Kind] = {
    # states of pools
    "POOL_ABSENT": Kind("warning", _STATE + "{hint}", _RUN),
    "POOL_FOREIGN": Kind(
        "warning",
        _STATE,
        "If it is yours, take it over: thinpoolmgr adopt {pool}. If not, name another volume_group in pools.{pool}.",
    ),
    "POOL_INACTIVE": Kind("warning", _STATE + "{hint}", _RUN),
    "POOL_TIGHT": Kind("warning", _STATE, _RUN, _NO_ROOM),
    "POOL_OUT_OF_DATA": Kind("error", _STATE, _RUN, _NO_ROOM),
    "POOL_OUT_OF_METADATA": Kind(
        "error", _STATE, _RUN, "There is no room: thinpoolmgr extend {pool} --add-device DEVICE {asked}"
    ),
    "POOL_READ_ONLY": Kind("error", _STATE, "Find the first error: dmesg | grep -i thin. " + _CHECK),
    "POOL_NEEDS_CHECK": Kind("error", _STATE, _CHECK),
    "POOL_FAILED": Kind("error", _STATE, "Find the first error: dmesg | grep -i thin. " + _CHECK),
    "POOL_PARTIAL": Kind(
        "error",
        _STATE,
        "Bring the disk back (pvs --all names what is missing), then run: thinpoolmgr activate {pool}. Do not remove "
        "the missing disk from the group: vgreduce --removemissing loses the pool.",
    ),
    "STATE_UNKNOWN": Kind(
        "error", _STATE, "Mend what LVM complains about (pvs; vgs; dmesg | tail), then run: thinpoolmgr doctor"
    ),
    "POOL_LOST": Kind(
        "error",
        _STATE,
        "While it runs its contents can be saved. Then bring LVM's label back (pvcreate --uuid UUID --restorefile "
        "/etc/lvm/backup/{group} DEVICE; vgcfgrestore --force {group}), or let go: thinpoolmgr destroy {pool}",
    ),
    "POOL_ERRORS_WRITES": Kind(
        "error",
        "{path}: the kernel fails writes, though LVM says {by_lvm}: writes were lost",
        "{command}; then check the file systems on it (fsck, xfs_repair) and start their containers anew.",
        "Make room: thinpoolmgr extend {pool} --add-device DEVICE {asked}; then check the file systems on it.",
    ),
    "METADATA_SNAPSHOT_HELD": Kind(
        "info",
        "a snapshot of the metadata of {path} is held",
        "As it should be while thinpoolmgr usage or a backup runs. When nothing does: thinpoolmgr usage {pool} gives "
        "back what a usage that was killed had left; another tool's, which nobody needs any more, goes with dmsetup "
        "message {target} 0 release_metadata_snap",
    ),
    # the kernel against LVM
    "DEVICE_SUSPENDED": Kind("error", "{target}, of {path}, is suspended: what uses it hangs", _RUN),
    "KERNEL_BEHIND": Kind("error", "the kernel runs {path} with an older size than LVM's", _RUN),
    "WHEN_FULL_DIFFERS": Kind("warning", "{path} would not answer a full pool as configured", _RUN, in_status=False),
    "AUTOEXTEND_DIFFERS": Kind("warning", "{path} would not be extended as configured", _RUN, in_status=False),
    "TAG_LOST": Kind(
        "warning", "{path} lost LVM's tag thinpoolmgr, and the journal knows it as ours", _RUN, in_status=False
    ),
    # what the monitor alone knows
    "EXTENSION_NO_ROOM": Kind(
        "error",
        "{path} needs to grow, and there is no room in its group and no spare disk",
        "Take a disk in: thinpoolmgr extend {pool} --add-device DEVICE; the monitor does the rest within two seconds. "
        "Or remove what is not needed: docker image prune, docker container prune.",
        in_status=False,
    ),
    "EXTENSION_AT_LIMIT": Kind(
        "error",
        "{path} needs to grow, and may not",
        "Raise pools.{pool}.extend.max_size and reload the monitor (systemctl reload thinpoolmgr-monitor), or remove "
        "what is not needed: docker image prune, docker container prune.",
        in_status=False,
    ),
    "EXTENSION_FAILED": Kind(
        "error",
        "{path} could not be extended",
        "See what LVM complains about (thinpoolmgr history; dmesg | tail). The monitor tries again within a minute, "
        "and at once when anything changes in the group; by hand: thinpoolmgr extend {pool}",
        in_status=False,
    ),
    "MONITOR_FAILED": Kind(
        "error",
        "the monitor could not make {path} run as it should",
        "See what LVM complains about (thinpoolmgr history; dmesg | tail). The monitor tries again within a minute; by "
        "hand: thinpoolmgr apply",
        in_status=False,
    ),
    "MONITOR_WAITS": Kind(
        "warning",
        "the monitor waits for another run of thinpoolmgr, or for LVM, before it changes {path}",
        "See what runs (thinpoolmgr history; ps -C thinpoolmgr). Let it end, or end it with Ctrl-C: it stops after its "
        "step. The monitor goes on by itself. Where it is LVM: fuser -v /run/lock/lvm/P_global.",
        in_status=False,
    ),
    "MONITOR_HANGS": Kind(
        "error",
        "{path} is not looked after: the monitor waits for its disk, or for a command on it",
        "See what hangs: dmesg | tail; thinpoolmgr doctor; ps -eo pid,stat,wchan:30,args | grep lvm. Other pools are "
        "looked after, and this one is as soon as the wait is over.",
        in_status=False,
    ),
    "MONITOR_NOT_RUNNING": Kind(
        "info",
        "nobody extends {path} before it is full: the monitor {what}",
        "Run: systemctl enable --now thinpoolmgr-monitor; where it runs: systemctl restart thinpoolmgr-monitor. "
        "Without systemd: thinpoolmgr monitor, kept running by what "
        'you have. If nobody is to extend it: pools.{pool}.extend.monitor = "none".',
        in_status=False,
    ),
    # metadata and room
    "METADATA_SPARE_MISSING": Kind(
        "warning",
        "the volume group {target} has no metadata spare: a repair of {path} would have no room",
        _RUN,
        "It needs room: thinpoolmgr extend {pool} --add-device DEVICE, then thinpoolmgr apply.",
        in_status=False,
    ),
    "METADATA_SPARE_SMALL": Kind(
        "warning",
        "the metadata spare of {target} is smaller than the metadata of {path}: a repair may fail",
        _RUN,
        "It needs room: thinpoolmgr extend {pool} --add-device DEVICE, then thinpoolmgr apply.",
        in_status=False,
    ),
    "METADATA_TOO_SMALL": Kind(
        "warning",
        "the metadata of {path} cannot map all of its data",
        _RUN,
        "There is no room: thinpoolmgr extend {pool} --add-device DEVICE {asked}",
        in_status=False,
    ),
    "METADATA_NEAR_CAP": Kind(
        "info",
        "the metadata of {path} is nearly as large as it can ever be",
        "Watch its use (thinpoolmgr status). Should it fill, make another pool, or this one anew with larger chunks: "
        "pools.{pool}.chunk_size, then thinpoolmgr rebuild {pool}, which loses all images.",
        in_status=False,
    ),
    "GROUP_NEARLY_FULL": Kind(
        "info",
        "the next extension of {path} does not fit into its group",
        "Before it is needed: name a disk in pools.{pool}.spare_devices, or take one in: "
        "thinpoolmgr extend {pool} --add-device DEVICE",
        in_status=False,
    ),
    "GROUP_HAS_OTHER_LVS": Kind(
        "info",
        "the volume group of {path} holds what thinpoolmgr did not make",
        "Look at it (lvs -a {target}). Move it to another group, or remove it yourself if it is of no use.",
        in_status=False,
    ),
    "METADATA_BACKUP_KEPT": Kind(
        "info",
        "{target} is the metadata that {path} had before a repair",
        "When the pool has proved to be well, give its room back: lvremove {target}",
        in_status=False,
    ),
    "LEFTOVER_LVS": Kind("warning", "{target} was left half-made by an interrupted run", _RUN, in_status=False),
    # disks
    "MATCH_COUNT": Kind("error", "{what}", "{resolution}"),
    "MATCH_TWICE": Kind("error", "{what}", "{resolution}"),
    "DISK_MISSING": Kind(
        "error",
        "{target} of pools.{pool} is missing",
        "Attach the disk, or correct pools.{pool}.devices; lsblk -o NAME,SIZE,SERIAL,MODEL and ls -l /dev/disk/by-id "
        "show what there is.",
    ),
    "NOT_A_BLOCK_DEVICE": Kind(
        "error",
        "{target} of pools.{pool} is not a block device",
        "Correct pools.{pool}.devices; ls -l {target} shows what it is, lsblk what there is.",
    ),
    "DISK_UNREADABLE": Kind(
        "error", "{target} of pools.{pool} cannot be looked at", "See why: ls -lL {target}; dmesg | tail"
    ),
    "SPARE_UNUSABLE": Kind(
        "warning",
        "{what}; it is a spare disk of pools.{pool}",
        "Attach or replace the disk, or correct pools.{pool}.spare_devices; then: systemctl reload thinpoolmgr-monitor",
    ),
    "DISK_NAME_UNSTABLE": Kind(
        "info",
        "{target} of pools.{pool} may be another disk after the next boot",
        "{resolution}",
        in_status=False,
    ),
    # engines
    "ENGINE_MISSING": Kind(
        "warning",
        "{target} is not installed",
        "Install it, or remove [engines.{target}] from the configuration.",
        in_status=False,
    ),
    "ENGINE_UNSUPPORTED": Kind("error", "{what}", "{resolution}"),
    "ENGINE_UNKNOWN": Kind("error", "{what}", "See what it is doing (journalctl -u {target}; ps), and restart it."),
    "ENGINE_CONFIG_INVALID": Kind(
        "error", "{because}", "Correct {target}, then run: thinpoolmgr plan. It edits only what it can read."
    ),
    "ENGINE_CONFIG_TWICE": Kind("error", "{because}", _RUN, "{resolution}"),
    "ENGINE_CONFIG_UNUSED": Kind(
        "warning", "{target} sets storage options without effect", "{resolution}", in_status=False
    ),
    "ENGINE_STATE_STALE": Kind("warning", "{target} belongs to a pool that is gone; apply moves it aside", _RUN),
    "ENGINE_STATE_IMMOVABLE": Kind("warning", "{what}", "{resolution}", in_status=False),
    "ENGINE_STATE_FOREIGN": Kind("warning", "{what}", "{resolution}", in_status=False),
    "ENGINE_STATE_UNKNOWN": Kind("warning", "{because}", "{resolution}"),
    "ENGINE_LOOP_LVM": Kind("warning", "{what}", "{resolution}", "{resolution}", in_status=False),
    "ENGINE_STATE_OTHER_POOL": Kind("error", "{what}", "{resolution}"),
    "ENGINE_POOL_TAKEN": Kind("error", "{what}", "{resolution}"),
    "ENGINE_POOL_WIPED": Kind("error", "{what}", "{resolution}", "{resolution}"),
    "ENGINE_STATE_DAMAGED": Kind("error", "{what}", "{resolution}"),
    "ENGINE_OPTIONS_DROPPED": Kind(
        "warning",
        "{target} made loop files beside its state: its storage options were dropped",
        "Its images are still in {path}. {command} writes the options back.",
        "Its images are still in {path}, and its options are right again. The files are of no use: rm {files}",
    ),
    "ENGINE_OTHER_DRIVERS": Kind(
        "info",
        "{target} has state of other storage drivers, too: {drivers}",
        "Nothing needs to be done while the storage driver is named in its configuration. To have those images on the "
        "pool: docker save with the old driver, docker load with the new one. If they may be lost, delete the folders "
        "that the evidence names while {target} is stopped.",
        in_status=False,
    ),
    "ENGINE_TRANSACTION_OPEN": Kind(
        "info",
        "{target} was cut short while it made or removed a device in {path}",
        "Start it: it takes that one device back by itself, and loses nothing else.",
        in_status=False,
    ),
    "BASE_SIZE_NOT_GROWN": Kind(
        "warning",
        "{target} records a base size of {recorded}, and the file system in its base device has {real}",
        "{command} grows it, and nothing is lost. {target} is stopped for that.",
        "{target} does not try again by itself. See who holds the base device, and end that: dmsetup ls | grep base$; "
        "thinpoolmgr who NAME. Then run: thinpoolmgr apply --allow outage.",
    ),
    "ENGINE_SETUP_UNFINISHED": Kind(
        "warning",
        "the volume group {target} was left by {engine}'s own set-up, which was cut short",
        "No image was ever in it. {resolution}",
    ),
    "ENGINE_STOPPED": Kind(
        "warning",
        "{target} does not run, though its pool {path} is well",
        _RUN,
        "Start it: systemctl start {unit}. When it does not stay up: journalctl -u {unit} -n 50",
        in_status=False,
    ),
    "ENGINE_NOT_ON_POOL": Kind(
        "warning",
        "{target} runs with the storage driver {driver}, not on its pool {path}",
        _RUN,
        "Its configuration is right and it has not read it yet: systemctl restart {unit}",
        in_status=False,
    ),
    # runs
    "RUN_INTERRUPTED": Kind("warning", "the run {target} was not finished", "Run: thinpoolmgr resume"),
    "NEEDS_PERSON": Kind(
        "error",
        "the run {target} stopped inside a step, and the host fits neither before nor after it",
        "Look at what is there, settle it by hand, move the journal file away (mv {file} /root/), then run: "
        "thinpoolmgr apply",
    ),
    "JOURNAL_DAMAGED": Kind(
        "error",
        "the journal file of the run {target} is damaged",
        "See what can be read of it: thinpoolmgr history {target}. Then move it away: mv {file} /root/. Until then "
        "nothing is changed on this host.",
    ),
    # the host's tools
    "TOOL_MISSING": Kind("error", "{target} is not installed", "Run: apt-get install {package}", in_status=False),
    "UDEV_COOKIE_LEAKED": Kind(
        "info",
        "udev cookie {target} was left by a step of ours that was killed",
        "When no LVM command runs any more (pgrep -a lvm; pgrep -a lvcreate), run: ipcrm -S {target}",
        in_status=False,
    ),
    # the configuration as a whole
    "CONFIG_NOT_APPLIED": Kind("warning", "the host is not as the configuration describes it", _RUN, in_status=False),
    "CONFIG_REFUSED": Kind("warning", "apply would refuse: {what}", "{resolution}", in_status=False),
}
