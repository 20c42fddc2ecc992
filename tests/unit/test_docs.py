"""Documents that are made from the code are as the code would make them; RENEW_GOLDEN=1 makes them anew."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import get_args

from thinpoolmgr.core.lifecycle import TRANSITIONS, PoolState, draw_states
from thinpoolmgr.core.steps import Step

DESIGN = Path(__file__).parents[2] / "docs/design.md"
DRAWN = f"<!-- made from the code: RENEW_GOLDEN=1 -->\n\n```mermaid\n{draw_states()}\n```\n\n<!-- end -->"


def test_the_state_diagram_is_the_codes() -> None:
    text = DESIGN.read_text("utf-8")
    if os.environ.get("RENEW_GOLDEN"):
        text = re.sub(r"<!-- made from the code.*?<!-- end -->", lambda _: DRAWN, text, flags=re.DOTALL)
        DESIGN.write_text(text, "utf-8")
    assert DRAWN in text


def test_every_state_is_drawn_but_the_two_that_are_left_alone() -> None:
    drawn = {state for before, _, after in TRANSITIONS for state in (before, after)}
    assert set(PoolState) - drawn == {PoolState.UNKNOWN, PoolState.READ_ONLY}


def test_events_that_look_like_steps_are_steps() -> None:
    steps = {str(kind.__struct_config__.tag) for kind in get_args(Step)}
    assert {event for _, event, _ in TRANSITIONS if "-" in event} <= steps
