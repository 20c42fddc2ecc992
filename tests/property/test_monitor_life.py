"""Whatever fills a pool and whatever fails: the monitor leaves it with room, or says why not; and does nothing else."""

from __future__ import annotations

import tempfile
from pathlib import Path

import support
from hypothesis import given, settings
from hypothesis import strategies as st
from watch_lab import CONFIGS, DEAD, SPARE, Lab, with_room, with_spares

from thinpoolmgr.core.lifecycle import STATE_CODES, PoolState
from thinpoolmgr.core.watch import STEPS, trouble_of
from thinpoolmgr.sim.faults import Fails, Fault, Lies
from thinpoolmgr.units import percent_of

SHARES = st.floats(0.0, 1.0)
FAULTS = st.dictionaries(
    st.integers(0, 12), st.sampled_from([Fails("before"), Fails("inside"), Fails("after"), Lies()])
)
ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("use"), SHARES, SHARES),
        st.tuples(st.just("fill"), st.just(0.95), st.integers(1, 20)),
        st.tuples(st.just("look"), st.floats(0.0, 100.0), st.integers(1, 4)),
        st.tuples(st.just("sick"), st.sampled_from(["needs_check", "Fail", "ro", "out_of_data_space"]), st.booleans()),
    ),
    max_size=12,
)
TELLS = {"EXTENSION_NO_ROOM", "EXTENSION_AT_LIMIT", "EXTENSION_FAILED"}


@settings(deadline=None)
@given(
    acts=ACTS, faults=FAULTS, is_roomy=st.booleans(), has_spare=st.booleans(), number=st.integers(0, len(CONFIGS) - 1)
)
def test_there_is_room_or_a_word(
    acts: list[tuple[str, object, object]], faults: dict[int, Fault], *, is_roomy: bool, has_spare: bool, number: int
) -> None:
    config = CONFIGS[number]
    if is_roomy and "match" in config:
        config = {**config, "match": [{**config["match"][0], "count": 2}]}
    pool = support.pool(spare_devices=(DEAD, SPARE), **config)
    shot = with_spares(support.healthy())
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder), with_room(shot) if is_roomy else shot, pool)
        lab.host.spares = (SPARE,) if has_spare else ()
        lab.host.faults = dict(faults)
        play(lab, acts)
        lab.host.faults = {}
        lab.look(12, after=70.0)
        judge(lab)


def play(lab: Lab, acts: list[tuple[str, object, object]]) -> None:
    for what, first, second in acts:
        if what == "use":
            lab.use(first, second)  # type: ignore[arg-type]
        elif what == "fill":
            for _ in range(second):  # type: ignore[call-overload]
                lab.use(first)  # type: ignore[arg-type]
                lab.look(2)
        elif what == "look":
            lab.look(second, after=first)  # type: ignore[arg-type]
        elif first == "needs_check":
            lab.use(0.9, 0.2, needs_check=second)
        else:
            lab.use(0.9, 0.2, mode=first if second else "rw", needs_check=False)


def judge(lab: Lab) -> None:
    view = lab.host.view()
    assert all(isinstance(step, STEPS) for step in lab.host.performed)
    assert view.group is not None
    assert view.group.free_extents >= 0
    assert lab.word.busy_since is None
    # What it did leaves `apply` nothing to refuse but what is wrong with the pool itself.
    assert {refusal.code for refusal in lab.apply_plan().refusals} <= {STATE_CODES.get(view.state)}
    if trouble_of(view):
        assert lab.codes() == [trouble_of(view)]
        return
    status = view.status
    assert status is not None
    limits = view.pool.config.extend
    data = percent_of(status.used_data_blocks, status.total_data_blocks)
    metadata = percent_of(status.used_metadata_blocks, status.total_metadata_blocks)
    is_full = view.state in {PoolState.OUT_OF_DATA, PoolState.OUT_OF_METADATA}
    is_tight = is_full or data > limits.data_threshold_percent or metadata > limits.metadata_threshold_percent
    assert not is_tight or TELLS & set(lab.codes()), (data, metadata, lab.word)
    assert is_tight or not TELLS & set(lab.codes()), (data, metadata, lab.word)
