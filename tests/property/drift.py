"""What people do to a pool by hand, behind the tool's back: each gives the snapshot as it is afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinpoolmgr.core.steps import (
    DeactivatePool,
    EditLvmProfile,
    SetDiscards,
    SetWhenFull,
    SetZeroing,
    Step,
)
from thinpoolmgr.errors import CommandFailedError
from thinpoolmgr.sim import events
from thinpoolmgr.sim.steps import apply_step

if TYPE_CHECKING:
    from collections.abc import Callable

    from thinpoolmgr.core.model import Snapshot

    Change = Callable[[Snapshot, str, str], Snapshot]


def _try(shot: Snapshot, *steps: Step) -> Snapshot:
    """A person's command may fail, too."""
    for step in steps:
        try:
            shot = apply_step(shot, step)
        except CommandFailedError:
            return shot
    return shot


def _ignore_discards(shot: Snapshot, group: str, lv: str) -> Snapshot:
    deactivate = DeactivatePool(reason="", group=group, lv=lv)
    return _try(shot, deactivate, SetDiscards(reason="", group=group, lv=lv, discards="ignore"))


def _edit_profiles(shot: Snapshot, group: str, lv: str) -> Snapshot:
    del group, lv
    for profile in shot.lvm_profiles:
        edit = EditLvmProfile(reason="", profile=profile.name, path="", old_text=None, new_text=f"{profile.text}#\n")
        shot = apply_step(shot, edit)
    return shot


def _remove_spare(shot: Snapshot, group: str, lv: str) -> Snapshot:
    del lv
    found = shot.find_group(group)
    return shot if found is None or found.is_partial else events.remove_spare(shot, group)


BY_HAND: dict[str, Change] = {
    "untag the group": lambda shot, group, _: events.untag(shot, group),
    "untag the pool": events.untag,
    "deactivate": lambda shot, group, _: events.deactivate_by_hand(shot, group),
    "queue": lambda shot, group, lv: _try(shot, SetWhenFull(reason="", group=group, lv=lv, when_full="queue")),
    "error": lambda shot, group, lv: _try(shot, SetWhenFull(reason="", group=group, lv=lv, when_full="error")),
    "nopassdown": lambda shot, group, lv: _try(shot, SetDiscards(reason="", group=group, lv=lv, discards="nopassdown")),
    "ignore discards": _ignore_discards,
    "zero": lambda shot, group, lv: _try(shot, SetZeroing(reason="", group=group, lv=lv, zero_new_blocks=True)),
    "edit profiles": _edit_profiles,
    "remove the spare": _remove_spare,
}
