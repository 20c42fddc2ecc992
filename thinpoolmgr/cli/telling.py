"""What the system's journal is told of runs; where there is none they are told in ours alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinpoolmgr.cli.text import count, duration

if TYPE_CHECKING:
    from thinpoolmgr.core.plan import Request
    from thinpoolmgr.cycle import RunError, RunResult


def tell_began(request: Request, run: str) -> None:
    """Tell that the run called `run` begins to change this host."""
    _tell(f"{_words(request)} began to change this host", "info", request, event="run-began", run=run)


def tell_done(request: Request, result: RunResult) -> None:
    """Tell that a run ended well."""
    seconds = round(sum(step.seconds for step in result.steps), 3)
    message = f"{_words(request)} is done: {count(len(result.steps), 'step')} in {duration(seconds, 1)}"
    _tell(message, "info", request, event="run-done", run=result.run, seconds=seconds)


def tell_stopped(request: Request, error: RunError) -> None:
    """Tell that a run failed, or that a signal stopped it, and why."""
    severity = "warning" if error.outcome == "interrupted" else "error"
    message = f"{_words(request)} {error.outcome}: {error.cause.summary}"
    _tell(message, severity, request, event=f"run-{error.outcome}", run=error.run, code=error.cause.code)


def _words(request: Request) -> str:
    return " ".join(word for word in ("thinpoolmgr", request.command, request.pool, request.engine) if word)


def _tell(message: str, severity: str, request: Request, **fields: object) -> None:
    # Late: most commands change nothing.
    from thinpoolmgr.host import journald  # noqa: PLC0415

    about = {"command": request.command, "pool": request.pool, "engine": request.engine}
    journald.try_send(message, journald.PRIORITIES[severity], **about, **fields)
