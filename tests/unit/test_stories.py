"""Every code that the product can show has its story, and a story is short, complete and drawn within its columns."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_support import Cli, golden, make_cli

import thinpoolmgr
from thinpoolmgr.cli.stories import Story, parse_stories, read_stories
from thinpoolmgr.core.findings import FINDINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(thinpoolmgr.__file__).parent
LOOKS_LIKE_A_CODE = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
ONE_WORD = re.compile(r"[A-Z]{3,}")
NOT_CODES = {
    # udev's properties, and names of environment variables
    *(
        "DM_SERIAL",
        "DM_WWN",
        "ID_BUS",
        "ID_FS_UUID",
        "ID_MODEL",
        "ID_PATH",
        "ID_SERIAL",
        "ID_SERIAL_SHORT",
        "ID_WWN",
        "ID_WWN_WITH_EXTENSION",
    ),
    *("LAB_CWD", "LAB_DEMO_TTY", "LAB_TTY", "LC_ALL", "LVM_SUPPRESS_FD_WARNINGS", "NO_COLOR", "THINPOOLMGR_LAB"),
    *("ID_PATH", "XDG_CACHE_HOME"),
    # a name that is imported late
    "DEFAULT_MEMORY_MB",
    # Docker's variables
    "DOCKER_OPTS",
    "DOCKER_STORAGE_OPTIONS",
    # journald's fields
    *("MESSAGE_ID", "SYSLOG_IDENTIFIER"),
    # libblkid's
    "MAGIC_OFFSET",
    # glibc's
    "MALLOC_ARENA_MAX",
    # the journal's fields
    "MESSAGE_ID",
    "SYSLOG_IDENTIFIER",
}


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return make_cli(tmp_path, monkeypatch, capsys)


def codes_in(path: Path) -> Iterator[str]:
    """Yield what `path` uses as a code: any text that looks like one, and single words where a code is expected."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Constant(value=str(text)) if LOOKS_LIKE_A_CODE.fullmatch(text):
                yield text
            case ast.Call(keywords=keywords):
                values = [keyword.value for keyword in keywords if keyword.arg == "code"]
                texts = (str(value.value) for value in values if isinstance(value, ast.Constant))
                yield from (text for text in texts if ONE_WORD.fullmatch(text))
            case ast.AnnAssign(target=ast.Name(id="default_code"), value=ast.Constant(value=str(text))):
                yield text
            case ast.Assign(targets=[ast.Name(id="default_code")], value=ast.Constant(value=str(text))):
                yield text
            case _:
                pass
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refusal" and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant):
                yield str(first.value)


def all_codes() -> dict[str, str]:
    """Return every code of the product, with one file that uses it."""
    return {
        code: str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        for code in codes_in(path)
        if code not in NOT_CODES
    }


STORIES = read_stories()


def test_every_code_has_a_story() -> None:
    missing = {code: file for code, file in all_codes().items() if code not in STORIES}
    assert missing == {}


def test_every_story_is_of_a_code() -> None:
    assert set(STORIES) - set(all_codes()) == set()


def test_codes_are_found_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        'Refusal("ONE", 1)\nf("TWO_A", "not A_CODE")\nE("x", code="THREE")\nclass A:\n    default_code: str = "FOUR"\n'
        'class B:\n    default_code = "FIVE"\nD = {"x": ("SIX_B", 2)}\ng("NOPE")\n'
    )
    assert set(codes_in(path)) == {"ONE", "TWO_A", "THREE", "FOUR", "FIVE", "SIX_B"}


@pytest.mark.parametrize("code", STORIES)
def test_a_story_is_short_and_whole(cli: Cli, code: str) -> None:
    story = STORIES[code]
    status, out, err = cli.raw("explain", code)
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert max(map(len, lines)) <= 100
    assert 6 <= len(lines) <= 16, len(lines)
    assert all((story.summary, story.means, story.comes, story.harms, story.do, story.avoid))
    assert not story.summary.endswith(".")
    assert len(story.summary) <= 70
    assert all(text.endswith((".", ")")) for text in (story.means, story.comes, story.harms, story.avoid))
    assert story.avoid.startswith("Do not ")
    assert not re.search("[\u2013\u2014]", out)


def test_a_story_without_one_of_its_parts_is_a_mistake() -> None:
    whole = "# T\n\n## A_B: s\n\nMeans: m\n  n\nComes: c\nHarm: h\nDo:\n- d\n  e\n- f\nNot: Do not x.\n"
    assert parse_stories(whole) == [("A_B", Story("s", "m n", "c", "h", ("d e", "f"), "Do not x."))]
    for line in ("Means: m\n  n\n", "Comes: c\n", "Harm: h\n", "- d\n  e\n- f\n", "Not: Do not x.\n"):
        with pytest.raises(ValueError, match="A_B"):
            parse_stories(whole.replace(line, ""))


def test_severities_come_from_the_table(cli: Cli) -> None:
    code, document = cli.json("explain", "POOL_NEEDS_CHECK")
    assert (code, document["severity"], document["schema"]) == (0, "error", 1)
    assert set(document) == {"schema", "code", "severity", *Story.__struct_fields__}
    assert "severity" not in cli.json("explain", "DISK_MOUNTED")[1]
    assert set(FINDINGS) <= set(STORIES)


def test_a_code_is_understood_as_people_write_it(cli: Cli) -> None:
    wanted = cli("explain", "POOL_TIGHT")
    assert wanted[0] == 0
    for written in ("pool_tight", "[POOL_TIGHT]", "pool-tight"):
        assert cli("explain", written) == wanted


def test_an_unknown_code_names_those_near_it(cli: Cli) -> None:
    code, out, err = cli("explain", "POOL_TIHGT")
    assert (code, out, "POOL_TIGHT" in err) == (64, "", True)
    code, out, err = cli("explain", "xyzzy")
    assert (code, out, "thinpoolmgr explain lists all codes" in err) == (64, "", True)


def test_without_a_code_all_are_listed(cli: Cli) -> None:
    code, out, err = cli.raw("explain")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == list(STORIES)
    assert max(map(len, out.splitlines())) <= 100
    code, document = cli.json("explain")
    assert [entry["code"] for entry in document["codes"]] == list(STORIES)
    golden("explain", out)
    golden("explain-pool-needs-check", cli("explain", "POOL_NEEDS_CHECK")[1])
