"""The manual page is as the code and README.md would make it; `make man`, or RENEW_GOLDEN=1, makes it anew."""

from __future__ import annotations

import os

import click
import manpage
import pytest
from cli_support import CHECKOUT

from thinpoolmgr import errors
from thinpoolmgr.cli.main import cli
from thinpoolmgr.errors import ThinpoolmgrError

PAGE = CHECKOUT / "docs/man/thinpoolmgr.1"
README = (CHECKOUT / "README.md").read_text("utf-8")


def section(title: str) -> str:
    return PAGE.read_text("utf-8").partition(f"\n.SH {title}\n")[2].partition("\n.SH ")[0]


def test_the_page_is_the_codes() -> None:
    text = manpage.page()
    if os.environ.get("RENEW_GOLDEN"):
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text, "utf-8")
    assert PAGE.read_text("utf-8") == text


def test_every_exit_code_of_an_error_is_on_it() -> None:
    listed = {int(word) for code, _ in manpage.exit_codes(README) for word in code.split(", ") if word.isdigit()}
    raised = {kind.exit_code for kind in ThinpoolmgrError.__subclasses__() if kind.__module__ == errors.__name__}
    assert (listed >= raised | {0, 2}, r"\fB128+N\fR" in section("EXIT STATUS")) == (True, True)


@pytest.mark.parametrize(
    "path", ["/etc/thinpoolmgr/thinpoolmgr.toml", "/etc/thinpoolmgr/conf.d/*.toml", "/var/lib/thinpoolmgr/runs"]
)
def test_files_are_on_it(path: str) -> None:
    assert f"\\fB{path}\\fR\n" in section("FILES")


def test_every_command_and_what_only_it_can_be_told_is_on_it() -> None:
    commands = section("COMMANDS")
    names = cli.list_commands(click.Context(cli))
    assert [name for name in names if f"\n.SS {manpage._text(name)}" not in f"\n{commands}"] == []
    destroy = commands.partition(".SS destroy POOL\n")[2].partition(".SS ")[0]
    assert (r"\fB\-\-keep\-devices\fR" in destroy, r"\-\-json" in destroy) == (True, False)
    assert r"\fB\-\-json\fR" in section("OPTIONS")


def test_roff_obeys_nothing_in_a_text() -> None:
    assert manpage._text(".TH x") == r"\&.TH x"
    assert manpage._text(r"a\b-c") == r"a\eb\-c"
