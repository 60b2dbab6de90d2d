"""Loops of an agent, sources that stumble, and sources that are down: each ends in few steps, and nothing happens twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.vocabulary import RecordType
from comptroller_policy.switches import SwitchScope
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import (
    Changes,
    Clock,
    Faults,
    Shop,
    call_of,
    code_of,
    details_of,
    opened,
    structured,
    tool_of,
)

pytestmark = pytest.mark.anyio


def retries(tool: str, most: int) -> Changes:
    def change(config: dict[str, Any]) -> None:
        tool_of(config, tool).setdefault("limits", {})["retries_max"] = most

    return change


def breaker(failures: int, reset_s: float = 30) -> Changes:
    def change(config: dict[str, Any]) -> None:
        config["sources"]["desk"]["breaker"] = {"failures": failures, "reset_s": reset_s}
        tool_of(config, "lookup_invoice")["limits"] = {"retries_max": 0}

    return change


async def look(shop: Shop, at: int = 0) -> Any:
    return await shop.call("lookup_invoice", invoice_id=shop.paid()[at])


# -- loops --------------------------------------------------------------------------------------------------------


async def test_the_same_read_with_the_same_result_is_refused_the_fourth_time(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        codes = [code_of(await look(shop)) for _ in range(5)]
        assert codes == [None, None, None, "identical_calls", "identical_calls"]
        assert details_of(await look(shop))["retry"] == "person"
        assert code_of(await look(shop, at=1)) is None


async def test_how_often_is_the_operators_to_say(tmp_path: Path) -> None:
    async with opened(tmp_path, lambda config: config.update(limits={"identical_calls_max": 1})) as shop:
        assert [code_of(await look(shop)) for _ in range(2)] == [None, "identical_calls"]


async def test_a_result_that_changes_begins_a_new_count(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        for at in range(6):
            shop.sql("UPDATE invoices SET refunded_cents = ? WHERE id = ?", at, invoice)
            assert code_of(await look(shop)) is None


async def test_a_refusal_that_repeats_is_a_loop_and_other_arguments_are_not(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        codes = [code_of(await shop.refund(invoice, 90)) for _ in range(4)]
        assert codes == ["denied"] * 3 + ["identical_calls"]
        assert code_of(await shop.refund(invoice, 91)) == "denied"
        assert shop.moved() == []


async def test_other_words_in_why_do_not_make_another_call_of_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        answers = [await shop.refund(invoice, 90, why={"reason": f"please, {n}"}) for n in range(4)]
        assert code_of(answers[-1]) == "identical_calls"


async def test_waiting_for_a_person_is_no_loop(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        call = await shop.pending(invoice)
        for _ in range(5):
            assert code_of(await shop.refund(invoice, 30)) == "approval_pending"
        await shop.vote(call)
        assert code_of(await shop.refund(invoice, 30)) is None
        assert len(shop.moved(invoice)) == 1


async def test_an_explicit_key_always_gets_its_recorded_answer(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        key = {"comptroller/idempotency-key": "k"}
        for _ in range(6):
            assert code_of(await shop.refund(shop.paid()[0], 5, meta=key)) is None
        assert len(shop.moved()) == 1


async def test_another_task_may_ask_again(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock=clock) as shop:
        assert [code_of(await look(shop)) for _ in range(4)][-1] == "identical_calls"
        clock.pass_s(400)
        assert code_of(await look(shop)) is None


# -- retries ------------------------------------------------------------------------------------------------------


async def test_a_read_that_stumbles_once_is_read_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.RAISE, times=1))
        structured(await look(shop))
        assert shop.packets(RecordType.READ)[-1]["outcome"]["tries"] == 2


async def test_without_retries_a_read_that_stumbles_fails(tmp_path: Path) -> None:
    async with opened(tmp_path, retries("lookup_invoice", 0)) as shop:
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.RAISE, times=1))
        assert code_of(await look(shop)) == "tool_failed"


async def test_a_refund_whose_books_are_busy_is_made_once_when_they_are_free(tmp_path: Path) -> None:
    async with opened(tmp_path, retries("issue_refund", 3)) as shop:
        invoice = shop.paid()[0]
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.BUSY, times=2))
        structured(await shop.refund(invoice, 5))
        assert len(shop.moved(invoice)) == 1
        assert shop.packets(RecordType.AUDIT)[-1]["outcome"]["tries"] == 3


async def test_a_refund_is_not_tried_again_unless_the_operator_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.BUSY, times=1))
        assert code_of(await shop.refund(shop.paid()[0], 5)) == "tool_failed"
        assert shop.moved() == []


@pytest.mark.parametrize("kind", [FaultKind.RAISE, FaultKind.REFUSE])
async def test_what_may_have_happened_or_was_refused_for_good_is_never_tried_again(
    tmp_path: Path, kind: FaultKind
) -> None:
    async with opened(tmp_path, retries("issue_refund", 5)) as shop:
        shop.misbehave(Fault(tool="issue_refund", kind=kind, times=1))
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == ("in_doubt" if kind is FaultKind.RAISE else "tool_failed")
        assert shop.packets(RecordType.AUDIT)[-1]["outcome"]["tries"] == 1


async def test_a_halt_between_two_tries_stops_the_second(tmp_path: Path) -> None:
    faults, tried = Faults(), asyncio.Event()
    faults.at["dispatch.after"] = tried.set
    async with opened(tmp_path, retries("issue_refund", 5), faults=faults) as shop:
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.BUSY, times=4))
        running = asyncio.create_task(shop.refund(shop.paid()[0], 5))
        await tried.wait()
        await shop.halt(SwitchScope.TOOL, "issue_refund")
        assert code_of(await running) == "halted"
        assert shop.moved() == []


# -- a source that is down ----------------------------------------------------------------------------------------


async def test_a_source_that_keeps_failing_is_left_alone_and_tried_once_after_a_while(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, breaker(3, 30), clock=clock) as shop:
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.RAISE))
        assert [code_of(await look(shop, at)) for at in range(3)] == ["tool_failed"] * 3
        refused = await look(shop)
        assert code_of(refused) == "source_down"
        assert 1 <= int(details_of(refused)["retry"].removeprefix("after:")) <= 30
        invoice = shop.paid()[5]
        answer = await shop.refund(invoice, 5)
        assert code_of(answer) == "lookup_failed"  # it has facts to look up there
        assert shop.state(call_of(answer)) == "refused"
        clock.pass_s(31)
        assert code_of(await look(shop, 3)) == "tool_failed"  # the probe
        assert code_of(await look(shop, 4)) == "source_down"
        clock.pass_s(31)
        shop.behave()
        assert code_of(await look(shop, 5)) is None
        assert code_of(await look(shop, 6)) is None


async def test_a_tools_own_no_is_an_answer_and_opens_no_breaker(tmp_path: Path) -> None:
    async with opened(tmp_path, breaker(2)) as shop:
        for at in range(4):
            answer = await shop.call("lookup_invoice", invoice_id=f"inv_nothing{at}")
            assert code_of(answer) == "tool_failed"
        assert code_of(await look(shop)) is None
