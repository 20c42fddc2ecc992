"""`who`: from any name of a thin device, a container, an image or a layer to all the others, and to who holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec import Struct

from thinpoolmgr.core.documents import SCHEMA
from thinpoolmgr.core.engine_graph import EngineContainer, EngineGraph, EngineImage, EngineLayer
from thinpoolmgr.core.holders import Holder, Holders
from thinpoolmgr.core.owners import OwnerKind, ThinDevice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from thinpoolmgr.core.lifecycle import PoolView

SubjectKind = Literal["pool", "device", "container", "image", "image-layer"]
_FOLDERS: tuple[tuple[str, SubjectKind], ...] = (
    ("devicemapper/mnt/", "device"),
    ("devicemapper/metadata/", "device"),
    ("containers/", "container"),
    ("image/devicemapper/layerdb/mounts/", "container"),
    ("image/devicemapper/layerdb/sha256/", "image-layer"),
    ("image/devicemapper/imagedb/content/sha256/", "image"),
)
"""Folders below Docker's data root whose entries are names of things (facts as in host/engines/docker_graph.py)."""


class Query(Struct, frozen=True):
    """What was asked for."""

    text: str
    path: str = ""
    """When it is a path: absolute, with symbolic links resolved as far as it exists."""
    devno: str = ""
    """`MAJOR:MINOR` of the block device that it is, or that the file system is on which it lies."""


class Known(NamedTuple):
    """All that can be asked for."""

    views: tuple[PoolView, ...]
    devices: tuple[ThinDevice, ...]
    graph: EngineGraph
    data_roots: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class Subject(Struct, frozen=True):
    """One thing that a query may mean; a device's id is `POOL/NUMBER`."""

    kind: SubjectKind
    id: str
    name: str


class WhoDevice(Struct, frozen=True):
    """One thin device; `dm_name` and `devno` are null while it is not active, `virtual_bytes` when it is not known."""

    pool: str
    device_id: int
    dm_name: str | None
    devno: str | None
    driver_name: str
    virtual_bytes: int | None
    owner_kind: OwnerKind
    owner: str
    owner_id: str
    images: tuple[str, ...]


class WhoDocument(Struct, frozen=True):
    """`who --json`: what was meant, its thin devices, the images and containers that need it, and who holds it now.

    `unseen` is what could not be looked at for holders, `problems` what could not be read for owners.
    """

    schema: Literal[1]
    asked: str
    kind: SubjectKind
    id: str
    name: str
    devices: tuple[WhoDevice, ...]
    layers: tuple[EngineLayer, ...]
    images: tuple[EngineImage, ...]
    containers: tuple[EngineContainer, ...]
    holders: tuple[Holder, ...]
    unseen: tuple[str, ...]
    problems: tuple[str, ...]


def find_subjects(query: Query, known: Known) -> tuple[Subject, ...]:
    """Return what `query` may mean: none, one, or several that it does not tell apart.

    Names in full come before beginnings of ids, the kernel's names before the engine's, containers before images, as
    with `docker inspect`.
    """
    ways: tuple[Callable[[Query, Known], Iterable[Subject]], ...] = (
        _by_kernel,
        _by_path,
        _by_container,
        _by_image,
        _by_layer,
        _by_pool,
        _by_device,
        _by_prefix,
    )
    found = (tuple(dict.fromkeys(way(query, known))) for way in ways if query.text)
    return next((subjects for subjects in found if subjects), ())


def _of_pool(view: PoolView) -> Subject:
    return Subject("pool", view.pool.name, view.pool.path)


def _of_device(device: ThinDevice) -> Subject:
    return Subject("device", f"{device.pool}/{device.device_id}", device.dm_name or device.driver_name)


def _of_container(container: EngineContainer) -> Subject:
    return Subject("container", container.id, container.name)


def _of_image(image: EngineImage) -> Subject:
    return Subject("image", image.id, next(iter(image.names), ""))


def _of_layer(layer: EngineLayer) -> Subject:
    return Subject("image-layer", layer.chain_id, "")


def _by_kernel(query: Query, known: Known) -> Iterable[Subject]:
    names = {query.text, query.text.removeprefix("/dev/mapper/"), query.text.removeprefix("/dev/")}
    numbers = {query.devno, query.text} - {""}
    for view in known.views:
        if names & {view.pool.path, view.dm_name} or (view.device and view.device.devno in numbers):
            yield _of_pool(view)
    for device in known.devices:
        if device.dm_name and (device.dm_name in names or device.devno in numbers):
            yield _of_device(device)


def _by_path(query: Query, known: Known) -> Iterable[Subject]:
    for root in known.data_roots:
        below = query.path.removeprefix(f"{root}/") if query.path.startswith(f"{root}/") else ""
        for folder, kind in _FOLDERS:
            name = below.removeprefix(folder).partition("/")[0] if below.startswith(folder) else ""
            if name:
                yield from _named(kind, name, known)


def _named(kind: SubjectKind, name: str, known: Known) -> Iterable[Subject]:
    match kind:
        case "device":
            return (_of_device(device) for device in known.devices if device.driver_name == name)
        case "container":
            return (_of_container(each) for each in known.graph.containers if each.id == name)
        case "image":
            return (_of_image(each) for each in known.graph.images if each.id == f"sha256:{name}")
        case _:
            return (_of_layer(each) for each in known.graph.layers if each.chain_id == f"sha256:{name}")


def _by_container(query: Query, known: Known) -> Iterable[Subject]:
    wanted = query.text.removeprefix("/")
    return (_of_container(each) for each in known.graph.containers if wanted in {each.id, each.name})


def _by_image(query: Query, known: Known) -> Iterable[Subject]:
    wanted = {query.text, f"sha256:{query.text}", f"{query.text}:latest"}
    return (_of_image(each) for each in known.graph.images if wanted & {each.id, *each.names})


def _by_layer(query: Query, known: Known) -> Iterable[Subject]:
    wanted = {query.text, f"sha256:{query.text}"}
    return (_of_layer(each) for each in known.graph.layers if each.chain_id in wanted)


def _by_pool(query: Query, known: Known) -> Iterable[Subject]:
    return (_of_pool(view) for view in known.views if view.pool.name == query.text)


def _by_device(query: Query, known: Known) -> Iterable[Subject]:
    found = ((_of_device(device), device) for device in known.devices)
    return (each for each, d in found if query.text in {d.driver_name, str(d.device_id), each.id})


def _by_prefix(query: Query, known: Known) -> Iterable[Subject]:
    start = query.text.removeprefix("sha256:")
    if not start:
        return
    digest = f"sha256:{start}"
    if start == query.text:
        yield from (_of_container(each) for each in known.graph.containers if each.id.startswith(start))
        yield from (_of_device(each) for each in known.devices if each.driver_name.startswith(start))
    yield from (_of_image(each) for each in known.graph.images if each.id.startswith(digest))
    yield from (_of_layer(each) for each in known.graph.layers if each.chain_id.startswith(digest))


class Relations(NamedTuple):
    """What belongs to a subject."""

    devices: tuple[ThinDevice, ...]
    layers: tuple[EngineLayer, ...] = ()
    images: tuple[EngineImage, ...] = ()
    containers: tuple[EngineContainer, ...] = ()


def find_relations(subject: Subject, known: Known) -> Relations:
    """Return the thin devices of a subject, and the images and containers that it belongs to, or has."""
    graph = known.graph
    match subject.kind:
        case "pool":
            return Relations(())
        case "device":
            device = next(each for each in known.devices if _of_device(each) == subject)
            return _relations_of_device(device, known)
        case "container":
            container = next(each for each in graph.containers if each.id == subject.id)
            return _relations_of_container(container, known)
        case "image":
            image = next(each for each in graph.images if each.id == subject.id)
            layers = _layers(image.layers, graph)
            containers = tuple(each for each in graph.containers if each.image_id == image.id)
            return Relations(_devices_called({layer.cache_id for layer in layers}, known), layers, (image,), containers)
        case "image-layer":
            layer = next(each for each in graph.layers if each.chain_id == subject.id)
            return _relations_of_layer(layer, known)


def _devices_called(names: set[str], known: Known) -> tuple[ThinDevice, ...]:
    return tuple(device for device in known.devices if device.driver_name and device.driver_name in names)


def _layers(chain_ids: tuple[str, ...], graph: EngineGraph) -> tuple[EngineLayer, ...]:
    return tuple(layer for layer in graph.layers if layer.chain_id in chain_ids)


def _relations_of_device(device: ThinDevice, known: Known) -> Relations:
    container = next((c for c in known.graph.containers if c.id == device.owner.id), None)
    layer = next((each for each in known.graph.layers if each.cache_id == device.driver_name), None)
    if container:
        return _relations_of_container(container, known)._replace(devices=(device,))
    return _relations_of_layer(layer, known) if layer else Relations((device,))


def _relations_of_container(container: EngineContainer, known: Known) -> Relations:
    images = tuple(image for image in known.graph.images if image.id == container.image_id)
    return Relations(_devices_called({container.mount_id, container.init_id}, known), (), images, (container,))


def _relations_of_layer(layer: EngineLayer, known: Known) -> Relations:
    images = tuple(image for image in known.graph.images if layer.chain_id in image.layers)
    using = {image.id for image in images}
    containers = tuple(c for c in known.graph.containers if c.image_id in using or c.parent == layer.chain_id)
    return Relations(_devices_called({layer.cache_id}, known), (layer,), images, containers)


def devices_to_watch(subject: Subject, relations: Relations, known: Known) -> dict[str, str]:
    """Return the active device-mapper devices of a subject: their names by `MAJOR:MINOR`."""
    pools = [view.device for view in known.views if subject.kind == "pool" and view.pool.name == subject.id]
    watched = {device.devno: device.name for device in pools if device}
    return watched | {device.devno: device.dm_name for device in relations.devices if device.devno}


def who_document(query: Query, subject: Subject, relations: Relations, held: Holders, known: Known) -> WhoDocument:
    """Return what is known of `subject` as others read it."""
    return WhoDocument(
        SCHEMA,
        query.text,
        subject.kind,
        subject.id,
        subject.name,
        tuple(_device(device) for device in relations.devices),
        relations.layers,
        relations.images,
        relations.containers,
        held.found,
        held.unseen,
        known.problems,
    )


def _device(device: ThinDevice) -> WhoDevice:
    owner = device.owner
    return WhoDevice(
        device.pool,
        device.device_id,
        device.dm_name or None,
        device.devno or None,
        device.driver_name,
        device.virtual_bytes,
        owner.kind,
        owner.name,
        owner.id,
        owner.images,
    )
