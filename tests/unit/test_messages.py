"""The ids of messages never change: journals that were written long ago are read with the catalog of today."""

from __future__ import annotations

import re
from typing import get_args

from thinpoolmgr.core.findings import FINDINGS
from thinpoolmgr.core.messages import Event, message_id


def test_ids_are_those_that_were_published() -> None:
    assert message_id("POOL_TIGHT") == "cd772e150d6c84277445974a650a5517"
    assert message_id("run-failed") == "68c6899d735ba21111d6f2fa0e3c3dab"


def test_every_code_and_event_has_an_id_of_its_own() -> None:
    names = (*FINDINGS, *get_args(Event))
    ids = {message_id(name) for name in names}
    assert len(ids) == len(names)
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)
