"""Plays a scenario on a stage, and reduces what the host looks like to what must be the same on every host."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from words import Act, Config, Run, Scenario

from thinpoolmgr.approval import Approval
from thinpoolmgr.core.desired import DesiredEngine, DesiredPool, DesiredState, EngineConfig, PoolConfig
from thinpoolmgr.core.journal import unfinished_runs
from thinpoolmgr.core.plan import Command, Request
from thinpoolmgr.core.requests import desired_for, plan_for
from thinpoolmgr.core.steps import step_name
from thinpoolmgr.cycle import RunError, carry_out
from thinpoolmgr.errors import ThinpoolmgrError
from thinpoolmgr.sim.steps import apply_step

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Snapshot
    from thinpoolmgr.core.plan import Memory, Plan, StepResult
    from thinpoolmgr.core.steps import Step
    from thinpoolmgr.cycle import Host
    from thinpoolmgr.host.store import Store

ALL = Approval(yes=True, allowed=frozenset({"outage", "destroys"}))
Look = dict[str, Any]


class KilledError(BaseException):
    """The process ends here."""


class Stage(Protocol):
    """A host that scenarios are played on."""

    def paths(self) -> tuple[str, ...]:
        """Device nodes of the disks, as they are now."""
        ...

    def host(self, desired: DesiredState) -> Host:
        """The host for one run."""
        ...

    def act(self, act: Act, pool: DesiredPool) -> None:
        """Do what somebody does."""
        ...


class Moment(msgspec.Struct, frozen=True):
    """What a line came to, and how the host looks after it."""

    line: str
    outcome: str
    steps: tuple[str, ...]
    look: Look


class Quiet:
    """A reporter that nobody listens to."""

    def show_plan(self, plan: Plan) -> None:
        pass

    def begin_step(self, step: Step, total: int) -> None:
        pass

    def end_step(self, step: Step, result: StepResult) -> None:
        pass

    def stopping(self, signal_name: str) -> None:
        pass

    def confirm(self) -> bool | None:
        return None


class Mortal:
    """A host that kills the process before or after a step."""

    def __init__(self, host: Host, kill: str) -> None:
        self._host = host
        self._when, _, self._step = kill.partition(" ")

    @property
    def recent_commands(self) -> tuple[str, ...]:
        return self._host.recent_commands

    def observe(self) -> Snapshot:
        return self._host.observe()

    def perform(self, step: Step) -> None:
        if step_name(step) == self._step and self._when == "before":
            raise KilledError
        self._host.perform(step)
        if step_name(step) == self._step:
            raise KilledError


def play(scenario: Scenario, stage: Stage, store: Store) -> list[Moment]:
    """Return what each line of `scenario` comes to on `stage`."""
    moments, config = [], dict(scenario.config)
    for line in scenario.lines:
        outcome, steps = "", ()  # type: tuple[str, tuple[str, ...]]
        if isinstance(line, Config):
            config |= line.values
        desired = desired_of(config, stage, docker=scenario.docker)
        if isinstance(line, Act):
            stage.act(line, desired.pools[0])
        elif isinstance(line, Run):
            outcome, steps = run(line, desired, stage, store)
        desired = desired_of(config, stage, docker=scenario.docker)
        look = reduce(stage.host(desired).observe(), stage.paths())
        moments.append(Moment(str(line), outcome, steps, look))
    return moments


def desired_of(config: Look, stage: Stage, *, docker: bool) -> DesiredState:
    """Return the configuration with the disks' present names; the disks are given by their numbers, or are all."""
    paths = stage.paths()
    numbers = {"devices": range(len(paths)), "spare_devices": (), **config}
    named = {key: [paths[number] for number in numbers[key]] for key in ("devices", "spare_devices")}
    engines = (DesiredEngine("docker", EngineConfig("docker")),) if docker else ()
    return DesiredState((DesiredPool("docker", msgspec.convert({**config, **named}, PoolConfig)),), engines)


def request_of(words: str, stage: Stage, store: Store) -> Request | None:
    """Return what `words`, a command with its options, ask for; None when there is nothing to resume."""
    command, *options = words.split()
    if command == "resume":
        begun = [run.began.request for run in unfinished_runs([run for _, run in store.read_runs()])]
        return begun[-1] if begun else None
    given = dict(zip(options, [*options[1:], ""], strict=False))
    disk = given.get("--add-device")
    return Request(
        msgspec.convert(command, Command),
        "" if command in {"apply", "clean"} else "docker",
        keep_devices="--keep-devices" in given,
        purge="--purge" in given,
        add_data=given.get("--data", ""),
        add_metadata=given.get("--metadata", ""),
        add_devices=(stage.paths()[int(disk)],) if disk else (),
    )


def run(line: Run, configured: DesiredState, stage: Stage, store: Store) -> tuple[str, tuple[str, ...]]:
    """Return what a run comes to, and its steps."""
    request = request_of(line.command, stage, store)
    if request is None:
        return "nothing", ()
    desired = desired_for(request, configured)
    host = stage.host(desired)

    def planner(snapshot: Snapshot, memory: Memory) -> Plan:
        return plan_for(request, desired, snapshot, memory, apply_step)

    try:
        mortal = Mortal(host, line.kill) if line.kill else host
        result = carry_out(request.command, planner, mortal, store, Quiet(), ALL)
    except KilledError:
        return "killed", ()
    except RunError as error:
        return f"{error.cause.code}: {error.cause.summary} {error.cause.details}", tuple(s.do for s in error.steps)
    except ThinpoolmgrError as error:
        return error.code, ()
    return result.outcome, tuple(step.do for step in result.steps)


def reduce(snapshot: Snapshot, paths: tuple[str, ...]) -> Look:
    """Return `snapshot` without what no two hosts share.

    Left out or given other names: uuids, device numbers and nodes, kernel names, what udev says of a disk, disk
    sequence numbers, how often LVM wrote its metadata, used blocks of pool metadata, the order of lists, the boot, all
    times, and the words in which a file is said to be broken. Which of several disks an LV went to is LVM's choice.
    """
    look: Look = msgspec.to_builtins(snapshot)
    names = {path: f"disk{n}" for n, path in enumerate(paths)}
    names |= {d["devno"]: names[d["path"]] for d in look["disks"] if d["path"] in names}
    names |= {d["devno"]: d["name"] for d in look["dm_devices"]}
    names |= {f"dm-{d['devno'].partition(':')[2]}": d["name"] for d in look["dm_devices"]}
    suspended = {d["name"] for d in look["dm_devices"] if d["suspended"]}
    many = {d for group in snapshot.groups if len(group.pvs) > 1 for d in (pv.path for pv in group.pvs)}
    return {
        "configured": sorted(_configured(d, names) for d in look["configured_devices"]),
        "disks": _sorted(_disk(d, names, free=d["path"] not in many) for d in look["disks"]),
        "groups": _sorted(_group(g, names, suspended) for g in look["groups"]),
        "orphans": _sorted(_keep(pv | {"path": names.get(pv["path"], "?")}, "uuid") for pv in look["orphan_pvs"]),
        "trouble": look["lvm_trouble"],
        "devices": _sorted(_device(d, names) for d in look["dm_devices"]),
        "names": look["dev_names"],
        "engines": [_engine(engine) for engine in look["engines"]],
        "profiles": _sorted(look["lvm_profiles"]),
    }


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Return where two looks differ, and how."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = dict.fromkeys((*one, *other))
        return [d for key in keys for d in differences(one.get(key), other.get(key), f"{path}.{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for place, (a, b) in pairs for d in differences(a, b, f"{path}[{place}]")]
    return [] if one == other else [f"{path}: {one!r}, {other!r}"]


def _keep(value: Look, *without: str) -> Look:
    return {key: item for key, item in value.items() if key not in without}


def _sorted(values: Any) -> list[Look]:
    return sorted(values, key=lambda value: str(value.get("name", value.get("path"))))


def _configured(device: Look, names: dict[str, str]) -> tuple[str, str]:
    return names[device["configured_path"]], device["problem"]


def _engine(engine: Look) -> Look:
    kept = (
        "name",
        "installed",
        "version",
        "running",
        "driver",
        "data_root",
        "config_path",
        "config_text",
        "state",
        "set_aside",
    )
    version = engine["version"].partition("+")[0]
    state = engine["state"] and _keep(engine["state"], "written_at")
    changed = {"broken": bool(engine["config_problem"]), "version": version, "state": state}
    return {key: engine[key] for key in kept} | changed


_SAID_BY_UDEV = ("serial", "wwn", "model", "transport", "rotational", "id_path", "links")


def _disk(disk: Look, names: dict[str, str], *, free: bool) -> Look:
    rest = _keep(disk, "devno", "diskseq", "kind", "mounts", "holders", *_SAID_BY_UDEV)
    rest |= {"path": names[disk["path"]], "mounts": len(disk["mounts"])}
    if not free:
        return _keep(rest, "opened_exclusively")
    return rest | {"holders": sorted(names.get(name, name) for name in disk["holders"])}


def _group(group: Look, names: dict[str, str], suspended: set[str]) -> Look:
    alone = len(group["pvs"]) == 1
    pvs = [
        _keep(pv | {"path": names.get(pv["path"], pv["path"])}, "uuid", *([] if alone else ["free_bytes"]))
        for pv in group["pvs"]
    ]
    # whether LVM can tell the state of a suspended device depends on what it hangs in
    seen = [lv | {"attr": lv["attr"][:4]} if lv["dm_name"] in suspended else lv for lv in group["lvs"]]
    lvs = [_volume(lv, names, alone=alone) for lv in seen]
    return _keep(group, "uuid", "seqno") | {"pvs": _sorted(pvs), "lvs": _sorted(lvs)}


def _volume(lv: Look, names: dict[str, str], *, alone: bool) -> Look:
    if not alone:
        # which volumes are partial depends on where they went
        kept = _keep(lv, "uuid", "made_at", "monitored", "devices", "health")
        return kept | {"attr": lv["attr"][:8] + lv["attr"][9:]}
    # dmeventd takes up what LVM resumes, whenever it happens to run
    return _keep(lv, "uuid", "made_at", "monitored") | {
        "devices": [re.sub(r"^/dev/\w+", lambda m: names[m[0]], d) for d in lv["devices"]]
    }


def _device(device: Look, names: dict[str, str]) -> Look:
    below = [names.get(number, number) for number in device["depends_on"]]
    on_disks = all(name.startswith("disk") for name in below)
    status = device["pool_status"] and _keep(device["pool_status"], "used_metadata_blocks")
    uuid = re.sub(r"^LVM-\w{64}", "LVM", device["uuid"])
    table = " ".join(names.get(word, word) for word in device["table"].split())
    return _keep(device, "devno") | {
        "depends_on": "disks" if on_disks else below,
        "pool_status": status,
        "uuid": uuid,
        "table": table,
    }
