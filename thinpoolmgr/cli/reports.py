"""Commands that only look: status, and the configuration's own."""

from __future__ import annotations

import click
from msgspec import UNSET
from msgspec.structs import replace

from thinpoolmgr.cli.options import Options, global_options, options_of
from thinpoolmgr.cli.pools import read_journal, real_host, require_root, simulated_host
from thinpoolmgr.cli.render import Renderer
from thinpoolmgr.cli.text import wrap
from thinpoolmgr.config import load_config
from thinpoolmgr.core.desired import unstable_name_warning, unstable_names
from thinpoolmgr.core.documents import SCHEMA, ConfigCheckDocument, ConfigShowDocument, status_document
from thinpoolmgr.core.findings import Journal
from thinpoolmgr.errors import UsageError

_NOTEWORTHY = 2
_INTERVAL_SECONDS = 2.0
_LOOK_SECONDS, _FIRST_LOOK_SECONDS = 10.0, 30.0
"""After how long a look through LVM is given up, and the kernel's part shown without it; before the first is none."""


@click.command()
@click.option("--check", is_flag=True, help="Exit with 2 when something is wrong: a warning or an error.")
@click.option("--watch", is_flag=True, help="Show pools again and again, with how fast they fill; Ctrl-C ends it.")
@click.option(
    "--interval",
    type=click.FloatRange(0.2, 3600),
    metavar="SECONDS",
    help="Between two looks of --watch; 2 when not given.",
)
@global_options
@click.pass_context
def status(context: click.Context, *, check: bool, watch: bool, interval: float | None) -> None:
    """Show pools, their use and health, and engines.

    With --watch on a terminal a picture that is drawn anew, elsewhere lines for each look. Between looks through LVM
    once a minute, or when something changed, it asks only the kernel.
    """
    options = options_of(context)
    if watch:
        _require_only_watch(options, check=check)
        context.exit(_watch(options, _INTERVAL_SECONDS if interval is None else interval))
    if interval is not None:
        raise UsageError("--interval belongs to --watch", "", "thinpoolmgr status --watch --interval 5")
    desired = replace(load_config(options.config).desired, names_smaller=True)
    simulated = simulated_host(options, desired)
    if simulated is None:
        require_root()
    snapshot = (simulated or real_host(desired)).observe()
    document = status_document(desired, snapshot, read_journal(options))
    renderer = Renderer(options)
    if options.json:
        renderer.json(document)
    else:
        renderer.status(document)
    noteworthy = any(finding.severity != "info" for finding in document.findings)
    context.exit(_NOTEWORTHY if check and noteworthy else 0)


def _require_only_watch(options: Options, *, check: bool) -> None:
    if options.json or check:
        details = "--watch has no end, and so neither one document nor one answer."
        other = "--json" if options.json else "--check"
        raise UsageError(f"--watch and {other} exclude each other", details, f"Ask again and again: status {other}.")


def _watch(options: Options, interval_seconds: float) -> int:
    from thinpoolmgr.cli.waiting import Patience  # noqa: PLC0415 - seldom needed
    from thinpoolmgr.cli.watch import Watcher, read_monitor, watch  # noqa: PLC0415 - as above
    from thinpoolmgr.host.dm import read_device  # noqa: PLC0415 - as above

    desired = load_config(options.config).desired
    simulated = simulated_host(options, desired)
    if simulated is not None:
        watcher = Watcher(
            desired, simulated.observe, lambda name: simulated.observe().find_dm(name), Journal, lambda: None
        )
        return watch(options, watcher, interval_seconds)
    require_root()
    # It says nothing by itself: the screen is drawn on.
    host, patience = real_host(desired, tells_late=False), Patience(_LOOK_SECONDS, _FIRST_LOOK_SECONDS)
    watcher = Watcher(
        desired, lambda: patience.look(host.observe), read_device, lambda: read_journal(options), read_monitor
    )
    return watch(options, watcher, interval_seconds)


@click.group()
@global_options
def config() -> None:
    """Validate and show the configuration; touches nothing."""


@config.command()
@global_options
@click.pass_context
def check(context: click.Context) -> None:
    """Validate the configuration."""
    options = options_of(context)
    loaded = load_config(options.config)
    renderer = Renderer(options)
    warnings = [unstable_name_warning(path) for pool in loaded.desired.pools for path in unstable_names(pool)]
    if options.json:
        renderer.json(ConfigCheckDocument(SCHEMA, valid=True, files=loaded.files, warnings=tuple(warnings)))
    else:
        for warning in warnings:
            renderer.warn(warning)
        for line in wrap(f"Valid: {', '.join(loaded.files)}", " " * len("Valid: "), ""):
            renderer.out(line)


@config.command()
@click.option("--origin", is_flag=True, help="Show which file each value comes from.")
@global_options
@click.pass_context
def show(context: click.Context, *, origin: bool) -> None:
    """Show the merged configuration."""
    options = options_of(context)
    loaded = load_config(options.config)
    renderer = Renderer(options)
    if options.json:
        renderer.json(ConfigShowDocument(SCHEMA, loaded.merged, loaded.origins if origin else UNSET))
    else:
        renderer.config(loaded, origin=origin)
