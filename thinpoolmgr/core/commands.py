"""The exact commands that each step stands for, as argument vectors; steps that only edit files have none.

Sources: lvcreate(8), lvextend(8), lvchange(8), vgchange(8), dmsetup(8), thin_ls(8); tried with LVM 2.03.16 and
thin-provisioning-tools 0.9.0.
"""

from __future__ import annotations

import re

from thinpoolmgr.core.names import OUR_TAG
from thinpoolmgr.core.steps import (
    GROWN_MOUNT,
    GROWN_NAME,
    ActivatePool,
    CreateThinPool,
    CreateVolumeGroup,
    DeactivatePool,
    DeleteSetAside,
    EditLvmProfile,
    ExtendData,
    ExtendMetadata,
    ExtendVolumeGroup,
    GrowBase,
    MoveStateAside,
    RefreshPool,
    ReloadUnits,
    RemoveDmDevice,
    RemoveLeftover,
    RemovePhysicalVolumes,
    RemoveThinPool,
    RemoveVolumeGroup,
    ResumeDevice,
    SetDiscards,
    SetProfile,
    SetWhenFull,
    SetZeroing,
    StartEngine,
    Step,
    StopContainers,
    StopEngine,
    TagPool,
    TakeCharge,
    WipeSignatures,
    WriteEngineConfig,
)
from thinpoolmgr.units import SECTOR_BYTES, lvm_size

Argv = tuple[str, ...]
_DMSETUP_PLAIN_NAME = re.compile(r"[A-Za-z0-9#+.:=@_-]+", re.ASCII)


def commands(step: Step) -> tuple[Argv, ...]:  # noqa: PLR0912 - one branch a step
    """Return the argument vectors that carry out `step`, in order; empty for those that edit files or ask an API."""
    match step:
        case WipeSignatures():
            return (("wipefs", "--all", step.disk.path),)
        case CreateVolumeGroup():
            return (("vgcreate", "--addtag", OUR_TAG, step.group, *(disk.path for disk in step.disks)),)
        case ExtendVolumeGroup():
            return (("vgextend", step.group, *(disk.path for disk in step.disks)),)
        case TagPool():
            return _tag(step)
        case CreateThinPool():
            return (_create_thin_pool(step),)
        case ExtendMetadata():
            return (("lvextend", "--poolmetadatasize", lvm_size(step.metadata_bytes), f"{step.group}/{step.lv}"),)
        case ExtendData():
            return (("lvextend", "--extents", str(step.data_extents), f"{step.group}/{step.lv}"),)
        case SetDiscards():
            return (("lvchange", "--discards", step.discards, f"{step.group}/{step.lv}"),)
        case SetZeroing():
            return (("lvchange", "--zero", "y" if step.zero_new_blocks else "n", f"{step.group}/{step.lv}"),)
        case SetProfile():
            return _set_profile(step)
        case TakeCharge():
            path = f"{step.group}/{step.lv}"
            return (
                ("lvchange", "--monitor", "n", path),
                with_low_water(("lvchange", "--refresh", path), step.threshold_percent),
            )
        case RefreshPool():
            return (("lvchange", "--refresh", f"{step.group}/{step.lv}"),)
        case ResumeDevice():
            # A resume alone would load the table that waits: a pool larger than LVM knows of (measured, Linux 6.1).
            return tuple(("dmsetup", verb, *_raw_name(step.name), "--", step.name) for verb in ("clear", "resume"))
        case SetWhenFull() if step.refresh:
            return (("lvchange", "--refresh", f"{step.group}/{step.lv}"),)
        case SetWhenFull():
            return (
                ("lvchange", "--errorwhenfull", "y" if step.when_full == "error" else "n", f"{step.group}/{step.lv}"),
            )
        case ActivatePool():
            return (("lvchange", "--activate", "y", f"{step.group}/{step.lv}"),)
        case DeactivatePool():
            return (("lvchange", "--activate", "n", f"{step.group}/{step.lv}"),)
        case RemoveDmDevice():
            return (_remove_dm_device(step.name),)
        case RemoveLeftover() | RemoveThinPool():
            return (("lvremove", "--yes", f"{step.group}/{step.lv}"),)
        case RemoveVolumeGroup():
            return (("vgremove", step.group),)
        case RemovePhysicalVolumes():
            return (("pvremove", *(disk.path for disk in step.disks)),)
        case StopEngine():
            return (*((step.check,) if step.check else ()), ("systemctl", "stop", *step.units))
        case StopContainers() if step.check:
            return (step.check,)
        case ReloadUnits():
            return (("systemctl", "daemon-reload"),)
        case StartEngine():
            # A unit that failed too often in a row refuses to start until that is forgotten (systemd.unit(5)).
            start = ("systemctl", "start", *(("--no-block",) if step.queue else ()), *step.units)
            return (("systemctl", "reset-failed", *step.units), start)
        case GrowBase():
            return _grow_base(step)
        case StopContainers() | MoveStateAside() | DeleteSetAside() | WriteEngineConfig() | EditLvmProfile():
            return ()


def _grow_base(step: GrowBase) -> tuple[Argv, ...]:
    """XFS is grown while it is mounted (xfs_growfs(8)), ext4 may be; all images share the base's uuid (nouuid)."""
    node = f"/dev/mapper/{GROWN_NAME}"
    table = f"0 {step.size_bytes // SECTOR_BYTES} thin /dev/mapper/{step.pool_dm_name} {step.device_id}"
    options = "nosuid,nodev,noexec" + (",nouuid" if step.filesystem == "xfs" else "")
    return (
        ("dmsetup", "create", GROWN_NAME, "--table", table),
        ("mount", "--types", step.filesystem, "--options", options, node, GROWN_MOUNT),
        ("xfs_growfs", GROWN_MOUNT) if step.filesystem == "xfs" else ("resize2fs", node),
        ("umount", GROWN_MOUNT),
        _remove_dm_device(GROWN_NAME),
    )


def with_low_water(argv: Argv, threshold_percent: int) -> Argv:
    """Return one of LVM's commands as the monitor runs it on its pools.

    LVM makes the kernel's low-water mark from its own threshold whenever it loads a pool's table, and without one
    there is none; and it has dmeventd watch whatever it resumes (lib/thin/thin.c, lib/activate/activate.c; measured,
    2.03.16). Nor is udevd waited for: no device node comes or goes, the wait is most of the time that a command takes,
    and for a udevd that is dead it is endless.
    """
    name, *rest = argv
    settings = f"activation{{monitoring=0 udev_sync=0 thin_pool_autoextend_threshold={threshold_percent}}}"
    return (name, "--config", settings, *rest)


def pool_message(pool_name: str, message: str) -> Argv:
    """Return the command that sends `message` to the pool with this device-mapper name."""
    return ("dmsetup", "message", *_raw_name(pool_name), "--", pool_name, "0", message)


def list_thin_use(metadata_path: str) -> Argv:
    """Return the command that lists id, mapped and exclusive bytes of each thin device in a metadata snapshot."""
    fields = "DEV,MAPPED_BYTES,EXCLUSIVE_BYTES"
    return ("thin_ls", "--metadata-snap", "--no-headers", "--format", fields, metadata_path)


def _create_thin_pool(step: CreateThinPool) -> Argv:
    return (
        *("lvcreate", "--type", "thin-pool", "--name", step.lv),
        *("--extents", str(step.data_extents)),
        *("--poolmetadatasize", lvm_size(step.metadata_bytes)),
        *("--chunksize", lvm_size(step.chunk_bytes)),
        *("--zero", "y" if step.zero_new_blocks else "n"),
        *("--discards", step.discards),
        *("--monitor", "y" if step.monitored_by_dmeventd else "n"),
        *(("--metadataprofile", step.profile) if step.profile else ()),
        *("--addtag", OUR_TAG),
        step.group,
    )


def _tag(step: TagPool) -> tuple[Argv, ...]:
    group = (("vgchange", "--addtag", OUR_TAG, step.group),) if step.tag_group else ()
    return (*group, *((("lvchange", "--addtag", OUR_TAG, f"{step.group}/{step.lv}"),) if step.tag_lv else ()))


def _set_profile(step: SetProfile) -> tuple[Argv, ...]:
    """Attach or detach, and load the table again: only then the kernel has the low-water mark (LVM 2.03.16)."""
    path = f"{step.group}/{step.lv}"
    attach = ("--metadataprofile", step.profile) if step.profile else ("--detachprofile",)
    return (
        ("lvchange", *attach, path),
        ("lvchange", "--monitor", "y" if step.profile else "n", path),
        ("lvchange", "--refresh", path),
    )


def _remove_dm_device(name: str) -> Argv:
    return ("dmsetup", "remove", *_raw_name(name), "--retry", "--", name)


def _raw_name(name: str) -> Argv:
    # dmsetup mangles names with other characters; the name read from the kernel is the raw one.
    return () if _DMSETUP_PLAIN_NAME.fullmatch(name) else ("--manglename", "none")
