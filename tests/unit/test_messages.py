"""The ids of messages never change: journals that were written long ago are read with the catalog of today."""

from __future__ import annotations

import re
from typing import get_args

from thinpoolmgr.core.findings import FINDINGS
from thinpoolmgr.core.messages import Event, message_id


def test_ids_are_those_that_were_published() -> None:
    assert message_id("POOL_TIGHT") == "19e48311269b5986946d68dce5213e09"
    assert message_id("run-failed") == "eaf5240d3dbb52c88746cce6d32a5b30"


def test_every_code_and_event_has_an_id_of_its_own() -> None:
    names = (*FINDINGS, *get_args(Event))
    ids = {message_id(name) for name in names}
    assert len(ids) == len(names)
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)
