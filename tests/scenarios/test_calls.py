"""The everyday call: read, refund, refuse; and what each leaves on record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.vocabulary import CallState, RecordType
from tests.scenarios.kit import WHY, call_of, code_of, details_of, opened, structured, tool_of

pytestmark = pytest.mark.anyio


async def test_a_read_gives_the_record_and_a_ref_that_a_refund_can_cite(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        read = await shop.call("lookup_invoice", invoice_id=invoice)
        ref = structured(read)["refs"][0]
        assert ref["kind"] == "invoice"
        assert ref["key"] == invoice
        assert ref["ref"] in read.text
        why = {"reason": "The customer was charged twice.", "citations": [ref["ref"]]}
        refund = await shop.refund(invoice, 5, why=why)
        assert code_of(refund) is None
        (action,) = shop.packets(RecordType.ACTION)
        assert [(c["kind"], c["key"]) for c in action["citations"]] == [("invoice", invoice)]
        assert action["why"] == why


async def test_a_refund_within_limits_moves_money_once_and_is_verified(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        answer = await shop.refund(invoice, 12.34)
        (effect,) = shop.moved()
        assert (effect.invoice_id, effect.amount_cents) == (invoice, 1234)
        assert effect.effect_key == call_of(answer)
        assert structured(answer)["amount_usd"] == 12.34
        (audit,) = shop.packets(RecordType.AUDIT)
        assert audit["state"] == "done"
        assert audit["verification"]["result"] == "matched"
        action, audit_entry = shop.log(RecordType.ACTION, RecordType.AUDIT)
        assert audit["action"] == action.index < audit_entry.index
        receipt = answer.meta["comptroller/receipt"]
        assert receipt == {"log": "local", "index": audit_entry.index, "leaf": audit_entry.leaf}


async def test_a_refund_over_the_limit_is_refused_with_the_rule_and_the_next_step(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        answer = await shop.refund(shop.paid()[0], 500)
        assert code_of(answer) == "denied"
        assert "issue_refund.max_amount_usd" in answer.text
        assert "Change the arguments" in answer.text
        assert details_of(answer)["class"] == "policy_violation"
        assert answer.structured is None
        assert shop.moved() == []
        (refused,) = shop.packets(RecordType.REFUSED)
        assert refused["refusal"]["policies"] == ["issue_refund.max_amount_usd"]


async def test_more_than_was_paid_is_refused_by_what_was_looked_up(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        shop.sql("UPDATE invoices SET refunded_cents = paid_cents - 300 WHERE id = ?", invoice)
        answer = await shop.refund(invoice, 4)
        assert code_of(answer) == "denied"
        assert "refund-within-paid" in answer.text
        assert shop.moved() == []
        assert code_of(await shop.refund(invoice, 3)) is None


async def test_a_side_effect_says_why_or_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        assert code_of(await shop.refund(invoice, 5, why=None)) == "why_missing"
        assert code_of(await shop.refund(invoice, 5, why={"reason": ""})) == "invalid_arguments"
        assert code_of(await shop.refund(invoice, 5, why="because")) == "invalid_arguments"
        assert shop.moved() == []
        by_meta = await shop.refund(invoice, 5, why=None, meta={"comptroller/why": WHY})
        assert code_of(by_meta) is None
        assert len(shop.moved()) == 1


async def test_a_ref_of_another_task_or_of_nobody_is_stale(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        other = shop.other(actor="other-bot")
        read = await shop.call("lookup_invoice", invoice_id=invoice, subject=other)
        for ref in (structured(read)["refs"][0]["ref"], "aaaaaaaa"):
            answer = await shop.refund(invoice, 5, why={"reason": "Charged twice.", "citations": [ref]})
            assert code_of(answer) == "citation_stale"
        assert shop.moved() == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"amount_usd": 5, "reason_code": "goodwill"},
        {"invoice_id": 7, "amount_usd": 5, "reason_code": "goodwill"},
        {"invoice_id": "inv_x", "amount_usd": 0, "reason_code": "goodwill"},
        {"invoice_id": "inv_x", "amount_usd": 1.001, "reason_code": "goodwill"},
        {"invoice_id": "inv_x", "amount_usd": -5, "reason_code": "goodwill"},
        {"invoice_id": "inv_x", "amount_usd": 5, "reason_code": "because"},
        {"invoice_id": "inv_x", "amount_usd": 5, "reason_code": "goodwill", "force": True},
        {"invoice_id": "inv_x'; drop table invoices", "amount_usd": 5, "reason_code": "goodwill"},
    ],
)
async def test_arguments_that_do_not_fit_are_refused_before_anything_is_looked_up(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    async with opened(tmp_path) as shop:
        answer = await shop.call("issue_refund", {**arguments, "why": WHY})
        assert code_of(answer) == "invalid_arguments"
        assert details_of(answer)["retry"] == "other_arguments"
        assert shop.moved() == []
        (refused,) = shop.packets(RecordType.REFUSED)
        assert refused["facts"] == {}


async def test_a_hidden_tool_and_a_missing_one_answer_alike(tmp_path: Path) -> None:
    def for_admins(config: dict[str, Any]) -> None:
        tool_of(config, "cancel_refund")["roles"] = ["admin"]

    async with opened(tmp_path, for_admins) as shop:
        hidden = await shop.call("cancel_refund", refund_id="ref_x", why=WHY)
        missing = await shop.call("cancel_refunds", refund_id="ref_x", why=WHY)
        assert hidden.unknown_tool
        assert missing.unknown_tool
        assert hidden.text == missing.text
        assert set(details_of(hidden)) == set(details_of(missing))
        assert "cancel_refund" not in {tool.name for tool in shop.service.pipeline.listing(shop.subject)}


async def test_what_is_listed_may_be_called_and_what_is_not_is_unknown(tmp_path: Path) -> None:
    def closed(config: dict[str, Any]) -> None:
        for tool in config["tools"]:
            tool["roles"] = ["support_agent"]
        tool_of(config, "get_ticket")["roles"] = []
        tool_of(config, "cancel_refund")["roles"] = ["admin"]

    arguments: dict[str, dict[str, Any]] = {
        "search_tickets": {},
        "get_ticket": {"ticket_id": "tic_x"},
        "lookup_invoice": {"invoice_id": "inv_x"},
        "find_refund": {"effect_key": "x"},
        "issue_refund": {"invoice_id": "inv_x", "amount_usd": 5, "reason_code": "goodwill", "why": WHY},
        "cancel_refund": {"refund_id": "ref_x", "why": WHY},
    }
    async with opened(tmp_path, closed) as shop:
        listed = {tool.name for tool in shop.service.pipeline.listing(shop.subject)}
        built_in = {"resume_call", "task_begin", "task_status", "task_finish", "hand_off"}
        assert listed == {"search_tickets", "lookup_invoice", "find_refund", "issue_refund", *built_in}
        for tool, given in arguments.items():
            answer = await shop.call(tool, given)
            assert answer.unknown_tool == (tool not in listed), tool
        nobody = shop.other(subject="nobody")
        nobody = type(nobody)(nobody.principal, nobody.actor, frozenset())
        assert list(shop.service.pipeline.listing(nobody)) == []
        for tool, given in arguments.items():
            assert (await shop.call(tool, given, subject=nobody)).unknown_tool, tool
        assert shop.moved() == []


async def test_every_message_is_in_exactly_one_record(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        before = len(shop.log())
        answers = [
            await shop.call("search_tickets"),
            await shop.call("nothing_like_it"),
            await shop.refund(invoice, 500),
            await shop.refund(invoice, 5, why=None),
            await shop.refund(invoice, 30),
            await shop.refund(invoice, 30),
            await shop.resume("no-such-call"),
            await shop.call("lookup_invoice", invoice_id="inv_none"),
        ]
        entries = shop.log()[before:]
        attempts = [str(e.packet["attempt"]) for e in entries if e.packet is not None]
        assert len(attempts) == len(set(attempts)) == len(answers)
        by_index = {e.index: e.leaf for e in entries}
        for answer in answers:
            receipt = answer.meta["comptroller/receipt"]
            assert isinstance(receipt, dict)
            assert by_index.pop(int(str(receipt["index"]))) == receipt["leaf"]
        assert by_index == {}
        assert shop.calls(CallState.COMMITTED) == []
