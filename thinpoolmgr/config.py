"""The configuration files: read, merged in layers, checked; each value keeps the file it came from.

Tables are merged key by key, everything else is replaced by the later file. Every error names file, key path and
what was expected.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import Struct

from thinpoolmgr.core.desired import (
    DesiredEngine,
    DesiredPool,
    DesiredState,
    EngineConfig,
    PoolConfig,
    Problem,
    find_problems,
)
from thinpoolmgr.core.engines import ENGINE_KINDS
from thinpoolmgr.errors import ConfigError

MAIN_FILE = Path("/etc/thinpoolmgr/thinpoolmgr.toml")
DROP_IN_FOLDER = Path("/etc/thinpoolmgr/conf.d")
VERSION = 1
_MAX_FILE_BYTES = 1024 * 1024
_TOP_LEVEL = ("version", "pools", "engines")
_Table = TypeVar("_Table", PoolConfig, EngineConfig)


class LoadedConfig(Struct, frozen=True):
    """A valid configuration: what it asks for, the merged tables, the file of each key path, each file's text."""

    desired: DesiredState
    merged: dict[str, Any]
    origins: dict[str, str]
    files: tuple[str, ...]
    texts: dict[str, str]


def load_config(explicit: Path | None = None, edited: Mapping[str, str] | None = None) -> LoadedConfig:
    """Return the configuration from `explicit`, or from the main file and its drop-ins in order of name.

    Args:
        explicit: the only file.
        edited: by file, a text that is checked in place of what the file holds.

    Raises:
        ConfigError: a file is missing, unreadable or no TOML, or a value is not what it must be.

    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    texts: dict[str, str] = {}
    paths = _find_files(explicit)
    for path in paths:
        text = texts[str(path)] = (edited or {}).get(str(path)) or _read_text(path)
        table = _parse(path, text)
        try:
            _merge(merged, table, "", origins, str(path))
        except RecursionError as error:
            raise _too_deep(path) from error
    desired = _convert(merged, origins)
    problems = find_problems(desired)
    if problems:
        raise _error(problems, origins)
    return LoadedConfig(desired, merged, origins, tuple(map(str, paths)), texts)


def file_stamps(explicit: Path | None = None) -> tuple[tuple[str, int, int, int], ...]:
    """Return what changes whenever a file of the configuration does: path, time, size and inode of each."""
    paths = [explicit] if explicit else [MAIN_FILE, DROP_IN_FOLDER, *sorted(DROP_IN_FOLDER.glob("*.toml"))]
    stamps = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue
        stamps.append((str(path), status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(stamps)


def _find_files(explicit: Path | None) -> list[Path]:
    if explicit is not None:
        return [explicit]
    try:
        drop_ins = sorted(DROP_IN_FOLDER.glob("*.toml")) if DROP_IN_FOLDER.is_dir() else []
        has_main = MAIN_FILE.exists()
    except OSError as error:
        summary = f"{MAIN_FILE.parent} cannot be read"
        raise ConfigError(
            summary, error.strerror or str(error), "Run it as root, or name a file: --config FILE."
        ) from error
    if not has_main and not drop_ins:
        summary = f"there is no configuration: {MAIN_FILE} does not exist"
        raise ConfigError(
            summary,
            "",
            f"Write one (thinpoolmgr init does), or name one: --config FILE. Drop-ins go to {DROP_IN_FOLDER}.",
        )
    return [*([MAIN_FILE] if has_main else []), *drop_ins]


def _read_text(path: Path) -> str:
    shown = _shown(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(
                f"{shown} is not a file", "Expected: a TOML file.", "Name the file itself: --config FILE."
            )
        if status.st_size > _MAX_FILE_BYTES:
            details = f"It has {status.st_size} bytes; a configuration has at most {_MAX_FILE_BYTES}."
            raise ConfigError(f"{shown} is too large", details, "Name the right file: --config FILE.")
        return path.read_bytes().decode("utf-8")
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            details = f"Byte {error.start} ({error.object[error.start]:#04x}) is not UTF-8, which TOML is written in."
            raise ConfigError(f"{shown} is not valid UTF-8", details, "Save the file as UTF-8.") from error
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{shown} cannot be read", f"{reason}", "Check the path and its permissions.") from error


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        resolution = "Correct the file at that place; toml.io describes the format."
        raise ConfigError(f"{_shown(path)} is not valid TOML", f"{error}", resolution) from error
    except ValueError as error:
        # Such as a number with more digits than Python reads.
        raise ConfigError(f"{_shown(path)} cannot be read", f"{error}", "Correct the file.") from error
    except RecursionError as error:
        raise _too_deep(path) from error


def _too_deep(path: Path) -> ConfigError:
    summary = f"{_shown(path)} is nested too deeply"
    return ConfigError(summary, "", "Nest tables at most four deep, as the documentation shows.")


def _shown(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _merge(into: dict[str, Any], new: dict[str, Any], prefix: str, origins: dict[str, str], file: str) -> None:
    for key, value in new.items():
        where = f"{prefix}{key}"
        origins[where] = file
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value, f"{where}.", origins, file)
        else:
            into[key] = value
            _note_origins(value, where, origins, file)


def _note_origins(value: object, where: str, origins: dict[str, str], file: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            origins[f"{where}.{key}"] = file
            _note_origins(inner, f"{where}.{key}", origins, file)


def _convert(merged: dict[str, Any], origins: dict[str, str]) -> DesiredState:
    problems = [
        Problem(key, "an unknown key", f"one of {', '.join(_TOP_LEVEL)}") for key in merged if key not in _TOP_LEVEL
    ]
    version = merged.get("version", VERSION)
    if version != VERSION or type(version) is not int:
        found = "nothing" if version is None else repr(version)
        problems.append(Problem("version", found, f"version = {VERSION}"))
    pools = _tables(merged, "pools", PoolConfig, problems)
    engines = _tables(merged, "engines", EngineConfig, problems)
    unknown = [kind for kind in engines if kind not in ENGINE_KINDS]
    problems += [
        Problem(f"engines.{kind}", "an unknown engine", f"one of {', '.join(ENGINE_KINDS)}") for kind in unknown
    ]
    if not pools and not problems:
        problems.append(Problem("pools", "no pool", "at least one table [pools.NAME]"))
    if problems:
        raise _error(problems, origins)
    return DesiredState(
        tuple(DesiredPool(name, config) for name, config in pools.items()),
        tuple(DesiredEngine(kind, config) for kind, config in engines.items()),
    )


def _tables(merged: dict[str, Any], name: str, kind: type[_Table], problems: list[Problem]) -> dict[str, _Table]:
    tables = merged.get(name, {})
    if not isinstance(tables, dict):
        problems.append(Problem(name, type(tables).__name__, f"tables such as [{name}.docker]"))
        return {}
    converted = {}
    for key, table in tables.items():
        try:
            converted[key] = msgspec.convert(table, kind, strict=True)
        except msgspec.ValidationError as error:
            problems.append(_validation_problem(f"{name}.{key}", str(error), kind))
    return converted


def _validation_problem(prefix: str, message: str, kind: type[PoolConfig | EngineConfig]) -> Problem:
    """Turn msgspec's `Expected ... - at `$.devices[0]`` into key path, finding and expectation."""
    text, _, path = message.partition(" - at `$")
    key = prefix + path.rstrip("`")
    if text.startswith("Object contains unknown field `"):
        unknown = text.split("`")[1]
        return Problem(f"{key}.{unknown}", "an unknown key", f"one of {', '.join(_known_keys(kind, path.rstrip('`')))}")
    if text.startswith("Object missing required field `"):
        return Problem(f"{key}.{text.split('`')[1]}", "nothing", "a value: this key is required")
    expected, _, found = text.removeprefix("Expected ").replace(" | null", "").partition(", got ")
    if text.startswith("Invalid enum value "):
        choices = _choices(kind, path.rstrip("`").removeprefix("."))
        return Problem(
            key, text.removeprefix("Invalid enum value "), f"one of {choices}" if choices else "another value"
        )
    return Problem(key, found.replace("`", "") or "this", expected.replace("`", ""))


def _known_keys(kind: type[Struct], path: str) -> list[str]:
    return [field.name for field in msgspec.structs.fields(_struct_at(kind, path.strip(".").split(".")))]


def _struct_at(kind: type[Struct], names: list[str]) -> type[Struct]:
    """Return the struct below `kind` at these keys, through lists of structs (`match[0]`) as well."""
    for name in names:
        field = next((f for f in msgspec.structs.fields(kind) if f.name == name.partition("[")[0]), None)
        kinds = (field.type, *get_args(field.type)) if field else ()
        kind = next((inner for inner in kinds if isinstance(inner, type) and issubclass(inner, Struct)), kind)
    return kind


def _choices(kind: type[Struct], path: str) -> str:
    *parents, name = path.split(".")
    fields = msgspec.structs.fields(_struct_at(kind, parents))
    field = next((f for f in fields if f.name == name), None)
    return ", ".join(repr(choice) for choice in getattr(field.type, "__args__", ())) if field else ""


def _error(problems: list[Problem], origins: dict[str, str]) -> ConfigError:
    lines = [f"{_origin(p.key, origins)}: {p.key}: found {p.found}; expected {p.expected}" for p in problems]
    first = problems[0]
    summary = f"{first.key} in {_origin(first.key, origins)} is not valid"
    if len(problems) > 1:
        summary = f"the configuration has {len(problems)} errors"
    return ConfigError(
        summary,
        "\n".join(lines),
        "Correct the configuration; thinpoolmgr config check looks at it without touching anything.",
    )


def _origin(key: str, origins: dict[str, str]) -> str:
    """The file that set `key`, or the nearest table above it."""
    while key:
        bare = key.partition("[")[0] if key.endswith("]") else key
        if bare in origins:
            return origins[bare]
        key = key.rpartition(".")[0]
    return next(iter(origins.values()), "the configuration")
