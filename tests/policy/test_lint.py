"""What is wrong with policies is told at load, all at once, with file and line."""

from __future__ import annotations

from typing import Any

import pytest

from comptroller_audit.vocabulary import Effect
from comptroller_policy.bundle import compile_bundle
from comptroller_policy.declarations import Aim, ApprovalRule, RolloutMode, ToolRules
from comptroller_policy.errors import BundleInvalid
from comptroller_policy.model import PolicyFile, ToolFacts
from comptroller_policy.syntax import Policy, parse_file, parse_policy
from tests.policy.questions import LOOKUP, OVER_20, bundle, refund_tool

REFUND = 'principal, action == Comptroller::Action::"issue_refund", resource'


def _findings(text: str, **rules: Any) -> list[tuple[str, str]]:
    with pytest.raises(BundleInvalid) as raised:
        bundle(text, **rules)
    return [
        (finding.where.removeprefix("policies/0.cedar:"), finding.message)
        for finding in raised.value.findings
    ]


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("context.input has amnt", "declares `amnt` in context.input. It has: amount_usd"),
        ("context has inputs", "declares `inputs` in context."),
        ("context.input has reason_code.x", "declares `x` in context.input.reason_code"),
        ("principal has tags", "declares `tags` in principal. It has: kind, subject, tenant"),
        ("resource has owner", "declares `owner` in resource. It has: key, kind"),
        ("principal.tenant has name", "declares `name` in principal.tenant"),
        ('context.input.amont == "x"', "declares `amont`"),
        ("context.facts has ticket", "declares `ticket` in context.facts. It has: invoice"),
        ("context.history.principal.refunds > 3", "It has: refunds_today"),
        ("context.history.task.refunds_today > 3", "declares `task` in context.history"),
        ('context.derived.left == decimal("1.0")', "It has: remaining_usd"),
        ('context.input.blob == "x"', "context.input.blob cannot be read by policies: it may be anything."),
        ("context.input has blob", "cannot be read by policies"),
        ("context.output has refund_id", "declares `output`"),
        ("context == {a: 1}", "not as a whole"),
        ("(if true then context else context).input has reason_code", "not as a whole"),
        ("context.input.amount_usd > 3", "expected Long but saw decimal"),
        ("context.input.amount_usd > 3", 'write `.greaterThan(decimal("10.0"))`'),
        ("context.input.amount_usd.greaterThan(3)", 'write `.greaterThan(decimal("10.0"))`'),
        ('context.input.reason_code == "late"', "optional attribute"),
        ('principal in Comptroller::Rol::"x"', "unrecognized entity type"),
        ('resource in Comptroller::Source::"dsk"', "there is no source `dsk`"),
        ('resource == Comptroller::Record::"invoice/7"', "source/kind/key"),
        ('action == Comptroller::Action::"issue_refnd"', "there is no tool or group `issue_refnd`"),
    ],
)
def test_what_no_tool_in_scope_declares_is_a_finding_with_its_line(condition: str, said: str) -> None:
    found = _findings(f'// one\n\n@id("p")\nforbid ({REFUND})\nwhen {{ {condition} }};')
    assert len(found) == 1, found
    assert said in found[0][1]
    assert found[0][0] in ("3", "5")


@pytest.mark.parametrize(
    "condition",
    [
        'context.provenance.invoice_id == "trustd"',
        'true && !("Trusted" != context.provenance.invoice_id)',
        '["request", "read"].contains(context.provenance.invoice_id)',
    ],
)
def test_a_word_that_no_provenance_ever_is_is_a_finding(condition: str) -> None:
    text = f'@id("p")\nforbid ({REFUND})\nwhen {{ {condition} }};'
    ((where, said),) = _findings(text, provenance={"invoice_id": Aim.TARGET})
    assert where == "3" and "no provenance is ever" in said


def test_a_name_that_any_tool_in_scope_declares_is_no_finding() -> None:
    bundle(
        '@id("p") forbid (principal, action, resource) when { context has output && context.input has amount_usd };'
    )


def test_a_policy_on_a_group_without_tools_waits_for_them() -> None:
    bundle('@id("p") forbid (principal, action in Comptroller::Action::"delete", resource);')


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (f"\nforbid ({REFUND});", "2", "no @id"),
        (f'@id("") forbid ({REFUND});', "1", "no @id"),
        (f'@id("p") forbid ({REFUND}) when {{ }};', "1", "does not parse"),
        (f'// ;\n@id("p") @reason("; // \\"") forbid ({REFUND})', "2", "does not parse"),
        (f'@id("p") forbid ({REFUND});\n@id("p") permit ({REFUND});', "2", "already used at policies/0.cedar:1"),
        (f'@id("issue_refund.allow") forbid ({REFUND});', "1", "already used at tools.issue_refund.roles"),
        (f'@id("default.deny") forbid ({REFUND});', "1", "used by Comptroller itself"),
        ('@id("p") forbid (principal == ?principal, action, resource);', "1", "templates"),
        ('@id("p") forbid (principal, action == Comptroller::Action::"create", resource);', "1", "action in"),
        ('@id("p") forbid (principal, action == Comptroller::Action::"nope", resource);', "1", "no tool or group"),
        ('@id("p") permit (principal, action == Comptroller::Action::"issue_refund:after", resource);', "1", "only forbids"),
        (f'@id("p") forbid ({REFUND.removesuffix("resource")}resource is Comptroller::Source);', "1", "never apply"),
        ("x" * 10_001, "1", "at most 10000 characters"),
    ],
)  # fmt: skip
def test_a_policy_with_a_bad_head_is_a_finding(text: str, line: str, said: str) -> None:
    found = _findings(text)
    assert len(found) == 1, found
    assert found[0][0] == line
    assert said in found[0][1]


GATE = '@id("p") @approval("boss") '


@pytest.mark.parametrize(
    "text",
    [
        f"{GATE}forbid ({REFUND}) when {{ context.approvals.boss >= 1 }};",
        f"{GATE}forbid ({REFUND}) unless {{ context.approvals.boss > 1 }};",
        f"{GATE}forbid ({REFUND}) unless {{ context.approvals.boss >= 0 }};",
        f"{GATE}forbid ({REFUND}) unless {{ context.approvals.boss >= 1001 }};",
        f"{GATE}forbid ({REFUND}) unless {{ !(context.approvals.boss >= 1) }};",
        f"{GATE}forbid ({REFUND}) unless {{ context.approvals.boss >= 1 || true }};",
        f"{GATE}forbid ({REFUND}) unless {{ context.approvals.boss >= 1 }} unless {{ false }};",
        f"{GATE}forbid ({REFUND}) when {{ context.approvals.boss >= 1 }} unless {{ context.approvals.boss >= 2 }};",
        f"{GATE}forbid ({REFUND}) when {{ context.approvals has boss }} unless {{ context.approvals.boss >= 2 }};",
        f"{GATE}forbid ({REFUND}) when {{ [context.approvals].isEmpty() }} unless {{ context.approvals.boss >= 2 }};",
        f"{GATE}forbid ({REFUND});",
        f"{GATE}permit ({REFUND}) unless {{ context.approvals.boss >= 1 }};",
        f'@id("p") @approval("legal") forbid ({REFUND}) unless {{ context.approvals.boss >= 1 }};',
        f'@id("p") forbid ({REFUND}) unless {{ context.approvals.boss >= 1 }};',
        f'@id("p") @approval forbid ({REFUND}) unless {{ context.approvals.boss >= 1 }};',
        f'@id("p") @approval("a b") forbid ({REFUND}) unless {{ context.approvals["a b"] >= 1 }};',
        f'@id("p") @approval("requester") forbid ({REFUND}) unless {{ context.approvals.requester >= 1 }};',
        f"{GATE}forbid (principal, action in Comptroller::Action::\"after\", resource) unless {{ context.approvals.boss >= 1 }};",
    ],
)  # fmt: skip
def test_approvals_are_read_only_in_the_shape_that_they_can_only_open(text: str) -> None:
    found = _findings(text, approval=(ApprovalRule(role="boss"),))
    assert {line for line, _ in found} == {"1"}
    assert any("approv" in message for _, message in found)


def test_an_argument_named_approvals_is_not_an_approval() -> None:
    schema = {"type": "object", "properties": {"approvals": {"type": "integer"}}, "required": ["approvals"]}
    tool = ToolFacts(
        "t", "desk", Effect.READ, schema, None, ToolRules(name="t", allow_actions=(Effect.READ,))
    )
    file = PolicyFile(
        "p", '@id("p") forbid (principal, action, resource) when { context.input.approvals > 3 };'
    )
    compile_bundle([tool], [file], RolloutMode.AUTO)


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        (f'@id("never") forbid ({REFUND});', {"approval": (OVER_20,)}),
        ("", {"approval": (OVER_20,), "roles": ()}),
        (f'@id("never") forbid ({REFUND}) unless {{ 1 > 2 }};', {"allow_actions": ()}),
    ],
)
def test_a_gate_that_no_approval_can_open_is_a_finding(text: str, rules: dict[str, Any]) -> None:
    found = _findings(text, **rules)
    assert len(found) == 1
    assert "no approval can open this gate" in found[0][1]


def test_a_whole_decimal_is_read_as_cedar_wants_it() -> None:
    policy = parse_policy(
        '@id("p") permit (principal, action, resource) when { decimal("20") == decimal( "-3" ) };', "x"
    )
    assert isinstance(policy, Policy)
    assert 'decimal("20.0") == decimal("-3.0")' in policy.text


def test_policies_are_found_on_their_lines_whatever_stands_between_them() -> None:
    policies, findings = parse_file(
        PolicyFile("f", '// a; b\n@id("a;\\"//")\npermit (principal, action, resource); @id("b") // ;\nforbid\n(principal, action, resource);\n// end')
    )  # fmt: skip
    assert findings == []
    assert [(policy.id, policy.where) for policy in policies] == [('a;"//', "f:2"), ("b", "f:3")]


def test_a_long_condition_is_read_without_running_out_of_stack() -> None:
    terms = " && ".join(["context.task.step >= 0"] * 300)
    policies, findings = parse_file(
        PolicyFile("f", f'@id("p") permit (principal, action, resource) when {{ {terms} }};')
    )
    assert findings == []
    assert policies[0].reads == {("context", "task", "step")}


def test_a_record_literal_cannot_hide_what_is_read() -> None:
    policy = parse_policy(
        '@id("p") permit (principal, action, resource) when { {"Var": context.now, "Value": context.task} == {} };',
        "x",
    )
    assert isinstance(policy, Policy)
    assert policy.reads == {("context", "now"), ("context", "task")}


@pytest.mark.parametrize("name", ["call", "after", "read", "execute"])
def test_a_tool_cannot_take_the_name_of_a_group(name: str) -> None:
    tool = ToolFacts(name, "desk", Effect.READ, {}, None, ToolRules(name=name, allow_actions=(Effect.READ,)))
    with pytest.raises(BundleInvalid, match="group"):
        compile_bundle([tool], [], RolloutMode.AUTO)


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(BundleInvalid, match="two tools"):
        compile_bundle([LOOKUP, LOOKUP, refund_tool()], [], RolloutMode.AUTO)


def test_a_bundle_without_tools_or_policies_loads() -> None:
    assert compile_bundle([], [], RolloutMode.AUTO).tools() == ()
