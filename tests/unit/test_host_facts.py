"""What the doctor asks of the host besides its snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import support

from thinpoolmgr.core.findings import Cookie
from thinpoolmgr.host import facts
from thinpoolmgr.host.facts import read_facts

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

# Seen on Linux 6.1: a cookie of dmsetup (0x0d4d6e8b), another program's semaphores, and a key that is negative.
SEMAPHORES = """\
       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime
 223178379          0   600          1     0     0     0     0 1795507203 1795507201
         0          1   600          1     0     0     0     0          0 1795507202
-559038737          2   600          1     0     0     0     0          0 1795507203
"""


def test_only_udevs_cookies_are_read(tmp_path: Path) -> None:
    path = tmp_path / "sem"
    path.write_text(SEMAPHORES)
    assert read_facts(support.desired(), path).cookies == (Cookie("0xd4d6e8b", 1795507201.0),)
    assert read_facts(support.desired(), tmp_path / "none").cookies == ()


def test_tools_are_looked_for_and_those_of_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(facts, "find_program", lambda name: "" if name in {"thin_check", "mkfs.xfs"} else name)
    none = tmp_path / "none"
    assert read_facts(support.desired(), none).missing_tools == ("thin_check",)
    with_engine = support.desired(engines=(support.engine(),))
    assert read_facts(with_engine, none).missing_tools == ("thin_check", "mkfs.xfs")
    ext4 = support.desired(engines=(support.engine(filesystem="ext4"),))
    assert read_facts(ext4, none).missing_tools == ("thin_check",)
