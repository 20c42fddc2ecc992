"""Entries with fields for systemd's journal, by journald's native protocol; the one file that knows it.

Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL. python-systemd does the same and needs the headers of libsystemd and
a compiler wherever pip installs it; the protocol is a screen of code, and stable by systemd's promise.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
from contextlib import suppress
from struct import Struct

from thinpoolmgr.core.messages import message_id

SOCKET_PATH = "/run/systemd/journal/socket"
IDENTIFIER = "thinpoolmgr"

ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6
"""Priorities, in syslog's numbers."""
PRIORITIES = {"error": ERROR, "warning": WARNING, "info": INFO}
"""The priority of a finding, by its severity."""

_LENGTH = Struct("<Q")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_TOO_LONG = frozenset({errno.EMSGSIZE, errno.ENOBUFS})


def send(message: str, priority: int, /, **fields: object) -> None:
    """Tell the journal; where there is none, or it does not take the entry at once, standard error.

    Args:
        message: what is said to people, in one or more lines.
        priority: one of `ERROR`, `WARNING`, `NOTICE`, `INFO`.
        fields: `code="POOL_TIGHT"` becomes `THINPOOLMGR_CODE=POOL_TIGHT`; so do `pool`, `target`, `run`, and any other.
            Empty ones are left out. `event`, or else `code`, decides on MESSAGE_ID, by which `journalctl -x` explains.

    """
    if not try_send(message, priority, **fields):
        # `<N>` is the priority for whoever reads standard error: sd-daemon(3). A daemon may have none, or a closed one.
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.write("".join(f"<{priority}>{line}\n" for line in message.splitlines()))
            sys.stderr.flush()


def try_send(message: str, priority: int, /, **fields: object) -> bool:
    """Tell the journal, and return whether it has taken the entry; arguments as of `send`. Never waits for it."""
    entry = encode_entry(entry_fields(message, priority, fields))
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as opened:
            opened.connect(SOCKET_PATH)
            _send(opened, entry)
    except OSError:
        return False
    return True


def entry_fields(message: str, priority: int, fields: dict[str, object]) -> dict[str, str]:
    """Return all fields of an entry by their names in the journal."""
    own = {f"THINPOOLMGR_{name.upper()}": str(value) for name, value in fields.items() if value not in ("", None)}
    named = str(fields.get("event") or fields.get("code") or "")
    return {
        "MESSAGE": message,
        "PRIORITY": str(priority),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        **({"MESSAGE_ID": message_id(named)} if named else {}),
        **own,
    }


def encode_entry(fields: dict[str, str]) -> bytes:
    """Return `fields` as one entry of the protocol; a value with a line end goes with its length in front of it."""
    return b"".join(_encode_field(name.encode("ascii"), value) for name, value in fields.items())


def _encode_field(name: bytes, text: str) -> bytes:
    # Lone surrogates stand for bytes of names that are no UTF-8; a log must not fail on them.
    value = text.encode("utf-8", "backslashreplace")
    if b"\n" not in value:
        return name + b"=" + value + b"\n"
    return name + b"\n" + _LENGTH.pack(len(value)) + value + b"\n"


def _send(opened: socket.socket, entry: bytes) -> None:
    try:
        # A journald that hangs must not stop who watches pools.
        opened.send(entry, socket.MSG_DONTWAIT)
    except OSError as error:
        if error.errno not in _TOO_LONG:
            raise
        _send_as_file(opened, entry)


def _send_as_file(opened: socket.socket, entry: bytes) -> None:
    fd = os.memfd_create(IDENTIFIER, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(fd, "wb") as file:
        file.write(entry)
        file.flush()
        # journald maps it only when nobody can change it any more.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]
        opened.sendmsg([], rights, socket.MSG_DONTWAIT)
