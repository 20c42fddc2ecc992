"""Documents that are made from the code are as the code would make them; RENEW_GOLDEN=1 makes them anew."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

from thinpoolmgr.core.lifecycle import TRANSITIONS, PoolState, draw_states
from thinpoolmgr.core.steps import Step

STATES = Path(__file__).parents[2] / "docs/states.md"
TEXT = f"""# The states of a pool

Derived from each look at the host and never stored; the rules stand in `thinpoolmgr/core/lifecycle.py`, which this
page is made from. `foreign` (not made by thinpoolmgr), `unknown` (LVM's report is incomplete, or contradicts the
kernel) and `read_only` (the kernel says so without saying why) have no arrows: such pools are left alone.

```mermaid
{draw_states()}
```
"""


def test_the_state_diagram_is_the_codes() -> None:
    if os.environ.get("RENEW_GOLDEN"):
        STATES.write_text(TEXT, "utf-8")
    assert STATES.read_text("utf-8") == TEXT


def test_every_state_is_drawn_but_the_two_that_are_left_alone() -> None:
    drawn = {state for before, _, after in TRANSITIONS for state in (before, after)}
    assert set(PoolState) - drawn == {PoolState.FOREIGN, PoolState.UNKNOWN, PoolState.READ_ONLY}


def test_events_that_look_like_steps_are_steps() -> None:
    steps = {str(kind.__struct_config__.tag) for kind in get_args(Step)}
    assert {event for _, event, _ in TRANSITIONS if "-" in event} <= steps
