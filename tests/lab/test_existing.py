"""Pools that exist are changed: enlarged, set otherwise, taken over, made anew; what was left half done is settled."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab_tool import Tool, dm_names, fingerprint, group_names, is_blank, kill_at, seqno, sh, words

from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]
DESTROY = ("destroy", "docker", "--yes", "--allow", "destroy")
APPLY = ("apply", "--yes")
MIB = 2**20
PROFILE = Path("/etc/lvm/profile/thinpoolmgr-docker-thinpool.profile")
SMALL = 'data_size = "300MiB"\nmetadata_size = "8MiB"'


def steps_of(tool: Tool, *command: str) -> list[str]:
    """Carry `command` out, and return the steps it took; afterwards nothing is left to do."""
    done = tool.succeed(*command, "--yes", "--allow", "outage,destroy", "--json").document
    return [step["do"] for step in done["steps"]]


def kernel(what: str) -> Any:
    """Return `data` or `metadata` blocks in all, or the table, as the kernel has them."""
    if what == "table":
        return sh("dmsetup", "table", "docker-thinpool").split()
    return int(sh("dmsetup", "status", "docker-thinpool").split()[{"metadata": 4, "data": 5}[what]].partition("/")[2])


def spare() -> str:
    return sh("lvs", "-a", "--noheadings", "--units", "m", "-o", "lv_size", "-S", "lv_name=~pmspare", "docker").strip()


def kill_inside(number: int, *command: str) -> None:
    """Run a command of LVM's and kill it at its so-manieth ioctl."""
    inject = f"inject=ioctl:signal=SIGKILL:when={number}"
    done = subprocess.run(
        ("strace", "-f", "-qq", "-o", "/dev/null", "-e", inject, *command), capture_output=True, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL, 128 + signal.SIGKILL), done


def built(tool: Tool, *disks: LoopDisk, extra: str = SMALL) -> None:
    tool.configure(*[disk.path for disk in disks], extra=extra)
    tool.succeed(*APPLY)


def nothing_left(tool: Tool) -> None:
    before = seqno("docker")
    assert tool.succeed(*APPLY, "--json").document["outcome"] == "nothing"
    assert seqno("docker") == before


def test_sizes_of_the_configuration_are_reached_upward(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks()
    built(tool, disk)
    tool.configure(disk.path, extra='data_size = "400MiB"\nmetadata_size = "16MiB"')
    assert steps_of(tool, "apply") == ["extend-metadata", "extend-data"]
    assert (kernel("data"), kernel("metadata")) == (800, 4096)
    assert spare() == "16.00m"
    nothing_left(tool)
    tool.configure(disk.path, extra='data_size = "80%VG"')
    assert steps_of(tool, "apply") == ["extend-data"]
    assert kernel("data") == 255 * 80 // 100 * 8
    nothing_left(tool)


def test_sizes_downward_and_another_chunk_size_are_refused_with_the_way(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks()
    built(tool, disk)
    before = seqno("docker")
    for extra in (
        'data_size = "200MiB"',
        'metadata_size = "4MiB"\ndata_size = "300MiB"',
        f'chunk_size = "64KiB"\n{SMALL}',
    ):
        tool.configure(disk.path, extra=extra)
        refused = tool(*APPLY)
        assert refused.code == 3
        assert "thinpoolmgr rebuild docker" in " ".join(refused.err.split())
    assert seqno("docker") == before


@pytest.mark.campaign
def test_a_pool_that_has_grown_is_not_asked_to_shrink(tool: Tool, loop_disks: MakeDisk) -> None:
    built(tool, loop_disks())
    assert steps_of(tool, "extend", "docker", "--data", "+100MiB") == ["extend-data"]
    assert kernel("data") == 800
    nothing_left(tool)


def test_a_disk_added_to_the_configuration_is_taken_into_the_group(tool: Tool, loop_disks: MakeDisk) -> None:
    first, second = loop_disks(), loop_disks()
    built(tool, first, extra='data_size = "90%VG"')
    tool.configure(first.path, second.path, extra='data_size = "90%VG"')
    assert steps_of(tool, "apply") == ["extend-volume-group", "extend-data"]
    assert kernel("data") == 510 * 90 // 100 * 8
    nothing_left(tool)
    tool.succeed(*DESTROY)
    assert all(is_blank(disk.path) for disk in (first, second))


@pytest.mark.campaign
def test_a_disk_with_anything_on_it_is_not_taken_into_the_group(tool: Tool, loop_disks: MakeDisk) -> None:
    first, second = loop_disks(), loop_disks()
    built(tool, first)
    sh("mkfs.ext4", "-q", second.path)
    before = seqno("docker"), fingerprint(second.path)
    tool.configure(first.path, second.path, extra=SMALL)
    refused = tool(*APPLY)
    assert (refused.code, "DISK_HAS_SIGNATURE" in refused.err) == (3, True)
    refused = tool("extend", "docker", "--add-device", str(second.path), "--yes")
    assert (refused.code, "DISK_HAS_SIGNATURE" in refused.err) == (3, True)
    assert (seqno("docker"), fingerprint(second.path)) == before


def test_extend_takes_what_is_asked_for_once(tool: Tool, loop_disks: MakeDisk) -> None:
    built(tool, loop_disks())
    assert steps_of(tool, "extend", "docker", "--data", "+100MiB", "--metadata", "+8MiB") == [
        "extend-metadata",
        "extend-data",
    ]
    assert (kernel("data"), kernel("metadata")) == (800, 4096)
    # asked for again by a person who means it
    assert steps_of(tool, "extend", "docker", "--data", "+100MiB") == ["extend-data"]
    assert kernel("data") == 1000


@pytest.mark.campaign
@pytest.mark.parametrize("before", [True, False])
def test_an_extension_that_was_killed_goes_on_to_where_it_was_going(
    tool: Tool, loop_disks: MakeDisk, *, before: bool
) -> None:
    built(tool, loop_disks())
    command = ("extend", "docker", "--data", "+100MiB", "--yes")
    kill_at(tool, "lvextend", *command, before=before)
    tool.succeed(*command)
    assert kernel("data") == 800
    assert tool.succeed("resume", "--json").document["outcome"] == "nothing"


def test_resume_finishes_what_was_killed(tool: Tool, loop_disks: MakeDisk) -> None:
    built(tool, loop_disks())
    kill_at(tool, "lvextend", "extend", "docker", "--data", "+100MiB", "--metadata", "+8MiB", "--yes", before=False)
    assert steps_of(tool, "resume") == ["extend-data"]
    assert (kernel("data"), kernel("metadata")) == (800, 4096)


def test_extend_takes_a_new_disk_and_spare_disks(tool: Tool, loop_disks: MakeDisk) -> None:
    first, second, third = loop_disks(), loop_disks(), loop_disks()
    tool.configure(first.path, extra=f'spare_devices = ["{third.path}"]\n{SMALL}')
    tool.succeed(*APPLY)
    refused = tool("extend", "docker", "--data", "+5GiB", "--yes")
    assert (refused.code, "DOES_NOT_FIT" in refused.err) == (3, True)
    assert "--add-device" in refused.err
    assert is_blank(third.path)
    assert steps_of(tool, "extend", "docker", "--data", "+1GiB") == ["extend-volume-group", "extend-data"]
    assert set(words("vgs", "--noheadings", "-o", "pv_name", "docker")) == {str(first.path), str(third.path)}
    done = tool.succeed("extend", "docker", "--add-device", str(second.path), "--yes")
    assert "pools.docker.devices" in done.out
    assert str(second.path) in words("vgs", "--noheadings", "-o", "pv_name", "docker")
    nothing_left(tool)
    tool.succeed(*DESTROY)
    assert all(is_blank(disk.path) for disk in (first, second, third))


@pytest.mark.campaign
def test_settings_change_while_the_pool_runs(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks()
    built(tool, disk)
    wanted = f'discards = "nopassdown"\nzero_new_blocks = true\nwhen_full = "error"\n{SMALL}'
    tool.configure(disk.path, extra=wanted)
    assert steps_of(tool, "apply") == ["set-when-full", "set-discards", "set-zeroing"]
    assert set(kernel("table")[8:]) == {"no_discard_passdown", "error_if_no_space"}
    nothing_left(tool)
    tool.configure(disk.path, extra=f'discards = "ignore"\n{SMALL}')
    refused = tool(*APPLY)
    assert (refused.code, "thinpoolmgr deactivate docker" in refused.err) == (3, True)
    tool.succeed("deactivate", "docker", "--yes")
    assert steps_of(tool, "apply")[:2] == ["set-discards", "activate-pool"]
    assert "ignore_discard" in kernel("table")
    nothing_left(tool)


def test_dmeventd_gets_a_profile_and_gives_it_back(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks()
    by_dmeventd = f'{SMALL}\n[pools.docker.extend]\nmonitor = "dmeventd"\ndata_threshold_percent = 70'
    built(tool, disk, extra=by_dmeventd)
    try:
        assert "thin_pool_autoextend_threshold=70" in PROFILE.read_text("utf-8")
        assert kernel("table")[6] == "180"
        assert words("lvs", "--noheadings", "-o", "lv_profile", "docker") == ["thinpoolmgr-docker-thinpool"]
        nothing_left(tool)
        PROFILE.write_text("activation {\n\tthin_pool_autoextend_threshold=100\n}\n", "utf-8")
        sh("lvchange", "-q", "--refresh", "docker/thinpool")
        assert steps_of(tool, "apply") == ["edit-lvm-profile", "set-profile"]
        assert kernel("table")[6] == "180"
        nothing_left(tool)
        tool.configure(disk.path, extra=by_dmeventd.replace("70", "90"))
        assert steps_of(tool, "apply") == ["edit-lvm-profile", "set-profile"]
        assert kernel("table")[6] == "120"
        tool.configure(disk.path, extra=SMALL)
        assert steps_of(tool, "apply") == ["set-profile", "edit-lvm-profile"]
        assert (kernel("table")[6], PROFILE.exists()) == ("0", False)
        tool.configure(disk.path, extra=by_dmeventd)
        tool.succeed(*APPLY)
        assert PROFILE.exists()
        tool.succeed(*DESTROY)
        assert not PROFILE.exists()
    finally:
        PROFILE.unlink(missing_ok=True)


def test_a_lost_tag_comes_back_when_the_journal_knows_the_group(tool: Tool, loop_disks: MakeDisk) -> None:
    built(tool, loop_disks())
    sh("vgchange", "-q", "--deltag", "thinpoolmgr", "docker")
    sh("lvchange", "-q", "--deltag", "thinpoolmgr", "docker/thinpool")
    assert tool.pool()["state"] == "foreign"
    assert tool(*DESTROY).code == 3
    assert steps_of(tool, "apply") == ["tag-pool"]
    assert tool.pool()["state"] == "healthy"
    nothing_left(tool)


@pytest.mark.campaign
def test_a_missing_spare_comes_back(tool: Tool, loop_disks: MakeDisk) -> None:
    built(tool, loop_disks())
    sh("lvremove", "-q", "-y", "docker/lvol0_pmspare")
    assert steps_of(tool, "apply") == ["extend-metadata"]
    assert (spare(), kernel("metadata")) == ("12.00m", 3072)
    nothing_left(tool)


@pytest.mark.campaign
def test_without_room_for_a_spare_it_is_said(tool: Tool, loop_disks: MakeDisk) -> None:
    built(tool, loop_disks(), extra='data_size = "100%FREE"')
    sh("lvremove", "-q", "-y", "docker/lvol0_pmspare")
    sh("lvcreate", "-q", "-y", "-Wn", "-Zn", "-an", "-l", "100%FREE", "-n", "precious", "docker")
    answer = tool("plan")
    assert (answer.code, "metadata spare of docker is missing" in answer.err) == (0, True)


# measured with LVM 2.03.16: before its commit, with the larger table loaded, suspended, committed and suspended
@pytest.mark.parametrize("number", [70, *(pytest.param(n, marks=pytest.mark.campaign) for n in (20, 56, 76, 85))])
def test_data_whose_enlargement_was_killed_inside_lvextend(tool: Tool, loop_disks: MakeDisk, number: int) -> None:
    built(tool, loop_disks())
    kill_inside(number, "lvextend", "-l", "100", "docker/thinpool")
    tool.succeed(*APPLY)
    assert "Suspended" not in sh("dmsetup", "info", "-c", "--noheadings", "-o", "suspended")
    assert kernel("data") * 512 * 1024 == int(
        sh("lvs", "--noheadings", "--units", "b", "--nosuffix", "-o", "lv_size", "docker/thinpool")
    )
    nothing_left(tool)
    assert steps_of(tool, "extend", "docker", "--data", "+100MiB") == ["extend-data"]


@pytest.mark.parametrize("number", [40, *(pytest.param(n, marks=pytest.mark.campaign) for n in (29, 50))])
def test_metadata_whose_enlargement_was_killed_inside_lvextend(
    tool: Tool, loop_disks: MakeDisk, number: int, tmp_path: Path
) -> None:
    built(tool, loop_disks())
    wrapper = Path("/usr/local/sbin/lvextend")
    inject = f"inject=ioctl:signal=SIGKILL:when={number}"
    wrapper.write_text(
        f'#!/bin/sh\nstrace -f -qq -o {tmp_path}/trace -e {inject} /usr/sbin/lvextend "$@"\nkill -9 $PPID\n', "utf-8"
    )
    wrapper.chmod(0o755)
    command = ("extend", "docker", "--metadata", "+8MiB", "--yes")
    try:
        subprocess.run(tool.argv(*command), capture_output=True, check=False)
    finally:
        wrapper.unlink()
    tool.succeed(*command)
    assert words("lvs", "--noheadings", "-o", "lv_name", "docker") == ["thinpool"]
    assert (kernel("metadata") >= 4096, spare()) == (True, f"{kernel('metadata') // 256}.00m")
    nothing_left(tool)


@pytest.mark.campaign
def test_a_suspended_pool_is_resumed(tool: Tool, loop_disks: MakeDisk) -> None:
    built(tool, loop_disks())
    sh("dmsetup", "suspend", "docker-thinpool")
    try:
        assert steps_of(tool, "apply") == ["resume-device"]
    finally:
        sh("dmsetup", "resume", "docker-thinpool")
    nothing_left(tool)


def by_hand(disk: LoopDisk, *more: str) -> None:
    sh("vgcreate", "-q", "docker", disk.path)
    sh(
        "lvcreate",
        "-q",
        "--type",
        "thin-pool",
        "-L",
        "300M",
        "--poolmetadatasize",
        "8M",
        "-c",
        "512k",
        *more,
        "-n",
        "thinpool",
        "docker",
    )


def test_a_pool_made_by_hand_is_adopted(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks()
    by_hand(disk, "-Zn")
    tool.configure(disk.path, extra='data_size = "400MiB"')
    assert tool(*APPLY).code == 3
    shown = tool("adopt", "docker")
    assert shown.code == 3
    assert "--yes" in shown.err
    assert "Then apply would extend data docker/thinpool" in " ".join(shown.err.split())
    assert steps_of(tool, "adopt", "docker") == ["tag-pool"]
    assert tool.pool()["state"] == "healthy"
    assert kernel("data") == 600
    assert tool.succeed("adopt", "docker", "--yes", "--json").document["outcome"] == "nothing"
    assert steps_of(tool, "apply") == ["extend-data"]
    tool.succeed(*DESTROY)
    assert is_blank(disk.path)


def test_a_group_with_other_volumes_is_not_adopted(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks()
    by_hand(disk)
    sh("lvcreate", "-q", "-y", "-L", "20M", "-n", "root", "docker")
    tool.configure(disk.path)
    before = seqno("docker")
    refused = tool("adopt", "docker", "--yes")
    assert (refused.code, "docker/root" in refused.err) == (3, True)
    sh("lvremove", "-q", "-y", "docker/root")
    sh("lvcreate", "-q", "-y", "-V", "20M", "-T", "docker/thinpool", "-n", "thin")
    refused = tool("adopt", "docker", "--yes")
    assert (refused.code, "thin volumes: thin" in refused.err) == (3, True)
    assert int(seqno("docker")) > int(before)
    assert "thinpoolmgr" not in sh("vgs", "-o", "vg_tags", "docker")


def test_rebuild_makes_the_pool_anew_as_one_run(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks()
    built(tool, disk)
    sh("dmsetup", "message", "docker-thinpool", "0", "create_thin 1")
    tool.configure(disk.path, extra=f'chunk_size = "64KiB"\n{SMALL}')
    refused = tool("rebuild", "docker", "--yes")
    assert (refused.code, "--allow destroy" in refused.err) == (3, True)
    assert steps_of(tool, "rebuild", "docker") == [
        "deactivate-pool",
        "remove-thin-pool",
        "remove-volume-group",
        "remove-physical-volumes",
        "create-volume-group",
        "create-thin-pool",
    ]
    assert tool.pool()["chunk_bytes"] == 64 * 1024
    nothing_left(tool)


@pytest.mark.parametrize("program", ["lvremove", "vgremove", "pvremove", "vgcreate", "lvcreate"])
@pytest.mark.campaign
def test_a_rebuild_that_was_killed_is_finished_and_not_begun_again(
    tool: Tool, loop_disks: MakeDisk, program: str
) -> None:
    disk = loop_disks()
    built(tool, disk)
    tool.configure(disk.path, extra=f'chunk_size = "64KiB"\n{SMALL}')
    command = ("rebuild", "docker", "--yes", "--allow", "destroy")
    kill_at(tool, program, *command, before=False)
    made = words("lvs", "--noheadings", "-o", "lv_uuid", "docker") if program == "lvcreate" else None
    tool.succeed(*command)
    assert tool.pool()["chunk_bytes"] == 64 * 1024
    assert made in (None, words("lvs", "--noheadings", "-o", "lv_uuid", "docker"))
    nothing_left(tool)


def test_a_plan_file_is_carried_out_once_and_never_on_another_host(
    tool: Tool, loop_disks: MakeDisk, tmp_path: Path
) -> None:
    disk, other = loop_disks(), loop_disks()
    tool.configure(disk.path, extra=SMALL)
    file = tmp_path / "plan.json"
    assert tool("plan", "--out", str(file)).code == 2
    assert oct(file.stat().st_mode)[-3:] == "600"
    # what has nothing to do with the plan may change
    sh("vgcreate", "-q", "other", other.path)
    sh("mkfs.ext4", "-q", disk.path)
    stale = tool("apply", str(file), "--yes")
    assert (stale.code, "PLAN_STALE" in stale.err) == (4, True)
    sh("wipefs", "-q", "-a", disk.path)
    sh("udevadm", "settle")
    done = tool.succeed("apply", str(file), "--yes", "--json").document
    assert done["outcome"] == "done"
    assert tool("apply", str(file), "--yes").code == 4
    document = json.loads(file.read_text("utf-8"))
    document["steps"][0]["disks"][0]["path"] = str(other.path)
    file.write_text(json.dumps(document), "utf-8")
    assert tool("apply", str(file), "--yes").code == 4
    assert group_names() == {"docker", "other"}
    sh("vgremove", "-q", "other")


@pytest.mark.campaign
def test_metadata_out_of_space_comes_back_with_more(tool: Tool, loop_disks: MakeDisk) -> None:
    built(tool, loop_disks(), extra='data_size = "300MiB"\nmetadata_size = "4MiB"')
    for number in range(1, 1100):
        if "ro" in sh("dmsetup", "status", "docker-thinpool").split()[7:8]:
            break
        sh("dmsetup", "message", "docker-thinpool", "0", f"create_thin {number}", check=False)
    assert tool.pool()["state"] == "out_of_metadata"
    refused = tool(*APPLY)
    assert (refused.code, "extend" in refused.err) == (3, True)
    assert steps_of(tool, "extend", "docker", "--metadata", "+8MiB") == ["extend-metadata"]
    assert tool.pool()["state"] == "healthy"
    assert "docker-thinpool" in dm_names()
