"""Plans and refusals, as data; `planner` and `teardown` make them, the run cycle carries them out."""

from __future__ import annotations

import shlex
from typing import Literal

import msgspec
from msgspec import Struct

from thinpoolmgr.core.steps import Step


class Refusal(Struct, frozen=True):
    """Why something is not done: the stable code, and summary, details and way out for people."""

    code: str
    target: str
    summary: str
    details: str = ""
    resolution: str = ""
    exit_code: int = 3


Command = Literal[
    "apply", "destroy", "rebuild", "activate", "deactivate", "extend", "adopt", "clean", "base-size", "repair"
]


class Request(Struct, frozen=True, omit_defaults=True):
    """What was asked for: the command with its arguments, and what they came to when the run began.

    The first are compared to see whether an interrupted run was for the same; the second make running it again reach
    the same end, not go twice as far.
    """

    command: Command
    pool: str = ""
    engine: str = ""
    keep_devices: bool = False
    purge: bool = False
    add_data: str = ""
    add_metadata: str = ""
    add_devices: tuple[str, ...] = ()
    base_size: str = ""
    may_empty: bool = False
    """What is in an engine's pool may be lost (`--allow destroy`), so that its base can be made smaller."""
    is_settled: bool = False
    data_bytes: int = 0
    """Size that the data is to reach; 0: it was not asked for."""
    metadata_bytes: int = 0
    group_uuid: str = ""
    """The group that a rebuild takes down; empty: there was none."""
    set_aside: tuple[str, ...] = ()
    """The folders that a purge deletes: those that were aside when it began."""
    lv_uuid: str = ""
    """The pool that is extended or destroyed; empty: there was none."""

    def as_asked(self) -> Request:
        """Return only what was asked for; in which order disks were named makes no difference."""
        return Request(
            self.command,
            self.pool,
            self.engine,
            keep_devices=self.keep_devices,
            purge=self.purge,
            add_data=self.add_data,
            add_metadata=self.add_metadata,
            add_devices=tuple(sorted(set(self.add_devices))),
            base_size=self.base_size,
            may_empty=self.may_empty,
        )


def command_line(request: Request) -> str:
    """Return `request` as a person would type it."""
    names = (request.pool, request.engine, request.base_size)
    words = ["thinpoolmgr", request.command, *(word for word in names if word)]
    words += ["--data", request.add_data] if request.add_data else []
    words += ["--metadata", request.add_metadata] if request.add_metadata else []
    words += [word for device in request.add_devices for word in ("--add-device", device)]
    words += ["--keep-devices"] if request.keep_devices else []
    words += ["--purge"] if request.purge else []
    words += ["--allow", "destroy"] if request.may_empty else []
    return " ".join(shlex.quote(word) for word in words)


class Plan(Struct, frozen=True):
    """Ordered steps from a snapshot to what is wanted; with refusals it is not carried out at all."""

    steps: tuple[Step, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()
    """What the user should know or do himself, such as starting an engine that no systemd runs."""
    warnings: tuple[str, ...] = ()
    """What the user should think about before he approves."""
    fingerprint: str = ""
    request: Request | None = None
    """What it was made for, with what that came to on this host."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do and nothing was refused."""
        return not self.steps and not self.refusals


class PlanFile(Struct, frozen=True, forbid_unknown_fields=True):
    """What `plan --out` writes, and `apply PLANFILE` is bound to."""

    schema: int
    version: str
    made_at: str
    fingerprint: str
    steps: tuple[Step, ...]


class StepResult(Struct, frozen=True):
    """How one step of a run went, and how long it took."""

    id: str
    do: str
    target: str
    result: Literal["done", "already", "failed"]
    seconds: float


class MadePool(Struct, frozen=True):
    """A thin pool of our making, and how large it was made or enlarged because the configuration asked for it."""

    lv_uuid: str
    data_bytes: int
    metadata_bytes: int
    made_at: float | None = None
    """When the step that made it began, in seconds since 1970."""


class OpenStep(Struct, frozen=True):
    """A step that was begun and not seen to be done."""

    step: Step
    lv_uuids: tuple[str, ...] = ()
    """The logical volumes that its group had before; empty, too, where an older journal does not say."""


class Memory(Struct, frozen=True):
    """What the journal knows that a snapshot cannot show."""

    interrupted: tuple[Step, ...] = ()
    """Steps of the unfinished runs that were begun, whether they are done or not."""
    pending: tuple[Step, ...] = ()
    """Their steps that were not begun."""
    open_steps: tuple[OpenStep, ...] = ()
    """Those of `interrupted` that may be half done."""
    our_groups: tuple[str, ...] = ()
    """Uuids of volume groups that we made."""
    made: tuple[MadePool, ...] = ()
    """Thin pools that we made, with the sizes that the configuration then asked for."""
    stopped_engines: tuple[str, ...] = ()
    """Engines that we stopped since this boot and have not started again."""
    request: Request | None = None
    """What the run under way, or the interrupted one, was asked for."""
    begun: tuple[Request, ...] = ()
    """What all unfinished runs were asked for, oldest first."""


def numbered(steps: list[Step]) -> tuple[Step, ...]:
    """Return `steps` with their ids set to their places."""
    return tuple(msgspec.structs.replace(step, id=f"{place:02}") for place, step in enumerate(steps, start=1))


def fingerprint_of(*facts: object) -> str:
    """Return a hash of exactly these facts: the same facts give the same text."""
    # Late: libcrypto takes 3.5 MiB, and a daemon that makes no fingerprint should not have it.
    import hashlib  # noqa: PLC0415

    return hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()[:32]
