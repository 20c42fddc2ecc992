"""The words in which scenarios are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct


class Act(Struct, frozen=True):
    """Somebody does something to the host."""

    what: str
    disk: int = 0


class Config(Struct, frozen=True):
    """Somebody changes the configuration: these keys of the pool's table have these values from now on."""

    values: Mapping[str, Any]


class Run(Struct, frozen=True):
    """thinpoolmgr runs: `outcome` is `done`, `nothing`, `killed`, or the code of the error.

    `kill` names a step (`before STEP`, `after STEP`) at which it is killed.
    """

    command: str
    outcome: str = "done"
    steps: tuple[str, ...] | None = None
    kill: str = ""


Line = Act | Config | Run


class Scenario(Struct, frozen=True):
    """A host with so many blank disks, a configuration with one pool on them, and what happens.

    `devices` and `spare_devices` of the configuration are numbers of disks; without them the pool has all disks.
    """

    lines: tuple[Line, ...]
    disks: int = 1
    config: Mapping[str, Any] = {}
    docker: bool = False
    """Whether Docker is to live on the pool; it stands, and nothing but a person starts it."""


SMALL: dict[str, Any] = {"metadata_size": "12MiB", "data_size": "60%VG"}
GROUP, POOL = "create-volume-group", "create-thin-pool"
NOTHING = Run("apply", "nothing")
APPLIED = Run("apply", steps=(GROUP, POOL))
REMOVALS = ("remove-thin-pool", "remove-volume-group", "remove-physical-volumes")
DESTROYED = Run("destroy", steps=("deactivate-pool", *REMOVALS))


def done(*steps: str, command: str = "apply") -> Run:
    """Return a run that ends well with these steps."""
    return Run(command, steps=steps)


def killed(kill: str, command: str = "apply") -> Run:
    """Return a run that is killed before or after a step."""
    return Run(command, "killed", kill=kill)


def refused(code: str, *acts: str, disks: int = 1, **config: Any) -> Scenario:
    """Return the scenario in which these acts make every change refuse with `code`."""
    lines: tuple[Line, ...] = (*map(Act, acts), Run("apply", code), Run("apply", code))
    return Scenario(lines, disks, config)
