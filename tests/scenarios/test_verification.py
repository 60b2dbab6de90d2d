"""What comes back from the world: true, false, unknown, too late, too much, or of the wrong kind."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.vocabulary import CallState, RecordType
from comptroller_tools.desk.faults import Fault, FaultKind, Point
from comptroller_tools.functions import FunctionSource
from comptroller_tools.source import Action, EffectHappened, Outcome
from tests.scenarios.kit import WHY, Shop, call_of, code_of, details_of, opened, tool_of, until

pytestmark = pytest.mark.anyio


def quick(config: dict[str, Any]) -> None:
    """Tools give up after a moment."""
    for name in ("issue_refund", "lookup_invoice"):
        tool_of(config, name)["limits"] = {"timeout_s": 1, "response_kib_max": 8, "concurrency_max": 4}


async def audited(shop: Shop) -> dict[str, Any]:
    (packet,) = shop.packets(RecordType.AUDIT)
    return packet


async def test_a_refund_whose_read_back_differs_is_handed_to_a_person(store_url: str, tmp_path: Path) -> None:
    async with opened(tmp_path, url=store_url) as shop:
        invoice = shop.paid()[0]
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.SHORT, cents=100))
        answer = await shop.refund(invoice, 5)
        assert code_of(answer) == "verification_failed"
        assert "should be 5" in answer.text
        assert "is 4" in answer.text
        assert answer.structured is None
        assert shop.state(call_of(answer)) == "handed_off"
        packet = await audited(shop)
        assert packet["verification"]["result"] == "differs"
        assert packet["output"] is None
        assert [effect.amount_cents for effect in shop.moved()] == [400]


async def test_a_refund_booked_elsewhere_or_nowhere_differs(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        first, second, third = shop.paid()[:3]
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.WRONG_INVOICE, other=second))
        assert code_of(await shop.refund(first, 5)) == "verification_failed"
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.NOT_WRITTEN))
        assert code_of(await shop.refund(third, 5)) == "verification_failed"
        assert [effect.invoice_id for effect in shop.moved()] == [second]
        assert len(shop.calls(CallState.HANDED_OFF)) == 2


async def test_a_record_that_cannot_be_read_back_leaves_the_call_in_doubt(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.RAISE, skip=1))
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "in_doubt"
        assert shop.state(call_of(answer)) == "in_doubt"
        assert (await audited(shop))["verification"]["result"] == "unknown"
        assert len(shop.moved()) == 1


@pytest.mark.parametrize("point", list(Point))
async def test_a_tool_that_raises_leaves_the_call_in_doubt_whatever_it_did(
    tmp_path: Path, point: Point
) -> None:
    async with opened(tmp_path) as shop:
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.RAISE, point=point))
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "in_doubt"
        assert details_of(answer)["retry"] == "person"
        assert shop.state(call_of(answer)) == "in_doubt"
        assert len(shop.moved()) == (1 if point is Point.AFTER_WRITE else 0)


async def test_a_tool_that_hangs_is_given_up_and_what_it_does_later_is_not_lost(tmp_path: Path) -> None:
    async with opened(tmp_path, quick) as shop:
        go = tmp_path / "go"
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.HANG, until=go, times=1))
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "in_doubt"
        assert shop.moved() == []
        go.touch()
        await until(shop.moved)
        (found,) = await shop.service.recovery.round("local")
        assert (found.call, found.state) == (call_of(answer), CallState.DONE)
        again = await shop.refund(shop.paid()[0], 5)
        assert len(shop.moved()) == 1
        assert code_of(again) == "already_done"
        assert "done before" in again.text


async def test_a_read_that_hangs_is_refused_and_gives_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, quick) as shop:
        go = tmp_path / "go"
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.HANG, until=go))
        answer = await shop.call("lookup_invoice", invoice_id=shop.paid()[0])
        assert code_of(answer) == "timeout"
        assert shop.log(RecordType.READ) == []
        go.touch()


async def test_a_look_up_that_hangs_denies(tmp_path: Path) -> None:
    async with opened(tmp_path, quick) as shop:
        go = tmp_path / "go"
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.HANG, until=go))
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "lookup_failed"
        assert shop.moved() == []
        go.touch()


async def test_a_flood_is_withheld_and_a_change_that_came_with_it_is_handed_over(tmp_path: Path) -> None:
    async with opened(tmp_path, quick) as shop:
        shop.misbehave(Fault(tool="*", kind=FaultKind.FLOOD, bytes=20_000))
        read = await shop.call("lookup_invoice", invoice_id=shop.paid()[0])
        assert code_of(read) == "output_invalid"
        assert "AAAA" not in read.text
        assert code_of(await shop.refund(shop.paid()[0], 5)) == "lookup_failed"
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.FLOOD, bytes=20_000))
        refund = await shop.refund(shop.paid()[0], 5)
        assert code_of(refund) == "output_invalid"
        assert "AAAA" not in refund.text
        assert shop.state(call_of(refund)) == "handed_off"
        assert len(shop.moved()) == 1


async def test_a_result_that_is_not_of_its_type_is_withheld(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        shop.misbehave(Fault(tool="*", kind=FaultKind.LIE))
        invoice = shop.paid()[0]
        assert code_of(await shop.call("lookup_invoice", invoice_id=invoice)) == "output_invalid"
        assert code_of(await shop.refund(invoice, 5)) == "lookup_failed"
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.LIE))
        refund = await shop.refund(invoice, 5)
        assert code_of(refund) == "output_invalid"
        assert shop.state(call_of(refund)) == "handed_off"
        assert len(shop.moved()) == 1
        assert shop.log(RecordType.READ) == []


async def test_a_look_up_that_answers_with_another_record_never_passes_as_the_right_one(
    tmp_path: Path,
) -> None:
    rule = """
        @id("right-invoice") @reason("The record looked up is not the one the refund is for.")
        forbid (principal, action == Comptroller::Action::"issue_refund", resource)
        unless { context.facts.invoice.invoice_id == context.input.invoice_id };
    """
    async with opened(tmp_path, cedar=rule) as shop:
        invoice, other = shop.paid()[:2]
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.WRONG_RECORD, other=other))
        answer = await shop.refund(invoice, 5)
        assert code_of(answer) == "denied"
        assert "right-invoice" in answer.text
        assert shop.moved() == []
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.WRONG_RECORD, other=other, skip=1))
        assert code_of(await shop.refund(invoice, 5)) == "verification_failed"


async def test_a_rule_after_the_call_stops_the_answer_and_says_that_the_change_was_made(
    tmp_path: Path,
) -> None:
    rule = """
        @id("small-notes") @reason("The desk left a note on this refund.")
        forbid (principal, action == Comptroller::Action::"issue_refund:after", resource)
        unless { context.output.note == "" };
    """
    async with opened(tmp_path, cedar=rule) as shop:
        first, second = shop.paid()[:2]
        assert code_of(await shop.refund(first, 5)) is None
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.FLOOD, bytes=10))
        answer = await shop.refund(second, 5)
        assert code_of(answer) == "verification_failed"
        assert "small-notes" in answer.text
        assert "The change was made" in answer.text
        assert details_of(answer)["retry"] == "person"
        assert shop.state(call_of(answer)) == "handed_off"
        assert len(shop.moved()) == 2


@pytest.mark.parametrize("effect", [EffectHappened.DONE, EffectHappened.NONE])
async def test_a_rule_after_a_read_keeps_the_record_back(
    tmp_path: Path, effect: EffectHappened, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = FunctionSource.call

    async def saying_so(self: FunctionSource, action: Action, deadline: float) -> Outcome:
        return replace(await asked(self, action, deadline), effect=effect)

    monkeypatch.setattr(FunctionSource, "call", saying_so)
    rule = """
        @id("no-enterprise") @reason("This invoice is not for agents.")
        forbid (principal, action == Comptroller::Action::"lookup_invoice:after", resource)
        when { context.output.amount_usd.greaterThan(decimal("0")) };
    """
    async with opened(tmp_path, cedar=rule) as shop:
        invoice = shop.paid()[0]
        number = shop.sql("SELECT number FROM invoices WHERE id = ?", invoice)[0][0]
        answer = await shop.call("lookup_invoice", invoice_id=invoice)
        assert code_of(answer) == "denied"
        assert "no-enterprise" in answer.text
        assert number not in answer.text
        assert answer.structured is None
        assert shop.log(RecordType.READ) == []


async def test_a_policy_that_cannot_be_evaluated_denies(tmp_path: Path) -> None:
    rule = """
        @id("overflows") @reason("Never said.")
        forbid (principal, action == Comptroller::Action::"issue_refund", resource)
        when { context.task.step + 9223372036854775807 > 0 && false };
    """
    async with opened(tmp_path, cedar=rule) as shop:
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "denied"
        assert shop.moved() == []
        (refused,) = shop.packets(RecordType.REFUSED)
        assert refused["decision"]["errors"]


async def test_a_defect_of_ours_after_the_commit_leaves_the_call_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async with opened(tmp_path) as shop:
        monkeypatch.setattr("comptroller_server.call.outcomes.compare", broken)
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "in_doubt"
        assert shop.state(call_of(answer)) == "in_doubt"
        assert answer.structured is None
        (done,) = await shop.service.recovery.round("local")
        assert done.state is CallState.DONE


async def test_what_a_tool_says_to_the_model_is_quoted(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        answer = await shop.call("cancel_refund", refund_id="ref_none", why=WHY)
        assert code_of(answer) == "approval_pending"
        read = await shop.call("lookup_invoice", invoice_id="inv_none")
        assert code_of(read) == "tool_failed"
        assert 'says: "There is no invoice inv_none.' in read.text


async def test_a_call_that_outlives_its_deadline_keeps_its_slot_until_it_ends(tmp_path: Path) -> None:
    def one_slot(document: dict[str, Any]) -> None:
        tool_of(document, "issue_refund")["limits"] = {"timeout_s": 1.5, "concurrency_max": 1}

    async with opened(tmp_path, one_slot) as shop:
        first, second = shop.paid()[:2]
        release = tmp_path / "go-on"
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.HANG, until=release, times=1))
        assert code_of(await shop.refund(first, 5)) == "in_doubt"
        waiting = asyncio.create_task(shop.refund(second, 5))
        done, _ = await asyncio.wait({waiting}, timeout=1.5)
        assert not done, "the one slot is still taken by the call that hangs"
        release.touch()
        assert code_of(await asyncio.wait_for(waiting, 20)) is None


async def test_a_read_leaves_its_slot_to_the_next_one_while_it_waits_for_its_record(tmp_path: Path) -> None:
    def one_slot(document: dict[str, Any]) -> None:
        tool_of(document, "lookup_invoice")["limits"] = {"concurrency_max": 1}

    async with opened(tmp_path, one_slot) as shop:
        go_on, asked = threading.Event(), list[None]()
        shop.faults.at["dispatch.after"] = lambda: asked.append(None)
        shop.faults.at["commit.begin"] = lambda: _wait_for(go_on)
        reads = [
            asyncio.create_task(shop.call("lookup_invoice", invoice_id=invoice))
            for invoice in shop.paid()[:3]
        ]
        try:
            await until(lambda: len(asked) == 3)
            assert not any(read.done() for read in reads)
        finally:
            go_on.set()
        assert [code_of(answer) for answer in await asyncio.gather(*reads)] == [None] * 3


async def test_a_change_keeps_its_slot_until_it_was_read_back(tmp_path: Path) -> None:
    def one_slot(document: dict[str, Any]) -> None:
        tool_of(document, "issue_refund")["limits"] = {"timeout_s": 10, "concurrency_max": 1}

    async with opened(tmp_path, one_slot) as shop:
        first, second = shop.paid()[:2]
        go, reached = tmp_path / "go-on", tmp_path / "reached"
        read_back = Fault(
            tool="lookup_invoice",
            kind=FaultKind.HANG,
            when={"invoice_id": first},
            skip=1,
            until=go,
            reached=reached,
        )
        shop.misbehave(read_back)
        refunding = asyncio.create_task(shop.refund(first, 5))
        await until(reached.exists)
        waiting = asyncio.create_task(shop.refund(second, 5))
        done, _ = await asyncio.wait({waiting, refunding}, timeout=1)
        assert not done
        assert len(shop.moved()) == 1, "the second one waits for the slot"
        go.touch()
        assert [code_of(answer) for answer in await asyncio.gather(refunding, waiting)] == [None, None]


def _wait_for(event: threading.Event) -> None:
    assert event.wait(20)


async def test_a_change_is_looked_up_by_its_effect_key_where_another_one_of_the_same_size_may_land(
    tmp_path: Path,
) -> None:
    def looked_up(config: dict[str, Any]) -> None:
        refund = tool_of(config, "issue_refund")
        refund["facts"]["made"] = {"tool": "find_refund", "arguments": {"effect_key": "{call.effect_key}"}}
        refund["verify"].append({"fact": "made", "expect": {"found": "true"}})

    async with opened(tmp_path, looked_up) as shop:
        invoice = shop.paid()[0]
        assert code_of(await shop.refund(shop.paid()[1], 5)) is None
        go, reached = tmp_path / "go-on", tmp_path / "reached"
        shop.misbehave(
            Fault(tool="issue_refund", kind=FaultKind.HANG, until=go, reached=reached),
            Fault(tool="issue_refund", kind=FaultKind.NOT_WRITTEN),
        )
        refunding = asyncio.create_task(shop.refund(invoice, 5))
        await until(reached.exists)
        shop.sql("UPDATE invoices SET refunded_cents = refunded_cents + 500 WHERE id = ?", invoice)
        go.touch()
        answer = await refunding
        assert code_of(answer) == "verification_failed"
        assert "invoice.refunded_usd" not in answer.text  # the sum is right
        assert "made.found should be true and is false" in answer.text
