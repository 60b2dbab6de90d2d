"""A tool's arguments as an operator wants them: some fixed, some with another default, some never given.

Whoever calls the tool (a model, a look-up, a reversal) gives its own arguments, checked against the *own* schema. Policy,
approvals, claims and records see the arguments *as sent*: with what is fixed and what defaults fill in. A fixed
secret stands there as the reference that was written; its value is put in at the hand-over to the source, nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from comptroller_audit.canonical import canonical_bytes, digest
from comptroller_audit.errors import CanonicalError
from comptroller_audit.vocabulary import Json, JsonObject
from comptroller_tools.declarations import ArgumentRule
from comptroller_tools.errors import SchemaInvalid
from comptroller_tools.source import ToolDefinition
from comptroller_tools.validation import compile_schema

__all__ = ["SECRET", "Shaping", "shaped", "shaping_findings"]

SECRET: Final = "secret://"  # noqa: S105 -- the scheme of references, not a secret
_PLAIN: Final = frozenset(
    {
        "$defs",
        "$id",
        "$schema",
        "additionalProperties",
        "definitions",
        "description",
        "properties",
        "required",
        "title",
        "type",
    }
)
"""Keywords of a schema in which each argument stands for itself; others (`oneOf`, `if`) may tie arguments together."""


@dataclass(frozen=True, slots=True)
class Shaping:
    """What is put in, and what is left out, between own arguments and those that are sent. Values are JSON."""

    fixed: Mapping[str, Json] = field(default_factory=dict[str, Json])
    defaults: Mapping[str, Json] = field(default_factory=dict[str, Json])
    removed: frozenset[str] = frozenset()
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """By argument, the values behind the references among what is fixed."""

    def own(self, arguments: Mapping[str, Json]) -> JsonObject:
        """Stored arguments without what only an operator gives; `filled` puts in what is fixed now."""
        return {
            name: value
            for name, value in arguments.items()
            if name not in self.fixed and name not in self.removed
        }

    def filled(self, own: Mapping[str, Json]) -> JsonObject:
        """The arguments as sent, with references in place of secrets."""
        return {**self.defaults, **own, **self.fixed}

    def sent(self, filled: Mapping[str, Json]) -> Mapping[str, Json]:
        """What the source gets. For its eyes only."""
        return {**filled, **self.secrets} if self.secrets else filled

    def touched(self, before: Mapping[str, Json], after: Mapping[str, Json]) -> list[str]:
        """Arguments that are not for a caller to change, and differ."""
        theirs = (*self.fixed, *sorted(self.removed))
        return [name for name in theirs if before.get(name) != after.get(name)]


def shaped(
    definition: ToolDefinition, rules: Mapping[str, ArgumentRule], secrets: Mapping[str, str]
) -> tuple[Shaping, ToolDefinition, Mapping[str, Any]]:
    """The shaping, the definition of what is sent, and the schema of what callers give. `secrets` are by reference.

    The definition's digest covers the rules, so whoever approves a call approves what is put into it.
    """
    if not rules:
        return Shaping(), definition, definition.input_schema
    fixed: JsonObject = {name: rule.fixed for name, rule in rules.items() if rule.fixed is not None}
    defaults: JsonObject = {name: rule.default for name, rule in rules.items() if rule.default is not None}
    removed = frozenset(name for name, rule in rules.items() if rule.remove)
    hidden = {name: secrets[str(value)] for name, value in fixed.items() if _is_reference(value)}
    schema = definition.input_schema
    properties = {n: one for n, one in schema.get("properties", {}).items() if n not in removed}
    required = [name for name in schema.get("required", ()) if name not in removed]
    as_sent = {
        **schema,
        "properties": properties,
        "required": list(dict.fromkeys([*required, *fixed, *defaults])),
    }
    own: dict[str, Any] = {
        **schema,
        "properties": {
            name: _with_default(one, defaults[name]) if name in defaults else one
            for name, one in properties.items()
            if name not in fixed
        },
        "required": [name for name in required if name not in fixed and name not in defaults],
    }
    written: JsonObject = {
        name: rule.model_dump(mode="json", exclude_none=True) for name, rule in rules.items()
    }
    mark = digest("comptroller/shaped-tool/v1", definition.digest.encode(), canonical_bytes(written)).hex()
    return (
        Shaping(fixed, defaults, removed, hidden),
        replace(definition, input_schema=as_sent, digest=mark),
        own,
    )


def shaping_findings(
    definition: ToolDefinition, rules: Mapping[str, ArgumentRule], secrets: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """What is wrong with `rules` beside the schema of the source: `(config field, problem)`."""
    if not rules:
        return
    schema = definition.input_schema
    if tied := sorted(set(schema) - _PLAIN):
        text = f"cannot be shaped: the tool's schema has `{tied[0][:80]}`, which may tie arguments together"
        yield "arguments", text
        return
    properties = cast("Mapping[str, Any]", schema.get("properties", {}))
    for name, rule in rules.items():
        at = f"arguments.{name}"
        if name not in properties:
            known = ", ".join(f"`{known}`" for known in properties) or "none"
            yield at, f"names no argument of the tool; it takes {known}"
        elif rule.remove and name in schema.get("required", ()):
            yield f"{at}.remove", "is required by the tool, so it cannot be left out; give it a `fixed` value"
        elif not rule.remove:
            key = "fixed" if rule.fixed is not None else "default"
            value: Json = rule.fixed if rule.fixed is not None else rule.default
            if key == "fixed" and _is_reference(value):
                if str(value) not in secrets:
                    yield f"{at}.fixed", "refers to a secret that was not found; set it and start again"
                    continue
                value = secrets[str(value)]
            if problem := _misfit(name, value, schema):
                yield f"{at}.{key}", f"does not fit the tool's schema: {problem}"


def _with_default(schema: Any, value: Json) -> Any:
    return {**cast("JsonObject", schema), "default": value} if isinstance(schema, dict) else schema


def _is_reference(value: Json) -> bool:
    return isinstance(value, str) and value.startswith(SECRET)


def _misfit(name: str, value: Json, schema: Mapping[str, Any]) -> str | None:
    """Why the tool would not take `value` for its argument; what is said quotes nothing of it."""
    shared = {key: schema[key] for key in ("$schema", "$id", "$defs", "definitions") if key in schema}
    alone = {**shared, "type": "object", "properties": {name: schema["properties"][name]}}
    try:
        problems = compile_schema(alone).check({name: value})
        canonical_bytes(value)
    except (SchemaInvalid, CanonicalError) as error:
        return type(error).__name__
    return str(problems[0]) if problems else None
