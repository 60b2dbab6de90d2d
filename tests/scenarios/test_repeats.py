"""The same proposal again: while it waits, runs, is in doubt, and after it is done; and explicit keys."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.vocabulary import CallState, RecordType
from comptroller_tools.desk.faults import Fault, FaultKind, Point
from tests.scenarios.kit import call_of, code_of, details_of, opened, structured, tool_of, until

pytestmark = pytest.mark.anyio
KEY = "comptroller/idempotency-key"


async def test_a_create_that_is_done_is_answered_again_and_says_so(store_url: str, tmp_path: Path) -> None:
    async with opened(tmp_path, url=store_url) as shop:
        invoice = shop.paid()[0]
        first = await shop.refund(invoice, 5)
        again = await shop.refund(invoice, 5.0, why={"reason": "Another reason, the same action."})
        assert again.meta["comptroller/replayed"] is True
        assert call_of(again) == call_of(first)
        assert structured(again) == structured(first)
        assert "not done again" in again.text
        assert len(shop.moved()) == 1
        (replayed,) = shop.packets(RecordType.REPLAYED)
        assert replayed["original"] == call_of(first)


async def test_a_replay_reaches_across_tasks_clients_and_processes(store_url: str, tmp_path: Path) -> None:
    async with opened(tmp_path, url=store_url) as shop:
        invoice = shop.paid()[0]
        first = await shop.refund(invoice, 5)
        async with opened(tmp_path, url=store_url, clock=shop.clock) as second:
            again = await second.refund(invoice, 5, subject=second.other(actor="other-bot"))
            assert call_of(again) == call_of(first)
        shop.clock.pass_s(1_000)
        later = await shop.refund(invoice, 5)
        assert call_of(later) == call_of(first)
        assert later.meta["comptroller/replayed"] is True
        assert len(shop.moved()) == 1


async def test_after_the_replay_window_the_same_create_is_a_new_call(tmp_path: Path) -> None:
    def short(config: dict[str, Any]) -> None:
        config["limits"] = {"replay_window_s": 60}

    async with opened(tmp_path, short) as shop:
        invoice = shop.paid()[0]
        first = await shop.refund(invoice, 5)
        shop.clock.pass_s(59)
        assert call_of(await shop.refund(invoice, 5)) == call_of(first)
        shop.clock.pass_s(2)
        assert call_of(await shop.refund(invoice, 5)) != call_of(first)
        assert len(shop.moved()) == 2


async def test_another_person_of_the_tenant_makes_a_call_of_their_own(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        mine = await shop.refund(invoice, 5)
        theirs = await shop.refund(invoice, 5, subject=shop.other(subject="someone"))
        assert call_of(mine) != call_of(theirs)
        assert len(shop.moved()) == 2


async def test_a_delete_is_never_answered_from_the_record(tmp_path: Path) -> None:
    def open_delete(config: dict[str, Any]) -> None:
        del tool_of(config, "cancel_refund")["approval"]

    async with opened(tmp_path, open_delete) as shop:
        refund_id = structured(await shop.refund(shop.paid()[0], 5))["refund_id"]
        arguments = {"refund_id": refund_id, "why": {"reason": "It was a mistake."}}
        assert code_of(await shop.call("cancel_refund", arguments)) is None
        again = await shop.call("cancel_refund", arguments)
        assert code_of(again) == "tool_failed"
        assert "already cancelled" in again.text
        assert [effect.kind.value for effect in shop.moved()] == ["refund_issued", "refund_cancelled"]


async def test_a_repeatable_create_runs_each_time(tmp_path: Path) -> None:
    def repeatable(config: dict[str, Any]) -> None:
        tool_of(config, "issue_refund")["repeatable"] = True

    async with opened(tmp_path, repeatable) as shop:
        invoice = shop.paid()[0]
        assert call_of(await shop.refund(invoice, 5)) != call_of(await shop.refund(invoice, 5))
        assert len(shop.moved()) == 2


async def test_an_explicit_key_always_replays_and_other_arguments_conflict(
    store_url: str, tmp_path: Path
) -> None:
    def repeatable(config: dict[str, Any]) -> None:
        tool_of(config, "issue_refund")["repeatable"] = True

    async with opened(tmp_path, repeatable, url=store_url) as shop:
        invoice = shop.paid()[0]
        first = await shop.refund(invoice, 5, meta={KEY: "order-1"})
        again = await shop.refund(invoice, 5, meta={KEY: "order-1"})
        assert call_of(again) == call_of(first)
        conflict = await shop.refund(invoice, 6, meta={KEY: "order-1"})
        assert code_of(conflict) == "key_conflict"
        fresh = await shop.refund(invoice, 5, meta={KEY: "order-2"})
        assert call_of(fresh) != call_of(first)
        assert [effect.amount_cents for effect in shop.moved()] == [500, 500]


@pytest.mark.parametrize("code", ["denied", "budget_exhausted", "in_doubt"])
async def test_a_repeat_by_key_is_told_what_became_of_the_call_and_not_what_is_thought_of_doing_it_now(
    tmp_path: Path, code: str
) -> None:
    def tight(config: dict[str, Any]) -> None:
        if code == "budget_exhausted":
            config["budgets"] = {"max_steps": 1}
        if code == "in_doubt":
            tool_of(config, "issue_refund").pop("recover")

    once = """@id("once") @reason("Once a day.")
        forbid (principal, action == Comptroller::Action::"issue_refund", resource)
        when { context.history.principal.refunds_today >= 1 };"""
    async with opened(tmp_path, tight, cedar="" if code == "budget_exhausted" else once) as shop:
        invoice, key = shop.paid()[0], {KEY: "order-1"}
        if code == "in_doubt":
            shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.RAISE, point=Point.AFTER_WRITE))
        first = await shop.refund(invoice, 5, meta=key)
        again = await shop.refund(invoice, 5, meta=key)
        assert code_of(again) == code_of(first) == (code if code == "in_doubt" else None)
        known = details_of(again)["call"] if code == "in_doubt" else call_of(again)
        assert known == call_of(first)
        other = await shop.refund(invoice, 6, meta={KEY: "order-2"})
        assert code_of(other) == ("denied" if code == "in_doubt" else code)
        assert len(shop.moved()) == 1


@pytest.mark.parametrize("key", ["", 7, None, "x" * 201, ["order"]])
async def test_an_explicit_key_of_the_wrong_shape_is_refused(tmp_path: Path, key: object) -> None:
    async with opened(tmp_path) as shop:
        answer = await shop.refund(shop.paid()[0], 5, meta={KEY: key})
        assert code_of(answer) == ("invalid_arguments" if key is not None else None)
        assert len(shop.moved()) == (0 if key is not None else 1)


async def test_while_a_call_runs_its_repeat_is_told_to_wait(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice, reached, go = shop.paid()[0], tmp_path / "reached", tmp_path / "go"
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.HANG, until=go, reached=reached))
        first = asyncio.create_task(shop.refund(invoice, 5))
        await until(reached.exists)
        # The record is being changed, so the repeat waits for its end and is answered from there.
        repeat = asyncio.create_task(shop.refund(invoice, 5))
        resumed = await shop.resume(shop.calls(CallState.COMMITTED)[0][0])
        assert code_of(resumed) == "in_progress"
        assert not repeat.done()
        go.touch()
        assert call_of(await repeat) == call_of(await first)
        assert len(shop.moved()) == 1


async def test_64_identical_proposals_at_once_move_money_once(tmp_path: Path) -> None:
    def roomy(config: dict[str, Any]) -> None:
        config["limits"] = {"attempts_per_minute_max": 1000}

    async with opened(tmp_path, roomy) as shop:
        invoice = shop.paid()[0]
        subjects = [shop.other(actor=f"bot-{at % 8}") for at in range(64)]
        answers = await asyncio.gather(*(shop.refund(invoice, 5, subject=s) for s in subjects))
        assert len(shop.moved()) == 1
        (done,) = shop.calls(CallState.DONE)
        assert {code_of(a) for a in answers} <= {None, "in_progress", "overloaded"}
        assert {call_of(a) for a in answers if not a.is_error} == {done[0]}


async def test_a_call_in_doubt_is_never_tried_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.RAISE, times=1))
        first = await shop.refund(invoice, 5)
        assert code_of(first) == "in_doubt"
        for subject in (None, shop.other(actor="other-bot")):
            again = await shop.refund(invoice, 5, subject=subject)
            assert code_of(again) == "in_doubt"
            assert details_of(again)["call"] == call_of(first)
        assert shop.moved() == []


async def test_a_call_that_changed_nothing_may_be_made_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.REFUSE, times=1))
        first = await shop.refund(invoice, 5)
        assert code_of(first) == "tool_failed"
        assert shop.state(call_of(first)) == "failed_before_effect"
        resumed = await shop.resume(call_of(first))
        assert code_of(resumed) == "call_unknown"
        assert "ended without an effect. Propose it again" in resumed.text
        assert details_of(resumed)["retry"] == "same_call"
        second = await shop.refund(invoice, 5)
        assert code_of(second) is None
        assert len(shop.moved()) == 1


async def test_a_handed_off_call_is_answered_with_its_problem_and_not_repeated(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.SHORT, times=1))
        first = await shop.refund(invoice, 5)
        again = await shop.refund(invoice, 5)
        assert code_of(first) == code_of(again) == "verification_failed"
        assert details_of(again)["call"] == call_of(first)
        assert len(shop.moved()) == 1
