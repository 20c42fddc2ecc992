"""What the benches of the lab share: commands that must succeed, and what was measured on."""

from __future__ import annotations

import platform
import subprocess
from typing import TYPE_CHECKING, TypeVar

from thinpoolmgr import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


def silently(*command: str, group: int | None = None) -> None:
    """Run a command that must end with 0; what it says is shown only when it does not."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, group=group, timeout=300
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def versions() -> str:
    """Return what is measured, and on what."""
    said = subprocess.run(("lvm", "version"), capture_output=True, text=True, check=True).stdout.split()
    return (
        f"thinpoolmgr {__version__}, Python {platform.python_version()}, LVM {said[2]}, "
        f"Linux {platform.release()} ({platform.machine()}, User-mode Linux)"
    )


def take_turns(
    rounds: int, contestants: dict[str, Callable[[], Result]], warming_rounds: int = 1
) -> dict[str, list[Result]]:
    """Let each contestant run once a round, each first in its turn; rounds before the first warm the caches."""
    results: dict[str, list[Result]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds + warming_rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            result = contestants[name]()
            if number >= warming_rounds:
                results[name].append(result)
    return results
