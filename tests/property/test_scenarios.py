"""All scenarios on the host in memory: what each run comes to, and that no look at the host is an impossible one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from narrate import narrate
from on_sim import SimStage
from play import play
from table import SCENARIOS
from words import Run

from thinpoolmgr.host.store import Store

PAGE = Path(__file__).parents[2] / "docs/parity.md"


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_run_of_a_scenario_comes_to_what_the_table_says(name: str, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]
    moments = play(scenario, SimStage(scenario.disks), Store(tmp_path / "state", tmp_path / "lock"))
    for line, moment in zip(scenario.lines, moments, strict=True):
        if isinstance(line, Run):
            assert moment.outcome == line.outcome, line
            assert line.steps is None or moment.steps == line.steps, line


def test_the_page_of_scenarios_is_the_tables() -> None:
    if os.environ.get("RENEW_GOLDEN"):
        PAGE.write_text(narrate(), "utf-8")
    assert PAGE.read_text("utf-8") == narrate()
