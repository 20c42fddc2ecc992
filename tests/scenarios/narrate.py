"""Tells scenarios in words: the page docs/parity.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from table import SCENARIOS
from words import Act, Config, Run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from words import Line, Scenario

ACTS = {
    "ext4": "an ext4 is made on {disk}",
    "xfs": "an xfs is made on {disk}",
    "swap": "{disk} is made swap space",
    "gpt": "{disk} gets a partition table",
    "label": "{disk} gets LVM's label",
    "mount": "{disk} is mounted",
    "swapon": "{disk} is swapped on",
    "hold": "a device-mapper device is put on {disk}",
    "vanish": "{disk} vanishes",
    "return": "{disk} comes back",
    "group of others": "somebody makes a volume group on {disk}",
    "group like ours": "somebody makes a group on {disk} with our name and tag",
    "empty group": "somebody makes a group on {disk} with our name",
    "half-made volumes": "Docker's own set-up of {disk} is killed before it makes a pool",
    "ext4 on a volume": "somebody puts a file system on `thinpoolmeta`",
    "pool of others": "somebody makes a pool with our names",
    "volume of others": "somebody makes a volume in the group",
    "remove volume of others": "that volume is removed",
    "deactivate": "the group is deactivated by hand",
    "only components": "the pool's device is removed by hand, its parts stay",
    "thin device": "an engine makes a thin device",
    "error when full": "the pool is set to fail writes by hand",
    "untag": "the group loses its tag",
    "untag pool": "the pool loses its tag",
    "half tagged": "the group gets its tag, the pool does not",
    "lose labels": "the labels of the disks are wiped",
    "first commit": "`lvcreate` leaves a visible `lvol0`",
    "second commit": "`lvcreate` leaves a linear volume with the pool's name and tag",
    "half extended data, old": "`lvextend` is killed once the pool is suspended",
    "half extended data, new": "`lvextend` is killed once LVM has the new size, all suspended",
    "half extended metadata, old": "`lvextend` is killed once the pool is suspended",
    "half extended metadata, new": "`lvextend` is killed once LVM has the new size, all suspended",
    "half extended metadata, spare": "`lvextend` is killed while its new spare is a visible `lvol0`",
    "half set discards, old": "`lvchange --discards` is killed once the pool is suspended",
    "half set discards, new": "`lvchange --discards` is killed once LVM has the new value, all suspended",
    "half attached": "the profile is attached, and not loaded",
    "remove spare": "the metadata spare is removed by hand",
    "discards by hand": "discards are set to nopassdown by hand",
    "edit profile": "the LVM profile is edited by hand",
    "stale engine state": "Docker has state of a pool that is gone",
    "broken engine config": "Docker's configuration is broken",
}
HEAD = """# What the simulated host and the kernel agree on

Each scenario below is played twice, with the same code: on the host in memory, which `--simulate`, the property tests
and a rebuild's look ahead rely on, and on LVM and device-mapper of the lab's kernel: each fifth by `make lab`, the
others by `make campaign`. After every line the outcome, the steps and all that is observed of the host must be the same
on both; `reduce` in `tests/scenarios/play.py` says what is left out, because no two hosts share it. This page is made
from `tests/scenarios/table.py`: `RENEW_GOLDEN=1 make property` makes it anew.

A run reads `command: outcome (its steps)`; codes in capitals are refusals or errors.
"""


def narrate() -> str:
    """Return the page."""
    counted = f"There are {len(SCENARIOS)} scenarios; both hosts agree on all of them.\n"
    rows = [f"| {name} | {_setup(scenario)} | {_story(scenario.lines)} |" for name, scenario in SCENARIOS.items()]
    return "\n".join([HEAD, counted, "| scenario | begins with | what happens |", "|---|---|---|", *rows]) + "\n"


def _setup(scenario: Scenario) -> str:
    disks = "a disk" if scenario.disks == 1 else f"{scenario.disks} disks"
    return "; ".join([disks, *(["Docker"] if scenario.docker else []), *_values(scenario.config)])


def _values(config: Mapping[str, object]) -> list[str]:
    return [f"`{key} = {_value(value)}`" for key, value in config.items()]


def _value(value: object) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_value(item)}' for key, item in value.items())} }}"
    if isinstance(value, tuple):
        return f"[{', '.join(f'disk {item}' for item in value)}]"
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def _story(lines: tuple[Line, ...]) -> str:
    return "<br>".join(_tell(line) for line in lines)


def _tell(line: Line) -> str:
    match line:
        case Act():
            return ACTS[line.what].format(disk=f"disk {line.disk}")
        case Config():
            return f"configured: {', '.join(_values(line.values))}"
        case Run(kill=str(kill)) if kill:
            when, _, step = kill.partition(" ")
            return f"**{line.command}**: killed {when} {step}"
        case Run():
            steps = f" ({', '.join(line.steps)})" if line.steps else ""
            return f"**{line.command}**: {line.outcome}{steps}"
