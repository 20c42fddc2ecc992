"""Past runs: `history` and one run of it."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import click

from thinpoolmgr.cli.options import global_options, options_of
from thinpoolmgr.cli.pools import read_journal
from thinpoolmgr.cli.render import Renderer
from thinpoolmgr.cli.views_history import HistoryView
from thinpoolmgr.core.history import history_document, past_runs
from thinpoolmgr.errors import UsageError

if TYPE_CHECKING:
    from thinpoolmgr.core.history import PastRun

_LISTED = 8


@click.command()
@click.argument("run", required=False, default="")
@global_options
@click.pass_context
def history(context: click.Context, run: str) -> None:
    """Show past runs, the newest last.

    With RUN, or the beginning of its name, its steps; of a failed run also the error and its last commands.
    """
    options = options_of(context)
    read = read_journal(options)
    runs = past_runs(read.stored, is_locked=read.is_locked)
    chosen = (_choose(run, runs),) if run else runs
    renderer = Renderer(options)
    if options.json:
        renderer.json(history_document(chosen))
    elif run:
        HistoryView(renderer).run(chosen[0])
    else:
        HistoryView(renderer).runs(chosen)


def _choose(name: str, runs: tuple[PastRun, ...]) -> PastRun:
    """Return the run called `name`, or the only one whose name begins so.

    Raises:
        UsageError: there is none, or there are several.

    """
    found = [run for run in runs if run.run == name] or [run for run in runs if run.run.startswith(name)]
    if len(found) == 1:
        return found[0]
    names = [run.run for run in runs]
    if found:
        listed = ", ".join(run.run for run in found[-_LISTED:])
        raise UsageError(f"{len(found)} runs begin with {name!r}", f"Among them: {listed}", "Write more of the name.")
    close = ", ".join(difflib.get_close_matches(name, names, 3, 0.4) or names[-3:]) or "none"
    raise UsageError(f"there is no run {name!r}", f"Near it: {close}", "thinpoolmgr history lists them all.")
