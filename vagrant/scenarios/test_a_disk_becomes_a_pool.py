"""A disk becomes a pool: by hand, at boot before Docker, and when it is plugged in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from story import CONFIG, FIRST, ON_POOL, SECOND, in_container, is_blank, load_image, pool_of, storage, want

if TYPE_CHECKING:
    from machine import Host, Machine


def test_loop_devices_by_hand(solo: Host) -> None:
    """An admin tries it on two loop devices before he gives it a disk."""
    solo("mkdir -p /root/loops && truncate -s 1G /root/loops/a /root/loops/b")
    disks = [solo(f"losetup --find --show /root/loops/{name}").out.strip() for name in "ab"]
    named = ", ".join(f'"{disk}"' for disk in disks)
    solo.write(CONFIG, f"version = 1\n[pools.try]\ndevices = [{named}]\n")

    assert solo("thinpoolmgr plan", ok=False).code == 2
    solo("thinpoolmgr apply --yes")

    pool = pool_of(solo)
    assert (pool["state"], [device["path"] for device in pool["devices"]]) == ("healthy", disks)
    assert solo("thinpoolmgr plan").code == 0
    solo("thinpoolmgr destroy try --yes --allow destroy")
    assert all(is_blank(solo, disk) for disk in disks)
    solo(f"losetup --detach {' '.join(disks)}")


def test_an_attached_disk_before_docker_at_first_boot(solo: Machine) -> None:
    """A new node boots for the first time: its disk becomes the pool, and then Docker starts on it."""
    want(solo, "TPM-FIRST")
    solo.reboot()

    assert solo("systemctl is-active docker").out.strip() == "active"
    assert storage(solo) == ON_POOL
    assert pool_of(solo)["state"] == "healthy"
    assert is_blank(solo, SECOND)
    load_image(solo)
    assert in_container(solo, "echo a container on the pool") == "a container on the pool\n"
    assert pool_of(solo)["data"]["used_bytes"] > 0

    solo.reboot()

    assert storage(solo) == ON_POOL
    assert (pool_of(solo)["state"], solo("thinpoolmgr plan").code) == ("healthy", 0)
    assert in_container(solo, "echo still there") == "still there\n"


def test_a_disk_that_is_plugged_in(solo: Machine) -> None:
    """A disk with the right serial becomes the pool as soon as it is plugged in; one with a wrong serial does not."""
    want(solo, "LATER-*", engine=False)
    assert pool_of(solo)["state"] == "absent"

    wrong = solo.plug("OTHER-1")
    # it has the unit started, which waits for the right one, in vain
    solo.until("systemctl show -P ActiveState thinpoolmgr-apply | grep -qx failed")
    assert is_blank(solo, wrong)
    assert pool_of(solo)["state"] == "absent"

    right = solo.plug("LATER-1")
    solo.until("vgs docker")
    solo.until("systemctl show -P ActiveState thinpoolmgr-apply | grep -qx inactive")

    assert pool_of(solo)["state"] == "healthy"
    assert is_blank(solo, wrong)
    assert not is_blank(solo, right)
    assert is_blank(solo, FIRST)
