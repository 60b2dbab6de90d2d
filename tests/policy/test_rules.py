"""What the config says, as Cedar with stable ids."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.vocabulary import Effect
from comptroller_policy.bundle import compile_bundle
from comptroller_policy.cedar import DECIMALS
from comptroller_policy.declarations import ApprovalRule, RolloutMode, ToolRules
from comptroller_policy.errors import BundleInvalid
from comptroller_policy.model import Verdict
from comptroller_policy.rules import compile_rules
from tests.policy.questions import AGENT, LOOKUP, STRANGER, bundle, refund, refund_tool


def _denied_by(input_: dict[str, Any] | None = None, /, **constraints: Any) -> tuple[str, ...]:
    decision = bundle(constraints=constraints).decide(refund(10, input=input_ or {}))
    return decision.policies if decision.verdict is Verdict.DENY else ()


def _findings(**rules: Any) -> list[tuple[str, str]]:
    with pytest.raises(BundleInvalid) as raised:
        bundle(**rules)
    return [(finding.where, finding.message) for finding in raised.value.findings]


def test_every_rule_has_a_stable_id_and_a_reason() -> None:
    rules, findings = compile_rules(
        refund_tool(
            constraints={
                "max_amount_usd": 50,
                "min_quantity": 1,
                "require_reason_code": True,
                "one_of": {"invoice_id": ["7"]},
                "pattern": {"invoice_id": "[0-9]+"},
            },
            approval=(ApprovalRule(role="boss"), ApprovalRule(role="boss", at_least=2)),
        ),
        RolloutMode.HUMAN_APPROVAL,
    )
    assert findings == []
    assert {rule.id: rule.reason for rule in rules} == {
        "issue_refund.allow": "issue_refund is open to support_agent.",
        "issue_refund.max_amount_usd": "amount_usd may be at most 50.",
        "issue_refund.min_quantity": "quantity must be at least 1.",
        "issue_refund.require_reason_code": "reason_code must be one of: late, damaged.",
        "issue_refund.pattern.invoice_id": "invoice_id must match [0-9]+.",
        "issue_refund.one_of.invoice_id": "invoice_id must be one of: 7.",
        "issue_refund.approval.boss": "issue_refund needs the approval of one person with the role boss.",
        "issue_refund.approval.boss.2": "issue_refund needs the approval of 2 people with the role boss.",
        "rollout.human_approval.issue_refund": (
            "issue_refund needs the approval of one person with the role approver."
        ),
    }


@given(st.integers(-10_000, 10_000), st.integers(0, 10_000))
def test_a_maximum_allows_exactly_what_is_not_above_it(cents: int, limit: int) -> None:
    desk = bundle(constraints={"max_amount_usd": limit / 100})
    assert (desk.decide(refund(cents / 100)).verdict is Verdict.ALLOW) == (cents <= limit)


def test_bounds_on_an_optional_argument_pass_when_it_is_absent() -> None:
    bounds = {"min_quantity": 2, "max_quantity": 5}
    assert _denied_by(**bounds) == ()
    assert _denied_by({"quantity": None}, **bounds) == ()
    assert _denied_by({"quantity": 5.0}, **bounds) == ()
    assert _denied_by({"quantity": 1}, **bounds) == ("issue_refund.min_quantity",)
    assert _denied_by({"quantity": 6}, **bounds) == ("issue_refund.max_quantity",)


@pytest.mark.parametrize("value", ["", None])
def test_a_required_argument_must_be_there_and_text_must_not_be_empty(value: Any) -> None:
    assert _denied_by({"reason_code": value}, require_reason_code=True) == (
        "issue_refund.require_reason_code",
    )
    assert _denied_by(require_reason_code=True) == ()


def test_a_required_list_must_have_an_item() -> None:
    assert _denied_by({"lines": []}, require_lines=True) == ("issue_refund.require_lines",)
    assert _denied_by({"lines": ["a"]}, require_lines=True) == ()
    assert _denied_by(require_lines=True) == ("issue_refund.require_lines",)


def test_one_of_holds_for_text_numbers_and_every_item_of_a_list() -> None:
    allowed = {"one_of": {"lines": ["a", "b"], "amount_usd": [10, 10.5], "quantity": [1, 2]}}
    assert _denied_by({"lines": ["a"], "quantity": 2}, **allowed) == ()
    assert _denied_by(**allowed) == ()
    assert _denied_by({"lines": ["a", "c"]}, **allowed) == ("issue_refund.one_of.lines",)
    assert _denied_by({"quantity": 3}, **allowed) == ("issue_refund.one_of.quantity",)
    assert _denied_by({"amount_usd": 11}, **allowed) == ("issue_refund.one_of.amount_usd",)


def test_a_pattern_holds_for_the_whole_text_and_for_every_item_of_a_list() -> None:
    patterns = {"pattern": {"invoice_id": "[0-9]{1,3}", "lines": "[a-z]+", "reason_code": "late|damaged"}}
    assert _denied_by({"invoice_id": "123", "lines": ["a", "bc"]}, **patterns) == ()
    assert _denied_by({"lines": None, "reason_code": None}, **patterns) == ()
    assert _denied_by({"lines": []}, **patterns) == ()
    for wrong in ("", "1234", "12a", "a12", "12\n", " 12", "１２"):
        assert _denied_by({"invoice_id": wrong}, **patterns) == ("issue_refund.pattern.invoice_id",), wrong
    assert _denied_by({"lines": ["a", "B"]}, **patterns) == ("issue_refund.pattern.lines",)


@given(st.text(max_size=20), st.sampled_from(["a+", "[a-f]{2,4}", "x.*y", ".", "é*"]))
def test_a_pattern_decides_as_the_standard_library_would(text: str, pattern: str) -> None:
    denied = _denied_by({"invoice_id": text}, pattern={"invoice_id": pattern})
    assert (denied == ()) == (re.fullmatch(pattern, text) is not None)


def test_text_that_is_no_unicode_is_denied_by_a_pattern() -> None:
    assert _denied_by({"invoice_id": "\ud800"}, pattern={"invoice_id": "."}) == ("error.deny",)


def test_an_argument_named_like_a_word_of_cedar_can_have_a_pattern() -> None:
    tool = refund_tool(constraints={"pattern": {"in": "[a-z]+", "is-it": "[a-z]+"}})
    names = {"in": {"type": "string"}, "is-it": {"type": "string"}}
    schema = {**tool.input_schema, "properties": {**tool.input_schema["properties"], **names}}
    found = compile_bundle([LOOKUP, replace(tool, input_schema=schema)], [], RolloutMode.AUTO)
    for name in names:
        assert found.decide(refund(input={name: "a"})).verdict is not Verdict.DENY
        assert found.decide(refund(input={name: "A"})).policies == (f"issue_refund.pattern.{name}",)


def test_a_pattern_denies_before_anything_is_looked_up() -> None:
    desk = bundle(constraints={"pattern": {"invoice_id": "[0-9]+"}})
    early = desk.decide_early(refund(input={"invoice_id": "x"}))
    assert early is not None and early.policies == ("issue_refund.pattern.invoice_id",)
    assert "issue_refund.pattern.invoice_id" in desk.text()


def test_a_required_code_of_any_text_is_a_finding_unless_its_values_are_listed() -> None:
    free = {"properties": {"invoice_id": {"type": "string"}, "stop_code": {"type": "string"}}}

    def compiled(**constraints: Any) -> tuple[list[str], list[str]]:
        tool = replace(refund_tool(constraints=constraints), input_schema=free)
        rules, findings = compile_rules(tool, RolloutMode.AUTO)
        return [rule.id for rule in rules], [finding.where for finding in findings]

    where = "tools.issue_refund.constraints.require_stop_code"
    assert compiled(require_stop_code=True)[1] == [where]
    assert compiled(require_invoice_id=True)[1] == []
    listed = compiled(require_stop_code=True, one_of={"stop_code": ["late"]})
    assert listed[1] == [] and "issue_refund.require_stop_code" in listed[0]


@pytest.mark.parametrize(
    ("constraints", "where", "said"),
    [
        ({"max_amont": 5}, "max_amont", "no argument `amont`"),
        ({"max_reason_code": 5}, "max_reason_code", "not a number"),
        ({"max_amount_usd": "50"}, "max_amount_usd", "does not fit"),
        ({"max_amount_usd": True}, "max_amount_usd", "does not fit"),
        ({"max_amount_usd": 0.00001}, "max_amount_usd", "four decimal places"),
        ({"max_quantity": 2.5}, "max_quantity", "does not fit"),
        ({"require_blob": True}, "require_blob", "may be anything"),
        ({"require_reason_code": False}, "require_reason_code", "only `true`"),
        ({"one_of": {"lines": []}}, "one_of.lines", "at least one"),
        ({"one_of": {"lines": "a"}}, "one_of.lines", "list the allowed"),
        ({"one_of": ["a"]}, "one_of", "write one_of as"),
        ({"one_of": {"quantity": ["x"]}}, "one_of.quantity", "does not fit"),
        ({"pattern": {"invoice_id": "("}}, "pattern.invoice_id", "missing )"),
        ({"pattern": {"invoice_id": "(?=x)"}}, "pattern.invoice_id", "RE2 does not take"),
        ({"pattern": {"invoice_id": "x" * 1001}}, "pattern.invoice_id", "1 to 1000 characters"),
        ({"pattern": {"invoice_id": ""}}, "pattern.invoice_id", "1 to 1000 characters"),
        ({"pattern": {"invoice_id": 7}}, "pattern.invoice_id", "in quotes"),
        ({"pattern": {"quantity": "7"}}, "pattern.quantity", "is no text"),
        ({"pattern": {"nope": "7"}}, "pattern.nope", "no argument `nope`"),
        ({"pattern": {"__entity": "7"}}, "pattern.__entity", "no argument"),
        ({"pattern": {}}, "pattern", "write pattern as"),
        ({"pattern": "7"}, "pattern", "write pattern as"),
        ({"max_": 5}, "max_", "is not a constraint"),
    ],
)
def test_a_constraint_that_cannot_hold_is_a_finding_at_its_place(
    constraints: Any, where: str, said: str
) -> None:
    found = _findings(constraints=constraints)
    assert [place for place, _ in found] == [f"tools.issue_refund.constraints.{where}"]
    assert said in found[0][1]


def test_all_findings_are_told_at_once() -> None:
    found = _findings(
        constraints={"max_nope": 1, "min_blob": 2},
        derived={"x": "facts.invoice.nope + 1", "y": "input.invoice_id"},
        history={"wrong": {"count": "issue_refund"}, "task.n": {"count": "nothing"}},
        resource="invoice:{input.nope}",
        facts={
            "invoice": {"tool": "lookup_invoice", "arguments": {"invoice_id": "{facts.x.y}"}},
            "other": {"tool": "nothing"},
            "self": {"tool": "issue_refund"},
        },
    )
    assert {place for place, _ in found} == {
        f"tools.issue_refund.{rest}"
        for rest in (
            "constraints.max_nope", "constraints.min_blob", "derived.x", "derived.y", "history.wrong",
            "history.task.n.count", "resource", "facts.invoice.arguments", "facts.other.tool", "facts.self.tool",
        )
    }  # fmt: skip


# ----------------------------------------------------------------------------------------- roles and gates


def test_roles_are_asked_any_of_them_is_enough_and_an_empty_list_is_nobody() -> None:
    either = bundle(roles=("billing", "support_agent"))
    assert either.decide(refund()).verdict is Verdict.ALLOW
    assert either.decide(refund(subject=STRANGER)).verdict is Verdict.DENY
    assert bundle(roles=()).decide(refund()).verdict is Verdict.DENY
    assert not bundle(roles=()).visible(AGENT, "issue_refund")
    assert bundle(roles=None).decide(refund(subject=STRANGER)).verdict is Verdict.ALLOW


def test_a_tool_that_nobody_classified_needs_an_approver() -> None:
    desk = bundle(allow_actions=())
    assert refund_tool(allow_actions=()).effect is Effect.EXECUTE
    assert [gate.policy for gate in desk.decide(refund()).gates] == ["issue_refund.unclassified"]
    assert desk.decide(refund(approvals={"approver": 1})).verdict is Verdict.ALLOW
    chosen = bundle(allow_actions=(), approval=(ApprovalRule(role="boss"),))
    assert [gate.role for gate in chosen.decide(refund()).gates] == ["boss"]


def test_human_approval_gates_every_side_effect_and_no_read() -> None:
    desk = bundle(rollout=RolloutMode.HUMAN_APPROVAL)
    assert [gate.policy for gate in desk.decide(refund()).gates] == ["rollout.human_approval.issue_refund"]
    assert desk.reads("lookup_invoice").approvals == frozenset()


@pytest.mark.parametrize(
    "when",
    [
        "true }; permit (principal, action, resource) when { true",
        "true } unless { context.approvals.boss >= 1",
        "true } when { true",
        "",
        "context.input.amount_usd >",
        'true } unless { true };\n@id("x") permit (principal, action, resource) unless { false',
    ],
)
def test_a_condition_cannot_become_a_second_policy_or_clause(when: str) -> None:
    places = {place for place, _ in _findings(approval=(ApprovalRule(role="boss", when=when),))}
    assert places == {"tools.issue_refund.approval[0].when"}


def test_a_comment_in_a_condition_hides_nothing() -> None:
    desk = bundle(
        approval=(ApprovalRule(role="boss", when='context.input.amount_usd == decimal("10") // ten }'),)
    )
    assert [gate.role for gate in desk.decide(refund(10)).gates] == ["boss"]
    assert desk.decide(refund(11)).verdict is Verdict.ALLOW


def test_a_condition_of_the_wrong_type_is_a_finding_at_its_place() -> None:
    found = _findings(approval=(ApprovalRule(role="boss", when="context.input.amount_usd > 20"),))
    assert found == [
        (
            "tools.issue_refund.approval[0].when",
            f"unexpected type: expected Long but saw decimal; {DECIMALS}.",
        )
    ]


def test_odd_names_and_values_stay_data() -> None:
    schema = {"type": "object", "properties": {'a"b-c': {"type": "string"}, "if": {"type": "integer"}}}
    rules = ToolRules(
        name="odd",
        allow_actions=(Effect.READ,),
        constraints={'require_a"b-c': True, "max_if": 3, "one_of": {'a"b-c': ['x"] } permit', "\\", "\n"]}},
    )
    tool = refund_tool()
    odd = type(tool)("odd", "desk", Effect.READ, schema, None, rules)
    compiled, findings = compile_rules(odd, RolloutMode.AUTO)
    assert findings == []
    assert len(compiled) == 4
