"""The lines of a `/proc/PID/mountinfo` (proc(5), Documentation/filesystems/proc.rst 3.5)."""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_ESCAPE = re.compile(r"\\([0-7]{3})", re.ASCII)
_FIELDS, _TAIL_FIELDS = 5, 2
_OPTIONAL = 6
"""Where the optional fields begin."""


class Mount(NamedTuple):
    """One line of a mountinfo."""

    devno: str
    point: str
    source: str
    kind: str = ""
    """Type of the file system."""
    root: str = "/"
    """What of the file system is mounted."""
    follows: bool = False
    """Whether unmounting it elsewhere unmounts it here (mount_namespaces(7): shared, or the slave of a shared one)."""

    @property
    def is_anonymous(self) -> bool:
        """Whether `devno` belongs to no device, as with btrfs: then only `source` names one."""
        return self.devno.startswith("0:")


def parse_mountinfo(content: bytes) -> Iterator[Mount]:
    """Return the mounts in the content of a mountinfo, in its order.

    Raises:
        OSError: a line is none of a mountinfo.

    """
    # The kernel escapes newlines and blanks in paths, and no other line break (fs/proc_namespace.c).
    for line in filter(None, content.split(b"\n")):
        mount, _, filesystem = os.fsdecode(line).partition(" - ")
        fields, tail = mount.split(" "), filesystem.split(" ")
        if len(tail) < _TAIL_FIELDS or len(fields) < _FIELDS:
            raise OSError(errno.EBADMSG, f"not a line of a mountinfo: {line!r}")
        follows = any(field.startswith(("shared:", "master:")) for field in fields[_OPTIONAL:])
        yield Mount(fields[2], unescape(fields[4]), unescape(tail[1]), tail[0], unescape(fields[3]), follows)


def unescape(text: str) -> str:
    r"""Return `text` with the kernel's octal escapes (as `\040`) undone."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
