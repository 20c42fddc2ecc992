"""What `doctor` says: every finding with its evidence, the way out, and the very plan that the way out would be.

Nothing here mends anything: a fix is what `requests.plan_for` plans for the command that the resolution names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from thinpoolmgr.core.documents import SCHEMA, StepDocument, step_document
from thinpoolmgr.core.extension import next_step
from thinpoolmgr.core.findings import (
    FINDINGS,
    SEVERITIES,
    HostFacts,
    Journal,
    Severity,
    Sighting,
    journal_sightings,
    sight,
    sightings_of_host,
    tool_sightings,
    watch_sightings,
)
from thinpoolmgr.core.journal import remember
from thinpoolmgr.core.lifecycle import RUNNING_STATES, PoolView, view_pool
from thinpoolmgr.core.plan import Memory, Plan, Refusal, Request, command_line
from thinpoolmgr.core.requests import UnknownPoolError, desired_for, plan_for
from thinpoolmgr.core.steps import Step, step_name, target
from thinpoolmgr.units import percent_of

if TYPE_CHECKING:
    from thinpoolmgr.core.desired import DesiredState
    from thinpoolmgr.core.model import Snapshot
    from thinpoolmgr.core.requests import Predict

_BLOCKS = ("JOURNAL_DAMAGED", "NEEDS_PERSON")
_RESUME = "RUN_INTERRUPTED"


class Diagnosis(Struct, frozen=True):
    """One finding of the doctor's."""

    code: str
    severity: Severity
    target: str
    summary: str
    evidence: str
    resolution: str
    fix: tuple[Step, ...] | None = None
    """The steps that the command of the resolution would carry out; None when there are none, or it is refused."""


class DiagnosisDocument(Struct, frozen=True):
    """One finding of the doctor's as others read it."""

    code: str
    severity: Severity
    target: str
    summary: str
    evidence: str
    resolution: str
    fix: tuple[StepDocument, ...] | None


class DoctorDocument(Struct, frozen=True):
    """`doctor --json`."""

    schema: Literal[1]
    findings: tuple[DiagnosisDocument, ...]


def doctor_document(found: tuple[Diagnosis, ...]) -> DoctorDocument:
    """Return what was found as others read it."""
    return DoctorDocument(SCHEMA, tuple(_document(diagnosis) for diagnosis in found))


def _document(found: Diagnosis) -> DiagnosisDocument:
    fix = tuple(step_document(step) for step in found.fix) if found.fix else None
    return DiagnosisDocument(
        found.code, found.severity, found.target, found.summary, found.evidence, found.resolution, fix
    )


def diagnose(
    desired: DesiredState,
    snapshot: Snapshot | None,
    journal: Journal,
    facts: HostFacts,
    predict: Predict | None = None,
) -> tuple[Diagnosis, ...]:
    """Return all findings, the worst first, otherwise in the order of the configuration.

    Args:
        desired: the configuration.
        snapshot: the host; None when it cannot be looked at without one of the tools that `facts` names as missing.
        journal: as it could be read.
        facts: what no snapshot shows.
        predict: as for `plan_for`.

    """
    sightings = [*journal_sightings(journal, snapshot), *tool_sightings(facts, journal)]
    if snapshot is None:
        return _sorted([_Clinic.tell(sighting) for sighting in sightings])
    memory = remember(journal.runs(), snapshot.boot_id)
    sightings += sightings_of_host(desired, snapshot, memory)
    is_blocked = any(sighting.code in _BLOCKS for sighting in sightings)
    clinic = _Clinic(desired, snapshot, memory, predict, is_blocked=is_blocked)
    for pool in desired.pools:
        view = view_pool(pool, snapshot)
        sightings += [*clinic.judge_room(view), *watch_sightings(facts, view)]
    found = [clinic.diagnose(sighting) for sighting in sightings]
    return _sorted([*found, *clinic.judge_rest(found)])


def _sorted(found: list[Diagnosis]) -> tuple[Diagnosis, ...]:
    return tuple(sorted(found, key=lambda diagnosis: SEVERITIES.index(diagnosis.severity)))


class _Clinic:
    """Plans what would mend a sighting, each request once."""

    def __init__(
        self,
        desired: DesiredState,
        snapshot: Snapshot,
        memory: Memory,
        predict: Predict | None,
        *,
        is_blocked: bool,
    ) -> None:
        self._desired = desired
        self._snapshot = snapshot
        self._memory = memory
        self._predict = predict
        self._is_blocked = is_blocked
        self._plans: dict[Request, Plan] = {}

    def plan(self, request: Request) -> Plan:
        if request not in self._plans:
            try:
                desired = desired_for(request, self._desired)
                self._plans[request] = plan_for(request, desired, self._snapshot, self._memory, self._predict)
            except UnknownPoolError:
                way = f"Put pools.{request.pool} back into the configuration, or move the journal file away."
                summary = f"the configuration has no pool {request.pool} any more"
                self._plans[request] = Plan(refusals=(Refusal("USAGE", request.pool, summary, "", way),))
        return self._plans[request]

    def diagnose(self, sighting: Sighting) -> Diagnosis:
        kind = FINDINGS[sighting.code]
        limit = dict(sighting.words).get("limit", "")
        if limit:
            return self.tell(sighting, limit)
        if self._is_blocked or not sighting.requests:
            first = command_line(sighting.requests[0]) if sighting.requests else ""
            return self.tell(sighting, sighting.say(kind.way_out, command=first))
        for request in sighting.requests:
            plan = self.plan(request)
            if plan.steps and not plan.refusals:
                way = sighting.say(kind.way_out, command=command_line(request))
                return self.tell(sighting, way, plan.steps)
        request = sighting.requests[-1]
        command = "thinpoolmgr resume" if sighting.code == _RESUME else command_line(request)
        return self.tell(sighting, self._without_fix(sighting, command, self.plan(request).refusals))

    def _without_fix(self, sighting: Sighting, command: str, refusals: tuple[Refusal, ...]) -> str:
        kind = FINDINGS[sighting.code]
        if refusals and (not kind.otherwise or refusals[0].code != "DOES_NOT_FIT"):
            return f"{command} is refused now: {refusals[0].summary}. {refusals[0].resolution}"
        request = sighting.requests[-1]
        sizes = (("--data", request.add_data), ("--metadata", request.add_metadata))
        asked = " ".join(f"{option} {size}" for option, size in sizes if size)
        return sighting.say(kind.otherwise or kind.way_out, command=command, asked=asked)

    @staticmethod
    def tell(sighting: Sighting, resolution: str = "", fix: tuple[Step, ...] = ()) -> Diagnosis:
        found = sighting.finding()
        way = resolution or sighting.say(FINDINGS[sighting.code].way_out, command="")
        return Diagnosis(found.code, found.severity, found.target, found.summary, sighting.evidence, way, fix or None)

    def judge_room(self, view: PoolView) -> list[Sighting]:
        """Say before it is needed that the next extension would not fit; a pool that is nearly empty has time.

        The usual 95 % of one disk never leave room for a step of 20 %: said of each new pool, nobody would read it.
        """
        status, limits = view.status, view.pool.config.extend
        if status is None or view.state not in RUNNING_STATES or limits.monitor == "none":
            return []
        data = percent_of(status.used_data_blocks, status.total_data_blocks)
        request = next_step(view)
        if 2 * data < limits.data_threshold_percent or request is None:
            return []
        refusal = next((r for r in self.plan(request).refusals if r.code == "DOES_NOT_FIT"), None)
        if refusal is None:
            return []
        evidence = f"data is {data} % full, and a step is {request.add_data}: {refusal.details}"
        words = {"pool": view.pool.name, "path": view.pool.path}
        return [sight("GROUP_NEARLY_FULL", view.pool.path, evidence, **words)]

    def judge_rest(self, found: list[Diagnosis]) -> list[Diagnosis]:
        """Return what `apply` would do or refuse beyond all that was found."""
        if self._is_blocked:
            return []
        plan = self.plan(Request("apply"))
        known = {(step_name(step), target(step)) for diagnosis in found for step in diagnosis.fix or ()}
        codes = {diagnosis.code for diagnosis in found}
        new = [refusal for refusal in plan.refusals if refusal.code not in codes]
        rest = [
            self.tell(
                sight(
                    "CONFIG_REFUSED",
                    refusal.target,
                    " ".join(part for part in (f"[{refusal.code}]", refusal.details) if part),
                    what=refusal.summary,
                    resolution=refusal.resolution,
                )
            )
            for refusal in new
        ]
        steps = [step for step in plan.steps if (step_name(step), target(step)) not in known]
        if steps and not plan.refusals:
            evidence = "; ".join(f"{step_name(step).replace('-', ' ')} {target(step)}: {step.reason}" for step in steps)
            rest.append(self.diagnose(sight("CONFIG_NOT_APPLIED", steps[0].pool, evidence, Request("apply"))))
        return rest
