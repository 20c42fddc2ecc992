from __future__ import annotations

import json

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.desired import EngineConfig
from thinpoolmgr.core.engines.docker import storage_options
from thinpoolmgr.core.engines.docker_config import (
    configured_pool_dm_name,
    find_conflicts,
    find_unused,
    say_conflicts,
    why_two_pools,
)
from thinpoolmgr.core.engines.docker_edits import OVERRIDE, check_command, edit_files
from thinpoolmgr.core.engines.docker_flags import read_command
from thinpoolmgr.core.engines.flag_edits import ConfigDoubtError
from thinpoolmgr.core.model import ConfigFile, Engine

OPTIONS = storage_options(EngineConfig("docker"), "docker-thinpool")
FLAGS = "--storage-driver devicemapper " + " ".join(f"--storage-opt {option}" for option in OPTIONS)
JOINED = FLAGS.replace("-driver ", "-driver=").replace("opt ", "opt=")
VENDOR, DROP_IN = "/lib/systemd/system/docker.service", "/etc/systemd/system/docker.service.d/a.conf"
STORAGE, DEFAULT = "/etc/sysconfig/docker-storage", "/etc/default/docker"
EXEC = "[Service]\nExecStart=/usr/bin/dockerd -H fd:// $OPTIONS $DOCKER_STORAGE_OPTIONS\n"
JSON = '{\n  "debug": true,\n  "storage-driver": "overlay2",\n  "bridge": "none"\n}\n'


def engine(
    *, storage: str | None = None, json_text: str | None = None, unit: str = EXEC, drop_in: str | None = None
) -> Engine:
    files = (
        ConfigFile(VENDOR, "unit", unit),
        ConfigFile(DROP_IN, "unit", drop_in),
        ConfigFile(OVERRIDE, "unit"),
        ConfigFile(STORAGE, "environment", storage),
    )
    return support.docker(files=files, config_text=json_text)


def settled(found: Engine, config_file: str = "auto") -> dict[str, str]:
    """Return the new texts; after them nothing is left to be done."""
    edits = edit_files(found, OPTIONS, config_file)
    for edit in edits:
        assert found.text_of(edit.path) == edit.old_text
        found = found.with_text(edit.path, edit.new_text)
    assert edit_files(found, OPTIONS, config_file) == ()
    assert find_conflicts(found) == ()
    assert configured_pool_dm_name(found) == "docker-thinpool"
    return {edit.path: edit.new_text for edit in edits}


def test_storage_that_is_configured_nowhere_goes_to_daemon_json() -> None:
    assert list(settled(engine(storage="DOCKER_STORAGE_OPTIONS=\n"))) == [support.DAEMON_JSON]


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (
            '# kept\nDOCKER_STORAGE_OPTIONS="--storage-driver overlay2 "\nX=1\n',
            f'# kept\nDOCKER_STORAGE_OPTIONS="{FLAGS} "\nX=1\n',
        ),
        ("DOCKER_STORAGE_OPTIONS='-s overlay2 -D'\n", f"DOCKER_STORAGE_OPTIONS='{FLAGS} -D'\n"),
        (
            "OPTIONS=--debug\nDOCKER_STORAGE_OPTIONS=--storage-driver=overlay2\n",
            f'OPTIONS=--debug\nDOCKER_STORAGE_OPTIONS="{JOINED}"\n',
        ),
        (
            'DOCKER_STORAGE_OPTIONS="-s overlay2 \\\n  --storage-opt dm.mountopt=nodiscard"\n',
            f'DOCKER_STORAGE_OPTIONS="-s devicemapper \\\n  --storage-opt dm.mountopt=nodiscard{FLAGS[29:]}"\n',
        ),
    ],
)
def test_a_file_of_assignments_keeps_comments_quotes_and_order(text: str, after: str) -> None:
    if "-s overlay2 -D" in text:
        after = after.replace("--storage-driver devicemapper", "-s devicemapper")
    assert settled(engine(storage=text)) == {STORAGE: after}


def test_a_drop_in_of_the_admin_is_edited_where_it_stands() -> None:
    drop_in = "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd -s vfs \\\n  --storage-opt dm.fs=ext4 # x\n"
    new = settled(engine(drop_in=drop_in))
    assert list(new) == [DROP_IN]
    assert new[DROP_IN].startswith("[Service]\nExecStart=\nExecStart=/usr/bin/dockerd -s devicemapper \\\n  --storage")
    assert "dm.min_free_space=10%%" in new[DROP_IN]
    assert new[DROP_IN].endswith(" # x\n")


def test_a_units_file_of_a_package_is_overridden_not_edited() -> None:
    unit = "[Service]\nExecStart=/usr/bin/dockerd -H fd:// --storage-driver=overlay2\n"
    new = settled(engine(unit=unit))
    assert list(new) == [support.DAEMON_JSON, OVERRIDE]
    assert new[OVERRIDE].endswith("[Service]\nExecStart=\nExecStart=/usr/bin/dockerd -H fd://\n")


@pytest.mark.parametrize(
    ("config_file", "left"), [("auto", 'DOCKER_STORAGE_OPTIONS=""\n'), (STORAGE, f'DOCKER_STORAGE_OPTIONS="{FLAGS}"\n')]
)
def test_a_conflict_is_settled_by_removing_one_of_the_two(config_file: str, left: str) -> None:
    found = engine(storage='DOCKER_STORAGE_OPTIONS="--storage-driver overlay2"\n', json_text=JSON)
    (conflict,) = find_conflicts(found)
    assert (conflict.flag, conflict.file) == (
        f"{STORAGE}, line 1 (DOCKER_STORAGE_OPTIONS)",
        f"{support.DAEMON_JSON}, line 3",
    )
    assert "the following directives are specified both as a flag and in" in say_conflicts([conflict])
    new = settled(found, config_file)
    assert new[STORAGE] == left
    kept = json.loads(new[support.DAEMON_JSON])
    assert ("storage-driver" in kept, kept["debug"], kept["bridge"]) == (config_file == "auto", True, "none")
    if config_file == STORAGE:
        assert new[support.DAEMON_JSON] == JSON.replace('  "storage-driver": "overlay2",\n', "")


def test_options_of_the_place_that_is_given_up_are_taken_over() -> None:
    found = engine(storage='DOCKER_STORAGE_OPTIONS="--storage-opt dm.mountopt=nodiscard"\n', json_text=JSON)
    assert '"dm.mountopt=nodiscard"' in settled(found, "daemon.json")[support.DAEMON_JSON]


def test_a_file_that_does_not_exist_is_made_where_the_configuration_says_so() -> None:
    assert settled(engine(), STORAGE) == {STORAGE: f'DOCKER_STORAGE_OPTIONS="{FLAGS}"\n'}


def test_a_daemon_started_by_hand_is_not_ours_to_edit() -> None:
    found = replace(support.docker(), command=("dockerd", "-s", "overlay2"))
    with pytest.raises(ConfigDoubtError, match="the running daemon's command line sets --storage-driver"):
        edit_files(found, OPTIONS, "auto")


def test_a_word_made_of_parts_is_not_edited() -> None:
    unit = "[Service]\nEnvironment=X=overlay2\nExecStart=/usr/bin/dockerd --storage-driver=${X}\n"
    with pytest.raises(ConfigDoubtError, match=r"line 3 \(ExecStart\) sets --storage-driver"):
        edit_files(engine(unit=unit), OPTIONS, "auto")


def test_two_places_that_name_different_pools_are_told() -> None:
    text = '{"storage-opts": ["dm.thinpooldev=/dev/mapper/a"]}'
    found = engine(storage="DOCKER_STORAGE_OPTIONS='--storage-opt dm.thinpooldev=b'\n", json_text=text)
    assert "names b" in why_two_pools(found)
    assert why_two_pools(engine(json_text=text)) == ""


def test_what_the_unit_does_not_use_is_told_and_does_not_count() -> None:
    found = engine(storage="OTHER='-s vfs'\nOPTIONS='-s vfs'\nOPTIONS=-D\n")
    other = ConfigFile(DEFAULT, "environment", 'DOCKER_OPTS="--storage-driver vfs"\n', named=False)
    found = replace(found, files=(*found.files, other))
    assert [arg.text for arg in read_command(found).args] == ["/usr/bin/dockerd", "-H", "fd://", "-D"]
    assert [(path, why.partition(", and ")[2]) for path, why in find_unused(found)] == [
        (STORAGE, "docker.service does not use $OTHER"),
        (STORAGE, f"{STORAGE} sets OPTIONS again, which counts"),
        (DEFAULT, "docker.service does not read this file"),
    ]


@pytest.mark.parametrize(("version", "checks"), [("20.10.24", False), ("23.0.1", True), ("24.0.9", True), ("", False)])
def test_docker_checks_its_configuration_where_it_can(version: str, *, checks: bool) -> None:
    argv, text = check_command(replace(engine(json_text="{}"), version=version), "/run/x")
    assert argv == (("dockerd", "--validate", "--config-file", "/run/x", "-H", "fd://") if checks else ())
    assert text == ("{}" if checks else "")


def test_the_place_that_stays_is_written_first_so_that_a_kill_loses_no_option() -> None:
    found = engine(storage='DOCKER_STORAGE_OPTIONS="-s devicemapper --storage-opt dm.override_udev_sync_check=true"\n')
    first = edit_files(found, OPTIONS, "daemon.json")[0]
    assert first.path == support.DAEMON_JSON
    assert "dm.override_udev_sync_check=true" in first.new_text
    again = settled(found.with_text(first.path, first.new_text), "daemon.json")
    assert again == {STORAGE: 'DOCKER_STORAGE_OPTIONS=""\n'}


@pytest.mark.parametrize("flags", ["$DOCKER_STORAGE_OPTIONS", "--storage-driver overlay2"])
def test_a_command_within_a_shells_word_is_not_taken_for_none(flags: str) -> None:
    unit = f"[Service]\nExecStart=/bin/sh -c '/usr/bin/docker-current daemon {flags} 2>&1'\n"
    with pytest.raises(ConfigDoubtError, match="a shell"):
        edit_files(engine(storage="DOCKER_STORAGE_OPTIONS='-s overlay2'\n", unit=unit), OPTIONS, "auto")


@pytest.mark.parametrize(
    "text",
    [
        'DOCKER_OPTS="-s overlay2"\nDOCKER_OPTS="$DOCKER_OPTS -D"\n',
        'DOCKER_OPTS=-D\nDOCKER_OPTS+=" -s overlay2"\n',
        'DOCKER_OPTS="-D" # debug\n',
    ],
)
def test_a_file_that_only_a_shell_understands_is_not_edited(text: str) -> None:
    files = (
        ConfigFile("/etc/init.d/docker", "script", "$DOCKERD $DOCKER_OPTS"),
        ConfigFile(DEFAULT, "environment", text),
    )
    for config_file in ("auto", DEFAULT):
        with pytest.raises(ConfigDoubtError, match="a shell"):
            edit_files(replace(support.docker(), files=files), OPTIONS, config_file)


def test_a_specifier_of_systemd_stays_one() -> None:
    drop_in = "[Service]\nEnvironment=DOCKER_STORAGE_OPTIONS=--label=%H\n"
    with pytest.raises(ConfigDoubtError, match="%H"):
        edit_files(engine(drop_in=drop_in), OPTIONS, DROP_IN)


def test_lines_that_end_in_a_carriage_return_are_continued_too() -> None:
    drop_in = "[Service]\r\nExecStart=\r\nExecStart=/usr/bin/dockerd \\\r\n  -s overlay2 \\\r\n  -H fd://\r\n"
    new = settled(engine(drop_in=drop_in))
    assert new[DROP_IN].startswith(drop_in.partition("overlay2")[0] + "devicemapper --storage-opt")
    assert new[DROP_IN].endswith(" \\\r\n  -H fd://\r\n")


def test_a_switch_that_is_grouped_with_the_driver_stays() -> None:
    after = settled(engine(storage='DOCKER_STORAGE_OPTIONS="-Ds overlay2 --label=x"\n'))
    assert after[STORAGE].startswith('DOCKER_STORAGE_OPTIONS="-Ds devicemapper --storage-opt')
    joined = settled(engine(storage='DOCKER_STORAGE_OPTIONS="-Dsoverlay2 --label=x"\n'))
    assert joined[STORAGE].startswith('DOCKER_STORAGE_OPTIONS="-Ds=devicemapper --storage-opt=')
    text = '{"storage-opts": ["dm.fs=xfs"]}'
    moved = settled(engine(storage='DOCKER_STORAGE_OPTIONS="-Ds overlay2"\n', json_text=text))
    assert moved[STORAGE] == 'DOCKER_STORAGE_OPTIONS="-D"\n'


def test_the_driver_as_a_flag_and_its_options_in_the_file_come_together() -> None:
    listed = ", ".join(f'"{option}"' for option in OPTIONS)
    found = engine(storage='DOCKER_STORAGE_OPTIONS="-s devicemapper"\n', json_text=f'{{"storage-opts": [{listed}]}}')
    assert find_conflicts(found) == ()
    after = settled(found)
    assert after[STORAGE] == 'DOCKER_STORAGE_OPTIONS=""\n'
    assert '"storage-driver": "devicemapper"' in after[support.DAEMON_JSON]
    by_hand = replace(found, files=(), command=("dockerd", "-s", "devicemapper"))
    assert edit_files(by_hand, OPTIONS, "auto") == ()


@pytest.mark.parametrize(("flag", "key"), [("-b", "bridge"), ("-l", "log-level"), ("-G", "group"), ("-p", "pidfile")])
def test_short_flags_are_known_by_their_long_names(flag: str, key: str) -> None:
    found = engine(storage=f"DOCKER_STORAGE_OPTIONS='{flag} x'\n", json_text=f'{{"{key}": "y"}}')
    assert [conflict.key for conflict in find_conflicts(found)] == [key]
