"""Plans and refusals, as data; `planner` and `teardown` make them, the run cycle carries them out."""

from __future__ import annotations

import hashlib

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


class Plan(Struct, frozen=True):
    """Ordered steps from a snapshot to what is wanted; with refusals it is not carried out at all."""

    steps: tuple[Step, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()
    """What the user should know or do himself, such as starting an engine that no systemd runs."""
    warnings: tuple[str, ...] = ()
    """What the user should think about before he approves."""
    fingerprint: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do and nothing was refused."""
        return not self.steps and not self.refusals


class Memory(Struct, frozen=True):
    """What the journal knows that a snapshot cannot show."""

    interrupted: tuple[Step, ...] = ()
    """Steps of the last, unfinished run that were begun."""
    pending: tuple[Step, ...] = ()
    """Its steps that were not begun."""
    our_groups: tuple[str, ...] = ()
    """Uuids of volume groups that we made."""
    stopped_engines: tuple[str, ...] = ()
    """Engines that we stopped since this boot and have not started again."""


def numbered(steps: list[Step]) -> tuple[Step, ...]:
    """Return `steps` with their ids set to their places."""
    return tuple(msgspec.structs.replace(step, id=f"{place:02}") for place, step in enumerate(steps, start=1))


def fingerprint_of(*facts: object) -> str:
    """Return a hash of exactly these facts: the same facts give the same text."""
    return hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()[:32]
