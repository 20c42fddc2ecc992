"""Options of Docker's devicemapper driver, `dm.KEY=VALUE`: what is ours in a list of them, and what stays.

Rules without another source are from daemon/graphdriver/devmapper/deviceset.go of Docker 20.10 to 24.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

DRIVER = "devicemapper"
DM_PREFIX = "/dev/mapper/"
# Each describes a pool that Docker makes itself; dm.thinp_* without dm.directlvm_device stops the daemon.
_OPTIONS_OF_OTHER_POOLS = frozenset(
    {
        *("dm.datadev", "dm.metadatadev", "dm.loopdatasize", "dm.loopmetadatasize"),
        *("dm.directlvm_device", "dm.directlvm_device_force", "dm.thinp_percent", "dm.thinp_metapercent"),
        *("dm.thinp_autoextend_threshold", "dm.thinp_autoextend_percent"),
    }
)
_RAM = re.compile(r"(\d{1,18}(?:\.\d{1,6})?) ?([kmgtp]?)i?b?", re.ASCII | re.IGNORECASE)
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class MergedOptions(NamedTuple):
    """What becomes of a list of options."""

    kept: list[str | None]
    """For each that was there what stands in its place; None: it goes."""
    added: list[str]

    @property
    def all(self) -> list[str]:
        """The new list."""
        return [*(option for option in self.kept if option is not None), *self.added]


def merge_options(present: list[str], options: tuple[str, ...], strays: list[str] | None = None) -> MergedOptions:
    """Return what becomes of the options `present` when `options` are to hold.

    Options that thinpoolmgr does not set (`dm.mountopt`, `dm.xfs_nospace_max_retries`) keep their place. Options of
    other drivers, and of pools that Docker makes itself, are dropped: the driver refuses to start with them.

    Args:
        present: the options in the place where they are to stand.
        options: those that are wanted.
        strays: options that stood in other places, which are given up; what is not ours and may stay is taken over.

    """
    missing = {split_option(option)[0]: option for option in options}
    ours = set(missing)
    # Docker lets the last of several equal keys win: the others go, and so no value of theirs counts as right.
    last_place = {split_option(option)[0]: place for place, option in enumerate(present)}
    kept: list[str | None] = []
    for place, option in enumerate(present):
        key, value = split_option(option)
        if key not in ours:
            kept.append(option if _may_stay(key) else None)
        elif place != last_place[key]:
            kept.append(None)
        else:
            wanted = missing.pop(key)
            kept.append(option if _same_value(key, value, split_option(wanted)[1]) else wanted)
    others = {split_option(stray)[0]: stray for stray in strays or []}
    taken = [stray for key, stray in others.items() if key not in ours | set(last_place) and _may_stay(key)]
    return MergedOptions(kept, [*missing.values(), *taken])


def _may_stay(key: str) -> bool:
    return key.startswith("dm.") and key not in _OPTIONS_OF_OTHER_POOLS


def split_option(option: str) -> tuple[str, str]:
    """Return key and value of an option, as the driver reads them."""
    key, _, value = option.partition("=")
    return key.strip().lower(), value.strip()


def _same_value(key: str, first: str, second: str) -> bool:
    """Return whether Docker reads the same from both: rewriting one into the other would cost a restart."""
    if key == "dm.thinpooldev":
        return first.removeprefix(DM_PREFIX) == second.removeprefix(DM_PREFIX)
    if key == "dm.basesize":
        return _ram_in_bytes(first) == _ram_in_bytes(second)
    return first == second or any({first, second} <= words for words in (_TRUE, _FALSE) if key.startswith("dm.use_"))


def _ram_in_bytes(text: str) -> Fraction | None:
    """Return what go-units' RAMInBytes reads: every unit is 1024-based, `GB` too."""
    match = _RAM.fullmatch(text)
    return Fraction(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " ") if match else None


def pool_of(driver: str, options: list[str]) -> str:
    """Return the device-mapper name of the pool that these name; empty for none, and for another driver."""
    values = dict(split_option(option) for option in options)
    return values.get("dm.thinpooldev", "").removeprefix(DM_PREFIX) if driver in ("", DRIVER) else ""
