"""The only file that prints: results on standard output, everything else on standard error, within 100 columns."""

from __future__ import annotations

import itertools
import json
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click
import msgspec

from thinpoolmgr.cli.disks import inventory_lines, result_lines
from thinpoolmgr.cli.options import can_draw
from thinpoolmgr.cli.progress import Ticker
from thinpoolmgr.cli.text import columns, count, cut, describe, details_of, duration, place_of, wrap
from thinpoolmgr.cli.views import config_lines, status_lines
from thinpoolmgr.core.documents import apply_document, failure_document
from thinpoolmgr.core.steps import (
    Step,
    step_mark,
)
from thinpoolmgr.errors import ThinpoolmgrError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from thinpoolmgr.cli.options import Options
    from thinpoolmgr.config import LoadedConfig
    from thinpoolmgr.core.documents import StatusDocument
    from thinpoolmgr.core.inventory import InitDocument
    from thinpoolmgr.core.plan import Plan, Refusal, StepResult
    from thinpoolmgr.cycle import RunResult

_MARK_COLORS = {"+": "green", "~": "yellow", "!": "magenta", "-": "red"}
_MARK_WORDS = {"+": "create", "~": "change", "!": "outage", "-": "destroys"}
_WAY_OUT = "-> "
_HINT = "   (-v shows the commands)"
_ENDING = len("FAILED   0.00 s")
_FIRST_WORD_SECONDS = 10
_NEXT_WORD_SECONDS = 60


class OutputFailedError(ThinpoolmgrError):
    """Standard output took no more."""

    default_code = "OUTPUT_FAILED"


class Renderer:
    """Draws plans, progress, status and errors as the options ask for."""

    def __init__(self, options: Options) -> None:
        """Draw by `options`."""
        self._options = options
        # Python has no standard error where it was closed beforehand.
        self._live = bool(sys.stderr and sys.stderr.isatty()) and can_draw()
        self._ticker: Ticker | None = None
        self.is_unread = False
        """Nobody reads standard output any more."""

    def out(self, text: str = "") -> None:
        """Print one line of a result.

        Raises:
            OutputFailedError: it could not be written, and somebody waits for it.

        """
        if self.is_unread:
            return
        try:
            click.echo(text, color=self._options.color)
        except BrokenPipeError:
            # The reader has seen enough; what is left to do is done all the same.
            self._stop_output()
        except OSError as error:
            self._stop_output()
            summary = f"the result could not be written: {error.strerror}"
            raise OutputFailedError(
                summary, "What was to be done was done before.", "Make room, and ask again."
            ) from error

    def _stop_output(self) -> None:
        """Let what is still buffered go nowhere: Python would try to write it once more, and end with 120."""
        self.is_unread = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def err(self, text: str = "", *, newline: bool = True) -> None:
        """Print one line for people beside the result; a terminal that is gone must not stop a run in its middle."""
        with suppress(OSError):
            click.echo(text, err=True, nl=newline, color=self._options.color)

    def remark(self, text: str) -> None:
        """Say something beside the result."""
        for line in wrap(text, ""):
            self.err(line)

    def stopping(self, signal_name: str) -> None:
        """Say, from a signal handler, that the run stops after its step."""
        # The handler may have come in the middle of another line's writing.
        with suppress(RuntimeError):
            if self._live:
                self.err()
            self.remark(f"{signal_name}: the step under way is finished first, then the run stops.")

    def warn(self, text: str) -> None:
        """Print a warning beside the result."""
        self._labelled("warning: ", "yellow", text, self.err)

    def _note(self, text: str, say: Callable[[str], None]) -> None:
        self._labelled("Note: ", None, text, say)

    def _labelled(self, label: str, color: str | None, text: str, say: Callable[[str], None]) -> None:
        first, *others = wrap(text, " " * len(label), label) or [label]
        say(click.style(label, fg=color, bold=True) + first[len(label) :])
        for line in others:
            say(line)

    def json(self, document: object) -> None:
        """Print the one document of `--json`."""
        # msgspec refuses lone surrogates, which stand for undecodable bytes of arguments; json escapes them.
        plain_values = msgspec.to_builtins(document)
        try:
            # The indentation of json is not compiled, and takes seconds where there are thousands of devices.
            self.out(msgspec.json.format(json.dumps(plain_values), indent=2))
        except msgspec.DecodeError:
            self.out(json.dumps(plain_values, indent=2))

    def plan(self, plan: Plan, *, to_stderr: bool = False) -> None:
        """Print a plan as a tree: pools, their steps with mark and reason, and the commands with `-v`."""
        say = self.err if to_stderr else self.out
        for refusal in plan.refusals:
            self._refusal(refusal, say)
        if plan.refusals and plan.steps:
            say("Nothing is carried out before that is settled. Then the plan would be:")
        for number, (place, steps) in enumerate(itertools.groupby(plan.steps, place_of)):
            if number or plan.refusals:
                say("")
            for line in wrap(place, ""):
                say(click.style(line, bold=True))
            for step in steps:
                self._plan_step(step, say)
        # Carrying it out repeats the notes at the end, where what is left to the user matters.
        for note in () if to_stderr else plan.notes:
            self._note(note, say)
        for warning in plan.warnings:
            self.warn(warning)
        if plan.steps:
            say("")
            say(self._summary(plan))
        elif not plan.refusals:
            say("Nothing to do: the host is as the configuration describes it.")

    def _refusal(self, refusal: Refusal, say: Callable[[str], None]) -> None:
        self._labelled("refused ", "red", f"{refusal.summary}  [{refusal.code}]", say)
        for line in wrap(refusal.details, "  "):
            say(line)
        self._way_out(refusal.resolution, "  ", say)

    def _plan_step(self, step: Step, say: Callable[[str], None]) -> None:
        mark = step_mark(step)
        first, *others = wrap(describe(step), "    ")
        say(f"  {click.style(mark, fg=_MARK_COLORS[mark], bold=True)} {click.style(first[4:], bold=True)}")
        for line in others:
            say(click.style(line, bold=True))
        for line in wrap(step.reason, "      "):
            say(line)
        if self._options.verbose:
            for line, color in details_of(step):
                say(click.style(line, fg=color))

    def _summary(self, plan: Plan) -> str:
        marks = [step_mark(step) for step in plan.steps]
        counts = [
            f"{click.style(m, fg=_MARK_COLORS[m], bold=True)} {marks.count(m)} {_MARK_WORDS[m]}"
            for m in "+~!-"
            if m in marks
        ]
        line = f"{count(len(plan.steps), 'step')}: {', '.join(counts)}"
        if self._options.verbose or len(click.unstyle(line)) + len(_HINT) > columns():
            return line
        return f"{line}{click.style(_HINT, dim=True)}"

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Leave no step being told of, however the run ends; the line of one that did not end stays."""
        try:
            yield
        finally:
            if self._stop_ticker() and self._live:
                self.err()

    def begin_step(self, step: Step, total: int) -> None:
        """Show that `step` runs, and from then on for how long; `end_step` completes its line."""
        self._stop_ticker()
        if self._options.json:
            return
        if self._live:
            self._redraw(step, total, "...")
        next_word = itertools.count(_FIRST_WORD_SECONDS, _NEXT_WORD_SECONDS)
        self._ticker = Ticker(self._teller(step, total, next_word))
        self._ticker.start()

    def _teller(self, step: Step, total: int, words: Iterator[int]) -> Callable[[float], None]:
        """Return what a tick does: on a terminal it redraws the line, in a log it adds one now and then."""
        due = next(words)

        def tell(seconds: float) -> None:
            nonlocal due
            elapsed = duration(int(seconds), 0)
            if self._live:
                self._redraw(step, total, elapsed)
            elif seconds >= due:
                self.err(f"[{int(step.id)}/{total}] {step_mark(step)} {describe(step)}: still running, {elapsed}")
                due = next(second for second in words if second > seconds)

        return tell

    def _redraw(self, step: Step, total: int, ending: str) -> None:
        # First to the line's start, too: a terminal echoes ^C where the cursor stands.
        self.err(f"\r{self._step_line(step, total, ending)}\r", newline=False)

    def _stop_ticker(self) -> bool:
        """Return whether a step was being told of."""
        ticker, self._ticker = self._ticker, None
        if ticker is not None:
            ticker.stop()
        return ticker is not None

    def end_step(self, step: Step, total: int, result: StepResult) -> None:
        """Print the step's line with the time it took."""
        self._stop_ticker()
        words = {
            "done": click.style("done", fg="green"),
            "already": click.style("done already", fg="green"),
            "failed": click.style("FAILED", fg="red", bold=True),
        }
        start = "\r" if self._live else ""
        ending = f"{words[result.result]} {duration(result.seconds, 2):>8}"
        if not self._options.json:
            self.err(f"{start}{self._step_line(step, total, ending)}")

    def _step_line(self, step: Step, total: int, ending: str) -> str:
        """Return a line of always the same width, so that a redrawn one covers the last; one column stays free."""
        mark = step_mark(step)
        place = f"[{int(step.id)}/{total}]"
        room = columns() - len(place) - len(click.unstyle(ending)) - 6
        what = cut(describe(step), min(room - 2, columns() - len(place) - _ENDING - 8))
        dots = click.style("." * (room - len(what)), dim=True)
        return f"{place} {click.style(mark, fg=_MARK_COLORS[mark], bold=True)} {what} {dots} {ending}"

    def run_result(self, result: RunResult) -> None:
        """Print how a run ended."""
        if result.outcome == "nothing":
            self.out("Nothing to do: the host is as it should be.")
        else:
            took = duration(sum(step.seconds for step in result.steps), 1)
            done = f"{count(len(result.steps), 'step')} in {took}; looked at again, nothing is left to do."
            self._labelled("Done: ", "green", done, self.out)
        for warning in result.warnings:
            self.warn(warning)
        for note in result.notes:
            self._note(note, self.out)

    def status(self, document: StatusDocument) -> None:
        """Print pools, engines and findings."""
        for line in status_lines(document):
            self.out(line)

    def init(self, document: InitDocument, text: str) -> None:
        """Print the disks of the host, what was written, and with `--simulate` the text that would have been."""
        for line in (*inventory_lines(document), "", *result_lines(document)):
            self.out(line)
        if not document.written:
            self.out()
            self.out(text.rstrip("\n"))

    def config(self, loaded: LoadedConfig, *, origin: bool) -> None:
        """Print the merged configuration, each value with its file when asked for."""
        for line in config_lines(loaded, origin=origin):
            self.out(line)

    def error(self, error: ThinpoolmgrError) -> None:
        """Print an error that ended a command before anything was begun, with `--json` as a document, too."""
        self.explain(error)
        if not self._options.json or isinstance(error, OutputFailedError):
            return
        carries_out = self._options.carries_out
        # Where not even this can be written, the error is on standard error all the same.
        with suppress(OutputFailedError):
            self.json(apply_document("", "refused", (), error) if carries_out else failure_document(error))

    def explain(self, error: ThinpoolmgrError) -> None:
        """Print for people what is wrong, the evidence, and the way out."""
        self._labelled("error: ", "red", f"{error.summary}  [{error.code}]", self.err)
        for line in wrap(error.details, "  "):
            self.err(line)
        self._way_out(error.resolution, "  ", self.err)

    def _way_out(self, text: str, indent: str, say: Callable[[str], None]) -> None:
        """Print what to do now so that it stands out from the evidence, without colours, too."""
        for line in wrap(text, indent + " " * len(_WAY_OUT), indent + _WAY_OUT):
            say(click.style(line, fg="cyan"))
