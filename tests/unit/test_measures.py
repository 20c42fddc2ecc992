"""What is measured, from a look at a host in memory; the names are public, and all of them can be had."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import support
from measured import RUN, full_look, report

from thinpoolmgr.core.documents import status_document
from thinpoolmgr.core.lifecycle import PoolState
from thinpoolmgr.core.measures import HELP, NAMES, Look, measures
from thinpoolmgr.core.report import Sighting, WatchedPool
from thinpoolmgr.units import GIB

if TYPE_CHECKING:
    from thinpoolmgr.core.measures import Labels

POOL = {"pool": "docker", "volume_group": "docker", "thin_pool": "thinpool"}


def series(look: Look, name: str) -> list[tuple[float, Labels]]:
    return [sample for measure in measures(look) if measure.name == f"thinpoolmgr_{name}" for sample in measure.samples]


def value(look: Look, name: str, **labels: str) -> float | None:
    found = [number for number, own in series(look, name) if labels.items() <= own.items()]
    assert len(found) < 2
    return found[0] if found else None


def test_every_name_is_measured_somewhere_and_has_its_unit_last() -> None:
    had = {
        measure.name
        for look in (full_look(used_data_blocks=19000), Look("1", 1.0, 1.0, "CONFIG"))
        for measure in measures(look)
    }
    assert had == set(NAMES)
    unit = re.compile(r".*_(bytes|seconds|ratio|total|info|state|outcome|up|success|successful|devices|findings)")
    assert [name for name in HELP if not unit.fullmatch(f"_{name}")] == ["pool_growth_bytes_per_second"]


def test_use_and_capacity_are_bytes_of_each_part() -> None:
    look = full_look(used_data_blocks=9728, used_metadata_blocks=100)
    assert value(look, "pool_used_bytes", part="data", **POOL) == 9728 * support.CHUNK
    assert value(look, "pool_size_bytes", part="data") == 19456 * support.CHUNK == 9.5 * GIB
    assert value(look, "pool_used_bytes", part="metadata") == 100 * 4096
    thresholds = Look("1", 0.0, 0.0, pools=(support.pool(extend={"data_threshold_percent": 75}),), status=look.status)
    assert value(thresholds, "pool_threshold_ratio", part="data", **POOL) == 0.75
    assert value(thresholds, "pool_threshold_ratio", part="metadata") == 0.8
    assert value(look, "volume_group_free_bytes", volume_group="docker") == 121 * support.EXTENT


def test_exactly_one_state_is_the_pools() -> None:
    states = {labels["state"]: number for number, labels in series(full_look(used_data_blocks=19000), "pool_state")}
    assert set(states) == set(PoolState)
    assert [state for state, number in states.items() if number] == ["tight"]


def test_a_pool_that_does_not_run_has_no_use_and_a_state() -> None:
    shot = support.deactivated(support.healthy())
    look = Look("1", 0.0, 0.0, pools=(support.pool(),), status=status_document(support.desired(), shot))
    assert (series(look, "pool_used_bytes"), series(look, "pool_thin_devices")) == ([], [])
    assert value(look, "pool_state", state="inactive") == 1


def test_findings_of_status_and_of_the_monitor_count_once_each() -> None:
    watched = (
        Sighting("POOL_TIGHT", "docker/thinpool", "as status says"),
        Sighting("SOMETHING_NEW", "docker/thinpool", "a code of a later version"),
    )
    look = full_look(used_data_blocks=19000, findings=watched)
    assert value(look, "findings", severity="warning") == 1
    assert value(look, "findings", severity="error") == 1
    assert {labels["code"] for _, labels in series(look, "finding_info")} == {"POOL_TIGHT", "SOMETHING_NEW"}


def test_what_a_monitor_that_is_gone_had_seen_is_not_told() -> None:
    watched = (Sighting("POOL_TIGHT", "docker/thinpool", "it was"),)
    look = full_look(findings=watched, monitor_runs=False)
    assert (value(look, "monitor_up"), series(look, "finding_info")) == (0, [])
    for name in ("monitor_last_look_timestamp_seconds", "pool_growth_bytes_per_second", "pool_extensions_total"):
        assert (series(look, name), series(full_look(), name) != []) == ([], True)


def test_the_monitors_extensions_and_reaction() -> None:
    look = full_look()
    assert value(look, "pool_extensions_total", result="done") == 3
    assert value(look, "pool_extensions_total", result="failed") == 1
    assert value(look, "pool_last_extension_success") == 0
    assert value(look, "pool_last_extension_reaction_seconds") == 1.5
    assert value(look, "pool_last_extension_duration_seconds") == 0.5
    assert value(look, "pool_growth_bytes_per_second", part="data") == 2.0
    never = report(WatchedPool("docker", "docker", "thinpool", "healthy", 10.0))
    assert series(full_look(told=never), "pool_last_extension_success") == []


def test_a_monitor_is_missed_only_where_one_is_to_extend() -> None:
    for monitor, expected in (("thinpoolmgr", 0), ("dmeventd", None), ("none", None)):
        pool = support.pool(extend={"monitor": monitor})
        for told in (None, report()):
            assert value(Look("1", 0.0, 0.0, pools=(pool,), report=told), "monitor_up") == expected


def test_what_the_monitor_knows_of_pools_is_told_while_a_disk_hangs() -> None:
    pool = WatchedPool(
        "b", "b", "thinpool", "out_of_data", 10.0, findings=(Sighting("EXTENSION_NO_ROOM", "b", "full"),)
    )
    look = Look("1", 0.0, 8.0, "HOST_HANGS", (support.pool(),), report=report(pool), monitor_runs=True)
    assert (value(look, "up"), value(look, "monitor_up")) == (0, 1)
    assert value(look, "pool_state", pool="b", state="out_of_data") == 1
    assert value(look, "finding_info", code="EXTENSION_NO_ROOM", target="b") == 1


def test_the_last_run_is_the_newest() -> None:
    look = full_look()
    assert value(look, "last_run_timestamp_seconds") == 1767225660.0
    assert value(look, "last_run_duration_seconds") == 60.0
    assert value(look, "last_run_outcome", outcome="failed") == 1
    assert value(look, "last_run_outcome", outcome="done") == 0
    assert value(look, "last_run_info", command="extend") == 1
    damaged = Look("1", 0.0, 0.0, runs=(RUN.__class__("x", "", "", "", None, "damaged", ()),))
    assert (value(damaged, "last_run_outcome", outcome="damaged"), value(damaged, "last_run_timestamp_seconds")) == (
        1,
        None,
    )


def test_a_host_that_could_not_be_observed_says_so_and_what_is_known() -> None:
    look = Look("1", 5.0, 0.1, "NO_DEVICE_MAPPER", report=report())
    assert (value(look, "up"), value(look, "observation_timestamp_seconds")) == (0, 5.0)
    assert value(look, "observation_error_info", code="NO_DEVICE_MAPPER") == 1
    assert value(look, "monitor_up") == 0
    assert series(look, "findings") == []
    assert value(full_look(), "up") == 1
