"""`plan --out FILE`, `apply FILE`: exactly that plan, on the host that it was made for, or nothing."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import support
from cli_support import ENGINE, PLAIN, Cli, make_cli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from thinpoolmgr import __version__
from thinpoolmgr.approval import require_fresh
from thinpoolmgr.cli.planfile import read_plan, write_plan
from thinpoolmgr.core.model import ConfiguredDevice, DmDevice, EngineDevice
from thinpoolmgr.core.plan import Plan, PlanFile, Refusal, numbered
from thinpoolmgr.core.steps import WriteEngineConfig
from thinpoolmgr.errors import CommandFailedError, StalePlanError, UsageError
from thinpoolmgr.sim.steps import make_group

if TYPE_CHECKING:
    from collections.abc import Callable

    from thinpoolmgr.core.model import Snapshot

STEP = support.create_step(support.pool())
PLAN = Plan(steps=numbered([STEP, STEP]), fingerprint="f" * 32)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return make_cli(tmp_path, monkeypatch, capsys)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "p.json"


# the file


def test_a_plan_comes_back_as_it_was_written_and_only_its_owner_can_read_it(file: Path) -> None:
    secret = WriteEngineConfig(reason="r", engine="docker", path="/p", old_text="s3cret", new_text="\u202e\x1b é")
    plan = replace(PLAN, steps=numbered([STEP, secret]))
    old_mask = os.umask(0)
    try:
        write_plan(file, plan)
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["p.json"]
    found = read_plan(file)
    assert (found.steps, found.fingerprint, found.version, found.schema) == (plan.steps, "f" * 32, __version__, 1)
    assert found.made_at
    assert file.read_text().endswith("}\n")


def test_a_file_that_is_there_is_replaced_whole(file: Path) -> None:
    write_plan(file, PLAN)
    write_plan(file, replace(PLAN, steps=()))
    assert read_plan(file).steps == ()
    assert [path.name for path in file.parent.iterdir()] == ["p.json"]


@pytest.mark.parametrize("kind", ["link", "link to nothing", "fifo", "socket", "folder"])
def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    there, precious = Path("there"), Path("precious")
    precious.write_text("precious")
    match kind:
        case "fifo":
            os.mkfifo(there)
        case "socket":
            os.mknod(there, stat.S_IFSOCK | 0o600)
        case "folder":
            there.mkdir()
        case _:
            there.symlink_to(precious if kind == "link" else "nothing")
    before = os.lstat(there)
    with pytest.raises(UsageError, match="there is no regular file") as caught:
        write_plan(there, PLAN)
    assert (caught.value.exit_code, "another file" in caught.value.resolution) == (64, True)
    assert os.path.samestat(os.lstat(there), before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "there"]
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("name", ["none/p.json", "a-file/p.json", "x" * 300])
def test_what_cannot_be_written_is_an_error_that_leaves_nothing_behind(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").write_text("stays")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CommandFailedError, match="could not be written") as caught:
        write_plan(Path(name), PLAN)
    assert caught.value.resolution
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a-file", "folder"]


def good() -> dict[str, Any]:
    document = PlanFile(1, __version__, "now", "f" * 32, PLAN.steps)
    found: dict[str, Any] = json.loads(msgspec.json.encode(document))
    return found


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    document = good()
    change(document)
    return json.dumps(document).encode()


BROKEN: dict[str, bytes] = {
    "empty": b"",
    "binary": bytes(range(256)) * 20,
    "nul": b"\0" * 1000,
    "half": json.dumps(good()).encode()[:-20],
    "a list": b"[]",
    "a word": b"null",
    "a number": b"1e999",
    "not utf-8": b'{"schema": 1, "version": "\xff"}',
    "a surrogate": b'{"schema": 1, "version": "\\ud800"}',
    "deep": b"[" * 100000,
    "deep in a step": b'{"schema":1,"version":"1","made_at":"","fingerprint":"","steps":' + b"[" * 100000,
    "deep in what is skipped": b'{"schema":1,"version":"1","made_at":"","fingerprint":"",'
    b'"steps":[{"do":"stop-engine","x":' + b"[" * 100000 + b"]" * 100000 + b"}]}",
    "an unknown field": changed(lambda d: d.update(extra=1)),
    "a field is missing": changed(lambda d: d.pop("fingerprint")),
    "schema is text": changed(lambda d: d.update(schema="1")),
    "another schema": changed(lambda d: d.update(schema=2)),
    "schema 0": changed(lambda d: d.update(schema=0)),
    "schema is huge": changed(lambda d: d.update(schema=2**70)),
    "an unknown step": changed(lambda d: d["steps"][0].update(do="format-disk")),
    "a step without its kind": changed(lambda d: d["steps"][0].pop("do")),
    "another step's fields": changed(lambda d: d["steps"][0].update(do="stop-engine")),
    "wrong type in a step": changed(lambda d: d["steps"][0].update(data_extents="many")),
    "half a number in a step": changed(lambda d: d["steps"][0].update(data_extents=1.5)),
    "an unknown danger": changed(lambda d: d["steps"][0].update(danger="none")),
    "steps are no list": changed(lambda d: d.update(steps={})),
    "a step is null": changed(lambda d: d.update(steps=[None])),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_a_usage_error_and_nothing_is_done(cli: Cli, file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_plan(file)
    assert "plan --out" in caught.value.resolution
    code, out, err = cli("apply", str(file), "--yes", "--allow", "outage,destroy")
    assert (code, out, cli.host.performed) == (64, "", [])
    assert err.startswith("error: ")
    code, document = cli.json("apply", str(file), "--yes")
    assert (code, document["outcome"], document["error"]["code"]) == (64, "refused", "USAGE")


def test_a_file_that_is_none_or_too_large_is_a_usage_error(cli: Cli, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(17 * 1024**2)
    refused = ("pipe", "huge", ".", "/dev/zero", "/dev/null")
    for name in ("pipe", "loop", "huge", "none", ".", "/dev/zero", "/dev/null", "no\udcff", "\x1b[31m", "x" * 300):
        code, out, err = cli("apply", name, "--yes")
        assert ("It is no regular file, or has more than" in " ".join(err.split())) is (name in refused), name
        assert (code, out, cli.host.performed) == (64, "", []), name
        assert "\x1b" not in err


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=60) | st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from([*good(), "do", "id", "x"]), inner, max_size=6),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_no_content_raises_anything_else(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(UsageError):
        read_plan(file)


# staleness


def bound(plan: Plan) -> PlanFile:
    return PlanFile(1, __version__, "2026-01-01", plan.fingerprint, plan.steps)


def test_the_same_plan_is_fresh_whatever_the_reasons() -> None:
    require_fresh(bound(PLAN), PLAN)
    require_fresh(bound(PLAN), replace(PLAN, steps=tuple(replace(step, reason="other") for step in PLAN.steps)))


@pytest.mark.parametrize(
    ("now", "word"),
    [
        (Plan(fingerprint=PLAN.fingerprint), "nothing to do any more"),
        (replace(PLAN, fingerprint="e" * 32), "facts that they rely on have changed"),
        (replace(PLAN, steps=PLAN.steps[:1]), "another one now: create-thin-pool docker/thinpool"),
        (replace(PLAN, steps=(replace(STEP, data_extents=1), STEP)), "the same steps, with other sizes"),
        (
            Plan(refusals=(Refusal("X", "t", "it is mounted"),), fingerprint=PLAN.fingerprint),
            "another one now: it is mounted",
        ),
    ],
)
def test_a_plan_that_would_be_another_one_is_stale_and_told_in_what(now: Plan, word: str) -> None:
    with pytest.raises(StalePlanError) as caught:
        require_fresh(bound(PLAN), now)
    assert word in caught.value.details
    assert (caught.value.exit_code, caught.value.code) == (4, "PLAN_STALE")
    assert "plan --out" in caught.value.resolution
    assert "2026-01-01" in caught.value.summary


# the command line

FULL = ENGINE + "".join(
    f'[pools.{name}]\ndevices = ["/dev/{disk}"]\nwipe_signatures = {wipe}\n'
    for name, disk, wipe in (("more", "sdc", "false"),)
)


def two_disks() -> Snapshot:
    shot = support.snapshot(support.disk("/dev/sdb"), support.disk("/dev/sdc"))
    return support.with_engine(shot, support.docker(running=True, driver="overlay2"))


def saved(cli: Cli) -> None:
    cli.set(two_disks(), FULL)
    assert cli("plan", "--out", "p.json")[0] == 2


def test_exactly_the_plan_of_the_file_is_carried_out_once(cli: Cli) -> None:
    saved(cli)
    planned = read_plan(Path("p.json"))
    assert cli.host.performed == []
    assert cli("apply", "p.json")[0] == 3
    assert cli("apply", "p.json", "--yes")[0] == 3
    code, document = cli.json("apply", "p.json", "--yes", "--allow", "outage")
    assert (code, document["outcome"]) == (0, "done")
    assert tuple(cli.host.performed) == planned.steps
    code, document = cli.json("apply", "p.json", "--yes", "--allow", "outage")
    assert (code, document["outcome"], document["error"]["code"]) == (4, "refused", "PLAN_STALE")
    assert "nothing to do any more" in document["error"]["details"]


def test_the_document_of_a_plan_is_the_same_with_out(cli: Cli) -> None:
    cli.set(two_disks(), FULL)
    code, document = cli.json("plan")
    assert cli.json("plan", "--out", "p.json") == (code, document)
    assert read_plan(Path("p.json")).fingerprint == document["fingerprint"]


def test_a_refused_plan_is_not_written(cli: Cli) -> None:
    cli.set(support.snapshot(support.disk(swap=True)))
    assert cli("plan", "--out", "p.json")[0] == 3
    assert not Path("p.json").exists()


def test_an_empty_plan_is_written_and_does_nothing(cli: Cli) -> None:
    cli.set(support.healthy())
    assert cli("plan", "--out", "p.json")[0] == 0
    assert cli("apply", "p.json")[0] == 0
    cli.set(support.deactivated(support.healthy()))
    assert cli("apply", "p.json", "--yes")[0] == 4


@pytest.mark.parametrize("name", ["none/p.json", "/dev/full/x", "c.toml/x"])
def test_a_plan_that_cannot_be_written_is_an_error(cli: Cli, name: str) -> None:
    code, _, err = cli("plan", "--out", name)
    assert (code, "could not be written" in err) == (1, True)


@pytest.mark.parametrize("name", [".", "/dev/null", "/dev/stdout"])
def test_a_plan_never_takes_the_place_of_a_device(cli: Cli, name: str) -> None:
    code, _, err = cli("plan", "--out", name)
    assert (code, "is no regular file" in err) == (64, True)


def with_container(shot: Snapshot) -> Snapshot:
    return replace(shot, engines=tuple(replace(engine, containers=("web",)) for engine in shot.engines))


UNRELATED: dict[str, Callable[[Snapshot], Snapshot]] = {
    "another disk": lambda shot: replace(shot, disks=(*shot.disks, support.disk("/dev/sdz"))),
    "another group": lambda shot: make_group(
        replace(shot, disks=(*shot.disks, support.disk("/dev/sdz"))), "z", ("/dev/sdz",)
    ),
    "another dm device": lambda shot: replace(
        shot, dm_devices=(*shot.dm_devices, DmDevice("c", "CRYPT-1", "254:9", 2, targets=("crypt",)))
    ),
    "a container": with_container,
    "a reboot": lambda shot: replace(shot, boot_id="boot-2"),
}


@pytest.mark.parametrize("change", UNRELATED.values(), ids=UNRELATED.keys())
def test_a_change_of_something_else_does_not_make_it_stale(cli: Cli, change: Callable[[Snapshot], Snapshot]) -> None:
    saved(cli)
    cli.host.snapshot = change(cli.host.snapshot)
    assert cli("apply", "p.json", "--yes", "--allow", "outage")[0] == 0


def on_disk(path: str, **facts: Any) -> Callable[[Snapshot], Snapshot]:
    return lambda shot: replace(shot, disks=tuple(replace(d, **facts) if d.path == path else d for d in shot.disks))


RELATED: dict[str, Callable[[Snapshot], Snapshot]] = {
    "a disk is swapped": on_disk("/dev/sdc", serial="another"),
    "a disk is mounted": on_disk("/dev/sdc", mounts=("/srv",), opened_exclusively=True),
    "a signature came": on_disk("/dev/sdb", signatures=(support.LABEL,)),
    "a disk grew": on_disk("/dev/sdb", size_bytes=20 * 1024**3),
    "a disk is gone": lambda shot: replace(
        shot,
        configured_devices=(shot.configured_devices[0], ConfiguredDevice("/dev/sdc", problem="missing")),
    ),
    "the group is there": lambda shot: make_group(shot, "docker", ("/dev/sdb",), ("thinpoolmgr",)),
    "daemon.json was edited": lambda shot: replace(
        shot, engines=tuple(replace(engine, config_text='{"debug": false}') for engine in shot.engines)
    ),
    "the engine was stopped": lambda shot: support.with_engine(shot, support.docker()),
    "state came": lambda shot: replace(
        shot,
        engines=tuple(
            replace(engine, state=replace(support.STALE, devices=(EngineDevice("", 1, 1, 1),)))
            for engine in shot.engines
        ),
    ),
}


@pytest.mark.parametrize("change", RELATED.values(), ids=RELATED.keys())
def test_a_change_of_the_host_makes_it_stale(cli: Cli, change: Callable[[Snapshot], Snapshot]) -> None:
    saved(cli)
    cli.host.snapshot = change(cli.host.snapshot)
    code, _, err = cli("apply", "p.json", "--yes", "--allow", "outage,destroy")
    assert (code, cli.host.performed) == (4, [])
    assert "is stale; nothing was changed" in " ".join(err.split())


@pytest.mark.parametrize(
    "text",
    [
        FULL.replace("false", "true"),
        FULL + 'when_full = "error"\n',
        FULL + '[pools.third]\ndevices = ["/dev/sdd"]\n',
        PLAIN,
        FULL + "[pools.more.extend]\nstep_percent = 21\n",
    ],
)
def test_another_configuration_makes_it_stale(cli: Cli, text: str) -> None:
    saved(cli)
    cli.config.write_text(text)
    assert cli("apply", "p.json", "--yes", "--allow", "outage,destroy")[0] == 4
    assert cli.host.performed == []


def doctored(change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(Path("p.json").read_text())
    change(document)
    Path("p.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["steps"].pop(),
        lambda d: d["steps"].reverse(),
        lambda d: d["steps"].append(d["steps"][0]),
        lambda d: d["steps"][0].update(danger="safe", group="other"),
        lambda d: d["steps"][0]["disks"][0].update(path="/dev/sda"),
        lambda d: d["steps"][1].update(data_extents=7),
        lambda d: d.update(fingerprint="0" * 32),
        lambda d: d["steps"].insert(
            0, {"do": "remove-volume-group", "reason": "r", "group": "system", "group_uuid": "x"}
        ),
    ],
)
def test_a_doctored_plan_is_never_carried_out(cli: Cli, change: Callable[[dict[str, Any]], object]) -> None:
    saved(cli)
    doctored(change)
    assert cli("apply", "p.json", "--yes", "--allow", "outage,destroy")[0] == 4
    assert cli.host.performed == []


def test_a_danger_that_was_edited_away_is_stale(cli: Cli) -> None:
    saved(cli)
    doctored(lambda d: [step.update(danger="safe") for step in d["steps"]])
    assert cli("apply", "p.json", "--yes")[0] == 4
    assert cli.host.performed == []


def test_an_interrupted_run_of_a_plan_file_is_finished_by_apply(cli: Cli) -> None:
    saved(cli)
    cli.host.faults["create-thin-pool"] = "before"
    assert cli("apply", "p.json", "--yes", "--allow", "outage")[0] == 1
    cli.host.faults.clear()
    assert cli("apply", "p.json", "--yes", "--allow", "outage")[0] == 4
    assert cli("apply", "--yes", "--allow", "outage")[0] == 0
