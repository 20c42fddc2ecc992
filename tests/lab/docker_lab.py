"""A real dockerd in the lab, started by hand as on a host without systemd."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Self

from conftest import wait_until
from lab_tool import STATE_FOLDER, Tool, sh

from thinpoolmgr.lab.image import write_image

if TYPE_CHECKING:
    from collections.abc import Iterator

DAEMON_JSON = Path("/etc/docker/daemon.json")
DATA_ROOT = Path("/var/lib/docker")
# The lab's kernel has no nat table.
SETTINGS = '{\n\t"iptables": false,  "ip6tables": false,\n\t"bridge": "none"\n}\n'
START_SECONDS = 120.0
ENGINE = '[engines.docker]\npool = "docker"\nbase_size = "1GiB"\n'


def host_with_docker(folder: Path) -> Iterator[Tool]:
    """Give the command line on a host where Docker is new: no state, nothing of storage in its `daemon.json`."""
    _clean()
    DAEMON_JSON.parent.mkdir(exist_ok=True)
    DAEMON_JSON.write_text(SETTINGS, "utf-8")
    yield Tool(folder)
    _clean()


def _clean() -> None:
    shutil.rmtree(STATE_FOLDER, ignore_errors=True)
    shutil.rmtree(DATA_ROOT, ignore_errors=True)
    DAEMON_JSON.unlink(missing_ok=True)


class Dockerd:
    """A running dockerd; left by `stop`, or at the end of a `with` block."""

    def __init__(self, log: Path) -> None:
        """Start it and wait until it answers."""
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(["dockerd"], stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        wait_until(self._has_answered_or_ended, START_SECONDS)
        assert self._process.poll() is None, log.read_text("utf-8", "replace")[-2000:]

    def _has_answered_or_ended(self) -> bool:
        return self._process.poll() is not None or "Server Version" in sh("docker", "info", check=False)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def stop(self) -> None:
        """End it and wait until it has ended."""
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGTERM)
        self._process.wait(timeout=60)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()


def load_image(folder: Path) -> str:
    """Load a tiny image and return its name."""
    path = folder / "image.tar"
    write_image(path, "lab:1")
    sh("docker", "load", "--input", path)
    return "lab:1"


def run_container(image: str, *command: str) -> str:
    """Run a container to its end and return what it printed."""
    return sh("docker", "run", "--rm", "--network=none", image, *command)


def storage() -> tuple[str, str]:
    """Return the storage driver and the pool that Docker says it uses."""
    lines = json.loads(sh("docker", "info", "--format", "{{json .}}"))
    status = dict(lines["DriverStatus"] or ())
    return lines["Driver"], status.get("Pool Name", "")
