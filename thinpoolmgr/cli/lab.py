"""`thinpoolmgr lab`: a throw-away kernel with device-mapper, for tests and for looking around."""

from __future__ import annotations

import os
from pathlib import Path

import click

from thinpoolmgr.errors import UsageError
from thinpoolmgr.lab.guest import DEFAULT_MEMORY_MB, GuestJob, run_guest, script_command, sweep_guests
from thinpoolmgr.lab.host import run_on_host
from thinpoolmgr.lab.loop import sweep as sweep_loops
from thinpoolmgr.lab.root import ensure_root

_DOCKER = click.option("--docker", is_flag=True, help="Boot a Debian tree with Docker and containerd, made once.")
_HOST = click.option("--host", "on_host", is_flag=True, help="Use the host's own kernel and disks (root only).")
_MEMORY = click.option(
    "--memory",
    "memory_mb",
    type=click.IntRange(min=128),
    default=DEFAULT_MEMORY_MB,
    show_default=True,
    metavar="MIB",
    help="The guest's memory.",
)
_MODULES = click.option("--module", "modules", multiple=True, metavar="NAME", help="Load this kernel module too.")
_MOUNTS = click.option(
    "--mount",
    "mount_words",
    multiple=True,
    metavar="DIR[:rw]",
    help="Show this folder at the same path, read-only unless :rw is said.",
)
_SYSTEMD = click.option("--systemd", is_flag=True, help="Boot the whole systemd (14 s more), not udev alone.")
_FOREVER = 0


@click.group()
def lab() -> None:
    """Run things as root under a throw-away kernel.

    It has device-mapper, loop disks, and a real Docker when asked for; this machine's disks stay out of it.
    """


@lab.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@_HOST
@_DOCKER
@_SYSTEMD
@_MEMORY
@_MODULES
@_MOUNTS
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(min=0),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="Kill the guest after this long; 0 waits for ever.",
)
@click.argument("script", type=click.Path(path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(  # noqa: PLR0913 - one argument an option
    context: click.Context,
    *,
    on_host: bool,
    docker: bool,
    systemd: bool,
    memory_mb: int,
    modules: tuple[str, ...],
    mount_words: tuple[str, ...],
    timeout_seconds: float,
    script: Path,
    arguments: tuple[str, ...],
) -> None:
    """Run SCRIPT with ARGS as root in the lab; its output and its exit code are this command's."""
    if not script.is_file():
        raise UsageError("There is no such script.", details=str(script))
    command = script_command(script, arguments)
    timeout = None if timeout_seconds == _FOREVER else timeout_seconds
    if on_host:
        context.exit(run_on_host(command, {"THINPOOLMGR_LAB": "1"}, timeout))
    read_only, writable = _mounts(mount_words)
    job = GuestJob(
        command=command,
        tree=ensure_root() if docker else None,
        memory_mb=memory_mb,
        modules=modules,
        read_only=(script.absolute().parent, *read_only),
        writable=writable,
        directory=Path.cwd(),
        systemd=systemd,
        timeout_seconds=timeout,
    )
    context.exit(run_guest(job).exit_code)


@lab.command()
@_HOST
@_DOCKER
@_SYSTEMD
@_MEMORY
@_MODULES
@_MOUNTS
@click.pass_context
def shell(  # noqa: PLR0913 - one argument an option
    context: click.Context,
    *,
    on_host: bool,
    docker: bool,
    systemd: bool,
    memory_mb: int,
    modules: tuple[str, ...],
    mount_words: tuple[str, ...],
) -> None:
    """Open a root shell in the lab; leaving it throws everything away."""
    command = ("/bin/bash", "-i")
    if on_host:
        context.exit(run_on_host(command, {"THINPOOLMGR_LAB": "1"}))
    read_only, writable = _mounts(mount_words)
    job = GuestJob(
        command=command,
        tree=ensure_root() if docker else None,
        memory_mb=memory_mb,
        modules=modules,
        read_only=read_only,
        writable=writable,
        environment={"TERM": os.environ.get("TERM", "linux")},
        directory=Path.cwd(),
        systemd=systemd,
        timeout_seconds=None,
        interactive=True,
    )
    context.exit(run_guest(job).exit_code)


@lab.command()
def root() -> None:
    """Make the Docker root now, if it is not there, and print its path."""
    click.echo(ensure_root())


@lab.command()
def sweep() -> None:
    """Clean up what killed labs left: guests, their folders, loop disks."""
    for folder in sweep_guests():
        click.echo(f"removed {folder}")
    for disk in sweep_loops():
        state = "still in use, left alone:" if disk.is_held else "removed"
        click.echo(f"{state} {disk.device} {disk.image}".replace("  ", " "))


@lab.command()
@click.pass_context
def demo(context: click.Context) -> None:
    """Show the main job in the lab, step by step."""
    # late: the demo brings its own imports, and `lab run` is to start at once
    from thinpoolmgr.lab.demo import run_demo  # noqa: PLC0415

    context.exit(run_demo())


def _mounts(words: tuple[str, ...]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the folders to show read-only and those to show writable.

    Raises:
        UsageError: one is not a folder.

    """
    writable = tuple(Path(word.removesuffix(":rw")) for word in words if word.endswith(":rw"))
    read_only = tuple(Path(word) for word in words if not word.endswith(":rw"))
    for path in (*writable, *read_only):
        if not path.is_dir():
            raise UsageError("There is no such folder to mount.", details=str(path))
    return read_only, writable
