"""Docker's devicemapper driver: its options, and what its state on disk says.

Rules without another source are from daemon/graphdriver/devmapper/deviceset.go of Docker 20.10 to 24.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from thinpoolmgr.core.engines.docker_options import DM_PREFIX
from thinpoolmgr.units import format_size, parse_size

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import EngineConfig
    from thinpoolmgr.core.model import Engine, EngineState, ThinPoolStatus

FIRST_VERSION_WITHOUT_DRIVER = 25
_VERSION = re.compile(r"v?(\d{1,4})(?:[.+~-].*)?", re.ASCII | re.DOTALL)


class StateVerdict(Struct, frozen=True):
    """To which pool an engine's state on disk belongs, and the one line of evidence for it.

    `none`: there is no state. `matching`: it belongs to the pool of the configuration. `stale`: its pool is gone.
    `foreign`: it belongs to another pool that still exists. `loop_lvm`: to Docker's own loop files. `unknown`: it
    cannot be told, so the state must be left alone.
    """

    kind: Literal["none", "matching", "stale", "foreign", "loop_lvm", "unknown"]
    evidence: str


def storage_options(config: EngineConfig, dm_name: str) -> tuple[str, ...]:
    """Return the `storage-opts` for a pool with this device-mapper name.

    Docker cuts off only `/dev/mapper/`, so the name must be device-mapper's own, never `VG/LV`.

    Raises:
        ValueError: when the configuration's base size is no size.

    """
    return (
        f"dm.thinpooldev={DM_PREFIX}{dm_name}",
        f"dm.fs={config.filesystem}",
        f"dm.basesize={_docker_size(parse_size(config.base_size))}",
        f"dm.use_deferred_removal={_go_bool(config.deferred_removal)}",
        f"dm.use_deferred_deletion={_go_bool(config.deferred_deletion)}",
        f"dm.min_free_space={config.min_free_space_percent}%",
    )


def _docker_size(size_bytes: int) -> str:
    # Docker reads sizes into a float64 and multiplies by powers of 1024: a whole number below 2**53 is exact.
    for power, letter in enumerate("TGMK"):
        factor = 1024 ** (4 - power)
        if size_bytes % factor == 0:
            return f"{size_bytes // factor}{letter}"
    return str(size_bytes)


def _go_bool(value: bool) -> str:  # noqa: FBT001 - the value is the subject
    return "true" if value else "false"


def supports_devicemapper(version: str) -> bool | None:
    """Return whether a Docker of this version has the driver (removed in 25); None when `version` is no version."""
    match = _VERSION.fullmatch(version.strip())
    return int(match[1]) < FIRST_VERSION_WITHOUT_DRIVER if match else None


def unsupported_text(version: str) -> tuple[str, str, str]:
    """Return summary, details and resolution for a Docker without the driver (exit code 69)."""
    shown = ascii(version[:40])[1:-1]
    return (
        f"Docker {shown} has no devicemapper storage driver",
        "Docker removed the driver in version 25; 24.0 is the last that has it.",
        (
            "Either install Docker 24.0 or older and hold the package at that version, or leave Docker on overlay2 and "
            "give the pool to another engine: containerd's devmapper snapshotter is maintained ([engines.containerd])."
        ),
    )


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
