"""Past runs on the real host: a failed one has its last commands, with their exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab_tool import Tool, dm_names
from test_diagnosis import APPLY, HALF, MakeDisk, follow, is_healed, only, thin

pytestmark = pytest.mark.usefixtures("a_monitor_that_runs")


def test_history_after_a_failed_run_shows_its_last_commands(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path, extra=HALF)
    tool.succeed(*APPLY)
    wrapper = Path("/usr/local/sbin/lvextend")
    wrapper.write_text("#!/bin/sh\necho no, not today >&2\nexit 5\n", "utf-8")
    wrapper.chmod(0o755)
    try:
        assert tool("extend", "docker", "--data", "+100MiB", "--metadata", "+4MiB", "--yes").code == 1
    finally:
        wrapper.unlink()
    good, bad = tool.succeed("history", "--json").document["runs"]
    assert [good["outcome"], bad["outcome"], bad["command"]] == ["done", "failed", "extend"]
    assert bad["request"] == {"command": "extend", "pool": "docker", "add_data": "+100MiB", "add_metadata": "+4MiB"}
    assert bad["commands"][-1].startswith("lvextend ")
    assert "-> 5 (" in bad["commands"][-1]
    assert any(command.startswith("lvm fullreport ") and "-> 0 (" in command for command in bad["commands"])
    assert 2 <= len(bad["commands"]) <= 16
    assert "no, not today" in bad["error"]
    shown = tool.succeed("history", bad["run"][:24]).out
    assert "no, not today" in shown
    assert "-> 5 (" in shown
    (finding,) = only(tool, "RUN_INTERRUPTED")
    assert "failed: lvextend failed" in finding["evidence"]
    follow(tool, finding)
    is_healed(tool)
    assert [run["outcome"] for run in tool.succeed("history", "--json").document["runs"]] == ["done", "failed", "done"]


@pytest.mark.campaign
def test_a_long_failed_run_keeps_sixteen_commands(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks()
    settings = 'when_full = "error"\n[pools.docker.extend]\nmonitor = "dmeventd"'
    tool.configure(disk.path, extra=HALF)
    tool.succeed(*APPLY)
    for number in range(1, 13):
        thin(number)
    wrapper = Path("/usr/local/sbin/lvremove")
    wrapper.write_text("#!/bin/sh\nexit 5\n", "utf-8")
    wrapper.chmod(0o755)
    try:
        tool.configure(disk.path, extra=f"{HALF}\n{settings}")
        assert tool("destroy", "docker", "--yes", "--allow", "destroy,outage").code == 1
    finally:
        wrapper.unlink()
    run = tool.succeed("history", "--json").document["runs"][-1]
    assert (run["outcome"], len(run["commands"])) == ("failed", 16)
    assert all(" -> " in command for command in run["commands"])
    assert not {name for name in dm_names() if name.startswith("docker-t") and name != "docker-thinpool"}
    tool.succeed("resume", "--yes", "--allow", "destroy,outage")
