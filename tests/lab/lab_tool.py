"""What the lab tests of the product share: its command line as a user runs it, and looks at LVM and the kernel."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from thinpoolmgr.cli.main import _COMMANDS, main

for late in ("pyudev", "sh", "tenacity", *(target.partition(":")[0] for target in _COMMANDS.values())):
    importlib.import_module(late)

STATE_FOLDER = Path("/var/lib/thinpoolmgr")


class Answer(NamedTuple):
    """What a command line gave back."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document on standard output."""
        return json.loads(self.out)


class Tool:
    """thinpoolmgr with one configuration file."""

    def __init__(self, folder: Path) -> None:
        """Keep the configuration in `folder`."""
        self.config = folder / "thinpoolmgr.toml"

    def configure(self, *devices: Path | str, engine: str = "", extra: str = "", name: str = "docker") -> None:
        """Write a configuration with one pool on `devices`."""
        listed = ", ".join(f'"{device}"' for device in devices)
        self.config.write_text(f"version = 1\n[pools.{name}]\ndevices = [{listed}]\n{extra}\n{engine}\n", "utf-8")

    def argv(self, *arguments: str) -> tuple[str, ...]:
        """Return the command line for `arguments`."""
        return (sys.executable, "-m", "thinpoolmgr", "--config", str(self.config), *arguments)

    def __call__(self, *arguments: str) -> Answer:
        """Run the command line in a process of its own and return what came of it; a traceback fails the test.

        The process is a fork of this one, in which all is imported: to start Python costs the lab's kernel two seconds.
        """
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            child = os.fork()
            if not child:
                _become(("--config", str(self.config), *arguments), out.fileno(), err.fileno())
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            out.seek(0)
            err.seek(0)
            answer = Answer(code, out.read(), err.read())
        assert "Traceback" not in answer.err, answer.err
        return answer

    def succeed(self, *arguments: str) -> Answer:
        """Run the command line, which must end with 0."""
        answer = self(*arguments)
        assert answer.code == 0, (answer.code, answer.out, answer.err)
        return answer

    def pool(self) -> Any:
        """Return the first pool of `status --json`."""
        return self.succeed("status", "--json").document["pools"][0]


def kill_at(tool: Tool, program: str, *arguments: str, before: bool) -> None:
    """Run the tool and SIGKILL it, with its child, just before or just after `program` did its work."""
    wrapper = Path("/usr/local/sbin") / program
    work = "" if before else f'{shutil.which(program, path="/usr/sbin:/usr/bin")} "$@"\n'
    wrapper.write_text(f"#!/bin/sh\n{work}kill -9 $PPID\nkill -9 $$\n", "utf-8")
    wrapper.chmod(0o755)
    try:
        killed = subprocess.run(tool.argv(*arguments), capture_output=True, check=False, stdin=subprocess.DEVNULL)
    finally:
        wrapper.unlink()
    assert killed.returncode == -signal.SIGKILL


def _become(arguments: tuple[str, ...], out: int, err: int) -> NoReturn:
    """Run the command line in this process, as the interpreter would have begun it, and end the process."""
    code: object = 1
    try:
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(os.dup(n), mode) for n, mode in enumerate("rww"))
        main(arguments)
    except SystemExit as error:
        code = error.code
    except BaseException:  # noqa: BLE001 - what the interpreter would print
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def sh(*argv: str | Path, check: bool = True) -> str:
    """Run a host command and return its standard output."""
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, (argv, done.returncode, done.stdout, done.stderr)
    return done.stdout


def words(*argv: str | Path) -> list[str]:
    """Return the words of a command's output."""
    return sh(*argv).split()


def group_names() -> set[str]:
    """Return the names of all volume groups."""
    return set(words("vgs", "--noheadings", "-o", "vg_name"))


def dm_names() -> set[str]:
    """Return the names of all device-mapper devices."""
    return {line.split("\t")[0] for line in sh("dmsetup", "ls").splitlines() if "\t" in line}


def seqno(group: str) -> str:
    """Return how often the metadata of `group` was written."""
    return sh("vgs", "--noheadings", "-o", "vg_seqno", group).strip()


def fingerprint(device: Path) -> str:
    """Return a checksum of all that is on `device`."""
    digest = hashlib.sha256()
    with device.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_blank(device: Path) -> bool:
    """Whether no signature is on `device`."""
    return not sh("wipefs", "--no-act", "--noheadings", device).strip()
