"""Docker's API over its unix socket: three questions, each with a hard limit on time and size."""

from __future__ import annotations

import io
import socket
import time
from typing import TypeVar

import msgspec

TIMEOUT_SECONDS = 3.0
LIMIT_BYTES = 4 * 1024**2
_REFUSALS = (FileNotFoundError, ConnectionRefusedError)
_Answer = TypeVar("_Answer")


class ApiError(Exception):
    """Something listens and does not answer as Docker does."""


class Info(msgspec.Struct, frozen=True):
    """Of `GET /info`."""

    Driver: str
    DockerRootDir: str


class Version(msgspec.Struct, frozen=True):
    """Of `GET /version`."""

    Version: str


class Container(msgspec.Struct, frozen=True):
    """Of `GET /containers/json`, which lists running containers only."""

    Id: str
    Names: tuple[str, ...] | None = None


def get(socket_path: str, path: str, answer: type[_Answer]) -> _Answer | None:
    """Return the answer to `GET path`; None when nothing listens at `socket_path`.

    The time limit holds for the whole exchange, so an engine that sends a byte now and then cannot hold us.

    Raises:
        ApiError: no answer in time, one that is too long, a status other than 200, or not the JSON expected.

    """
    try:
        raw = _exchange(socket_path, path)
    except _REFUSALS:
        return None
    except (OSError, ValueError) as error:
        msg = f"no answer to {path} at {socket_path}: {error}"
        raise ApiError(msg) from error
    # Late: it brings the mail and TLS libraries, and most runs have no engine to ask.
    import http.client  # noqa: PLC0415

    try:
        return msgspec.json.decode(_body(raw), type=answer)
    except (http.client.HTTPException, msgspec.DecodeError, ValueError) as error:
        msg = f"the answer to {path} at {socket_path} is not Docker's: {error}"
        raise ApiError(msg) from error


def _exchange(socket_path: str, path: str) -> bytes:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(socket_path)
        # HTTP/1.0: the answer is not chunked and ends with the connection, so that one loop bounds all of it.
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n".encode("ascii"))
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
