"""What Prometheus reads: one document on standard output, in a file, or served on this host."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from thinpoolmgr import __version__
from thinpoolmgr.cli.options import Options, global_options, options_of
from thinpoolmgr.cli.pools import read_journal, real_host, require_root, simulated_host
from thinpoolmgr.cli.render import Renderer
from thinpoolmgr.cli.waiting import Patience, waiting
from thinpoolmgr.config import load_config
from thinpoolmgr.core.documents import status_document
from thinpoolmgr.core.history import past_runs
from thinpoolmgr.core.measures import Look, measures
from thinpoolmgr.errors import ThinpoolmgrError, UnavailableError, UsageError
from thinpoolmgr.host.files import write_generated
from thinpoolmgr.host.locks import flocked
from thinpoolmgr.host.monitor_report import is_running, read_report
from thinpoolmgr.host.runner import CommandRunner
from thinpoolmgr.metrics.listener import listening, parse_address, serve
from thinpoolmgr.metrics.text import document

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredState
    from thinpoolmgr.core.model import Snapshot
    from thinpoolmgr.metrics.listener import Address

_LOOK_LOCK = "/run/thinpoolmgr/metrics.lock"
_TIMER_SECONDS, _SCRAPE_SECONDS = 30.0, 8.0
"""How long a look may take: Prometheus gives a scrape up after 10 s (scrape_timeout), and knows nothing then."""


@click.command()
@click.option(
    "--textfile",
    type=click.Path(),
    metavar="FILE",
    help="Write it to FILE instead, whole or not at all, for node exporter's textfile collector.",
)
@click.option(
    "--listen",
    metavar="ADDRESS",
    help="Serve it instead, at 127.0.0.1:PORT or unix:/PATH, with a fresh look for each that asks.",
)
@global_options
@click.pass_context
def metrics(context: click.Context, *, textfile: str | None, listen: str | None) -> None:
    """Print one document for Prometheus.

    It has pools, findings, the monitor and the last run. Where the host cannot be observed the document says so
    (thinpoolmgr_up 0), and the exit code is the error's.
    """
    options = options_of(context)
    if options.json:
        raise UsageError("metrics has no JSON document", "", "thinpoolmgr status --json has most of it.")
    if textfile and listen:
        raise UsageError("--textfile and --listen exclude each other", "", "Run one of each.")
    address = parse_address(listen) if listen else None
    if not options.simulate:
        require_root()
    if address is not None:
        context.exit(_listen(options, address))
    text, error = _measure(options, Patience(_TIMER_SECONDS))
    if textfile:
        write_generated(textfile, text)
    else:
        Renderer(options).out(text.decode().rstrip("\n"))
    if error is not None:
        raise error


def _listen(options: Options, address: Address) -> int:
    """Serve until a signal comes, and return the exit code: SIGTERM ends a service as it should, and is no failure."""
    renderer, patience = Renderer(options), Patience(_SCRAPE_SECONDS)
    with waiting() as waiter:
        with listening(address, lambda: _measure(options, patience)[0]) as server:
            renderer.remark(f"Listening on {address.path or f'http://{address.shown}/metrics'}")
            while not waiter.is_stopped:
                serve(server, waiter.fd)
                waiter.wait(0)
        return 0 if waiter.is_terminated else waiter.exit_code


def _measure(options: Options, patience: Patience) -> tuple[bytes, ThinpoolmgrError | None]:
    """Return the document of a look at the host, and why that look failed."""
    at, began = time.time(), time.monotonic()
    report = None if options.simulate else read_report()
    error: ThinpoolmgrError | None = None
    asked = threading.Event()
    look = Look(__version__, at, 0.0, report=report, monitor_runs=report is not None and is_running(report))
    try:
        desired = load_config(options.config).desired
        snapshot = patience.look(lambda: _look(options, desired, asked))
        # Read last: a run that ended since must not be taken for interrupted.
        journal = read_journal(options)
    except ThinpoolmgrError as caught:
        error = _earlier_hangs() if caught.code == "HOST_HANGS" and not asked.is_set() else caught
        look = replace(look, error_code=error.code)
    else:
        runs = past_runs(journal.stored, is_locked=journal.is_locked)
        status = status_document(desired, snapshot, journal)
        look = replace(look, pools=desired.pools, status=status, runs=runs)
    return document(measures(replace(look, seconds=time.monotonic() - began))), error


def _look(options: Options, desired: DesiredState, asked: threading.Event) -> Snapshot:
    """Look at the host when nobody else looks for Prometheus, and set `asked` then.

    Else each minute would leave one process more behind that waits for a disk which hangs, and does not end.
    """
    if host := simulated_host(options, desired):
        return host.observe()
    with flocked(_LOOK_LOCK) as lock:
        asked.set()
        return real_host(desired, CommandRunner(held=lock), tells_late=False).observe()


def _earlier_hangs() -> UnavailableError:
    details = "An earlier metrics has not ended: it waits for a disk that hangs. This one asked nothing."
    way = (
        f"Find that disk: dmesg; cat /sys/block/*/inflight; what waits: lsof {_LOOK_LOCK}. Once it answers all "
        f"is well. Where LVM no longer reads it (global_filter), and what waits never ends: rm {_LOOK_LOCK}"
    )
    return UnavailableError("the host does not answer", details, way, code="HOST_HANGS")
