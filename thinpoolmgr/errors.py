"""The one exception tree: every error knows its exit code, and says what to do about it."""

from __future__ import annotations

from typing import ClassVar


class ThinpoolmgrError(Exception):
    """An error a user sees: a summary, the details behind it, and the way out.

    Args:
        summary: one line, what is wrong.
        details: the evidence: messages of tools, names, values.
        resolution: what the user can do now.
        code: the stable name of this error, as it appears in JSON.

    """

    exit_code: ClassVar[int] = 1
    default_code: ClassVar[str] = "FAILED"

    def __init__(self, summary: str, details: str = "", resolution: str = "", *, code: str = "") -> None:
        super().__init__(summary)
        self.summary = summary
        self.details = details
        self.resolution = resolution
        self.code = code or self.default_code


class CommandFailedError(ThinpoolmgrError):
    """A host command failed."""

    exit_code = 1
    default_code = "COMMAND_FAILED"


class RefusedError(ThinpoolmgrError):
    """Refused for safety: nothing was changed."""

    exit_code = 3
    default_code = "REFUSED"


class StalePlanError(ThinpoolmgrError):
    """A plan file describes a host that is no longer there."""

    exit_code = 4
    default_code = "PLAN_STALE"


class NeedsPersonError(ThinpoolmgrError):
    """An interrupted run cannot be continued without a decision."""

    exit_code = 5
    default_code = "NEEDS_PERSON"


class IncoherentError(ThinpoolmgrError):
    """A step reported success and the host does not show it."""

    exit_code = 6
    default_code = "POST_CONDITION_FALSE"


class UsageError(ThinpoolmgrError):
    """The command line is wrong."""

    exit_code = 64
    default_code = "USAGE"


class UnavailableError(ThinpoolmgrError):
    """A tool, a kernel target, or an engine with the driver is missing."""

    exit_code = 69
    default_code = "UNAVAILABLE"


class LockedError(ThinpoolmgrError):
    """Another run holds the lock."""

    exit_code = 75
    default_code = "LOCKED"


class NotRootError(ThinpoolmgrError):
    """The command needs root."""

    exit_code = 77
    default_code = "NOT_ROOT"


class ConfigError(ThinpoolmgrError):
    """The configuration is wrong."""

    exit_code = 78
    default_code = "CONFIG"


class InterruptedRunError(ThinpoolmgrError):
    """A signal stopped the run after the step that was under way."""

    default_code = "INTERRUPTED"

    def __init__(self, signal_number: int, summary: str, details: str = "", resolution: str = "") -> None:
        super().__init__(summary, details, resolution)
        self.signal_number = signal_number
