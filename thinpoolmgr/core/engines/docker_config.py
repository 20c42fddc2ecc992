"""Where Docker's storage is configured: all places together, what they say twice, and what has no effect.

Docker never merges a flag with the same directive of its configuration file: it does not start when both are there,
even with equal values (cmd/dockerd/daemon.go, daemon/config/config.go, findConfigurationConflicts).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from thinpoolmgr.core.engines.daemon_json import parse_object, refuse, set_members
from thinpoolmgr.core.engines.docker_flags import (
    DRIVER_FLAG,
    OPTION_FLAG,
    Arg,
    read_command,
    read_flags,
    storage_flags,
)
from thinpoolmgr.core.engines.docker_options import DRIVER, merge_options, pool_of
from thinpoolmgr.core.engines.words import line_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thinpoolmgr.core.engines.daemon_json import JsonObject
    from thinpoolmgr.core.engines.docker_flags import CommandLine, Flag, Slot
    from thinpoolmgr.core.model import Engine

DOCKERS_WORDS = "the following directives are specified both as a flag and in the configuration file"
_DRIVER_KEY, _OPTIONS_KEY = "storage-driver", "storage-opts"
STORAGE_KEYS = (_DRIVER_KEY, _OPTIONS_KEY)
# Keys of the file whose flag is called otherwise; else they are equal, or the key is the plural.
_ODD_KEYS = {"insecure-registry": "insecure-registries", "add-runtime": "runtimes"}


class Conflict(NamedTuple):
    """One directive that is set both as a flag and in the configuration file."""

    key: str
    flag: str
    file: str


class Storage(NamedTuple):
    """What all places together say of the storage."""

    document: JsonObject
    command: CommandLine
    flags: list[Flag]
    options: list[str]
    """Of the configuration file."""

    @property
    def in_file(self) -> bool:
        """Whether the configuration file has settings of storage."""
        return any(self.document.find(key) for key in STORAGE_KEYS)

    @property
    def driver(self) -> str:
        """The driver that is asked for; empty for none."""
        member = self.document.find(_DRIVER_KEY)
        values = [flag.value for flag in self.flags if flag.name == DRIVER_FLAG]
        return values[-1] if values else str(member.value) if member else ""

    @property
    def all_options(self) -> list[str]:
        """Those of the configuration file, then those of flags."""
        return [*self.options, *(flag.value for flag in self.flags if flag.name == OPTION_FLAG)]


def edit_daemon_json(text: str | None, options: tuple[str, ...], strays: list[str] | None = None) -> str:
    """Return `text` with the devicemapper driver and `options` set, all else kept byte for byte.

    A text that is right already, or `None` or empty, gives itself or a fresh document. See `merge_options` for what
    becomes of other options.

    Raises:
        DaemonJsonError: when `text` is not one JSON object with unique keys, or `storage-opts` no list of texts.

    """
    document = parse_object(text)
    wanted = merge_options(_option_list(document), options, strays).all
    return set_members(document, {_DRIVER_KEY: DRIVER, _OPTIONS_KEY: wanted})


def _option_list(document: JsonObject) -> list[str]:
    member = document.find(_OPTIONS_KEY)
    if member is None or member.value is None:
        return []
    if not isinstance(member.value, list):
        refuse(document.text, member.start, "storage-opts must be a list of texts")
    options = [option for option in member.value if isinstance(option, str)]
    if len(options) != len(member.value):
        refuse(document.text, member.start, "storage-opts must hold nothing but texts")
    return options


def configured_data_root(text: str | None) -> str:
    """Return the data root that a daemon.json names (`graph` is its name before 17.05); empty when it names none.

    Raises:
        DaemonJsonError: when `text` is not one JSON object with unique keys.

    """
    document = parse_object(text)
    roots = [member.value for member in map(document.find, ("data-root", "graph")) if member]
    return next((root for root in roots if isinstance(root, str)), "")


def read_storage(found: Engine) -> Storage:
    """Return what all places say.

    Raises:
        DaemonJsonError: as for `edit_daemon_json`.

    """
    document = parse_object(found.config_text)
    command = read_command(found)
    flags = storage_flags((*command.args, *command.by_hand))
    return Storage(document, command, flags, _option_list(document))


def configured_pool_dm_name(found: Engine) -> str:
    """Return the device-mapper name of the pool that Docker's configuration names; empty when it names none.

    Raises:
        DaemonJsonError: as for `edit_daemon_json`.

    """
    storage = read_storage(found)
    return pool_of(storage.driver, storage.all_options)


def why_two_pools(found: Engine) -> str:
    """Return the evidence when flags and configuration file name different pools: either may be the one in use.

    Raises:
        DaemonJsonError: as for `edit_daemon_json`.

    """
    storage = read_storage(found)
    in_flags = pool_of("", [flag.value for flag in storage.flags if flag.name == OPTION_FLAG])
    in_file = pool_of("", storage.options)
    if not in_flags or not in_file or in_flags == in_file:
        return ""
    place = next(flag.place for flag in storage.flags if pool_of("", [flag.value]))
    return f"{place} names {in_flags}, {found.config_path} names {in_file}"


def find_conflicts(found: Engine) -> tuple[Conflict, ...]:
    """Return the directives for which Docker would not start; storage comes first.

    Raises:
        DaemonJsonError: as for `edit_daemon_json`.

    """
    storage = read_storage(found)
    seen: dict[str, Conflict] = {}
    for flag in read_flags((*storage.command.args, *storage.command.by_hand)):
        name = flag.name.removeprefix("--")
        for key in (name, f"{name}s", _ODD_KEYS.get(name, "")):
            member = storage.document.find(key)
            if member is not None:
                line = line_of(storage.document.text, member.start)
                seen.setdefault(key, Conflict(key, flag.place, f"{found.config_path}, line {line}"))
    return tuple(sorted(seen.values(), key=lambda one: one.key not in STORAGE_KEYS))


def is_of_storage(conflict: Conflict) -> bool:
    """Whether the plan can settle it."""
    return conflict.key in STORAGE_KEYS


def say_conflicts(conflicts: Sequence[Conflict]) -> str:
    """Return them in Docker's own words, each with both of its places."""
    places = "; ".join(f"{one.key}: {one.flag}, and {one.file}" for one in conflicts)
    return f"{DOCKERS_WORDS}: {places}"


def find_unused(found: Engine) -> tuple[tuple[str, str], ...]:
    """Return storage options without effect: the file in which they stand, and where and why."""
    command = read_command(found)
    unit = found.service.unit or next((file.path for file in found.files if file.kind == "script"), "")
    if not unit:
        return ()
    return tuple(
        (slot.file.path, f"{flag.place} sets {flag.name}, and {_why_unused(slot, command, unit)}")
        for slot in command.idle
        for flag in _flags_of(slot)[:1]
    )


def _flags_of(slot: Slot) -> list[Flag]:
    return storage_flags([Arg(word.text, slot, word) for word in slot.words])


def _why_unused(slot: Slot, command: CommandLine, unit: str) -> str:
    if not slot.file.named:
        return f"{unit} does not read this file"
    winner = command.variables.get(slot.variable)
    if winner is not None:
        return f"{winner.file.path} sets {slot.variable} again, which counts"
    return f"{unit} does not use ${slot.variable}"
