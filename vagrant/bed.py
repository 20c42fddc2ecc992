"""Where machines live: a libvirt, the host's or one of our own, and Vagrant that makes machines in it.

A host without a libvirt that answers (a container, a build machine) gets one of its own, in a network namespace, which
`stop` takes away again with all that is in it. Nothing is ended but by the pid that was noted when it was started.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from machine import PREFIX, Machine, Place, until
from preflight import (
    PROGRAMS,
    PROGRAMS_OF_OWN_LIBVIRT,
    BedError,
    require_memory,
    require_nothing_of_others,
    require_own,
    require_own_box,
    require_plugin,
    require_programs,
    require_space,
    why_no_kvm,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

HERE: Final = Path(__file__).resolve().parent
BOX: Final = Path("/var/tmp/thinpoolmgr-vagrant/thinpoolmgr.box")
"""What `make vagrant-box` makes; in a folder that qemu's own user can look into, unlike root's home."""
BOX_NAME: Final = "thinpoolmgr"
HOME: Final = BOX.parent if os.geteuid() == 0 else BOX.parent.with_name(f"{BOX.parent.name}-{os.geteuid()}")
MACHINES: Final = ("solo", "one", "two", "three")
AT_A_TIME: Final = 3
_NAMESPACE: Final = "thinpoolmgr-vagrant"
_NETWORK: Final = "vagrant-libvirt"
_IMAGES: Final = Path("/var/lib/libvirt/images")
_DAEMONS: Final = ("virtlogd", "libvirtd")


class Bed:
    """A libvirt and the machines in it."""

    def __init__(self, tell: Callable[[str], None] = print) -> None:
        """Take up what an earlier bed of this host left running; start nothing."""
        self._tell = tell
        require_own(HOME)
        self._noted = HOME / "daemons.json"
        self._made = HOME / "machines.json"
        self._inside: tuple[str, ...] = ("ip", "netns", "exec", _NAMESPACE) if self._own_pids() else ()
        self._pool = os.environ.get("TPM_POOL", "default")
        self._environment = {
            **os.environ,
            # what a machine was made of is known of this checkout only
            "TPM_CHECKOUT": str(HERE.parent),
            "LIBVIRT_DEFAULT_URI": "qemu:///system",
            "VAGRANT_CWD": str(HERE),
            "VAGRANT_DEFAULT_PROVIDER": "libvirt",
        }
        self._has_own_box = BOX.exists() and "TPM_BOX" not in os.environ
        if self._has_own_box:
            require_own_box(BOX)
            self._environment |= {"TPM_BOX": BOX_NAME, "VAGRANT_HOME": str(HOME / "home")}
        self._lock: int | None = None
        self._running: tuple[str, ...] = ()

    def start(self) -> None:
        """Make sure that there is all that machines need, and hold it against a second run.

        Raises:
            BedError: something is missing; nothing was started.

        """
        require_programs(PROGRAMS)
        require_plugin(self._output("vagrant", "plugin", "list"))
        self._take_lock()
        is_there = self._answers()
        if not self._machines():
            require_space(HOME)
            require_space(self._images() if is_there else _IMAGES)
            memory = int(self._environment.get("TPM_MEMORY", "1024"))
            require_memory(AT_A_TIME, memory, Path("/proc/meminfo").read_text("utf-8"))
        if not is_there:
            if os.geteuid():
                raise BedError(
                    "No libvirt answers at qemu:///system.\n"
                    "Run: systemctl start libvirtd, and be in the group libvirt.\n"
                    "Or run this as root: it starts one of its own."
                )
            require_programs(PROGRAMS_OF_OWN_LIBVIRT)
            require_nothing_of_others(Path("/etc/libvirt"))
        self._choose_driver(is_own=bool(self._inside) or not is_there)
        if not is_there:
            self._start_own()
        # After a boot of the host they are there, and do not run. Where they are not there yet Vagrant makes them.
        self._virsh("pool-start", self._pool)
        self._virsh("net-start", _NETWORK)
        for name in MACHINES:
            self._require_ours(name)

    def _require_ours(self, name: str) -> None:
        made_in = self._machines().get(name)
        if made_in is None and self.machine(name).exists():
            raise BedError(
                f"The machine {name} is there, and was not made for the stories, which would take it away.\n"
                f"Take it away where it was made: vagrant destroy {name}"
            )
        if made_in not in {None, str(HERE)}:
            raise BedError(f"The machine {name} was made in {made_in}.\nRun there first: make vagrant-clean")

    def _machines(self) -> dict[str, str]:
        """Return the machines that were made for stories, each with the folder of the Vagrantfile it was made by."""
        try:
            return dict(json.loads(self._made.read_text("utf-8")))
        except (OSError, ValueError):
            return {}

    def _take_lock(self) -> None:
        HOME.mkdir(mode=0o755, exist_ok=True)
        # Held until this process ends.
        self._lock = os.open(HOME / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BedError("Another run is under way on this host.") from error

    def _choose_driver(self, *, is_own: bool) -> None:
        if "TPM_DRIVER" in self._environment:
            return
        if not (why := why_no_kvm()):
            self._environment["TPM_DRIVER"] = "kvm"
        elif is_own:
            # a host without a libvirt is a container or a build machine: there it is no mistake
            self._tell(f"{why} Machines are emulated: ten times as slow.")
            self._environment["TPM_DRIVER"] = "qemu"
        else:
            raise BedError(f"{why}\nOr have machines emulated, ten times as slow: TPM_DRIVER=qemu")

    def _answers(self) -> bool:
        command = (*self._inside, "virsh", "--connect", "qemu:///system", "version")
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _images(self) -> Path:
        """Return the folder of libvirt's storage pool."""
        found = re.search("<path>(.*)</path>", self._output(*self._inside, "virsh", "pool-dumpxml", self._pool))
        return Path(found[1]) if found and Path(found[1]).is_dir() else _IMAGES

    def _start_own(self) -> None:
        subprocess.run(["ip", "netns", "add", _NAMESPACE], capture_output=True, check=False)
        self._inside = ("ip", "netns", "exec", _NAMESPACE)
        subprocess.run((*self._inside, "ip", "link", "set", "lo", "up"), check=True)
        # One that is started anew knows no longer what it found.
        made = self._read_noted()["made"] or [str(path) for path in self._traces() if not path.exists()]
        Path("/run/libvirt").mkdir(exist_ok=True)
        pids: dict[str, list[int | None]] = {}
        for daemon in _DAEMONS:
            with (HOME / f"{daemon}.log").open("wb") as log:
                process = subprocess.Popen(
                    (*self._inside, daemon), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            pids[daemon] = [process.pid, _began(process.pid)]
            self._noted.write_text(json.dumps({"pids": pids, "made": made}), "utf-8")
        if not until(self._answers, 30):
            said = (HOME / "libvirtd.log").read_text("utf-8", "replace")[-2000:]
            self.stop()
            raise BedError(f"libvirtd was started, and does not answer. It said:\n{said}")

    def _traces(self) -> list[Path]:
        """Return what libvirt and Vagrant leave behind, beside machines, on a host where libvirt has never run."""
        logs = [Path(f"/var/log/libvirt/qemu/{PREFIX}{name}.log") for name in MACHINES]
        definitions = (f"storage/{self._pool}.xml", f"qemu/networks/{_NETWORK}.xml")
        return [Path("/run/libvirt"), *(Path("/etc/libvirt") / each for each in definitions), *logs]

    def _read_noted(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._noted.read_text("utf-8")))
        except (OSError, ValueError):
            return {"pids": {}, "made": []}

    def _own_pids(self) -> list[int]:
        """Return the daemons of our own that are running, the first started first."""
        return [pid for pid, began in self._read_noted()["pids"].values() if _began(pid) == began]

    def have(self, names: Sequence[str], state: str) -> bool:
        """Have these machines ready for stories, and no others running; return whether one had to be made.

        A machine is ready when it keeps a state of this name: provisioned with just these files.

        Raises:
            BedError: it did not work.

        """
        if self._running == tuple(names):
            return False
        for name in MACHINES:
            if name not in names and name in self._machines():
                self.machine(name).cut_power()
        stale = [name for name in names if state not in (saved := self.machine(name).saved()) and saved]
        new = [name for name in names if not self.machine(name).saved()]
        for name in stale:
            self._tell(f"again   {name}: the product has changed")
            machine = self.machine(name)
            machine.put_back(machine.saved()[0])
            self.vagrant("rsync", name)
            self.vagrant("provision", name)
        # what was interrupted while it was made
        if half_made := [name for name in new if self.machine(name).exists()]:
            self.vagrant("destroy", "--force", *half_made)
        if new:
            self._make(new)
        for name in [*stale, *new]:
            self.machine(name).save(state)
        self._running = tuple(names)
        return bool(stale or new)

    def _make(self, names: Iterable[str]) -> None:
        self._tell(f"make    {', '.join(names)}: takes minutes where machines are emulated")
        if self._has_own_box and BOX_NAME not in self._output("vagrant", "box", "list"):
            self.vagrant("box", "add", "--name", BOX_NAME, str(BOX))
        self._made.write_text(json.dumps(self._machines() | dict.fromkeys(names, str(HERE))), "utf-8")
        self.vagrant("up", *names)
        for name in names:
            (HOME / f"{name}.ssh").write_text(self._output(*self._inside, "vagrant", "ssh-config", name), "utf-8")

    def machine(self, name: str) -> Machine:
        """Return one, whether it is there or not."""
        return Machine(name, Place(self._inside, self._environment, HOME, self._pool))

    def stop(self) -> None:
        """Take away all that was made: machines, disks, the box, and libvirt where it is our own.

        Raises:
            BedError: another run is under way, or machines are another clone's, or their libvirt does not answer.

        """
        if self._lock is None:
            self._take_lock()
        if not self._inside and self._read_noted()["pids"]:
            # It has died, or the host was booted: what is left can be taken away through it only.
            self._start_own()
        if machines := self._machines():
            for name in machines:
                self._require_ours(name)
            if not self._answers():
                raise BedError(f"No libvirt answers, and it has {', '.join(machines)}.\nRun: systemctl start libvirtd")
            self._virsh("pool-start", self._pool)
            self._destroy_machines(list(machines))
        if self._inside:
            self._virsh("net-destroy", _NETWORK)
            self._virsh("pool-destroy", self._pool)
            for pid in reversed(self._own_pids()):
                os.kill(pid, signal.SIGTERM)
                until(partial(_has_ended, pid), 10)
            subprocess.run(["ip", "netns", "delete", _NAMESPACE], capture_output=True, check=False)
            for path in map(Path, self._read_noted()["made"]):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            self._inside = ()
        for path in (self._noted, self._made, HOME / "lock", *HOME.glob("*.ssh"), *HOME.glob("*.log")):
            path.unlink(missing_ok=True)
        shutil.rmtree(HOME / "home", ignore_errors=True)
        with contextlib.suppress(OSError):
            # stays where a box is in it
            HOME.rmdir()

    def _destroy_machines(self, names: Sequence[str]) -> None:
        for name in names:
            # ends the connection that is kept, too
            self.machine(name).cut_power()
        self.vagrant("destroy", "--force", *names)
        # Vagrant's own; disks that were plugged in; and what all machines of our own box begin with
        own = rf"{PREFIX}({'|'.join(names)})(\.img|-vd[a-z]\.qcow2|-plugged-.+\.img)"
        ours = re.compile(rf"{own}|{BOX_NAME}_vagrant_box_image_.*")
        for disk in self._output(*self._inside, "virsh", "vol-list", self._pool).splitlines():
            name = disk.split()[0] if disk.split() else ""
            if ours.fullmatch(name):
                self._virsh("vol-delete", name, "--pool", self._pool)

    def vagrant(self, *arguments: str) -> None:
        """Run Vagrant.

        Raises:
            BedError: it failed; the text says in which step of which machine, or has its last lines.

        """
        lines: list[str] = []
        # not of this terminal's: it is asked to end once, and gets the time to take away what is half made
        with subprocess.Popen(
            ("setpriv", "--pdeathsig", "INT", *self._inside, "vagrant", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                # an upload draws its progress over itself
                lines.extend(line.rstrip().rpartition("\r")[2] for line in process.stdout or ())
            except KeyboardInterrupt:
                self._tell("interrupted: Vagrant takes away what is half made")
                process.send_signal(signal.SIGINT)
                process.communicate()
                raise
        if process.returncode:
            raise BedError(f"vagrant {' '.join(arguments)} failed.\n" + "\n".join(what_failed(lines)))

    def _output(self, *command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, env=self._environment, check=False).stdout

    def _virsh(self, *arguments: str) -> None:
        subprocess.run((*self._inside, "virsh", *arguments), capture_output=True, env=self._environment, check=False)


def what_failed(lines: Sequence[str]) -> list[str]:
    """Return what matters of what Vagrant said: the step of `provision.sh` that failed, or the last lines."""
    for number, line in enumerate(lines):
        if found := re.match(r"\s*(\S+: )provisioning of \S+ failed in the step", line):
            name = found[1]
            return [after.partition(name)[2] for after in lines[number:] if after.lstrip().startswith(name)]
    # where in Vagrant's own code it went wrong helps nobody
    said = [line for line in lines if line and "Progress:" not in line and not line.lstrip().startswith("from /")]
    return ["It said last:", *said[-15:]]


def _began(pid: int) -> int | None:
    """Return when a process was started, in clock ticks since boot; None: there is none."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] == "Z" else int(words[19])


def _has_ended(pid: int) -> bool:
    return _began(pid) is None
