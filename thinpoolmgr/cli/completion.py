"""What a shell is offered for Tab: names from the configuration, and words with commas between them.

Runs at every press of the key: it reads the configuration and nothing else, and says nothing when that fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from click.shell_completion import BashComplete, FishComplete, add_completion_class

from thinpoolmgr.cli.options import options_of
from thinpoolmgr.config import load_config
from thinpoolmgr.core.desired import DesiredState
from thinpoolmgr.errors import ThinpoolmgrError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import click

    Completer = Callable[[click.Context, click.Parameter, str], list[str]]


class _Bash(BashComplete):
    """Click's, for a shell that splits words at `=`, too."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor, and the one at it: `--config = FILE` becomes `--config FILE` again."""
        words, incomplete = super().get_completion_args()
        return [word for word in words if word != "="], incomplete


class _Fish(FishComplete):
    """Click's, but what is offered may have commas in it, such as `outage,destroy`."""

    source_template = FishComplete.source_template.replace('string split ","', 'string split --max 1 ","')


def register_shells() -> None:
    """Let click use these in place of its own."""
    add_completion_class(_Bash, "bash")
    add_completion_class(_Fish, "fish")


def complete_pool(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of the configured pools that begin with `incomplete`; none when the configuration is wrong."""
    desired = _configured(context)
    return [pool.name for pool in desired.pools if pool.name.startswith(incomplete)]


def complete_engine(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of the configured engines that begin with `incomplete`."""
    return [engine.name for engine in _configured(context).engines if engine.name.startswith(incomplete)]


def complete_code(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the codes that begin with `incomplete`, in whatever case."""
    from thinpoolmgr.cli.stories import read_stories  # noqa: PLC0415 - every command imports this module

    return [code for code in read_stories() if code.startswith(incomplete.upper())]


def _configured(context: click.Context) -> DesiredState:
    given = options_of(context).config
    try:
        # The shell hands over what was typed: it has not replaced the tilde yet.
        return load_config(given.expanduser() if given else None).desired
    except (ThinpoolmgrError, OSError, RuntimeError):
        return DesiredState()


def comma_separated(words: Iterable[str]) -> Completer:
    """Return a completer for lists such as `outage,destroy`: each of `words` once, in any order."""
    known = tuple(words)

    def complete(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        head, comma, last = incomplete.rpartition(",")
        return [f"{head}{comma}{word}" for word in known if word not in head.split(",") and word.startswith(last)]

    return complete
