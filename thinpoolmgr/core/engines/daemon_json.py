"""Editing one JSON object as text: the members that change are spliced in, everything else stays byte for byte."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_SPACE = " \t\n\r"


class DaemonJsonError(ValueError):
    """The text cannot be edited; `line` and `column` count from 1."""

    def __init__(self, problem: str, line: int, column: int) -> None:
        super().__init__(f"line {line}, column {column}: {problem}")
        self.problem = problem
        self.line = line
        self.column = column


class Member(NamedTuple):
    """One member of an object, with the places in the text that an edit needs."""

    key: str
    lead: str
    """White space before the key."""
    colon: str
    """Text from the key's end to the value."""
    start: int
    end: int
    value: object
    """Numbers are floats here: they are kept as text and never compared."""


class JsonObject(NamedTuple):
    """A text that holds one object, from `start` to `end`."""

    text: str
    members: list[Member]
    start: int
    end: int

    def find(self, key: str) -> Member | None:
        """Return the outermost member with this key."""
        return next((member for member in self.members if member.key == key), None)


def parse_object(text: str | None) -> JsonObject:
    """Return the object in `text`; one without members for `None` and for white space alone.

    Raises:
        DaemonJsonError: when `text` is anything but one JSON object whose keys are unique.

    """
    if text is None or not text.strip(_SPACE):
        return JsonObject("\n", [], 0, 0)
    if text.startswith("\ufeff"):
        refuse(text, 0, "a byte order mark; save the file as UTF-8 without one")
    start = _skip_space(text, 0)
    if text[start : start + 1] != "{":
        refuse(text, start, "expected an object, { ... }")
    members, at = _parse_members(text, start + 1)
    if text[at : at + 1] != "}":
        refuse(text, at, "expected , or }")
    rest = _skip_space(text, at + 1)
    if rest != len(text):
        refuse(text, rest, "something after the end of the object")
    return JsonObject(text, members, start, at + 1)


def _parse_members(text: str, lead_from: int) -> tuple[list[Member], int]:
    """Return the members, and where the text goes on after them and white space."""
    members: list[Member] = []
    seen: set[str] = set()
    at = _skip_space(text, lead_from)
    if text[at : at + 1] == "}":
        return members, at
    while True:
        member, after = _parse_member(text, lead_from, at)
        if member.key in seen:
            refuse(text, at, f"the key {json.dumps(member.key[:60])} a second time")
        seen.add(member.key)
        members.append(member)
        if text[after : after + 1] != ",":
            return members, after
        lead_from = after + 1
        at = _skip_space(text, lead_from)


def _parse_member(text: str, lead_from: int, at: int) -> tuple[Member, int]:
    if text[at : at + 1] != '"':
        refuse(text, at, 'expected a key in "quotes"')
    key, key_end = _decode(text, at)
    colon = _skip_space(text, key_end)
    if text[colon : colon + 1] != ":":
        refuse(text, colon, "expected : after a key")
    start = _skip_space(text, colon + 1)
    value, end = _decode(text, start)
    return Member(str(key), text[lead_from:at], text[key_end:start], start, end, value), _skip_space(text, end)


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _decode(text: str, at: int) -> tuple[object, int]:
    # int() raises on numbers of more than 4,300 digits; float() does not.
    decoder = json.JSONDecoder(parse_int=float, parse_constant=_refuse_constant)
    try:
        return decoder.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise DaemonJsonError(error.msg, error.lineno, error.colno) from error
    except RecursionError:
        refuse(text, at, "too many levels of nesting")
    except ValueError as error:
        refuse(text, at, str(error))


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise ValueError(msg)


def refuse(text: str, at: int, problem: str) -> NoReturn:
    """Raise the error for `problem` at this place of `text`.

    Raises:
        DaemonJsonError: always.

    """
    raise DaemonJsonError(problem, text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))


def set_members(document: JsonObject, wanted: Mapping[str, str | list[str]]) -> str:
    """Return the document's text with these members: replaced where they stand, or appended in the same style."""
    text, members = document.text, document.members
    if not members:
        newline = "\r\n" if "\r\n" in text else "\n"
        fresh = json.dumps(wanted, indent=2).replace("\n", newline)
        return text[: document.start] + fresh + text[document.end :]
    splices = [(members[-1].end, members[-1].end, "")]
    for key, value in wanted.items():
        member = document.find(key)
        if member is None:
            splices.append((members[-1].end, members[-1].end, _render_member(members, key, value)))
        elif member.value != value:
            splices.append((member.start, member.end, _render_again(document, member, value)))
    parts, at = [], 0
    for start, end, new in sorted(splices, key=lambda splice: splice[:2]):
        parts += [text[at:start], new]
        at = end
    return "".join([*parts, text[at:]])


def remove_members(document: JsonObject, keys: Collection[str]) -> str:
    """Return the document's text without these members; what stays is kept byte for byte."""
    text, members = document.text, document.members
    # Between two members stands a comma, which goes with the second one, and white space.
    starts = [document.start + 1, *(text.index(",", member.end) + 1 for member in members[:-1])]
    kept = [place for place, member in enumerate(members) if member.key not in keys]
    parts = [text[: starts[0]]]
    for place in kept:
        parts.append(text[members[place - 1].end : starts[place]] if place != kept[0] else "")
        parts.append(text[starts[place] : members[place].end])
    return "".join([*parts, text[members[-1].end if members else starts[0] :]])


def _render_member(members: list[Member], key: str, value: str | list[str]) -> str:
    model = members[-1]
    line_break = _line_break(model.lead)
    lead = line_break or (" " if model.lead or model.colon != ":" else "")
    colon = model.colon if model.colon.strip(" ") == ":" else ": "
    return f",{lead}{json.dumps(key)}{colon}{_render(members, value, line_break)}"


def _render_again(document: JsonObject, member: Member, value: str | list[str]) -> str:
    old = document.text[member.start : member.end]
    # A list keeps its shape, one line or many; an empty one had none, and takes the document's.
    many_lines = "\n" in old or not member.value
    return _render(document.members, value, _line_break(member.lead) if many_lines else "")


def _render(members: list[Member], value: str | list[str], line_break: str) -> str:
    if isinstance(value, str):
        return json.dumps(value)
    if not line_break or not value:
        return json.dumps(value, separators=("," if members[-1].colon == ":" else ", ", ": "))
    inner = line_break + (members[0].lead.rpartition("\n")[2] or "  ")
    return f"[{inner}" + f",{inner}".join(json.dumps(item) for item in value) + f"{line_break}]"


def _line_break(lead: str) -> str:
    """Return the last line break of `lead` with the indentation that follows it; empty when it has none."""
    before, newline, indent = lead.rpartition("\n")
    carriage_return = "\r" if before.endswith("\r") else ""
    return f"{carriage_return}\n{indent}" if newline else ""
