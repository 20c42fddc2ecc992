"""How past runs are drawn; the renderer prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from thinpoolmgr.cli.text import count, cut, plain, wrap
from thinpoolmgr.core.plan import command_line

if TYPE_CHECKING:
    from thinpoolmgr.cli.render import Renderer
    from thinpoolmgr.core.history import PastRun, PastStep

_COLORS = {
    "done": "green",
    "failed": "red",
    "interrupted": "yellow",
    "running": "blue",
    "damaged": "red",
    "not begun": "white",
}
_NAME_COLUMNS = 40
_TARGET_COLUMNS = 44


class HistoryView:
    """Draws past runs."""

    def __init__(self, renderer: Renderer) -> None:
        """Print with `renderer`."""
        self._out = renderer.out

    def runs(self, runs: tuple[PastRun, ...]) -> None:
        """Print one line for each run, in their order."""
        if not runs:
            self._out("No runs are recorded.")
            return
        heading = f"{'RUN':<{_NAME_COLUMNS}}  {'BEGAN (UTC)':<19}  {'LASTED':>9}  {'OUTCOME':<11}  STEPS"
        self._out(click.style(heading, bold=True))
        for run in runs:
            done = sum(step.result == "done" for step in run.steps)
            steps = f"{done} of {len(run.steps)}" if run.steps else ""
            name = cut(plain(run.run), _NAME_COLUMNS)
            line = f"{name:<{_NAME_COLUMNS}}  {_moment(run.began):<19}  {_seconds(run.seconds):>9}"
            self._out(f"{line}  {_outcome(run.outcome, 11)}  {steps}".rstrip())

    def run(self, run: PastRun) -> None:
        """Print one run: its steps, and what went wrong."""
        self._out(f"{click.style(plain(run.run), bold=True)}  {_outcome(run.outcome)}")
        if run.damage:
            for line in wrap(f"The journal file is damaged: {run.damage}. What could be read of it:", "  "):
                self._out(click.style(line, fg="red"))
        ended = f", ended {_moment(run.ended)} (UTC), {_seconds(run.seconds)}" if run.ended else ""
        if run.began:
            asked = command_line(run.request) if run.request else f"thinpoolmgr {run.command}"
            self._out(f"  {plain(asked)}")
            self._out(f"  began {_moment(run.began)} (UTC){ended}; {count(len(run.steps), 'step')}")
        for step in run.steps:
            self._step(step)
        if run.error:
            self._out(click.style("  error", fg="red", bold=True))
            for line in wrap(run.error, "    "):
                self._out(line)
        if run.commands:
            self._out(click.style(f"  the last {count(len(run.commands), 'command')} before it", bold=True))
            for command in run.commands:
                first, *others = wrap(command, "        ")
                self._out(click.style(f"      $ {first.lstrip()}", fg="cyan"))
                for line in others:
                    self._out(click.style(line, fg="cyan"))

    def _step(self, step: PastStep) -> None:
        what = cut(f"{step.do.replace('-', ' ')} {plain(step.target)}", _TARGET_COLUMNS + 14)
        line = f"  {step.id} {what:<{_TARGET_COLUMNS + 14}}  "
        self._out(
            line
            + (_outcome(step.result) if step.seconds is None else _outcome(step.result, 11))
            + f"  {_seconds(step.seconds):>9}".rstrip()
        )


def _outcome(outcome: str, width: int = 0) -> str:
    return click.style(f"{outcome:<{width}}", fg=_COLORS.get(outcome, "white"), bold=True)


def _moment(at: str) -> str:
    """Return an ISO time without its fraction and zone, which is always UTC."""
    return plain(at[:19].replace("T", " "))


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f} s"
