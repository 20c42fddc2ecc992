#!/usr/bin/env python3
"""Measures how soon pools are extended, by `thinpoolmgr monitor` and by dmeventd; `make bench-monitor` runs it.

Both watch pools of the same shape in one boot of one kernel. One trial is under way at a time; they take turns, each
first in its turn, and a trial begins at a random moment of dmeventd's period. Shown are all trials' least, median, 99th
percentile and greatest, and which goals are met.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from reaction_parts import PARTS, Options, Results
from reaction_table import table
from tools import versions
from watchers import Dmeventd, Monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from watchers import Watcher

WATCHERS: dict[str, type[Watcher]] = {kind.name: kind for kind in (Dmeventd, Monitor)}


def main() -> None:
    """Measure what was asked for and print it as Markdown tables."""
    asked = parse_arguments()
    options = Options(asked.trials, asked.cycles, asked.longest_wait, asked.limit)
    random.seed(asked.seed)
    print(f"{versions()}, {asked.trials} trials, seed {asked.seed}.", flush=True)
    results: Results = {}
    with ExitStack() as stack:
        watchers = [stack.enter_context(WATCHERS[name]()) for name in asked.only]
        for part, measure in PARTS.items():
            if part in asked.parts:
                began = time.monotonic()
                found = measure(watchers, options)
                results |= found
                print(*(table(name, series) for name, series in found.items()), sep="\n")
                print(f"\n{part} took {time.monotonic() - began:.0f} s.\n", flush=True)
                if asked.json:
                    asked.json.write_text(json.dumps(results, indent=1), "utf-8")


def parse_arguments() -> argparse.Namespace:
    """Return what was asked for; lists are words with commas between."""
    parser = argparse.ArgumentParser(description="Measure reactions to pools that fill up, in the lab.")
    parser.add_argument("--parts", type=_words_of(PARTS), default=list(PARTS), metavar=",".join(PARTS))
    parser.add_argument("--only", type=_words_of(WATCHERS), default=list(WATCHERS), metavar=",".join(WATCHERS))
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--cycles", type=int, default=300, help="of fill, extend, discard, for the memory")
    parser.add_argument("--longest-wait", type=float, default=120, help="seconds from a failed extension to a new disk")
    parser.add_argument("--limit", type=float, default=120, help="seconds after which a reaction counts as none")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10_000, help="of the random moments")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there, too")
    return parser.parse_args()


def _words_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        words = text.split(",")
        if unknown := set(words).difference(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: there are only {', '.join(known)}")
        return words

    return read


if __name__ == "__main__":
    main()
