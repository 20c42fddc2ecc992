"""The machines that stories are told of: each begins clean."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bed import Bed, Machine

CLEAN = """
systemctl disable --quiet --now docker.socket docker.service containerd.service thinpoolmgr-monitor.service
systemctl disable --quiet thinpoolmgr-apply.service
until ! systemctl is-active --quiet thinpoolmgr-apply.service; do sleep 0.2; done
umount -R /var/lib/docker /mnt 2>/dev/null
vgs --noheadings -o vg_name | while read -r group; do
    vgchange --quiet -an "$group"; vgremove --quiet --force --force --yes "$group"
done
pvs --noheadings -o pv_name | while read -r disk; do pvremove --quiet --force --force --yes "$disk"; done
losetup --detach-all
for disk in /dev/disk/by-id/virtio-TPM-*; do wipefs --quiet --all "$disk"; done
rm -rf /etc/thinpoolmgr /etc/docker/daemon.json /var/lib/docker/* /var/lib/thinpoolmgr /run/thinpoolmgr/* /root/loops
udevadm settle
test -z "$(dmsetup ls --target thin-pool | grep -v 'No devices')"
"""


@pytest.fixture(scope="session")
def bed() -> Bed:
    """Give the bed that is up."""
    return Bed()


@pytest.fixture
def solo(bed: Bed) -> Iterator[Machine]:
    """Give the machine with two disks, TPM-FIRST and TPM-SECOND."""
    yield from _clean(bed.machine("solo"))


@pytest.fixture
def three(bed: Bed) -> list[Machine]:
    """Give three machines, each with a disk TPM-POOL."""
    machines = [bed.machine(name) for name in ("one", "two", "three")]
    for machine in machines:
        machine(CLEAN)
    return machines


def _clean(machine: Machine) -> Iterator[Machine]:
    machine(CLEAN)
    yield machine
    machine.pull_plugged()
