"""What may go wrong when a step is performed, as frozen values."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

When = Literal["before", "inside", "after"]
Left = Literal["first", "second", "third", "components", "labels"]


class PowerCutError(BaseException):
    """The process ends here, without any clean-up: no `except Exception` may catch it."""


class Fails(Struct, frozen=True, tag="fails", tag_field="fault"):
    """The command fails: before it has done anything, after all of it, or half-way with this left."""

    when: When = "before"
    left: Left = "first"


class Hangs(Struct, frozen=True, tag="hangs", tag_field="fault"):
    """The command does not end, and is ended when its time is up: before, inside or after its work."""

    when: When = "inside"
    left: Left = "first"


class Lies(Struct, frozen=True, tag="lies", tag_field="fault"):
    """The command reports success and has done nothing."""


class Killed(Struct, frozen=True, tag="killed", tag_field="fault"):
    """The process is killed, with its command; the host goes on."""

    when: When
    left: Left = "first"


class PowerCut(Struct, frozen=True, tag="power-cut", tag_field="fault"):
    """Power goes, and the host boots again."""

    when: When
    left: Left = "first"


class DiskVanishes(Struct, frozen=True, tag="disk-vanishes", tag_field="fault"):
    """A disk is gone when the step begins."""

    path: str


class DiskReturns(Struct, frozen=True, tag="disk-returns", tag_field="fault"):
    """A disk that had vanished is back when the step begins."""

    path: str


class LvmReportsLess(Struct, frozen=True, tag="lvm-reports-less", tag_field="fault"):
    """From this step on LVM cannot read the group's disks, and does not list it; the kernel runs on."""

    group: str
    message: str = "Error reading device: Input/output error"


Fault = Fails | Hangs | Lies | Killed | PowerCut | DiskVanishes | DiskReturns | LvmReportsLess
