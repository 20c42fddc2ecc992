"""The processes of this host, without the kernel's own threads (proc(5))."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_KTHREADD = 2
_FLAGS_FIELD = 6
"""Of what follows the name in `/proc/PID/stat`."""
_PF_KTHREAD = 0x00200000


def list_processes(proc: str | Path = "/proc", *, helpers: bool = False) -> tuple[int, ...]:
    """Return the pids of all processes but the kernel's threads, in ascending order.

    Those have no mounts and no files of their own, and device-mapper makes one for each of its devices, of which there
    may be thousands. A kernel without `CONFIG_PROC_CHILDREN` does not tell them apart: there they are in the list.

    With `helpers` the programs that the kernel itself starts, as for a core dump, are in it too, at the price of a
    system call for each thread. They live in the first mount namespace.

    Raises:
        OSError: `proc` cannot be listed.

    """
    pids = {int(name) for name in os.listdir(proc) if name.isdigit()}
    # Afterwards: whoever had such a number before has ended.
    return tuple(sorted(pids - _kernel_threads(Path(proc), helpers=helpers)))


def _kernel_threads(proc: Path, *, helpers: bool) -> set[int]:
    folder = proc / str(_KTHREADD)
    try:
        fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        # In a namespace of pids the second process may be anybody.
        if not int(fields[_FLAGS_FIELD]) & _PF_KTHREAD:
            return set()
        children = (folder / f"task/{_KTHREADD}/children").read_text("ascii")
    except (OSError, ValueError, IndexError):
        return set()
    return {int(pid) for pid in children.split() if not (helpers and _has_program(proc / pid))}


def _has_program(process: Path) -> bool:
    """Whether it is no thread: the kernel starts programs, too, as for a core dump (kernel/umh.c, core(5))."""
    try:
        os.readlink(process / "exe")
    except OSError as error:
        # A thread has none, nor has what ended meanwhile.
        return error.errno not in {errno.ENOENT, errno.ESRCH}
    return True
