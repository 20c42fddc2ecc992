"""The same scenarios on the real kernel and in memory agree: pools tagged, cut short in between, cleaned up after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from agree import require_agreement, with_campaign
from changed import CLEANED, CUT_SHORT, TAGS
from own_setup import OWN_SETUP

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from thinpoolmgr.lab.loop import LoopDisk

SCENARIOS = {**TAGS, **OWN_SETUP, **CUT_SHORT, **CLEANED}


@pytest.mark.parametrize("name", with_campaign(SCENARIOS))
def test_kernel_and_simulation_agree(name: str, loop_disks: Callable[..., LoopDisk], tmp_path: Path) -> None:
    require_agreement(SCENARIOS[name], loop_disks, tmp_path)
