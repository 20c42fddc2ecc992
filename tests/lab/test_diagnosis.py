"""The doctor on the real kernel: what it finds, that its fix is what the named command does, and that it heals."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import SYS_BLOCK, wait_until
from lab_tool import STATE_FOLDER, Tool, dm_names, seqno, sh, words

from thinpoolmgr.lab.loop import LoopDisk

pytestmark = pytest.mark.usefixtures("a_monitor_that_runs")

MakeDisk = Callable[..., LoopDisk]
APPLY = ("apply", "--yes")
HALF = 'data_size = "40%VG"'
CHUNK = 512 * 1024
KINDS = {"error": 0, "warning": 1, "info": 2}


def examine(tool: Tool) -> list[Any]:
    """Return the doctor's findings, whose exit code and order are seen to be right."""
    answer = tool("doctor", "--json")
    document = answer.document
    assert document["schema"] == 1
    ranks = [KINDS[finding["severity"]] for finding in document["findings"]]
    assert ranks == sorted(ranks)
    assert answer.code == (2 if 0 in ranks or 1 in ranks else 0), (answer.code, document)
    for finding in document["findings"]:
        assert finding["evidence"]
        assert finding["resolution"]
    return list(document["findings"])


def only(tool: Tool, *codes: str) -> list[Any]:
    """Return the findings, which must be of these codes."""
    found = examine(tool)
    assert [finding["code"] for finding in found] == list(codes), found
    return found


def is_healed(tool: Tool) -> None:
    """The doctor finds nothing, and neither has apply anything to do."""
    assert only(tool) == []
    assert tool("doctor").out == "Nothing found.\n"
    assert tool("plan").code == 0


def follow(tool: Tool, finding: Any) -> None:
    """Give the command that the resolution names: its steps must be the fix, and nothing else."""
    command = finding["resolution"].partition("thinpoolmgr ")[2].partition(";")[0]
    done = tool.succeed(*shlex.split(command), "--yes", "--json").document
    assert done["outcome"] == "done"
    assert [(step["do"], step["target"]) for step in done["steps"]] == [
        (step["do"], step["target"]) for step in finding["fix"]
    ]


def thin(number: int, size_bytes: int = 1 << 30) -> Path:
    """Make a thin device in the pool, as an engine does."""
    sh("dmsetup", "message", "docker-thinpool", "0", f"create_thin {number}")
    table = f"0 {size_bytes // 512} thin /dev/mapper/docker-thinpool {number}"
    sh("dmsetup", "create", f"docker-t{number}", "--table", table)
    return Path(f"/dev/mapper/docker-t{number}")


def fill(device: Path, chunks: int) -> None:
    """Write so many chunks through a thin device; direct, so that nothing waits for the page cache."""
    sh("dd", "if=/dev/zero", f"of={device}", f"bs={CHUNK}", f"count={chunks}", "oflag=direct", "status=none")


def total_chunks() -> int:
    return int(sh("dmsetup", "status", "docker-thinpool").split()[5].partition("/")[2])


def test_a_healthy_host_has_nothing_and_looking_changes_nothing(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path)
    (finding,) = only(tool, "POOL_ABSENT")
    assert [step["do"] for step in finding["fix"]] == ["create-volume-group", "create-thin-pool"]
    assert not STATE_FOLDER.exists()
    follow(tool, finding)
    before = seqno("docker"), sorted(STATE_FOLDER.rglob("*"))
    is_healed(tool)
    assert (seqno("docker"), sorted(STATE_FOLDER.rglob("*"))) == before


def test_an_inactive_pool(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path)
    tool.succeed(*APPLY)
    sh("vgchange", "-q", "-an", "docker")
    (finding,) = only(tool, "POOL_INACTIVE")
    follow(tool, finding)
    is_healed(tool)


def test_a_tight_pool_is_extended_by_what_is_named(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path, extra=HALF)
    tool.succeed(*APPLY)
    fill(thin(1), total_chunks() * 85 // 100)
    (finding,) = only(tool, "POOL_TIGHT")
    follow(tool, finding)
    assert tool.pool()["state"] == "healthy"
    is_healed(tool)
    sh("dmsetup", "remove", "docker-t1")


@pytest.mark.campaign
def test_a_tight_pool_without_room_says_what_is_missing(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path)
    tool.succeed(*APPLY)
    fill(thin(1), total_chunks() * 45 // 100)
    (forecast,) = only(tool, "GROUP_NEARLY_FULL")
    assert "too little" in forecast["evidence"]
    fill(thin(2), total_chunks() * 40 // 100)
    tight, _ = only(tool, "POOL_TIGHT", "GROUP_NEARLY_FULL")
    assert tight["fix"] is None
    more = loop_disks()
    command = tight["resolution"].partition("thinpoolmgr ")[2].partition(" takes")[0]
    tool.succeed(*shlex.split(command.replace("DEVICE", str(more.path))), "--yes")
    assert tool.pool()["state"] == "healthy"
    assert "POOL_TIGHT" not in [finding["code"] for finding in examine(tool)]
    for name in ("docker-t1", "docker-t2"):
        sh("dmsetup", "remove", name)


def test_a_pool_that_is_out_of_data(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path, extra=HALF + '\nwhen_full = "error"')
    tool.succeed(*APPLY)
    device, chunks = thin(1), total_chunks()
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={device}", f"bs={CHUNK}", f"count={chunks + 8}", "oflag=direct"],
        capture_output=True,
        check=False,
    )
    assert "out_of_data_space" in sh("dmsetup", "status", "docker-thinpool")
    (finding,) = only(tool, "POOL_OUT_OF_DATA")
    follow(tool, finding)
    assert tool.pool()["state"] == "healthy"
    is_healed(tool)
    sh("dmsetup", "remove", "docker-t1")


@contextmanager
def layer(disk: LoopDisk) -> Iterator[Callable[..., None]]:
    """Put a layer between the disk and LVM; what is given is how it is loaded anew."""
    sectors = (1 << 30) // 512 - 2048
    sh("dmsetup", "create", "layer", "--table", f"0 {sectors} linear {disk.path} 2048")

    def load(*lines: str) -> None:
        table = "\n".join(lines) or f"0 {sectors} linear {disk.path} 2048"
        sh("dmsetup", "suspend", "--noflush", "layer")
        subprocess.run(["dmsetup", "reload", "layer"], input=table, text=True, check=True, capture_output=True)
        sh("dmsetup", "resume", "layer")

    yield load
    load()


def break_metadata(disk: LoopDisk, load: Callable[..., None]) -> None:
    """Let the metadata's writes fail until the kernel sets needs_check; the disk is well again then."""
    start, length, kind, _, offset = words("dmsetup", "table", "docker-thinpool_tmeta")
    assert (start, kind) == ("0", "linear")
    first, size, end = int(offset) + 8, int(length) - 8, (1 << 30) // 512 - 2048
    load(
        f"0 {first} linear {disk.path} 2048",
        f"{first} {size} flakey {disk.path} {2048 + first} 0 600 1 error_writes",
        f"{first + size} {end - first - size} linear {disk.path} {2048 + first + size}",
    )
    argv = ["dd", "if=/dev/zero", "of=/dev/mapper/docker-t1", f"bs={CHUNK}", "count=4", "oflag=direct", "conv=fsync"]
    subprocess.run(argv, capture_output=True, check=False)
    wait_until(lambda: "needs_check" in sh("dmsetup", "status", "docker-thinpool"))
    load()


def test_a_pool_that_needs_a_check_is_healed_by_the_commands_that_are_named(tool: Tool, loop_disks: MakeDisk) -> None:
    sh("modprobe", "dm-flakey", check=False)
    disk = loop_disks()
    with layer(disk) as load:
        tool.configure("/dev/mapper/layer", extra=HALF)
        tool.succeed(*APPLY)
        thin(1)
        break_metadata(disk, load)
        (finding,) = only(tool, "POOL_NEEDS_CHECK")
        assert finding["fix"] is None
        commands = finding["resolution"]
        assert "thinpoolmgr deactivate docker --allow outage" in commands
        tool.succeed("deactivate", "docker", "--allow", "outage", "--yes")
        activate = commands[commands.index("lvchange -ay") :].partition(". Only")[0]
        sh(*shlex.split(activate))
        assert tool.pool()["state"] == "healthy"
        is_healed(tool)
        tool.succeed("destroy", "docker", "--yes", "--allow", "destroy,outage")


@pytest.mark.campaign
def test_suspended_devices(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path)
    tool.succeed(*APPLY)
    sh("dmsetup", "suspend", "docker-thinpool")
    try:
        (finding,) = only(tool, "DEVICE_SUSPENDED")
        assert finding["target"] == "docker-thinpool"
        follow(tool, finding)
        is_healed(tool)
    finally:
        sh("dmsetup", "resume", "docker-thinpool", check=False)


@pytest.mark.campaign
def test_a_spare_that_was_removed(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path, extra=HALF)
    tool.succeed(*APPLY)
    sh("lvremove", "-q", "-y", "docker/lvol0_pmspare")
    (finding,) = only(tool, "METADATA_SPARE_MISSING")
    follow(tool, finding)
    is_healed(tool)


@pytest.mark.campaign
def test_tags_that_were_removed(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path)
    tool.succeed(*APPLY)
    sh("vgchange", "-q", "--deltag", "thinpoolmgr", "docker")
    sh("lvchange", "-q", "--deltag", "thinpoolmgr", "docker/thinpool")
    (finding,) = only(tool, "TAG_LOST")
    follow(tool, finding)
    is_healed(tool)
    sh("vgchange", "-q", "--deltag", "thinpoolmgr", "docker")
    for file in (STATE_FOLDER / "runs").iterdir():
        file.unlink()
    (finding,) = only(tool, "POOL_FOREIGN")
    assert finding["fix"] is None
    sh("vgchange", "-q", "--addtag", "thinpoolmgr", "docker")


def kill_inside(tool: Tool, program: str, *arguments: str, seconds: float = 0.0, work: str = "") -> None:
    """Run the tool and SIGKILL it and its child inside `program`."""
    wrapper = Path("/usr/local/sbin") / program
    script = work or f'/usr/sbin/{program} "$@" &\nchild=$!\nsleep {seconds}\nkill -9 $child\n'
    wrapper.write_text(f"#!/bin/sh\n{script}\nkill -9 $PPID\nkill -9 $$\n", "utf-8")
    wrapper.chmod(0o755)
    try:
        killed = subprocess.run(tool.argv(*arguments), capture_output=True, check=False, stdin=subprocess.DEVNULL)
    finally:
        wrapper.unlink()
    assert killed.returncode == -signal.SIGKILL


# LVM's metadata gets one more segment of data, the kernel's tables do not: as a kill of lvextend between the two.
HALF_EXTEND = r"""
vgcfgbackup -q -f /run/vg docker
have=$(lvs --noheadings -o seg_size_pe docker/thinpool | tr -d ' ')
first=$(pvs --noheadings --segments -o pvseg_start,lv_name "$(vgs --noheadings -o pv_name docker | tr -d ' ')" |
    awk 'NF == 1 { start = $1 } END { print start }')
python3 - "$have" "$first" <<'END'
import pathlib, re, sys
have, first = map(int, sys.argv[1:])
file = pathlib.Path("/run/vg")
pool, data = re.split(r"(?=thinpool_tdata \{)", file.read_text())
pool = pool.replace(f"extent_count = {have}", f"extent_count = {have + 25}")
more = f'segment2 {{ start_extent = {have} extent_count = 25 type = "striped" stripe_count = 1 '
more += f'stripes = [ "pv0", {first} ] }}\n'
data = data.replace("segment_count = 1", "segment_count = 2", 1).replace("]\n\t\t\t}\n", "]\n\t\t\t}\n" + more, 1)
file.write_text(pool + data)
END
vgcfgrestore -q -y --force -f /run/vg docker
"""


@pytest.mark.parametrize(
    ("more", "code"), [("", "KERNEL_BEHIND"), ("dmsetup suspend docker-thinpool", "DEVICE_SUSPENDED")]
)
@pytest.mark.campaign
def test_an_extension_that_the_kernel_has_not_seen(tool: Tool, loop_disks: MakeDisk, more: str, code: str) -> None:
    tool.configure(loop_disks().path, extra=HALF)
    tool.succeed(*APPLY)
    kill_inside(tool, "lvextend", "extend", "docker", "--data", "+100MiB", "--yes", work=HALF_EXTEND + more)
    found = examine(tool)
    assert [finding["code"] for finding in found] == [code, "RUN_INTERRUPTED"]
    interrupted = next(finding for finding in found if finding["code"] == "RUN_INTERRUPTED")
    assert "extend data docker/thinpool" in interrupted["evidence"]
    assert interrupted["resolution"] == "Run: thinpoolmgr resume"
    assert tool("status", "--check").code == 2
    follow(tool, interrupted)
    is_healed(tool)
    assert tool.pool()["data"]["total_bytes"] == 255 * 40 // 100 * 4 * 2**20 + 100 * 2**20


@pytest.mark.parametrize("seconds", [0.2, *(pytest.param(n, marks=pytest.mark.campaign) for n in (0.1, 0.3, 0.5))])
def test_an_extension_killed_at_any_time(tool: Tool, loop_disks: MakeDisk, seconds: float) -> None:
    tool.configure(loop_disks().path, extra=HALF)
    tool.succeed(*APPLY)
    kill_inside(tool, "lvextend", "extend", "docker", "--data", "+100MiB", "--yes", seconds=seconds)
    found = examine(tool)
    codes = {finding["code"] for finding in found}
    assert codes <= {"RUN_INTERRUPTED", "DEVICE_SUSPENDED", "KERNEL_BEHIND", "UDEV_COOKIE_LEAKED", "TAG_LOST"}
    assert "RUN_INTERRUPTED" in codes
    interrupted = next(finding for finding in found if finding["code"] == "RUN_INTERRUPTED")
    if interrupted["fix"]:
        follow(tool, interrupted)
    else:
        tool.succeed("resume", "--yes")
    for cookie in [finding for finding in examine(tool) if finding["code"] == "UDEV_COOKIE_LEAKED"]:
        sh(*shlex.split(cookie["resolution"].partition("run: ")[2]))
    is_healed(tool)


def test_a_missing_disk(tool: Tool, loop_disks: MakeDisk) -> None:
    first, second = loop_disks(), loop_disks()
    tool.configure(first.path, second.path)
    tool.succeed(*APPLY)
    tool.succeed("deactivate", "docker", "--yes")
    name = second.path.name
    second.detach()
    wait_until(lambda: not (SYS_BLOCK / name / "loop").is_dir())
    sh("udevadm", "settle")
    found = examine(tool)
    assert found[0]["code"] == "POOL_PARTIAL"
    assert found[0]["fix"] is None
    second.attach()
    sh("udevadm", "settle")
    tool.configure(first.path, second.path)
    # Now that the group is whole, udev activates it.
    wait_until(lambda: "docker-thinpool" in dm_names())
    is_healed(tool)
    tool.configure(first.path, second.path, "/dev/nowhere", "/etc/passwd")
    found = examine(tool)
    assert [(f["code"], f["target"]) for f in found] == [
        ("DISK_MISSING", "/dev/nowhere"),
        ("NOT_A_BLOCK_DEVICE", "/etc/passwd"),
    ]


def test_tools_that_are_missing(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path)
    tool.succeed(*APPLY)
    for program, package in (("thin_check", "thin-provisioning-tools"), ("lvm", "lvm2")):
        places = [path for path in (Path("/usr/sbin") / program, Path("/sbin") / program) if path.exists()]
        place = places[0].parent.resolve() / program
        hidden = place.with_name(f"{program}.hidden")
        os.rename(place, hidden)
        try:
            found = examine(tool)
        finally:
            os.rename(hidden, place)
        assert [(f["code"], f["target"], f["severity"]) for f in found] == [("TOOL_MISSING", program, "error")]
        assert package in found[0]["resolution"]
    is_healed(tool)


def test_a_damaged_journal_is_a_finding_and_stops_nothing_but_changes(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path)
    tool.succeed(*APPLY)
    (file,) = (STATE_FOLDER / "runs").iterdir()
    whole = file.read_bytes()
    file.write_bytes(b"x" + whole)
    (finding,) = only(tool, "JOURNAL_DAMAGED")
    assert f"mv {file} " in finding["resolution"]
    assert [f["code"] for f in tool.succeed("status", "--json").document["findings"]] == ["JOURNAL_DAMAGED"]
    assert tool.succeed("history", "--json").document["runs"][0]["outcome"] == "damaged"
    assert tool(*APPLY).code == 5
    file.write_bytes(whole)
    is_healed(tool)
