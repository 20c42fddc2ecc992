"""A machine with the units: the power goes while they make its pool, then it is booted twice, and Docker has its pool.

As in test_power_cut.py, but each kernel runs a systemd. What a machine keeps is on its system disk, and mounted first;
`systemctl start docker` then is the part of the boot that begins behind local-fs.target.
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

pytestmark = pytest.mark.campaign
CHECKOUT = Path(__file__).resolve().parents[2]
MIB = 2**20
PREPARE = f"""
set -e
mkdir -p /lab/system && mount -o sync /dev/disk/by-id/ubd-SYSTEM /lab/system
for folder in /var/lib/thinpoolmgr /var/lib/docker /etc/docker; do
    mkdir -p "/lab/system$folder" "$folder" && mount --bind "/lab/system$folder" "$folder"
done
[ -e /etc/docker/daemon.json ] ||
    echo '{{"iptables": false, "ip6tables": false, "bridge": "none"}}' >/etc/docker/daemon.json
mkdir -p /etc/thinpoolmgr
cat >/etc/thinpoolmgr/thinpoolmgr.toml <<X
version = 1
[[pools.docker.match]]
serial = "POOL"
[engines.docker]
pool = "docker"
base_size = "1GiB"
X
sed -i "1a export PYTHONPATH=$PYTHONPATH PYTHONPYCACHEPREFIX=$PYTHONPYCACHEPREFIX" /usr/local/bin/thinpoolmgr
sh {CHECKOUT}/packaging/install.sh /usr/local
systemctl daemon-reload
udevadm control --reload
"""
# The unit itself may not switch off the machine: its sandbox has no such system call.
CUT = """
mkfifo /lab/now /lab/never
cat >/usr/local/sbin/lvcreate <<'X'
#!/bin/sh
{work}
echo now >/lab/now
read -r _ </lab/never
X
chmod +x /usr/local/sbin/lvcreate
systemctl start --no-block docker
read -r _ </lab/now
busybox poweroff -n -f
"""
BOOT = """
systemctl start docker || {{ journalctl -b -o cat -u thinpoolmgr-apply -u docker | tail -n 40; exit 1; }}
docker info --format '{{{{.Driver}}}} {{{{.DriverStatus}}}}' | grep 'devicemapper.*docker-thinpool'
test "$(lvs --noheadings -o lv_name docker | wc -l)" = 1
test "$(thinpoolmgr status --json | grep -c '"state": "healthy"')" = 1
thinpoolmgr plan
test ! -e /run/thinpoolmgr/not-ready
{then}
systemctl stop docker.socket docker
vgchange -q -an docker
umount -l /var/lib/docker /var/lib/thinpoolmgr /etc/docker && umount /lab/system && sync
"""
LOAD = "tar -C /bin -c sh | docker import - lab:1"
FIND = "docker image inspect lab:1 >/dev/null"


class Machine:
    """Two disks that outlive the kernels that are booted on them."""

    def __init__(self, folder: Path) -> None:
        """Make the disks in `folder`."""
        self._folder = folder
        self._pool, self._system = folder / "pool.img", folder / "system.img"
        for image, size_mib in ((self._pool, 3072), (self._system, 256)):
            with image.open("wb") as file:
                file.truncate(size_mib * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-F", self._system], check=True)

    def boot(self, script: str) -> tuple[int, str]:
        """Boot, run `script`, and return its exit code and what it said."""
        path = self._folder / "script.sh"
        path.write_text(PREPARE + script, "utf-8")
        said = io.BytesIO()
        job = GuestJob(
            command=("/bin/sh", str(path)),
            tree=ensure_root(),
            memory_mb=1500,
            read_only=(self._folder,),
            disks=(GuestDisk(image=self._pool, serial="POOL"), GuestDisk(image=self._system, serial="SYSTEM")),
            timeout_seconds=600,
            systemd=True,
        )
        result = run_guest(job, out=said, err=said)
        return result.exit_code, said.getvalue().decode("utf-8", "replace")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    yield Machine(tmp_path)
    for image in tmp_path.glob("*.img"):
        image.unlink()


@pytest.mark.parametrize("work", ["", '/usr/sbin/lvcreate "$@"; sync'])
def test_the_power_goes_while_the_pool_is_made_and_the_next_boots_are_well(machine: Machine, work: str) -> None:
    with pytest.raises(GuestCrashedError):
        machine.boot(CUT.format(work=work))
    for then in (LOAD, FIND):
        code, said = machine.boot(BOOT.format(then=then))
        assert code == 0, said
