"""How `init` tells of disks: lines that fit, for render.py to print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinpoolmgr.cli.text import cut, plain, wrap
from thinpoolmgr.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinpoolmgr.core.inventory import CandidateDocument, InitDocument

_SERIAL_COLUMNS = 22
_PATH_COLUMNS = 30


def inventory_lines(document: InitDocument) -> Iterator[str]:
    """Give the candidates as a table, each with its lasting name, then the others with the reasons."""
    if document.candidates:
        yield "Blank and unused disks:"
    width = min(_PATH_COLUMNS, max((len(disk.path) for disk in document.candidates), default=0))
    for disk in document.candidates:
        yield _row(disk, width)
        if disk.name != disk.path:
            yield from wrap(disk.name, "      ")
    if document.rejected:
        yield "Disks that cannot carry a pool:"
    for found in document.rejected:
        yield from wrap(f"{found.reason} ({format_size(found.size_bytes)})  [{found.code}]", "      ", "  ")


def _row(disk: CandidateDocument, width: int) -> str:
    serial = cut(plain(disk.serial) or "no serial", _SERIAL_COLUMNS)
    row = f"  {cut(plain(disk.path), width):<{width}}  {format_size(disk.size_bytes):>10}  {serial:<{_SERIAL_COLUMNS}}"
    return f"{row}  {cut(plain(disk.model), 28)}".rstrip()


def result_lines(document: InitDocument) -> Iterator[str]:
    """Give what was written, and what comes next."""
    if not document.written:
        yield from wrap(f"Not written, since this is simulated: {document.file}", "")
        return
    yield from wrap(f"Wrote {document.file}", "")
    if document.devices:
        yield from wrap(f"It puts a pool on {', '.join(document.devices)}.", "")
        yield "thinpoolmgr plan shows what apply would do."
        return
    yield "Now choose: the blank disks stand in it, commented out, and none of them is taken before."
    yield "Take the # away from those that shall carry the pool; then: thinpoolmgr config check"
