#!/usr/bin/env python3
"""Runs the stories of `scenarios/` on machines of Vagrant's: up, run, report, destroy. `make vagrant-test` calls it.

What was interrupted is gone on with: machines that are ready are used, and stories that passed on this very checkout
are not told again. When all have passed everything is taken away; when one failed the machines stay, to be looked at.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Final, NamedTuple
from xml.etree import ElementTree as ET

import pytest
from bed import HERE, Bed
from fixtures import MACHINES_OF, Fixtures
from preflight import BedError

if TYPE_CHECKING:
    from types import FrameType

ROOT: Final = HERE.parent
RESULTS: Final = HERE / ".vagrant"
PASSED: Final = RESULTS / "passed.json"
JUNIT: Final = RESULTS / "junit.xml"
OF_MACHINES: Final = ("thinpoolmgr", "packaging", "systemd", "udev", "vagrant/provision.sh", "vagrant/Vagrantfile")
"""The files that a provisioned machine is made of."""
OF_STORIES: Final = (*OF_MACHINES, "vagrant")

NOT_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")


class Told(NamedTuple):
    """How a story ended: `passed`, `passed before`, `FAILED` or `not told`, and what was wrong."""

    title: str
    outcome: str
    seconds: float
    wrong: str = ""


class Teller:
    """Has the machines of each story ready, says one line for it, and notes those that passed."""

    def __init__(self, bed: Bed, state: str, checkout: str, passed: dict[str, float]) -> None:
        """Leave out the stories of `passed`: they are told already. Machines keep themselves as `state`."""
        self._bed, self._state, self._checkout, self._passed = bed, state, checkout, passed
        self._wrong: dict[str, str] = {}
        self._seconds: dict[str, float] = {}
        self.told: dict[str, Told] = {}
        self.error: BedError | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out what has passed before."""
        for item in items:
            doc = getattr(getattr(item, "function", None), "__doc__", None) or item.name
            variant = item.name.partition("[")[2].rstrip("]")
            title = doc.splitlines()[0].rstrip(".") + (f" ({variant})" if variant else "")
            has_passed = item.nodeid in self._passed
            self.told[item.nodeid] = Told(
                title, "passed before" if has_passed else "not told", self._passed.get(item.nodeid, 0)
            )
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in self._passed])
        items[:] = [item for item in items if item.nodeid not in self._passed]

    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Have the machines that it needs: no part of its time."""
        names = next(MACHINES_OF[name] for name in getattr(item, "fixturenames", ()) if name in MACHINES_OF)
        began = time.monotonic()
        try:
            if self._bed.have(names, self._state):
                _say(f"up      {', '.join(names)} ({time.monotonic() - began:.0f} s)")
        except (BedError, AssertionError) as error:
            # The other is what libvirt did not do.
            self.error = error if isinstance(error, BedError) else BedError(str(error))
            pytest.exit(str(error), returncode=1)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Say how it ended, once all of it has."""
        story = report.nodeid
        self._seconds[story] = self._seconds.get(story, 0.0) + report.duration
        if report.failed:
            self._wrong[story] = self._wrong.get(story, "") + report.longreprtext
        if report.when != "teardown":
            return
        wrong = self._wrong.get(story, "")
        told = Told(self.told[story].title, "FAILED" if wrong else "passed", self._seconds[story], wrong)
        self.told[story] = told
        if wrong:
            print(wrong)
        else:
            self._passed[story] = told.seconds
            PASSED.write_text(json.dumps({"checkout": self._checkout, "passed": self._passed}), "utf-8")
        _say(f"{told.outcome:6}  {told.title} ({told.seconds:.0f} s)")


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description="Tell the stories of vagrant/scenarios on whole machines.")
    parser.add_argument("--keep", action="store_true", help="leave the machines when all have passed")
    parser.add_argument("--clean", action="store_true", help="only take away what an earlier run left")
    parser.add_argument("-k", dest="some", default="", help="only the stories whose names match, as of pytest")
    parser.add_argument("--shell", metavar="NAME", help="only open a shell on one of the machines")
    asked = parser.parse_args()
    for ending in (signal.SIGINT, signal.SIGTERM):
        # also where it was started in the background, with SIGINT ignored
        signal.signal(ending, _as_keyboard_interrupt)
    try:
        bed = Bed(_say)
        if asked.shell:
            bed.machine(asked.shell).open_shell()
        if asked.clean:
            _take_away(bed)
            return
        has_passed = tell_all(bed, asked.some)
        if has_passed and not asked.keep:
            _take_away(bed)
    except BedError as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit("Interrupted. Run it again to go on, or take all away: make vagrant-clean") from None
    if not has_passed:
        print(
            "The machines stay. Look at one: .venv/bin/python vagrant/run.py --shell solo. "
            "Take all away: make vagrant-clean"
        )
    raise SystemExit(not has_passed)


def tell_all(bed: Bed, some: str) -> bool:
    """Tell the stories, each on its machines, and return whether all have passed.

    Raises:
        BedError: there are no machines for them.

    """
    RESULTS.mkdir(exist_ok=True)
    began = time.monotonic()
    bed.start()
    state, checkout = _digest(*OF_MACHINES), _digest(*OF_STORIES)
    teller = Teller(bed, state, checkout, _read_passed(checkout))
    # no:unraisableexception: an interruption leaves processes unwaited for, which are no finding
    left_out = ("terminal", "cacheprovider", "unraisableexception")
    options = [*(f"-pno:{name}" for name in left_out), "--rootdir", str(HERE), *(["-k", some] if some else [])]
    code = pytest.main([*options, str(HERE / "scenarios")], plugins=[teller, Fixtures(bed, state)])
    told = list(teller.told.values())
    _show(told, time.monotonic() - began)
    _write_junit(told)
    if teller.error:
        raise teller.error
    if code == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    return bool(told) and all(story.outcome.startswith("passed") for story in told)


def _take_away(bed: Bed) -> None:
    bed.stop()
    PASSED.unlink(missing_ok=True)
    _say("all that was made is gone")


def _show(told: list[Told], seconds: float) -> None:
    print(f"\n{'result':14}  {'s':>5}  story")
    for story in told:
        print(f"{story.outcome:14}  {story.seconds:5.0f}  {story.title}")
    print(f"{len(told)} stories in {seconds:.0f} s; JUnit: {JUNIT.relative_to(ROOT)}")


def _write_junit(told: list[Told]) -> None:
    """Write what a CI reads; pytest's own document would lack what passed before an interruption."""
    suite = ET.Element("testsuite", name="thinpoolmgr-vagrant", tests=str(len(told)))
    suite.set("failures", str(sum(story.outcome == "FAILED" for story in told)))
    suite.set("skipped", str(sum(story.outcome == "not told" for story in told)))
    for story in told:
        case = ET.SubElement(suite, "testcase", name=story.title, time=f"{story.seconds:.1f}")
        if story.outcome == "FAILED":
            wrong = NOT_XML.sub("?", story.wrong)
            ET.SubElement(case, "failure", message=wrong.splitlines()[-1]).text = wrong
        elif story.outcome == "not told":
            ET.SubElement(case, "skipped", message="not told")
    ET.ElementTree(suite).write(JUNIT, encoding="utf-8", xml_declaration=True)


def _digest(*parts: str) -> str:
    """Return what tells these files of the checkout from those of another one."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", *parts],
        capture_output=True,
        check=True,
        cwd=ROOT,
    ).stdout
    digest = hashlib.sha256()
    for name in sorted(listed.split(b"\0")):
        path = ROOT / name.decode()
        if path.is_file():
            digest.update(name + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _read_passed(checkout: str) -> dict[str, float]:
    try:
        before = json.loads(PASSED.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(before["passed"]) if before["checkout"] == checkout else {}


def _as_keyboard_interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


if __name__ == "__main__":
    main()
