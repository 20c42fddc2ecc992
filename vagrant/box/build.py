#!/usr/bin/env python3
"""Builds a Vagrant box from Debian packages, where no box server can be reached; `make vagrant-box` runs it.

The box is for libvirt: the lab's Debian (thinpoolmgr/lab/root.py) with a kernel, a network, ssh and the user that
Vagrant expects. Its disk is one ext4 file system without a partition table, and libvirt boots the kernel that lies
beside it: so nothing is mounted on this machine, and no loader is installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from thinpoolmgr.lab import root as lab_root

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE: Final = Path(__file__).resolve().parent
PACKAGES: Final = (*lab_root.PACKAGES, "apparmor", "openssh-server", "rsync", "sudo")
KERNEL: Final = "linux-image-cloud-amd64"
DISK_GIB: Final = 6
NEEDED: Final = {
    "busybox": "busybox-static",
    "cpio": "cpio",
    "mkfs.ext4": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "qemu-img": "qemu-utils",
}
DRIVERS: Final = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
)
"""What the cloud kernel needs to see its disk, each after those that it needs itself."""


def main() -> None:
    """Build the box into the file that is the one argument."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: build.py FILE.box")
    box = Path(sys.argv[1]).resolve()
    missing = [package for program, package in NEEDED.items() if shutil.which(program) is None]
    if missing:
        raise SystemExit(
            f"missing: {' '.join(missing)}\nRun: apt-get install --no-install-recommends {' '.join(missing)}"
        )
    if os.geteuid():
        raise SystemExit("The box holds files of several users: only root can make it.")
    box.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=box.parent, prefix="making-") as name:
        work = Path(name)
        tree, kernel, parts = work / "tree", work / "kernel", work / "parts"
        parts.mkdir()
        with _step("Debian packages"):
            _make_tree(tree, work)
        with _step("kernel"):
            release = _unpack_kernel(kernel)
            (tree / "lib/modules").mkdir(exist_ok=True)
            (kernel / "lib/modules" / release).rename(tree / "lib/modules" / release)
            shutil.copy2(kernel / "boot" / f"vmlinuz-{release}", parts / "vmlinuz")
            _make_initrd(tree / "lib/modules" / release, parts / "initrd.gz", work)
        with _step("disk"):
            _make_disk(tree, parts / "box.img", work)
        with _step("box"):
            about = {"provider": "libvirt", "format": "qcow2", "virtual_size": DISK_GIB}
            (parts / "metadata.json").write_text(json.dumps(about), "utf-8")
            shutil.copy2(HERE / "Vagrantfile", parts / "Vagrantfile")
            new = work / "new.box"
            with tarfile.open(new, "w") as archive:
                for part in sorted(parts.iterdir()):
                    archive.add(part, part.name)
            new.replace(box)
    print(f"{box}: {box.stat().st_size >> 20} MiB")


@contextmanager
def _step(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"box: {what}: {time.monotonic() - began:.0f} s", flush=True)


def _run(*command: str | Path, folder: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def _make_tree(tree: Path, work: Path) -> None:
    command = lab_root.mmdebstrap_command(
        tree, lab_root.host_sources(work), lab_root.host_proxy_options(), is_root=True, packages=PACKAGES
    )
    _run(*command, f"--customize-hook={HERE}/customize.sh")
    lab_root.install_libraries(tree)


def _unpack_kernel(folder: Path) -> str:
    """Unpack the kernel's package, and return the release that it is."""
    folder.mkdir()
    shown = _run("apt-cache", "depends", "--no-recommends", "--no-suggests", KERNEL)
    package = next(line.split()[1] for line in shown.splitlines() if line.strip().startswith("Depends: linux-image-"))
    _run("apt-get", "download", "--quiet", "--quiet", package, folder=folder)
    _run("dpkg-deb", "--extract", next(folder.glob("*.deb")), folder)
    release = package.removeprefix("linux-image-")
    _run("depmod", "--basedir", folder, release)
    return release


def _make_initrd(modules: Path, initrd: Path, work: Path) -> None:
    """Make the few files that find the disk: a Debian's own take half a minute to unpack under emulation."""
    root = work / "initrd"
    for name in ("bin", "dev", "drivers", "proc", "root"):
        (root / name).mkdir(parents=True)
    shutil.copy2(shutil.which("busybox") or "", root / "bin/busybox")
    for number, name in enumerate(DRIVERS):
        found = next(modules.rglob(f"{name}.ko"), None)
        if found is not None:
            shutil.copy2(found, root / "drivers" / f"{number}-{name}.ko")
    shutil.copy2(HERE / "initrd-init", root / "init")
    (root / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    packed = subprocess.run(
        ["cpio", "--create", "--format=newc", "--quiet"],
        input=names.encode(),
        capture_output=True,
        cwd=root,
        check=True,
    )
    with initrd.open("wb") as file:
        subprocess.run(["gzip", "-1"], input=packed.stdout, stdout=file, check=True)


def _make_disk(tree: Path, image: Path, work: Path) -> None:
    raw = work / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(DISK_GIB << 30)
    _run("mkfs.ext4", "-q", "-F", "-O", "^metadata_csum_seed", "-E", "lazy_itable_init=1", "-d", tree, raw)
    _run("qemu-img", "convert", "-O", "qcow2", raw, image)
    raw.unlink()


if __name__ == "__main__":
    main()
