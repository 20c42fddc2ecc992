"""A pool in use: containers, a larger base size, extension, tear-down, and Docker's state after a rebuild."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from story import CONFIG, FIRST, ON_POOL, in_container, is_blank, load_image, pool_of, storage, want

if TYPE_CHECKING:
    from machine import Host


@pytest.fixture
def node(solo: Host) -> Host:
    """A machine whose Docker is on its pool, with an image."""
    want(solo, "TPM-FIRST", size='data_size = "1GiB"\nchunk_size = "64KiB"\n')
    solo("thinpoolmgr apply --yes && systemctl start docker")
    load_image(solo)
    return solo


def test_containers_get_a_larger_root(node: Host) -> None:
    """The base size is grown; new images have the new one, and what is there goes on."""
    old = int(in_container(node, "df -k /").split()[-5])

    node("thinpoolmgr base-size docker 2GiB --yes --allow outage")

    assert "2GiB" in node(f"cat {CONFIG}").out
    assert storage(node) == ON_POOL
    load_image(node, "story:2")
    new = int(in_container(node, "df -k /", "story:2").split()[-5])
    assert new > 1.8 * old
    assert in_container(node, "echo still there") == "still there\n"


def test_a_pool_that_fills_is_extended(node: Host) -> None:
    """A container writes more than the pool had at first."""
    before = pool_of(node)["data"]["total_bytes"]
    node("systemctl start thinpoolmgr-monitor")

    for number in (1, 2):
        node(f"docker run --name big{number} --network none story:1 /bin/busybox dd if=/dev/zero of=/f bs=1M count=700")

    pool = pool_of(node)
    assert pool["data"]["total_bytes"] > max(before, 1400 << 20)
    assert pool["state"] == "healthy"
    assert "was extended: data to" in node("journalctl -b -o cat -u thinpoolmgr-monitor").out


def test_a_tear_down_leaves_a_clean_disk(node: Host) -> None:
    """The node is taken out of service: nothing of the pool is left, and Docker's state is out of its way, whole."""
    node("thinpoolmgr destroy docker --yes --allow outage,destroy")

    assert is_blank(node, FIRST)
    assert "docker" not in node("dmsetup ls").out
    assert node("ls /var/lib/docker/thinpoolmgr-stale-*/devicemapper/metadata").out
    assert node("ls -d /var/lib/docker/devicemapper /var/lib/docker/image/devicemapper", ok=False).out == ""
    assert "Nothing to do" in node("thinpoolmgr destroy docker --yes --allow destroy").out


def codes(node: Host) -> list[str]:
    return [found["code"] for found in json.loads(node("thinpoolmgr status --json").out)["findings"]]


def test_stale_state_after_a_rebuild(node: Host) -> None:
    """The pool is removed by hand and made anew: Docker's old state is seen, moved aside, and Docker starts."""
    node("systemctl stop docker.socket docker && vgremove --force --force --yes docker && wipefs --all " + FIRST)

    assert "ENGINE_STATE_STALE" in codes(node)
    node("thinpoolmgr clean docker --yes")
    assert node("ls /var/lib/docker/thinpoolmgr-stale-*/devicemapper/metadata").out
    node("thinpoolmgr apply --yes && systemctl start docker")

    assert "ENGINE_STATE_STALE" not in codes(node)
    assert storage(node) == ON_POOL
    load_image(node)
    assert in_container(node, "echo again") == "again\n"
