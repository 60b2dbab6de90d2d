"""Is a task a success? The conditions of `tasks.success`, looked up by Comptroller itself, as `service:comptroller`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comptroller_audit.ambient import Clock
from comptroller_audit.vocabulary import JsonObject, Subject, Verification
from comptroller_policy.errors import Finding
from comptroller_policy.expressions import (
    check_expression,
    check_path,
    check_template,
    compile_expression,
    paths_in,
)
from comptroller_server.call.lookups import LookUpFailed, LookUps
from comptroller_server.config.tasks import SuccessRule
from comptroller_tools.catalogue import ANY_OBJECT, Catalogue
from comptroller_tools.verification import Check, Expectation, compare

__all__ = ["Condition", "Found", "Success", "compile_success", "verdict"]

LOOKUP_S_MAX = 10.0
"""All look-ups for one task together may take this long."""
RECORDS_MAX = 20
"""Records of one kind that a condition is looked up for; beyond, its task is not proved."""

_TEXT = {"type": "string"}
_TASK_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "id": _TEXT,
        "unit": {"type": "object", "properties": {"kind": _TEXT, "id": _TEXT}},
        "records": {"type": "object", "additionalProperties": _TEXT},
    },
}
_OF_RECORDS = "task.records."


@dataclass(frozen=True, slots=True)
class Condition:
    """One rule, compiled. `kind` is the kind of record it is looked up for, one by one."""

    rule: SuccessRule
    expectations: tuple[Expectation, ...]
    kind: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """One look-up of one condition. `problem` says why it told nothing.

    `may_tell` is false where the caller could not have read the record itself: then no answer speaks of it.
    """

    fact: str
    tool: str
    result: Verification
    checks: tuple[Check, ...] = ()
    problem: str | None = None
    may_tell: bool = False


def compile_success(
    rules: Sequence[SuccessRule], catalogue: Catalogue
) -> tuple[tuple[Condition, ...], list[Finding]]:
    """The conditions, and what is wrong with them, each with its config path."""
    conditions: list[Condition] = []
    findings: list[Finding] = []
    for at, rule in enumerate(rules):
        where = f"tasks.success[{at}]"
        faults = [Finding(f"{where}{field}", text) for field, text in _faults(rule, catalogue)]
        findings += faults
        if not faults:
            kinds = _kinds(rule)
            expected = tuple(
                Expectation(rule.fact, path, compile_expression(text)) for path, text in rule.expect.items()
            )
            conditions.append(Condition(rule, expected, next(iter(kinds), None)))
    return tuple(conditions), findings


def _faults(rule: SuccessRule, catalogue: Catalogue) -> Iterator[tuple[str, str]]:
    tool = catalogue.find(rule.tool)
    if tool is None or not tool.is_read:
        yield ".tool", "names no tool of this config that is classified as read"
        return
    fact = f"facts.{rule.fact}"
    schemas = {"task": _TASK_SCHEMA, fact: tool.definition.output_schema or ANY_OBJECT}
    before = {"task": _TASK_SCHEMA}
    faults = [(".arguments", text) for text in check_template(rule.arguments, before)]
    for path, text in rule.expect.items():
        wrong = check_path(f"{fact}.{path}", schemas)
        faults += [(f".expect.{path}", fault) for fault in ([wrong] if wrong else [])]
        faults += [(f".expect.{path}", fault) for fault in check_expression(text, schemas, number=False)]
    yield from faults
    if faults:
        return
    paths = _paths(rule)
    if rule.unit is None and any(path.startswith("task.unit.") for path in paths):
        yield "", "reads `task.unit`; say with `unit: KIND` which tasks it is for"
    if len(kinds := _kinds(rule)) > 1:
        yield "", f"reads records of {len(kinds)} kinds; write one condition for each"


def _paths(rule: SuccessRule) -> list[str]:
    paths = list(paths_in(rule.arguments))
    for text in rule.expect.values():
        paths += compile_expression(text).paths
    return paths


def _kinds(rule: SuccessRule) -> list[str]:
    return list(dict.fromkeys(p.split(".")[2] for p in _paths(rule) if p.startswith(_OF_RECORDS)))


class Success:
    """Looks up what is declared. Nothing here decides how a task ends; `verdict` reads the answers."""

    def __init__(self, conditions: tuple[Condition, ...], look_ups: LookUps, clock: Clock) -> None:
        self._conditions = conditions
        self._look_ups = look_ups
        self._clock = clock

    async def look(
        self, subject: Subject, task: str, unit: str | None, records: Mapping[str, Sequence[str]], call: str
    ) -> tuple[Found, ...]:
        """Every condition that is for this task. `records` are those its side effects acted on, by kind."""
        deadline = self._clock.monotonic() + LOOKUP_S_MAX
        kind, _, key = (unit or "").partition(":")
        base: dict[str, Any] = {"id": task, "unit": {"kind": kind, "id": key}} if unit else {"id": task}
        found: list[Found] = []
        for condition in self._conditions:
            if condition.rule.unit not in (None, kind):
                continue
            for scope in _scopes(condition, base, records):
                if scope is None:
                    text = f"the task acted on more than {RECORDS_MAX} records of kind {condition.kind}"
                    found.append(_nothing(condition, text))
                else:
                    found.append(await self._one(subject, condition, {"task": scope}, deadline, call))
        return tuple(found)

    async def _one(
        self, subject: Subject, condition: Condition, scope: Mapping[str, Any], deadline: float, call: str
    ) -> Found:
        rule = condition.rule
        try:
            value = await self._look_ups.read(
                subject.tenant, rule.tool, rule.arguments, scope, deadline, call
            )
        except LookUpFailed as error:
            return _nothing(condition, str(error))
        facts = {rule.fact: value}
        result = compare(condition.expectations, {**scope, "facts": facts}, facts)
        may_tell = self._look_ups.may_read(subject, rule.tool, rule.arguments, scope)
        return Found(rule.fact, rule.tool, result.result, result.checks, may_tell=may_tell)


def _scopes(
    condition: Condition, base: JsonObject, records: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, Any] | None]:
    """The task as the condition sees it: once, or once for each record of its kind."""
    if condition.kind is None:
        yield base
        return
    keys = records.get(condition.kind, ())
    if len(keys) > RECORDS_MAX:
        yield None
        return
    for key in keys:
        yield {**base, "records": {condition.kind: key}}


def _nothing(condition: Condition, why: str) -> Found:
    return Found(condition.rule.fact, condition.rule.tool, Verification.UNKNOWN, (), why)


def verdict(found: Sequence[Found]) -> Verification:
    """DIFFERS when one condition does not hold, else UNKNOWN when one could not be looked at, else MATCHED."""
    results = {one.result for one in found}
    for worst in (Verification.DIFFERS, Verification.UNKNOWN):
        if worst in results:
            return worst
    return Verification.MATCHED if found else Verification.NOT_DECLARED
