"""What must hold before a plan is carried out: nothing is refused, it is the plan that was shown, it is allowed."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from thinpoolmgr.core.plan import Plan, PlanFile, Refusal
from thinpoolmgr.core.steps import Danger, Step, step_name, target
from thinpoolmgr.errors import (
    ConfigError,
    NeedsPersonError,
    RefusedError,
    StalePlanError,
    ThinpoolmgrError,
    UnavailableError,
)


class Approval(Struct, frozen=True):
    """What the user has allowed beforehand."""

    yes: bool = False
    allowed: frozenset[Danger] = frozenset()


def raise_refusals(refusals: tuple[Refusal, ...]) -> None:
    """Raise the first refusal as the error its exit code stands for, the others in its details.

    Raises:
        ThinpoolmgrError: there is a refusal.

    """
    if not refusals:
        return
    first, *others = refusals
    kinds: dict[int, type[ThinpoolmgrError]] = {5: NeedsPersonError, 69: UnavailableError, 78: ConfigError}
    details = "\n".join([*([first.details] if first.details else []), *(f"Also: {other.summary}" for other in others)])
    raise kinds.get(first.exit_code, RefusedError)(first.summary, details, first.resolution, code=first.code)


def approve(plan: Plan, approval: Approval, confirm: Callable[[], bool | None]) -> bool:
    """Return whether a person was asked and agreed; False says that the flags sufficed.

    Raises:
        RefusedError: a flag is missing and there is nobody to ask, or the answer was no.

    """
    dangers = {step.danger for step in plan.steps} - {"safe"} - approval.allowed
    if approval.yes and not dangers:
        return False
    missing = [*([] if approval.yes else ["--yes"]), *_missing_allowances(dangers)]
    answer = confirm() if not approval.yes else None
    if answer:
        return True
    if answer is False:
        raise RefusedError("not approved; nothing was changed", "", "", code="NOT_APPROVED")
    what = {"outage": "something stops working meanwhile", "destroys": "data is destroyed"}
    details = "\n".join(
        f"{step.id} {step_name(step)} {target(step)}: {what[step.danger]} ({step.reason})"
        for step in plan.steps
        if step.danger in dangers
    )
    summary = f"this needs {' '.join(missing)}; nothing was changed"
    raise RefusedError(
        summary, details, f"Add {' '.join(missing)} when the plan is what you want.", code="NOT_APPROVED"
    )


def _missing_allowances(dangers: set[Danger]) -> list[str]:
    words = [word for danger, word in (("outage", "outage"), ("destroys", "destroy")) if danger in dangers]
    return [f"--allow {','.join(words)}"] if words else []


def require_same_plan(now_planned: Plan, shown: Plan) -> None:
    """Make sure that the plan which was agreed to is the one that would be made now.

    Raises:
        StalePlanError: it is not.

    """
    if now_planned.steps != shown.steps or now_planned.refusals:
        summary = "the host changed while the question was open; nothing was changed"
        raise StalePlanError(summary, "The plan would be another one now.", "Run this again and look at the new plan.")


def _in_words(steps: tuple[Step, ...]) -> str:
    return ", ".join(f"{step_name(step)} {target(step)}" for step in steps)


def without_reasons(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return `steps` as what they do, whatever the reasons."""
    return tuple(replace(step, reason="") for step in steps)


def require_fresh(planned: PlanFile, now_planned: Plan) -> None:
    """Make sure that the plan of a file is the one that would be made now.

    Raises:
        StalePlanError: it is not; the details say in what.

    """
    # A reason may name what comes and goes, such as the containers that run just now.
    old_steps, new_steps = without_reasons(planned.steps), without_reasons(now_planned.steps)
    if planned.fingerprint == now_planned.fingerprint and old_steps == new_steps:
        return
    if now_planned.is_empty:
        differs = "There is nothing to do any more: the host is as the configuration describes it."
    elif old_steps != new_steps:
        old, new = (_in_words(steps) for steps in (planned.steps, now_planned.steps))
        differs = f"The plan would be another one now: {new or now_planned.refusals[0].summary}."
        if old == new:
            differs = "The plan would have the same steps, with other sizes or contents."
    else:
        differs = (
            "The steps would be the same, but facts that they rely on have changed: the host or its configuration."
        )
    raise StalePlanError(
        f"the plan of {planned.made_at} is stale; nothing was changed",
        differs,
        "Look at the present plan, and write it anew: thinpoolmgr plan --out FILE.",
    )
