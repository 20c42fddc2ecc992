from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinpoolmgr.core.model import ThinPoolStatus
from thinpoolmgr.core.thinstatus import metadata_devno, parse_pool_status, thin_device_id

RW = "7 424/3072 10/19456 - rw discard_passdown queue_if_no_space - 1024"
PARSED = ThinPoolStatus("rw", 7, 424, 3072, 10, 19456, "-", "discard_passdown", "queue")


def test_a_healthy_pool() -> None:
    assert parse_pool_status(RW) == PARSED


def test_the_line_without_the_low_water_mark_of_older_kernels() -> None:
    assert parse_pool_status(RW.rpartition(" ")[0]) == PARSED


@pytest.mark.parametrize("mode", ["rw", "ro", "out_of_data_space"])
@pytest.mark.parametrize("when_full", ["queue", "error"])
@pytest.mark.parametrize("check", ["-", "needs_check"])
def test_mode_reaction_and_check_are_told_apart(mode: str, when_full: str, check: str) -> None:
    status = parse_pool_status(f"0 1/2 3/4 99 {mode} ignore_discard {when_full}_if_no_space {check} 1024")
    assert status == ThinPoolStatus(mode, 0, 1, 2, 3, 4, "99", "ignore_discard", when_full, check == "needs_check")


@pytest.mark.parametrize("word", ["Fail", "Error"])
def test_a_pool_the_kernel_gave_up_has_one_word(word: str) -> None:
    assert parse_pool_status(word) == ThinPoolStatus(mode=word)
    assert parse_pool_status(f" {word}\n") == ThinPoolStatus(mode=word)


@pytest.mark.parametrize("length", range(len(RW.split()) - 1))
def test_a_line_torn_between_words_is_no_status(length: int) -> None:
    assert (parse_pool_status(" ".join(RW.split()[:length])) is None) is (length < 8)


@pytest.mark.parametrize(
    "line",
    [
        "",
        " ",
        "Failure",
        "x 424/3072 10/19456 - rw discard_passdown queue_if_no_space - 1024",
        "7 424 10/19456 - rw discard_passdown queue_if_no_space - 1024",
        "7 424/3072/1 10/19456 - rw discard_passdown queue_if_no_space - 1024",
        "7 424/ 10/19456 - rw discard_passdown queue_if_no_space - 1024",
        "7 424/3072 x/19456 - rw discard_passdown queue_if_no_space - 1024",
    ],
)
def test_what_is_no_status_line_is_unknown(line: str) -> None:
    assert parse_pool_status(line) is None


@given(st.text())
def test_no_text_raises(line: str) -> None:
    status = parse_pool_status(line)
    assert status is None or status.mode


def test_tables_name_the_metadata_and_the_device() -> None:
    assert metadata_devno("254:0 254:1 1024 0 1 skip_block_zeroing") == "254:0"
    assert metadata_devno("") == ""
    assert thin_device_id("254:2 16777215") == 16777215
    assert thin_device_id("254:2 7 8:16") == 7
    assert [thin_device_id(table) for table in ("", "254:2", "254:2 x")] == [None, None, None]
