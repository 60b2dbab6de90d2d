"""Calls, declared units, steps, active time and history: held before, never overspent, and given back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.database import table_of
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import MICRO, CallState, RecordType
from comptroller_budgets.ledger import CounterRow
from comptroller_server.call.proposal import Answer
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import Clock, Shop, call_of, code_of, details_of, opened, tool_of

pytestmark = pytest.mark.anyio
HISTORY_RULE = """
    @id("three-a-day") @reason("Three refunds a day are enough.")
    forbid (principal, action == Comptroller::Action::"issue_refund", resource)
    when { context.history.principal.refunds_today >= 3 };
"""


def counters(shop: Shop) -> dict[str, tuple[int, int]]:
    """Used and held of every counter of calls; that of the tasks begun in an hour is another matter."""
    table = table_of(CounterRow)

    def read(reader: Reader) -> Sequence[tuple[Any, ...]]:
        return reader.query(table.select().with_only_columns(table.c.id, table.c.used, table.c.held))

    found = {str(name): (used, held) for name, used, held in shop.store.read_now(read)}
    return {name: spent for name, spent in found.items() if ":tasks:" not in name}


async def look(shop: Shop) -> Answer:
    return await shop.call("lookup_invoice", invoice_id=shop.paid()[0])


def no_limits(config: dict[str, Any]) -> None:
    config["budgets"] = {}
    config["limits"] = {"attempts_per_minute_max": 10_000, "refusal_records_per_minute_max": 10_000}
    tool_of(config, "issue_refund")["limits"]["concurrency_max"] = 64


async def test_64_callers_on_a_budget_of_ten_make_ten_calls(store_url: str, tmp_path: Path) -> None:
    def ten(config: dict[str, Any]) -> None:
        no_limits(config)
        config["budgets"] = {"windows": [{"scope": "principal", "window": "day", "unit": "calls", "max": 10}]}

    async with opened(tmp_path, ten, url=store_url) as shop:
        invoices = (shop.paid(1_000) * 2)[:64]
        assert len(invoices) == 64
        subjects = [shop.other(actor=f"bot-{at % 16}") for at in range(64)]
        answers = await asyncio.gather(
            *(
                shop.refund(invoice, (100 + at) / 100, subject=subjects[at])
                for at, invoice in enumerate(invoices)
            )
        )
        done = [a for a in answers if not a.is_error]
        assert len(shop.moved()) == len(done) == 10
        assert {code_of(a) for a in answers} == {None, "budget_exhausted"}
        assert [spent for name, spent in counters(shop).items() if name.startswith("principal:")] == [
            (10 * MICRO, 0)
        ]
        refusal = details_of(next(a for a in answers if a.is_error))
        assert refusal["class"] == "budget"
        assert refusal["left_micro"] == 0
        assert refusal["retry"].startswith("after:")


async def test_two_processes_together_spend_a_budget_once(store_url: str, tmp_path: Path) -> None:
    def little(config: dict[str, Any]) -> None:
        no_limits(config)
        windows = [{"scope": "principal", "window": "day", "unit": "refunded_usd", "max": 50}]
        config["budgets"] = {"windows": windows}

    async with (
        opened(tmp_path, little, url=store_url) as shop,
        opened(tmp_path, little, url=store_url, clock=shop.clock) as second,
    ):
        invoices = shop.paid(2_000)[:12]
        answers = await asyncio.gather(
            *((shop, second)[at % 2].refund(invoice, 12) for at, invoice in enumerate(invoices))
        )
        assert sum(effect.amount_cents for effect in shop.moved()) == 4_800
        assert sorted(str(code_of(a)) for a in answers) == ["None"] * 4 + ["budget_exhausted"] * 8


async def test_what_did_not_happen_is_given_back_and_what_is_in_doubt_is_not(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        first, second = shop.paid()[:2]
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.REFUSE))
        assert code_of(await shop.refund(first, 20)) == "tool_failed"
        given_back = {name: spent for name, spent in counters(shop).items() if ":tasks:" not in name}
        assert given_back and all(spent == (0, 0) for spent in given_back.values())
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.RAISE))
        assert code_of(await shop.refund(second, 20)) == "in_doubt"
        usd = next(spent for name, spent in counters(shop).items() if ":refunded_usd:" in name)
        assert usd == (0, 20 * MICRO)


async def test_a_window_says_when_it_resets_and_does(tmp_path: Path) -> None:
    def hourly(config: dict[str, Any]) -> None:
        windows = [{"scope": "tool", "name": "issue_refund", "window": "hour", "unit": "calls", "max": 1}]
        config["budgets"] = {"windows": windows}

    async with opened(tmp_path, hourly) as shop:
        first, second = shop.paid()[:2]
        assert code_of(await shop.refund(first, 5)) is None
        refused = await shop.refund(second, 5)
        assert code_of(refused) == "budget_exhausted"
        assert "It resets in" in refused.text
        wait_s = int(details_of(refused)["retry"].removeprefix("after:"))
        assert 3_500 < wait_s <= 3_600
        assert code_of(await shop.call("lookup_invoice", invoice_id=first)) is None
        shop.clock.pass_s(wait_s)
        assert code_of(await shop.refund(second, 5)) is None


async def test_a_clock_that_is_set_back_resets_no_window(tmp_path: Path) -> None:
    def daily(config: dict[str, Any]) -> None:
        windows = [{"scope": "principal", "window": "day", "unit": "calls", "max": 1}]
        config["budgets"] = {"windows": windows}

    async with opened(tmp_path, daily) as shop:
        first, second = shop.paid()[:2]
        assert code_of(await shop.refund(first, 5)) is None
        shop.clock.jump_s(-3_600)
        assert code_of(await shop.refund(second, 5)) == "budget_exhausted"


async def test_a_task_takes_its_steps_and_no_more(tmp_path: Path) -> None:
    def steps(config: dict[str, Any]) -> None:
        config["budgets"] = {"max_steps": 3}

    async with opened(tmp_path, steps) as shop:
        invoices = shop.paid()[:8]
        together = [shop.call("lookup_invoice", invoice_id=i) for i in invoices]
        assert {code_of(a) for a in await asyncio.gather(*together)} == {None}
        for invoice in invoices[:2]:
            assert code_of(await shop.refund(invoice, 5)) is None
        refused = await shop.refund(invoices[2], 5)
        assert code_of(refused) == "budget_exhausted"
        assert details_of(refused)["budget"] == "max_steps"
        assert code_of(await shop.refund(invoices[2], 5, subject=shop.other(actor="other-bot"))) is None
        assert len(shop.moved()) == 3


async def test_a_task_ends_when_it_is_idle_and_the_next_has_budgets_of_its_own(tmp_path: Path) -> None:
    def two(config: dict[str, Any]) -> None:
        config["budgets"] = {"max_tool_calls": 2, "task_idle_s": 300}

    async with opened(tmp_path, two) as shop:
        first, second, third = await look(shop), await look(shop), await look(shop)
        assert [code_of(a) for a in (first, second, third)] == [None, None, "budget_exhausted"]
        shop.clock.pass_s(299)
        assert code_of(await look(shop)) == "budget_exhausted"
        shop.clock.pass_s(2)
        later = await look(shop)
        assert code_of(later) is None
        assert later.meta["comptroller/task"] != first.meta["comptroller/task"]


async def test_active_time_is_flight_and_short_gaps_and_stands_still_for_a_person(tmp_path: Path) -> None:
    def minute(config: dict[str, Any]) -> None:
        config["budgets"] = {"timeout_seconds": 60, "think_gap_s_max": 30, "task_idle_s": 300}

    async with opened(tmp_path, minute) as shop:
        assert code_of(await look(shop)) is None
        shop.clock.pass_s(200)
        assert code_of(await look(shop)) is None
        call = await shop.pending(shop.paid()[0])
        shop.clock.pass_s(5_000)
        await shop.vote(call)
        assert code_of(await shop.resume(call)) is None
        shop.clock.pass_s(31)
        refused = await look(shop)
        assert code_of(refused) == "time_exhausted"
        assert details_of(refused)["retry"] == "person"


async def test_a_call_gets_no_more_time_than_its_task_has_left(tmp_path: Path) -> None:
    def tight(config: dict[str, Any]) -> None:
        config["budgets"] = {"timeout_seconds": 2, "think_gap_s_max": 0}

    async with opened(tmp_path, tight) as shop:
        go = tmp_path / "go"
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.HANG, until=go))
        async with asyncio.timeout(30):
            assert code_of(await shop.refund(shop.paid()[0], 5)) == "in_doubt"
        go.touch()


async def test_two_interleaved_chats_over_two_hours_are_never_locked_out_for_long(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:  # the desk's own limits: ten calls, eight steps, sixty seconds
        invoices = shop.paid()
        refused_s, longest_s, answered = 0.0, 0.0, 0
        for turn in range(60):  # every chat asks twice in a row, four minutes apart, two hours long
            for _ in range(2):
                answer = await shop.call("lookup_invoice", invoice_id=invoices[turn % len(invoices)])
                shop.clock.pass_s(4)
                if answer.is_error:
                    assert code_of(answer) in ("budget_exhausted", "time_exhausted")
                    refused_s += 4
                else:
                    answered, refused_s = answered + 1, 0.0
                longest_s = max(longest_s, refused_s)
            shop.clock.pass_s(112)
            refused_s += 112 if refused_s else 0
        assert longest_s <= 300 + 120
        assert answered >= 60


async def test_two_chats_that_pause_longer_than_a_task_idles_are_never_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoices = shop.paid()
        for turn in range(20):
            for at in range(4):
                answer = await shop.call("lookup_invoice", invoice_id=invoices[(turn + at) % len(invoices)])
                assert code_of(answer) is None, answer.text
                shop.clock.pass_s(5)
            shop.clock.pass_s(340)


async def test_calls_in_parallel_cannot_all_pass_a_rule_over_history(store_url: str, tmp_path: Path) -> None:
    async with opened(tmp_path, no_limits, url=store_url, cedar=HISTORY_RULE) as shop:
        answers = await asyncio.gather(
            *(
                shop.refund(invoice, 5, subject=shop.other(actor=f"bot-{at}"))
                for at, invoice in enumerate(shop.paid()[:12])
            )
        )
        assert len(shop.moved()) == 3
        assert len([a for a in answers if not a.is_error]) == 3
        assert {code_of(a) for a in answers} <= {None, "denied", "overloaded"}
        assert code_of(await shop.refund(shop.paid()[-1], 5)) == "denied"


async def test_a_call_that_changed_nothing_does_not_count_in_history(tmp_path: Path) -> None:
    async with opened(tmp_path, no_limits, cedar=HISTORY_RULE) as shop:
        invoices = shop.paid()
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.REFUSE))
        for invoice in invoices[:5]:
            assert code_of(await shop.refund(invoice, 5)) == "tool_failed"
        shop.behave()
        answers = [await shop.refund(invoice, 5) for invoice in invoices[5:9]]
        assert [code_of(a) for a in answers] == [None, None, None, "denied"]


async def test_refunds_on_one_invoice_at_once_never_overspend_it_nor_fail_their_check(
    store_url: str, tmp_path: Path
) -> None:
    async with opened(tmp_path, no_limits, url=store_url) as shop:
        invoice = shop.paid()[0]
        shop.sql("UPDATE invoices SET refunded_cents = paid_cents - 1000 WHERE id = ?", invoice)
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.SLOW, seconds=0.05))
        answers = await asyncio.gather(
            *(
                shop.refund(invoice, (400 + at) / 100, subject=shop.other(actor=f"bot-{at}"))
                for at in range(4)
            )
        )
        assert len(shop.moved()) == 2
        assert {code_of(a) for a in answers} <= {None, "denied", "overloaded"}
        assert shop.calls(CallState.HANDED_OFF, CallState.IN_DOUBT) == []
        for answer in answers:
            if not answer.is_error:
                assert shop.state(call_of(answer)) == "done"


async def test_a_task_survives_a_restart_with_what_it_has_spent(store_url: str, tmp_path: Path) -> None:
    def two(config: dict[str, Any]) -> None:
        config["budgets"] = {"max_tool_calls": 2}

    clock = Clock()
    for expected in (None, None, "budget_exhausted"):
        async with opened(tmp_path, two, url=store_url, clock=clock) as shop:
            answer = await shop.call("lookup_invoice", invoice_id=shop.paid()[0])
            assert code_of(answer) == expected


async def test_a_read_that_costs_is_held_for_before_it_runs_and_free_if_it_gave_nothing(
    tmp_path: Path,
) -> None:
    def paid(config: dict[str, Any]) -> None:
        tool_of(config, "lookup_invoice")["cost_usd"] = "0.5"
        config["budgets"] = {
            "windows": [{"scope": "principal", "window": "day", "unit": "cost_usd", "max": 1}]
        }

    async with opened(tmp_path, paid) as shop:
        assert code_of(await look(shop)) is None
        (action,) = shop.packets(RecordType.ACTION)
        assert {hold["limit"] for hold in action["holds"]} == {
            "cost_usd per principal per day",
            "cost_usd per task",
        }
        assert {hold["amount_micro"] for hold in action["holds"]} == {MICRO // 2}
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.REFUSE))
        assert code_of(await look(shop)) == "tool_failed"
        shop.behave()
        assert code_of(await look(shop)) is None
        assert code_of(await look(shop)) == "budget_exhausted"
        assert {spent for name, spent in counters(shop).items() if "cost_usd" in name} == {(MICRO, 0)}
        assert code_of(await shop.call("search_tickets")) is None
