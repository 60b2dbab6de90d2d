"""Canary and rollout: who goes without a person, what ends it, and the word that is in force on the next commit."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import structlog

from comptroller_audit.unit import Committed, Unit
from comptroller_audit.vocabulary import RecordType
from comptroller_policy.rollout import ROLLOUTS, bucket_of
from comptroller_policy.rollout_changes import Demote, Promote
from comptroller_server.call.case import Case
from comptroller_server.call.outcomes import Outcomes
from comptroller_server.installation import TENANT
from comptroller_tools.desk.faults import Fault, FaultKind, Point
from tests.scenarios.kit import Changes, Shop, call_of, code_of, opened, tool_of

pytestmark = pytest.mark.anyio


def rollout(percent: int = 0, mode: str = "human_approval", **more: Any) -> Changes:
    """The desk with a rollout, where a refund can be reversed."""

    def change(config: dict[str, Any]) -> None:
        config["rollout"] = {"mode": mode, "canary_percent": percent, **more}
        tool_of(config, "issue_refund")["compensate"] = {
            "tool": "cancel_refund",
            "arguments": {"refund_id": "{output.refund_id}"},
        }
        # People decide about cancellations that agents ask for, not about those that take back what went wrong.
        tool_of(config, "cancel_refund")["approval"] = [
            {"role": "approver", "when": 'principal.kind != "service"'}
        ]

    return change


def bucket(shop: Shop, invoice: str) -> int:
    key = shop.store.ring.claim_key(TENANT)
    return bucket_of(key, b"record", b"desk", b"invoice", invoice.encode())


def drawn(shop: Shop, percent: int, inside: bool = True) -> list[str]:
    """Invoices in the canary of `percent`, or outside. Of 19 with a key made anew: at 50 there are always some of both."""
    return [one for one in shop.paid() if (bucket(shop, one) < percent * 100) is inside]


def level(shop: Shop, tool: str = "issue_refund") -> dict[str, Any]:
    return shop.rows(ROLLOUTS, tool)[tool]


async def promote(shop: Shop, to: int, needed: int = 0, configured: int = 0) -> None:
    key = shop.store.ring.claim_key(TENANT)
    part = Promote("issue_refund", to, (to,), configured, needed, "it went well", "ann", key)
    assert isinstance(await shop.store.commit(TENANT, Unit([part])), Committed)


async def demote(shop: Shop, configured: int = 100) -> None:
    await shop.store.commit(TENANT, Unit([Demote("issue_refund", configured, "stop", "a person")]))


@pytest.mark.parametrize(("percent", "asked"), [(0, "approval_pending"), (100, None)])
async def test_the_configured_percent_says_whether_a_person_is_asked(
    tmp_path: Path, percent: int, asked: str | None
) -> None:
    async with opened(tmp_path, rollout(percent)) as shop:
        assert code_of(await shop.refund(shop.paid()[0], 5)) == asked
        assert len(shop.moved()) == (asked is None)


async def test_a_record_in_the_canary_goes_without_a_person_and_the_packet_says_why(
    store_url: str, tmp_path: Path
) -> None:
    async with opened(tmp_path, rollout(50), url=store_url) as shop:
        inside, outside = drawn(shop, 50)[0], drawn(shop, 50, inside=False)[0]
        assert code_of(await shop.refund(inside, 5)) is None
        asked = await shop.refund(outside, 5)
        assert code_of(asked) == "approval_pending"
        assert "rollout.human_approval.issue_refund" in str(asked.meta)
        assert [effect.invoice_id for effect in shop.moved()] == [inside]
        (action,) = shop.packets(RecordType.ACTION)
        assert action["rollout"] == {
            "canary": True,
            "standing": "in",
            "bucket": bucket(shop, inside),
            "percent": 50,
            "drawn_by": "record",
        }
        (pending,) = shop.packets(RecordType.PENDING)
        assert pending["rollout"]["standing"] == "outside"
        assert pending["rollout"]["bucket"] == bucket(shop, outside)
        await shop.vote(call_of(asked))
        assert code_of(await shop.resume(call_of(asked))) is None
        assert shop.packets(RecordType.ACTION)[1]["rollout"]["standing"] == "resumed"


async def test_200_fresh_tasks_proposing_the_same_refund_give_one_effect_and_one_canary_outcome(
    tmp_path: Path,
) -> None:
    def patient(config: dict[str, Any]) -> None:
        rollout(50)(config)
        config["limits"] = {"attempts_per_minute_max": 1_000_000}

    async with opened(tmp_path, patient) as shop:
        inside, outside = drawn(shop, 50)[0], drawn(shop, 50, inside=False)[0]
        for at in range(100):
            who = shop.other(actor=f"client-{at}")
            await asyncio.gather(shop.refund(inside, 5, subject=who), shop.refund(outside, 5, subject=who))
        assert [effect.invoice_id for effect in shop.moved()] == [inside]
        standings = [packet["rollout"]["standing"] for packet in shop.packets(RecordType.ACTION)]
        waiting = [packet["rollout"]["standing"] for packet in shop.packets(RecordType.PENDING)]
        assert (standings, waiting) == (["in"], ["outside"])


async def test_other_principals_amounts_and_tasks_change_nothing_about_the_draw(tmp_path: Path) -> None:
    async with opened(tmp_path, rollout(25)) as shop:
        outside = drawn(shop, 25, inside=False)[0]
        for at in range(12):
            shop.clock.pass_s(400)  # the task is over
            who = shop.other(subject=f"person-{at}")
            assert code_of(await shop.refund(outside, 1 + at, subject=who)) == "approval_pending"
        assert len({packet["task"] for packet in shop.packets(RecordType.PENDING)}) == 12
        assert {packet["rollout"]["bucket"] for packet in shop.packets(RecordType.PENDING)} == {
            bucket(shop, outside)
        }
        assert shop.moved() == []


async def test_a_record_that_no_look_up_names_does_not_draw(tmp_path: Path) -> None:
    def blind(config: dict[str, Any]) -> None:
        rollout(50)(config)
        del tool_of(config, "lookup_invoice")["records"]

    async with opened(tmp_path, blind) as shop:
        for invoice in shop.paid()[:8]:
            await shop.refund(invoice, 5)
        packets = shop.packets(RecordType.PENDING, RecordType.ACTION)
        assert {packet["rollout"]["drawn_by"] for packet in packets} == {"principal"}
        assert len({packet["rollout"]["bucket"] for packet in packets}) == 1
        assert len(shop.moved()) in (0, 8)


async def test_a_look_up_that_names_another_record_keeps_the_call_out(tmp_path: Path) -> None:
    async with opened(tmp_path, rollout(100)) as shop:
        first, second = shop.paid()[:2]
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.WRONG_RECORD, other=second))
        assert code_of(await shop.refund(first, 5)) == "approval_pending"
        (pending,) = shop.packets(RecordType.PENDING)
        assert pending["rollout"]["standing"] == "unnamed_record"


async def test_what_another_gate_asks_about_is_in_no_canary(tmp_path: Path) -> None:
    async with opened(tmp_path, rollout(100)) as shop:
        asked = await shop.refund(shop.paid()[0], 30)
        assert code_of(asked) == "approval_pending"
        (pending,) = shop.packets(RecordType.PENDING)
        assert pending["rollout"] == {**pending["rollout"], "canary": False, "standing": "other_gate"}
        assert pending["decision"]["policies"] == [
            "issue_refund.approval.approver",
            "rollout.human_approval.issue_refund",
        ]


@pytest.mark.parametrize("how", ["no compensation", "delete"])
async def test_what_cannot_be_reversed_is_in_no_canary(tmp_path: Path, how: str) -> None:
    def final(config: dict[str, Any]) -> None:
        rollout(100)(config)
        tool = tool_of(config, "issue_refund")
        if how == "delete":
            tool["allow_actions"] = ["delete"]
        else:
            del tool["compensate"]

    async with opened(tmp_path, final) as shop:
        assert code_of(await shop.refund(shop.paid()[0], 5)) == "approval_pending"
        assert shop.packets(RecordType.PENDING)[0]["rollout"]["standing"] == "irreversible"


async def test_the_canary_fills_half_a_window_and_not_a_cent_more(store_url: str, tmp_path: Path) -> None:
    def narrow(config: dict[str, Any]) -> None:
        rollout(100)(config)
        config["budgets"] = {
            "windows": [{"scope": "principal", "window": "day", "unit": "refunded_usd", "max": 40}]
        }

    async with opened(tmp_path, narrow, url=store_url) as shop:
        invoices = shop.paid()[:6]
        # Together: each alone would fit when it is drawn, and only four fit when they commit.
        answers = await asyncio.gather(*(shop.refund(invoice, 5) for invoice in invoices))
        assert sorted(str(code_of(answer)) for answer in answers) == [
            *["None"] * 4,
            *["approval_pending"] * 2,
        ]
        assert sum(effect.amount_cents for effect in shop.moved()) == 2_000
        pending = shop.packets(RecordType.PENDING)
        assert {packet["rollout"]["standing"] for packet in pending} == {"window_share"}
        # With a person the rest of the window is open.
        await shop.vote(pending[0]["call"])
        assert code_of(await shop.resume(pending[0]["call"])) is None


async def test_a_read_is_never_drawn(tmp_path: Path) -> None:
    async with opened(tmp_path, rollout(0)) as shop:
        assert code_of(await shop.call("lookup_invoice", invoice_id=shop.paid()[0])) is None
        assert "rollout" not in shop.packets(RecordType.READ)[0]
        assert shop.rows(ROLLOUTS, "lookup_invoice") == {}


async def test_without_a_rollout_nobody_is_asked_and_nothing_is_counted(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.SHORT, cents=100, times=1))
        first, second = shop.paid()[:2]
        assert code_of(await shop.refund(first, 5)) == "verification_failed"
        assert code_of(await shop.refund(second, 5)) is None
        assert "rollout" not in shop.packets(RecordType.ACTION)[0]
        assert shop.rows(ROLLOUTS, "issue_refund") == {}


# -- breaches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["human_approval", "auto"])
async def test_a_silent_wrong_outcome_ends_the_canary_in_its_own_commit(
    store_url: str, tmp_path: Path, mode: str
) -> None:
    async with opened(tmp_path, rollout(100, mode), url=store_url) as shop:
        first, second = shop.paid()[:2]
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.SHORT, cents=100, times=1))
        with structlog.testing.capture_logs() as lines:
            wrong = await shop.refund(first, 5)
            assert wrong.is_error
            # At once: nothing looked at the store in between.
            assert code_of(await shop.refund(second, 5)) == "approval_pending"
        assert shop.moved(second) == []
        row = level(shop)
        assert (row["word"], row["percent"], row["silent_wrong"], row["clean"]) == ("demoted", 0, 1, 0)
        (changed,) = shop.packets(RecordType.ROLLOUT_CHANGED)
        assert (changed["word"], changed["before"], changed["by"]) == ("demoted", 100, "comptroller")
        assert changed["call"] == shop.packets(RecordType.ACTION)[0]["call"]
        log = shop.log()
        at = next(e.index for e in log if e.type is RecordType.ROLLOUT_CHANGED)
        assert log[at + 1].type is RecordType.AUDIT
        assert log[at + 1].at_ms == log[at].at_ms
        told = [line for line in lines if line["event"] == "rollout changed"]
        assert [(line["log_level"], line["tool"], line["percent"]) for line in told] == [
            ("warning", "issue_refund", 0)
        ]


async def test_a_rule_after_the_call_that_says_no_ends_the_canary_too(tmp_path: Path) -> None:
    cedar = """@id("never-done") @reason("No refund is good.")
    forbid (principal, action == Comptroller::Action::"issue_refund:after", resource);"""
    async with opened(tmp_path, rollout(100), cedar=cedar) as shop:
        await shop.refund(shop.paid()[0], 5)
        assert level(shop)["word"] == "demoted"


async def test_a_canary_call_in_doubt_ends_the_canary_and_an_approved_one_does_not(tmp_path: Path) -> None:
    lost = Fault(tool="issue_refund", kind=FaultKind.RAISE, point=Point.AFTER_WRITE, times=1)
    async with opened(tmp_path, rollout(50)) as shop:
        inside, outside = drawn(shop, 50)[0], drawn(shop, 50, inside=False)[0]
        asked = await shop.refund(outside, 5)
        await shop.vote(call_of(asked))
        shop.misbehave(lost)
        assert code_of(await shop.resume(call_of(asked))) == "in_doubt"
        row = level(shop)
        assert (row["word"], row["in_doubt"], row["agreed"]) == ("configured", 1, 1)
        shop.misbehave(lost)
        assert code_of(await shop.refund(inside, 5)) == "in_doubt"
        assert level(shop)["word"] == "demoted"
        assert len(shop.packets(RecordType.ROLLOUT_CHANGED)) == 1


async def test_a_canary_call_whose_process_died_ends_the_canary_when_it_is_found_in_doubt(
    tmp_path: Path,
) -> None:
    def forgetful(config: dict[str, Any]) -> None:
        rollout(100)(config)
        del tool_of(config, "issue_refund")["recover"]

    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    clock = None
    with pytest.raises(Killed):
        async with opened(tmp_path, forgetful) as shop:
            clock = shop.clock
            shop.faults.at["dispatch.before"] = die
            await shop.refund(shop.paid()[0], 5)
    async with opened(tmp_path, forgetful, clock=clock) as shop:
        assert [found.state for found in shop.service.recovered] == ["in_doubt"]
        assert level(shop)["word"] == "demoted"
        assert code_of(await shop.refund(shop.paid()[1], 5)) == "approval_pending"


async def test_a_demoted_tool_stays_demoted_whatever_the_config_says_later(tmp_path: Path) -> None:
    async with opened(tmp_path, rollout(5)) as shop:
        await demote(shop, configured=5)
        clock = shop.clock
    for change in (rollout(100), rollout(100, "auto")):
        async with opened(tmp_path, change, clock=clock) as shop:
            assert code_of(await shop.refund(shop.paid()[0], 5)) == "approval_pending"
            assert shop.moved() == []


async def test_a_promotion_ends_when_the_config_it_was_made_under_is_lowered(tmp_path: Path) -> None:
    async with opened(tmp_path, rollout(25)) as shop:
        await promote(shop, 100, configured=25)
        await shop.service.watch.look(TENANT)
        outside = drawn(shop, 50, inside=False)
        assert code_of(await shop.refund(outside[0], 5)) is None
        clock = shop.clock
    async with opened(tmp_path, rollout(5), clock=clock) as shop:
        assert code_of(await shop.refund(outside[1], 5)) == "approval_pending"


async def test_whoever_writes_the_table_without_the_keys_promotes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, rollout(5)) as shop:
        await promote(shop, 100, configured=5)
        stolen, seq = level(shop)["proof"], level(shop)["seq"]
        await demote(shop, configured=5)
        clock = shop.clock
    with contextlib.closing(sqlite3.connect(tmp_path / "comptroller.db")) as forger, forger:
        forger.execute(
            "UPDATE rollouts SET word = 'promoted', percent = 100, proof = ?, seq = ?", (stolen, seq + 1)
        )
    async with opened(tmp_path, rollout(5), clock=clock) as shop:
        for invoice in shop.paid()[:6]:
            assert code_of(await shop.refund(invoice, 5)) == "approval_pending"
        assert shop.moved() == []


# -- the next commit --------------------------------------------------------------------------------------------------


async def test_a_demotion_between_decision_and_commit_stops_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Outcomes.begin

    async def late(self: Outcomes, case: Case) -> Any:
        monkeypatch.undo()
        await demote(shop)
        return await begin(self, case)

    async with opened(tmp_path, rollout(100)) as shop:
        monkeypatch.setattr(Outcomes, "begin", late)
        assert code_of(await shop.refund(shop.paid()[0], 5)) == "approval_pending"
        assert shop.moved() == []


async def test_a_demotion_by_one_process_is_obeyed_by_another_on_its_next_commit(
    store_url: str, tmp_path: Path
) -> None:
    async with (
        opened(tmp_path, rollout(100), url=store_url) as shop,
        opened(tmp_path, rollout(100), url=store_url, clock=shop.clock) as second,
    ):
        first, other = shop.paid()[:2]
        assert code_of(await second.refund(first, 5)) is None
        await demote(shop)
        assert code_of(await second.refund(other, 5)) == "approval_pending"
        assert second.moved(other) == []


async def test_evidence_of_several_processes_is_counted_exactly(store_url: str, tmp_path: Path) -> None:
    def wide(config: dict[str, Any]) -> None:
        rollout(100)(config)
        config["budgets"] = {}

    async with (
        opened(tmp_path, wide, url=store_url) as shop,
        opened(tmp_path, wide, url=store_url, clock=shop.clock) as second,
    ):
        invoices = shop.paid()[:18]
        shops = (shop, second)
        answers = await asyncio.gather(
            *(shops[at % 2].refund(invoice, 1) for at, invoice in enumerate(invoices))
        )
        assert {code_of(answer) for answer in answers} == {None}
        row = level(shop)
        assert (row["calls"], row["verified"], row["clean"]) == (18, 18, 18)
        assert len(shop.moved()) == 18


async def test_only_verified_calls_count_as_clean_and_a_no_begins_anew(tmp_path: Path) -> None:
    def unverified(config: dict[str, Any]) -> None:
        rollout(100)(config)
        del tool_of(config, "issue_refund")["verify"]

    async with opened(tmp_path, unverified) as shop:
        assert code_of(await shop.refund(shop.paid()[0], 5)) is None
        assert (level(shop)["calls"], level(shop)["clean"]) == (1, 0)
        clock = shop.clock
    async with opened(tmp_path, rollout(100), clock=clock) as shop:
        assert code_of(await shop.refund(shop.paid()[1], 5)) is None
        assert level(shop)["clean"] == 1
        asked = await shop.refund(shop.paid()[2], 30)
        await shop.vote(call_of(asked), yes=False)
        row = level(shop)
        assert (row["clean"], row["verified"], row["denied"]) == (0, 1, 1)


async def test_what_failed_before_its_effect_is_no_evidence(tmp_path: Path) -> None:
    async with opened(tmp_path, rollout(100)) as shop:
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.REFUSE))
        assert code_of(await shop.refund(shop.paid()[0], 5)) == "tool_failed"
        assert shop.rows(ROLLOUTS, "issue_refund") == {}
