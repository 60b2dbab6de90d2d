"""Schemas as clients get them, where redaction can put a token or `[withheld: …]` in place of a value.

Clients check answers against the advertised output schema and drop what does not fit; a model fills in arguments by
the input schema. Both must fit what is really shown and sent. Checking on our side uses the source's own schemas.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeAlias, cast

from comptroller_audit.fields import ANY, SCHEMA_DEPTH_MAX, FieldRule, field_path
from comptroller_audit.patterns import Pattern
from comptroller_audit.redaction import Audience, Release
from comptroller_policy.paths import is_list

__all__ = ["redacted", "taking_tokens"]

_ABOUT_TEXT = frozenset(
    {"pattern", "minLength", "maxLength", "contentEncoding", "contentMediaType", "contentSchema"}
)
_UNSURE = frozenset(
    {"uniqueItems", "contains", "minContains", "maxContains", "not", "if", "then", "else", "propertyNames"}
)
"""What a value that fitted need not fit when texts in it were replaced."""
_KEPT_FORMATS = frozenset({"date", "date-time", "time"})
"""Formats whose texts no pattern takes."""
_WORDS = frozenset({"title", "description", "deprecated"})
_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_SCHEMAS = frozenset(
    {
        "items",
        "prefixItems",
        "additionalProperties",
        "unevaluatedProperties",
        "unevaluatedItems",
        "anyOf",
        "allOf",
        "oneOf",
    }
)
_NUMBER_PATTERNS = frozenset(
    {Pattern.PHONE, Pattern.CARD_NUMBER, Pattern.CARD_LAST4, Pattern.NATIONAL_ID}
)  # fmt: skip
_NUMBER_MIN = 1_000
"""Smaller numbers are nobody's; see `parts.NUMBER_MIN`."""
TOKEN_TEXT = "A token such as ⟦email:1-kxqdmw⟧, copied as it was shown, stands for the value behind it."  # noqa: S105


def redacted(
    schema: Mapping[str, Any] | None, patterns: Collection[Pattern], rules: Collection[FieldRule]
) -> dict[str, Any] | None:
    """`schema` for answers whose texts and numbers `patterns` may replace, and whose fields `rules` withhold."""
    if schema is None:
        return None
    hidden = frozenset(field_path(rule.path)[-1] for rule in rules if Audience.MODEL not in rule.raw_for)
    relaxed = _Relaxing(patterns, hidden, {"", *_names(schema)}).schema(dict(schema))
    # An answer is an object in any case, or none is given.
    return cast("dict[str, Any]", relaxed)


def taking_tokens(schema: Mapping[str, Any], paths: Collection[str]) -> dict[str, Any]:
    """The input schema with tokens allowed, and explained, at `paths`."""
    taken = dict(schema)
    for path in paths:
        taken = cast("dict[str, Any]", _at(taken, taken, field_path(path), _takes_token, 0))
    return taken


def _names(part: Any) -> Iterator[str]:
    """The names of members, wherever in a schema they are declared."""
    if is_list(part):
        for each in part:
            yield from _names(each)
    elif isinstance(part, dict):
        for key, inner in cast("dict[str, Any]", part).items():
            if key == "properties" and isinstance(inner, dict):
                yield from cast("dict[str, Any]", inner)
            yield from _names(inner)


class _Relaxing:
    def __init__(self, patterns: Collection[Pattern], hidden: frozenset[str], names: Collection[str]) -> None:
        self._names = names
        self._release = Release((), patterns)
        self._numbers = bool(_NUMBER_PATTERNS & set(patterns))
        self._hidden = hidden

    def schema(self, part: Any) -> Any:
        """A schema with everything left out that a replaced value may break."""
        if not isinstance(part, dict):
            return part
        node = cast("dict[str, Any]", part)
        fits: dict[str, Any] = {}
        for key, inner in node.items():
            if key in _ABOUT_TEXT or key in _UNSURE or (key == "format" and inner not in _KEPT_FORMATS):
                continue
            if key in _MAPS and isinstance(inner, dict):
                fits[key] = self._members(key, cast("dict[str, Any]", inner))
            elif key in _SCHEMAS:
                self._below(fits, key, inner, "patternProperties" in node)
            else:
                fits[key] = inner
        return self._value(fits)

    def _members(self, key: str, members: Mapping[str, Any]) -> dict[str, Any]:
        if key == "properties":
            return {name: self._member(name, inner) for name, inner in members.items()}
        if key == "patternProperties" and self._hidden:
            return dict.fromkeys(members, True)
        return {name: self.schema(inner) for name, inner in members.items()}

    def _member(self, name: str, inner: Any) -> Any:
        if (name not in self._hidden and ANY not in self._hidden) or not isinstance(inner, dict):
            return self.schema(inner)
        words = {key: text for key, text in cast("dict[str, Any]", inner).items() if key in _WORDS}
        return words or True

    def _below(self, fits: dict[str, Any], key: str, inner: Any, named: bool) -> None:
        if key in ("additionalProperties", "unevaluatedProperties"):
            # A member's name can be replaced like any text, and then no pattern of names fits it.
            fits[key] = True if (named or (self._hidden and isinstance(inner, dict))) else self.schema(inner)
            return
        # What fitted one branch only may fit several, now that they ask for less.
        key = "anyOf" if key == "oneOf" else key
        fitting = [self.schema(each) for each in inner] if is_list(inner) else self.schema(inner)
        if key == "anyOf" and key in fits:
            fits.setdefault("allOf", []).append({"anyOf": fitting})
        elif key == "allOf" and key in fits:
            fits["allOf"] += fitting
        else:
            fits[key] = fitting

    def _value(self, node: dict[str, Any]) -> dict[str, Any]:
        """Texts of a closed choice, and numbers that could be somebody's, or what was put in their place."""
        types = node.get("type")
        named = [types] if isinstance(types, str) else cast("list[str]", types or [])
        choice = [*node.get("enum", ()), *([node["const"]] if "const" in node else [])]
        if any(self._is_replaced(option) for option in choice):
            rest = {
                key: inner for key, inner in node.items() if key not in ("enum", "const", "type", *_WORDS)
            }
            words = {key: inner for key, inner in node.items() if key in (*_WORDS, "default")}
            closed = {key: node[key] for key in ("type", "enum", "const") if key in node}
            return {**words, "anyOf": [{**rest, **closed}, _MARK]}
        if self._numbers and {"integer", "number"} & set(named) and "string" not in named:
            if isinstance(most := node.get("maximum"), int | float) and most < _NUMBER_MIN:
                return node
            return {**node, "type": [*named, "string"]}
        return node

    def _is_replaced(self, option: Any) -> bool:
        """Whether a pattern takes it for something, under any name of the schema: names are cues for patterns."""
        return bool(self._release.finds(dict.fromkeys(self._names, option)))


_MARK: Mapping[str, Any] = {
    "type": "string",
    "pattern": "⟦|\\[withheld: ",
    "description": "What stands for a value that is not shown.",
}


_Change: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]


def _at(root: dict[str, Any], node: Any, names: tuple[str, ...], change: _Change, depth: int) -> Any:
    """A copy of `node` with the schema at `names` changed; lists are passed through, local references copied in."""
    if not isinstance(node, dict) or depth > SCHEMA_DEPTH_MAX:
        return cast("Any", node)
    own = cast("dict[str, Any]", node)
    if not names and not (own.keys() & {"$ref", "items", "prefixItems", "anyOf", "oneOf", "allOf"}):
        return change(own)
    copy = dict(own)
    reference = copy.get("$ref")
    if isinstance(reference, str) and (target := _referred(root, reference)):
        del copy["$ref"]
        return _at(root, {**target, **copy}, names, change, depth + 1)
    for key in ("items", "prefixItems", "anyOf", "oneOf", "allOf"):
        if key in copy:
            inner = copy[key]
            copy[key] = (
                [_at(root, each, names, change, depth + 1) for each in inner]
                if is_list(inner)
                else _at(root, inner, names, change, depth + 1)
            )
    properties = copy.get("properties")
    if names and isinstance(properties, dict):
        known = cast("dict[str, Any]", properties)
        copy["properties"] = {
            name: _at(root, inner, names[1:], change, depth + 1) if name == names[0] else inner
            for name, inner in known.items()
        }
    return copy


def _referred(root: dict[str, Any], reference: str) -> dict[str, Any]:
    """What a local reference stands for; empty when that is no schema of ours to change."""
    target: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        known = cast("dict[str, Any]", target) if isinstance(target, dict) else {}
        target = known.get(step.replace("~1", "/").replace("~0", "~"))
    return cast("dict[str, Any]", target) if isinstance(target, dict) else {}


def _takes_token(node: dict[str, Any]) -> dict[str, Any]:
    if node.get("type") in ("null", "boolean", "object", "array"):
        return node
    fits = {key: inner for key, inner in node.items() if key not in _ABOUT_TEXT and key != "format"}
    described = f"{node.get('description', '')} {TOKEN_TEXT}".strip()
    if "enum" in fits or "const" in fits:
        closed = {key: fits.pop(key) for key in ("type", "enum", "const") if key in fits}
        return {**fits, "description": described, "anyOf": [closed, _MARK]}
    types = fits.get("type")
    named = [types] if isinstance(types, str) else cast("list[str]", types or [])
    if named and "string" not in named:
        fits["type"] = [*named, "string"]
    return {**fits, "description": described}
