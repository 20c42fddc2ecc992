"""How findings and stories are drawn; the renderer prints."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from thinpoolmgr.cli import text as words
from thinpoolmgr.cli.stories import severity_of
from thinpoolmgr.cli.text import columns, count, cut, describe, details_of, plain
from thinpoolmgr.core.findings import SEVERITIES
from thinpoolmgr.core.steps import step_mark

if TYPE_CHECKING:
    from thinpoolmgr.cli.render import Renderer
    from thinpoolmgr.cli.stories import Story
    from thinpoolmgr.core.doctor import Diagnosis
    from thinpoolmgr.core.steps import Step

_COLORS = {"info": "blue", "warning": "yellow", "error": "red", "": "white"}
_INDENT = " " * 9
_HEADING_COLUMNS = 14
_OPTION_AND_ARGUMENT = re.compile(r"(--[a-z]+) (?=[A-Z+'\d])")
_GLUE = "\u2581"


def wrap(text: str, indent: str) -> list[str]:
    """Return `text` in lines that fit; an option in it and its argument stay on one line."""
    lines = words.wrap(_OPTION_AND_ARGUMENT.sub(rf"\1{_GLUE}", text), indent)
    return [line.replace(_GLUE, " ") for line in lines]


class DiagnosisView:
    """Draws findings and stories."""

    def __init__(self, renderer: Renderer, *, verbose: bool) -> None:
        """Print with `renderer`; with `verbose` also the commands of each fix."""
        self._out = renderer.out
        self._verbose = verbose

    def findings(self, found: tuple[Diagnosis, ...]) -> None:
        """Print findings, the worst first: summary, evidence, way out."""
        if not found:
            self._out("Nothing found.")
            return
        told: dict[tuple[Step, ...], str] = {}
        for diagnosis in found:
            self._finding(diagnosis)
            if self._verbose and diagnosis.fix:
                self._fix(diagnosis.fix, told)
                told.setdefault(diagnosis.fix, diagnosis.code)
        self._out()
        self._out(self._summary(found))

    def _finding(self, found: Diagnosis) -> None:
        severity = click.style(f"{found.severity:<8}", fg=_COLORS[found.severity], bold=True)
        first, *others = wrap(f"{found.summary}  [{found.code}]", _INDENT)
        self._out(f"{severity} {click.style(first.lstrip(), bold=True)}")
        for line in others:
            self._out(click.style(line, bold=True))
        for line in wrap(found.evidence, _INDENT):
            self._out(click.style(line, dim=True))
        for line in wrap(found.resolution, _INDENT):
            self._out(click.style(line, fg="cyan"))

    def _fix(self, fix: tuple[Step, ...], told: dict[tuple[Step, ...], str]) -> None:
        if fix in told:
            self._out(click.style(f"{_INDENT}The same steps as for {told[fix]} above.", dim=True))
            return
        for step in fix:
            first, *others = wrap(describe(step), _INDENT)
            self._out(f"       {step_mark(step)} {first.lstrip()}")
            for line in others:
                self._out(line)
            for line, color in details_of(step):
                self._out(click.style(line, fg=color))

    def _summary(self, found: tuple[Diagnosis, ...]) -> str:
        numbers = [(severity, sum(d.severity == severity for d in found)) for severity in SEVERITIES]
        nouns = {"error": "error", "warning": "warning", "info": "remark"}
        counts = ", ".join(
            click.style(count(number, nouns[severity]), fg=_COLORS[severity], bold=True)
            for severity, number in numbers
            if number
        )
        hints = "explain CODE tells more" + ("" if self._verbose else ", -v shows the commands")
        return f"{counts}{click.style(f'   ({hints})', dim=True)}"

    def story(self, code: str, story: Story) -> None:
        """Print the whole story of one code."""
        severity = severity_of(code)
        shown = f"  {click.style(severity, fg=_COLORS[severity], bold=True)}" if severity else ""
        self._out(f"{click.style(code, bold=True)}{shown}  {story.summary}")
        self._part("means", story.means)
        self._part("comes from", story.comes)
        self._part("harm", story.harms)
        for number, step in enumerate(story.do, start=1):
            self._part("do" if number == 1 else "", step, f"{number}. ")
        self._part("do not", story.avoid.removeprefix("Do not "))

    def _part(self, heading: str, text: str, mark: str = "") -> None:
        first, *others = wrap(text, " " * (_HEADING_COLUMNS + len(mark)))
        self._out(f"{click.style(f'  {heading:<{_HEADING_COLUMNS - 2}}', bold=True)}{mark}{first.lstrip()}")
        for line in others:
            self._out(line)

    def stories(self, stories: dict[str, Story]) -> None:
        """Print all codes, one line each."""
        width = max(map(len, stories), default=0)
        for code, story in stories.items():
            severity = severity_of(code)
            line = cut(plain(story.summary), columns() - width - 11)
            self._out(f"{click.style(f'{code:<{width}}', bold=True)}  {_styled(severity)} {line}")


def _styled(severity: str) -> str:
    return click.style(f"{severity:<8}", fg=_COLORS[severity])
