"""Words in unit files and in files of assignments, each with its place in the text, so that an edit keeps all else.

The rules are systemd's: src/basic/env-file.c, src/basic/extract-word.c and src/shared/conf-parser.c of version 252.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SPACE = " \t\n\r"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "s": " "}
# The parts of a value, and what one character is within them.
_QUOTED = re.compile(r"[ \t\r]*('[^']*'?|\"(?:[^\"\\]|\\.)*\"?)", re.DOTALL)
_BARE = re.compile(r"[ \t\r]*((?:[^\n\\]|\\.|\\\Z)*)", re.DOTALL)
_LITERAL = re.compile(r".", re.DOTALL)
_IN_DOUBLE_QUOTES = re.compile(r"\\[\n\"\\`$]|.", re.DOTALL)
_OUTSIDE_QUOTES = re.compile(r"\\?.", re.DOTALL)
_NUMERIC = re.compile(r"x([0-9a-fA-F]{2})|([0-7]{3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})", re.ASCII)


class Char(NamedTuple):
    """One character as it is read, and the part of the text that it stands for."""

    text: str
    start: int
    end: int


class Word(NamedTuple):
    """One word as it is read; `start` and `end` enclose it in the text, with its quotes."""

    chars: tuple[Char, ...]
    start: int
    end: int

    @property
    def text(self) -> str:
        """What is read."""
        return "".join(char.text for char in self.chars)


class Assignment(NamedTuple):
    """`NAME=VALUE` in a file that `EnvironmentFile=` names, or `Key=value` in a section of a unit file."""

    section: str
    name: str
    chars: tuple[Char, ...]
    start: int
    end: int
    """The value's place in the text, with its quotes."""

    @property
    def value(self) -> str:
        """What is read."""
        return "".join(char.text for char in self.chars)


def line_of(text: str, place: int) -> int:
    """Return the line of a place in a text, counted from 1."""
    return text.count("\n", 0, place) + 1


def split_words(chars: Sequence[Char], *, escapes: bool) -> list[Word]:
    """Return the words of `chars`, split at white space outside of quotes.

    Args:
        chars: what is to be split.
        escapes: whether a backslash begins an escape of C; else it stands for the character after it.

    """
    words: list[Word] = []
    at = 0
    while at < len(chars):
        if chars[at].text in _SPACE:
            at += 1
            continue
        word, at = _read_word(chars, at, escapes=escapes)
        words.append(word)
    return words


def _read_word(chars: Sequence[Char], at: int, *, escapes: bool) -> tuple[Word, int]:
    first, quote = at, ""
    read: list[Char] = []
    while at < len(chars):
        char = chars[at]
        if char.text == "\\" and at + 1 < len(chars):
            escaped, at = _read_escape(chars, at, escapes=escapes)
            read.append(escaped)
            continue
        if quote and char.text == quote:
            quote = ""
        elif not quote and char.text in "\"'":
            quote = char.text
        elif not quote and char.text in _SPACE:
            break
        else:
            read.append(char)
        at += 1
    return Word(tuple(read), chars[first].start, chars[at - 1].end), at


def _read_escape(chars: Sequence[Char], at: int, *, escapes: bool) -> tuple[Char, int]:
    start, following = chars[at].start, chars[at + 1]
    number = _NUMERIC.match("".join(char.text for char in chars[at + 1 : at + 10])) if escapes else None
    if number:
        last = at + number.end()
        code = int(number[2], 8) if number[2] else int(number[0][1:], 16)
        return Char(chr(code), start, chars[last].end), last + 1
    text = _ESCAPES.get(following.text, following.text) if escapes else following.text
    return Char(text, start, following.end), at + 2


def read_assignments(text: str, *, exports: bool = False) -> list[Assignment]:
    """Return what a file of shell assignments sets, in order, as systemd reads it (systemd.exec(5), EnvironmentFile).

    Lines that are no assignment are passed over, as systemd does.

    Args:
        text: of the file.
        exports: whether `export NAME=value` is one, as for a shell; systemd passes it over.

    """
    found: list[Assignment] = []
    at = 0
    while at < len(text):
        end = _line_end(text, at)
        stripped = text[at:end].lstrip(_SPACE)
        name, equals, _ = (stripped.removeprefix("export ") if exports else stripped).partition("=")
        if stripped[:1] in ("", "#", ";") or not equals:
            at = end + 1
            continue
        assignment, at = _read_value(text, name.rstrip(_SPACE), text.index("=", at) + 1)
        if _NAME.fullmatch(assignment.name):
            found.append(assignment)
    return found


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _read_value(text: str, name: str, at: int) -> tuple[Assignment, int]:
    """Return the assignment whose value begins here, and where the next line does: quoted parts, then a bare one."""
    chars: list[Char] = []
    places: list[tuple[int, int]] = []
    while quoted := _QUOTED.match(text, at):
        inner, quote = quoted.start(1) + 1, quoted[1][0]
        at = quoted.end()
        closed = at - 1 if at - 1 >= inner and text[at - 1] == quote else at
        chars += _decode(text, inner, closed, _IN_DOUBLE_QUOTES if quote == '"' else _LITERAL)
        places.append((quoted.start(1), at))
    bare = _BARE.match(text, at)
    read = _decode(text, *bare.span(1), _OUTSIDE_QUOTES) if bare else []
    while read and read[-1].text in _SPACE and read[-1].end - read[-1].start == 1:
        read.pop()
    if read:
        chars += read
        places.append((read[0].start, read[-1].end))
    start, end = (places[0][0], places[-1][1]) if places else (at, at)
    return Assignment("", name, tuple(chars), start, end), (bare.end() if bare else at) + 1


def _decode(text: str, start: int, end: int, pattern: re.Pattern[str]) -> list[Char]:
    """Return the characters between two places; an escape stands for its last one, an escaped line break for none."""
    found = (match.span() for match in pattern.finditer(text, start, end))
    return [Char(text[last - 1], first, last) for first, last in found if text[first:last] != "\\\n"]


def read_unit(text: str) -> list[Assignment]:
    """Return the settings of a unit file with their sections, in order (systemd.syntax(7))."""
    found: list[Assignment] = []
    section = ""
    for chars in _logical_lines(text):
        line = "".join(char.text for char in chars)
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        name, equals, value = line.partition("=")
        if not equals:
            continue
        skipped = len(name) + 1 + len(value) - len(value.lstrip(_SPACE))
        rest = tuple(chars[skipped:])
        start = rest[0].start if rest else chars[len(name)].end
        found.append(Assignment(section, name.rstrip(_SPACE), rest, start, rest[-1].end if rest else start))
    return found


def _logical_lines(text: str) -> Iterator[list[Char]]:
    """Join continued lines and leave out comments, those between continued lines, too; no white space around a line."""
    chars: list[Char] = []
    at = 0
    while at < len(text):
        end = _line_end(text, at)
        line = text[at:end].removesuffix("\r")
        if line.lstrip(_SPACE)[:1] not in ("#", ";"):
            backslashes = len(line) - len(line.rstrip("\\"))
            is_continued = backslashes % 2 == 1
            body = line[:-1] if is_continued else line
            chars += [Char(char, at + place, at + place + 1) for place, char in enumerate(body)]
            if is_continued:
                chars.append(Char(" ", at + len(body), min(end + 1, len(text))))
            else:
                yield _strip(chars)
                chars = []
        at = end + 1
    yield _strip(chars)


def _strip(chars: list[Char]) -> list[Char]:
    solid = [place for place, char in enumerate(chars) if char.text not in _SPACE]
    return chars[solid[0] : solid[-1] + 1] if solid else []
