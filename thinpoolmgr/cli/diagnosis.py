"""What is wrong, and what to do: `doctor`, and the story of each code: `explain`."""

from __future__ import annotations

import difflib

import click

from thinpoolmgr.cli.completion import complete_code
from thinpoolmgr.cli.options import global_options, options_of
from thinpoolmgr.cli.pools import host_and_store, read_journal
from thinpoolmgr.cli.render import Renderer
from thinpoolmgr.cli.stories import codes_document, explain_document, read_stories
from thinpoolmgr.cli.views_diagnosis import DiagnosisView
from thinpoolmgr.config import load_config
from thinpoolmgr.core.doctor import diagnose, doctor_document
from thinpoolmgr.core.findings import HostFacts
from thinpoolmgr.errors import UnavailableError, UsageError
from thinpoolmgr.host.facts import read_facts

_NOTEWORTHY = 2


@click.command()
@global_options
@click.pass_context
def doctor(context: click.Context) -> None:
    """Find what is wrong, with the evidence and the way out.

    The host is left as it is. Exit code 2 says that a finding is a warning or worse.
    """
    options = options_of(context)
    desired = load_config(options.config).desired
    with host_and_store(options, desired) as (host, _):
        facts = HostFacts() if options.simulate else read_facts(desired)
        try:
            snapshot = host.observe()
        except UnavailableError:
            if "lvm" not in facts.missing_tools:
                raise
            snapshot = None
        # Read last: a run that began before the host was looked at and ended since must not be taken for interrupted.
        found = diagnose(desired, snapshot, read_journal(options), facts)
    renderer = Renderer(options)
    if options.json:
        renderer.json(doctor_document(found))
    else:
        DiagnosisView(renderer, verbose=options.verbose).findings(found)
    context.exit(_NOTEWORTHY if any(diagnosis.severity != "info" for diagnosis in found) else 0)


@click.command()
@click.argument("code", required=False, default="", shell_complete=complete_code)
@global_options
@click.pass_context
def explain(context: click.Context, code: str) -> None:
    """Tell the whole story of a code, such as POOL_TIGHT.

    Without CODE, all codes with one line each.
    """
    options = options_of(context)
    stories = read_stories()
    wanted = code.strip("[]").upper().replace("-", "_")
    if code and wanted not in stories:
        close = difflib.get_close_matches(wanted, stories, 3, 0.5)
        near = f"Near it: {', '.join(close)}" if close else ""
        raise UsageError(f"there is no code {code!r}", near, "thinpoolmgr explain lists all codes.")
    renderer = Renderer(options)
    view = DiagnosisView(renderer, verbose=options.verbose)
    if options.json:
        renderer.json(explain_document(wanted, stories[wanted]) if code else codes_document(stories))
    elif code:
        view.story(wanted, stories[wanted])
    else:
        view.stories(stories)
