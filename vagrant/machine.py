"""What stories are told of: a host, and more than that a whole machine with a power switch and disks."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX: Final = "thinpoolmgr-"
"""What Vagrant calls them in libvirt, before their names; the Vagrantfile says so, too."""
_BOOT_SECONDS: Final = 600.0
_LETTERS: Final = "fghij"
"""Of vdX, for disks that are plugged in."""


class Answer(NamedTuple):
    """What a command on a machine gave back."""

    code: int
    out: str
    err: str


class Place(NamedTuple):
    """How to reach libvirt, and where to note things."""

    inside: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    pool: str


class Host(ABC):
    """A host on which scripts run as root. A story that needs no more is told of the lab's, too."""

    name: str

    def __call__(self, script: str, *, ok: bool = True, seconds: float = 600.0) -> Answer:
        """Run a script of the shell as root; with `ok` it must end with 0."""
        done = subprocess.run(
            self._command(script),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
        answer = Answer(done.returncode, done.stdout, done.stderr)
        assert not ok or answer.code == 0, f"{self.name}: {script}\nended with {answer.code}\n{answer.out}{answer.err}"
        return answer

    @abstractmethod
    def _command(self, script: str) -> tuple[str, ...]:
        """Return the command that runs a script there."""

    def write(self, path: str, text: str) -> None:
        """Write a file, with the folders that it needs."""
        self(f"mkdir -p $(dirname {path}) && cat >{path} <<'END-OF-FILE'\n{text}\nEND-OF-FILE\n")

    def until(self, script: str, seconds: int = 300) -> None:
        """Wait until a script of the shell ends with 0; fail when it does not."""
        waiting = f"timeout {seconds} sh -c {shlex.quote(f'until ({script}) >/dev/null 2>&1; do sleep 0.5; done')}"
        assert self(waiting, ok=False).code == 0, f"{self.name}: not in {seconds} s: {script}"


class Machine(Host):
    """One machine of Vagrant's: its power, its disks, and the state that it is put back to."""

    def __init__(self, name: str, place: Place) -> None:
        """Reach it as its ssh configuration in the place's folder says."""
        self.name = name
        self._place = place
        self._domain = f"{PREFIX}{name}"
        self._ssh = (
            *("setpriv", "--pdeathsig", "TERM", *place.inside, "ssh", "-F", str(place.folder / f"{name}.ssh")),
            *("-o", "LogLevel=ERROR", "-o", "ConnectTimeout=10", "-o", f"ControlPath={place.folder / name}.socket"),
        )

    def _command(self, script: str) -> tuple[str, ...]:
        # one connection for all commands: to make one takes seconds under emulation
        kept = ("-o", "ControlMaster=auto", "-o", "ControlPersist=120")
        return (*self._ssh, *kept, self.name, f"sudo sh -c {shlex.quote(script)}")

    def open_shell(self) -> NoReturn:
        """Become a shell on it."""
        os.execvp(self._ssh[0], (*self._ssh, self.name))  # noqa: S606 - to be it is what was asked for

    def save(self, state: str) -> None:
        """Keep how it is now, memory and disks, as `state`, and nothing else."""
        for old in self.saved():
            self._virsh("snapshot-delete", self._domain, old)
        self._virsh("snapshot-create-as", self._domain, state)

    def saved(self) -> list[str]:
        """Return the names of the states that are kept; none, too, where there is no such machine."""
        done = self._virsh("snapshot-list", self._domain, "--name", ok=False)
        return done.stdout.split() if done.returncode == 0 else []

    def put_back(self, state: str) -> None:
        """Make it what it was when `state` was kept: in seconds, where a boot takes a minute."""
        self.cut_power()
        for volume in self._virsh("vol-list", self._place.pool).stdout.splitlines():
            name = volume.split()[0] if volume.split() else ""
            if re.fullmatch(rf"{self._domain}-plugged-.+\.img", name):
                self._virsh("vol-delete", name, "--pool", self._place.pool)
        self._virsh("snapshot-revert", self._domain, state, "--force")
        self._wait_for_answer("")

    def exists(self) -> bool:
        """Whether libvirt knows of it."""
        return self._virsh("domstate", self._domain, ok=False).returncode == 0

    def cut_power(self) -> None:
        """Switch it off as a power failure does; no matter if it is off."""
        self._forget_connection()
        self._virsh("destroy", self._domain, ok=False)

    def boot(self) -> None:
        """Switch it on, and wait until it has booted."""
        self._virsh("start", self._domain)
        self._wait_for_boot("")

    def reboot(self) -> None:
        """Have it shut down and boot."""
        before = self._boot_id()
        self("systemctl reboot", ok=False)
        self._wait_for_boot(before)

    def plug(self, serial: str, mib: int = 1024) -> str:
        """Plug a new disk in, and return its path there."""
        used = self._virsh("domblklist", self._domain).stdout.split()
        target = next(name for letter in _LETTERS if (name := f"vd{letter}") not in used)
        image, pool = f"{self._domain}-plugged-{serial}.img", self._place.pool
        self._virsh("vol-create-as", pool, image, f"{mib}MiB", "--format", "raw")
        path = self._virsh("vol-path", image, "--pool", pool).stdout.strip()
        self._virsh("attach-disk", self._domain, path, target, "--serial", serial, "--driver", "qemu", "--live")
        return f"/dev/disk/by-id/virtio-{serial}"

    def _boot_id(self) -> str:
        return self("cat /proc/sys/kernel/random/boot_id", ok=False, seconds=60).out.strip()

    def _wait_for_boot(self, before: str) -> None:
        self._wait_for_answer(before)
        # what the boot started has started, or failed
        self("systemctl is-system-running --wait", ok=False, seconds=_BOOT_SECONDS)

    def _wait_for_answer(self, before: str) -> None:
        """Wait until it answers, and not from the boot `before`."""

        def answers() -> bool:
            with contextlib.suppress(subprocess.TimeoutExpired):
                if self._boot_id() not in {"", before}:
                    return True
            self._forget_connection()
            return False

        assert until(answers, _BOOT_SECONDS), f"{self.name} does not answer"

    def _forget_connection(self) -> None:
        subprocess.run((*self._ssh, "-O", "exit", self.name), capture_output=True, check=False)

    def _virsh(self, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            (*self._place.inside, "virsh", *arguments),
            capture_output=True,
            text=True,
            env=self._place.environment,
            check=False,
        )
        assert not ok or done.returncode == 0, f"virsh {' '.join(arguments)}: {done.stderr}"
        return done


def until(is_true: Callable[[], bool], seconds: float) -> bool:
    """Wait until something is true, and return whether it is."""
    end = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True
