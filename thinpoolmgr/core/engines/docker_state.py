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
    `foreign`: it belongs to another pool that still exists. `other_pool`: not to this one. `taken`: there is no state,
    and the pool has been used. `wiped`: the pool was made before the state was written, and is empty. `damaged`: a
    record of it cannot be read. `loop_lvm`: it belongs to Docker's own loop files. `dropped`: to the pool of the
    configuration, and loop files lie beside it that were never written to. `unknown`: it cannot be told, so the state
    must be left alone.
    """

    kind: Literal[
        "none",
        "matching",
        "stale",
        "foreign",
        "other_pool",
        "taken",
        "wiped",
        "damaged",
        "loop_lvm",
        "dropped",
        "unknown",
    ]
    evidence: str


def state_verdict(
    engine: Engine,
    pool_will_be_new: bool,  # noqa: FBT001 - the planner passes it by name
    pool_status: ThinPoolStatus | None,
    other_pool_exists: bool,  # noqa: FBT001
    pool_made_at: float | None = None,
) -> StateVerdict:
    """Return to which pool the engine's state belongs.

    Args:
        engine: as observed.
        pool_will_be_new: the pool of the configuration does not exist yet.
        pool_status: the kernel's word on that pool; None when there is none.
        other_pool_exists: daemon.json names another pool, and that one is there.
        pool_made_at: when LVM made that pool, in seconds since 1970; None when that is not known.

    """
    state = engine.state
    if engine.state_problem:
        return StateVerdict("unknown", engine.state_problem)
    if state is None:
        return _verdict_without_state(pool_will_be_new, pool_status)
    if state.damage:
        return StateVerdict("damaged", state.damage)
    if state.loop_files and not _was_dropped(state):
        return StateVerdict("loop_lvm", f"{state.loop_files[0]} is a pool in a file, made by Docker itself")
    if other_pool_exists:
        return StateVerdict("foreign", f"{state.path} belongs to the pool that daemon.json names, which exists")
    if pool_will_be_new:
        return StateVerdict("stale", f"it records {_describe(state)}, and that pool does not exist")
    verdict = _verdict_of_status(engine, state, pool_status, pool_made_at)
    if verdict.kind == "matching" and state.loop_files:
        file, evidence = state.loop_files[0], verdict.evidence
        return StateVerdict("dropped", f"nothing was ever written to {file}; {evidence}")
    return verdict


def _verdict_without_state(pool_will_be_new: bool, status: ThinPoolStatus | None) -> StateVerdict:  # noqa: FBT001
    if pool_will_be_new or status is None or not (status.transaction_id or status.used_data_blocks):
        return StateVerdict("none", "there is no devicemapper state")
    return StateVerdict("taken", f"Docker has no record of a device, and {_say_status(status)}")


def _was_dropped(state: EngineState) -> bool:
    """Whether the records cannot be of the loop files beside them: in those no block was ever allocated."""
    return bool(state.devices) and state.loop_data_bytes == 0


def _verdict_of_status(
    engine: Engine, state: EngineState, status: ThinPoolStatus | None, made_at: float | None
) -> StateVerdict:
    if status is None:
        return StateVerdict("unknown", f"{state.path} holds {_describe(state)}; the kernel says nothing of the pool")
    newest = max([state.transaction_id or 0, *(device.transaction_id for device in state.devices)])
    was_used = bool(state.base_device_uuid or state.devices or newest)
    evidence = f"{state.path} holds {_describe(state)}; {_say_status(status)}"
    # In these two modes the status line is a single word: the zeros are ours, not the kernel's.
    if status.mode in ("Fail", "Error"):
        return StateVerdict("unknown", f"{state.path} holds {_describe(state)}; the pool's status is {status.mode}")
    if status.transaction_id == 0 and status.used_data_blocks == 0:
        if was_used and made_at is not None and state.written_at is not None and state.written_at > made_at:
            # A zeroed superblock is formatted anew without a word when the pool is activated (dm-thin-metadata.c).
            return StateVerdict("wiped", f"{evidence}, and LVM made it before that was written")
        return StateVerdict("stale" if was_used else "matching", evidence)
    if not was_used:
        return StateVerdict("taken", f"Docker has no record of a device, and {_say_status(status)}")
    # Docker opens a transaction in its files before it tells the pool: a crash leaves them one ahead, never more.
    if newest > status.transaction_id + 1:
        return StateVerdict("other_pool", f"{evidence}: more than one transaction ahead of the pool")
    # With one open, Docker may yet take back the device that it was at.
    if newest <= status.transaction_id and (why := engine.why_other_base()):
        return StateVerdict("other_pool", f"{evidence}, and {why}")
    return StateVerdict("matching", evidence)


def _say_status(status: ThinPoolStatus) -> str:
    return f"the pool has transaction id {status.transaction_id} and {status.used_data_blocks} used data blocks"


def _describe(state: EngineState) -> str:
    if state.devices:
        base = f", base device of {format_size(state.base_size_bytes)}" if state.base_size_bytes else ""
        ids = f" up to transaction {state.transaction_id}" if state.transaction_id else ""
        return f"{len(state.devices)} device{'s' if len(state.devices) > 1 else ''}{ids}{base}"
    return f"base device {state.base_device_uuid[:40]}" if state.base_device_uuid else "files but no record of a device"
