"""`usage` and `who` as people and scripts meet them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import support
from cli_support import ENGINE, PLAIN, Cli, golden, make_cli, picture
from msgspec.structs import replace
from test_core_usage import with_active
from test_schemas import validate

from thinpoolmgr.cli import usage
from thinpoolmgr.core.engine_graph import EngineGraph
from thinpoolmgr.core.holders import Holders
from thinpoolmgr.core.model import DmDevice, Snapshot, ThinPoolStatus
from thinpoolmgr.core.usage import PoolUse, ThinUse
from thinpoolmgr.errors import CommandFailedError, UnavailableError
from thinpoolmgr.host.runner import CommandRunner
from thinpoolmgr.host.thintools import SnapshotLeftError
from thinpoolmgr.units import MIB

TWO = PLAIN + '[pools.other]\ndevices = ["/dev/sdc"]\n'
STATUS = ThinPoolStatus("rw", 3, 100, 3072, 1000, 19456)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    made = make_cli(tmp_path, monkeypatch, capsys)
    made.set(support.with_engine(support.healthy(), support.docker()), ENGINE)
    return made


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[DmDevice]:
    """Let the kernel answer; returns the devices that it was asked about."""
    asked: list[DmDevice] = []

    def answer(pool: DmDevice, metadata: DmDevice, _runner: CommandRunner) -> PoolUse:
        asked[:] = [pool, metadata]
        return PoolUse(tuple(ThinUse(number, 99 * MIB, number * MIB) for number in range(1, 24)), STATUS)

    monkeypatch.setattr(usage, "read_pool_use", answer)
    monkeypatch.setattr(usage, "read_graph", lambda _engine, **_: EngineGraph(problems=("/x/containers/1: damaged",)))
    return asked


def test_the_picture_of_usage(cli: Cli) -> None:
    golden("usage", picture(cli, "usage", "--simulate"))
    golden("help-usage", picture(cli, "usage", "--help"))


def test_the_picture_of_usage_on_a_narrow_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = picture(cli, "usage", "--simulate")
    golden("narrow-usage", text)
    assert max(map(len, text.splitlines())) <= 60


@pytest.mark.usefixtures("kernel")
def test_the_picture_of_many_devices_that_nobody_knows(cli: Cli) -> None:
    golden("usage-many", picture(cli, "usage"))
    _, out, _ = cli("usage", "--all")
    assert len([line for line in out.splitlines() if "not recorded" in line]) == 23
    assert "--all" not in out


def test_a_pool_without_a_device(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "read_pool_use", lambda *_: PoolUse((), replace(STATUS, used_data_blocks=0)))
    code, out, _ = cli("usage")
    assert (code, "No thin device." in out, "OWN" in out) == (0, True, False)


def test_the_document_is_the_contracts(cli: Cli, kernel: list[DmDevice]) -> None:
    code, document = cli.json("usage")
    validate("usage", document)
    assert code == 0
    assert {"schema", "pool", "devices"} <= set(document)
    assert document["pool"] == "docker"
    assert document["devices"][0] == {
        "device_id": 23,
        "dm_name": None,
        "owner_kind": "unknown",
        "owner": "",
        "owner_id": "",
        "images": [],
        "driver_name": "",
        "mapped_bytes": 99 * MIB,
        "exclusive_bytes": 23 * MIB,
        "virtual_bytes": None,
    }
    assert [device.name for device in kernel] == ["docker-thinpool", "docker-thinpool_tmeta"]


def test_what_is_damaged_is_a_warning(cli: Cli, kernel: list[DmDevice]) -> None:
    code, _, err = cli("usage")
    assert (code, bool(kernel)) == (0, True)
    assert "warning: /x/containers/1: damaged" in err


def test_the_only_pool_need_not_be_named(cli: Cli, kernel: list[DmDevice]) -> None:
    cli.set(support.healthy(), TWO)
    code, out, err = cli("usage")
    assert (code, out, kernel) == (64, "", [])
    assert "Its pools: docker, other" in err
    assert cli.json("usage", "docker")[1]["pool"] == "docker"
    assert cli("usage", "nonsense")[0] == 64
    assert cli("usage", "other")[0] == 3


@pytest.mark.parametrize(
    ("shot", "code"),
    [
        (support.snapshot(), "POOL_ABSENT"),
        (support.deactivated(support.healthy()), "POOL_INACTIVE"),
        (support.healthy(mode="Fail"), "POOL_FAILED"),
    ],
)
def test_a_pool_that_cannot_be_asked_is_refused(cli: Cli, kernel: list[DmDevice], shot: Snapshot, code: str) -> None:
    cli.set(shot)
    exit_code, document = cli.json("usage")
    assert (exit_code, document["error"]["code"], kernel) == (3, code, [])


def test_it_takes_the_lock(cli: Cli, kernel: list[DmDevice]) -> None:
    with cli.store.lock("apply"):
        assert cli("usage")[0] == 75
    assert kernel == []


def test_it_needs_root(cli: Cli, monkeypatch: pytest.MonkeyPatch, kernel: list[DmDevice]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert (cli("usage")[0], kernel) == (77, [])


@pytest.mark.parametrize(
    ("error", "code"), [(UnavailableError("thin_ls is not installed"), 69), (CommandFailedError("thin_ls failed"), 1)]
)
def test_errors_have_their_codes(cli: Cli, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    def fail(*_: object) -> PoolUse:
        raise error

    monkeypatch.setattr(usage, "read_pool_use", fail)
    assert cli.json("usage")[0] == code


def ended(*_: object) -> PoolUse:
    os.kill(os.getpid(), signal.SIGTERM)
    raise CommandFailedError("thin_ls was ended by a signal")


def finished(*_: object) -> PoolUse:
    os.kill(os.getpid(), signal.SIGTERM)
    return PoolUse((), STATUS)


@pytest.mark.parametrize("answer", [ended, finished])
def test_a_signal_ends_it_with_its_code(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, answer: Callable[..., PoolUse]
) -> None:
    stopped: list[str] = []
    monkeypatch.setattr(CommandRunner, "end_reading", lambda _self: stopped.append("thin_ls"))
    monkeypatch.setattr(usage, "read_pool_use", answer)
    code, out, err = cli("usage", "--json")
    assert (code, len(stopped)) == (128 + signal.SIGTERM, 1)
    assert json.loads(out)["error"]["code"] == "INTERRUPTED"
    assert "SIGTERM" in err


def test_a_signal_does_not_hide_that_a_snapshot_is_left(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def left(*_: object) -> PoolUse:
        os.kill(os.getpid(), signal.SIGTERM)
        raise SnapshotLeftError("it is still held")

    monkeypatch.setattr(usage, "read_pool_use", left)
    code, out, _ = cli("usage", "--json")
    assert (code, json.loads(out)["error"]["summary"]) == (1, "it is still held")


def who_picture(cli: Cli, *names: str) -> str:
    return "\n".join(picture(cli, "who", "--simulate", name) for name in names)


def test_the_picture_of_who(cli: Cli) -> None:
    golden("who", who_picture(cli, "shop", "db", "3", "10", "docker"))
    golden("who-nothing", who_picture(cli, "nonsense", "1", "sha256:"))
    golden("help-who", picture(cli, "who", "--help"))


def test_the_picture_of_who_on_a_narrow_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = who_picture(cli, "shop")
    golden("narrow-who", text)
    assert max(map(len, text.splitlines())) <= 60


def test_who_names_the_candidates(cli: Cli) -> None:
    code, out, err = cli("who", "--simulate", "sha256:7")
    assert (code, out) == (64, "")
    assert "'sha256:7' may mean 2 things" in err
    assert "  image-layer sha256:7476b4af0ffe" in err


def test_the_document_of_who_fits_its_schema(cli: Cli) -> None:
    code, document = cli.json("who", "--simulate", "shop")
    validate("who", document)
    assert (code, document["kind"], document["name"]) == (0, "container", "shop")
    assert document["holders"][0]["processes"][0]["pid"] == 4711
    assert cli.json("who", "--simulate", "nonsense")[1]["error"]["code"] == "USAGE"


def test_who_asks_the_host(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str]] = []

    def holders(watched: dict[str, str]) -> Holders:
        asked.append(watched)
        return Holders((), ("process 9: Permission denied",))

    monkeypatch.setattr(usage, "find_holders", holders)
    monkeypatch.setattr(usage, "read_graph", lambda _engine, **_: EngineGraph())
    cli.set(with_active(support.healthy(), "docker-8:1-42-base", 1))
    code, out, err = cli("who", "1")
    assert (code, len(asked), list(asked[0].values())) == (0, 1, ["docker-8:1-42-base"])
    assert "nobody holds it, as far as can be seen" in out
    assert "warning: process 9: Permission denied" in err


def test_who_says_where_a_strange_path_lies(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("who", str(tmp_path))
    assert code == 64
    assert f"{tmp_path} is, or lies on, device" in err


def test_who_needs_root_and_takes_no_lock(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with cli.store.lock("apply"):
        assert cli("who", "docker")[0] == 0
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli("who", "docker")[0] == 77
