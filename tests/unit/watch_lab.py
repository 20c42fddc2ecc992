"""A watch of the monitor on the in-memory host, for the tests of what it does and of what it tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import support
from msgspec.structs import replace

from thinpoolmgr.core.guards import disk_ref
from thinpoolmgr.core.journal import remember
from thinpoolmgr.core.lifecycle import view_pool
from thinpoolmgr.core.model import ConfiguredDevice
from thinpoolmgr.core.planner import plan_apply
from thinpoolmgr.core.report import WatchedPool
from thinpoolmgr.core.steps import ExtendData, ExtendMetadata, ExtendVolumeGroup, Step, TakeCharge
from thinpoolmgr.host.store import Store
from thinpoolmgr.monitor.board import Board
from thinpoolmgr.monitor.hands import PoolStore
from thinpoolmgr.monitor.seam import Event
from thinpoolmgr.monitor.watch import PoolWatch
from thinpoolmgr.sim.changes import take_charge
from thinpoolmgr.sim.host import SimulatedHost

if TYPE_CHECKING:
    from pathlib import Path

    from thinpoolmgr.core.desired import DesiredPool
    from thinpoolmgr.core.lifecycle import PoolView
    from thinpoolmgr.core.model import Snapshot
    from thinpoolmgr.core.plan import Plan

SPARE, DEAD = "/dev/sdd", "/dev/disk/by-id/dead"
CONFIGS: tuple[dict[str, Any], ...] = (
    {},
    {"devices": (), "match": [{"serial": "S-*"}]},
    {"data_size": "9728MiB", "metadata_size": "1%VG"},
)
"""How the pool of the tests may be configured: by name, by selectors that fit its spare disk, too, and with shares."""


class PoolInMemory(SimulatedHost):
    """The in-memory host as a watch sees it."""

    spare = ""
    locked = False
    is_reported = is_its_own = False
    time = 1000.0
    stands_by = False
    heeds = 0
    spares: tuple[str, ...] = ()

    def __init__(self, pool: DesiredPool, snapshot: Snapshot) -> None:
        super().__init__(snapshot)
        self._pool = pool

    @property
    def mark(self) -> tuple[tuple[str, bytes], ...]:
        return (("disk", repr(self.snapshot.groups).encode()),)

    def heed(self) -> None:
        self.heeds += 1

    def view(self) -> PoolView:
        return view_pool(self._pool, self.observe())

    def is_changed_by_others(self) -> bool:
        return self.locked

    def seconds(self) -> float:
        return self.time

    def spare_paths(self) -> tuple[str, ...]:
        return self.spares

    def has_event(self) -> bool:
        return self.is_its_own

    def can_take_disks(self) -> bool:
        return not self.is_reported

    def stand_by(self, *, is_near: bool) -> None:
        self.stands_by = is_near

    def perform(self, step: Step) -> None:
        super().perform(step)
        if isinstance(step, ExtendData | ExtendMetadata):
            # the mark goes with each of its commands
            mark = TakeCharge(reason="r", group=step.group, lv=step.lv, threshold_percent=80)
            self.snapshot = take_charge(self.snapshot, mark)


class Lab:
    """One watch, its clock and its host."""

    def __init__(self, folder: Path, snapshot: Snapshot, pool: DesiredPool | None = None) -> None:
        self.pool = pool or support.pool()
        self.host = PoolInMemory(self.pool, snapshot)
        self.folder, self.lock_file = folder / "state", folder / "lock"
        self.told: list[Event] = []
        self.board = Board()
        store = PoolStore(self.pool.name, self.folder, self.lock_file)
        self.watch = PoolWatch(self.pool, self.board, self.told.append, self.host, store)

    def use(self, data: float = 0.1, metadata: float = 0.1, **changes: Any) -> None:
        (device,) = (d for d in self.host.snapshot.dm_devices if d.pool_status)
        assert device.pool_status is not None
        total = device.pool_status
        self.host.snapshot = support.with_status(
            self.host.snapshot,
            used_data_blocks=int(data * total.total_data_blocks),
            used_metadata_blocks=int(metadata * total.total_metadata_blocks),
            **changes,
        )

    def look(self, times: int = 1, after: float = 1.0) -> float:
        wait = 0.0
        for _ in range(times):
            self.host.time += after
            wait = self.watch.look()
        return wait

    def apply_plan(self) -> Plan:
        """Return what `apply` would do or refuse, with all that the monitor's journal tells."""
        runs = [run for _, run in Store(self.folder, self.lock_file).read_runs()]
        return plan_apply(support.desired(self.pool), self.host.observe(), remember(runs, support.BOOT))

    @property
    def word(self) -> WatchedPool:
        (word,) = self.board.read()
        return word

    def codes(self) -> list[str]:
        return [found.code for found in self.word.findings]

    def did(self) -> list[type[Step]]:
        return [type(step) for step in self.host.took_effect]


def with_disk(shot: Snapshot, path: str = "/dev/sdc") -> Snapshot:
    return support.with_free_disk(shot, support.disk(path))


def with_spares(shot: Snapshot) -> Snapshot:
    """Return `shot` with a spare disk, and one that died and that the configuration names, too."""
    shot = with_disk(shot, SPARE)
    return replace(shot, configured_devices=(*shot.configured_devices, ConfiguredDevice(DEAD, problem="missing")))


def with_room(shot: Snapshot) -> Snapshot:
    """Put a second disk into the group."""
    shot = with_disk(shot)
    disk = shot.find_disk("/dev/sdc")
    assert disk is not None
    return support.apply_step(shot, ExtendVolumeGroup(reason="r", group="docker", disks=(disk_ref(disk),)))
