"""What the commands print, word for word: tests/golden/*.txt; RENEW_GOLDEN=1 in the environment writes them anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import support
from cli_support import ENGINE, EXT4, PLAIN, Cli, golden, make_cli, picture
from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from thinpoolmgr.core.model import Snapshot


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return make_cli(tmp_path, monkeypatch, capsys)


def wide_host() -> Snapshot:
    shot = support.with_pool(support.snapshot(support.disk("/dev/sdb")))
    used = support.with_status(shot, used_data_blocks=16000)
    thin = support.with_thin_device(used)
    stale = replace(support.docker(running=True, configured=True), state=support.STALE, containers=("web",))
    return support.with_engine(thin, stale)


def full_host() -> Snapshot:
    blank = support.snapshot(support.disk(signatures=(EXT4,)))
    return support.with_engine(blank, replace(support.docker(running=True), state=support.STALE))


FULL = PLAIN + 'wipe_signatures = true\nwhen_full = "error"\n[engines.docker]\npool = "docker"\n'


@pytest.mark.parametrize(
    ("name", "shot", "text", "args"),
    [
        ("plan", full_host, FULL, ["plan"]),
        ("plan-verbose", full_host, FULL, ["plan", "-v"]),
        ("plan-refused", lambda: support.snapshot(support.disk(mounts=("/srv",), swap=True)), PLAIN, ["plan"]),
        ("status", wide_host, ENGINE, ["status"]),
        ("status-absent", support.snapshot, PLAIN, ["status"]),
        ("apply", full_host, FULL, ["apply", "--yes", "--allow", "outage,destroy"]),
        ("apply-not-approved", full_host, FULL, ["apply", "--yes"]),
        ("destroy", wide_host, ENGINE, ["destroy", "docker", "--yes", "--allow", "outage,destroy"]),
        ("error-config", support.snapshot, PLAIN + 'data_size = "10GB"\n', ["plan"]),
        ("error-usage", support.snapshot, PLAIN, ["apply", "--nonsense"]),
    ],
)
def test_pictures(cli: Cli, name: str, shot: Callable[[], Snapshot], text: str, args: list[str]) -> None:
    cli.set(shot(), text)
    golden(name, picture(cli, *args))


def test_the_picture_of_a_step_that_failed(cli: Cli) -> None:
    cli.host.faults["create-thin-pool"] = "before"
    golden("apply-failed", picture(cli, "apply", "--yes"))
