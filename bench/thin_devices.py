"""Makes thin devices as Docker does, but in one process: a message to the pool, then a device with a `thin` table.

Docker starts nothing for it, either: libdm does the same ioctls (drivers/md/dm-ioctl.c).
"""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import time
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING

from thinpoolmgr.host import dm

if TYPE_CHECKING:
    from collections.abc import Iterable

CREATE, RESUME, LOAD, MESSAGE = 3, 6, 9, 14
SIZE_SECTORS = (10 << 30) // 512
"""10 GiB, Docker's default for the root of a container."""
BUFFER_BYTES = 1024
TARGET = Struct("=QQiI16s")
SECTOR = Struct("=Q")
# struct dm_ioctl: where the count of targets is
COUNT = Struct("=I")
COUNT_OFFSET = 20
MOST_SUSPENDED_SECONDS, LOOK_AGAIN_SECONDS = 10.0, 0.01


def add_thin_devices(pool: str, numbers: Iterable[int]) -> None:
    """Create thin devices in `pool` and activate them, with names such as Docker gives.

    Raises:
        OSError: the kernel refused one.

    """
    descriptor = os.open(dm.CONTROL_PATH, os.O_RDWR | os.O_CLOEXEC)
    folder = "7:0-131"
    node = os.stat(Path("/dev/mapper", pool)).st_rdev
    try:
        for number in numbers:
            name = f"docker-{folder}-{sha256(str(number).encode()).hexdigest()}"
            send_message(descriptor, pool, f"create_thin {number}")
            activate(descriptor, name, node, number)
    finally:
        os.close(descriptor)
    subprocess.run(("udevadm", "settle", "--timeout=600"), check=True)


def send_message(descriptor: int, pool: str, message: str) -> None:
    """Send a message to the thin pool whose device is called `pool`; raises OSError when the kernel refuses it."""
    _ask(descriptor, MESSAGE, pool, SECTOR.pack(0) + message.encode())


def activate(descriptor: int, name: str, pool_node: int, number: int) -> int:
    """Make a device called `name` for thin device `number` of the pool with this device number, and return its own."""
    _ask(descriptor, CREATE, name)
    table = f"{os.major(pool_node)}:{os.minor(pool_node)} {number}".encode()
    until = time.monotonic() + MOST_SUSPENDED_SECONDS
    while True:
        try:
            _ask(descriptor, LOAD, name, TARGET.pack(0, SIZE_SECTORS, 0, 0, b"thin") + table, targets=1)
            break
        except OSError as error:
            # Whoever loads a new table for the pool just now has it suspended, and there it says EINVAL.
            if error.errno != errno.EINVAL or time.monotonic() > until:
                raise
            time.sleep(LOOK_AGAIN_SECONDS)
    return _ask(descriptor, RESUME, name)


def _ask(descriptor: int, number: int, name: str, payload: bytes = b"", *, targets: int = 0) -> int:
    buffer = dm.pack_request(name, 0, BUFFER_BYTES)
    start = dm.parse_header(buffer).data_start
    buffer[start : start + len(payload)] = payload
    COUNT.pack_into(buffer, COUNT_OFFSET, targets)
    fcntl.ioctl(descriptor, dm.request_code(number), buffer)
    major, minor = dm.parse_header(buffer).devno.split(":")
    return os.makedev(int(major), int(minor))
