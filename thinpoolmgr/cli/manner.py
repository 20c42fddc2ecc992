"""What a run waits for when it is told to: disks that come late, and the end of another run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from thinpoolmgr.core.matching import missing_disks
from thinpoolmgr.core.steps import StartEngine
from thinpoolmgr.cycle import RunResult
from thinpoolmgr.errors import LockedError
from thinpoolmgr.host.observe import observe_devices
from thinpoolmgr.host.retry import until_there

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredState
    from thinpoolmgr.core.plan import Plan

_SETTLED = "Another run holds the lock, and has left nothing to do here but to start the engine."


class Manner(Struct, frozen=True):
    """How long a run waits before it plans, and whether engines wait for it in their turn."""

    wait_seconds: float = 0.0
    as_unit: bool = False


def wait_for_disks(desired: DesiredState, seconds: float, tell: Callable[[str], None]) -> None:
    """Wait, at most so long, until nothing is missing of what `desired` names or selects; what then is, a plan says."""

    def look() -> tuple[str, ...]:
        return missing_disks(desired, observe_devices(desired))

    missing = look() if seconds else ()
    if missing:
        tell(f"Waiting up to {seconds:g} seconds for {', '.join(missing)}.")
        until_there(look, lambda left: not left, seconds)


def beside_other_runs(attempt: Callable[[], RunResult], look: Callable[[], Plan], manner: Manner) -> RunResult:
    """Return what `attempt` came to, once no other run has the lock; it is waited for as long as for disks.

    The other run may be waiting for us: as its last step it starts an engine, and the engine's unit has ours started
    first. So a unit that finds nothing left to do for itself has ended well.

    Raises:
        LockedError: the other run still has it.

    """

    def once() -> RunResult | LockedError:
        try:
            return attempt()
        except LockedError as error:
            return RunResult("", "nothing", notes=(_SETTLED,)) if manner.as_unit and _is_settled(look()) else error

    result = until_there(once, lambda found: not isinstance(found, LockedError), manner.wait_seconds)
    if isinstance(result, LockedError):
        raise result
    return result


def _is_settled(plan: Plan) -> bool:
    return not plan.refusals and all(isinstance(step, StartEngine) for step in plan.steps)
