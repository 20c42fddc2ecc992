"""The command line as people and scripts meet it: exit codes, streams, documents. test_pictures has what is drawn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest
import support
from cli_support import CHECKOUT, ENGINE, EXT4, PLAIN, Cli, make_cli
from msgspec.structs import replace

from thinpoolmgr import __version__
from thinpoolmgr.cli import pools, reports
from thinpoolmgr.core.model import BaseDevice, DmDevice
from thinpoolmgr.core.steps import step_name
from thinpoolmgr.errors import UnavailableError

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredState
    from thinpoolmgr.core.model import Snapshot
    from thinpoolmgr.core.steps import Step

WARNING = (
    "warning: /dev/sdb may be another disk after the next boot; a name below /dev/disk/by-id stays the\n"
    "         same.\n"
)
COMMANDS = [
    ["plan"],
    ["apply"],
    ["destroy"],
    ["activate"],
    ["deactivate"],
    ["status"],
    ["config"],
    ["config", "check"],
    ["config", "show"],
]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return make_cli(tmp_path, monkeypatch, capsys)


def test_plan_says_with_its_code_whether_there_is_something_to_do(cli: Cli) -> None:
    code, out, err = cli("plan")
    assert (code, err) == (2, WARNING)
    assert "+ create volume group docker" in out
    cli.set(support.healthy())
    assert cli("plan") == (0, "Nothing to do: the host is as the configuration describes it.\n", "")
    assert cli.host.performed == []


def test_plan_shows_refusals_with_their_code(cli: Cli) -> None:
    cli.set(support.snapshot(support.disk(mounts=("/srv",))))
    code, out, err = cli("plan")
    assert (code, err) == (3, "")
    assert "refused /dev/sdb is mounted on /srv  [DISK_MOUNTED]" in out
    cli.set(support.with_engine(support.snapshot(), support.docker(version="25.0")), ENGINE)
    assert cli("plan")[0] == 69


def test_apply_does_it_and_says_so_once(cli: Cli) -> None:
    code, out, err = cli("apply", "--yes")
    assert (code, out) == (0, "Done: 2 steps in 0.0 s; looked at again, nothing is left to do.\n")
    assert "[1/2] + create volume group docker on /dev/sdb" in err
    assert cli("apply", "--yes") == (0, "Nothing to do: the host is as it should be.\n", "")
    assert cli("apply") == (0, "Nothing to do: the host is as it should be.\n", "")


def test_apply_without_yes_and_terminal_refuses_and_names_the_flag(cli: Cli) -> None:
    code, out, err = cli("apply")
    assert (code, out, cli.host.performed) == (3, "", [])
    assert "error: this needs --yes; nothing was changed  [NOT_APPROVED]" in err


def test_apply_needs_allowances_by_name(cli: Cli) -> None:
    text = PLAIN + "wipe_signatures = true\n"
    cli.set(support.snapshot(support.disk(signatures=(EXT4,))), text)
    code, _, err = cli("apply", "--yes")
    assert (code, "--allow destroy" in err, cli.host.performed) == (3, True, [])
    assert cli("apply", "--yes", "--allow", "outage")[0] == 3
    assert cli("apply", "--yes", "--allow", "outage,destroy")[0] == 0


def test_destroy_undoes_apply(cli: Cli) -> None:
    assert cli("apply", "--yes")[0] == 0
    assert cli("destroy", "docker", "--yes")[0] == 3
    code, out, _ = cli("destroy", "docker", "--yes", "--allow", "destroy")
    assert (code, out.startswith("Done: 4 steps")) == (0, True)
    assert cli.host.snapshot == support.snapshot()
    assert cli("destroy", "docker", "--yes")[0] == 0


def test_destroy_can_keep_the_labels(cli: Cli) -> None:
    cli.set(support.healthy())
    assert cli("destroy", "docker", "--keep-devices", "--yes", "--allow", "destroy")[0] == 0
    assert [pv.path for pv in cli.host.snapshot.orphan_pvs] == ["/dev/sdb"]


def test_deactivate_and_activate(cli: Cli) -> None:
    cli.set(support.healthy())
    assert cli("deactivate", "docker", "--yes")[0] == 0
    assert cli.host.snapshot.dm_devices == ()
    assert cli("activate", "docker", "--yes")[0] == 0
    assert cli.host.snapshot == support.healthy()
    cli.set(support.snapshot())
    assert cli("activate", "docker", "--yes")[0] == 3


@pytest.mark.parametrize(
    ("fault", "code", "word"), [("before", 1, "COMMAND_FAILED"), ("nothing", 6, "POST_CONDITION_FALSE")]
)
def test_apply_says_what_failed(cli: Cli, fault: support.Fault, code: int, word: str) -> None:
    cli.host.faults["create-thin-pool"] = fault
    found, out, err = cli("apply", "--yes")
    assert (found, out) == (code, "")
    assert f"[{word}]" in err
    assert "FAILED" in err


def test_a_signal_is_the_exit_code(cli: Cli) -> None:
    import signal

    cli.host.on_perform = lambda _step: os.kill(os.getpid(), signal.SIGTERM)
    code, document = cli.json("apply", "--yes")
    assert (code, document["outcome"], document["error"]["code"]) == (128 + 15, "interrupted", "INTERRUPTED")
    assert [step["result"] for step in document["steps"]] == ["done"]


def test_an_interrupted_run_that_fits_nowhere_needs_a_person(cli: Cli) -> None:
    cli.host.faults["create-volume-group"] = "crash-before"
    with pytest.raises(support.CrashError):
        cli.raw("--config", str(cli.config), "apply", "--yes")
    cli.set(support.with_group(support.snapshot(), tags=()))
    assert cli("apply", "--yes")[0] == 5


def test_what_holds_for_the_whole_host_is_said_first(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for args in (["plan"], ["apply", "--yes"], ["status"], ["destroy", "docker"], ["activate", "docker"]):
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert cli(*args)[0] == 77
        assert cli.raw("--config", "/nonexistent", *args)[0] == 78
        monkeypatch.setattr(os, "geteuid", lambda: 0)
    with cli.store.lock("destroy"):
        code, _, err = cli("apply", "--yes")
        assert (code, f"pid {os.getpid()}, destroy, since" in " ".join(err.split())) == (75, True)
        assert cli("plan")[0] == 2
        assert cli("status")[0] == 0


def test_configuration_can_be_looked_at_without_root(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli("config", "check") == (0, f"Valid: {cli.config}\n", WARNING)
    assert cli("config", "show") == (0, 'version = 1\npools.docker.devices = ["/dev/sdb"]\n', "")
    assert f'pools.docker.devices = ["/dev/sdb"]  # {cli.config}\n' in cli("config", "show", "--origin")[1]
    assert cli.json("config", "check") == (
        0,
        {"schema": 1, "valid": True, "files": [str(cli.config)], "warnings": [" ".join(WARNING.split()[1:])]},
    )
    code, document = cli.json("config", "show", "--origin")
    assert (code, document["origins"]["pools.docker.devices"]) == (0, str(cli.config))
    cli.config.write_text(PLAIN + 'data_size = "10GB"\n')
    code, out, err = cli("config", "check")
    assert (code, out, "two readings" in err) == (78, "", True)


def test_a_host_without_the_kernel_target_is_unavailable(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def host(_desired: DesiredState, **_: bool) -> support.FakeHost:
        raise UnavailableError("this kernel has no device-mapper target thin-pool")

    monkeypatch.setattr(pools, "real_host", host)
    monkeypatch.setattr(reports, "real_host", host)
    for args in (["plan"], ["apply", "--yes"], ["status"]):
        assert cli(*args)[0] == 69


USAGE = [
    [],
    ["nonsense"],
    ["plan", "--nonsense"],
    ["plan", "surplus"],
    ["destroy"],
    ["destroy", "nonsense"],
    ["activate", "nonsense"],
    ["deactivate", "nonsense"],
    ["apply", "--allow"],
    ["apply", "--allow", "everything"],
    ["apply", "--allow", ""],
    ["apply", "--allow=outage,"],
    ["config"],
    ["config", "nonsense"],
    ["apply", "--yes=1"],
    ["plan", "-x"],
    ["--json=1", "plan"],
]


@pytest.mark.parametrize("args", USAGE, ids=" ".join)
def test_a_wrong_command_line_is_64_and_prints_nothing_on_stdout(cli: Cli, args: list[str]) -> None:
    code, out, err = cli(*args)
    assert (code, out) == (64, "")
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert len(err.splitlines()) < 8


def test_a_pool_that_is_not_configured_is_answered_with_those_that_are(cli: Cli) -> None:
    assert "Its pools: docker" in cli("destroy", "nonsense")[2]


@pytest.mark.parametrize("args", [[], *COMMANDS], ids=" ".join)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_of_every_command(cli: Cli, args: list[str], flag: str) -> None:
    code, out, err = cli.raw(*args, flag)
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: thinpoolmgr {' '.join(args)}".rstrip())


def test_version(cli: Cli) -> None:
    code, out, err = cli.raw("--version")
    assert (code, err) == (0, "")
    assert __version__ in out


DOCUMENTS: list[tuple[list[str], int, str]] = [
    (["plan"], 2, "steps"),
    (["apply", "--yes"], 0, "run"),
    (["apply"], 3, "error"),
    (["status"], 0, "pools"),
    (["config", "check"], 0, "valid"),
    (["config", "show"], 0, "config"),
    (["destroy", "nonsense"], 64, "error"),
    (["activate", "docker", "--yes"], 3, "error"),
]


@pytest.mark.parametrize(("args", "code", "field"), DOCUMENTS)
@pytest.mark.parametrize("place", ["before", "after"])
def test_json_is_one_document_on_stdout_wherever_the_flag_stands(
    cli: Cli, args: list[str], code: int, field: str, place: str
) -> None:
    found, out, _ = cli("--json", *args) if place == "before" else cli(*args, "--json")
    document = json.loads(out)
    assert (found, document["schema"], field in document) == (code, 1, True)
    assert "\x1b" not in out


def test_json_of_a_usage_error_is_a_document(cli: Cli) -> None:
    code, out, _ = cli("--json", "plan", "--nonsense")
    assert (code, json.loads(out)["error"]["code"]) == (64, "USAGE")


def test_json_of_a_bad_configuration_is_a_document(cli: Cli) -> None:
    cli.config.write_text("= 1")
    for args in (["plan"], ["apply"], ["status"], ["config", "check"]):
        code, document = cli.json(*args)
        assert (code, document["error"]["code"]) == (78, "CONFIG")
        assert document.get("outcome") == ("refused" if args == ["apply"] else None)


def test_the_plan_document(cli: Cli) -> None:
    _, document = cli.json("plan")
    assert (document["changes"], document["refusals"]) == (True, [])
    assert len(document["fingerprint"]) == 32
    step = document["steps"][0]
    assert (step["id"], step["do"], step["target"], step["danger"]) == ("01", "create-volume-group", "docker", "safe")
    assert step["commands"] == [["vgcreate", "--addtag", "thinpoolmgr", "docker", "/dev/sdb"]]
    cli.set(support.snapshot(support.disk(mounts=("/srv",))))
    _, document = cli.json("plan")
    refusal = document["refusals"][0]
    assert (refusal["code"], refusal["target"], set(refusal)) == (
        "DISK_MOUNTED",
        "/dev/sdb",
        {"code", "target", "summary", "details", "resolution", "exit_code"},
    )


@pytest.mark.parametrize(
    ("fault", "code", "outcome"), [(None, 0, "done"), ("before", 1, "failed"), ("nothing", 6, "failed")]
)
def test_the_apply_document(cli: Cli, fault: support.Fault | None, code: int, outcome: str) -> None:
    cli.host.faults = {"create-thin-pool": fault} if fault else {}
    found, document = cli.json("apply", "--yes")
    assert (found, document["outcome"], ("error" in document)) == (code, outcome, fault is not None)
    assert [step["do"] for step in document["steps"]] == ["create-volume-group", "create-thin-pool"]
    assert document["run"] == cli.store.read_runs()[0][1].began.run


def test_the_apply_document_of_nothing_and_of_a_refusal(cli: Cli) -> None:
    cli.set(support.healthy())
    assert cli.json("apply") == (0, {"schema": 1, "run": "", "outcome": "nothing", "steps": []})
    cli.set(support.snapshot(support.disk(swap=True)))
    code, document = cli.json("apply", "--yes")
    assert (code, document["outcome"], document["error"]["code"]) == (3, "refused", "DISK_IS_SWAP")


def test_the_status_document(cli: Cli) -> None:
    shot = support.with_engine(
        support.healthy(used_data_blocks=16000, transaction_id=7),
        replace(support.docker(running=True), state=support.STALE),
    )
    cli.set(shot, ENGINE)
    code, document = cli.json("status")
    pool, engine = document["pools"][0], document["engines"][0]
    assert code == 0
    assert (pool["state"], pool["active"], pool["dm_name"]) == ("tight", True, "docker-thinpool")
    assert pool["data"] == {"used_bytes": 16000 * 524288, "total_bytes": 2432 * 4194304, "percent": 82.24}
    assert pool["metadata"]["total_bytes"] == 12 * 1024 * 1024
    assert pool["devices"] == [{"path": "/dev/sdb", "size_bytes": 10 * 1024**3}]
    assert (pool["chunk_bytes"], pool["when_full"], pool["discards"], pool["needs_check"]) == (
        524288,
        "queue",
        "passdown",
        False,
    )
    assert (engine["state"], engine["kind"], engine["version"], engine["pool"]) == (
        "running",
        "docker",
        "20.10.24",
        "docker",
    )
    sizes = ("base_size_bytes", "effective_base_size_bytes", "smaller_devices")
    assert [engine[key] for key in sizes] == [10 * 1024**3, None, 0]
    assert [(f["code"], f["severity"]) for f in document["findings"]] == [("POOL_TIGHT", "warning")]


def test_the_sizes_of_a_base_that_grew(cli: Cli) -> None:
    state = replace(support.STALE, base_size_bytes=20 * 1024**3)
    cli.set(support.with_engine(support.healthy(), support.docker(running=True, state=state)), ENGINE)
    assert cli.json("status")[1]["engines"][0]["smaller_devices"] == 1
    grown = support.docker(running=True, state=state, base=BaseDevice(size_bytes=20 * 1024**3))
    cli.set(support.with_engine(support.healthy(), grown), ENGINE)
    assert cli.json("status")[1]["engines"][0]["effective_base_size_bytes"] == 20 * 1024**3
    cli.set(support.with_engine(support.healthy(), support.docker()), ENGINE)
    assert cli.json("status")[1]["engines"][0]["smaller_devices"] is None


@pytest.mark.parametrize(
    ("shot", "code"),
    [
        (support.healthy(), 0),
        (support.snapshot(), 2),
        (support.healthy(mode="Fail"), 2),
        (support.deactivated(support.healthy()), 2),
    ],
)
def test_status_check_exits_with_2_when_something_is_wrong(cli: Cli, shot: Snapshot, code: int) -> None:
    cli.set(shot)
    assert cli("status", "--check")[0] == code
    assert cli("status")[0] == 0


def has_escapes(cli: Cli, *args: str) -> bool:
    _, out, err = cli(*args)
    return "\x1b" in out + err


@pytest.mark.parametrize("args", [["plan", "-v"], ["status"], ["apply"], ["nonsense"]])
def test_no_escape_bytes_where_colours_are_unwanted(cli: Cli, monkeypatch: pytest.MonkeyPatch, args: list[str]) -> None:
    import click.utils

    monkeypatch.setattr(click.utils, "should_strip_ansi", lambda _stream=None, color=None: color is False)
    assert has_escapes(cli, *args)
    assert not has_escapes(cli, "--no-color", *args)
    if args != ["nonsense"]:
        assert not has_escapes(cli, *args, "--no-color")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_escapes(cli, *args)
    monkeypatch.setenv("NO_COLOR", "")
    assert has_escapes(cli, *args)


LONG_GROUP, LONG_LV = "g" * 60, "l" * 50


def long_host() -> tuple[Snapshot, str]:
    links = [f"/dev/disk/by-id/{letter * 80}" for letter in "ab"]
    disks = tuple(replace(support.disk(f"/dev/sd{x}"), path=link) for x, link in zip("bc", links, strict=True))
    text = (
        f'version = 1\n[pools.{"p" * 120}]\nvolume_group = "{LONG_GROUP}"\nthin_pool = "{LONG_LV}"\n'
        f'when_full = "error"\ndevices = ["{links[0]}", "{links[1]}"]\n'
    )
    return support.snapshot(*disks), text


def test_every_line_of_every_picture_is_within_100_columns(cli: Cli) -> None:
    shot, text = long_host()
    runs: list[tuple[Snapshot, list[str]]] = [
        (shot, ["plan"]),
        (shot, ["status"]),
        (shot, ["apply"]),
        (shot, ["apply", "--yes"]),
        (replace(shot, disks=tuple(replace(d, mounts=("/m" * 99,)) for d in shot.disks)), ["plan"]),
        (replace(shot, disks=tuple(replace(d, signatures=(EXT4,)) for d in shot.disks)), ["apply", "--yes"]),
        (replace(shot, configured_devices=()), ["plan"]),
    ]
    for snapshot, args in runs:
        cli.set(snapshot, text)
        _, out, err = cli(*args)
        assert [line for line in (out + err).splitlines() if len(line) > 100] == [], args
    cli("apply", "--yes")
    for args in (["status"], ["destroy", "p" * 120, "--yes"]):
        _, out, err = cli(*args)
        assert [line for line in (out + err).splitlines() if len(line) > 100] == [], args


NASTY = "\x1b]0;owned\x07\x1b[2J\r\n\t\x00\x9b31m\u202e\u2028"


def test_what_a_terminal_would_obey_is_shown_not_sent(cli: Cli) -> None:
    disk = support.disk(mounts=(f"/{NASTY}",), holders=(NASTY,))
    shots = [
        support.snapshot(disk),
        support.with_thin_device(support.healthy(), NASTY, open_count=1),
        support.with_engine(support.healthy(), support.docker(running=True, version=NASTY)),
        replace(support.healthy(), lvm_trouble=(NASTY,), groups=()),
        support.with_engine(support.healthy(), support.docker(running=True, containers=(NASTY,))),
    ]
    forbidden = set(NASTY) - set("]0;owned[2J31m\n")
    for shot in shots:
        cli.set(shot, ENGINE)
        for args in (["plan"], ["plan", "-v"], ["status"], ["apply", "--yes"], ["destroy", "docker"]):
            _, out, err = cli(*args)
            assert not forbidden & set(out + err), args
            _, out, _ = cli(*args, "--json")
            json.loads(out)
            assert not set("\x1b\x07\r\x00") & set(out)


@pytest.mark.parametrize(
    "args",
    [
        ["\udcff"],
        ["plan", "--\udcff"],
        ["plan", "\udcff"],
        ["destroy", "\udcff"],
        ["apply", "--allow", "\udcff"],
        ["--config", "/nonexistent/\udcff", "plan"],
        ["--config", "/\x1b[31m", "plan"],
    ],
)
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_arguments_that_are_no_utf8_are_answered_not_traced(cli: Cli, args: list[str], flags: list[str]) -> None:
    code, out, err = cli(*flags, *args)
    assert code in (64, 78)
    assert (out + err).encode("utf-8")
    assert "\x1b" not in out + err
    assert bool(out) is bool(flags)


@pytest.mark.parametrize("args", [["config", "check"], ["config", "show", "--origin"], ["plan"]])
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_configuration_whose_name_is_no_utf8_can_be_used(cli: Cli, args: list[str], flags: list[str]) -> None:
    odd = cli.config.with_name("c\udcff.toml")
    odd.write_text(PLAIN)
    code, out, err = cli.raw("--config", str(odd), *args, *flags)
    assert (code, err) == (2 if args == ["plan"] else 0, "" if flags or "show" in args else WARNING)
    assert "\udcff" not in out
    if args != ["plan"]:
        assert (r"\udcff" if flags else r"\xff") in out


def test_verbose_shows_the_commands_that_are_run(cli: Cli) -> None:
    steps: list[Step] = []
    cli.host.on_perform = steps.append
    _, _, err = cli("apply", "--yes", "-v")
    assert [step_name(step) for step in steps] == ["create-volume-group", "create-thin-pool"]
    assert "$ vgcreate --addtag thinpoolmgr docker /dev/sdb" in err
    assert DmDevice.__name__ not in err


def run_for_real(
    *words: str, stdout: int | IO[bytes], closed: tuple[int, ...] = ()
) -> subprocess.CompletedProcess[bytes]:
    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    argv = [sys.executable, "-m", "thinpoolmgr", *words]
    return subprocess.run(argv, stdout=stdout, stderr=subprocess.PIPE, check=False, cwd=CHECKOUT, preexec_fn=close)


@pytest.mark.parametrize("words", [["config", "check"], ["config", "show", "--json"]])
def test_a_result_that_cannot_be_written_is_an_error_of_its_own(cli: Cli, words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = run_for_real("--config", str(cli.config), *words, stdout=full)
    assert done.returncode == 1
    assert b"could not be written" in done.stderr
    assert b"Traceback" not in done.stderr


def test_an_error_whose_document_cannot_be_written_is_still_said(cli: Cli) -> None:
    with open("/dev/full", "wb") as full:
        done = run_for_real("--config", f"{cli.config}.not", "--json", "plan", stdout=full)
    assert (done.returncode, b"cannot be read" in done.stderr, b"Traceback" in done.stderr) == (78, True, False)


def test_a_reader_that_goes_away_changes_nothing(cli: Cli) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run_for_real("--config", str(cli.config), "config", "show", stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_closed_streams_are_no_error(cli: Cli) -> None:
    done = run_for_real("--config", str(cli.config), "config", "show", stdout=subprocess.PIPE, closed=(0, 2))
    assert done.returncode == 0
