"""What was done and is wrong is reversed, once, by a governed call of its own; or a person hears of it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.compensations import COMPENSATIONS
from comptroller_audit.errors import StoreUnavailable
from comptroller_audit.vocabulary import CallState, RecordType
from comptroller_policy.switches import SwitchScope
from comptroller_server.call.proposal import Answer
from comptroller_tools.desk.faults import Fault, FaultKind, Point
from tests.scenarios.compensation_kit import money, reversing
from tests.scenarios.kit import Shop, call_of, code_of, details_of, opened, tool_of, until
from tests.scenarios.test_budgets import counters

pytestmark = pytest.mark.anyio
SHORT = Fault(tool="issue_refund", kind=FaultKind.SHORT, cents=100)


async def test_a_refund_whose_read_back_differs_is_reversed(store_url: str, tmp_path: Path) -> None:
    async with opened(tmp_path, reversing, url=store_url) as shop:
        invoice = shop.paid()[0]
        shop.misbehave(SHORT)
        answer = await shop.refund(invoice, 5)
        assert code_of(answer) == "compensated", answer.text
        assert details_of(answer)["class"] == "silent_wrong"
        assert "should be 5" in answer.text and "reversed with `cancel_refund`" in answer.text
        assert shop.state(call_of(answer)) == "compensated"
        assert money(shop) == [("refund_issued", 400), ("refund_cancelled", 400)]


async def test_without_a_compensator_a_person_hears_of_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        shop.misbehave(SHORT)
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "verification_failed"
        assert shop.state(call_of(answer)) == "handed_off"


AFTER = """
@id("not-that-reason") @reason("This reason is not ours.")
forbid (principal, action == Comptroller::Action::"issue_refund:after", resource)
when { context.output.reason_code == "goodwill" };
"""


async def test_a_refund_that_a_rule_about_its_result_forbids_is_reversed(tmp_path: Path) -> None:
    async with opened(tmp_path, reversing, cedar=AFTER) as shop:
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "compensated", answer.text
        assert "(rule not-that-reason)" in answer.text
        assert money(shop) == [("refund_issued", 500), ("refund_cancelled", 500)]


async def test_what_cannot_be_read_back_is_in_doubt_and_is_not_reversed(tmp_path: Path) -> None:
    async with opened(tmp_path, reversing) as shop:
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.RAISE, skip=1))
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "in_doubt"
        assert money(shop) == [("refund_issued", 500)]


async def test_the_reversal_is_a_call_of_its_own_on_record(tmp_path: Path) -> None:
    async with opened(tmp_path, reversing) as shop:
        shop.misbehave(SHORT)
        call = call_of(await shop.refund(shop.paid()[0], 5))
        refunded, reversal = shop.packets(RecordType.ACTION)
        assert (reversal["tool"], reversal["compensates"]) == ("cancel_refund", call)
        assert reversal["principal"]["subject"] == "service:comptroller"
        assert reversal["call"] != call
        assert refunded["compensation"]["tool"] == "cancel_refund"
        assert refunded["compensation"]["decision"]["verdict"] == "allow"
        first, second = shop.packets(RecordType.AUDIT)
        assert (first["state"], first["verification"]["result"]) == ("done", "differs")
        assert first["reversal"]["arguments"] == reversal["arguments"]
        assert (second["state"], second["verification"]["result"]) == ("done", "matched")
        (news,) = shop.packets(RecordType.COMPENSATION)
        assert (news["call"], news["by"], news["state"]) == (call, reversal["call"], "compensated")
        assert shop.state(reversal["call"]) == "done"


async def test_what_was_reversed_may_be_proposed_again(tmp_path: Path) -> None:
    async with opened(tmp_path, reversing) as shop:
        invoice = shop.paid()[0]
        shop.misbehave(SHORT)
        assert code_of(await shop.refund(invoice, 5)) == "compensated"
        shop.behave()
        assert code_of(await shop.refund(invoice, 5)) is None
        assert [cents for kind, cents in money(shop) if kind == "refund_issued"] == [400, 500]


# -- what keeps it from a good end --------------------------------------------------------------------------------


async def went_wrong(shop: Shop, *also: Fault) -> Answer:
    """A refund of 5 USD that books 4, while the desk does whatever else it is told."""
    shop.misbehave(SHORT, *also)
    return await shop.refund(shop.paid()[0], 5)


def reversal_of(shop: Shop, answer: Answer) -> str:
    """The call that was to reverse it."""
    (packet,) = [p for p in shop.packets(RecordType.ACTION) if p.get("compensates") == call_of(answer)]
    return str(packet["call"])


async def test_a_reversal_that_its_tool_refuses_is_handed_over_and_not_tried_again(tmp_path: Path) -> None:
    async with opened(tmp_path, reversing) as shop:
        answer = await went_wrong(shop, Fault(tool="cancel_refund", kind=FaultKind.REFUSE))
        assert code_of(answer) == "verification_failed"
        assert "could not be reversed" in answer.text
        assert "handed to a person" in answer.text
        assert shop.state(call_of(answer)) == "handed_off"
        assert shop.state(reversal_of(shop, answer)) == "failed_before_effect"
        shop.behave()
        await shop.service.recovery.round("local")
        again = await shop.refund(shop.paid()[0], 5)
        assert code_of(again) == "verification_failed" and "recorded result" in again.text
        assert money(shop) == [("refund_issued", 400)]


async def test_a_reversal_in_doubt_is_told_and_late_news_of_it_counts(tmp_path: Path) -> None:
    async with opened(tmp_path, reversing) as shop:
        fault = Fault(tool="cancel_refund", kind=FaultKind.RAISE, point=Point.AFTER_WRITE)
        answer = await went_wrong(shop, fault)
        assert code_of(answer) == "verification_failed" and "not known whether" in answer.text
        assert shop.state(call_of(answer)) == "handed_off"
        assert shop.state(reversal_of(shop, answer)) == "in_doubt"
        shop.behave()
        await shop.service.recovery.round("local")
        assert shop.state(reversal_of(shop, answer)) == "done"
        assert shop.state(call_of(answer)) == "compensated"
        assert money(shop) == [("refund_issued", 400), ("refund_cancelled", 400)]


async def test_a_reversal_that_is_wrong_itself_is_handed_over(tmp_path: Path) -> None:
    async with opened(tmp_path, reversing) as shop:
        answer = await went_wrong(shop, Fault(tool="cancel_refund", kind=FaultKind.NOT_WRITTEN))
        assert code_of(answer) == "verification_failed" and "went wrong as well" in answer.text
        assert shop.state(call_of(answer)) == shop.state(reversal_of(shop, answer)) == "handed_off"
        assert money(shop) == [("refund_issued", 400)]


async def test_a_reversal_that_could_not_begin_is_handed_over_by_recovery(tmp_path: Path) -> None:
    def full() -> None:
        raise StoreUnavailable("the disk is full")

    async with opened(tmp_path, reversing) as shop:
        shop.faults.at["compensation.before"] = full
        answer = await went_wrong(shop)
        assert code_of(answer) == "in_doubt" and "is wrong" in answer.text
        assert shop.state(call_of(answer)) == "done"
        await shop.service.recovery.round("local")
        assert shop.state(call_of(answer)) == "handed_off"
        await shop.service.recovery.round("local")
        assert money(shop) == [("refund_issued", 400)]
        assert all(held == 0 for _, held in counters(shop).values())


async def test_an_output_that_is_withheld_reverses_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, reversing) as shop:
        answer = await went_wrong(shop, Fault(tool="issue_refund", kind=FaultKind.FLOOD))
        assert code_of(answer) == "verification_failed" and "handed to a person" in answer.text
        assert shop.state(call_of(answer)) == "handed_off"
        assert money(shop) == [("refund_issued", 400)]


# -- decided, gated and held for together -------------------------------------------------------------------------


async def test_what_policy_would_not_let_be_reversed_is_not_done(tmp_path: Path) -> None:
    never = (
        '@id("no-cancelling") @reason("Only people cancel refunds.") '
        'forbid (principal, action == Comptroller::Action::"cancel_refund", resource) when { principal.kind == "service" };'
    )
    async with opened(tmp_path, reversing, cedar=never) as shop:
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "denied"
        assert "could be reversed" in answer.text and "no-cancelling" in answer.text
        assert money(shop) == []


async def test_what_could_not_be_reversed_while_its_tool_is_halted_is_not_done(tmp_path: Path) -> None:
    async with opened(tmp_path, reversing) as shop:
        await shop.halt(SwitchScope.TOOL, "cancel_refund")
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "halted" and "cancel_refund" in answer.text
        await shop.lift(SwitchScope.TOOL, "cancel_refund")
        assert code_of(await shop.refund(shop.paid()[0], 5)) is None


async def test_a_halt_of_the_person_or_the_task_does_not_leave_a_wrong_change_standing(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, reversing) as shop:
        slow = Fault(tool="issue_refund", kind=FaultKind.SLOW, point=Point.AFTER_WRITE, seconds=0.4)
        running = asyncio.create_task(went_wrong(shop, slow))
        await until(lambda: money(shop))
        principal = shop.service.installation.principal_key
        await shop.halt(SwitchScope.PRINCIPAL, principal)
        ((_, row),) = shop.calls(CallState.COMMITTED)
        await shop.halt(SwitchScope.TASK, row["task"])
        answer = await running
        assert code_of(answer) == "compensated", answer.text
        assert code_of(await shop.refund(shop.paid()[1], 5)) == "halted"


def gated(config: dict[str, Any]) -> None:
    """Cancelling asks an approver, whoever wants it."""
    reversing(config)
    tool_of(config, "cancel_refund")["approval"] = [{"role": "approver", "at_least": 1}]


async def test_the_approval_of_a_call_covers_its_reversal(tmp_path: Path) -> None:
    async with opened(tmp_path, gated) as shop:
        call = call_of(pending := await shop.refund(shop.paid()[0], 5))
        assert code_of(pending) == "approval_pending"
        assert "Should it go wrong, `cancel_refund` reverses it" in pending.text
        (asked,) = shop.packets(RecordType.PENDING)
        assert asked["compensation"]["tool"] == "cancel_refund"
        await shop.vote(call)
        shop.misbehave(SHORT)
        assert code_of(await shop.resume(call)) == "compensated"
        assert money(shop) == [("refund_issued", 400), ("refund_cancelled", 400)]


async def test_what_a_reversal_costs_is_held_for_with_the_call_and_given_back(tmp_path: Path) -> None:
    def little(config: dict[str, Any]) -> None:
        reversing(config)
        config["budgets"] = {"max_tool_calls": 3}

    async with opened(tmp_path, little) as shop:
        invoices = shop.paid()
        assert code_of(await shop.refund(invoices[0], 5)) is None
        assert code_of(await shop.refund(invoices[1], 5)) is None
        calls = {name: spent for name, spent in counters(shop).items() if ":calls:" in name}
        assert set(calls.values()) == {(2_000_000, 0)}
        assert code_of(await shop.refund(invoices[2], 5)) == "budget_exhausted"
        assert len(money(shop)) == 2


async def test_a_call_and_its_reversal_both_count(tmp_path: Path) -> None:
    async with opened(tmp_path, reversing) as shop:
        assert code_of(await went_wrong(shop)) == "compensated"
        calls = [spent for name, spent in counters(shop).items() if name.endswith(":calls:task")]
        assert calls == [(2_000_000, 0)]


async def test_nobody_else_writes_to_a_record_while_it_is_put_right(tmp_path: Path) -> None:
    async with opened(tmp_path, reversing) as shop:
        invoice = shop.paid()[0]
        once = SHORT.model_copy(update={"times": 1})
        shop.misbehave(once, Fault(tool="cancel_refund", kind=FaultKind.SLOW, seconds=0.4))
        first = asyncio.create_task(shop.refund(invoice, 5))
        await until(lambda: money(shop))
        second = await shop.refund(invoice, 7)
        assert code_of(await first) == "compensated"
        assert code_of(second) is None, second.text
        assert [cents for _, cents in money(shop)] == [400, 400, 700]


async def test_who_wakes_after_its_reversal_was_handed_over_sends_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, reversing) as shop:

        def taken_over() -> None:
            with contextlib.closing(sqlite3.connect(tmp_path / "comptroller.db", timeout=10)) as store, store:
                store.execute("UPDATE compensations SET state = 'over'")

        shop.faults.at["compensation.before"] = taken_over
        answer = await went_wrong(shop)
        assert code_of(answer) == "verification_failed"
        assert money(shop) == [("refund_issued", 400)]


async def test_recovery_leaves_a_reversal_alone_that_is_about_to_begin(tmp_path: Path) -> None:
    async with opened(tmp_path, reversing) as shop:
        slow = Fault(tool="get_refund", kind=FaultKind.SLOW, seconds=0.4)
        running = asyncio.create_task(went_wrong(shop, slow))
        await until(lambda: shop.rows(COMPENSATIONS, *(call for call, _ in shop.calls())))
        await shop.service.recovery.round("local")
        assert code_of(await running) == "compensated"
