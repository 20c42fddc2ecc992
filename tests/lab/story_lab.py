"""The lab's host for the stories of vagrant/scenarios."""

from __future__ import annotations

from machine import Host


class LabHost(Host):
    """The lab's guest, in which all tests are root."""

    name = "lab"

    def _command(self, script: str) -> tuple[str, ...]:
        return ("sh", "-c", script)
