"""The disks of a host, sorted for `init`: which could carry a pool, which could not, and why."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from thinpoolmgr.core.desired import DesiredPool, DesiredState, PoolConfig
from thinpoolmgr.core.documents import SCHEMA
from thinpoolmgr.core.guards import check_disk, check_paths
from thinpoolmgr.core.matching import WHOLE_KINDS, describe_disk, stable_name
from thinpoolmgr.core.model import Disk, Snapshot
from thinpoolmgr.core.plan import Memory, Refusal
from thinpoolmgr.units import format_size

POOL_NAME = "docker"


class Rejected(Struct, frozen=True):
    """A disk that cannot carry a pool, with at least one reason."""

    disk: Disk
    refusals: tuple[Refusal, ...]

    @property
    def reason(self) -> str:
        """All reasons in one line."""
        return "; ".join(refusal.summary for refusal in self.refusals)


class Inventory(Struct, frozen=True):
    """All whole disks of a host, in the order of the snapshot."""

    candidates: tuple[Disk, ...] = ()
    rejected: tuple[Rejected, ...] = ()


class NamedDisk(Struct, frozen=True):
    """A disk by the name that a configuration gives it, and what tells it from others."""

    name: str
    description: str


class CandidateDocument(Struct, frozen=True):
    """A disk that could carry a pool; `name` is what a configuration should call it."""

    path: str
    size_bytes: int
    serial: str
    model: str
    links: tuple[str, ...]
    name: str


class RejectedDocument(Struct, frozen=True):
    """A disk that could not; `code` is that of the first reason."""

    path: str
    size_bytes: int
    code: str
    reason: str


class InitDocument(Struct, frozen=True):
    """`init --json`."""

    schema: Literal[1]
    file: str
    written: bool
    devices: tuple[str, ...]
    candidates: tuple[CandidateDocument, ...]
    rejected: tuple[RejectedDocument, ...]


def take_inventory(snapshot: Snapshot) -> Inventory:
    """Return which whole disks of `snapshot` the guards would let a new pool have."""
    judged = [(disk, _judge(disk, snapshot)) for disk in snapshot.disks if disk.kind in WHOLE_KINDS]
    return Inventory(
        tuple(disk for disk, refusals in judged if not refusals),
        tuple(Rejected(disk, refusals) for disk, refusals in judged if refusals),
    )


def _judge(disk: Disk, snapshot: Snapshot) -> tuple[Refusal, ...]:
    return tuple(check_disk(disk, DesiredPool(POOL_NAME, PoolConfig()), snapshot, Memory()))


def check_named(paths: tuple[str, ...], snapshot: Snapshot) -> list[Refusal]:
    """Return why the devices that a person named cannot carry a pool, all of them together."""
    pool = DesiredPool(POOL_NAME, PoolConfig(devices=paths))
    found = [replace(r, details=f"--device {r.target}") for r in check_paths(DesiredState((pool,)), snapshot)]
    repeated = next((path for place, path in enumerate(paths) if path in paths[:place]), "")
    if repeated:
        summary = f"{repeated} is named twice"
        found.append(Refusal("SAME_DISK_TWICE", repeated, summary, "", "Name each disk once.", exit_code=78))
    disks = {disk.path: disk for path in paths if (disk := snapshot.find_disk(path))}
    return [*found, *(refusal for disk in disks.values() for refusal in _judge(disk, snapshot))]


def name_device(path: str, snapshot: Snapshot) -> NamedDisk:
    """Return the disk that a person named, by a lasting name: his own when that is one, or when there is no better."""
    disk = snapshot.find_disk(path)
    if disk is None:
        return NamedDisk(path, path)
    name = stable_name(disk, snapshot)
    is_lasting = path.startswith("/dev/disk/by-id/") or name == disk.path
    return NamedDisk(path if is_lasting else name, describe_disk(disk))


def refuse_without_candidate(inventory: Inventory) -> Refusal:
    """Return the refusal for a host on which no disk could carry a pool."""
    lines = [
        f"{found.disk.path} ({format_size(found.disk.size_bytes)}): {found.reason}" for found in inventory.rejected
    ]
    resolution = "Attach a disk, or free one of these; a partition or another kind of device is named with --device."
    return Refusal("NO_CANDIDATE", "", "no disk of this host is blank and unused", "\n".join(lines), resolution)


def init_document(
    file: str, inventory: Inventory, chosen: tuple[NamedDisk, ...], snapshot: Snapshot, *, written: bool
) -> InitDocument:
    """Return what `init` found and did as others read it."""
    candidates = tuple(
        CandidateDocument(d.path, d.size_bytes, d.serial, d.model, d.links, stable_name(d, snapshot))
        for d in inventory.candidates
    )
    rejected = tuple(
        RejectedDocument(found.disk.path, found.disk.size_bytes, found.refusals[0].code, found.reason)
        for found in inventory.rejected
    )
    return InitDocument(SCHEMA, file, written, tuple(disk.name for disk in chosen), candidates, rejected)
