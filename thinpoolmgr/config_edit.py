"""Edits one value of the configuration, in the file where it stands; comments, order and line ends stay.

The only user of `tomlkit`. What it makes is read again with `tomllib`: when anything but that value would change,
nothing is written.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from msgspec import Struct

from thinpoolmgr.config import LoadedConfig, load_config
from thinpoolmgr.errors import ConfigError
from thinpoolmgr.host.files import write_atomically
from thinpoolmgr.units import parse_size


class ConfigEdit(Struct, frozen=True):
    """A configuration as an edit would make it, checked but not written."""

    path: str
    old_text: str
    new_text: str
    loaded: LoadedConfig
    intent: str
    """What it would do, and `note` what it has done, in words."""
    note: str

    def write(self) -> None:
        """Put the new text in place of the old one, whole or not at all.

        Raises:
            RefusedError: the file holds something else by now, or is no regular file.
            FileFailedError: the operating system refused.

        """
        write_atomically(os.path.abspath(self.path), self.new_text, expect_text=self.old_text)


def edit_base_size(loaded: LoadedConfig, explicit: Path | None, engine: str, size: str) -> ConfigEdit | None:
    """Return how `loaded` becomes one with this base size; None when it has it already.

    Args:
        loaded: the configuration; it has `engine`.
        explicit: what `loaded` was loaded from, as for `load_config`.
        engine: name of the engine.
        size: as a configuration takes it.

    Raises:
        ConfigError: the result would not be valid, or the file is written in a way that cannot be edited safely.

    """
    found = next(other for other in loaded.desired.engines if other.name == engine)
    if parse_size(found.config.base_size) == parse_size(size):
        return None
    table = f"engines.{engine}"
    key = f"{table}.base_size"
    # A default stands nowhere: it is set where the engine's table is, in the last such file.
    path = loaded.origins.get(key) or loaded.origins[table]
    old_text = loaded.texts[path]
    new_text = _with_value(path, old_text, engine, size)
    intent = f'{path}: {key} is to become "{size}"; it is "{found.config.base_size}".'
    note = f'{path}: {key} is "{size}" now; it was "{found.config.base_size}".'
    return ConfigEdit(path, old_text, new_text, load_config(explicit, {path: new_text}), intent, note)


def _with_value(path: str, text: str, engine: str, size: str) -> str:
    import tomlkit  # noqa: PLC0415 - seldom needed
    from tomlkit.exceptions import TOMLKitError  # noqa: PLC0415 - as above

    wanted = tomllib.loads(text)
    wanted["engines"][engine]["base_size"] = size
    try:
        document: Any = tomlkit.parse(text)
        is_kept = tomlkit.dumps(document) == text
        table = document["engines"][engine]
        is_new = "base_size" not in table
        table["base_size"] = size
        if is_new:
            _move_up(table)
        new_text = tomlkit.dumps(document)
    except (TOMLKitError, ValueError) as error:
        raise _by_hand(path, engine, size, str(error)) from error
    if not is_kept or tomllib.loads(new_text) != wanted:
        raise _by_hand(path, engine, size, "Something else in it would change, too.")
    return new_text


def _move_up(table: Any) -> None:
    """Put what was added to `table` behind its last value: comments at its end may belong to what follows."""
    import tomlkit.items  # noqa: PLC0415 - as above

    if not isinstance(table, tomlkit.items.Table):
        return
    body = table.value.body
    values = [place for place, (key, _) in enumerate(body) if key is not None]
    if len(values) < 2:
        return
    key, item = body.pop(values[-1])
    before = body[values[-2]][1].trivia
    item.trivia.indent, item.trivia.trail = before.indent, before.trail
    body.insert(values[-2] + 1, (key, item))


def _by_hand(path: str, engine: str, size: str, details: str) -> ConfigError:
    resolution = f'Set base_size = "{size}" in [engines.{engine}] yourself; then run thinpoolmgr apply.'
    return ConfigError(f"{path} is written in a way that cannot be edited safely", details, resolution)
