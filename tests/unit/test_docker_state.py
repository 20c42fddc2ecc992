from __future__ import annotations

import pytest
from msgspec.structs import replace

from thinpoolmgr.core.engines.docker_state import state_verdict
from thinpoolmgr.core.model import Engine, EngineDevice, EngineState, ThinPoolStatus

BASE = EngineDevice(name="base", device_id=1, size_bytes=10 * 1024**3, transaction_id=1)
LAYER = EngineDevice(name="0" * 64, device_id=2, size_bytes=10 * 1024**3, transaction_id=6)
USED = EngineState(
    path="/var/lib/docker/devicemapper",
    base_device_uuid="u",
    base_size_bytes=BASE.size_bytes,
    transaction_id=6,
    devices=(BASE, LAYER),
)
BLANK = EngineState(path="/var/lib/docker/devicemapper")
NEW_POOL = ThinPoolStatus(mode="rw", total_data_blocks=100)
USED_POOL = ThinPoolStatus(mode="rw", transaction_id=6, used_data_blocks=40, total_data_blocks=100)


def engine(state: EngineState | None = None, config_text: str | None = None, state_problem: str = "") -> Engine:
    return Engine(name="docker", kind="docker", state=state, config_text=config_text, state_problem=state_problem)


def verdict(
    state: EngineState | None, status: ThinPoolStatus | None = None, *, new: bool = False, other: bool = False
) -> str:
    result = state_verdict(engine(state), new, status, other)
    assert result.evidence
    assert "\n" not in result.evidence
    return result.kind


def test_no_state_is_none() -> None:
    assert verdict(None, new=True) == "none"
    assert verdict(None, NEW_POOL) == "none"
    assert verdict(None) == "none"


@pytest.mark.parametrize(
    "status", [USED_POOL, ThinPoolStatus(mode="rw", transaction_id=1), ThinPoolStatus("rw", 0, 0, 0, 1)]
)
def test_a_used_pool_without_a_record_is_somebodys(status: ThinPoolStatus) -> None:
    assert verdict(None, status) == "taken"
    assert verdict(BLANK, status) == "taken"


def test_a_damaged_record_comes_before_all_else() -> None:
    damaged = replace(USED, damage="metadata/base: Input data was truncated")
    assert state_verdict(engine(damaged), True, None, False).kind == "damaged"  # noqa: FBT003
    assert state_verdict(engine(damaged), False, USED_POOL, False).evidence == damaged.damage  # noqa: FBT003


def test_an_empty_pool_that_is_older_than_the_state_was_wiped() -> None:
    written = replace(USED, written_at=100.0)
    for made_at, kind in ((99.0, "wiped"), (101.0, "stale"), (None, "unknown")):
        assert state_verdict(engine(written), False, NEW_POOL, False, made_at).kind == kind  # noqa: FBT003
    assert state_verdict(engine(replace(BLANK, written_at=100.0)), False, NEW_POOL, False, 99.0).kind == "matching"  # noqa: FBT003


def test_loop_files_that_were_never_written_to_are_no_pool() -> None:
    beside = replace(USED, loop_files=("/d/data",), loop_data_bytes=0)
    assert verdict(beside, USED_POOL) == "dropped"
    assert verdict(beside, NEW_POOL) == "stale"
    assert verdict(replace(beside, devices=()), USED_POOL) == "loop_lvm"
    assert verdict(replace(beside, loop_data_bytes=512), USED_POOL) == "loop_lvm"


def test_a_problem_makes_everything_unknown() -> None:
    result = state_verdict(engine(USED, state_problem="base is cut short"), True, None, False)  # noqa: FBT003
    assert (result.kind, result.evidence) == ("unknown", "base is cut short")
    assert state_verdict(engine(None, state_problem="x"), True, None, False).kind == "unknown"  # noqa: FBT003


def test_state_of_loop_files_is_never_stale() -> None:
    loop = EngineState(path="/d/devicemapper", loop_files=("/d/devicemapper/devicemapper/data",), devices=(BASE,))
    assert verdict(loop, new=True) == "loop_lvm"
    assert verdict(loop, NEW_POOL) == "loop_lvm"


def test_state_of_another_living_pool_is_foreign_even_when_ours_is_new() -> None:
    assert verdict(USED, new=True, other=True) == "foreign"
    assert verdict(BLANK, NEW_POOL, other=True) == "foreign"


@pytest.mark.parametrize("state", [USED, BLANK])
def test_any_state_is_stale_when_the_pool_is_yet_to_be_made(state: EngineState) -> None:
    assert verdict(state, new=True) == "stale"


def test_used_state_on_an_unused_pool_is_stale() -> None:
    assert verdict(USED, NEW_POOL) == "stale"
    assert verdict(EngineState(path="/d", base_device_uuid="u"), NEW_POOL) == "stale"
    assert verdict(EngineState(path="/d", transaction_id=1), NEW_POOL) == "stale"


def test_unused_state_on_an_unused_pool_matches() -> None:
    assert verdict(BLANK, NEW_POOL) == "matching"


def test_state_matches_a_pool_as_far_as_itself() -> None:
    assert verdict(USED, USED_POOL) == "matching"
    assert verdict(USED, ThinPoolStatus(mode="ro", transaction_id=5, used_data_blocks=1)) == "matching"
    assert verdict(USED, ThinPoolStatus(mode="rw", transaction_id=900, used_data_blocks=1)) == "matching"
    # Transaction id 0 with used blocks: not new by the kernel's word.
    assert (
        verdict(EngineState(path="/d", base_device_uuid="u"), ThinPoolStatus(mode="rw", used_data_blocks=1))
        == "matching"
    )


def test_state_ahead_of_a_used_pool_is_of_another_one() -> None:
    assert verdict(USED, ThinPoolStatus(mode="rw", transaction_id=4, used_data_blocks=1)) == "other_pool"


@pytest.mark.parametrize("mode", ["Fail", "Error"])
def test_a_failed_pool_does_not_look_new(mode: str) -> None:
    assert verdict(USED, ThinPoolStatus(mode=mode)) == "unknown"


def test_a_silent_kernel_is_unknown() -> None:
    assert verdict(USED, None) == "unknown"


def test_evidence_names_path_records_and_the_kernels_word() -> None:
    evidence = state_verdict(engine(USED), False, NEW_POOL, False).evidence  # noqa: FBT003
    assert evidence == (
        "/var/lib/docker/devicemapper holds 2 devices up to transaction 6, base device of 10 GiB; "
        "the pool has transaction id 0 and 0 used data blocks"
    )
