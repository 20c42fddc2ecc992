from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from thinpoolmgr.core.journal import Began, Doing, Done, Ended, encode_record
from thinpoolmgr.errors import CommandFailedError, LockedError, NeedsPersonError
from thinpoolmgr.host.store import RunFile, Store, now

if TYPE_CHECKING:
    from pathlib import Path

BEGAN = Began("r", "apply", "t", ())
HOLDER = """
import sys
from pathlib import Path
from thinpoolmgr.host.store import Store
with Store(Path(sys.argv[1]), Path(sys.argv[2])).lock("destroy"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state", tmp_path / "run" / "lock")


def test_looking_writes_nothing(store: Store, tmp_path: Path) -> None:
    assert store.read_runs() == []
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_written_and_read(store: Store, tmp_path: Path) -> None:
    name, run_file = store.new_run("apply")
    run_file.append(BEGAN)
    run_file.append(Doing("01", "t"))
    run_file.close()
    ((path, run),) = store.read_runs()
    assert path == tmp_path / "state" / "runs" / f"{name}.jsonl"
    assert (run.began, run.doing, "-apply-" in name) == (BEGAN, ("01",), True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def made(store: Store) -> list[str]:
    """Return the names of five runs, in the order in which they were made."""
    names = []
    for _ in range(5):
        name, run_file = store.new_run("apply")
        run_file.append(BEGAN)
        run_file.close()
        names.append(name)
    return names


def test_runs_are_read_in_the_order_they_were_made(store: Store) -> None:
    names = made(store)
    assert [path.stem for path, _ in store.read_runs()] == names


def test_runs_are_read_in_the_order_they_were_made_when_the_clock_was_set_back(store: Store, tmp_path: Path) -> None:
    before = write(tmp_path, encode_record(BEGAN), "20991231T235959.999998Z-destroy-ffff")
    names = made(store)
    assert [path.stem for path, _ in store.read_runs()] == [before.stem, *names]
    assert [stored.name for stored in store.read_leniently()] == [before.stem, *names]
    assert all(re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-apply-[0-9a-f]{4}", name) for name in names)
    assert names[0].startswith("20991231T235959.999999Z-")
    assert names[1].startswith("21000101T000000.000000Z-")


@pytest.mark.parametrize("name", ["r", "20991231", "99991231T235959.999999Z-apply-ffff", "20261399T000000.000000Z-a-b"])
def test_a_file_that_a_hand_put_there_keeps_no_run_from_its_name(store: Store, tmp_path: Path, name: str) -> None:
    write(tmp_path, encode_record(BEGAN), name)
    write(tmp_path, encode_record(BEGAN), "20981231T235959.000000Z-apply-ffff")
    new, run_file = store.new_run("apply")
    run_file.close()
    assert new > "20981231T235959.000000Z-apply-ffff"


def test_runs_that_begin_at_the_same_time_have_an_order_too(store: Store, tmp_path: Path) -> None:
    write(tmp_path, encode_record(BEGAN), "20991231T235959.000000Z-apply-ffff")

    def begin(_: int) -> str:
        name, run_file = store.new_run("monitor")
        run_file.close()
        return name.partition("-")[0]

    with ThreadPoolExecutor(8) as pools:
        moments = list(pools.map(begin, range(200)))
    assert len(set(moments)) == 200


def test_times_are_in_utc_to_the_millisecond() -> None:
    assert now().endswith("+00:00")
    assert len(now()) == len("2026-01-01T00:00:00.000+00:00")


def test_the_lock_excludes_a_second_descriptor_and_names_its_holder(store: Store) -> None:
    with store.lock("apply"):
        with pytest.raises(LockedError) as caught, store.lock("destroy"):
            pytest.fail("locked twice")
        assert f"pid {os.getpid()}, apply, since " in caught.value.details
        assert caught.value.exit_code == 75
    with store.lock("destroy"):
        pass


def test_the_lock_is_given_back_after_an_error(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.lock("apply"):
        raise ZeroDivisionError
    with store.lock("apply"):
        pass


def test_a_short_holder_overwrites_a_long_one(store: Store, tmp_path: Path) -> None:
    with store.lock("a" * 150):
        pass
    with store.lock("b"):
        assert (tmp_path / "run" / "lock").read_text().startswith(f"pid {os.getpid()}, b, since ")
        assert "aaa" not in (tmp_path / "run" / "lock").read_text()


def test_the_lock_excludes_another_process_and_dies_with_it(store: Store, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", HOLDER, str(tmp_path / "state"), str(tmp_path / "run" / "lock")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(LockedError) as caught, store.lock("apply"):
            pytest.fail("locked twice")
        assert f"pid {child.pid}, destroy, since " in caught.value.details
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    with store.lock("apply"):
        pass


def test_a_lock_file_that_is_a_link_is_refused_and_what_it_points_to_kept(store: Store, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").symlink_to(precious)
    with pytest.raises(CommandFailedError), store.lock("apply"):
        pytest.fail("locked")
    assert precious.read_text() == "x"


@pytest.mark.parametrize("place", ["state", "run"])
def test_a_file_in_the_way_of_a_folder_is_an_error(store: Store, tmp_path: Path, place: str) -> None:
    (tmp_path / place).write_text("in the way")
    with pytest.raises(CommandFailedError) as caught, store.lock("apply"):
        store.new_run("apply")
    assert ("cannot be written" if place == "state" else "cannot be taken") in caught.value.summary
    assert str(tmp_path / place) in caught.value.summary
    assert caught.value.exit_code == 1


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    run_file = RunFile(tmp_path / "r.jsonl")
    run_file.close()
    run_file._fd = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(CommandFailedError) as caught:
        run_file.append(BEGAN)
    assert caught.value.details == "No space left on device"
    run_file.close()


def test_a_journal_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").symlink_to(tmp_path / "other")
    with pytest.raises(CommandFailedError, match="cannot be written"):
        RunFile(tmp_path / "r.jsonl")
    assert not (tmp_path / "other").exists()


def write(tmp_path: Path, content: bytes, name: str = "r") -> Path:
    folder = tmp_path / "state" / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    path.write_bytes(content)
    return path


WHOLE = encode_record(BEGAN) + encode_record(Doing("01", "t"))


@pytest.mark.parametrize("content", [b"", WHOLE[:10], b"\0" * 100, encode_record(BEGAN)[:-1]])
def test_a_file_whose_beginning_is_torn_is_left_out(store: Store, tmp_path: Path, content: bytes) -> None:
    write(tmp_path, content)
    assert store.read_runs() == []


@pytest.mark.parametrize(
    "content",
    [b"x" + WHOLE, WHOLE.replace(b"began", b"begun", 1), WHOLE + b"rubbish\n" + encode_record(Ended("done", "t"))],
)
def test_a_damaged_file_needs_a_person_and_is_named(store: Store, tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, content)
    with pytest.raises(NeedsPersonError) as caught:
        store.read_runs()
    assert str(path) in caught.value.summary
    assert (caught.value.exit_code, "is damaged" in caught.value.details) == (5, True)


def test_a_torn_end_is_cut_off_before_more_is_written(store: Store, tmp_path: Path) -> None:
    record = encode_record(Done("01", 1.0))
    for length in range(1, len(record)):
        path = write(tmp_path, WHOLE + record[:length])
        for _ in range(2):
            run_file = RunFile(path)
            run_file.append(Ended("done", "t"))
            run_file.close()
        ((_, run),) = store.read_runs()
        assert (run.done, run.outcome) == ((), "done")


@pytest.mark.parametrize("tail", [b"\0" * 512, b"garbage\n", b"00000000 {}\n", b"\n"])
def test_rubbish_at_the_end_is_cut_off_before_more_is_written(store: Store, tmp_path: Path, tail: bytes) -> None:
    path = write(tmp_path, WHOLE + tail)
    run_file = RunFile(path)
    run_file.append(Ended("done", "t"))
    run_file.close()
    assert path.read_bytes() == WHOLE + encode_record(Ended("done", "t"))
    assert len(store.read_runs()) == 1


def test_other_files_in_the_folder_are_not_read(store: Store, tmp_path: Path) -> None:
    write(tmp_path, WHOLE).with_name("notes.txt").write_text("x")
    assert len(store.read_runs()) == 1


def test_a_full_run_folder_takes_no_lock_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int, _content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with store.lock("apply"):
        assert store.is_locked()
