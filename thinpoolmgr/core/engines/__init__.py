"""The engine kinds, as one record of pure functions each: adding a kind adds a module and one entry here."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from thinpoolmgr.core.engines import docker, docker_config, docker_edits, docker_state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from thinpoolmgr.core.desired import EngineConfig
    from thinpoolmgr.core.engines.docker_config import Conflict
    from thinpoolmgr.core.engines.docker_edits import Edit
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
    edit_files: Callable[[Engine, tuple[str, ...], str], tuple[Edit, ...]]
    """From the options and `config_file` to the edits after which they stand in one place; raises a ValueError."""
    check_command: Callable[[Engine, str], tuple[tuple[str, ...], str]]
    """The engine's own check of its configuration, and the text that the file named is to hold for it."""
    find_conflicts: Callable[[Engine], tuple[Conflict, ...]]
    find_unused: Callable[[Engine], tuple[tuple[str, str], ...]]
    """Settings without effect: their file, and why."""
    why_two_pools: Callable[[Engine], str]
    configured_pool_dm_name: Callable[[Engine], str]
    driver_name: Callable[[str], str]
    """From a thin device's device-mapper name to the driver's own; empty when the engine did not make it."""
    state_verdict: Callable[[Engine, bool, ThinPoolStatus | None, bool, float | None], StateVerdict]


ENGINES: Mapping[str, EngineRules] = {
    "docker": EngineRules(
        supports_driver=docker.supports_devicemapper,
        unsupported_text=docker.unsupported_text,
        storage_options=docker.storage_options,
        edit_files=docker_edits.edit_files,
        check_command=docker_edits.check_command,
        find_conflicts=docker_config.find_conflicts,
        find_unused=docker_config.find_unused,
        why_two_pools=docker_config.why_two_pools,
        configured_pool_dm_name=docker_config.configured_pool_dm_name,
        driver_name=docker.driver_name,
        state_verdict=docker_state.state_verdict,
    ),
}
ENGINE_KINDS: tuple[str, ...] = tuple(ENGINES)
