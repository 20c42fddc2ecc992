"""LVM that has been started already, and waits for the one command that it is for."""

from __future__ import annotations

import os
import re
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from thinpoolmgr.host.runner import (
    CHANGE_SECONDS,
    ENVIRONMENT,
    CompletedRun,
    content_of,
    memory_file,
    terminated_after,
)

if TYPE_CHECKING:
    from thinpoolmgr.core.commands import Argv

_STANDBY_SECONDS = 600.0
_LVM_FAILED = 5
"""LVM's exit code for a command that failed (lvm(8), DIAGNOSTICS), as which a run of its shell counts until seen."""
_SHELL_WORD = re.compile(r"[A-Za-z0-9_+./:%{}=, -]+", re.ASCII)


class Standby:
    """LVM's shell, lvm(8), started and waiting for one line.

    To start LVM takes half of the time that an extension does (docs/performance.md), and to keep it in our own process,
    as dmeventd does, twenty times the memory.
    """

    def __init__(self, program: str) -> None:
        """Start `program`, which is `lvm`."""
        self._out, self._err = memory_file(), memory_file()
        # It would write the history of its lines into HOME.
        environment = {**ENVIRONMENT, "HOME": os.devnull}
        self._process = subprocess.Popen(
            (program,),
            stdin=subprocess.PIPE,
            stdout=self._out,
            stderr=self._err,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        self._began = time.monotonic()

    @property
    def is_fresh(self) -> bool:
        """Whether it is still there, and not from a time when the host was another one."""
        return self._process.poll() is None and time.monotonic() - self._began < _STANDBY_SECONDS

    def run(self, argv: Argv) -> CompletedRun | None:
        """Run one command, as its last; None where it could not be given one, and nothing was done."""
        line = shell_line(argv)
        if not line or self._process.poll() is not None or self._process.stdin is None:
            self.end()
            return None
        started = time.monotonic()
        try:
            self._process.stdin.write(f"{line}\nexit\n".encode("ascii"))
            self._process.stdin.close()
        except OSError:
            self.end()
            return None
        with terminated_after(self._process, CHANGE_SECONDS):
            self._process.wait()
        words = content_of(self._err).replace("Exiting.", "").strip()
        run = CompletedRun(tuple(argv), _LVM_FAILED, content_of(self._out), words, time.monotonic() - started)
        self._close()
        return run

    def end(self) -> None:
        """Its input ends, and so does it."""
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        self._out.close()
        self._err.close()


def shell_line(argv: Argv) -> str:
    """Return `argv` as one line of LVM's shell, which knows double quotes; empty where that cannot say it."""
    if not all(_SHELL_WORD.fullmatch(word) for word in argv):
        return ""
    return " ".join(f'"{word}"' if " " in word else word for word in argv)
