"""What `metrics` and `status --watch` say of a real pool, held against LVM and the kernel."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from lab_tool import Tool, sh, words

from thinpoolmgr.lab.loop import LoopDisk

pytestmark = pytest.mark.campaign

MIB = 2**20
THIN = "lab-thin"


@pytest.fixture
def tool(tmp_path: Path, loop_disks: Callable[..., LoopDisk]) -> Iterator[Tool]:
    made = Tool(tmp_path)
    made.configure(loop_disks(2**30).path, extra='data_size = "400MiB"')
    made.succeed("apply", "--yes")
    sh("dmsetup", "message", "docker-thinpool", "0", "create_thin 1")
    sh("dmsetup", "create", THIN, "--table", f"0 {600 * MIB // 512} thin /dev/mapper/docker-thinpool 1")
    yield made
    sh("dmsetup", "remove", "--retry", THIN)
    made.succeed("destroy", "docker", "--yes", "--allow", "outage,destroy")


def write(mib: int, seek_mib: int = 0) -> None:
    where = f"of=/dev/mapper/{THIN}"
    sh("dd", "if=/dev/urandom", where, "bs=1M", f"count={mib}", f"seek={seek_mib}", "oflag=direct")


def measured(text: str, name: str) -> dict[str, float]:
    """Return the values of a name by their labels."""
    found = re.findall(rf"^thinpoolmgr_{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def test_the_document_says_what_lvm_and_the_kernel_say(tool: Tool, tmp_path: Path) -> None:
    write(100)
    # This commits what was written; the product's own looks never do, and would see a block more or less of metadata.
    sh("dmsetup", "status", "docker-thinpool")
    path = tmp_path / "thinpoolmgr.prom"
    tool.succeed("metrics", "--textfile", str(path))
    text = path.read_text("utf-8")
    status = sh("dmsetup", "status", "--noflush", "docker-thinpool").split()
    metadata, data = ([int(number) for number in status[place].split("/")] for place in (4, 5))
    labels = 'pool="docker",thin_pool="thinpool",volume_group="docker"'
    used, size = measured(text, "pool_used_bytes"), measured(text, "pool_size_bytes")
    chunk = 512 * 1024
    assert (used[f'part="data",{labels}'], size[f'part="data",{labels}']) == (data[0] * chunk, data[1] * chunk)
    assert used[f'part="data",{labels}'] == 100 * MIB
    assert (used[f'part="metadata",{labels}'], size[f'part="metadata",{labels}']) == (
        metadata[0] * 4096,
        metadata[1] * 4096,
    )
    (free,) = words("vgs", "--noheadings", "--units=b", "--nosuffix", "-o", "vg_free", "docker")
    assert measured(text, "volume_group_free_bytes") == {'volume_group="docker"': float(free)}
    assert measured(text, "pool_thin_devices") == {labels: 1.0}
    assert measured(text, "last_run_outcome")['outcome="done"'] == 1.0


def test_what_is_watched_fills_grows_and_is_given_back(tool: Tool) -> None:
    argv = tool.argv("status", "--watch", "--interval", "0.5")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as watching:
        lines = watching.stdout
        assert lines is not None

        def wait_for(pattern: str) -> str:
            # So many looks take minutes: what has not come by then does not come.
            return next(line for line in islice(lines, 400) if re.search(pattern, line))

        wait_for(r"healthy; data 0.0 % of 400 MiB")
        write(200)
        wait_for(r"data 50.0 % of 400 MiB, \+[0-9.]+ MiB/s, full in ")
        tool.succeed("extend", "docker", "--data", "+400MiB", "--yes")
        # Without another look through LVM the change would be seen after a minute only.
        wait_for(r"data 25.0 % of 800 MiB, \+")
        sh("blkdiscard", "-l", str(150 * MIB), f"/dev/mapper/{THIN}")
        assert "full in" not in wait_for(r"data 6.2 % of 800 MiB")
        watching.send_signal(signal.SIGINT)
        assert watching.wait() == 130
