from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import support

from thinpoolmgr.core.busy import refuse_stopping
from thinpoolmgr.core.holders import Holder, Holders, Process, holder_text
from thinpoolmgr.core.model import DmDevice
from thinpoolmgr.host.holders import find_holders, parse_cgroup, read_process

if TYPE_CHECKING:
    from pathlib import Path

HOST, OTHER = "mnt:[1]", "mnt:[2]"
THIN = {"253:7": "docker-8:1-5-abc"}
ROOT_LINE = "21 1 8:1 / / rw - ext4 /dev/sda1 rw"
THIN_LINE = "40 21 253:7 / /mnt/x rw - xfs /dev/mapper/docker-8:1-5-abc rw"
CONTAINER = "0123456789abcdef" * 4


class FakeProc:
    """A /proc with processes as they look to root."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.sys = root / "sys"
        self.proc.mkdir()

    def add(self, pid: int, namespace: str, *lines: str, command: str = "", cgroup: str = "", root: str = "/") -> Path:
        folder = self.proc / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "cwd").symlink_to("/proc")
        (folder / "root").symlink_to("/proc")
        (folder / "cmdline").write_text("\0".join(command.split()) + "\0" * bool(command))
        (folder / "comm").write_text("kthread\n")
        (folder / "cgroup").write_text(cgroup)
        return self.add_task(pid, pid, namespace, *lines, root=root)

    def add_task(self, pid: int, tid: int, namespace: str, *lines: str, root: str = "/") -> Path:
        task = self.proc / str(pid) / "task" / str(tid)
        (task / "ns").mkdir(parents=True)
        (task / "ns/mnt").symlink_to(namespace)
        (task / "root").symlink_to(root)
        (task / "mountinfo").write_text("".join(f"{line}\n" for line in lines))
        return task

    def find(self, devices: dict[str, str] | None = None) -> Holders:
        return find_holders(THIN if devices is None else devices, self.proc, self.sys)

    def texts(self) -> list[str]:
        return [holder_text(holder) for holder in self.find().found]


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    fake = FakeProc(tmp_path)
    fake.add(1, HOST, ROOT_LINE, command="/sbin/init")
    return fake


def test_nobody_holds_what_is_mounted_nowhere(fake: FakeProc) -> None:
    assert fake.find() == Holders()


def test_nothing_is_looked_at_for_no_device(tmp_path: Path) -> None:
    assert find_holders({}, tmp_path / "missing") == Holders()


def test_a_mount_in_another_namespace_names_its_processes_once(fake: FakeProc) -> None:
    fake.add(50, OTHER, ROOT_LINE, THIN_LINE, command="sleep 1000", cgroup="0::/system.slice/backup.service\n")
    fake.add(51, OTHER, ROOT_LINE, THIN_LINE, command="sh -c x")
    (holder,) = fake.find().found
    assert holder == Holder(
        device="docker-8:1-5-abc",
        devno="253:7",
        kind="mount",
        places=("/mnt/x",),
        namespace=OTHER,
        processes=(Process(50, "sleep 1000", "backup.service"), Process(51, "sh -c x")),
        process_count=2,
    )
    assert holder_text(holder) == (
        "docker-8:1-5-abc is mounted at /mnt/x in the mount namespace of sleep 1000 (pid 50, backup.service), "
        "sh -c x (pid 51)"
    )


def test_many_processes_are_counted_and_the_first_named(fake: FakeProc) -> None:
    for pid in range(50, 60):
        fake.add(pid, OTHER, THIN_LINE, command=f"p{pid}")
    (text,) = fake.texts()
    assert text.endswith("p54 (pid 54) and 5 more")


def test_of_many_processes_one_of_each_unit_and_container_is_named(fake: FakeProc, tmp_path: Path) -> None:
    devices = here(tmp_path)
    for pid in range(50, 60):
        unit = "backup.service" if pid == 57 else "docker.service"
        fake.add(pid, HOST, command=f"p{pid}", cgroup=f"0::/system.slice/{unit}\n")
        (fake.proc / f"{pid}/fd/3").symlink_to(tmp_path)
    (fake.proc / "1/task/1/mountinfo").write_text(f"40 21 {next(iter(devices))} / /mnt/x rw - xfs /dev/x rw\n")
    (holder,) = fake.find(devices).found
    assert [process.pid for process in holder.processes] == [50, 51, 52, 53, 54, 57]
    assert (holder.process_count, holder.user_count) == (10, 6)
    engine = support.docker(running=True, configured=True)
    busy = [DmDevice("thin", "", holder.devno, 1, targets=("thin",))]
    assert refuse_stopping(busy, Holders((holder,)), engine, "docker/thinpool") is not None


def test_a_mount_of_the_hosts_namespace_is_not_blamed_on_all_of_its_processes(fake: FakeProc) -> None:
    fake.add(2, HOST)
    (fake.proc / "1/task/1/mountinfo").write_text(f"{ROOT_LINE}\n{THIN_LINE}\n")
    (holder,) = fake.find().found
    assert (holder.is_host, holder.processes) == (True, ())
    assert holder_text(holder) == "docker-8:1-5-abc is mounted at /mnt/x"


def test_a_thread_may_have_a_namespace_of_its_own(fake: FakeProc) -> None:
    fake.add(60, HOST, command="threads")
    fake.add_task(60, 61, OTHER, THIN_LINE)
    assert fake.texts() == ["docker-8:1-5-abc is mounted at /mnt/x in the mount namespace of threads (pid 60)"]


def test_a_process_with_another_root_does_not_hide_its_namespace(fake: FakeProc) -> None:
    fake.add(40, OTHER, THIN_LINE.replace("/mnt/x", "/x"), command="jailed", root="/mnt")
    fake.add(50, OTHER, ROOT_LINE, THIN_LINE, command="free")
    assert [holder.places for holder in fake.find().found] == [("/mnt/x",)]


def test_mounts_that_only_a_process_with_another_root_can_name_are_found(fake: FakeProc) -> None:
    fake.add(40, OTHER, ROOT_LINE)
    fake.add(50, OTHER, ROOT_LINE, THIN_LINE, root="/srv/jail")
    assert [holder.places for holder in fake.find().found] == [("/mnt/x",)]


def here(tmp_path: Path) -> dict[str, str]:
    dev = os.stat(tmp_path).st_dev
    return {f"{os.major(dev)}:{os.minor(dev)}": "thin"}


def test_files_in_use_where_the_mount_is_gone_are_found(fake: FakeProc, tmp_path: Path) -> None:
    fake.add(70, HOST, command="tail log")
    (fake.proc / "70/fd/3").symlink_to(tmp_path)
    holders = [holder for holder in fake.find(here(tmp_path)).found if holder.kind == "files"]
    assert [holder_text(holder) for holder in holders] == [
        "thin is mounted nowhere any more, and tail log (pid 70) still uses files on it"
    ]


def test_a_process_that_uses_files_on_a_mount_is_named_first(fake: FakeProc, tmp_path: Path) -> None:
    devices = here(tmp_path)
    line = f"40 21 {next(iter(devices))} / /mnt/x rw - xfs /dev/mapper/thin rw"
    fake.add(50, OTHER, line, command="idle")
    fake.add(51, OTHER, line, command="busy")
    (fake.proc / "51/cwd").unlink()
    (fake.proc / "51/cwd").symlink_to(tmp_path)
    (fake.proc / "1/task/1/mountinfo").write_text(f"{line}\n")
    (fake.proc / "1/fd/3").symlink_to(tmp_path)
    found = fake.find(devices).found
    assert [[process.pid for process in holder.processes] for holder in found] == [[1], [51, 50]]
    assert [holder.user_count for holder in found] == [1, 1]
    assert holder_text(found[0]) == "thin is mounted at /mnt/x, in use by /sbin/init (pid 1)"


def test_the_shim_that_keeps_a_container_is_named_with_it(fake: FakeProc) -> None:
    shim = f"/usr/bin/containerd-shim-runc-v2 -namespace moby -id {CONTAINER} -address /x"
    fake.add(60, HOST, command=shim)
    (fake.proc / "60/comm").write_text("containerd-shim\n")
    fake.add(61, OTHER, THIN_LINE, command="sleep 1000", cgroup=f"0::/docker/{CONTAINER}\n")
    (fake.proc / "61/stat").write_text("61 (sleep (x)) S 60 61 61")
    (holder,) = fake.find().found
    assert [(process.pid, process.container) for process in holder.processes] == [(61, CONTAINER), (60, CONTAINER)]
    assert holder.process_count == 2
    assert "sleep 1000 (pid 61, container 0123456789ab)" in holder_text(holder)


@pytest.mark.parametrize("tags", ["", "shared:5 ", "master:7 propagate_from:2 ", "unbindable "])
def test_a_copy_that_is_unmounted_with_its_original_is_told_apart(fake: FakeProc, tags: str) -> None:
    line = f"40 21 253:7 / /mnt/x rw {tags}- xfs /dev/mapper/docker-8:1-5-abc rw"
    fake.add(50, OTHER, line, command="p")
    assert [holder.follows for holder in fake.find().found] == [tags[:1] in {"s", "m"}]


def test_files_on_a_network_file_system_are_not_asked_after(fake: FakeProc, tmp_path: Path) -> None:
    fake.add(70, OTHER, f"22 21 0:50 / {tmp_path} rw - nfs4 server:/x rw", command="stuck")
    (fake.proc / "70/fd/3").symlink_to(tmp_path / "fd-target")
    (tmp_path / "fd-target").write_text("x")
    assert fake.find(here(tmp_path)).found == ()


def test_devices_on_top_are_named(fake: FakeProc) -> None:
    (fake.sys / "dev/block/253:7/holders/dm-9").mkdir(parents=True)
    (fake.sys / "class/block/dm-9/dm").mkdir(parents=True)
    (fake.sys / "class/block/dm-9/dm/name").write_text("crypt-x\n")
    assert fake.texts() == ["docker-8:1-5-abc carries the device crypt-x"]


def test_processes_that_vanish_are_passed_over(fake: FakeProc) -> None:
    gone = fake.add(80, OTHER)
    (gone / "mountinfo").unlink()
    (fake.proc / "81").mkdir()
    fake.add(82, OTHER, THIN_LINE, command="stays")
    found = fake.find()
    assert [holder.places for holder in found.found] == [("/mnt/x",)]
    assert found.unseen == ()


def test_what_cannot_be_looked_at_is_told(fake: FakeProc) -> None:
    fake.add(80, OTHER, "rubbish")
    fake.add(81, HOST)
    (fake.proc / "81/fd").rmdir()
    (fake.proc / "81/fd").write_text("no folder")
    unseen = fake.find().unseen
    assert [text.partition(":")[0] for text in unseen] == ["the mounts of mnt", "the open files of process 81"]


def test_a_carriage_return_in_the_name_of_a_mount_point_hides_nothing(fake: FakeProc) -> None:
    fake.add(82, OTHER, "41 21 0:40 / /tmp/a\rb rw - tmpfs tmpfs rw", THIN_LINE, command="p")
    found = fake.find()
    assert [holder.places for holder in found.found] == [("/mnt/x",)]
    assert found.unseen == ()


def test_a_namespace_without_processes_is_told(fake: FakeProc) -> None:
    kept = "50 21 0:4 mnt:[4026532999] /run/kept rw - nsfs nsfs rw"
    net = "51 21 0:4 net:[4026532998] /run/net rw - nsfs nsfs rw"
    (fake.proc / "1/task/1/mountinfo").write_text(f"{ROOT_LINE}\n{kept}\n{net}\n")
    (text,) = fake.find().unseen
    assert "mnt:[4026532999]" in text
    assert "/run/kept" in text


@pytest.mark.parametrize(
    ("text", "unit", "container"),
    [
        ("0::/system.slice/docker.service\n", "docker.service", ""),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/x.service\n", "x.service", ""),
        ("0::/user.slice/user-0.slice/session-3.scope\n", "session-3.scope", ""),
        (f"0::/system.slice/docker-{CONTAINER}.scope\n", f"docker-{CONTAINER}.scope", CONTAINER),
        (f"0::/docker/{CONTAINER}\n", "", CONTAINER),
        (f"0::/docker/{CONTAINER}/init.scope\n", "init.scope", CONTAINER),
        (f"5:cpu:/docker/{CONTAINER}\n1:name=systemd:/docker/{CONTAINER}\n", "", CONTAINER),
        ("0::/\n", "", ""),
        ("", "", ""),
        ("rubbish", "", ""),
    ],
)
def test_control_groups_tell_unit_and_container(text: str, unit: str, container: str) -> None:
    assert parse_cgroup(text) == (unit, container)


def test_commands_are_shown_as_typed_and_cut(fake: FakeProc) -> None:
    folder = fake.add(90, HOST)
    (folder.parent.parent / "cmdline").write_bytes(b"printf\0a b\x1b[31m\0" + b"x" * 500)
    shown = read_process(90, fake.proc).command
    assert shown.startswith("printf 'a b\\x1b[31m' xxx")
    assert len(shown) == 120
    assert read_process(1, fake.proc).command == "/sbin/init"
    assert read_process(91, fake.proc) == Process(91, "[ended]")
    fake.add(92, HOST)
    assert read_process(92, fake.proc).command == "[kthread]"


def test_holders_are_asked_for_by_device() -> None:
    found = Holders((Holder("a", "253:1", "open"), Holder("b", "253:2", "open")))
    assert [holder.device for holder in found.of(frozenset({"253:2"}))] == ["b"]
