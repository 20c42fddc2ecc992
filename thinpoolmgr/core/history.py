"""Past runs as others read them: what ran, when, how long, how it ended; from the journal's records alone."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from thinpoolmgr.core.documents import SCHEMA
from thinpoolmgr.core.journal import Began, Doing, Done, Ended, Failed
from thinpoolmgr.core.plan import Request
from thinpoolmgr.core.steps import Step, step_name, target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thinpoolmgr.core.journal import StoredRun

RunOutcome = Literal["done", "failed", "interrupted", "running", "damaged"]


class PastStep(Struct, frozen=True):
    """How one step of a run went; `seconds` is null where the journal does not tell."""

    id: str
    do: str
    target: str
    result: Literal["done", "failed", "interrupted", "running", "not begun"]
    seconds: float | None


class PastRun(Struct, frozen=True):
    """One run of the journal; of a damaged file what could be read."""

    run: str
    command: str
    began: str
    ended: str
    seconds: float | None
    outcome: RunOutcome
    steps: tuple[PastStep, ...]
    request: Request | None = None
    error: str = ""
    commands: tuple[str, ...] = ()
    """The last commands before a step failed, with their exit codes."""
    damage: str = ""


class HistoryDocument(Struct, frozen=True):
    """`history --json`."""

    schema: Literal[1]
    runs: tuple[PastRun, ...]


def history_document(runs: Sequence[PastRun]) -> HistoryDocument:
    """Return `runs` as others read them."""
    return HistoryDocument(SCHEMA, tuple(runs))


def past_runs(stored: Sequence[StoredRun], *, is_locked: bool) -> tuple[PastRun, ...]:
    """Return the runs of the journal, oldest first.

    Args:
        stored: the journal.
        is_locked: a run is under way; then a last run without an end is that one, and was not interrupted.

    """
    last = len(stored) - 1
    return tuple(_past_run(run, may_run=is_locked and place == last) for place, run in enumerate(stored))


def _past_run(stored: StoredRun, *, may_run: bool) -> PastRun:
    began = next((record for record in stored.records if isinstance(record, Began)), None)
    failed = next((record for record in stored.records if isinstance(record, Failed)), None)
    end = next((record for record in reversed(stored.records) if isinstance(record, Ended)), None)
    outcome: RunOutcome = end.outcome if end else "running" if may_run else "interrupted"
    began_at, ended_at = began.at if began else "", end.at if end else ""
    steps = began.steps if began else ()
    return PastRun(
        run=stored.name,
        command=began.command if began else "",
        began=began_at,
        ended=ended_at,
        seconds=_seconds_between(began_at, ended_at),
        outcome="damaged" if stored.damage else outcome,
        steps=tuple(_past_step(step, stored, ended_at, may_run=may_run and end is None) for step in steps),
        request=began.request.as_asked() if began and began.request else None,
        error=failed.error if failed else "",
        commands=failed.commands if failed else (),
        damage=stored.damage,
    )


def _past_step(step: Step, stored: StoredRun, ended_at: str, *, may_run: bool) -> PastStep:
    records = [r for r in stored.records if isinstance(r, Doing | Done | Failed) and r.id == step.id]
    begun_at = next((r.at for r in records if isinstance(r, Doing)), "")
    match records[-1:]:
        case [Done() as done]:
            return PastStep(step.id, step_name(step), target(step), "done", done.seconds)
        case [Failed()]:
            # What failed has no time of its own; the run ended with it.
            return PastStep(step.id, step_name(step), target(step), "failed", _seconds_between(begun_at, ended_at))
        case [Doing()]:
            return PastStep(step.id, step_name(step), target(step), "running" if may_run else "interrupted", None)
        case _:
            return PastStep(step.id, step_name(step), target(step), "not begun", None)


def _seconds_between(began: str, ended: str) -> float | None:
    try:
        seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()
    except (ValueError, TypeError):
        return None
    # A clock that was set back says nothing.
    return round(seconds, 3) if seconds >= 0 else None
