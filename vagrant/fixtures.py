"""The machines that stories are told of: each begins as it was when it was provisioned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from bed import Bed
    from machine import Machine

MACHINES_OF: Final = {"solo": ("solo",), "three": ("one", "two", "three")}
"""Which machines a story needs that asks for one of these."""


class Fixtures:
    """Gives machines of one bed."""

    def __init__(self, bed: Bed, state: str) -> None:
        """Give them in this state."""
        self._bed, self._state = bed, state

    @pytest.fixture
    def solo(self) -> Machine:
        """Give the machine with two disks, TPM-FIRST and TPM-SECOND."""
        return self._put_back("solo")[0]

    @pytest.fixture
    def three(self) -> list[Machine]:
        """Give three machines, each with a disk TPM-POOL."""
        return self._put_back("three")

    def _put_back(self, name: str) -> list[Machine]:
        machines = [self._bed.machine(each) for each in MACHINES_OF[name]]
        for machine in machines:
            machine.put_back(self._state)
        return machines
