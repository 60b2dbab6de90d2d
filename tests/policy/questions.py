"""Tools and questions that the policy tests share: the support desk's refund, in small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from comptroller_audit.vocabulary import Actor, Effect, Principal, Subject
from comptroller_policy.bundle import compile_bundle
from comptroller_policy.declarations import ApprovalRule, FactRule, HistoryRule, RolloutMode, ToolRules
from comptroller_policy.engine import Bundle
from comptroller_policy.model import PolicyFile, Question, Record, ToolFacts

INVOICE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "invoice_id": {"type": "string"},
        "paid_usd": {"type": "number"},
        "refunded_usd": {"type": "number"},
        "count": {"type": "integer"},
    },
    "required": ["invoice_id", "paid_usd", "refunded_usd"],
}
REFUND: dict[str, Any] = {
    "type": "object",
    "properties": {
        "invoice_id": {"type": "string"},
        "amount_usd": {"type": "number"},
        "reason_code": {"anyOf": [{"type": "string", "enum": ["late", "damaged", ""]}, {"type": "null"}]},
        "lines": {"type": "array", "items": {"type": "string"}},
        "quantity": {"type": "integer"},
        "blob": {},
    },
    "required": ["invoice_id", "amount_usd"],
}
REFUNDED: dict[str, Any] = {
    "type": "object",
    "properties": {"refund_id": {"type": "string"}, "amount_usd": {"type": "number"}},
    "required": ["refund_id", "amount_usd"],
}
PRINCIPAL = Principal("acme", "local:store", "1000")
AGENT = Subject(PRINCIPAL, Actor("triage-bot"), frozenset({"support_agent"}))
STRANGER = Subject(PRINCIPAL, Actor("triage-bot"))

LOOKUP = ToolFacts(
    "lookup_invoice",
    "desk",
    Effect.READ,
    {"type": "object", "properties": {"invoice_id": {"type": "string"}}, "required": ["invoice_id"]},
    INVOICE,
    ToolRules(name="lookup_invoice", allow_actions=(Effect.READ,), resource="invoice:{input.invoice_id}"),
    "invoice",
)
OVER_20 = ApprovalRule(role="approver", when='context.input.amount_usd.greaterThan(decimal("20"))')
WITHIN_PAID = PolicyFile(
    "policies/refunds.cedar",
    """// as an operator writes it
@id("refund-within-paid") @reason("The refund is more than what is left on the invoice.")
forbid (principal, action == Comptroller::Action::"issue_refund", resource)
when { context.input.amount_usd.greaterThan(context.derived.remaining_usd) };
""",
)


def refund_tool(**rules: Any) -> ToolFacts:
    """`issue_refund` as the example config declares it, with any rule replaced."""
    declared: dict[str, Any] = {
        "name": "issue_refund",
        "allow_actions": (Effect.CREATE,),
        "roles": ("support_agent",),
        "resource": "invoice:{input.invoice_id}",
        "facts": {"invoice": FactRule(tool="lookup_invoice", arguments={"invoice_id": "{input.invoice_id}"})},
        "derived": {"remaining_usd": "facts.invoice.paid_usd - facts.invoice.refunded_usd"},
        "history": {"principal.refunds_today": HistoryRule(count="issue_refund")},
        **rules,
    }
    made = ToolRules.model_validate(declared)
    facts = dict.fromkeys(made.facts, INVOICE)
    return ToolFacts("issue_refund", "desk", made.effect, REFUND, REFUNDED, made, "invoice", facts)


def bundle(
    *texts: str, rollout: RolloutMode = RolloutMode.OFF, files: tuple[PolicyFile, ...] = (), **rules: Any
) -> Bundle:
    """The desk's two tools with these rules, and each text as one operator file."""
    written = [PolicyFile(f"policies/{at}.cedar", text) for at, text in enumerate(texts)]
    return compile_bundle([LOOKUP, refund_tool(**rules)], [*files, *written], rollout)


def refund(
    amount: Any = 10, *, subject: Subject = AGENT, approvals: Mapping[str, int] | None = None, **more: Any
) -> Question:
    """A refund on invoice 7, of which 80 USD are left. `more` replaces fields; `input` adds arguments."""
    arguments = {"invoice_id": "7", "amount_usd": amount, "reason_code": "late", **more.pop("input", {})}
    question = Question(
        tool="issue_refund",
        subject=subject,
        input=arguments,
        now_ms=1_763_800_000_123,
        record=Record("invoice", "7"),
        facts={"invoice": {"invoice_id": "7", "paid_usd": 100, "refunded_usd": 20.0}},
        derived={"remaining_usd": Decimal(80)},
        history={"principal.refunds_today": 1},
        approvals=approvals or {},
    )
    return replace(question, **more)
