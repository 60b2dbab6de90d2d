"""From what Pydantic refuses to findings a person can act on: file, line, path as written, what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from comptroller_policy.errors import Finding
from comptroller_server.config.model import config_json_schema
from comptroller_server.config.paths import KeyPath, finding_at
from comptroller_server.config.yaml_lines import Node

__all__ = ["empty_values", "shape_findings"]

_NOT_YET: tuple[KeyPath, ...] = (
    ("grants",),
    ("console",),
    ("metrics",),
    ("redaction",),
    ("retention",),
    ("agent", "version"),
    ("budgets", "max_cost_usd"),
    ("budgets", "windows", "*", "widen_after"),
    ("identity", "issuers"),
    ("identity", "resource"),
    ("identity", "allowed_clients"),
    ("store", "checkpoints", "*", "webhook"),
    ("store", "checkpoints", "*", "syslog"),
    ("approvals", "webhook"),
    ("approvals", "escalate_after_s"),
    ("sources", "*", "http"),
    ("sources", "*", "openapi"),
    ("tools", "*", "freshness_s"),
    ("tools", "*", "egress"),
)
"""Keys of the full product. Ignoring one would leave a rule its writer relies on unenforced."""

_FREE_FORM = ("arguments", "constraints")
"""Under these keys the values are the tool's own, where null is a value like any other."""

_SHAPES = {
    "string_type": "must be text; put the value in quotes",
    "int_type": "must be a whole number, written without quotes and without a decimal point",
    "int_from_float": "must be a whole number, written without a decimal point",
    "float_type": "must be a number, written without quotes",
    "decimal_type": "must be a number",
    "decimal_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be `true` or `false`, without quotes (`yes`, `no`, `on` and `off` are text here)",
    "list_type": "must be a list: write `[…]`, or lines that begin with `- `",
    "tuple_type": "must be a list: write `[…]`, or lines that begin with `- `",
    "dict_type": "must be a mapping: write `{key: value}`, or indented `key: value` lines",
    "model_type": "must be a mapping: write `{key: value}`, or indented `key: value` lines",
    "model_attributes_type": "must be a mapping: write `{key: value}`, or indented `key: value` lines",
}


_SUBJECT = re.compile(r"^\w+( input)? should")
"""How Pydantic begins a message; ours begin with the field."""


def shape_findings(
    tree: Node,
    error: ValidationError,
    told: Collection[KeyPath] = (),
    schema: Mapping[str, Any] | None = None,
) -> list[Finding]:
    """One finding for each thing in `error`, without repeating the user's values; `told` is said already.

    `schema` is the JSON Schema of the file, where that is not the configuration.
    """
    document = schema if schema is not None else _schema()
    details = error.errors(include_url=False, include_context=True, include_input=True)
    unknown = {
        _path(one): _unknown_key(_path(one), document) for one in details if one["type"] == "extra_forbidden"
    }
    findings: list[Finding] = []
    for one in details:
        path = _path(one)
        if path in told:
            continue
        if path in unknown:
            findings.append(finding_at(tree, path, unknown[path]))
        elif one["type"] == "missing":
            if not _explained(path, unknown):
                findings.append(finding_at(tree, path, f"is missing; add `{path[-1]}: …` here"))
        else:
            findings.append(finding_at(tree, path, _said(one)))
    return findings


def empty_values(tree: Node, path: KeyPath = ()) -> list[KeyPath]:
    """Every key or list entry without a value. An empty `roles:` must not mean `everybody`."""
    value = tree.value
    if value is None:
        return [path]
    if isinstance(value, tuple):
        return [found for at, child in enumerate(value) for found in empty_values(child, (*path, at))]
    if isinstance(value, Mapping):
        return [
            found
            for key, child in value.items()
            if not (key in _FREE_FORM and path)
            for found in empty_values(child, (*path, key))
        ]
    return []


def _refused_here(path: KeyPath) -> bool:
    """True for a key of the full product that this version does not enforce."""
    return any(len(path) == len(known) and all(map(_fits, path, known)) for known in _NOT_YET)


def _fits(part: str | int, known: str | int) -> bool:
    return known in ("*", part)


def _path(detail: ErrorDetails) -> KeyPath:
    loc = detail["loc"]
    return loc[:-1] if loc and loc[-1] == "[key]" else loc


def _explained(path: KeyPath, unknown: Mapping[KeyPath, str]) -> bool:
    """A missing key needs no finding of its own when another key stands there in its place."""
    neighbours = [(other, text) for other, text in unknown.items() if other[:-1] == path[:-1]]
    return any(_refused_here(other) or f"write `{path[-1]}`" in text for other, text in neighbours)


def _unknown_key(path: KeyPath, document: Mapping[str, Any]) -> str:
    if _refused_here(path):
        return "is not supported in this version, so nothing would enforce it; remove it"
    known = _known_keys(path[:-1], document)
    near = _nearest(str(path[-1]), known)
    if near:
        return f"is not a key here; write `{near}`"
    return (
        f"is not a key here; the keys here are {_listed(known)}" if known else "is not a key here; remove it"
    )


def _nearest(word: str, known: Iterable[str]) -> str | None:
    by_folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word[:80].casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[near[0]] if near else None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _said(detail: ErrorDetails) -> str:
    """What is wrong with one value and what to write. Never the value itself: it may be a secret."""
    kind, context = detail["type"], detail.get("ctx", {})
    if detail["loc"] and detail["loc"][-1] == "[key]":
        return f"is not a name that can be used here; it must match `{context.get('pattern', '')}`"
    if kind in _SHAPES:
        return _SHAPES[kind]
    if kind == "enum":
        near = _nearest(
            str(detail.get("input")), str(context["expected"]).replace(" or ", ", ").split("'")[1::2]
        )
        return f"must be {context['expected']}" + (f"; did you mean `{near}`?" if near else "")
    if kind == "string_pattern_mismatch":
        return f"must match `{context['pattern']}`; change the text"
    if kind == "value_error":
        return f"is wrong: {context['error']}"
    return _SUBJECT.sub("must", detail["msg"]).replace(" after validation", "")


@cache
def _schema() -> dict[str, Any]:
    return config_json_schema()


def _known_keys(path: KeyPath, document: Mapping[str, Any]) -> list[str]:
    """The keys that the model at `path` has, by walking the published JSON Schema."""
    schema = _resolved(document, document)
    for part in path:
        schema = _resolved(_inside(schema, part), document)
    return list(schema.get("properties", {}))


def _inside(schema: Mapping[str, Any], part: str | int) -> Mapping[str, Any]:
    """The schema of one entry. Names an operator chooses share one schema, under a pattern or any name."""
    if isinstance(part, int):
        found = schema.get("items")
    elif part in schema.get("properties", {}):
        found = schema["properties"][part]
    else:
        patterns: dict[str, Any] = schema.get("patternProperties", {})
        found = next(iter(patterns.values())) if patterns else schema.get("additionalProperties")
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}


def _resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    for option in schema.get("anyOf", ()):
        if option.get("type") != "null":
            return _resolved(option, document)
    reference: str | None = schema.get("$ref")
    return document["$defs"][reference.rsplit("/", 1)[-1]] if reference else schema
