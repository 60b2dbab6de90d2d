"""Did the call do what it said? Facts are read again and compared with what the config expects, exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from comptroller_audit.vocabulary import Json, Verification
from comptroller_policy.errors import ExpressionError
from comptroller_policy.expressions import (
    Expression,
    check_expression,
    check_path,
    compile_expression,
    same_value,
    value_at,
)
from comptroller_policy.paths import Schemas
from comptroller_tools.declarations import VerifyRule
from comptroller_tools.errors import RecordPathError

__all__ = ["Check", "Expectation", "VerificationResult", "compare", "compile_expectations"]


@dataclass(frozen=True, slots=True)
class Expectation:
    """After the call, `path` in `fact` equals `expected`: an expression over facts (before), input, output."""

    fact: str
    path: str
    expected: Expression


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation compared. `equal` is None when one side could not be had; `problem` says which."""

    fact: str
    path: str
    expected: Json
    found: Json
    equal: bool | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class VerificationResult:
    result: Verification
    checks: tuple[Check, ...] = ()


def compile_expectations(
    rules: Sequence[VerifyRule], schemas: Schemas, where: str
) -> tuple[Expectation, ...]:
    """The expectations of one tool, checked against `schemas` (`input`, `output`, `facts.<name>`).

    Raises `RecordPathError` with every fault, each line with its config field.
    """
    compiled: list[Expectation] = []
    faults: list[str] = []
    for index, rule in enumerate(rules):
        at = f"{where}.verify[{index}]"
        if f"facts.{rule.fact}" not in schemas:
            faults.append(f"{at}.fact: there is no fact `{rule.fact}`; declare it under `facts`")
            continue
        if not rule.expect:
            faults.append(f"{at}.expect: nothing is expected, so nothing would be verified; name a field")
        for path, text in rule.expect.items():
            found = [fault for fault in (check_path(f"facts.{rule.fact}.{path}", schemas),) if fault]
            found += check_expression(text, schemas, number=False)
            faults += [f"{at}.expect.{path}: {fault}" for fault in found]
            if not found:
                compiled.append(Expectation(rule.fact, path, compile_expression(text)))
    if faults:
        raise RecordPathError("\n".join(faults))
    return tuple(compiled)


def compare(
    expectations: Sequence[Expectation], scope: Mapping[str, Any], after: Mapping[str, Any]
) -> VerificationResult:
    """Compare what was read again with what is expected.

    `scope` has `input`, `output` and `facts` as they were before the call; `after` maps a fact to its value now,
    None (or no entry) when it could not be read. One difference makes DIFFERS; else anything not known UNKNOWN.
    """
    if not expectations:
        return VerificationResult(Verification.NOT_DECLARED)
    checks = tuple(_checked(expectation, scope, after) for expectation in expectations)
    if any(check.equal is False for check in checks):
        return VerificationResult(Verification.DIFFERS, checks)
    if any(check.equal is None for check in checks):
        return VerificationResult(Verification.UNKNOWN, checks)
    return VerificationResult(Verification.MATCHED, checks)


def _checked(expectation: Expectation, scope: Mapping[str, Any], after: Mapping[str, Any]) -> Check:
    fact, path = expectation.fact, expectation.path
    try:
        expected = expectation.expected.evaluate_value(scope)
    except ExpressionError as error:
        return Check(fact, path, None, None, None, f"the expected value cannot be computed: {error}")
    if after.get(fact) is None:
        return Check(fact, path, _plain(expected), None, None, f"`{fact}` could not be read again")
    try:
        found = value_at(f"{fact}.{path}", after)
    except ExpressionError as error:
        return Check(fact, path, _plain(expected), None, None, str(error))
    return Check(fact, path, _plain(expected), found, same_value(expected, found))


def _plain(value: Json | Decimal) -> Json:
    """A JSON value for the record: a number where a number is exact, else its digits as text."""
    if not isinstance(value, Decimal):
        return value
    if value == value.to_integral_value() and abs(value) < 2**53:
        return int(value)
    number = float(value)
    return number if Decimal(repr(number)) == value else str(value)
