"""Dotted paths (`facts.invoice.paid_usd`) into JSON values and into the JSON Schemas that describe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard, cast

from comptroller_policy.errors import ExpressionError

__all__ = [
    "Schemas",
    "Scope",
    "check_path",
    "is_list",
    "is_object",
    "json_types",
    "json_types_at",
    "resolve_pointer",
    "value_at",
]

Scope: TypeAlias = "Mapping[str, Any]"
"""Root name to JSON value: `{"input": {...}, "facts": {"invoice": {...}}}`."""

Schemas: TypeAlias = "Mapping[str, Mapping[str, Any]]"
"""Root, or `facts.<name>`, to its own JSON Schema document (so that `$ref` resolves inside it)."""

_REFS_MAX = 16


def is_object(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """A JSON object."""
    return isinstance(value, Mapping)


def is_list(value: Any) -> TypeGuard[list[Any]]:
    """A JSON array."""
    return isinstance(value, list)


def value_at(path: str, scope: Scope) -> Any:
    """The JSON value at a dotted path. Raises ExpressionError when any part of it is missing."""
    value: Any = scope
    parts = path.split(".")
    for at, part in enumerate(parts):
        if type(value) is dict:  # nearly always, and quicker to ask than for any Mapping
            members = cast("dict[str, Any]", value)
            value = members[part] if part in members else _step(members, part, path, parts[:at])
        else:
            value = _step(value, part, path, parts[:at])
    return value


def _step(value: Any, part: str, path: str, done: Sequence[str]) -> Any:
    if is_object(value) and part in value:
        return value[part]
    if is_list(value) and part.isdecimal() and int(part) < len(value):
        return value[int(part)]
    at = ".".join(done) or "the call"
    raise ExpressionError(f"`{path}` has no value: {at} has no `{part}`.")


def check_path(path: str, schemas: Schemas, *, number: bool = False) -> str | None:
    """What is wrong with `path` under the JSON Schemas of its root, as one sentence, or None.

    `$ref`, `allOf`, and every branch of `anyOf`/`oneOf` are followed. An object without declared properties and
    an untyped value may hold anything, so nothing is wrong with a path into them. With `number`, the value must
    be able to be a number.
    """
    parts = path.split(".")
    start = next((n for n in (2, 1) if ".".join(parts[:n]) in schemas and len(parts) >= n), None)
    if start is None:
        known = sorted(name for name in schemas if name.split(".")[0] == parts[0]) or sorted(schemas)
        return f"`{path}` is not available here; available: {', '.join(known) or 'nothing'}."
    document = schemas[".".join(parts[:start])]
    nodes = _variants(document, document)
    for depth, part in enumerate(parts[start:], start):
        following: list[Any] = []
        for node in nodes:
            following.extend(_children(node, part, document))
        if not following:
            at, names = ".".join(parts[:depth]), sorted({n for node in nodes for n in _names(node)})
            return f"`{path}` does not exist: {at} has {', '.join(names) or 'no fields'}."
        nodes = following
    if number and not any(_may_be_number(node) for node in nodes):
        return f"`{path}` is not a number."
    return None


def json_types(node: Any, document: Mapping[str, Any]) -> frozenset[str]:
    """The JSON types a value under this schema may have, `null` left out; empty when it may have any."""
    found: set[str] = set()
    for variant in _variants(node, document):
        types = _types(variant)
        if not types:
            return frozenset()
        found |= types
    return frozenset(found)


def json_types_at(path: str, schemas: Schemas) -> frozenset[str]:
    """The JSON types a value at `path` may have, as `json_types`. The path must be one `check_path` accepts."""
    parts = path.split(".")
    start = next(n for n in (2, 1) if ".".join(parts[:n]) in schemas and len(parts) >= n)
    document = schemas[".".join(parts[:start])]
    nodes: list[Any] = [document]
    for part in parts[start:]:
        nodes = [
            child
            for node in nodes
            for variant in _variants(node, document)
            for child in _children(variant, part, document)
        ]
    types = [json_types(node, document) for node in nodes]
    return frozenset(name for found in types for name in found) if all(types) else frozenset()


def _types(node: Any) -> set[str]:
    """The types one schema names; empty when it names none."""
    if node is True:
        return set()
    listed = node.get("enum", [node["const"]] if "const" in node else None)
    if is_list(listed):
        return {_type_of(value) for value in listed if value is not None}
    declared = node.get("type")
    if declared is None:
        return {"object"} if "properties" in node else set()
    return {name for name in (declared if is_list(declared) else [declared]) if name != "null"}


def _type_of(value: Any) -> str:
    words: tuple[tuple[Any, str], ...] = (
        (bool, "boolean"),
        (str, "string"),
        (int, "integer"),
        (float, "number"),
        (list, "array"),
    )
    return next((word for kind, word in words if isinstance(value, kind)), "object")


def _variants(node: Any, document: Mapping[str, Any], refs: int = 0) -> list[Any]:
    """The schemas a value may follow: references and alternatives resolved, `null` left out."""
    if not is_object(node) or refs > _REFS_MAX:
        return [node] if node is True else []
    if isinstance(node.get("$ref"), str):
        return _variants(resolve_pointer(node["$ref"], document), document, refs + 1)
    for word in ("anyOf", "oneOf", "allOf"):
        branches = node.get(word)
        if is_list(branches) and branches:
            own = [node] if "properties" in node else list[Any]()
            return own + [variant for branch in branches for variant in _variants(branch, document, refs + 1)]
    return [] if node.get("type") == "null" else [node]


def resolve_pointer(reference: str, document: Mapping[str, Any]) -> Any:
    """The schema a local `$ref` (`#/$defs/Line`) names, by RFC 6901; None when it names nothing here."""
    if reference == "#":
        return document
    if not reference.startswith("#/"):
        return None
    node: Any = document
    for part in reference[2:].split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        node = node.get(name) if is_object(node) else None
    return node


def _children(node: Any, part: str, document: Mapping[str, Any]) -> list[Any]:
    if node is True:
        return [True]
    properties = node.get("properties")
    if is_object(properties) and part in properties:
        return _variants(properties[part], document)
    if part.isdecimal() and "items" in node:
        return _variants(node["items"], document)
    extra = node.get("additionalProperties")
    if is_object(extra):
        return _variants(extra, document)
    closed = properties or extra is False or node.get("type", "object") != "object"
    return [] if closed or "enum" in node or "const" in node else [True]


def _names(node: Any) -> list[str]:
    properties = node.get("properties") if is_object(node) else None
    return list(properties) if is_object(properties) else []


def _may_be_number(node: Any) -> bool:
    if node is True:
        return True
    listed = node.get("enum", [node["const"]] if "const" in node else None)
    if is_list(listed):
        return any(isinstance(value, (int, float)) and not isinstance(value, bool) for value in listed)
    declared = node.get("type")
    if declared is None:
        return "properties" not in node
    names = declared if is_list(declared) else [declared]
    return "number" in names or "integer" in names
