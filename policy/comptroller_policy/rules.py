"""What the config says about a tool, as Cedar text with stable `@id`s. `comptroller policy show` prints it.

allow_actions, roles   <tool>.allow                      permit
hidden                 <tool>.hidden                     forbid, for everybody but Comptroller itself
constraints            <tool>.max_<arg>, .min_<arg>, .require_<arg>, .one_of.<arg>, .pattern.<arg>   forbid
approval               <tool>.approval.<role>[.<n>]      gate
nothing classified     <tool>.unclassified               gate, one approver (a requester's gate does not replace it)
rollout.mode           rollout.human_approval.<tool>     gate, one approver, outside the canary
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from comptroller_audit.vocabulary import Effect
from comptroller_policy.declarations import ApprovalRule, RolloutMode, ToolRules
from comptroller_policy.errors import Finding, ValueInexact
from comptroller_policy.model import ToolFacts
from comptroller_policy.paths import is_list, is_object
from comptroller_policy.patterns import pattern_fault
from comptroller_policy.schema import (
    NAMESPACE,
    CedarType,
    Kind,
    Scalar,
    SetOf,
    cedar_value,
    enum_of,
    record_type,
)
from comptroller_policy.syntax import Policy, parse_policy, quoted

__all__ = ["APPROVER", "OURSELVES", "REQUESTER", "compile_rules"]

APPROVER = "approver"
REQUESTER = "requester"
"""A confirmation by the person at the client: their client's word, so never enough where people must agree."""

OURSELVES = "comptroller|service:comptroller"
"""The principal of look-ups and reversals. No identity provider is an issuer of this name: theirs are URLs."""

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CEDAR_WORDS = frozenset({"true", "false", "if", "then", "else", "in", "like", "has", "is", "__cedar"})
_SHAPES = (
    "max_<argument>, min_<argument>, require_<argument>: true, one_of: {<argument>: [values]}, "
    'pattern: {<argument>: "regular expression"}'
)
PATTERN_CHARS_SHOWN = 100
CHOICES_NAMED_MAX = 12
"""Values of an enum that a refusal names."""


@dataclass(frozen=True, slots=True)
class _Argument:
    """A top-level argument as Cedar writes it: `guard` is `context.input has x && `, or empty when required."""

    name: str
    type: CedarType
    required: bool

    @property
    def read(self) -> str:
        return self.read_from("context.input")

    def read_from(self, record: str) -> str:
        return f"{record}{f'.{self.name}' if _is_plain(self.name) else f'[{quoted(self.name)}]'}"

    @property
    def has(self) -> str:
        return f"context.input has {self.name if _is_plain(self.name) else quoted(self.name)}"

    @property
    def guard(self) -> str:
        return "" if self.required else f"{self.has} && "


def _is_plain(name: str) -> bool:
    return _PLAIN.fullmatch(name) is not None and name not in _CEDAR_WORDS


def compile_rules(tool: ToolFacts, rollout: RolloutMode) -> tuple[list[Policy], list[Finding]]:
    """The policies of one tool's config and what is wrong with it, each at its config path."""
    rules: ToolRules = tool.rules
    found = [
        *_permits(tool, rules),
        *_hidden(tool, rules),
        *_constraints(tool, rules),
        *_approvals(tool, rules),
        *_defaults(tool, rules, rollout),
    ]
    policies = [item for item in found if isinstance(item, Policy)]
    return policies, [item for item in found if isinstance(item, Finding)]


def _policy(
    id_: str, where: str, reason: str, effect: str, tool: str, rest: str, approval: str = ""
) -> Policy | Finding:
    gate = f" @approval({quoted(approval)})" if approval else ""
    action = f"{NAMESPACE}::Action::{quoted(tool)}"
    text = (
        f"@id({quoted(id_)}){gate} @reason({quoted(reason)})\n"
        f"{effect} (principal, action == {action}, resource)\n{rest};"
    )
    return parse_policy(text.replace("\n;", ";"), where)


# ---------------------------------------------------------------------------------------------- permits


def _permits(tool: ToolFacts, rules: ToolRules) -> Iterator[Policy | Finding]:
    where = f"tools.{tool.name}.roles"
    if rules.roles is None:
        yield _policy(
            f"{tool.name}.allow", where, f"{tool.name} is open to everyone here.", "permit", tool.name, ""
        )
    elif rules.roles:
        named = ", ".join(f"{NAMESPACE}::Role::{quoted(role)}" for role in rules.roles)
        reason = f"{tool.name} is open to {' and '.join(rules.roles)}."
        rest = f"when {{ principal in [{named}] }}"
        yield _policy(f"{tool.name}.allow", where, reason, "permit", tool.name, rest)


def _hidden(tool: ToolFacts, rules: ToolRules) -> Iterator[Policy | Finding]:
    if rules.hidden:
        reason = f"{tool.name} is for Comptroller's own look-ups and reversals."
        rest = f"unless {{ principal == {NAMESPACE}::Principal::{quoted(OURSELVES)} }}"
        yield _policy(f"{tool.name}.hidden", f"tools.{tool.name}.hidden", reason, "forbid", tool.name, rest)


# ------------------------------------------------------------------------------------------ constraints


def _constraints(tool: ToolFacts, rules: ToolRules) -> Iterator[Policy | Finding]:
    for key, value in rules.constraints.items():
        where = f"tools.{tool.name}.constraints.{key}"
        word, _, name = key.partition("_")
        if key == "one_of":
            yield from _one_of(tool, value, where)
        elif key == "pattern":
            yield from _patterns(tool, value, where)
        elif word in ("max", "min", "require") and name:
            argument = _argument(tool, name, where)
            if isinstance(argument, Finding):
                yield argument
            elif word == "require":
                yield _require(tool, argument, value, where)
            else:
                yield _bound(tool, argument, word, value, where)
        else:
            yield Finding(where, f"`{key}` is not a constraint; write one of {_SHAPES}.")


def _argument(tool: ToolFacts, name: str, where: str) -> _Argument | Finding:
    typed = record_type(tool.input_schema)
    if name in typed.absent:
        return Finding(
            where, f"the argument `{name}` of {tool.name} {typed.absent[name]}, so policy cannot read it."
        )
    if name not in typed.fields:
        known = ", ".join(sorted(typed.fields)) or "none"
        return Finding(where, f"{tool.name} has no argument `{name}`; its arguments are: {known}.")
    return _Argument(name, typed.fields[name].type, typed.fields[name].required)


def _bound(tool: ToolFacts, argument: _Argument, word: str, value: Any, where: str) -> Policy | Finding:
    if not isinstance(argument.type, Scalar) or argument.type.kind not in (Kind.LONG, Kind.DECIMAL):
        return Finding(where, f"`{argument.name}` is not a number, so it has no {word}imum.")
    literal = _literal(value, argument.type, where)
    if isinstance(literal, Finding):
        return literal
    if argument.type.kind is Kind.LONG:
        test = f"{argument.read} {'>' if word == 'max' else '<'} {literal}"
    else:
        test = f"{argument.read}.{'greaterThan' if word == 'max' else 'lessThan'}({literal})"
    words = "at most" if word == "max" else "at least"
    return _policy(
        f"{tool.name}.{word}_{argument.name}",
        where,
        f"{argument.name} may be {words} {value}."
        if word == "max"
        else f"{argument.name} must be {words} {value}.",
        "forbid",
        tool.name,
        f"when {{ {argument.guard}{test} }}",
    )


def _require(tool: ToolFacts, argument: _Argument, value: Any, where: str) -> Policy | Finding:
    if value is not True:
        return Finding(where, "only `true` has a meaning here; remove the line to not require the argument.")
    reason, test = f"{argument.name} must be given.", argument.has
    if isinstance(argument.type, SetOf):
        test += f" && !{argument.read}.isEmpty()"
    elif argument.type == Scalar(Kind.STRING):
        choices = _choices(tool, argument)
        if choices is None and argument.name.endswith("_code"):
            text = (
                f"`{argument.name}` may be any text, so requiring it asks for no reason in particular; give it an enum "
                "in the tool's schema, or list its values with one_of."
            )
            return Finding(where, text)
        if choices is None:
            test += f' && {argument.read} != ""'
        else:
            test += f" && [{', '.join(map(quoted, choices))}].contains({argument.read})"
            reason = f"{argument.name} must be one of: {_named(choices)}."
    return _policy(
        f"{tool.name}.require_{argument.name}",
        where,
        reason,
        "forbid",
        tool.name,
        f"unless {{ {test} }}",
    )


def _choices(tool: ToolFacts, argument: _Argument) -> list[str] | None:
    """The values an argument may have: those of its enum, empty text aside, or of `one_of`; None for any text."""
    allowed: Any = tool.rules.constraints.get("one_of")
    listed: Any = allowed.get(argument.name) if is_object(allowed) else None
    if not is_list(listed):
        listed = enum_of(tool.input_schema, argument.name)
    choices = [value for value in listed or () if isinstance(value, str) and value]
    return choices or None


def _named(choices: list[str]) -> str:
    more = ", …" if len(choices) > CHOICES_NAMED_MAX else ""
    return ", ".join(choices[:CHOICES_NAMED_MAX]) + more


def _patterns(tool: ToolFacts, value: Any, where: str) -> Iterator[Policy | Finding]:
    return _each(tool, value, where, 'write pattern as {argument: "regular expression"}.', _matching)


def _one_of(tool: ToolFacts, value: Any, where: str) -> Iterator[Policy | Finding]:
    return _each(tool, value, where, "write one_of as {argument: [allowed values]}.", _member)


def _each(
    tool: ToolFacts,
    value: Any,
    where: str,
    shape: str,
    rule: Callable[[ToolFacts, _Argument, Any, str], Policy | Finding],
) -> Iterator[Policy | Finding]:
    """`rule` for each argument that `value` names; `shape` tells how to write it."""
    if not is_object(value) or not value:
        yield Finding(where, shape)
        return
    for name, said in value.items():
        place = f"{where}.{name}"
        argument = _argument(tool, name, place)
        yield argument if isinstance(argument, Finding) else rule(tool, argument, said, place)


def _matching(tool: ToolFacts, argument: _Argument, pattern: Any, where: str) -> Policy | Finding:
    name = argument.name
    if argument.type not in (Scalar(Kind.STRING), SetOf(Scalar(Kind.STRING))):
        return Finding(where, f"`{name}` is no text and no list of texts, so it matches nothing.")
    if (fault := pattern_fault(pattern)) is not None:
        return Finding(where, fault)
    return _policy(
        f"{tool.name}.pattern.{name}",
        where,
        f"{name} must match {pattern[:PATTERN_CHARS_SHOWN]}.",
        "forbid",
        tool.name,
        f"when {{ {argument.guard}!{argument.read_from('context.patterns')} }}",
    )


def _member(tool: ToolFacts, argument: _Argument, allowed: Any, where: str) -> Policy | Finding:
    if not is_list(allowed):
        return Finding(where, "list the allowed values in [ ].")
    item = argument.type.item if isinstance(argument.type, SetOf) else argument.type
    if not isinstance(item, Scalar) or not allowed:
        return Finding(
            where, f"`{argument.name}` needs at least one allowed value, each text, a number or a boolean."
        )
    literals = [_literal(value, item, where) for value in allowed]
    for literal in literals:
        if isinstance(literal, Finding):
            return literal
    test = "containsAll" if isinstance(argument.type, SetOf) else "contains"
    return _policy(
        f"{tool.name}.one_of.{argument.name}",
        where,
        f"{argument.name} must be one of: {', '.join(str(value) for value in allowed)}.",
        "forbid",
        tool.name,
        f"when {{ {argument.guard}!([{', '.join(map(str, literals))}].{test}({argument.read})) }}",
    )


def _literal(value: Any, type_: Scalar, where: str) -> str | Finding:
    """`value` as a Cedar literal of the argument's type."""
    try:
        exact = cedar_value(value, type_, "the value")
    except ValueInexact as error:
        return Finding(where, f"{value!r} does not fit the argument: {error}")
    if type_.kind is Kind.DECIMAL:
        return f'decimal("{exact}")'
    if type_.kind is Kind.STRING:
        return quoted(exact)
    return str(exact).lower()


# -------------------------------------------------------------------------------------------- approvals


def _approvals(tool: ToolFacts, rules: ToolRules) -> Iterator[Policy | Finding]:
    used: dict[str, int] = {}
    for at, rule in enumerate(rules.approval):
        used[rule.role] = used.get(rule.role, 0) + 1
        suffix = f".{used[rule.role]}" if used[rule.role] > 1 else ""
        yield _gate(
            tool, rule, f"{tool.name}.approval.{rule.role}{suffix}", f"tools.{tool.name}.approval[{at}]"
        )


def _gate(tool: ToolFacts, rule: ApprovalRule, id_: str, where: str) -> Policy | Finding:
    people = "one person" if rule.at_least == 1 else f"{rule.at_least} people"
    reason = f"{tool.name} needs the approval of {people} with the role {rule.role}."
    if rule.role == REQUESTER:
        reason = f"{tool.name} runs only when the person it is done for confirms it."
    # The line break keeps a `//` comment in `when` from hiding the brace after it.
    when = f"when {{ {rule.when.strip()}\n}} " if rule.when is not None else ""
    found = _policy(
        id_,
        f"{where}.when" if when else where,
        reason,
        "forbid",
        tool.name,
        f"{when}unless {{ context.approvals.{rule.role} >= {rule.at_least} }}",
        approval=rule.role,
    )
    if isinstance(found, Finding):
        return found
    kinds = [condition["kind"] for condition in found.conditions]
    if kinds != (["when", "unless"] if when else ["unless"]) or found.id != id_:
        return Finding(
            f"{where}.when", "write one Cedar expression, without `when`, braces or a second clause."
        )
    return found


def _defaults(tool: ToolFacts, rules: ToolRules, rollout: RolloutMode) -> Iterator[Policy | Finding]:
    if not rules.allow_actions and all(rule.role == REQUESTER for rule in rules.approval):
        yield _policy(
            f"{tool.name}.unclassified",
            f"tools.{tool.name}.allow_actions",
            f"Nobody has said what {tool.name} does to the world, so each call needs one approver.",
            "forbid",
            tool.name,
            f"unless {{ context.approvals.{APPROVER} >= 1 }}",
            approval=APPROVER,
        )
    if rollout is not RolloutMode.OFF and tool.effect is not Effect.READ:
        yield _policy(
            f"rollout.human_approval.{tool.name}",
            "rollout.mode",
            f"{tool.name} needs the approval of one person with the role {APPROVER}.",
            "forbid",
            tool.name,
            f"when {{ !context.rollout.canary }} unless {{ context.approvals.{APPROVER} >= 1 }}",
            approval=APPROVER,
        )
