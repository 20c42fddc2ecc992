"""The monitor on real pools: extends in time, by no more than there is, and leaves alone what it must."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import monitor_lab as lab
import pytest
from conftest import wait_until
from lab_tool import STATE_FOLDER, Tool, fingerprint, seqno, sh, words
from monitor_lab import MIB, SMALL, held_group

from thinpoolmgr.core.report import WatchedPool
from thinpoolmgr.core.thinstatus import METADATA_BLOCK_BYTES, low_water_blocks
from thinpoolmgr.host.store import LOCK_FILE
from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]


def extended(times: int) -> Callable[[WatchedPool], bool]:
    return lambda pool: pool.extensions_done >= times


def found(code: str) -> Callable[[WatchedPool], bool]:
    return lambda pool: code in {sighting.code for sighting in pool.findings}


def lvm_bytes(column: str) -> int:
    return int(sh("lvs", "--noheadings", "--units", "b", "--nosuffix", "-o", column, "docker/thinpool"))


def test_a_pool_grows_when_it_passes_a_threshold(tool: Tool, loop_disks: MakeDisk) -> None:
    # a writer at full speed would have it grow over all of the group, and leave no room for metadata
    limit = '[pools.docker.extend]\nmax_size = "400MiB"\n'
    tool.configure(loop_disks().path, extra=f"{SMALL}{limit}")
    tool.succeed("apply", "--yes")
    # dmeventd has it, as LVM by itself makes it, and the kernel would tell nobody
    sh("lvchange", "--monitor", "y", "docker/thinpool")
    assert low_water_blocks(lab.device().table) == 0
    with lab.running(tool) as monitor, lab.thin_device() as thin:
        wait_until(lambda: low_water_blocks(lab.device().table) == lab.status().total_data_blocks // 5)
        assert low_water_blocks(lab.device().table) == lab.status().total_data_blocks // 5
        assert words("lvs", "--noheadings", "-o", "seg_monitor", "docker/thinpool") == ["not", "monitored"]
        lab.fill(thin, 170 * MIB)
        monitor.wait(extended(1))
        assert lab.data_bytes() >= 240 * MIB
        assert lab.data_bytes() == lvm_bytes("lv_size")
        assert low_water_blocks(lab.device().table) == lab.status().total_data_blocks // 5
        before = lab.status().total_metadata_blocks
        lab.fill_metadata("docker-thinpool", 0.81)
        word = monitor.wait(extended(2))
        assert lab.status().total_metadata_blocks > before
        wait_until(lambda: lab.status().total_metadata_blocks * METADATA_BLOCK_BYTES == lvm_bytes("lv_metadata_size"))
        assert lab.status().total_metadata_blocks * METADATA_BLOCK_BYTES == lvm_bytes("lv_metadata_size")
        assert (word.extensions_failed, monitor.codes()) == (0, [])
    outcomes = {run["outcome"] for run in tool.succeed("history", "--json").document["runs"]}
    assert outcomes == {"done"}
    assert tool("plan").code == 0


def test_a_full_group_is_told_of_and_what_is_freed_or_added_is_used_at_once(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks(size_bytes=256 * MIB).path, extra=SMALL)
    more = loop_disks(size_bytes=256 * MIB).path
    tool.succeed("apply", "--yes")
    sh("lvcreate", "--quiet", "--size", "16M", "--name", "other", "docker")
    with lab.running(tool) as monitor, lab.thin_device() as thin:
        lab.fill(thin, 170 * MIB)
        # what is left of the group is taken first
        monitor.wait(extended(1))
        lab.fill(thin, 40 * MIB, 170 * MIB)
        monitor.wait(found("EXTENSION_NO_ROOM"))
        assert words("vgs", "--noheadings", "-o", "vg_free_count", "docker") == ["0"]
        assert grows_after("lvremove", "--quiet", "--yes", "docker/other")
        assert grows_after("vgextend", "--quiet", "docker", more)
        monitor.wait(lambda pool: not pool.findings)


def grows_after(*command: str | Path) -> bool:
    before = lab.data_bytes()
    sh(*command)
    wait_until(lambda: lab.data_bytes() > before, lab.WAIT_SECONDS)
    return lab.data_bytes() > before


@pytest.fixture
def no_space_timeout() -> Iterator[None]:
    """Have the kernel fail the writes to a full pool after two seconds, not a minute."""
    parameter = Path("/sys/module/dm_thin_pool/parameters/no_space_timeout")
    before = parameter.read_text()
    parameter.write_text("2")
    yield
    parameter.write_text(before)


@pytest.mark.campaign
@pytest.mark.usefixtures("no_space_timeout")
def test_writes_that_are_lost_are_told_of_and_the_pool_is_extended_all_the_same(
    tool: Tool, loop_disks: MakeDisk
) -> None:
    tool.configure(loop_disks(size_bytes=256 * MIB).path, extra=SMALL)
    more = loop_disks(size_bytes=256 * MIB).path
    tool.succeed("apply", "--yes")
    with lab.running(tool) as monitor, lab.thin_device() as thin:
        write = ["dd", "if=/dev/zero", f"of={thin}", f"bs={MIB}", "count=300", "oflag=direct"]
        written = subprocess.run(write, capture_output=True, text=True, check=False)
        assert (written.returncode, "No space left" in written.stderr) == (1, True), written.stderr
        word = monitor.wait(found("POOL_ERRORS_WRITES"))
        assert (word.state, "EXTENSION_NO_ROOM" in monitor.codes()) == ("out_of_data", True)
        assert grows_after("vgextend", "--quiet", "docker", more)
        monitor.wait(lambda pool: pool.state == "healthy" and not pool.findings)
        lab.fill(thin, 20 * MIB, 240 * MIB)
    assert "some are lost" in monitor.said.read_text()


@pytest.mark.campaign
def test_a_spare_disk_is_taken_and_one_in_doubt_is_not(tool: Tool, loop_disks: MakeDisk) -> None:
    first, doubtful, spare = (loop_disks(size_bytes=256 * MIB).path for _ in range(3))
    sh("mkfs.ext4", "-q", doubtful)
    sum_before = fingerprint(doubtful)
    tool.configure(first, extra=f'{SMALL}wipe_signatures = true\nspare_devices = ["{doubtful}"]\n')
    tool.succeed("apply", "--yes")
    with lab.running(tool) as monitor, lab.thin_device() as thin:
        lab.fill(thin, 210 * MIB)
        monitor.wait(found("EXTENSION_NO_ROOM"))
        assert "wipes and removes nothing" in monitor.pool().findings[0].summary
        tool.configure(first, extra=f'{SMALL}spare_devices = ["{doubtful}", "{spare}"]\n')
        monitor.reload()
        monitor.wait(lambda pool: not pool.findings and pool.extensions_done > 0)
    assert set(words("pvs", "--noheadings", "-o", "pv_name", "-S", "vg_name=docker")) == {str(first), str(spare)}
    assert fingerprint(doubtful) == sum_before


@pytest.mark.campaign
def test_one_monitor_a_host_and_a_wrong_configuration_changes_nothing(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path, extra=SMALL)
    tool.succeed("apply", "--yes")
    with lab.running(tool) as monitor:
        second = tool("monitor")
        assert (second.code, "another monitor runs" in second.err) == (75, True)
        good = tool.config.read_text()
        tool.config.write_text("version = 1\n[pools.docker]\ndevices = 7\n")
        monitor.reload()
        wait_until(lambda: bool((report := monitor.report()) and report.config_problem))
        assert (monitor.pool().state, bool(monitor.report())) == ("healthy", True)
        tool.config.write_text(good)
        monitor.reload()
        wait_until(lambda: bool((report := monitor.report()) and not report.config_problem))
        report = monitor.report()
        assert report is not None
        assert report.config_problem == ""


@pytest.mark.campaign
def test_a_stuck_group_delays_no_other(tool: Tool, loop_disks: MakeDisk) -> None:
    disks = [loop_disks().path for _ in range(2)]
    pools = "".join(f'[pools.{name}]\ndevices = ["{disk}"]\n{SMALL}' for name, disk in zip("ab", disks, strict=True))
    tool.config.write_text(f"version = 1\n{pools}")
    tool.succeed("apply", "--yes")
    with lab.running(tool, name="b") as monitor:
        monitor.wait(lambda pool: pool.state == "healthy", "a")
        with held_group("a"), lab.thin_device("a-thinpool", "ta") as ta, lab.thin_device("b-thinpool", "tb") as tb:
            lab.fill(ta, 170 * MIB)
            monitor.wait(lambda pool: pool.busy_since is not None, "a")
            lab.fill(tb, 170 * MIB)
            monitor.wait(extended(1), "b")
            assert monitor.pool("a").extensions_done == 0
        monitor.wait(extended(1), "a")


@contextmanager
def hanging_commit(layer: str, pool: str) -> Iterator[None]:
    """Suspend the disk below a pool's metadata while a commit is under way; who asks for its status waits, too."""
    sh("dmsetup", "suspend", "--noflush", "--nolockfs", layer)
    commit = subprocess.Popen(["dmsetup", "message", pool, "0", "create_thin 99"])
    try:
        yield
    finally:
        sh("dmsetup", "resume", layer)
        commit.wait(lab.WAIT_SECONDS)


@pytest.mark.campaign
@pytest.mark.parametrize("began", ["before", "after"])
def test_a_hanging_metadata_disk_delays_no_other_pool(
    tool: Tool, loop_disks: MakeDisk, tmp_path: Path, began: str
) -> None:
    document = tmp_path / "thinpoolmgr.prom"
    below, disk = loop_disks().path, loop_disks().path
    sh("dmsetup", "create", "layer", "--table", f"0 {(1 << 30) // 512 - 2048} linear {below} 2048")
    disks = {"a": "/dev/mapper/layer", "b": disk}
    pools = "".join(f'[pools.{name}]\ndevices = ["{path}"]\n{SMALL}' for name, path in disks.items())
    tool.config.write_text(f"version = 1\n{pools}")
    tool.succeed("apply", "--yes")
    with ExitStack() as running, lab.thin_device("b-thinpool", "tb") as tb:
        if began == "before":
            monitor = running.enter_context(lab.running(tool, name="b"))
            monitor.wait(lambda pool: pool.state == "healthy", "a")
        with hanging_commit("layer", "a-thinpool"):
            if began == "after":
                # it does not know yet which disks are whose
                monitor = running.enter_context(lab.running(tool, name="b"))
            # by then pool a was looked at, and its thread hangs
            since = time.time()
            monitor.wait(lambda pool: pool.looked_at > since + 3, "b")
            # what a disk's event has started, or a person, looks at all disks, and hangs
            said = LOCK_FILE.read_text("utf-8")
            applying = subprocess.Popen(tool.argv("apply", "--yes"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            wait_until(lambda: LOCK_FILE.read_text("utf-8") not in {"", said}, lab.WAIT_SECONDS)
            lab.fill(tb, 170 * MIB)
            monitor.wait(extended(1), "b")
            lab.fill_metadata("b-thinpool", 0.81)
            monitor.wait(extended(2), "b")
            monitor.wait(found("MONITOR_HANGS"), "a")
            # no LVM that waits for the disk has others' devices open
            assert lab.device("tb").open_count == 0
            measuring = subprocess.Popen(tool.argv("metrics", "--textfile", str(document)), stderr=subprocess.PIPE)
            wait_until(document.exists, lab.WAIT_SECONDS)
            assert re.search(r'thinpoolmgr_pool_extensions_total\{pool="b",result="done".* 2\.0', document.read_text())
            # A second one leaves that disk alone, so that it can end: they do not pile up.
            assert "An earlier metrics has not ended" in tool("metrics").err
        # a thread of it waits for the disk, and without that no process ends
        assert "[HOST_HANGS]" in measuring.communicate(timeout=lab.WAIT_SECONDS)[1].decode()
        assert measuring.returncode == 69
        assert b"This host has not answered" in applying.communicate(timeout=lab.WAIT_SECONDS)[1]
        assert applying.returncode == 0
        monitor.wait(lambda pool: not pool.findings, "a")
    sh("vgchange", "--quiet", "-an", "a")
    sh("dmsetup", "remove", "--retry", "layer")


@pytest.mark.campaign
@pytest.mark.parametrize("stripes", ["1", "2"])
def test_a_pool_made_by_hand_is_extended_too(tool: Tool, loop_disks: MakeDisk, stripes: str) -> None:
    disks = [loop_disks().path for _ in range(2)]
    sh("vgcreate", "--quiet", "docker", *disks)
    sh("lvcreate", "--quiet", "--stripes", stripes, "--size", "200M", "--name", "thinpool", "docker")
    sh("lvcreate", "--quiet", "--size", "4M", "--name", "meta", "docker")
    metadata = ("--chunksize", "64K", "--poolmetadata", "docker/meta")
    sh("lvconvert", "--quiet", "--yes", "--type", "thin-pool", *metadata, "docker/thinpool")
    names = ", ".join(f'"{disk}"' for disk in disks)
    tool.config.write_text(f"version = 1\n[pools.docker]\ndevices = [{names}]\n{SMALL}")
    tool.succeed("adopt", "docker", "--yes")
    # A volume of LVM's own in it: the kernel's pool has another name then.
    sh("lvcreate", "--quiet", "--virtualsize", "1G", "--thinpool", "docker/thinpool", "--name", "data")
    pool = "docker-thinpool-tpool"
    with lab.running(tool) as monitor:
        lab.fill(Path("/dev/docker/data"), 170 * MIB)
        monitor.wait(extended(1))
        assert lab.data_bytes(pool) == lvm_bytes("lv_size") >= 240 * MIB
        lab.fill_metadata(pool, 0.81)
        monitor.wait(extended(2))
        assert lab.status(pool).total_metadata_blocks * METADATA_BLOCK_BYTES == lvm_bytes("lv_metadata_size") > 4 * MIB
        assert low_water_blocks(lab.device(pool).table) == lab.status(pool).total_data_blocks // 5
        monitor.wait(lambda pool: not pool.findings)


@pytest.mark.campaign
@pytest.mark.parametrize("stuck", ["lock", "metadata"])
def test_a_stuck_group_keeps_no_other_pool_from_its_spare_disk(tool: Tool, loop_disks: MakeDisk, stuck: str) -> None:
    below, disk, foreign, spare = (loop_disks(size_bytes=size * MIB).path for size in (1024, 256, 256, 256))
    layer = f"layer-{stuck}"
    sh("dmsetup", "create", layer, "--table", f"0 {(1 << 30) // 512 - 2048} linear {below} 2048")
    sh("vgcreate", "foreign", foreign)
    pool_a = f'[pools.a]\ndevices = ["/dev/mapper/{layer}"]\n{SMALL}'
    pool_b = f'[pools.b]\ndevices = ["{disk}"]\nspare_devices = ["{foreign}", "{spare}"]\n{SMALL}'
    tool.config.write_text(f"version = 1\n{pool_a}{pool_b}")
    tool.succeed("apply", "--yes")
    sum_before = fingerprint(foreign)
    with lab.running(tool, name="b") as monitor, lab.thin_device("b-thinpool", "tb") as tb:
        monitor.wait(lambda pool: pool.state == "healthy", "a")
        with ExitStack() as held:
            if stuck == "lock":
                held.enter_context(held_group("a"))
                held.enter_context(held_group("foreign"))
            else:
                held.enter_context(hanging_commit(layer, "a-thinpool"))
            since = time.time()
            monitor.wait(lambda pool: pool.looked_at > since + 3, "b")
            lab.fill(tb, 210 * MIB)
            began = time.monotonic()
            wait_until(lambda: lab.data_bytes("b-thinpool") > 256 * MIB, lab.WAIT_SECONDS)
            assert lab.data_bytes("b-thinpool") > 256 * MIB
            # The disk before it is refused, and not waited for either.
            assert time.monotonic() - began < 10
            monitor.wait(lambda pool: not pool.findings, "b")
        monitor.wait(lambda pool: not pool.findings, "a")
    # LVM's hints tell all others of the new disk.
    assert words("lvs", "--noheadings", "-o", "lv_health_status", "b") == []
    assert set(words("pvs", "--noheadings", "-o", "pv_name", "-S", "vg_name=b")) == {str(disk), str(spare)}
    assert fingerprint(foreign) == sum_before
    sh("vgchange", "--quiet", "-an", "a")
    sh("dmsetup", "remove", "--retry", layer)


@pytest.mark.campaign
def test_a_pool_that_needs_a_check_is_not_extended(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path, extra=SMALL)
    tool.succeed("apply", "--yes")
    metadata = sh("dmsetup", "table", "docker-thinpool_tmeta").split()
    disk_number, start, length = metadata[3], int(metadata[4]), int(metadata[1])
    with lab.running(tool) as monitor, lab.thin_device() as thin:
        broken = (
            f"0 8 linear {disk_number} {start}\n8 {length - 8} flakey {disk_number} {start + 8} 0 600 1 error_writes"
        )
        reload_table("docker-thinpool_tmeta", broken)
        subprocess.run(["dd", "if=/dev/zero", f"of={thin}", "bs=1M", "count=4", "oflag=direct"], check=False)
        reload_table("docker-thinpool_tmeta", f"0 {length} linear {disk_number} {start}")
        monitor.wait(lambda pool: pool.state == "needs_check")
        monitor.wait(found("POOL_NEEDS_CHECK"))
        assert monitor.pool().extensions_done == 0
    assert words("vgs", "--noheadings", "-o", "lv_count", "docker")[0] == "1"


def reload_table(name: str, table: str) -> None:
    subprocess.run(["dmsetup", "reload", name], input=table, text=True, check=True)
    sh("dmsetup", "suspend", "--noflush", name)
    sh("dmsetup", "resume", name)


@pytest.mark.campaign
@pytest.mark.parametrize("moment", ["suspend", "resume"])
def test_what_a_killed_lvextend_left_is_resumed(tool: Tool, loop_disks: MakeDisk, moment: str) -> None:
    tool.configure(loop_disks().path, extra=SMALL)
    tool.succeed("apply", "--yes")
    with lab.running(tool) as monitor:
        monitor.wait(lambda pool: pool.looked_at > 0)
        sh("dmsetup", "suspend", "docker-thinpool")
        if moment == "resume":
            sh("dmsetup", "suspend", "docker-thinpool_tdata")
        wait_until(lambda: not lab.device().suspended, lab.WAIT_SECONDS)
        assert not lab.device().suspended
        wait_until(lambda: not lab.device("docker-thinpool_tdata").suspended, lab.WAIT_SECONDS)
        assert not lab.device("docker-thinpool_tdata").suspended


@pytest.mark.campaign
def test_a_monitor_that_was_killed_is_gone_on_with(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path, extra=SMALL)
    tool.succeed("apply", "--yes")
    with lab.thin_device() as thin:
        with lab.running(tool) as monitor, held_group("docker"):
            lab.fill(thin, 170 * MIB)
            monitor.wait(lambda pool: pool.busy_since is not None)
            lab.kill(monitor.process.pid)
            monitor.process.wait()
            waiting = words("pgrep", "-x", "lvextend")
            for pid in waiting:
                os.kill(int(pid), signal.SIGKILL)
        assert waiting
        with lab.running(tool) as monitor:
            wait_until(lambda: lab.data_bytes() >= 240 * MIB, lab.WAIT_SECONDS)
            assert lab.data_bytes() >= 240 * MIB
            monitor.wait(lambda pool: pool.state == "healthy" and not pool.findings)
    assert "RUN_INTERRUPTED" not in {found["code"] for found in tool("doctor", "--json").document["findings"]}
    assert tool("plan").code == 0


@pytest.mark.campaign
def test_an_idle_monitor_runs_nothing_and_writes_nothing(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path, extra=SMALL)
    tool.succeed("apply", "--yes")
    with lab.running(tool) as monitor:
        wait_until(lambda: low_water_blocks(lab.device().table) != 0)
        before = seqno("docker"), sorted((STATE_FOLDER / "runs").iterdir()), switches(monitor.process.pid)
        looked = monitor.pool().looked_at
        monitor.wait(lambda pool: pool.looked_at > looked + 10)
        after = seqno("docker"), sorted((STATE_FOLDER / "runs").iterdir()), switches(monitor.process.pid)
    assert before[:2] == after[:2]
    # one look a second; the report every fifteen
    assert after[2] - before[2] <= 40


def switches(pid: int) -> int:
    """Return how often the threads of a process went to sleep."""
    texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    lines = [line.split() for text in texts for line in text.splitlines()]
    return sum(int(words[1]) for words in lines if words[0] == "voluntary_ctxt_switches:")


@pytest.mark.campaign
def test_dmeventd_extends_what_is_its_own(tool: Tool, loop_disks: MakeDisk) -> None:
    policy = '[pools.docker.extend]\nmonitor = "dmeventd"\n'
    tool.configure(loop_disks().path, extra=f"{SMALL}{policy}")
    tool.succeed("apply", "--yes")
    assert words("lvs", "--noheadings", "-o", "seg_monitor", "docker/thinpool") == ["monitored"]
    # as after a boot with vgchange --sysinit
    sh("lvchange", "--monitor", "n", "docker/thinpool")
    (step,) = tool("plan", "--json").document["steps"]
    assert (step["do"], "does not watch" in step["reason"]) == ("set-profile", True)
    tool.succeed("apply", "--yes")
    assert words("lvs", "--noheadings", "-o", "seg_monitor", "docker/thinpool") == ["monitored"]
    with lab.thin_device() as thin:
        lab.fill(thin, 170 * MIB)
        wait_until(lambda: lab.data_bytes() > 200 * MIB, lab.WAIT_SECONDS)
        assert lab.data_bytes() > 200 * MIB
