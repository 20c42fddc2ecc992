"""The life of a pool on the real kernel: built, looked at, taken out, brought back, destroyed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lab_tool import STATE_FOLDER, Tool, dm_names, group_names, is_blank, seqno, sh, words

from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]
DESTROY = ("destroy", "docker", "--yes", "--allow", "destroy")


def test_a_plain_pool_is_built_with_two_changing_commands(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks()
    tool.configure(disk.path)
    planned = tool("plan", "--json")
    assert planned.code == 2
    steps = planned.document["steps"]
    assert [step["do"] for step in steps] == ["create-volume-group", "create-thin-pool"]
    assert sum(len(step["commands"]) for step in steps) == 2
    applied = tool.succeed("apply", "--yes", "--json").document
    assert (applied["schema"], applied["outcome"]) == (1, "done")
    assert [step["result"] for step in applied["steps"]] == ["done", "done"]
    pool = tool.pool()
    assert (pool["state"], pool["active"], pool["dm_name"]) == ("healthy", True, "docker-thinpool")
    assert pool["chunk_bytes"] == 512 * 1024
    extents = 255 * 95 // 100
    assert pool["data"] == {"used_bytes": 0, "total_bytes": extents * 4 * 2**20, "percent": 0.0}
    assert pool["devices"] == [{"path": str(disk.path), "size_bytes": 2**30}]
    assert words("lvs", "--noheadings", "-o", "lv_tags,zero,discards,chunk_size", "--units", "k", "docker") == [
        "thinpoolmgr",
        "passdown",
        "512.00k",
    ]


def test_a_second_apply_writes_nothing(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path)
    tool.succeed("apply", "--yes")
    before = seqno("docker"), sorted(STATE_FOLDER.rglob("*"))
    assert tool.succeed("apply", "--yes", "--json").document["outcome"] == "nothing"
    assert tool("plan").code == 0
    assert (seqno("docker"), sorted(STATE_FOLDER.rglob("*"))) == before


def test_a_no_op_apply_runs_one_lvm_process(tool: Tool, loop_disks: MakeDisk, tmp_path: Path) -> None:
    tool.configure(loop_disks().path)
    tool.succeed("apply", "--yes")
    trace = tmp_path / "commands"
    wrapper = Path("/usr/local/sbin/lvm")
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {trace}\nexec /usr/sbin/lvm "$@"\n', "utf-8")
    wrapper.chmod(0o755)
    try:
        tool.succeed("apply", "--yes")
        tool.succeed("status")
    finally:
        wrapper.unlink()
    calls = trace.read_text("utf-8").splitlines()
    assert [call.split()[0] for call in calls] == ["fullreport", "fullreport"]


def test_deactivate_and_apply_bring_the_same_pool_back(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path)
    tool.succeed("apply", "--yes")
    uuid = words("lvs", "--noheadings", "-o", "lv_uuid", "docker")
    tool.succeed("deactivate", "docker", "--yes")
    assert not {name for name in dm_names() if name.startswith("docker")}
    assert tool.pool()["state"] == "inactive"
    assert tool("status", "--check").code == 2
    tool.succeed("apply", "--yes")
    assert tool.pool()["state"] == "healthy"
    tool.succeed("deactivate", "docker", "--yes")
    tool.succeed("activate", "docker", "--yes")
    assert tool.pool()["state"] == "healthy"
    assert words("lvs", "--noheadings", "-o", "lv_uuid", "docker") == uuid


def test_destroy_leaves_blank_disks_and_runs_again_for_nothing(tool: Tool, loop_disks: MakeDisk) -> None:
    disks = [loop_disks(), loop_disks(sector_size=4096)]
    tool.configure(*[disk.path for disk in disks[:1]])
    tool.succeed("apply", "--yes")
    refused = tool("destroy", "docker", "--yes")
    assert refused.code == 3
    assert "--allow destroy" in refused.err
    assert tool.pool()["state"] == "healthy"
    tool.succeed(*DESTROY)
    assert "docker" not in group_names()
    assert all(is_blank(disk.path) for disk in disks)
    assert tool.succeed(*DESTROY, "--json").document["outcome"] == "nothing"


def test_two_disks_make_one_pool(tool: Tool, loop_disks: MakeDisk) -> None:
    first, second = loop_disks(), loop_disks()
    tool.configure(first.path, second.path, extra='data_size = "100%FREE"\nwhen_full = "error"')
    planned = tool("plan", "--json").document
    assert [step["do"] for step in planned["steps"]] == ["create-volume-group", "create-thin-pool", "set-when-full"]
    tool.succeed("apply", "--yes")
    pool = tool.pool()
    assert {device["path"] for device in pool["devices"]} == {str(first.path), str(second.path)}
    assert pool["when_full"] == "error"
    assert "error_if_no_space" in sh("dmsetup", "status", "docker-thinpool")
    assert tool("plan").code == 0
    tool.succeed(*DESTROY)


def test_thin_devices_go_before_the_pool_and_open_ones_stop_it(
    tool: Tool, loop_disks: MakeDisk, tmp_path: Path
) -> None:
    tool.configure(loop_disks().path)
    tool.succeed("apply", "--yes")
    sh("dmsetup", "message", "docker-thinpool", "0", "create_thin 1")
    sh("dmsetup", "create", "docker-t:1", "--table", "0 819200 thin /dev/mapper/docker-thinpool 1")
    sh("mkfs.ext4", "-q", "/dev/mapper/docker-t:1")
    point = tmp_path / "mnt"
    point.mkdir()
    sh("mount", "/dev/mapper/docker-t:1", point)
    try:
        for command in ("destroy", "deactivate"):
            refused = tool(command, "docker", "--yes", "--allow", "destroy,outage")
            assert refused.code == 3
            assert "docker-t:1" in refused.err
        assert tool.pool()["thin_devices"] == 1
    finally:
        sh("umount", point)
    tool.succeed(*DESTROY)
    assert "docker-t:1" not in dm_names()


def test_a_foreign_group_is_left_alone(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks()
    tool.configure(disk.path)
    sh("vgcreate", "-q", "docker", disk.path)
    sh("lvcreate", "-q", "--type", "thin-pool", "-L", "100M", "-n", "thinpool", "docker")
    before = seqno("docker")
    assert tool.pool()["state"] == "foreign"
    for command in (("apply",), ("destroy", "docker"), ("deactivate", "docker"), ("activate", "docker")):
        refused = tool(*command, "--yes", "--allow", "destroy,outage")
        assert refused.code == 3
        assert "adopt" in refused.err
    assert seqno("docker") == before
    assert "docker-thinpool" in dm_names()


def test_a_strangers_volume_in_our_group_stops_destroy(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path, extra='data_size = "50%VG"')
    tool.succeed("apply", "--yes")
    sh("lvcreate", "-q", "-y", "-L", "20M", "-n", "precious", "docker")
    refused = tool(*DESTROY)
    assert refused.code == 3
    assert "docker/precious" in refused.err
    assert tool.pool()["state"] == "healthy"
    sh("lvremove", "-q", "-y", "docker/precious")
    tool.succeed(*DESTROY)


def test_a_name_that_dev_has_already_is_refused_before_anything_is_written(tool: Tool, loop_disks: MakeDisk) -> None:
    disk = loop_disks()
    tool.configure(disk.path, extra='volume_group = "mapper"')
    refused = tool("apply", "--yes")
    assert refused.code == 3
    assert "/dev/mapper exists" in refused.err
    assert is_blank(disk.path)


def test_names_with_hyphens_and_dots_work(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path, extra='volume_group = "a-b.c+d_e"\nthin_pool = "p-q"')
    tool.succeed("apply", "--yes")
    assert tool.pool()["dm_name"] == "a--b.c+d_e-p--q"
    assert "a--b.c+d_e-p--q" in dm_names()
    tool.succeed(*DESTROY)
