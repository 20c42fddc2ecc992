"""Who a thin device belongs to: the kernel's devices, the driver's records and the engine's graph, joined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from thinpoolmgr.core.engine_state import judge_state
from thinpoolmgr.core.engines import ENGINES
from thinpoolmgr.core.model import BASE
from thinpoolmgr.core.thinstatus import thin_device_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from thinpoolmgr.core.engine_graph import EngineContainer, EngineGraph, EngineImage
    from thinpoolmgr.core.lifecycle import PoolView
    from thinpoolmgr.core.model import DmDevice, Engine, EngineDevice, Snapshot

OwnerKind = Literal["container", "image-layer", "base", "snapshot", "unknown"]


class Owner(Struct, frozen=True):
    """What a thin device is for.

    `snapshot`: the engine's driver records it, and no image or container has it. `unknown`: nobody records it.
    """

    kind: OwnerKind = "unknown"
    name: str = ""
    """Of a container its name, or its id when that is unknown; of a layer its chain id; else the driver's own name."""
    id: str = ""
    """Of a container its id; else as `name`."""
    images: tuple[str, ...] = ()
    """Names of the images that use the layer, or of the container's image; an image without a name by its id."""


class ThinDevice(Struct, frozen=True):
    """One thin device of a pool, active or not."""

    pool: str
    device_id: int
    driver_name: str = ""
    """What the engine's driver calls it: a hash, or `base`; empty when unknown."""
    dm_name: str = ""
    """Empty while it is not active, as `devno`."""
    devno: str = ""
    virtual_bytes: int | None = None
    owner: Owner = Owner()


class Ownership(NamedTuple):
    """All thin devices that are known of one pool, by device id, and what keeps their owners from being told."""

    devices: dict[int, ThinDevice]
    problems: tuple[str, ...] = ()

    def find(self, pool: str, device_id: int) -> ThinDevice:
        """Return the device with this id; one that nobody records has no owner."""
        return self.devices.get(device_id) or ThinDevice(pool, device_id)


def find_owners(view: PoolView, engine: Engine | None, graph: EngineGraph, snapshot: Snapshot) -> Ownership:
    """Return the thin devices of a pool with their owners.

    Args:
        view: the pool.
        engine: the engine that lives on it, or may.
        graph: that engine's images, layers and containers.
        snapshot: the host.

    """
    records, doubt = _trusted_records(view, engine, snapshot)
    kind = engine.kind if engine else "docker"
    known = {record.device_id: _recorded(view, record) for record in records}
    for device in view.thin_devices:
        number = thin_device_id(device.table)
        if number is not None:
            known[number] = _active(view, device, number, ENGINES[kind].driver_name(device.name), known.get(number))
    owners = _index(graph)
    devices = {number: _with_owner(device, owners) for number, device in sorted(known.items())}
    return Ownership(devices, (*doubt, *graph.problems))


def _trusted_records(
    view: PoolView, engine: Engine | None, snapshot: Snapshot
) -> tuple[tuple[EngineDevice, ...], tuple[str, ...]]:
    """Return the driver's records; none when they are not of this pool: the same ids would be of other devices."""
    if engine is None:
        return (), ()
    if engine.state_problem:
        return (), (engine.state_problem,)
    if engine.state is None:
        return (), ()
    other = ENGINES[engine.kind].configured_pool_dm_name(engine)
    if other not in {"", view.dm_name}:
        return (), (f"{engine.name} is configured for {other}, so that its records are not of {view.pool.path}",)
    # A record that is damaged says nothing of the others.
    damage = (engine.state.damage,) if engine.state.damage else ()
    verdict = judge_state(replace(engine, state=replace(engine.state, damage="")), view, snapshot)
    if verdict is not None and verdict.kind != "matching":
        return (), (f"the records of {engine.name} are not of {view.pool.path}: {verdict.evidence}",)
    if engine.state.loop_files:
        # There is no verdict while it runs.
        return (), (f"the records of {engine.name} are of the pool in {engine.state.loop_files[0]}",)
    return engine.state.devices, damage


def _recorded(view: PoolView, record: EngineDevice) -> ThinDevice:
    return ThinDevice(view.pool.name, record.device_id, record.name or BASE, virtual_bytes=record.size_bytes)


def _active(view: PoolView, device: DmDevice, number: int, driver_name: str, known: ThinDevice | None) -> ThinDevice:
    """Of a device that is active the kernel's word counts."""
    name = driver_name or (known.driver_name if known else "")
    return ThinDevice(view.pool.name, number, name, device.name, device.devno, device.size_bytes)


def _index(graph: EngineGraph) -> dict[str, Owner]:
    """Return the owners by the driver's name of the device."""
    users: dict[str, list[str]] = {}
    for image in graph.images:
        for chain_id in image.layers:
            users.setdefault(chain_id, []).extend(image.shown_names)
    owners = {
        layer.cache_id: Owner("image-layer", layer.chain_id, layer.chain_id, _unique(users.get(layer.chain_id, ())))
        for layer in graph.layers
    }
    images = {image.id: image for image in graph.images}
    for container in graph.containers:
        owner = _owner_of(container, images)
        owners |= {name: owner for name in (container.mount_id, container.init_id) if name}
    return owners


def _owner_of(container: EngineContainer, images: dict[str, EngineImage]) -> Owner:
    image = images.get(container.image_id)
    names = image.shown_names if image else (container.image_id,) if container.image_id else ()
    return Owner("container", container.shown_name, container.id, names)


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


def _with_owner(device: ThinDevice, owners: dict[str, Owner]) -> ThinDevice:
    name = device.driver_name
    if name == BASE:
        return replace(device, owner=Owner("base", BASE, BASE))
    return replace(device, owner=owners.get(name) or Owner("snapshot", name, name)) if name else device
