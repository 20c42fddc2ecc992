"""JSON Schemas of all documents, made from their structs: `docs/schemas` is written from here."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any

import msgspec
from msgspec import Struct

from thinpoolmgr.core.doctor import DoctorDocument
from thinpoolmgr.core.documents import (
    ApplyDocument,
    CodesDocument,
    ConfigCheckDocument,
    ConfigShowDocument,
    ExplainDocument,
    FailureDocument,
    PlanDocument,
    StatusDocument,
)
from thinpoolmgr.core.history import HistoryDocument
from thinpoolmgr.core.inventory import InitDocument
from thinpoolmgr.core.usage import UsageDocument
from thinpoolmgr.core.who import WhoDocument

DOCUMENTS: dict[str, type[Struct]] = {
    "apply": ApplyDocument,
    "config-check": ConfigCheckDocument,
    "config-show": ConfigShowDocument,
    "doctor": DoctorDocument,
    "codes": CodesDocument,
    "error": FailureDocument,
    "explain": ExplainDocument,
    "history": HistoryDocument,
    "init": InitDocument,
    "plan": PlanDocument,
    "status": StatusDocument,
    "usage": UsageDocument,
    "who": WhoDocument,
}
"""Every kind of document: the name of its schema's file, and its struct."""
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_of(name: str) -> dict[str, Any]:
    """Return the JSON Schema of the documents called `name`.

    Unknown fields are valid: later versions may add some. Fields that are sometimes left out are `UNSET` in the
    struct; all others are always there, whatever their default.
    """
    kind = DOCUMENTS[name]
    made = msgspec.json.schema(kind)
    for definition in made["$defs"].values():
        _require_all_that_is_written(definition)
        if "description" in definition:
            # msgspec leaves the indentation of a docstring in before 0.23.
            definition["description"] = cleandoc(definition["description"])
    whole = made["$defs"].pop(kind.__name__)
    whole["title"] = f"thinpoolmgr {name.replace('-', ' ')}"
    return {"$schema": _DIALECT, **whole, **({"$defs": made["$defs"]} if made["$defs"] else {})}


def _require_all_that_is_written(definition: dict[str, Any]) -> None:
    properties = definition.get("properties", {})
    # A default is what a reader of input assumes; in a document it is written like everything else.
    needed = {*definition.get("required", ()), *(key for key, value in properties.items() if "default" in value)}
    if properties:
        definition["required"] = [key for key in properties if key in needed]
    for value in properties.values():
        value.pop("default", None)
