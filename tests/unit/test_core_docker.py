from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinpoolmgr.core.desired import EngineConfig
from thinpoolmgr.core.engines import ENGINE_KINDS, ENGINES
from thinpoolmgr.core.engines.daemon_json import DaemonJsonError
from thinpoolmgr.core.engines.docker import (
    driver_name,
    storage_options,
    supports_devicemapper,
    unsupported_text,
)
from thinpoolmgr.core.engines.docker_config import configured_data_root, configured_pool_dm_name, edit_daemon_json
from thinpoolmgr.core.engines.docker_edits import edit_files
from thinpoolmgr.core.model import Engine, EngineState

OPTIONS = storage_options(EngineConfig(pool="docker"), "docker-thinpool")
FRESH = """{
  "storage-driver": "devicemapper",
  "storage-opts": [
    "dm.thinpooldev=/dev/mapper/docker-thinpool",
    "dm.fs=xfs",
    "dm.basesize=10G",
    "dm.use_deferred_removal=true",
    "dm.use_deferred_deletion=true",
    "dm.min_free_space=10%"
  ]
}
"""
INLINE = (
    '"storage-opts": ["dm.thinpooldev=/dev/mapper/docker-thinpool", "dm.fs=xfs", "dm.basesize=10G", '
    '"dm.use_deferred_removal=true", "dm.use_deferred_deletion=true", "dm.min_free_space=10%"]'
)


def edited(text: str | None) -> str:
    once = edit_daemon_json(text, OPTIONS)
    assert edit_daemon_json(once, OPTIONS) == once
    result = json.loads(once)
    assert result["storage-driver"] == "devicemapper"
    assert set(OPTIONS) <= set(result["storage-opts"])
    return once


def test_a_kind_is_one_entry_of_the_registry() -> None:
    assert ENGINE_KINDS == ("docker",)
    assert ENGINES["docker"].storage_options(EngineConfig(pool="p"), "a-b")[0] == "dm.thinpooldev=/dev/mapper/a-b"


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ("10GiB", "10G"),
        ("10G", "10G"),
        ("1536MiB", "1536M"),
        ("2T", "2T"),
        ("10.5GiB", "10752M"),
        ("512B", "512"),
        ("10240B", "10K"),
    ],
)
def test_base_size_is_exact_in_dockers_units(size: str, shown: str) -> None:
    assert f"dm.basesize={shown}" in storage_options(EngineConfig(pool="p", base_size=size), "a")


def test_every_setting_becomes_its_option() -> None:
    config = EngineConfig(
        pool="p",
        filesystem="ext4",
        deferred_removal=False,
        deferred_deletion=False,
        min_free_space_percent=3,
    )
    assert storage_options(config, "vg--x-pool") == (
        "dm.thinpooldev=/dev/mapper/vg--x-pool",
        "dm.fs=ext4",
        "dm.basesize=10G",
        "dm.use_deferred_removal=false",
        "dm.use_deferred_deletion=false",
        "dm.min_free_space=3%",
    )


@pytest.mark.parametrize("text", [None, "", " \r\n\t"])
def test_no_file_becomes_a_fresh_document(text: str | None) -> None:
    assert edited(text) == FRESH


def test_empty_object_keeps_what_is_around_it() -> None:
    assert edited("\n{ \n }\n\n") == "\n" + FRESH + "\n"
    assert edited("{}") == FRESH.rstrip("\n")
    assert edited("{}\r\n") == FRESH.replace("\n", "\r\n")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            '{"debug":true}',
            '{"debug":true,"storage-driver":"devicemapper",' + INLINE.replace(": ", ":").replace(", ", ",") + "}",
        ),
        ('{"debug": true}\n', '{"debug": true, "storage-driver": "devicemapper", ' + INLINE + "}\n"),
        (
            '{ "debug" : true }',
            '{ "debug" : true, "storage-driver" : "devicemapper", '
            + INLINE.replace("opts:", "opts :").replace('":', '" :')
            + " }",
        ),
    ],
)
def test_one_line_documents_stay_on_one_line(before: str, after: str) -> None:
    assert edited(before) == after


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("indent", ["\t", "    ", "   ", "  "])
def test_indentation_and_line_ends_are_those_of_the_document(indent: str, newline: str) -> None:
    before = newline.join(["{", f'{indent}"debug": true,', "", f'{indent}"log-opts": {{"a":   1}}  ', "}", ""])
    lines = ["{", f'{indent}"debug": true,', "", f'{indent}"log-opts": {{"a":   1}},']
    lines += [f'{indent}"storage-driver": "devicemapper",', f'{indent}"storage-opts": [']
    lines += [f'{indent}{indent}"{option}"{"," if option != OPTIONS[-1] else ""}' for option in OPTIONS]
    lines += [f"{indent}]  ", "}", ""]
    assert edited(before) == newline.join(lines)


def test_present_members_are_replaced_where_they_stand() -> None:
    before = '{\n  "storage-opts": [],\n  "a": 1.50,\n  "storage-driver"  :  "overlay2",\n  "b": "\\u00e9é"\n}'
    after = edited(before)
    assert after.startswith('{\n  "storage-opts": [\n    "dm.thinpooldev=')
    assert after.endswith('\n  ],\n  "a": 1.50,\n  "storage-driver"  :  "devicemapper",\n  "b": "\\u00e9é"\n}')


def test_keys_written_with_escapes_are_the_same_keys() -> None:
    before = '{"storage\\u002ddriver": "overlay2", "x": 0}'
    assert edited(before).startswith('{"storage\\u002ddriver": "devicemapper", "x": 0, "storage-opts": [')


def test_only_outermost_members_count() -> None:
    nested = '{"storage-driver": "x", "storage-opts": ["y"], "\\"}": "{,"}'
    assert edited(f'{{"a": {nested}}}').startswith(f'{{"a": {nested}, "storage-driver": "devicemapper", ')


def test_a_list_keeps_its_shape() -> None:
    one_line = '{\n  "storage-opts": ["dm.fs=ext4"]\n}'
    assert '\n  "storage-opts": ["dm.fs=xfs", "dm.thinpooldev' in edited(one_line)
    many = '{"storage-opts": [\n"dm.fs=ext4"\n]}'
    assert edited(many).startswith('{"storage-opts": ["dm.fs=xfs", ')
    null = '{\n\t"storage-opts": null\n}'
    assert edited(null).startswith('{\n\t"storage-opts": [\n\t\t"dm.thinpooldev')


def options_after(present: list[str]) -> list[str]:
    result = json.loads(edited(json.dumps({"storage-opts": present})))["storage-opts"]
    assert isinstance(result, list)
    return result


def test_options_of_others_keep_their_place_and_ours_are_updated_in_place() -> None:
    present = ["dm.mountopt=nodiscard", "dm.basesize=5G", "dm.xfs_nospace_max_retries=0", "dm.mountopt=noatime"]
    assert options_after(present) == [
        "dm.mountopt=nodiscard",
        "dm.basesize=10G",
        "dm.xfs_nospace_max_retries=0",
        "dm.mountopt=noatime",
        *(option for option in OPTIONS if "basesize" not in option),
    ]


@pytest.mark.parametrize(
    "option",
    [
        "dm.directlvm_device=/dev/sdb",
        "dm.directlvm_device_force=true",
        "dm.thinp_percent=95",
        "dm.thinp_metapercent=1",
        "dm.thinp_autoextend_threshold=80",
        "dm.thinp_autoextend_percent=20",
        "dm.datadev=/dev/loop0",
        " DM.MetadataDev = /dev/loop1",
        "dm.loopdatasize=10G",
        "dm.loopmetadatasize=1G",
        "overlay2.override_kernel_check=true",
        "size=10G",
    ],
)
def test_options_that_stop_the_driver_or_make_another_pool_go(option: str) -> None:
    assert options_after([option, *OPTIONS]) == list(OPTIONS)


def test_the_last_of_equal_options_is_the_one_docker_takes() -> None:
    assert options_after(["dm.fs=xfs", "dm.fs=ext4"])[:2] == ["dm.fs=xfs", OPTIONS[0]]
    assert options_after(["DM.FS=ext4", "dm.blkdiscard=true", "dm.fs=xfs"])[:2] == ["dm.blkdiscard=true", "dm.fs=xfs"]


@pytest.mark.parametrize(
    "change",
    [
        ("dm.thinpooldev=/dev/mapper/", "dm.thinpooldev="),
        ("dm.basesize=10G", "dm.basesize=10GB"),
        ("dm.basesize=10G", "dm.basesize=10737418240"),
        ("dm.basesize=10G", " DM.BaseSize = 10240 mib "),
        ("deletion=true", "deletion=1"),
        ("removal=true", "removal=T"),
    ],
)
def test_what_docker_reads_the_same_is_left_alone(change: tuple[str, str]) -> None:
    text = FRESH.replace(*change)
    assert text != FRESH
    assert edit_daemon_json(text, OPTIONS) == text


@pytest.mark.parametrize(
    "change",
    [
        ("docker-thinpool", "docker-other"),
        ("dm.thinpooldev=/dev/mapper/docker-", "dm.thinpooldev=/dev/docker/"),
        ("dm.basesize=10G", "dm.basesize=10M"),
        ("dm.basesize=10G", "dm.basesize=rubbish"),
        ("deletion=true", "deletion=false"),
        ("deletion=true", "deletion=tRUE"),
        ("10%", "1%"),
    ],
)
def test_what_docker_reads_otherwise_is_corrected(change: tuple[str, str]) -> None:
    assert edited(FRESH.replace(*change)) == FRESH


def test_spaces_inside_what_is_right_are_kept() -> None:
    shown = " ,\n\t".join(json.dumps(option) for option in OPTIONS)
    text = f'{{"storage-driver":"devicemapper"  ,  "storage-opts" : [ {shown}]  }}'
    assert edited(text) == text


def test_order_and_form_do_not_make_a_change() -> None:
    text = json.dumps({"storage-opts": [*reversed(OPTIONS), "dm.mountopt=x"], "storage-driver": "devicemapper"})
    assert edited(text) == text


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("\ufeff{}", 1, 1, "byte order mark"),
        ("[]", 1, 1, "object"),
        ("null", 1, 1, "object"),
        ('{"a": 1,\n "a": 2}', 2, 2, "second time"),
        ('{"a": 1,\n  "\\u0061": 2}', 2, 3, "second time"),
        ('{\n "a": 1,\n}', 3, 1, "key"),
        ('{\n "a": 1\n "b": 2}', 3, 2, ", or }"),
        ('{"a" 1}', 1, 6, ":"),
        ('{"a": }', 1, 7, "value"),
        ('{"a": nul}', 1, 7, "value"),
        ("{'a': 1}", 1, 2, "quotes"),
        ('{"a": 1', 1, 8, ", or }"),
        ("{", 1, 2, "key"),
        ('{"a": "x', 1, 7, "Unterminated"),
        ('{"a": "\n"}', 1, 8, "control"),
        ('{} {"b": 1}', 1, 4, "after the end"),
        ('{"a": 1} // x', 1, 10, "after the end"),
        ('// x\n{"a": 1}', 1, 1, "object"),
        ('{"a": NaN}', 1, 7, "NaN"),
        ('{"a": -Infinity}', 1, 7, "Infinity"),
        ('{"a": ' + "[" * 100_000, 1, 7, "nesting"),
        ('{"storage-opts": "dm.fs=xfs"}', 1, 18, "list"),
        ('{"storage-opts": {}}', 1, 18, "list"),
        ('{"x": 1,\n"storage-opts": ["a", 1]}', 2, 17, "nothing but"),
    ],
)
def test_what_cannot_be_edited_is_refused_with_its_place(text: str, line: int, column: int, words: str) -> None:
    with pytest.raises(DaemonJsonError, match=words) as caught:
        edit_daemon_json(text, OPTIONS)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert str(caught.value).startswith(f"line {line}, column {column}: ")


def test_values_that_python_reads_reluctantly_are_kept() -> None:
    number = "9" * 5000
    before = (
        f'{{"a": {number}, "b": "\\ud800", "c": 1e999, "storage-driver": 5, "storage-opts": ["dm.mountopt=\\ud800"]}}'
    )
    after = edit_daemon_json(before, OPTIONS)
    assert after.startswith(f'{{"a": {number}, "b": "\\ud800", "c": 1e999, "storage-driver": "devicemapper", ')
    assert '["dm.mountopt=\\ud800", ' in after


KEYS = st.text(max_size=8) | st.sampled_from(["storage-driver", "storage-opts", "data-root"])
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
OPTION_TEXTS = st.lists(
    st.text(max_size=12) | st.sampled_from([*OPTIONS, "dm.mountopt=a", "dm.fs=ext4", "dm.datadev=x"])
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=6).flatmap(
    lambda obj: (
        st.just(obj)
        if "storage-opts" not in obj
        else OPTION_TEXTS.map(lambda texts: {key: texts if key == "storage-opts" else obj[key] for key in obj})
    )
)
FORMS = st.fixed_dictionaries(
    {
        "indent": st.sampled_from([None, 0, 1, 2, 4, "\t"]),
        "separators": st.sampled_from([(",", ":"), (", ", ": "), (",", " : ")]),
        "ensure_ascii": st.booleans(),
    }
)


@given(OBJECTS, FORMS, st.sampled_from(["", "\n", " \r\n"]))
def test_any_object_keeps_its_other_members_in_order(
    obj: dict[str, object], form: dict[str, object], tail: str
) -> None:
    before = json.dumps(obj, **form) + tail  # type: ignore[arg-type]
    after = edited(before)
    assert after.endswith(tail)
    ours = ("storage-driver", "storage-opts")
    result = json.loads(after)
    assert [(k, v) for k, v in result.items() if k not in ours] == [(k, v) for k, v in obj.items() if k not in ours]
    assert list(result)[: len(obj)] == list(obj)
    kept = [o for o in obj.get("storage-opts", ()) if o == "dm.mountopt=a"]  # type: ignore[attr-defined]
    assert [o for o in result["storage-opts"] if o == "dm.mountopt=a"] == kept


@given(OBJECTS.filter(lambda obj: not {"storage-driver", "storage-opts"} & set(obj)), FORMS)
def test_what_is_there_is_kept_byte_for_byte(obj: dict[str, object], form: dict[str, object]) -> None:
    before = json.dumps(obj, **form)  # type: ignore[arg-type]
    if obj:
        assert edited(before).startswith(before.rstrip("}\n\t "))


@pytest.mark.parametrize(
    ("version", "supported"),
    [
        ("20.10.24+dfsg1", True),
        ("24.0.7", True),
        ("v24.0.9", True),
        ("1.13.1", True),
        ("19.03.5-ce", True),
        ("24", True),
        ("25.0.0", False),
        ("v25.0.0-rc1", False),
        ("25", False),
        ("26.1.4~ubuntu", False),
        ("100.0", False),
        ("", None),
        ("dev", None),
        ("24abc", None),
        ("-24.0", None),
        ("٢٤.0", None),
        ("library-import", None),
    ],
)
def test_driver_support_by_version(version: str, *, supported: bool | None) -> None:
    assert supports_devicemapper(version) is supported


def test_unsupported_names_the_way_out() -> None:
    summary, details, resolution = unsupported_text("25.0.3")
    assert summary == "Docker 25.0.3 has no devicemapper storage driver"
    assert "version 25" in details
    assert "24.0 or older" in resolution
    assert "containerd" in resolution
    assert "\x1b" not in unsupported_text("25\x1b[31m" + "x" * 1000)[0]
    assert len(unsupported_text("2" * 1000)[0]) < 100


def engine(state: EngineState | None = None, config_text: str | None = None, state_problem: str = "") -> Engine:
    return Engine(name="docker", kind="docker", state=state, config_text=config_text, state_problem=state_problem)


def test_whether_an_edit_is_needed_is_decided_by_meaning() -> None:
    for text in (FRESH, json.dumps(json.loads(FRESH))):
        assert edit_files(engine(config_text=text), OPTIONS, "auto") == ()
    for other in (FRESH.replace("xfs", "ext4"), None, ""):
        (edit,) = edit_files(engine(config_text=other), OPTIONS, "auto")
        assert edit.new_text == edit_daemon_json(other, OPTIONS)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (None, ""),
        ("", ""),
        ("{}", ""),
        (FRESH, "docker-thinpool"),
        ('{"storage-opts": ["dm.thinpooldev=a-b"]}', "a-b"),
        ('{"storage-opts": ["dm.thinpooldev=a-b", "DM.thinpooldev = /dev/mapper/c-d"]}', "c-d"),
        ('{"storage-driver": "overlay2", "storage-opts": ["dm.thinpooldev=a-b"]}', ""),
        ('{"storage-driver": "devicemapper"}', ""),
    ],
)
def test_the_pool_that_is_configured_now(text: str | None, name: str) -> None:
    assert configured_pool_dm_name(engine(config_text=text)) == name


@pytest.mark.parametrize(
    ("text", "root"),
    [
        (None, ""),
        ("{}", ""),
        ('{"graph": "/old"}', "/old"),
        ('{"data-root": "/d", "graph": "/g"}', "/d"),
        ('{"data-root": 1}', ""),
    ],
)
def test_the_data_root_that_is_configured_now(text: str | None, root: str) -> None:
    assert configured_data_root(text) == root


@pytest.mark.parametrize(
    ("dm_name", "name"),
    [
        ("docker-8:1-4711-base", "base"),
        ("docker-253:17-1-0a1b-init", "0a1b-init"),
        ("docker-thinpool", ""),
        ("docker-8:1-pool", ""),
        ("xdocker-8:1-1-base", ""),
    ],
)
def test_the_drivers_own_name_of_a_device(dm_name: str, name: str) -> None:
    assert driver_name(dm_name) == name
