"""The snapshot: everything observed on a host, as frozen values.

`None` always means *unknown* (a probe failed, timed out or was not possible), never *absent*.
Absence is an empty tuple, a missing member of a tuple, or `False`.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from thinpoolmgr.core.engine_graph import EngineGraph
from thinpoolmgr.core.holders import Holders

BASE = "base"
"""What an engine's driver calls the device that all images begin with."""


class Signature(Struct, frozen=True):
    """One signature found on a device by libblkid: what, of which use, at which byte."""

    type: str
    usage: str
    offset_bytes: int


class Disk(Struct, frozen=True):
    """A block device that the configuration names, that a selector may choose, or that carries a label of LVM's."""

    path: str
    """Kernel device node, such as `/dev/sdb`."""
    devno: str
    """`MAJOR:MINOR`, decimal."""
    size_bytes: int
    diskseq: int | None = None
    """The kernel's count of media, new for each disk that takes a device number; None before Linux 5.15."""
    kind: str = "disk"
    """`disk`, `partition`, `loop`, `multipath`, `dm` or the kernel's own type."""
    sector_bytes: int = 512
    optimal_io_bytes: int = 0
    read_only: bool = False
    serial: str = ""
    wwn: str = ""
    model: str = ""
    transport: str = ""
    """`ata`, `scsi`, `usb`, `nvme`, `virtio` and the like."""
    rotational: bool | None = None
    id_path: str = ""
    """Where it is attached, as udev calls it (ID_PATH), such as `pci-0000:00:05.0-ata-1`."""
    links: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    """Kernel names of the devices that hold this one or one of its partitions."""
    mounts: tuple[str, ...] = ()
    """Mount points of this device or one of its partitions."""
    swap: bool = False
    opened_exclusively: bool | None = False
    signatures: tuple[Signature, ...] | None = ()
    labelled_partitions: tuple[str, ...] | None = ()
    """Partitions that carry LVM's label; None: one of them could not be read."""
    probe_error: str = ""


class ConfiguredDevice(Struct, frozen=True):
    """What a device path of the configuration leads to on this host."""

    configured_path: str
    disk: str = ""
    """Path of the `Disk` it leads to; empty when it leads nowhere or to something else."""
    problem: str = ""
    """`missing`, `not a block device`, or an operating system error."""


class PhysicalVolume(Struct, frozen=True):
    """One PV as LVM reports it; `path` is `[unknown]` when its disk is missing."""

    path: str
    uuid: str
    size_bytes: int
    free_bytes: int = 0
    missing: bool = False
    duplicate: bool = False
    tags: tuple[str, ...] = ()
    is_allocatable: bool = True
    """Whether LVM puts anything new on it (pvchange --allocatable), or could if it were in a group."""


class LogicalVolume(Struct, frozen=True):
    """One LV as LVM reports it, hidden ones included."""

    name: str
    uuid: str
    segment_type: str
    size_bytes: int
    attr: str
    tags: tuple[str, ...] = ()
    dm_name: str = ""
    data_lv: str = ""
    metadata_lv: str = ""
    pool_lv: str = ""
    chunk_bytes: int = 0
    discards: str = ""
    zero: bool | None = None
    when_full: str = ""
    transaction_id: int | None = None
    metadata_bytes: int = 0
    health: str = ""
    devices: tuple[str, ...] = ()
    profile: str = ""
    """Name of the LVM profile attached to it."""
    made_at: float | None = None
    """When it was made, in seconds since 1970 (`lv_time`); None where LVM's word for it cannot be read."""
    monitored: bool = False
    """Whether dmeventd watches it, as LVM says."""
    signatures: tuple[Signature, ...] | None = None
    """Only of half-made volumes that `own_setup` knows; None: it was not looked at, or could not be read."""

    @property
    def is_thin_pool(self) -> bool:
        """Whether the segment type says so; the name never does."""
        return self.segment_type == "thin-pool"


class LvmProfile(Struct, frozen=True):
    """A profile file of our making in LVM's profile folder."""

    name: str
    text: str


class VolumeGroup(Struct, frozen=True):
    """One VG as LVM reports it, with its PVs and LVs."""

    name: str
    uuid: str
    attr: str
    extent_bytes: int
    extent_count: int
    free_extents: int
    seqno: int
    tags: tuple[str, ...] = ()
    system_id: str = ""
    pvs: tuple[PhysicalVolume, ...] = ()
    lvs: tuple[LogicalVolume, ...] = ()

    @property
    def is_exported(self) -> bool:
        """Third letter of `vg_attr` is `x`."""
        return self.attr[2:3] == "x"

    @property
    def is_partial(self) -> bool:
        """Fourth letter of `vg_attr` is `p`: a PV is missing."""
        return self.attr[3:4] == "p" or any(pv.missing for pv in self.pvs)

    @property
    def spare(self) -> LogicalVolume | None:
        """LVM's spare for the metadata of all pools of the group; None when there is none."""
        return next((lv for lv in self.lvs if lv.name.endswith("_pmspare")), None)

    @property
    def allocatable_extents(self) -> int:
        """The free extents that LVM would use: not those on PVs that are closed to it, or missing."""
        closed = sum(pv.free_bytes for pv in self.pvs if pv.missing or not pv.is_allocatable)
        return max(0, self.free_extents - closed // self.extent_bytes)

    def find_lv(self, name: str) -> LogicalVolume | None:
        """Return the LV called `name` (without brackets), or None when there is none."""
        return next((lv for lv in self.lvs if lv.name == name), None)


class ThinPoolStatus(Struct, frozen=True):
    """The kernel's own word on a thin pool (status line of the `thin-pool` target).

    Metadata blocks are 4 KiB, data blocks one chunk.
    """

    mode: str
    """`rw`, `ro`, `out_of_data_space`, `Fail` or `Error`."""
    transaction_id: int = 0
    used_metadata_blocks: int = 0
    total_metadata_blocks: int = 0
    used_data_blocks: int = 0
    total_data_blocks: int = 0
    held_root: str = "-"
    discards: str = ""
    """The kernel's own word: `ignore_discard`, `no_discard_passdown` or `discard_passdown`."""
    when_full: str = ""
    """`queue` or `error`."""
    needs_check: bool = False


class DmDevice(Struct, frozen=True):
    """One device-mapper device: `name` for people, `uuid` for identity."""

    name: str
    uuid: str
    devno: str
    open_count: int
    suspended: bool = False
    has_table: bool = True
    targets: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    """`MAJOR:MINOR` of the devices below."""
    size_bytes: int = 0
    pool_status: ThinPoolStatus | None = None
    """Only for `thin-pool` targets; None there means the status was unreadable."""
    table: str = ""
    """Table of a `thin-pool` or `thin` target's only segment, without start and length."""
    is_examined: bool = True
    """False: a thin device of an engine, of which only name, number and pool are known."""
    deferred_remove: bool = False
    """Whether it goes by itself when the last one who has it open closes it (DM_DEFERRED_REMOVE)."""


class EngineDevice(Struct, frozen=True):
    """One thin device in the engine's own records."""

    name: str
    device_id: int
    size_bytes: int
    transaction_id: int = 0


class EngineState(Struct, frozen=True):
    """What an engine keeps on disk about the pool it used."""

    path: str
    """The driver's directory, such as `/var/lib/docker/devicemapper`."""
    base_device_uuid: str = ""
    base_size_bytes: int | None = None
    transaction_id: int | None = None
    devices: tuple[EngineDevice, ...] = ()
    loop_files: tuple[str, ...] = ()
    """Docker's loop-lvm files, when this is state of loop-lvm mode."""
    related: tuple[str, ...] = ()
    """What refers to `path` and is useless without it, such as `image/devicemapper`."""
    obstacle: str = ""
    """Why it must not be moved: a symbolic link, or a mount point on it or below it."""
    damage: str = ""
    """The record that cannot be read, and why: the engine does not start with it."""
    written_at: float | None = None
    """When the newest record of a device was written, in seconds since 1970; None where there is none."""
    loop_data_bytes: int | None = None
    """How much of Docker's loop file for data is really allocated; None where there is none."""
    containers_folder: str = ""
    """The folder of the containers' configurations; empty where there is none."""
    other_drivers: tuple[str, ...] = ()
    """Storage drivers that have a state beside this one, as Docker finds them."""
    made_by_engine: bool = False
    """The engine made its pool itself, and ended that well."""

    @property
    def base_device_id(self) -> int | None:
        """Number of the base device in the pool; None where none is recorded."""
        return next((device.device_id for device in self.devices if device.name == BASE), None)

    @property
    def smaller_devices(self) -> int | None:
        """How many devices are recorded with less than the base size; None where that is not recorded."""
        base = self.base_size_bytes
        return None if base is None else sum(device.size_bytes < base for device in self.devices)


class BaseDevice(Struct, frozen=True):
    """What is in the pool where the engine's records have its base device, the one that all images begin with."""

    in_pool: bool = True
    """Whether the pool has a device of the recorded number."""
    filesystem: str = ""
    """`xfs` or `ext4`; empty: its first block holds neither."""
    size_bytes: int | None = None
    """Size of that file system, as its superblock says."""
    uuid: str = ""
    dm_name: str = ""
    """While it is active: its device-mapper name."""
    is_open: bool = False


class ConfigFile(Struct, frozen=True):
    """A file, other than the engine's own configuration file, that may put words on its command line."""

    path: str
    kind: Literal["unit", "environment", "script"]
    """A unit file or drop-in of systemd, a file of shell assignments, or the script of a host without systemd."""
    text: str | None = None
    """None: the file does not exist, or could not be read."""
    problem: str = ""
    """Why it could not be read: what it says is unknown, not nothing."""
    unwritable: str = ""
    """Why it could not be replaced; empty when it could."""
    named: bool = True
    """Whether the unit, or the script, names it; a well-known file that nothing names has no effect."""


class ServiceState(Struct, frozen=True):
    """How the engine is run: by systemd units, or by hand."""

    systemd: bool = False
    unit: str = ""
    sockets: tuple[str, ...] = ()
    active: bool | None = False
    enabled: bool = False
    needs_reload: bool = False
    """Unit files changed since systemd read them."""
    queued: bool = False
    """systemd has a job for it that waits or runs: at boot it starts when the units before it have ended."""


class Engine(Struct, frozen=True):
    """One container engine as found on the host."""

    name: str
    kind: str
    installed: bool = False
    version: str = ""
    running: bool | None = False
    """None: something looks alive and does not answer."""
    pids: tuple[int, ...] = ()
    driver: str = ""
    """The storage driver in use, as the running engine says; empty when it is not running."""
    data_root: str = ""
    config_path: str = ""
    config_text: str | None = None
    """None: the file does not exist."""
    config_unwritable: str = ""
    """Why the configuration file could not be replaced; empty when it could."""
    config_problem: str = ""
    """Why the configuration could not be read or edited."""
    files: tuple[ConfigFile, ...] = ()
    """Where the command line comes from: unit files in the order in which they count, then files of assignments."""
    command: tuple[str, ...] = ()
    """The running daemon's command line where no unit started it: its next one may be the same."""
    service: ServiceState = ServiceState()
    state: EngineState | None = None
    state_problem: str = ""
    """Why the state on disk could not be read: it is unknown, not absent."""
    containers: tuple[str, ...] = ()
    """Names of running containers."""
    container_ids: tuple[str, ...] = ()
    """Their ids, in the same order."""
    live_restore: bool = False
    """Whether running containers outlive the engine's own stop, with their devices open."""
    socket: str = ""
    """Unix socket of the running engine's API."""
    set_aside: tuple[str, ...] = ()
    """Folders into which stale state was moved."""
    base: BaseDevice | None = None
    """Its base device as the pool has it; None: it is not known."""
    graph: EngineGraph | None = None
    """Its images, layers and containers, running or not; None: nobody asked."""

    def why_other_base(self) -> str:
        """Return why the device in the pool is not the base device of the records; empty: it is, or it is not known."""
        if self.state is None or self.base is None:
            return ""
        if not self.base.in_pool:
            return "the pool has no device with the number of the base device"
        recorded = self.state.base_device_uuid.lower()
        if recorded and self.base.uuid and recorded != self.base.uuid:
            return f"the base device there has the uuid {self.base.uuid}, not the recorded {recorded[:40]}"
        return ""

    def text_of(self, path: str) -> str | None:
        """Return the text of one of its files; None when that does not exist, or is none of its files."""
        if path == self.config_path:
            return self.config_text
        return next((file.text for file in self.files if file.path == path), None)

    def with_text(self, path: str, text: str) -> Engine:
        """Return it with this text in one of its files."""
        if path == self.config_path:
            return replace(self, config_text=text)
        return replace(self, files=tuple(replace(f, text=text) if f.path == path else f for f in self.files))


class Snapshot(Struct, frozen=True):
    """One look at a host."""

    configured_devices: tuple[ConfiguredDevice, ...] = ()
    disks: tuple[Disk, ...] = ()
    groups: tuple[VolumeGroup, ...] = ()
    orphan_pvs: tuple[PhysicalVolume, ...] = ()
    lvm_trouble: tuple[str, ...] = ()
    """Messages that make LVM's report incomplete: what it does not list may still exist."""
    dm_devices: tuple[DmDevice, ...] = ()
    engines: tuple[Engine, ...] = ()
    dev_names: tuple[str, ...] = ()
    """Names directly below /dev that are also volume group names of the configuration."""
    boot_id: str = ""
    lvm_profiles: tuple[LvmProfile, ...] = ()
    holders: Holders | None = None
    """Who holds the open devices of the pool that is to be taken down; None: nobody asked."""

    def find_profile(self, name: str) -> LvmProfile | None:
        """Return our LVM profile called `name`."""
        return next((profile for profile in self.lvm_profiles if profile.name == name), None)

    def find_group(self, name: str) -> VolumeGroup | None:
        """Return the VG called `name`; None says LVM does not list it, not that it is absent."""
        return next((group for group in self.groups if group.name == name), None)

    def find_group_on(self, disk: Disk) -> VolumeGroup | None:
        """Return the VG that has `disk`, or a partition of it, among its physical volumes."""
        parts = {disk.path, *disk.partitions}
        return next((group for group in self.groups if any(pv.path in parts for pv in group.pvs)), None)

    def find_disk(self, path: str) -> Disk | None:
        """Return the disk with this device node, link or configured path."""
        configured = next((d.disk for d in self.configured_devices if d.configured_path == path), path)
        # More than one may claim a link, as the paths of a multipath device do: where it leads is sure, a claim is not.
        exact = next((disk for disk in self.disks if disk.path == configured), None)
        return exact or next((disk for disk in self.disks if path in disk.links), None)

    def find_engine(self, name: str) -> Engine | None:
        """Return the engine with this name of the configuration."""
        return next((engine for engine in self.engines if engine.name == name), None)

    def find_dm(self, name: str) -> DmDevice | None:
        """Return the device-mapper device with this name."""
        return next((device for device in self.dm_devices if device.name == name), None)
