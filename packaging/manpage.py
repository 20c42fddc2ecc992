"""Writes the manual page, thinpoolmgr(1), to standard output: from the command line's own help, and README.md.

click-man (0.6) was looked at: it writes one page for each command, and has no place for exit codes and files.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from thinpoolmgr.cli.main import cli
from thinpoolmgr.config import DROP_IN_FOLDER, MAIN_FILE
from thinpoolmgr.host.store import LOCK_FILE, STATE_FOLDER
from thinpoolmgr.host.thintools import SNAPSHOT_RECORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

README = Path(__file__).parents[1] / "README.md"
FILES = {
    MAIN_FILE: "The configuration.",
    DROP_IN_FOLDER / "*.toml": "More of it, in order of name; later files win.",
    STATE_FOLDER / "runs": "The journal, a file for each run: what lets an interrupted one be finished.",
    SNAPSHOT_RECORDS: "Which snapshots of metadata are ours: what a killed usage left is given back by the next.",
    LOCK_FILE: "Held by a run that changes something.",
}
_PLACES = "They may stand before or after the command."
_HELP = ("-h, --help", "Show the help of a command and exit.")
_EXIT_CODE = re.compile(r"^\| ([0-9][^|]*?) \| (.*) \|$", re.MULTILINE)


def page() -> str:
    """Return the whole page."""
    context = click.Context(cli, info_name="thinpoolmgr")
    everywhere = {option for option, _ in _options(cli, context)}
    lines = [
        '.TH THINPOOLMGR 1 "" "thinpoolmgr" "System administration"',
        *_section("NAME", [f"thinpoolmgr \\- {_text(_summary(cli))}"]),
        *_section("SYNOPSIS", [".B thinpoolmgr", "[OPTIONS] COMMAND [ARGS]..."]),
        *_section("COMMANDS", _commands(context, everywhere)),
        *_section("OPTIONS", [_PLACES, *_tagged([*_options(cli, context), _HELP])]),
        *_section("EXIT STATUS", _tagged(exit_codes(README.read_text("utf-8")))),
        *_section("FILES", _tagged((str(path), text) for path, text in FILES.items())),
        *_section("SEE ALSO", [".BR lvmthin (7),", ".BR lvcreate (8),", ".BR dmsetup (8)"]),
    ]
    return "\n".join(lines) + "\n"


def exit_codes(readme: str) -> list[tuple[str, str]]:
    """Return the exit codes and their meanings as the README's table has them."""
    return [(code, meaning.replace("`", "")) for code, meaning in _EXIT_CODE.findall(readme)]


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    yield f".SH {title}"
    yield from lines


def _commands(context: click.Context, everywhere: set[str]) -> Iterator[str]:
    for command, own in _walk(context):
        words = [own.command_path.removeprefix("thinpoolmgr "), *(p.make_metavar(own) for p in _arguments(command))]
        yield f".SS {_text(' '.join(words))}"
        yield _text(" ".join((command.help or "").split()))
        yield from _tagged(pair for pair in _options(command, own) if pair[0] not in everywhere)


def _walk(context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Return all commands that do something, each below its group."""
    group = context.command
    assert isinstance(group, click.Group)  # noqa: S101 - for the type checker: it is called for groups only
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        own = click.Context(command, parent=context, info_name=name)
        if isinstance(command, click.Group):
            yield from _walk(own)
        else:
            yield command, own


def _arguments(command: click.Command) -> list[click.Parameter]:
    return [parameter for parameter in command.params if isinstance(parameter, click.Argument)]


def _options(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    # Not `get_params`: click remembers --help as whoever asked first wanted it.
    for parameter in command.params:
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            yield record


def _summary(command: click.Command) -> str:
    return (command.help or "").splitlines()[0].rstrip(".")


def _tagged(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, text in pairs:
        yield from (".TP", f"\\fB{_text(term)}\\fR", _text(text))


def _text(text: str) -> str:
    """Return `text` so that roff shows it as it is."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    sys.stdout.write(page())
