"""A host with the units and rules as `make install` puts them there, and disks to plug in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from conftest import wait_until
from docker_lab import DAEMON_JSON, DATA_ROOT, SETTINGS
from lab_tool import STATE_FOLDER, Tool, sh

CHECKOUT: Final = Path(__file__).resolve().parents[2]
PREFIX: Final = Path("/usr/local")
PROGRAM: Final = PREFIX / "bin/thinpoolmgr"
CONFIG: Final = Path("/etc/thinpoolmgr/thinpoolmgr.toml")
NOT_READY: Final = Path("/run/thinpoolmgr/not-ready")
APPLY, MONITOR, DOCKER = "thinpoolmgr-apply.service", "thinpoolmgr-monitor.service", "docker.service"
ENGINES: Final = ("docker.socket", DOCKER, "containerd.service")
RUNTIME_UNITS: Final = Path("/run/systemd/system")
SERIAL: Final = "33333330000007d0"
"""What scsi_debug's first disk has (drivers/scsi/scsi_debug.c, inquiry_vpd_83)."""
SCSI_DISK: Final = Path(f"/dev/disk/by-id/scsi-3{SERIAL}")
_HOSTS: Final = Path("/sys/bus/pseudo/drivers/scsi_debug/add_host")
# long enough for a service to start in the lab's kernel
SECONDS: Final = 120.0
OF_ENGINE: Final = '[engines.docker]\npool = "docker"\nbase_size = "1GiB"\n'


class InstalledTool(Tool):
    """thinpoolmgr with the host's own configuration, which its units read, too."""

    def __init__(self) -> None:
        """Use the host's configuration."""
        super().__init__(CONFIG.parent)

    def want(self, disks: str, engine: str = OF_ENGINE) -> None:
        """Write a configuration whose pool is on `disks`: the lines of it that say so."""
        self.config.write_text(f"version = 1\n{disks}\n{engine}", "utf-8")


@contextmanager
def installed(wait_seconds: int = 60) -> Iterator[InstalledTool]:
    """Give a host with the units and rules, on which Docker is new; units wait for disks for so long."""
    before = _files()
    shim = PROGRAM.read_text("utf-8")
    sh("sh", CHECKOUT / "packaging/install.sh", PREFIX)
    # Units have nothing of this process's environment, and the lab's Python finds the checkout by it.
    kept = "".join(f"export {name}={os.environ[name]}\n" for name in ("PYTHONPATH", "PYTHONPYCACHEPREFIX"))
    PROGRAM.write_text(shim.replace("#!/bin/sh\n", f"#!/bin/sh\n{kept}"), "utf-8")
    change_unit(APPLY, f"[Service]\nExecStart=\nExecStart={PROGRAM} apply --yes --as-unit --wait {wait_seconds}\n")
    _read_anew()
    sh("systemd-tmpfiles", "--create", "thinpoolmgr.conf")
    CONFIG.parent.mkdir(exist_ok=True)
    DAEMON_JSON.parent.mkdir(exist_ok=True)
    DAEMON_JSON.write_text(SETTINGS, "utf-8")
    try:
        yield InstalledTool()
    finally:
        sh("systemctl", "stop", *ENGINES, MONITOR, check=False)
        # It refuses to be stopped: engines would stop with it.
        sh("systemctl", "kill", "--kill-whom=main", APPLY, check=False)
        wait_until(lambda: sh("systemctl", "is-active", APPLY, check=False).strip() in {"inactive", "failed"}, 60)
        for path in _files() - before:
            path.unlink()
        PROGRAM.write_text(shim, "utf-8")
        for folder in (
            CONFIG.parent,
            STATE_FOLDER,
            DATA_ROOT,
            NOT_READY.parent,
            *RUNTIME_UNITS.glob("thinpoolmgr-*.d"),
        ):
            shutil.rmtree(folder, ignore_errors=True)
        _read_anew()
        sh("systemctl", "reset-failed", check=False)


def change_unit(unit: str, text: str) -> None:
    """Change a unit by a drop-in that goes with the test."""
    folder = RUNTIME_UNITS / f"{unit}.d"
    folder.mkdir(exist_ok=True)
    (folder / "lab.conf").write_text(text, "utf-8")
    sh("systemctl", "daemon-reload")


def _files() -> set[Path]:
    return {path for part in ("lib", "share") for path in (PREFIX / part).rglob("*") if path.is_file()}


def _read_anew() -> None:
    sh("systemctl", "daemon-reload")
    sh("udevadm", "control", "--reload")


def has_started(unit: str) -> bool:
    """Start `unit` as boot does, with all that it wants, and return whether it came up."""
    return subprocess.run(["systemctl", "start", unit], capture_output=True, check=False).returncode == 0


def state(unit: str) -> str:
    """Return what systemd says of `unit`."""
    return sh("systemctl", "is-active", unit, check=False).strip()


def result(unit: str) -> str:
    """Return how the last run of `unit` ended."""
    return shown(unit, "Result")


def shown(unit: str, name: str) -> str:
    """Return one property of `unit`."""
    return sh("systemctl", "show", f"--property={name}", "--value", unit).strip()


def log_of(unit: str) -> str:
    """Return what `unit` has said since this kernel was booted."""
    sh("journalctl", "--sync", check=False)
    return sh("journalctl", "--boot", "--output=cat", "--unit", unit)


def runs_of(unit: str) -> int:
    """Return how often `unit` was started."""
    lines = sh("journalctl", "--boot", "--output=json", f"UNIT={unit}").splitlines()
    # SD_MESSAGE_UNIT_STARTING of sd-messages.h
    return sum(json.loads(line).get("MESSAGE_ID") == "7d4958e842da4a758f6c1cdc7b36dcc5" for line in lines)


def until(is_true: Callable[[], bool]) -> None:
    """Wait until something comes true; fail when it does not."""
    wait_until(is_true, SECONDS)
    assert is_true(), log_of(APPLY)


def wait_for_end(unit: str, run: int) -> None:
    """Wait until `unit` was started for the time `run` and has ended."""
    until(lambda: runs_of(unit) >= run and state(unit) in {"inactive", "failed"})


@contextmanager
def scsi_host(size_mib: int = 400) -> Iterator[None]:
    """Give a controller without a disk; one that is pulled keeps what is on it (scsi_debug, per_host_store=0)."""
    sh("modprobe", "sd_mod")
    sh("modprobe", "scsi_debug", f"dev_size_mb={size_mib}", "add_host=0")
    try:
        yield
    finally:
        sh("dmsetup", "remove_all", "--force", "--retry", check=False)
        sh("udevadm", "settle")
        sh("modprobe", "--remove", "scsi_debug")


def plug() -> None:
    """Plug the disk in, and wait until udev has seen it."""
    _HOSTS.write_text("1", "ascii")
    until(SCSI_DISK.exists)


def pull() -> None:
    """Pull the disk, whoever uses it."""
    _HOSTS.write_text("-1", "ascii")
    until(lambda: not SCSI_DISK.exists())
