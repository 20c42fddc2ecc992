from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from thinpoolmgr import config
from thinpoolmgr.config import load_config
from thinpoolmgr.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "version = 1\n"
GOOD = HEAD + '[pools.docker]\ndevices = ["/dev/sdb"]\n'
EXTEND = GOOD + "[pools.docker.extend]\n"
ENGINE = GOOD + '[engines.docker]\npool = "docker"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "c.toml"


@pytest.fixture
def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    main, drop_ins = tmp_path / "main.toml", tmp_path / "conf.d"
    monkeypatch.setattr(config, "MAIN_FILE", main)
    monkeypatch.setattr(config, "DROP_IN_FOLDER", drop_ins)
    return main, drop_ins


def refused(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.exit_code == 78
    assert caught.value.resolution
    return caught.value


def test_the_least_that_is_needed(file: Path) -> None:
    file.write_text(GOOD)
    loaded = load_config(file)
    (pool,) = loaded.desired.pools
    assert (pool.name, pool.group, pool.lv, pool.path) == ("docker", "docker", "thinpool", "docker/thinpool")
    assert (pool.config.data_size, pool.chunk_bytes, pool.config.when_full) == ("95%VG", 512 * 1024, "queue")
    assert loaded.files == (str(file),)


def test_the_example_of_the_contract(file: Path) -> None:
    file.write_text(
        HEAD
        + """
        [pools.docker]
        volume_group = "vg"
        thin_pool = "tp"
        devices = ["/dev/disk/by-id/virtio-data0"]
        data_size = "100GiB"
        metadata_size = "1%VG"
        chunk_size = "64K"
        zero_new_blocks = true
        discards = "nopassdown"
        when_full = "error"
        wipe_signatures = true
        spare_devices = ["/dev/sdz"]
        [pools.docker.extend]
        data_threshold_percent = 70
        metadata_threshold_percent = 75
        step_percent = 10
        max_size = "1TiB"
        monitor = "dmeventd"
        [engines.docker]
        pool = "docker"
        base_size = "20G"
        filesystem = "ext4"
        deferred_removal = true
        deferred_deletion = false
        min_free_space_percent = 5
        config_file = "/etc/docker/daemon.json"
        """
    )
    desired = load_config(file).desired
    assert desired.pools[0].path == "vg/tp"
    assert desired.pools[0].config.extend.monitor == "dmeventd"
    assert desired.engine_of("docker") == desired.engines[0]
    assert desired.engine_of("other") is None


BAD = {
    "version 2": (GOOD.replace("1", "2", 1), "version", "found 2", "version = 1"),
    "version true": (GOOD.replace("1", "true", 1), "version", "found True", "version = 1"),
    "version float": (GOOD.replace("1", "1.0", 1), "version", "found 1.0", "version = 1"),
    "version text": (GOOD.replace("1", '"1"', 1), "version", "found '1'", "version = 1"),
    "no pool": (HEAD, "pools", "found no pool", "[pools.NAME]"),
    "unknown table": (GOOD + "[pool.x]\n", "pool", "found an unknown key", "one of version, pools, engines"),
    "unknown key": (GOOD + "device = 1\n", "pools.docker.device", "found an unknown key", "devices, volume_group"),
    "unknown nested": (EXTEND + "by = 1\n", "pools.docker.extend.by", "found an unknown key", "data_threshold_percent"),
    "unknown in engine": (ENGINE + "x = 1\n", "engines.docker.x", "found an unknown key", "one of pool, base_size"),
    "pools no table": (HEAD + "pools = 3\n", "pools", "found int", "[pools.docker]"),
    "pools a list": (HEAD + "[[pools]]\nx = 1\n", "pools", "found list", "[pools.docker]"),
    "pool no table": (HEAD + "[pools]\np = 3\n", "pools.p", "found int", "object"),
    "engines no table": (GOOD + '[engines]\ndocker = "x"\n', "engines.docker", "found str", "object"),
    "devices a text": (HEAD + '[pools.p]\ndevices = "/dev/sdb"\n', "pools.p.devices", "found str", "array"),
    "devices a date": (HEAD + "[pools.p]\ndevices = 1979-05-27\n", "pools.p.devices", "found date", "array"),
    "device a number": (HEAD + "[pools.p]\ndevices = [1]\n", "pools.p.devices[0]", "found int", "str"),
    "text for bool": (GOOD + 'wipe_signatures = "yes"\n', "pools.docker.wipe_signatures", "found str", "bool"),
    "int for bool": (GOOD + "wipe_signatures = 1\n", "pools.docker.wipe_signatures", "found int", "bool"),
    "bool for int": (EXTEND + "step_percent = true\n", "pools.docker.extend.step_percent", "found bool", "int"),
    "float for int": (EXTEND + "step_percent = 20.0\n", "pools.docker.extend.step_percent", "found float", "int"),
    "int for text": (GOOD + "data_size = 10\n", "pools.docker.data_size", "found int", "str"),
    "extend no table": (GOOD + "extend = 1\n", "pools.docker.extend", "found int", "object"),
    "no such choice": (GOOD + 'when_full = "panic"\n', "pools.docker.when_full", "'panic'", "one of 'queue', 'error'"),
    "no such monitor": (EXTEND + 'monitor = "x"\n', "pools.docker.extend.monitor", "'x'", "'dmeventd', 'none'"),
    "GB": (GOOD + 'data_size = "10GB"\n', "pools.docker.data_size", "two readings", "a size such as 100GiB"),
    "size 0": (GOOD + 'data_size = "0G"\n', "pools.docker.data_size", "out of range", "a size such as"),
    "share 0": (GOOD + 'data_size = "0%VG"\n', "pools.docker.data_size", "'0%VG'", "from 1 to 100"),
    "share 101": (GOOD + 'metadata_size = "101%VG"\n', "pools.docker.metadata_size", "'101%VG'", "from 1 to 100"),
    "share of what": (GOOD + 'data_size = "95%PVS"\n', "pools.docker.data_size", "not a size", "95%VG"),
    "auto data": (GOOD + 'data_size = "auto"\n', "pools.docker.data_size", "not a size", "95%VG"),
    "tiny metadata": (GOOD + 'metadata_size = "1MiB"\n', "pools.docker.metadata_size", "'1MiB'", "at least 2MiB"),
    "huge metadata": (GOOD + 'metadata_size = "16GiB"\n', "pools.docker.metadata_size", "'16GiB'", "15.8GiB"),
    "odd chunk": (GOOD + 'chunk_size = "96KiB"\n', "pools.docker.chunk_size", "'96KiB'", "multiple of 64KiB"),
    "tiny chunk": (GOOD + 'chunk_size = "4KiB"\n', "pools.docker.chunk_size", "'4KiB'", "multiple of 64KiB"),
    "huge chunk": (GOOD + 'chunk_size = "2GiB"\n', "pools.docker.chunk_size", "'2GiB'", "to 1GiB"),
    "share chunk": (GOOD + 'chunk_size = "1%VG"\n', "pools.docker.chunk_size", "not a size", "a size such as"),
    "max size": (EXTEND + 'max_size = "100%VG"\n', "pools.docker.extend.max_size", "not a size", "'none'"),
    "threshold low": (
        EXTEND + "data_threshold_percent = 49\n",
        "pools.docker.extend.data_threshold_percent",
        "49",
        "50",
    ),
    "threshold high": (
        EXTEND + "metadata_threshold_percent = 101\n",
        "pools.docker.extend.metadata_threshold_percent",
        "101",
        "100",
    ),
    "step 0": (EXTEND + "step_percent = 0\n", "pools.docker.extend.step_percent", "found 0", "from 1 to 100"),
    "step huge": (EXTEND + f"step_percent = {'9' * 100}\n", "pools.docker.extend.step_percent", "999", "from 1 to 100"),
    "no devices": (HEAD + "[pools.p]\n", "pools.p.devices", "found no device", "/dev/disk/by-id"),
    "relative device": (HEAD + '[pools.p]\ndevices = ["sdb"]\n', "pools.p.devices[0]", "'sdb'", "absolute path"),
    "option as device": (HEAD + '[pools.p]\ndevices = ["--force"]\n', "pools.p.devices[0]", "'--force'", "absolute"),
    "odd device": (HEAD + '[pools.p]\ndevices = ["/dev/\\u001b"]\n', "pools.p.devices[0]", r"\x1b", "absolute path"),
    "NUL device": (HEAD + '[pools.p]\ndevices = ["/dev/\\u0000"]\n', "pools.p.devices[0]", r"\x00", "absolute path"),
    "device twice": (
        HEAD + '[pools.p]\ndevices = ["/dev/sdb", "/dev/sdb"]\n',
        "pools.p.devices[1]",
        "'/dev/sdb'",
        "stands in pools.p.devices[0]",
    ),
    "device spare, too": (
        GOOD + 'spare_devices = ["/dev/sdb"]\n',
        "pools.docker.spare_devices[0]",
        "'/dev/sdb'",
        "stands in pools.docker.devices[0]",
    ),
    "device in two pools": (
        GOOD + '[pools.b]\ndevices = ["/dev/sdb"]\n',
        "pools.b.devices[0]",
        "'/dev/sdb'",
        "stands in pools.docker.devices[0]",
    ),
    "group in two pools": (
        GOOD + '[pools.b]\nvolume_group = "docker"\ndevices = ["/dev/sdc"]\n',
        "pools.b.volume_group",
        "'docker'",
        "pools.docker uses this one",
    ),
    "long group": (GOOD + f'volume_group = "{"g" * 128}"\n', "pools.docker.volume_group", "ggg", "LVM allows 127"),
    "option as group": (GOOD + 'volume_group = "-f"\n', "pools.docker.volume_group", "'-f'", "must not begin with -"),
    "tag as group": (GOOD + 'volume_group = "@all"\n', "pools.docker.volume_group", "'@all'", "letters, digits"),
    "path as group": (GOOD + 'volume_group = "../x"\n', "pools.docker.volume_group", "'../x'", "letters, digits"),
    "dots as group": (GOOD + 'volume_group = ".."\n', "pools.docker.volume_group", "'..'", "directory"),
    "reserved pool": (GOOD + 'thin_pool = "x_tdata"\n', "pools.docker.thin_pool", "'x_tdata'", "keeps for itself"),
    "dm name": (
        GOOD + f'volume_group = "{"g" * 100}"\nthin_pool = "{"l" * 100}"\n',
        "pools.docker.thin_pool",
        "lll",
        "127 are possible",
    ),
    "name with -": (HEAD + '[pools.-p]\ndevices = ["/dev/sdb"]\n', "pools.-p", "this name", "does not begin with"),
    "name with @": (
        HEAD + '[pools."@p"]\nvolume_group = "v"\ndevices = ["/dev/sdb"]\n',
        "pools.@p",
        "this name",
        "does not begin with",
    ),
    "name empty": (
        HEAD + '[pools.""]\nvolume_group = "v"\ndevices = ["/dev/sdb"]\n',
        "pools.",
        "this name",
        "printable",
    ),
    "name with escape": (
        HEAD + '[pools."\\u001b"]\nvolume_group = "v"\ndevices = ["/dev/sdb"]\n',
        "pools.\x1b",
        "this name",
        "printable",
    ),
    "name no group": (HEAD + '[pools."a b"]\ndevices = ["/dev/sdb"]\n', "pools.a b", "'a b'", "without volume_group"),
    "unknown engine": (
        ENGINE.replace("[engines.docker]", "[engines.podman]"),
        "engines.podman",
        "an unknown engine",
        "docker",
    ),
    "engine without pool": (GOOD + "[engines.docker]\n", "engines.docker.pool", "found nothing", "required"),
    "engine's pool": (ENGINE.replace('pool = "docker"', 'pool = "x"'), "engines.docker.pool", "'x'", "(docker)"),
    "base size": (ENGINE + 'base_size = "10GB"\n', "engines.docker.base_size", "two readings", "a size such as"),
    "free space": (
        ENGINE + "min_free_space_percent = 100\n",
        "engines.docker.min_free_space_percent",
        "100",
        "0 to 99",
    ),
    "deferred": (ENGINE + "deferred_removal = false\n", "engines.docker.deferred_deletion", "true", "Docker refuses"),
    "filesystem": (ENGINE + 'filesystem = "btrfs"\n', "engines.docker.filesystem", "'btrfs'", "'xfs', 'ext4'"),
    "config file": (ENGINE + 'config_file = "docker.json"\n', "engines.docker.config_file", "'docker.json'", "'auto'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_values_are_refused_with_file_key_and_expectation(name: str, file: Path) -> None:
    text, key, found, expected = BAD[name]
    file.write_text(text)
    error = refused(file)
    line = next(line for line in error.details.splitlines() if line.startswith(f"{file}: {key}: "))
    actual_found, _, actual_expected = line.removeprefix(f"{file}: {key}: ").partition("; expected ")
    assert found in actual_found
    assert expected in actual_expected


def test_all_problems_are_listed_at_once(file: Path) -> None:
    file.write_text(GOOD + 'data_size = "1"\nchunk_size = "1"\n[pools.b]\n')
    error = refused(file)
    assert error.summary == "the configuration has 3 errors"
    assert len(error.details.splitlines()) == 3


BROKEN = {
    "syntax": (b"version = = 1\n", "is not valid TOML", "line 1"),
    "torn": (GOOD.encode()[:-3], "is not valid TOML", "Unterminated string"),
    "duplicate key": (GOOD.encode() + b"devices = []\n", "is not valid TOML", "line 4"),
    "duplicate table": (GOOD.encode() * 1 + b"[pools.docker]\n", "is not valid TOML", "line 4"),
    "not UTF-8": (GOOD.encode() + b"# \xff\n", "is not valid UTF-8", "0xff"),
    "UTF-16": (GOOD.encode("utf-16"), "is not valid UTF-8", "0xff"),
    "NUL": (b"version = 1\n\0", "is not valid TOML", "line 2"),
    "deep list": (b"a = " + b"[" * 20000 + b"]" * 20000, "is nested too deeply", ""),
    "deep table": (b"a = " + b"{a = " * 20000 + b"1" + b"}" * 20000, "is nested too deeply", ""),
    "deep key": (b".".join([b"a"] * 2000) + b" = 1\n", "is nested too deeply", ""),
    "deep header": (b"[" + b".".join([b"a"] * 5000) + b"]\nx = 1\n", "is nested too deeply", ""),
    "number": (b"version = " + b"9" * 5000, "cannot be read", "5000 digits"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_are_no_configuration(name: str, file: Path) -> None:
    content, summary, details = BROKEN[name]
    file.write_bytes(content)
    error = refused(file)
    assert error.summary == f"{file} {summary}"
    assert details in error.details


def test_a_file_without_a_version_is_of_the_first(file: Path) -> None:
    file.write_text(GOOD.removeprefix(HEAD))
    assert config.load_config(file).desired.pools


def test_an_empty_file_lacks_a_pool(file: Path) -> None:
    file.write_bytes(b"")
    assert "pools: found no pool" in refused(file).details


def test_a_file_of_100_megabytes_is_not_even_read(file: Path) -> None:
    file.touch()
    os.truncate(file, 100 * 1024 * 1024)
    error = refused(file)
    assert error.summary == f"{file} is too large"
    assert "104857600" in error.details


def test_a_folder_a_device_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path).summary == f"{tmp_path} is not a file"
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in refused(tmp_path / "pipe").summary
    missing = refused(tmp_path / "missing")
    assert (missing.summary, missing.details) == (f"{tmp_path}/missing cannot be read", "No such file or directory")


@pytest.mark.parametrize("name", ["a\udcff.toml", "a\0b.toml"])
def test_odd_bytes_in_the_path_are_shown_not_raised(tmp_path: Path, name: str) -> None:
    error = refused(tmp_path / name)
    assert "cannot be read" in error.summary
    assert error.summary.encode("utf-8")


def test_without_any_file_the_places_are_named(layers: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config()
    assert str(layers[0]) in caught.value.summary
    assert str(layers[1]) in caught.value.resolution


def test_drop_ins_follow_in_order_of_name_and_each_value_knows_its_file(layers: tuple[Path, Path]) -> None:
    main, drop_ins = layers
    main.write_text(GOOD + 'data_size = "50%VG"\nwhen_full = "error"\n[pools.docker.extend]\nstep_percent = 1\n')
    drop_ins.mkdir()
    (drop_ins / "20-b.toml").write_text('[pools.docker]\ndata_size = "20%VG"\n')
    (drop_ins / "10-a.toml").write_text(
        '[pools.docker]\ndata_size = "10%VG"\ndevices = ["/dev/sdc"]\n[pools.docker.extend]\nstep_percent = 2\n'
    )
    (drop_ins / "30-c.conf").write_text("not read")
    loaded = load_config()
    pool = loaded.desired.pools[0].config
    assert (pool.data_size, pool.when_full, pool.devices) == ("20%VG", "error", ("/dev/sdc",))
    assert pool.extend.step_percent == 2
    files = [os.path.basename(path) for path in loaded.files]
    assert files == ["main.toml", "10-a.toml", "20-b.toml"]
    origin = {key: os.path.basename(path) for key, path in loaded.origins.items()}
    assert origin["pools.docker.data_size"] == "20-b.toml"
    assert origin["pools.docker.devices"] == "10-a.toml"
    assert origin["pools.docker.when_full"] == "main.toml"
    assert origin["pools.docker.extend.step_percent"] == "10-a.toml"
    assert origin["version"] == "main.toml"


def test_a_bad_value_is_blamed_on_the_drop_in_that_set_it(layers: tuple[Path, Path]) -> None:
    main, drop_ins = layers
    main.write_text(GOOD)
    drop_ins.mkdir()
    (drop_ins / "a.toml").write_text('[pools.docker]\ndata_size = "10GB"\n')
    with pytest.raises(ConfigError) as caught:
        load_config()
    assert caught.value.details.startswith(f"{drop_ins}/a.toml: pools.docker.data_size: ")


def test_drop_ins_alone_are_enough_and_config_replaces_all(layers: tuple[Path, Path], file: Path) -> None:
    _, drop_ins = layers
    drop_ins.mkdir()
    (drop_ins / "a.toml").write_text(GOOD)
    assert load_config().desired.pools[0].name == "docker"
    file.write_text(GOOD.replace("docker", "other"))
    assert [pool.name for pool in load_config(file).desired.pools] == ["other"]
