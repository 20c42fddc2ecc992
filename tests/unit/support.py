"""Snapshots for tests, a check that refuses impossible ones, and a host in memory that carries steps out on them."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec.structs import replace

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
    PhysicalVolume,
    ServiceState,
    Signature,
    Snapshot,
    ThinPoolStatus,
    VolumeGroup,
)
from thinpoolmgr.core.names import OUR_TAG, bare_uuid, pool_dm_name
from thinpoolmgr.core.sizing import extents_on
from thinpoolmgr.core.steps import (
    ActivatePool,
    CreateThinPool,
    CreateVolumeGroup,
    DeactivatePool,
    MoveStateAside,
    RemoveDmDevice,
    RemoveLeftover,
    RemovePhysicalVolumes,
    RemoveThinPool,
    RemoveVolumeGroup,
    SetWhenFull,
    StartEngine,
    Step,
    StopEngine,
    WipeSignatures,
    WriteEngineConfig,
    step_name,
)
from thinpoolmgr.errors import CommandFailedError
from thinpoolmgr.units import GIB, MIB, ceil_to

if TYPE_CHECKING:
    from collections.abc import Callable

    from thinpoolmgr.core.documents import StepResult
    from thinpoolmgr.core.plan import Plan

EXTENT = 4 * MIB
CHUNK = 512 * 1024
BOOT = "boot-1"
LABEL = Signature("LVM2_member", "raid", 536)
DAEMON_JSON = "/etc/docker/daemon.json"


class CrashError(BaseException):
    """The process dies here: no `except Exception` may catch it."""


def uuid_of(seed: str) -> str:
    """Return an LVM uuid, always the same for the same seed."""
    letters = hashlib.sha256(seed.encode()).hexdigest()[:32]
    cuts = (0, 6, 10, 14, 18, 22, 26, 32)
    return "-".join(letters[a:b] for a, b in pairwise(cuts))


def pool(name: str = "docker", *devices: str, **config: Any) -> DesiredPool:
    values = {"devices": devices or ("/dev/sdb",), **config}
    return DesiredPool(name, msgspec.convert(values, PoolConfig))


def engine(pool_name: str = "docker", **config: Any) -> DesiredEngine:
    return DesiredEngine("docker", msgspec.convert({"pool": pool_name, **config}, EngineConfig))


def desired(*pools: DesiredPool, engines: tuple[DesiredEngine, ...] = ()) -> DesiredState:
    return DesiredState(pools or (pool(),), engines)


def disk(path: str = "/dev/sdb", size_bytes: int = 10 * GIB, **facts: Any) -> Disk:
    place = 16 * (ord(path[-1]) - ord("a"))
    values = {"path": path, "devno": f"8:{place}", "size_bytes": size_bytes, "serial": f"S-{path[-1]}", **facts}
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
    return checked(_make_group(shot, name, paths, tags))


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
    def add(found: VolumeGroup) -> VolumeGroup:
        free = found.free_extents - lv.size_bytes // found.extent_bytes
        return replace(found, lvs=(*found.lvs, lv), free_extents=free)

    return checked(_with_groups(shot, lambda found: add(found) if found.name == group else found))


def linear(name: str, size_bytes: int, *tags: str) -> LogicalVolume:
    return LogicalVolume(name, uuid_of(f"lv {name}"), "linear", size_bytes, "-wi-a-----", tags=tags)


def with_thin_device(shot: Snapshot, name: str = "docker-8:1-42-base", open_count: int = 0) -> Snapshot:
    """Return `shot` with a thin device on its only pool, as an engine makes it: no uuid of LVM's."""
    below = next(d for d in shot.dm_devices if d.targets == ("thin-pool",))
    device = DmDevice(
        name, "", _next_devno(shot), open_count, targets=("thin",), depends_on=(below.devno,), size_bytes=10 * GIB
    )
    devices = tuple(replace(d, open_count=d.open_count + 1) if d is below else d for d in shot.dm_devices)
    return checked(replace(shot, dm_devices=(*devices, device)))


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


def check_consistent(shot: Snapshot) -> list[str]:
    """Return why no host can look like this; empty when one can."""
    wrong: list[str] = []
    names, numbers = [d.name for d in shot.dm_devices], [d.devno for d in shot.dm_devices]
    if len(set(names)) < len(names) or len(set(numbers)) < len(numbers):
        wrong.append("two device-mapper devices share a name or a number")
    known = {*numbers, *(d.devno for d in shot.disks)}
    wrong += [f"{d.name} stands on nothing" for d in shot.dm_devices if not set(d.depends_on) <= known]
    for device in shot.dm_devices:
        users = sum(device.devno in other.depends_on for other in shot.dm_devices)
        if device.open_count < users:
            wrong.append(f"{device.name} is held by {users} devices and open {device.open_count} times")
        if device.pool_status is not None and device.targets != ("thin-pool",):
            wrong.append(f"{device.name} has a pool's status and is none")
    paths = {d.path for d in shot.disks}
    wrong += [
        f"{c.configured_path} leads to an unknown disk"
        for c in shot.configured_devices
        if c.disk and c.disk not in paths
    ]
    in_groups = [pv.uuid for g in shot.groups for pv in g.pvs if not pv.duplicate]
    if len(set(in_groups)) < len(in_groups) or set(in_groups) & {pv.uuid for pv in shot.orphan_pvs}:
        wrong.append("a physical volume stands in two places")
    wrong += [problem for group in shot.groups for problem in _group_problems(group)]
    for found in shot.engines:
        if found.running and not found.installed:
            wrong.append(f"{found.name} runs and is not installed")
        if found.running is False and (found.pids or found.driver):
            wrong.append(f"{found.name} does not run and has a process or a driver")
    return wrong


def _group_problems(group: VolumeGroup) -> list[str]:
    wrong = []
    used = sum(ceil_to(lv.size_bytes, group.extent_bytes) for lv in group.lvs if lv.segment_type != "thin-pool")
    if used // group.extent_bytes + group.free_extents != group.extent_count:
        wrong.append(f"the extents of {group.name} do not add up")
    if any(pv.missing for pv in group.pvs) != (group.attr[3:4] == "p"):
        wrong.append(f"{group.name} is partial in one place only")
    parts = {lv.name for lv in group.lvs}
    pools = [lv for lv in group.lvs if lv.is_thin_pool and not {lv.data_lv, lv.metadata_lv} <= parts]
    return [*wrong, *(f"{group.name}/{lv.name} lacks its data or metadata LV" for lv in pools)]


def checked(shot: Snapshot) -> Snapshot:
    wrong = check_consistent(shot)
    if wrong:
        raise AssertionError("; ".join(wrong))
    return shot


def _with_groups(shot: Snapshot, change: Callable[[VolumeGroup], VolumeGroup]) -> Snapshot:
    return replace(shot, groups=tuple(change(group) for group in shot.groups))


def _next_devno(shot: Snapshot) -> str:
    used = {int(d.devno.partition(":")[2]) for d in shot.dm_devices}
    return f"254:{next(n for n in range(1000) if n not in used)}"


def _make_group(shot: Snapshot, name: str, paths: tuple[str, ...], tags: tuple[str, ...]) -> Snapshot:
    found = [d for d in shot.disks if d.path in paths]
    sizes = [extents_on(d) for d in found]
    pvs = tuple(
        PhysicalVolume(d.path, uuid_of(f"pv {d.path}"), d.size_bytes, n * EXTENT)
        for d, n in zip(found, sizes, strict=True)
    )
    total = sum(sizes)
    group = VolumeGroup(name, uuid_of(f"vg {name}"), "wz--n-", EXTENT, total, total, 1, tags=tags, pvs=pvs)
    disks = tuple(replace(d, signatures=(LABEL,)) if d.path in paths else d for d in shot.disks)
    orphans = tuple(pv for pv in shot.orphan_pvs if pv.path not in paths)
    return replace(shot, groups=(*shot.groups, group), disks=disks, orphan_pvs=orphans)


def _make_pool(shot: Snapshot, step: CreateThinPool) -> Snapshot:
    group = _group(shot, step.group)
    spare_there = any(lv.name.endswith("_pmspare") for lv in group.lvs)
    metadata = ceil_to(step.metadata_bytes, EXTENT)
    data = step.data_extents * EXTENT
    needed = (data + metadata * (1 if spare_there else 2)) // EXTENT
    if group.find_lv(step.lv) or needed > group.free_extents:
        raise CommandFailedError("lvcreate failed", f"{step.lv} exists, or {needed} extents are not free")
    parts = [
        LogicalVolume(f"{step.lv}_tdata", uuid_of(f"{step.group} tdata"), "linear", data, "Twi-ao----"),
        LogicalVolume(f"{step.lv}_tmeta", uuid_of(f"{step.group} tmeta"), "linear", metadata, "ewi-ao----"),
        *(() if spare_there else (linear("lvol0_pmspare", metadata),)),
    ]
    lv = LogicalVolume(
        step.lv,
        uuid_of(f"{step.group} {step.lv}"),
        "thin-pool",
        data,
        "twi-a-tz--",
        tags=(OUR_TAG,),
        dm_name=pool_dm_name(step.group, step.lv),
        data_lv=parts[0].name,
        metadata_lv=parts[1].name,
        chunk_bytes=step.chunk_bytes,
        discards=step.discards,
        zero=step.zero_new_blocks,
        when_full="queue",
        transaction_id=0,
        metadata_bytes=metadata,
    )
    made = replace(group, lvs=(*group.lvs, lv, *parts), free_extents=group.free_extents - needed)
    return _activate(_replace_group(shot, made), made, lv)


def _activate(shot: Snapshot, group: VolumeGroup, lv: LogicalVolume) -> Snapshot:
    data, metadata = group.find_lv(lv.data_lv), group.find_lv(lv.metadata_lv)
    assert data is not None
    assert metadata is not None
    below = tuple(d.devno for d in shot.disks if any(d.path == pv.path for pv in group.pvs))
    prefix, name = f"LVM-{bare_uuid(group.uuid)}", pool_dm_name(group.name, lv.name)
    numbers: list[str] = []
    for _ in range(3):
        taken = (*shot.dm_devices, *(DmDevice(n, "", n, 0) for n in numbers))
        numbers.append(_next_devno(replace(shot, dm_devices=taken)))
    status = ThinPoolStatus(
        mode="rw",
        used_metadata_blocks=metadata.size_bytes // 4096 // 10,
        total_metadata_blocks=metadata.size_bytes // 4096,
        total_data_blocks=lv.size_bytes // lv.chunk_bytes,
        discards="discard_passdown",
        when_full=lv.when_full,
    )
    devices = (
        _linear_device(f"{name}_tmeta", f"{prefix}{bare_uuid(metadata.uuid)}-tmeta", numbers[0], below),
        _linear_device(f"{name}_tdata", f"{prefix}{bare_uuid(data.uuid)}-tdata", numbers[1], below),
        DmDevice(
            name,
            f"{prefix}{bare_uuid(lv.uuid)}-tpool",
            numbers[2],
            0,
            targets=("thin-pool",),
            depends_on=(numbers[0], numbers[1]),
            size_bytes=lv.size_bytes,
            pool_status=status,
        ),
    )
    return replace(shot, dm_devices=(*shot.dm_devices, *devices))


def _linear_device(name: str, uuid: str, devno: str, below: tuple[str, ...]) -> DmDevice:
    return DmDevice(name, uuid, devno, 1, targets=("linear",), depends_on=below)


def deactivated(shot: Snapshot, group: str = "docker") -> Snapshot:
    prefix = f"LVM-{bare_uuid(_group(shot, group).uuid)}"
    return replace(shot, dm_devices=tuple(d for d in shot.dm_devices if not d.uuid.startswith(prefix)))


def _group(shot: Snapshot, name: str) -> VolumeGroup:
    group = shot.find_group(name)
    if group is None:
        raise CommandFailedError("lvm failed", f'Volume group "{name}" not found')
    return group


def _replace_group(shot: Snapshot, new: VolumeGroup) -> Snapshot:
    return _with_groups(shot, lambda group: new if group.uuid == new.uuid else group)


def _remove_lv(shot: Snapshot, group: VolumeGroup, uuid: str) -> Snapshot:
    lv = next((lv for lv in group.lvs if lv.uuid == uuid), None)
    if lv is None:
        raise CommandFailedError("lvremove failed", "not found")
    gone = {lv.uuid}
    if lv.is_thin_pool:
        gone |= {x.uuid for x in group.lvs if x.name in (lv.data_lv, lv.metadata_lv) or x.name.endswith("_pmspare")}
    kept = tuple(x for x in group.lvs if x.uuid not in gone)
    used = sum(ceil_to(x.size_bytes, EXTENT) for x in kept if not x.is_thin_pool) // EXTENT
    without = deactivated(shot, group.name) if lv.is_thin_pool else shot
    return _replace_group(without, replace(group, lvs=kept, free_extents=group.extent_count - used))


def apply_step(shot: Snapshot, step: Step) -> Snapshot:  # noqa: PLR0912 - one branch a step
    """Return what `shot` becomes when `step` is carried out; raises what the host's commands would fail with."""
    match step:
        case WipeSignatures():
            disks = tuple(replace(d, signatures=()) if d.path == step.disk.path else d for d in shot.disks)
            return replace(shot, disks=disks)
        case CreateVolumeGroup():
            if shot.find_group(step.group):
                raise CommandFailedError("vgcreate failed", f"A volume group called {step.group} already exists.")
            return _make_group(shot, step.group, tuple(d.path for d in step.disks), (OUR_TAG,))
        case CreateThinPool():
            return _make_pool(shot, step)
        case SetWhenFull():
            group = _group(shot, step.group)
            lvs = tuple(replace(lv, when_full=step.when_full) if lv.name == step.lv else lv for lv in group.lvs)
            return with_status(_replace_group(shot, replace(group, lvs=lvs)), when_full=step.when_full)
        case ActivatePool():
            group = _group(shot, step.group)
            lv = group.find_lv(step.lv)
            assert lv is not None
            return _activate(shot, group, lv)
        case DeactivatePool():
            return deactivated(shot, step.group)
        case RemoveDmDevice():
            return _remove_dm(shot, step)
        case RemoveLeftover() | RemoveThinPool():
            return _remove_lv(shot, _group(shot, step.group), step.lv_uuid)
        case RemoveVolumeGroup():
            group = _group(shot, step.group)
            if group.lvs:
                raise CommandFailedError("vgremove failed", "it has logical volumes")
            others = tuple(g for g in shot.groups if g is not group)
            return replace(shot, groups=others, orphan_pvs=(*shot.orphan_pvs, *group.pvs))
        case RemovePhysicalVolumes():
            paths = {d.path for d in step.disks}
            disks = tuple(replace(d, signatures=()) if d.path in paths else d for d in shot.disks)
            return replace(shot, disks=disks, orphan_pvs=tuple(pv for pv in shot.orphan_pvs if pv.path not in paths))
        case StopEngine() | StartEngine() | MoveStateAside() | WriteEngineConfig():
            return _apply_to_engine(shot, step)


def _remove_dm(shot: Snapshot, step: RemoveDmDevice) -> Snapshot:
    device = shot.find_dm(step.name)
    if device is None or device.open_count:
        raise CommandFailedError("dmsetup failed", f"{step.name}: no such device, or busy")

    def release(other: DmDevice) -> DmDevice:
        return replace(other, open_count=other.open_count - 1) if other.devno in device.depends_on else other

    return replace(shot, dm_devices=tuple(release(d) for d in shot.dm_devices if d is not device))


def _apply_to_engine(shot: Snapshot, step: StopEngine | StartEngine | MoveStateAside | WriteEngineConfig) -> Snapshot:
    found = shot.find_engine(step.engine)
    assert found is not None
    devices = shot.dm_devices
    match step:
        case StopEngine():
            new = replace(found, running=False, pids=(), driver="", containers=())
            devices = tuple(replace(d, open_count=0) if d.targets == ("thin",) else d for d in devices)
        case StartEngine():
            driver = "devicemapper" if "devicemapper" in (found.config_text or "") else "overlay2"
            new = replace(found, running=True, pids=(4712,), driver=driver)
        case MoveStateAside():
            new = replace(found, state=None)
        case WriteEngineConfig():
            new = replace(found, config_text=step.new_text)
    return replace(shot, dm_devices=devices, engines=tuple(new if e is found else e for e in shot.engines))


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

    def show_plan(self, plan: Plan) -> None:
        self.shown.append(plan)

    def begin_step(self, step: Step, total: int) -> None:
        assert 1 <= int(step.id) <= total

    def end_step(self, step: Step, result: StepResult) -> None:
        assert result.id == step.id
        self.ended.append(result)

    def confirm(self) -> bool | None:
        self.asked += 1
        if self.on_confirm:
            self.on_confirm()
        return self.answer
