"""What a watch needs of a host, and what passes between it and others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from thinpoolmgr.core.plan import Plan, Request
from thinpoolmgr.core.report import Sighting, WatchedPool
from thinpoolmgr.cycle import Host
from thinpoolmgr.host.pvlabel import Mark

if TYPE_CHECKING:
    from thinpoolmgr.core.lifecycle import PoolView
    from thinpoolmgr.core.plan import StepResult
    from thinpoolmgr.core.steps import Step


class Event(Struct, frozen=True):
    """Something that a person may want to read: the pool as it is now, and how far it was extended, if it was."""

    pool: WatchedPool
    extended: Request | None = None


class Pause(Struct, frozen=True):
    """What failed, and until when it is not tried again while the group stays as it is."""

    until: float
    seconds: float
    sighting: Sighting
    mark: Mark | None
    failures: int


class WatchedHost(Host, Protocol):
    """What a watch needs of a host, real or simulated, besides what the run cycle does."""

    spare: str
    """The path of a spare disk that `observe` looks at, too; empty: at none."""

    @property
    def mark(self) -> Mark | None:
        """What tells the state of the group that was seen last from another one."""
        ...

    def heed(self) -> None:
        """Something happened that may matter to the next look."""
        ...

    def view(self) -> PoolView:
        """Look at the pool."""
        ...

    def seconds(self) -> float:
        """Return the time of a clock that never jumps."""
        ...

    def spare_paths(self) -> tuple[str, ...]:
        """Return the spare disks of the configuration that are there, and not in the group yet."""
        ...

    def has_event(self) -> bool:
        """Whether the pool itself has had an event since this was asked last; True where that is not known."""
        ...

    def can_take_disks(self) -> bool:
        """Whether a spare disk could be taken now without waiting for what others do."""
        ...

    def stand_by(self, *, is_near: bool) -> None:
        """Have ready what an extension takes, if one `is_near`."""
        ...

    def is_changed_by_others(self) -> bool:
        """Whether somebody else is changing the group just now."""
        ...


class Quiet:
    """Takes the run cycle's words: what comes of a run is told when it has ended."""

    def show_plan(self, plan: Plan) -> None:
        """Say nothing."""

    def begin_step(self, step: Step, total: int) -> None:
        """Say nothing."""

    def end_step(self, step: Step, result: StepResult) -> None:
        """Say nothing."""

    def stopping(self, signal_name: str) -> None:
        """Say nothing."""

    def confirm(self) -> bool | None:
        """There is nobody to ask."""
        return None
