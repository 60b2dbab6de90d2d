"""Definitions of an upstream's tools: as they came, the digest that pins them, and as they are offered.

The digest covers what can change what a tool means or takes: name, title, description, both schemas, annotations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from comptroller_audit.canonical import canonical_bytes, digest
from comptroller_audit.errors import CanonicalError
from comptroller_audit.vocabulary import JsonObject
from comptroller_tools.errors import SchemaInvalid
from comptroller_tools.source import ToolDefinition
from comptroller_tools.upstream.cleaning import clean, cleaned_schema, hidden_in
from comptroller_tools.validation import compile_schema, screen

__all__ = ["TEXT_OUTPUT", "Unusable", "Written", "differences", "offered", "read_listing"]

PINNED_KEYS = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")
DEFINITION_BYTES_MAX = 65_536
TOOLS_MAX = 500
NAME_CHARS_MAX = 128

TEXT_OUTPUT: JsonObject = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "other": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["text"],
    "additionalProperties": False,
}
"""What a tool without an output schema returns, as we put it: its texts, and what else came, named and withheld."""


class Unusable(Exception):
    """A definition cannot be offered; the text says why. It keeps one tool out and never the others."""


@dataclass(frozen=True, slots=True)
class Written:
    """A definition as the upstream wrote it, reduced to what is pinned. `digest` is SHA-256 (hex)."""

    name: str
    definition: Mapping[str, Any]
    digest: str

    @classmethod
    def of(cls, raw: Any) -> Written:
        """Raises `Unusable` when it cannot even be named or digested."""
        if not isinstance(raw, Mapping):
            raise Unusable("a tool is no object")
        tool = cast("Mapping[str, Any]", raw)
        name = tool.get("name")
        if not isinstance(name, str) or not 1 <= len(name) <= NAME_CHARS_MAX:
            raise Unusable("a tool has no name, or a very long one")
        kept = {key: tool[key] for key in PINNED_KEYS if tool.get(key) is not None}
        try:
            written = canonical_bytes(kept)
        except CanonicalError as error:
            raise Unusable(
                f"its definition cannot be written down exactly ({type(error).__name__})"
            ) from None
        if len(written) > DEFINITION_BYTES_MAX:
            raise Unusable(f"its definition is larger than {DEFINITION_BYTES_MAX} bytes")
        return cls(name, kept, digest("comptroller/upstream-tool/v1", written).hex())

    @property
    def hints(self) -> Mapping[str, bool]:
        """What the upstream says of the tool itself. Nobody has checked it."""
        given = self.definition.get("annotations")
        if not isinstance(given, Mapping):
            return {}
        hints = cast("Mapping[str, Any]", given)
        return {
            key: value for key, value in hints.items() if key.endswith("Hint") and isinstance(value, bool)
        }


def read_listing(raw: Sequence[Any]) -> tuple[dict[str, Written], list[str]]:
    """The usable entries of a listing by name, and a sentence for each that is not.

    A name that comes twice, by case too, is none: nobody could say which of the two is called.
    """
    listed: dict[str, list[Written]] = {}
    wrong: list[str] = []
    for tool in raw[:TOOLS_MAX]:
        try:
            written = Written.of(tool)
        except Unusable as unusable:
            wrong.append(str(unusable))
            continue
        listed.setdefault(written.name.casefold(), []).append(written)
    found = {one[0].name: one[0] for one in listed.values() if len(one) == 1}
    wrong += [
        f"`{clean(one[0].name, 80)}` is listed {len(one)} times" for one in listed.values() if len(one) > 1
    ]
    if len(raw) > TOOLS_MAX:
        wrong.append(f"{len(raw) - TOOLS_MAX} tools more than {TOOLS_MAX} are left out")
    return found, wrong


def offered(written: Written) -> ToolDefinition:
    """The definition as it may be offered: clean texts, closed arguments. Raises `Unusable`."""
    own = written.definition
    given = own.get("inputSchema")
    output = own.get("outputSchema")
    if not isinstance(given, Mapping) or not isinstance(output, Mapping | None):
        raise Unusable("its schema is no object")
    if hidden_in(written.name):
        raise Unusable("its name holds characters that cannot be seen")
    description = own.get("description") or own.get("title") or ""
    try:
        arguments = _closed(cleaned_schema(cast("Mapping[str, Any]", given)))
        result = dict(TEXT_OUTPUT) if output is None else cleaned_schema(cast("Mapping[str, Any]", output))
        compile_schema(arguments)
        compile_schema(result)
    except (ValueError, SchemaInvalid) as error:
        raise Unusable(str(error)) from None
    if arguments.get("type") != "object" or result.get("type") != "object":
        raise Unusable("its schemas must be of type `object`")
    return ToolDefinition(
        name=written.name,
        description=clean(description if isinstance(description, str) else ""),
        input_schema=arguments,
        output_schema=result,
        digest=written.digest,
    )


def names_problems(definition: ToolDefinition) -> list[str]:
    """What keeps argument names from being offered; the tool's own name may be replaced by one of the config's."""
    return [problem for problem in screen(definition) if "argument" in problem]


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Arguments that nothing names are seen by no policy, so none is let through, whatever the upstream would take."""
    composed = not schema.keys().isdisjoint({"allOf", "anyOf", "oneOf", "$ref", "if"})
    schema.setdefault("properties", {})
    if composed:
        schema["unevaluatedProperties"] = False
    elif schema.get("additionalProperties", True) is True or schema.get("additionalProperties") == {}:
        schema["additionalProperties"] = False
    return schema


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed between two definitions: one line for each place, with both values, cut."""
    lines: list[str] = []
    _differ("", before, now, lines)
    return lines


def _differ(place: str, before: Any, now: Any, lines: list[str]) -> None:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        first, second = cast("Mapping[str, Any]", before), cast("Mapping[str, Any]", now)
        for key in dict.fromkeys([*first, *second]):
            _differ(f"{place}.{key}" if place else key, first.get(key), second.get(key), lines)
    elif before != now or cast("object", before).__class__ is not cast("object", now).__class__:
        lines.append(f"{place}: {_brief(before)} → {_brief(now)}")


def _brief(value: Any) -> str:
    if value is None:
        return "nothing"
    try:
        text = canonical_bytes(value).decode()
    except CanonicalError:
        text = type(value).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"
