"""Plays a scenario on both stages, and requires that they agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from on_kernel import KernelStage
from on_sim import SimStage
from play import differences, play
from words import Run, Scenario

from thinpoolmgr.host.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from _pytest.mark.structures import ParameterSet

    from thinpoolmgr.lab.loop import LoopDisk


_IN_EVERY_RUN = 5


def with_campaign(names: Iterable[str]) -> list[ParameterSet]:
    """Return `names` as parameters: each fifth is for every run, the others are for the campaign."""
    return [
        pytest.param(name, marks=() if place % _IN_EVERY_RUN == 0 else pytest.mark.campaign)
        for place, name in enumerate(names)
    ]


def require_agreement(scenario: Scenario, loop_disks: Callable[..., LoopDisk], folder: Path) -> None:
    """Play `scenario` on disks of the lab and in memory: after every line both look the same.

    Raises:
        AssertionError: they do not, or a run comes to something else than the table says.

    """
    mounts = folder / "mnt"
    mounts.mkdir()
    simulated = play(scenario, SimStage(scenario.disks), Store(folder / "sim", folder / "sim-lock"))
    stage = KernelStage(tuple(loop_disks() for _ in range(scenario.disks)), mounts)
    try:
        real = play(scenario, stage, Store(folder / "real", folder / "real-lock"))
    finally:
        stage.clean()
    for line, on_kernel, on_sim in zip(scenario.lines, real, simulated, strict=True):
        if isinstance(line, Run):
            assert on_kernel.outcome == line.outcome, line
        unlike = "\n".join(differences(on_kernel.look, on_sim.look))
        assert not unlike, f"after {line}:\n{unlike}"
        assert on_kernel.steps == on_sim.steps, line
