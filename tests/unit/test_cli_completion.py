"""What the shells are offered, and the scripts they are given; RENEW_GOLDEN=1 writes the scripts anew."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
from cli_support import CHECKOUT, PLAIN, Cli, make_cli
from click.shell_completion import ShellComplete, get_completion_class

from thinpoolmgr import config
from thinpoolmgr.cli.completion import register_shells
from thinpoolmgr.cli.main import COMPLETE_VARIABLE as VARIABLE
from thinpoolmgr.cli.main import cli as command

if TYPE_CHECKING:
    from pathlib import Path

SCRIPTS = {"bash": "thinpoolmgr.bash", "zsh": "_thinpoolmgr", "fish": "thinpoolmgr.fish"}
TWO = (
    PLAIN + '[pools.dock2]\ndevices = ["/dev/sdc"]\n[pools.scratch]\ndevices = ["/dev/sdd"]\n'
    '[engines.docker]\npool = "docker"\n'
)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    made = make_cli(tmp_path, monkeypatch, capsys)
    made.config.write_text(TWO)
    monkeypatch.setattr(config, "MAIN_FILE", made.config)
    monkeypatch.setattr(config, "DROP_IN_FOLDER", tmp_path / "conf.d")
    # Whatever would be imported late for a real host fails here.
    monkeypatch.setitem(sys.modules, "sh", None)
    monkeypatch.setitem(sys.modules, "pyudev", None)
    return made


def offered(cli: Cli, monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    """Return what bash is offered where `line` ends."""
    monkeypatch.setenv(VARIABLE, "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    code, out, err = cli.raw()
    assert (code, err) == (0, "")
    return [text.partition(",")[2] for text in out.splitlines() if text]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("thinpoolmgr pl", ["plan"]),
        ("thinpoolmgr config s", ["show"]),
        ("thinpoolmgr destroy ", ["docker", "dock2", "scratch"]),
        ("thinpoolmgr destroy doc", ["docker", "dock2"]),
        ("thinpoolmgr activate s", ["scratch"]),
        ("thinpoolmgr deactivate --yes --json s", ["scratch"]),
        ("thinpoolmgr destroy nothing", []),
        ("thinpoolmgr extend s", ["scratch"]),
        ("thinpoolmgr extend docker --add-device ", [""]),
        ("thinpoolmgr clean ", ["docker"]),
        ("thinpoolmgr clean d", ["docker"]),
        ("thinpoolmgr clean x", []),
        ("thinpoolmgr base", ["base-size"]),
        ("thinpoolmgr base-size d", ["docker"]),
        ("thinpoolmgr base-size docker 12GiB --allow o", ["outage"]),
        ("thinpoolmgr explain POOL_OUT", ["POOL_OUT_OF_DATA", "POOL_OUT_OF_METADATA"]),
        ("thinpoolmgr explain pool_l", ["POOL_LOST"]),
        ("thinpoolmgr apply --all", ["--allow"]),
        ("thinpoolmgr apply --allow ", ["outage", "destroy"]),
        ("thinpoolmgr apply --allow d", ["destroy"]),
        ("thinpoolmgr apply --allow outage,", ["outage,destroy"]),
        ("thinpoolmgr apply --allow outage,destroy,", []),
        ("thinpoolmgr destroy docker --allow o", ["outage"]),
        ("thinpoolmgr --config ", [""]),
        ("thinpoolmgr --config = c.toml destroy s", ["scratch"]),
        ("thinpoolmgr apply --allow = o", ["outage"]),
        ("thinpoolmgr apply --allow =", ["outage", "destroy"]),
    ],
)
def test_what_is_offered(cli: Cli, monkeypatch: pytest.MonkeyPatch, line: str, words: list[str]) -> None:
    assert offered(cli, monkeypatch, line) == words


@pytest.mark.parametrize(
    "line",
    ["--config {} destroy ", "destroy --config {} ", "activate --config={} "],
)
def test_the_configuration_that_is_named_is_the_one_that_is_read(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str
) -> None:
    (tmp_path / "other.toml").write_text(PLAIN.replace("docker", "other"))
    assert offered(cli, monkeypatch, f"thinpoolmgr {line}".format(tmp_path / "other.toml")) == ["other"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert offered(cli, monkeypatch, f"thinpoolmgr {line}".format("~/other.toml")) == ["other"]


@pytest.mark.parametrize("text", [None, "= 1", "version = 7", "[pools.docker]\n", "\x00"])
@pytest.mark.parametrize("words", ["destroy ", "destroy doc", "destroy docker ", "activate docker docker "])
def test_a_wrong_configuration_offers_nothing_and_says_nothing(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, text: str | None, words: str
) -> None:
    if text is None:
        cli.config.unlink()
    else:
        cli.config.write_text(text)
    assert offered(cli, monkeypatch, f"thinpoolmgr {words}") == []


def test_a_configuration_that_may_not_be_read_offers_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(cli.config), "exists", refuse)
    assert offered(cli, monkeypatch, "thinpoolmgr destroy ") == []


@pytest.mark.parametrize(
    "line",
    [
        "",
        "thinpoolmgr",
        "thinpoolmgr nonsense ",
        "thinpoolmgr --nonsense ",
        "thinpoolmgr destroy --allow everything ",
        "thinpoolmgr --json=1 destroy ",
        "thinpoolmgr destroy 'unclosed ",
        "thinpoolmgr --config /nonexistent destroy ",
        "thinpoolmgr --config ~nobody-at-all/x destroy ",
        "thinpoolmgr --config \udcff destroy ",
        "thinpoolmgr lab run --memory x ",
    ],
)
def test_no_line_is_an_error(cli: Cli, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    offered(cli, monkeypatch, line)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_whatever_goes_wrong_the_prompt_stays_clean(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(_path: object) -> None:
        raise error

    monkeypatch.setattr("thinpoolmgr.cli.completion.load_config", fail)
    monkeypatch.setenv(VARIABLE, "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "thinpoolmgr destroy ")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert cli.raw() == (1, "", "")


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_shipped_scripts_are_the_command_lines(shell: str) -> None:
    register_shells()
    kind = get_completion_class(shell)
    assert kind is not None
    # Bash's own `source` would start bash to ask for its version.
    text = ShellComplete.source(kind(command, {}, "thinpoolmgr", VARIABLE))
    path = CHECKOUT / "packaging/completion" / SCRIPTS[shell]
    if os.environ.get("RENEW_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_command_line_writes_the_same_script(cli: Cli, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    monkeypatch.setenv(VARIABLE, f"{shell}_source")
    code, out, err = cli.raw()
    assert (code, out, err) == (0, (CHECKOUT / "packaging/completion" / SCRIPTS[shell]).read_text(), "")
