"""Deciding about a call of which only a part is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from comptroller_policy.declarations import ApprovalRule
from comptroller_policy.model import Verdict
from tests.policy.questions import OVER_20, STRANGER, WITHIN_PAID, bundle, refund

REFUND = 'action == Comptroller::Action::"issue_refund"'
NOTHING: frozenset[str] = frozenset()
AMOUNT = frozenset({"amount_usd"})
EXAMPLE: dict[str, Any] = {
    "constraints": {"max_amount_usd": 50},
    "approval": (OVER_20,),
    "files": (WITHIN_PAID,),
}


@pytest.mark.parametrize(
    ("amount", "unknown", "verdict"),
    [
        (10, NOTHING, Verdict.ALLOW),
        (30, NOTHING, Verdict.NEEDS_APPROVAL),
        (60, NOTHING, Verdict.DENY),
        (60, AMOUNT, Verdict.NEEDS_APPROVAL),
    ],
)
def test_what_is_known_decides_and_what_is_not_may_close_a_gate(
    amount: float, unknown: frozenset[str], verdict: Verdict
) -> None:
    decision = bundle(**EXAMPLE).decide_ahead(refund(amount), unknown)
    assert decision.verdict is verdict
    assert [gate.role for gate in decision.gates] == (
        ["approver"] if verdict is Verdict.NEEDS_APPROVAL else []
    )


def test_a_look_up_that_may_deny_denies_nothing_yet() -> None:
    question = replace(refund(10), facts={}, derived={}, history={})
    assert bundle(**EXAMPLE).decide_ahead(question, NOTHING).verdict is Verdict.ALLOW


def test_who_may_never_call_is_denied_whatever_the_arguments() -> None:
    decision = bundle(**EXAMPLE).decide_ahead(refund(10, subject=STRANGER), AMOUNT)
    assert decision.verdict is Verdict.DENY
    assert decision.policies


def test_a_rule_that_forbids_every_call_is_named() -> None:
    desk = bundle(f'@id("never") @reason("Not here.") forbid (principal, {REFUND}, resource);\n')
    decision = desk.decide_ahead(refund(10), AMOUNT)
    assert (decision.verdict, decision.policies, decision.reasons) == (
        Verdict.DENY,
        ("never",),
        ("Not here.",),
    )


def test_a_gate_that_people_have_opened_asks_nobody() -> None:
    desk = bundle(approval=(ApprovalRule(role="boss", at_least=2),))
    assert desk.decide_ahead(refund(10), AMOUNT).gates[0].count == 2
    assert desk.decide_ahead(refund(10, approvals={"boss": 1}), AMOUNT).verdict is Verdict.NEEDS_APPROVAL
    assert desk.decide_ahead(refund(10, approvals={"boss": 2}), AMOUNT).verdict is Verdict.ALLOW


def test_a_gate_that_people_have_opened_is_open_whatever_is_not_known() -> None:
    desk = bundle(approval=(ApprovalRule(role="boss", when='resource.key != "x"'),))
    assert desk.decide_ahead(refund(10), AMOUNT).verdict is Verdict.NEEDS_APPROVAL
    assert desk.decide_ahead(refund(10, approvals={"boss": 1}), AMOUNT).verdict is Verdict.ALLOW


def test_a_gate_may_leave_the_service_itself_alone() -> None:
    spared = ApprovalRule(role="boss", when='principal.kind != "local"')
    assert bundle(approval=(spared,)).decide_ahead(refund(10), AMOUNT).verdict is Verdict.ALLOW


def test_a_value_that_policy_cannot_read_exactly_is_denied() -> None:
    decision = bundle(**EXAMPLE).decide_ahead(refund(0.00001), NOTHING)
    assert decision.verdict is Verdict.DENY
    assert decision.errors


def test_a_tool_that_is_not_there_is_denied() -> None:
    decision = bundle(**EXAMPLE).decide_ahead(replace(refund(1), tool="nothing"), NOTHING)
    assert decision.verdict is Verdict.DENY
