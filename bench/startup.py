"""Measures on this machine itself, without root, what `--version` costs more than a bare interpreter.

The lab's kernel makes each page and each file that an interpreter touches about ten times as dear, and counts CPU in
ticks of 10 ms; this is the number for a real machine.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

ROUNDS = 25
BARE = (sys.executable, "-c", "pass")
VERSION = (str(Path(sys.executable).with_name("thinpoolmgr")), "--version")


def main() -> None:
    """Print the median of all rounds, and the quartiles; the first round warms the caches."""
    extra_ms = [1000 * (cpu_seconds(VERSION) - cpu_seconds(BARE)) for _ in range(ROUNDS + 1)][1:]
    low, middle, high = statistics.quantiles(extra_ms, method="inclusive")
    print(
        f"On this machine itself, {ROUNDS} rounds: `--version` takes {middle:.0f} ms ({low:.0f} to {high:.0f}) of CPU "
        "above the bare interpreter.\n",
        flush=True,
    )


def cpu_seconds(command: tuple[str, ...]) -> float:
    """Return the CPU seconds, user and system, that a command takes."""
    before = getrusage(RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    after = getrusage(RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
