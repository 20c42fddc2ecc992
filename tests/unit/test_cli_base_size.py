"""base-size on the command line: what is edited when, and what a kill at any point leaves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import support
from cli_support import PLAIN, SimulatedCli, make_simulated_cli
from msgspec.structs import replace

from thinpoolmgr.sim.faults import Fails, Killed, PowerCutError

if TYPE_CHECKING:
    from pathlib import Path

    from thinpoolmgr.core.model import Snapshot

TEXT = PLAIN + '[engines.docker]\npool = "docker"\nbase_size = "10GiB"  # for the images\n'
LARGER = TEXT.replace("10GiB", "12GiB")
RUNNING = support.with_engine(support.healthy(), support.docker(running=True, configured=True))
ALL = ("--yes", "--allow", "outage")
ASK = ("base-size", "docker", "12G")


class BaseSize(SimulatedCli):
    """The command line on the simulated host, where Docker runs on the pool."""

    usual_text = TEXT

    @property
    def text(self) -> str:
        return self.config.read_text()

    @property
    def options(self) -> str:
        return self.simulated.snapshot.engines[0].config_text or ""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> BaseSize:
    made = make_simulated_cli(BaseSize, tmp_path, monkeypatch, capsys)
    made.use(RUNNING)
    return made


def test_the_configuration_and_then_the_engine_get_the_new_size(cli: BaseSize) -> None:
    cli.config.chmod(0o600)
    code, out, err = cli(*ASK, *ALL)
    assert (code, cli.text, cli.config.stat().st_mode & 0o777) == (0, LARGER, 0o600)
    assert (cli.took_effect[0], cli.took_effect[-1]) == ("stop-engine", "start-engine")
    assert "dm.basesize=12G" in cli.options
    assert 'engines.docker.base_size is to become "12GiB"; it is "10GiB"' in " ".join(err.split())
    assert 'engines.docker.base_size is "12GiB" now; it was "10GiB"' in " ".join(out.split())
    request = cli.store.read_runs()[-1][1].began.request
    assert request is not None
    assert (request.command, request.engine, request.base_size) == ("base-size", "docker", "12GiB")
    assert cli("plan")[0] == 0


def test_the_file_is_there_before_the_first_step_begins(cli: BaseSize) -> None:
    cli.simulated.lay(Fails("before"))
    code, document = cli.json(*ASK, *ALL)
    assert (code, document["outcome"], cli.text) == (1, "failed", LARGER)
    assert cli.took_effect == []


@pytest.mark.parametrize("size", ["10GiB", "10240M"])
def test_a_size_that_is_there_already_is_no_edit_and_applies(cli: BaseSize, size: str) -> None:
    assert cli("base-size", "docker", size)[:2] == (0, "Nothing to do: the host is as it should be.\n")
    cli.use(support.with_engine(support.healthy(), support.docker()))
    assert cli("base-size", "docker", size, *ALL)[0] == 0
    assert ("dm.basesize=10G" in cli.options, cli.text) == (True, TEXT)


def test_a_host_that_has_the_size_already_gets_the_configuration_when_approved(cli: BaseSize) -> None:
    assert cli(*ASK, *ALL)[0] == 0
    cli.config.write_text(TEXT)
    code, document = cli.json(*ASK)
    assert (code, document["error"]["code"], cli.text) == (3, "NOT_APPROVED", TEXT)
    code, document = cli.json(*ASK, "--yes")
    assert (code, document["outcome"], cli.text) == (0, "nothing", LARGER)


@pytest.mark.parametrize("flags", [(), ("--yes",)])
def test_what_is_not_approved_edits_nothing(cli: BaseSize, flags: tuple[str, ...]) -> None:
    code, document = cli.json(*ASK, *flags)
    assert (code, document["error"]["code"], cli.text) == (3, "NOT_APPROVED", TEXT)
    assert (cli.took_effect, cli.store.read_runs()) == ([], [])


def test_a_smaller_size_is_refused_and_edits_nothing(cli: BaseSize) -> None:
    used = replace(support.STALE, transaction_id=1, devices=())
    shot = support.with_status(support.healthy(), transaction_id=1, used_data_blocks=10)
    cli.use(support.with_engine(shot, support.docker(configured=True, state=used)))
    code, document = cli.json("base-size", "docker", "5GiB", "--yes", "--allow", "outage")
    assert (code, document["error"]["code"], cli.text) == (3, "BASE_SIZE_SHRINKS", TEXT)


def test_a_configuration_that_would_not_be_valid_is_78_and_stays(cli: BaseSize) -> None:
    code, document = cli.json("base-size", "docker", "1025B", *ALL)
    assert (code, document["error"]["code"], cli.text) == (78, "CONFIG", TEXT)


def test_a_file_that_somebody_edits_meanwhile_stays_and_nothing_is_begun(
    cli: BaseSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe = cli.simulated.observe

    def edited() -> Snapshot:
        cli.config.write_text(TEXT + "# mine\n")
        return observe()

    monkeypatch.setattr(cli.simulated, "observe", edited)
    code, document = cli.json(*ASK, *ALL)
    assert (code, document["error"]["code"], cli.text) == (3, "FILE_CHANGED", TEXT + "# mine\n")
    assert (cli.took_effect, cli.store.read_runs()) == ([], [])


@pytest.mark.parametrize("again", [ASK, ("apply",), ("resume",)], ids=lambda args: args[0])
@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("when", ["before", "after"])
def test_after_a_kill_at_any_step_each_way_on_reaches_the_end(
    cli: BaseSize, again: tuple[str, ...], after: int, when: str
) -> None:
    cli.killed(Killed("before" if when == "before" else "after"), after, *ASK, *ALL)
    assert cli.text == LARGER
    assert cli(*again, *ALL)[0] == 0
    assert ("dm.basesize=12G" in cli.options, cli.text) == (True, LARGER)
    assert cli.simulated.snapshot.engines[0].running
    assert cli("plan")[0] == 0
    assert cli("resume", *ALL)[1] == "Nothing to resume: the last run ended well.\n"


def test_a_kill_between_the_file_and_the_run_is_finished_by_apply(
    cli: BaseSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(_command: str) -> None:
        raise PowerCutError

    with monkeypatch.context() as patched:
        patched.setattr(cli.store, "new_run", cut)
        with pytest.raises(PowerCutError):
            cli(*ASK, *ALL)
    assert (cli.text, cli.took_effect) == (LARGER, [])
    assert cli("apply", *ALL)[0] == 0
    assert "dm.basesize=12G" in cli.options


def test_simulated_nothing_is_written(cli: BaseSize, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    code, out, err = cli("--simulate", *ASK, "--yes")
    assert (code, cli.text) == (0, TEXT)
    assert ("is to become" in " ".join(err.split()), "base_size is" in out) == (True, False)
    code, document = cli.json("--simulate", *ASK, "--yes")
    assert (code, document["outcome"], cli.text) == (0, "done", TEXT)
    assert cli.store.read_runs() == []


USAGE = [
    (["base-size"], "Missing argument"),
    (["base-size", "docker"], "Missing argument"),
    (["base-size", "docker", "12"], "has no unit"),
    (["base-size", "docker", "12GB"], "12000000000 bytes"),
    (["base-size", "docker", "12GB"], "12884901888 bytes"),
    (["base-size", "docker", "0G"], "out of range"),
    (["base-size", "docker", "--", "-12G"], "is not a size"),
    (["base-size", "containerd", "12GiB"], "Its engines: docker"),
]


@pytest.mark.parametrize(("args", "word"), USAGE, ids=[" ".join(args) for args, _ in USAGE])
def test_a_wrong_command_line_is_64_and_edits_nothing(cli: BaseSize, args: list[str], word: str) -> None:
    code, out, err = cli(*args)
    assert (code, out, cli.text, cli.took_effect) == (64, "", TEXT, [])
    assert word in " ".join(err.split())
    code, document = cli.json(*args)
    assert (code, document["error"]["code"]) == (64, "USAGE")


def test_what_holds_for_the_whole_host_is_said_first(cli: BaseSize, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.raw("--config", "/nonexistent", *ASK)[0] == 78
    with cli.store.lock("other"):
        assert cli(*ASK, *ALL)[0] == 75
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli(*ASK, *ALL)[0] == 77
    assert (cli.text, cli.took_effect) == (TEXT, [])
