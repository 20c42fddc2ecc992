"""`python -m thinpoolmgr.monitor [CONFIG]`: the daemon without the command line, which it has no use for."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from systemd_watchdog.systemd_watchdog import WatchDog

from thinpoolmgr.errors import ThinpoolmgrError
from thinpoolmgr.monitor.service import Monitor


def main(arguments: list[str]) -> int:
    """Run until a signal comes; return the exit code that the contract names."""
    try:
        Monitor(Path(arguments[0]) if arguments else None, WatchDog()).run()
    except ThinpoolmgrError as error:
        sys.stderr.write(f"error: {error.summary} [{error.code}]\n")
        for text in (error.details, error.resolution):
            sys.stderr.write(f"  {text}\n" if text else "")
        return error.exit_code
    sys.stderr.flush()
    # A command that is still under way goes on alone; the threads that wait for it need not.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
