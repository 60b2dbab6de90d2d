"""The policies of one action, prepared: parsed, their schema and context pruned to what they read.

A decision costs what its slice reads: a decimal about 10 µs, a whole number 2, so nothing else is sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from comptroller_audit.vocabulary import Principal, Subject
from comptroller_policy.actions import Action, schema_json
from comptroller_policy.cedar import (
    Answered,
    Entities,
    PolicySet,
    Schema,
    Uid,
    ask,
    ask_partially,
    entities_of,
)
from comptroller_policy.errors import ValueInexact
from comptroller_policy.model import Question, Record
from comptroller_policy.patterns import patterns_met
from comptroller_policy.schema import NAMESPACE, RecordOf, cedar_value, prune
from comptroller_policy.syntax import APPROVALS_ASSUMED, Policy, quoted

__all__ = [
    "Prepared",
    "action_entities",
    "literal",
    "may_allow",
    "prepare",
    "principal_entities",
    "uid",
    "unknown",
    "with_record",
]

KNOWN_MAX = 4096
"""Answers that are remembered."""
KNOWN_CHARS_MAX = 1_000
"""Questions with a longer context are not remembered."""
_CACHEABLE_ROOTS = frozenset({"actor", "environment", "approvals", "rollout"})


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Policies ready to be asked about one action.

    `reads_record` is true when a policy reads the resource's attributes or parent, `reads_resource` when one names it
    at all, `reads_call` when the answer depends on more than the principal, its actor, the environment, the approvals and the draw. `reasons` is by policy id.
    """

    action: Action
    policies: tuple[Policy, ...]
    context: RecordOf
    handle: PolicySet
    schema: Schema
    uid: Uid
    reads_record: bool
    reads_resource: bool
    reads_call: bool
    reasons: Mapping[str, str | None]

    def ask(
        self,
        question: Question,
        approvals: Mapping[str, int],
        entities: Entities,
        known: MutableMapping[object, Answered],
    ) -> Answered:
        """Cedar's answer, asked for or among the `known` ones: the same question has the same answer.

        A value that policy reads and that has no exact form is an error, so a deny.
        """
        try:
            context = self.context_of(question, approvals)
            resource = resource_of(self.action, question)
        except ValueInexact as error:
            return Answered(allowed=False, policies=(), errors=(str(error),))
        subject = question.subject
        # All that the answer depends on: what is left out of the context here, no policy of these reads.
        asked = (
            self,
            subject.principal,
            subject.roles,
            resource["id"] if self.reads_resource else "",
            context,
        )
        found = known.get(asked)
        if found is None:
            principal = uid("Principal", subject.principal.id)
            found = ask(principal, self.uid, resource, context, self.handle, entities, self.schema)
            if len(found.policies) > 1:
                decided = set(found.policies)
                found = replace(
                    found, policies=[policy.id for policy in self.policies if policy.id in decided]
                )
            if not found.errors and len(context) <= KNOWN_CHARS_MAX:
                if len(known) >= KNOWN_MAX:
                    known.clear()
                known[asked] = found
        return found

    def context_of(self, question: Question, approvals: Mapping[str, int]) -> str:
        """The context as JSON text. Raises ValueInexact."""
        values = {
            root: cedar_value(_raw(root, field.type, self.action, question, approvals), field.type, root)
            for root, field in self.context.fields.items()
        }
        return json.dumps(values)


def prepare(action: Action, policies: Sequence[Policy]) -> Prepared:
    """Parse and prune once, at load."""
    paths = {path[1:] for policy in policies for path in policy.reads if path[0] == "context"}
    context = prune(action.context, paths)
    reads_record = any(_reads_record(policy) for policy in policies)
    named = any(policy.body["resource"]["op"] not in ("All", "is") for policy in policies)
    return Prepared(
        action,
        tuple(policies),
        context,
        policy_set(policies),
        Schema.from_json_str(schema_json([action], {action.name: context})),
        uid("Action", action.name),
        reads_record,
        reads_record or named,
        reads_record or named or not context.fields.keys() <= _CACHEABLE_ROOTS,
        {policy.id: policy.reason for policy in policies},
    )


def policy_set(policies: Iterable[Policy]) -> PolicySet:
    """A parsed set whose policy ids are the `@id`s."""
    bodies = {policy.id: policy.body for policy in policies}
    return PolicySet.from_json_str(
        json.dumps({"templates": {}, "staticPolicies": bodies, "templateLinks": []})
    )


def _reads_record(policy: Policy) -> bool:
    scope = policy.body["resource"]
    return any(path[0] == "resource" for path in policy.reads) or scope["op"] == "in" or "in" in scope


# ----------------------------------------------------------------------------------------------- request


def uid(type_: str, id_: str) -> Uid:
    return {"type": f"{NAMESPACE}::{type_}", "id": id_}


def record_id(source: str, record: Record) -> str:
    return f"{source}/{record.kind}/{record.key}"


def resource_of(action: Action, question: Question) -> Uid:
    """The record the call acts on, or the source of a tool that declares none. Raises ValueInexact."""
    record, kind = question.record, action.tool.resource_kind
    if kind is None:
        if record is not None:
            raise ValueInexact(
                f"{action.tool.name} declares no resource, but the call names a {record.kind}."
            )
        return uid("Source", action.tool.source)
    if record is None or record.kind != kind or not record.key:
        raise ValueInexact(f"{action.tool.name} acts on a record of kind {kind}, and the call names none.")
    return uid("Record", record_id(action.tool.source, record))


def _raw(root: str, type_: Any, action: Action, question: Question, approvals: Mapping[str, int]) -> Any:
    """The JSON value of one root of the context, before it is typed."""
    if root == "history":
        return {
            owner: {name: question.history.get(f"{owner}.{name}") for name in field.type.fields}
            for owner, field in type_.fields.items()
        }
    if root == "patterns":
        return patterns_met(action.tool.rules.constraints, question.input)
    if root == "approvals":
        return {role: approvals.get(role, 0) for role in type_.fields}
    if root == "rollout":
        return {"canary": question.canary}
    if root == "task":
        return {"id": question.task, "step": question.step}
    if root == "actor":
        return question.subject.actor.id
    if root == "now":
        return _datetime(question.now_ms)
    return getattr(question, root)


def _datetime(now_ms: int) -> str:
    # Integer arithmetic: a float of seconds would lose the millisecond far from the epoch.
    seconds, ms = divmod(now_ms, 1000)
    try:
        at = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise ValueInexact(f"now is not a time: {now_ms} ms.") from error
    return f"{at:%Y-%m-%dT%H:%M:%S}.{ms:03d}Z"


def action_entities(action: Action) -> Entities:
    """The action as a child of its groups.

    Cedar takes the action hierarchy from the entities, not from the schema of the request: without this entity
    `action in Comptroller::Action::"create"` is false, and a forbid on a group would silently not apply.
    """
    parents = [uid("Action", group) for group in sorted(action.groups)]
    return entities_of([{"uid": uid("Action", action.name), "attrs": {}, "parents": parents}])


def principal_entities(action: Action, principal: Principal, roles: Iterable[str]) -> Entities:
    """The action, and the principal with its roles as parents and its attributes."""
    entity = {
        "uid": uid("Principal", principal.id),
        "attrs": {
            "tenant": {"__entity": uid("Tenant", principal.tenant)},
            "kind": principal.kind.value,
            "subject": principal.subject,
        },
        "parents": [uid("Role", role) for role in sorted(roles)],
    }
    return entities_of([entity], action_entities(action))


def with_record(entities: Entities, source: str, record: Record) -> Entities:
    """`entities` and the record, child of its source."""
    entity = {
        "uid": uid("Record", record_id(source, record)),
        "attrs": {"kind": record.kind, "key": record.key},
        "parents": [uid("Source", source)],
    }
    return entities_of([entity], entities)


# ----------------------------------------------------------------------------------------------- unknowns


def may_allow(
    prepared: Prepared, subject: Subject | None, entities: Entities, *, assume_approvals: bool = False
) -> tuple[bool, Sequence[str]]:
    """Whether any call could be allowed (or be put to a person), and the policies that forbid every one.

    Partial evaluation with everything unknown that a listing cannot know: arguments, look-ups, history, time and
    the record. Without `subject` the principal is unknown too. An error is a no: the call would be denied.
    """
    action = prepared.action
    context: dict[str, Any] = {root: unknown(root) for root in action.context.fields}
    request: dict[str, Any] = {"action": literal("Action", action.name), "context": context}
    if assume_approvals and "approvals" in action.context.fields:
        roles: Any = action.context.fields["approvals"].type
        context["approvals"] = dict.fromkeys(roles.fields, APPROVALS_ASSUMED)
    if action.resource == "Source":
        request["resource"] = literal("Source", action.tool.source)
    if subject is not None:
        context["actor"] = {"__entity": uid("Actor", subject.actor.id)}
        if subject.principal.id.isprintable():
            # Cedar's parser refuses other names in this form; unknown is then the careful choice: listed.
            request["principal"] = literal("Principal", subject.principal.id)
    allowed, must, errors = ask_partially(request, prepared.handle, entities)
    return allowed is not False and not errors, must


def unknown(name: str) -> dict[str, Any]:
    """A value that partial evaluation does not know."""
    return {"__extn": {"fn": "unknown", "arg": name}}


def literal(type_: str, id_: str) -> str:
    """An entity as partial evaluation names it."""
    return f"{NAMESPACE}::{type_}::{quoted(id_)}"
