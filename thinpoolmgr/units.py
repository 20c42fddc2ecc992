"""Sizes as exact integers: parse what people write, show what people read, round to extents."""

from __future__ import annotations

import re
from fractions import Fraction

SECTOR_BYTES = 512
KIB = 1024
MIB = 1024**2
GIB = 1024**3
TIB = 1024**4

_FACTORS = {"B": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB, "P": 1024**5}
_SIZE = re.compile(r"(?P<number>\d{1,18}(?:\.\d{1,12})?) ?(?P<unit>[A-Za-z]*)", re.ASCII)
_MAX_BYTES = 2**63 - 1


def parse_size(text: str) -> int:
    """Return the number of bytes that `text` names.

    `10G` and `10GiB` are the same (1024-based), as LVM and Docker mean them. `10GB` is refused:
    LVM reads it as 10 x 1024**3, disk vendors and `docker info` as 10 x 1000**3.

    Raises:
        ValueError: with a text for people, when `text` is no size.

    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        msg = f"{_quote(text)} is not a size; write a number and a unit, such as 10GiB or 512K"
        raise ValueError(msg)
    size = Fraction(match["number"]) * _factor(match["unit"], match["number"], text)
    if size.denominator != 1:
        msg = f"{_quote(text)} is not a whole number of bytes"
        raise ValueError(msg)
    if not 0 < size <= _MAX_BYTES:
        msg = f"{_quote(text)} is out of range: more than 0 and less than 8 EiB are possible"
        raise ValueError(msg)
    return int(size)


def _factor(unit: str, number: str, text: str) -> int:
    letter, rest = unit[:1].upper(), unit[1:]
    if not unit:
        msg = f"{_quote(text)} has no unit; write {number}MiB or {number}GiB, or {number}B for bytes"
        raise ValueError(msg)
    if letter in _FACTORS and (not rest or (rest in ("iB", "ib") and letter != "B")):
        return _FACTORS[letter]
    if letter in _FACTORS and letter != "B" and rest in ("B", "b"):
        power = "KMGTP".index(letter) + 1
        small, big = Fraction(number) * 1000**power, Fraction(number) * 1024**power
        msg = (
            f"{_quote(text)} has two readings: {number} x 1000^{power} = {int(small)} bytes, or "
            f"{number} x 1024^{power} = {int(big)} bytes; write {number}{letter}iB for the second"
        )
        raise ValueError(msg)
    msg = f"{_quote(text)} has the unknown unit {unit!r}; known are B, KiB, MiB, GiB, TiB, PiB and K, M, G, T, P"
    raise ValueError(msg)


def _quote(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:37] + "...")


def format_size(size_bytes: int) -> str:
    """Return `size_bytes` for people, 1024-based, with at most one decimal: `9.5 GiB`."""
    for letter, factor in reversed(_FACTORS.items()):
        if letter != "B" and size_bytes >= factor:
            tenths = (size_bytes * 10 + factor // 2) // factor
            whole, tenth = divmod(tenths, 10)
            return f"{whole}.{tenth} {letter}iB" if tenth else f"{whole} {letter}iB"
    return f"{size_bytes} B"


def exact_size(size_bytes: int) -> str:
    """Return `size_bytes` as a configuration takes it, in the largest unit that is exact: `1300MiB`."""
    for letter in "PTGMK":
        if size_bytes % _FACTORS[letter] == 0:
            return f"{size_bytes // _FACTORS[letter]}{letter}iB"
    return f"{size_bytes}B"


def format_percent(part: int, whole: int) -> str:
    """Return `part` of `whole` as `12.3 %`; `-` when there is no whole."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def percent_of(part: int, whole: int) -> float:
    """Return `part` of `whole` in percent, two decimals, for JSON documents."""
    return round(100 * part / whole, 2) if whole else 0.0


def floor_to(value: int, step: int) -> int:
    """Return the greatest multiple of `step` that is not above `value`."""
    return value // step * step


def ceil_to(value: int, step: int) -> int:
    """Return the least multiple of `step` that is not below `value`."""
    return -(-value // step) * step


def lvm_size(size_bytes: int) -> str:
    """Return `size_bytes` as LVM's tools take it: the largest exact unit (`512k`, `9g`, `100b`)."""
    for letter in "TGMK":
        if size_bytes % _FACTORS[letter] == 0:
            return f"{size_bytes // _FACTORS[letter]}{letter.lower()}"
    return f"{size_bytes}b"
