"""The power goes in the middle of a run: the machine comes up again with its disks, and the run is finished.

Each test boots two throw-away kernels one after the other, on the same two disks: one for the pool, one that holds
`/var/lib/thinpoolmgr`, as a machine's own disk would.
"""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from thinpoolmgr.lab.guest import GuestCrashedError, run_guest
from thinpoolmgr.lab.guestfiles import GuestDisk, GuestJob
from thinpoolmgr.lab.root import ensure_root

GIBIBYTE = 2**30
PREPARE = """
set -e
mkdir -p /var/lib/thinpoolmgr && mount -o sync /dev/disk/by-id/ubd-SYSTEM /var/lib/thinpoolmgr
cat > /lab/c.toml <<X
version = 1
[pools.docker]
devices = ["/dev/disk/by-id/ubd-POOL"]
X
run() { thinpoolmgr --config /lab/c.toml "$@"; }
"""
CUT = """
run {first} >/dev/null 2>&1
cat > /usr/local/sbin/{program} <<'X'
#!/bin/sh
{work}
busybox poweroff -n -f
X
chmod +x /usr/local/sbin/{program}
run {command}
"""
CHECK_APPLY = """
run apply --yes
test "$(run status --json | grep -c '"state": "healthy"')" = 1
test "$(lvs --noheadings -o lv_name docker | wc -l)" = 1
number=$(vgs --noheadings -o vg_seqno docker)
run apply --yes | grep 'Nothing to do'
test "$(vgs --noheadings -o vg_seqno docker)" = "$number"
"""
CHECK_DESTROY = """
run destroy docker --yes --allow destroy
test -z "$(wipefs --no-act --noheadings /dev/disk/by-id/ubd-POOL)"
run destroy docker --yes --allow destroy | grep 'Nothing to do'
"""
DESTROY = "destroy docker --yes --allow destroy"


class Machine:
    """Two disks that outlive the kernels that are booted on them."""

    def __init__(self, folder: Path) -> None:
        """Make the disks in `folder`."""
        self._folder = folder
        self._pool, self._system = folder / "pool.img", folder / "system.img"
        for image, size_bytes in ((self._pool, GIBIBYTE), (self._system, 64 * 2**20)):
            with image.open("wb") as file:
                file.truncate(size_bytes)
        subprocess.run(["mkfs.ext4", "-q", "-F", self._system], check=True)

    def boot(self, script: str) -> tuple[int, str]:
        """Boot, run `script`, and return its exit code and what it said."""
        path = self._folder / "script.sh"
        path.write_text(PREPARE + script, "utf-8")
        said = io.BytesIO()
        job = GuestJob(
            command=("/bin/sh", str(path)),
            tree=ensure_root(),
            memory_mb=512,
            read_only=(self._folder,),
            disks=(GuestDisk(image=self._pool, serial="POOL"), GuestDisk(image=self._system, serial="SYSTEM")),
            timeout_seconds=300,
        )
        result = run_guest(job, out=said, err=said)
        return result.exit_code, said.getvalue().decode("utf-8", "replace")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    yield Machine(tmp_path)
    for image in tmp_path.glob("*.img"):
        image.unlink()


@pytest.mark.parametrize(
    ("program", "is_done"), [("vgcreate", True), ("lvcreate", False), ("lvcreate", True), ("lvremove", True)]
)
def test_a_run_is_finished_after_the_power_went(machine: Machine, program: str, *, is_done: bool) -> None:
    destroying = program == "lvremove"
    work = f'/usr/sbin/{program} "$@"; sync' if is_done else ""
    cut = CUT.format(
        program=program,
        work=work,
        first="apply --yes" if destroying else "config check",
        command=DESTROY if destroying else "apply --yes",
    )
    with pytest.raises(GuestCrashedError):
        machine.boot(cut)
    code, said = machine.boot(CHECK_DESTROY if destroying else CHECK_APPLY)
    assert code == 0, said
