"""The files of which Docker's command line is made: its unit, drop-ins, what they name, or a script of sysvinit."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec import Struct

from thinpoolmgr.core.engines.docker_edits import OVERRIDE
from thinpoolmgr.core.engines.docker_flags import exec_words
from thinpoolmgr.core.model import ConfigFile, ServiceState
from thinpoolmgr.errors import CommandFailedError, UnavailableError
from thinpoolmgr.host.files import read_text, why_not_writable
from thinpoolmgr.host.runner import SEARCH_PATH
from thinpoolmgr.host.systemd import is_active, is_loaded, is_queued, parse_show, show_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from thinpoolmgr.host.runner import CompletedRun

    Run = Callable[[tuple[str, ...]], CompletedRun]

SERVICE, SOCKET = "docker.service", "docker.socket"
CONFIG_LIMIT_BYTES = 1024**2
_UNIT_FOLDERS = ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
_DROP_INS = tuple(f"{folder}/systemd/system/{name}.d" for name in (SERVICE, "service") for folder in _UNIT_FOLDERS)


class DockerPaths(Struct, frozen=True):
    """Where things are on a host; tests give a folder of their own."""

    config: str = "/etc/docker/daemon.json"
    data_root: str = "/var/lib/docker"
    socket: str = "/var/run/docker.sock"
    proc: str = "/proc"
    systemd: str = "/run/systemd/system"
    override: str = OVERRIDE
    drop_ins: tuple[str, ...] = _DROP_INS
    """Other folders with drop-ins for its unit, those that count more before the others."""
    sysv_script: str = "/etc/init.d/docker"
    defaults: tuple[str, ...] = ("/etc/default/docker", "/etc/sysconfig/docker", "/etc/sysconfig/docker-storage")
    """Where distributions keep Docker's flags, as files of assignments."""
    search: str = SEARCH_PATH


class Service(NamedTuple):
    """How Docker is run, and the files that say so."""

    state: ServiceState
    files: tuple[ConfigFile, ...] = ()
    problem: str = ""


def read_service(run: Run, paths: DockerPaths) -> Service:
    """Return how Docker is run on this host; nothing is started or changed."""
    if not Path(paths.systemd).is_dir():
        return Service(ServiceState(systemd=False), _read_sysv(paths))
    units = parse_show(output_of(run, show_command((SERVICE, SOCKET))))
    service = units.get(SERVICE, {})
    if not units:
        return Service(ServiceState(systemd=True, active=None))
    state = ServiceState(
        systemd=True,
        unit=SERVICE if is_loaded(service) else "",
        sockets=(SOCKET,) if is_loaded(units.get(SOCKET, {})) else (),
        active=is_active(service),
        enabled=service.get("UnitFileState", "").startswith("enabled"),
        needs_reload=service.get("NeedDaemonReload") == "yes",
        queued=is_queued(service),
    )
    files = _read_unit_files(service, paths) if state.unit else ()
    return Service(
        state, files, _why_unknown(service, paths) if state.needs_reload else _why_other_words(service, files)
    )


def output_of(run: Run, argv: tuple[str, ...]) -> str:
    """Return what a command printed; nothing when it failed, which makes what it was asked for unknown."""
    try:
        result = run(argv)
    except (CommandFailedError, UnavailableError):
        return ""
    return result.stdout if result.code == 0 else ""


def _read_unit_files(service: Mapping[str, str], paths: DockerPaths) -> tuple[ConfigFile, ...]:
    drop_ins = service.get("DropInPaths", "").split()
    if paths.override not in drop_ins:
        # Not there yet, and where it would count: drop-ins go by their names, whatever their folders (systemd.unit(5)).
        later = (place for place, path in enumerate(drop_ins) if _file_name(path) > _file_name(paths.override))
        drop_ins.insert(next(later, len(drop_ins)), paths.override)
    fragment = service.get("FragmentPath", "")
    units = [read_config_file(path, "unit") for path in (fragment, *drop_ins) if path]
    named = [path for line in service.get("EnvironmentFiles", "").splitlines() for path in _environment_files(line)]
    assignments = [_read_environment(path, is_optional=optional) for path, optional in _by_last_mention(named)]
    return (*units, *assignments, *_read_unnamed(paths, [path for path, _ in named]))


def _file_name(path: str) -> str:
    return path.rpartition("/")[2]


def _environment_files(line: str) -> list[tuple[str, bool]]:
    """Return what a line such as `/etc/default/docker (ignore_errors=yes)` names, and whether it may be missing."""
    path, _, note = line.rpartition(" (")
    found = sorted(glob.glob(path)) if glob.has_magic(path) else [path]
    return [(name, "=yes" in note) for name in found]


def _by_last_mention(named: Iterable[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Return each file once: the last to be read counts (systemd.exec(5)), and one that must exist once must exist."""
    files: dict[str, bool] = {}
    for path, is_optional in named:
        files[path] = files.pop(path, True) and is_optional
    return list(files.items())


def _read_environment(path: str, *, is_optional: bool) -> ConfigFile:
    file = read_config_file(path, "environment")
    if file.text is not None or file.problem or is_optional:
        return file
    return ConfigFile(path, "environment", problem=f"{path} does not exist, and {SERVICE} does not start without it")


def _read_unnamed(paths: DockerPaths, named: Iterable[str]) -> list[ConfigFile]:
    """Read well-known files that nothing names: what an admin writes there has no effect."""
    left = [path for path in paths.defaults if path not in named and os.path.isfile(path)]
    found = [read_config_file(path, "environment", named=False) for path in left]
    return [file for file in found if file.text is not None]


def _read_sysv(paths: DockerPaths) -> tuple[ConfigFile, ...]:
    """Read the script and the files that it reads: it names them whole, or as `/etc/default/$BASE`."""
    script = read_config_file(paths.sysv_script, "script")
    if script.text is None:
        return ()
    folders = [path for path in paths.defaults if any(word in script.text for word in (path, f"{_folder(path)}/$"))]
    return (script, *(read_config_file(path, "environment") for path in folders), *_read_unnamed(paths, folders))


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def read_config_file(path: str, kind: Literal["unit", "environment", "script"], *, named: bool = True) -> ConfigFile:
    """Return a file as it is; what cannot be read has its problem, what does not exist has no text."""
    text, problem = None, ""
    try:
        text = read_text(path, CONFIG_LIMIT_BYTES)
    except FileNotFoundError:
        problem = f"{path} is a symbolic link that leads nowhere" if os.path.islink(path) else ""
    except (OSError, ValueError) as error:
        problem = str(error)
    return ConfigFile(path, kind, text, problem if named else "", why_not_writable(path), named)


def _why_unknown(service: Mapping[str, str], paths: DockerPaths) -> str:
    """Return why systemd's list of files is not the next start's: a drop-in is there that it has not read yet.

    Of several with one name that in the first folder counts, and none when it leads to /dev/null (systemd.unit(5)).
    """
    known = {os.path.realpath(path) for path in (paths.override, *service.get("DropInPaths", "").split())}
    first: dict[str, str] = {}
    for folder in (_folder(paths.override), *paths.drop_ins):
        for path in sorted(glob.glob(f"{glob.escape(folder)}/*.conf")):
            first.setdefault(_file_name(path), path)
    new = [path for path in first.values() if os.path.realpath(path) not in {*known, os.devnull}]
    return f"systemd has not read {new[0]} yet (systemctl daemon-reload)" if new else ""


def _why_other_words(service: Mapping[str, str], files: tuple[ConfigFile, ...]) -> str:
    """Return why the files may not be all that systemd goes by: what it runs has other storage flags than they."""
    shown = service.get("ExecStart", "").partition("argv[]=")[2].partition(" ; ")[0]
    read = " ".join(exec_words(files))
    same = all(shown.count(flag) == read.count(flag) for flag in ("--storage-", " -s"))
    return "" if same else f"{SERVICE} starts {shown[:200]}, and its unit files say otherwise"
