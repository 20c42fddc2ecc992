"""Where machines live: a libvirt, the host's or one of our own, and Vagrant that makes machines in it.

A host without a libvirt that answers (a container, a build machine) gets one of its own, in a network namespace, which
`stop` takes away again with all that is in it. Nothing is ended but by the pid that was noted when it was started.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HERE: Final = Path(__file__).resolve().parent
HOME: Final = Path("/var/tmp/thinpoolmgr-vagrant")
"""A folder that qemu's own user can look into, unlike root's home."""
BOX: Final = HOME / "thinpoolmgr.box"
BOX_NAME: Final = "thinpoolmgr"
PREFIX: Final = "thinpoolmgr-"
_NAMESPACE: Final = "thinpoolmgr-vagrant"
_NETWORK, _POOL = "vagrant-libvirt", "default"
_IMAGES: Final = Path("/var/lib/libvirt/images")
_DAEMONS: Final = ("virtlogd", "libvirtd")
_PACKAGES: Final = {
    "vagrant": "vagrant",
    "virsh": "libvirt-clients",
    "qemu-img": "qemu-utils",
    "rsync": "rsync",
    "ssh": "openssh-client",
}
_OWN_PACKAGES: Final = {
    "libvirtd": "libvirt-daemon-system libvirt-daemon-driver-qemu",
    "qemu-system-x86_64": "qemu-system-x86",
    "dnsmasq": "dnsmasq-base",
    "iptables": "iptables",
    "ip": "iproute2",
}
_FREE_BYTES: Final = 8 << 30
_MACHINE_MIB: Final = 1024
UP_SECONDS: Final = 900.0
BOOT_SECONDS: Final = 300.0


class BedError(Exception):
    """The bed cannot be made; the text says why, and what to do."""


class Answer(NamedTuple):
    """What a command on a machine gave back."""

    code: int
    out: str
    err: str


class Bed:
    """A libvirt and the machines in it."""

    def __init__(self) -> None:
        """Take up what an earlier bed of this host left running; start nothing."""
        self._noted = HOME / "daemons.json"
        self._inside: tuple[str, ...] = ()
        if self._own_pids():
            self._inside = ("ip", "netns", "exec", _NAMESPACE)
        self._environment = {**os.environ, "LIBVIRT_DEFAULT_URI": "qemu:///system", "VAGRANT_CWD": str(HERE)}
        if BOX.exists() and "TPM_BOX" not in os.environ:
            self._environment |= {"TPM_BOX": BOX_NAME, "VAGRANT_HOME": str(HOME / "home")}
        self._environment["VAGRANT_DEFAULT_PROVIDER"] = "libvirt"

    def start(self) -> None:
        """Make sure that there is all that machines need.

        Raises:
            BedError: something is missing; nothing was started.

        """
        self._require(_PACKAGES)
        plugins = self._output("vagrant", "plugin", "list")
        if "vagrant-libvirt" not in plugins:
            raise BedError(
                "Vagrant has no plugin vagrant-libvirt.\n"
                "Run: apt-get install --no-install-recommends vagrant-libvirt\n"
                "or:  vagrant plugin install vagrant-libvirt"
            )
        HOME.mkdir(mode=0o755, exist_ok=True)
        for folder in (HOME, _IMAGES if _IMAGES.exists() else HOME):
            if (free := shutil.disk_usage(folder).free) < _FREE_BYTES:
                raise BedError(f"{folder} has {free >> 30} GiB free, and the machines need {_FREE_BYTES >> 30}.")
        if self._answers():
            return
        if os.geteuid():
            raise BedError(
                "No libvirt answers at qemu:///system.\n"
                "Run: systemctl start libvirtd, and be in the group libvirt.\nOr run this as root: it starts its own."
            )
        self._require(_OWN_PACKAGES)
        self._start_own()

    def _require(self, packages: dict[str, str]) -> None:
        missing = [package for program, package in packages.items() if shutil.which(program) is None]
        if missing:
            raise BedError(
                f"missing: {' '.join(missing)}\nRun: apt-get install --no-install-recommends {' '.join(missing)}"
            )

    def _answers(self) -> bool:
        command = (*self._inside, "virsh", "--connect", "qemu:///system", "version")
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _start_own(self) -> None:
        subprocess.run(["ip", "netns", "add", _NAMESPACE], capture_output=True, check=False)
        self._inside = ("ip", "netns", "exec", _NAMESPACE)
        subprocess.run((*self._inside, "ip", "link", "set", "lo", "up"), check=True)
        Path("/run/libvirt").mkdir(exist_ok=True)
        pids = {}
        for daemon in _DAEMONS:
            with (HOME / f"{daemon}.log").open("wb") as log:
                process = subprocess.Popen(
                    (*self._inside, daemon), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            pids[daemon] = [process.pid, _began(process.pid)]
            self._noted.write_text(json.dumps(pids), "utf-8")
        if not _until(self._answers, 30):
            said = (HOME / "libvirtd.log").read_text("utf-8", "replace")[-2000:]
            self.stop()
            raise BedError(f"libvirtd was started, and does not answer. It said:\n{said}")

    def _own_pids(self) -> list[int]:
        """Return the daemons of our own that are running, the first started first."""
        try:
            noted = json.loads(self._noted.read_text("utf-8"))
        except (OSError, ValueError):
            return []
        return [pid for pid, began in noted.values() if _began(pid) == began]

    def stop(self) -> None:
        """Take away all that was made: machines, disks, the box, and libvirt where it is our own."""
        if self._inside or self._answers():
            self._destroy_machines()
        if self._inside:
            for command in (("net-destroy", _NETWORK), ("net-undefine", _NETWORK), ("pool-destroy", _POOL)):
                self._virsh(*command)
            for pid in reversed(self._own_pids()):
                os.kill(pid, signal.SIGTERM)
                _until(partial(_has_ended, pid), 10)
            subprocess.run(["ip", "netns", "delete", _NAMESPACE], capture_output=True, check=False)
            self._inside = ()
        for path in (self._noted, *HOME.glob("*.ssh"), *HOME.glob("*.log")):
            path.unlink(missing_ok=True)
        shutil.rmtree(HOME / "home", ignore_errors=True)

    def _destroy_machines(self) -> None:
        self.vagrant("destroy", "--force")
        for disk in self._output(*self._inside, "virsh", "vol-list", _POOL).splitlines():
            name = disk.split()[0] if disk.split() else ""
            if name.startswith((PREFIX, f"{BOX_NAME}_vagrant_box_image")):
                self._virsh("vol-delete", name, "--pool", _POOL)

    def vagrant(self, *arguments: str, tell: Callable[[str], None] | None = None) -> None:
        """Run Vagrant; each line that it says is told.

        Raises:
            BedError: it failed; the text has its last lines.

        """
        command = (*self._inside, "vagrant", *arguments)
        environment = dict(self._environment)
        if self._inside:
            # a host without a libvirt is a container or a virtual machine, where /dev/kvm may be there and not work
            environment.setdefault("TPM_DRIVER", "qemu")
        lines: list[str] = []
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            errors="replace",
        ) as process:
            for line in process.stdout or ():
                # an upload draws its progress over itself
                text = line.rstrip().rpartition("\r")[2]
                # where in Vagrant's own code it went wrong helps nobody
                if text and "Progress:" not in text and not text.lstrip().startswith("from /"):
                    lines.append(text)
                    if tell:
                        tell(text)
        if process.returncode:
            raise BedError(f"vagrant {' '.join(arguments)} failed. It said last:\n" + "\n".join(lines[-15:]))

    def up(self, names: Iterable[str], tell: Callable[[str], None]) -> None:
        """Have machines running and provisioned.

        Raises:
            BedError: it did not work.

        """
        if BOX.exists() and "TPM_BOX" not in os.environ and BOX_NAME not in self._output("vagrant", "box", "list"):
            self.vagrant("box", "add", "--name", BOX_NAME, str(BOX))
        for name in names:
            self.vagrant("up", name, tell=tell)
            self._ssh_config(name).write_text(self._output(*self._inside, "vagrant", "ssh-config", name), "utf-8")

    def machine(self, name: str) -> Machine:
        """Return one that is up."""
        return Machine(name, self._inside, self._environment, self._ssh_config(name))

    @staticmethod
    def _ssh_config(name: str) -> Path:
        return HOME / f"{name}.ssh"

    def _output(self, *command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, env=self._environment, check=False).stdout

    def _virsh(self, *arguments: str) -> None:
        subprocess.run((*self._inside, "virsh", *arguments), capture_output=True, env=self._environment, check=False)


class Machine:
    """One machine: commands as root, its power switch and its disks."""

    def __init__(self, name: str, inside: tuple[str, ...], environment: dict[str, str], ssh_config: Path) -> None:
        """Reach it as `ssh_config` says."""
        self.name = name
        self._inside = inside
        self._environment = environment
        self._ssh = (*inside, "ssh", "-F", str(ssh_config), "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=10", name)
        self._domain = f"{PREFIX}{name}"

    def __call__(self, script: str, *, ok: bool = True, seconds: float = 600.0) -> Answer:
        """Run a script of the shell as root; with `ok` it must end with 0."""
        command = (*self._ssh, f"sudo sh -c {shlex.quote(script)}")
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
        answer = Answer(done.returncode, done.stdout, done.stderr)
        assert not ok or answer.code == 0, f"{self.name}: {script}\nended with {answer.code}\n{answer.out}{answer.err}"
        return answer

    def open_shell(self) -> NoReturn:
        """Become a shell on it."""
        os.execvp(self._ssh[0], self._ssh)  # noqa: S606 - to be it is what was asked for

    def write(self, path: str, text: str) -> None:
        """Write a file, with the folders that it needs."""
        self(f"mkdir -p $(dirname {path}) && cat >{path} <<'END-OF-FILE'\n{text}\nEND-OF-FILE\n")

    def until(self, script: str, seconds: float = 120.0) -> None:
        """Wait until a script of the shell ends with 0; fail when it does not."""
        assert _until(lambda: self(script, ok=False).code == 0, seconds), (
            f"{self.name}: not in {seconds:.0f} s: {script}"
        )

    def cut_power(self) -> None:
        """Switch it off as a power failure does."""
        self._virsh("destroy", self._domain)

    def boot(self) -> None:
        """Switch it on, and wait until it has booted."""
        self._virsh("start", self._domain)
        self._wait_for_boot("")

    def reboot(self) -> None:
        """Have it shut down and boot."""
        before = self._boot_id()
        self("systemctl reboot", ok=False)
        self._wait_for_boot(before)

    def plug(self, serial: str, mib: int = 1024) -> str:
        """Plug a new disk in, and return its path there."""
        target = next(name for letter in "fghij" if (name := f"vd{letter}") not in self._disks())
        image = f"{self._domain}-{serial}.img"
        self._virsh("vol-create-as", _POOL, image, f"{mib}MiB", "--format", "raw")
        path = self._virsh("vol-path", image, "--pool", _POOL).strip()
        self._virsh("attach-disk", self._domain, path, target, "--serial", serial, "--driver", "qemu", "--live")
        return f"/dev/disk/by-id/virtio-{serial}"

    def pull_plugged(self) -> None:
        """Pull all disks that were plugged in, and delete them."""
        for target, path in self._disks().items():
            image = Path(path).name
            if re.fullmatch(rf"{self._domain}-[\w-]+\.img", image) and target in {f"vd{letter}" for letter in "fghij"}:
                self._virsh("detach-disk", self._domain, target, "--live")
                self._virsh("vol-delete", image, "--pool", _POOL)

    def _disks(self) -> dict[str, str]:
        lines = self._virsh("domblklist", self._domain).splitlines()[2:]
        return {words[0]: words[1] for line in lines if len(words := line.split()) == 2}

    def _boot_id(self) -> str:
        return self("cat /proc/sys/kernel/random/boot_id", ok=False, seconds=30).out.strip()

    def _wait_for_boot(self, before: str) -> None:
        def is_up() -> bool:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._boot_id() not in {"", before}
            return False

        assert _until(is_up, BOOT_SECONDS), f"{self.name} did not come up again"
        # what the boot started has started, or failed
        self("systemctl is-system-running --wait", ok=False, seconds=BOOT_SECONDS)

    def _virsh(self, *arguments: str) -> str:
        done = subprocess.run(
            (*self._inside, "virsh", *arguments), capture_output=True, text=True, env=self._environment, check=False
        )
        assert done.returncode == 0, f"virsh {' '.join(arguments)}: {done.stderr}"
        return done.stdout


def _began(pid: int) -> int | None:
    """Return when a process was started, in clock ticks since boot; None: there is none."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] == "Z" else int(words[19])


def _has_ended(pid: int) -> bool:
    return _began(pid) is None


def _until(is_true: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_true():
            return True
        time.sleep(0.5)
    return False
