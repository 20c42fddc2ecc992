"""dockerd's command line, word by word, each with the file and the line that it comes from.

Only what the unit really uses is part of it: a variable counts when `ExecStart=` uses it and a file sets it that
`EnvironmentFile=` names, or `Environment=` does; a later one wins, and files win over `Environment=` (systemd.exec(5)).
Flags are read as pflag does, with which Docker reads them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple

from thinpoolmgr.core.engines.words import Char, Word, line_of, read_assignments, read_unit, split_words
from thinpoolmgr.core.model import ConfigFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from thinpoolmgr.core.engines.words import Assignment
    from thinpoolmgr.core.model import Engine

DRIVER_FLAG, OPTION_FLAG = "--storage-driver", "--storage-opt"
STORAGE_FLAGS = (DRIVER_FLAG, OPTION_FLAG)
VARIABLES = ("DOCKER_STORAGE_OPTIONS", "DOCKER_OPTS", "OPTIONS", "other_args")
"""The variables in which distributions have Docker's flags, the one for storage first."""
_SHORT = {
    "b": "--bridge",
    "s": DRIVER_FLAG,
    "g": "--graph",
    "H": "--host",
    "l": "--log-level",
    "G": "--group",
    "p": "--pidfile",
}
_SHORT_SWITCHES = "Dvh"
_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)", re.ASCII)
_BRACED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\$|%%", re.ASCII)
_IN_SCRIPT = re.compile(rf"\$\{{?({'|'.join(VARIABLES)})\b", re.ASCII)
# A program within a word, and its arguments.
_DAEMON_WITHIN = re.compile(r"(?:/docker|\bdockerd)\S*\s")
# What shell and systemd read alike: a comment, or one assignment of a text in which nothing is put in.
_SIMPLE_LINE = re.compile(
    r"\s*(?:#.*|(?:export )?[A-Za-z_][A-Za-z0-9_]*=(?:'[^']*'|\"[^\"$`\\]*\"|[^\s'\"$`\\#;&|<>()]*)\s*)?", re.ASCII
)
_NO_FILE = ConfigFile("", "unit")


class Slot(NamedTuple):
    """A run of words in a file: those of `ExecStart=`, or the value of a variable."""

    file: ConfigFile
    kind: Literal["exec", "unit", "environment"]
    """`ExecStart=`, a word of `Environment=`, or an assignment in a file that `EnvironmentFile=` names."""
    variable: str
    """Empty for `ExecStart=`."""
    words: tuple[Word, ...]
    start: int
    end: int
    """Its place in the file's text, with its quotes; below 0: the file does not set it yet."""


class Arg(NamedTuple):
    """One word of the command line."""

    text: str
    slot: Slot | None = None
    """None: given by hand, in no file."""
    word: Word | None = None
    """None: it is made of parts and cannot be edited."""


class Flag(NamedTuple):
    """One flag with its long name."""

    name: str
    value: str
    args: tuple[Arg, ...]
    """Two when the value is a word of its own."""

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        slot, word = self.args[0].slot, self.args[0].word
        if slot is None:
            return "the running daemon's command line"
        line = line_of(slot.file.text or "", word.start if word else slot.start)
        return f"{slot.file.path}, line {line} ({slot.variable or 'ExecStart'})"


class CommandLine(NamedTuple):
    """What the next start of the daemon is given, and what is set and has no effect."""

    args: tuple[Arg, ...] = ()
    by_hand: tuple[Arg, ...] = ()
    """Words of a daemon that no unit started: its next start may be the same."""
    variables: Mapping[str, Slot | None] = {}
    """Those that become words of the command line, each with the place that counts; None: nothing sets it."""
    idle: tuple[Slot, ...] = ()
    """Variables without effect."""


def read_command(found: Engine) -> CommandLine:
    """Return the command line of the daemon's next start, as far as files say it."""
    files = [file for file in found.files if file.text is not None]
    settings = _settings(files)
    script = next((file for file in files if file.kind == "script"), None)
    slots = _unit_variables(settings)
    slots += [slot for file in files for slot in _file_variables(file, is_shell=script is not None)]
    known = {slot.variable: slot for slot in slots if slot.file.named}
    if script is not None:
        names = list(dict.fromkeys(_IN_SCRIPT.findall(script.text or "")))
        parts: list[str] = []
        args = [arg for name in names if name in known for arg in _own_words(known[name])]
    else:
        args, names, parts = _expand(_exec_slot(settings), known)
    used = [known[name] for name in (*names, *parts) if name in known]
    idle = tuple(slot for slot in slots if all(slot is not one for one in used))
    by_hand = tuple(Arg(word) for word in found.command)
    return CommandLine(tuple(args), by_hand, {name: known.get(name) for name in names}, idle)


def why_hidden(found: Engine) -> str:
    """Return why flags may be hidden where only a shell would find them; empty when all of them are seen."""
    script = next((file for file in found.files if file.kind == "script" and file.text is not None), None)
    if script is None:
        words = [word for word in exec_words(found.files) if " " in word and _DAEMON_WITHIN.search(word)]
        return f"ExecStart= has a shell start dockerd: {words[0][:200]}" if words else ""
    for file in found.files:
        if file.kind == "environment" and file.named:
            for number, line in enumerate((file.text or "").splitlines(), 1):
                if not _SIMPLE_LINE.fullmatch(line):
                    return f"{file.path}, line {number}: only a shell can tell what it says: {line[:200]}"
    return ""


def exec_words(files: Iterable[ConfigFile]) -> tuple[str, ...]:
    """Return the words of `ExecStart=` as the unit files have them, without variables put in."""
    return tuple(word.text for word in _exec_slot(_settings(files)).words)


def _settings(files: Iterable[ConfigFile]) -> list[tuple[ConfigFile, Assignment]]:
    units = [file for file in files if file.kind == "unit" and file.text is not None]
    return [(file, one) for file in units for one in read_unit(file.text or "") if one.section == "Service"]


def _file_variables(file: ConfigFile, *, is_shell: bool) -> list[Slot]:
    if file.kind != "environment":
        return []
    found = read_assignments(file.text or "", exports=is_shell)
    return [
        Slot(file, "environment", one.name, tuple(split_words(one.chars, escapes=False)), one.start, one.end)
        for one in found
    ]


def _unit_variables(settings: Iterable[tuple[ConfigFile, Assignment]]) -> list[Slot]:
    slots: list[Slot] = []
    for file, setting in settings:
        if setting.name != "Environment":
            continue
        words = split_words(setting.chars, escapes=True)
        if not words:
            slots.clear()
        for word in words:
            name, equals, _ = word.text.partition("=")
            if equals:
                value = _without_percent(word.chars[len(name) + 1 :])
                slots.append(Slot(file, "unit", name, tuple(split_words(value, escapes=False)), word.start, word.end))
    return slots


def _without_percent(chars: Sequence[Char]) -> list[Char]:
    """Take `%%` for one: all other specifiers are left as they are written (systemd.unit(5))."""
    read: list[Char] = []
    for char in chars:
        if char.text == "%" and read and read[-1].text == "%" and read[-1].end - read[-1].start == 1:
            read[-1] = Char("%", read[-1].start, char.end)
        else:
            read.append(char)
    return read


def _exec_slot(settings: Iterable[tuple[ConfigFile, Assignment]]) -> Slot:
    """Return the last `ExecStart=`: an empty one takes back those before it, and dockerd's unit has but one."""
    slot = Slot(_NO_FILE, "exec", "", (), 0, 0)
    for file, setting in settings:
        if setting.name == "ExecStart":
            words = tuple(split_words(setting.chars, escapes=True))
            slot = Slot(file, "exec", "", words, setting.start, setting.end)
    return slot


def _expand(slot: Slot, known: Mapping[str, Slot]) -> tuple[list[Arg], list[str], list[str]]:
    """Return the words that systemd makes of `ExecStart=`, the variables it splits in words, and those in a word."""
    args: list[Arg] = []
    names: list[str] = []
    parts: list[str] = []
    # Of the signs before the path a colon forbids variables (systemd.service(5)).
    is_literal = bool(slot.words) and ":" in slot.words[0].text.partition("/")[0]
    for word in slot.words:
        variable = _VARIABLE.fullmatch(word.text)
        if variable and not is_literal:
            names.append(variable[1])
            args += _own_words(known[variable[1]]) if variable[1] in known else []
            continue
        braced = [name for name in _BRACED.findall(word.text) if name] if not is_literal else []
        parts += braced
        args.append(Arg(_fill(word.text, known, is_literal=is_literal), slot, None if braced else word))
    return args, list(dict.fromkeys(names)), parts


def _own_words(slot: Slot) -> list[Arg]:
    return [Arg(word.text, slot, word) for word in slot.words]


def _fill(text: str, known: Mapping[str, Slot], *, is_literal: bool) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return "$$" if match[0] == "$$" and is_literal else match[0][0]
        if is_literal:
            return match[0]
        return " ".join(word.text for word in known[match[1]].words) if match[1] in known else ""

    return _BRACED.sub(value, text)


def read_flags(args: Iterable[Arg]) -> list[Flag]:
    """Return all flags; the word after one without `=` counts as its value, also where it is a switch."""
    words = tuple(args)
    flags = []
    for place, arg in enumerate(words):
        name, value = _split_flag(arg.text)
        following = words[place + 1] if place + 1 < len(words) else None
        if name and value is None and following is not None:
            flags.append(Flag(name, following.text, (arg, following)))
        elif name:
            flags.append(Flag(name, value or "", (arg,)))
    return flags


def _split_flag(text: str) -> tuple[str, str | None]:
    """Return a flag's long name, and its value where it is in the same word; empty for what is no flag."""
    if text.startswith("--"):
        name, equals, value = text.partition("=")
        return name, value if equals else None
    if not text.startswith("-") or text == "-":
        return "", None
    letters = text[1:].lstrip(_SHORT_SWITCHES)
    if not letters or letters[0] not in _SHORT:
        return "", None
    # pflag: `-s=x` and `-sx` are the same, and switches may stand before.
    value = letters[1:].removeprefix("=")
    return _SHORT[letters[0]], value or None


def switches_before(text: str) -> str:
    """Return the switches that a word of short flags begins with, `-D` of `-Ds`; empty where there are none."""
    if not text.startswith("-") or text.startswith("--"):
        return ""
    count = len(text) - len(text[1:].lstrip(_SHORT_SWITCHES))
    return text[:count] if count > 1 else ""


def storage_flags(args: Iterable[Arg]) -> list[Flag]:
    """Return the flags that choose the storage driver, and its options."""
    return [flag for flag in read_flags(args) if flag.name in STORAGE_FLAGS]


def find_value(args: Iterable[Arg], *names: str) -> str:
    """Return the value of the first flag with one of these names; empty for none."""
    return next((flag.value for flag in read_flags(args) if flag.name in names and flag.value), "")
