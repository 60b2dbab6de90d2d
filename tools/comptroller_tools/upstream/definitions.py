"""Definitions of what an upstream lists: as they came, the digest that pins them, and as tools are offered.

The digest covers what can change what one means or takes: of a tool its name, title, description, both schemas and
annotations; of a resource its address, name, title, description and type; of a prompt its name, texts and arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, cast

from comptroller_audit.canonical import canonical_bytes, digest
from comptroller_audit.errors import CanonicalError
from comptroller_audit.vocabulary import JsonObject
from comptroller_tools.errors import SchemaInvalid
from comptroller_tools.source import ToolDefinition
from comptroller_tools.upstream.cleaning import clean, cleaned_schema, hidden_in
from comptroller_tools.validation import compile_schema, screen_arguments

__all__ = ["TEXT_OUTPUT", "Kind", "Unusable", "Written", "differences", "kind_of", "offered", "read_listing"]

DEFINITION_BYTES_MAX = 65_536
TOOLS_MAX = 500

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


class Kind(StrEnum):
    """What an upstream lists. All but tools are named with their kind before them: `prompt:NAME`, `resource:URI`."""

    TOOL = "tool"
    RESOURCE = "resource"
    TEMPLATE = "template"
    PROMPT = "prompt"
    COMPLETION = "completion"
    """Never listed: how the arguments of prompts and templates are completed."""

    @property
    def prefix(self) -> str:
        return "" if self is Kind.TOOL else f"{self}:"


_TEXTS = ("name", "title", "description")
PINNED_KEYS: Mapping[Kind, tuple[str, ...]] = {
    Kind.TOOL: (*_TEXTS, "inputSchema", "outputSchema", "annotations"),
    Kind.RESOURCE: ("uri", *_TEXTS, "mimeType"),
    Kind.TEMPLATE: ("uriTemplate", *_TEXTS, "mimeType"),
    Kind.PROMPT: (*_TEXTS, "arguments"),
}
_NAMED_BY = {Kind.TOOL: "name", Kind.RESOURCE: "uri", Kind.TEMPLATE: "uriTemplate", Kind.PROMPT: "name"}
_CHARS_MAX = {Kind.TOOL: 128, Kind.RESOURCE: 2_048, Kind.TEMPLATE: 2_048, Kind.PROMPT: 100}
"""Of a name; that of a prompt has to fit into `source_tool` with its kind before it."""


@lru_cache(maxsize=4096)
def kind_of(name: str) -> Kind:
    """What the name of a pin, or of a source's tool, stands for."""
    return next((kind for kind in Kind if kind.prefix and name.startswith(kind.prefix)), Kind.TOOL)


class Unusable(Exception):
    """A definition cannot be offered; the text says why. It keeps one tool out and never the others."""


@dataclass(frozen=True, slots=True)
class Written:
    """A definition as the upstream wrote it, reduced to what is pinned. `digest` is SHA-256 (hex).

    `name` says the kind too; what the upstream itself calls it is `own`.
    """

    name: str
    definition: Mapping[str, Any]
    digest: str

    @classmethod
    def of(cls, raw: Any, kind: Kind = Kind.TOOL) -> Written:
        """Raises `Unusable` when it cannot even be named or digested."""
        if not isinstance(raw, Mapping):
            raise Unusable(f"a {kind} is no object")
        given = cast("Mapping[str, Any]", raw)
        name = given.get(_NAMED_BY[kind])
        if not isinstance(name, str) or not 1 <= len(name) <= _CHARS_MAX[kind]:
            raise Unusable(f"a {kind} has no `{_NAMED_BY[kind]}`, or a very long one")
        if kind is Kind.TOOL and kind_of(name) is not Kind.TOOL:
            raise Unusable(f"`{clean(name, 80)}` is a name of ours for what is no tool")
        kept = {key: given[key] for key in PINNED_KEYS[kind] if given.get(key) is not None}
        try:
            written = canonical_bytes(kept)
        except CanonicalError as error:
            raise Unusable(
                f"its definition cannot be written down exactly ({type(error).__name__})"
            ) from None
        if len(written) > DEFINITION_BYTES_MAX:
            raise Unusable(f"its definition is larger than {DEFINITION_BYTES_MAX} bytes")
        return cls(kind.prefix + name, kept, digest(f"comptroller/upstream-{kind}/v1", written).hex())

    @property
    def kind(self) -> Kind:
        return kind_of(self.name)

    @property
    def own(self) -> str:
        """The name, address or template as the upstream knows it."""
        return self.name.removeprefix(self.kind.prefix)

    def text(self, key: str) -> str:
        """One of its texts, cleaned; empty where there is none."""
        value = self.definition.get(key)
        return clean(value) if isinstance(value, str) else ""

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


def read_listing(raw: Sequence[Any], kind: Kind = Kind.TOOL) -> tuple[dict[str, Written], list[str]]:
    """The usable entries of a listing by name, and a sentence for each that is not.

    A name that comes twice, by case too, is none: nobody could say which of the two is called.
    """
    listed: dict[str, list[Written]] = {}
    wrong: list[str] = []
    for tool in raw[:TOOLS_MAX]:
        try:
            written = Written.of(tool, kind)
        except Unusable as unusable:
            wrong.append(str(unusable))
            continue
        listed.setdefault(written.name.casefold(), []).append(written)
    found = {one[0].name: one[0] for one in listed.values() if len(one) == 1}
    wrong += [
        f"`{clean(one[0].name, 80)}` is listed {len(one)} times" for one in listed.values() if len(one) > 1
    ]
    if len(raw) > TOOLS_MAX:
        wrong.append(f"{len(raw) - TOOLS_MAX} {kind}s more than {TOOLS_MAX} are left out")
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
    return screen_arguments(definition)


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
