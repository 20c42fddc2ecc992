"""The monitor's report, read by others: there or not, whole or not, its writer alive or not."""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING

import msgspec
import pytest
from measured import report, watched

from thinpoolmgr.host.monitor_report import is_running, read_report

if TYPE_CHECKING:
    from pathlib import Path

BAD_TEXT = b'{"schema":1,"pid":1,"started_at":1.0,"written_at":1.0,"config_problem":"\xff"}'


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "monitor.json"
    assert read_report(path) is None
    path.write_bytes(msgspec.json.encode(report(watched())))
    assert read_report(path) == report(watched())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": 1}', b"\xff", BAD_TEXT, b'{"x":' + b"[" * 100_000])
def test_what_is_no_report_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "monitor.json").write_bytes(content)
    assert read_report(tmp_path / "monitor.json") is None


def test_a_report_of_another_version_is_not_understood(tmp_path: Path) -> None:
    path = tmp_path / "monitor.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(report(), schema=2)))
    assert read_report(path) is None


def test_a_number_that_another_process_got_since_is_not_the_monitor(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not is_running(report(), tmp_path, lock)
        (tmp_path / "42").mkdir()
        (tmp_path / "42/cmdline").write_bytes(b"sleep\x001000\x00")
        assert not is_running(report(), tmp_path, lock)
        (tmp_path / "42/cmdline").write_bytes(b"python3\x00/usr/bin/thinpoolmgr\x00monitor\x00")
        assert is_running(report(), tmp_path, lock)
    # another command of ours has got the number
    assert not is_running(report(), tmp_path, lock)
