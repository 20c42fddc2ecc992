from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from thinpoolmgr.host.processes import list_processes

if TYPE_CHECKING:
    from pathlib import Path

KERNEL = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0"
SOMEBODY = "2 (a) b) S 1 2 2 0 -1 4194560 0 0"


def make_proc(folder: Path, stat: str, children: str | None) -> Path:
    for pid in (1, 2, 3, 10, 9):
        (folder / f"{pid}/task/{pid}").mkdir(parents=True)
    (folder / "self").mkdir()
    (folder / "2/stat").write_text(stat)
    if children is not None:
        (folder / "2/task/2/children").write_text(children)
    return folder


@pytest.mark.parametrize(
    ("stat", "children", "expected"),
    [
        (KERNEL, "3 10 ", (1, 2, 9)),
        (KERNEL, "", (1, 2, 3, 9, 10)),
        (KERNEL, None, (1, 2, 3, 9, 10)),
        (SOMEBODY, "3 10 ", (1, 2, 3, 9, 10)),
        ("", "3", (1, 2, 3, 9, 10)),
    ],
)
def test_threads_of_the_kernel_are_left_out_where_it_tells_them(
    tmp_path: Path, stat: str, children: str | None, expected: tuple[int, ...]
) -> None:
    assert list_processes(make_proc(tmp_path, stat, children)) == expected


def test_a_program_that_the_kernel_started_is_a_process(tmp_path: Path) -> None:
    proc = make_proc(tmp_path, KERNEL, "3 10 ")
    (proc / "10/exe").symlink_to("/usr/lib/systemd/systemd-coredump")
    assert list_processes(proc, helpers=True) == (1, 2, 9, 10)
    assert list_processes(proc) == (1, 2, 9)


def test_this_process_is_among_them() -> None:
    assert os.getpid() in list_processes()
