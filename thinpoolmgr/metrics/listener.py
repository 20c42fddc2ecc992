"""Serves the document to who asks on this very host: one at a time, with a fresh look for each."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import selectors
import socket
import socketserver
import stat
import sys
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

from msgspec import Struct

from thinpoolmgr.errors import CommandFailedError, UsageError
from thinpoolmgr.metrics.text import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ADDRESS = re.compile(r"(?:\[(?P<six>[^]]+)\]|(?P<four>[^:]+)):(?P<port>\d{1,5})", re.ASCII)
_UNIX = "unix:"
_CLIENT_SECONDS = 10.0
"""How long somebody who is connected may say nothing: others wait meanwhile."""
_SOCKET_MODE = 0o660
_WAYS = "Write 127.0.0.1:PORT, [::1]:PORT or unix:/PATH; a reverse proxy in front of it can do TLS and passwords."


class Address(Struct, frozen=True):
    """Where to listen: a socket's `path`, or `host` and `port`."""

    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def shown(self) -> str:
        """As a person reads it."""
        return self.path or (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")


def parse_address(text: str) -> Address:
    """Return what `text` names.

    Raises:
        UsageError: it names nothing, or what other hosts could reach.

    """
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        if not path.startswith("/") or path.endswith("/") or "\0" in path:
            raise UsageError(f"{text!r} is no socket to listen on", "The path must be absolute.", _WAYS)
        return Address(path=path)
    match = _ADDRESS.fullmatch(text)
    port = int(match["port"]) if match else 0
    if match is None or not 0 < port < 2**16:
        raise UsageError(f"{text!r} is no address to listen on", "", _WAYS)
    host = match["six"] or match["four"]
    host = "127.0.0.1" if host == "localhost" else host
    if not _is_loopback(host):
        details = "What runs on this host, and how full it is, is nobody else's business, and each answer costs work."
        raise UsageError(f"{host} is not this host's loopback: other hosts could reach it", details, _WAYS)
    return Address(host=host, port=port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def listening(address: Address, make: Callable[[], bytes]) -> Iterator[socketserver.TCPServer]:
    """Listen at `address` while this is open; each that asks gets what `make` returns then.

    Raises:
        CommandFailedError: the address is taken, or not ours.

    """

    class Handler(_Handler):
        def document(self) -> bytes:
            return make()

    try:
        server = _bind(address, Handler)
    except OSError as error:
        resolution = "See who has it: ss -lntxp. Or name another address."
        raise CommandFailedError(
            f"cannot listen on {address.shown}", error.strerror or str(error), resolution
        ) from error
    with server:
        try:
            yield server
        finally:
            if address.path:
                _remove_socket(address.path)


def serve(server: socketserver.TCPServer, stop_fd: int) -> None:
    """Answer, one after the other, until there is something to read at `stop_fd`; an answer under way is finished."""
    with selectors.DefaultSelector() as selector:
        selector.register(server.fileno(), selectors.EVENT_READ)
        selector.register(stop_fd, selectors.EVENT_READ)
        while stop_fd not in {key.fd for key, _ in selector.select()}:
            server.handle_request()


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    timeout = _CLIENT_SECONDS
    server_version = "thinpoolmgr"
    sys_version = ""

    def document(self) -> bytes:
        raise NotImplementedError

    def do_GET(self) -> None:
        if self.path.partition("?")[0] not in {"/", "/metrics"}:
            self.send_error(HTTPStatus.NOT_FOUND, explain="The document is at /metrics.")
            return
        body = self.document()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: Prometheus asks every few seconds."""


class _OneAtATime(socketserver.TCPServer):
    """What all kinds of servers here do alike."""

    # Who asked and is gone before the answer is no reason to wait for the next one.
    timeout = 0
    allow_reuse_address = True

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Let go of a client that went away; whatever else went wrong ends the program."""
        del client_address
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError | TimeoutError):
            self.shutdown_request(request)
            raise error


class _Tcp6Server(_OneAtATime):
    address_family = socket.AF_INET6


class _UnixServer(_OneAtATime):
    address_family = socket.AF_UNIX
    allow_reuse_address = False

    def server_bind(self) -> None:
        """Take the place of a socket that a killed listener left, and of nothing else."""
        path = str(self.server_address)
        if os.path.lexists(path):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise FileExistsError(errno.EEXIST, "it is there, and no socket")
            if _answers(path):
                raise FileExistsError(errno.EEXIST, "another process listens there")
            os.unlink(path)
        mask = os.umask(0o777 & ~_SOCKET_MODE)
        try:
            super().server_bind()
        finally:
            os.umask(mask)


def _bind(address: Address, handler: type[_Handler]) -> socketserver.TCPServer:
    if address.path:
        return _UnixServer(address.path, handler)  # type: ignore[arg-type]  # a path is an address, too
    return (_Tcp6Server if ":" in address.host else _OneAtATime)((address.host, address.port), handler)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
        opened.settimeout(0)
        return opened.connect_ex(path) != errno.ECONNREFUSED


def _remove_socket(path: str) -> None:
    if os.path.lexists(path) and stat.S_ISSOCK(os.lstat(path).st_mode):
        os.unlink(path)
