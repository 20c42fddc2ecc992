"""The only file that prints: results on standard output, everything else on standard error, within 100 columns."""

from __future__ import annotations

import itertools
import json
import os
import sys
import textwrap
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click
import msgspec

from thinpoolmgr.cli.disks import inventory_lines, result_lines
from thinpoolmgr.cli.text import columns, count, cut, describe, details_of, place_of, plain, wrap
from thinpoolmgr.core.documents import SCHEMA, apply_document, error_document
from thinpoolmgr.core.steps import (
    Step,
    step_mark,
)
from thinpoolmgr.errors import ThinpoolmgrError
from thinpoolmgr.units import MIB, format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from thinpoolmgr.cli.options import Options
    from thinpoolmgr.config import LoadedConfig
    from thinpoolmgr.core.documents import EngineDocument, PoolDocument, StatusDocument, StepResult, Use
    from thinpoolmgr.core.findings import Finding
    from thinpoolmgr.core.inventory import InitDocument
    from thinpoolmgr.core.plan import Plan, Refusal
    from thinpoolmgr.cycle import RunResult

_MARK_COLORS = {"+": "green", "~": "yellow", "!": "magenta", "-": "red"}
_MARK_WORDS = {"+": "create", "~": "change", "!": "outage", "-": "destroys"}
_SEVERITY_COLORS = {"info": "blue", "warning": "yellow", "error": "red"}
_GOOD_STATES = frozenset({"healthy", "running"})
_BAD_STATES = frozenset(
    {
        "failed",
        "needs_check",
        "read_only",
        "out_of_data",
        "out_of_metadata",
        "partial",
        "unknown",
        "lost",
        "unsupported",
    }
)


class OutputFailedError(ThinpoolmgrError):
    """Standard output took no more."""

    default_code = "OUTPUT_FAILED"


class Renderer:
    """Draws plans, progress, status and errors as the options ask for."""

    def __init__(self, options: Options) -> None:
        """Draw by `options`."""
        self._options = options
        # Python has no standard error where it was closed beforehand.
        self._live = bool(sys.stderr and sys.stderr.isatty())
        self._is_unread = False

    def out(self, text: str = "") -> None:
        """Print one line of a result.

        Raises:
            OutputFailedError: it could not be written, and somebody waits for it.

        """
        if self._is_unread:
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
        self._is_unread = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def err(self, text: str = "", *, newline: bool = True) -> None:
        """Print one line for people beside the result; a terminal that is gone must not stop a run in its middle."""
        with suppress(OSError):
            click.echo(text, err=True, nl=newline, color=self._options.color)

    def warn(self, text: str) -> None:
        """Print a warning beside the result."""
        first, *others = wrap(text, " " * len("warning: "))
        self.err(click.style("warning: ", fg="yellow", bold=True) + first.lstrip())
        for line in others:
            self.err(line)

    def json(self, document: object) -> None:
        """Print the one document of `--json`."""
        # msgspec refuses lone surrogates, which stand for undecodable bytes of arguments; json escapes them.
        self.out(json.dumps(msgspec.to_builtins(document), indent=2))

    def plan(self, plan: Plan, *, to_stderr: bool = False) -> None:
        """Print a plan as a tree: pools, their steps with mark and reason, and the commands with `-v`."""
        say = self.err if to_stderr else self.out
        for refusal in plan.refusals:
            self._refusal(refusal, say)
        if plan.refusals and plan.steps:
            say("Nothing is carried out before that is settled. Then the plan would be:")
        for place, steps in itertools.groupby(plan.steps, place_of):
            for line in wrap(place, ""):
                say(click.style(line, bold=True))
            for step in steps:
                self._plan_step(step, say)
        # Carrying it out repeats the notes at the end, where what is left to the user matters.
        for note in () if to_stderr else plan.notes:
            for line in wrap(f"Note: {note}", ""):
                say(line)
        for warning in plan.warnings:
            self.warn(warning)
        if plan.steps:
            say("")
            say(self._summary(plan))
        elif not plan.refusals:
            say("Nothing to do: the host is as the configuration describes it.")

    def _refusal(self, refusal: Refusal, say: Callable[[str], None]) -> None:
        self._headline("refused", refusal.summary, refusal.code, say)
        for text in (refusal.details, refusal.resolution):
            for line in wrap(text, "    "):
                say(line)

    def _headline(self, word: str, summary: str, code: str, say: Callable[[str], None]) -> None:
        first, *others = wrap(f"{summary}  [{code}]", " " * (len(word) + 1))
        say(click.style(word, fg="red", bold=True) + first[len(word) :])
        for line in others:
            say(line)

    def _plan_step(self, step: Step, say: Callable[[str], None]) -> None:
        mark = step_mark(step)
        first, *others = wrap(describe(step), "    ")
        say(f"  {click.style(mark, fg=_MARK_COLORS[mark], bold=True)} {click.style(first[4:], bold=True)}")
        for line in others:
            say(click.style(line, bold=True))
        for line in wrap(step.reason, "      "):
            say(click.style(line, dim=True))
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
        hint = "" if self._options.verbose else "   (-v shows the commands)"
        return f"{count(len(plan.steps), 'step')}: {', '.join(counts)}{click.style(hint, dim=True)}"

    def begin_step(self, step: Step, total: int) -> None:
        """Show that `step` runs, on a terminal only; its line is completed by `end_step`."""
        if self._live and not self._options.json:
            self.err(self._step_line(step, total, "...") + "\r", newline=False)

    def end_step(self, step: Step, total: int, result: StepResult) -> None:
        """Print the step's line with the time it took."""
        words = {
            "done": click.style("done", fg="green"),
            "already": click.style("done already", fg="green"),
            "failed": click.style("FAILED", fg="red"),
        }
        ending = f"{words[result.result]} {result.seconds:6.2f} s"
        if not self._options.json:
            self.err(self._step_line(step, total, ending))

    def _step_line(self, step: Step, total: int, ending: str) -> str:
        mark = step_mark(step)
        place = f"[{int(step.id)}/{total}]"
        what = cut(describe(step), columns() - len(place) - 26)
        dots = click.style("." * max(2, columns() - len(place) - len(what) - 24), dim=True)
        return f"{place} {click.style(mark, fg=_MARK_COLORS[mark], bold=True)} {what} {dots} {ending}"

    def run_result(self, result: RunResult) -> None:
        """Print how a run ended."""
        if result.outcome == "nothing":
            self.out("Nothing to do: the host is as it should be.")
        else:
            seconds = sum(step.seconds for step in result.steps)
            self.out(
                f"Done: {count(len(result.steps), 'step')} in {seconds:.1f} s; looked at again, nothing is left to do."
            )
        for warning in result.warnings:
            self.warn(warning)
        for note in result.notes:
            for line in wrap(f"Note: {note}", ""):
                self.out(line)

    def status(self, document: StatusDocument) -> None:
        """Print pools, engines and findings."""
        for pool in document.pools:
            self._pool(pool)
        for engine in document.engines:
            self._engine(engine)
        if document.findings:
            self.out()
        for finding in document.findings:
            self._finding(finding)

    def init(self, document: InitDocument, text: str) -> None:
        """Print the disks of the host, what was written, and with `--simulate` the text that would have been."""
        for line in (*inventory_lines(document), "", *result_lines(document)):
            self.out(line)
        if not document.written:
            self.out()
            self.out(text.rstrip("\n"))

    def config(self, loaded: LoadedConfig, *, origin: bool) -> None:
        """Print the merged configuration, one value a line, each with its file when asked for."""
        for key, value in _leaves(loaded.merged, ""):
            where = f"  # {plain(loaded.origins.get(key, ''))}" if origin else ""
            shown = plain(json.dumps(value, ensure_ascii=False, default=str))
            self.out(f"{plain(key)} = {shown}{click.style(where, dim=True)}")

    def _pool(self, pool: PoolDocument) -> None:
        self._heading(f"pool {plain(pool.name)}", pool.state, f"{plain(pool.volume_group)}/{plain(pool.thin_pool)}")
        self._use("data", pool.data)
        if pool.metadata is not None:
            # The kernel counts it as used: an empty pool would look a tenth full (dm-thin-metadata.c).
            reserve = min(16 * MIB, pool.metadata.total_bytes // 10)
            self._use("metadata", pool.metadata, f", {format_size(reserve)} of it the kernel's own reserve")
        facts = []
        if pool.chunk_bytes:
            facts = [
                f"chunk {format_size(pool.chunk_bytes)}",
                f"when full {pool.when_full}",
                f"discards {pool.discards}",
            ]
        if pool.active:
            facts.append(f"{count(pool.thin_devices, 'thin device')} active")
        if facts:
            self.out(f"  {'options':<10}{', '.join(facts)}")
        free = f"; {format_size(pool.free_bytes)} free in the group" if pool.free_bytes is not None else ""
        if pool.devices:
            listed = ", ".join(f"{plain(d.path)} ({format_size(d.size_bytes)})" for d in pool.devices)
            lines = textwrap.wrap(f"{listed}{free}", columns() - 12, break_on_hyphens=False)
            for place, line in enumerate(lines):
                self.out(f"  {'disks' if place == 0 else '':<10}{line}")

    def _use(self, name: str, use: Use | None, note: str = "") -> None:
        if use is None:
            return
        color = "red" if use.percent >= 95 else "yellow" if use.percent >= 80 else "green"
        filled = min(20, int(use.percent / 5))
        bar = click.style("#" * filled, fg=color) + click.style("-" * (20 - filled), dim=True)
        amount = f"{format_size(use.used_bytes)} of {format_size(use.total_bytes)}"
        self.out(f"  {name:<10}[{bar}] {use.percent:5.1f} %  {amount}{note}")

    def _engine(self, engine: EngineDocument) -> None:
        parts = [plain(engine.version)] if engine.version else []
        if engine.driver:
            parts.append(f"driver {plain(engine.driver)}")
        if engine.base_size_bytes:
            parts.append(f"base size {format_size(engine.base_size_bytes)}")
        if engine.stale:
            parts.append(click.style("stale state", fg="yellow"))
        more = f"  {', '.join(parts)}" if parts else ""
        self._heading(f"engine {plain(engine.name)}", engine.state, f"on pool {plain(engine.pool)}{more}")

    def _heading(self, what: str, state: str, rest: str) -> None:
        """Print one line, or several where long names make it too long."""
        if len(f"{what}  {state}  {click.unstyle(rest)}") <= columns():
            self.out(f"{click.style(what, bold=True)}  {self._state(state)}  {rest}")
            return
        for line in wrap(what, ""):
            self.out(click.style(line, bold=True))
        self.out(f"  {'state':<10}{self._state(state)}")
        for line in wrap(click.unstyle(rest), " " * 12):
            self.out(line)

    def _state(self, state: str) -> str:
        color = "green" if state in _GOOD_STATES else "red" if state in _BAD_STATES else "yellow"
        return click.style(state, fg=color, bold=True)

    def _finding(self, finding: Finding) -> None:
        severity = click.style(f"{finding.severity:<8}", fg=_SEVERITY_COLORS[finding.severity], bold=True)
        lines = textwrap.wrap(plain(finding.summary), columns() - 9, break_on_hyphens=False) or [""]
        self.out(f"{severity} {lines[0]}")
        for line in lines[1:]:
            self.out(f"{'':<9}{line}")

    def error(self, error: ThinpoolmgrError) -> None:
        """Print an error that ended a command before anything was begun, with `--json` as a document, too."""
        self.explain(error)
        if not self._options.json or isinstance(error, OutputFailedError):
            return
        by_itself = {"schema": SCHEMA, "error": error_document(error)}
        # Where not even this can be written, the error is on standard error all the same.
        with suppress(OutputFailedError):
            self.json(apply_document("", "refused", (), error) if self._options.carries_out else by_itself)

    def explain(self, error: ThinpoolmgrError) -> None:
        """Print for people what is wrong, the evidence, and the way out."""
        self._headline("error:", error.summary, error.code, self.err)
        for line in wrap(error.details, "  "):
            self.err(line)
        for line in wrap(error.resolution, "  "):
            self.err(click.style(line, fg="cyan"))


def _leaves(table: dict[str, Any], prefix: str) -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
