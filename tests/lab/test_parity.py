"""The same scenarios on the real kernel and in memory agree: pools that are made and unmade."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from agree import require_agreement, with_campaign
from table import NEW_POOLS as SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from thinpoolmgr.lab.loop import LoopDisk


@pytest.mark.parametrize("name", with_campaign(SCENARIOS))
def test_kernel_and_simulation_agree(name: str, loop_disks: Callable[..., LoopDisk], tmp_path: Path) -> None:
    require_agreement(SCENARIOS[name], loop_disks, tmp_path)
