"""From any name of a device, container, image or layer to all the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import support
from msgspec.structs import replace
from test_core_usage import with_active

from thinpoolmgr.core.engine_graph import EngineContainer, EngineGraph, EngineImage, EngineLayer
from thinpoolmgr.core.holders import Holder, Holders
from thinpoolmgr.core.lifecycle import view_pool
from thinpoolmgr.core.owners import Owner, ThinDevice
from thinpoolmgr.core.who import (
    Known,
    Query,
    Subject,
    devices_to_watch,
    find_relations,
    find_subjects,
    who_document,
)
from thinpoolmgr.host.places import locate
from thinpoolmgr.units import GIB

ROOT = "/var/lib/docker"
LOW, HIGH = f"sha256:{'1a' * 32}", f"sha256:{'1b' * 32}"
WEB, BASE = f"sha256:{'2a' * 32}", f"sha256:{'2b' * 32}"
SHOP, SHOP2 = "3a" * 32, "3a" * 31 + "ff"
C1, C2, M1, M2 = "c1" * 32, "c2" * 32, "e1" * 32, "e2" * 32
DM = f"docker-8:1-42-{M1}"
GRAPH = EngineGraph(
    images=(EngineImage(WEB, ("reg.example/web:1", "web:latest"), (LOW, HIGH)), EngineImage(BASE, (), (LOW,))),
    layers=(EngineLayer(LOW, C1), EngineLayer(HIGH, C2, LOW)),
    containers=(
        EngineContainer(SHOP, "shop", WEB, M1, f"{M1}-init", HIGH),
        EngineContainer(SHOP2, "7", BASE, M2, "", LOW),
    ),
)
VIEW = view_pool(support.pool(), with_active(support.healthy(), DM, 5))
DEVICES = (
    ThinDevice("docker", 1, "base", owner=Owner("base", "base", "base")),
    ThinDevice("docker", 2, C1, owner=Owner("image-layer", LOW, LOW)),
    ThinDevice("docker", 3, C2, owner=Owner("image-layer", HIGH, HIGH)),
    ThinDevice("docker", 4, f"{M1}-init", owner=Owner("container", "shop", SHOP)),
    ThinDevice("docker", 5, M1, DM, "254:9", GIB, Owner("container", "shop", SHOP)),
    ThinDevice("docker", 6, M2, owner=Owner("container", "7", SHOP2)),
    ThinDevice("docker", 8),
)
KNOWN = Known((VIEW,), DEVICES, GRAPH, (ROOT,), ("/x: damaged",))


def find(text: str, path: str = "", devno: str = "", known: Known = KNOWN) -> list[tuple[str, str]]:
    return [(subject.kind, subject.id) for subject in find_subjects(Query(text, path, devno), known)]


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        (DM, "device", "docker/5"),
        (f"/dev/mapper/{DM}", "device", "docker/5"),
        ("254:9", "device", "docker/5"),
        ("5", "device", "docker/5"),
        ("8", "device", "docker/8"),
        (M1, "device", "docker/5"),
        (f"{M1}-init", "device", "docker/4"),
        ("base", "device", "docker/1"),
        ("docker/3", "device", "docker/3"),
        ("c2c2", "device", "docker/3"),
        ("shop", "container", SHOP),
        ("/shop", "container", SHOP),
        (SHOP, "container", SHOP),
        (SHOP[:63], "container", SHOP),
        ("7", "container", SHOP2),
        ("web", "image", WEB),
        ("web:latest", "image", WEB),
        ("reg.example/web:1", "image", WEB),
        (WEB, "image", WEB),
        (WEB[7:], "image", WEB),
        (WEB[:12], "image", WEB),
        ("2b", "image", BASE),
        (HIGH, "image-layer", HIGH),
        (HIGH[7:], "image-layer", HIGH),
        ("1b", "image-layer", HIGH),
        ("docker", "pool", "docker"),
        ("docker/thinpool", "pool", "docker"),
        ("/dev/docker/thinpool", "pool", "docker"),
        ("/dev/mapper/docker-thinpool", "pool", "docker"),
        (VIEW.device.devno if VIEW.device else "", "pool", "docker"),
    ],
)
def test_every_name_leads_to_one_thing(text: str, kind: str, name: str) -> None:
    assert find(text) == [(kind, name)]


@pytest.mark.parametrize(
    ("path", "kind", "name"),
    [
        (f"devicemapper/mnt/{M2}/rootfs/etc", "device", "docker/6"),
        (f"devicemapper/mnt/{M1}-init", "device", "docker/4"),
        (f"devicemapper/metadata/{C1}", "device", "docker/2"),
        (f"containers/{SHOP}", "container", SHOP),
        (f"image/devicemapper/layerdb/mounts/{SHOP}/mount-id", "container", SHOP),
        (f"image/devicemapper/layerdb/sha256/{LOW[7:]}/cache-id", "image-layer", LOW),
        (f"image/devicemapper/imagedb/content/sha256/{WEB[7:]}", "image", WEB),
    ],
)
def test_a_path_below_the_data_root_is_a_name_in_it(path: str, kind: str, name: str) -> None:
    assert find("x", f"{ROOT}/{path}", "8:1") == [(kind, name)]


def test_a_path_on_the_device_is_known_by_its_number() -> None:
    assert find("/proc/7/root/x", "/proc/7/root/x", "254:9") == [("device", "docker/5")]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("nonsense", ""),
        ("", ""),
        ("sha256:", ""),
        ("9", ""),
        ("/srv", "/srv"),
        ("x", ROOT),
        ("x", f"{ROOT}/containers"),
    ],
)
def test_what_names_nothing(text: str, path: str) -> None:
    assert find(text, path, "8:1") == []


def test_a_beginning_that_fits_several_gives_them_all() -> None:
    assert find("3a3a") == [("container", SHOP), ("container", SHOP2)]
    assert find("sha256:1") == [("image-layer", LOW), ("image-layer", HIGH)]
    assert len(find("e1")) == 2


def relations(kind: str, name: str) -> tuple[list[int], list[str], list[str], list[str]]:
    subject = next(s for s in find_subjects(Query(name), KNOWN) if s.kind == kind)
    found = find_relations(subject, KNOWN)
    return (
        [device.device_id for device in found.devices],
        [layer.chain_id for layer in found.layers],
        [image.id for image in found.images],
        [container.id for container in found.containers],
    )


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("container", "shop", ([4, 5], [], [WEB], [SHOP])),
        ("device", "5", ([5], [], [WEB], [SHOP])),
        ("device", "3", ([3], [HIGH], [WEB], [SHOP])),
        ("device", "1", ([1], [], [], [])),
        ("device", "8", ([8], [], [], [])),
        ("image-layer", LOW, ([2], [LOW], [WEB, BASE], [SHOP, SHOP2])),
        ("image", "web", ([2, 3], [LOW, HIGH], [WEB], [SHOP])),
        ("image", BASE, ([2], [LOW], [BASE], [SHOP2])),
        ("pool", "docker", ([], [], [], [])),
    ],
)
def test_what_belongs_to_it(kind: str, name: str, expected: tuple[list[int], list[str], list[str], list[str]]) -> None:
    assert relations(kind, name) == expected


def test_a_container_whose_image_is_gone_still_needs_its_layer() -> None:
    orphan = EngineContainer("4a" * 32, "orphan", "sha256:gone", "", "", HIGH)
    known = KNOWN._replace(graph=replace(GRAPH, images=(), containers=(orphan,)))
    (layer,) = find_subjects(Query(HIGH), known)
    assert find_relations(layer, known).containers == (orphan,)


def test_what_is_watched_for_holders_is_what_is_active() -> None:
    shop, pool = find_subjects(Query("shop"), KNOWN)[0], find_subjects(Query("docker"), KNOWN)[0]
    assert devices_to_watch(shop, find_relations(shop, KNOWN), KNOWN) == {"254:9": DM}
    assert list(devices_to_watch(pool, find_relations(pool, KNOWN), KNOWN).values()) == ["docker-thinpool"]
    idle = Subject("container", SHOP2, "7")
    assert devices_to_watch(idle, find_relations(idle, KNOWN), KNOWN) == {}


def test_the_document_has_all_of_it() -> None:
    subject = find_subjects(Query("shop"), KNOWN)[0]
    held = Holders((Holder(DM, "254:9", "open"),), ("process 9: Permission denied",))
    document = who_document(Query("shop"), subject, find_relations(subject, KNOWN), held, KNOWN)
    assert (document.asked, document.kind, document.id, document.name) == ("shop", "container", SHOP, "shop")
    assert [(device.device_id, device.dm_name, device.devno) for device in document.devices] == [
        (4, None, None),
        (5, DM, "254:9"),
    ]
    assert document.devices[1].virtual_bytes == GIB
    assert (document.holders, document.unseen, document.problems) == (held.found, held.unseen, ("/x: damaged",))


def test_a_word_is_no_path() -> None:
    assert locate("shop") == Query("shop")
    assert locate("library/web:1") == Query("library/web:1")


def test_a_path_is_told_by_the_file_system_it_lies_on(tmp_path: Path) -> None:
    status = tmp_path.stat()
    number = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    (tmp_path / "link").symlink_to(tmp_path)
    assert locate(f"{tmp_path}/link") == Query(f"{tmp_path}/link", os.path.realpath(tmp_path), number)
    assert locate(f"{tmp_path}/gone") == Query(f"{tmp_path}/gone", f"{os.path.realpath(tmp_path)}/gone")


def test_a_kernel_name_is_looked_for_below_dev(tmp_path: Path) -> None:
    (tmp_path / "dm-7").touch()
    assert locate("dm-7", str(tmp_path)).devno != ""
    assert locate("dm-8", str(tmp_path)) == Query("dm-8", f"{os.path.realpath(tmp_path)}/dm-8")
    assert locate("dm-x", str(tmp_path)) == Query("dm-x")
