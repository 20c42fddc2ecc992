"""What the monitor says to people: findings as they come and go, extensions as they end; to the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinpoolmgr.host import journald
from thinpoolmgr.host.journald import ERROR, NOTICE, PRIORITIES, WARNING
from thinpoolmgr.units import format_size

if TYPE_CHECKING:
    from thinpoolmgr.errors import ConfigError
    from thinpoolmgr.monitor.seam import Event


def tell(event: Event) -> None:
    """Say what is new of a pool."""
    pool = event.pool
    if event.extended is not None and pool.last_extension is not None:
        sizes = ((event.extended.data_bytes, "data"), (event.extended.metadata_bytes, "metadata"))
        grown = " and ".join(f"{what} to {format_size(size)}" for size, what in sizes if size)
        message = f"{pool.group}/{pool.lv} was extended: {grown}, in {pool.last_extension.reaction_seconds:.1f} s"
        journald.send(message, NOTICE, event="extension-done", pool=pool.name)
        return
    for sighting in pool.findings:
        journald.send(
            sighting.summary, _priority(sighting.code), code=sighting.code, pool=pool.name, target=sighting.target
        )
    if not pool.findings:
        journald.send(f"{pool.group}/{pool.lv} is {pool.state}", NOTICE, pool=pool.name)


def _priority(code: str) -> int:
    # Late: the table brings much with it, and a pool that is well needs none of it.
    from thinpoolmgr.core.findings.table import FINDINGS  # noqa: PLC0415

    return PRIORITIES[FINDINGS[code].severity] if code in FINDINGS else ERROR


def told_config_problem(error: ConfigError) -> None:
    """Say that the configuration was not read again."""
    message = f"the configuration stays as it was: {error.summary}: {error.details}"
    journald.send(message, WARNING, code="CONFIG")


def told_config_again() -> None:
    """Say that the configuration, which was wrong, could be read."""
    journald.send("the configuration was read again", NOTICE)
