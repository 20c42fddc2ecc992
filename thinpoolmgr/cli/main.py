"""The command line: each family of commands is imported only when one of it is called."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from thinpoolmgr import __version__
from thinpoolmgr.cli.options import Options, global_options
from thinpoolmgr.errors import ThinpoolmgrError

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS = {
    "activate": "thinpoolmgr.cli.pools:activate",
    "adopt": "thinpoolmgr.cli.changes:adopt",
    "apply": "thinpoolmgr.cli.pools:apply",
    "base-size": "thinpoolmgr.cli.changes:base_size",
    "clean": "thinpoolmgr.cli.changes:clean",
    "config": "thinpoolmgr.cli.reports:config",
    "deactivate": "thinpoolmgr.cli.pools:deactivate",
    "destroy": "thinpoolmgr.cli.pools:destroy",
    "doctor": "thinpoolmgr.cli.diagnosis:doctor",
    "explain": "thinpoolmgr.cli.diagnosis:explain",
    "extend": "thinpoolmgr.cli.changes:extend",
    "history": "thinpoolmgr.cli.history:history",
    "init": "thinpoolmgr.cli.setup:init",
    "lab": "thinpoolmgr.cli.lab:lab",
    "monitor": "thinpoolmgr.cli.monitor:monitor",
    "metrics": "thinpoolmgr.cli.metrics:metrics",
    "plan": "thinpoolmgr.cli.pools:plan",
    "rebuild": "thinpoolmgr.cli.changes:rebuild",
    "resume": "thinpoolmgr.cli.changes:resume",
    "status": "thinpoolmgr.cli.reports:status",
    "usage": "thinpoolmgr.cli.usage:usage",
    "who": "thinpoolmgr.cli.usage:who",
}
COMPLETE_VARIABLE = "_THINPOOLMGR_COMPLETE"
"""In the environment: what a shell wants to know, in click's words, such as `bash_complete`."""
_USAGE = 64
_FAILED = 1
_INTERRUPTED = 130


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names without importing anything."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command called `cmd_name`."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="thinpoolmgr")
@global_options
@click.pass_context
def cli(context: click.Context) -> None:
    """Provision LVM thin pools for container engines, and keep them well."""
    context.ensure_object(Options)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code that the contract names."""
    if os.environ.get(COMPLETE_VARIABLE):
        _complete()
    options = Options()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = cli.main(
            args=list(arguments),
            prog_name="thinpoolmgr",
            standalone_mode=False,
            obj=options,
        )
    except click.UsageError as error:
        _print_usage_error(error, options, arguments)
        sys.exit(_USAGE)
    except (click.Abort, KeyboardInterrupt):
        # A run under way ends its step first and says so itself; this is before one began, or at its question.
        _renderer(options).error(ThinpoolmgrError("interrupted; nothing was changed", code="INTERRUPTED"))
        sys.exit(_INTERRUPTED)
    except ThinpoolmgrError as error:
        _renderer(options).error(error)
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001 - the one place where everything ends: no traceback reaches a user
        _print_bug(error, options)
        sys.exit(_FAILED)
    sys.exit(code if isinstance(code, int) else 0)


def _complete() -> NoReturn:
    """Answer a shell that asks what Tab may offer, or for its script; whatever goes wrong, the prompt stays clean."""
    from thinpoolmgr.cli.completion import register_shells  # noqa: PLC0415

    register_shells()
    try:
        cli.main(args=[], prog_name="thinpoolmgr", complete_var=COMPLETE_VARIABLE, obj=Options())
    except (Exception, KeyboardInterrupt):  # noqa: BLE001 - see above
        sys.exit(_FAILED)
    sys.exit(_FAILED)


def _print_bug(error: Exception, options: Options) -> None:
    import traceback  # noqa: PLC0415 - hopefully never needed

    details = "".join(traceback.format_exception(error)) if options.verbose else f"{type(error).__name__}: {error}"
    resolution = "This is a bug in thinpoolmgr; please report it with what -v shows. Look at the host before you go on."
    _renderer(options).error(ThinpoolmgrError("something unexpected happened", details, resolution, code="BUG"))


def _print_usage_error(error: click.UsageError, options: Options, arguments: Sequence[str]) -> None:
    from thinpoolmgr.errors import UsageError  # noqa: PLC0415

    # The line may be wrong before --json is reached in it.
    options.json = options.json or "--json" in arguments
    summary = error.format_message().splitlines() or ["the command line is wrong"]
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        summary = ["a command is missing"]
    path = error.ctx.command_path if error.ctx else "thinpoolmgr"
    usage = error.ctx.get_usage() if error.ctx else ""
    _renderer(options).error(UsageError(summary[0].rstrip("."), usage, f"See {path} --help."))


def _renderer(options: Options) -> Any:
    from thinpoolmgr.cli.render import Renderer  # noqa: PLC0415

    return Renderer(options)
