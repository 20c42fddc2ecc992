"""`thinpoolmgr init` as people and scripts meet it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.cli import setup
from thinpoolmgr.cli.main import main
from thinpoolmgr.config import load_config
from thinpoolmgr.core.model import ConfiguredDevice, Signature
from thinpoolmgr.host.store import Store

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredState
    from thinpoolmgr.core.model import Snapshot

GOLDEN = Path(__file__).parents[1] / "golden"
EXT4 = Signature("ext4", "filesystem", 1080)
BY_ID = "/dev/disk/by-id/ata-WDC_WD40_WD-1"
BLANK = support.disk("/dev/sdb", serial="WD-1", model="WDC_WD40", links=(BY_ID,))
SECOND = support.disk("/dev/sdd", serial="WD-2")
MOUNTED = support.disk("/dev/sda", mounts=("/",))
SIGNED = support.disk("/dev/sdc", signatures=(EXT4,))


class Init:
    """Runs `init` on a host in memory, its default files in a folder of the test."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.main = folder / "etc/thinpoolmgr.toml"
        self.drop_ins = folder / "etc/conf.d"
        self.store = Store(folder / "state", folder / "run/lock")
        self.host = support.FakeHost(support.snapshot(MOUNTED, BLANK, SIGNED))
        self.looked_at: list[str] = []
        self._capsys = capsys

    def set(self, shot: Snapshot) -> None:
        self.host = support.FakeHost(shot)

    def whole_host(self, desired: DesiredState, *, all_disks: bool) -> support.FakeHost:
        assert all_disks
        self.looked_at = [path for pool in desired.pools for path in pool.config.devices]
        found = [ConfiguredDevice(p, d.path if (d := self.host.snapshot.find_disk(p)) else "") for p in self.looked_at]
        found = [device if device.disk else replace(device, problem="missing") for device in found]
        return support.FakeHost(replace(self.host.snapshot, configured_devices=tuple(found)))

    def __call__(self, *args: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(("init", *args))
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        assert "--json" in args or max(map(len, (out + err).splitlines()), default=0) <= 100
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err

    def json(self, *args: str) -> tuple[int, Any]:
        code, out, _ = self(*args, "--json")
        return code, json.loads(out)


@pytest.fixture
def init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Init:
    made = Init(tmp_path, capsys)
    monkeypatch.setattr(setup, "real_host", made.whole_host)
    monkeypatch.setattr(setup, "Store", lambda: made.store)
    monkeypatch.setattr(setup, "MAIN_FILE", made.main)
    monkeypatch.setattr(setup, "DROP_IN_FOLDER", made.drop_ins)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    return made


def devices_of(file: Path) -> tuple[str, ...]:
    return load_config(file).desired.pools[0].config.devices


def golden(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("RENEW_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text


def picture(init: Init, *args: str) -> str:
    code, out, err = init(*args)
    return f"$ thinpoolmgr init {' '.join(args)}\n{out}--- stderr\n{err}--- exit {code}\n"


def test_the_only_blank_disk_is_taken(init: Init) -> None:
    code, _, err = init()
    assert (code, err) == (0, "")
    assert devices_of(init.main) == (BY_ID,)
    assert stat.S_IMODE(init.main.stat().st_mode) == 0o644
    assert [path.name for path in init.main.parent.iterdir()] == [init.main.name]
    assert init.host.performed == []


def test_pictures(init: Init) -> None:
    golden("init", picture(init, "--config", "one.toml").replace(os.getcwd(), "/somewhere"))
    init.set(support.snapshot(MOUNTED, BLANK, SIGNED, SECOND))
    golden("init-choice", picture(init, "--config", "two.toml").replace(os.getcwd(), "/somewhere"))
    init.set(support.snapshot(MOUNTED, SIGNED))
    golden("init-none", picture(init, "--config", "three.toml").replace(os.getcwd(), "/somewhere"))


def test_of_several_none_is_taken(init: Init) -> None:
    init.set(support.snapshot(BLANK, SECOND))
    code, out, _ = init()
    assert (code, "choose" in out) == (0, True)
    text = init.main.read_text()
    assert f'    # "{BY_ID}",\n' in text
    assert '    # "/dev/sdd",\n' in text
    with pytest.raises(SystemExit) as caught:
        main(("--config", str(init.main), "config", "check"))
    assert caught.value.code == 78


def test_without_a_candidate_nothing_is_written(init: Init) -> None:
    init.set(support.snapshot(MOUNTED, SIGNED))
    code, out, err = init()
    assert (code, out, init.main.exists()) == (3, "", False)
    assert "[NO_CANDIDATE]" in err
    assert "/dev/sda (10 GiB): /dev/sda is mounted on /" in err
    code, document = init.json()
    assert (code, document["error"]["code"]) == (3, "NO_CANDIDATE")


def test_named_devices_are_written_by_their_lasting_names(init: Init) -> None:
    init.set(support.snapshot(MOUNTED, BLANK, SECOND))
    assert init("--device", "/dev/sdd", "--device", "/dev/sdb")[0] == 0
    assert init.looked_at == ["/dev/sdd", "/dev/sdb"]
    assert devices_of(init.main) == ("/dev/sdd", BY_ID)


@pytest.mark.parametrize(
    ("devices", "code", "word"),
    [
        (("/dev/sda",), 3, "DISK_MOUNTED"),
        (("/dev/sdc",), 3, "DISK_HAS_SIGNATURE"),
        (("/dev/nothing",), 3, "DISK_MISSING"),
        (("/dev/sdb", "/dev/sda"), 3, "DISK_MOUNTED"),
        (("/dev/sdb", BY_ID), 78, "SAME_DISK_TWICE"),
        (("/dev/sdb", "/dev/sdb"), 78, "SAME_DISK_TWICE"),
        (("/dev/sda", "/dev/sda"), 78, "SAME_DISK_TWICE"),
        (("sdb",), 64, "USAGE"),
        (("/dev/\x1b",), 64, "USAGE"),
        (("",), 64, "USAGE"),
    ],
)
def test_devices_that_must_not_be_used_are_refused_and_nothing_is_written(
    init: Init, devices: tuple[str, ...], code: int, word: str
) -> None:
    args = [word for device in devices for word in ("--device", device)]
    found, out, err = init(*args)
    assert (found, out, f"[{word}]" in err) == (code, "", True)
    assert not init.main.exists()


@pytest.mark.parametrize("kind", ["file", "dangling link", "folder"])
def test_what_is_there_is_never_overwritten(init: Init, kind: str) -> None:
    init.main.parent.mkdir()
    if kind == "file":
        init.main.write_text("precious")
    elif kind == "folder":
        init.main.mkdir()
    else:
        init.main.symlink_to("nowhere")
    before = sorted(init.main.parent.rglob("*"))
    code, out, err = init()
    assert (code, out) == (3, "")
    assert f"{init.main} exists, and is not overwritten" in " ".join(err.split())
    assert "--config FILE" in err
    assert sorted(init.main.parent.rglob("*")) == before
    assert kind != "file" or init.main.read_text() == "precious"
    assert init("--config", "other.toml")[0] == 0


def test_a_drop_in_counts_for_the_default_place_only(init: Init) -> None:
    init.drop_ins.mkdir(parents=True)
    (init.drop_ins / "10-pool.toml").write_text("")
    code, _, err = init()
    assert (code, "10-pool.toml" in err, init.main.exists()) == (3, True, False)
    assert init("--config", str(init.main))[0] == 3
    assert init("--config", "other.toml")[0] == 0


def test_a_folder_that_cannot_be_made_is_an_error(init: Init) -> None:
    code, _, err = init("--config", "/nonexistent/deep/c.toml")
    assert (code, "[FILE_FAILED]" in err) == (1, True)


def test_docker_is_configured_where_it_is_installed(init: Init) -> None:
    for number, (found, engines) in enumerate(
        [
            (support.docker(), ["docker"]),
            (support.docker(installed=False), []),
            (support.docker(version="25.0.1"), []),
        ]
    ):
        init.set(support.with_engine(support.snapshot(BLANK), found))
        assert init("--config", f"{number}.toml")[0] == 0
        assert [engine.kind for engine in load_config(Path(f"{number}.toml")).desired.engines] == engines


def test_an_engine_that_is_asked_for_is_written(init: Init) -> None:
    init.set(support.snapshot(BLANK))
    assert init("--engine", "docker")[0] == 0
    assert [engine.kind for engine in load_config(init.main).desired.engines] == ["docker"]


def test_engines_that_cannot_have_the_pool_are_unavailable(init: Init) -> None:
    code, out, err = init("--engine", "containerd")
    assert (code, out, "containerd is not supported yet" in err) == (69, "", True)
    init.set(support.with_engine(support.snapshot(BLANK), support.docker(version="25.0.1")))
    code, _, err = init("--engine", "docker")
    assert (code, "Docker 25.0.1 has no devicemapper storage driver" in err) == (69, True)
    assert init("--engine", "podman")[0] == 64
    assert not init.main.exists()


def test_root_is_needed_unless_it_is_simulated(init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert init()[0] == 77
    code, out, err = init("--simulate")
    assert (code, "Not written" in out, "Simulated" in err) == (0, True, True)
    assert "devices = [\n    # /dev/simulated0" in out
    code, document = init.json("--simulate", "--device", "/dev/sdx")
    assert (code, document["written"], document["devices"]) == (0, False, ["/dev/sdx"])
    assert not init.main.parent.exists()


def test_only_one_run_writes(init: Init) -> None:
    with init.store.lock("apply"):
        assert init()[0] == 75
    assert not init.main.exists()


def test_the_document(init: Init) -> None:
    code, document = init.json()
    assert code == 0
    assert (document["schema"], document["file"], document["written"]) == (1, str(init.main), True)
    assert document["devices"] == [BY_ID]
    (candidate,) = document["candidates"]
    assert {"path", "size_bytes", "serial", "model", "links"} <= set(candidate)
    assert [(found["path"], found["code"]) for found in document["rejected"]] == [
        ("/dev/sda", "DISK_MOUNTED"),
        ("/dev/sdc", "DISK_HAS_SIGNATURE"),
    ]
    assert set(document["rejected"][0]) == {"path", "size_bytes", "code", "reason"}


def test_what_disks_say_of_themselves_is_shown_not_obeyed_and_fits(init: Init) -> None:
    nasty = "\x1b[2J\n\u202e" + "x" * 200
    init.set(support.snapshot(replace(BLANK, serial=nasty, model=nasty, links=(f"/dev/disk/by-id/{'y' * 150}",))))
    code, out, _ = init()
    assert (code, "\x1b" in out, "\u202e" in out) == (0, False, False)
    assert load_config(init.main).desired.pools[0].config.devices == (f"/dev/disk/by-id/{'y' * 150}",)


def test_help(init: Init) -> None:
    code, out, err = init("--help")
    assert (code, err) == (0, "")
    assert out.startswith("Usage: thinpoolmgr init")
