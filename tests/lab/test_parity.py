"""The same scenarios on the real kernel and on the host in memory: after every line both look the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from on_kernel import KernelStage
from on_sim import SimStage
from play import differences, play
from table import SCENARIOS
from words import Run

from thinpoolmgr.host.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from thinpoolmgr.lab.loop import LoopDisk


@pytest.mark.parametrize("name", SCENARIOS)
def test_kernel_and_simulation_agree(name: str, loop_disks: Callable[..., LoopDisk], tmp_path: Path) -> None:
    scenario = SCENARIOS[name]
    folder = tmp_path / "mnt"
    folder.mkdir()
    simulated = play(scenario, SimStage(scenario.disks), Store(tmp_path / "sim", tmp_path / "sim-lock"))
    stage = KernelStage(tuple(loop_disks() for _ in range(scenario.disks)), folder)
    try:
        real = play(scenario, stage, Store(tmp_path / "real", tmp_path / "real-lock"))
    finally:
        stage.clean()
    for line, on_kernel, on_sim in zip(scenario.lines, real, simulated, strict=True):
        if isinstance(line, Run):
            assert on_kernel.outcome == line.outcome, line
        assert differences(on_kernel.look, on_sim.look) == [], line
        assert on_kernel.steps == on_sim.steps, line
