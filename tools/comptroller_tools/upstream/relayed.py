"""Resources, prompts and completions of an upstream as tools of its source: what they take, and what they return.

All resources of an upstream are read by one tool, `resource:*`, with the argument `uri`; each prompt is a tool of its
own, `prompt:NAME`, with the prompt's arguments. `completion:*` completes one argument of an accepted prompt or template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from comptroller_audit.canonical import canonical_bytes, digest
from comptroller_audit.vocabulary import JsonObject
from comptroller_tools.source import ToolDefinition
from comptroller_tools.upstream.addresses import Template, check_address
from comptroller_tools.upstream.cleaning import clean, hidden_in
from comptroller_tools.upstream.definitions import Kind, Unusable, Written, offered
from comptroller_tools.validation import screen_arguments

__all__ = [
    "COMPLETIONS",
    "RESOURCES",
    "PromptArgument",
    "argument_names",
    "check_relayed",
    "definitions_of",
    "entry_name",
]

RESOURCES = "resource:*"
"""The tool of a source that reads any accepted resource of it."""
COMPLETIONS = "completion:*"
"""The tool of a source that completes arguments."""
ARGUMENTS_MAX = 32
ARGUMENT_CHARS_MAX = 20_000

_TEXT: JsonObject = {"type": "string"}
_RESOURCE_INPUT: JsonObject = {
    "type": "object",
    "properties": {"uri": {"type": "string", "minLength": 1, "maxLength": 2_048}},
    "required": ["uri"],
    "additionalProperties": False,
}
_RESOURCE_OUTPUT: JsonObject = {
    "type": "object",
    "properties": {
        "uri": _TEXT,
        "mime_type": _TEXT,
        "text": _TEXT,
        "other": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["uri", "text"],
    "additionalProperties": False,
}
_PROMPT_OUTPUT: JsonObject = {
    "type": "object",
    "properties": {
        "description": _TEXT,
        "messages": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "role": {"enum": ["user", "assistant"]},
                    "text": _TEXT,
                    "kind": _TEXT,
                    "mime_type": _TEXT,
                    "withheld": {"type": "boolean"},
                    "apart": {"type": "boolean"},
                    "uri": _TEXT,
                    "data": _TEXT,
                    "blob": _TEXT,
                },
                "required": ["role"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["messages"],
    "additionalProperties": False,
}
_VALUE: JsonObject = {"type": "string", "maxLength": 1_000}
_COMPLETION_INPUT: JsonObject = {
    "type": "object",
    "properties": {
        "accepted": {"type": "string", "minLength": 1, "maxLength": 3_000},
        "argument": {"type": "string", "minLength": 1, "maxLength": 64},
        "value": _VALUE,
        "context": {"type": "object", "maxProperties": ARGUMENTS_MAX, "additionalProperties": _VALUE},
    },
    "required": ["accepted", "argument", "value"],
    "additionalProperties": False,
}
_COMPLETION_OUTPUT: JsonObject = {
    "type": "object",
    "properties": {
        "values": {"type": "array", "maxItems": 100, "items": _TEXT},
        "total": {"type": "integer", "minimum": 0},
        "has_more": {"type": "boolean"},
    },
    "required": ["values"],
    "additionalProperties": False,
}


class PromptArgument(NamedTuple):
    name: str
    description: str
    required: bool


def entry_name(pin: str, kind: Kind) -> str:
    """The source's tool by which a pin is used."""
    return RESOURCES if kind in (Kind.RESOURCE, Kind.TEMPLATE) else pin


def check_relayed(written: Written) -> None:
    """Raises `Unusable` for what cannot be offered, of any kind."""
    match written.kind:
        case Kind.TOOL:
            offered(written)
        case Kind.RESOURCE:
            check_address(written.own)
        case Kind.TEMPLATE:
            Template.of(written.own)
        case Kind.PROMPT:
            _prompt(written)
        case Kind.COMPLETION:
            raise Unusable("no server lists that")


def definitions_of(pins: Mapping[str, Written]) -> tuple[dict[str, ToolDefinition], list[str]]:
    """The tools that the pinned resources and prompts make, and a sentence for each pin that cannot be offered."""
    found: dict[str, ToolDefinition] = {}
    problems: list[str] = []
    resources: list[Written] = []
    completed: list[Written] = []
    for name, pin in pins.items():
        if pin.kind is Kind.TOOL:
            continue
        try:
            check_relayed(pin)
        except Unusable as unusable:
            problems.append(f"its pinned {pin.kind} `{clean(pin.own, 80)}` cannot be offered: {unusable}")
            continue
        if pin.kind is Kind.PROMPT:
            found[name] = _prompt(pin)
        else:
            resources.append(pin)
        if argument_names(pin):
            completed.append(pin)
    if resources:
        text = "Read a resource by its address."
        found[RESOURCES] = _of_all(RESOURCES, text, _RESOURCE_INPUT, _RESOURCE_OUTPUT, resources)
    if completed:
        text = "Complete an argument of a prompt or a template."
        found[COMPLETIONS] = _of_all(COMPLETIONS, text, _COMPLETION_INPUT, _COMPLETION_OUTPUT, completed)
    return found, problems


def _of_all(
    name: str, text: str, given: JsonObject, returned: JsonObject, pins: Sequence[Written]
) -> ToolDefinition:
    material: Any = [name, *sorted(pin.digest for pin in pins)]
    mark = digest("comptroller/upstream-entry/v1", canonical_bytes(material)).hex()
    return ToolDefinition(name, text, given, returned, mark)


def argument_names(pin: Written) -> tuple[str, ...]:
    """The names of what an accepted prompt or template takes. Raises `Unusable`."""
    if pin.kind is Kind.TEMPLATE:
        return Template.of(pin.own).names
    return tuple(one.name for one in _arguments(pin)) if pin.kind is Kind.PROMPT else ()


def _prompt(pin: Written) -> ToolDefinition:
    if hidden_in(pin.own):
        raise Unusable("its name holds characters that cannot be seen")
    arguments = _arguments(pin)
    definition = ToolDefinition(
        name=pin.name,
        description=pin.text("description") or pin.text("title"),
        input_schema={
            "type": "object",
            "properties": {
                name: {"type": "string", "maxLength": ARGUMENT_CHARS_MAX, "description": text}
                for name, text, _ in arguments
            },
            "required": [name for name, _, required in arguments if required],
            "additionalProperties": False,
        },
        output_schema=_PROMPT_OUTPUT,
        digest=pin.digest,
    )
    if problems := screen_arguments(definition):
        raise Unusable("; ".join(problems))
    return definition


def _arguments(pin: Written) -> list[PromptArgument]:
    """Raises `Unusable` for arguments that cannot be told apart or read."""
    given: object = pin.definition.get("arguments", [])
    if not isinstance(given, list) or len(cast("list[object]", given)) > ARGUMENTS_MAX:
        raise Unusable(f"its arguments are no list of {ARGUMENTS_MAX} at most")
    found: list[PromptArgument] = []
    for one in cast("list[object]", given):
        argument = cast("Mapping[str, Any]", one if isinstance(one, Mapping) else {})
        name, text = argument.get("name"), argument.get("description")
        if not isinstance(name, str) or not name:
            raise Unusable("an argument of it has no name")
        described = clean(text, 500) if isinstance(text, str) else ""
        found.append(PromptArgument(name, described, argument.get("required") is True))
    if len({name.casefold() for name, _, _ in found}) < len(found):
        raise Unusable("two of its arguments have one name")
    return found
