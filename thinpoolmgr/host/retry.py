"""Named policies for waiting: the one file that knows tenacity. Reads and removals are retried, creations never."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")
BUSY_SECONDS = 20.0
DISK_PAUSE_SECONDS = 0.5
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0


def until_not_busy(
    attempt: Callable[[], _Result], is_busy: Callable[[_Result], bool], seconds: float = BUSY_SECONDS
) -> _Result:
    """Return the first result of `attempt` that is not busy, or the last one after `seconds`.

    For removals: a device closed a moment ago is still held by udev's workers, which let go by themselves.
    """
    # Imported late: most runs never wait.
    import tenacity  # noqa: PLC0415

    policy = tenacity.Retrying(
        retry=tenacity.retry_if_result(is_busy),
        wait=tenacity.wait_exponential(multiplier=_FIRST_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS),
        stop=tenacity.stop_after_delay(seconds),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    result: _Result = policy(attempt)
    return result


def until_there(look: Callable[[], _Result], is_there: Callable[[_Result], bool], seconds: float) -> _Result:
    """Return the first result of `look` that is there, or the last one after `seconds`; one look is always taken.

    For what comes by itself: a disk that the kernel finds late, the end of another run.
    """
    import tenacity  # noqa: PLC0415 - as above

    policy = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda result: not is_there(result)),
        wait=tenacity.wait_fixed(DISK_PAUSE_SECONDS),
        stop=tenacity.stop_after_delay(seconds),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    result: _Result = policy(look)
    return result
