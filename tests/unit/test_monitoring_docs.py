"""The alert rules and the dashboard ask only for what the document has; `make promtool` has Prometheus judge them."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

import pytest
from cli_support import CHECKOUT
from measured import full_look

from thinpoolmgr.cli.main import _COMMANDS
from thinpoolmgr.core.history import RunOutcome
from thinpoolmgr.core.lifecycle import PoolState
from thinpoolmgr.core.measures import NAMES, Look, measures

ALERTS = (CHECKOUT / "docs/alerts.yml").read_text("utf-8")
DASHBOARD: dict[str, Any] = json.loads((CHECKOUT / "docs/grafana-dashboard.json").read_text("utf-8"))
NAME = re.compile(r"\bthinpoolmgr_\w+")
SELECTOR = re.compile(r"(thinpoolmgr_\w+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)(=~|!=|=)"([^"]*)"')
RULES = re.split(r"^ +- alert: ", ALERTS, flags=re.MULTILINE)[1:]
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
BY_PROMETHEUS = {"instance", "job"}


def expressions() -> list[str]:
    """Return all that is asked of Prometheus, by the rules and by the dashboard."""
    rules = [rule.partition("expr:")[2].partition("\n        for:")[0] for rule in RULES]
    panels = [target["expr"] for panel in PANELS for target in panel["targets"]]
    queries = [each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    return [*rules, *panels, *queries, *(each["expr"] for each in DASHBOARD["annotations"]["list"])]


def labels_had() -> dict[str, dict[str, set[str]]]:
    """Return for each name of the document its labels and their values."""
    had: dict[str, dict[str, set[str]]] = {name: {} for name in NAMES}
    for look in (full_look(used_data_blocks=19000), Look("1", 0.0, 0.0, "CONFIG")):
        for measure in measures(look):
            for _, labels in measure.samples:
                for label, value in labels.items():
                    had[measure.name].setdefault(label, set()).add(value)
    return had


def test_only_names_are_used_that_there_are() -> None:
    used = {name for text in expressions() for name in NAME.findall(text)}
    assert used - set(NAMES) == set()
    # And what is measured for people to see is shown to them.
    unseen = set(NAMES) - {
        name for panel in PANELS for target in panel["targets"] for name in NAME.findall(target["expr"])
    }
    assert unseen == {
        "thinpoolmgr_build_info",
        "thinpoolmgr_last_run_duration_seconds",
        "thinpoolmgr_last_run_info",
        "thinpoolmgr_monitor_config_last_reload_successful",
        "thinpoolmgr_monitor_last_look_timestamp_seconds",
        "thinpoolmgr_monitor_report_timestamp_seconds",
        "thinpoolmgr_monitor_start_time_seconds",
        "thinpoolmgr_observation_duration_seconds",
        "thinpoolmgr_observation_error_info",
        "thinpoolmgr_pool_last_extension_success",
    }


def test_only_labels_and_values_are_asked_for_that_there_are() -> None:
    had = labels_had()
    # Of these each has all its values in the document, whatever the host.
    closed = {"state", "outcome", "part", "result", "severity"}
    wrong = []
    for text in expressions():
        for name, matchers in SELECTOR.findall(text):
            for label, _, values in MATCHER.findall(matchers):
                known = had[name].get(label, set())
                severities = {"info", "warning", "error"} if label == "severity" else set()
                unknown = set(values.split("|")) - known - severities if label in closed else set()
                if label not in BY_PROMETHEUS and (not known or unknown):
                    wrong.append((name, label, unknown))
    assert wrong == []


def test_every_bad_state_of_a_pool_raises_an_alert() -> None:
    asked = {state for values in re.findall(r'pool_state\{state=~"([^"]*)"', ALERTS) for state in values.split("|")}
    # A pool that is tight is one for the threshold, which needs its time.
    assert set(PoolState) - asked == {"healthy", "tight"}
    outcomes = re.findall(r'last_run_outcome\{outcome=~"([^"]*)"', ALERTS)[0].split("|")
    assert set(get_args(RunOutcome)) - set(outcomes) == {"done", "running"}


@pytest.mark.parametrize("rule", RULES, ids=[rule.split("\n")[0] for rule in RULES])
def test_every_rule_waits_knows_how_bad_it_is_and_names_a_command(rule: str) -> None:
    assert re.search(r"^        for: \d+m$", rule, re.MULTILINE)
    assert re.search(r"^          severity: (critical|warning)$", rule, re.MULTILINE)
    summary, description = re.findall(r'^          (?:summary|description): "(.*)"$', rule, re.MULTILINE)
    assert summary.startswith("{{ $labels.instance }}: ")
    commands = re.findall(r"thinpoolmgr ([a-z][a-z-]*)", description)
    assert commands
    assert set(commands) <= set(_COMMANDS)
    used = {name for text in (summary, description) for name in re.findall(r"\$labels\.(\w+)", text)}
    had = labels_had()
    names = NAME.findall(rule.partition("expr:")[2].partition("for:")[0])
    assert used - BY_PROMETHEUS <= set().union(*(set(had[name]) for name in names))


def test_the_panels_have_a_place_of_their_own() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in PANELS}) == len({panel["title"] for panel in PANELS}) == len(PANELS)
