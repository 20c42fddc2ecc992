"""Entries for journald, taken by a socket as journald has one."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from thinpoolmgr.core.messages import message_id
from thinpoolmgr.host import journald

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    path = str(tmp_path / "socket")
    monkeypatch.setattr(journald, "SOCKET_PATH", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
        opened.bind(path)
        yield opened


def fields_of(entry: bytes) -> dict[str, bytes]:
    """Return the fields of an entry as journald reads them."""
    fields = {}
    while entry:
        line, _, rest = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            fields[name.decode()], entry = value, rest
            continue
        length = int.from_bytes(rest[:8], "little")
        assert rest[8 + length : 9 + length] == b"\n"
        fields[line.decode()], entry = rest[8 : 8 + length], rest[9 + length :]
    return fields


def test_an_entry_has_the_fields_of_the_journal_and_ours(journal: socket.socket) -> None:
    journald.send("docker is 91 % full", journald.WARNING, code="POOL_TIGHT", pool="docker", target="", run=None)
    assert (
        journal.recv(65536)
        == (
            "MESSAGE=docker is 91 % full\nPRIORITY=4\nSYSLOG_IDENTIFIER=thinpoolmgr\n"
            f"MESSAGE_ID={message_id('POOL_TIGHT')}\nTHINPOOLMGR_CODE=POOL_TIGHT\nTHINPOOLMGR_POOL=docker\n"
        ).encode()
    )


def test_an_event_decides_on_the_id_though_there_is_a_code(journal: socket.socket) -> None:
    journald.send("it failed", journald.ERROR, event="run-failed", code="COMMAND_FAILED", seconds=2.5)
    fields = fields_of(journal.recv(65536))
    assert fields["MESSAGE_ID"].decode() == message_id("run-failed")
    assert (fields["THINPOOLMGR_CODE"], fields["THINPOOLMGR_SECONDS"]) == (b"COMMAND_FAILED", b"2.5")
    journald.send("nothing in particular", journald.INFO)
    assert "MESSAGE_ID" not in fields_of(journal.recv(65536))


@pytest.mark.parametrize("text", ["two\nlines", "\n", "a\nTHINPOOLMGR_CODE=forged", "end\n"])
def test_a_value_with_line_ends_stays_one_value(journal: socket.socket, text: str) -> None:
    journald.send(text, journald.INFO, target=text)
    fields = fields_of(journal.recv(65536))
    assert (fields["MESSAGE"], fields["THINPOOLMGR_TARGET"]) == (text.encode(), text.encode())
    assert "THINPOOLMGR_CODE" not in fields


def test_a_name_that_is_no_text_is_told_all_the_same(journal: socket.socket) -> None:
    journald.send("a \udcff b \ud800", journald.INFO)
    assert fields_of(journal.recv(65536))["MESSAGE"] == rb"a \udcff b \ud800"


def test_what_is_too_long_for_a_datagram_goes_as_a_sealed_file(journal: socket.socket) -> None:
    text = "x" * (4 * 1024**2)
    journald.send(text, journald.INFO)
    content, ancillary, _, _ = journal.recvmsg(1, socket.CMSG_SPACE(4))
    ((_, _, rights),) = ancillary
    fd = int.from_bytes(rights, "little")
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        assert (content, fields_of(file.read())["MESSAGE"]) == (b"", text.encode())
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)


def test_without_a_journal_standard_error_has_each_line_with_its_priority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(journald, "SOCKET_PATH", str(tmp_path / "nothing"))
    assert not journald.try_send("unheard", journald.ERROR)
    journald.send("one\ntwo", journald.WARNING, code="POOL_TIGHT")
    assert capsys.readouterr().err == "<4>one\n<4>two\n"
    monkeypatch.setattr("sys.stderr", None)
    journald.send("nobody hears", journald.WARNING)


def test_a_journal_that_reads_nothing_stops_nobody(journal: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    sent = 0
    while journald.try_send("x", journald.INFO):
        sent += 1
    assert sent > 0
    journald.send("said", journald.INFO)
    assert capsys.readouterr().err == "<6>said\n"
    assert fields_of(journal.recv(65536))["MESSAGE"] == b"x"
