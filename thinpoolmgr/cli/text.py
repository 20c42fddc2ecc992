"""Words and lines for people: plain, short enough, and the same wherever they are shown. Prints nothing."""

from __future__ import annotations

import difflib
import re
import shutil
import textwrap
from typing import TYPE_CHECKING

from thinpoolmgr.core.commands import commands
from thinpoolmgr.core.steps import (
    CreateThinPool,
    CreateVolumeGroup,
    MoveStateAside,
    Step,
    WriteEngineConfig,
    step_name,
    target,
)
from thinpoolmgr.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinpoolmgr.core.commands import Argv

_MAX_COLUMNS = 100
# What stays has the terminal's own colour: white would be invisible on white.
_DIFF_COLORS = {"+": "green", "-": "red"}
_OPTION_AND_ARGUMENT = re.compile(r"(--[a-z]+) (?!-)")
_SHELL_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_")


def columns() -> int:
    """Return the width to draw in: the terminal's, at most 100."""
    return min(_MAX_COLUMNS, shutil.get_terminal_size((_MAX_COLUMNS, 24)).columns)


def plain(text: str) -> str:
    """Return `text` from outside so that a terminal shows it and obeys nothing in it."""
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    # Undecodable bytes arrive as lone surrogates U+DC80 to U+DCFF.
    return (
        f"\\x{code - 0xDC00:02x}"
        if 0xDC80 <= code <= 0xDCFF
        else f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
    )


def shell_words(argv: Argv) -> str:
    """Return `argv` as a person would type it."""
    return " ".join(
        word if word and set(word) <= _SHELL_SAFE else "'" + plain(word).replace("'", "'\\''") + "'" for word in argv
    )


def describe(step: Step) -> str:
    """Return a step in a few words."""
    what = f"{step_name(step).replace('-', ' ')} {plain(target(step))}"
    match step:
        case CreateVolumeGroup():
            return f"{what} on {', '.join(plain(disk.path) for disk in step.disks)}"
        case CreateThinPool():
            data, metadata = format_size(step.data_extents * step.extent_bytes), format_size(step.metadata_bytes)
            return f"{what} ({data}, metadata {metadata})"
        case _:
            return what


def wrap(text: str, indent: str, first: str | None = None) -> list[str]:
    """Return `text` in lines that fit, each with `indent` in front, or `first` in front of the first one."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        lines += textwrap.wrap(
            plain(paragraph),
            columns(),
            initial_indent=indent if first is None or lines else first,
            subsequent_indent=indent,
            break_on_hyphens=False,
        )
    return lines


def fit(text: str, width: int) -> list[str]:
    """Return `text` in lines of at most `width` columns."""
    return textwrap.wrap(text, width, break_on_hyphens=False)


def wrap_command(text: str) -> list[str]:
    """Return a command in lines that fit."""
    # An option and its argument stay on one line.
    glued = _OPTION_AND_ARGUMENT.sub("\\1\0", text)
    lines = textwrap.wrap(
        glued,
        columns() - 2,
        initial_indent="      $ ",
        subsequent_indent="          ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\0", " ") for line in lines]


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where there are more."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def details_of(step: Step) -> Iterator[tuple[str, str | None]]:
    """Return what a step does to the letter, line by line with its colour: commands, or the change of a file."""
    for argv in commands(step):
        yield from ((line, "cyan") for line in wrap_command(shell_words(argv)))
    if isinstance(step, MoveStateAside):
        yield from ((line, "cyan") for path in step.paths for line in wrap(f"{path} -> {step.into}/", "      "))
    if isinstance(step, WriteEngineConfig):
        old, new = (step.old_text or "").splitlines(), step.new_text.splitlines()
        for line in difflib.unified_diff(old, new, n=1, lineterm=""):
            if not line.startswith(("---", "+++", "@@")):
                yield from ((piece, _DIFF_COLORS.get(line[0])) for piece in _pieces(plain(line.expandtabs(4))))


def _pieces(text: str) -> list[str]:
    """Cut a line whose spaces matter into pieces that fit."""
    width = columns() - 8
    return [f"      {'' if start == 0 else '  '}{text[start : start + width]}" for start in range(0, len(text), width)]


def place_of(step: Step) -> str:
    """Return the branch of the tree that a step hangs on."""
    engine = getattr(step, "engine", "")
    return plain(f"engine {engine}" if engine else f"pool {step.pool}")


def cut(text: str, width: int) -> str:
    """Return `text`, cut to `width` columns with three dots at its end."""
    return text if len(text) <= width else text[: max(0, width - 3)] + "..."


def duration(seconds: float, decimals: int) -> str:
    """Return a time for people: `12.34 s`, then `5 min 12 s`, then `1 h 2 min`."""
    if seconds < 60:
        return f"{seconds:.{decimals}f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
