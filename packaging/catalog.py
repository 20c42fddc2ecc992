"""Writes journald's message catalog, systemd/thinpoolmgr.catalog, to standard output: from the stories of the codes.

Its format: https://systemd.io/CATALOG. `journalctl --catalog` shows the text below each entry with that message id, and
puts the entry's own fields where their names stand between at signs.
"""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING

from thinpoolmgr.cli.stories import read_stories
from thinpoolmgr.core.messages import message_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinpoolmgr.cli.stories import Story
    from thinpoolmgr.core.messages import Event

_WIDTH = 76
_SEE = "thinpoolmgr history @THINPOOLMGR_RUN@ shows its steps."
EVENTS: dict[Event, tuple[str, str]] = {
    "run-began": ("A run began to change this host", _SEE),
    "run-done": ("A run is done, and the host is as it should be", _SEE),
    "run-failed": (
        "A run failed, and what it had not done is left to do",
        f"{_SEE} thinpoolmgr explain @THINPOOLMGR_CODE@ tells the story of its error. The same command goes on.",
    ),
    "run-interrupted": (
        "A run was stopped by a signal after the step that was under way",
        f"{_SEE} The same command again, or thinpoolmgr resume, finishes it.",
    ),
    "extension-done": (
        "The monitor has extended the pool @THINPOOLMGR_POOL@",
        "thinpoolmgr status shows what it has now, and how much of its group is still free.",
    ),
}
"""What the messages say that are no findings: subject and text."""


def catalog() -> str:
    """Return the whole catalog."""
    entries = [_entry(code, f"[{code}] {story.summary}", _told(story)) for code, story in read_stories().items()]
    entries += [_entry(event, subject, _wrap(text)) for event, (subject, text) in EVENTS.items()]
    return "# Made by packaging/catalog.py from the stories that thinpoolmgr explain tells.\n\n" + "\n".join(entries)


def _entry(name: str, subject: str, lines: Iterator[str]) -> str:
    head = [f"-- {message_id(name)}", f"Subject: {subject}", "Defined-By: thinpoolmgr"]
    return "\n".join([*head, "Documentation: man:thinpoolmgr(1)", "", *lines, ""])


def _told(story: Story) -> Iterator[str]:
    yield from _wrap(story.means)
    yield from _wrap(f"Comes from: {story.comes}")
    yield from _wrap(f"Harm: {story.harms}")
    yield "Do:"
    for number, step in enumerate(story.do, start=1):
        yield from _wrap(step, f"{number}. ")
    yield from _wrap(story.avoid)


def _wrap(text: str, mark: str = "") -> Iterator[str]:
    # Long words are commands and paths, which a person copies.
    yield from textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=mark,
        subsequent_indent=" " * len(mark),
        break_on_hyphens=False,
        break_long_words=False,
    )


if __name__ == "__main__":
    sys.stdout.write(catalog())
