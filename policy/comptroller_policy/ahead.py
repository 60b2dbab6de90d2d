"""Deciding ahead of time about a call whose look-ups, and perhaps some arguments, are not known yet.

A call that reverses another one is decided together with it, when only part of it can be told. What is certain to be
denied is denied now; a gate that may turn out closed counts as closed, so that a person is asked now and not too late.

Each policy is asked by itself, with just what it reads: Cedar takes nothing out of a record of which a part is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from comptroller_policy.cedar import Entities, PolicySet, ask_partially
from comptroller_policy.errors import ValueInexact
from comptroller_policy.model import Decision, Gate, Question, Verdict
from comptroller_policy.schema import CedarType, Kind, RecordOf, SetOf, cedar_value
from comptroller_policy.slices import Prepared, literal, policy_set, uid, unknown
from comptroller_policy.syntax import Policy

__all__ = ["AHEAD_DENY", "decide_ahead"]

AHEAD_DENY = "ahead.deny"
"""The id in a decision when nothing would permit the call, or what is known of it cannot be evaluated."""


def decide_ahead(
    prepared: Prepared,
    gates: Mapping[str, Gate],
    question: Question,
    entities: Entities,
    missing: frozenset[str],
) -> Decision:
    """DENY when the call can never be allowed, NEEDS_APPROVAL with every gate that may be closed, else ALLOW.

    `question.input` holds the arguments that are known; those in `missing` are not. An error is a deny.
    """
    permitted, forbids, closed, errors = False, list[Policy](), list[Policy](), list[str]()
    for policy, alone in _each(prepared):
        try:
            request = _request(prepared, policy, question, missing)
        except ValueInexact as error:
            errors.append(str(error))
            continue
        holds, _, found = ask_partially(request, alone, entities)
        errors += found
        if policy.body["effect"] == "permit":
            permitted = permitted or holds is not False
        elif (gate := gates.get(policy.id)) is not None:
            given = question.approvals.get(gate.role, 0) >= gate.count  # opens it, whatever else is not known
            closed += [policy] if holds is not False and not given else []
        elif holds:
            forbids.append(policy)
    if errors:
        return Decision(
            Verdict.DENY, (AHEAD_DENY,), ("A policy could not be evaluated.",), errors=tuple(errors)
        )
    if forbids:
        return Decision(Verdict.DENY, tuple(p.id for p in forbids), _reasons(forbids))
    if not permitted:
        return Decision(Verdict.DENY, (AHEAD_DENY,), ("No policy permits this call.",))
    if closed:
        found_gates = tuple(gates[policy.id] for policy in closed)
        return Decision(Verdict.NEEDS_APPROVAL, tuple(p.id for p in closed), _reasons(closed), found_gates)
    return Decision(Verdict.ALLOW)


def _reasons(policies: list[Policy]) -> tuple[str, ...]:
    return tuple(policy.reason or f"The policy {policy.id} decided." for policy in policies)


@lru_cache(maxsize=256)
def _each(prepared: Prepared) -> tuple[tuple[Policy, PolicySet], ...]:
    """Each policy alone and as a permit: it allows exactly when its conditions hold."""
    return tuple(
        (policy, policy_set([replace(policy, body={**policy.body, "effect": "permit"})]))
        for policy in prepared.policies
    )


def _request(
    prepared: Prepared, policy: Policy, question: Question, missing: frozenset[str]
) -> dict[str, Any]:
    """The call with what `policy` reads of it. Raises ValueInexact."""
    action = prepared.action
    reads: dict[str, set[str]] = {}
    for path in policy.reads:
        if path[0] == "context":  # what reads a record as a whole reads all of its fields
            root = path[1] if len(path) > 1 else "input"
            reads.setdefault(root, set()).update(path[2:3] or ("",))
    fields = action.context.fields
    context = {
        root: _value(root, fields[root].type, question, names, missing)
        for root, names in reads.items()
        if root in fields
    }
    request: dict[str, Any] = {"action": literal("Action", action.name), "context": context}
    if action.resource == "Source":
        request["resource"] = literal("Source", action.tool.source)
    if (
        question.subject.principal.id.isprintable()
    ):  # else unknown: Cedar's parser refuses other names in this form
        request["principal"] = literal("Principal", question.subject.principal.id)
    return request


def _value(root: str, type_: Any, question: Question, names: set[str], missing: frozenset[str]) -> Any:
    if root == "approvals":
        return {role: question.approvals.get(role, 0) for role in type_.fields}
    if root == "actor":
        return {"__entity": uid("Actor", question.subject.actor.id)}
    if root == "rollout":
        return {"canary": question.canary}
    if root == "environment":
        return question.environment
    if root == "input" and isinstance(type_, RecordOf) and "" not in names and not names & missing:
        return {
            name: _explicit(
                cedar_value(question.input[name], type_.fields[name].type, f"input.{name}"),
                type_.fields[name].type,
            )
            for name in names
            if name in type_.fields and question.input.get(name) is not None
        }
    return unknown(root)


_EXTENSIONS = {Kind.DECIMAL: "decimal", Kind.DATETIME: "datetime"}


def _explicit(value: Any, type_: CedarType) -> Any:
    """A value as Cedar reads it without a schema."""
    if isinstance(type_, RecordOf):
        return {name: _explicit(item, type_.fields[name].type) for name, item in value.items()}
    if isinstance(type_, SetOf):
        return [_explicit(item, type_.item) for item in value]
    if type_.kind in _EXTENSIONS:
        return {"__extn": {"fn": _EXTENSIONS[type_.kind], "arg": value}}
    return {"__entity": value} if type_.kind in (Kind.TENANT, Kind.ACTOR) else value
