"""Who holds a device-mapper device: mounts in any mount namespace, open files, opened nodes, devices on top of it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

HolderKind = Literal["mount", "files", "open", "stacked"]


class Process(Struct, frozen=True):
    """A process, as a person would look for it."""

    pid: int
    command: str
    """Its command line, printable and cut; in brackets where it has none."""
    unit: str = ""
    """The systemd service or scope it belongs to, by its control group."""
    container: str = ""
    """Id (64 hexadecimal digits) of the container it belongs to, by its control group."""


class Holder(Struct, frozen=True):
    """One reason why a device cannot be removed.

    `mount`: it is mounted in `namespace`; `processes` are those that use files on it and, in a namespace other than
    the host's, those that live there: the mount ends with the last of them. `files`: it is mounted nowhere that these
    processes see, and they still use files on it. `open`: they have opened the device itself. `stacked`: the devices
    `places` stand on it.
    """

    device: str
    devno: str
    kind: HolderKind
    places: tuple[str, ...] = ()
    """Mount points, as seen in `namespace`; or names of devices."""
    namespace: str = ""
    """Such as `mnt:[4026531841]`."""
    is_host: bool = False
    """Whether `namespace` is that of process 1."""
    follows: bool = False
    """Whether it is unmounted together with a mount of another namespace."""
    processes: tuple[Process, ...] = ()
    """Those that use files first, then by pid: the first few, and the first of each unit and container."""
    process_count: int = 0
    """How many there are in all."""
    user_count: int = 0
    """How many of `processes` use files on it."""


class Holders(Struct, frozen=True):
    """All holders that were found, by name of device."""

    found: tuple[Holder, ...] = ()
    unseen: tuple[str, ...] = ()
    """What could not be looked at, and why: there may be more holders."""

    def of(self, devnos: frozenset[str]) -> tuple[Holder, ...]:
        """Return the holders of these devices, named by `MAJOR:MINOR`."""
        return tuple(holder for holder in self.found if holder.devno in devnos)


def holder_text(holder: Holder) -> str:
    """Return one line that says who holds what, with pid, command and unit."""
    device, places, who = holder.device, ", ".join(holder.places[:3]), processes_text(holder)
    match holder.kind:
        case "mount" if holder.is_host:
            return f"{device} is mounted at {places}" + (f", in use by {who}" if who else "")
        case "mount":
            return f"{device} is mounted at {places} in the mount namespace of {who}"
        case "files":
            return f"{device} is mounted nowhere any more, and {who} still uses files on it"
        case "open":
            return f"{device} is opened by {who}"
        case "stacked":
            return f"{device} carries the device {places}"


def processes_text(holder: Holder) -> str:
    """Return the processes of `holder` as words; empty when it has none."""
    named = ", ".join(process_text(process) for process in holder.processes)
    more = holder.process_count - len(holder.processes)
    return f"{named} and {more} more" if more > 0 else named


def process_text(process: Process) -> str:
    """Return a process as words: command, pid, unit or container."""
    container = f"container {process.container[:12]}" if process.container else ""
    facts = ", ".join(fact for fact in (f"pid {process.pid}", process.unit or container) if fact)
    return f"{process.command} ({facts})"
