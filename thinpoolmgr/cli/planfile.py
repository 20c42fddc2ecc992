"""Plan files: what `plan --out` writes and `apply PLANFILE` is bound to."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

import msgspec

from thinpoolmgr import __version__
from thinpoolmgr.core.plan import Plan, PlanFile
from thinpoolmgr.errors import CommandFailedError, UsageError
from thinpoolmgr.host.store import now

_SCHEMA = 1
_LIMIT_BYTES = 16 * 1024**2


def write_plan(path: Path, plan: Plan) -> None:
    """Write `plan` to `path`, for its owner only: it may hold the text of an engine's configuration.

    Raises:
        UsageError: there is something else than a regular file: a device, a pipe, a link, a folder.
        CommandFailedError: it cannot be written.

    """
    _require_no_special_file(path)
    content = msgspec.json.format(
        msgspec.json.encode(PlanFile(_SCHEMA, __version__, now(), plan.fingerprint, plan.steps)), indent=2
    )
    temporary = path.parent / f".{path.name}.{os.getpid()}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content + b"\n")
            file.flush()
            os.fsync(fd)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        summary = f"the plan could not be written to {path}"
        raise CommandFailedError(summary, error.strerror or str(error), "Name another file.") from error


def _require_no_special_file(path: Path) -> None:
    """To put a file in the place of /dev/null, or of a link that others follow, is never what is meant."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return  # there is none yet; what else is wrong with the path, writing tells
    if not stat.S_ISREG(mode):
        details = "It is a device, a pipe, a link or a folder, and would be replaced by the plan."
        raise UsageError(f"{path} is no regular file", details, "Name another file, or one that does not exist yet.")


def read_plan(path: Path) -> PlanFile:
    """Return the plan in `path`; nothing of it is ever carried out but what would be planned now, too.

    Raises:
        UsageError: there is no such file, or it is no plan of this version's.

    """
    try:
        status = path.stat()
        # Reading a pipe or a terminal would wait for ever, and a device may have no end.
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LIMIT_BYTES:
            details = f"It is no regular file, or has more than {_LIMIT_BYTES} bytes."
            raise UsageError(f"{path} is no plan file", details, _WAY)
        plan = msgspec.json.decode(path.read_bytes(), type=PlanFile)
    except OSError as error:
        raise UsageError(f"{path} cannot be read", error.strerror or str(error), _WAY) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise UsageError(f"{path} is no plan file", str(error), _WAY) from error
    if plan.schema != _SCHEMA:
        raise UsageError(f"{path} is a plan of another version of thinpoolmgr ({plan.version})", "", _WAY)
    return plan


_WAY = "Write one with thinpoolmgr plan --out FILE."
