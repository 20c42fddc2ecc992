"""Snapshots for tests, all of them possible, and a host in memory whose faults go by the names of steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec.structs import replace

from thinpoolmgr.core.conditions import why_not_done
from thinpoolmgr.core.desired import DesiredEngine, DesiredPool, DesiredState, EngineConfig, PoolConfig
from thinpoolmgr.core.engines.docker import storage_options
from thinpoolmgr.core.model import (
    ConfiguredDevice,
    Disk,
    DmDevice,
    Engine,
    EngineDevice,
    EngineState,
    LogicalVolume,
    ServiceState,
    Snapshot,
    VolumeGroup,
)
from thinpoolmgr.core.names import OUR_TAG
from thinpoolmgr.core.steps import CreateThinPool, Step, step_name
from thinpoolmgr.errors import CommandFailedError
from thinpoolmgr.sim import events
from thinpoolmgr.sim.consistency import check_consistent
from thinpoolmgr.sim.parts import EXTENT_BYTES as EXTENT
from thinpoolmgr.sim.parts import LABEL, add_device, find_group, set_volumes, settle, uuid_of, with_groups
from thinpoolmgr.sim.steps import apply_step, make_group
from thinpoolmgr.units import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from thinpoolmgr.core.plan import Plan, StepResult

__all__ = ["EXTENT", "LABEL", "apply_step", "check_consistent", "uuid_of"]
CHUNK = 512 * 1024
BOOT = "boot-1"
DAEMON_JSON = "/etc/docker/daemon.json"


class CrashError(BaseException):
    """The process dies here: no `except Exception` may catch it."""


def pool(name: str = "docker", *devices: str, **config: Any) -> DesiredPool:
    values = {"devices": devices or ("/dev/sdb",), **config}
    return DesiredPool(name, msgspec.convert(values, PoolConfig))


def engine(pool_name: str = "docker", **config: Any) -> DesiredEngine:
    return DesiredEngine("docker", msgspec.convert({"pool": pool_name, **config}, EngineConfig))


def desired(*pools: DesiredPool, engines: tuple[DesiredEngine, ...] = ()) -> DesiredState:
    return DesiredState(pools or (pool(),), engines)


def disk(path: str = "/dev/sdb", size_bytes: int = 10 * GIB, **facts: Any) -> Disk:
    place = 16 * (ord(path[-1]) - ord("a"))
    used = any(facts.get(name) for name in ("mounts", "swap", "holders"))
    values = {
        "path": path,
        "devno": f"8:{place}",
        "size_bytes": size_bytes,
        "serial": f"S-{path[-1]}",
        "opened_exclusively": used,
        **facts,
    }
    return msgspec.convert(values, Disk)


def snapshot(*disks: Disk, **facts: Any) -> Snapshot:
    """Return a host with these disks, all of which the configuration names by their nodes."""
    found = disks or (disk(),)
    configured = tuple(ConfiguredDevice(d.path, d.path) for d in found)
    return checked(Snapshot(configured_devices=configured, disks=found, boot_id=BOOT, **facts))


def with_group(shot: Snapshot, name: str = "docker", *, tags: tuple[str, ...] = (OUR_TAG,)) -> Snapshot:
    """Return `shot` with an empty group on all of its disks that are free."""
    taken = {pv.path for group in shot.groups for pv in group.pvs}
    paths = tuple(d.path for d in shot.disks if d.path not in taken)
    return checked(make_group(shot, name, paths, tags))


def create_step(pool_: DesiredPool, data_extents: int = 2432, metadata_bytes: int = 12 * MIB) -> CreateThinPool:
    return CreateThinPool(
        id="02",
        reason="r",
        pool=pool_.name,
        group=pool_.group,
        lv=pool_.lv,
        data_extents=data_extents,
        extent_bytes=EXTENT,
        metadata_bytes=metadata_bytes,
        chunk_bytes=pool_.chunk_bytes,
        zero_new_blocks=False,
        discards="passdown",
        monitored_by_dmeventd=False,
    )


def with_pool(shot: Snapshot, pool_: DesiredPool | None = None, data_extents: int = 2432) -> Snapshot:
    """Return `shot` with a healthy pool of ours, and its group when it has none."""
    wanted = pool_ or pool()
    base = shot if shot.find_group(wanted.group) else with_group(shot, wanted.group)
    return checked(apply_step(base, create_step(wanted, data_extents)))


def healthy(**status: Any) -> Snapshot:
    """Return a host with one healthy pool `docker/thinpool`; `status` changes the kernel's word on it."""
    shot = with_pool(snapshot())
    return with_status(shot, **status) if status else shot


def with_status(shot: Snapshot, **changes: Any) -> Snapshot:
    def change(device: DmDevice) -> DmDevice:
        if device.pool_status is None:
            return device
        return replace(device, pool_status=replace(device.pool_status, **changes))

    return checked(replace(shot, dm_devices=tuple(change(d) for d in shot.dm_devices)))


def with_lv(shot: Snapshot, lv: LogicalVolume, group: str = "docker") -> Snapshot:
    found = find_group(shot, group)
    return checked(set_volumes(shot, found, (*found.lvs, lv)))


def linear(name: str, size_bytes: int, *tags: str) -> LogicalVolume:
    return LogicalVolume(name, uuid_of(f"lv {name}"), "linear", size_bytes, "-wi-a-----", tags=tags)


def with_thin_device(shot: Snapshot, name: str = "docker-8:1-42-base", open_count: int = 0) -> Snapshot:
    """Return `shot` with a thin device on its only pool, as an engine makes it: no uuid of LVM's."""
    below = next(d for d in shot.dm_devices if d.targets == ("thin-pool",))
    device = DmDevice(name, "", "", open_count, targets=("thin",), depends_on=(below.devno,), size_bytes=10 * GIB)
    return checked(settle(add_device(shot, device)))


def docker(*, running: bool | None = False, systemd: bool = True, configured: bool = False, **facts: Any) -> Engine:
    text = '{"debug": true}\n'
    if configured:
        options = ", ".join(f'"{o}"' for o in storage_options(EngineConfig("docker"), "docker-thinpool"))
        text = f'{{"storage-driver": "devicemapper", "storage-opts": [{options}]}}\n'
    values: dict[str, Any] = {
        "name": "docker",
        "kind": "docker",
        "installed": True,
        "version": "20.10.24",
        "running": running,
        "pids": (4711,) if running is not False else (),
        "driver": "devicemapper" if running and configured else "overlay2" if running else "",
        "data_root": "/var/lib/docker",
        "config_path": DAEMON_JSON,
        "config_text": text,
        "service": ServiceState(systemd=True, unit="docker.service", sockets=("docker.socket",), active=bool(running))
        if systemd
        else ServiceState(),
        **facts,
    }
    return Engine(**values)


STALE = EngineState(
    "/var/lib/docker/devicemapper",
    base_device_uuid="u",
    base_size_bytes=10 * GIB,
    transaction_id=7,
    devices=(EngineDevice("", 1, 10 * GIB, 7),),
    related=("/var/lib/docker/image/devicemapper",),
)


def with_engine(shot: Snapshot, found: Engine) -> Snapshot:
    others = tuple(e for e in shot.engines if e.name != found.name)
    return checked(replace(shot, engines=(*others, found)))


def lvm_lost(shot: Snapshot, *trouble: str) -> Snapshot:
    """Return `shot` as it looks when LVM cannot read its disks any more: the kernel's devices are still there."""
    unread = tuple(replace(d, signatures=(), holders=()) for d in shot.disks)
    return checked(replace(shot, groups=(), orphan_pvs=(), disks=unread, lvm_trouble=trouble))


def checked(shot: Snapshot) -> Snapshot:
    wrong = check_consistent(shot)
    if wrong:
        raise AssertionError("; ".join(wrong))
    return shot


def with_free_disk(shot: Snapshot, *found: Disk) -> Snapshot:
    """Return `shot` with more disks, which the configuration names by their nodes."""
    configured = (*shot.configured_devices, *(ConfiguredDevice(d.path, d.path) for d in found))
    return checked(replace(shot, disks=(*shot.disks, *found), configured_devices=configured))


def untagged(shot: Snapshot, *, group: bool = True, lv: bool = True) -> Snapshot:
    """Return `shot` with its groups or their pools as somebody made them by hand."""

    def without(found: VolumeGroup) -> VolumeGroup:
        lvs = tuple(replace(x, tags=()) if x.is_thin_pool else x for x in found.lvs) if lv else found.lvs
        return replace(found, tags=() if group else found.tags, lvs=lvs)

    return checked(with_groups(shot, without))


def with_spare(shot: Snapshot, extents: int, group: str = "docker") -> Snapshot:
    """Return `shot` with a metadata spare of this size; 0: somebody removed it."""
    found = find_group(shot, group)
    spare = found.spare
    size = extents * found.extent_bytes
    others = tuple(lv for lv in found.lvs if lv is not spare)
    kept = (replace(spare, size_bytes=size),) if spare and extents else ()
    return checked(set_volumes(shot, found, (*others, *kept)))


def carried_out(shot: Snapshot, plan: Plan) -> Snapshot:
    """Return `shot` after all steps of `plan`; each must be done afterwards, and the host possible."""
    for step in plan.steps:
        shot = checked(apply_step(shot, step))
        assert why_not_done(step, shot) == "", step
    return shot


def deactivated(shot: Snapshot, group: str = "docker") -> Snapshot:
    return events.deactivate_by_hand(shot, group)


Fault = Literal["before", "after", "nothing", "crash-before", "crash-after"]


class FakeHost:
    """A host in memory. `faults` maps a step's public name to what goes wrong when it is performed."""

    def __init__(self, shot: Snapshot, faults: dict[str, Fault] | None = None) -> None:
        self.snapshot = checked(shot)
        self.faults = faults or {}
        self.performed: list[Step] = []
        self.took_effect: list[str] = []
        self.on_perform: Callable[[Step], None] | None = None
        self.on_observe: Callable[[FakeHost], None] | None = None

    @property
    def recent_commands(self) -> tuple[str, ...]:
        return tuple(f"{step_name(step)} -> 5 (0.01 s)" for step in self.performed)

    def observe(self) -> Snapshot:
        if self.on_observe:
            self.on_observe(self)
        return checked(self.snapshot)

    def perform(self, step: Step) -> None:
        fault = self.faults.get(step_name(step))
        self.performed.append(step)
        if self.on_perform:
            self.on_perform(step)
        if fault == "crash-before":
            raise CrashError
        if fault == "before":
            raise CommandFailedError(f"{step_name(step)} failed", "Exit code: 5", "Mend it.")
        if fault != "nothing":
            self.snapshot = checked(apply_step(self.snapshot, step))
            self.took_effect.append(step_name(step))
        if fault == "after":
            raise CommandFailedError(f"{step_name(step)} failed", "Exit code: 5", "Mend it.")
        if fault == "crash-after":
            raise CrashError


class Listener:
    """A reporter that remembers what it was told and answers `answer` when asked."""

    def __init__(self, *, answer: bool | None = None) -> None:
        self.answer = answer
        self.asked = 0
        self.shown: list[Plan] = []
        self.ended: list[StepResult] = []
        self.on_confirm: Callable[[], None] | None = None
        self.stopped_by = ""

    def show_plan(self, plan: Plan) -> None:
        self.shown.append(plan)

    def begin_step(self, step: Step, total: int) -> None:
        assert 1 <= int(step.id) <= total

    def end_step(self, step: Step, result: StepResult) -> None:
        assert result.id == step.id
        self.ended.append(result)

    def stopping(self, signal_name: str) -> None:
        self.stopped_by = signal_name

    def confirm(self) -> bool | None:
        self.asked += 1
        if self.on_confirm:
            self.on_confirm()
        return self.answer
