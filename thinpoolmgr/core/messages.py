"""The messages that go to the system's journal: which there are besides the codes, and the id of each.

An id is made from the name alone, so that a new code has one at once, and the same one on every host and in every
version: journald's catalog, which `journalctl -x` reads, finds the story of a code by it.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID, uuid5

Event = Literal["run-began", "run-done", "run-failed", "run-interrupted", "extension-done", "extension-failed"]
"""What is told of though it is no finding. The names are public: they stand in THINPOOLMGR_EVENT."""

_NAMESPACE = UUID("773ad809-577d-428c-bd43-f84846d00912")


def message_id(name: str) -> str:
    """Return the MESSAGE_ID of the code or event called `name`, as 32 hexadecimal digits."""
    return uuid5(_NAMESPACE, name).hex
