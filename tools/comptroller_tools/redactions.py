"""What of one tool's arguments and output is withheld by its fields: rules of the config, marks of the schemas, ids.

Ids that the config declares (`records`, `resource`) stay as they are, since refs and the next call need them; so a
rule or a mark on one of them is a finding, not something to be settled in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from comptroller_audit.errors import FieldRuleError
from comptroller_audit.fields import (
    ANY,
    SCHEMA_DEPTH_MAX,
    Audience,
    FieldRule,
    Fields,
    children,
    field_path,
    rules_of_schema,
)
from comptroller_audit.vocabulary import JsonObject
from comptroller_tools.declarations import RedactRule, ToolConfig

__all__ = ["Redactions", "can_hold", "configured_rules", "redactions_of"]

_PATH = re.compile(r"\{(input|output)\.([^{}]+)\}")
_INDEX = re.compile(r"\[\d*\]")
_EVERYBODY = frozenset({Audience.MODEL, Audience.PERSON, Audience.RECORD})
_READERS = {"model": Audience.MODEL, "person": Audience.PERSON}


@dataclass(frozen=True, slots=True)
class Redactions:
    """Field rules of one tool. `marked` are those that only its schemas know, by `arguments.to` or `output.a.b`."""

    arguments: tuple[FieldRule, ...] = ()
    output: tuple[FieldRule, ...] = ()
    marked: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def hides(self) -> bool:
        """Whether some field is withheld from models."""
        return any(Audience.MODEL not in rule.raw_for for rule in (*self.arguments, *self.output))


def configured_rules(
    config: ToolConfig, marked: Mapping[str, str] | None = None
) -> tuple[tuple[FieldRule, ...], tuple[FieldRule, ...]]:
    """The rules for arguments and for output that the config gives, with `marked` ones of a schema read before.

    Raises FieldRuleError for a path that is none.
    """
    written = tuple(_rule(rule) for rule in config.redact)
    ids = {
        root: tuple(FieldRule(f"$.{'.'.join(path)}", "id", _EVERYBODY) for path in paths)
        for root, paths in _ids(config).items()
    }
    arguments = tuple(FieldRule(f"$.{path}", kind) for path, kind in _under("arguments", marked))
    output = tuple(FieldRule(f"$.{path}", kind) for path, kind in _under("output", marked))
    return (*ids["input"], *written, *arguments), (*ids["output"], *written, *output)


def redactions_of(
    config: ToolConfig,
    input_schema: Mapping[str, Any],
    output_schema: Mapping[str, Any] | None,
    *,
    emails: bool,
) -> tuple[Redactions, list[tuple[str, str]]]:
    """A tool's rules, and what is wrong with them: `(config field, problem)`. `emails`: is `format: email` a mark."""
    problems: list[tuple[str, str]] = []
    marked: dict[str, str] = {}
    for root, schema in (("arguments", input_schema), ("output", output_schema or {})):
        try:
            rules = rules_of_schema(cast("JsonObject", dict(schema)), emails=emails)
        except FieldRuleError as error:
            problems.append(("", f"the schema of its {root}: {error}"))
            continue
        marked |= {f"{root}.{rule.path.removeprefix('$.')}": rule.kind for rule in rules}
    problems += _path_problems(config, (input_schema, output_schema or {}), input_schema)
    if problems:
        return Redactions(), problems
    problems += _hidden_ids(config, marked)
    arguments, output = configured_rules(config, marked)
    return Redactions(arguments, output, marked), problems


def _rule(rule: RedactRule) -> FieldRule:
    seen = {Audience.RECORD, *(_READERS[reader] for reader in rule.visible_to)}
    return FieldRule(rule.path, rule.kind or "", frozenset(seen))


def _under(root: str, marked: Mapping[str, str] | None) -> Iterator[tuple[str, str]]:
    for path, kind in (marked or {}).items():
        if path.startswith(f"{root}."):
            yield path.removeprefix(f"{root}."), kind


def _ids(config: ToolConfig) -> dict[str, list[tuple[str, ...]]]:
    """Paths of declared ids and versions. What `resource` names is an id in an output that repeats it, too."""
    found: dict[str, list[tuple[str, ...]]] = {"input": [], "output": []}
    templates = [text for rule in config.records for text in (rule.id, rule.version) if text]
    for text in [*templates, config.resource or ""]:
        for root, path in _PATH.findall(text):
            names = tuple(_INDEX.sub("", path).split("."))
            found[root].append(tuple(name for name in names if not name.isdigit()))
    found["output"] += found["input"]
    return found


def _hidden_ids(config: ToolConfig, marked: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Declared ids that a rule or a mark would withhold: then nothing of theirs could be cited."""
    written = [_rule(rule) for rule in config.redact]
    for root, shown in (("input", "arguments"), ("output", "output")):
        marks = [FieldRule(f"$.{path}", kind) for path, kind in _under(shown, marked)]
        rules = Fields([*written, *marks])
        for path in _ids(config)[root]:
            hiding = (rules.rule(path[:n]) for n in range(1, len(path) + 1))
            if any(rule is not None and Audience.MODEL not in rule.raw_for for rule in hiding):
                text = (
                    f"withholds `{'.'.join(path)}`, which `records` or `resource` names as an id; an id must say "
                    "nothing of a person, so name another field there, or take the rule away"
                )
                yield "redact" if written else "records", text


def _path_problems(
    config: ToolConfig, schemas: Sequence[Mapping[str, Any]], input_schema: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """A path that names nothing would withhold nothing, without a word."""
    for at, rule in enumerate(config.redact):
        try:
            names, named = field_path(rule.path), "." not in rule.path and not rule.path.startswith("$")
            _rule(rule)
        except FieldRuleError as error:
            yield f"redact[{at}].path", str(error)
            continue
        if not any(can_hold(schema, names, anywhere=named) for schema in schemas):
            yield f"redact[{at}].path", f"`{rule.path}` is no field of the tool's arguments or output"
    for at, path in enumerate(config.takes_tokens):
        try:
            names = field_path(path)
        except FieldRuleError as error:
            yield f"takes_tokens[{at}]", str(error)
            continue
        if not can_hold(input_schema, names, anywhere=False):
            yield f"takes_tokens[{at}]", f"`{path}` is no argument of the tool; paths begin at the arguments"


def can_hold(schema: Mapping[str, Any], names: tuple[str, ...], *, anywhere: bool) -> bool:
    """Whether `schema` can hold a field at `names`, or, `anywhere`, one with that name. An open object can hold any."""
    root = cast("JsonObject", dict(schema))
    nodes: list[tuple[Any, tuple[str, ...], int]] = [(root, names, 0)]
    while nodes:
        node, left, depth = nodes.pop()
        if not left or _is_open(node):
            return True
        if depth > SCHEMA_DEPTH_MAX or not isinstance(node, dict):
            continue
        for name, child in children(root, cast("JsonObject", node)):
            if name is None:
                nodes.append((child, left, depth + 1))
            elif name == left[0] or left[0] == ANY or (name == ANY and isinstance(child, dict)):
                nodes.append((child, left[1:], depth + 1))
            if anywhere and name is not None:
                nodes.append((child, left, depth + 1))
    return False


def _is_open(node: Any) -> bool:
    """Whether the schema says nothing about the members of what it describes."""
    if not isinstance(node, dict) or not node:
        return node is True or node == {}
    node = cast("JsonObject", node)
    if node.get("additionalProperties") is True:
        return True
    shapes = (
        "properties",
        "patternProperties",
        "additionalProperties",
        "$ref",
        "anyOf",
        "oneOf",
        "allOf",
        "items",
    )
    return (
        node.get("type") == "object"
        and not any(node.get(key) for key in shapes)
        and (node.get("additionalProperties") is not False)
    )
