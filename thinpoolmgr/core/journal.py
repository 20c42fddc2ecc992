"""The journal's records, and what a list of them means.

One run, one list of records: `Began` with the whole plan, then `Doing` and `Done` for each step, `Failed` where one
went wrong, `Ended` last. *Doing* means that the step runs or that an attempt was made to run it. Each line carries a
checksum; a torn last line was never written, a damaged line anywhere else is for a person to look at.
"""

from __future__ import annotations

import zlib
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from thinpoolmgr.core.conditions import is_left_over
from thinpoolmgr.core.plan import MadePool, Memory, OpenStep, Request
from thinpoolmgr.core.steps import (
    CreateThinPool,
    CreateVolumeGroup,
    ExtendData,
    ExtendMetadata,
    ExtendVolumeGroup,
    MoveStateAside,
    RemovePhysicalVolumes,
    StartEngine,
    Step,
    StopEngine,
)

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Snapshot

SCHEMA = 1
MONITOR = "monitor"
"""The command of the runs that the monitor begins by itself."""
Outcome = Literal["done", "failed", "interrupted"]


class Began(Struct, frozen=True, tag="began", tag_field="record"):
    """A run began: everything needed to finish it or to tell what it was."""

    run: str
    command: str
    at: str
    steps: tuple[Step, ...]
    fingerprint: str = ""
    boot_id: str = ""
    version: str = ""
    request: Request | None = None
    schema: int = SCHEMA


class Doing(Struct, frozen=True, tag="doing", tag_field="record"):
    """A step is about to be performed; the uuids are those of the logical volumes that its group has until then.

    They are kept of steps that LVM begins with a volume of its own naming: what was there before is never ours.
    """

    id: str
    at: str
    lv_uuids: tuple[str, ...] = ()


class Done(Struct, frozen=True, tag="done", tag_field="record"):
    """A step's post-condition was seen to hold; the uuids are those of what it made, or of the pool it enlarged."""

    id: str
    seconds: float
    group_uuid: str = ""
    lv_uuid: str = ""


class Failed(Struct, frozen=True, tag="failed", tag_field="record"):
    """A step failed, with the error and the last commands that were run."""

    id: str
    error: str
    commands: tuple[str, ...] = ()


class Ended(Struct, frozen=True, tag="ended", tag_field="record"):
    """A run ended; `done` also when a later run found nothing left to do."""

    outcome: Outcome
    at: str


Record = Began | Doing | Done | Failed | Ended
_DECODER = msgspec.json.Decoder(Record)


class DamagedJournalError(ValueError):
    """A line that is not the last one does not have the checksum it was written with."""


def encode_record(record: Record) -> bytes:
    """Return `record` as one line: checksum (CRC-32, 8 hexadecimal digits), space, JSON, line feed."""
    body = msgspec.json.encode(record)
    return b"%08x %s\n" % (zlib.crc32(body), body)


class StoredRun(Struct, frozen=True):
    """One file of the journal as it could be read: its name, its whole records, and what is wrong with it."""

    name: str
    records: tuple[Record, ...] = ()
    """Up to the first damaged line."""
    damage: str = ""
    file: str = ""
    """Its path."""


def decode_records(content: bytes) -> list[Record]:
    """Return the records in `content`; a torn last line is left out.

    Raises:
        DamagedJournalError: for any other line that is damaged, and for records of a newer version.

    """
    records, damage = decode_leniently(content)
    if damage:
        raise DamagedJournalError(damage)
    return records


def decode_leniently(content: bytes) -> tuple[list[Record], str]:
    """Return the records up to the first damaged line, and what is wrong with that; a torn last line is no damage."""
    lines = content.split(b"\n")
    records: list[Record] = []
    for number, line in enumerate(lines[:-1], start=1):
        if not _is_whole(line):
            is_last = number == len(lines) - 1 and not lines[-1]
            return records, "" if is_last else f"line {number} is damaged"
        try:
            record = _DECODER.decode(line.partition(b" ")[2])
        except msgspec.DecodeError as error:
            return records, f"line {number} is of another version of thinpoolmgr: {error}"
        if isinstance(record, Began) and record.schema > SCHEMA:
            return records, f"line {number} is of a newer version of thinpoolmgr ({record.version})"
        records.append(record)
    return records, ""


def whole_bytes(content: bytes) -> int:
    """Return how many bytes of `content` are whole records: what is torn after them must go before more is written."""
    *lines, tail = content.split(b"\n")
    if lines and not tail and not _is_whole(lines[-1]):
        lines.pop()
    return sum(len(line) + 1 for line in lines)


def _is_whole(line: bytes) -> bool:
    checksum, _, body = line.partition(b" ")
    return checksum == b"%08x" % zlib.crc32(body)


class Run(Struct, frozen=True):
    """One run as its records tell it."""

    began: Began
    doing: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    group_uuids: tuple[str, ...] = ()
    lv_uuids: tuple[tuple[str, str], ...] = ()
    """Id of a step, and uuid of the thin pool that it made or enlarged."""
    lvs_before: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Id of a step, and uuids of the logical volumes that its group had before it."""
    begun_at: tuple[tuple[str, str], ...] = ()
    """Id of a step, and when it began."""
    ended_at: str = ""
    seconds: tuple[float, ...] = ()
    """How long each step of `done` took."""
    failed: Failed | None = None
    outcome: Outcome | None = None

    @property
    def is_unfinished(self) -> bool:
        """Whether steps may be half done: it never ended, or ended other than well."""
        return self.outcome in (None, "failed", "interrupted")

    def steps_with(self, ids: tuple[str, ...]) -> tuple[Step, ...]:
        """Return the steps with these ids, in the order of the plan."""
        return tuple(step for step in self.began.steps if step.id in ids)

    @property
    def open_steps(self) -> tuple[Step, ...]:
        """Return the steps that were begun and not seen to be done."""
        return tuple(step for step in self.steps_with(self.doing) if step.id not in self.done)


def fold_run(records: list[Record]) -> Run | None:
    """Return the run that `records` tell of; None when not even its beginning was written."""
    if not records or not isinstance(records[0], Began):
        return None
    doing = tuple(r.id for r in records if isinstance(r, Doing))
    done = [r for r in records if isinstance(r, Done)]
    return Run(
        began=records[0],
        doing=doing,
        done=tuple(r.id for r in done),
        group_uuids=tuple(r.group_uuid for r in done if r.group_uuid),
        lv_uuids=tuple((r.id, r.lv_uuid) for r in done if r.lv_uuid),
        lvs_before=tuple((r.id, r.lv_uuids) for r in records if isinstance(r, Doing) and r.lv_uuids),
        begun_at=tuple((r.id, r.at) for r in records if isinstance(r, Doing)),
        ended_at=next((r.at for r in reversed(records) if isinstance(r, Ended)), ""),
        seconds=tuple(r.seconds for r in done),
        failed=next((r for r in records if isinstance(r, Failed)), None),
        outcome=next((r.outcome for r in reversed(records) if isinstance(r, Ended)), None),
    )


def remember(runs: list[Run], boot_id: str) -> Memory:
    """Return what `runs`, oldest first, tell about the host that no snapshot shows."""
    unfinished = unfinished_runs(runs)
    interrupted = tuple(step for run in unfinished for step in run.steps_with(run.doing))
    pending = tuple(step for run in unfinished for step in run.began.steps if step.id not in run.doing)
    return Memory(
        interrupted,
        pending,
        open_steps=tuple(
            OpenStep(step, dict(run.lvs_before).get(step.id, ())) for run in unfinished for step in run.open_steps
        ),
        our_groups=tuple(dict.fromkeys(uuid for run in runs for uuid in run.group_uuids)),
        made=_made_pools(runs),
        stopped_engines=_stopped_engines(runs, boot_id),
        request=unfinished[-1].began.request if unfinished else None,
        begun=tuple(run.began.request for run in unfinished if run.began.request),
    )


def unfinished_runs(runs: list[Run]) -> list[Run]:
    """Return the runs of `runs`, oldest first, of which something may still be half done."""
    trailing: list[Run] = []
    ended_well: list[Run] = []
    made_anew: set[str] = set()
    for run in reversed(runs):
        if not run.is_unfinished:
            ended_well.append(run)
        elif not _is_of_the_past(run, made_anew) and not any(_has_settled(later, run) for later in ended_well):
            trailing.insert(0, run)
        made_anew |= {step.group for step in run.steps_with(run.done) if isinstance(step, CreateThinPool)}
    return trailing


def finishing_request(run: Run) -> Request | None:
    """Return the request that finishes `run`; None where its journal does not say.

    Where the monitor asks for nothing it mends a pool or takes charge of it: what `apply` does, too.
    """
    began = run.began
    return Request("apply") if began.request is None and began.command == MONITOR else began.request


def may_settle(command: str, request: Request | None, unfinished: Run) -> bool:
    """Whether a run of `command` may end an `unfinished` one: the monitor sees too little to end any but its own."""
    began = unfinished.began
    return command != MONITOR or (began.command == command and (request is None) == (began.request is None))


def _has_settled(later: Run, unfinished: Run) -> bool:
    if later.began.command == MONITOR:
        pools = {step.pool for step in later.began.steps}
        if not {step.pool for step in unfinished.began.steps} <= pools:
            return False
    request = later.began.request
    return may_settle(later.began.command, request, unfinished) and settles(request, unfinished)


def _is_of_the_past(run: Run, made_anew: set[str]) -> bool:
    """Whether `run` was to enlarge a pool that has been made anew since: its size was meant for the old one."""
    is_extension = run.began.request is not None and run.began.request.command == "extend"
    return is_extension and any(
        isinstance(step, ExtendVolumeGroup | ExtendMetadata | ExtendData) and step.group in made_anew
        for step in run.began.steps
    )


def settles(request: Request | None, unfinished: Run, snapshot: Snapshot | None = None) -> bool:
    """Whether a run for `request` that ended well leaves nothing to do of an `unfinished` run before it.

    What takes a pool down leaves nothing of it. `apply`, and `base-size` which does the same, know nothing of sizes
    that were asked for by hand, nor of what is to be cleaned; an extension ends those before it. Of a run that either
    would end something may be left that neither looks at: the engine's state, labels on disks. Without a `snapshot`
    that counts as left.
    """
    begun = unfinished.began.request or Request("apply")
    if request is None or request.as_asked() == begun.as_asked():
        return True
    pools = {step.pool for step in unfinished.began.steps}
    if request.command in {"destroy", "rebuild"} and pools <= {request.pool}:
        return True
    is_next = (request.command, request.pool) == ("extend", begun.pool) and begun.command == "extend"
    is_over = request.command in {"apply", "base-size"} and begun.command not in {"extend", "clean"}
    return (is_next or is_over) and not any(
        snapshot is None or is_left_over(step, snapshot) for step in _leaving(unfinished)
    )


def _leaving(run: Run) -> list[Step]:
    """Return the steps of `run` that may have left something which only running it again clears away."""
    undone = [step for step in run.began.steps if step.id not in run.done]
    to_clear = [step for step in undone if isinstance(step, MoveStateAside | RemovePhysicalVolumes)]
    half_done = [step for step in run.open_steps if isinstance(step, CreateVolumeGroup | ExtendVolumeGroup)]
    return [*to_clear, *half_done]


def _made_pools(runs: list[Run]) -> tuple[MadePool, ...]:
    """By uuid, oldest first; what was enlarged by hand or by need has grown, and is not what was configured."""
    made: dict[str, MadePool] = {}
    for run in runs:
        by_hand = run.began.request is not None and run.began.request.command == "extend"
        steps = {step.id: step for step in run.began.steps}
        begun_at = dict(run.begun_at)
        for step_id, uuid in run.lv_uuids:
            match steps.get(step_id):
                case CreateThinPool() as step:
                    size, at = step.data_extents * step.extent_bytes, _seconds(begun_at.get(step_id, ""))
                    made[uuid] = MadePool(uuid, size, step.metadata_bytes, at)
                case ExtendData() as step if uuid in made and not by_hand:
                    made[uuid] = replace(made[uuid], data_bytes=step.data_extents * step.extent_bytes)
                case _:
                    pass
    return tuple(made.values())


def _seconds(at: str) -> float | None:
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return None


def _stopped_engines(runs: list[Run], boot_id: str) -> tuple[str, ...]:
    """Engines that we stopped since this boot: after a reboot, starting them is the boot's job."""
    stopped: dict[str, None] = {}
    for run in runs:
        if run.began.boot_id != boot_id:
            continue
        for step in run.steps_with(run.doing):
            if isinstance(step, StopEngine):
                stopped[step.engine] = None
            elif isinstance(step, StartEngine) and step.id in run.done:
                stopped.pop(step.engine, None)
    return tuple(stopped)
