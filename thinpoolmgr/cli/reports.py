"""Commands that only look: status, and the configuration's own."""

from __future__ import annotations

import click
from msgspec import UNSET
from msgspec.structs import replace

from thinpoolmgr.cli.options import global_options, options_of
from thinpoolmgr.cli.pools import read_journal, real_host, require_root, simulated_host
from thinpoolmgr.cli.render import Renderer
from thinpoolmgr.cli.text import wrap
from thinpoolmgr.config import load_config
from thinpoolmgr.core.desired import unstable_name_warning, unstable_names
from thinpoolmgr.core.documents import SCHEMA, ConfigCheckDocument, ConfigShowDocument, status_document

_NOTEWORTHY = 2


@click.command()
@click.option("--check", is_flag=True, help="Exit with 2 when something is wrong: a warning or an error.")
@global_options
@click.pass_context
def status(context: click.Context, *, check: bool) -> None:
    """Show pools, their use and health, and engines."""
    options = options_of(context)
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
