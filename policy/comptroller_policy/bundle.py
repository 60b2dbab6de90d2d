"""Compile config and policy files into a `Bundle`, or say everything that is wrong with them at once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from comptroller_audit.vocabulary import Effect
from comptroller_policy.actions import GROUPS, Action, actions_of, in_scope
from comptroller_policy.declarations import RequesterTerms, RolloutMode, ToolRules
from comptroller_policy.engine import (
    AFTER_IMPLICIT,
    DEFAULT_DENY,
    EARLY_IMPLICIT,
    ERROR_DENY,
    Bundle,
    ToolSlice,
)
from comptroller_policy.errors import BundleInvalid, Finding
from comptroller_policy.expressions import check_expression, check_template, compile_expression
from comptroller_policy.fact_order import CIRCLE, in_a_circle
from comptroller_policy.lint import lint
from comptroller_policy.model import PolicyFile, Reads, ToolFacts
from comptroller_policy.paths import Schemas
from comptroller_policy.rules import compile_rules
from comptroller_policy.schema import record_type
from comptroller_policy.slices import Prepared, action_entities, may_allow, prepare
from comptroller_policy.syntax import Policy, parse_file, parse_policy

__all__ = ["CALL_SCHEMA", "TASK_SCHEMA", "compile_bundle"]

CALL_SCHEMA = {"type": "object", "properties": {"id": {"type": "string"}, "effect_key": {"type": "string"}}}
TASK_SCHEMA = {"type": "object", "properties": {"id": {"type": "string"}, "step": {"type": "integer"}}}

_RESERVED_IDS = frozenset({DEFAULT_DENY, AFTER_IMPLICIT, EARLY_IMPLICIT, ERROR_DENY})
_COUNTER = re.compile(r"(task|principal)\.[A-Za-z][A-Za-z0-9_]{0,63}")
_LOOKED_UP = ("facts", "history", "derived", "provenance", "rollout")
"""What is not known before the look-ups; a draw is made from the record that a look-up names."""


def compile_bundle(
    tools: Sequence[ToolFacts],
    files: Sequence[PolicyFile],
    rollout: RolloutMode,
    requester: RequesterTerms | None = None,
) -> Bundle:
    """The bundle of these tools and policy files. Raises BundleInvalid with every finding."""
    findings = [*_tool_findings(tools)]
    policies: list[Policy] = []
    for tool in tools:
        compiled, wrong = compile_rules(tool, rollout)
        policies.extend(compiled)
        findings.extend(wrong)
    for file in files:
        parsed, wrong = parse_file(file)
        policies.extend(parsed)
        findings.extend(wrong)
    if any(finding.where == "tools" for finding in findings):
        # Names that clash would make one Cedar action of two tools; nothing after this can be judged.
        raise BundleInvalid(findings)
    roles = sorted({policy.gate.role for policy in policies if policy.gate is not None})
    rolled_out = rollout is not RolloutMode.OFF
    actions = [action for tool in tools for action in actions_of(tool, roles, rolled_out=rolled_out)]
    findings.extend(lint(policies, actions, _RESERVED_IDS, requester or RequesterTerms()))
    if findings:
        raise BundleInvalid(findings)
    slices = {
        before.tool.name: _slice(before, after, policies)
        for before, after in zip(actions[::2], actions[1::2], strict=True)
    }
    stuck = _gates_that_never_open(slices.values())
    if stuck:
        raise BundleInvalid(stuck)
    return Bundle(_digest(tools, files, rollout), _text(policies, files), slices)


# ------------------------------------------------------------------------------------- what tools declare


def _tool_findings(tools: Sequence[ToolFacts]) -> Iterator[Finding]:
    by_name: dict[str, ToolFacts] = {}
    for tool in tools:
        if tool.name in GROUPS:
            yield Finding(
                "tools", f"a tool cannot be named `{tool.name}`: policies use that name for a group."
            )
        elif tool.name in by_name:
            yield Finding("tools", f"two tools are named `{tool.name}`; names are unique.")
        by_name[tool.name] = tool
    for tool in tools:
        yield from _declared(tool, by_name)


def _declared(tool: ToolFacts, by_name: dict[str, ToolFacts]) -> Iterator[Finding]:
    rules: ToolRules = tool.rules
    where = f"tools.{tool.name}"
    own: Schemas = {"input": tool.input_schema, "call": CALL_SCHEMA, "task": TASK_SCHEMA}
    for name, fact in rules.facts.items():
        target = by_name.get(fact.tool)
        if target is None:
            yield Finding(f"{where}.facts.{name}.tool", f"there is no tool `{fact.tool}`.")
        elif target.effect is not Effect.READ:
            yield Finding(
                f"{where}.facts.{name}.tool", f"{fact.tool} is not classified as read: a fact only reads."
            )
        elif name not in tool.fact_schemas:
            yield Finding(
                f"{where}.facts.{name}", f"{fact.tool} has no output schema, so policy cannot read it."
            )
        for fault in check_template(fact.arguments, {**own, **_other_facts(tool, name)}):
            yield Finding(f"{where}.facts.{name}.arguments", fault)
    for name in in_a_circle(rules.facts):
        yield Finding(f"{where}.facts.{name}.arguments", CIRCLE)
    facts = {f"facts.{name}": schema for name, schema in tool.fact_schemas.items()}
    for name, text in rules.derived.items():
        for fault in check_expression(text, {**own, **facts}):
            yield Finding(f"{where}.derived.{name}", fault)
    for name, counter in rules.history.items():
        if _COUNTER.fullmatch(name) is None:
            yield Finding(f"{where}.history.{name}", "name a counter task.<name> or principal.<name>.")
        if counter.count not in by_name:
            yield Finding(f"{where}.history.{name}.count", f"there is no tool `{counter.count}`.")
    given = record_type(tool.input_schema)
    for name in sorted(rules.provenance.keys() - given.fields.keys() - given.absent.keys()):
        yield Finding(f"{where}.provenance.{name}", f"the tool has no argument `{name}`.")
    if rules.resource is not None:
        for fault in check_template(rules.resource, own):
            yield Finding(f"{where}.resource", fault)


def _other_facts(tool: ToolFacts, name: str) -> Schemas:
    """What the arguments of one look-up may name of the others."""
    return {f"facts.{other}": schema for other, schema in tool.fact_schemas.items() if other != name}


# ------------------------------------------------------------------------------------------------- slices


def _slice(before: Action, after: Action, policies: Sequence[Policy]) -> ToolSlice:
    here = [policy for policy in policies if in_scope(policy, before)]
    ids = {policy.id for policy in here}
    # Before and after share the context, so a forbid that already passed and reads nothing new passes again.
    later = [
        policy
        for policy in policies
        if not policy.permits and in_scope(policy, after) and (policy.id not in ids or _reads_outcome(policy))
    ]
    prepared = prepare(before, here)
    prepared_after = prepare(after, [_implicit(AFTER_IMPLICIT), *later]) if later else None
    gates = {policy.id: policy.gate for policy in here if policy.gate is not None}
    early = _early(before, here)
    reads = _reads(before.tool, prepared, prepared_after, early is not None, {g.role for g in gates.values()})
    return ToolSlice(before.tool.name, prepared, early, prepared_after, gates, reads)


def _reads_outcome(policy: Policy) -> bool:
    return policy.reads_root("output") or policy.reads_root("after") or ("action",) in policy.reads


def _early(action: Action, policies: Sequence[Policy]) -> Prepared | None:
    """What can deny before anything is looked up, or None when nothing can or nothing would be looked up."""
    rules: ToolRules = action.tool.rules
    if not rules.facts and not rules.history:
        return None
    known = [p for p in policies if not any(p.reads_root(root) for root in _LOOKED_UP) and p.gate is None]
    late_permit = any(policy.permits for policy in policies if policy not in known)
    if late_permit:
        known.append(_implicit(EARLY_IMPLICIT))
    certain = late_permit or any(_unconditional(policy) for policy in known if policy.permits)
    if certain and all(policy.permits for policy in known):
        return None
    return prepare(action, known)


def _unconditional(policy: Policy) -> bool:
    body = policy.body
    return not body["conditions"] and body["principal"]["op"] == "All" and body["resource"]["op"] == "All"


def _implicit(id_: str) -> Policy:
    found = parse_policy(f'@id("{id_}") permit (principal, action, resource);', "comptroller")
    if isinstance(found, Finding):
        raise BundleInvalid([found])
    return found


def _reads(
    tool: ToolFacts, before: Prepared, after: Prepared | None, early: bool, roles: Iterable[str]
) -> Reads:
    paths = {
        path
        for prepared in (before, after)
        if prepared
        for policy in prepared.policies
        for path in policy.reads
    }
    rules: ToolRules = tool.rules

    def named(root: str, declared: Iterable[str]) -> frozenset[str]:
        used = {path[2] if len(path) > 2 else None for path in paths if path[:2] == ("context", root)}
        return frozenset(name for name in declared if None in used or name in used)

    derived = named("derived", rules.derived)
    needed = {path.split(".")[1] for name in derived for path in _facts_of(rules.derived[name])}
    history = {tuple(path[2:4]) for path in paths if path[:2] == ("context", "history")}
    return Reads(
        facts=named("facts", rules.facts) | frozenset(needed),
        history=frozenset(
            name for name in rules.history if any(tuple(name.split("."))[: len(p)] == p for p in history)
        ),
        derived=derived,
        provenance=named("provenance", rules.provenance),
        approvals=frozenset(roles),
        after=after is not None,
        after_facts=named("after", rules.facts) if after else frozenset(),
        inputs=before.reads_call,
        early=early,
    )


def _facts_of(expression: str) -> list[str]:
    return [path for path in compile_expression(expression).paths if path.startswith("facts.")]


def _gates_that_never_open(slices: Iterable[ToolSlice]) -> list[Finding]:
    """Gates of tools where even every approval leaves every call denied: asking a person would be pointless."""
    opens: dict[str, bool] = {}
    blocked: dict[str, tuple[Policy, str]] = {}
    for slice_ in slices:
        gates = [policy for policy in slice_.before.policies if policy.id in slice_.gates]
        if not gates:
            continue
        possible, must = may_allow(
            slice_.before, None, action_entities(slice_.before.action), assume_approvals=True
        )
        for policy in gates:
            opens[policy.id] = opens.get(policy.id, False) or possible
            blocked[policy.id] = (policy, ", ".join(sorted(must)) or DEFAULT_DENY)
    return [
        Finding(policy.where, f"no approval can open this gate: {by} denies every call anyway.")
        for id_, (policy, by) in blocked.items()
        if not opens[id_]
    ]


# ----------------------------------------------------------------------------------------- text and digest


def _text(policies: Sequence[Policy], files: Sequence[PolicyFile]) -> str:
    names = tuple(f"{file.name}:" for file in files)
    compiled = [policy for policy in policies if not policy.where.startswith(names or ("\0",))]
    parts = ["// From the config.", f"// What no policy permits is denied as {DEFAULT_DENY}.\n"]
    parts.extend(f"// {policy.where}\n{policy.text}\n" for policy in compiled)
    parts.extend(f"// {file.name}\n{file.text.rstrip()}\n" for file in files)
    return "\n".join(parts)


def _digest(tools: Sequence[ToolFacts], files: Sequence[PolicyFile], rollout: RolloutMode) -> str:
    covered: dict[str, Any] = {
        "v": 1,
        "rollout": rollout.value,
        "files": [[file.name, file.text] for file in files],
        "tools": [
            {
                "name": tool.name,
                "source": tool.source,
                "effect": tool.effect.value,
                "resource_kind": tool.resource_kind,
                "input": tool.input_schema,
                "output": tool.output_schema,
                "facts": dict(tool.fact_schemas),
                "rules": tool.rules.model_dump(mode="json"),
            }
            for tool in tools
        ],
    }
    text = json.dumps(covered, sort_keys=True, separators=(",", ":"), default=dict)
    return hashlib.sha256(b"comptroller/bundle/v1\n" + text.encode()).hexdigest()
