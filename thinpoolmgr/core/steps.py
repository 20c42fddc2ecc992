"""Steps: what a plan consists of, as frozen data.

A step carries all it needs to be carried out, to be checked afterwards and to be explained; nothing about it is
computed again later. The commands it stands for are in `commands`.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Danger = Literal["safe", "outage", "destroys"]
Mark = Literal["+", "~", "!", "-"]
Discards = Literal["ignore", "nopassdown", "passdown"]


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


class ExtendVolumeGroup(BaseStep, frozen=True, tag="extend-volume-group", kw_only=True):
    """Add disks to a volume group of ours."""

    group: str
    disks: tuple[DiskRef, ...]


class TagPool(BaseStep, frozen=True, tag="tag-pool", kw_only=True):
    """Put our tag on a volume group, on its pool, or on both: what carries it is thinpoolmgr's from then on."""

    group: str
    group_uuid: str
    lv: str
    lv_uuid: str
    tag_group: bool
    tag_lv: bool


class RemoveLeftover(BaseStep, frozen=True, tag="remove-leftover", kw_only=True):
    """Remove an LV that an interrupted step of ours, or a killed set-up of Docker's own, left half-made."""

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
    discards: Discards
    monitored_by_dmeventd: bool
    profile: str = ""
    """LVM profile to attach: dmeventd reads its thresholds from it; empty attaches none."""


class ExtendMetadata(BaseStep, frozen=True, tag="extend-metadata", kw_only=True):
    """Enlarge a pool's metadata to `metadata_bytes`; LVM enlarges the spare with it, or makes it anew."""

    group: str
    lv: str
    metadata_bytes: int


class ExtendData(BaseStep, frozen=True, tag="extend-data", kw_only=True):
    """Enlarge a pool's data to so many extents."""

    group: str
    lv: str
    data_extents: int
    extent_bytes: int
    chunk_bytes: int


class SetWhenFull(BaseStep, frozen=True, tag="set-when-full", kw_only=True):
    """Choose what a full pool does with writes: queue them, or fail them at once."""

    group: str
    lv: str
    when_full: Literal["queue", "error"]
    refresh: bool = False
    """LVM has it right and the kernel does not: load the table again."""


class SetDiscards(BaseStep, frozen=True, tag="set-discards", kw_only=True):
    """Choose what becomes of discards; to or from `ignore` LVM changes it only while the pool is not active."""

    group: str
    lv: str
    discards: Discards


class SetZeroing(BaseStep, frozen=True, tag="set-zeroing", kw_only=True):
    """Choose whether new blocks are zeroed before they are first used."""

    group: str
    lv: str
    zero_new_blocks: bool


class EditLvmProfile(BaseStep, frozen=True, tag="edit-lvm-profile", kw_only=True):
    """Write the LVM profile that holds a pool's thresholds; `new_text` None removes the file, None before: none."""

    profile: str
    path: str
    old_text: str | None
    new_text: str | None


class SetProfile(BaseStep, frozen=True, tag="set-profile", kw_only=True):
    """Attach an LVM profile to a pool and have dmeventd watch it; an empty `profile` detaches it and ends that."""

    group: str
    lv: str
    profile: str
    threshold_percent: int = 0
    """What the profile's threshold is: the kernel's low-water mark must follow from it."""


class TakeCharge(BaseStep, frozen=True, tag="take-charge", kw_only=True):
    """Make the monitor the one that extends a pool: dmeventd lets go of it, the kernel tells when it gets tight."""

    group: str
    lv: str
    threshold_percent: int
    """What the kernel's low-water mark is made from."""


class RefreshPool(BaseStep, frozen=True, tag="refresh-pool", kw_only=True):
    """Load a pool's tables again: LVM's metadata says something that the kernel does not have yet."""

    group: str
    lv: str


class ResumeDevice(BaseStep, frozen=True, tag="resume-device", kw_only=True):
    """Resume a device of ours that a command which was cut short left suspended: all that uses it hangs."""

    name: str
    uuid: str


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


class CheckedStop(BaseStep, frozen=True, kw_only=True):
    """What stops something; before that the engine itself checks what it is to be started with, where it can."""

    check: tuple[str, ...] = ()
    """The command that checks; empty: none."""
    candidate: str = ""
    """The file that it looks at, which lives only that long."""
    candidate_text: str = ""


class StopContainers(CheckedStop, frozen=True, tag="stop-containers", kw_only=True):
    """Stop all containers of an engine whose live-restore would let them outlive it, with their devices open.

    Those that were started since the plan was made are stopped, too: `containers` says which ran then.
    """

    engine: str
    socket: str
    containers: tuple[str, ...]


class StopEngine(CheckedStop, frozen=True, tag="stop-engine", kw_only=True):
    """Stop a container engine with its sockets, so that nothing starts it meanwhile."""

    engine: str
    units: tuple[str, ...]


class StartEngine(BaseStep, frozen=True, tag="start-engine", kw_only=True):
    """Start a container engine and its sockets."""

    engine: str
    units: tuple[str, ...]
    queue: bool = False
    """Ask systemd and do not wait: this run is part of a unit that the engine's own waits for."""


class MoveStateAside(BaseStep, frozen=True, tag="move-state-aside", kw_only=True):
    """Move an engine's stale state, whole, into a new folder beside where it was; the driver's folder is the last."""

    engine: str
    paths: tuple[str, ...]
    into: str


class DeleteSetAside(BaseStep, frozen=True, tag="delete-set-aside", kw_only=True):
    """Delete, for good, a folder into which an engine's stale state was moved."""

    engine: str
    path: str


GROWN_NAME = "thinpoolmgr-base"
"""Device-mapper name of an engine's base device while its file system is grown."""
GROWN_MOUNT = "/run/thinpoolmgr/base"


class GrowBase(BaseStep, frozen=True, tag="grow-base", kw_only=True):
    """Grow the file system in an engine's base device to the size that is recorded for it, while the engine is stopped.

    What the engine itself does once: make the device active, under a name of ours, mount it, grow it, let go of it.
    """

    engine: str
    pool_dm_name: str
    device_id: int
    size_bytes: int
    filesystem: Literal["xfs", "ext4"]


class WriteEngineConfig(BaseStep, frozen=True, tag="write-engine-config", kw_only=True):
    """Replace an engine's configuration file; `old_text` None means there was no file."""

    engine: str
    path: str
    old_text: str | None
    new_text: str


class ReloadUnits(BaseStep, frozen=True, tag="reload-units", kw_only=True):
    """Have systemd read its unit files again: those of the engine changed."""

    engine: str


EngineStep = (
    StopContainers
    | StopEngine
    | StartEngine
    | MoveStateAside
    | DeleteSetAside
    | GrowBase
    | WriteEngineConfig
    | ReloadUnits
)
"""What is done to an engine, its files or its state."""

Step = (
    WipeSignatures
    | CreateVolumeGroup
    | ExtendVolumeGroup
    | TagPool
    | RemoveLeftover
    | CreateThinPool
    | ExtendMetadata
    | ExtendData
    | SetWhenFull
    | SetDiscards
    | SetZeroing
    | EditLvmProfile
    | SetProfile
    | TakeCharge
    | RefreshPool
    | ResumeDevice
    | ActivatePool
    | DeactivatePool
    | RemoveDmDevice
    | RemoveThinPool
    | RemoveVolumeGroup
    | RemovePhysicalVolumes
    | EngineStep
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
    creates = isinstance(step, CreateVolumeGroup | CreateThinPool | ExtendVolumeGroup)
    is_new_file = isinstance(step, WriteEngineConfig | EditLvmProfile) and step.old_text is None
    return "+" if creates or is_new_file else "~"


def target(step: Step) -> str:
    """Return what the step acts on, as one word for people and scripts."""
    match step:
        case WipeSignatures():
            return step.disk.path
        case CreateVolumeGroup() | ExtendVolumeGroup() | RemoveVolumeGroup() | TagPool(lv=""):
            return step.group
        case RemovePhysicalVolumes():
            return " ".join(disk.path for disk in step.disks)
        case RemoveDmDevice() | ResumeDevice():
            return step.name
        case StopContainers() | StopEngine() | StartEngine() | ReloadUnits() | GrowBase():
            return step.engine
        case MoveStateAside():
            return step.paths[-1]
        case WriteEngineConfig() | DeleteSetAside() | EditLvmProfile():
            return step.path
        case _:
            return f"{step.group}/{step.lv}"
