"""`metrics` as people, timers and Prometheus meet it."""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest
import support
from cli_support import Cli, make_cli
from measured import report, watched

from thinpoolmgr.cli import metrics as command
from thinpoolmgr.cli.waiting import Patience
from thinpoolmgr.errors import UnavailableError
from thinpoolmgr.host import monitor_report
from thinpoolmgr.host.locks import flocked, is_flocked

if TYPE_CHECKING:
    from pathlib import Path

    from thinpoolmgr.core.model import Snapshot


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    made = make_cli(tmp_path, monkeypatch, capsys)
    made.set(support.healthy())
    monkeypatch.setattr(command, "read_report", lambda: monitor_report.read_report(tmp_path / "monitor.json"))
    return made


def unobservable(_host: support.FakeHost) -> None:
    raise UnavailableError("no device-mapper", code="NO_DEVICE_MAPPER")


def test_the_document_is_on_standard_output(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "is_running", lambda _report: True)
    (tmp_path / "monitor.json").write_bytes(msgspec.json.encode(report(watched())))
    code, out, err = cli("metrics")
    assert (code, err) == (0, "")
    assert out.endswith("\n")
    assert "\n\n" not in out
    assert 'thinpoolmgr_pool_size_bytes{part="data",pool="docker",' in out
    assert "thinpoolmgr_up 1.0\n" in out
    assert "thinpoolmgr_monitor_up 1.0\n" in out
    assert 'thinpoolmgr_pool_extensions_total{pool="docker",result="done",' in out


def test_the_last_run_is_the_journals(cli: Cli) -> None:
    cli.set(support.snapshot())
    assert "thinpoolmgr_last_run" not in cli("metrics")[1]
    assert cli("apply", "--yes")[0] == 0
    out = cli("metrics")[1]
    assert 'thinpoolmgr_last_run_outcome{outcome="done"} 1.0\n' in out
    assert 'thinpoolmgr_last_run_info{command="apply"} 1.0\n' in out


def test_a_textfile_is_replaced_whole(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "thinpoolmgr.prom"
    path.write_text("old")
    assert cli("metrics", "--textfile", str(path)) == (0, "", "")
    assert (path.read_text().count("thinpoolmgr_up 1.0\n"), path.stat().st_mode & 0o777) == (1, 0o644)


def test_a_host_that_cannot_be_observed_is_a_document_and_an_exit_code(cli: Cli, tmp_path: Path) -> None:
    cli.host.on_observe = unobservable
    code, out, err = cli("metrics")
    assert (code, "thinpoolmgr_up 0.0\n" in out, "[NO_DEVICE_MAPPER]" in err) == (69, True, True)
    assert 'thinpoolmgr_observation_error_info{code="NO_DEVICE_MAPPER"} 1.0\n' in out
    path = tmp_path / "x.prom"
    assert cli("metrics", "--textfile", str(path))[:2] == (69, "")
    assert "thinpoolmgr_up 0.0\n" in path.read_text()


def test_a_host_that_does_not_answer_is_told_of_with_the_monitor_s_part(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    shown = support.healthy()

    def hangs(_host: support.FakeHost) -> Snapshot:
        answers.wait()
        return shown

    (tmp_path / "monitor.json").write_bytes(msgspec.json.encode(report(watched())))
    monkeypatch.setattr(command, "Patience", lambda _seconds: Patience(0.05))
    monkeypatch.setattr(support.FakeHost, "observe", hangs)
    monkeypatch.setattr(command, "is_running", lambda _report: True)
    code, out, err = cli("metrics")
    answers.set()
    assert (code, "[HOST_HANGS]" in err) == (69, True)
    assert 'thinpoolmgr_observation_error_info{code="HOST_HANGS"} 1.0\n' in out
    assert "thinpoolmgr_monitor_last_look_timestamp_seconds{" in out
    assert 'state="tight",thin_pool="thinpool",volume_group="docker"} 1.0\n' in out


def test_while_an_earlier_look_has_not_ended_nobody_looks(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, looks, impatient = str(tmp_path / "run/metrics.lock"), list[bool](), Patience(0.05)
    cli.host.on_observe = lambda _host: looks.append(is_flocked(lock))
    assert (cli("metrics")[0], looks) == (0, [True])
    monkeypatch.setattr(command, "Patience", lambda _seconds: impatient)
    with flocked(lock):
        code, out, err = cli("metrics")
        assert (code, looks) == (69, [True])
    assert 'thinpoolmgr_observation_error_info{code="HOST_HANGS"} 1.0\n' in out
    assert f"lsof {lock}" in " ".join(err.split())
    look = impatient._under_way
    assert look is not None
    assert look.has_ended(60.0)


def test_a_command_that_hangs_keeps_others_from_looking_when_who_started_it_is_gone(cli: Cli, tmp_path: Path) -> None:
    lock, said = str(tmp_path / "run/metrics.lock"), list[str]()

    def leave_one(_host: support.FakeHost) -> None:
        assert cli.runner is not None
        said.append(cli.runner.run(("/bin/sh", "-c", "exec 3<&0; sleep 300 <&3 & echo $!")).stdout)

    cli.host.on_observe = leave_one
    assert cli("metrics")[0] == 0
    assert is_flocked(lock)
    os.kill(int(said[0]), signal.SIGTERM)


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """How long threads were waited for."""
    seconds: list[float | None] = []
    join = threading.Thread.join

    def joined(thread: threading.Thread, timeout: float | None = None) -> None:
        seconds.append(timeout)
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", joined)
    return seconds


def test_one_look_at_a_time_and_only_the_first_is_waited_for(waited: list[float | None]) -> None:
    answers, looks = threading.Event(), []
    patience, shown = Patience(0.05), support.healthy()

    def hangs() -> Snapshot:
        looks.append(1)
        answers.wait()
        return shown

    for _ in range(3):
        with pytest.raises(UnavailableError, match="does not answer"):
            patience.look(hangs)
    assert (looks, waited) == ([1], [0.05, 0.0, 0.0])
    answers.set()
    assert Patience(30).look(hangs) is shown
    with pytest.raises(UnavailableError, match="none"):
        Patience(30).look(raises)


def test_a_host_that_is_only_slow_is_seen() -> None:
    answers = threading.Event()
    shown, newer = support.healthy(), support.snapshot()
    patience = Patience(0.05)

    def answers_late(what: Snapshot) -> Snapshot:
        assert answers.wait(30)
        return what

    with pytest.raises(UnavailableError, match="does not answer"):
        patience.look(lambda: answers_late(shown))
    look = patience._under_way
    answers.set()
    assert look is not None
    assert look.has_ended(30)
    answers.clear()
    # still too slow: what the one before came to
    assert patience.look(lambda: answers_late(newer)) is shown
    with pytest.raises(UnavailableError, match="does not answer"):
        patience.look(lambda: answers_late(newer))
    answers.set()


def test_the_first_look_has_more_time(waited: list[float | None]) -> None:
    patience = Patience(20.0, 30.0)
    for _ in range(3):
        assert patience.look(support.healthy) == support.healthy()
    assert waited == [30.0, 20.0, 20.0]


def raises() -> Snapshot:
    raise UnavailableError("none")


def test_a_wrong_configuration_is_seen_by_who_watches(cli: Cli) -> None:
    cli.config.write_text("version = 7\n")
    code, out, _ = cli("metrics")
    assert (code, 'thinpoolmgr_observation_error_info{code="CONFIG"} 1.0\n' in out) == (78, True)


@pytest.mark.parametrize(
    "args",
    [
        ("--listen", "0.0.0.0:9750"),
        ("--listen", "192.168.0.1:9750"),
        ("--listen", "unix:x"),
        ("--listen", "127.0.0.1:9750", "--textfile", "x.prom"),
        ("--json",),
    ],
)
def test_what_cannot_be_asked_for(cli: Cli, args: tuple[str, ...]) -> None:
    code, _, err = cli("metrics", *args)
    assert (code, "[USAGE]" in err) == (64, True)


def test_only_root_measures(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli("metrics")[:2] == (77, "")


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_serves_until_it_is_told_to_end(cli: Cli, tmp_path: Path, number: signal.Signals, expected: int) -> None:
    path = tmp_path / "s"
    answers: list[bytes] = []

    def ask_and_stop() -> None:
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as opened:
                while opened.connect_ex(str(path)):
                    pass
                opened.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                answers.append(b"".join(iter(lambda: opened.recv(65536), b"")))
            # The second look finds another host.
            cli.host.on_observe = unobservable
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=ask_and_stop)
    thread.start()
    code, out, err = cli("metrics", "--listen", f"unix:{path}")
    thread.join()
    assert (code, out) == (expected, "")
    assert f"Listening on {path}" in err.replace("\n", " ")
    assert [b"thinpoolmgr_up 1.0\n" in answers[0], b"thinpoolmgr_up 0.0\n" in answers[1]] == [True, True]
    assert not path.exists()
