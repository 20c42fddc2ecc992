"""The status line of the kernel's thin-pool target, as one value.

Source of the format: Documentation/admin-guide/device-mapper/thin-provisioning.rst, section "Status".
"""

from __future__ import annotations

from thinpoolmgr.core.model import ThinPoolStatus

METADATA_BLOCK_BYTES = 4096
_FIELDS = 9


def parse_pool_status(line: str) -> ThinPoolStatus | None:
    """Return the status in `line` (without start, length and target name); None when it is none.

    `TID USED_META/TOTAL_META USED_DATA/TOTAL_DATA HELD MODE DISCARD WHEN_FULL NEEDS_CHECK LOW_WATER`, or the
    single word `Fail` or `Error`.
    """
    words = line.split()
    if words[:1] in (["Fail"], ["Error"]):
        return ThinPoolStatus(mode=words[0])
    if len(words) < _FIELDS - 1:
        return None
    try:
        used_metadata, total_metadata = (int(number) for number in words[1].split("/"))
        used_data, total_data = (int(number) for number in words[2].split("/"))
        transaction_id = int(words[0])
    except ValueError:
        return None
    return ThinPoolStatus(
        mode=words[4],
        transaction_id=transaction_id,
        used_metadata_blocks=used_metadata,
        total_metadata_blocks=total_metadata,
        used_data_blocks=used_data,
        total_data_blocks=total_data,
        held_root=words[3],
        discards=words[5],
        when_full=words[6].partition("_")[0],
        needs_check=words[7] == "needs_check",
    )


def low_water_blocks(table: str) -> int | None:
    """Return the low-water mark in a pool's table (`META DATA CHUNK LOW_WATER ...`), in data blocks; None: no table."""
    words = table.split()
    return int(words[3]) if len(words) > 3 and words[3].isdigit() else None


def metadata_devno(table: str) -> str:
    """Return `MAJOR:MINOR` of the metadata device in a pool's table (`META DATA CHUNK ...`); empty: no table."""
    return table.split(" ", 1)[0]


def data_devno(table: str) -> str:
    """Return `MAJOR:MINOR` of the data device in a pool's table (`META DATA CHUNK ...`); empty: no table."""
    return next(iter(table.split()[1:2]), "")


def thin_device_id(table: str) -> int | None:
    """Return the device id in a thin device's table (`POOL ID ...`); None: it is no such table."""
    words = table.split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None
