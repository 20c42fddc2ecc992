"""The engine kinds, as one record of pure functions each: adding a kind adds a module and one entry here."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from thinpoolmgr.core.engines import docker, docker_state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from thinpoolmgr.core.desired import EngineConfig
    from thinpoolmgr.core.engines.docker_state import StateVerdict
    from thinpoolmgr.core.model import Engine, ThinPoolStatus


class EngineRules(NamedTuple):
    """What the planner asks about an engine, whatever its kind."""

    supports_driver: Callable[[str], bool | None]
    """By version; None when the version says nothing."""
    unsupported_text: Callable[[str], tuple[str, str, str]]
    """Summary, details and resolution for a version without the driver."""
    storage_options: Callable[[EngineConfig, str], tuple[str, ...]]
    """From the configuration and the pool's device-mapper name."""
    edit_config: Callable[[str | None, tuple[str, ...]], str]
    """From the file's text to its new text; raises a ValueError that names line and column."""
    is_configured: Callable[[Engine, tuple[str, ...]], bool]
    configured_pool_dm_name: Callable[[str | None], str]
    driver_name: Callable[[str], str]
    """From a thin device's device-mapper name to the driver's own; empty when the engine did not make it."""
    state_verdict: Callable[[Engine, bool, ThinPoolStatus | None, bool, float | None], StateVerdict]


ENGINES: Mapping[str, EngineRules] = {
    "docker": EngineRules(
        supports_driver=docker.supports_devicemapper,
        unsupported_text=docker.unsupported_text,
        storage_options=docker.storage_options,
        edit_config=docker.edit_daemon_json,
        is_configured=docker.is_configured,
        configured_pool_dm_name=docker.configured_pool_dm_name,
        driver_name=docker.driver_name,
        state_verdict=docker_state.state_verdict,
    ),
}
ENGINE_KINDS: tuple[str, ...] = tuple(ENGINES)
