"""What several stories say of a machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from machine import Host

CONFIG = "/etc/thinpoolmgr/thinpoolmgr.toml"
FIRST, SECOND, POOL = (f"/dev/disk/by-id/virtio-TPM-{name}" for name in ("FIRST", "SECOND", "POOL"))


def want(machine: Host, serial: str, *, size: str = "", engine: bool = True) -> None:
    """Describe one pool on the disk with this serial, and Docker on it."""
    pool = f'[pools.docker]\n{size}\n[[pools.docker.match]]\nserial = "{serial}"\n'
    docker = '[engines.docker]\npool = "docker"\nbase_size = "1GiB"\n'
    machine.write(CONFIG, f"version = 1\n{pool}{docker if engine else ''}")


def pool_of(machine: Host) -> Any:
    """Return the pool as `status --json` has it."""
    (pool,) = json.loads(machine("thinpoolmgr status --json").out)["pools"]
    return pool


def is_blank(machine: Host, disk: str) -> bool:
    """Whether no signature is on the disk."""
    return not machine(f"wipefs --no-act --noheadings {disk}").out.strip()


def load_image(machine: Host, image: str = "story:1") -> None:
    """Give Docker an image without a registry: busybox, and a file that makes it another image than others."""
    machine(f"echo {image} >/tmp/image && tar -C / -c bin/busybox tmp/image | docker import - {image} >/dev/null")


def in_container(machine: Host, command: str, image: str = "story:1") -> str:
    """Run a command of busybox's in a new container, and return what it says."""
    return machine(f"docker run --rm --network none {image} /bin/busybox {command}").out


def storage(machine: Host) -> str:
    """Return which driver Docker uses, and on which pool."""
    return machine("docker info --format '{{.Driver}} {{index .DriverStatus 0}}'").out.strip()


ON_POOL = "devicemapper [Pool Name docker-thinpool]"
