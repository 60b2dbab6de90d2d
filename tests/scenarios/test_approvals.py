"""A person's yes: to one exact action, once, in time, by somebody who can prove who they are."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from comptroller_audit.canonical import keyed_digest
from comptroller_audit.database import Row
from comptroller_audit.unit import Committed, Stopped
from comptroller_audit.vocabulary import CallState, JsonObject, RecordType, Refusal
from comptroller_policy.approvals import Assurance, approval_digest
from comptroller_server.call.case import Case
from comptroller_server.call.outcomes import Outcomes
from comptroller_server.call.proposal import Answer
from comptroller_server.call.repeats import Repeats
from tests.scenarios.kit import Shop, call_of, code_of, details_of, opened, structured, tool_of

pytestmark = pytest.mark.anyio


async def approved(shop: Shop, usd: float = 30) -> str:
    call = await shop.pending(shop.paid()[0], usd)
    assert isinstance(await shop.vote(call), Committed)
    return call


async def test_an_approved_call_runs_once_exactly_as_proposed(store_url: str, tmp_path: Path) -> None:
    async with opened(tmp_path, url=store_url) as shop:
        call = await shop.pending(shop.paid()[0], 30)
        waiting = await shop.resume(call)
        assert code_of(waiting) == "approval_pending"
        assert shop.moved() == []
        await shop.vote(call)
        answer = await shop.resume(call)
        assert structured(answer)["amount_usd"] == 30
        assert call_of(answer) == call
        (effect,) = shop.moved()
        assert (effect.amount_cents, effect.effect_key) == (3000, call)
        again = await shop.resume(call)
        assert again.meta["comptroller/replayed"] is True
        assert structured(again) == structured(answer)
        assert len(shop.moved()) == 1
        (action,) = shop.packets(RecordType.ACTION)
        assert [vote["approver"] for vote in action["approvals"]] == ["ann"]
        digests = action["approval_digests"]
        assert digests["approved"] == digests["requested"]


async def test_a_read_that_needs_a_person_is_made_once_for_one_yes(store_url: str, tmp_path: Path) -> None:
    def asks(config: dict[str, Any]) -> None:
        tool_of(config, "lookup_invoice")["approval"] = [{"role": "approver"}]

    async with opened(tmp_path, asks, url=store_url) as shop:
        (invoice, *_) = shop.paid()
        waiting = await shop.call("lookup_invoice", {"invoice_id": invoice})
        call = call_of(waiting)
        assert code_of(waiting) == code_of(await shop.resume(call)) == "approval_pending"
        await shop.vote(call)
        answer = await shop.resume(call)
        assert structured(answer)["invoice_id"] == invoice
        (action,) = shop.packets(RecordType.ACTION)
        assert [vote["approver"] for vote in action["approvals"]] == ["ann"]
        (audit,) = shop.packets(RecordType.AUDIT)
        assert (audit["state"], [ref["key"] for ref in audit["refs"]]) == ("done", [invoice])
        assert code_of(await shop.resume(call)) == "call_unknown"
        assert code_of(await shop.call("lookup_invoice", {"invoice_id": invoice})) == "approval_pending"


async def test_the_identical_repeat_of_an_approved_call_runs_the_stored_proposal(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        call = await approved(shop)
        answer = await shop.refund(shop.paid()[0], 30, why={"reason": "Words the person never saw."})
        assert call_of(answer) == call
        assert code_of(answer) is None
        (action,) = shop.packets(RecordType.ACTION)
        assert action["why"]["reason"] == "The customer was charged twice."
        assert len(shop.moved()) == 1


async def test_a_repeat_while_a_person_is_awaited_asks_nobody_twice(store_url: str, tmp_path: Path) -> None:
    async with opened(tmp_path, url=store_url) as shop:
        invoice = shop.paid()[0]
        answers = await asyncio.gather(*(shop.refund(invoice, 30) for _ in range(5)))
        assert {code_of(a) for a in answers} == {"approval_pending"}
        assert len({details_of(a)["call"] for a in answers}) == 1
        assert len(shop.calls(CallState.PENDING)) == 1
        assert len(shop.packets(RecordType.PENDING)) == 1


async def test_other_arguments_do_not_use_an_approval(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        await approved(shop)
        answer = await shop.refund(shop.paid()[0], 31)
        assert code_of(answer) == "approval_pending"
        assert shop.moved() == []


FIELDS: dict[str, Any] = {
    "definition": "0" * 64,
    "source": {"name": "desk", "transport": "python", "target": "elsewhere", "code_sha256": ""},
    "environment": "production",
    "tenant": "other",
    "principal": "local:x|someone",
    "actor": "other-bot",
    "tool": "cancel_refund",
    "arguments": {"invoice_id": "inv_x", "amount_usd": 30, "reason_code": "goodwill"},
    "record": {"kind": "invoice", "key": "inv_x"},
}


@pytest.mark.parametrize("field", list(FIELDS))
async def test_a_field_of_the_action_that_changes_after_the_approval_lets_nothing_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    bind = Outcomes.bind

    async with opened(tmp_path) as shop:
        call = await approved(shop)
        key = shop.store.ring.claim_key("local")

        def mutated(self: Outcomes, case: Case) -> None:
            bind(self, case)
            assert field in case.bound
            assert case.bound[field] != FIELDS[field]
            case.bound[field] = FIELDS[field]
            case.requested_digest = keyed_digest(key, "approval", approval_digest(case.bound))

        monkeypatch.setattr(Outcomes, "bind", mutated)
        answer = await shop.resume(call)
        assert code_of(answer) == "approval_void"
        monkeypatch.undo()
        assert code_of(await shop.resume(call)) == "approval_void"
        assert shop.state(call) == "void"
        assert shop.moved() == []


def test_every_field_of_the_action_but_what_was_shown_is_mutated_above() -> None:
    # `shown` is the record: it asks again instead, see below.
    source = Path(__file__).parents[2] / "server" / "comptroller_server" / "call" / "outcomes.py"
    body = source.read_text().partition("case.bound = {")[2].partition("case.requested_digest")[0]
    fields = [line.split('"')[1] for line in body.splitlines() if line.startswith('            "')]
    assert set(fields) == {*FIELDS, "shown"}


async def test_an_environment_that_changed_between_approval_and_run_voids_the_call(tmp_path: Path) -> None:
    def production(config: dict[str, Any]) -> None:
        config["environment"] = "production"

    async with opened(tmp_path) as shop:
        call = await approved(shop)
        clock = shop.clock
    async with opened(tmp_path, production, clock=clock) as shop:
        assert code_of(await shop.resume(call)) == "approval_void"
        assert shop.moved() == []


async def test_a_policy_that_now_denies_voids_an_approved_call(tmp_path: Path) -> None:
    def smaller(config: dict[str, Any]) -> None:
        tool_of(config, "issue_refund")["constraints"]["max_amount_usd"] = 10

    async with opened(tmp_path) as shop:
        call = await approved(shop)
        clock = shop.clock
    async with opened(tmp_path, smaller, clock=clock) as shop:
        answer = await shop.resume(call)
        assert code_of(answer) == "denied"
        assert shop.state(call) == "void"
        assert shop.moved() == []
        assert code_of(await shop.resume(call)) == "approval_void"


async def test_a_record_that_changed_while_the_person_read_asks_again_and_says_what_changed(
    store_url: str, tmp_path: Path
) -> None:
    async with opened(tmp_path, url=store_url) as shop:
        invoice = shop.paid()[0]
        call = await approved(shop)
        shop.sql("UPDATE invoices SET item = 'Something else' WHERE id = ?", invoice)
        answer = await shop.resume(call)
        assert code_of(answer) == "record_changed"
        assert "invoice.item" in answer.text
        assert "Something else" not in answer.text
        assert shop.state(call) == "pending"
        assert shop.moved() == []
        assert code_of(await shop.resume(call)) == "approval_pending"
        await shop.vote(call)
        assert code_of(await shop.resume(call)) is None
        assert len(shop.moved()) == 1
        first, second = shop.packets(RecordType.PENDING)
        assert first["approval"] != second["approval"]
        assert second["shown"]["facts"]["invoice"]["item"] == "Something else"


async def test_a_gate_that_appears_later_asks_its_own_role_and_keeps_the_votes_given(tmp_path: Path) -> None:
    def counting(config: dict[str, Any]) -> None:
        tool_of(config, "issue_refund")["history"] = {
            "principal.refunds_today": {"count": "issue_refund", "window": "day"}
        }
        tool_of(config, "issue_refund")["approval"].append(
            {"role": "manager", "at_least": 1, "when": "context.history.principal.refunds_today >= 1"}
        )

    async with opened(tmp_path, counting) as shop:
        call = await approved(shop)
        assert code_of(await shop.refund(shop.paid()[1], 5)) is None
        answer = await shop.resume(call)
        assert code_of(answer) == "approval_pending"
        assert "manager" in answer.text
        assert len(shop.moved()) == 1
        await shop.vote(call, by="bea", roles=("manager",))
        assert code_of(await shop.resume(call)) is None
        assert len(shop.moved()) == 2
        action = shop.packets(RecordType.ACTION)[-1]
        assert {vote["approver"] for vote in action["approvals"]} == {"ann", "bea"}


async def test_a_no_ends_the_call(store_url: str, tmp_path: Path) -> None:
    async with opened(tmp_path, url=store_url) as shop:
        call = await shop.pending(shop.paid()[0])
        await shop.vote(call, yes=False)
        assert code_of(await shop.resume(call)) == "approval_denied"
        assert shop.state(call) == "denied"
        late = await shop.vote(call)
        assert isinstance(late, Stopped)
        assert code_of(await shop.resume(call)) == "approval_denied"
        assert shop.moved() == []


async def test_an_approval_that_expired_runs_nothing_even_after_a_yes(tmp_path: Path) -> None:
    def brief(config: dict[str, Any]) -> None:
        config["approvals"] = {"expires_s": 60}

    async with opened(tmp_path, brief) as shop:
        call = await approved(shop)
        shop.clock.pass_s(61)
        assert code_of(await shop.resume(call)) == "approval_expired"
        assert shop.state(call) == "expired"
        shop.clock.jump_s(-3_600)
        assert code_of(await shop.resume(call)) == "approval_expired"
        assert shop.moved() == []


async def test_an_expired_approval_has_one_answer_whoever_noticed_the_time(tmp_path: Path) -> None:
    def brief(config: dict[str, Any]) -> None:
        config["approvals"] = {"expires_s": 60}

    async with opened(tmp_path, brief) as shop:
        call = await shop.pending(shop.paid()[0])
        shop.clock.pass_s(61)
        first, again = [await shop.resume(call) for _ in range(2)]
        assert code_of(first) == code_of(again) == "approval_expired"
        assert first.text == again.text
        assert details_of(first)["retry"] == details_of(again)["retry"] == "same_call"


async def test_nobody_can_say_yes_after_the_time(tmp_path: Path) -> None:
    def brief(config: dict[str, Any]) -> None:
        config["approvals"] = {"expires_s": 60}

    async with opened(tmp_path, brief) as shop:
        call = await shop.pending(shop.paid()[0])
        shop.clock.pass_s(61)
        outcome = await shop.vote(call)
        assert isinstance(outcome, Stopped)
        assert isinstance(outcome.stop, Refusal)
        await shop.service.recovery.round("local")
        assert shop.state(call) == "expired"


async def test_what_the_same_user_claims_without_a_credential_opens_no_gate(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        call = await shop.pending(shop.paid()[0])
        await shop.vote(call, assurance=Assurance.SAME_UID)
        assert code_of(await shop.resume(call)) == "approval_pending"
        await shop.vote(call, roles=("support_agent",))
        assert code_of(await shop.resume(call)) == "approval_pending"
        assert shop.moved() == []


async def test_two_people_are_two_people(tmp_path: Path) -> None:
    def two(config: dict[str, Any]) -> None:
        tool_of(config, "issue_refund")["approval"][0]["at_least"] = 2

    async with opened(tmp_path, two) as shop:
        call = await shop.pending(shop.paid()[0])
        await shop.vote(call)
        await shop.vote(call)
        assert code_of(await shop.resume(call)) == "approval_pending"
        await shop.vote(call, by="bea")
        assert code_of(await shop.resume(call)) is None
        assert len(shop.moved()) == 1


async def test_two_approvers_at_once_make_one_approval_and_one_run(store_url: str, tmp_path: Path) -> None:
    async with opened(tmp_path, url=store_url) as shop:
        call = await shop.pending(shop.paid()[0])
        outcomes = await asyncio.gather(shop.vote(call, by="ann"), shop.vote(call, by="bea"))
        assert sorted(type(o).__name__ for o in outcomes) == ["Committed", "Stopped"]
        answers = await asyncio.gather(*(shop.resume(call) for _ in range(6)))
        assert len(shop.moved()) == 1
        assert {code_of(a) for a in answers} <= {None, "in_progress"}
        assert any(a.meta.get("comptroller/replayed") is None for a in answers if not a.is_error)


async def test_a_resume_that_another_overtakes_is_told_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, done = asyncio.Event(), asyncio.Event()
    pending = Repeats._pending  # pyright: ignore[reportPrivateUsage] -- between the look at the call and at its approval

    async def slow(self: Repeats, case: Case, call: str, row: Row, replay: bool) -> Answer | None:
        if not looked.is_set():
            looked.set()
            await done.wait()
        return await pending(self, case, call, row, replay)

    monkeypatch.setattr(Repeats, "_pending", slow)
    async with opened(tmp_path) as shop:
        call = await approved(shop)
        slower = asyncio.create_task(shop.resume(call))
        await looked.wait()
        faster = await shop.resume(call)
        done.set()
        answer = await slower
        assert code_of(faster) is code_of(answer) is None
        assert answer.meta["comptroller/replayed"] is True
        assert structured(answer) == structured(faster)
        assert len(shop.moved()) == 1


async def test_two_processes_resume_one_call_once(store_url: str, tmp_path: Path) -> None:
    async with opened(tmp_path, url=store_url) as shop:
        call = await approved(shop)
        async with opened(tmp_path, url=store_url, clock=shop.clock) as second:
            answers = await asyncio.gather(shop.resume(call), second.resume(call), shop.resume(call))
        assert len(shop.moved()) == 1
        assert {code_of(a) for a in answers} <= {None, "in_progress"}


async def test_a_yes_or_a_no_that_comes_while_the_call_starts_is_never_half_true(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        call = await approved(shop)
        answer, outcome = await asyncio.gather(shop.resume(call), shop.vote(call, yes=False))
        if isinstance(outcome, Committed):
            assert shop.moved() == []
            assert code_of(answer) == "approval_denied"
        else:
            assert len(shop.moved()) == 1
            assert code_of(answer) is None


async def test_only_the_same_person_client_and_task_may_resume(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        call = await approved(shop)
        unknown = await shop.resume("01a202fe-0000-7000-8000-000000000000")
        for subject in (shop.other(actor="other-bot"), shop.other(subject="someone")):
            answer = await shop.resume(call, subject=subject)
            assert code_of(answer) == "call_unknown"
            assert answer.text == unknown.text
        # Its client is told of the call by its key, and cannot run it.
        other = await shop.refund(shop.paid()[0], 30, subject=shop.other(actor="other-bot"))
        assert code_of(other) == "in_progress"
        assert shop.moved() == []
        assert code_of(await shop.resume(call)) is None


async def test_requests_for_people_are_capped_and_a_decision_makes_room(tmp_path: Path) -> None:
    def few(config: dict[str, Any]) -> None:
        config["approvals"] = {"pending_per_principal_max": 2}

    async with opened(tmp_path, few) as shop:
        first, second, third = shop.paid()[:3]
        call = await shop.pending(first)
        await shop.pending(second)
        assert code_of(await shop.refund(third, 30)) == "approvals_full"
        assert code_of(await shop.refund(first, 30)) == "approval_pending"
        await shop.vote(call, yes=False)
        assert code_of(await shop.refund(third, 30)) == "approval_pending"


async def test_a_pending_call_keeps_its_task_open_and_its_clock_still(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        call = await shop.pending(shop.paid()[0])
        task = str(shop.row(call)["task"])
        shop.clock.pass_s(3_600)
        await shop.vote(call)
        answer = await shop.resume(call)
        assert code_of(answer) is None
        assert answer.meta["comptroller/task"] == task


@pytest.mark.parametrize("arguments", [{}, {"call": 7}, {"call": "x", "force": True}, {"id": "x"}])
async def test_resume_takes_a_call_and_nothing_else(tmp_path: Path, arguments: dict[str, Any]) -> None:
    async with opened(tmp_path) as shop:
        assert code_of(await shop.call("resume_call", arguments)) == "invalid_arguments"


async def test_what_people_are_shown_is_the_source_and_the_final_arguments(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        await shop.pending(shop.paid()[0])
        (packet,) = shop.packets(RecordType.PENDING)
        shown = cast("JsonObject", packet["shown"])
        assert shown["arguments"] == {
            "invoice_id": shop.paid()[0],
            "amount_usd": 30,
            "reason_code": "goodwill",
        }
        facts = cast("dict[str, Any]", shown["facts"])
        assert facts["invoice"]["invoice_id"] == shop.paid()[0]
        digest = approval_digest(cast("JsonObject", packet["bound"])).hex()
        assert packet["approval_digests"]["requested"] == digest
