"""The demo's stages, run as root inside the lab's guest: each shows commands as typed, and checks what they say.

It is a smoke test, too: a command that ends with another exit code than expected, or does not say what it should, ends
the demo with exit code 1.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import shlex
import socket
import struct
import subprocess
import sys
import termios
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from thinpoolmgr.errors import ThinpoolmgrError
from thinpoolmgr.lab.image import write_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STAGES: Final = 9
_SCRATCH: Final = Path("/lab")
_CONFIG: Final = Path("/etc/thinpoolmgr/thinpoolmgr.toml")
_DAEMON_JSON: Final = Path("/etc/docker/daemon.json")
_DOCKER_SOCKET: Final = "/var/run/docker.sock"
_DOCKER_LOG: Final = Path("/lab/dockerd.log")
_IMAGE: Final = "lab-busybox"
_DOCKER_RUN: Final = f"docker run --rm --network none {_IMAGE}"
_WAIT_SECONDS: Final = 90.0
_POLL_SECONDS: Final = 0.2
_LOG_LINES: Final = 10
# colours and cursor movements, as the tools write them to a terminal (ECMA-48, control sequences)
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# what the guest's kernel lacks (nat) is switched off; an admin's own keys, as far as thinpoolmgr is concerned
_ADMIN_KEYS: Final = '{\n\t"iptables": false,\n\t"ip6tables": false,\n\t"bridge": "none"\n}\n'


class DemoError(ThinpoolmgrError):
    """A stage did not do what the demo says it does."""

    default_code = "DEMO_FAILED"


class Screen:
    """Writes headings, commands and their output, `columns` wide; `is_terminal` allows colours and live lines."""

    def __init__(self, columns: int, *, is_terminal: bool, has_color: bool) -> None:
        self._columns = columns
        self._is_terminal = is_terminal
        self._has_color = has_color
        self._stage = 0
        self._has_printed = False

    @contextmanager
    def stage(self, title: str, explanation: str) -> Iterator[None]:
        """Frame one stage: heading and explanation before it, its time after it."""
        self._stage += 1
        started = time.monotonic()
        self.say("")
        self.say(self._styled("1;36", heading(self._stage, title, self._columns)))
        for line in textwrap.wrap(explanation, self._columns):
            self.say(line)
        self._has_printed = True
        yield
        self.say("")
        self.note(f"stage {self._stage} of {STAGES} took {time.monotonic() - started:.0f} s")

    def command(self, typed: str) -> None:
        """Show a command as it is typed, after a blank line if the one before printed something."""
        if self._has_printed:
            self.say("")
        self._has_printed = False
        self.say(self._styled("1", f"$ {typed}"))

    def note(self, text: str) -> None:
        """Write a line of the demo's own between those of the commands."""
        self._has_printed = True
        self.say(self._styled("2", f"({text})"))

    def say(self, text: str) -> None:
        """Write a line."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def run(self, typed: str, *, code: int = 0, says: tuple[str, ...] = ()) -> str:
        """Show a command, run it with its output as it comes, and return the output.

        Raises:
            DemoError: it ended with another exit code than `code`, or did not print each of `says`.

        """
        self.command(typed)
        ended, text = self._follow(shlex.split(typed))
        self._has_printed = bool(text)
        if code:
            self.note(f"exit code {ended}")
        check_outcome(typed, (ended, text), code, says)
        return text

    def _follow(self, argv: list[str]) -> tuple[int, str]:
        """Run a command on a terminal of its own (a pipe where the caller has none), and copy what it prints."""
        source, sink = pty.openpty() if self._is_terminal else os.pipe()
        if self._is_terminal:
            fcntl.ioctl(sink, termios.TIOCSWINSZ, struct.pack("=4H", 50, self._columns, 0, 0))
        with os.fdopen(source, "rb", buffering=0) as output:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd=_SCRATCH)
            os.close(sink)
            text = b"".join(_copy(output.fileno()))
            return process.wait(), _ESCAPES.sub("", text.decode(errors="replace"))

    def _styled(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._has_color else text


def heading(number: int, title: str, columns: int) -> str:
    """Return a stage's heading, a rule as wide as the screen."""
    start = f"== {number}/{STAGES} {title} "
    return start + "=" * max(2, columns - len(start))


def check_outcome(typed: str, outcome: tuple[int, str], code: int, says: tuple[str, ...]) -> None:
    """Check a command's exit code and output; line breaks and runs of blanks in the output do not count.

    Raises:
        DemoError: they are not as expected.

    """
    ended, text = outcome
    if ended != code:
        raise DemoError("a command ended otherwise than expected", f"{typed}\nexit code {ended}, expected {code}")
    flat = " ".join(text.split())
    missing = [phrase for phrase in says if phrase not in flat]
    if missing:
        raise DemoError("a command did not print what it should", f"{typed}\nmissing: {missing[0]}")


def _copy(descriptor: int) -> Iterator[bytes]:
    """Copy to standard output as it comes, and yield it."""
    while True:
        try:
            chunk = os.read(descriptor, 1 << 16)
        except OSError as error:
            # how Linux says that nobody has the other end of a pseudo-terminal open any more
            if error.errno != errno.EIO:
                raise
            return
        if not chunk:
            return
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        yield chunk


class Docker:
    """The real dockerd, in the foreground as far as the guest is concerned: no systemd runs here."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start dockerd and wait until it answers.

        Raises:
            DemoError: it ended, or did not answer in time.

        """
        self._screen.command(f"dockerd >{_DOCKER_LOG} 2>&1 &")
        started = time.monotonic()
        with _DOCKER_LOG.open("wb") as log:
            self._process = subprocess.Popen(("dockerd",), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _wait_for(self._answers, "dockerd does not answer")
        self._screen.note(f"it answers after {time.monotonic() - started:.1f} s")
        self._screen.run(
            "docker info --format 'Docker {{.ServerVersion}}, storage driver {{.Driver}}'",
            says=("Docker 20.10.", "storage driver devicemapper"),
        )

    def load_image(self) -> None:
        """Load the image of one static busybox."""
        self._screen.run("docker load --quiet --input busybox.tar", says=(_IMAGE,))

    def stop(self) -> None:
        """Stop dockerd and wait until it has ended."""
        self._screen.command("kill $(cat /var/run/docker.pid); wait")
        process = self._process
        if process is None:
            raise DemoError("dockerd was never started")
        started = time.monotonic()
        process.terminate()
        _wait_for(lambda: process.poll() is not None, "dockerd does not stop")
        self._screen.note(f"stopped after {time.monotonic() - started:.1f} s")

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise DemoError("dockerd ended", _log_tail())
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_WAIT_SECONDS)
            try:
                connection.connect(_DOCKER_SOCKET)
                connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in connection.recv(64)
            except (ConnectionError, FileNotFoundError):
                return False


def _wait_for(is_true: Callable[[], bool], summary: str) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while not is_true():
        if time.monotonic() > deadline:
            raise DemoError(summary, _log_tail())
        time.sleep(_POLL_SECONDS)


def _log_tail() -> str:
    lines = _DOCKER_LOG.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LOG_LINES:])


def run_stages(screen: Screen) -> None:
    """Show all stages.

    Raises:
        DemoError: one did not go as said.

    """
    docker = Docker(screen)
    blank = _show_disks(screen)
    _show_plan(screen)
    _show_apply(screen)
    _show_status(screen)
    _show_docker(screen, docker)
    _show_destroy(screen, docker)
    _show_stale_state(screen, docker, blank)
    _show_docker_again(screen, docker)
    with screen.stage("Once more", "With nothing to do, apply changes nothing."):
        screen.run("thinpoolmgr apply --yes", says=("Nothing to do",))


def _show_disks(screen: Screen) -> str:
    """Make both disks and the configuration, and return the blank disk's device."""
    with screen.stage(
        "Two disks and a configuration",
        "Two files become disks: one blank, one with a file system on it, which thinpoolmgr must refuse.",
    ):
        screen.run("truncate --size 2G blank.img")
        blank = screen.run("losetup --find --show blank.img", says=("/dev/loop",)).strip()
        screen.run("truncate --size 1G used.img")
        screen.run("mkfs.ext4 -q -L accounts used.img")
        used = screen.run("losetup --find --show used.img", says=("/dev/loop",)).strip()
        _write(_CONFIG, configuration(blank, with_engine=True))
        _write(_SCRATCH / "wrong.toml", configuration(used, with_engine=False))
        _write(_DAEMON_JSON, _ADMIN_KEYS)
        write_image(_SCRATCH / "busybox.tar", f"docker.io/library/{_IMAGE}:latest")
        screen.run(f"cat {_CONFIG}")
        screen.run("cat wrong.toml")
        screen.run("thinpoolmgr plan --config wrong.toml", code=3, says=("refused", "ext4"))
    return blank


def _show_plan(screen: Screen) -> None:
    with screen.stage(
        "Plan",
        "What would be done, why, and with which commands; nothing is written. Exit code 2: there are steps.",
    ):
        screen.run("thinpoolmgr plan -v", code=2, says=("create volume group docker", "$ lvcreate --type thin-pool"))


def _show_apply(screen: Screen) -> None:
    with screen.stage(
        "Apply",
        "The same plan, carried out. daemon.json has keys of the admin's own before it, and keeps them.",
    ):
        screen.run(f"cat {_DAEMON_JSON}")
        screen.run("thinpoolmgr apply --yes", says=("Done: 3 steps",))
        screen.run(f"cat {_DAEMON_JSON}", says=('"bridge": "none"', "dm.thinpooldev=/dev/mapper/docker-thinpool"))


def _show_status(screen: Screen) -> None:
    with screen.stage("Status", "The pool as the kernel sees it. Docker does not run yet."):
        screen.run("thinpoolmgr status", says=("pool docker healthy", "engine docker stopped"))


def _show_docker(screen: Screen, docker: Docker) -> None:
    with screen.stage(
        "Docker on the pool",
        "A real dockerd 20.10 runs a container on the new pool. While it runs, destroy is refused.",
    ):
        docker.start()
        docker.load_image()
        screen.run(f"{_DOCKER_RUN} df -h /", says=("/dev/mapper/docker-",))
        screen.run(f"docker run --detach --name web --network none {_IMAGE} sleep 600")
        screen.run("thinpoolmgr status", says=("1 thin device active", "engine docker running"))
        screen.run("thinpoolmgr destroy docker --yes --allow destroy", code=3, says=("docker is running", "web"))


def _show_destroy(screen: Screen, docker: Docker) -> None:
    with screen.stage(
        "Destroy", "Docker is stopped, and the pool taken down. --yes alone is not enough where data is lost."
    ):
        screen.run("docker rm --force web")
        docker.stop()
        screen.run("thinpoolmgr destroy docker --yes --allow destroy", says=("Done: 5 steps",))


def _show_stale_state(screen: Screen, docker: Docker, blank: str) -> None:
    with screen.stage(
        "Stale Docker state",
        "The pool is made again and used, then removed behind thinpoolmgr's back: /var/lib/docker describes a pool "
        "that is gone, and Docker would fail on a new one. apply moves that state aside and rebuilds.",
    ):
        screen.run("thinpoolmgr apply --yes", says=("Done: 2 steps",))
        docker.start()
        docker.load_image()
        docker.stop()
        screen.run("vgremove --force --yes docker", says=("successfully removed",))
        screen.run(f"pvremove {blank}", says=("successfully wiped",))
        screen.run("thinpoolmgr status", says=("pool docker absent", "stale state"))
        screen.run("thinpoolmgr apply --yes", says=("move state aside", "Done: 3 steps"))


def _show_docker_again(screen: Screen, docker: Docker) -> None:
    with screen.stage("Docker again", "It starts on the new pool, empty, and runs a container."):
        docker.start()
        docker.load_image()
        screen.run(f"{_DOCKER_RUN} echo 'hello from the rebuilt pool'", says=("hello from the rebuilt pool",))
        docker.stop()


def configuration(device: str, *, with_engine: bool) -> str:
    """Return the text of a configuration file for one disk."""
    pool = f'version = 1\n\n[pools.docker]\ndevices = ["{device}"]\n'
    return pool + ('\n[engines.docker]\npool = "docker"\nbase_size = "1GiB"\n' if with_engine else "")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main() -> int:
    """Run the demo on standard output and return its exit code."""
    is_terminal = "LAB_DEMO_TTY" in os.environ
    screen = Screen(
        int(os.environ.get("COLUMNS", "100")),
        is_terminal=is_terminal,
        has_color=is_terminal and not os.environ.get("NO_COLOR"),
    )
    try:
        run_stages(screen)
    except DemoError as error:
        screen.say(f"\nDEMO FAILED: {error.summary}")
        screen.say(textwrap.indent(error.details, "  "))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
