"""Stories of vagrant/scenarios about Docker, told in the lab's systemd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from boot_lab import installed
from lab_tool import sh
from story_lab import LabHost
from test_a_pool_in_use import (
    node,
    test_a_pool_that_fills_is_extended,
    test_a_tear_down_leaves_a_clean_disk,
    test_containers_get_a_larger_root,
    test_stale_state_after_a_rebuild,
)

from thinpoolmgr.lab.loop import LoopDisk

__all__ = [
    "node",
    "test_a_pool_that_fills_is_extended",
    "test_a_tear_down_leaves_a_clean_disk",
    "test_containers_get_a_larger_root",
    "test_stale_state_after_a_rebuild",
]
pytestmark = pytest.mark.campaign
RULES = Path("/run/udev/rules.d/99-story.rules")
RULE = """
KERNEL=="{kernel_name}", ENV{{ID_SERIAL_SHORT}}="{serial}", SYMLINK+="disk/by-id/virtio-{serial}"
"""


@pytest.fixture
def solo(loop_disks: Callable[..., LoopDisk]) -> Iterator[LabHost]:
    """Give the host with two loop disks that have the serials of the machine's."""
    disks = {serial: loop_disks(3 << 30).path for serial in ("TPM-FIRST", "TPM-SECOND")}
    RULES.parent.mkdir(exist_ok=True)
    RULES.write_text("".join(RULE.format(kernel_name=disks[serial].name, serial=serial) for serial in disks), "utf-8")
    sh("udevadm", "control", "--reload")
    sh("udevadm", "trigger", "--settle", *disks.values())
    try:
        with installed():
            yield LabHost()
    finally:
        RULES.unlink()
