"""Steps: what a plan consists of, as frozen data, and the exact commands each one stands for.

A step carries all it needs to be carried out, to be checked afterwards and to be explained; nothing about it is
computed again later. `commands` returns argument vectors; steps that edit files have none.
"""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

from thinpoolmgr.core.names import OUR_TAG
from thinpoolmgr.units import lvm_size

Danger = Literal["safe", "outage", "destroys"]
Mark = Literal["+", "~", "!", "-"]
Argv = tuple[str, ...]
_DMSETUP_PLAIN_NAME = re.compile(r"[A-Za-z0-9#+.:=@_-]+", re.ASCII)


class DiskRef(Struct, frozen=True):
    """A disk as a step means it: the device node to use, and what the disk behind it must still be."""

    path: str
    devno: str
    size_bytes: int
    serial: str = ""
    diskseq: int | None = None


class BaseStep(Struct, frozen=True, tag_field="do", kw_only=True):
    """What all steps have in common.

    Attributes:
        id: place in the plan, two digits.
        reason: why the plan contains this step, a sentence for people.
        danger: `safe`, `outage` (something stops working meanwhile) or `destroys` (data is gone afterwards).
        pool: the pool of the configuration it is done for.

    """

    id: str = ""
    reason: str
    danger: Danger = "safe"
    pool: str = ""


class WipeSignatures(BaseStep, frozen=True, tag="wipe-signatures", kw_only=True):
    """Erase old signatures from a disk that the configuration allows to be wiped."""

    disk: DiskRef
    found: tuple[str, ...]


class CreateVolumeGroup(BaseStep, frozen=True, tag="create-volume-group", kw_only=True):
    """Make disks physical volumes of a new, tagged volume group."""

    group: str
    disks: tuple[DiskRef, ...]


class RemoveLeftover(BaseStep, frozen=True, tag="remove-leftover", kw_only=True):
    """Remove an LV that an interrupted `create-thin-pool` of ours left half-made."""

    group: str
    lv: str
    lv_uuid: str


class CreateThinPool(BaseStep, frozen=True, tag="create-thin-pool", kw_only=True):
    """Make and activate a tagged thin pool; sizes are exact, data in extents, metadata in bytes."""

    group: str
    lv: str
    data_extents: int
    extent_bytes: int
    metadata_bytes: int
    chunk_bytes: int
    zero_new_blocks: bool
    discards: Literal["ignore", "nopassdown", "passdown"]
    monitored_by_dmeventd: bool


class SetWhenFull(BaseStep, frozen=True, tag="set-when-full", kw_only=True):
    """Choose what a full pool does with writes: queue them, or fail them at once."""

    group: str
    lv: str
    when_full: Literal["queue", "error"]
    refresh: bool = False
    """LVM has it right and the kernel does not: load the table again."""


class ActivatePool(BaseStep, frozen=True, tag="activate-pool", kw_only=True):
    """Make an existing pool's devices appear."""

    group: str
    lv: str


class DeactivatePool(BaseStep, frozen=True, tag="deactivate-pool", kw_only=True):
    """Take a pool's devices away; its data stays on the disks."""

    group: str
    lv: str


class RemoveDmDevice(BaseStep, frozen=True, tag="remove-dm-device", kw_only=True):
    """Unmap one device-mapper device that nothing has open: a thin device, or what is left of a lost pool."""

    name: str
    uuid: str
    devno: str


class RemoveThinPool(BaseStep, frozen=True, tag="remove-thin-pool", kw_only=True):
    """Delete a pool with all that is in it."""

    group: str
    lv: str
    lv_uuid: str


class RemoveVolumeGroup(BaseStep, frozen=True, tag="remove-volume-group", kw_only=True):
    """Delete a volume group that has no logical volumes any more."""

    group: str
    group_uuid: str


class RemovePhysicalVolumes(BaseStep, frozen=True, tag="remove-physical-volumes", kw_only=True):
    """Erase LVM's labels, so that the disks are blank again."""

    disks: tuple[DiskRef, ...]
    pv_uuids: tuple[str, ...] = ()


class StopEngine(BaseStep, frozen=True, tag="stop-engine", kw_only=True):
    """Stop a container engine with its sockets, so that nothing starts it meanwhile."""

    engine: str
    units: tuple[str, ...]


class StartEngine(BaseStep, frozen=True, tag="start-engine", kw_only=True):
    """Start a container engine and its sockets."""

    engine: str
    units: tuple[str, ...]


class MoveStateAside(BaseStep, frozen=True, tag="move-state-aside", kw_only=True):
    """Move an engine's stale state, whole, into a new folder beside where it was; the driver's folder is the last."""

    engine: str
    paths: tuple[str, ...]
    into: str


class WriteEngineConfig(BaseStep, frozen=True, tag="write-engine-config", kw_only=True):
    """Replace an engine's configuration file; `old_text` None means there was no file."""

    engine: str
    path: str
    old_text: str | None
    new_text: str


Step = (
    WipeSignatures
    | CreateVolumeGroup
    | RemoveLeftover
    | CreateThinPool
    | SetWhenFull
    | ActivatePool
    | DeactivatePool
    | RemoveDmDevice
    | RemoveThinPool
    | RemoveVolumeGroup
    | RemovePhysicalVolumes
    | StopEngine
    | StartEngine
    | MoveStateAside
    | WriteEngineConfig
)


def step_name(step: Step) -> str:
    """Return the step's public name, as in `do` of JSON documents."""
    return str(step.__struct_config__.tag)


def step_mark(step: Step) -> Mark:
    """Return `+` create, `~` change, `!` outage or `-` destroys."""
    if step.danger == "destroys":
        return "-"
    if step.danger == "outage":
        return "!"
    creates = isinstance(step, CreateVolumeGroup | CreateThinPool)
    return "+" if creates or (isinstance(step, WriteEngineConfig) and step.old_text is None) else "~"


def target(step: Step) -> str:
    """Return what the step acts on, as one word for people and scripts."""
    match step:
        case WipeSignatures():
            return step.disk.path
        case CreateVolumeGroup() | RemoveVolumeGroup():
            return step.group
        case RemovePhysicalVolumes():
            return " ".join(disk.path for disk in step.disks)
        case RemoveDmDevice():
            return step.name
        case StopEngine() | StartEngine():
            return step.engine
        case MoveStateAside():
            return step.paths[-1]
        case WriteEngineConfig():
            return step.path
        case _:
            return f"{step.group}/{step.lv}"


def commands(step: Step) -> tuple[Argv, ...]:  # noqa: PLR0912 - one branch a step
    """Return the argument vectors that carry out `step`, in order; empty for steps that edit files."""
    match step:
        case WipeSignatures():
            return (("wipefs", "--all", step.disk.path),)
        case CreateVolumeGroup():
            return (("vgcreate", "--addtag", OUR_TAG, step.group, *(disk.path for disk in step.disks)),)
        case CreateThinPool():
            return (_create_thin_pool(step),)
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
            return (("systemctl", "stop", *step.units),)
        case StartEngine():
            # A unit that failed too often in a row refuses to start until that is forgotten (systemd.unit(5)).
            return (("systemctl", "reset-failed", *step.units), ("systemctl", "start", *step.units))
        case MoveStateAside() | WriteEngineConfig():
            return ()


def _create_thin_pool(step: CreateThinPool) -> Argv:
    return (
        *("lvcreate", "--type", "thin-pool", "--name", step.lv),
        *("--extents", str(step.data_extents)),
        *("--poolmetadatasize", lvm_size(step.metadata_bytes)),
        *("--chunksize", lvm_size(step.chunk_bytes)),
        *("--zero", "y" if step.zero_new_blocks else "n"),
        *("--discards", step.discards),
        *("--monitor", "y" if step.monitored_by_dmeventd else "n"),
        *("--addtag", OUR_TAG),
        step.group,
    )


def _remove_dm_device(name: str) -> Argv:
    # dmsetup mangles names with other characters; the name read from the kernel is the raw one.
    raw = () if _DMSETUP_PLAIN_NAME.fullmatch(name) else ("--manglename", "none")
    return ("dmsetup", "remove", *raw, "--retry", "--", name)
