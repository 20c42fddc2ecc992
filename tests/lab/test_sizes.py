"""What the plan says of sizes, against the tools that know: thin_metadata_size, LVM, the kernel."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from lab_tool import Tool, sh

from thinpoolmgr.core.desired import MAX_METADATA_BYTES, DesiredPool, PoolConfig
from thinpoolmgr.core.sizing import EXPECTED_DEVICES, pool_sizes
from thinpoolmgr.lab.loop import LoopDisk
from thinpoolmgr.units import GIB, KIB, MIB, TIB

MakeDisk = Callable[..., LoopDisk]
CHUNKS = (64 * KIB, 128 * KIB, 512 * KIB, MIB, 4 * MIB)
SIZES = (GIB, 10 * GIB, 100 * GIB, TIB, 10 * TIB)
EXTENT_BYTES = 4 * MIB


@pytest.mark.parametrize(("chunk_bytes", "data_bytes"), list(itertools.product(CHUNKS, SIZES)))
def test_computed_metadata_is_never_below_what_thin_metadata_size_says(chunk_bytes: int, data_bytes: int) -> None:
    pool = DesiredPool(
        "docker", PoolConfig(devices=("/dev/x",), chunk_size=f"{chunk_bytes}B", data_size=f"{data_bytes}B")
    )
    extents = 2 * data_bytes // EXTENT_BYTES + 16 * KIB
    sizes = pool_sizes(pool, extents, extents, EXTENT_BYTES)
    words = ("-b", f"{chunk_bytes}b", "-s", f"{data_bytes}b", "-m", str(EXPECTED_DEVICES), "-u", "b", "-n")
    needed = int(sh("thin_metadata_size", *words))
    assert min(needed, MAX_METADATA_BYTES // EXTENT_BYTES * EXTENT_BYTES) <= sizes.metadata_bytes
    # nor is it wildly above it: a mistake in a unit would be
    assert sizes.metadata_bytes <= max(6 * needed, 16 * MIB)


def test_the_reasoning_is_shown_and_the_kernel_has_that_size(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path, extra='data_size = "500MiB"')
    (reason,) = (
        step["reason"] for step in tool("plan", "--json").document["steps"] if step["do"] == "create-thin-pool"
    )
    assert "metadata 8 MiB: 2 x 64 B for each of 1000 chunks and 8 KiB for each of 1000 devices" in reason
    tool.succeed("apply", "--yes")
    assert tool.pool()["metadata"]["total_bytes"] == 8 * MIB
