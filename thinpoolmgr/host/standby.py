"""LVM that has been started already, and waits for the commands that come when a pool reaches its threshold.

To start LVM, and to lock it into memory, takes ten times as long as to extend a pool (docs/performance.md): dmeventd
has it in its own process, for good. Ours has it in a process beside it, only while an extension is near, and one for
all pools. A pool whose command would have to wait for another one's, of a group that is locked perhaps, is not made to:
its command is started as any other is.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from thinpoolmgr.host.runner import (
    CHANGE_SECONDS,
    ENVIRONMENT,
    READ_SECONDS,
    CompletedRun,
    content_of,
    memory_file,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thinpoolmgr.core.commands import Argv

PROGRAM: Final = (sys.executable, "-I", "-S", str(Path(__file__).with_name("lvm2cmd.py")))
_RETRY_SECONDS = 600.0
"""After how long what has died by itself is started anew: where LVM's library is missing it always does."""
_DIED = 5
"""LVM's exit code for a command that failed (lvm(8), DIAGNOSTICS), as which one counts that has not answered."""
_DYING_SECONDS = 5.0
_MILLISECONDS = 1000
_WORD = re.compile(r'[A-Za-z0-9_+./:%{}[\]|^$*="@, -]+', re.ASCII)


class Standby:
    """One process of LVM's for all pools that will need to be extended soon; safe to use from several threads."""

    def __init__(self, program: Sequence[str] = PROGRAM) -> None:
        """Start nothing yet."""
        self._program = program
        self._lock = threading.Lock()
        self._near: set[str] = set()
        self._process: _Process | None = None
        self._ending: list[_Process] = []
        self._is_used = False
        self._not_before = 0.0

    @property
    def is_used(self) -> bool:
        """Whether a command is under way, for whichever pool."""
        return self._is_used

    def set_near(self, pool: str, *, is_near: bool) -> None:
        """Note that an extension of `pool` is near, or is not: while one of any pool is, LVM stands by."""
        with self._lock:
            (self._near.add if is_near else self._near.discard)(pool)
            self._start_or_end()

    def run(self, argv: Argv) -> CompletedRun | None:
        """Run one of LVM's commands; None where nothing stands by for it just now, and nothing was done."""
        line = _line(argv)
        with self._lock:
            process = self._process
            if not line or self._is_used or process is None or not process.is_ready():
                return None
            self._is_used = True
        code = _DIED
        try:
            run = process.run(argv, line)
            code = run.code
            return run
        finally:
            with self._lock:
                self._is_used = False
                if code != 0 and argv[0] != "lvm" and not process.has_ended():
                    # What it keeps may be why a change failed: the next attempt gets one that knows nothing.
                    self._end()
                self._start_or_end()

    def close(self) -> None:
        """End it, and wait until it has."""
        with self._lock:
            self._near.clear()
            self._start_or_end()
            for process in self._ending:
                process.wait()

    def _start_or_end(self) -> None:
        self._ending = [process for process in self._ending if not process.has_ended()]
        if self._is_used:
            return
        if self._process is not None and self._process.has_ended():
            self._not_before = time.monotonic() + _RETRY_SECONDS
            self._end()
        if self._process is not None and not self._near:
            self._end()
        # What was told to end and hangs has its memory locked: one such is enough.
        is_due = self._process is None and not self._ending and time.monotonic() >= self._not_before
        if self._near and is_due:
            with suppress(OSError):
                self._process = _Process(self._program)

    def _end(self) -> None:
        if self._process is not None:
            self._process.end()
            self._ending.append(self._process)
            self._process = None


class _Process:
    def __init__(self, program: Sequence[str]) -> None:
        self._out, self._err = memory_file(), memory_file()
        answers, told = os.pipe2(os.O_CLOEXEC)
        self._answers = os.fdopen(answers, "rb")
        try:
            self._popen = subprocess.Popen(
                (*program, str(told)),
                stdin=subprocess.PIPE,
                stdout=self._out,
                stderr=self._err,
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,
                pass_fds=(told,),
            )
        finally:
            os.close(told)
        self._is_ready = False

    def has_ended(self) -> bool:
        return self._popen.poll() is not None

    def wait(self) -> None:
        self._popen.wait()

    def is_ready(self) -> bool:
        if not self._is_ready:
            self._is_ready = self._has_said(0) and bool(self._answers.readline())
        return self._is_ready and not self.has_ended()

    def _has_said(self, within_seconds: float) -> bool:
        """Wait until it has said something, or has ended; a thread that keeps the time would cost an extension more."""
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        return bool(poll.poll(within_seconds * _MILLISECONDS))

    def run(self, argv: Argv, line: str) -> CompletedRun:
        started = time.monotonic()
        for said in (self._out, self._err):
            # LVM shares the position, and writes on from there.
            os.ftruncate(said.fileno(), 0)
            os.lseek(said.fileno(), 0, os.SEEK_SET)
        answer = b""
        with suppress(OSError):
            if self._popen.stdin is not None:
                self._popen.stdin.write(f"{line}\n".encode("ascii"))
                self._popen.stdin.flush()
                if not self._has_said(READ_SECONDS if argv[0] == "lvm" else CHANGE_SECONDS):
                    self._popen.terminate()
                answer = self._answers.readline()
        out, err = content_of(self._out), content_of(self._err)
        code = int(answer) if answer else _DIED
        if not answer:
            err += "LVM ended without an answer."
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(_DYING_SECONDS)
        return CompletedRun(tuple(argv), code, out, err, time.monotonic() - started)

    def end(self) -> None:
        """End its input, and with that itself, and forget what it says; it is not waited for."""
        for stream in (self._popen.stdin, self._answers, self._out, self._err):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def _line(argv: Argv) -> str:
    """Return `argv` as a line of LVM's, which knows both kinds of quotes; empty where that cannot say it."""
    words = argv[1:] if argv[0] == "lvm" else argv
    if not all(_WORD.fullmatch(word) for word in words):
        return ""
    return " ".join(f"'{word}'" if " " in word or '"' in word else word for word in words)
