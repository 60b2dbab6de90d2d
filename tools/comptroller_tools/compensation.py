"""Which side effect reverses another one, declared and type-checked at load. Depth 1: what reverses is not reversed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from comptroller_audit.vocabulary import Json, JsonObject
from comptroller_policy.errors import ExpressionError, Finding
from comptroller_policy.expressions import check_template, paths_in, render
from comptroller_policy.paths import Schemas, Scope, is_list, is_object, json_types, json_types_at
from comptroller_tools.declarations import CompensateRule
from comptroller_tools.validation import compile_schema

if TYPE_CHECKING:
    from comptroller_tools.catalogue import Tool

__all__ = ["Compensation", "compensation_findings", "rendered"]

_ROOTS = ("input", "output", "facts", "call")


@dataclass(frozen=True, slots=True)
class Compensation:
    """The call that reverses a tool's effect: of `target`, with `arguments` (a template)."""

    target: Tool
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, rule: CompensateRule, target: Tool) -> Compensation:
        return cls(target, rule.arguments)

    @property
    def unknown(self) -> frozenset[str]:
        """Arguments that only the effect's own output tells: nothing is known of them beforehand."""
        return frozenset(name for name, value in self.arguments.items() if _is_told_after(value))

    @property
    def facts(self) -> frozenset[str]:
        """The facts its arguments are taken from."""
        paths = paths_in(dict(self.arguments))
        return frozenset(path.split(".")[1] for path in paths if path.startswith("facts."))

    def known(self, scope: Scope) -> JsonObject:
        """The arguments that can be told before the effect. Raises `ExpressionError`."""
        unknown = self.unknown
        told = {name: value for name, value in self.arguments.items() if name not in unknown}
        filled = self.target.shaping.filled(cast("JsonObject", render(told, scope)))
        return {name: value for name, value in filled.items() if name not in unknown}

    def complete(self, scope: Scope) -> JsonObject:
        """All arguments; `scope` has the output as well. Raises `ExpressionError`."""
        return cast("JsonObject", render(dict(self.arguments), scope))


def compensation_findings(
    rule: CompensateRule, target: Tool | None, schemas: Schemas, where: str
) -> list[Finding]:
    """What is wrong with a `compensate`, each with its config field. `schemas` are those of the tool it reverses."""
    if target is None or target.is_read:
        text = f"`{rule.tool}` must be a tool of this config with a side effect; a read reverses nothing."
        return [Finding(f"{where}.tool", text)]
    if target.config.compensate is not None:
        text = f"`{rule.tool}` declares `compensate` itself; what reverses a call is not reversed in turn."
        return [Finding(f"{where}.tool", text)]
    given = {name: schema for name, schema in schemas.items() if name.split(".")[0] in _ROOTS}
    faults = list(check_template(rule.arguments, given)) or _misfits(rule, target, given)
    faults = faults or _uncountable(rule, target)
    return [Finding(f"{where}.arguments", fault) for fault in faults]


def _is_told_after(value: Json) -> bool:
    return any(path.split(".")[0] == "output" for path in paths_in(value))


def _misfits(rule: CompensateRule, target: Tool, schemas: Schemas) -> list[str]:
    """Arguments that are missing, unknown or of another type than the compensating tool takes."""
    schema = target.own_input
    properties: Mapping[str, Any] = schema.get("properties", {})
    faults = [
        f"`{name}` is required by `{target.name}`; say where it comes from, like `{{output.{name}}}`"
        for name in schema.get("required", ())
        if name not in rule.arguments
    ]
    for name, value in rule.arguments.items():
        if name not in properties:
            known = ", ".join(f"`{known}`" for known in properties) or "none"
            faults.append(f"`{name}` is no argument of `{target.name}`; its arguments are: {known}")
        elif fault := _misfit(value, properties[name], schema, schemas):
            faults.append(f"`{name}` of `{target.name}` {fault}")
    return faults


def _misfit(value: Any, wanted: Any, document: Mapping[str, Any], schemas: Schemas) -> str | None:
    takes = json_types(wanted, document)
    paths = paths_in(value)
    if not paths:
        own: Mapping[str, Any] = wanted if is_object(wanted) else {}
        problems = compile_schema({**own, "$defs": document.get("$defs", {})}).check(value)
        return f"does not take this value: {problems[0]}" if problems else None
    if isinstance(value, str) and value == f"{{{paths[0]}}}":
        gives = json_types_at(paths[0], schemas)
    else:
        gives = frozenset({"string" if isinstance(value, str) else "array" if is_list(value) else "object"})
    if "number" in takes:
        takes |= {"integer"}
    if takes and gives and not gives <= takes:
        return f"takes {_listed(takes)}, and `{paths[0]}` gives {_listed(gives)}"
    return None


def _listed(types: frozenset[str]) -> str:
    return " or ".join(sorted(types))


def _uncountable(rule: CompensateRule, target: Tool) -> list[str]:
    """Units that could not be held for before the effect, because they count what only its output tells."""
    faults: list[str] = []
    for unit, expression in target.units.items():
        for path in expression.paths:
            root, name = path.split(".")[:2]
            given = name in rule.arguments
            if root == "input" and not given and name in target.shaping.filled({}):
                continue
            if root == "input" and not given:
                faults.append(f"`{name}` is counted as `{unit}` by `{target.name}`; give it a value")
            elif root == "input" and _is_told_after(rule.arguments[name]):
                text = (
                    f"`{name}` is counted as `{unit}` by `{target.name}`, so it must be known before the call"
                )
                faults.append(f"{text} to be held for; take it from `input` or `facts`")
    return faults


def rendered(compensation: Compensation, scope: Scope) -> JsonObject | None:
    """All arguments, or None where the output does not hold what they need."""
    try:
        return compensation.complete(scope)
    except ExpressionError:
        return None
