"""Edits of flags in unit files and files of assignments, as splices of the text: all else stays byte for byte."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from thinpoolmgr.core.engines.docker_flags import DRIVER_FLAG, OPTION_FLAG, switches_before
from thinpoolmgr.core.engines.docker_options import DRIVER, merge_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from thinpoolmgr.core.engines.docker_flags import Arg, Flag, Slot
    from thinpoolmgr.core.engines.words import Word

# What means the same in a unit file, in a file of assignments, within quotes and without.
_PLAIN = re.compile(r"[\w./:=,%+@-]+", re.ASCII)


class ConfigDoubtError(ValueError):
    """What stands in the files cannot be edited without a doubt; the text says what, `way_out` what to do."""

    def __init__(self, problem: str, way_out: str) -> None:
        super().__init__(problem)
        self.way_out = way_out


class Splice(NamedTuple):
    """What stands in place of a part of a text."""

    start: int
    end: int
    new: str


def apply_splices(text: str, splices: Sequence[Splice]) -> str:
    """Return the text with all splices, which do not overlap."""
    parts, at = [], 0
    for splice in sorted(splices, key=lambda one: (one.start, one.end)):
        parts += [text[at : splice.start], splice.new]
        at = splice.end
    return "".join([*parts, text[at:]])


def set_flags(slot: Slot, flags: list[Flag], options: tuple[str, ...], strays: list[str]) -> list[Splice]:
    """Return the splices after which the slot has the driver and the options."""
    given = [flag for flag in flags if flag.name == OPTION_FLAG]
    merged = merge_options([flag.value for flag in given], options, strays)
    drivers = [flag for flag in flags if flag.name == DRIVER_FLAG]
    changed = {flag.args: new for flag, new in zip(given, merged.kept, strict=True)}
    # Of several the last counts.
    changed |= {flag.args: DRIVER if flag is drivers[-1] else None for flag in drivers}
    is_joined = any(len(flag.args) == 1 for flag in flags)
    added = [] if drivers else _render_flag(DRIVER_FLAG, DRIVER, is_joined=is_joined)
    added += [word for option in merged.added for word in _render_flag(OPTION_FLAG, option, is_joined=is_joined)]
    return _rewrite(slot, flags, changed, added)


def _render_flag(name: str, value: str, *, is_joined: bool) -> list[str]:
    return [f"{name}={value}"] if is_joined else [name, value]


def remove_flags(slot: Slot, flags: list[Flag]) -> list[Splice]:
    """Return the splices after which these flags are gone from the slot."""
    return _rewrite(slot, flags, {flag.args: None for flag in flags}, [])


def _rewrite(
    slot: Slot, flags: list[Flag], changed: Mapping[tuple[Arg, ...], str | None], added: list[str]
) -> list[Splice]:
    """Return the splices for flags that get a new value, or go (None), and words that come after the last of them."""
    if slot.start < 0:
        return [_new_assignment(slot, added)]
    new_texts: dict[Word, str | None] = {}
    for flag in flags:
        value = changed[flag.args]
        words = [arg.word for arg in flag.args if arg.word is not None]
        switches = switches_before(words[0].text) if words else ""
        if value is None:
            new_texts |= dict.fromkeys(words)
            new_texts |= {words[0]: switches} if switches else {}
        elif value != flag.value:
            # pflag: the last of grouped short flags takes a value
            name = f"{switches}{words[0].text[len(switches)]}" if switches else flag.name
            new_texts[words[-1]] = value if len(words) == 2 else f"{name}={value}"
    last = max((slot.words.index(word) for flag in flags for arg in flag.args if (word := arg.word)), default=-1)
    anchor = last if last >= 0 else len(slot.words) - 1
    if slot.kind != "exec" and _needs_quotes(slot, new_texts, added):
        return [_whole(slot, new_texts, added, anchor)]
    splices = [
        Splice(word.start, word.end, _encode(slot, text)) for word, text in new_texts.items() if text is not None
    ]
    splices += _removals(slot.words, {word for word, text in new_texts.items() if text is None})
    if added:
        place = slot.words[anchor].end
        splices.append(Splice(place, place, "".join(f" {_encode(slot, word)}" for word in added)))
    return splices


def _needs_quotes(slot: Slot, new_texts: dict[Word, str | None], added: list[str]) -> bool:
    """Whether the value must be written whole: it is to be empty, or gets its first white space without quotes."""
    stays = [word for word in slot.words if new_texts.get(word, "") is not None]
    raw = (slot.file.text or "")[slot.start : slot.end]
    is_quoted = raw[:1] in ("'", '"') and raw[:1] == raw[-1:]
    return not stays or (not is_quoted and len(slot.words) < 2 and bool(added))


def _whole(slot: Slot, new_texts: dict[Word, str | None], added: list[str], anchor: int) -> Splice:
    specifiers = [word.text for word in slot.words if _has_specifier(word)]
    if slot.kind == "unit" and specifiers:
        raise ConfigDoubtError(
            f"{specifiers[0]!r} in {slot.file.path} has a specifier of systemd",
            f'Put the value in quotes, Environment="{slot.variable}=...", and run this again.',
        )
    words: list[str] = []
    for place, word in enumerate(slot.words):
        text = new_texts.get(word, word.text)
        words += [text] if text is not None else []
        words += added if place == anchor else []
    words = words if slot.words else added
    raw = (slot.file.text or "")[slot.start : slot.end]
    quote = "'" if raw.startswith("'") else '"'
    value = " ".join(_encode(slot, word) for word in words)
    name = f"{slot.variable}=" if slot.kind == "unit" else ""
    return Splice(slot.start, slot.end, f"{quote}{name}{value}{quote}")


def _has_specifier(word: Word) -> bool:
    """Whether a percent sign stands alone: one that is written twice stands for itself."""
    return any(char.text == "%" and char.end - char.start == 1 for char in word.chars)


def _new_assignment(slot: Slot, words: list[str]) -> Splice:
    text = slot.file.text or ""
    line_break = "" if text.endswith("\n") or not text else "\n"
    value = " ".join(_encode(slot, word) for word in words)
    return Splice(len(text), len(text), f'{line_break}{slot.variable}="{value}"\n')


def _removals(words: Sequence[Word], removed: set[Word]) -> list[Splice]:
    """Return the splices that take words out, each with the white space before it; at the beginning, after it."""
    splices: list[Splice] = []
    for place, word in enumerate(words):
        if word not in removed:
            continue
        start = words[place - 1].end if place else word.start
        end = word.end
        if not any(one not in removed for one in words[:place]):
            start, end = word.start, words[place + 1].start if place + 1 < len(words) else word.end
        splices.append(Splice(start, end, ""))
    return splices


def _encode(slot: Slot, text: str) -> str:
    if not _PLAIN.fullmatch(text):
        raise ConfigDoubtError(
            f"{text!r} cannot be written into {slot.file.path} without quotes of its own",
            'Set config_file = "daemon.json", where it can.',
        )
    return text if slot.kind == "environment" else text.replace("%", "%%")
