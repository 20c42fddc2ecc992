"""The configuration that `init` writes: every key with its default and what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from thinpoolmgr.core.desired import EngineConfig, ExtendPolicy, MatchConfig, PoolConfig, toml_value
from thinpoolmgr.core.inventory import POOL_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from thinpoolmgr.core.inventory import NamedDisk

_HEAD = """\
# Which disks carry which thin pool, and which container engine lives on it.
# Each key stands here with its default: take the # away from those that shall be different.
# thinpoolmgr config check looks at this file, thinpoolmgr plan shows what it would do.
# Sizes are 1024-based (10G is 10GiB); 10GB is not accepted, since tools read it differently.

version = 1

[pools.docker]
"""
_CHOSEN = "# The disks that carry the pool, by names that stay the same. The pool takes them whole."
_OFFERED = "# Several disks are blank and unused: take the # away from those that shall carry the pool."
_POOL = {
    "volume_group": "The volume group; without this key it is called as the pool.",
    "thin_pool": "The logical volume that is the pool.",
    "data_size": "A share of the volume group (95%VG), of what is free in it (50%FREE), or a size.",
    "metadata_size": "auto: computed from data size and chunk size; or a share, or a size.",
    "chunk_size": "What is given out at once: a multiple of 64KiB. It cannot be changed later.",
    "zero_new_blocks": "true: blocks are zeroed before they are given out. Docker does not need it.",
    "discards": "Blocks that are deleted: ignore; nopassdown: to the pool; passdown: to the disks, too.",
    "when_full": "What writes do when the pool is full: queue (wait for space) or error (fail at once).",
    "wipe_signatures": "true: devices named here may lose an old signature; never when they are in use.",
    "spare_devices": "Taken into the volume group when the pool has to grow and the group is full.",
}
_MATCH_HEAD = """\
# Instead of devices: disks chosen by what udev says of them (udevadm info --query=property DEVICE).
# All keys of a table must hold; * stands for any characters, ? for one. Several tables add up."""
_MATCH = {
    "serial": ("WD-*", ""),
    "model": ("WDC_WD40*", ""),
    "wwn": ("0x50014ee2*", ""),
    "path": ("/dev/disk/by-path/pci-0000:00:1f.2-*", "or udev's ID_PATH, or the device node"),
    "transport": ("ata", "or scsi, nvme, usb, virtio"),
    "rotational": (False, ""),
    "min_size": ("100GiB", ""),
    "count": (1, "exactly so many disks must match"),
}
_EXTEND = {
    "data_threshold_percent": "The pool grows when more than this is used.",
    "metadata_threshold_percent": "The same for its metadata.",
    "step_percent": "By how much it grows, of its present size.",
    "max_size": 'Where it stops to grow: a size, or "none".',
    "monitor": "Who sees to it: thinpoolmgr, dmeventd or none.",
}
_ENGINE = {
    "base_size": "The largest size of a container's root.",
    "filesystem": "Of the containers' roots: xfs or ext4.",
    "deferred_removal": "Devices that are still in use are removed when they are free.",
    "deferred_deletion": "The same for deleting; it needs deferred_removal.",
    "min_free_space_percent": "With less free space in the pool no new container is made.",
    "config_file": "auto: where this host configures Docker's storage; or a path.",
}


def config_text(chosen: tuple[NamedDisk, ...], offered: tuple[NamedDisk, ...], engine: str) -> str:
    """Return a configuration as text, valid as soon as it names a device.

    Args:
        chosen: the devices of the pool.
        offered: when none is chosen, those to choose from; they are commented out.
        engine: the engine on the pool; empty leaves its table commented out.

    """
    lines = [
        *_device_lines(chosen, offered),
        *_keys(PoolConfig, _POOL, {"volume_group": POOL_NAME}),
        "",
        *_match_lines(),
        "",
        "# When and how far the pool grows.",
        f"[pools.{POOL_NAME}.extend]",
        *_keys(ExtendPolicy, _EXTEND, {}),
        "",
        *_engine_lines(engine),
    ]
    return _HEAD + "\n".join(lines) + "\n"


def _device_lines(chosen: tuple[NamedDisk, ...], offered: tuple[NamedDisk, ...]) -> Iterator[str]:
    yield _CHOSEN if chosen or not offered else _OFFERED
    yield "devices = ["
    for mark, disks in (("", chosen), ("# ", () if chosen else offered)):
        for disk in disks:
            yield f"    # {_plain(disk.description)}"
            yield f"    {mark}{toml_value(disk.name)},"
    yield "]"


def _plain(text: str) -> str:
    """What a disk says of itself, without what TOML does not allow in a comment."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _keys(kind: type[Struct], told: Mapping[str, str], instead: Mapping[str, object]) -> Iterator[str]:
    """Give each key of `kind` that is told, with its meaning and its default."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(kind)}
    for name, meaning in told.items():
        yield f"# {meaning}"
        yield f"# {name} = {toml_value(instead.get(name, defaults[name]))}"


def _match_lines() -> Iterator[str]:
    yield _MATCH_HEAD
    yield f"# [[pools.{POOL_NAME}.match]]"
    for field in msgspec.structs.fields(MatchConfig):
        value, note = _MATCH[field.name]
        yield f"# {field.name} = {toml_value(value)}" + (f"  # {note}" if note else "")


def _engine_lines(engine: str) -> Iterator[str]:
    mark = "" if engine else "# "
    yield "# The engine that lives on the pool." + ("" if engine else " Without this table the pool is only made.")
    yield f"{mark}[engines.{engine or 'docker'}]"
    yield f"{mark}pool = {toml_value(POOL_NAME)}"
    yield from _keys(EngineConfig, _ENGINE, {})
