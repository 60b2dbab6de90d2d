"""Gates of role `requester`: where they may stand, and what they never replace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from comptroller_audit.vocabulary import Effect
from comptroller_policy.bundle import compile_bundle
from comptroller_policy.declarations import ApprovalRule, ClientWord, RequesterTerms, RolloutMode
from comptroller_policy.engine import Bundle
from comptroller_policy.errors import BundleInvalid, Finding
from comptroller_policy.model import PolicyFile, ToolFacts, Verdict
from tests.policy.questions import LOOKUP, refund, refund_tool

ASKED = RequesterTerms(asked=True)
GATE = (ApprovalRule(role="requester"),)
WRITTEN = (
    '@id("ask") @approval("requester") forbid (principal, action in Comptroller::Action::"call", resource) '
    "unless {{ context.approvals.requester >= {count} }};"
)


def compiled(terms: RequesterTerms, *tools: ToolFacts, text: str = "") -> Bundle:
    files = [PolicyFile("policies/ask.cedar", text)] if text else []
    return compile_bundle([LOOKUP, *tools], files, RolloutMode.OFF, terms)


def findings(terms: RequesterTerms, *tools: ToolFacts, text: str = "") -> Sequence[Finding]:
    with pytest.raises(BundleInvalid) as raised:
        compiled(terms, *tools, text=text)
    return raised.value.findings


def test_a_confirmation_opens_its_own_gate_and_no_other() -> None:
    both = compiled(ASKED, refund_tool(approval=(*GATE, ApprovalRule(role="approver"))))
    asked = both.decide(refund())
    assert [gate.role for gate in asked.gates] == ["requester", "approver"]
    assert "the person it is done for confirms it" in asked.reasons[0]
    after = both.decide(refund(approvals={"requester": 1}))
    assert (after.verdict, [gate.role for gate in after.gates]) == (Verdict.NEEDS_APPROVAL, ["approver"])
    assert both.decide(refund(approvals={"requester": 1, "approver": 1})).verdict is Verdict.ALLOW


def test_where_no_client_has_a_person_the_gate_could_never_open() -> None:
    (found,) = findings(RequesterTerms(), refund_tool(approval=GATE))
    assert found.where == "tools.issue_refund.approval[0]"
    assert "interactive: true" in found.message


def test_one_requester_cannot_be_asked_twice() -> None:
    (found,) = findings(ASKED, refund_tool(approval=(ApprovalRule(role="requester", at_least=2),)))
    assert "one approval" in found.message
    (written,) = findings(ASKED, refund_tool(), text=WRITTEN.format(count=2))
    assert written.where == "policies/ask.cedar:1"


@pytest.mark.parametrize(
    ("word", "effect", "spends"),
    [
        (ClientWord.DELETE, Effect.DELETE, False),
        (ClientWord.EXECUTE, Effect.EXECUTE, False),
        (ClientWord.MONEY, Effect.CREATE, True),
        (ClientWord.MONEY, Effect.READ, True),
    ],
)
def test_a_clients_word_is_not_enough_for_these_until_the_config_says_so(
    word: ClientWord, effect: Effect, spends: bool
) -> None:
    tool = replace(refund_tool(allow_actions=(effect,), approval=GATE), spends=spends)
    others = frozenset(ClientWord) - {word}
    (found,) = findings(RequesterTerms(others, asked=True), tool)
    assert found.where == "tools.issue_refund.approval[0]"
    assert f"requester_may: [{word}]" in found.message
    compiled(RequesterTerms(frozenset({word}), asked=True), tool)
    plain = replace(refund_tool(allow_actions=(effect,)), spends=spends)
    (written,) = findings(RequesterTerms(others, asked=True), plain, text=WRITTEN.format(count=1))
    assert written.where == "policies/ask.cedar:1"
    assert "issue_refund" in written.message
    assert "lookup_invoice" not in written.message


@pytest.mark.parametrize("effect", [Effect.READ, Effect.CREATE, Effect.UPDATE])
def test_other_tools_need_no_such_words(effect: Effect) -> None:
    compiled(ASKED, refund_tool(allow_actions=(effect,), approval=GATE))


def test_a_tool_that_nobody_classified_still_needs_an_approver() -> None:
    terms = RequesterTerms(frozenset(ClientWord), asked=True)
    gates = compiled(terms, refund_tool(allow_actions=(), approval=GATE)).decide(refund()).gates
    assert {gate.role for gate in gates} == {"requester", "approver"}
