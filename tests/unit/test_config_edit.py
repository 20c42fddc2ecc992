"""The base size in the text of a configuration: only the value changes; and in which of its files."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import pytest

from thinpoolmgr import config
from thinpoolmgr.config import load_config
from thinpoolmgr.config_edit import ConfigEdit, edit_base_size
from thinpoolmgr.errors import ConfigError, RefusedError

if TYPE_CHECKING:
    from pathlib import Path

POOL = '[pools.docker]\ndevices = ["/dev/sdb"]\n'
ENGINE = '[engines.docker]\npool = "docker" # its pool\n'
SIZE = 'base_size = "10GiB"   # why\n'
NEW = 'base_size = "12GiB"'

TEXTS = {
    "value": (POOL + "# engine\n" + ENGINE + SIZE + 'filesystem = "xfs"\n', [f"-{SIZE}", f"+{NEW}   # why\n"]),
    "default, at the end": (POOL + ENGINE, [f"+{NEW}\n"]),
    "default, before another's comment": (ENGINE + "\n# the pool\n" + POOL, [f"+{NEW}\n"]),
    "default, indented": (
        '[engines.docker]\n  pool = "docker"\n\n  # the pool\n  ' + POOL.replace("\n", "\n  ", 1),
        [f"+  {NEW}\n"],
    ),
    "default, line ends of Windows": ((ENGINE + "\n" + POOL).replace("\n", "\r\n"), [f"+{NEW}\r\n"]),
    "value, line ends of Windows": (
        (ENGINE + SIZE + POOL).replace("\n", "\r\n"),
        [f"-{SIZE[:-1]}\r\n", f"+{NEW}   # why\r\n"],
    ),
    "dotted keys": (
        "engines.docker.pool = 'docker'\nengines.docker.base_size = '10G' # c\n" + POOL,
        ["-engines.docker.base_size = '10G' # c\n", f"+engines.docker.{NEW} # c\n"],
    ),
    "between pools": (
        POOL + ENGINE + SIZE + '[[pools.other.match]]\nserial = "x"\n',
        [f"-{SIZE}", f"+{NEW}   # why\n"],
    ),
    "inline": (
        'engines = { docker = { pool = "docker", base_size = "10GiB" } } # c\n' + POOL,
        [
            '-engines = { docker = { pool = "docker", base_size = "10GiB" } } # c\n',
            f'+engines = {{ docker = {{ pool = "docker", {NEW} }} }} # c\n',
        ],
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(config, "MAIN_FILE", tmp_path / "main.toml")
    monkeypatch.setattr(config, "DROP_IN_FOLDER", tmp_path / "conf.d")
    (tmp_path / "conf.d").mkdir()
    return tmp_path


def edit(folder: Path, size: str = "12GiB", **texts: str) -> ConfigEdit | None:
    """Write the main file and drop-ins, and return the edit of all of them."""
    for name, text in texts.items():
        path = folder / ("main.toml" if name == "main" else f"conf.d/{name}.toml")
        path.write_text(text, "utf-8", newline="")
    return edit_base_size(load_config(), None, "docker", size)


@pytest.mark.parametrize(("text", "changed"), TEXTS.values(), ids=TEXTS)
def test_one_value_changes_and_nothing_else(folder: Path, text: str, changed: list[str]) -> None:
    made = edit(folder, main=text)
    assert made is not None
    lines = difflib.ndiff(made.old_text.splitlines(keepends=True), made.new_text.splitlines(keepends=True))
    assert [line[0] + line[2:] for line in lines if line[0] in "+-"] == changed
    assert made.loaded.desired.engines[0].config.base_size == "12GiB"
    assert (made.old_text, (folder / "main.toml").read_bytes().decode()) == (text, text)


def test_a_comment_stays_with_the_table_that_it_is_about(folder: Path) -> None:
    made = edit(folder, main=ENGINE + "\n# the pool\n" + POOL)
    assert made is not None
    assert made.new_text == f"{ENGINE}{NEW}\n\n# the pool\n{POOL}"


@pytest.mark.parametrize("size", ["10GiB", "10240MiB"])
def test_a_value_that_is_there_already_in_whatever_unit_is_no_edit(folder: Path, size: str) -> None:
    assert edit(folder, size, main=POOL + ENGINE) is None
    assert edit(folder, size, main=POOL + ENGINE + 'base_size = "10G"\n') is None


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        ({"main": POOL + ENGINE + SIZE}, "main.toml"),
        ({"main": POOL + ENGINE, "a": "[engines.docker]\n" + SIZE}, "conf.d/a.toml"),
        ({"main": POOL + ENGINE + SIZE, "a": '[engines.docker]\nfilesystem = "xfs"\n'}, "main.toml"),
        ({"main": POOL + ENGINE + SIZE, "a": "[engines.docker]\n" + SIZE, "b": POOL}, "conf.d/a.toml"),
        ({"main": POOL + ENGINE, "a": '[engines.docker]\nfilesystem = "xfs"\n', "b": POOL}, "conf.d/a.toml"),
    ],
)
def test_it_is_edited_where_it_stands_or_else_where_the_engine_does(
    folder: Path, texts: dict[str, str], name: str
) -> None:
    made = edit(folder, **texts)
    assert made is not None
    assert made.path == str(folder / name)
    made.write()
    assert load_config().desired.engines[0].config.base_size == "12GiB"
    assert load_config().origins["engines.docker.base_size"] == str(folder / name)


def test_mode_and_link_of_the_file_stay(folder: Path) -> None:
    real = folder / "real.toml"
    real.write_text(POOL + ENGINE + SIZE, "utf-8")
    real.chmod(0o640)
    (folder / "main.toml").symlink_to(real)
    made = edit(folder)
    assert made is not None
    made.write()
    assert real.read_text("utf-8") == POOL + ENGINE + f"{NEW}   # why\n"
    assert (real.stat().st_mode & 0o777, (folder / "main.toml").is_symlink()) == (0o640, True)


def test_a_file_that_changed_meanwhile_is_left_alone(folder: Path) -> None:
    made = edit(folder, main=POOL + ENGINE + SIZE)
    assert made is not None
    (folder / "main.toml").write_text("# mine\n", "utf-8")
    with pytest.raises(RefusedError):
        made.write()
    assert (folder / "main.toml").read_text("utf-8") == "# mine\n"


def test_a_result_that_is_not_valid_is_refused_as_a_whole(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        edit(folder, "1025B", main=POOL + ENGINE)
    assert "a multiple of 512 bytes" in caught.value.details


def test_what_would_change_more_than_the_value_is_left_to_the_user(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tomlkit.dumps", lambda _: POOL + ENGINE + NEW)
    with pytest.raises(ConfigError) as caught:
        edit(folder, main=POOL + ENGINE + SIZE)
    assert 'base_size = "12GiB" in [engines.docker] yourself' in caught.value.resolution
