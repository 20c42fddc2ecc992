"""Kills a command at one of its ioctls, as a power cut or an impatient person may: with ptrace(2), as strace does."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

# linux/dm-ioctl.h: _IOWR(0xfd, nr, struct dm_ioctl), which has 312 bytes
DM_DEV_SUSPEND = 0xC138FD06
TRACE_ME, SYSCALL, SET_OPTIONS, GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
TRACE_GOOD, EXIT_KILL = 1, 0x100000
ENTRY = 1
INFO_BYTES = 88
SYSCALL_STOP = signal.SIGTRAP | 0x80


def cut_short(argv: tuple[str, ...], count: int) -> None:
    """Run `argv` and kill it as it enters its `count`-th suspend or resume of a device-mapper device, from 1.

    Raises:
        AssertionError: it ended before.

    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    child = os.fork()
    if not child:
        try:
            libc.ptrace(TRACE_ME, 0, None, None)
            os.execvp(argv[0], argv)  # noqa: S606 - no shell is wanted
        finally:
            os._exit(127)
    os.waitpid(child, 0)
    libc.ptrace(SET_OPTIONS, child, None, TRACE_GOOD | EXIT_KILL)
    while count:
        libc.ptrace(SYSCALL, child, None, None)
        _, status = os.waitpid(child, 0)
        assert os.WIFSTOPPED(status), f"{argv} ended before it was killed"
        count -= os.WSTOPSIG(status) == SYSCALL_STOP and _enters(libc, child)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _enters(libc: ctypes.CDLL, child: int) -> bool:
    """Whether the child stands at the beginning of that ioctl: see `struct ptrace_syscall_info` in linux/ptrace.h."""
    info = ctypes.create_string_buffer(INFO_BYTES)
    libc.ptrace(GET_SYSCALL_INFO, child, INFO_BYTES, info)
    second = int.from_bytes(info.raw[40:48], sys.byteorder)
    return info.raw[0] == ENTRY and second & 0xFFFFFFFF == DM_DEV_SUSPEND
