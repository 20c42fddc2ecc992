"""What `reaction.py` measures: each part is a function of the watchers and the options, and returns series of numbers.

All trials of a part begin alike: with a pool that was made anew and that its watcher knows.
"""

from __future__ import annotations

import fcntl
import math
import os
import random
import statistics
import subprocess
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from filled_pool import DATA_BYTES, Crossing
from tools import silently, take_turns

from thinpoolmgr.lab.loop import LoopDisks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from filled_pool import FilledPool
    from watchers import Watcher

Series = dict[str, list[float]]
"""Values by the watcher's name."""
Results = dict[str, Series]

FOLDER = Path("/lab")
LOCKS = Path("/run/lock/lvm")
FILL_PERCENT = 72
PERIOD_SECONDS = 10.0
"""dmeventd looks at a pool so often (daemons/dmeventd/dmeventd.c, DEFAULT_DMEVENTD_TIMER)."""
HELD_SECONDS = 45.0
FAILED_SECONDS = 2.0
SHORTEST_WAIT_SECONDS = 1.0
QUIET_SECONDS = 5.0
NEW_DISK_BYTES = 512 << 20
MOST_CYCLE_BLOCKS = 2048
RACE_DATA_BYTES = 448 << 20
RACE_MIB = 1536
RACE_LOOK_SECONDS = 0.02


class Options(NamedTuple):
    """How often, and how long at most."""

    trials: int
    cycles: int
    longest_wait_seconds: float
    limit_seconds: float


def measure_metadata(watchers: list[Watcher], options: Options) -> Results:
    """Seconds from the metadata's threshold until the kernel has more of it."""

    def trial(watcher: Watcher) -> float:
        pool = _renew(watcher, watcher.first)
        pool.fill_metadata(FILL_PERCENT)
        _random_moment()
        return _told("metadata", watcher, pool.until_metadata_grown(pool.cross_metadata(), options.limit_seconds))

    return {"metadata": _in_turns(options.trials, watchers, trial)}


def measure_data(watchers: list[Watcher], options: Options) -> Results:
    """Seconds from the data's threshold until the kernel has more of it."""

    def trial(watcher: Watcher) -> float:
        pool = _renew(watcher, watcher.first)
        pool.fill_data(FILL_PERCENT)
        _random_moment()
        return _told("data", watcher, pool.until_data_grown(pool.cross_data(), options.limit_seconds))

    return {"data": _in_turns(options.trials, watchers, trial)}


def measure_room(watchers: list[Watcher], options: Options) -> Results:
    """Seconds from a new disk in a group that was full until the kernel has more data blocks.

    All watchers wait at the same time: nothing happens meanwhile but their own attempts. The time from the failure to
    the new disk is random, evenly over orders of magnitude.
    """
    values: Series = {watcher.name: [] for watcher in watchers}
    with LoopDisks(FOLDER) as disks:
        new = {watcher.name: str(disks.add(NEW_DISK_BYTES).path) for watcher in watchers}
        for number in range(options.trials):
            in_order = watchers[number % len(watchers) :] + watchers[: number % len(watchers)]
            crossings = [_fill_group(watcher) for watcher in in_order]
            wait_ratio = options.longest_wait_seconds / SHORTEST_WAIT_SECONDS
            time.sleep(FAILED_SECONDS + SHORTEST_WAIT_SECONDS * wait_ratio ** random.random())
            for watcher, crossing in zip(in_order, crossings, strict=True):
                seconds = _add_disk(watcher, new[watcher.name], crossing, options.limit_seconds)
                values[watcher.name].append(seconds)
    return {"room": values}


def _add_disk(watcher: Watcher, disk: str, crossing: Crossing, limit_seconds: float) -> float:
    """Add a disk to the group that was full, wait for the extension, and take the disk out again."""
    pool = watcher.first
    if pool.status().total_data_blocks != crossing.total:
        raise SystemExit(f"{pool.group} was to be full, and its pool has grown")
    waited = time.monotonic() - crossing.at
    silently("vgextend", "--yes", pool.group, disk)
    added = Crossing(time.monotonic(), crossing.total)
    seconds = pool.until_data_grown(added, limit_seconds)
    pool.remove()
    silently("lvremove", "--yes", f"{pool.group}/filler")
    silently("vgreduce", pool.group, disk)
    silently("pvremove", disk)
    pool.make()
    return _told(f"room, {waited:.0f} s after the threshold", watcher, seconds)


def _fill_group(watcher: Watcher) -> Crossing:
    """Take all that is free in the group, cross the threshold of the pool, and return when that was."""
    pool = _renew(watcher, watcher.first)
    filler = ("lvcreate", "--yes", "--activate", "n", "--zero", "n", "--wipesignatures", "n", "--extents", "100%FREE")
    silently(*filler, "--name", "filler", pool.group)
    pool.fill_data(FILL_PERCENT)
    _random_moment()
    return pool.cross_data()


def measure_stuck(watchers: list[Watcher], options: Options) -> Results:
    """Seconds that the second pool's extension is late while another process locks the first one's group."""
    undisturbed = _in_turns(
        max(5, options.trials // 3), watchers, lambda watcher: _extend_both(watcher, options, held_seconds=0)
    )
    held = _in_turns(
        options.trials, watchers, lambda watcher: _extend_both(watcher, options, held_seconds=HELD_SECONDS)
    )
    usual = {name: statistics.median(values) for name, values in undisturbed.items()}
    late = {name: [max(value - usual[name], 0) for value in values] for name, values in held.items()}
    return {"undisturbed": undisturbed, "stuck": late}


def _extend_both(watcher: Watcher, options: Options, *, held_seconds: float) -> float:
    """Let both pools cross their thresholds, and return the second one's reaction."""
    first, second = (_renew(watcher, pool) for pool in (watcher.first, watcher.second))
    for pool in (first, second):
        pool.fill_data(FILL_PERCENT)
    _random_moment()
    with _held_lock(first.group) as let_go:
        began = time.monotonic()
        if not held_seconds:
            let_go()
        first_crossing = first.cross_data()
        time.sleep(random.uniform(0.2, 5))
        crossing = second.cross_data()
        seconds = second.until_data_grown(crossing, held_seconds - (time.monotonic() - began))
        if held_seconds and first.status().total_data_blocks != first_crossing.total:
            raise SystemExit(f"{first.group} was to be locked, and its pool has grown")
    if math.isinf(seconds):
        seconds = second.until_data_grown(crossing, options.limit_seconds)
    first.until_data_grown(first_crossing, options.limit_seconds)
    return _told("stuck" if held_seconds else "undisturbed", watcher, seconds)


@contextmanager
def _held_lock(group: str) -> Iterator[Callable[[], None]]:
    """Hold LVM's lock of a group (lib/locking/file_locking.c), until the end or until what is yielded is called."""
    path = LOCKS / f"V_{group}"
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Who lets go removes the file, too: another may be there by now.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            break
        os.close(descriptor)
    try:
        yield partial(fcntl.flock, descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def measure_memory(watchers: list[Watcher], options: Options) -> Results:
    """Resident MiB after the first extension of both pools, and KiB more from a tenth of many cycles to their end."""
    for watcher in watchers:
        for pool in (watcher.first, watcher.second):
            _cycle(watcher, _renew(watcher, pool), options)
    time.sleep(QUIET_SECONDS)
    first: Series = {
        watcher.name: [_told("resident MiB", watcher, watcher.resident_kib() / 1024)] for watcher in watchers
    }
    at_tenths = [_cycles(watchers, options, max(1, options.cycles // 10)) for _ in range(10)]
    more: Series = {name: [(seen[name] - at_tenths[0][name]) for seen in at_tenths[1:]] for name in first}
    return {"resident": first, "growth": more}


def _cycles(watchers: list[Watcher], options: Options, count: int) -> dict[str, int]:
    """Go through so many cycles, and return the resident KiB after them."""
    seconds = _in_turns(count, watchers, lambda watcher: _cycle(watcher, watcher.first, options))
    time.sleep(QUIET_SECONDS)
    resident = {watcher.name: watcher.resident_kib() for watcher in watchers}
    for name, values in seconds.items():
        print(f"{count} cycles: {name} {resident[name]} KiB, median {statistics.median(values):.3f} s", flush=True)
    return resident


def _cycle(watcher: Watcher, pool: FilledPool, options: Options) -> float:
    """Fill a pool, have it extended, give all data back; a pool that has become large is made anew before."""
    if pool.status().total_data_blocks > MOST_CYCLE_BLOCKS:
        _renew(watcher, pool)
    pool.fill_data(FILL_PERCENT, seconds=0)
    seconds = pool.until_data_grown(pool.cross_data(), options.limit_seconds)
    if math.isinf(seconds):
        free = subprocess.run(("vgs", "-o", "vg_free_count", pool.group), capture_output=True, text=True, check=False)
        raise SystemExit(f"{watcher.name} did not extend {pool.group}: {pool.status()}\n{free.stdout}")
    pool.discard()
    return seconds


def measure_race(watchers: list[Watcher], options: Options) -> Results:
    """Seconds without space while a writer at full speed writes more than twice the pool's first size."""

    def trial(watcher: Watcher) -> float:
        pool = _renew(watcher, watcher.first, RACE_DATA_BYTES)
        _random_moment()
        seconds = _race(pool, options.limit_seconds)
        pool.discard()
        return _told("race, without space", watcher, seconds)

    return {"race": _in_turns(options.trials, watchers, trial)}


def _race(pool: FilledPool, limit_seconds: float) -> float:
    command = ("dd", "if=/dev/zero", f"of={pool.thin_path}", "bs=1M", "oflag=direct", f"count={RACE_MIB}")
    began = before = time.monotonic()
    without = 0.0
    with subprocess.Popen((*command, "conv=nocreat,notrunc"), stderr=subprocess.DEVNULL) as writer:
        while writer.poll() is None and before - began < limit_seconds:
            time.sleep(RACE_LOOK_SECONDS)
            is_full, now = pool.status().mode == "out_of_data_space", time.monotonic()
            without += now - before if is_full else 0
            before = now
        writer.kill()
    print(f"    {RACE_MIB / (before - began):.0f} MiB/s, {RACE_DATA_BYTES >> 20} MiB became {_mib(pool)}", flush=True)
    return without


def _mib(pool: FilledPool) -> int:
    return pool.status().total_data_blocks // 2


def _renew(watcher: Watcher, pool: FilledPool, data_bytes: int = DATA_BYTES) -> FilledPool:
    pool.make_anew(data_bytes)
    watcher.require_watching(pool)
    return pool


def _random_moment() -> None:
    """Wait for less than a period of dmeventd's, so that a trial begins anywhere in it."""
    time.sleep(random.uniform(0, PERIOD_SECONDS))


def _told(what: str, watcher: Watcher, value: float) -> float:
    print(f"{what}: {watcher.name} {value:.3f}", flush=True)
    return value


def _in_turns(rounds: int, watchers: list[Watcher], trial: Callable[[Watcher], float]) -> Series:
    return take_turns(rounds, {watcher.name: partial(trial, watcher) for watcher in watchers}, warming_rounds=0)


# The memory first: it is that of a watcher which has done nothing yet.
PARTS: dict[str, Callable[[list[Watcher], Options], Results]] = {
    "memory": measure_memory,
    "metadata": measure_metadata,
    "data": measure_data,
    "room": measure_room,
    "stuck": measure_stuck,
    "race": measure_race,
}
