"""Kills a command at one of its ioctls, as a power cut or an impatient person may: with ptrace(2), as strace does."""

from __future__ import annotations

import ctypes
import os
import signal

# linux/dm-ioctl.h: _IOWR(0xfd, nr, struct dm_ioctl), which has 312 bytes
DM_DEV_SUSPEND = 0xC138FD06
TRACE_ME, GET_REGISTERS, SYSCALL, SET_OPTIONS = 0, 12, 24, 0x4200
TRACE_GOOD, EXIT_KILL = 1, 0x100000
SYSCALL_STOP = signal.SIGTRAP | 0x80
# struct user_regs_struct of x86-64, which is what the lab's kernel is made for: 27 words
REGISTERS, SECOND_ARGUMENT, NUMBER, IOCTL = 27, 13, 15, 16


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
    # each call stops twice, as it is entered and as it is left
    left = 2 * count - 1
    while left:
        libc.ptrace(SYSCALL, child, None, None)
        _, status = os.waitpid(child, 0)
        assert os.WIFSTOPPED(status), f"{argv} ended before it was killed"
        left -= os.WSTOPSIG(status) == SYSCALL_STOP and _is_at_it(libc, child)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _is_at_it(libc: ctypes.CDLL, child: int) -> bool:
    """Whether the child stands at that ioctl; lab kernels do not know PTRACE_GET_SYSCALL_INFO."""
    registers = (ctypes.c_ulonglong * REGISTERS)()
    libc.ptrace(GET_REGISTERS, child, None, registers)
    return (registers[NUMBER], registers[SECOND_ARGUMENT] & 0xFFFFFFFF) == (IOCTL, DM_DEV_SUSPEND)
