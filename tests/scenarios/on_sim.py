"""The stage in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from thinpoolmgr.core.model import (
    ConfiguredDevice,
    Disk,
    DmDevice,
    Engine,
    EngineDevice,
    EngineState,
    Signature,
    Snapshot,
)
from thinpoolmgr.core.names import OUR_TAG, pool_dm_name
from thinpoolmgr.core.profiles import profile_name, profile_path, profile_text
from thinpoolmgr.core.steps import (
    CreateThinPool,
    CreateVolumeGroup,
    DeactivatePool,
    DiskRef,
    EditLvmProfile,
    ExtendData,
    ExtendMetadata,
    SetDiscards,
    SetProfile,
    SetWhenFull,
    Step,
)
from thinpoolmgr.sim import events
from thinpoolmgr.sim.host import SimulatedHost
from thinpoolmgr.sim.parts import add_device, find_group, replace_group, set_volumes, settle, volume
from thinpoolmgr.sim.steps import apply_step, make_group
from thinpoolmgr.units import GIB, MIB

if TYPE_CHECKING:
    from words import Act

    from thinpoolmgr.core.desired import DesiredPool, DesiredState
    from thinpoolmgr.cycle import Host

SIGNATURES = {
    "ext4": (Signature("ext4", "filesystem", 1080),),
    "xfs": (Signature("xfs", "filesystem", 0),),
    "swap": (Signature("swap", "other", 4086),),
    "gpt": tuple(
        Signature(kind, "partition-table", place) for kind, place in (("PMBR", 510), ("gpt", 512), ("gpt", GIB - 512))
    ),
}

DOCKER = Engine(
    "docker",
    "docker",
    installed=True,
    version="20.10.24",
    data_root="/var/lib/docker",
    config_path="/etc/docker/daemon.json",
)
STALE = EngineState(
    "/var/lib/docker/devicemapper",
    base_device_uuid="u-1",
    base_size_bytes=GIB,
    transaction_id=4,
    devices=(EngineDevice("base", 1, GIB, 1),),
)


def lvcreate(pool: DesiredPool, **changes: object) -> CreateThinPool:
    """Return the step that makes a pool of 100 MiB in `pool`'s group, as LVM does without being told how."""
    values = {"reason": "", "group": pool.group, "lv": pool.lv, "data_extents": 25, "extent_bytes": 4 * MIB}
    features = {"chunk_bytes": 64 * 1024, "zero_new_blocks": True, "discards": "passdown"}
    return CreateThinPool(
        **{**values, **features, "metadata_bytes": 4 * MIB, "monitored_by_dmeventd": False, **changes}  # type: ignore[arg-type]
    )


class HostAsSeen:
    """The host in memory, of which a run sees what it would of a real one: see host/observe.py."""

    def __init__(self, sim: SimulatedHost, desired: DesiredState) -> None:
        """Look at what `desired` names."""
        self._sim = sim
        self._desired = desired

    @property
    def recent_commands(self) -> tuple[str, ...]:
        """The last steps that were attempted."""
        return self._sim.recent_commands

    def observe(self) -> Snapshot:
        """Return what is named, and what carries a group that is named."""
        shot = self._sim.observe()
        named = [path for pool in self._desired.pools for path in (*pool.config.devices, *pool.config.spare_devices)]
        groups = {pool.group for pool in self._desired.pools}
        devices = tuple(device for device in shot.configured_devices if device.configured_path in named)
        known = {device.disk for device in devices}
        known |= {pv.path for group in shot.groups if group.name in groups for pv in group.pvs}
        known |= {pv.path for pv in shot.orphan_pvs}
        engines = {engine.name for engine in self._desired.engines}
        return replace(
            shot,
            configured_devices=devices,
            disks=tuple(disk for disk in shot.disks if disk.path in known),
            engines=tuple(engine for engine in shot.engines if engine.name in engines),
        )

    def perform(self, step: Step) -> None:
        """Carry out `step`."""
        self._sim.perform(step)


class SimStage:
    """A host in memory with so many disks of 1 GiB."""

    def __init__(self, count: int) -> None:
        """Make the disks, and Docker."""
        disks = tuple(Disk(f"/dev/sd{chr(98 + n)}", f"8:{16 + 16 * n}", GIB, serial=f"S{n}") for n in range(count))
        configured = tuple(ConfiguredDevice(disk.path, disk.path) for disk in disks)
        self._paths = tuple(disk.path for disk in disks)
        self.sim = SimulatedHost(
            Snapshot(configured_devices=configured, disks=disks, engines=(DOCKER,), boot_id="boot")
        )

    def paths(self) -> tuple[str, ...]:
        """Return the disks' nodes."""
        return self._paths

    def host(self, desired: DesiredState) -> Host:
        """Return the host, on which only what `desired` has to do with is looked at."""
        return HostAsSeen(self.sim, desired)

    def act(self, act: Act, pool: DesiredPool) -> None:
        """Do what somebody does."""
        path = self._paths[act.disk]
        if act.what == "vanish":
            self.sim.vanish(path)
        elif act.what == "return":
            self.sim.bring_back(path)
        else:
            self.sim.snapshot = changed(self.sim.snapshot, act.what, path, pool)


def changed(shot: Snapshot, what: str, path: str, pool: DesiredPool) -> Snapshot:  # noqa: PLR0912 - one branch an act
    """Return `shot` after somebody did `what`."""
    match what:
        case "ext4" | "xfs" | "swap" | "gpt":
            return with_disk(shot, path, signatures=SIGNATURES[what])
        case "label":
            label = CreateVolumeGroup(reason="", group="x", disks=(DiskRef(path, "", 0),))
            return events.half_done(shot, label, "labels")
        case "mount":
            return with_disk(shot, path, mounts=("/mnt",), opened_exclusively=True)
        case "swapon":
            return with_disk(shot, path, swap=True, opened_exclusively=True)
        case "hold":
            (number,) = (disk.devno for disk in shot.disks)
            layer = DmDevice("layer", "", "", 0, targets=("linear",), depends_on=(number,), size_bytes=2000 * 512)
            return settle(add_device(shot, layer))
        case "group of others":
            return make_group(shot, "other", (path,))
        case "group like ours":
            return make_group(shot, pool.group, (path,), ("thinpoolmgr",))
        case "empty group" | "half-made volumes":
            return events.half_made_setup(shot, path, volumes=what != "empty group")
        case "ext4 on a volume":
            return events.format_volume(shot, pool.group, "thinpoolmeta")
        case "pool of others":
            return events.stranger_pool(make_group(shot, pool.group, (path,)), lvcreate(pool))
        case "volume of others":
            return events.add_volume(shot, pool.group, "precious", 20 * MIB)
        case "remove volume of others":
            return events.drop_volume(shot, pool.group, "precious")
        case "first commit":
            return events.half_done(shot, lvcreate(pool, metadata_bytes=12 * MIB), "first")
        case "second commit":
            group = find_group(shot, pool.group)
            return set_volumes(shot, group, (*group.lvs, volume(group, pool.lv, 12 * MIB, "thinpoolmgr")))
        case str(words) if words.startswith("half extended"):
            return half_extended(shot, what, pool)
        case "half set discards, old" | "half set discards, new":
            step = SetDiscards(reason="", group=pool.group, lv=pool.lv, discards="nopassdown")
            return events.half_done(shot, step, "second" if what.endswith("new") else "first")
        case "remove spare":
            return events.remove_spare(shot, pool.group)
        case "untag pool":
            return events.untag(shot, pool.group, pool.lv)
        case "half tagged":
            group = find_group(shot, pool.group)
            return replace_group(shot, replace(group, tags=(OUR_TAG,)))
        case "discards by hand":
            return apply_step(shot, SetDiscards(reason="", group=pool.group, lv=pool.lv, discards="nopassdown"))
        case "edit profile":
            name = profile_name(pool)
            text = profile_text(pool).replace("80", "90")
            edit = EditLvmProfile(reason="", profile=name, path=profile_path(name), old_text=None, new_text=text)
            return apply_step(shot, edit)
        case "half attached":
            attach = SetProfile(reason="", group=pool.group, lv=pool.lv, profile=profile_name(pool))
            return events.half_done(shot, attach, "first")
        case "deactivate":
            return events.deactivate_by_hand(shot, pool.group)
        case "only components":
            return events.half_done(shot, DeactivatePool(reason="", group=pool.group, lv=pool.lv), "components")
        case "untag":
            return events.untag(shot, pool.group)
        case "lose labels":
            return events.lose_labels(shot, pool.group)
        case "error when full":
            return apply_step(shot, SetWhenFull(reason="", group=pool.group, lv=pool.lv, when_full="error"))
        case "stale engine state":
            return replace(shot, engines=tuple(replace(engine, state=STALE) for engine in shot.engines))
        case "broken engine config":
            broken = {"config_text": "{", "config_problem": "no JSON"}
            return replace(shot, engines=tuple(replace(engine, **broken) for engine in shot.engines))
        case "thin device":
            return with_thin_device(shot, pool)
    raise ValueError(what)


def half_extended(shot: Snapshot, what: str, pool: DesiredPool) -> Snapshot:
    """Return `shot` after a kill inside `lvextend`: of data by 100 MiB, or of metadata by 8 MiB."""
    lv = find_group(shot, pool.group).find_lv(pool.lv)
    assert lv is not None
    common: dict[str, Any] = {"reason": "", "group": pool.group, "lv": pool.lv}
    extents = lv.size_bytes // (4 * MIB) + 25
    step: ExtendData | ExtendMetadata = ExtendData(
        **common, data_extents=extents, extent_bytes=4 * MIB, chunk_bytes=lv.chunk_bytes
    )
    if "metadata" in what:
        step = ExtendMetadata(**common, metadata_bytes=lv.metadata_bytes + 8 * MIB)
    return events.half_done(shot, step, "second" if what.endswith("new") else "first")


def with_disk(shot: Snapshot, path: str, **facts: object) -> Snapshot:
    """Return `shot` with other facts about one disk."""
    return replace(shot, disks=tuple(replace(d, **facts) if d.path == path else d for d in shot.disks))


def with_thin_device(shot: Snapshot, pool: DesiredPool) -> Snapshot:
    """Return `shot` with the thin device 1 of the pool in the kernel."""
    below = shot.find_dm(pool_dm_name(pool.group, pool.lv))
    assert below is not None
    table = f"{below.devno} 1"
    thin = DmDevice("docker-t", "", "", 0, targets=("thin",), depends_on=(below.devno,), size_bytes=400 * MIB)
    device = replace(thin, table=table)
    return settle(add_device(shot, device))
