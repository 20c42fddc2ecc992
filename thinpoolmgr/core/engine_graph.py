"""What an engine's files say about images, layers and containers: who a thin device belongs to.

Docker's words: a layer is known by its chain id, and its thin device by its cache id; a container's thin device by its
mount id (distribution/layer of Docker 20.10: layer/layer_store.go, layer/filestore.go, image/rootfs.go).
"""

from __future__ import annotations

import hashlib

from msgspec import Struct


class EngineImage(Struct, frozen=True):
    """One image: its id (`sha256:...`), its names and digests, and the chain ids of its layers, lowest first."""

    id: str
    names: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()


class EngineLayer(Struct, frozen=True):
    """One read-only layer."""

    chain_id: str
    cache_id: str
    """The hash in the name of its thin device, and of its file in the driver's metadata."""
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
    """Chain id of the layer it stands on; empty where its image is there, and tells."""


class EngineGraph(Struct, frozen=True):
    """All images, layers and containers that could be read, and what could not be."""

    images: tuple[EngineImage, ...] = ()
    layers: tuple[EngineLayer, ...] = ()
    containers: tuple[EngineContainer, ...] = ()
    problems: tuple[str, ...] = ()
    """Files that are damaged, missing or not to be followed: what they would say is unknown."""


def chain_ids(diff_ids: tuple[str, ...]) -> tuple[str, ...]:
    """Return the chain id of each layer of an image, lowest first (image/rootfs.go, layer.CreateChainID)."""
    chain: list[str] = []
    for diff_id in diff_ids:
        above = f"{chain[-1]} {diff_id}" if chain else ""
        chain.append(f"sha256:{hashlib.sha256(above.encode()).hexdigest()}" if above else diff_id)
    return tuple(chain)
