"""What a host must have before machines are made on it; what is missing is said at once, with the way out."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from machine import PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

PROGRAMS: Final = {
    "vagrant": "vagrant",
    "virsh": "libvirt-clients",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "rsync": "rsync",
    "ssh": "openssh-client",
}
"""Each with the Debian package that has it."""
PROGRAMS_OF_OWN_LIBVIRT: Final = {
    "libvirtd": "libvirt-daemon-system libvirt-daemon-driver-qemu",
    "dnsmasq": "dnsmasq-base",
    "iptables": "iptables",
    "ip": "iproute2",
}
FREE_GIB: Final = 8
_OVERHEAD_MIB: Final = 256
"""What the machine itself needs, beside the memory that it has."""
_PROBE_SECONDS: Final = 3.0
# mov dx,0x501; mov al,1; out dx,al; hlt: qemu's isa-debug-exit ends it with 3, which no error of its own does
_BOOT_SECTOR: Final = b"\xba\x01\x05\xb0\x01\xee\xf4".ljust(510, b"\0") + b"\x55\xaa"


class BedError(Exception):
    """Machines cannot be had; the text says why, and what to do."""


def require_programs(programs: Mapping[str, str]) -> None:
    """Refuse where one is missing.

    Raises:
        BedError: the text has the packages.

    """
    if missing := [package for program, package in programs.items() if shutil.which(program) is None]:
        raise BedError(
            f"Not installed: {' '.join(missing)}\nRun: apt-get install --no-install-recommends {' '.join(missing)}"
        )


def require_plugin(plugins: str) -> None:
    """Refuse where `vagrant plugin list` has no vagrant-libvirt.

    Raises:
        BedError: it is missing.

    """
    if "vagrant-libvirt" not in plugins:
        raise BedError(
            "Vagrant has no plugin vagrant-libvirt.\n"
            "Run: apt-get install --no-install-recommends vagrant-libvirt\n"
            "or, with Vagrant's own package: vagrant plugin install vagrant-libvirt"
        )


def require_own(folder: Path) -> None:
    """Refuse a folder, as far as it exists, that is a link or another user's: what is noted there is obeyed.

    Raises:
        BedError: it is.

    """
    if not folder.is_symlink() and not folder.exists():
        return
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise BedError(f"{folder} is not a folder of this user's.\nSee who made it, and take it away: ls -ld {folder}")


def require_own_box(box: Path) -> None:
    """Refuse a box that root or this user did not make: its Vagrantfile runs as a program.

    Raises:
        BedError: somebody else can change it.

    """
    for path in (box, box.parent):
        if path.lstat().st_uid not in {0, os.geteuid()}:
            raise BedError(
                f"{path} belongs to somebody else.\nTake it away, or choose a box: TPM_BOX=debian/bookworm64"
            )


def require_nothing_of_others(libvirt: Path) -> None:
    """Refuse to start a libvirt of our own where there are machines, or things that would start with it.

    Raises:
        BedError: there are; the host's own libvirt is to be started.

    """
    machines = [path for path in libvirt.glob("qemu/*.xml") if not path.name.startswith(PREFIX)]
    if found := [*machines, *libvirt.glob("**/autostart/*")]:
        raise BedError(
            f"No libvirt answers at qemu:///system, and this host has machines or networks for one: {found[0]}\n"
            "Run: systemctl start libvirtd"
        )


def require_space(folder: Path) -> None:
    """Refuse where the disks of the machines do not fit.

    Raises:
        BedError: too little is free.

    """
    if (free := shutil.disk_usage(folder).free) < FREE_GIB << 30:
        raise BedError(
            f"{folder} has {free / 2**30:.1f} GiB free, and the machines need {FREE_GIB} GiB.\n"
            "Make room there, or name another storage pool of libvirt's: TPM_POOL=NAME"
        )


def require_memory(machines: int, mib: int, meminfo: str) -> None:
    """Refuse where so many machines, each with so much memory, do not fit into what /proc/meminfo says is there.

    Raises:
        BedError: too little is available.

    """
    available = next(int(line.split()[1]) for line in meminfo.splitlines() if line.startswith("MemAvailable:")) >> 10
    if available < (needed := machines * (mib + _OVERHEAD_MIB)):
        raise BedError(
            f"{available} MiB of memory are available, and {machines} machines at a time need {needed} MiB.\n"
            "End what uses it, or give them less: TPM_MEMORY=768"
        )


def why_no_kvm() -> str:
    """Return why KVM is of no use here, or nothing where it is.

    A nested one may be there and be slower than none: so a machine that only ends itself is started with it.
    """
    device = Path("/dev/kvm")
    if not device.exists():
        return "There is no /dev/kvm: no virtualisation, or it is switched off in the firmware."
    if not os.access(device, os.R_OK | os.W_OK):
        return "/dev/kvm is not for this user. Run: adduser $USER kvm, and log in again."
    with tempfile.NamedTemporaryFile() as disk:
        disk.write(_BOOT_SECTOR)
        disk.flush()
        command = (
            *("qemu-system-x86_64", "-accel", "kvm", "-m", "32", "-display", "none", "-nodefaults"),
            *("-device", "isa-debug-exit", "-drive", f"file={disk.name},format=raw"),
        )
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return f"/dev/kvm is there, and a machine that only ends takes more than {_PROBE_SECONDS:.0f} s with it."
    return "" if done.returncode == 3 else f"/dev/kvm is there, and qemu cannot use it: {done.stderr.strip()}"
