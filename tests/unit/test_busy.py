from __future__ import annotations

from typing import Any

import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.busy import refuse_busy, refuse_open, refuse_stopping
from thinpoolmgr.core.holders import Holder, Holders, Process
from thinpoolmgr.core.model import DmDevice

ID = "a" * 64
ENGINE = support.docker(running=True, configured=True, container_ids=(ID,), containers=("web",))
BUSY = [DmDevice("thin", "", "253:7", 1, targets=("thin",))]
MNT = "/var/lib/docker/devicemapper/mnt/1"
STRANGER = Process(9, "sh", "backup.service")
DOCKERD = Process(4711, "dockerd")
INSIDE = Process(12, "sleep 1", f"docker-{ID}.scope", ID)


def holder(*processes: Process, **facts: Any) -> Holder:
    values = {"kind": "mount", "places": ("/x",), "process_count": len(processes), **facts}
    return Holder("thin", "253:7", processes=processes, **values)


@pytest.mark.parametrize(
    "found",
    [
        holder(is_host=True, places=(MNT,)),
        holder(DOCKERD, is_host=True, places=(MNT,)),
        holder(INSIDE),
        holder(DOCKERD, INSIDE, Process(13, "x", "docker.service")),
        holder(STRANGER, follows=True),
        holder(STRANGER, places=(MNT,)),
        holder(INSIDE, STRANGER, places=(MNT,), user_count=1),
        holder(DOCKERD, kind="open"),
        holder(Process(5, "/lib/systemd/systemd-udevd"), kind="open"),
        holder(Process(5, "/lib/systemd/systemd-udevd --daemon"), kind="open"),
        holder(Process(5, "'(udev-worker)'"), kind="open"),
        holder(Process(5, "/sbin/blkid", "systemd-udevd.service"), kind="open"),
        holder(INSIDE, kind="files"),
    ],
)
def test_what_ends_with_the_engine_does_not_stand_against_stopping_it(found: Holder) -> None:
    assert refuse_stopping(BUSY, Holders((found,)), ENGINE, "docker/thinpool") is None


@pytest.mark.parametrize(
    "found",
    [
        holder(is_host=True, places=("/mnt",)),
        holder(is_host=True, places=(MNT, "/mnt")),
        holder(STRANGER, is_host=True, places=(MNT,), user_count=1),
        holder(STRANGER, places=(MNT,), user_count=1),
        holder(STRANGER, follows=True, user_count=1),
        holder(STRANGER),
        holder(DOCKERD, STRANGER),
        holder(STRANGER, follows=True, is_host=True),
        holder(Process(12, "sleep 1", "", "b" * 64)),
        holder(STRANGER, kind="open"),
        holder(Process(9, "dd of=/backup/udevd.img", "backup.service"), kind="open"),
        holder(STRANGER, kind="files"),
        holder(kind="stacked", places=("crypt",)),
    ],
)
def test_what_stays_when_the_engine_stops_is_refused_before_it_is_stopped(found: Holder) -> None:
    refusal = refuse_stopping(BUSY, Holders((found,)), ENGINE, "docker/thinpool")
    assert refusal is not None
    assert (refusal.code, refusal.target) == ("DEVICE_OPEN", "thin")
    assert all(f"pid {process.pid}" in refusal.details for process in found.processes)
    assert "docker/thinpool" in refusal.summary


def test_holders_of_other_devices_do_not_matter() -> None:
    elsewhere = Holders((replace(holder(STRANGER), devno="253:8"),))
    assert refuse_stopping(BUSY, elsewhere, ENGINE, "p") is None
    assert refuse_stopping(BUSY, None, ENGINE, "p") is None


def test_a_data_root_behind_a_link_is_known_by_its_state() -> None:
    state = replace(support.STALE, path="/srv/docker/devicemapper")
    found = Holders((holder(is_host=True, places=("/srv/docker/devicemapper/mnt/1",)),))
    assert refuse_stopping(BUSY, found, replace(ENGINE, state=state), "p") is None
    assert refuse_stopping(BUSY, found, ENGINE, "p") is not None


def test_only_what_goes_by_itself_and_nobody_is_seen_to_have_is_waited_for() -> None:
    going = [replace(BUSY[0], deferred_remove=True)]
    assert refuse_busy(going, Holders(), None, "p") is None
    assert refuse_busy(going, Holders(unseen=("process 5: Permission denied",)), None, "p") is not None
    assert refuse_busy(going, Holders((holder(STRANGER),)), None, "p") is not None
    assert refuse_busy(going, None, None, "p") is not None
    assert refuse_busy(BUSY, Holders(), None, "p") is not None


@pytest.mark.parametrize(
    ("found", "way"),
    [
        (holder(STRANGER), "Restart backup.service, or unmount it there: nsenter --target 9 --mount umount /x."),
        (holder(Process(9, "sh")), "End the process 9, or unmount it there: nsenter --target 9 --mount umount /x."),
        (holder(is_host=True), "Unmount it: umount /x."),
        (holder(STRANGER, is_host=True), "End the process 9 of backup.service."),
        (holder(Process(9, "sh"), kind="open"), "End the process 9."),
        (holder(kind="stacked", places=("crypt",)), "Remove what stands on it: dmsetup remove crypt."),
        (holder(kind="stacked", places=("loop3",)), "Remove what stands on it: losetup --detach /dev/loop3."),
        (holder(INSIDE), "Start docker (systemctl start docker.service) and stop its containers"),
    ],
)
def test_the_way_out_fits_the_holder(found: Holder, way: str) -> None:
    resolution = refuse_open("thin", "s", Holders((found,)), support.docker()).resolution
    assert resolution.startswith(way)
    assert resolution.endswith("nothing that is open is ever removed by force.")


def test_many_holders_are_counted_and_blind_spots_are_told() -> None:
    many = Holders(tuple(holder(Process(pid, "p")) for pid in range(100, 115)), ("process 5: Permission denied",))
    details = refuse_open("thin", "s", many).details
    assert "pid 109" in details
    assert "pid 110" not in details
    assert "and 5 more" in details
    assert details.endswith("Not looked into: process 5: Permission denied")
    assert "No process was found" in refuse_open("thin", "s", Holders()).details
