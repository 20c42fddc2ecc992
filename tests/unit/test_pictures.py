"""What the commands print, word for word: tests/golden/*.txt; RENEW_GOLDEN=1 in the environment writes them anew."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import click
import pytest
import support
from cli_support import ENGINE, EXT4, PLAIN, Cli, golden, make_cli, picture
from msgspec.structs import replace

from thinpoolmgr.core.lifecycle import PoolState
from thinpoolmgr.core.model import BaseDevice
from thinpoolmgr.sim import events

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


SMALL = support.with_pool(support.snapshot(), data_extents=1000)
SMALL_TEXT = PLAIN + 'data_size = "4000MiB"\n'
FREE_DISK = support.with_free_disk(SMALL, support.disk("/dev/sdc"))
ASIDE = support.docker(state=support.STALE, set_aside=("/var/lib/docker/thinpoolmgr-stale-1",))
GROWN = (
    PLAIN.replace('"/dev/sdb"', '"/dev/sdb", "/dev/sdc"')
    + 'when_full = "error"\ndiscards = "nopassdown"\nzero_new_blocks = true\n'
)


@pytest.mark.parametrize(
    ("name", "shot", "text", "args"),
    [
        ("extend", FREE_DISK, SMALL_TEXT, ["extend", "docker", "--data", "+1GiB", "--add-device", "/dev/sdc", "--yes"]),
        ("extend-no-room", SMALL, SMALL_TEXT, ["extend", "docker", "--data", "+1TiB", "--yes"]),
        ("adopt", support.untagged(SMALL), SMALL_TEXT + 'chunk_size = "1MiB"\n', ["adopt", "docker", "--yes"]),
        ("rebuild", SMALL, PLAIN, ["rebuild", "docker", "--yes"]),
        ("clean", support.with_engine(support.snapshot(), ASIDE), ENGINE, ["clean", "--yes"]),
        ("clean-purge", support.with_engine(support.snapshot(), ASIDE), ENGINE, ["clean", "--purge", "--yes"]),
        ("resume-nothing", SMALL, SMALL_TEXT, ["resume"]),
        ("plan-changes", FREE_DISK, GROWN, ["plan", "-v"]),
        ("plan-rebuild-needed", SMALL, SMALL_TEXT + 'chunk_size = "1MiB"\n', ["plan"]),
    ],
)
def test_pictures_of_changes(cli: Cli, name: str, shot: Snapshot, text: str, args: list[str]) -> None:
    cli.set(shot, text)
    golden(name, picture(cli, *args))


def test_the_pictures_of_a_plan_file(cli: Cli) -> None:
    golden("plan-out", picture(cli, "plan", "--out", "plan.json"))
    cli.set(support.snapshot(support.disk(mounts=("/srv",))))
    stale = picture(cli, "apply", "plan.json", "--yes")
    golden("apply-stale", re.sub(r"plan of \S+", "plan of DATE", stale))


def test_the_picture_of_a_step_that_failed(cli: Cli) -> None:
    cli.host.faults["create-thin-pool"] = "before"
    golden("apply-failed", picture(cli, "apply", "--yes"))


def test_the_picture_of_a_plan_of_which_a_part_is_refused(cli: Cli) -> None:
    disks = support.disk("/dev/sdb", mounts=("/srv",)), support.disk("/dev/sdc")
    cli.set(support.snapshot(*disks), PLAIN + '[pools.other]\ndevices = ["/dev/sdc"]\n')
    golden("plan-refused-in-part", picture(cli, "plan"))
    golden("apply-refused", picture(cli, "apply", "--yes"))


def test_the_picture_of_a_run_that_a_signal_stopped(cli: Cli) -> None:
    cli.host.on_perform = lambda _step: os.kill(os.getpid(), signal.SIGTERM)
    golden("apply-interrupted", picture(cli, "apply", "--yes"))


def test_the_picture_of_a_step_that_did_nothing(cli: Cli) -> None:
    cli.host.faults["create-thin-pool"] = "nothing"
    golden("apply-incoherent", picture(cli, "apply", "--yes"))


def test_the_picture_of_a_user_who_is_not_root(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    golden("error-not-root", picture(cli, "plan"))


TWO_DISKS = PLAIN.replace('"/dev/sdb"', '"/dev/sdb", "/dev/sdc"')


def half_gone() -> Snapshot:
    disks = support.snapshot(support.disk("/dev/sdb"), support.disk("/dev/sdc"))
    return events.vanish(support.with_pool(disks, support.pool("docker", "/dev/sdb", "/dev/sdc"), 4000), "/dev/sdc")[0]


HEALTHY = support.healthy(used_data_blocks=4000)
STATES: dict[PoolState, Snapshot] = {
    PoolState.ABSENT: support.snapshot(),
    PoolState.FOREIGN: events.untag(HEALTHY, "docker"),
    PoolState.INACTIVE: support.deactivated(HEALTHY),
    PoolState.HEALTHY: HEALTHY,
    PoolState.TIGHT: support.healthy(used_metadata_blocks=2700),
    PoolState.OUT_OF_DATA: support.healthy(mode="out_of_data_space", used_data_blocks=19456, when_full="error"),
    PoolState.OUT_OF_METADATA: support.healthy(mode="ro", used_metadata_blocks=3072),
    PoolState.READ_ONLY: support.healthy(mode="ro"),
    PoolState.NEEDS_CHECK: support.healthy(mode="ro", needs_check=True),
    PoolState.FAILED: support.healthy(mode="Fail"),
    PoolState.PARTIAL: half_gone(),
    PoolState.UNKNOWN: support.lvm_lost(support.snapshot(), "Error reading device /dev/sdb"),
    PoolState.LOST: support.lvm_lost(HEALTHY),
}


@pytest.mark.parametrize("state", PoolState)
def test_the_picture_of_each_state(cli: Cli, state: PoolState) -> None:
    cli.set(STATES[state], TWO_DISKS if state is PoolState.PARTIAL else PLAIN)
    text = picture(cli, "status")
    assert f"pool docker  {state}  " in text
    golden(f"status-{state.replace('_', '-')}", text)


ENGINES = {
    "stopped": support.docker(),
    "unsupported": support.docker(running=True, version="25.0.3"),
    "unknown": support.docker(running=None),
    "stale": replace(support.docker(), state=support.STALE),
    "unreadable": replace(support.docker(), config_problem="/etc/docker/daemon.json is not valid JSON: line 3"),
}


@pytest.mark.parametrize("name", ENGINES)
def test_the_picture_of_an_engine(cli: Cli, name: str) -> None:
    cli.set(support.with_engine(support.snapshot(), ENGINES[name]), ENGINE)
    golden(f"status-engine-{name}", picture(cli, "status"))


def test_the_picture_of_an_engine_whose_base_grew(cli: Cli) -> None:
    grown = replace(support.STALE, base_size_bytes=20 * 2**30, devices=support.STALE.devices * 3)
    found = support.docker(running=True, configured=True, state=grown, base=BaseDevice(size_bytes=10 * 2**30))
    cli.set(support.with_engine(HEALTHY, found), ENGINE)
    golden("status-engine-smaller", picture(cli, "status"))


def test_the_picture_of_a_host_that_is_as_it_should_be(cli: Cli) -> None:
    cli.set(HEALTHY)
    golden("plan-nothing", picture(cli, "plan"))
    golden("apply-nothing", picture(cli, "apply", "--yes"))


LONG = PLAIN.replace('["/dev/sdb"]', str([f"/dev/disk/by-id/virtio-a-serial-number-{n}" for n in range(3)]))


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("config-show", ["config", "show"]),
        ("config-show-origin", ["config", "show", "--origin"]),
        ("config-check", ["config", "check"]),
    ],
)
def test_pictures_of_a_configuration(cli: Cli, name: str, args: list[str]) -> None:
    cli.config.write_text(LONG + FULL.partition("\n")[2].replace("[pools.docker]", "[pools.other]"))
    golden(name, picture(cli, *args))


def test_the_picture_of_a_configuration_with_many_errors(cli: Cli) -> None:
    cli.config.write_text(PLAIN + 'when_full = "panic"\nchunk = 3\n[engines.podman]\npool = "other"\n')
    golden("error-config-many", picture(cli, "config", "check"))


@pytest.mark.parametrize(
    "args",
    [[], *([name] for name in ("plan", "apply", "destroy", "status", "extend", "config")), ["config", "show"]],
    ids="-".join,
)
def test_pictures_of_help(cli: Cli, args: list[str]) -> None:
    code, out, err = cli.raw(*args, "--help")
    assert (code, err, max(len(line) for line in out.splitlines()) <= 80) == (0, "", True)
    golden("-".join(["help", *args]), out)


NARROW: dict[str, tuple[Snapshot, str, list[str]]] = {
    "plan": (full_host(), FULL, ["plan", "-v"]),
    "apply": (full_host(), FULL, ["apply", "--yes", "--allow", "outage,destroy"]),
    "status": (wide_host(), ENGINE, ["status"]),
    "refused": (support.snapshot(support.disk(mounts=("/srv",))), PLAIN, ["apply", "--yes"]),
    "config-show": (support.snapshot(), LONG, ["config", "show"]),
}


@pytest.mark.parametrize("name", NARROW)
def test_pictures_on_60_columns(cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    shot, text, args = NARROW[name]
    cli.set(shot, text)
    shown = picture(cli, *args)
    assert [line for line in shown.splitlines() if len(line) > 60] == []
    golden(f"narrow-{name}", shown)


@pytest.mark.parametrize(
    "args", [["--simulate", "plan"], ["--simulate", "apply"], ["config", "check"], ["status", "--help"]]
)
def test_long_names_of_files_fit_60_columns(cli: Cli, monkeypatch: pytest.MonkeyPatch, args: list[str]) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    name = f"{'long' * 20}.toml"
    cli.config.with_name(name).write_text(PLAIN)
    for config in (name, f"no-{name}"):
        _, out, err = cli.raw("--config", config, *args)
        assert [line for line in (out + err).splitlines() if len(line) > 60] == []


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("state", PoolState)
def test_no_state_is_wider_than_the_terminal(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, state: PoolState, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    cli.set(support.with_engine(STATES[state], support.docker(running=True, configured=True)), ENGINE)
    _, out, _ = cli("status")
    assert [line for line in out.splitlines() if len(line) > width] == []


COLOURED: dict[str, tuple[Snapshot, str, list[str]]] = {
    "plan": (full_host(), FULL, ["plan", "-v"]),
    "status": (wide_host(), ENGINE, ["status"]),
    "apply-failed": (support.snapshot(), PLAIN, ["apply", "--yes"]),
}


@pytest.mark.parametrize("name", COLOURED)
def test_pictures_in_colour(cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def keep(_stream: object = None, color: bool | None = None) -> bool:  # noqa: FBT001 - click's own function
        return color is False

    def draw(*more: str) -> str:
        cli.set(shot, text)
        cli.host.faults = {"create-thin-pool": "before"} if name == "apply-failed" else {}
        return picture(cli, *more, *args)

    monkeypatch.setattr("click.utils.should_strip_ansi", keep)
    shot, text, args = COLOURED[name]
    # Words and marks alone say it all: who sees no colours misses nothing.
    assert click.unstyle(draw()) == draw("--no-color").replace(" --no-color", "")
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in draw()
    monkeypatch.setenv("TERM", "xterm")
    golden(f"colour-{name}", draw())
