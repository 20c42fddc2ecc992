#!/usr/bin/env python3
"""Runs the stories of `scenarios/` on machines of Vagrant's: up, run, report, destroy. `make vagrant-test` calls it.

What was interrupted is gone on with: machines that are up are used, and stories that passed on this very checkout are
not told again. When all have passed everything is taken away; when one failed the machines stay, to be looked at.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

import machines
import pytest
from bed import HERE, Bed, BedError

ROOT: Final = HERE.parent
RESULTS: Final = HERE / ".vagrant"
MACHINES: Final = ("solo", "one", "two", "three")


class Told(NamedTuple):
    """How a story ended."""

    title: str
    outcome: str
    seconds: float


class Teller:
    """Says one line for each story, and notes those that passed."""

    def __init__(self, passed: dict[str, float], noted: Path, checkout: str) -> None:
        """Leave out the stories of `passed`: they are told already."""
        self._passed, self._noted, self._checkout = passed, noted, checkout
        self._titles: dict[str, str] = {}
        self._seconds: dict[str, float] = {}
        self.told: list[Told] = []

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out what has passed before."""
        for item in items:
            doc = getattr(getattr(item, "function", None), "__doc__", None) or item.name
            variant = item.name.partition("[")[2].rstrip("]")
            self._titles[item.nodeid] = doc.splitlines()[0].rstrip(".") + (f" ({variant})" if variant else "")
        before = [item for item in items if item.nodeid in self._passed]
        for item in before:
            self.told.append(Told(self._titles[item.nodeid], "passed before", self._passed[item.nodeid]))
        config.hook.pytest_deselected(items=before)
        items[:] = [item for item in items if item.nodeid not in self._passed]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Say how it ended, once all of it has."""
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0.0) + report.duration
        if report.when == "call" and report.passed:
            self._passed[report.nodeid] = self._seconds[report.nodeid]
        if report.failed:
            self._passed.pop(report.nodeid, None)
            sys.stdout.write(f"{report.longreprtext}\n")
        if report.when == "teardown":
            outcome = "passed" if report.nodeid in self._passed else "FAILED"
            told = Told(self._titles[report.nodeid], outcome, self._seconds[report.nodeid])
            self.told.append(told)
            _say(f"{told.outcome:6}  {told.title} ({told.seconds:.0f} s)")
            self._noted.write_text(json.dumps({"checkout": self._checkout, "passed": self._passed}), "utf-8")


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description="Tell the stories of vagrant/scenarios on whole machines.")
    parser.add_argument("--keep", action="store_true", help="leave the machines when all have passed")
    parser.add_argument("--clean", action="store_true", help="only take away what an earlier run left")
    parser.add_argument("-k", dest="some", default="", help="only the stories whose names match, as of pytest")
    parser.add_argument("--shell", metavar="NAME", help="only open a shell on one of the machines")
    asked = parser.parse_args()
    bed = Bed()
    try:
        if asked.shell:
            bed.machine(asked.shell).open_shell()
        if asked.clean:
            bed.stop()
            (RESULTS / "passed.json").unlink(missing_ok=True)
            return
        has_passed = tell_all(bed, asked.some)
        if has_passed and not asked.keep:
            bed.stop()
            (RESULTS / "passed.json").unlink(missing_ok=True)
            _say("all that was made is gone")
        elif not has_passed:
            _say("The machines stay. Look at one: vagrant/run.py --shell solo. Take all away: make vagrant-clean.")
    except BedError as error:
        raise SystemExit(str(error)) from error
    raise SystemExit(not has_passed)


def tell_all(bed: Bed, some: str) -> bool:
    """Have the machines up, tell the stories, and return whether all have passed."""
    RESULTS.mkdir(exist_ok=True)
    began = time.monotonic()
    bed.start()
    for name in MACHINES:
        since = time.monotonic()
        bed.up([name], tell=lambda _line: None)
        _say(f"up      {name} ({time.monotonic() - since:.0f} s)")
    noted, checkout = RESULTS / "passed.json", _checkout()
    teller = Teller(_read_passed(noted, checkout), noted, checkout)
    options = [
        "-p",
        "no:terminal",
        "-p",
        "no:cacheprovider",
        f"--junitxml={RESULTS / 'junit.xml'}",
        "--rootdir",
        str(HERE),
    ]
    code = pytest.main([*options, *(["-k", some] if some else []), str(HERE / "scenarios")], plugins=[teller, machines])
    _show(teller.told, time.monotonic() - began)
    return code == 0 or (code == pytest.ExitCode.NO_TESTS_COLLECTED and bool(teller.told))


def _show(told: list[Told], seconds: float) -> None:
    print(f"\n{'result':14}  {'s':>5}  story")
    for story in told:
        print(f"{story.outcome:14}  {story.seconds:5.0f}  {story.title}")
    print(f"{len(told)} stories in {seconds:.0f} s; JUnit: {(RESULTS / 'junit.xml').relative_to(ROOT)}")


def _checkout() -> str:
    """Return what tells this checkout from another one: all files that machines or stories are made of."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        capture_output=True,
        check=True,
        cwd=ROOT,
    ).stdout
    digest = hashlib.sha256()
    for name in sorted(listed.split(b"\0")):
        path = ROOT / name.decode()
        if path.is_file():
            digest.update(name + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _read_passed(noted: Path, checkout: str) -> dict[str, float]:
    try:
        before = json.loads(noted.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(before["passed"]) if before["checkout"] == checkout else {}


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


if __name__ == "__main__":
    main()
