from __future__ import annotations

import pytest

from thinpoolmgr.core.engines.words import Char, line_of, read_assignments, read_unit, split_words


def chars(text: str) -> list[Char]:
    return [Char(char, place, place + 1) for place, char in enumerate(text)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=", ""),
        ("A=b", "b"),
        (" A = b ", "b"),
        ("A=b c  # no comment", "b c  # no comment"),
        ('A="b c"', "b c"),
        ("A='b c'", "b c"),
        ("A='b\\c'", "b\\c"),
        ('A="b\\"c\\\\d\\x\\$"', 'b"c\\d\\x$'),
        ('A="b \\\n c"', "b  c"),
        ('A="b\nc"', "b\nc"),
        ("A=b\\\nc", "bc"),
        ("A=b\\ c", "b c"),
        ('A=b"c"', 'b"c"'),
        ('A="b" "c"', "bc"),
        ('A="b" c', "bc"),
        ("A='b", "b"),
        ('A="', ""),
        ("A=b\\ ", "b "),
        ("A=b\r", "b"),
        ("A=b\\", "b\\"),
    ],
)
def test_a_value_is_read_as_systemd_reads_it(text: str, value: str) -> None:
    (found,) = read_assignments(f"# A=x\n; A=y\n{text}")
    assert (found.name, found.value) == ("A", value)
    assert line_of(f"# A=x\n; A=y\n{text}", found.start) == 3


def test_the_next_line_is_another_assignment() -> None:
    text = "A=1\nB='2'\n\nC=\"3\"\nexport D=4\nno assignment\n5E=x\nF=6"
    assert [(found.name, found.value) for found in read_assignments(text)] == [
        ("A", "1"),
        ("B", "2"),
        ("C", "3"),
        ("F", "6"),
    ]


@pytest.mark.parametrize(
    ("text", "raw"), [("A=b", "b"), ("A= 'b c' ", "'b c'"), ('A="b c"', '"b c"'), ("A= \nB=1", ""), ("A=b c \n", "b c")]
)
def test_a_value_knows_its_place(text: str, raw: str) -> None:
    found = read_assignments(text)[0]
    assert text[found.start : found.end] == raw


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  a  b ", ["a", "b"]),
        ("a\tb\nc", ["a", "b", "c"]),
        ("'a b' \"c d\"", ["a b", "c d"]),
        ("a'b c'd", ["ab cd"]),
        ("a\\ b", ["a b"]),
        ("'a\\'b'", ["a'b"]),
        ("''", [""]),
        ("'a b", ["a b"]),
        ("a\\", ["a\\"]),
        ("a\\x41\\101\\u00e9\\n", ["ax41101u00e9n"]),
    ],
)
def test_words_are_split_as_systemd_splits_them(text: str, words: list[str]) -> None:
    assert [word.text for word in split_words(chars(text), escapes=False)] == words


def test_in_unit_files_a_backslash_begins_an_escape_of_c() -> None:
    (word,) = split_words(chars("a\\x41\\101\\u00e9\\n\\s\\\\\\U0001F600"), escapes=True)
    assert word.text == "aAAé\n \\\U0001f600"
    assert (word.start, word.end) == (0, 31)


def test_words_know_their_places_with_their_quotes() -> None:
    text = "-a  '-b c' d"
    assert [text[word.start : word.end] for word in split_words(chars(text), escapes=False)] == ["-a", "'-b c'", "d"]


UNIT = """\
# a comment
[Unit]
ExecStart=no

[Service]
; another
ExecStart=
ExecStart = /usr/bin/dockerd -H fd:// \\
# between
   --storage-driver \\
   overlay2
Environment="A=b c" 'D=e' F=g
Empty =
junk
"""


def test_a_unit_file_is_read_with_continued_lines() -> None:
    found = read_unit(UNIT)
    assert [(one.section, one.name) for one in found] == [
        ("Unit", "ExecStart"),
        ("Service", "ExecStart"),
        ("Service", "ExecStart"),
        ("Service", "Environment"),
        ("Service", "Empty"),
    ]
    words = split_words(found[2].chars, escapes=True)
    assert [word.text for word in words] == ["/usr/bin/dockerd", "-H", "fd://", "--storage-driver", "overlay2"]
    assert [line_of(UNIT, word.start) for word in words] == [8, 8, 8, 10, 11]
    assert all(UNIT[word.start : word.end] == word.text for word in words)
    assert [word.text for word in split_words(found[3].chars, escapes=True)] == ["A=b c", "D=e", "F=g"]
    assert found[4].value == ""


def test_a_backslash_that_is_escaped_continues_no_line() -> None:
    assert [one.value for one in read_unit("[Service]\nA=b\\\\\nC=d\\")] == ["b\\\\", "d"]
