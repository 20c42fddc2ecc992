"""The names of what is on the host whose life is played, and the host itself, which watches what is done to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinpoolmgr.core.steps import CreateThinPool, CreateVolumeGroup, WipeSignatures
from thinpoolmgr.sim.host import SimulatedHost

if TYPE_CHECKING:
    from thinpoolmgr.core.steps import Step

GROUP, POOL, STRANGERS = "docker", "thinpool", "precious"
OURS, THIRD, THEIRS = ("/dev/sdb", "/dev/sdc"), "/dev/sde", "/dev/sdd"


class WatchedHost(SimulatedHost):
    """A host that is never asked to make what is there, or to wipe what somebody has."""

    def perform(self, step: Step) -> None:
        truth = self.snapshot
        group = truth.find_group(step.group) if isinstance(step, CreateVolumeGroup | CreateThinPool) else None
        if isinstance(step, CreateVolumeGroup):
            assert group is None, "a group that is there would be made again"
            assert not [d for d in self.away.values() if d.group and d.group.name == step.group], (
                "its disk may come back"
            )
        if isinstance(step, CreateThinPool) and group is not None:
            assert group.find_lv(step.lv) is None, "a pool that is there would be made again"
        if isinstance(step, WipeSignatures):
            assert not [pv for g in truth.groups for pv in g.pvs if pv.path == step.disk.path]
        super().perform(step)
