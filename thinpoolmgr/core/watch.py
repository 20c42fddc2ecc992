"""What the monitor does about one pool: mend what a killed command left, take charge, take a spare, extend; pure.

It never wipes, removes, unmounts or activates anything: `STEPS` is all that it may carry out, and a plan that needs
another one is none of its business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinpoolmgr.core.changes import add_disks, mend, plan_extension
from thinpoolmgr.core.lifecycle import STATE_CODES, PoolState
from thinpoolmgr.core.plan import Plan, Refusal, numbered
from thinpoolmgr.core.profiles import why_not_in_charge
from thinpoolmgr.core.steps import (
    ExtendData,
    ExtendMetadata,
    ExtendVolumeGroup,
    RefreshPool,
    ResumeDevice,
    TakeCharge,
)

if TYPE_CHECKING:
    from thinpoolmgr.core.lifecycle import PoolView
    from thinpoolmgr.core.model import Disk, Snapshot
    from thinpoolmgr.core.plan import Memory, Request
    from thinpoolmgr.core.steps import Step

STEPS = (ExtendVolumeGroup, ExtendMetadata, ExtendData, RefreshPool, ResumeDevice, TakeCharge)
CAN_GROW = frozenset({PoolState.HEALTHY, PoolState.TIGHT, PoolState.OUT_OF_DATA, PoolState.OUT_OF_METADATA})
"""In all other states an extension cannot work, or would make things worse."""


def trouble_of(view: PoolView) -> str:
    """Return the code of what keeps the pool from being extended; empty: nothing, or there is no pool to extend."""
    if view.state in CAN_GROW or view.state in {PoolState.ABSENT, PoolState.INACTIVE}:
        return ""
    return STATE_CODES[view.state]


def is_cut_short(view: PoolView) -> bool:
    """Whether a command that was killed left the pool suspended, or behind LVM's metadata."""
    return view.state in CAN_GROW and bool(mend(view))


def plan_mending(view: PoolView) -> Plan:
    """Return what makes the pool run as LVM's metadata says, after a command that was cut short."""
    return _plan(mend(view))


def plan_charge(view: PoolView) -> Plan:
    """Return what makes the monitor the only one that extends the pool, and the kernel tell it in time."""
    threshold = view.pool.config.extend.data_threshold_percent
    if view.lv is None or view.state not in CAN_GROW:
        return Plan()
    reason = why_not_in_charge(view.lv, view.device, threshold)
    if not reason:
        return Plan()
    pool = view.pool
    step = TakeCharge(reason=reason, pool=pool.name, group=pool.group, lv=pool.lv, threshold_percent=threshold)
    return _plan([step])


def plan_growth(view: PoolView, request: Request, snapshot: Snapshot, memory: Memory) -> Plan:
    """Return what brings the pool to the sizes of the settled `request`; empty when it has them."""
    if refusals := _troubles(view):
        return Plan(refusals=refusals, request=request)
    changes = plan_extension(view, request, snapshot, memory, "the pool fills up")
    return _plan(changes.steps, tuple(changes.refusals), request)


def plan_spare(view: PoolView, disk: Disk, snapshot: Snapshot, memory: Memory, request: Request) -> Plan:
    """Return what takes a spare disk into the pool's group, or why it must not be: the guards are those of `apply`."""
    if refusals := _troubles(view):
        return Plan(refusals=refusals, request=request)
    steps, refused = add_disks(view, [disk], snapshot, memory)
    return _plan(steps, tuple(refused), request)


def _troubles(view: PoolView) -> tuple[Refusal, ...]:
    code = trouble_of(view)
    if not code and view.lv is not None:
        return ()
    summary = f"{view.pool.path} is {view.state}: {view.because}"
    return (Refusal(code or "POOL_ABSENT", view.pool.path, summary),)


def _plan(steps: list[Step], refusals: tuple[Refusal, ...] = (), request: Request | None = None) -> Plan:
    forbidden = next((step for step in steps if not isinstance(step, STEPS)), None)
    if forbidden is not None and not refusals:
        refusals = (_refuse(forbidden),)
    return Plan(() if refusals else numbered(steps), refusals, request=request)


def _refuse(step: Step) -> Refusal:
    summary = "the monitor wipes and removes nothing"
    details = f"It would need: {step.reason}."
    resolution = f"Do it by hand: thinpoolmgr extend {step.pool}."
    return Refusal("NOT_THE_MONITORS", step.pool, summary, details, resolution)
