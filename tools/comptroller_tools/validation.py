"""Arguments and outputs against JSON Schema 2020-12, told in our own sentences; and what we add to schemas.

The validator never fetches anything, and no sentence carries more of a value than `QUOTED_CHARS_MAX`
characters of an argument's name. Exact-number rules are not here: framing has applied them to the bytes.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import jsonschema_rs

from comptroller_audit.vocabulary import Effect, Json, JsonObject
from comptroller_policy.paths import is_list
from comptroller_tools.errors import SchemaInvalid
from comptroller_tools.source import ToolDefinition

__all__ = [
    "WHY_SCHEMA",
    "Problem",
    "Validator",
    "check_why",
    "compile_schema",
    "for_clients",
    "screen",
    "screen_arguments",
    "split_why",
    "with_more",
    "with_refs",
    "with_why",
]

PROBLEMS_MAX = 10
DEPTH_MAX = 128
"""Levels of nesting in a schema or a value; the engine's own recursion ends the process near 100,000."""

QUOTED_CHARS_MAX = 80
OPTIONS_MAX = 20

_is_name = re.compile(r"[a-zA-Z0-9_-]{1,64}").fullmatch

WHY_SCHEMA: JsonObject = {
    "type": "object",
    "description": "Why you make this change: the reason in one sentence, and the refs of the records you rely on.",
    "properties": {
        "reason": {"type": "string", "minLength": 1, "maxLength": 500, "pattern": "\\S"},
        "citations": {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": 64},
            "maxItems": 20,
        },
    },
    "required": ["reason"],
    "additionalProperties": False,
}

_REFS_SCHEMA: JsonObject = {
    "type": "array",
    "description": "Refs of the records shown here; cite them in `why.citations`.",
    "items": {
        "type": "object",
        "properties": {"ref": {"type": "string"}, "kind": {"type": "string"}, "key": {"type": "string"}},
        "required": ["ref", "kind"],
    },
}


_MORE_SCHEMA: JsonObject = {
    "type": "object",
    "description": "This is a part. `more` asks `result_more` for the next; `left` counts characters or items to come.",
    "properties": {"more": {"type": "string"}, "left": {"type": "object"}},
    "required": ["more", "left"],
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a value. `path` is as in `lines[0].amount`, empty for the whole value."""

    path: str
    text: str

    def __str__(self) -> str:
        return f"`{self.path}` {self.text}" if self.path else self.text


class Validator:
    """A compiled schema. Safe to share between threads."""

    def __init__(self, schema: Mapping[str, Any], engine: Any) -> None:
        self._schema = schema
        self._engine = engine

    def check(self, value: Any) -> list[Problem]:
        """What is wrong with `value`: nothing, or at most `PROBLEMS_MAX` problems in schema order."""
        if problem := _unfit(value, DEPTH_MAX):
            return [Problem("", f"{problem}; send a plain JSON value")]
        try:
            if self._engine.is_valid(value):
                return []
            return self._problems(value)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            # Not a JSON value at all (a set, a lone surrogate): refuse, the engine cannot look at it.
            return [Problem("", f"is no JSON value ({type(error).__name__})")]

    def _problems(self, value: Any) -> list[Problem]:
        found: list[Problem] = []
        for error in self._engine.iter_errors(value):
            found += self._told(error, value)
            if len(found) >= PROBLEMS_MAX:
                break
        # Fail closed: an engine that says "invalid" and names nothing is still a refusal.
        return found[:PROBLEMS_MAX] or [Problem("", "does not fit its schema")]

    def _told(self, error: Any, value: Any) -> Iterable[Problem]:
        path = _spelled(error.instance_path)
        keyword = str(error.kind.name)
        if (unexpected := _unexpected(error, value)) is not None:
            known = self._known_names(error.schema_path)
            for name in unexpected[:PROBLEMS_MAX]:
                yield Problem(path, _unknown(name, known))
            return
        if keyword == "anyOf" and (only := _only_branch(error)) is not None:
            for inner in only:
                yield from self._told(inner, value)
            return
        if keyword == "required":
            yield Problem(_joined(path, str(error.kind.value)), "is required and missing; add it")
            return
        sentence = _SENTENCES.get(keyword)
        yield Problem(
            path, sentence(error.kind.value) if sentence else f"breaks the schema's `{_quoted(keyword)}`"
        )

    def _known_names(self, schema_path: Sequence[str | int]) -> list[str]:
        """The property names beside the `additionalProperties` that refused."""
        place: Any = self._schema
        for step in schema_path[:-1]:
            try:
                place = place[step]
            except (KeyError, IndexError, TypeError):
                return []
        return list(cast("Mapping[str, Any]", place).get("properties", ())) if isinstance(place, dict) else []


def compile_schema(schema: Mapping[str, Any]) -> Validator:
    """A validator for `schema` (draft 2020-12 unless it says otherwise). Raises `SchemaInvalid`."""
    plain = dict(schema)
    if problem := _unfit(plain, DEPTH_MAX):
        raise SchemaInvalid(f"the schema {problem}; make it plainer")
    for reference in _references(plain):
        if not reference.startswith("#"):
            raise SchemaInvalid(
                f"the schema refers to `{_quoted(reference)}` outside itself; copy that part into its `$defs`"
            )
    try:
        engine = jsonschema_rs.validator_for(plain, offline=True, mask="the value")
    except (ValueError, TypeError, jsonschema_rs.ReferencingError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0][:200]
        raise SchemaInvalid(f"the schema is not valid JSON Schema: {reason}") from error
    return Validator(plain, engine)


def with_why(
    input_schema: Mapping[str, Any], *, required: bool = True, citations: bool = False
) -> dict[str, Any]:
    """The schema to advertise for a side-effecting tool: the source's own with a `why`. The source never sees it.

    With `citations`, a `why` without one is not of the schema.
    """
    advertised = deepcopy(dict(input_schema))
    why: dict[str, Any] = deepcopy(WHY_SCHEMA)
    if citations:
        why["required"] = ["reason", "citations"]
        why["properties"]["citations"]["minItems"] = 1
    advertised["properties"] = {**advertised.get("properties", {}), "why": why}
    if required:
        advertised["required"] = [*advertised.get("required", ()), "why"]
    return advertised


def split_why(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], Json]:
    """`arguments` without `why`, and the `why` as it came (unchecked), or None when there was none."""
    own = dict(arguments)
    why = own.pop("why", None)
    return own, why


def check_why(why: Json) -> list[Problem]:
    """What is wrong with a `why` that was given. Whether one is needed is the tool's config."""
    return [Problem(_joined("why", p.path), p.text) for p in _WHY.check(why)]


def for_clients(output_schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The schema of answers as clients get it: without fractional `multipleOf`.

    Clients check it in floating point, where 4.43 is no multiple of 0.01, and drop a good answer. We check it exactly.
    """
    return None if output_schema is None else cast("dict[str, Any]", _without_fractions(dict(output_schema)))


def _without_fractions(part: Any) -> Any:
    if isinstance(part, dict):
        return {
            key: _without_fractions(inner)
            for key, inner in cast("dict[str, Any]", part).items()
            if key != "multipleOf" or not isinstance(inner, float) or inner.is_integer()
        }
    return [_without_fractions(inner) for inner in part] if is_list(part) else part


def with_refs(output_schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The output schema to advertise for a read: the source's own with an optional `refs`."""
    if output_schema is None:
        return None
    advertised = deepcopy(dict(output_schema))
    advertised["properties"] = {**advertised.get("properties", {}), "refs": deepcopy(_REFS_SCHEMA)}
    return advertised


def with_more(output_schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The output schema to advertise for a read that may answer in parts: with an optional `more`."""
    if output_schema is None:
        return None
    advertised = deepcopy(dict(output_schema))
    advertised["properties"] = {**advertised.get("properties", {}), "more": deepcopy(_MORE_SCHEMA)}
    return advertised


def screen(definition: ToolDefinition, effect: Effect | None = None) -> list[str]:
    """Why a tool cannot be offered under its names, one sentence each; empty when it can.

    Names are `[a-zA-Z0-9_-]{1,64}`: some clients drop a whole tool list over one other name. With `effect`,
    also the two names that are ours: `why` in a side effect's arguments, `refs` in a read's output.
    """
    tool = f"tool `{_quoted(definition.name)}`"
    problems: list[str] = []
    if not _is_name(definition.name):
        problems.append(f"{tool}: the name must be 1 to 64 of a-z, A-Z, 0-9, `_` and `-`; rename it")
    problems += screen_arguments(definition)
    arguments = cast("Mapping[str, Any]", definition.input_schema.get("properties", {}))
    if effect is not None and effect is not Effect.READ and "why" in arguments:
        problems.append(
            f"{tool}: argument `why` is the name of the agent's own statement; rename it in the source"
        )
    if effect is Effect.READ and "refs" in (definition.output_schema or {}).get("properties", {}):
        problems.append(f"{tool}: result `refs` is the name of the refs we add; rename it in the source")
    return problems


def screen_arguments(definition: ToolDefinition) -> list[str]:
    """Which of its arguments cannot be offered under their names, one sentence each: those nobody can rename for it."""
    arguments = cast("Mapping[str, Any]", definition.input_schema.get("properties", {}))
    return [
        f"tool `{_quoted(definition.name)}`: argument `{_quoted(name)}` must be 1 to 64 of a-z, A-Z, 0-9, `_` and `-`; rename it"
        for name in arguments
        if not _is_name(name)
    ]


_SIMPLE = frozenset({str, int, bool, type(None)})


def _unfit(value: Any, levels_max: int) -> str | None:
    """Why the engine must not see `value`. An empty schema looks at nothing, so it would let all of this through."""
    level: list[Any] = [value]
    for _ in range(levels_max + 1):
        below: list[Any] = []
        for item in level:
            if type(item) in _SIMPLE or isinstance(item, str | int):
                continue
            if isinstance(item, dict):
                members = cast("dict[Any, Any]", item)  # type: ignore[redundant-cast]  # pyright does not infer it
                for name in members:
                    if type(name) is not str and not isinstance(name, str):
                        return "has a member name that is no text"
                below.extend(members.values())
            elif isinstance(item, list | tuple):
                below.extend(cast("Sequence[Json]", item))
            elif not isinstance(item, float):
                return f"has a {type(item).__name__}, which JSON has not"
            elif not math.isfinite(item):
                return "has a number that JSON cannot say"
        if not below:
            return None
        level = below
    return f"is nested deeper than {levels_max} levels"


def _references(part: Any) -> Iterable[str]:
    """Every `$ref` and `$dynamicRef` in a schema. Also those in `const` or `examples`: refusing too much is safe."""
    if isinstance(part, dict):
        for key, inner in cast("JsonObject", part).items():
            if key in ("$ref", "$dynamicRef") and isinstance(inner, str):
                yield inner
            yield from _references(inner)
    elif isinstance(part, list):
        for inner in cast("list[Json]", part):
            yield from _references(inner)


def _quoted(text: str) -> str:
    """A name from outside, made safe to print: printable, no backquote, capped."""
    shown = "".join(c if c.isprintable() and c != "`" else "?" for c in text[:QUOTED_CHARS_MAX])
    return shown + ("…" if len(text) > QUOTED_CHARS_MAX else "")


def _spelled(path: Sequence[str | int]) -> str:
    spelled = ""
    for step in path:
        spelled = f"{spelled}[{step}]" if isinstance(step, int) else _joined(spelled, _quoted(step))
    return spelled


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name[:QUOTED_CHARS_MAX], known, n=1)
    advice = f"did you mean `{near[0]}`?" if near else "remove it"
    if not near and known:
        advice = f"remove it; known are {_listed(sorted(known))}"
    return f"has the unknown property `{_quoted(name)}`; {advice}"


def _listed(options: Sequence[Any]) -> str:
    shown = ", ".join(f"`{_quoted(str(option))}`" for option in options[:OPTIONS_MAX])
    return shown + (", …" if len(options) > OPTIONS_MAX else "")


def _unexpected(error: Any, value: Any) -> list[str] | None:
    """The property names a closed object does not know; None when the error is about something else."""
    if error.kind.name in ("additionalProperties", "unevaluatedProperties"):
        return list(error.kind.value)
    if error.kind.name != "falseSchema" or list(error.schema_path)[-1:] != ["additionalProperties"]:
        return None
    # A closed object without any `properties` is reported once, without names: they are all unexpected.
    for step in error.instance_path:
        value = value[step]
    return list(value)


def _only_branch(union: Any) -> Sequence[Any] | None:
    """The errors of the one `anyOf` branch whose type fits, as in "number or null": they say what to change."""
    place = list(union.instance_path)
    fitting = [
        branch
        for branch in union.kind.value
        if branch and not any(e.kind.name == "type" and list(e.instance_path) == place for e in branch)
    ]
    return fitting[0] if len(fitting) == 1 else None


_SENTENCES: Mapping[str, Callable[[Any], str]] = {
    "type": lambda types: f"must be {_listed(types)}",
    "enum": lambda options: f"must be one of {_listed(options)}",
    "const": lambda value: f"must be {_listed([value])}",
    "minimum": lambda limit: f"must be at least {limit}",
    "maximum": lambda limit: f"must be at most {limit}",
    "exclusiveMinimum": lambda limit: f"must be more than {limit}",
    "exclusiveMaximum": lambda limit: f"must be less than {limit}",
    "multipleOf": lambda step: f"must be a multiple of {step}",
    "minLength": lambda limit: f"must have at least {limit} characters",
    "maxLength": lambda limit: f"must have at most {limit} characters",
    "pattern": lambda pattern: f"must match the pattern `{_quoted(str(pattern))}`",
    "format": lambda name: f"must be in the format `{_quoted(str(name))}`",
    "minItems": lambda limit: f"must have at least {limit} items",
    "maxItems": lambda limit: f"must have at most {limit} items",
    "uniqueItems": lambda _: "must not repeat an item",
    "contains": lambda _: "lacks an item the schema asks for",
    "minProperties": lambda limit: f"must have at least {limit} properties",
    "maxProperties": lambda limit: f"must have at most {limit} properties",
    "anyOf": lambda _: "fits none of the forms it may have",
    "oneOf": lambda _: "must fit exactly one of the forms it may have",
    "propertyNames": lambda _: "has a property name that is not allowed",
    "not": lambda _: "has a form that is ruled out",
    "falseSchema": lambda _: "is not allowed here",
}

_WHY = compile_schema(WHY_SCHEMA)
