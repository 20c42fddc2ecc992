"""The messages that go to the system's journal: which there are besides the codes, and the id of each.

An id is made from the name alone, so that a new code has one at once, and the same one on every host and in every
version: journald's catalog, which `journalctl -x` reads, finds the story of a code by it.
"""

from __future__ import annotations

from typing import Literal

Event = Literal["run-began", "run-done", "run-failed", "run-interrupted", "extension-done"]
"""What is told of though it is no finding. The names are public: they stand in THINPOOLMGR_EVENT."""

_DOMAIN = b"thinpoolmgr "
_FNV_PRIME, _FNV_BASIS = 0x0000000001000000000000000000013B, 0x6C62272E07BB014262B821756295C58D


def message_id(name: str) -> str:
    """Return the MESSAGE_ID of the code or event called `name`, as 32 hexadecimal digits: FNV-1a of 128 bits.

    Made here, not by `uuid5`: that brings libcrypto into the monitor, which takes a fifth of its memory.
    """
    value = _FNV_BASIS
    for byte in _DOMAIN + name.encode():
        value = (value ^ byte) * _FNV_PRIME % 2**128
    return f"{value:032x}"
