"""systemd, as argument vectors and the reading of `systemctl show`; nothing is run here."""

from __future__ import annotations

_SHOW = (
    *("Id", "LoadState", "ActiveState", "UnitFileState", "ExecStart", "EnvironmentFiles"),
    *("FragmentPath", "DropInPaths", "NeedDaemonReload", "Job"),
)


def show_command(units: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command whose output `parse_show` reads."""
    return ("systemctl", "show", f"--property={','.join(_SHOW)}", "--", *units)


def parse_show(stdout: str) -> dict[str, dict[str, str]]:
    """Return the properties of each unit by its name; those that appear more than once are joined by line breaks."""
    units: dict[str, dict[str, str]] = {}
    for block in stdout.split("\n\n"):
        properties: dict[str, str] = {}
        for line in block.splitlines():
            name, equals, value = line.partition("=")
            if equals:
                properties[name] = f"{properties[name]}\n{value}" if name in properties else value
        if "Id" in properties:
            units[properties["Id"]] = properties
    return units


def is_loaded(properties: dict[str, str]) -> bool:
    """Return whether systemd has the unit."""
    return properties.get("LoadState") == "loaded"


def is_active(properties: dict[str, str]) -> bool | None:
    """Return whether the unit is up; None while it changes."""
    state = properties.get("ActiveState", "")
    return {"active": True, "reloading": True, "inactive": False, "failed": False}.get(state)


def is_queued(properties: dict[str, str]) -> bool:
    """Return whether the unit has a job that has not ended; units without one have no `Job`, or 0."""
    return properties.get("Job", "0") not in {"", "0"}


def stop_command(units: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command that stops `units`, all in one transaction.

    A service goes together with its sockets, else the next client starts it again.
    """
    return ("systemctl", "stop", "--", *units)


def start_command(units: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command that starts `units`."""
    return ("systemctl", "start", "--", *units)


def reset_failed_command(units: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command that forgets failed starts: a unit that hit its start limit refuses to start otherwise."""
    return ("systemctl", "reset-failed", "--", *units)
