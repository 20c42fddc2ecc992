"""What a plan does about an engine's configuration: edited in exactly one place, checked, read again by systemd."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from thinpoolmgr.core.engines import ENGINES
from thinpoolmgr.core.engines.daemon_json import DaemonJsonError
from thinpoolmgr.core.engines.docker_config import is_of_storage, say_conflicts
from thinpoolmgr.core.engines.flag_edits import ConfigDoubtError
from thinpoolmgr.core.plan import Plan, Refusal
from thinpoolmgr.core.steps import ReloadUnits, Step, StopContainers, StopEngine, WriteEngineConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thinpoolmgr.core.desired import DesiredEngine
    from thinpoolmgr.core.engines.docker_edits import Edit
    from thinpoolmgr.core.model import Engine

CANDIDATE = "/run/thinpoolmgr/daemon.json"
"""Where the new text lies while the engine checks it."""


def check_files(found: Engine) -> Refusal | None:
    """Return why the engine's configuration cannot be gone by; None when it can."""
    problems = [(found.config_path, found.config_problem), *((file.path, file.problem) for file in found.files)]
    for path, problem in problems:
        if problem:
            resolution = f"Correct {path}; thinpoolmgr edits only what it can read without a doubt."
            return Refusal("ENGINE_CONFIG_INVALID", path, f"{path} cannot be read", problem, resolution)
    two_pools = ENGINES[found.kind].why_two_pools(found) if found.state else ""
    if two_pools:
        summary = f"{found.name}'s storage is configured in two places, and they name different pools"
        resolution = f"Remove the one that {found.name} does not use, and run this again: its state is in one of them."
        return Refusal("ENGINE_CONFIG_TWICE", found.config_path, summary, two_pools, resolution)
    return None


def plan_config(engine: DesiredEngine, found: Engine, options: tuple[str, ...], pool: str) -> list[Step] | Refusal:
    """Return the steps that put the options in place, and have systemd read its files again; none when all is right.

    Where unit files were changed before, systemd reads them again at the latest before it starts the engine.
    """
    rules = ENGINES[engine.kind]
    try:
        edits = rules.edit_files(found, options, engine.config.config_file)
        conflicts = [conflict for conflict in rules.find_conflicts(found) if not is_of_storage(conflict)]
    except DaemonJsonError as error:
        return _refuse(found, "ENGINE_CONFIG_INVALID", str(error), f"Correct {found.config_path}, and run this again.")
    except ConfigDoubtError as error:
        return _refuse(found, "ENGINE_CONFIG_DOUBT", str(error), error.way_out)
    if edits and conflicts:
        resolution = f"Remove one of each two: {found.name} would not start again. Then run this again."
        return _refuse(found, "ENGINE_CONFIG_TWICE", say_conflicts(conflicts), resolution)
    steps: list[Step] = [
        WriteEngineConfig(
            reason=edit.why,
            pool=pool,
            engine=found.name,
            path=edit.path,
            old_text=edit.old_text,
            new_text=edit.new_text,
        )
        for edit in edits
    ]
    return _why_unwritable(found, edits) or [*steps, *_reload(found, edits, pool)]


def _refuse(found: Engine, code: str, details: str, resolution: str) -> Refusal:
    return Refusal(
        code, found.config_path, f"the storage of {found.name} cannot be configured as it is", details, resolution
    )


def _why_unwritable(found: Engine, edits: Sequence[Edit]) -> Refusal | None:
    reasons = {file.path: file.unwritable for file in found.files} | {found.config_path: found.config_unwritable}
    resolution = "Make it writable (mount -o remount,rw; chattr -i), and run this again."
    for edit in edits:
        if reasons.get(edit.path):
            summary = f"{edit.path} cannot be written"
            return Refusal("ENGINE_CONFIG_UNWRITABLE", edit.path, summary, reasons[edit.path], resolution)
    return None


def _reload(found: Engine, edits: Sequence[Edit], pool: str) -> list[Step]:
    units = {file.path for file in found.files if file.kind == "unit"}
    is_edited = any(edit.path in units for edit in edits)
    # A running engine is not bothered for what others changed in its unit.
    if is_edited or (found.service.needs_reload and (edits or not found.running)):
        reason = f"systemd does not know yet what the unit files of {found.name} say now"
        return [ReloadUnits(reason=reason, pool=pool, engine=found.name)]
    return []


def with_check(plan: Plan, found: Engine, steps: Sequence[Step]) -> Plan:
    """Return `plan` with the engine's own check of its new configuration before anything stops, where it has one."""
    writes = [step for step in steps if isinstance(step, WriteEngineConfig)]
    for step in writes:
        found = found.with_text(step.path, step.new_text)
    check, text = ENGINES[found.kind].check_command(found, CANDIDATE) if writes else ((), "")
    if not check:
        return plan
    first = next((step for step in plan.steps if isinstance(step, StopContainers | StopEngine)), None)
    checked = (
        replace(step, check=check, candidate=CANDIDATE, candidate_text=text) if step is first else step
        for step in plan.steps
    )
    return replace(plan, steps=tuple(checked))
