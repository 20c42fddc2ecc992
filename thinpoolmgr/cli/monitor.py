"""The command that becomes the daemon."""

from __future__ import annotations

import os
import sys

import click

from thinpoolmgr.cli.options import global_options, options_of
from thinpoolmgr.cli.pools import require_root
from thinpoolmgr.config import load_config
from thinpoolmgr.errors import UsageError
from thinpoolmgr.host.observe import require_thin_pool_target


@click.command()
@global_options
@click.pass_context
def monitor(context: click.Context) -> None:
    """Watch pools and extend them before they are full.

    Runs until SIGTERM; SIGHUP has it read the configuration again. Only pools whose extend.monitor is "thinpoolmgr"
    are extended. One monitor a host.
    """
    options = options_of(context)
    if options.simulate or options.json:
        way = "Leave the option out; what the monitor does can be read in /run/thinpoolmgr/monitor.json."
        raise UsageError("monitor has no --simulate and no --json", "", way)
    load_config(options.config)
    require_root()
    require_thin_pool_target()
    # A process of its own, without the command line in its memory: it stays for months.
    config = [os.path.abspath(options.config)] if options.config else []
    # One heap for all threads: they allocate little, and glibc would give each one of its own (mallopt(3)).
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    # -P: nothing is imported from the folder that root happens to stand in.
    # A shell is not meant here, whatever the rule says.
    os.execve(sys.executable, [sys.executable, "-P", "-m", "thinpoolmgr.monitor", *config], environment)  # noqa: S606
