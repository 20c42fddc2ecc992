"""Devices that the lab's kernel makes of loop disks, and what every pool goes through on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab_tool import Tool, group_names, is_blank, sh

from thinpoolmgr.core.model import Disk
from thinpoolmgr.host import block, udev
from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]
MIB = 2**20
SIZE = 512 * MIB
LVM_LOCAL = Path("/etc/lvm/lvmlocal.conf")
# two partitions of 200 MiB
TABLE = "label: gpt\nsize=200MiB\nsize=200MiB\n"


def look_at(path: Path | str) -> Disk:
    """Return what the product sees of a device."""
    node = block.resolve_device(str(path)).disk
    return block.observe_disk(node, udev.device_properties(block.Roots().devno(node)))


@contextmanager
def partitions(disk: LoopDisk) -> Iterator[tuple[Path, Path]]:
    """Give two partitions: a second loop device on the disk's file that the kernel reads the table of."""
    sh("sh", "-c", f"printf '{TABLE}' | sfdisk -q {disk.path}")
    disk.detach()
    sh("udevadm", "settle")
    whole = sh("losetup", "--find", "--show", "--partscan", disk.image).strip()
    sh("udevadm", "settle")
    try:
        yield Path(f"{whole}p1"), Path(f"{whole}p2")
    finally:
        sh("vgremove", "-q", "-ff", "-y", "docker", check=False)
        sh("losetup", "--detach", whole)
        sh("udevadm", "settle")
        disk.attach()


@contextmanager
def multipath(disk: LoopDisk, name: str = "test") -> Iterator[Path]:
    """Give a device that looks like multipath's, with `disk` as its only path.

    LVM knows the paths of SCSI and NVMe disks by itself (lib/device/dev-mpath.c); here a filter does the same.
    """
    LVM_LOCAL.write_text(f'devices {{ global_filter = ["r|^{disk.path}$|"] }}\n')
    table = f"0 {disk.size_bytes // 512} linear {disk.path} 0"
    sh("dmsetup", "create", name, "--uuid", f"mpath-{name}", "--table", table)
    sh("udevadm", "settle")
    try:
        yield Path("/dev/mapper") / name
    finally:
        sh("vgremove", "-q", "-ff", "-y", "docker", check=False)
        sh("dmsetup", "remove", "--retry", name)
        LVM_LOCAL.unlink()


def live(tool: Tool, *devices: Path | str) -> None:
    """Go through a pool's whole life on `devices`, which are blank at its end."""
    nodes = {block.resolve_device(str(device)).disk for device in devices}
    tool.succeed("apply", "--yes")
    assert tool("plan").code == 0
    found = tool.pool()
    assert (found["state"], {device["path"] for device in found["devices"]}) == ("healthy", nodes)
    assert tool.succeed("status", "--check").code == 0
    tool.succeed("deactivate", "docker", "--yes")
    assert tool.pool()["state"] == "inactive"
    tool.succeed("activate", "docker", "--yes")
    assert tool.pool()["state"] == "healthy"
    tool.succeed("destroy", "docker", "--yes", "--allow", "destroy")
    assert "docker" not in group_names()
    assert all(is_blank(Path(node)) for node in nodes)
    assert tool.pool()["state"] == "absent"


def codes(tool: Tool) -> list[str]:
    """Return the codes of what a plan refuses."""
    return [refusal["code"] for refusal in tool("plan", "--json").document["refusals"]]
