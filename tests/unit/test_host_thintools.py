"""A metadata snapshot is always given back, and somebody else's never."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.lifecycle import view_pool
from thinpoolmgr.core.model import DmDevice
from thinpoolmgr.core.usage import ThinUse, parts_to_ask
from thinpoolmgr.errors import CommandFailedError, RefusedError, UnavailableError
from thinpoolmgr.host import runner, thintools
from thinpoolmgr.host.runner import CommandRunner, CompletedRun
from thinpoolmgr.host.thintools import SnapshotLeftError, read_pool_use

PARTS = parts_to_ask(view_pool(support.pool(), support.healthy()))
LIST = "1 1048576 524288\n"


class KilledError(BaseException):
    """The process dies here."""


class Kernel(CommandRunner):
    """A pool that takes messages, and a thin_ls; `on` is called with each command before it is carried out."""

    def __init__(self) -> None:
        super().__init__()
        assert isinstance(PARTS, tuple)
        self.pool, self.metadata = PARTS
        self.held = "-"
        self.commands: list[tuple[str, ...]] = []
        self.listed = CompletedRun((), 0, LIST, "", 0.0)
        self.on: Callable[[str], None] = lambda _word: None
        self.after: Callable[[str], None] = lambda _word: None

    def device(self, name: str) -> DmDevice | None:
        if name == self.metadata.name:
            return self.metadata
        assert self.pool.pool_status
        return replace(self.pool, pool_status=replace(self.pool.pool_status, held_root=self.held))

    def change(self, argv: tuple[str, ...], *, is_long: bool = False, seconds: float = 0.0) -> CompletedRun:
        assert not is_long
        del seconds
        done = self.run(argv)
        assert done.code == 0
        return done

    def read(self, argv: tuple[str, ...]) -> CompletedRun:
        assert argv[0] == "thin_ls"
        return self.run(argv)

    def run(self, argv: tuple[str, ...], *, seconds: float = 0.0) -> CompletedRun:
        del seconds
        self.commands.append(argv)
        word = argv[-1] if argv[0] == "dmsetup" else argv[0]
        self.on(word)
        code = 0
        if word == "reserve_metadata_snap":
            code, self.held = (1, self.held) if self.held != "-" else (0, "42")
        elif word == "release_metadata_snap":
            code, self.held = (1, "-") if self.held == "-" else (0, "-")
        self.after(word)
        return self.listed if word == "thin_ls" else CompletedRun(argv, code, "", "no", 0.0)

    def words(self) -> list[str]:
        return [argv[-1] if argv[0] == "dmsetup" else argv[0] for argv in self.commands]


ALL = ["reserve_metadata_snap", "thin_ls", "release_metadata_snap"]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setattr(runner, "find_program", lambda name: f"/usr/sbin/{name}")
    monkeypatch.setattr(thintools, "until_not_busy", lambda attempt, _is_busy: attempt())
    return Kernel()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "snapshots"


def ask(kernel: Kernel, folder: Path) -> tuple[ThinUse, ...]:
    return read_pool_use(kernel.pool, kernel.metadata, kernel, folder, kernel.device).devices


def die_at(word: str) -> Callable[[str], None]:
    def die(now: str) -> None:
        if now == word:
            raise KilledError

    return die


def record(kernel: Kernel, folder: Path, held_root: str) -> Path:
    folder.mkdir(parents=True)
    path = folder / f"{kernel.pool.uuid}.json"
    path.write_text(json.dumps({"pool": kernel.pool.uuid, "held_root": held_root}))
    return path


def test_it_is_taken_read_and_given_back(kernel: Kernel, folder: Path) -> None:
    assert ask(kernel, folder) == (ThinUse(1, 1048576, 524288),)
    assert kernel.commands == [
        ("dmsetup", "message", "--", "docker-thinpool", "0", "reserve_metadata_snap"),
        (
            *("thin_ls", "--metadata-snap", "--no-headers", "--format", "DEV,MAPPED_BYTES,EXCLUSIVE_BYTES"),
            f"/dev/dm-{kernel.metadata.devno.partition(':')[2]}",
        ),
        ("dmsetup", "message", "--", "docker-thinpool", "0", "release_metadata_snap"),
    ]
    assert list(folder.iterdir()) == []


def test_the_record_is_there_before_and_has_the_place_after(kernel: Kernel, folder: Path) -> None:
    seen: dict[str, str] = {}

    def look(word: str) -> None:
        seen[word] = next(folder.iterdir()).read_text()

    kernel.on = look
    ask(kernel, folder)
    assert [json.loads(seen[word])["held_root"] for word in ALL] == ["", "42", "42"]


@pytest.mark.parametrize(
    "listed", [CompletedRun(("thin_ls",), 1, "", "bad checksum", 0.0), CompletedRun((), 0, "1 2\n", "", 0.0)]
)
def test_a_list_that_fails_is_an_error_and_all_is_given_back(
    kernel: Kernel, folder: Path, listed: CompletedRun
) -> None:
    kernel.listed = listed
    with pytest.raises(CommandFailedError):
        ask(kernel, folder)
    assert (kernel.words(), kernel.held, list(folder.iterdir())) == (ALL, "-", [])


def test_a_list_that_is_ended_early_gives_back(kernel: Kernel, folder: Path) -> None:
    def end(word: str) -> None:
        if word == "thin_ls":
            raise CommandFailedError("thin_ls was ended by a signal")

    kernel.on = end
    with pytest.raises(CommandFailedError):
        ask(kernel, folder)
    assert (kernel.held, list(folder.iterdir())) == ("-", [])


@pytest.mark.parametrize("when", ["on", "after"])
@pytest.mark.parametrize("word", ALL)
def test_what_a_killed_run_left_is_given_back_by_the_next(
    kernel: Kernel, folder: Path, word: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        if word == "thin_ls":
            # SIGKILL runs no `finally`.
            patch.setattr(thintools._MetadataSnapshot, "_give_back", lambda _self: None)
        setattr(kernel, when, die_at(word))
        with pytest.raises(KilledError):
            ask(kernel, folder)
    kernel.on = kernel.after = lambda _word: None
    kernel.commands.clear()
    was_held = kernel.held != "-"
    assert len(ask(kernel, folder)) == 1
    assert kernel.words() == [*(["release_metadata_snap"] if was_held else []), *ALL]
    assert (kernel.held, list(folder.iterdir())) == ("-", [])


def refused(kernel: Kernel, folder: Path) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        ask(kernel, folder)
    assert caught.value.code == "METADATA_SNAPSHOT_HELD"
    assert kernel.words() == []
    return caught.value


def test_somebody_elses_is_left_alone(kernel: Kernel, folder: Path) -> None:
    kernel.held = "7"
    assert "at block 7" in refused(kernel, folder).summary
    assert "dmsetup message -- docker-thinpool 0 release_metadata_snap" in refused(kernel, folder).resolution
    assert kernel.held == "7"


def test_one_at_another_place_than_ours_is_somebody_elses(kernel: Kernel, folder: Path) -> None:
    path = record(kernel, folder, "42")
    kernel.held = "7"
    refused(kernel, folder)
    assert path.exists()


@pytest.mark.parametrize(
    "text", ["", "{", '{"pool": "LVM-other", "held_root": "7"}', '{"pool": 1}', "[" * 9999, '{"x": ' + "[" * 9999]
)
def test_a_record_that_says_nothing_makes_it_not_ours(kernel: Kernel, folder: Path, text: str) -> None:
    record(kernel, folder, "").write_text(text)
    kernel.held = "7"
    refused(kernel, folder)


@pytest.mark.parametrize("place", ["", "42"])
def test_one_that_is_still_read_is_not_taken_from_under_its_reader(kernel: Kernel, folder: Path, place: str) -> None:
    record(kernel, folder, place)
    kernel.held, kernel.metadata = "42", replace(kernel.metadata, open_count=2)
    assert "still being read" in refused(kernel, folder).details


def test_a_record_of_one_that_is_gone_is_dropped(kernel: Kernel, folder: Path) -> None:
    record(kernel, folder, "7")
    assert len(ask(kernel, folder)) == 1
    assert kernel.words() == ALL


@pytest.mark.parametrize("ended", [False, True])
def test_one_that_cannot_be_given_back_is_told(kernel: Kernel, folder: Path, *, ended: bool) -> None:
    def refuse(word: str) -> None:
        if word == "release_metadata_snap" or (ended and word == "thin_ls"):
            raise CommandFailedError(f"{word} failed", "Operation not supported")

    kernel.on = refuse
    with pytest.raises(SnapshotLeftError) as raised:
        ask(kernel, folder)
    assert "Operation not supported" in raised.value.details
    assert (raised.value.exit_code, len(list(folder.iterdir()))) == (1, 1)


def test_a_kernel_that_refuses_leaves_what_it_has(kernel: Kernel, folder: Path) -> None:
    def take(word: str) -> None:
        if word == "reserve_metadata_snap":
            kernel.held = "7"

    kernel.on = take
    with pytest.raises(CommandFailedError):
        ask(kernel, folder)
    assert (kernel.words(), kernel.held, list(folder.iterdir())) == (["reserve_metadata_snap"], "7", [])


@pytest.mark.parametrize("missing", ["thin_ls", "dmsetup"])
def test_without_its_tools_nothing_is_changed(
    kernel: Kernel, folder: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(runner, "find_program", lambda name: "" if name == missing else "/x")
    with pytest.raises(UnavailableError) as caught:
        ask(kernel, folder)
    assert caught.value.exit_code == 69
    assert (kernel.commands, folder.exists()) == ([], False)


@pytest.mark.parametrize("uuid", ["", "LVM-other"])
def test_another_pool_under_the_same_name_is_not_asked(kernel: Kernel, folder: Path, uuid: str) -> None:
    old = kernel.pool
    kernel.pool = replace(old, uuid=uuid)
    with pytest.raises(CommandFailedError, match="any more"):
        read_pool_use(old, kernel.metadata, kernel, folder, kernel.device)
    assert kernel.commands == []
