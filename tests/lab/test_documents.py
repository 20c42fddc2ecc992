"""The JSON documents of a real host fit the schemas in docs/schemas."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
from docker_lab import ENGINE
from lab_tool import Answer, Tool

from thinpoolmgr.lab.loop import LoopDisk

MakeDisk = Callable[..., LoopDisk]
SCHEMAS = Path(__file__).parents[2] / "docs/schemas"


def fits(name: str, answer: Answer, code: int = 0) -> None:
    assert answer.code == code, (answer.code, answer.out, answer.err)
    schema = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(answer.document)


def test_the_documents_of_a_pools_whole_life_fit_their_schemas(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path)
    fits("config-check", tool("config", "check", "--json"))
    fits("config-show", tool("config", "show", "--origin", "--json"))
    fits("status", tool("status", "--json"))
    fits("plan", tool("plan", "--json"), code=2)
    fits("apply", tool("apply", "--json"), code=3)
    fits("apply", tool("apply", "--yes", "--json"))
    fits("plan", tool("plan", "--json"))
    fits("status", tool("status", "--json"))
    fits("apply", tool("deactivate", "docker", "--yes", "--json"))
    fits("status", tool("status", "--json"))
    fits("apply", tool("activate", "docker", "--yes", "--json"))
    fits("apply", tool("destroy", "docker", "--yes", "--json"), code=3)
    fits("apply", tool("destroy", "docker", "--yes", "--allow", "destroy", "--json"))


def test_the_status_of_an_installed_docker_fits_its_schema(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path, engine=ENGINE)
    answer = tool("status", "--json")
    fits("status", answer)
    assert answer.document["engines"][0]["version"].startswith("20.10")
    fits("plan", tool("plan", "--json"), code=2)


def test_the_documents_of_refusals_and_errors_fit_their_schemas(tool: Tool, loop_disks: MakeDisk) -> None:
    tool.configure(loop_disks().path, "/dev/nowhere")
    fits("plan", tool("plan", "--json"), code=3)
    fits("apply", tool("apply", "--yes", "--json"), code=3)
    fits("status", tool("status", "--json"))
    fits("error", tool("plan", "--json", "--nonsense"), code=64)
    tool.config.write_text("version = 2\n", "utf-8")
    fits("error", tool("status", "--json"), code=78)
