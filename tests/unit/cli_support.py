"""The command line on a host in memory, and what it prints held against tests/golden."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import support

from thinpoolmgr.cli import changes, metrics, pools, reports
from thinpoolmgr.cli.main import main
from thinpoolmgr.core.model import Signature
from thinpoolmgr.core.steps import step_name
from thinpoolmgr.host.store import Store
from thinpoolmgr.sim.faults import Killed, PowerCutError
from thinpoolmgr.sim.host import SimulatedHost

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredState
    from thinpoolmgr.core.model import Snapshot
    from thinpoolmgr.host.runner import CommandRunner

CHECKOUT = Path(__file__).parents[2]
GOLDEN = CHECKOUT / "tests/golden"
PLAIN = 'version = 1\n[pools.docker]\ndevices = ["/dev/sdb"]\n'
ENGINE = PLAIN + '[engines.docker]\npool = "docker"\n'
EXT4 = Signature("ext4", "filesystem", 1080)


class Cli:
    """Runs the command line on a host in memory."""

    def __init__(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.config = tmp_path / "c.toml"
        self.config.write_text(PLAIN)
        self.store = Store(tmp_path / "state", tmp_path / "run" / "lock")
        self.host = support.FakeHost(support.snapshot())
        self.runner: CommandRunner | None = None
        self._capsys = capsys

    def set(self, shot: Snapshot, text: str = PLAIN) -> None:
        self.host = support.FakeHost(shot)
        self.config.write_text(text)

    def raw(self, *args: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(args)
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err

    def __call__(self, *args: str) -> tuple[int, str, str]:
        return self.raw("--config", str(self.config), *args)

    def json(self, *args: str) -> tuple[int, Any]:
        code, out, _ = self(*args, "--json")
        return code, json.loads(out)


def make_cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return a command line whose host, journal and clock are all in memory or in `tmp_path`."""
    made = Cli(tmp_path, capsys)

    def host(_desired: DesiredState, runner: CommandRunner | None = None, **_how: bool) -> support.FakeHost:
        made.runner = runner
        return made.host

    for module in (pools, reports, metrics):
        monkeypatch.setattr(module, "real_host", host)
    monkeypatch.setattr(metrics, "_LOOK_LOCK", str(tmp_path / "run/metrics.lock"))
    monkeypatch.setattr(pools, "Store", lambda *places: Store(*places) if places else made.store)
    monkeypatch.setattr("thinpoolmgr.host.journald.SOCKET_PATH", str(tmp_path / "journal"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("thinpoolmgr.cycle.time.monotonic", lambda: 0.0)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return made


class SimulatedCli(Cli):
    """The same command line on the simulated host, where a run can be killed."""

    simulated: SimulatedHost
    usual_text = PLAIN

    def use(self, shot: Snapshot, text: str = "") -> None:
        self.simulated = SimulatedHost(shot)
        self.config.write_text(text or self.usual_text)

    @property
    def took_effect(self) -> list[str]:
        return [step_name(step) for step in self.simulated.took_effect]

    def killed(self, fault: Killed, after: int, *args: str) -> None:
        self.simulated.lay(fault, after)
        with pytest.raises(PowerCutError):
            self(*args)
        self.simulated.faults.clear()


_Made = TypeVar("_Made", bound=SimulatedCli)


def make_simulated_cli(
    kind: type[_Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> _Made:
    """Return a command line of this kind; it has no host before `use`."""
    made = kind(tmp_path, capsys)
    made.store = make_cli(tmp_path, monkeypatch, capsys).store
    monkeypatch.setattr(pools, "real_host", lambda _desired, **_: made.simulated)
    monkeypatch.setattr(changes, "Store", lambda: made.store)
    return made


def golden(name: str, text: str) -> None:
    """Hold `text` against its file; RENEW_GOLDEN=1 writes the file anew."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("RENEW_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text


def picture(cli: Cli, *args: str) -> str:
    """Return a command line, all that it prints, and its exit code."""
    code, out, err = cli.raw("--config", "c.toml", *args)
    return f"$ thinpoolmgr {' '.join(args)}\n{out}--- stderr\n{err}--- exit {code}\n"
