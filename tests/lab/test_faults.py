"""What goes wrong between and inside commands: kills, lost labels, I/O errors. Run again, and it converges."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SYS_BLOCK, wait_until
from lab_tool import STATE_FOLDER, Tool, dm_names, group_names, is_blank, kill_at, seqno, sh, words

from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]
DESTROY = ("destroy", "docker", "--yes", "--allow", "destroy")


APPLY = ("apply", "--yes")
OTHERS = ("lvchange", "vgremove")
STEPS = [
    pytest.param(program, command, before, marks=pytest.mark.campaign if before or program in OTHERS else ())
    for program, command in (
        ("vgcreate", APPLY),
        ("lvcreate", APPLY),
        ("lvchange", DESTROY),
        ("lvremove", DESTROY),
        ("vgremove", DESTROY),
        ("pvremove", DESTROY),
    )
    for before in (True, False)
]


@pytest.mark.parametrize(("program", "command", "before"), STEPS)
def test_a_kill_before_or_after_any_command_is_repaired_by_running_again(
    tool: Tool, loop_disks: MakeDisk, program: str, command: tuple[str, ...], *, before: bool
) -> None:
    disk = loop_disks()
    tool.configure(disk.path)
    if command == DESTROY:
        tool.succeed(*APPLY)
    kill_at(tool, program, *command, before=before)
    tool.succeed(*command)
    if command == APPLY:
        assert tool.pool()["state"] == "healthy"
        assert words("lvs", "--noheadings", "-o", "lv_name", "docker") == ["thinpool"]
        number = seqno("docker")
        tool.succeed(*APPLY)
        assert seqno("docker") == number
    else:
        assert "docker" not in group_names()
        assert is_blank(disk.path)
    assert tool.succeed(*command, "--json").document["outcome"] == "nothing"


def test_an_interrupted_destroy_can_be_turned_round_by_apply(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path)
    tool.succeed(*APPLY)
    kill_at(tool, "vgremove", *DESTROY, before=False)
    tool.succeed(*APPLY)
    assert tool.pool()["state"] == "healthy"


def make_half(disk: LoopDisk, *commands: str) -> None:
    """Put the host into a state that a kill inside lvcreate was seen to leave."""
    sh("vgcreate", "-q", "--addtag", "thinpoolmgr", "docker", disk.path)
    for command in commands:
        sh(*command.split())


HALVES = {
    "K1, a visible linear volume": ("lvcreate -q -y -Wn -Zn -L 12M -n lvol0 docker",),
    "K2, the right name and tag but linear": ("lvcreate -q -y -Wn -Zn -L 12M -n thinpool --addtag thinpoolmgr docker",),
}


@pytest.mark.parametrize(
    "half", [pytest.param(half, marks=pytest.mark.campaign if "K1" in half else ()) for half in HALVES]
)
def test_a_half_made_pool_is_cleared_away_when_the_journal_shows_that_it_is_ours(
    tool: Tool, loop_disks: MakeDisk, half: str
) -> None:
    disk = loop_disks()
    tool.configure(disk.path, extra='metadata_size = "12MiB"\ndata_size = "60%VG"')
    kill_at(tool, "lvcreate", *APPLY, before=True)
    for command in HALVES[half]:
        sh(*command.split())
    planned = tool("plan", "--json").document
    assert [step["do"] for step in planned["steps"]] == ["remove-leftover", "create-thin-pool"]
    tool.succeed(*APPLY)
    assert words("lvs", "--noheadings", "-o", "lv_name", "docker") == ["thinpool"]
    assert tool.pool()["state"] == "healthy"


@pytest.mark.parametrize(
    "half", [pytest.param(half, marks=pytest.mark.campaign if "K1" in half else ()) for half in HALVES]
)
def test_without_the_journal_the_same_volume_is_somebodys(tool: Tool, loop_disks: MakeDisk, half: str) -> None:
    disk = loop_disks()
    tool.configure(disk.path, extra='metadata_size = "12MiB"\ndata_size = "60%VG"')
    make_half(disk, *HALVES[half])
    before = seqno("docker")
    assert tool(*APPLY).code == 3
    assert tool(*DESTROY).code == 3
    assert seqno("docker") == before


@pytest.mark.campaign
def test_an_activation_cut_short_is_finished(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path)
    tool.succeed(*APPLY)
    sh("dmsetup", "remove", "docker-thinpool")
    assert {"docker-thinpool_tdata", "docker-thinpool_tmeta"} <= dm_names()
    assert tool.pool()["state"] == "inactive"
    tool.succeed(*APPLY)
    assert tool.pool()["state"] == "healthy"
    sh("dmsetup", "remove", "docker-thinpool")
    tool.succeed("deactivate", "docker", "--yes")
    assert not {name for name in dm_names() if name.startswith("docker")}


@pytest.mark.campaign
def test_a_pool_that_lvm_has_lost_is_taken_out_of_the_kernel(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks()
    tool.configure(disk.path)
    tool.succeed(*APPLY)
    sh("wipefs", "--all", "--force", disk.path)
    assert tool.pool()["state"] == "lost"
    refused = tool(*APPLY)
    assert refused.code == 3
    assert "POOL_LOST" in refused.err
    planned = tool("deactivate", "docker", "--yes")
    assert planned.code == 3
    tool.succeed("deactivate", "docker", "--yes", "--allow", "outage")
    assert not {name for name in dm_names() if name.startswith("docker")}
    tool.succeed(*APPLY)
    sh("wipefs", "--all", "--force", disk.path)
    tool.succeed(*DESTROY)
    assert not {name for name in dm_names() if name.startswith("docker")}
    assert is_blank(disk.path)


def test_a_lost_pool_of_strangers_stays(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks()
    tool.configure(disk.path)
    sh("vgcreate", "-q", "docker", disk.path)
    sh("lvcreate", "-q", "--type", "thin-pool", "-L", "100M", "-n", "thinpool", "docker")
    sh("wipefs", "--all", "--force", disk.path)
    for command in ("deactivate", "destroy"):
        assert tool(command, "docker", "--yes", "--allow", "outage,destroy").code == 3
    assert "docker-thinpool" in dm_names()
    for name in ("docker-thinpool", "docker-thinpool_tdata", "docker-thinpool_tmeta"):
        sh("dmsetup", "remove", name)


def test_a_disk_with_io_errors_makes_the_pool_unknown_or_lost_never_absent(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks()
    sectors = 2**30 // 512 - 2048
    sh("dmsetup", "create", "layer", "--table", f"0 {sectors} linear {disk.path} 2048")
    tool.configure("/dev/mapper/layer")
    tool.succeed(*APPLY)
    sh("dmsetup", "suspend", "--noflush", "layer")
    sh("dmsetup", "reload", "layer", "--table", f"0 {sectors} error")
    sh("dmsetup", "resume", "layer")
    try:
        assert tool.pool()["state"] in ("lost", "unknown", "partial")
        for command in (APPLY, DESTROY):
            assert tool(*command).code == 3
        assert "docker-thinpool" in dm_names()
    finally:
        sh("dmsetup", "suspend", "--noflush", "layer")
        sh("dmsetup", "reload", "layer", "--table", f"0 {sectors} linear {disk.path} 2048")
        sh("dmsetup", "resume", "layer")
    sh("pvscan", "--cache")
    assert tool.pool()["state"] == "healthy"
    tool.succeed(*DESTROY)


def test_a_missing_disk_makes_the_pool_partial_and_untouchable(tool: Tool, loop_disks: MakeDisk) -> None:
    first, second = loop_disks(), loop_disks()
    tool.configure(first.path, second.path)
    tool.succeed(*APPLY)
    tool.succeed("deactivate", "docker", "--yes")
    name = second.path.name
    second.detach()
    wait_until(lambda: not (SYS_BLOCK / name / "loop").is_dir())
    sh("udevadm", "settle")
    assert tool.pool()["state"] == "partial"
    for command in (APPLY, DESTROY, ("activate", "docker", "--yes")):
        assert tool(*command).code == 3
    second.attach()
    sh("udevadm", "settle")
    tool.configure(first.path, second.path)
    tool.succeed(*APPLY)
    assert tool.pool()["state"] == "healthy"
    tool.succeed(*DESTROY)


def test_sigterm_finishes_the_step_and_says_how_to_go_on(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path)
    wrapper = Path("/usr/local/sbin/vgcreate")
    wrapper.write_text('#!/bin/sh\nkill -TERM $PPID\n/usr/sbin/vgcreate "$@"\n', "utf-8")
    wrapper.chmod(0o755)
    try:
        stopped = tool(*APPLY)
    finally:
        wrapper.unlink()
    assert stopped.code == 128 + signal.SIGTERM
    assert "run the same command again" in stopped.err.lower()
    assert "docker" in group_names()
    assert "docker-thinpool" not in dm_names()
    tool.succeed(*APPLY)
    assert tool.pool()["state"] == "healthy"


def test_a_full_journal_disk_stops_before_anything_is_changed(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks()
    tool.configure(disk.path)
    STATE_FOLDER.mkdir(parents=True)
    sh("mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "tmpfs", STATE_FOLDER)
    try:
        failed = tool(*APPLY)
    finally:
        sh("umount", STATE_FOLDER)
    assert failed.code == 1
    assert "journal" in failed.err
    assert is_blank(disk.path)


def test_a_tool_that_is_not_installed_is_named(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path)
    hidden = Path("/usr/sbin/lvm.hidden")
    os.rename("/usr/sbin/lvm", hidden)
    try:
        missing = tool(*APPLY)
    finally:
        os.rename(hidden, "/usr/sbin/lvm")
    assert missing.code == 69
    assert "lvm2" in missing.err


def test_without_root_it_says_so(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path)
    tool.config.chmod(0o644)
    for folder in tool.config.parents:
        folder.chmod(folder.stat().st_mode | 0o055)
    for command in (APPLY, ("status",), ("plan",), DESTROY):
        argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *tool.argv(*command)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 77, done.stderr
        assert "root" in done.stderr


def test_a_kernel_without_device_mapper_is_named(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path)
    control = Path("/dev/mapper/control")
    hidden = Path("/dev/mapper-control-hidden")
    control.rename(hidden)
    try:
        missing = tool("plan")
    finally:
        hidden.rename(control)
    assert missing.code == 69
    assert "device-mapper" in missing.err
