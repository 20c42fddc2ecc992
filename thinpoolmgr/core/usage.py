"""`usage`: how much each thin device of a pool maps, and how much of that it shares with none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from msgspec import Struct

from thinpoolmgr.core.documents import SCHEMA, Use
from thinpoolmgr.core.lifecycle import PoolState
from thinpoolmgr.core.model import ThinPoolStatus
from thinpoolmgr.core.owners import OwnerKind
from thinpoolmgr.core.plan import Refusal
from thinpoolmgr.core.planner import refuse_absent, refuse_state
from thinpoolmgr.core.thinstatus import metadata_devno
from thinpoolmgr.units import percent_of

if TYPE_CHECKING:
    from thinpoolmgr.core.lifecycle import PoolView
    from thinpoolmgr.core.model import DmDevice
    from thinpoolmgr.core.owners import Ownership


class ThinUse(Struct, frozen=True):
    """What thin_ls says of one thin device."""

    device_id: int
    mapped_bytes: int
    exclusive_bytes: int


class PoolUse(Struct, frozen=True):
    """What the metadata of a pool say of its thin devices, and the kernel's status of that moment."""

    devices: tuple[ThinUse, ...]
    status: ThinPoolStatus


class UsageDevice(Struct, frozen=True):
    """One thin device: `dm_name` is null while it is not active, `virtual_bytes` when its size is not known.

    `driver_name` is what the engine's driver calls it: a hash, or `base`; empty when nobody records it.
    """

    device_id: int
    dm_name: str | None
    owner_kind: OwnerKind
    owner: str
    owner_id: str
    images: tuple[str, ...]
    driver_name: str
    mapped_bytes: int
    exclusive_bytes: int
    virtual_bytes: int | None


class UsageSum(Struct, frozen=True):
    """All thin devices of one kind of owner together."""

    owner_kind: OwnerKind
    devices: int
    exclusive_bytes: int


class UsageDocument(Struct, frozen=True):
    """`usage --json`; the devices with the most bytes of their own first.

    `exclusive_bytes` come free when the device is deleted; `shared_bytes` belong to more than one device.
    """

    schema: Literal[1]
    pool: str
    dm_name: str
    data: Use
    exclusive_bytes: int
    shared_bytes: int
    sums: tuple[UsageSum, ...]
    devices: tuple[UsageDevice, ...]
    problems: tuple[str, ...]


def parts_to_ask(view: PoolView) -> tuple[DmDevice, DmDevice] | Refusal:
    """Return the live pool and the device of its metadata; or why it cannot be asked for a snapshot of them.

    Only a pool that may write takes one: dm-thin.c, pool_message, refuses from out-of-metadata on.
    """
    path = view.pool.path
    if view.state is PoolState.ABSENT:
        return refuse_absent(view)
    if view.state is PoolState.INACTIVE:
        way = f"thinpoolmgr activate {view.pool.name}; then ask again."
        return Refusal("POOL_INACTIVE", path, f"{path} is inactive", "Only the kernel can tell who uses what.", way)
    suspended = next((device.name for device in view.inner if device.suspended), None)
    if suspended is not None:
        details, way = f"A question to {path} would hang until it is resumed.", "thinpoolmgr apply resumes it."
        return Refusal("DEVICE_SUSPENDED", path, f"{suspended} is suspended", details, way)
    refusal = refuse_state(view)
    if refusal is not None:
        return refusal
    metadata_number = metadata_devno(view.device.table) if view.device else ""
    metadata = next((device for device in view.inner if device.devno == metadata_number), None)
    if view.device is None or metadata is None:
        summary, way = f"the metadata of {path} cannot be found", "Look at it: dmsetup ls --tree."
        return Refusal("STATE_UNKNOWN", path, summary, "No device that the kernel runs is the pool's.", way)
    return view.device, metadata


def parse_thin_use(text: str) -> tuple[ThinUse, ...]:
    """Return the devices in what thin_ls printed: id, mapped bytes, exclusive bytes, one device a line.

    Raises:
        ValueError: a line is something else.

    """
    return tuple(_parse_line(line) for line in text.splitlines() if line.strip())


def _parse_line(line: str) -> ThinUse:
    try:
        device_id, mapped, exclusive = map(int, line.split())
    except ValueError as error:
        msg = f"thin_ls printed {ascii(line)[:100]}, which is not three numbers"
        raise ValueError(msg) from error
    return ThinUse(device_id, mapped, exclusive)


def usage_document(view: PoolView, use: PoolUse, ownership: Ownership) -> UsageDocument:
    """Return the use of the pool `view` as others read it."""
    chunk_bytes = view.lv.chunk_bytes if view.lv else view.pool.chunk_bytes
    devices = [_device(view.pool.name, found, ownership) for found in use.devices]
    devices.sort(key=lambda device: (-device.exclusive_bytes, -device.mapped_bytes, device.device_id))
    used, total = use.status.used_data_blocks * chunk_bytes, use.status.total_data_blocks * chunk_bytes
    exclusive = sum(device.exclusive_bytes for device in devices)
    return UsageDocument(
        SCHEMA,
        pool=view.pool.name,
        dm_name=view.dm_name,
        data=Use(used, total, percent_of(used, total)),
        exclusive_bytes=exclusive,
        shared_bytes=max(0, used - exclusive),
        sums=_sums(devices),
        devices=tuple(devices),
        problems=ownership.problems,
    )


def _device(pool: str, use: ThinUse, ownership: Ownership) -> UsageDevice:
    known = ownership.find(pool, use.device_id)
    return UsageDevice(
        use.device_id,
        known.dm_name or None,
        known.owner.kind,
        known.owner.name,
        known.owner.id,
        known.owner.images,
        known.driver_name,
        use.mapped_bytes,
        use.exclusive_bytes,
        known.virtual_bytes,
    )


def _sums(devices: list[UsageDevice]) -> tuple[UsageSum, ...]:
    kinds: tuple[OwnerKind, ...] = get_args(OwnerKind)
    of_kind = {kind: [device for device in devices if device.owner_kind == kind] for kind in kinds}
    sums = [
        UsageSum(kind, len(found), sum(d.exclusive_bytes for d in found)) for kind, found in of_kind.items() if found
    ]
    return tuple(sorted(sums, key=lambda each: -each.exclusive_bytes))
