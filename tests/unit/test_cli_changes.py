"""extend, adopt, rebuild, clean and resume on the command line: exit codes, documents, wrong usage."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import support
from cli_support import ENGINE, PLAIN, SimulatedCli, make_simulated_cli
from msgspec.structs import replace

from thinpoolmgr.core.model import ConfiguredDevice
from thinpoolmgr.core.steps import TakeCharge
from thinpoolmgr.host.store import RunFile
from thinpoolmgr.sim.faults import Fails, Killed
from thinpoolmgr.units import GIB

if TYPE_CHECKING:
    from pathlib import Path


SMALL = support.with_pool(support.snapshot(), data_extents=1000)
GIB_POOL = PLAIN + 'data_size = "1GiB"\n'
GIB_ENGINE = GIB_POOL + '[engines.docker]\npool = "docker"\n'
ASIDE = "/var/lib/docker/thinpoolmgr-stale-1"
ALL = ("--yes", "--allow", "outage,destroy")
COMMANDS = [["extend"], ["adopt"], ["rebuild"], ["clean"], ["resume"]]


class Changes(SimulatedCli):
    """The same command line on the simulated host, where nothing that is made anew has an old uuid."""

    usual_text = GIB_POOL

    @property
    def data_bytes(self) -> int:
        return next(lv.size_bytes for lv in self.simulated.snapshot.groups[0].lvs if lv.is_thin_pool)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Changes:
    made = make_simulated_cli(Changes, tmp_path, monkeypatch, capsys)
    made.use(SMALL)
    return made


# wrong usage

USAGE = [
    (["extend"], "Missing argument"),
    (["extend", "docker"], "extend needs to know what"),
    (["extend", "nonsense", "--data", "+1GiB"], "there is no pool 'nonsense'"),
    (["extend", "docker", "--data", "5G"], "has no plus"),
    (["extend", "docker", "--data", "-5G"], "has no plus"),
    (["extend", "docker", "--data", ""], "has no plus"),
    (["extend", "docker", "--data", "+"], "is not a size"),
    (["extend", "docker", "--data", "++5G"], "is not a size"),
    (["extend", "docker", "--data", "+5"], "has no unit"),
    (["extend", "docker", "--data", "+5GB"], "two readings"),
    (["extend", "docker", "--data", "+0GiB"], "out of range"),
    (["extend", "docker", "--data", "+10%VG"], "is not a size"),
    (["extend", "docker", "--metadata", "1GiB"], "has no plus"),
    (["extend", "docker", "--metadata", "+9EiB"], "unknown unit"),
    (["extend", "docker", "--data"], "requires an argument"),
    (["extend", "docker", "--add-device", "sdc"], "is no path of a device"),
    (["extend", "docker", "--add-device", ""], "is no path of a device"),
    (["extend", "docker", "--add-device", "/dev/\x1b[31m"], "is no path of a device"),
    (["extend", "docker", "surplus", "--data", "+1GiB"], "unexpected extra argument"),
    (["adopt"], "Missing argument"),
    (["adopt", "nonsense"], "there is no pool 'nonsense'"),
    (["rebuild"], "Missing argument"),
    (["rebuild", "nonsense"], "there is no pool 'nonsense'"),
    (["clean", "nonsense"], "there is no engine 'nonsense'"),
    (["clean", "--purge=1"], "does not take a value"),
    (["resume", "surplus"], "unexpected extra argument"),
]


@pytest.mark.parametrize(("args", "word"), USAGE, ids=[" ".join(args) for args, _ in USAGE])
@pytest.mark.parametrize("flags", [[], ["--simulate"]])
def test_a_wrong_command_line_is_64_and_changes_nothing(
    cli: Changes, args: list[str], word: str, flags: list[str]
) -> None:
    code, out, err = cli(*flags, *args)
    assert (code, out, cli.took_effect) == (64, "", [])
    assert word in " ".join(err.split())
    assert "\x1b" not in err
    code, document = cli.json(*flags, *args)
    assert (code, document["error"]["code"], document["schema"]) == (64, "USAGE", 1)


def test_the_names_that_there_are_are_told(cli: Changes) -> None:
    assert "Its pools: docker" in cli("extend", "nonsense", "--data", "+1GiB")[2]
    assert "Its engines: none" in cli("clean", "nonsense")[2]
    cli.use(SMALL, GIB_ENGINE)
    assert "Its engines: docker" in cli("clean", "nonsense")[2]


@pytest.mark.parametrize("args", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(cli: Changes, args: list[str], flag: str) -> None:
    code, out, err = cli.raw(*args, flag)
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: thinpoolmgr {args[0]} [OPTIONS]")
    assert "--yes" in out


RUNS = [
    ["extend", "docker", "--data", "+1GiB"],
    ["adopt", "docker"],
    ["rebuild", "docker"],
    ["clean"],
    ["resume"],
]


@pytest.mark.parametrize("args", RUNS, ids=" ".join)
def test_what_holds_for_the_whole_host_is_said_first(
    cli: Changes, args: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli(*args)[0] == 77
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    if args != ["resume"]:
        assert cli.raw("--config", "/nonexistent", *args)[0] == 78
        with cli.store.lock("other"):
            assert cli(*args)[0] == 75
    assert cli.took_effect == []


# --simulate: a host without any pool

SIMULATED = [
    (["extend", "docker", "--data", "+1GiB", "--yes"], 3, "refused", "POOL_ABSENT"),
    (["extend", "docker", "--add-device", "/dev/sdc", "--yes"], 3, "refused", "POOL_ABSENT"),
    (["adopt", "docker", "--yes"], 3, "refused", "POOL_ABSENT"),
    (["rebuild", "docker", "--yes"], 0, "done", ""),
    (["rebuild", "docker"], 3, "refused", "NOT_APPROVED"),
    (["clean", "--yes"], 0, "nothing", ""),
    (["clean", "docker", "--purge", *ALL], 0, "nothing", ""),
    (["resume"], 0, "nothing", ""),
]


@pytest.mark.parametrize(("args", "code", "outcome", "error"), SIMULATED, ids=[" ".join(case[0]) for case in SIMULATED])
def test_simulated_without_root(  # noqa: PLR0913, PLR0917 - one case, in full
    cli: Changes, args: list[str], code: int, outcome: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    cli.config.write_text(ENGINE)
    found, out, err = cli("--simulate", *args)
    assert (found, bool(out)) == (code, code == 0)
    assert ("Simulated" in err) is (args != ["resume"])
    found, document = cli.json("--simulate", *args)
    assert (found, document["schema"], document["outcome"]) == (code, 1, outcome)
    assert document.get("error", {}).get("code", "") == error
    assert cli.took_effect == []
    assert cli.store.read_runs() == []


# extend


def test_extend_grows_and_its_document_says_by_which_steps(cli: Changes) -> None:
    code, document = cli.json("extend", "docker", "--data", "+1GiB", "--metadata", "+4MiB", "--yes")
    assert (code, document["outcome"]) == (0, "done")
    assert [step["do"] for step in document["steps"]] == ["extend-metadata", "extend-data"]
    assert {(step["target"], step["result"]) for step in document["steps"]} == {("docker/thinpool", "done")}
    assert cli.data_bytes == 1000 * support.EXTENT + GIB
    assert cli("extend", "docker", "--data", "+1GiB", "--yes")[0] == 0
    assert cli.data_bytes == 1000 * support.EXTENT + 2 * GIB


def test_extend_needs_approval_and_room(cli: Changes) -> None:
    code, _, err = cli("extend", "docker", "--data", "+1GiB")
    assert (code, "needs --yes" in err, cli.took_effect) == (3, True, [])
    code, document = cli.json("extend", "docker", "--data", "+1TiB", "--yes")
    assert (code, document["error"]["code"], document["outcome"]) == (3, "DOES_NOT_FIT", "refused")
    assert "too little" in document["error"]["details"]


def test_extend_takes_a_disk_and_says_to_write_it_down(cli: Changes) -> None:
    cli.use(support.with_free_disk(SMALL, support.disk("/dev/sdc")))
    code, out, _ = cli("extend", "docker", "--add-device", "/dev/sdc", "--add-device", "/dev/sdc", "--yes")
    assert code == 0
    assert "Add /dev/sdc to pools.docker.devices" in " ".join(out.split())
    assert cli.took_effect == ["extend-volume-group"]
    again = cli("extend", "docker", "--add-device", "/dev/sdc", "--yes")
    assert again[:2] == (0, "Nothing to do: the host is as it should be.\n")
    assert cli("plan")[0] == 0


def test_extend_refuses_a_disk_in_use(cli: Changes) -> None:
    cli.use(support.with_free_disk(SMALL, support.disk("/dev/sdc", mounts=("/srv",))))
    code, document = cli.json("extend", "docker", "--add-device", "/dev/sdc", *ALL)
    assert (code, document["error"]["code"]) == (3, "DISK_MOUNTED")


# adopt


def test_adopt_writes_tags_once(cli: Changes) -> None:
    cli.use(support.untagged(SMALL))
    assert cli("plan")[0] == 3
    assert cli("adopt", "docker")[0] == 3
    code, document = cli.json("adopt", "docker", "--yes")
    assert (code, [step["do"] for step in document["steps"]]) == (0, ["tag-pool"])
    assert cli("adopt", "docker", "--yes")[0] == 0
    assert cli.took_effect == ["tag-pool"]
    assert cli("plan")[0] == 0


def test_adopt_warns_of_what_differs(cli: Changes) -> None:
    cli.use(support.untagged(SMALL), GIB_POOL + 'chunk_size = "1MiB"\n')
    code, _, err = cli("adopt", "docker", "--yes")
    assert code == 0
    assert "Then apply would refuse: docker/thinpool has chunk_size 512KiB" in " ".join(err.split())


# rebuild


def test_rebuild_needs_every_allowance_that_its_steps_need(cli: Changes) -> None:
    cli.use(SMALL, GIB_POOL + 'chunk_size = "1MiB"\n')
    code, document = cli.json("plan")
    assert (code, document["refusals"][0]["code"]) == (3, "SETTING_DIFFERS")
    assert "thinpoolmgr rebuild docker" in document["refusals"][0]["resolution"]
    for args in ((), ("--yes",), ("--yes", "--allow", "outage")):
        code, document = cli.json("rebuild", "docker", *args)
        assert (code, document["error"]["code"]) == (3, "NOT_APPROVED")
    assert cli.took_effect == []
    code, document = cli.json("rebuild", "docker", "--yes", "--allow", "destroy")
    assert (code, document["outcome"]) == (0, "done")
    assert [step["do"] for step in document["steps"]] == [
        "deactivate-pool",
        "remove-thin-pool",
        "remove-volume-group",
        "remove-physical-volumes",
        "create-volume-group",
        "create-thin-pool",
    ]
    assert cli("plan")[0] == 0


# clean


def test_clean_moves_aside_and_only_purge_with_its_allowance_deletes(cli: Changes) -> None:
    found = support.docker(state=support.STALE, set_aside=(ASIDE,))
    cli.use(support.with_engine(support.snapshot(), found), ENGINE)
    for args in ((), ("--purge",)):
        assert cli("clean", *args)[0] == 3
    code, document = cli.json("clean", "--purge", "--yes")
    assert (code, document["error"]["code"], cli.took_effect) == (3, "NOT_APPROVED", [])
    assert "--allow destroy" in document["error"]["summary"]
    assert cli("clean", "--purge", "--yes", "--allow", "outage")[0] == 3
    assert cli("clean", "--yes")[0] == 0
    assert cli.took_effect == ["move-state-aside"]
    code, document = cli.json("clean", "docker", "--purge", "--yes", "--allow", "destroy")
    assert (code, [step["do"] for step in document["steps"]]) == (0, ["delete-set-aside"] * 2)
    assert document["steps"][0]["target"] == ASIDE
    assert cli("clean", "--purge", *ALL)[:2] == (0, "Nothing to do: the host is as it should be.\n")


def test_clean_of_a_running_engine_needs_its_outage(cli: Changes) -> None:
    running = support.docker(running=True, driver="overlay2")
    cli.use(support.with_engine(support.snapshot(), replace(running, state=support.STALE)), ENGINE)
    code, document = cli.json("clean", "--yes")
    assert (code, "--allow outage" in document["error"]["summary"]) == (3, True)
    assert cli("clean", "--yes", "--allow", "outage")[0] == 0
    assert cli.took_effect == ["stop-engine", "move-state-aside", "start-engine"]


def test_clean_says_what_it_leaves_alone(cli: Changes) -> None:
    more = support.with_free_disk(support.snapshot(), support.disk("/dev/sdc"))
    other = support.with_pool(support.with_group(more, "other"), support.pool("other"), 100)
    text = (support.docker(configured=True).config_text or "").replace("docker-thinpool", "other-thinpool")
    cli.use(support.with_engine(other, support.docker(state=support.STALE, config_text=text)), ENGINE)
    code, out, err = cli("clean", "--yes")
    assert (code, "Nothing to do" in out) == (0, True)
    assert "is left alone: /var/lib/docker/devicemapper belongs to the pool that" in " ".join(err.split())


def test_clean_deletes_nothing_while_the_disk_of_the_pool_is_away(cli: Changes) -> None:
    away = replace(support.snapshot(), disks=(), configured_devices=(ConfiguredDevice("/dev/sdb", problem="missing"),))
    cli.use(support.with_engine(away, support.docker(configured=True, state=support.STALE)), ENGINE)
    for args in ((), ("--purge",)):
        code, _, err = cli("clean", *args, *ALL)
        assert (code, "/dev/sdb is missing, and docker/thinpool may be on it" in err) == (3, True)
    assert cli.took_effect == []
    _, out, _ = cli("doctor")
    assert "thinpoolmgr clean" not in out


# resume


def test_resume_finishes_an_interrupted_extension_to_the_same_size(cli: Changes) -> None:
    args = ("extend", "docker", "--data", "+1GiB", "--metadata", "+4MiB", "--yes")
    cli.killed(Killed("after"), 1, *args)
    assert cli.data_bytes == 1000 * support.EXTENT + GIB
    code, document = cli.json("resume", "--yes")
    assert (code, document["outcome"]) == (0, "nothing")
    assert cli.data_bytes == 1000 * support.EXTENT + GIB
    assert cli("resume") == (0, "Nothing to resume: the last run ended well.\n", "")
    assert cli.json("resume") == (0, {"schema": 1, "run": "", "outcome": "nothing", "steps": []})


def test_another_spelling_of_what_was_interrupted_is_the_same(cli: Changes) -> None:
    cli.use(support.with_free_disk(SMALL, support.disk("/dev/sdc"), support.disk("/dev/sdd")))
    disks = ("--add-device", "/dev/sdc", "--add-device", "/dev/sdd")
    cli.killed(Killed("after"), 1, "extend", "docker", "--data", "+1GiB", *disks, "--yes")
    for size, named in (("+1024M", disks), ("+1G", disks[2:] + disks[:2]), ("+1.0 GiB", (*disks, *disks))):
        run = cli.store.read_runs()
        code, out, _ = cli("extend", "docker", "--data", size, *named, "--yes")
        assert (code, "Nothing to do" in out, cli.data_bytes) == (0, True, 1000 * support.EXTENT + GIB)
        path, _ = run[-1]
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def test_resume_goes_on_where_it_stopped_and_needs_the_same_allowances(cli: Changes) -> None:
    cli.killed(Killed("before"), 1, "rebuild", "docker", *ALL)
    code, document = cli.json("resume", "--yes")
    assert (code, document["error"]["code"]) == (3, "NOT_APPROVED")
    code, document = cli.json("resume", *ALL)
    assert (code, document["outcome"]) == (0, "done")
    assert cli.took_effect.count("remove-thin-pool") == 1
    assert cli.store.read_runs()[-1][1].began.command == "rebuild"


def test_resume_finishes_what_failed(cli: Changes) -> None:
    cli.simulated.lay(Fails("before"))
    code, document = cli.json("extend", "docker", "--data", "+1GiB", "--yes")
    assert (code, document["outcome"], document["steps"][0]["result"]) == (1, "failed", "failed")
    assert cli("resume", "--yes")[0] == 0
    assert cli.data_bytes == 1000 * support.EXTENT + GIB


def test_resume_of_a_run_whose_pool_is_not_configured_any_more_says_so(cli: Changes) -> None:
    cli.killed(Killed("before"), 0, "extend", "docker", "--data", "+1GiB", "--yes")
    cli.config.write_text(PLAIN.replace("pools.docker", "pools.other"))
    code, _, err = cli("resume", "--yes")
    assert (code, "there is no pool 'docker'" in err) == (64, True)


def test_resume_of_a_journal_that_does_not_say_what_was_asked_needs_a_person(cli: Changes) -> None:
    from thinpoolmgr.core.journal import Began

    cli.store.read_runs()
    with cli.store.lock("apply"):
        _, run_file = cli.store.new_run("apply")
    assert isinstance(run_file, RunFile)
    run_file.append(Began("run", "apply", "now", ()))
    run_file.close()
    code, document = cli.json("resume", "--yes")
    assert (code, document["error"]["code"]) == (5, "NEEDS_PERSON")
    assert "Its command: apply" in document["error"]["details"]
    assert document["error"]["resolution"]


def test_resume_of_what_the_monitor_was_mending_is_apply(cli: Changes) -> None:
    from thinpoolmgr.core.journal import Began, Doing

    cli.store.read_runs()
    with cli.store.lock("monitor"):
        _, run_file = cli.store.new_run("monitor")
    assert isinstance(run_file, RunFile)
    step = TakeCharge(id="01", reason="r", pool="docker", group="docker", lv="thinpool", threshold_percent=80)
    run_file.append(Began("run", "monitor", "now", (step,)))
    run_file.append(Doing("01", "now"))
    run_file.close()
    code, document = cli.json("resume", "--yes")
    assert (code, document["outcome"]) == (0, "nothing")
    assert cli("resume") == (0, "Nothing to resume: the last run ended well.\n", "")


def test_a_damaged_journal_is_not_resumed(cli: Changes) -> None:
    cli.killed(Killed("before"), 0, "extend", "docker", "--data", "+1GiB", "--yes")
    (path, _) = cli.store.read_runs()[0]
    path.write_bytes(path.read_bytes().replace(b"docker", b"podman", 1))
    assert cli("resume", "--yes")[0] == 5


def test_every_document_is_one_line_of_json_without_escapes(cli: Changes) -> None:
    for args in RUNS:
        cli.use(SMALL, GIB_ENGINE)
        _, out, _ = cli(*args, "--json")
        assert "\x1b" not in out
        assert out.endswith("\n")
