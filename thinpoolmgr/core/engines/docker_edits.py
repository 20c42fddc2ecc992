"""The edits after which Docker's storage is configured in exactly one place."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from thinpoolmgr.core.engines.daemon_json import remove_members
from thinpoolmgr.core.engines.docker_config import (
    STORAGE_KEYS,
    edit_daemon_json,
    find_conflicts,
    is_of_storage,
    read_storage,
    say_conflicts,
)
from thinpoolmgr.core.engines.docker_flags import (
    OPTION_FLAG,
    VARIABLES,
    Slot,
    read_command,
    read_flags,
    storage_flags,
    switches_before,
    why_hidden,
)
from thinpoolmgr.core.engines.docker_options import DRIVER, merge_options
from thinpoolmgr.core.engines.flag_edits import ConfigDoubtError, Splice, apply_splices, remove_flags, set_flags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thinpoolmgr.core.engines.docker_config import Storage
    from thinpoolmgr.core.engines.docker_flags import Arg, Flag
    from thinpoolmgr.core.model import ConfigFile, Engine

OVERRIDE = "/etc/systemd/system/docker.service.d/zz-thinpoolmgr.conf"
"""The drop-in that takes storage flags out of a unit file which belongs to a package."""
FIRST_VERSION_THAT_VALIDATES = 23
_NOT_THE_ADMINS = ("/usr/", "/lib/", "/run/")


class Edit(NamedTuple):
    """The change of one file."""

    path: str
    old_text: str | None
    new_text: str
    why: str


def edit_files(found: Engine, options: tuple[str, ...], config_file: str) -> tuple[Edit, ...]:
    """Return the edits after which `options` and the driver stand in one place, and nowhere else; none when they do.

    Args:
        found: as observed, with nothing unknown in its files.
        options: the storage options that are wanted.
        config_file: of the configuration. `auto` keeps the place where storage is configured: the configuration file
            when it has storage settings, else the place of the flags where that may be edited.

    Raises:
        DaemonJsonError: as for `edit_daemon_json`.
        ConfigDoubtError: when it cannot be done, or not with certainty.

    """
    storage = read_storage(found)
    home = _home(found, storage, config_file)
    is_placed = _is_in_one_place(storage) if config_file == "auto" else _is_only_at(storage, home)
    if is_placed and _is_right(found, storage, options):
        return ()
    hidden = why_hidden(found)
    if hidden:
        raise ConfigDoubtError(hidden, "Give dockerd its flags without a shell, and run this again.")
    stuck = next((flag for flag in storage.flags if not _is_editable(flag) and not _is_at(flag, home)), None)
    if stuck is not None and not _can_be_overridden(stuck):
        raise ConfigDoubtError(
            f"{stuck.place} sets {stuck.name}, which cannot be taken out of it",
            f"Take it out yourself, and run this again; storage belongs in {found.config_path} alone.",
        )
    edits = _make_edits(found, storage, options, home)
    _require_right(found, storage, options, edits)
    return edits


def _is_right(found: Engine, storage: Storage, options: tuple[str, ...]) -> bool:
    if storage.driver != DRIVER or any(map(is_of_storage, find_conflicts(found))):
        return False
    return merge_options(storage.all_options, options).all == storage.all_options


def _is_only_at(storage: Storage, home: Slot | None) -> bool:
    return (home is None or not storage.in_file) and all(_is_at(flag, home) for flag in storage.flags)


def _is_in_one_place(storage: Storage) -> bool:
    """Whether nothing that could be settled stands both in the configuration file and in flags."""
    return not (storage.in_file and any(_is_editable(flag) or _can_be_overridden(flag) for flag in storage.flags))


def _is_at(flag: Flag, slot: Slot | None) -> bool:
    return slot is not None and all(arg.slot is slot and arg.word is not None for arg in flag.args)


def _is_editable(flag: Flag) -> bool:
    slot = flag.args[0].slot
    return slot is not None and _is_at(flag, slot) and not _is_foreign(slot.file.path)


def _is_foreign(path: str) -> bool:
    """Whether a package owns the file, or it goes with the next boot (systemd.unit(5), table of load paths)."""
    return path.startswith(_NOT_THE_ADMINS) and not path.startswith("/usr/local/")


def _can_be_overridden(flag: Flag) -> bool:
    """Whether it stands in an `ExecStart=` that is not ours to edit: a drop-in can take its place."""
    slot = flag.args[0].slot
    return slot is not None and slot.kind == "exec" and _is_at(flag, slot) and _is_foreign(slot.file.path)


def _home(found: Engine, storage: Storage, config_file: str) -> Slot | None:
    """Return where the storage settings are to stand; None for the configuration file."""
    if config_file in ("daemon.json", found.config_path):
        return None
    if config_file != "auto":
        return _slot_in(found, storage, config_file)
    editable = [flag for flag in storage.flags if _is_editable(flag)]
    with_options = [flag for flag in editable if flag.name == OPTION_FLAG] or editable
    return with_options[-1].args[0].slot if with_options and not storage.in_file else None


def _slot_in(found: Engine, storage: Storage, path: str) -> Slot | None:
    file = next((file for file in found.files if file.path == path and file.named), None)
    if file is None:
        # Read as a configuration file of JSON: there is no unit which could say that it is not.
        return None
    with_flags = [flag.args[0].slot for flag in storage.flags if _is_editable(flag)]
    slots = [slot for slot in with_flags if slot is not None and slot.file.path == path]
    if slots:
        return slots[-1]
    names = sorted(storage.command.variables, key=lambda name: VARIABLES.index(name) if name in VARIABLES else 9)
    set_here = [slot for name in names if (slot := storage.command.variables[name]) and slot.file.path == path]
    free = [name for name in names if storage.command.variables[name] is None]
    if set_here or (free and file.kind == "environment"):
        return set_here[0] if set_here else Slot(file, "environment", free[0], (), -1, -1)
    exec_slot = next((arg.slot for arg in storage.command.args if arg.slot and arg.slot.kind == "exec"), None)
    if exec_slot is not None and exec_slot.file.path == path and path.startswith("/etc/"):
        return exec_slot
    raise ConfigDoubtError(
        f"nothing that {path} sets becomes part of Docker's command line as words of their own",
        'Set config_file = "auto", or have ExecStart use a variable of that file ($NAME, not ${NAME}).',
    )


def _make_edits(found: Engine, storage: Storage, options: tuple[str, ...], home: Slot | None) -> tuple[Edit, ...]:
    at_home = [flag for flag in storage.flags if _is_at(flag, home)]
    elsewhere = [flag for flag in storage.flags if not _is_at(flag, home)]
    strays = [flag.value for flag in elsewhere if flag.name == OPTION_FLAG]
    strays += storage.options if home is not None else []
    edits = []
    splices: dict[str, list[Splice]] = {}
    if home is not None:
        splices[home.file.path] = set_flags(home, at_home, options, strays)
    for slot in {id(flag.args[0].slot): flag.args[0].slot for flag in elsewhere}.values():
        flags = [flag for flag in elsewhere if flag.args[0].slot is slot]
        if slot is not None and _can_be_overridden(flags[0]):
            edits.append(_override(found, slot, flags))
        elif slot is not None:
            splices.setdefault(slot.file.path, []).extend(remove_flags(slot, flags))
    place = found.config_path if home is None else home.file.path
    conflicts = [conflict for conflict in find_conflicts(found) if is_of_storage(conflict)]
    settled = f"{say_conflicts(conflicts)}; they stay in {place}" if conflicts else ""
    for path, found_splices in splices.items():
        text = next(file.text for file in found.files if file.path == path)
        why = _why_home(storage, options, path, text) if path == place else f"its storage settings go to {place}"
        edits.append(Edit(path, text, apply_splices(text or "", found_splices), settled or why))
    if home is None:
        new = edit_daemon_json(found.config_text, options, strays)
        edits.append(Edit(place, found.config_text, new, _why_home(storage, options, place, found.config_text)))
    elif storage.in_file:
        new = remove_members(storage.document, STORAGE_KEYS)
        edits.append(Edit(found.config_path, found.config_text, new, settled or f"its storage settings go to {place}"))
    # What stays comes first: a kill in between leaves too much, which the next run settles, and never too little.
    edits.sort(key=lambda edit: edit.path != place)
    return tuple(edit for edit in edits if edit.new_text != edit.old_text)


def _why_home(storage: Storage, options: tuple[str, ...], path: str, text: str | None) -> str:
    what = "does not exist" if text is None else "does not have all storage options for this pool"
    missing = [option for option in options if option not in storage.all_options] or [STORAGE_KEYS[0]]
    more = f" and {len(missing) - 2} more" if len(missing) > 2 else ""
    return f"{path} {what}: {', '.join(missing[:2])}{more}"


def _override(found: Engine, slot: Slot, flags: list[Flag]) -> Edit:
    """Return the drop-in that has a package's `ExecStart=` without its storage flags: the unit file stays as it is."""
    file: ConfigFile | None = next((file for file in found.files if file.path == OVERRIDE), None)
    if file is None or file.text is not None:
        raise ConfigDoubtError(
            f"{flags[0].place} sets {flags[0].name}, and the file belongs to a package",
            f"Give docker.service an ExecStart without it (systemctl edit {found.service.unit}), and run this again.",
        )
    gone = {arg.word for flag in flags for arg in flag.args}
    text = slot.file.text or ""
    words = " ".join(text[word.start : word.end] for word in slot.words if word not in gone)
    lines = (
        f"# Made by thinpoolmgr: ExecStart of {slot.file.path} without its storage flags, which stand in",
        f"# {found.config_path}. Should a new version of the package change its ExecStart, change this one, too.",
        "[Service]",
        "ExecStart=",
        f"ExecStart={words}",
    )
    why = f"{flags[0].place} sets {flags[0].name}, and a package's unit file is not edited"
    return Edit(OVERRIDE, None, "\n".join(lines) + "\n", why)


def _require_right(found: Engine, storage: Storage, options: tuple[str, ...], edits: tuple[Edit, ...]) -> None:
    """Read the new texts as Docker will: they must say what is wanted, and all else what it said before.

    Raises:
        ConfigDoubtError: when they do not; it is the last guard against a text that was misunderstood.

    """
    after = found
    for edit in edits:
        after = after.with_text(edit.path, edit.new_text)
    new = read_storage(after)
    if not _is_right(after, new, options) or _others(new.command.args) != _others(storage.command.args):
        paths = ", ".join(edit.path for edit in edits)
        raise ConfigDoubtError(
            f"{paths} cannot be edited with certainty",
            f"Set the driver {DRIVER} and these options yourself: {' '.join(options)}; nowhere else, then run again.",
        )


def _others(args: Sequence[Arg]) -> list[str]:
    """Return all that does not choose storage; of `-Ds` that is `-D`."""
    of_storage = {id(arg) for flag in storage_flags(args) for arg in flag.args}
    texts = [switches_before(arg.text) if id(arg) in of_storage else arg.text for arg in args]
    return [text for text in texts if text]


def check_command(found: Engine, candidate: str) -> tuple[tuple[str, ...], str]:
    """Return the command with which Docker itself checks what its next start would be given, and the text for it.

    Both are empty for a Docker that cannot check (before 23), or of which no version is known.

    Args:
        found: as it will be when its files are edited.
        candidate: the file into which the text of the configuration file is put for the check.

    """
    number = re.match(r"v?(\d{1,4})\.", found.version)
    if number is None or int(number[1]) < FIRST_VERSION_THAT_VALIDATES:
        return (), ""
    args = read_command(found).args
    named = {id(arg) for flag in read_flags(args) if flag.name == "--config-file" for arg in flag.args}
    flags = [arg.text for arg in args[1:] if id(arg) not in named]
    return ("dockerd", "--validate", "--config-file", candidate, *flags), found.config_text or json.dumps({}) + "\n"
