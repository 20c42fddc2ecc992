#!/usr/bin/env python3
"""Measures thinpoolmgr against the fewest commands that do the same; `make bench` runs it as root in the lab.

What is compared takes turns in one boot of one kernel: what slows one down slows the others down, too. A ratio is
taken within each round; shown is the median of all rounds, with the quartiles. What does not depend on load is
counted: processes by the kernel's own accounting (acct(2)), commits of LVM's metadata by `vg_seqno`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import TYPE_CHECKING, NamedTuple

from thin_devices import add_thin_devices
from tools import silently, take_turns, versions
from used_pool import fill_pool, write_docker_files

from thinpoolmgr.host import lvm
from thinpoolmgr.host.runner import CommandRunner
from thinpoolmgr.lab.loop import LoopDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from thinpoolmgr.core.model import VolumeGroup

DISK_BYTES = 4 << 30
CONFIG = Path("/lab/bench.toml")
STATE = Path("/var/lib/thinpoolmgr")
ACCOUNTS = Path("/lab/accounts")
# struct acct of acct(5), format 2 (that of the lab's kernel): only format and group are of interest
ACCOUNT = struct.Struct("=xB2xH58x")
ACCOUNT_FORMAT = 2
# What is measured runs under a group of its own, so that the processes of udev are not counted.
GROUP = 4711
STARTS = 5

# 10,000 devices with three blocks of their own take 15 GiB; the file is sparse
USED_DISK_BYTES = 24 << 30
USED_CONFIGURATION = 'version = 1\n[pools.docker]\ndevices = ["{}"]\nmetadata_size = "128MiB"\ndata_size = "90%VG"\n'
DATA_ROOT = Path("/var/lib/docker")
METADATA = "/dev/mapper/docker-thinpool_tmeta"

TOOL = ("thinpoolmgr", "--config", str(CONFIG))
APPLY = (*TOOL, "apply", "--yes")
# data_size, chunk_size and zero_new_blocks are the defaults; 1 % is what Docker gives the metadata.
CONFIGURATION = 'version = 1\n[pools.docker]\ndevices = ["{}"]\nmetadata_size = "1%VG"\n'
MINIMUM = (
    "vgcreate docker {}",
    "lvcreate --type thin-pool -n thinpool -l 95%VG --poolmetadatasize 40m -c 512k --zero n --monitor n docker",
)
PROFILE = Path("/etc/lvm/profile/docker-thinpool.profile")
PROFILE_TEXT = "activation{\nthin_pool_autoextend_threshold=80\nthin_pool_autoextend_percent=20\n}\n"
# daemon/graphdriver/devmapper/device_setup.go of Docker 20.10; between these two it writes the profile
DIRECT_LVM = (
    "pvcreate -f {}",
    "vgcreate docker {}",
    "lvcreate --wipesignatures y -n thinpool docker --extents 95%VG",
    "lvcreate --wipesignatures y -n thinpoolmeta docker --extents 1%VG",
    "lvconvert -y --zero n -c 512K --thinpool docker/thinpool --poolmetadata docker/thinpoolmeta",
)
DIRECT_LVM_PROFILE = ("lvchange --metadataprofile docker-thinpool docker/thinpool",)

HEADER = "| {} | wall s | CPU s | ratio of wall | ratio of CPU | processes | commits |\n|---|---|---|---|---|---|---|"


class Cost(NamedTuple):
    """What one contestant took in one round: seconds, seconds, processes started, commits of LVM's metadata."""

    wall: float
    cpu: float
    processes: int
    commits: int = 0


class Scale(NamedTuple):
    """Medians at the first number of devices, in seconds."""

    report: float
    status: float


def main() -> None:
    """Measure what was asked for and print it as Markdown tables."""
    parser = argparse.ArgumentParser(description="Measure thinpoolmgr in the lab.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--devices", type=int, nargs="*", default=[10, 100, 1000, 5000])
    parser.add_argument("--used-devices", type=int, default=10_000)
    parser.add_argument("--parts", nargs="*", default=["start", "first", "scale", "usage"])
    options = parser.parse_args()
    start_accounting()
    print(f"{versions()}, {options.rounds} rounds.", flush=True)
    if "start" in options.parts:
        measure_start(options.rounds)
    if "first" in options.parts:
        measure_first_apply(options.rounds)
    if "scale" in options.parts:
        measure_scale(options.rounds, options.devices)
    if "usage" in options.parts:
        measure_usage(options.rounds, options.used_devices)


def measure_start(rounds: int) -> None:
    """Measure `--version` against a bare interpreter, many starts a round: the kernel counts CPU in ticks of 10 ms."""
    commands = {"python -c pass": (sys.executable, "-c", "pass"), "thinpoolmgr --version": ("thinpoolmgr", "--version")}
    costs = take_turns(rounds, {name: partial(run, *[words] * STARTS) for name, words in commands.items()})
    bare, version = costs.values()
    print_table(f"{STARTS} starts", costs, bare)
    extra_ms = [1000 * (ours.cpu - base.cpu) / STARTS for ours, base in zip(version, bare, strict=True)]
    print(f"\n`--version`: {statistics.median(extra_ms):.0f} ms of CPU above the bare interpreter.", flush=True)


def measure_first_apply(rounds: int) -> None:
    """Measure the first `apply` on a blank disk against LVM's minimum and Docker's own set-up."""
    costs = take_turns(
        rounds,
        {
            "vgcreate, lvcreate": lambda: on_blank_disk(lambda disk: run_lines(MINIMUM, disk)),
            "Docker's direct-lvm": lambda: on_blank_disk(direct_lvm),
            "thinpoolmgr apply": lambda: on_blank_disk(first_apply),
        },
    )
    minimum, docker, ours = costs.values()
    print_table("first apply, ratios to LVM's minimum", costs, minimum)
    print_table("first apply, ratio to Docker's direct-lvm", {"thinpoolmgr apply": ours}, docker)


def measure_scale(rounds: int, counts: Sequence[int]) -> None:
    """Measure a no-op `apply` and `status` against one report of LVM, with more and more active thin devices."""
    first: Scale | None = None
    with LoopDisk(DISK_BYTES, directory=Path("/lab")) as disk:
        first_apply(disk.path)
        have = 0
        for count in counts:
            add_thin_devices("docker-thinpool", range(have + 1, count + 1))
            have = count
            require_devices(count)
            contestants = {
                "lvm fullreport": lvm.report_command(),
                "thinpoolmgr apply": APPLY,
                "thinpoolmgr status": (*TOOL, "status"),
            }
            costs = take_turns(rounds, {name: partial(run, words) for name, words in contestants.items()})
            print_table(f"{count} thin devices", costs, costs["lvm fullreport"])
            report, _, status = (statistics.median(cost.wall for cost in rows) for rows in costs.values())
            first = first or Scale(report, status)
            print(
                f"\nMedians to those at {counts[0]} devices: report {report / first.report:.2f}, "
                f"`status` {status / first.status:.2f}; "
                f"`status` without the report: {first.status - first.report:.2f} s then, {status - report:.2f} s now.",
                flush=True,
            )


def measure_usage(rounds: int, count: int) -> None:
    """Measure `usage` against the three commands that ask the pool for the same numbers, owners not among them."""
    with LoopDisk(USED_DISK_BYTES, directory=Path("/lab")) as disk:
        CONFIG.write_text(USED_CONFIGURATION.format(disk.path), "utf-8")
        run(APPLY)
        (pool,) = (lv for lv in read_group().lvs if lv.is_thin_pool)
        fill_pool("docker", "thinpool", count, pool.size_bytes // pool.chunk_bytes, Path("/lab"))
        # Only now: a pool that is to be new would be refused beside files of another.
        write_docker_files(DATA_ROOT, count)
        CONFIG.write_text(USED_CONFIGURATION.format(disk.path) + '[engines.docker]\npool = "docker"\n', "utf-8")
        require_owners(count)
        message = ("dmsetup", "message", "docker-thinpool", "0")
        thin_ls = ("thin_ls", "--metadata-snap", "--format", "DEV,MAPPED_BYTES,EXCLUSIVE_BYTES", METADATA)
        asked = ((*message, "reserve_metadata_snap"), thin_ls, (*message, "release_metadata_snap"))
        contestants: dict[str, Callable[[], Cost]] = {
            "thin_ls and its two messages": partial(run, *asked),
            "thinpoolmgr usage": partial(run, (*TOOL, "usage")),
            "thinpoolmgr usage --json": partial(run, (*TOOL, "usage", "--json")),
        }
        costs = take_turns(rounds, contestants)
        print_table(f"{count} thin devices that hold data", costs, costs["thin_ls and its two messages"])
    shutil.rmtree(DATA_ROOT)


def require_owners(count: int) -> None:
    """Stop when `usage` does not tell the owner of each device."""
    said = subprocess.run((*TOOL, "usage", "--json"), capture_output=True, text=True, check=True).stdout
    document = json.loads(said)
    owned = sum(device["owner_kind"] in {"container", "image-layer"} for device in document["devices"])
    if owned != count or document["problems"]:
        raise SystemExit(f"usage tells the owners of {owned} of {count} devices: {document['problems']}")


def on_blank_disk(build: Callable[[Path], Cost]) -> Cost:
    """Let `build` make the pool on a new disk, see that it is the pool, and take it down again."""
    shutil.rmtree(STATE, ignore_errors=True)
    PROFILE.unlink(missing_ok=True)
    with LoopDisk(DISK_BYTES, directory=Path("/lab")) as disk:
        cost = build(disk.path)
        group = read_group()
        pool = group.find_lv("thinpool")
        if pool is None or (pool.size_bytes, pool.metadata_bytes, pool.chunk_bytes, pool.zero) != (
            971 * group.extent_bytes,
            10 * group.extent_bytes,
            512 << 10,
            False,
        ):
            raise SystemExit(f"another pool than was to be measured: {pool}")
        silently("vgremove", "--force", "--yes", "docker")
        silently("pvremove", str(disk.path))
        silently("udevadm", "settle")
    return cost._replace(commits=group.seqno)


def first_apply(disk: Path) -> Cost:
    """Run `apply` on a host where it has never been run."""
    CONFIG.write_text(CONFIGURATION.format(disk), "utf-8")
    return run(APPLY)


def direct_lvm(disk: Path) -> Cost:
    """Do what Docker's daemon does for `dm.directlvm_device`."""
    one = run_lines(DIRECT_LVM, disk)
    PROFILE.write_text(PROFILE_TEXT, "utf-8")
    two = run_lines(DIRECT_LVM_PROFILE, disk)
    return Cost(one.wall + two.wall, one.cpu + two.cpu, one.processes + two.processes)


def run_lines(lines: Sequence[str], disk: Path) -> Cost:
    """Run commands, one a line, on a disk."""
    return run(*(line.format(disk).split() for line in lines))


def run(*commands: Sequence[str]) -> Cost:
    """Run commands one after the other, each of which must end with 0, and return what they took together."""
    os.truncate(ACCOUNTS, 0)
    wall, cpu = time.monotonic(), children_seconds()
    for command in commands:
        silently(*command, group=GROUP)
    return Cost(time.monotonic() - wall, children_seconds() - cpu, count_processes())


def children_seconds() -> float:
    """Return the CPU seconds, user and system, of all processes begun here that have ended."""
    usage = getrusage(RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def start_accounting() -> None:
    """Let the kernel write a record for each process that ends."""
    ACCOUNTS.touch()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.acct(os.fsencode(ACCOUNTS)):
        raise OSError(ctypes.get_errno(), "the kernel does not account for processes")


def count_processes() -> int:
    """Return how many processes of what is measured have ended since the accounts were emptied."""
    records = list(ACCOUNT.iter_unpack(ACCOUNTS.read_bytes()))
    if any(number != ACCOUNT_FORMAT for number, _ in records):
        raise SystemExit("this kernel accounts for processes in another format")
    return sum(group == GROUP for _, group in records)


def read_group() -> VolumeGroup:
    """Return the one volume group."""
    (group,) = lvm.read_lvm(CommandRunner().run).groups
    return group


def require_devices(count: int) -> None:
    """Stop when `status` does not see the pool with as many thin devices as there are to be."""
    said = subprocess.run((*TOOL, "status", "--json"), capture_output=True, text=True, check=True).stdout
    if f'"thin_devices":{count}' not in said.replace(" ", ""):
        raise SystemExit(f"status does not show {count} thin devices:\n{said}")


def print_table(title: str, costs: dict[str, list[Cost]], base: list[Cost]) -> None:
    """Print a table of medians, and of ratios within each round to `base` with their quartiles."""
    print(f"\n{HEADER.format(title)}")
    for name, rows in costs.items():
        wall, cpu = (
            "1"
            if rows is base
            else spread([ours[field] / other[field] for ours, other in zip(rows, base, strict=True)])
            for field in (0, 1)
        )
        medians = Cost(*(statistics.median(column) for column in zip(*rows, strict=True)))
        print(
            f"| {name} | {medians.wall:.2f} | {medians.cpu:.2f} | {wall} | {cpu} "
            f"| {medians.processes:.0f} | {medians.commits:.0f} |",
            flush=True,
        )


def spread(values: list[float]) -> str:
    """Return the median and the quartiles as text."""
    low, middle, high = statistics.quantiles(values, method="inclusive") if len(values) > 1 else values * 3
    return f"**{middle:.2f}** ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
