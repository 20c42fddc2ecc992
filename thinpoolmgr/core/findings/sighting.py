"""A finding before its fix is planned: what was seen, and what could be asked for to mend it."""

from __future__ import annotations

from msgspec import Struct

from thinpoolmgr.core.findings.table import FINDINGS, Severity
from thinpoolmgr.core.plan import Request


class Finding(Struct, frozen=True):
    """One statement about the host: stable code, how bad, about what, and one line for people."""

    code: str
    severity: Severity
    target: str
    summary: str


class Sighting(Struct, frozen=True):
    """One finding with its evidence; `requests` would mend it, the first that is not refused is taken."""

    code: str
    target: str
    evidence: str
    requests: tuple[Request, ...] = ()
    words: tuple[tuple[str, str], ...] = ()
    for_doctor: bool = False
    """`status` leaves it out, though it shows others with this code."""

    def say(self, template: str, **more: str) -> str:
        """Return `template` with its words filled in."""
        return template.format(target=self.target, **dict(self.words), **more)

    def finding(self) -> Finding:
        """Return it as `status` shows it."""
        kind = FINDINGS[self.code]
        return Finding(self.code, kind.severity, self.target, self.say(kind.summary))


def sight(code: str, target: str, evidence: str, *requests: Request, **words: str) -> Sighting:
    """Return a sighting; `words` are those that the table's texts ask for."""
    return Sighting(code, target, evidence, requests, tuple(words.items()))
