"""The configuration that `init` writes: read back, complete, and as it was agreed on."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from thinpoolmgr.config import LoadedConfig, load_config
from thinpoolmgr.core.desired import EngineConfig, ExtendPolicy, MatchConfig, PoolConfig
from thinpoolmgr.core.inventory import NamedDisk
from thinpoolmgr.core.template import config_text
from thinpoolmgr.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden"
DISKS = (
    NamedDisk("/dev/disk/by-id/ata-WDC_WD40_WD-1", "/dev/sdb, 3.6 TiB, serial WD-1, model WDC_WD40"),
    NamedDisk("/dev/disk/by-id/ata-WDC_WD40_WD-2", "/dev/sdc, 3.6 TiB, serial WD-2, model WDC_WD40"),
)
KEY = re.compile(r"^( *)# (?=[a-z_]+ = |\[|\"/)", re.MULTILINE)
MATCH = re.compile(r"# \[\[pools.docker.match]].*?\n\n", re.DOTALL)


def load(tmp_path: Path, text: str) -> LoadedConfig:
    file = tmp_path / "c.toml"
    file.write_text(text)
    return load_config(file)


def uncomment(text: str) -> str:
    return KEY.sub(r"\1", text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("init-config", config_text(DISKS[:1], (), "docker")),
        ("init-config-choice", config_text((), DISKS, "")),
    ],
)
def test_the_text_is_as_agreed(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("RENEW_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text
    assert max(map(len, text.splitlines())) <= 100


def test_it_reads_back_as_what_was_chosen(tmp_path: Path) -> None:
    desired = load(tmp_path, config_text(DISKS, (), "docker")).desired
    (pool,), (engine,) = desired.pools, desired.engines
    assert pool.config == PoolConfig(devices=tuple(disk.name for disk in DISKS))
    assert (pool.name, engine.kind, engine.config) == ("docker", "docker", EngineConfig(pool="docker"))


def test_what_is_chosen_is_not_offered_again() -> None:
    assert config_text(DISKS[:1], DISKS[:1], "docker") == config_text(DISKS[:1], (), "docker")


def test_without_an_engine_there_is_none(tmp_path: Path) -> None:
    desired = load(tmp_path, config_text(DISKS, (), "")).desired
    assert desired.engines == ()


def test_what_is_commented_out_are_the_defaults(tmp_path: Path) -> None:
    text = uncomment(MATCH.sub("\n", config_text(DISKS, (), "")))
    desired = load(tmp_path, text).desired
    (pool,), (engine,) = desired.pools, desired.engines
    assert pool.config == PoolConfig(devices=tuple(disk.name for disk in DISKS), volume_group="docker")
    assert engine.config == EngineConfig(pool="docker")


def test_every_key_is_shown(tmp_path: Path) -> None:
    tables = load(tmp_path, uncomment(MATCH.sub("\n", config_text(DISKS, (), "docker")))).merged
    pool = tables["pools"]["docker"]
    for kind, table, apart in ((PoolConfig, pool, {"match"}), (ExtendPolicy, pool["extend"], set[str]())):
        assert {field.name for field in msgspec.structs.fields(kind)} == set(table) | apart
    assert {field.name for field in msgspec.structs.fields(EngineConfig)} == set(tables["engines"]["docker"])


def test_selectors_are_shown_as_they_may_be_used(tmp_path: Path) -> None:
    text = re.sub(r"devices = \[.*?\n]\n", "", config_text(DISKS, (), "docker"), flags=re.DOTALL)
    (match,) = load(tmp_path, MATCH.sub(lambda found: uncomment(found[0]), text)).desired.pools[0].config.match
    assert all(getattr(match, field.name) is not None for field in msgspec.structs.fields(MatchConfig))


def test_of_several_disks_none_is_taken_before_somebody_chooses(tmp_path: Path) -> None:
    text = config_text((), DISKS, "docker")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert "pools.docker.devices: found no device" in caught.value.details
    chosen = load(tmp_path, text.replace(f'# "{DISKS[1].name}"', f'"{DISKS[1].name}"')).desired
    assert chosen.pools[0].config.devices == (DISKS[1].name,)


@pytest.mark.parametrize("odd", ['a"b\\c', "x # y", "\u00e4"])
def test_odd_names_and_descriptions_are_written_so_that_they_can_be_read(tmp_path: Path, odd: str) -> None:
    disk = NamedDisk(f"/dev/{odd}", f"model {odd}\n\x00\x1b\udcff")
    (pool,) = load(tmp_path, config_text((disk,), (), "docker")).desired.pools
    assert pool.config == replace(PoolConfig(), devices=(disk.name,))
