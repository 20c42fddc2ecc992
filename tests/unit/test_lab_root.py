"""The cached root: its name, its recipe, and which of the host's apt sources it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from thinpoolmgr.errors import RefusedError, UnavailableError
from thinpoolmgr.lab import root

ONE_LINE = """
# a comment
deb http://mirror.invalid/debian bookworm main contrib
deb [signed-by=/k.gpg arch=amd64] http://mirror.invalid/security bookworm-security main
deb-src http://mirror.invalid/debian bookworm main
deb http://engine.invalid/linux/debian bookworm stable
deb http://other.invalid/debian trixie main
deb http://flat.invalid/ ./
"""
STANZAS = """Types: deb
# where it is
URIs: http://mirror.invalid/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://other.invalid/debian
Suites: nodistro
Components: main

Types: deb
URIs: http://off.invalid/debian
Suites: bookworm
Components: main
Enabled: no
"""
DUMP = """APT "";
Acquire "";
Acquire::http "";
Acquire::http::Proxy "http://proxy.invalid:3142";
Acquire::https::Proxy "";
Acquire::Check-Valid-Until "false";
Acquire::IndexTargets::deb::Packages "";
"""


def test_one_line_sources_are_only_those_of_the_suite() -> None:
    assert [line.split("/")[2] for line in root.debian_lines(ONE_LINE) if "[" not in line] == ["mirror.invalid"]
    assert len(root.debian_lines(ONE_LINE)) == 2


def test_deb822_sources_are_only_those_of_the_suite() -> None:
    (stanza,) = root.debian_stanzas(STANZAS)
    assert "mirror.invalid" in stanza
    assert "#" not in stanza


def test_proxy_is_passed_on_and_the_rest_is_not() -> None:
    assert root.proxy_options(DUMP) == (
        'Acquire::http::Proxy "http://proxy.invalid:3142"',
        'Acquire::Check-Valid-Until "false"',
    )


def test_root_makes_a_folder_and_a_user_makes_a_tar() -> None:
    as_root = root.mmdebstrap_command(Path("/w/tree"), ("deb x",), ("A 1",), is_root=True)
    assert {"--mode=root", "--format=directory", "--aptopt=A 1"} <= set(as_root)
    assert as_root[-3:] == ("bookworm", "/w/tree", "deb x")
    assert {"--mode=unshare", "--format=tar"} <= set(root.mmdebstrap_command(Path("/w/t"), (), (), is_root=False))


def test_libraries_are_for_the_trees_python() -> None:
    command = root.pip_command(("pip3",), Path("/w/tree/opt"))
    assert command[:2] == ("pip3", "install")
    assert {"--target=/w/tree/opt", "--python-version=3.11", "--abi=cp311", "--only-binary=:all:"} <= set(command)


def test_name_changes_with_the_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = root.root_path()
    monkeypatch.setattr(root, "PACKAGES", ("lvm2",))
    assert before.parent == tmp_path / "thinpoolmgr"
    assert root.root_path() != before


def test_relative_cache_folder_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert root.cache_folder().is_absolute()


def test_root_that_is_there_is_not_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root.root_path().mkdir(parents=True)
    monkeypatch.setattr("shutil.which", lambda *_words, **_options: None)
    assert root.ensure_root() == root.root_path()


def test_failed_making_leaves_nothing_that_looks_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(work: Path) -> None:
        (work / "tree").mkdir()
        raise UnavailableError("no network")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda *_words, **_options: "/bin/x")
    monkeypatch.setattr(root, "_make", fail)
    with pytest.raises(UnavailableError):
        root.ensure_root()
    assert not list((tmp_path / "thinpoolmgr").glob("root-*"))


def test_missing_mmdebstrap_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda *_words, **_options: None)
    with pytest.raises(UnavailableError) as caught:
        root.ensure_root()
    assert "mmdebstrap" in caught.value.resolution


def test_nothing_is_removed_below_a_mount() -> None:
    with pytest.raises(RefusedError):
        root._remove(Path("/proc"))
