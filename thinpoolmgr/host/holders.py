"""Who holds device-mapper devices, in any mount namespace: /proc looked through once, whatever the number of devices.

Sources: proc(5); mount_namespaces(7); fs/proc/namespaces.c. Processes that end meanwhile hold nothing any more. What
cannot be looked at is told, since there may be a holder in it.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from thinpoolmgr.core.holders import Holder, HolderKind, Holders, Process
from thinpoolmgr.host.mountinfo import Mount, parse_mountinfo
from thinpoolmgr.host.processes import list_processes
from thinpoolmgr.host.runner import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# EINVAL: a process that has ended and was not waited for has no mount namespace.
_GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.EINVAL})
_NAMED_PROCESSES = 5
_TOLD_TROUBLES = 10
_COMMAND_CHARACTERS = 120
_CMDLINE_BYTES = 4096
_CONTAINER = re.compile(r"(?:^|[/:-])([0-9a-f]{64})(?:\.scope)?(?=/|$)", re.ASCII)
_UNITS = (".service", ".scope")
_SHIM = "containerd-shim"
# To ask after a file on a server that is away would hang us, and none of these stands on a device of ours.
_REMOTE = re.compile(r"nfs\d?|cifs|smb\d?|ceph|9p|afs|fuse(\..*)?|autofs", re.ASCII)


class _View(NamedTuple):
    """What decides which mounts a thread sees: its namespace, and its root in it."""

    namespace: str
    root: str


class _Uses(NamedTuple):
    """Who uses devices through descriptors and folders: pids by `MAJOR:MINOR`."""

    nodes: dict[str, dict[int, None]]
    files: dict[str, dict[int, None]]


def find_holders(devices: Mapping[str, str], proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Holders:
    """Return who holds `devices`: their names by `MAJOR:MINOR`.

    Each mount namespace is read once (once for each root that its processes have), each descriptor is looked at once;
    nothing is opened, and what lies on a network file system is not asked after.
    """
    return _Search(devices, proc, sys).result() if devices else Holders()


class _Search:
    def __init__(self, devices: Mapping[str, str], proc: Path, sys: Path) -> None:
        self._devices, self._proc, self._sys = devices, proc, sys
        self._troubles: list[str] = []
        self._host = _link(proc / "1/task/1/ns/mnt")
        self._tasks: dict[_View, dict[int, Path]] = {}
        self._points: dict[tuple[str, str], list[Mount]] = {}
        """Mounts by namespace and device."""
        self._remote: dict[_View, tuple[str, ...]] = {}
        self._processes: dict[int, Process] = {}

    def result(self) -> Holders:
        for pid in list_processes(self._proc, helpers=True):
            self._find_views(pid)
        # A process with another root sees a part of its namespace only.
        for view in sorted(self._tasks, key=lambda view: (view.root != "/", view)):
            self._read_mounts(view)
        uses = self._find_uses()
        found = [*self._mounts(uses), *self._files(uses), *self._opened(uses), *self._stacked()]
        found.sort(key=lambda holder: (holder.device, holder.kind, not holder.is_host, holder.namespace))
        return Holders(tuple(found), tuple(self._troubles))

    def _trouble(self, what: str, error: OSError) -> None:
        if error.errno not in _GONE and len(self._troubles) < _TOLD_TROUBLES:
            self._troubles.append(f"{what}: {error.strerror or error}")

    def _find_views(self, pid: int) -> None:
        """Note each namespace and root of the process; a thread may have its own (unshare(2))."""
        try:
            for task in (self._proc / str(pid) / "task").iterdir():
                view = _View(os.readlink(task / "ns/mnt"), _link(task / "root"))
                self._tasks.setdefault(view, {}).setdefault(pid, task)
        except OSError as error:
            self._trouble(f"process {pid}", error)

    def _read_mounts(self, view: _View) -> None:
        for task in self._tasks[view].values():
            try:
                mounts = tuple(parse_mountinfo((task / "mountinfo").read_bytes()))
            except OSError as error:
                self._trouble(f"the mounts of {view.namespace}", error)
                continue
            self._remote[view] = tuple(mount.point for mount in mounts if _REMOTE.fullmatch(mount.kind))
            self._note(view, mounts)
            return

    def _note(self, view: _View, mounts: tuple[Mount, ...]) -> None:
        seen_before = frozenset(self._points)
        kept = {each.namespace for each in self._tasks}
        for mount in mounts:
            key = (view.namespace, mount.devno)
            if mount.devno in self._devices and key not in seen_before:
                self._points.setdefault(key, []).append(mount)
            if mount.kind == "nsfs" and mount.root.startswith("mnt:") and mount.root not in kept:
                # Kept by a bind mount alone, as `unshare --mount=FILE` does: only setns(2) would show what is in it.
                trouble = f"the mount namespace {mount.root}, in which no process lives, kept at {mount.point}"
                self._trouble(trouble, OSError(errno.EACCES, "it cannot be looked into"))

    def _find_uses(self) -> _Uses:
        uses = _Uses({}, {})
        by_pid = {pid: view for view, tasks in self._tasks.items() for pid in tasks}
        for pid in sorted(by_pid):
            remote = self._remote.get(by_pid[pid], ())
            try:
                for status in _used_files(self._proc / str(pid), remote):
                    self._note_use(uses, pid, status)
            except OSError as error:
                self._trouble(f"the open files of process {pid}", error)
        return uses

    def _note_use(self, uses: _Uses, pid: int, status: os.stat_result) -> None:
        if stat.S_ISBLK(status.st_mode) and (devno := _devno(status.st_rdev)) in self._devices:
            uses.nodes.setdefault(devno, {})[pid] = None
        if (devno := _devno(status.st_dev)) in self._devices:
            uses.files.setdefault(devno, {})[pid] = None

    def _pids_in(self, namespace: str) -> list[int]:
        return sorted({pid for view, tasks in self._tasks.items() if view.namespace == namespace for pid in tasks})

    def _mounts(self, uses: _Uses) -> Iterator[Holder]:
        for (namespace, devno), mounts in self._points.items():
            living = self._pids_in(namespace)
            using = [pid for pid in uses.files.get(devno, ()) if pid in living]
            is_host = namespace == self._host
            pids = list(dict.fromkeys(using if is_host else (*using, *living)))
            places = tuple(dict.fromkeys(printable(mount.point) for mount in mounts))
            holder = self._holder(devno, "mount", pids, places)
            follows = all(mount.follows for mount in mounts)
            users = list(takewhile(frozenset(using).__contains__, (process.pid for process in holder.processes)))
            yield replace(holder, namespace=namespace, is_host=is_host, follows=follows, user_count=len(users))

    def _files(self, uses: _Uses) -> Iterator[Holder]:
        for devno, users in uses.files.items():
            mounted = {pid for space, on in self._points if on == devno for pid in self._pids_in(space)}
            if pids := [pid for pid in users if pid not in mounted]:
                yield self._holder(devno, "files", pids)

    def _opened(self, uses: _Uses) -> Iterator[Holder]:
        for devno, users in uses.nodes.items():
            yield self._holder(devno, "open", list(users))

    def _stacked(self) -> Iterator[Holder]:
        on_top: dict[str, list[str]] = {}
        for devno in self._devices:
            with suppress(OSError):
                names = sorted(os.listdir(self._sys / "dev/block" / devno / "holders"))
                on_top.setdefault(devno, []).extend(self._block_name(name) for name in names)
        for devno, loop in self._loops():
            on_top.setdefault(devno, []).append(loop)
        for devno, names in on_top.items():
            if names:
                yield self._holder(devno, "stacked", [], tuple(names))

    def _loops(self) -> Iterator[tuple[str, str]]:
        """Loop devices do not count as holders in sysfs, and no process has what they stand on."""
        for file in sorted((self._sys / "block").glob("loop*/loop/backing_file")):
            with suppress(OSError):
                status = os.stat(_text(file))
                if stat.S_ISBLK(status.st_mode) and (devno := _devno(status.st_rdev)) in self._devices:
                    yield devno, file.parent.parent.name

    def _block_name(self, name: str) -> str:
        dm_name = _text(self._sys / "class/block" / name / "dm/name")
        return printable(dm_name or name)

    def _holder(
        self,
        devno: str,
        kind: HolderKind,
        pids: list[int],
        places: tuple[str, ...] = (),
    ) -> Holder:
        named = self._named(pids)
        shims = [shim for process in named if (shim := self._shim_of(process.pid))]
        named += [shim for shim in dict.fromkeys(shims) if shim not in named]
        return Holder(
            device=self._devices[devno],
            devno=devno,
            kind=kind,
            places=places,
            processes=tuple(named),
            process_count=len({*pids, *(process.pid for process in named)}),
        )

    def _named(self, pids: list[int]) -> list[Process]:
        """Return the first few, and the first of each unit and container: whether all end together shows in them."""
        processes = [self._process(pid) for pid in pids]
        firsts = {(each.unit, each.container): each.pid for each in reversed(processes)}.values()
        return [each for number, each in enumerate(processes) if number < _NAMED_PROCESSES or each.pid in firsts]

    def _process(self, pid: int) -> Process:
        if pid not in self._processes:
            self._processes[pid] = read_process(pid, self._proc)
        return self._processes[pid]

    def _shim_of(self, pid: int) -> Process | None:
        """Return the containerd-shim that a process of a container was started by: it keeps the container."""
        fields = _text(self._proc / str(pid) / "stat").rpartition(")")[2].split()
        parent = int(fields[1]) if len(fields) > 1 and fields[1].isdigit() else 0
        return self._process(parent) if parent and self._comm(parent).startswith(_SHIM) else None

    def _comm(self, pid: int) -> str:
        return _text(self._proc / str(pid) / "comm")


def read_process(pid: int, proc: Path = Path("/proc")) -> Process:
    """Return what is known of a process; one that has ended has no command, and a shim belongs to its container."""
    folder = proc / str(pid)
    words = _text(folder / "cmdline", _CMDLINE_BYTES).rstrip("\0").split("\0")
    command = shlex.join(words) if words[0] else f"[{_text(folder / 'comm').strip() or 'ended'}]"
    unit, container = parse_cgroup(_text(folder / "cgroup"))
    if not container and words[0].rpartition("/")[2].startswith(_SHIM) and "-id" in words[:-1]:
        container = words[words.index("-id") + 1]
    return Process(pid, printable(command.replace("\n", " "))[:_COMMAND_CHARACTERS], unit, container)


def parse_cgroup(text: str) -> tuple[str, str]:
    """Return the systemd unit and the container id in the content of a `/proc/PID/cgroup`; empty where there is none.

    The innermost of each counts; of version 1 the hierarchies that systemd does not use name no units (cgroups(7)).
    """
    paths = [line.split(":", 2)[2] for line in text.splitlines() if line.count(":") > 1]
    names = (name for path in paths for name in reversed(path.split("/")) if name.endswith(_UNITS))
    ids = (match for path in paths for match in reversed(_CONTAINER.findall(path)))
    return printable(next(names, "")), next(ids, "")


def _used_files(process: Path, remote: tuple[str, ...]) -> Iterator[os.stat_result]:
    """Yield the state of what the process has open, of its folder and of its root."""
    links = [process / "cwd", process / "root", *(process / "fd" / name for name in os.listdir(process / "fd"))]
    for link in links:
        target = _link(link)
        # Pipes, sockets and the like have no path.
        if target.startswith("/") and not any(target == point or target.startswith(f"{point}/") for point in remote):
            with suppress(OSError):
                yield os.stat(link)


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _text(path: Path, limit_bytes: int = 65536) -> str:
    try:
        with path.open("rb") as file:
            return file.read(limit_bytes).decode(errors="replace").rstrip("\n")
    except OSError:
        return ""


def _devno(dev: int) -> str:
    return f"{os.major(dev)}:{os.minor(dev)}"
