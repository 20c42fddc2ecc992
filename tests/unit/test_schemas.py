"""Every JSON document fits its schema in docs/schemas, and the schemas are the code's: RENEW_GOLDEN=1 writes them."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import support
from cli_support import CHECKOUT, ENGINE, EXT4, PLAIN, Cli, make_cli
from msgspec.structs import replace

from thinpoolmgr.core.schemas import DOCUMENTS, schema_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from thinpoolmgr.core.model import Snapshot

SCHEMAS = CHECKOUT / "docs/schemas"
ALLOW = ("--yes", "--allow", "outage,destroy")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return make_cli(tmp_path, monkeypatch, capsys)


def validate(name: str, document: Any) -> None:
    """Raise where `document` does not fit the schema that is shipped for `name`."""
    schema = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(document)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_shipped_schema_is_the_codes(name: str) -> None:
    path = SCHEMAS / f"{name}.json"
    text = json.dumps(schema_of(name), indent=2) + "\n"
    if os.environ.get("RENEW_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert path.read_text("utf-8") == text


def test_no_schema_is_shipped_for_a_document_that_is_gone() -> None:
    assert {path.stem for path in SCHEMAS.iterdir()} == set(DOCUMENTS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_schema_is_one_has_a_title_and_lets_fields_be_added(name: str) -> None:
    schema = schema_of(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert (schema["$schema"], schema["title"]) == (
        jsonschema.Draft202012Validator.META_SCHEMA["$id"],
        f"thinpoolmgr {name.replace('-', ' ')}",
    )
    objects = [schema, *(kind for kind in schema.get("$defs", {}).values() if kind.get("type") == "object")]
    assert [kind for kind in objects if kind.get("additionalProperties", True) is False] == []
    assert all(set(kind["required"]) <= set(kind["properties"]) for kind in objects)


SIMULATED: list[tuple[str, tuple[str, ...], int]] = [
    ("plan", ("plan",), 2),
    ("apply", ("apply", "--yes"), 0),
    ("apply", ("apply",), 3),
    ("apply", ("destroy", "docker", *ALLOW), 0),
    ("apply", ("activate", "docker", "--yes"), 3),
    ("apply", ("deactivate", "docker", "--yes"), 0),
    ("status", ("status",), 0),
    ("config-check", ("config", "check"), 0),
    ("config-show", ("config", "show"), 0),
    ("config-show", ("config", "show", "--origin"), 0),
    ("error", ("plan", "--nonsense"), 64),
    ("apply", ("destroy", "nonsense"), 64),
]


@pytest.mark.parametrize(("name", "args", "code"), SIMULATED)
def test_documents_of_a_simulated_host_fit_their_schema(cli: Cli, name: str, args: tuple[str, ...], code: int) -> None:
    cli.config.write_text(ENGINE)
    found, document = cli.json("--simulate", *args)
    assert found == code
    validate(name, document)


def wide_host() -> Snapshot:
    thin = support.with_thin_device(support.healthy(used_data_blocks=16000))
    running = replace(support.docker(running=True, configured=True), state=support.STALE, containers=("web",))
    return support.with_engine(thin, running)


HOSTS: list[tuple[str, tuple[str, ...], Callable[[], Snapshot]]] = [
    ("plan", ("plan",), lambda: support.snapshot(support.disk(mounts=("/srv",), signatures=(EXT4,)))),
    ("plan", ("plan",), wide_host),
    ("apply", ("destroy", "docker", *ALLOW), wide_host),
    ("apply", ("deactivate", "docker", *ALLOW), wide_host),
    ("apply", ("activate", "docker", "--yes"), lambda: support.deactivated(support.healthy())),
    ("status", ("status",), wide_host),
    ("status", ("status",), lambda: support.healthy(mode="Fail")),
    ("status", ("status",), lambda: support.deactivated(support.healthy())),
    ("status", ("status",), lambda: support.with_engine(support.snapshot(), support.docker(running=None))),
]


@pytest.mark.parametrize(("name", "args", "shot"), HOSTS)
def test_documents_of_other_hosts_fit_their_schema(
    cli: Cli, name: str, args: tuple[str, ...], shot: Callable[[], Snapshot]
) -> None:
    cli.set(shot(), ENGINE)
    _, document = cli.json(*args)
    validate(name, document)
    assert document.get("error") is None


def test_documents_of_runs_that_fail_fit_their_schema(cli: Cli) -> None:
    cli.host.faults["create-thin-pool"] = "before"
    code, document = cli.json("apply", "--yes")
    validate("apply", document)
    assert (code, document["steps"][1]["result"]) == (1, "failed")
    cli.set(support.snapshot())
    cli.host.on_perform = lambda _step: os.kill(os.getpid(), signal.SIGTERM)
    code, document = cli.json("apply", "--yes")
    validate("apply", document)
    assert (code, document["outcome"]) == (143, "interrupted")


@pytest.mark.parametrize("args", [["plan"], ["status"], ["config", "check"], ["config", "show"]])
def test_errors_of_the_configuration_fit_their_schema(cli: Cli, args: list[str]) -> None:
    cli.config.write_text(PLAIN + "data_size = 1\n")
    code, document = cli.json(*args)
    validate("error", document)
    assert (code, document["error"]["code"]) == (78, "CONFIG")


def test_what_does_not_fit_is_noticed(cli: Cli) -> None:
    _, document = cli.json("status")
    validate("status", {**document, "added_later": 1})
    del document["pools"][0]["because"]
    with pytest.raises(jsonschema.ValidationError, match="because"):
        validate("status", document)
