"""The command that starts a first run of the app that is served."""

from __future__ import annotations

import inspect
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from aura.app import Aura
from aura.engine.definition import Workflow

SOME = "aura run app:app workflow '\"text\"'"
"""What is said when the app's module or workflows are not known here."""

_DEEPEST = 3
_FORMATS: Mapping[str, str] = {
    "date-time": "2026-05-01T12:00:00Z", "date": "2026-05-01", "time": "12:00:00Z",
    "duration": "PT1H", "uuid": "00000000-0000-4000-8000-000000000000",
}  # fmt: skip
_VALUES: Mapping[str, Any] = {
    "string": "text", "integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {},
}  # fmt: skip


def first_command(app: Aura, allowed: Sequence[str] = ()) -> str:
    """`aura run MODULE:APP WORKFLOW`, with arguments for a workflow of the app that may be seen
    (`allowed` are the only ones, if there are any), so that it can be typed as it stands."""
    for workflow in app.registry:
        place = _place(app, workflow)
        if place and (not allowed or workflow.name in allowed):
            given = _arguments(workflow)
            said = ["aura", "run", place, workflow.name]
            return shlex.join([*said, "--input", json.dumps(given)] if given else said)
    return SOME


def _place(app: Aura, workflow: Workflow[..., Any]) -> str:
    """MODULE:APP, if the workflow stands in the same module as the app."""
    module = sys.modules.get(workflow.function.__module__)
    if module is None or module.__name__ == "__main__":
        return ""
    names = (name for name, value in vars(module).items() if value is app)
    return next((f"{module.__name__}:{name}" for name in names), "")


def _arguments(workflow: Workflow[..., Any]) -> dict[str, Any]:
    """A value for each argument that has to be given."""
    parameters = inspect.signature(workflow.function, eval_str=True).parameters.values()
    named = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        one.name: _example(_schema(one.annotation))
        for one in parameters
        if one.default is one.empty and one.kind not in named
    }


def _schema(annotation: Any) -> dict[str, Any]:
    if annotation is inspect.Parameter.empty:
        return {}
    return TypeAdapter(annotation).json_schema()


def _example(schema: Mapping[str, Any], depth: int = 0, known: Mapping[str, Any] = {}) -> Any:
    known = schema.get("$defs", known)
    if "$ref" in schema:
        schema = known.get(str(schema["$ref"]).rpartition("/")[2], {})
    if depth > _DEEPEST:
        return None
    if "default" in schema or schema.get("examples"):
        return schema["default"] if "default" in schema else schema["examples"][0]
    if schema.get("enum") or "const" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    if schema.get("anyOf"):
        return _example(schema["anyOf"][0], depth + 1, known)
    if schema.get("type") == "object":
        wanted = schema.get("required", ())
        parts = schema.get("properties", {})
        return {name: _example(parts.get(name, {}), depth + 1, known) for name in wanted}
    return _FORMATS.get(schema.get("format", "")) or _VALUES.get(str(schema.get("type", "")))
