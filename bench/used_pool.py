"""A pool with many thin devices that hold data, and the files that Docker would keep about them.

Neither is written by the kernel or by Docker, which would take an hour: thin_restore makes the metadata.
"""

from __future__ import annotations

import json
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from thinpoolmgr.core.engine_graph import chain_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARED_BLOCKS = 200
OWN_BLOCKS = 3
METADATA_MIB = 128
LAYERS_PER_IMAGE = 5
BASE_BYTES = 10 << 30


def fill_pool(group: str, pool: str, count: int, blocks: int, folder: Path) -> None:
    """Give the pool metadata with `count` thin devices: all share blocks, and each has some of its own.

    Raises:
        SystemExit: a command failed.

    """
    xml = folder / "pool.xml"
    xml.write_text("\n".join(_xml(count, blocks)), "utf-8")
    # Or udev's rules activate the pool again as soon as a volume of its group comes or goes.
    _run("vgchange", "--setautoactivation", "n", group)
    _run("lvchange", "--activate", "n", f"{group}/{pool}")
    _run("lvcreate", "--yes", "--name", "used", "--size", f"{METADATA_MIB}m", group)
    _run("thin_restore", "--quiet", "--input", str(xml), "--output", f"/dev/{group}/used")
    _run("lvchange", "--activate", "n", f"{group}/used")
    _run("lvconvert", "--yes", "--thinpool", f"{group}/{pool}", "--poolmetadata", f"{group}/used")
    _run("lvchange", "--activate", "y", f"{group}/{pool}")


def _xml(count: int, blocks: int) -> Iterator[str]:
    yield (
        f'<superblock uuid="" time="1" transaction="0" flags="0" version="2" data_block_size="1024" '
        f'nr_data_blocks="{blocks}">'
    )
    for number in range(1, count + 1):
        mapped, own = SHARED_BLOCKS + OWN_BLOCKS, SHARED_BLOCKS + number * OWN_BLOCKS
        yield f'<device dev_id="{number}" mapped_blocks="{mapped}" transaction="0" creation_time="0" snap_time="1">'
        yield f'<range_mapping origin_begin="0" data_begin="0" length="{SHARED_BLOCKS}" time="0"/>'
        yield f'<range_mapping origin_begin="{SHARED_BLOCKS}" data_begin="{own}" length="{OWN_BLOCKS}" time="1"/>'
        yield "</device>"
    yield "</superblock>"


def write_docker_files(root: Path, count: int) -> None:
    """Write what Docker keeps of `count` devices: half are layers, the others containers and their init devices."""
    names = [_digest(f"device {number}") for number in range(1, count + 1)]
    images = [_write_image(root, place, names) for place in range(0, count // 2, LAYERS_PER_IMAGE)]
    for place in range(count // 2, count - 1, 2):
        names[place + 1] = f"{names[place]}-init"
        _write_container(root, names[place], images[place % len(images)])
    for number, name in enumerate(names, start=1):
        record = {"device_id": number, "size": BASE_BYTES, "transaction_id": 1, "initialized": False}
        _write(root / "devicemapper/metadata" / name, json.dumps(record))


def _write_image(root: Path, first: int, names: list[str]) -> tuple[str, str]:
    """Return the id of the image and the chain id of its highest layer."""
    layers, image = names[first : first + LAYERS_PER_IMAGE], _digest(f"image {first}")
    diff_ids = tuple(f"sha256:{name}" for name in layers)
    parent = ""
    for name, chain_id in zip(layers, chain_ids(diff_ids), strict=True):
        folder = root / "image/devicemapper/layerdb/sha256" / chain_id[7:]
        _write(folder / "cache-id", name)
        if parent:
            _write(folder / "parent", parent)
        parent = chain_id
    content = {"rootfs": {"type": "layers", "diff_ids": diff_ids}}
    _write(root / "image/devicemapper/imagedb/content/sha256" / image, json.dumps(content))
    return f"sha256:{image}", parent


def _write_container(root: Path, name: str, image: tuple[str, str]) -> None:
    container = _digest(f"container {name}")
    mount = root / "image/devicemapper/layerdb/mounts" / container
    _write(mount / "mount-id", name)
    _write(mount / "init-id", f"{name}-init")
    _write(mount / "parent", image[1])
    config = {"Name": f"/c{name[:8]}", "Image": image[0], "Config": {"Env": ["PATH=/bin"] * 20}}
    _write(root / "containers" / container / "config.v2.json", json.dumps(config))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def _digest(seed: str) -> str:
    return sha256(seed.encode()).hexdigest()


def _run(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
