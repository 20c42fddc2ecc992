"""What the throw-away kernel is given: its command line and the files of its job folder."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from thinpoolmgr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

KERNEL: Final = "linux.uml"
KERNEL_MODULES: Final = Path("/usr/lib/uml/modules")
DEFAULT_MODULES: Final = ("dm-mod", "dm-thin-pool", "loop")
DEFAULT_MEMORY_MB: Final = 512
ROOT_PYTHON_LIBRARY: Final = Path("/opt/thinpoolmgr")
JOB_IN_GUEST: Final = Path("/run/lab")

_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PACKAGE: Final = Path(__file__).resolve().parent.parent
# The guest has its own file systems on these: what the host has there is not visible unless mounted by name.
_HIDDEN: Final = tuple(Path(name) for name in ("/tmp", "/run", "/dev", "/proc", "/sys", "/lab"))  # noqa: S108
_FOLDERS: Final = ("proc", "modules", "tree", "over", "uml", "units")
# A throw-away copy of the host is to look like a fresh one: no pool, no engine set up, no LVM history, no container.
_MASKED: Final = (
    ".dockerenv",
    "etc/containerd",
    "etc/docker",
    "etc/lvm/archive",
    "etc/lvm/backup",
    "etc/lvm/devices",
    "etc/thinpoolmgr",
    "var/lib/containerd",
    "var/lib/docker",
    "var/lib/thinpoolmgr",
)
# ubd disks report a serial through sysfs only; a real disk's udev rules give it these two.
_UDEV_RULES: Final = (
    'SUBSYSTEM=="block", KERNEL=="ubd*[!0-9]", ENV{DEVTYPE}=="disk", ATTR{serial}=="?*", '
    'ENV{ID_SERIAL}="$attr{serial}", SYMLINK+="disk/by-id/ubd-$env{ID_SERIAL}"\n'
)
# LVM ignores block devices whose driver it has never heard of (lvm.conf(5), devices/types).
_LVM_CONFIGURATION: Final = 'devices {\n\ttypes = [ "ubd", 16 ]\n}\n'


# The tree's own enabled services are not wanted: the job starts those that it is about.
_SYSTEMD_OPTIONS: Final = ("systemd.unit=lab.target", "systemd.firstboot=off", "systemd.show_status=no")
_UNITS: Final = {
    "lab.target": "[Unit]\nRequires=basic.target\nWants=lab-job.service\nAfter=basic.target\nAllowIsolate=yes\n",
    "lab-job.service": (
        "[Unit]\nAfter=basic.target systemd-udevd.service\n"
        "[Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart=/bin/sh /run/lab/stage2\n"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestDisk:
    """A file of the host that the guest sees as a disk `/dev/ubdX` with a serial number."""

    image: Path
    serial: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestJob:
    """One run of the throw-away kernel.

    Attributes:
        command: what root runs in the guest; its exit code is the run's.
        tree: the root file system; None is the host's own. Never written.
        memory_mb: memory of the guest in MiB; everything the guest writes lives in it.
        modules: kernel modules to load besides `DEFAULT_MODULES`.
        read_only: folders of the host to see at the same path.
        writable: folders of the host to see and write at the same path.
        environment: variables of the command.
        directory: working directory; where the guest has none of that name it is /lab.
        timeout_seconds: after this long the guest is killed; None waits for ever.
        disks: disks of the guest, in the order of /dev/ubda, /dev/ubdb, and so on.
        interactive: connect the command to the caller's terminal instead of to files.
        systemd: boot the tree's systemd (its basic.target) and run the command as a service of it.

    """

    command: tuple[str, ...]
    tree: Path | None = None
    memory_mb: int = DEFAULT_MEMORY_MB
    modules: tuple[str, ...] = ()
    read_only: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None
    timeout_seconds: float | None = 600
    disks: tuple[GuestDisk, ...] = ()
    interactive: bool = False
    systemd: bool = False


def script_command(script: Path, arguments: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the command that runs a script: itself where it is executable, through /bin/sh otherwise."""
    absolute = script.absolute()
    interpreter = () if absolute.stat().st_mode & 0o111 else ("/bin/sh",)
    return (*interpreter, str(absolute), *arguments)


def kernel_command(job: GuestJob, folder: Path, *, terminal: tuple[int, int] | None = None) -> tuple[str, ...]:
    """Return the command line that boots a job.

    Args:
        job: the job.
        folder: its folder on the host, which becomes the root file system of the first process.
        terminal: file descriptors (in, out) of the caller's terminal, for an interactive job.

    """
    console = () if terminal is None else (f"con1=fd:{terminal[0]},fd:{terminal[1]}",)
    disks = tuple(f"ubd{number}={disk.image},,{disk.serial}" for number, disk in enumerate(job.disks))
    return (
        KERNEL,
        f"mem={job.memory_mb}M",
        "rootfstype=hostfs",
        f"rootflags={folder}",
        "rw",
        "quiet",
        "init=/init",
        "umid=lab",
        f"uml_dir={folder}/uml",
        "con=null",
        "con0=null,fd:1",
        *console,
        # 512 old-style terminals would each be a udev event
        "pty.legacy_count=0",
        *(_SYSTEMD_OPTIONS if job.systemd else ()),
        *disks,
    )


def mounts(job: GuestJob) -> tuple[tuple[str, Path], ...]:
    """Return the host folders to mount in the guest as (mode, path), outer folders first.

    What the root file system shows anyway is left out, so that an overlay and not the host itself takes the writes.

    Raises:
        UsageError: a path that the mount option cannot carry.

    """
    wanted = dict.fromkeys((_PACKAGE.parent, *job.read_only), "ro")
    if job.tree is None:
        wanted |= dict.fromkeys((Path(sys.prefix), Path(sys.base_prefix)), "ro")
        wanted = {path: mode for path, mode in wanted.items() if _is_hidden(path.absolute())}
    wanted |= dict.fromkeys(job.writable, "rw")
    for path in wanted:
        if "," in str(path) or "\n" in str(path):
            raise UsageError("The path has a character that the lab cannot mount.", details=str(path))
    return tuple(sorted(((mode, path.absolute()) for path, mode in wanted.items()), key=lambda item: item[1]))


def environment(job: GuestJob) -> dict[str, str]:
    """Return the environment of a job's command, built from scratch."""
    own_tree = job.tree is None
    library = (_PACKAGE.parent,) if own_tree else (ROOT_PYTHON_LIBRARY, _PACKAGE.parent)
    return {
        "PATH": f"{sys.prefix}/bin:{_SYSTEM_PATH}" if own_tree else _SYSTEM_PATH,
        # the home of the host's root may be closed to an ordinary user
        "HOME": "/lab",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PYTHONPATH": ":".join(str(path) for path in library),
        # what the guest sees of this machine is read-only: without a place for it all is compiled each time
        "PYTHONPYCACHEPREFIX": "/lab/pycache",
        "PYTHONUNBUFFERED": "1",
        "THINPOOLMGR_LAB": "1",
        **job.environment,
    }


def job_files(job: GuestJob) -> dict[str, str]:
    """Return the text files of a job's folder by name, all but the scripts of this package and busybox."""
    python = "/usr/bin/python3" if job.tree else str(interpreter())
    shell = {
        "LAB_CWD": str(job.directory.absolute()) if job.directory else "/lab",
        "LAB_TTY": "1" if job.interactive else "",
    }
    variables = environment(job)
    return {
        "command": f"exec {shlex.join(job.command)}\n",
        "env": "".join(
            [f"{name}={shlex.quote(value)}\n" for name, value in shell.items()]
            + [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
        ),
        "lvmlocal.conf": _LVM_CONFIGURATION,
        "masks": "".join(f"{path}\n" for path in _MASKED) if job.tree is None else "",
        "modules.list": " ".join((*DEFAULT_MODULES, *job.modules)) + "\n",
        "modules.path": f"{KERNEL_MODULES}\n",
        "mounts": "".join(f"{mode} {path}\n" for mode, path in mounts(job)),
        "stdout": "",
        "stderr": "",
        "tree.path": f"{(job.tree or Path('/')).absolute()}\n",
        **({"systemd": ""} if job.systemd else {}),
        "udev.rules": _UDEV_RULES,
        **{f"units/{name}": text for name, text in _UNITS.items()},
        "wrapper": f'#!/bin/sh\nexec {shlex.quote(python)} -m thinpoolmgr "$@"\n',
    }


def interpreter() -> Path:
    """Return the real interpreter of the calling environment: what is on PATH may be a slow shim."""
    candidate = Path(sys.prefix, "bin", "python3")
    return candidate if candidate.exists() else Path(sys.executable)


def write_files(job: GuestJob, folder: Path, busybox: Path) -> None:
    """Fill a job's folder with all that the guest's first process needs."""
    for name in _FOLDERS:
        (folder / name).mkdir()
    for name, text in job_files(job).items():
        (folder / name).write_text(text, encoding="utf-8")
    for name, source in (("init", "guest-init"), ("stage2", "guest-stage2")):
        (folder / name).write_bytes(Path(__file__).with_name(source).read_bytes())
    (folder / "busybox").write_bytes(busybox.read_bytes())
    for name in ("init", "busybox"):
        (folder / name).chmod(0o755)


def _is_hidden(path: Path) -> bool:
    return any(path == hidden or hidden in path.parents for hidden in _HIDDEN)
