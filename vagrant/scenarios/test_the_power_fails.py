"""The power fails in the middle of something; after the boot the machine becomes what was described."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from story import FIRST, ON_POOL, in_container, is_blank, load_image, pool_of, storage, want

if TYPE_CHECKING:
    from machine import Machine

HOLD = """
cat >/usr/local/sbin/{program} <<'X'
#!/bin/sh
rm "$0" && sync
/usr/sbin/{program} "$@"
touch /run/held
exec sleep 600
X
chmod 755 /usr/local/sbin/{program}; sync
systemd-run --quiet --collect {command}
until [ -e /run/held ]; do sleep 0.1; done
"""
"""Runs a command, and holds it, once, where one of LVM's commands has done its work and nobody knows it yet."""


@pytest.fixture
def node(solo: Machine) -> Machine:
    want(solo, "TPM-FIRST")
    solo("sync")
    return solo


@pytest.mark.parametrize("program", ["vgcreate", "lvcreate"])
def test_while_the_pool_is_made(node: Machine, program: str) -> None:
    """The power goes while apply makes the pool."""
    node(HOLD.format(program=program, command="thinpoolmgr apply --yes"))

    node.cut_power()
    node.boot()
    node("systemctl start docker")

    assert storage(node) == ON_POOL
    assert pool_of(node)["state"] == "healthy"
    assert node("thinpoolmgr plan").code == 0


def test_while_the_pool_fills(node: Machine) -> None:
    """The power goes while a container writes at full speed, soon after the pool was extended."""
    want(node, "TPM-FIRST", size='data_size = "1GiB"\n')
    node("thinpoolmgr apply --yes && systemctl start docker thinpoolmgr-monitor")
    load_image(node)
    write = "while :; do dd if=/dev/zero of=/f bs=1M count=900 conv=notrunc; done"
    node(f"sync; docker run --detach --network none story:1 /bin/busybox sh -c '{write}'")
    node.until("journalctl -b -o cat -u thinpoolmgr-monitor | grep 'was extended: data to'")
    assert node("docker ps --quiet").out.strip()

    node.cut_power()
    node.boot()

    assert storage(node) == ON_POOL
    assert pool_of(node)["data"]["total_bytes"] > 1 << 30
    assert node("thinpoolmgr plan").code == 0
    assert pool_of(node)["state"] == "healthy"
    assert in_container(node, "echo the image is whole") == "the image is whole\n"


def test_while_the_pool_is_torn_down(node: Machine) -> None:
    """The power goes in the middle of a tear-down."""
    node("thinpoolmgr apply --yes")
    # or the boot would make the pool anew
    node("systemctl mask --quiet thinpoolmgr-apply && sync")
    node(HOLD.format(program="lvremove", command="thinpoolmgr destroy docker --yes --allow destroy"))

    node.cut_power()
    node.boot()
    node("thinpoolmgr destroy docker --yes --allow destroy")

    assert is_blank(node, FIRST)
    assert not node("vgs --noheadings docker", ok=False).out.strip()
