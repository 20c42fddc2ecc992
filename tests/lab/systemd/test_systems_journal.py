"""The system's journal as journalctl shows it: a real run, a finding, and the stories below them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from boot_lab import InstalledTool, installed
from lab_tool import sh

from thinpoolmgr.cli.stories import read_stories
from thinpoolmgr.core.messages import message_id
from thinpoolmgr.host import journald
from thinpoolmgr.lab.loop import LoopDisk

pytestmark = pytest.mark.campaign


@pytest.fixture
def tool() -> Iterator[InstalledTool]:
    with installed(wait_seconds=0) as found:
        yield found


def entries(*matches: str) -> list[dict[str, object]]:
    sh("journalctl", "--sync")
    return [json.loads(line) for line in sh("journalctl", "--output=json", *matches).splitlines()]


def test_a_run_and_a_finding_are_found_by_their_fields_and_explained(
    tool: InstalledTool, loop_disks: Callable[..., LoopDisk]
) -> None:
    disk = loop_disks(2**30)
    # Whom a new disk starts finds nothing to do, and is through.
    sh("udevadm", "settle")
    tool.configure(disk.path)
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
