"""`python -m thinpoolmgr.monitor [CONFIG]`: the daemon without the command line, which it has no use for."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# msgspec takes it where it is installed, though Python 3.11 has all that it wants of it: 1.7 MiB of a daemon's memory.
sys.modules["typing_extensions"] = None  # type: ignore[assignment]

from systemd_watchdog.systemd_watchdog import WatchDog  # noqa: E402 - after that

from thinpoolmgr.errors import ThinpoolmgrError  # noqa: E402
from thinpoolmgr.host import journald  # noqa: E402
from thinpoolmgr.monitor.service import Monitor  # noqa: E402


def main(arguments: list[str]) -> int:
    """Run until a signal comes; return the exit code that the contract names."""
    try:
        Monitor(Path(arguments[0]) if arguments else None, WatchDog()).run()
    except ThinpoolmgrError as error:
        sys.stderr.write(f"error: {error.summary} [{error.code}]\n")
        for text in (error.details, error.resolution):
            sys.stderr.write(f"  {text}\n" if text else "")
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - no traceback reaches a user; systemd starts it again
        journald.send(f"the monitor ends: {type(error).__name__}: {error}", journald.ERROR, code="BUG")
        return 1
    sys.stderr.flush()
    # A command that is still under way goes on alone; the threads that wait for it need not.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
