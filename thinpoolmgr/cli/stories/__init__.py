"""The story of each code that a finding, a refusal or an error carries; the texts are in the files beside this one."""

from __future__ import annotations

import tomllib
from importlib.resources import files

import msgspec
from msgspec import Struct

from thinpoolmgr.core.documents import SCHEMA
from thinpoolmgr.core.findings import FINDINGS

_FILES = ("pools.toml", "disks.toml", "engines.toml", "runs.toml")


class Story(Struct, frozen=True, forbid_unknown_fields=True):
    """What one code means, how it comes about, what it does to containers, what to do, and what not."""

    summary: str
    means: str
    comes: str
    harms: str
    do: tuple[str, ...]
    avoid: str


class ExplainDocument(Struct, frozen=True, omit_defaults=True):
    """`explain CODE --json`; `severity` only where it is a finding's code."""

    schema: int
    code: str
    summary: str
    means: str
    comes: str
    harms: str
    do: tuple[str, ...]
    avoid: str
    severity: str = ""


def read_stories() -> dict[str, Story]:
    """Return all stories by their codes, in the order in which they are told."""
    folder = files(__package__)
    tables = [tomllib.loads(folder.joinpath(name).read_text("utf-8")) for name in _FILES]
    return {code: msgspec.convert(story, Story) for table in tables for code, story in table.items()}


def severity_of(code: str) -> str:
    """Return how bad a finding with this code is; empty where no finding has it."""
    return FINDINGS[code].severity if code in FINDINGS else ""


def explain_document(code: str, story: Story) -> ExplainDocument:
    """Return one story as others read it."""
    return ExplainDocument(
        SCHEMA, code, story.summary, story.means, story.comes, story.harms, story.do, story.avoid, severity_of(code)
    )


def list_document(stories: dict[str, Story]) -> dict[str, object]:
    """Return all codes with their summaries as others read them."""
    codes = [
        {"code": code, **({"severity": severity} if (severity := severity_of(code)) else {}), "summary": story.summary}
        for code, story in stories.items()
    ]
    return {"schema": SCHEMA, "codes": codes}
