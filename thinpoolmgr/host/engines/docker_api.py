"""Docker's API over its unix socket, each exchange with a hard limit on time and size.

Three questions, and one request that changes something: containers are stopped. Source: Docker Engine API 1.41.
"""

from __future__ import annotations

import io
import re
import socket
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_SECONDS = 3.0
LIMIT_BYTES = 32 * 1024**2
"""Thousands of containers, with their labels, in one answer."""
STOP_SECONDS = 120.0
"""Docker kills what does not end within 10 s, or within what the container asks for."""
_LEAST_SECONDS = 0.01
_AT_ONCE = 16
# Of `HTTP/1.0 204 No Content`: stopped now, stopped before, removed meanwhile.
_STOPPED = (b"204", b"304", b"404")
_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]*", re.ASCII)
_REFUSALS = (FileNotFoundError, ConnectionRefusedError)
_Answer = TypeVar("_Answer")


class ApiError(Exception):
    """Something listens and does not answer as Docker does."""


class Info(msgspec.Struct, frozen=True):
    """Of `GET /info`."""

    Driver: str
    DockerRootDir: str
    LiveRestoreEnabled: bool = False

    def __post_init__(self) -> None:
        """Make sure that the folder is one: state is looked for below it.

        Raises:
            ValueError: it is not.

        """
        if not self.DockerRootDir.startswith("/") or "\0" in self.DockerRootDir:
            msg = "DockerRootDir is not an absolute path"
            raise ValueError(msg)


class Version(msgspec.Struct, frozen=True):
    """Of `GET /version`."""

    Version: str


class Container(msgspec.Struct, frozen=True):
    """Of `GET /containers/json`, which lists running containers only."""

    Id: str
    Names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Make sure that the id can be part of a request.

        Raises:
            ValueError: it cannot.

        """
        if not _ID.fullmatch(self.Id):
            msg = "Id is not a container's"
            raise ValueError(msg)

    @property
    def name(self) -> str:
        """Its name; the short id where it has none."""
        return next((name.lstrip("/") for name in self.Names or () if _NAME.fullmatch(name)), self.Id[:12])


def get(socket_path: str, path: str, answer: type[_Answer]) -> _Answer | None:
    """Return the answer to `GET path`; None when nothing listens at `socket_path`.

    The time limit holds for the whole exchange, so an engine that sends a byte now and then cannot hold us.

    Raises:
        ApiError: no answer in time, one that is too long, a status other than 200, or not the JSON expected.

    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        with _send(socket_path, "GET", path, deadline) as connection:
            raw = _receive(connection, deadline)
    except _REFUSALS:
        return None
    except (OSError, ValueError) as error:
        msg = f"no answer to {path} at {socket_path}: {error}"
        raise ApiError(msg) from error
    # Late: it brings the mail and TLS libraries, and most runs have no engine to ask.
    import http.client  # noqa: PLC0415

    try:
        return msgspec.json.decode(_body(raw), type=answer)
    except (http.client.HTTPException, msgspec.DecodeError, ValueError, RecursionError) as error:
        msg = f"the answer to {path} at {socket_path} is not Docker's: {error}"
        raise ApiError(msg) from error


def running_containers(socket_path: str) -> tuple[Container, ...] | None:
    """Return the running containers; None when nothing listens at `socket_path`.

    Raises:
        ApiError: as `get`.

    """
    return get(socket_path, "/containers/json", tuple[Container, ...])


def stop_containers(socket_path: str) -> tuple[Container, ...]:
    """Stop all running containers, several at once, and return those that still run.

    Each gets the time to end that it asks for, then Docker kills it. Those asked together get `STOP_SECONDS`: one that
    is stuck ends it, and hundreds of slow ones do not.

    Raises:
        ApiError: the engine does not answer, or not as Docker does.

    """
    found = running_containers(socket_path) or ()
    for first in range(0, len(found), _AT_ONCE):
        try:
            _stop(socket_path, found[first : first + _AT_ONCE], time.monotonic() + STOP_SECONDS)
        except (OSError, ValueError) as error:
            msg = f"containers were not stopped at {socket_path}: {error}"
            raise ApiError(msg) from error
    return running_containers(socket_path) or ()


def _stop(socket_path: str, containers: tuple[Container, ...], deadline: float) -> None:
    with ExitStack() as stack:
        # All are asked before the first is waited for.
        asked = [
            (container, stack.enter_context(_send(socket_path, "POST", f"/containers/{container.Id}/stop", deadline)))
            for container in containers
        ]
        for container, connection in asked:
            try:
                answer = _receive(connection, deadline)
            except OSError as error:
                msg = f"{container.name}: {error}"
                raise ValueError(msg) from error
            status_line = answer.partition(b"\r\n")[0]
            if status_line[9:12] not in _STOPPED:
                msg = f"{container.name}: {status_line[:60]!r}"
                raise ValueError(msg)


@contextmanager
def _send(socket_path: str, method: str, path: str, deadline: float) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(min(TIMEOUT_SECONDS, max(deadline - time.monotonic(), _LEAST_SECONDS)))
        connection.connect(socket_path)
        # HTTP/1.0: the answer is not chunked and ends with the connection, so that one loop bounds all of it.
        connection.sendall(f"{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Length: 0\r\n\r\n".encode("ascii"))
        yield connection


def _receive(connection: socket.socket, deadline: float) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while size <= LIMIT_BYTES:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        connection.settimeout(left)
        chunk = connection.recv(65536)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
        size += len(chunk)
    msg = f"more than {LIMIT_BYTES} bytes" if size > LIMIT_BYTES else "timed out"
    raise ValueError(msg)


class _Received:
    """What http.client needs of a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        del mode
        return io.BytesIO(self._data)


def _body(raw: bytes) -> bytes:
    import http.client  # noqa: PLC0415 - see `get`

    response = http.client.HTTPResponse(_Received(raw))  # type: ignore[arg-type]
    response.begin()
    body = response.read()
    if response.status != http.client.OK:
        msg = f"status {response.status}: {body[:200]!r}"
        raise ValueError(msg)
    return body
