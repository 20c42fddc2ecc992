"""The monitor as its unit runs it: in its sandbox, with its watchdog, under a systemd that starts it again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import monitor_lab as lab
import pytest
from boot_lab import APPLY, CONFIG, MONITOR, InstalledTool, change_unit, has_started, installed, log_of, shown, state
from conftest import wait_until
from lab_tool import sh
from monitor_lab import MIB, SMALL

from thinpoolmgr.lab.loop import LoopDisk

pytestmark = pytest.mark.campaign

MakeDisk = Callable[..., LoopDisk]


@pytest.fixture
def tool() -> Iterator[InstalledTool]:
    with installed(wait_seconds=0) as found:
        yield found
    sh("systemctl", "stop", MONITOR, check=False)


def entries(*fields: str) -> list[dict[str, str]]:
    """Return the journal's entries with these fields."""
    return [json.loads(line) for line in sh("journalctl", "--output=json", *fields).splitlines()]


def becomes(is_so: Callable[[], bool]) -> bool:
    wait_until(is_so, lab.WAIT_SECONDS)
    return is_so()


def test_a_pool_is_extended_from_within_the_sandbox(tool: InstalledTool, loop_disks: MakeDisk) -> None:
    tool.want(f'[pools.docker]\ndevices = ["{loop_disks().path}"]\n{SMALL}', engine="")
    assert has_started(APPLY), log_of(APPLY)
    # started is said when it watches: Type=notify
    assert has_started(MONITOR), log_of(MONITOR)
    assert shown(MONITOR, "ActiveState") == "active"
    with lab.thin_device() as thin:
        lab.fill(thin, 170 * MIB)
        assert becomes(lambda: lab.data_bytes() >= 240 * MIB), log_of(MONITOR)
        assert becomes(lambda: bool(entries("THINPOOLMGR_EVENT=extension-done", "THINPOOLMGR_POOL=docker")))
        lab.fill_metadata("docker-thinpool", 0.81)
        assert becomes(lambda: lab.status().total_metadata_blocks > 1024), log_of(MONITOR)
    # LVM says so where it may not lock its memory, set its priority, or do anything else it tries.
    assert "WARNING" not in log_of(MONITOR)
    assert tool("plan").code == 0
    assert tool("doctor").code == 0
    assert "MONITOR_NOT_RUNNING" not in tool("doctor", "--json").out


def test_it_is_reloaded_killed_and_stopped(tool: InstalledTool, loop_disks: MakeDisk) -> None:
    tool.want(f'[pools.docker]\ndevices = ["{loop_disks().path}"]\n{SMALL}', engine="")
    assert has_started(APPLY), log_of(APPLY)
    assert has_started(MONITOR), log_of(MONITOR)
    good = CONFIG.read_text()
    CONFIG.write_text("version = 1\n[pools.docker]\ndevices = 7\n")
    assert subprocess.run(["systemctl", "reload", MONITOR], capture_output=True, check=False).returncode == 1
    assert "pools.docker.devices" in log_of(MONITOR)
    # It has seen that itself, and goes on with what it had.
    assert becomes(lambda: bool(entries("THINPOOLMGR_CODE=CONFIG")))
    assert shown(MONITOR, "ActiveState") == "active"
    CONFIG.write_text(good)
    sh("systemctl", "reload", MONITOR)
    assert becomes(lambda: "the configuration was read again" in log_of(MONITOR))
    first = shown(MONITOR, "MainPID")
    os.kill(int(first), signal.SIGKILL)
    assert becomes(lambda: shown(MONITOR, "MainPID") not in {"0", first} and shown(MONITOR, "ActiveState") == "active")
    sh("systemctl", "stop", MONITOR)
    assert (shown(MONITOR, "ActiveState"), shown(MONITOR, "Result")) == ("inactive", "success")
    assert "MONITOR_NOT_RUNNING" in tool("doctor", "--json").out


def test_one_that_hangs_is_ended_by_its_watchdog_and_another_one_goes_on(
    tool: InstalledTool, loop_disks: MakeDisk
) -> None:
    tool.want(f'[pools.docker]\ndevices = ["{loop_disks().path}"]\n{SMALL}', engine="")
    assert has_started(APPLY), log_of(APPLY)
    change_unit(MONITOR, "[Service]\nWatchdogSec=5\n")
    assert has_started(MONITOR), log_of(MONITOR)
    hanging = shown(MONITOR, "MainPID")
    # systemd wakes what it ends.
    os.kill(int(hanging), signal.SIGSTOP)
    assert becomes(lambda: shown(MONITOR, "MainPID") not in {"0", hanging} and state(MONITOR) == "active")
    assert "Failed with result 'watchdog'" in log_of(MONITOR)
    with lab.thin_device() as thin:
        lab.fill(thin, 170 * MIB)
        assert becomes(lambda: lab.data_bytes() >= 240 * MIB), log_of(MONITOR)
