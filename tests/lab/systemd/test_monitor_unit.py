"""The monitor as its unit runs it: in its sandbox, with its watchdog, under a systemd that starts it again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import monitor_lab as lab
import pytest
from boot_lab import APPLY, CONFIG, MONITOR, InstalledTool, change_unit, has_started, installed, log_of, shown, state
from conftest import wait_until
from lab_tool import sh
from monitor_lab import MIB, SMALL, held_group

from thinpoolmgr.core.report import REPORT_PATH, decode_report
from thinpoolmgr.lab.loop import LoopDisk

pytestmark = pytest.mark.campaign

MakeDisk = Callable[..., LoopDisk]
EXTENT_BYTES = 4 * MIB
"""LVM's own size of extents."""


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


def stop_it() -> None:
    sh("systemctl", "stop", MONITOR)
    assert (shown(MONITOR, "ActiveState"), shown(MONITOR, "Result")) == ("inactive", "success")


def let_its_watchdog_expire() -> None:
    hanging = shown(MONITOR, "MainPID")
    os.kill(int(hanging), signal.SIGSTOP)
    assert becomes(lambda: shown(MONITOR, "MainPID") not in {"0", hanging} and state(MONITOR) == "active")
    assert "Failed with result 'watchdog'" in log_of(MONITOR)


def has_looked() -> bool:
    """Whether the monitor knows what LVM has to say of the pool, which it asks at its first look."""
    try:
        report = decode_report(Path(REPORT_PATH).read_bytes())
    except FileNotFoundError:
        return False
    return [(pool.state, pool.busy_since) for pool in report.pools] == [("healthy", None)]


def extending() -> list[str]:
    """Return the processes of LVM's that extend a pool, or wait for the lock on its group."""
    return sh("pgrep", "-x", "lvextend", check=False).split()


@pytest.mark.parametrize("end", [stop_it, let_its_watchdog_expire])
def test_lvm_outlives_the_monitor_that_started_it(
    tool: InstalledTool, loop_disks: MakeDisk, end: Callable[[], None]
) -> None:
    tool.want(f'[pools.docker]\ndevices = ["{loop_disks().path}"]\n{SMALL}', engine="")
    assert has_started(APPLY), log_of(APPLY)
    change_unit(MONITOR, "[Service]\nWatchdogSec=5\n")
    assert has_started(MONITOR), log_of(MONITOR)
    assert becomes(has_looked), log_of(MONITOR)
    with lab.thin_device() as thin:
        with held_group("docker"):
            lab.fill(thin, 170 * MIB)
            assert becomes(lambda: bool(extending())), log_of(MONITOR)
            (pid,) = extending()
            argv = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            end()
            assert extending() == [pid], log_of(MONITOR)
        size_bytes = int(argv[argv.index("--extents") + 1]) * EXTENT_BYTES
        # What waited does its work, whether a monitor is there by now or not.
        assert becomes(lambda: lab.data_bytes() == size_bytes), log_of(MONITOR)
        assert has_started(MONITOR), log_of(MONITOR)
        assert becomes(lambda: {run["outcome"] for run in runs(tool)} == {"done"}), (runs(tool), log_of(MONITOR))
    extensions = [run for run in runs(tool) if "extend-data" in {step["do"] for step in run["steps"]}]
    assert len(extensions) == 1, extensions
    assert lab.data_bytes() == size_bytes
    assert tool("plan").code == 0
    assert "RUN_INTERRUPTED" not in {found["code"] for found in tool("doctor", "--json").document["findings"]}


def runs(tool: InstalledTool) -> list[dict[str, Any]]:
    """Return the runs of the journal."""
    found: list[dict[str, Any]] = tool.succeed("history", "--json").document["runs"]
    return found
