from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from thinpoolmgr.core.engine_graph import EngineContainer, EngineGraph, EngineImage, EngineLayer, chain_ids
from thinpoolmgr.host.engines.docker_graph import read_graph

D1, D2 = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
CHAIN2 = f"sha256:{hashlib.sha256(f'{D1} {D2}'.encode()).hexdigest()}"
CACHE1, CACHE2, MOUNT = "a" * 64, "b" * 64, "c" * 64
IMAGE, CONTAINER = "d" * 64, "e" * 64
LAYERDB, IMAGEDB = "image/devicemapper/layerdb", "image/devicemapper/imagedb/content/sha256"


class Root:
    """A data root in a folder of the test's own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, text: str) -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def layer(self, folder: str, cache_id: str, parent: str = "") -> None:
        self.write(f"{LAYERDB}/sha256/{folder}/cache-id", cache_id)
        if parent:
            self.write(f"{LAYERDB}/sha256/{folder}/parent", parent)

    def image(self, name: str, diff_ids: list[str]) -> None:
        self.write(f"{IMAGEDB}/{name}", json.dumps({"rootfs": {"type": "layers", "diff_ids": diff_ids}}))

    def read(self) -> EngineGraph:
        return read_graph(str(self.path))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """Two layers, an image of both, a container of it."""
    made = Root(tmp_path / "docker")
    made.layer(D1[7:], CACHE1)
    made.layer(CHAIN2[7:], CACHE2, D1)
    made.image(IMAGE, [D1, D2])
    names = {"web:latest": f"sha256:{IMAGE}", f"web@{D2}": f"sha256:{IMAGE}"}
    made.write("image/devicemapper/repositories.json", json.dumps({"Repositories": {"web": names}}))
    mounts = f"{LAYERDB}/mounts/{CONTAINER}"
    made.write(f"{mounts}/mount-id", MOUNT)
    made.write(f"{mounts}/init-id", f"{MOUNT}-init")
    made.write(f"{mounts}/parent", CHAIN2)
    config = {"Name": "/shop", "Image": f"sha256:{IMAGE}", "Driver": "devicemapper", "State": {"Running": False}}
    made.write(f"containers/{CONTAINER}/config.v2.json", json.dumps(config))
    return made


LAYER1, LAYER2 = EngineLayer(D1, CACHE1), EngineLayer(CHAIN2, CACHE2, D1)
WEB = EngineImage(f"sha256:{IMAGE}", ("web:latest", f"web@{D2}"), (D1, CHAIN2))
SHOP = EngineContainer(CONTAINER, "shop", f"sha256:{IMAGE}", MOUNT, f"{MOUNT}-init", CHAIN2)


def test_all_is_read(root: Root) -> None:
    assert root.read() == EngineGraph((WEB,), tuple(sorted((LAYER1, LAYER2), key=lambda x: x.chain_id)), (SHOP,))


def test_chain_ids_are_dockers() -> None:
    assert chain_ids(()) == ()
    third = f"sha256:{hashlib.sha256(f'{CHAIN2} {D1}'.encode()).hexdigest()}"
    assert chain_ids((D1, D2, D1)) == (D1, CHAIN2, third)


@pytest.mark.parametrize("data_root", ["", "/nonexistent/docker"])
def test_nothing_there_is_nothing(data_root: str) -> None:
    assert read_graph(data_root) == EngineGraph()


def test_an_empty_data_root_is_nothing(tmp_path: Path) -> None:
    assert read_graph(str(tmp_path)) == EngineGraph()


def test_a_linked_data_root_is_resolved(root: Root, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root.path)
    assert read_graph(str(tmp_path / "link")) == root.read()


def test_a_layer_under_removal_is_told_apart(root: Root) -> None:
    root.layer(f"{'3' * 64}-1234567-removing", "f" * 64)
    assert root.read().layers[1] == EngineLayer(f"sha256:{'3' * 64}", "f" * 64, removing=True)


def test_an_image_without_a_name(root: Root) -> None:
    (root.path / "image/devicemapper/repositories.json").unlink()
    graph = root.read()
    assert (graph.images, graph.problems) == ((EngineImage(WEB.id, (), WEB.layers),), ())


def test_a_container_without_its_configuration_keeps_its_device(root: Root) -> None:
    (root.path / f"containers/{CONTAINER}/config.v2.json").unlink()
    graph = root.read()
    assert graph.containers == (EngineContainer(CONTAINER, "", "", MOUNT, f"{MOUNT}-init", CHAIN2),)
    assert "No such file" in graph.problems[0]


def test_a_container_without_a_device_keeps_its_name(root: Root) -> None:
    for name in ("mount-id", "init-id", "parent"):
        (root.path / f"{LAYERDB}/mounts/{CONTAINER}/{name}").unlink()
    (root.path / f"{LAYERDB}/mounts/{CONTAINER}").rmdir()
    graph = root.read()
    assert (graph.containers, graph.problems) == ((EngineContainer(CONTAINER, "shop", f"sha256:{IMAGE}"),), ())


@pytest.mark.parametrize(
    ("name", "text", "lost"),
    [
        (f"{LAYERDB}/sha256/{CHAIN2[7:]}/cache-id", "../../../etc", "layers"),
        (f"{LAYERDB}/sha256/{CHAIN2[7:]}/cache-id", "", "layers"),
        (f"{LAYERDB}/sha256/{CHAIN2[7:]}/cache-id", "a" * 2000, "layers"),
        (f"{LAYERDB}/sha256/{CHAIN2[7:]}/parent", "sha256:abc", "layers"),
        (f"{IMAGEDB}/{IMAGE}", '{"rootfs": {"diff_ids": [1', "images"),
        (f"{IMAGEDB}/{IMAGE}", '{"rootfs": {"diff_ids": "no list"}}', "images"),
        (f"{IMAGEDB}/{IMAGE}", '{"x": ' + "[" * 100_000, "images"),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_read(root: Root, name: str, text: str, lost: str) -> None:
    whole = root.read()
    root.write(name, text)
    graph = root.read()
    assert len(graph.problems) == 1
    assert graph.problems[0].startswith(f"{os.path.realpath(root.path)}/{name}".rpartition("/")[0])
    for kind in ("images", "layers", "containers"):
        assert len(getattr(graph, kind)) == len(getattr(whole, kind)) - (kind == lost)


def test_parents_are_read_only_where_they_are_asked_for(root: Root) -> None:
    for name in (f"sha256/{CHAIN2[7:]}/parent", f"mounts/{CONTAINER}/parent"):
        root.write(f"{LAYERDB}/{name}", "../..")
    assert len(root.read().problems) == 2
    graph = read_graph(str(root.path), with_parents=False)
    assert (graph.problems, {layer.parent for layer in graph.layers}) == ((), {""})
    assert graph.containers == (replace(SHOP, parent=""),)


def test_damaged_names_cost_the_names_alone(root: Root) -> None:
    root.write("image/devicemapper/repositories.json", "{")
    graph = root.read()
    assert [image.names for image in graph.images] == [()]
    assert "repositories.json" in graph.problems[0]


@pytest.mark.parametrize(
    "name",
    [
        "image",
        f"{LAYERDB}/sha256",
        f"{LAYERDB}/sha256/{D1[7:]}",
        f"{LAYERDB}/sha256/{D1[7:]}/cache-id",
        f"{LAYERDB}/mounts/{CONTAINER}",
        f"containers/{CONTAINER}",
        f"containers/{CONTAINER}/config.v2.json",
    ],
)
def test_a_link_below_the_data_root_is_not_followed(root: Root, tmp_path: Path, name: str) -> None:
    whole = root.read()
    real = root.path / name
    real.rename(tmp_path / "elsewhere")
    real.symlink_to(tmp_path / "elsewhere")
    graph = root.read()
    assert graph.problems
    assert (graph.images, graph.layers, graph.containers) != (whole.images, whole.layers, whole.containers)


def test_a_pipe_in_place_of_a_file_holds_nobody_up(root: Root) -> None:
    name = root.path / f"{LAYERDB}/sha256/{D1[7:]}/cache-id"
    name.unlink()
    os.mkfifo(name)
    graph = root.read()
    assert graph.layers == (LAYER2,)
    assert "not a regular file" in graph.problems[0]


def test_a_hundred_megabytes_are_not_read(root: Root) -> None:
    with (root.path / f"containers/{CONTAINER}/config.v2.json").open("r+b") as file:
        file.truncate(100 * 1024**2)
    graph = root.read()
    assert "longer than" in graph.problems[0]
    assert graph.containers[0].name == ""


def test_other_names_are_passed_over(root: Root) -> None:
    whole = root.read()
    root.write(f"{LAYERDB}/sha256/README/cache-id", "x")
    root.write(f"{LAYERDB}/tmp/write-set-1/cache-id", "x")
    root.write("containers/.hidden/config.v2.json", "{")
    assert root.read() == whole
