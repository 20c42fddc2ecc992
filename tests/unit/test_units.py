from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinpoolmgr.units import (
    GIB,
    KIB,
    MIB,
    TIB,
    ceil_to,
    exact_size,
    floor_to,
    format_percent,
    format_size,
    lvm_size,
    parse_size,
    percent_of,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("10G", 10 * GIB),
        ("10GiB", 10 * GIB),
        ("10Gib", 10 * GIB),
        ("10g", 10 * GIB),
        ("10gib", 10 * GIB),
        ("10 GiB", 10 * GIB),
        ("  10GiB\n", 10 * GIB),
        ("512K", 512 * KIB),
        ("512KiB", 512 * KIB),
        ("1.5M", 1536 * KIB),
        ("0.5KiB", 512),
        ("100B", 100),
        ("100b", 100),
        ("2T", 2 * TIB),
        ("1PiB", 1024 * TIB),
        ("8191P", 8191 * 1024 * TIB),
        ("007K", 7 * KIB),
    ],
)
def test_every_form_of_a_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["10GB", "10Gb", "10gB", "10gb"])
def test_gb_is_refused_with_both_readings(text: str) -> None:
    with pytest.raises(ValueError, match="two readings") as caught:
        parse_size(text)
    assert "10 x 1000^3 = 10000000000 bytes" in str(caught.value)
    assert "10 x 1024^3 = 10737418240 bytes" in str(caught.value)
    assert "10GiB" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not a size"),
        ("GiB", "is not a size"),
        ("-1G", "is not a size"),
        ("+1G", "is not a size"),
        ("1e3G", "is not a size"),
        ("1,5G", "is not a size"),
        (".5G", "is not a size"),
        ("5.G", "is not a size"),
        ("1  G", "is not a size"),
        ("1G\n1G", "is not a size"),
        ("0x10G", "is not a size"),
        ("1_000G", "is not a size"),
        ("\u0661G", "is not a size"),
        ("inf", "is not a size"),
        ("nanG", "is not a size"),
        ("95%VG", "is not a size"),
        ("9" * 19 + "B", "is not a size"),
        ("10", "no unit"),
        ("10E", "unknown unit 'E'"),
        ("10XB", "unknown unit 'XB'"),
        ("10BiB", "unknown unit 'BiB'"),
        ("10BB", "unknown unit 'BB'"),
        ("10GIB", "unknown unit 'GIB'"),
        ("10Gi", "unknown unit 'Gi'"),
        ("0G", "out of range"),
        ("0.0G", "out of range"),
        ("8192P", "out of range"),
        ("0.3B", "whole number of bytes"),
        ("0.0001K", "whole number of bytes"),
        ("1G\0", "is not a size"),
        ("\x1b[31m1G", r"'\x1b[31m1G' is not a size"),
        ("\udcff", r"'\udcff' is not a size"),
    ],
)
def test_what_is_no_size_is_refused_and_quoted_harmlessly(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_size(text)
    assert why in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_long_text_is_quoted_in_part() -> None:
    with pytest.raises(ValueError, match="not a size") as caught:
        parse_size("x" * 10_000_000)
    assert len(str(caught.value)) < 200


@given(st.text())
def test_any_text_gives_a_size_or_a_printable_error(text: str) -> None:
    try:
        assert 0 < parse_size(text) < 2**63
    except ValueError as error:
        assert str(error).isascii()  # noqa: PT017 - either outcome is right


@given(st.integers(1, 10**18 - 1) | st.integers(1, 2**40).map(lambda n: n * MIB))
def test_lvm_size_names_exactly_the_same_bytes(size: int) -> None:
    assert parse_size(lvm_size(size)) == size


@given(st.integers(1, 2**62))
def test_format_size_is_within_half_a_tenth_of_its_unit(size: int) -> None:
    number, unit = format_size(size).split(" ")
    unit_bytes = parse_size(f"1{unit}")
    assert abs(Fraction(number) * unit_bytes - size) * 20 <= unit_bytes


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (KIB, "1 KiB"), (10 * GIB, "10 GiB"), (9 * GIB + GIB // 2, "9.5 GiB")],
)
def test_format_size(size: int, shown: str) -> None:
    assert format_size(size) == shown


@pytest.mark.parametrize(
    ("size", "shown"), [(512 * KIB, "512k"), (9 * GIB, "9g"), (100, "100b"), (12 * MIB, "12m"), (TIB, "1t")]
)
def test_lvm_size_uses_the_largest_exact_unit(size: int, shown: str) -> None:
    assert lvm_size(size) == shown


@given(st.integers(0, 2**63), st.integers(1, 2**40))
def test_rounding_brackets_the_value(value: int, step: int) -> None:
    low, high = floor_to(value, step), ceil_to(value, step)
    assert low <= value <= high
    assert low % step == high % step == 0
    assert high - low in (0, step)


def test_percentages() -> None:
    assert (format_percent(1, 8), format_percent(1, 0)) == ("12.5 %", "-")
    assert (percent_of(1, 3), percent_of(1, 0)) == (33.33, 0.0)


@given(st.integers(min_value=1, max_value=2**59))
def test_an_exact_size_reads_back_as_itself(size_bytes: int) -> None:
    assert parse_size(exact_size(size_bytes)) == size_bytes


def test_an_exact_size_has_the_largest_unit_that_is_exact() -> None:
    assert [exact_size(n) for n in (1300 * 2**20, 2**30, 1088 * 1024, 513)] == [
        "1300MiB",
        "1GiB",
        "1088KiB",
        "513B",
    ]
