"""Commands that change an existing pool, or finish what was begun: extend, adopt, rebuild, clean, base-size, resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from thinpoolmgr.approval import Approval
from thinpoolmgr.cli.completion import complete_engine, complete_pool
from thinpoolmgr.cli.options import global_options, options_of
from thinpoolmgr.cli.pools import approval_options, require_root, run_request
from thinpoolmgr.cli.render import Renderer
from thinpoolmgr.config import load_config
from thinpoolmgr.core.documents import apply_document
from thinpoolmgr.core.journal import finishing_request, unfinished_runs
from thinpoolmgr.core.plan import Request
from thinpoolmgr.errors import NeedsPersonError, UsageError
from thinpoolmgr.host.store import Store
from thinpoolmgr.units import exact_size, parse_size

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredState
    from thinpoolmgr.core.journal import Run
    from thinpoolmgr.core.steps import Danger


def _parse_growth(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str:
    """Return `value`, a size with a plus, since sizes here are always what is added; each size is spelt in one way."""
    if value is None:
        return ""
    if not value.startswith("+"):
        raise click.BadParameter(f"{value!r} has no plus; write how much is added, such as +10GiB")
    try:
        return f"+{exact_size(parse_size(value[1:]))}"
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.argument("pool", shell_complete=complete_pool)
@click.option("--data", "data", metavar="+SIZE", callback=_parse_growth, help="How much data is added.")
@click.option("--metadata", "metadata", metavar="+SIZE", callback=_parse_growth, help="How much metadata is added.")
@click.option(
    "--add-device",
    "devices",
    type=click.Path(),
    multiple=True,
    metavar="DEVICE",
    help="A disk to take into the group first.",
)
@approval_options
@global_options
@click.pass_context
def extend(  # noqa: PLR0913 - as the command line
    context: click.Context,
    pool: str,
    *,
    data: str,
    metadata: str,
    devices: tuple[str, ...],
    yes: bool,
    allow: frozenset[Danger],
) -> None:
    """Make a pool larger while it runs.

    Metadata grows before data. Where the group is full, the pool's spare_devices are taken.
    """
    if not (data or metadata or devices):
        raise UsageError("extend needs to know what", "", "Give --data +SIZE, --metadata +SIZE or --add-device DEVICE.")
    bad = next((device for device in devices if not device.startswith("/") or not device.isprintable()), None)
    if bad is not None:
        raise UsageError(f"{bad!r} is no path of a device", "", "Write its absolute path: /dev/disk/by-id/...")
    request = Request("extend", pool, add_data=data, add_metadata=metadata, add_devices=tuple(dict.fromkeys(devices)))
    run_request(context, request, Approval(yes, allow))


@click.command()
@click.argument("pool", shell_complete=complete_pool)
@approval_options
@global_options
@click.pass_context
def adopt(context: click.Context, pool: str, *, yes: bool, allow: frozenset[Danger]) -> None:
    """Take over a group and a pool that were made by hand.

    Only tags are written; how the pool differs from its configuration is shown. Of a group without a pool, what a
    killed set-up of Docker's own left half-made is removed with --allow destroy; apply then makes the pool.
    """
    run_request(context, Request("adopt", pool), Approval(yes, allow))


@click.command()
@click.argument("pool", shell_complete=complete_pool)
@approval_options
@global_options
@click.pass_context
def rebuild(context: click.Context, pool: str, *, yes: bool, allow: frozenset[Danger]) -> None:
    """Destroy a pool and make it anew, as one plan.

    All images and containers in it are lost. For what cannot be changed otherwise, such as the chunk size.
    """
    run_request(context, Request("rebuild", pool), Approval(yes, allow))


@click.command()
@click.argument("engine", required=False, default="", shell_complete=complete_engine)
@click.option("--purge", is_flag=True, help="Also delete for good what had been moved aside before.")
@approval_options
@global_options
@click.pass_context
def clean(context: click.Context, engine: str, *, purge: bool, yes: bool, allow: frozenset[Danger]) -> None:
    """Move aside engine state whose pool is gone.

    It stays beside where it was until --purge deletes it.
    """
    desired = load_config(options_of(context).config).desired
    if engine:
        _require_engine(engine, desired)
    run_request(context, Request("clean", engine=engine, purge=purge), Approval(yes, allow))


def _require_engine(name: str, desired: DesiredState) -> None:
    names = [found.name for found in desired.engines]
    if name not in names:
        listed = ", ".join(names) or "none"
        raise UsageError(f"there is no engine {name!r} in the configuration", f"Its engines: {listed}", "")


def _parse_size(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        return exact_size(parse_size(value))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command("base-size")
@click.argument("engine", shell_complete=complete_engine)
@click.argument("size", callback=_parse_size)
@approval_options
@global_options
@click.pass_context
def base_size(context: click.Context, engine: str, size: str, *, yes: bool, allow: frozenset[Danger]) -> None:
    """Change the largest size of a container's root.

    The value is edited in the file where it stands, comments stay; then the configuration is applied. Nothing is
    written before the plan is approved. The engine is restarted.
    """
    request = Request("base-size", engine=engine, base_size=size, may_empty="destroys" in allow)
    _change_base_size(context, request, Approval(yes, allow))


def _change_base_size(context: click.Context, request: Request, approval: Approval) -> None:
    from thinpoolmgr.config_edit import edit_base_size  # noqa: PLC0415 - tomlkit is seldom needed

    options = options_of(context)
    loaded = load_config(options.config)
    _require_engine(request.engine, loaded.desired)
    edit = edit_base_size(loaded, options.config, request.engine, request.base_size)
    if edit is not None:
        Renderer(options).remark(edit.intent)
    run_request(context, request, approval, edit=edit)


@click.command()
@approval_options
@global_options
@click.pass_context
def resume(context: click.Context, *, yes: bool, allow: frozenset[Danger]) -> None:
    """Finish the run that was interrupted.

    The same as giving its command again.
    """
    options = options_of(context)
    runs: list[Run] = []
    if not options.simulate:
        require_root()
        runs = unfinished_runs([run for _, run in Store().read_runs()])
    if not runs:
        renderer = Renderer(options)
        if options.json:
            renderer.json(apply_document("", "nothing", ()))
        else:
            renderer.out("Nothing to resume: the last run ended well.")
        return
    request = _request_of(runs[-1])
    carry_on = _change_base_size if request.command == "base-size" else run_request
    carry_on(context, request, Approval(yes, allow))


def _request_of(run: Run) -> Request:
    """Return what `run` was asked for, and what that came to when it began.

    Raises:
        NeedsPersonError: its journal does not say.

    """
    request = finishing_request(run)
    if request is None:
        summary = f"the journal does not say what {run.began.run} was asked for"
        raise NeedsPersonError(summary, f"Its command: {run.began.command}", "Give that command again yourself.")
    return request
