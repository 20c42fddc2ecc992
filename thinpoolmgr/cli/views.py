"""Pictures of a host's state and of a configuration, line by line. Prints nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from thinpoolmgr.cli.text import columns, count, fit, plain, wrap
from thinpoolmgr.units import MIB, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinpoolmgr.config import LoadedConfig
    from thinpoolmgr.core.documents import EngineDocument, PoolDocument, StatusDocument, Use
    from thinpoolmgr.core.findings import Finding

SEVERITY_COLORS = {"info": "cyan", "warning": "yellow", "error": "red"}
_GOOD_STATES = frozenset({"healthy", "running"})
_BAD_STATES = frozenset(
    {
        "failed",
        "needs_check",
        "read_only",
        "out_of_data",
        "out_of_metadata",
        "partial",
        "unknown",
        "lost",
        "unsupported",
    }
)
_LABEL = 12
_SHOWN_SMALLER = 20
"""Columns before the facts of a pool: two of indent, the label, and one or more spaces."""


def status_lines(document: StatusDocument) -> Iterator[str]:
    """Return pools, engines and findings."""
    for pool in document.pools:
        yield from _pool(pool)
    for engine in document.engines:
        yield from _engine(engine)
    yield ""
    for finding in document.findings:
        yield from finding_lines(finding)
    if not document.findings:
        yield click.style("No warnings, no errors.", fg="green")


def config_lines(loaded: LoadedConfig, *, origin: bool) -> Iterator[str]:
    """Return the merged configuration as TOML, one key a line, each with its file when asked for."""
    for key, value in _leaves(loaded.merged, ""):
        where = click.style(f"  # {plain(loaded.origins.get(key, ''))}", dim=True) if origin else ""
        line = f"{plain(key)} = {_shown(value)}"
        if isinstance(value, list) and len(line) > columns():
            yield f"{plain(key)} = ["
            yield from (f"    {_shown(item)}," for item in value)
            line = "]"
        yield f"{line}{where}"


def _shown(value: object) -> str:
    return plain(json.dumps(value, ensure_ascii=False, default=str))


def _leaves(table: dict[str, Any], prefix: str) -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _pool(pool: PoolDocument) -> Iterator[str]:
    yield from _heading(f"pool {plain(pool.name)}", pool.state, f"{plain(pool.volume_group)}/{plain(pool.thin_pool)}")
    yield from use_lines("data", pool.data, "")
    if pool.metadata is not None:
        # The kernel counts it as used: an empty pool would look a tenth full (dm-thin-metadata.c).
        reserve = min(16 * MIB, pool.metadata.total_bytes // 10)
        yield from use_lines("metadata", pool.metadata, f"{format_size(reserve)} of it the kernel's reserve")
    facts = [
        *([f"chunk {format_size(pool.chunk_bytes)}"] if pool.chunk_bytes else []),
        *([f"when full {pool.when_full}"] if pool.when_full else []),
        *([f"discards {pool.discards}"] if pool.discards else []),
        *([f"{count(pool.thin_devices, 'thin device')} active"] if pool.active else []),
    ]
    yield from _fact("options", ", ".join(facts))
    free = f"; {format_size(pool.free_bytes)} free in the group" if pool.free_bytes is not None else ""
    listed = ", ".join(f"{plain(disk.path)} ({format_size(disk.size_bytes)})" for disk in pool.devices)
    yield from _fact("disks", f"{listed}{free}" if listed else "")


def _fact(label: str, text: str) -> Iterator[str]:
    for place, line in enumerate(fit(text, columns() - _LABEL)):
        yield f"  {'' if place else label:<10}{line}"


def use_color(percent: float) -> str:
    """Return the colour of something that is so full."""
    return "red" if percent >= 95 else "yellow" if percent >= 80 else "green"


def use_lines(label: str, use: Use | None, note: str) -> Iterator[str]:
    """Return a bar that shows how full something is, with a note behind it or below."""
    if use is None:
        return
    color = use_color(use.percent)
    width = 20 if columns() >= 80 else 10
    filled = min(width, int(use.percent * width / 100))
    bar = click.style("#" * filled, fg=color) + click.style("-" * (width - filled), dim=True)
    amount = f"{format_size(use.used_bytes)} of {format_size(use.total_bytes)}"
    line = f"  {label:<10}[{bar}] {use.percent:5.1f} %  {amount}"
    if note and len(click.unstyle(line)) + len(note) + 2 <= columns():
        yield f"{line}, {note}"
        return
    yield line
    yield from _fact("", note)


def _engine(engine: EngineDocument) -> Iterator[str]:
    parts = [plain(engine.version)] if engine.version else []
    if engine.driver:
        parts.append(f"driver {plain(engine.driver)}")
    if engine.base_size_bytes:
        parts.append(f"base size {format_size(engine.base_size_bytes)}")
    if engine.stale:
        parts.append(click.style("stale state", fg="yellow"))
    more = f"  {', '.join(parts)}" if parts else ""
    yield from _heading(f"engine {plain(engine.name)}", engine.state, f"on pool {plain(engine.pool)}{more}")
    if engine.smaller_devices and not engine.stale:
        smaller = f"{count(engine.smaller_devices, 'device')} of images and containers smaller than the base"
        yield from _fact("size", f"{smaller}: remove and pull, or create, them again")
        shown = engine.smaller[:_SHOWN_SMALLER]
        names = [f"{each.kind} {plain(each.name)} ({format_size(each.size_bytes)})" for each in shown]
        left = len(engine.smaller) - len(shown)
        yield from _fact("smaller", ", ".join([*names, *([f"{left} more"] if left else [])]))


def _heading(what: str, state: str, rest: str) -> Iterator[str]:
    """Return one line, or several where long names make it too long."""
    if len(f"{what}  {state}  {click.unstyle(rest)}") <= columns():
        yield f"{click.style(what, bold=True)}  {_state(state)}  {rest}"
        return
    for line in wrap(what, ""):
        yield click.style(line, bold=True)
    yield f"  {'state':<10}{_state(state)}"
    yield from wrap(click.unstyle(rest), " " * _LABEL)


def state_color(state: str) -> str:
    """Return the colour of a pool or an engine in this state."""
    return "green" if state in _GOOD_STATES else "red" if state in _BAD_STATES else "yellow"


def _state(state: str) -> str:
    return click.style(state, fg=state_color(state), bold=True)


def finding_lines(finding: Finding) -> Iterator[str]:
    """Return a finding: how bad it is, and what."""
    severity = click.style(f"{finding.severity:<8}", fg=SEVERITY_COLORS[finding.severity], bold=True)
    first, *others = fit(plain(finding.summary), columns() - 9) or [""]
    yield f"{severity} {first}"
    yield from (f"{'':<9}{line}" for line in others)
