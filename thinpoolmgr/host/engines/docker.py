"""Docker as it is on this host: installed, running, configured, its state on disk. Nothing is changed."""

from __future__ import annotations

import functools
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from thinpoolmgr.core.engines.daemon_json import DaemonJsonError, parse_object
from thinpoolmgr.core.engines.docker_config import configured_data_root, edit_daemon_json
from thinpoolmgr.core.engines.docker_flags import Arg, find_value, read_command, read_flags
from thinpoolmgr.core.model import Engine, EngineState, ServiceState
from thinpoolmgr.host.engines import docker_api
from thinpoolmgr.host.engines.docker_files import (
    CONFIG_LIMIT_BYTES,
    SERVICE,
    DockerPaths,
    Service,
    output_of,
    read_service,
)
from thinpoolmgr.host.engines.docker_state import StateUnreadableError, read_state
from thinpoolmgr.host.files import read_text, why_not_writable
from thinpoolmgr.host.processes import list_processes
from thinpoolmgr.host.removal import find_set_aside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from thinpoolmgr.core.desired import DesiredEngine
    from thinpoolmgr.host.runner import CompletedRun

    Run = Callable[[tuple[str, ...]], CompletedRun]

# docker-current and docker-latest are Red Hat's names; the kernel cuts a process name to 15 bytes.
_DAEMONS = ("dockerd", "dockerd-current", "dockerd-latest", "dockerd-ce")
_VERSION = re.compile(r"version ([^\s,]{1,60})", re.ASCII)


class _Config(NamedTuple):
    path: str
    text: str | None
    problem: str
    data_root: str


class _Answers(NamedTuple):
    """What the running engine said; `running` is None when something is alive and does not answer."""

    running: bool | None
    version: str = ""
    driver: str = ""
    data_root: str = ""
    containers: tuple[docker_api.Container, ...] = ()
    live_restore: bool = False
    socket: str = ""


def observe_docker(desired: DesiredEngine, run: Run, paths: DockerPaths | None = None) -> Engine:
    """Return Docker as it is now; nothing is started, not even through socket activation.

    Args:
        desired: the engine of the configuration; its `config_file` says which file is Docker's.
        run: runs a command to its end; used for `systemctl show` and `dockerd --version` only.
        paths: where things are.

    """
    paths = paths or DockerPaths()
    daemon = next((found for name in _DAEMONS if (found := shutil.which(name, path=paths.search))), "")
    service = read_service(run, paths)
    processes = tuple(_find_daemons(paths.proc))
    config = _read_config(desired, service, processes, paths)
    answers = _ask(config, processes, paths, listens=_may_connect(bool(daemon), processes, service.state))
    data_root = answers.data_root or config.data_root
    state, state_problem = _observe_state(data_root, paths)
    return Engine(
        name=desired.name,
        kind=desired.kind,
        installed=bool(daemon or processes),
        # A version matters to who wants it on a pool; to ask is slow.
        version=answers.version or (_ask_version(run, daemon) if daemon and desired.config.pool else ""),
        running=answers.running,
        pids=tuple(process.pid for process in processes),
        driver=answers.driver,
        data_root=data_root,
        config_path=config.path,
        config_text=config.text,
        config_unwritable=why_not_writable(config.path),
        config_problem=config.problem,
        files=service.files,
        command=() if _runs_by_unit(service.state) else next((process.words for process in processes), ()),
        service=service.state,
        state=state,
        state_problem=state_problem,
        containers=tuple(container.name for container in answers.containers),
        container_ids=tuple(container.Id for container in answers.containers),
        live_restore=answers.live_restore,
        socket=answers.socket,
        set_aside=find_set_aside(data_root),
    )


class _Process(NamedTuple):
    pid: int
    words: tuple[str, ...]


def _runs_by_unit(service: ServiceState) -> bool:
    return bool(service.unit) and service.active is not False


def _find_daemons(proc: str) -> Iterator[_Process]:
    """Find the host's own daemons: those of other users (rootless) and inside containers have another data root."""
    for entry in (Path(proc) / str(pid) for pid in list_processes(proc)):
        try:
            if entry.stat().st_uid not in (0, os.geteuid()) or not _is_daemon(entry) or _is_elsewhere(entry, proc):
                continue
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
            continue
        words = tuple(command.removesuffix("\0").split("\0"))
        # Another of us asks for its version just now, or anybody does.
        if words[1:] not in {("--version",), ("-v",)}:
            yield _Process(int(entry.name), words)


def _is_daemon(entry: Path) -> bool:
    status = (entry / "stat").read_text(encoding="utf-8", errors="replace") if (entry / "stat").exists() else ""
    if status.rpartition(")")[2].split()[:1] == ["Z"]:
        return False
    return (entry / "comm").read_text(encoding="utf-8", errors="replace").strip() in _DAEMONS or (
        _link_text(entry / "exe").rpartition("/")[2].removesuffix(" (deleted)") in _DAEMONS
    )


def _is_elsewhere(entry: Path, proc: str) -> bool:
    ours, theirs = _link_text(Path(proc) / "self/ns/pid"), _link_text(entry / "ns/pid")
    return bool(ours and theirs and ours != theirs)


def _link_text(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _read_config(
    desired: DesiredEngine, service: Service, processes: tuple[_Process, ...], paths: DockerPaths
) -> _Config:
    # What runs was started with its own flags, the next start takes those of the unit.
    args = [Arg(word) for process in processes for word in process.words]
    args += read_command(Engine(desired.name, desired.kind, files=service.files)).args
    wanted = desired.config.config_file
    read_by_docker = find_value(args, "--config-file") or paths.config
    is_other = wanted not in ("auto", "daemon.json", *(file.path for file in service.files))
    path = wanted if is_other else read_by_docker
    root = find_value(args, "--graph", "--data-root")
    text, problem = None, service.problem
    try:
        text = read_text(path, CONFIG_LIMIT_BYTES)
        # Whatever is to be written into it must be possible: this looks at all that editing looks at.
        edit_daemon_json(text, ())
        root = root or configured_data_root(text)
    except FileNotFoundError:
        problem = f"{path} is a symbolic link that leads nowhere" if os.path.islink(path) else problem
    except DaemonJsonError as error:
        problem = f"{path}, {error}"
    except (OSError, ValueError) as error:
        problem = str(error)
    if service.files and path != read_by_docker:
        problem = problem or f"{SERVICE} does not read config_file = {path!r}: it reads {read_by_docker}"
    if root and not root.startswith("/"):
        problem = problem or f"the data root {ascii(root)[:200]} is not an absolute path"
        root = ""
    return _Config(path, text, problem, root or paths.data_root)


def _may_connect(installed: bool, processes: tuple[_Process, ...], service: ServiceState) -> bool:  # noqa: FBT001
    # Without a daemon the socket is systemd's, and connecting would start Docker; or it is podman's.
    return bool(processes) or (installed and not service.sockets)


def _ask(config: _Config, processes: tuple[_Process, ...], paths: DockerPaths, *, listens: bool) -> _Answers:
    socket = _configured_socket(config, processes) or paths.socket
    try:
        info = docker_api.get(socket, "/info", docker_api.Info) if listens else None
        if info is None:
            return _Answers(running=None if processes else False)
        version = docker_api.get(socket, "/version", docker_api.Version)
        containers = docker_api.running_containers(socket)
    except docker_api.ApiError:
        return _Answers(running=None)
    if version is None or containers is None:
        return _Answers(running=None)
    running = True
    return _Answers(
        running, version.Version, info.Driver, info.DockerRootDir, containers, info.LiveRestoreEnabled, socket
    )


def _configured_socket(config: _Config, processes: tuple[_Process, ...]) -> str:
    """Return the first unix socket that flags or the file's `hosts` name; empty for the usual one."""
    words = (Arg(word) for process in processes for word in process.words)
    hosts = [flag.value for flag in read_flags(words) if flag.name == "--host"]
    try:
        member = parse_object(config.text).find("hosts")
    except DaemonJsonError:
        member = None
    if member and isinstance(member.value, list):
        hosts += [host for host in member.value if isinstance(host, str)]
    return next((host.removeprefix("unix://") for host in hosts if host.startswith("unix:///")), "")


def _ask_version(run: Run, daemon: str) -> str:
    try:
        file = os.stat(daemon)
    except OSError:
        return ""
    return _version_of(run, daemon, (file.st_dev, file.st_ino, file.st_mtime_ns, file.st_size))


@functools.lru_cache(maxsize=1)
def _version_of(run: Run, daemon: str, _file: tuple[int, ...]) -> str:
    """Ask once while the file stays the same: one run looks at the host many times, and it is a slow question."""
    match = _VERSION.search(output_of(run, (daemon, "--version")))
    return match[1] if match else ""


def _observe_state(data_root: str, paths: DockerPaths) -> tuple[EngineState | None, str]:
    try:
        return read_state(data_root, paths.proc), ""
    except StateUnreadableError as error:
        return None, str(error)
