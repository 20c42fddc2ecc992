"""What an engine's files say about images, layers and containers: who a thin device belongs to.

Docker's words: a layer is known by its chain id, and its thin device by its cache id; a container's thin device by its
mount id (distribution/layer of Docker 20.10: layer/layer_store.go, layer/filestore.go, image/rootfs.go).
"""

from __future__ import annotations

from msgspec import Struct

_TOLD = 100
_DRIVER = "devicemapper"


class EngineImage(Struct, frozen=True):
    """One image: its id (`sha256:...`), its names and digests, and the chain ids of its layers, lowest first."""

    id: str
    names: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()

    @property
    def shown_names(self) -> tuple[str, ...]:
        """Its tags; its digests when it has none, and its id when it has neither."""
        return tuple(name for name in self.names if "@" not in name) or self.names or (self.id,)


class EngineLayer(Struct, frozen=True):
    """One read-only layer."""

    chain_id: str
    cache_id: str
    """The hash in the name of its thin device, and of its file in the driver's metadata."""
    parent: str = ""
    """Chain id of the layer below; empty for the lowest."""
    removing: bool = False
    """Its removal was begun and not finished."""


class EngineContainer(Struct, frozen=True):
    """One container, running or not."""

    id: str
    name: str = ""
    """Without the leading slash; empty when its configuration cannot be read."""
    image_id: str = ""
    mount_id: str = ""
    """The hash of its thin device; empty when the driver has none for it."""
    init_id: str = ""
    """The hash of the thin device between it and its image (`.../etc/hosts` and the like)."""
    parent: str = ""
    """Chain id of the layer it stands on."""
    driver: str = ""
    """The storage driver that it was made with; empty when its configuration does not say."""

    @property
    def shown_name(self) -> str:
        """Its name, or its id when that cannot be read."""
        return self.name or self.id


class EngineGraph(Struct, frozen=True):
    """All images, layers and containers that could be read, and what could not be."""

    images: tuple[EngineImage, ...] = ()
    layers: tuple[EngineLayer, ...] = ()
    containers: tuple[EngineContainer, ...] = ()
    problems: tuple[str, ...] = ()
    """Files that are damaged, missing or not to be followed: what they would say is unknown."""


def chain_ids(diff_ids: tuple[str, ...]) -> tuple[str, ...]:
    """Return the chain id of each layer of an image, lowest first (image/rootfs.go, layer.CreateChainID)."""
    import hashlib  # noqa: PLC0415 - late, as in plan.fingerprint_of

    chain: list[str] = []
    for diff_id in diff_ids:
        above = f"{chain[-1]} {diff_id}" if chain else ""
        chain.append(f"sha256:{hashlib.sha256(above.encode()).hexdigest()}" if above else diff_id)
    return tuple(chain)


def say_contents(graph: EngineGraph | None, engine: str) -> str:
    """Return in words what is lost with an engine's storage: images and containers by name, where they were read."""
    if graph is None:
        return f"all images and containers of {engine}"
    images = [name for image in graph.images for name in image.shown_names]
    containers = [found.shown_name for found in graph.containers if found.mount_id or found.driver in ("", _DRIVER)]
    unread = f", and what could not be read ({graph.problems[0]})" if graph.problems else ""
    return f"{_say_all('image', images)}, and {_say_all('container', containers)}{unread}"


def _say_all(kind: str, names: list[str]) -> str:
    if not names:
        return f"no {kind}"
    more = len(names) - _TOLD
    listed = ", ".join(sorted(names)[:_TOLD]) + (f" and {more} more" if more > 0 else "")
    return f"{kind}{'s' if len(names) > 1 else ''} {listed}"
