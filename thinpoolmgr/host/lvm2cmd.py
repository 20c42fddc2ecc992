"""LVM's own library in a process that waits for commands; standby.py starts this file, and nothing imports it.

It takes one command a line from its standard input, and writes one line for each to the descriptor that its argument
names: the exit code that the command lvm would have had. Before them it writes `ready`.
"""

import ctypes
import os
import sys

_LIBRARY = "liblvm2cmd.so.2.03"
_SUCCEEDED = 1
"""LVM2_COMMAND_SUCCEEDED (tools/lvm2cmd.h); the command lvm returns 0 for it, and the same numbers for all else."""

_NO_DISKS = b'devices{use_devicesfile=0 hints="none" global_filter=["r|.*|"]}'


def main() -> None:
    """Answer until the input ends."""
    answers = int(sys.argv[1])
    # Whatever LVM starts must not keep it open: that it ends is how it is seen that this process has.
    os.set_inheritable(answers, False)  # noqa: FBT003 - it knows no names
    lvm, c = ctypes.CDLL(_LIBRARY), ctypes.CDLL(None)
    lvm.lvm2_init.restype = ctypes.c_void_p
    lvm.lvm2_run.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
    handle = lvm.lvm2_init()
    # As dmeventd does: what LVM locks into memory before it suspends a device stays locked. Not to do so before each
    # command is what makes it ten times faster; the library that does not know the word goes on without.
    lvm.lvm2_run(handle, b"_memlock_inc")
    # The first command takes twice as long as the others. This one waits for no lock, and for no disk.
    lvm.lvm2_run(handle, b"pvs --nolocking --readonly --config '%s'" % _NO_DISKS)
    c.fflush(None)
    os.write(answers, b"ready\n")
    for line in sys.stdin.buffer:
        code = lvm.lvm2_run(handle, line.rstrip(b"\n"))
        c.fflush(None)
        os.write(answers, b"%d\n" % (0 if code == _SUCCEEDED else code))
    # LVM's own clean-up has nothing to do but to complain of the locked memory.
    os._exit(0)


if __name__ == "__main__":
    main()
