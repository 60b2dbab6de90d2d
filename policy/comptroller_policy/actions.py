"""Tools as Cedar actions: their groups, their resource and the type of their context.

A tool `issue_refund` of effect `create` is the action `issue_refund` in the group `create`, which is in `call`.
Its action `issue_refund:after` is only in the group `after`; its context is the one before, unchanged, plus
`output` and `after.<fact>`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from comptroller_audit.vocabulary import Effect
from comptroller_policy.declarations import ToolRules
from comptroller_policy.model import ToolFacts
from comptroller_policy.patterns import pattern_names
from comptroller_policy.schema import (
    NAMESPACE,
    CedarType,
    Field,
    Kind,
    RecordOf,
    Scalar,
    cedar_json,
    cedar_type,
    record_type,
)
from comptroller_policy.syntax import Policy

__all__ = [
    "AFTER",
    "CALL",
    "GROUPS",
    "PRINCIPAL",
    "RESOURCES",
    "Action",
    "actions_of",
    "after_name",
    "in_scope",
    "schema_json",
]

CALL, AFTER = "call", "after"
GROUPS = frozenset({CALL, AFTER, *(effect.value for effect in Effect)})

PRINCIPAL = RecordOf(
    {
        "tenant": Field(Scalar(Kind.TENANT)),
        "kind": Field(Scalar(Kind.STRING)),
        "subject": Field(Scalar(Kind.STRING)),
    }
)
RESOURCES: Mapping[str, RecordOf] = MappingProxyType(
    {
        "Record": RecordOf({"kind": Field(Scalar(Kind.STRING)), "key": Field(Scalar(Kind.STRING))}),
        "Source": RecordOf({}),
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Action:
    """One Cedar action. `groups` are all it is in; `resource` is `Record` or `Source`; `context` is the full type."""

    name: str
    tool: ToolFacts
    groups: frozenset[str]
    resource: str
    context: RecordOf

    @property
    def is_after(self) -> bool:
        return AFTER in self.groups


def after_name(tool: str) -> str:
    return f"{tool}:after"


def actions_of(tool: ToolFacts, roles: Collection[str], *, rolled_out: bool = False) -> tuple[Action, Action]:
    """The two actions of a tool. `roles` are those that any policy of the bundle asks approvals of.

    `rolled_out` says that side effects are drawn for the canary, so that `context.rollout` is there.
    """
    before = _before(tool, roles, rolled_out)
    resource = "Record" if tool.resource_kind is not None else "Source"
    return (
        Action(tool.name, tool, frozenset({tool.effect.value, CALL}), resource, before),
        Action(after_name(tool.name), tool, frozenset({AFTER}), resource, _after(tool, before)),
    )


def _before(tool: ToolFacts, roles: Collection[str], rolled_out: bool) -> RecordOf:
    rules: ToolRules = tool.rules
    given = record_type(tool.input_schema)
    fields: dict[str, CedarType] = {
        "input": given,
        "actor": Scalar(Kind.ACTOR),
        "environment": Scalar(Kind.STRING),
        "task": _required({"id": Scalar(Kind.STRING), "step": Scalar(Kind.LONG)}),
        "now": Scalar(Kind.DATETIME),
    }
    declared = {name: tool.fact_schemas[name] for name in rules.facts if name in tool.fact_schemas}
    if declared:
        fields["facts"] = _outputs(declared)
    counters = [name.split(".", 1) for name in rules.history if "." in name]
    if counters:
        owners = sorted({owner for owner, _ in counters})
        fields["history"] = _required(
            {owner: _longs(name for of, name in counters if of == owner) for owner in owners}
        )
    if rules.derived:
        fields["derived"] = _required(dict.fromkeys(rules.derived, Scalar(Kind.DECIMAL)))
    if followed := sorted((given.fields.keys() | given.absent.keys()) & rules.provenance.keys()):
        fields["provenance"] = _required(dict.fromkeys(followed, Scalar(Kind.STRING)))
    if patterns := sorted(given.fields.keys() & set(pattern_names(rules.constraints))):
        fields["patterns"] = _required(dict.fromkeys(patterns, Scalar(Kind.BOOL)))
    if roles:
        fields["approvals"] = _longs(roles)
    if rolled_out and tool.effect is not Effect.READ:
        fields["rollout"] = _required({"canary": Scalar(Kind.BOOL)})
    return _required(fields)


def _after(tool: ToolFacts, before: RecordOf) -> RecordOf:
    fields, absent = dict(before.fields), dict(before.absent)
    if tool.output_schema is None:
        absent["output"] = "is not described by the tool"
    elif tool.output_schema.get("type") == "object":
        fields["output"] = Field(record_type(tool.output_schema))
    else:
        _add(fields, absent, "output", tool.output_schema)
    facts = before.fields.get("facts")
    if facts is not None:
        fields["after"] = facts
    return RecordOf(fields, absent)


def _outputs(schemas: Mapping[str, Mapping[str, Any]]) -> RecordOf:
    fields: dict[str, Field] = {}
    absent: dict[str, str] = {}
    for name, schema in schemas.items():
        _add(fields, absent, name, schema)
    return RecordOf(fields, absent)


def _add(fields: dict[str, Field], absent: dict[str, str], name: str, schema: Mapping[str, Any]) -> None:
    found = cedar_type(schema)
    if isinstance(found, CedarType):
        fields[name] = Field(found)
    else:
        absent[name] = found.reason


def _required(types: Mapping[str, CedarType]) -> RecordOf:
    return RecordOf({name: Field(type_) for name, type_ in types.items()})


def _longs(names: Iterable[str]) -> RecordOf:
    return _required({name: Scalar(Kind.LONG) for name in sorted(names)})


def in_scope(policy: Policy, action: Action) -> bool:
    """Whether the policy's head (`action == …`, `action in …`, `action`) covers the action."""
    scope = policy.body["action"]
    if scope["op"] == "All":
        return True
    named = scope.get("entities") or [scope["entity"]]
    ids = {item["id"] for item in named if item["type"] == f"{NAMESPACE}::Action"}
    return action.name in ids or (scope["op"] == "in" and not ids.isdisjoint(action.groups))


def schema_json(actions: Iterable[Action], contexts: Mapping[str, RecordOf] | None = None) -> str:
    """The Cedar schema of these actions, in Cedar's JSON format. `contexts` replaces types by action name (pruned)."""
    declared: dict[str, Any] = {CALL: {}, AFTER: {}}
    declared |= {effect.value: {"memberOf": [{"id": CALL}]} for effect in Effect}
    for action in actions:
        context = action.context if contexts is None else contexts[action.name]
        group = AFTER if action.is_after else action.tool.effect.value
        declared[action.name] = {
            "memberOf": [{"id": group}],
            "appliesTo": {
                "principalTypes": ["Principal"],
                "resourceTypes": [action.resource],
                "context": cedar_json(context),
            },
        }
    entities: dict[str, Any] = {name: {} for name in ("Role", "Tenant", "Actor", "Source")}
    entities["Principal"] = {"memberOfTypes": ["Role"], "shape": cedar_json(PRINCIPAL)}
    entities["Record"] = {"memberOfTypes": ["Source"], "shape": cedar_json(RESOURCES["Record"])}
    return json.dumps({NAMESPACE: {"entityTypes": entities, "actions": declared}})
