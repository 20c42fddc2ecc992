"""Draws on a terminal, again and again, without flicker: the only user of `rich`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from thinpoolmgr.cli.views_live import Line


@contextmanager
def drawing(*, color: bool) -> Iterator[Callable[[Callable[[int, int], tuple[Line, ...]]], None]]:
    """Take the terminal's other screen while this is open, and give what draws on it.

    What it is given is asked for its lines with the width and height that the terminal has then.
    """
    # Without a colour system rich writes no style at all.
    console = Console(highlight=False) if color else Console(highlight=False, color_system=None)
    with Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:

        def draw(picture: Callable[[int, int], tuple[Line, ...]]) -> None:
            width, height = console.size
            lines = (Text.assemble(*line) for line in picture(width, height))
            live.update(Text("\n", no_wrap=True, overflow="crop", end="").join(lines), refresh=True)

        yield draw
