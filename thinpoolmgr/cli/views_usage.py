"""How the use of a pool, and who owns or holds a device, are drawn; the renderer prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from thinpoolmgr.cli.text import columns, count, cut, plain, wrap
from thinpoolmgr.cli.views import use_lines
from thinpoolmgr.core.holders import holder_text
from thinpoolmgr.units import format_size

if TYPE_CHECKING:
    from thinpoolmgr.cli.render import Renderer
    from thinpoolmgr.core.holders import Holder
    from thinpoolmgr.core.usage import UsageDevice, UsageDocument, UsageSum
    from thinpoolmgr.core.who import WhoDevice, WhoDocument

_SHOWN = 20
_SIZE = 10
_WIDE = 80
_SHORT_ID = 12
_KINDS = {
    "container": "containers",
    "image-layer": "image layers",
    "base": "the base device",
    "snapshot": "of no image or container",
    "unknown": "of nobody that is known",
}


class UsageView:
    """Draws what `usage` and `who` found out."""

    def __init__(self, renderer: Renderer) -> None:
        """Print with `renderer`."""
        self._renderer = renderer
        self._out = renderer.out

    def usage(self, document: UsageDocument, *, show_all: bool) -> None:
        """Print the pool, its sums, and its devices: the largest, or all of them."""
        self._out(f"{click.style(f'pool {plain(document.pool)}', bold=True)}  {plain(document.dm_name)}")
        for line in use_lines("data", document.data, f"{format_size(document.shared_bytes)} of it shared"):
            self._out(line)
        self._out()
        if document.devices:
            self._sums(document)
            self._devices(document, document.devices if show_all else document.devices[:_SHOWN])
        else:
            self._out("No thin device.")
        for problem in document.problems:
            self._renderer.warn(problem)

    def _sums(self, document: UsageDocument) -> None:
        self._out(f"{'OWN':>{_SIZE}}  {'DEVICES':>7}  OF")
        for each in document.sums:
            self._out(_sum_line(each))
        self._out()

    def _devices(self, document: UsageDocument, shown: tuple[UsageDevice, ...]) -> None:
        is_narrow = columns() < _WIDE
        more = "" if is_narrow else f"{'SIZE':>{_SIZE}}  {'ID':>8}  "
        self._out(f"{'OWN':>{_SIZE}}  {'MAPPED':>{_SIZE}}  {more}OWNER")
        for device in shown:
            self._out(_device_line(device, is_narrow=is_narrow))
        rest = document.devices[len(shown) :]
        if rest:
            own = format_size(sum(device.exclusive_bytes for device in rest))
            self._out(f"and {count(len(rest), 'device')} more with {own} of their own; --all shows them.")

    def who(self, document: WhoDocument) -> None:
        """Print what was meant, its thin devices with who holds them, and what needs it."""
        name = f"{plain(document.name)}  " if document.name not in {"", document.id} else ""
        self._lines(f"{document.kind.replace('-', ' ')} {name}{plain(document.id)}", "", bold=True)
        for device in document.devices:
            self._who_device(device, document)
        if document.kind == "pool":
            self._holders(document.holders, document, "  ")
        for image in document.images:
            names = ", ".join(map(plain, image.names)) or "without a name"
            self._lines(f"image {short(image.id)}  {names}", "  ")
        for container in document.containers:
            self._lines(f"container {short(container.id)}  {plain(container.name) or 'name unknown'}", "  ")
        for problem in (*document.problems, *document.unseen):
            self._renderer.warn(problem)

    def _who_device(self, device: WhoDevice, document: WhoDocument) -> None:
        size = f", {format_size(device.virtual_bytes)}" if device.virtual_bytes is not None else ""
        self._lines(f"device {device.device_id} of pool {plain(device.pool)}{size}: {owner_text(device)}", "  ")
        if device.dm_name is None:
            self._lines("not active", "    ")
            return
        self._lines(f"{plain(device.dm_name)} ({device.devno})", "    ")
        held = tuple(holder for holder in document.holders if holder.devno == device.devno)
        self._holders(held, document, "    ")

    def _holders(self, held: tuple[Holder, ...], document: WhoDocument, indent: str) -> None:
        for holder in held:
            self._lines(holder_text(replace(holder, device="it")), indent)
        if not held:
            self._lines("nobody holds it" + (", as far as can be seen" if document.unseen else ""), indent)

    def _lines(self, text: str, indent: str, *, bold: bool = False) -> None:
        for line in wrap(text, indent + "  ", indent):
            self._out(click.style(line, bold=True) if bold else line)


def _sum_line(each: UsageSum) -> str:
    return f"{format_size(each.exclusive_bytes):>{_SIZE}}  {each.devices:>7}  {_KINDS[each.owner_kind]}"


def _device_line(device: UsageDevice, *, is_narrow: bool) -> str:
    size = format_size(device.virtual_bytes) if device.virtual_bytes is not None else "?"
    more = "" if is_narrow else f"{size:>{_SIZE}}  {device.device_id:>8}  "
    own, mapped = format_size(device.exclusive_bytes), format_size(device.mapped_bytes)
    numbers = f"{own:>{_SIZE}}  {mapped:>{_SIZE}}  {more}"
    return numbers + cut(owner_text(device), columns() - len(numbers))


def owner_text(device: UsageDevice | WhoDevice) -> str:
    """Return the owner of a device in a few words."""
    images = ", ".join(plain(short(name)) for name in device.images)
    name = plain(short(device.owner))
    match device.owner_kind:
        case "container":
            init = ", its init device" if device.driver_name.endswith("-init") else ""
            return f"container {name}{f' of {images}' if images else ''}{init}"
        case "image-layer":
            return f"layer {name} of {images or 'no image'}"
        case "base":
            return "the base device"
        case "snapshot":
            return f"{name}, of no image or container"
        case _:
            return f"{plain(device.dm_name)}, not recorded" if device.dm_name else "not recorded"


def short(name: str) -> str:
    """Return an id as short as Docker shows it; a name stays whole."""
    bare = name.removeprefix("sha256:")
    is_id = len(bare) >= 64 and all(char in "0123456789abcdef" for char in bare[:64])
    return bare[:_SHORT_ID] if is_id else name
