"""journald's catalog is as the stories would make it; `make catalog`, or RENEW_GOLDEN=1, makes it anew."""

from __future__ import annotations

import os
import re
from typing import get_args

import catalog
from cli_support import CHECKOUT

from thinpoolmgr.cli.stories import read_stories
from thinpoolmgr.core.findings import FINDINGS
from thinpoolmgr.core.messages import Event, message_id

CATALOG = CHECKOUT / "systemd/thinpoolmgr.catalog"
HEAD = re.compile(r"-- ([0-9a-f]{32})\nSubject: (.+)\nDefined-By: thinpoolmgr\nDocumentation: man:thinpoolmgr\(1\)\n\n")


def entries() -> dict[str, tuple[str, str]]:
    """Return subject and text of each entry by its id, as journalctl takes the file apart."""
    _, *parts = HEAD.split(CATALOG.read_text("utf-8"))
    found = {parts[at]: (parts[at + 1], parts[at + 2]) for at in range(0, len(parts), 3)}
    assert len(found) * 3 == len(parts)
    return found


def test_the_catalog_is_the_stories() -> None:
    text = catalog.catalog()
    if os.environ.get("RENEW_GOLDEN"):
        CATALOG.parent.mkdir(exist_ok=True)
        CATALOG.write_text(text, "utf-8")
    assert CATALOG.read_text("utf-8") == text


def test_every_finding_and_event_is_explained() -> None:
    found = entries()
    assert {message_id(name) for name in (*FINDINGS, *get_args(Event))} <= set(found)
    subject, text = found[message_id("POOL_TIGHT")]
    story = read_stories()["POOL_TIGHT"]
    assert subject == f"[POOL_TIGHT] {story.summary}"
    flat = " ".join(text.split())
    for part in (story.means, story.comes, story.harms, *story.do, story.avoid):
        assert " ".join(part.split()) in flat


def test_nothing_in_a_text_is_taken_for_something_else() -> None:
    for _, text in entries().values():
        lines = text.splitlines()
        assert not [line for line in lines if line.startswith(("-- ", "#"))]
        assert max(map(len, lines)) <= 90
        # What stands between at signs is a field of every entry with that id.
        assert set(re.findall("@(.*?)@", text)) <= {"THINPOOLMGR_RUN", "THINPOOLMGR_CODE", "THINPOOLMGR_POOL"}
    assert not [code for code, (_, text) in entries().items() if text.count("@") % 2]
