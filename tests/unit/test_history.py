"""Past runs: from records, from the disk, and as they are drawn."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import support
from cli_support import Cli, golden, make_cli

from thinpoolmgr.core.history import past_runs
from thinpoolmgr.core.journal import Began, Doing, Done, Ended, Failed, Record, StoredRun, encode_record
from thinpoolmgr.core.plan import Request
from thinpoolmgr.core.steps import ActivatePool, SetWhenFull
from thinpoolmgr.host import locks

if TYPE_CHECKING:
    from thinpoolmgr.core.history import PastRun

CREATE = support.create_step(support.pool())
STEPS = (
    ActivatePool(id="01", reason="r", pool="docker", group="docker", lv="thinpool"),
    SetWhenFull(id="02", reason="r", pool="docker", group="docker", lv="thinpool", when_full="error"),
)
BEGAN = Began(
    "run", "apply", "2026-11-24T08:00:00.000+00:00", STEPS, request=Request("apply", is_settled=True, data_bytes=7)
)
LATER = "2026-11-24T08:00:02.500+00:00"
LATEST = "2026-11-24T08:01:00.000+00:00"
FAILED = Failed("02", "lvchange failed\nExit code: 5", tuple(f"lvchange {n} -> 5 (0.01 s)" for n in range(16)))


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return make_cli(tmp_path, monkeypatch, capsys)


def one(*records: Record, damage: str = "", is_locked: bool = False) -> PastRun:
    (run,) = past_runs([StoredRun("20261124T080000.000000Z-apply-ab12", records, damage)], is_locked=is_locked)
    return run


def results(run: PastRun) -> list[tuple[str, float | None]]:
    return [(step.result, step.seconds) for step in run.steps]


def test_a_run_that_ended_well() -> None:
    run = one(BEGAN, Doing("01", LATER), Done("01", 1.5), Doing("02", LATER), Done("02", 0.5), Ended("done", LATEST))
    assert (run.outcome, run.seconds, run.began, run.ended) == ("done", 60.0, BEGAN.at, LATEST)
    assert results(run) == [("done", 1.5), ("done", 0.5)]
    assert run.request == Request("apply")
    assert (run.error, run.commands) == ("", ())


def test_a_run_that_failed_keeps_its_error_and_commands() -> None:
    run = one(BEGAN, Doing("01", LATER), Done("01", 1.5), Doing("02", LATER), FAILED, Ended("failed", LATEST))
    assert (run.outcome, run.error, run.commands) == ("failed", FAILED.error, FAILED.commands)
    assert results(run) == [("done", 1.5), ("failed", 57.5)]


def test_a_run_without_an_end_was_interrupted_unless_it_is_under_way() -> None:
    records = (BEGAN, Doing("01", LATER))
    assert (one(*records).outcome, one(*records).seconds) == ("interrupted", None)
    assert results(one(*records)) == [("interrupted", None), ("not begun", None)]
    running = one(*records, is_locked=True)
    assert (running.outcome, results(running)[0]) == ("running", ("running", None))


def test_only_the_last_run_can_be_under_way() -> None:
    runs = past_runs([StoredRun("a", (BEGAN,)), StoredRun("b", (BEGAN,))], is_locked=True)
    assert [run.outcome for run in runs] == ["interrupted", "running"]
    ended = past_runs([StoredRun("a", (BEGAN, Ended("done", LATEST)))], is_locked=True)
    assert ended[0].outcome == "done"


def test_a_damaged_run_shows_what_could_be_read() -> None:
    run = one(BEGAN, Doing("01", LATER), Done("01", 1.5), damage="line 4 is damaged")
    assert (run.outcome, run.damage, run.command) == ("damaged", "line 4 is damaged", "apply")
    assert one(damage="line 1 is damaged").steps == ()


@pytest.mark.parametrize("ended", ["", "nonsense", "2026-11-24T08:00:05", "2025-01-01T00:00:00.000+00:00"])
def test_a_time_that_means_nothing_is_left_out(ended: str) -> None:
    assert one(BEGAN, Ended("done", ended)).seconds is None


def write(cli: Cli, name: str, content: bytes) -> Path:
    folder = cli.config.parent / "state" / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    path.write_bytes(content)
    return path


def content(*records: Record) -> bytes:
    return b"".join(encode_record(record) for record in records)


GOOD = "20261124T080000.000000Z-apply-ab12"
BAD = "20261124T090000.000000Z-apply-cd34"
DAMAGED = "20261124T100000.000000Z-destroy-ef56"


def write_three(cli: Cli) -> None:
    done = (Doing("01", LATER), Done("01", 1.5), Doing("02", LATER))
    write(cli, GOOD, content(BEGAN, *done, Done("02", 0.5), Ended("done", LATEST)))
    write(cli, BAD, content(BEGAN, *done, FAILED, Ended("failed", LATEST)))
    write(cli, DAMAGED, content(BEGAN) + b"00000000 {}\n" + content(Done("01", 1.5)))


def test_history_is_drawn(cli: Cli) -> None:
    assert cli("history") == (0, "No runs are recorded.\n", "")
    write_three(cli)
    code, out, err = cli("history")
    assert (code, err, max(map(len, out.splitlines())) <= 100) == (0, "", True)
    golden("history", out)
    code, out, err = cli("history", BAD[:12])
    assert (code, err, max(map(len, out.splitlines())) <= 100) == (0, "", True)
    golden("history-failed", out)
    golden("history-damaged", cli("history", DAMAGED)[1])


def test_history_as_a_document(cli: Cli) -> None:
    write_three(cli)
    code, document = cli.json("history")
    assert (code, document["schema"]) == (0, 1)
    assert [run["run"] for run in document["runs"]] == [GOOD, BAD, DAMAGED]
    assert [run["outcome"] for run in document["runs"]] == ["done", "failed", "damaged"]
    good, bad, damaged = document["runs"]
    told = {"run", "command", "request", "began", "ended", "seconds", "outcome", "steps"}
    assert set(good) == {*told, "error", "commands", "damage"}
    assert good["steps"][0] == {
        "id": "01",
        "do": "activate-pool",
        "target": "docker/thinpool",
        "result": "done",
        "seconds": 1.5,
    }
    assert (bad["error"], len(bad["commands"])) == (FAILED.error, 16)
    assert damaged["damage"] == "line 2 is damaged"
    assert [run["run"] for run in cli.json("history", BAD)[1]["runs"]] == [BAD]


def test_a_run_is_named_by_what_only_it_begins_with(cli: Cli) -> None:
    write_three(cli)
    code, out, err = cli("history", "20261124")
    assert (code, out, "3 runs begin with '20261124'" in err) == (64, "", True)
    assert cli("history", "apply")[0] == 64
    code, out, err = cli("history", BAD.replace("c", "x"))
    assert (code, out, BAD in " ".join(err.split())) == (64, "", True)


def test_history_needs_root_and_nothing_of_the_host(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.config.unlink()
    assert cli("history")[0] == 0
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli("history")[0] == 77
    assert cli("history", "--simulate") == (0, "No runs are recorded.\n", "")


@pytest.mark.parametrize("text", [b"\0" * 50, b"\xff\n", b"nonsense\nnonsense\n", content(Done("01", 1.0)) * 2])
def test_whatever_a_journal_file_holds_it_is_listed_and_nothing_breaks(cli: Cli, text: bytes) -> None:
    write(cli, GOOD, text)
    assert cli("history")[0] == 0
    assert cli("history", "--json")[0] == 0
    assert cli("history", GOOD)[0] in {0, 64}


def test_a_file_that_cannot_be_read_is_damaged(cli: Cli) -> None:
    path = write(cli, GOOD, b"")
    path.unlink()
    path.mkdir()
    (run,) = cli.json("history")[1]["runs"]
    assert (run["outcome"], run["damage"]) == ("damaged", "Is a directory")


def test_a_file_that_does_not_begin_with_a_beginning_is_damaged(cli: Cli) -> None:
    write(cli, GOOD, content(Done("01", 1.0)))
    (run,) = cli.json("history")[1]["runs"]
    assert (run["outcome"], "does not begin" in run["damage"]) == ("damaged", True)
    assert [finding["code"] for finding in cli.json("status")[1]["findings"]][-1] == "JOURNAL_DAMAGED"


def test_a_run_of_a_newer_version_is_damaged_for_us(cli: Cli) -> None:
    write(cli, GOOD, content(Began("r", "apply", "t", (), schema=99, version="9.9")))
    (run,) = cli.json("history")[1]["runs"]
    assert "newer version of thinpoolmgr (9.9)" in run["damage"]


def test_a_run_under_way_is_seen_without_trying_the_lock(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not cli.store.is_locked()
    with cli.store.lock("apply"):
        assert cli.store.is_locked()
        write(cli, GOOD, content(BEGAN, Doing("01", LATER)))
        assert cli.json("history")[1]["runs"][0]["outcome"] == "running"
    assert not cli.store.is_locked()
    assert cli.json("history")[1]["runs"][0]["outcome"] == "interrupted"
    monkeypatch.setattr(locks, "_KERNEL_LOCKS", "/nonexistent")
    with cli.store.lock("apply"):
        assert not cli.store.is_locked()


def test_a_real_failure_is_told_with_its_commands(cli: Cli) -> None:
    cli.host.faults["create-thin-pool"] = "before"
    assert cli("apply", "--yes")[0] == 1
    (run,) = cli.json("history")[1]["runs"]
    assert (run["outcome"], run["command"]) == ("failed", "apply")
    assert [step["result"] for step in run["steps"]] == ["done", "failed"]
    assert run["commands"] == ["create-volume-group -> 5 (0.01 s)", "create-thin-pool -> 5 (0.01 s)"]
    assert run["error"].startswith("create-thin-pool failed")
