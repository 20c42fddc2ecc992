"""Whose is the state that Docker's devicemapper driver left on disk: the verdict, and its evidence.

Rules without another source are from daemon/graphdriver/devmapper/deviceset.go of Docker 20.10 to 24.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from thinpoolmgr.units import format_size

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Engine, EngineState, ThinPoolStatus


class StateVerdict(Struct, frozen=True):
    """To which pool an engine's state on disk belongs, and the one line of evidence for it.

    `none`: there is no state. `matching`: it belongs to the pool of the configuration. `stale`: its pool is gone.
    `foreign`: it belongs to another pool that still exists. `loop_lvm`: to Docker's own loop files. `unknown`: it
    cannot be told, so the state must be left alone.
    """

    kind: Literal["none", "matching", "stale", "foreign", "loop_lvm", "unknown"]
    evidence: str


def state_verdict(
    engine: Engine,
    pool_will_be_new: bool,  # noqa: FBT001 - the planner passes it by name
    pool_status: ThinPoolStatus | None,
    other_pool_exists: bool,  # noqa: FBT001
) -> StateVerdict:
    """Return to which pool the engine's state belongs.

    Args:
        engine: as observed.
        pool_will_be_new: the pool of the configuration does not exist yet.
        pool_status: the kernel's word on that pool; None when there is none.
        other_pool_exists: daemon.json names another pool, and that one is there.

    """
    state = engine.state
    if engine.state_problem:
        return StateVerdict("unknown", engine.state_problem)
    if state is None:
        return StateVerdict("none", "there is no devicemapper state")
    if state.loop_files:
        return StateVerdict("loop_lvm", f"{state.loop_files[0]} is a pool in a file, made by Docker itself")
    if other_pool_exists:
        return StateVerdict("foreign", f"{state.path} belongs to the pool that daemon.json names, which exists")
    if pool_will_be_new:
        return StateVerdict("stale", f"it records {_describe(state)}, and that pool does not exist")
    return _verdict_of_status(state, pool_status)


def _verdict_of_status(state: EngineState, status: ThinPoolStatus | None) -> StateVerdict:
    if status is None:
        return StateVerdict("unknown", f"{state.path} holds {_describe(state)}; the kernel says nothing of the pool")
    newest = max([state.transaction_id or 0, *(device.transaction_id for device in state.devices)])
    was_used = bool(state.base_device_uuid or state.devices or newest)
    kernel = f"the pool has transaction id {status.transaction_id} and {status.used_data_blocks} used data blocks"
    evidence = f"{state.path} holds {_describe(state)}; {kernel}"
    # In these two modes the status line is a single word: the zeros are ours, not the kernel's.
    if status.mode in ("Fail", "Error"):
        return StateVerdict("unknown", f"{state.path} holds {_describe(state)}; the pool's status is {status.mode}")
    if status.transaction_id == 0 and status.used_data_blocks == 0:
        return StateVerdict("stale" if was_used else "matching", evidence)
    # Docker opens a transaction in its files before it tells the pool: a crash leaves them one ahead, never more.
    if not was_used or newest > status.transaction_id + 1:
        return StateVerdict("unknown", evidence)
    return StateVerdict("matching", evidence)


def _describe(state: EngineState) -> str:
    if state.devices:
        base = f", base device of {format_size(state.base_size_bytes)}" if state.base_size_bytes else ""
        ids = f" up to transaction {state.transaction_id}" if state.transaction_id else ""
        return f"{len(state.devices)} device{'s' if len(state.devices) > 1 else ''}{ids}{base}"
    return f"base device {state.base_device_uuid[:40]}" if state.base_device_uuid else "files but no record of a device"
