"""What is done on a host around the commands of a step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from thinpoolmgr.core.desired import DesiredState
from thinpoolmgr.core.holders import Holders
from thinpoolmgr.core.model import DmDevice
from thinpoolmgr.core.steps import GROWN_NAME, GrowBase, RemoveDmDevice
from thinpoolmgr.errors import CommandFailedError, RefusedError
from thinpoolmgr.host import dm, files, holders, perform
from thinpoolmgr.host.runner import CommandRunner, CompletedRun

if TYPE_CHECKING:
    from collections.abc import Callable

STEP = GrowBase(
    reason="r", engine="docker", pool_dm_name="docker-thinpool", device_id=1, size_bytes=1 << 30, filesystem="xfs"
)
POOL = DmDevice("docker-thinpool", "LVM-x", "253:2", 1, targets=("thin-pool",))


class Host:
    """A host whose commands do what they say, and are remembered."""

    def __init__(self) -> None:
        self.devices = {POOL.name: POOL}
        self.mounted = False
        self.ran: list[str] = []
        self.fails = ""

    def change(self, argv: tuple[str, ...], **_: Any) -> None:
        self.ran.append(argv[0] if argv[0] != "dmsetup" else argv[1])
        if self.fails == self.ran[-1]:
            raise CommandFailedError(f"{argv[0]} failed")
        if argv[:2] == ("dmsetup", "create"):
            self.devices[GROWN_NAME] = DmDevice(GROWN_NAME, "", "253:9", 0, targets=("thin",))
        elif argv[:2] == ("dmsetup", "remove"):
            del self.devices[GROWN_NAME]
        elif argv[0] in ("mount", "umount"):
            self.mounted = argv[0] == "mount"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    made = Host()
    monkeypatch.setattr(dm, "read_device", made.devices.get)
    monkeypatch.setattr(dm, "list_dm_devices", lambda: tuple(made.devices.values()))
    monkeypatch.setattr(files, "mounts_on_or_below", lambda paths: paths if made.mounted else ())
    monkeypatch.setattr(perform, "GROWN_MOUNT", str(tmp_path / "run/base"))
    monkeypatch.setattr(holders, "find_holders", lambda _devices: Holders())
    return made


@pytest.fixture
def grow(host: Host) -> Callable[[], None]:
    return lambda: perform.RealHost(DesiredState(), host).perform(STEP)  # type: ignore[arg-type]


def test_the_base_is_grown_and_let_go_of(host: Host, grow: Callable[[], None]) -> None:
    grow()
    assert host.ran == ["create", "mount", "xfs_growfs", "umount", "remove"]
    assert (list(host.devices), host.mounted) == ([POOL.name], False)


@pytest.mark.parametrize("program", ["create", "mount", "xfs_growfs"])
def test_so_it_is_when_a_command_fails(host: Host, grow: Callable[[], None], program: str) -> None:
    host.fails = program
    with pytest.raises(CommandFailedError):
        grow()
    assert (list(host.devices), host.mounted) == ([POOL.name], False)


def test_what_a_killed_run_left_goes_first(host: Host, grow: Callable[[], None]) -> None:
    host.devices[GROWN_NAME] = DmDevice(GROWN_NAME, "", "253:9", 1, targets=("thin",))
    host.mounted = True
    grow()
    assert host.ran[:3] == ["umount", "remove", "create"]
    assert (list(host.devices), host.mounted) == ([POOL.name], False)


@pytest.mark.parametrize(
    ("table", "count", "refused"), [("253:2 1", 1, True), ("253:2 1", 0, False), ("253:2 2", 1, False)]
)
def test_a_base_that_is_open_under_any_name_is_not_mounted_again(
    host: Host, grow: Callable[[], None], table: str, count: int, *, refused: bool
) -> None:
    host.devices["rescue"] = DmDevice(
        "rescue", "", "253:7", count, targets=("thin",), depends_on=("253:2",), table=table
    )
    if not refused:
        return grow()
    with pytest.raises(RefusedError, match="rescue is docker's base device, too, and is open") as caught:
        grow()
    assert (caught.value.code, host.ran) == ("DEVICE_OPEN", [])
    return None


def test_a_place_that_cannot_be_made_is_an_error(host: Host, grow: Callable[[], None], tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(files.FileFailedError, match="cannot make"):
        grow()
    assert host.ran == []


BUSY_NAMED = RemoveDmDevice(reason="r", name="docker-busybox", uuid="", devno="254:9999")


class Dmsetup(CommandRunner):
    """A dmsetup that fails in the kernel's words."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def run(self, argv: tuple[str, ...], *, seconds: float = 0.0) -> CompletedRun:
        del seconds
        said = f"device-mapper: remove ioctl on {argv[-1]} failed: {self.words}\nCommand failed.\n"
        return CompletedRun(argv, 1, "", said, 0.0)


def remove(dmsetup: Dmsetup, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how often it was found busy."""
    found: list[bool] = []

    def look(attempt: Callable[[], CompletedRun], is_busy: Callable[[CompletedRun], bool]) -> CompletedRun:
        found.append(is_busy(run := attempt()))
        return run

    monkeypatch.setattr(perform, "until_not_busy", look)
    with pytest.raises((CommandFailedError, RefusedError)) as caught:
        perform.RealHost(DesiredState(), dmsetup).perform(BUSY_NAMED)
    assert isinstance(caught.value, RefusedError) is found[0]
    return sum(found)


def test_a_device_that_has_busy_in_its_name_is_not_taken_for_open(monkeypatch: pytest.MonkeyPatch) -> None:
    assert remove(Dmsetup("Invalid argument"), monkeypatch) == 0


def test_a_device_that_is_open_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert remove(Dmsetup("Device or resource busy"), monkeypatch) == 1
