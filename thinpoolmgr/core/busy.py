"""What open devices mean for taking a pool down: who has them, whether stopping the engine ends that, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinpoolmgr.core.holders import Holder, Holders, Process, holder_text
from thinpoolmgr.core.plan import Refusal

if TYPE_CHECKING:
    from thinpoolmgr.core.model import DmDevice, Engine

_TOLD_HOLDERS = 10
# It opens what is new or was written to for a moment, to see what is on it.
_UDEV = frozenset({"systemd-udevd", "udevd", "(udev-worker)"})
_UDEV_UNIT = "systemd-udevd.service"
_NOBODY = "No process was found that has it; it may just be let go of, or be in use as swap."


def refuse_stopping(busy: list[DmDevice], holders: Holders | None, engine: Engine, pool: str) -> Refusal | None:
    """Return why `busy` devices of the pool `pool` stay open even when `engine` is stopped; None when they should not.

    Refused before the engine is stopped: an outage for nothing would be the other way to find out.
    """
    found = holders.of(frozenset(device.devno for device in busy)) if holders else ()
    others = tuple(holder for holder in found if not _ends_with(holder, engine))
    if not others:
        return None
    summary = f"not only {engine.name} has thin devices of {pool} open: {_names(others)}"
    return refuse_open(others[0].device, summary, Holders(others))


def refuse_busy(busy: list[DmDevice], holders: Holders | None, engine: Engine | None, pool: str) -> Refusal | None:
    """Return why `busy` devices of the pool `pool` cannot be removed, where no engine is to be stopped first.

    None when they go by themselves in a moment: nobody is seen to have them, and the kernel is to remove them then.
    """
    found = holders.of(frozenset(device.devno for device in busy)) if holders else ()
    if holders and not found and not holders.unseen and all(device.deferred_remove for device in busy):
        return None
    names = ", ".join(f"{device.name} ({device.open_count} times)" for device in busy[:5])
    seen = Holders(found, holders.unseen if holders else ())
    return refuse_open(busy[0].name, f"thin devices of {pool} are open: {names}", seen, engine)


def refuse_open(target: str, summary: str, holders: Holders, engine: Engine | None = None) -> Refusal:
    """Return the refusal for open devices: each holder with pid, command and unit, and what ends it."""
    lines = [holder_text(holder) for holder in holders.found[:_TOLD_HOLDERS]]
    more = len(holders.found) - len(lines)
    lines += [f"and {more} more"] if more > 0 else []
    lines += [f"Not looked into: {trouble}" for trouble in holders.unseen]
    return Refusal("DEVICE_OPEN", target, summary, "\n".join(lines) or _NOBODY, _way_out(holders.found, engine))


def _names(holders: tuple[Holder, ...]) -> str:
    names = list(dict.fromkeys(holder.device for holder in holders))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _way_out(holders: tuple[Holder, ...], engine: Engine | None) -> str:
    ways = list(dict.fromkeys(_way(holder, engine) for holder in holders)) or ["See dmsetup ls --tree and /proc/swaps."]
    return f"{' '.join(ways[:3])} Then run this again; nothing that is open is ever removed by force."


def _way(holder: Holder, engine: Engine | None) -> str:
    first = holder.processes[0] if holder.processes else None
    if holder.kind == "stacked":
        place = holder.places[0]
        how = f"losetup --detach /dev/{place}" if place.startswith("loop") else f"dmsetup remove {place}"
        return f"Remove what stands on it: {how}."
    if engine is not None and engine.installed and any(process.container for process in holder.processes):
        start = f" (systemctl start {engine.service.unit})" if engine.service.unit else ""
        return f"Start {engine.name}{start} and stop its containers, or end their processes."
    if holder.kind == "mount" and not holder.is_host and first is not None:
        restart = f"Restart {first.unit}" if first.unit.endswith(".service") else f"End the process {first.pid}"
        return f"{restart}, or unmount it there: nsenter --target {first.pid} --mount umount {holder.places[0]}."
    if first is not None:
        return f"End the process {first.pid}{f' of {first.unit}' if first.unit else ''}."
    return f"Unmount it: umount {holder.places[0]}."


def _ends_with(holder: Holder, engine: Engine) -> bool:
    """Whether nothing of `holder` is left when the engine and its containers have stopped."""
    if holder.kind == "stacked":
        return False
    if holder.kind == "open":
        return all(_is_of(process, engine) or _is_udev(process) for process in holder.processes)
    if all(_is_of(process, engine) for process in holder.processes) and not holder.is_host:
        return True
    if holder.kind != "mount" or not all(_is_of(user, engine) for user in holder.processes[: holder.user_count]):
        return False
    # Copies of the engine's own mounts that nobody uses go with them, also where unmounting does not reach them: Docker
    # removes the folders (devmapper/driver.go, Put), and since Linux 3.18 that unmounts what is there in any namespace.
    # The data root may be reached through a link; where the state is, is not.
    roots = [engine.data_root, *([engine.state.path] if engine.state else [])]
    below = tuple(f"{root.rstrip('/')}/" for root in roots if root)
    return (holder.follows and not holder.is_host) or all(place.startswith(below) for place in holder.places)


def _is_udev(process: Process) -> bool:
    """Whether it is udev's: its workers call themselves otherwise since systemd 252, and what they run has the unit."""
    program = process.command.partition(" ")[0].strip("'").rpartition("/")[2]
    return program in _UDEV or process.unit == _UDEV_UNIT


def _is_of(process: Process, engine: Engine) -> bool:
    if process.container:
        return process.container in engine.container_ids
    return process.pid in engine.pids or (bool(process.unit) and process.unit == engine.service.unit)
