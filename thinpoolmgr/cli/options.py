"""Global options, which may stand before or after the command's name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

_Function = TypeVar("_Function", bound="Callable[..., Any]")


# No msgspec: `--version` is to start as fast as a bare interpreter, nearly.
@dataclass(slots=True)
class Options:
    """What the global options say."""

    config: Path | None = None
    json: bool = False
    simulate: bool = False
    verbose: bool = False
    no_color: bool = False
    carries_out: bool = False
    """The command is one of those that carry out a plan: its JSON document is a run's."""

    @property
    def color(self) -> bool | None:
        """False forbids colours; None leaves it to whether the output is a terminal (see no-color.org)."""
        return False if self.no_color or os.environ.get("NO_COLOR") or not can_draw() else None


def can_draw() -> bool:
    """Whether the terminal, if there is one, obeys more than line ends: TERM=dumb is Emacs' shell and the like."""
    return os.environ.get("TERM") != "dumb"


def options_of(context: click.Context) -> Options:
    """Return the options given so far, whichever side of the command they stand on."""
    return context.find_root().ensure_object(Options)


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value not in (None, False) and parameter.name is not None:
        setattr(options_of(context), parameter.name, value)


def global_options(function: _Function) -> _Function:
    """Add the global options to a command or group."""
    for option in (
        click.option(
            "--no-color",
            is_flag=True,
            expose_value=False,
            callback=_remember,
            help="No colours; NO_COLOR does the same.",
        ),
        click.option(
            "-v",
            "--verbose",
            is_flag=True,
            expose_value=False,
            callback=_remember,
            help="Show the exact commands, too.",
        ),
        click.option(
            "--simulate",
            is_flag=True,
            expose_value=False,
            callback=_remember,
            help="Use an in-memory host; nothing is touched.",
        ),
        click.option(
            "--json", is_flag=True, expose_value=False, callback=_remember, help="One JSON document on standard output."
        ),
        click.option(
            "--config",
            type=click.Path(path_type=Path),
            metavar="FILE",
            expose_value=False,
            callback=_remember,
            help="Use this configuration instead of /etc/thinpoolmgr.",
        ),
    ):
        function = option(function)
    return function
