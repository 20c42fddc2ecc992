"""Stories of vagrant/scenarios that need no systemd, told in the lab."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab_tool import STATE_FOLDER, sh
from story_lab import LabHost
from test_a_disk_becomes_a_pool import test_loop_devices_by_hand

__all__ = ["test_loop_devices_by_hand"]
pytestmark = pytest.mark.campaign


@pytest.fixture
def solo(no_leftovers: None) -> Iterator[LabHost]:  # noqa: ARG001 - looks after it
    yield LabHost()
    sh("rm", "-rf", STATE_FOLDER, "/etc/thinpoolmgr", "/root/loops")
