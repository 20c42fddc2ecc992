"""Where an existing pool differs from its configuration in a way that no step changes: said, never passed over."""

from __future__ import annotations

from thinpoolmgr.core.desired import DesiredPool, parse_share, toml_value
from thinpoolmgr.core.lifecycle import PoolView
from thinpoolmgr.core.model import LogicalVolume, Snapshot, VolumeGroup
from thinpoolmgr.core.plan import Refusal
from thinpoolmgr.units import exact_size, lvm_size, parse_size


def check_drift(view: PoolView, snapshot: Snapshot) -> list[Refusal]:
    """Return a refusal for each key of the configuration that the pool does not have, with the way to settle it.

    A pool that is larger than configured is no drift: it grows as it fills. Shares such as `95%VG` say how large it
    is made, so they are not compared either.
    """
    if view.group is None or view.lv is None:
        return []
    return [*_check_devices(view.pool, view.group, snapshot), *_check_options(view.pool, view.lv)]


def _check_devices(pool: DesiredPool, group: VolumeGroup, snapshot: Snapshot) -> list[Refusal]:
    present = {pv.path for pv in group.pvs}
    refusals = []
    for path in pool.config.devices:
        disk = snapshot.find_disk(path)
        if disk is not None and disk.path not in present:
            summary = f"{path} is not in the volume group {group.name}"
            verb = f"match of pools.{pool.name} chooses it" if pool.chosen_by else f"pools.{pool.name}.devices names it"
            details = f"{verb}; the group stands on {', '.join(sorted(present))}."
            resolution = (
                "Take it out of the configuration; or see that it is blank and unused (blkid -p), and add it: "
                f"vgextend {group.name} {disk.path}"
            )
            refusals.append(Refusal("DEVICE_NOT_IN_GROUP", path, summary, details, resolution))
    return refusals


def _check_options(pool: DesiredPool, lv: LogicalVolume) -> list[Refusal]:
    config, refusals = pool.config, []
    if lv.chunk_bytes not in (0, pool.chunk_bytes):
        present = exact_size(lv.chunk_bytes)
        way = f'Set it to "{present}", or destroy the pool and apply again: a chunk size cannot be changed.'
        refusals.append(_differs(pool, "chunk_size", present, config.chunk_size, way))
    if lv.discards not in ("", config.discards):
        # LVM changes to and from `ignore` only while the pool is not active.
        before = f"thinpoolmgr deactivate {pool.name}, then " if "ignore" in {lv.discards, config.discards} else ""
        way = f"Change one of them: {before}lvchange --discards {config.discards} {pool.path}"
        refusals.append(_differs(pool, "discards", lv.discards, config.discards, way))
    if lv.zero is not None and lv.zero != config.zero_new_blocks:
        way = f"Change one of them: lvchange --zero {'y' if config.zero_new_blocks else 'n'} {pool.path}"
        refusals.append(_differs(pool, "zero_new_blocks", toml_value(lv.zero), toml_value(config.zero_new_blocks), way))
    for key, text, size_bytes, option in (
        ("data_size", config.data_size, lv.size_bytes, "--size"),
        ("metadata_size", config.metadata_size, lv.metadata_bytes, "--poolmetadatasize"),
    ):
        if text != "auto" and not parse_share(text) and size_bytes < parse_size(text):
            way = f"Change one of them: lvextend {option} {lvm_size(parse_size(text))} {pool.path}"
            refusals.append(_differs(pool, key, exact_size(size_bytes), text, way))
    return refusals


def _differs(pool: DesiredPool, key: str, present: str, wanted: str, way: str) -> Refusal:
    summary = f"{pool.path} has {key} {present}, and pools.{pool.name}.{key} asks for {wanted}"
    return Refusal("SETTING_DIFFERS", f"pools.{pool.name}.{key}", summary, "This version does not change it.", way)
