from __future__ import annotations

import msgspec
import pytest
import support
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from thinpoolmgr.core.journal import (
    Began,
    DamagedJournalError,
    Doing,
    Done,
    Ended,
    Failed,
    Record,
    Run,
    decode_records,
    encode_record,
    fold_run,
    remember,
    settles,
    unfinished_runs,
    whole_bytes,
)
from thinpoolmgr.core.model import PhysicalVolume
from thinpoolmgr.core.plan import MadePool, OpenStep, Request, numbered
from thinpoolmgr.core.steps import (
    CreateVolumeGroup,
    DiskRef,
    ExtendData,
    ExtendMetadata,
    ExtendVolumeGroup,
    MoveStateAside,
    RemovePhysicalVolumes,
    StartEngine,
    Step,
    StopEngine,
)
from thinpoolmgr.units import MIB

GROUP = CreateVolumeGroup(reason="r", group="docker", disks=())
STOP = StopEngine(reason="r", engine="docker", units=("docker.service",))
START = StartEngine(reason="r", engine="docker", units=("docker.service",))
STEPS = numbered([STOP, GROUP, support.create_step(support.pool()), START])
BEGAN = Began("run", "apply", "now", STEPS, "fp", "boot-1", "1.0")
RECORDS: list[Record] = [
    BEGAN,
    Doing("01", "t"),
    Done("01", 0.5),
    Doing("02", "t"),
    Done("02", 0.5, "vg-uuid"),
    Doing("03", "t"),
    Failed("03", "lvcreate failed\nExit code: 5", ("lvcreate -> 5",)),
    Ended("failed", "t"),
]
LINES = [encode_record(record) for record in RECORDS]
CONTENT = b"".join(LINES)


def run(*records: Record) -> Run:
    folded = fold_run([BEGAN, *records])
    assert folded is not None
    return folded


def test_records_come_back_as_they_were_written() -> None:
    assert decode_records(CONTENT) == RECORDS
    assert decode_records(b"") == []
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in LINES)


def test_a_journal_cut_anywhere_keeps_exactly_its_whole_records() -> None:
    ends = [len(b"".join(LINES[: n + 1])) for n in range(len(LINES))]
    for length in range(len(CONTENT) + 1):
        whole = sum(end <= length for end in ends)
        assert decode_records(CONTENT[:length]) == RECORDS[:whole]


def test_more_can_be_written_after_the_whole_records_of_a_journal_cut_anywhere() -> None:
    for length in range(len(CONTENT) + 1):
        cut = CONTENT[:length]
        kept = cut[: whole_bytes(cut)]
        assert decode_records(kept + LINES[0]) == [*decode_records(cut), BEGAN]


@pytest.mark.parametrize("number", range(len(LINES) - 1))
def test_a_flipped_bit_in_any_line_but_the_last_is_noticed(number: int) -> None:
    line = LINES[number]
    # Without its line feed the last line but one becomes part of the last, which counts as torn.
    for place in range(len(line) - (number == len(LINES) - 2)):
        for bit in (0, 3, 7):
            flipped = line[:place] + bytes([line[place] ^ 1 << bit]) + line[place + 1 :]
            with pytest.raises(DamagedJournalError):
                decode_records(b"".join([*LINES[:number], flipped, *LINES[number + 1 :]]))


def test_a_flipped_bit_in_the_last_line_drops_that_line() -> None:
    last = LINES[-1]
    for place in range(len(last) - 1):
        flipped = last[:place] + bytes([last[place] ^ 1]) + last[place + 1 :]
        assert decode_records(b"".join([*LINES[:-1], flipped])) == RECORDS[:-1]


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"garbage", b"00000000 {}\n", b"\n", b"\xff\xfe\n"])
def test_rubbish_at_the_end_was_never_written(tail: bytes) -> None:
    assert decode_records(CONTENT + tail) == RECORDS


def test_a_line_that_is_lost_from_the_middle_is_the_readers_concern_not_the_checksums() -> None:
    folded = fold_run(decode_records(b"".join([*LINES[:2], *LINES[3:]])))
    assert folded is not None
    assert folded.done == ("02",)


def line_of(body: bytes) -> bytes:
    import zlib

    return b"%08x %s\n" % (zlib.crc32(body), body)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"record":"paused","id":"01"}', "line 1 is of another version"),
        (b'{"record":"doing"}', "line 1 is of another version"),
        (b"[]", "line 1 is of another version"),
        (msgspec.json.encode(replace(BEGAN, schema=2, version="9.9")), r"newer version of thinpoolmgr \(9.9\)"),
    ],
)
def test_whole_lines_of_another_version_are_not_guessed_at(body: bytes, why: str) -> None:
    for content in (line_of(body), line_of(body) + LINES[1]):
        with pytest.raises(DamagedJournalError, match=why):
            decode_records(content)


def test_whole_lines_that_are_no_json_are_damage() -> None:
    with pytest.raises(DamagedJournalError):
        decode_records(line_of(b"{nonsense") + LINES[0])


@given(st.binary())
def test_no_bytes_raise_anything_else(content: bytes) -> None:
    try:
        assert isinstance(decode_records(content), list)
    except DamagedJournalError as error:
        assert "line" in str(error)  # noqa: PT017 - either outcome is right


def test_a_run_is_folded_from_its_records() -> None:
    folded = fold_run(RECORDS)
    assert folded == Run(
        began=BEGAN,
        doing=("01", "02", "03"),
        done=("01", "02"),
        group_uuids=("vg-uuid",),
        begun_at=(("01", "t"), ("02", "t"), ("03", "t")),
        ended_at="t",
        seconds=(0.5, 0.5),
        failed=Failed("03", "lvcreate failed\nExit code: 5", ("lvcreate -> 5",)),
        outcome="failed",
    )
    assert folded is not None
    assert folded.is_unfinished
    assert folded.steps_with(("03", "01")) == (STEPS[0], STEPS[2])


@pytest.mark.parametrize("records", [[], [Doing("01", "t")], RECORDS[1:]])
def test_without_its_beginning_there_is_no_run(records: list[Record]) -> None:
    assert fold_run(records) is None


@pytest.mark.parametrize(("outcome", "unfinished"), [("done", False), ("failed", True), ("interrupted", True)])
def test_only_a_run_that_ended_well_is_finished(outcome: str, unfinished: bool) -> None:  # noqa: FBT001
    assert run(msgspec.convert({"record": "ended", "outcome": outcome, "at": "t"}, Ended)).is_unfinished is unfinished
    assert run().is_unfinished


def test_a_later_ending_counts() -> None:
    assert not run(Ended("interrupted", "t"), Ended("done", "t")).is_unfinished


def test_memory_of_an_interrupted_run() -> None:
    memory = remember([run(Doing("01", "t"), Done("01", 1), Doing("02", "t"))], "boot-1")
    assert memory.interrupted == STEPS[:2]
    assert memory.pending == STEPS[2:]
    assert memory.stopped_engines == ("docker",)
    assert memory.our_groups == ()


def test_only_steps_that_were_not_seen_to_be_done_may_be_half_done() -> None:
    before = ("lv-1", "lv-2")
    memory = remember([run(Doing("01", "t"), Done("01", 1), Doing("02", "t"), Doing("03", "t", before))], "boot-1")
    assert memory.open_steps == (OpenStep(STEPS[1]), OpenStep(STEPS[2], before))


def test_a_journal_of_before_there_were_volumes_in_it_can_be_read() -> None:
    assert decode_records(line_of(b'{"record":"doing","id":"02","at":"t"}')) == [Doing("02", "t")]


def test_memory_of_nothing_and_of_runs_that_ended_well() -> None:
    everything: list[Record] = [Doing("02", "t"), Done("02", 1, "g1"), Ended("done", "t")]
    memory = remember([run(*everything)], "boot-1")
    assert (memory.interrupted, memory.pending, memory.our_groups) == ((), (), ("g1",))
    assert remember([], "boot-1") == remember([], "")


def test_memory_reaches_back_over_interrupted_runs_to_the_last_good_one() -> None:
    good = run(Doing("03", "t"), Done("03", 1), Ended("done", "t"))
    broken = run(Doing("02", "t"))
    again = run(Ended("failed", "t"))
    last = run(Doing("03", "t"), Ended("interrupted", "t"))
    chain = [broken, good, broken, again, last]
    assert unfinished_runs(chain) == [broken, again, last]
    memory = remember(chain, "boot-1")
    assert memory.interrupted == (STEPS[1], STEPS[2])
    assert unfinished_runs([*chain, good]) == []
    assert remember([*chain, good], "boot-1").interrupted == ()


def test_our_groups_are_remembered_for_ever_and_once() -> None:
    made: list[Record] = [Doing("02", "t"), Done("02", 1, "g1"), Ended("done", "t")]
    assert remember([run(*made), run(*made), run(Done("02", 1, "g2"))], "").our_groups == ("g1", "g2")


STOPPED = (Doing("01", "t"), Done("01", 1))
STARTED = (*STOPPED, Doing("04", "t"), Done("04", 1))


@pytest.mark.parametrize(
    ("records", "boot", "stopped"),
    [
        ((), "boot-1", ()),
        (STOPPED, "boot-1", ("docker",)),
        (STOPPED, "boot-2", ()),
        ((Doing("01", "t"),), "boot-1", ("docker",)),
        (STARTED, "boot-1", ()),
        ((*STOPPED, Doing("04", "t")), "boot-1", ("docker",)),
        ((*STOPPED, Ended("done", "t")), "boot-1", ("docker",)),
    ],
)
def test_engines_that_we_stopped_are_remembered_until_started_or_rebooted(
    records: tuple[Record, ...], boot: str, stopped: tuple[str, ...]
) -> None:
    assert remember([run(*records)], boot).stopped_engines == stopped


def test_a_later_run_starts_what_an_earlier_one_stopped() -> None:
    start_only = fold_run([replace(BEGAN, steps=numbered([START])), Doing("01", "t"), Done("01", 1)])
    assert start_only is not None
    assert remember([run(*STOPPED), start_only], "boot-1").stopped_engines == ()
    assert remember([start_only, run(*STOPPED)], "boot-1").stopped_engines == ("docker",)


# made pools, and what was asked for

CREATE = support.create_step(support.pool(), 1000, 12 * MIB)
GROW = ExtendData(
    reason="r", group="docker", lv="thinpool", data_extents=1500, extent_bytes=support.EXTENT, chunk_bytes=support.CHUNK
)
GROW_METADATA = ExtendMetadata(reason="r", group="docker", lv="thinpool", metadata_bytes=20 * MIB)
MADE = MadePool("lv-1", 1000 * support.EXTENT, 12 * MIB)
EXTEND = Request("extend", "docker", add_data="+1GiB", is_settled=True, data_bytes=7)


def made_by(step: Step, request: Request | None = None, uuid: str = "lv-1", *, ended: bool = True) -> Run:
    began = replace(BEGAN, steps=numbered([step]), request=request)
    records: list[Record] = [began, Doing("01", "t"), Done("01", 1, lv_uuid=uuid)]
    folded = fold_run([*records, Ended("done", "t")] if ended else records)
    assert folded is not None
    return folded


@pytest.mark.parametrize(
    ("runs", "made"),
    [
        ([made_by(CREATE)], (MADE,)),
        ([made_by(CREATE), made_by(GROW)], (replace(MADE, data_bytes=1500 * support.EXTENT),)),
        ([made_by(CREATE), made_by(GROW, Request("apply"))], (replace(MADE, data_bytes=1500 * support.EXTENT),)),
        ([made_by(CREATE), made_by(GROW, EXTEND)], (MADE,)),
        ([made_by(CREATE), made_by(GROW_METADATA)], (MADE,)),
        ([made_by(GROW)], ()),
        ([made_by(CREATE), made_by(CREATE, uuid="lv-2")], (MADE, replace(MADE, lv_uuid="lv-2"))),
        ([made_by(CREATE, uuid="")], ()),
        ([made_by(CREATE, ended=False)], (MADE,)),
        ([made_by(STOP)], ()),
    ],
)
def test_pools_that_we_made_are_remembered_with_the_size_that_was_configured(
    runs: list[Run], made: tuple[MadePool, ...]
) -> None:
    assert remember(runs, "boot-1").made == made


def test_when_a_pool_was_made_is_remembered_also_where_a_later_run_saw_that_it_was() -> None:
    began = replace(BEGAN, steps=numbered([CREATE]))
    doing = Doing("01", "1970-01-01T00:16:40.000+00:00")
    grown = made_by(GROW, Request("apply"))
    for more in ([], [Failed("01", "x")]):
        folded = fold_run([began, doing, *more, Done("01", 0.0, lv_uuid="lv-1")])
        assert folded is not None
        assert [made.made_at for made in remember([folded, grown], "boot-1").made] == [1000.0]


def test_what_unfinished_runs_were_asked_for_is_remembered_until_one_ends_well() -> None:
    apply = Request("apply", is_settled=True)
    runs = [made_by(GROW, EXTEND, ended=False), made_by(STOP, apply, ended=False)]
    memory = remember(runs, "boot-1")
    assert (memory.request, memory.begun) == (apply, (EXTEND, apply))
    assert remember([*runs, made_by(GROW)], "boot-1").begun == ()
    assert remember([run()], "boot-1").request is None


def test_an_extension_of_a_pool_that_was_made_anew_since_is_of_the_past() -> None:
    extension, creation = made_by(GROW, EXTEND, ended=False), made_by(CREATE, Request("apply"), ended=False)
    assert unfinished_runs([extension, creation]) == [creation]
    assert unfinished_runs([creation, extension]) == [creation, extension]
    elsewhere = made_by(replace(CREATE, group="other"), Request("apply"))
    assert unfinished_runs([extension, elsewhere]) == [extension]


REMOVE = RemovePhysicalVolumes(reason="r", pool="docker", disks=(), pv_uuids=("pv-1",))
MOVE = MoveStateAside(reason="r", pool="docker", engine="docker", paths=("/var/lib/docker/devicemapper",), into="/i")
TAKE = ExtendVolumeGroup(reason="r", pool="docker", group="docker", disks=())
DESTROY, REBUILD = Request("destroy", "docker"), Request("rebuild", "docker")
APPLY, CLEAN, ADOPT = Request("apply"), Request("clean"), Request("adopt", "docker")
BASE_SIZE = Request("base-size", engine="docker", base_size="12GiB")
ACTIVATE, DEACTIVATE = Request("activate", "docker"), Request("deactivate", "docker")
ANOTHER = Request("extend", "docker", add_data="+2GiB")


def begun_by(request: Request, *steps: Step, done: tuple[str, ...] = ()) -> Run:
    plan = numbered([replace(step, pool="docker") for step in steps])
    records: list[Record] = [replace(BEGAN, request=request, steps=plan), Doing("01", "t")]
    folded = fold_run([*records, *(Done(step_id, 1) for step_id in done)])
    assert folded is not None
    return folded


@pytest.mark.parametrize(
    ("ended_well", "unfinished", "is_settled"),
    [
        (APPLY, begun_by(APPLY, TAKE), True),
        (APPLY, begun_by(ACTIVATE, STOP), True),
        (APPLY, begun_by(DEACTIVATE, STOP), True),
        (APPLY, begun_by(ADOPT, STOP), True),
        (APPLY, begun_by(EXTEND, GROW), False),
        (APPLY, begun_by(BASE_SIZE, STOP), True),
        (BASE_SIZE, begun_by(APPLY, CREATE), True),
        (BASE_SIZE, begun_by(replace(BASE_SIZE, base_size="14GiB"), STOP), True),
        (BASE_SIZE, begun_by(EXTEND, GROW), False),
        (ADOPT, begun_by(BASE_SIZE, STOP), False),
        (APPLY, begun_by(CLEAN, MOVE), False),
        (APPLY, begun_by(DESTROY, STOP), True),
        (APPLY, begun_by(DESTROY, STOP, MOVE), False),
        (APPLY, begun_by(REBUILD, REMOVE, CREATE), False),
        (APPLY, begun_by(REBUILD, REMOVE, CREATE, done=("01",)), True),
        (ANOTHER, begun_by(EXTEND, GROW), True),
        (ANOTHER, begun_by(EXTEND, TAKE), False),
        (ANOTHER, begun_by(EXTEND, TAKE, GROW, done=("01",)), True),
        (replace(ANOTHER, pool="other"), begun_by(EXTEND, GROW), False),
        (replace(EXTEND, data_bytes=9), begun_by(EXTEND, TAKE), True),
        (DESTROY, begun_by(EXTEND, TAKE), True),
        (REBUILD, begun_by(DESTROY, MOVE), True),
        (replace(DESTROY, pool="other"), begun_by(EXTEND, GROW), False),
        (CLEAN, begun_by(DESTROY, MOVE), False),
        (CLEAN, begun_by(CLEAN, MOVE), True),
        (ADOPT, begun_by(EXTEND, GROW), False),
        (None, begun_by(EXTEND, GROW), True),
    ],
)
def test_what_a_run_that_ended_well_settles(ended_well: Request | None, unfinished: Run, *, is_settled: bool) -> None:
    assert settles(ended_well, unfinished) is is_settled


def test_labels_and_state_that_are_gone_from_the_host_are_not_left() -> None:
    destroyed = begun_by(DESTROY, STOP, MOVE, REMOVE)
    gone = support.with_engine(support.healthy(), support.docker())
    assert settles(APPLY, destroyed, gone)
    there = support.with_engine(support.healthy(), support.docker(state=support.STALE))
    assert not settles(APPLY, destroyed, there)
    assert not settles(APPLY, destroyed, support.healthy())
    in_use = support.docker(running=True, configured=True, state=support.STALE)
    assert settles(APPLY, destroyed, support.with_engine(support.healthy(), in_use))
    label = PhysicalVolume("/dev/sdb", "pv-1", 0, 0)
    assert not settles(APPLY, destroyed, replace(gone, orphan_pvs=(label,)))
    taking = begun_by(EXTEND, replace(TAKE, disks=(DiskRef("/dev/sdb", "8:16", 1),)))
    assert settles(ANOTHER, taking, gone)
    assert not settles(ANOTHER, taking, replace(gone, orphan_pvs=(label,)))


def test_in_which_order_disks_were_named_makes_no_difference() -> None:
    one, other = (replace(EXTEND, add_devices=names) for names in (("/dev/sdc", "/dev/sdd"), ("/dev/sdd", "/dev/sdc")))
    assert one.as_asked() == other.as_asked()


def test_a_request_comes_back_from_the_journal_as_it_was_settled() -> None:
    request = replace(EXTEND, add_devices=("/dev/sdc",), metadata_bytes=2**63, group_uuid="u", purge=True)
    (record,) = decode_records(encode_record(replace(BEGAN, request=request)))
    assert isinstance(record, Began)
    assert record.request == request


def test_a_journal_of_before_there_were_requests_can_be_read() -> None:
    old = msgspec.to_builtins(BEGAN)
    del old["request"]
    (record,) = decode_records(line_of(msgspec.json.encode(old)))
    assert record == BEGAN


def test_the_monitor_settles_no_run_of_others() -> None:
    begun = fold_run([Began("r", "apply", "t", ())])
    ended = fold_run([Began("m", "monitor", "t", ()), Ended("done", "t")])
    assert begun is not None
    assert ended is not None
    assert unfinished_runs([begun, ended]) == [begun]
