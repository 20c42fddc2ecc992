"""The stage of the lab: loop disks, LVM and device-mapper of the guest."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from cut_short import cut_short
from lab_tool import sh

from thinpoolmgr.core.names import pool_dm_name
from thinpoolmgr.core.profiles import PROFILE_FOLDER, PROFILE_PREFIX, profile_name, profile_path, profile_text
from thinpoolmgr.host.perform import RealHost

if TYPE_CHECKING:
    from words import Act

    from thinpoolmgr.core.desired import DesiredPool, DesiredState
    from thinpoolmgr.cycle import Host
    from thinpoolmgr.lab.loop import LoopDisk


DAEMON_JSON = Path("/etc/docker/daemon.json")
DATA_ROOT = Path("/var/lib/docker")
# as Docker 20.10 writes them
RECORDS = {
    "base": '{"device_id": 1, "size": 1073741824, "transaction_id": 1, "initialized": true, "deleted": false}',
    "deviceset-metadata": '{"next_device_id": 5, "BaseDeviceUUID": "u-1", "BaseDeviceFilesystem": "xfs"}',
    "transaction-metadata": '{"open_transaction_id": 4, "device_hash": "base", "device_id": 1}',
}


def write(path: Path, text: str) -> None:
    """Write a file, and its folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


class KernelStage:
    """The guest with loop disks of 1 GiB."""

    def __init__(self, disks: tuple[LoopDisk, ...], folder: Path) -> None:
        """Use `disks`; mount below `folder`."""
        self._disks = disks
        self._folder = folder
        self._paths = [str(disk.path) for disk in disks]
        self._away: dict[str, int] = {}
        DAEMON_JSON.unlink(missing_ok=True)

    def paths(self) -> tuple[str, ...]:
        """Return the disks' nodes, as they are now or were when they vanished."""
        return tuple(self._paths)

    def host(self, desired: DesiredState) -> Host:
        """Return this host."""
        return RealHost(desired)

    def act(self, act: Act, pool: DesiredPool) -> None:
        """Do what somebody does."""
        disk, path = self._disks[act.disk], self._paths[act.disk]
        if act.what == "vanish":
            self._vanish(disk, path)
        elif act.what == "return":
            self._return(act.disk)
        elif act.what == "stale engine state":
            for name, text in RECORDS.items():
                write(DATA_ROOT / "devicemapper/metadata" / name, text)
        elif act.what == "broken engine config":
            write(DAEMON_JSON, "{")
        elif act.what == "mount":
            sh("mount", path, self._folder)
        elif act.what == "edit profile":
            write(Path(profile_path(profile_name(pool))), profile_text(pool).replace("80", "90"))
        elif act.what == "lose labels":
            sh("wipefs", "--all", "--force", *self._paths)
        else:
            for command in COMMANDS.get(act.what, ()):
                sh(*words_of(command, path, pool))
            if act.what in CUT_SHORT:
                command, count = CUT_SHORT[act.what]
                cut_short(words_of(command, path, pool), count)
        sh("udevadm", "settle")

    def _vanish(self, disk: LoopDisk, path: str) -> None:
        """Detach the disk, and take its node away: that of a loop device stays, that of a disk does not."""
        self._away[path] = os.stat(path).st_rdev
        disk.detach()
        sh("udevadm", "settle")
        os.unlink(path)

    def _return(self, number: int) -> None:
        path = self._paths[number]
        os.mknod(path, stat.S_IFBLK | 0o660, self._away.pop(path))
        self._paths[number] = str(self._disks[number].attach())

    def clean(self) -> None:
        """Undo what the disks' own clean-up does not."""
        for number, path in enumerate(self._paths):
            if path in self._away:
                self._return(number)
            sh("swapoff", path, check=False)
        sh("umount", self._folder, check=False)
        DAEMON_JSON.unlink(missing_ok=True)
        for profile in Path(PROFILE_FOLDER).glob(f"{PROFILE_PREFIX}*"):
            profile.unlink()
        shutil.rmtree(DATA_ROOT, ignore_errors=True)


def words_of(command: str, disk: str, pool: DesiredPool) -> tuple[str, ...]:
    """Return the words of `command`; a tilde is a space within one word."""
    dm = pool_dm_name(pool.group, pool.lv)
    words = command.format(disk=disk, vg=pool.group, lv=pool.lv, dm=dm, profile=profile_name(pool))
    return tuple(word.replace("~", " ") for word in words.split())


COMMANDS: dict[str, tuple[str, ...]] = {
    "ext4": ("mkfs.ext4 -q {disk}",),
    "xfs": ("mkfs.xfs -q {disk}",),
    "swap": ("mkswap {disk}",),
    "gpt": ("sh -c echo~label:~gpt|sfdisk~-q~{disk}",),
    "label": ("pvcreate -q {disk}",),
    "swapon": ("swapon {disk}",),
    "hold": ("dmsetup create layer --table 0~2000~linear~{disk}~0",),
    "group of others": ("vgcreate -q other {disk}",),
    "group like ours": ("vgcreate -q --addtag thinpoolmgr {vg} {disk}",),
    "empty group": ("vgcreate -q {vg} {disk}",),
    "half-made volumes": (
        "vgcreate -q {vg} {disk}",
        "lvcreate -q --wipesignatures y -n thinpool {vg} --extents 95%VG",
        "lvcreate -q --wipesignatures y -n thinpoolmeta {vg} --extents 1%VG",
    ),
    "ext4 on a volume": ("mkfs.ext4 -q /dev/{vg}/thinpoolmeta",),
    "pool of others": ("vgcreate -q {vg} {disk}", "lvcreate -q --type thin-pool -L 100M -n {lv} {vg}"),
    "volume of others": ("lvcreate -q -y -L 20M -n precious {vg}",),
    "remove volume of others": ("lvremove -q -y {vg}/precious",),
    "first commit": ("lvcreate -q -y -Wn -Zn -L 12M -n lvol0 {vg}",),
    "second commit": ("lvcreate -q -y -Wn -Zn -an -L 12M -n {lv} --addtag thinpoolmgr {vg}",),
    "deactivate": ("vgchange -q -an {vg}",),
    "only components": ("dmsetup remove {dm}",),
    "untag": ("vgchange -q --deltag thinpoolmgr {vg}",),
    "error when full": ("lvchange -q --errorwhenfull y {vg}/{lv}",),
    "thin device": (
        "dmsetup message {dm} 0 create_thin~1",
        "dmsetup create docker-t --table 0~819200~thin~/dev/mapper/{dm}~1",
    ),
    "remove spare": ("lvremove -q -y {vg}/lvol0_pmspare",),
    "untag pool": ("lvchange -q --deltag thinpoolmgr {vg}/{lv}",),
    "half tagged": ("vgchange -q --addtag thinpoolmgr {vg}",),
    "discards by hand": ("lvchange -q --discards nopassdown {vg}/{lv}",),
    "half attached": ("lvchange -q --metadataprofile {profile} {vg}/{lv}",),
}
# the command, and at which suspending or resuming of a device it is killed
CUT_SHORT = {
    "half extended data, old": ("lvextend -q -L +100M {vg}/{lv}", 3),
    "half extended data, new": ("lvextend -q -L +100M {vg}/{lv}", 5),
    "half extended metadata, old": ("lvextend -q --poolmetadatasize +8M {vg}/{lv}", 3),
    "half extended metadata, new": ("lvextend -q --poolmetadatasize +8M {vg}/{lv}", 5),
    "half extended metadata, spare": ("lvextend -q --poolmetadatasize +8M {vg}/{lv}", 2),
    "half set discards, old": ("lvchange -q --discards nopassdown {vg}/{lv}", 2),
    "half set discards, new": ("lvchange -q --discards nopassdown {vg}/{lv}", 4),
}
