"""The listener: who may reach it, one at a time, and what it does with sockets and clients that went away."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from thinpoolmgr.errors import CommandFailedError, UsageError
from thinpoolmgr.metrics.listener import Address, listening, parse_address, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9750", Address(host="127.0.0.1", port=9750)),
        ("127.9.9.9:1", Address(host="127.9.9.9", port=1)),
        ("localhost:9750", Address(host="127.0.0.1", port=9750)),
        ("[::1]:9750", Address(host="::1", port=9750)),
        ("unix:/run/thinpoolmgr/metrics.sock", Address(path="/run/thinpoolmgr/metrics.sock")),
    ],
)
def test_addresses_of_this_host(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert address.shown in {text.removeprefix("unix:"), "127.0.0.1:9750"}


@pytest.mark.parametrize(
    "text",
    [
        *("0.0.0.0:9750", "[::]:9750", "192.168.1.1:9750", "10.0.0.1:80", "example.org:80", "[fe80::1]:80"),
        *("", ":9750", "9750", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x", "::1:9750"),
        *("unix:", "unix:relative.sock", "unix:/folder/", "unix:/a\0b", "http://127.0.0.1:80/", "127.0.0.1:٣"),
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert (caught.value.exit_code, "127.0.0.1:PORT" in caught.value.resolution) == (64, True)


@contextlib.contextmanager
def served(path: Path, make: Callable[[], bytes]) -> Iterator[Callable[[bytes], bytes]]:
    """Serve at `path` from a thread of its own, and give what asks."""
    stop_read, stop_write = os.pipe()

    def ask(request: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.connect(str(path))
            opened.sendall(request)
            return b"".join(iter(lambda: opened.recv(65536), b""))

    with listening(Address(path=str(path)), make) as server:
        thread = threading.Thread(target=serve, args=(server, stop_read))
        thread.start()
        try:
            yield ask
        finally:
            os.write(stop_write, b"x")
            thread.join()
            os.close(stop_read)
            os.close(stop_write)


def test_each_that_asks_gets_a_fresh_document(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> bytes:
        made.append(1)
        return b"number %d\n" % len(made)

    with served(tmp_path / "s", make) as ask:
        first = ask(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert first.startswith(b"HTTP/1.0 200 OK\r\n")
        assert b"\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in first
        assert first.endswith(b"\r\n\r\nnumber 1\n")
        assert ask(b"GET /metrics?x=1 HTTP/1.0\r\n\r\n").endswith(b"number 2\n")
        assert ask(b"GET /other HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 404 ")
        assert ask(b"POST /metrics HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 501 ")
    assert len(made) == 2
    assert not (tmp_path / "s").exists()


def test_two_that_ask_at_once_are_answered_one_after_the_other(tmp_path: Path) -> None:
    busy, seen = threading.Lock(), []

    def make() -> bytes:
        assert busy.acquire(blocking=False)
        seen.append(1)
        busy.release()
        return b"x"

    with served(tmp_path / "s", make) as ask:
        threads = [threading.Thread(target=ask, args=(b"GET / HTTP/1.0\r\n\r\n",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seen) == 8


def test_a_client_that_goes_away_disturbs_nobody(tmp_path: Path) -> None:
    with served(tmp_path / "s", lambda: b"x" * 10_000_000) as ask:
        for request in (b"", b"GET / HTTP/1.0\r\n\r\n"):
            with socket.socket(socket.AF_UNIX) as gone:
                gone.connect(str(tmp_path / "s"))
                gone.sendall(request)
        assert ask(b"GET / HTTP/1.0\r\n\r\n").endswith(b"xxx")


def test_the_socket_is_for_owner_and_group_and_takes_the_place_of_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    with listening(Address(path=str(path)), lambda: b""):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with (
            pytest.raises(CommandFailedError, match=r"cannot listen on /.*/s"),
            listening(Address(path=str(path)), lambda: b""),
        ):
            pass
        assert path.exists()
    assert not path.exists()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(CommandFailedError) as caught, listening(Address(path=str(path)), lambda: b""):
        pass
    assert (caught.value.details, path.read_text()) == ("it is there, and no socket", "mine")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_that_is_taken_is_an_error(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as taken:
        taken.bind((host, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CommandFailedError, match="cannot listen on"), listening(Address("", host, port), bytes):
            pass


def test_loopback_is_listened_on(tmp_path: Path) -> None:
    del tmp_path
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with listening(Address("", "127.0.0.1", port), bytes) as server:
        assert server.server_address == ("127.0.0.1", port)


def test_a_mistake_of_ours_ends_it(tmp_path: Path) -> None:
    def make() -> bytes:
        raise ZeroDivisionError

    path = tmp_path / "s"
    with listening(Address(path=str(path)), make) as server, socket.socket(socket.AF_UNIX) as opened:
        opened.connect(str(path))
        opened.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ZeroDivisionError):
            server.handle_request()
