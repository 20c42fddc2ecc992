"""The states of a pool, derived from a snapshot and never stored.

A pool is first *found* (does LVM list it, does the kernel run it, is it ours) and then, when it runs, *judged* by
the kernel's own status. The first rule that holds decides; the order is from what hides most to what hides least:

- What LVM does not list is absent only when nothing contradicts it: no read errors in LVM's report, and no
  device-mapper device that LVM made for a pool of this name. Otherwise it is `unknown`, or `lost` when the
  kernel still runs what LVM cannot see any more.
- A group that is not tagged as ours is `foreign`, whatever its condition: nothing about it is our business.
- A missing disk (`partial`) explains everything that follows from it.
- Of a running pool the kernel's word counts: `Fail` before `needs_check` before `ro` before space.

`unknown` and `lost` are states besides those of the contract: the first forbids to create, the second is what the
`dmsetup remove` fall-back is for.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from thinpoolmgr.core.desired import DesiredPool
from thinpoolmgr.core.model import DmDevice, LogicalVolume, Snapshot, ThinPoolStatus, VolumeGroup
from thinpoolmgr.core.names import OUR_TAG, bare_uuid, live_pool_device, pool_dm_name
from thinpoolmgr.units import percent_of


class PoolState(StrEnum):
    """States of a pool, as they appear in JSON."""

    ABSENT = "absent"
    FOREIGN = "foreign"
    INACTIVE = "inactive"
    HEALTHY = "healthy"
    TIGHT = "tight"
    OUT_OF_DATA = "out_of_data"
    OUT_OF_METADATA = "out_of_metadata"
    READ_ONLY = "read_only"
    NEEDS_CHECK = "needs_check"
    FAILED = "failed"
    PARTIAL = "partial"
    UNKNOWN = "unknown"
    LOST = "lost"


STATE_CODES = {
    PoolState.ABSENT: "POOL_ABSENT",
    PoolState.FOREIGN: "POOL_FOREIGN",
    PoolState.INACTIVE: "POOL_INACTIVE",
    PoolState.TIGHT: "POOL_TIGHT",
    PoolState.OUT_OF_DATA: "POOL_OUT_OF_DATA",
    PoolState.OUT_OF_METADATA: "POOL_OUT_OF_METADATA",
    PoolState.READ_ONLY: "POOL_READ_ONLY",
    PoolState.NEEDS_CHECK: "POOL_NEEDS_CHECK",
    PoolState.FAILED: "POOL_FAILED",
    PoolState.PARTIAL: "POOL_PARTIAL",
    PoolState.UNKNOWN: "STATE_UNKNOWN",
    PoolState.LOST: "POOL_LOST",
}
"""The finding that each state is, but for that of a pool which is well."""
RUNNING_STATES = frozenset({PoolState.HEALTHY, PoolState.TIGHT, PoolState.OUT_OF_DATA})


_USABLE = (PoolState.HEALTHY, PoolState.TIGHT, PoolState.OUT_OF_DATA, PoolState.OUT_OF_METADATA)
TRANSITIONS: tuple[tuple[PoolState, str, PoolState], ...] = (
    (PoolState.ABSENT, "create-thin-pool", PoolState.HEALTHY),
    (PoolState.HEALTHY, "use passes a threshold", PoolState.TIGHT),
    (PoolState.FOREIGN, "tag-pool", PoolState.HEALTHY),
    (PoolState.TIGHT, "extend-data", PoolState.HEALTHY),
    (PoolState.TIGHT, "space is given back", PoolState.HEALTHY),
    (PoolState.TIGHT, "data runs out", PoolState.OUT_OF_DATA),
    (PoolState.OUT_OF_DATA, "extend-data", PoolState.HEALTHY),
    (PoolState.TIGHT, "metadata runs out", PoolState.OUT_OF_METADATA),
    (PoolState.OUT_OF_METADATA, "extend-metadata", PoolState.HEALTHY),
    *((state, "deactivate-pool", PoolState.INACTIVE) for state in _USABLE),
    (PoolState.INACTIVE, "activate-pool", PoolState.HEALTHY),
    (PoolState.INACTIVE, "remove-thin-pool", PoolState.ABSENT),
    (PoolState.HEALTHY, "a metadata write fails", PoolState.NEEDS_CHECK),
    (PoolState.HEALTHY, "the kernel gives up", PoolState.FAILED),
    (PoolState.NEEDS_CHECK, "deactivate-pool", PoolState.INACTIVE),
    (PoolState.FAILED, "deactivate-pool", PoolState.INACTIVE),
    (PoolState.HEALTHY, "a disk goes missing", PoolState.PARTIAL),
    (PoolState.INACTIVE, "a disk goes missing", PoolState.PARTIAL),
    (PoolState.PARTIAL, "the disk comes back", PoolState.INACTIVE),
    (PoolState.HEALTHY, "LVM's label is lost", PoolState.LOST),
    (PoolState.LOST, "remove-dm-device", PoolState.ABSENT),
)
"""How a pool gets from state to state: by a step of a plan (its public name), or by what happens to it."""


def draw_states() -> str:
    """Return the transitions as a Mermaid state diagram, for the documentation."""
    arrows = [f"    {before} --> {after}: {event}" for before, event, after in TRANSITIONS]
    return "\n".join(["stateDiagram-v2", "    [*] --> absent", *arrows])


class PoolView(Struct, frozen=True):
    """One pool of the configuration as the snapshot shows it."""

    pool: DesiredPool
    state: PoolState
    because: str
    group: VolumeGroup | None = None
    lv: LogicalVolume | None = None
    device: DmDevice | None = None
    inner: tuple[DmDevice, ...] = ()
    """What the kernel runs for this pool: the pool itself first, then what is below it, also when only that is left."""
    thin_devices: tuple[DmDevice, ...] = ()

    @property
    def dm_name(self) -> str:
        """The name an engine is given: the live pool's, or what it will be."""
        return self.device.name if self.device else pool_dm_name(self.pool.group, self.pool.lv)

    @property
    def status(self) -> ThinPoolStatus | None:
        """The kernel's status line; None when the pool does not run or cannot be read."""
        return self.device.pool_status if self.device else None


def view_pool(pool: DesiredPool, snapshot: Snapshot) -> PoolView:
    """Return what `snapshot` shows of `pool`, and its state with the evidence."""
    group = snapshot.find_group(pool.group)
    if group is None:
        return _view_unlisted(pool, snapshot)
    lv = group.find_lv(pool.lv)
    device = live_pool_device(group, lv.uuid, snapshot.dm_devices) if lv else None
    inner = (device, *below(device, snapshot.dm_devices)) if device else _stray_parts(group, lv, snapshot.dm_devices)
    thin_devices = thin_devices_of(device, snapshot.dm_devices)
    state, because = _listed_state(pool, group, lv, device, snapshot)
    return PoolView(pool, state, because, group, lv, device, inner, thin_devices)


def _stray_parts(group: VolumeGroup, lv: LogicalVolume | None, devices: tuple[DmDevice, ...]) -> tuple[DmDevice, ...]:
    """What an activation that was cut short left of a pool that does not run; LVM refuses to activate it over them."""
    if lv is None or not lv.is_thin_pool:
        return ()
    parts = [lv, *(part for name in (lv.data_lv, lv.metadata_lv) if (part := group.find_lv(name)))]
    prefixes = tuple(f"LVM-{bare_uuid(group.uuid)}{bare_uuid(part.uuid)}" for part in parts)
    return tuple(sorted((d for d in devices if d.uuid.startswith(prefixes)), key=lambda d: d.name))


def thin_devices_of(device: DmDevice | None, devices: tuple[DmDevice, ...]) -> tuple[DmDevice, ...]:
    """Return the thin devices that stand on the pool `device`."""
    if device is None:
        return ()
    return tuple(d for d in devices if device.devno in d.depends_on and set(d.targets) <= {"thin", "error"})


def below(device: DmDevice, devices: tuple[DmDevice, ...]) -> tuple[DmDevice, ...]:
    """Return the devices that `device` depends on directly and LVM made for it (`_tdata` before `_tmeta`)."""
    found = (d for d in devices if d.devno in device.depends_on and d.uuid.startswith("LVM-"))
    return tuple(sorted(found, key=lambda d: d.name))


def _view_unlisted(pool: DesiredPool, snapshot: Snapshot) -> PoolView:
    name = pool_dm_name(pool.group, pool.lv)
    live = snapshot.find_dm(name) or snapshot.find_dm(f"{name}-tpool")
    device = live if live is not None and live.uuid.startswith("LVM-") and live.targets == ("thin-pool",) else None
    remains = [snapshot.find_dm(f"{name}{suffix}") for suffix in ("", "-tpool", "_tdata", "_tmeta")]
    inner = tuple(d for d in remains if d is not None and d.uuid.startswith("LVM-"))
    if inner:
        because = f"the kernel runs {', '.join(d.name for d in inner)}, and LVM does not list the group {pool.group}"
        return PoolView(
            pool,
            PoolState.LOST,
            because,
            device=device,
            inner=inner,
            thin_devices=thin_devices_of(device, snapshot.dm_devices),
        )
    if snapshot.lvm_trouble:
        because = f"LVM's report is incomplete: {snapshot.lvm_trouble[0]}"
        return PoolView(pool, PoolState.UNKNOWN, because)
    return PoolView(pool, PoolState.ABSENT, f"there is no volume group {pool.group}")


def _listed_state(
    pool: DesiredPool, group: VolumeGroup, lv: LogicalVolume | None, device: DmDevice | None, snapshot: Snapshot
) -> tuple[PoolState, str]:
    same_name = [g for g in snapshot.groups if g.name == group.name]
    if len(same_name) > 1 or any(pv.duplicate for pv in group.pvs):
        return PoolState.UNKNOWN, _twice(group, len(same_name))
    if group.is_exported:
        return PoolState.FOREIGN, f"the volume group {group.name} is exported"
    if OUR_TAG not in group.tags:
        return PoolState.FOREIGN, f"the volume group {group.name} does not carry the tag {OUR_TAG}"
    if lv is not None and lv.is_thin_pool and OUR_TAG not in lv.tags:
        return PoolState.FOREIGN, f"{pool.path} does not carry the tag {OUR_TAG}"
    if group.is_partial:
        return PoolState.PARTIAL, f"a disk of the volume group {group.name} is missing"
    if lv is None and (device := snapshot.find_dm(pool_dm_name(pool.group, pool.lv))) is not None:
        return PoolState.UNKNOWN, f"LVM lists no {pool.path}, and the kernel still has {device.name}"
    if lv is None:
        return PoolState.ABSENT, f"there is no thin pool {pool.path}"
    if not lv.is_thin_pool:
        return PoolState.ABSENT, f"{pool.path} is of type {lv.segment_type}, not a thin pool"
    if device is None:
        return PoolState.INACTIVE, "the kernel does not run it"
    return _running_state(pool, device.pool_status)


def _twice(group: VolumeGroup, count: int) -> str:
    if count > 1:
        return f"{count} volume groups are called {group.name}"
    paths = ", ".join(pv.path for pv in group.pvs if pv.duplicate)
    return f"another disk is a copy of {paths}, and LVM may take either for the physical volume of {group.name}"


def _running_state(pool: DesiredPool, status: ThinPoolStatus | None) -> tuple[PoolState, str]:
    if status is None:
        return PoolState.UNKNOWN, "the kernel's status could not be read"
    if status.mode in ("Fail", "Error"):
        return PoolState.FAILED, f"the kernel says {status.mode}"
    if status.needs_check:
        return PoolState.NEEDS_CHECK, "the kernel has set needs_check"
    metadata = percent_of(status.used_metadata_blocks, status.total_metadata_blocks)
    data = percent_of(status.used_data_blocks, status.total_data_blocks)
    if status.mode == "ro":
        # Without needs_check the kernel goes read-only only when metadata ran out: dm-thin.c.
        full = metadata >= 99
        return (
            (PoolState.OUT_OF_METADATA, f"metadata is {metadata} % full")
            if full
            else (PoolState.READ_ONLY, "the kernel says ro")
        )
    if status.mode == "out_of_data_space":
        return PoolState.OUT_OF_DATA, f"data is {data} % full"
    limits = pool.config.extend
    if data >= limits.data_threshold_percent:
        return PoolState.TIGHT, f"data is {data} % full, over {limits.data_threshold_percent} %"
    if metadata >= limits.metadata_threshold_percent:
        return PoolState.TIGHT, f"metadata is {metadata} % full, over {limits.metadata_threshold_percent} %"
    return PoolState.HEALTHY, f"data is {data} % full, metadata {metadata} %"
