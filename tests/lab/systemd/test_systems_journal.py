"""The system's journal as journalctl shows it: a real run, a finding, and the stories below them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab_tool import STATE_FOLDER, Tool, sh

from thinpoolmgr.cli.stories import read_stories
from thinpoolmgr.core.messages import message_id
from thinpoolmgr.host import journald
from thinpoolmgr.lab.loop import LoopDisk

pytestmark = pytest.mark.campaign

CATALOG = Path(__file__).parents[3] / "systemd/thinpoolmgr.catalog"
INSTALLED = Path("/usr/lib/systemd/catalog/thinpoolmgr.catalog")


@pytest.fixture
def tool(tmp_path: Path) -> Iterator[Tool]:
    shutil.copy(CATALOG, INSTALLED)
    sh("journalctl", "--update-catalog")
    yield Tool(tmp_path)
    INSTALLED.unlink()
    shutil.rmtree(STATE_FOLDER, ignore_errors=True)


def entries(*matches: str) -> list[dict[str, object]]:
    sh("journalctl", "--sync")
    return [json.loads(line) for line in sh("journalctl", "--output=json", *matches).splitlines()]


def test_a_run_and_a_finding_are_found_by_their_fields_and_explained(
    tool: Tool, loop_disks: Callable[..., LoopDisk]
) -> None:
    tool.configure(loop_disks(2**30).path)
    tool.succeed("apply", "--yes")
    began, done = entries("THINPOOLMGR_COMMAND=apply")[-2:]
    assert (began["THINPOOLMGR_EVENT"], done["THINPOOLMGR_EVENT"]) == ("run-began", "run-done")
    assert began["THINPOOLMGR_RUN"] == done["THINPOOLMGR_RUN"]
    assert began["SYSLOG_IDENTIFIER"] == "thinpoolmgr"
    told = sh("journalctl", "--catalog", f"MESSAGE_ID={message_id('run-done')}")
    assert f"thinpoolmgr history {done['THINPOOLMGR_RUN']} shows its steps." in told

    long = "x" * 1024**2
    journald.send("first line\nsecond line", journald.WARNING, code="POOL_TIGHT", pool="docker", target=long)
    finding = entries("THINPOOLMGR_CODE=POOL_TIGHT", "--all")[-1]
    assert (finding["MESSAGE"], finding["PRIORITY"]) == ("first line\nsecond line", "4")
    assert finding["THINPOOLMGR_TARGET"] == long
    told = sh("journalctl", "--catalog", "THINPOOLMGR_CODE=POOL_TIGHT")
    story = read_stories()["POOL_TIGHT"]
    assert f"Subject: [POOL_TIGHT] {story.summary}" in told
    flat = " ".join(word for word in told.split() if word != "░░")
    assert all(text in flat for text in (story.means, *story.do, story.avoid))
    listed = sh("journalctl", "--list-catalog")
    assert all(f"{message_id(code)} thinpoolmgr: [{code}]" in listed for code in read_stories())
