"""The built-in tools as agents see them: name, description, arguments. What they do is in builtins.py.

Every client pays for these texts with each list of tools, so they are short: docs/tools.md has the figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from comptroller_audit.vocabulary import Effect, Json, JsonObject
from comptroller_tools.validation import Validator, compile_schema

__all__ = ["BEGIN", "BUILT_INS", "FINISH", "HAND_OFF", "STATUS", "UNIT_PATTERN", "BuiltIn"]

BEGIN, STATUS, FINISH, HAND_OFF = "task_begin", "task_status", "task_finish", "hand_off"
UNIT_PATTERN = r"^[a-z][a-z0-9_]{0,63}:\S{1,200}$"


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """One built-in tool. `schema` is what is advertised and what arguments are checked against."""

    name: str
    description: str
    schema: JsonObject
    effect: Effect
    arguments: Validator


def _text(most: int, description: str = "") -> Json:
    schema: JsonObject = {"type": "string", "minLength": 1, "maxLength": most}
    return {**schema, "description": description} if description else schema


def _built_in(
    name: str, effect: Effect, description: str, required: list[Json], **properties: Json
) -> BuiltIn:
    schema: JsonObject = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        schema["required"] = required
    return BuiltIn(name, description, schema, effect, compile_schema(schema))


_ALL = (
    _built_in(
        BEGIN,
        Effect.CREATE,
        "Begin a task: one piece of work with a budget of its own. Calls after it belong to it. End it with "
        "task_finish or hand_off before you begin the next.",
        ["request"],
        request=_text(4000, "What you were asked to do."),
        plan=_text(4000),
        unit={"type": "string", "pattern": UNIT_PATTERN, "description": "The record it is about, KIND:ID."},
    ),
    _built_in(STATUS, Effect.READ, "Your task: what is left of its budget, and what waits for a person.", []),
    _built_in(
        FINISH,
        Effect.UPDATE,
        "End your task. A claim of success is checked against the records.",
        ["claim"],
        claim={"type": "string", "enum": ["succeeded", "failed", "abandoned"]},
        summary=_text(2000),
    ),
    _built_in(
        HAND_OFF,
        Effect.UPDATE,
        "End your task by giving it to a person, when you cannot or may not go on.",
        ["reason"],
        reason=_text(2000),
        tried=_text(4000, "What you have tried."),
        need=_text(2000, "What the person should do or decide."),
    ),
)
BUILT_INS: Mapping[str, BuiltIn] = MappingProxyType({tool.name: tool for tool in _ALL})
