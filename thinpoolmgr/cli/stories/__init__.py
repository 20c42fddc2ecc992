"""The story of each code that a finding, a refusal or an error carries; the texts are in the files beside this one."""

from __future__ import annotations

import re
from importlib.resources import files

from msgspec import UNSET, Struct

from thinpoolmgr.core.documents import SCHEMA, CodeDocument, CodesDocument, ExplainDocument
from thinpoolmgr.core.findings import FINDINGS

_FILES = ("pools.md", "disks.md", "engines.md", "runs.md")
_HEADING = re.compile(r"^## ([A-Z_]+): (.+)$", re.MULTILINE)
_PARTS = ("Means", "Comes", "Harm", "Not")


class Story(Struct, frozen=True):
    """What one code means, how it comes about, what it does to containers, what to do, and what not."""

    summary: str
    means: str
    comes: str
    harms: str
    do: tuple[str, ...]
    avoid: str


def read_stories() -> dict[str, Story]:
    """Return all stories by their codes, in the order in which they are told."""
    folder = files(__package__)
    texts = [folder.joinpath(name).read_text("utf-8") for name in _FILES]
    return {code: story for text in texts for code, story in parse_stories(text)}


def parse_stories(text: str) -> list[tuple[str, Story]]:
    """Return the stories in `text`: a heading with code and summary each, then one paragraph for each of `_PARTS`.

    Lines that begin with white space go on with the one before them; what is to be done is a list.

    Raises:
        ValueError: a part is missing, or something stands where no part is.

    """
    _, *sections = _HEADING.split(text)
    return [_parse(*sections[place : place + 3]) for place in range(0, len(sections), 3)]


def _parse(code: str, summary: str, body: str) -> tuple[str, Story]:
    lines = [line for line in re.sub(r"\n +", " ", body).splitlines() if line]
    parts = dict(line.partition(": ")[::2] for line in lines if not line.startswith(("- ", "Do:")))
    do = tuple(line.removeprefix("- ") for line in lines if line.startswith("- "))
    if tuple(parts) != _PARTS or not do:
        msg = f"the story of {code} does not have its parts: {', '.join(parts)}"
        raise ValueError(msg)
    means, comes, harms, avoid = parts.values()
    return code, Story(summary, means, comes, harms, do, avoid)


def severity_of(code: str) -> str:
    """Return how bad a finding with this code is; empty where no finding has it."""
    return FINDINGS[code].severity if code in FINDINGS else ""


def explain_document(code: str, story: Story) -> ExplainDocument:
    """Return one story as others read it."""
    severity = severity_of(code) or UNSET
    return ExplainDocument(
        SCHEMA, code, story.summary, story.means, story.comes, story.harms, story.do, story.avoid, severity
    )


def codes_document(stories: dict[str, Story]) -> CodesDocument:
    """Return all codes with their summaries as others read them."""
    codes = (CodeDocument(code, story.summary, severity_of(code) or UNSET) for code, story in stories.items())
    return CodesDocument(SCHEMA, tuple(codes))
