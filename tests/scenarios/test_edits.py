"""An edit makes its editor an author: what runs is what somebody else agreed to, and the agent is told what changed."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.canonical import keyed_digest
from comptroller_audit.unit import Committed, Stopped
from comptroller_audit.vocabulary import CallState, RecordType, Refusal
from comptroller_policy.approvals import APPROVALS, approval_digest, asked_digest
from comptroller_policy.rollout import ROLLOUTS
from comptroller_policy.switches import SwitchScope
from comptroller_server.call.case import Case, Refused
from comptroller_server.call.outcomes import Outcomes
from comptroller_server.call.proposal import Answer
from comptroller_server.people import editing
from tests.scenarios.kit import WHY, Shop, call_of, code_of, details_of, opened, structured, tool_of
from tests.scenarios.test_approvals import FIELDS
from tests.scenarios.test_confirmations import ask_of, confirming, leg, yes
from tests.scenarios.test_redaction import drafted, private, ticket_of

pytestmark = pytest.mark.anyio


def approval_of(shop: Shop, call: str) -> dict[str, Any]:
    name = str(shop.row(call)["approval"])
    return shop.rows(APPROVALS, name)[name]


def roomy(config: dict[str, Any]) -> None:
    """Enough of everything, so that only people decide what runs."""
    config["budgets"] = {}
    config["limits"] = {"identical_calls_max": 1000, "attempts_per_minute_max": 10_000}
    config["approvals"] = {"expires_s": 3600, "pending_per_principal_max": 1000}


async def refused(shop: Shop, call: str, **named: Any) -> Refusal:
    """Why an edit was not made."""
    with pytest.raises(Refused) as caught:
        await shop.edit(call, **named)
    return caught.value.refusal


async def test_an_edited_call_runs_as_edited_once_somebody_else_agreed(
    store_url: str, tmp_path: Path
) -> None:
    async with opened(tmp_path, url=store_url) as shop:
        call = await shop.pending(shop.paid()[0], 45)
        before = shop.row(call)["approval"]
        after = await shop.edit(call, amount_usd=40, reason="a part of it")
        assert shop.rows(APPROVALS, before)[before]["state"] == "void"
        waiting = await shop.resume(call)
        assert code_of(waiting) == "approval_pending"
        assert "amount_usd was 45 and is 40" in waiting.text
        assert "amount_usd was 45 and is 40" in details_of(waiting)["edited"]
        own = await shop.vote(call, by="bea")
        assert isinstance(own, Stopped)
        assert shop.moved() == []
        await shop.vote(call, by="ann")
        answer = await shop.resume(call)
        assert structured(answer)["amount_usd"] == 40
        assert "amount_usd was 45 and is 40" in answer.text
        assert "amount_usd was 45 and is 40" in str(answer.meta["comptroller/edited"])
        assert call_of(answer) == call
        assert [effect.amount_cents for effect in shop.moved()] == [4000]
        row = shop.rows(APPROVALS, after)[after]
        assert row["requested_digest"] != row["approved_digest"] == row["edited_digest"]
        (action,) = shop.packets(RecordType.ACTION)
        assert action["arguments"]["amount_usd"] == 40
        assert action["edited"]["arguments"]["amount_usd"] == 45
        (edit,) = action["edited"]["by"]
        assert (edit["editor"], edit["reason"]) == ("bea", "a part of it")
        assert edit["changed"] == ["amount_usd was 45 and is 40"]
        digests = action["approval_digests"]
        assert digests["approved"] == digests["edited"] != digests["requested"]


async def test_an_edit_takes_back_every_yes_that_was_given_before(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        call = await shop.pending(shop.paid()[0], 45)
        await shop.vote(call, by="ann")
        await shop.edit(call, amount_usd=40)
        assert code_of(await shop.resume(call)) == "approval_pending"
        assert approval_of(shop, call)["votes"] == "[]"
        assert shop.moved() == []


async def test_where_one_person_is_enough_the_local_person_may_agree_to_what_they_edited(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as shop:
        call = await shop.pending(shop.paid()[0], 45)
        await shop.edit(call, amount_usd=40)
        assert isinstance(await shop.vote(call, by="bea", self_approved=True), Committed)
        assert code_of(await shop.resume(call)) is None
        (vote,) = shop.packets(RecordType.ACTION)[0]["approvals"]
        assert (vote["approver"], vote["self_approved"], vote["author"]) == ("bea", True, True)


async def test_where_two_must_agree_an_author_is_none_of_them(tmp_path: Path) -> None:
    def two(config: dict[str, Any]) -> None:
        tool_of(config, "issue_refund")["approval"][0]["at_least"] = 2

    async with opened(tmp_path, two) as shop:
        call = await shop.pending(shop.paid()[0], 45)
        await shop.edit(call, amount_usd=40)
        own = await shop.vote(call, by="bea", self_approved=True)
        assert isinstance(own, Stopped)
        assert isinstance(own.stop, Refusal)
        assert "bea edited this call" in own.stop.text
        await shop.vote(call, by="ann", self_approved=True)
        assert code_of(await shop.resume(call)) == "approval_pending"
        await shop.vote(call, by="cid", self_approved=True)
        assert code_of(await shop.resume(call)) is None
        assert len(shop.moved()) == 1


async def test_an_authors_yes_does_not_count_for_a_second_person_who_is_asked_later(tmp_path: Path) -> None:
    def counting(config: dict[str, Any]) -> None:
        tool = tool_of(config, "issue_refund")
        tool["approval"].append(
            {"role": "approver", "at_least": 2, "when": "context.history.principal.refunds_today >= 1"}
        )

    async with opened(tmp_path, counting) as shop:
        call = await shop.pending(shop.paid()[0], 45)
        await shop.edit(call, amount_usd=40)
        await shop.vote(call, by="bea", self_approved=True)
        assert code_of(await shop.refund(shop.paid()[1], 5)) is None
        assert code_of(await shop.resume(call)) == "approval_pending"
        await shop.vote(call, by="ann", self_approved=True)
        assert code_of(await shop.resume(call)) == "approval_pending"
        assert len(shop.moved()) == 1
        await shop.vote(call, by="cid", self_approved=True)
        assert code_of(await shop.resume(call)) is None
        assert len(shop.moved()) == 2


# -- what cannot be edited --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"amount_usd": 51}, "denied"),
        ({"amount_usd": "40"}, "invalid_arguments"),
        ({"amount_usd": -1}, "invalid_arguments"),
        ({"amount": 40}, "invalid_arguments"),
        ({"invoice_id": "inv_nowhere"}, "lookup_failed"),
        ({"amount_usd": 45}, "invalid_arguments"),
    ],
)
async def test_what_a_proposal_could_not_ask_for_an_edit_cannot_either_and_the_call_waits_as_it_was(
    tmp_path: Path, changed: dict[str, Any], why: str
) -> None:
    async with opened(tmp_path) as shop:
        call = await shop.pending(shop.paid()[0], 45)
        before = (shop.row(call), approval_of(shop, call))
        assert (await refused(shop, call, **changed)).code.value == why
        assert (shop.row(call), approval_of(shop, call)) == before
        await shop.vote(call)
        assert structured(await shop.resume(call))["amount_usd"] == 45


async def test_an_edit_is_decided_with_the_record_as_it_is_looked_up_now(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        call = await shop.pending(invoice, 25)
        shop.sql("UPDATE invoices SET refunded_cents = paid_cents - 3000 WHERE id = ?", invoice)
        refusal = await refused(shop, call, amount_usd=31)
        assert (refusal.code, len(refusal.policies)) == ("denied", 1)
        await shop.edit(call, amount_usd=30)


async def test_an_edit_sends_no_secret_anywhere(tmp_path: Path) -> None:
    async with opened(tmp_path, secrets=("hunter2-of-the-desk",)) as shop:
        call = await shop.pending(shop.paid()[0])
        assert (await refused(shop, call, invoice_id="hunter2-of-the-desk")).code == "secret_in_arguments"


async def test_an_edit_to_another_record_needs_the_citations_of_that_record(tmp_path: Path) -> None:
    def cited(config: dict[str, Any]) -> None:
        tool_of(config, "issue_refund")["cites"] = ["invoice"]

    async with opened(tmp_path, cited) as shop:
        one, other = shop.paid()[:2]
        ref = structured(await shop.call("lookup_invoice", invoice_id=one))["refs"][0]["ref"]
        answer = await shop.refund(one, 45, why={"reason": "Charged twice.", "citations": [ref]})
        call = call_of(answer)
        assert (await refused(shop, call, invoice_id=other)).code == "citation_missing"
        await shop.edit(call, amount_usd=40)


async def test_a_halted_tool_is_not_edited(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        call = await shop.pending(shop.paid()[0])
        await shop.halt(SwitchScope.TOOL, "issue_refund")
        assert (await refused(shop, call, amount_usd=25)).code == "halted"


async def test_only_a_call_that_waits_is_edited(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        one, two, three = shop.paid()[:3]
        done = call_of(await shop.refund(one, 5))
        read = call_of(await shop.call("lookup_invoice", invoice_id=one))
        denied = await shop.pending(two)
        await shop.vote(denied, yes=False)
        ran = await shop.pending(three)
        await shop.vote(ran)
        await shop.resume(ran)
        for call in (done, read):
            with pytest.raises(Refused):
                await shop.service.editing.edit(
                    "local",
                    call,
                    lambda before, _: {**before, "amount_usd": 25},
                    editing.Editor("bea", "", ""),
                )
        for call in (denied, ran):
            assert "only a pending call" in (await refused(shop, call, amount_usd=25)).text
        assert len(shop.moved()) == 2


async def test_an_edit_revives_nothing_that_has_expired(tmp_path: Path) -> None:
    def brief(config: dict[str, Any]) -> None:
        config["approvals"] = {"expires_s": 60}

    async with opened(tmp_path, brief) as shop:
        call = await shop.pending(shop.paid()[0])
        await shop.vote(call)
        shop.clock.pass_s(61)
        assert (await refused(shop, call, amount_usd=25)).code == "approval_expired"
        assert code_of(await shop.resume(call)) == "approval_expired"
        shop.clock.jump_s(-3_600)
        assert "it is expired by now" in (await refused(shop, call, amount_usd=25)).text.lower()
        assert code_of(await shop.resume(call)) == "approval_expired"


async def test_who_looked_at_something_else_edits_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        call = await shop.pending(shop.paid()[0], 45)
        seen = asked_digest(approval_of(shop, call))
        await shop.edit(call, amount_usd=40)
        late = editing.Editor("cid", "", seen)
        with pytest.raises(Refused) as caught:
            await shop.service.editing.edit("local", call, lambda b, _: {**b, "amount_usd": 35}, late)
        assert caught.value.refusal.code == "record_changed"


async def test_a_call_is_edited_only_so_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "EDITS_MAX", 2)
    async with opened(tmp_path) as shop:
        call = await shop.pending(shop.paid()[0], 45)
        await shop.edit(call, amount_usd=40)
        await shop.edit(call, amount_usd=35, by="ann")
        assert (await refused(shop, call, amount_usd=30)).code == "key_conflict"
        for author in ("ann", "bea"):
            assert isinstance(await shop.vote(call, by=author), Stopped)
        await shop.vote(call, by="cid")
        assert structured(await shop.resume(call))["amount_usd"] == 35


# -- which call it is -------------------------------------------------------------------------------------------------


async def test_the_proposed_and_the_edited_arguments_are_both_this_call(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        call = await shop.pending(invoice, 45)
        await shop.edit(call, amount_usd=40)
        for usd in (45, 40):
            again = await shop.refund(invoice, usd)
            assert (code_of(again), details_of(again)["call"]) == ("approval_pending", call)
            assert "amount_usd was 45 and is 40" in again.text
        await shop.vote(call)
        assert code_of(await shop.resume(call)) is None
        for usd in (45, 40):
            replayed = await shop.refund(invoice, usd)
            assert replayed.meta["comptroller/replayed"] is True
            assert structured(replayed)["amount_usd"] == 40
            assert "amount_usd was 45 and is 40" in replayed.text
        assert len(shop.moved()) == 1


async def test_an_edit_before_the_last_one_is_no_longer_this_call(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        call = await shop.pending(invoice, 45)
        await shop.edit(call, amount_usd=40)
        await shop.edit(call, amount_usd=35)
        assert details_of(await shop.refund(invoice, 40))["call"] != call
        assert details_of(await shop.refund(invoice, 45))["call"] == call
        await shop.vote(call, yes=False)
        for usd in (45, 35):  # both are free again
            assert details_of(await shop.refund(invoice, usd))["call"] != call


async def test_an_edit_does_not_make_two_calls_of_one_action(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        call, other = await shop.pending(invoice, 45), await shop.pending(invoice, 40)
        refusal = await refused(shop, call, amount_usd=40)
        assert refusal.code == "key_conflict"
        assert other in refusal.text


async def test_another_client_is_not_told_what_was_changed(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        call = await shop.pending(invoice, 45)
        await shop.edit(call, amount_usd=40)
        told = await shop.refund(invoice, 45, subject=shop.other(actor="other-bot"))
        assert "changed the arguments" not in told.text


# -- nothing runs but what was approved -------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["edit", "run"])
@pytest.mark.parametrize("field", list(FIELDS))
async def test_a_field_that_differs_between_edit_approval_and_run_lets_nothing_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, when: str
) -> None:
    bind = Outcomes.bind
    async with opened(tmp_path) as shop:
        call = await shop.pending(shop.paid()[0], 45)
        key = shop.store.ring.claim_key("local")

        def mutated(self: Outcomes, case: Case) -> None:
            bind(self, case)
            assert case.bound[field] != FIELDS[field]
            case.bound[field] = FIELDS[field]
            case.requested_digest = keyed_digest(key, "approval", approval_digest(case.bound))

        if when == "edit":
            monkeypatch.setattr(Outcomes, "bind", mutated)
        await shop.edit(call, amount_usd=40)
        monkeypatch.undo()
        await shop.vote(call)
        if when == "run":
            monkeypatch.setattr(Outcomes, "bind", mutated)
        assert code_of(await shop.resume(call)) == "approval_void"
        assert shop.moved() == []


@pytest.mark.parametrize(
    "forgery",
    [
        "edited_digest = ''",
        "edited_digest = '', approved_digest = requested_digest",
        "authors = '[]'",
        "authors = '[\"cid\"]'",
    ],
)
async def test_whoever_can_write_the_table_alone_gets_no_edited_call_through(
    tmp_path: Path, forgery: str
) -> None:
    async with opened(tmp_path) as shop:
        call = await shop.pending(shop.paid()[0], 45)
        await shop.edit(call, amount_usd=40)
        await shop.vote(call, by="ann")
        with closing(sqlite3.connect(tmp_path / "comptroller.db")) as raw, raw:
            raw.execute(f"UPDATE approvals SET {forgery} WHERE call = ?", (call,))  # noqa: S608
        raw.close()
        assert code_of(await shop.resume(call)) is not None
        assert shop.moved() == []


async def test_a_record_that_changed_after_an_edit_asks_again_about_the_edited_call(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        call = await shop.pending(invoice, 45)
        await shop.edit(call, amount_usd=40)
        await shop.vote(call)
        shop.sql("UPDATE invoices SET item = 'Something else' WHERE id = ?", invoice)
        assert code_of(await shop.resume(call)) == "record_changed"
        assert isinstance(await shop.vote(call, by="bea"), Stopped)  # still an author
        await shop.vote(call)
        assert structured(await shop.resume(call))["amount_usd"] == 40


async def test_the_person_at_the_client_confirms_the_edited_call_not_the_one_they_saw_before(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, confirming("approver")) as shop:
        arguments = {
            "invoice_id": shop.paid()[0],
            "amount_usd": 45,
            "reason_code": "goodwill",
            "why": {"reason": "x"},
        }
        first = await leg(shop, "issue_refund", arguments)
        waiting = await leg(shop, "issue_refund", arguments, yes(first))
        assert code_of(waiting) == "approval_pending"
        call = call_of(waiting)
        await shop.edit(call, amount_usd=40)
        await shop.vote(call)
        asked = await leg(shop, "resume_call", {"call": call})
        assert '"amount_usd":40' in ask_of(asked).message
        assert shop.moved() == []
        # What they said to the first question is no answer to this one.
        old = await leg(shop, "resume_call", {"call": call}, yes(first))
        assert shop.moved() == []
        assert old.asks is not None
        done = await leg(shop, "resume_call", {"call": call}, yes(asked))
        assert structured(done)["amount_usd"] == 40


async def test_an_edit_a_yes_and_a_run_at_once_never_run_what_nobody_agreed_to(
    store_url: str, tmp_path: Path
) -> None:
    async with opened(tmp_path, roomy, url=store_url) as shop:
        for turn, invoice in enumerate(shop.paid()[:6]):
            call = await shop.pending(invoice, 45)
            if turn % 2:
                await shop.vote(call)
            works = [shop.resume(call), shop.edit(call, amount_usd=40), shop.vote(call), shop.resume(call)]
            random.Random(turn).shuffle(works)
            for came in await asyncio.gather(*works, return_exceptions=True):
                assert isinstance(came, Answer | Committed | Stopped | str | Refused), came
            row = approval_of(shop, call)
            moved = [effect.amount_cents for effect in shop.moved(invoice)]
            # At once only the proposed amount can have run: the edited one had no yes, unless it came after the edit.
            agreed = 4000 if row["edited_digest"] else 4500
            assert moved in ([], [agreed])
            assert bool(moved) == (row["state"] == "consumed")
            if moved:
                assert shop.state(call) == "done"
            elif row["state"] == "pending":
                await shop.vote(call)
                assert code_of(await shop.resume(call)) is None
                assert [effect.amount_cents for effect in shop.moved(invoice)] == [agreed]


STEPS = ("edit", "edit", "ann", "bea", "no", "resume", "resume", "change", "late")


async def test_in_any_order_only_what_the_last_yes_was_for_runs_and_only_once(tmp_path: Path) -> None:
    """A model of one call: the amount asked about, who wrote it, whether somebody else agreed, whether it is over."""

    async with opened(tmp_path, roomy) as shop:
        for turn, invoice in enumerate(shop.paid()[:20]):
            draw = random.Random(turn)
            call = await shop.pending(invoice, 45)
            asked, authors, agreed, over, changed, ran = 45.0, set[str](), False, False, False, list[float]()
            for step in draw.sample(STEPS, len(STEPS)):
                if step == "edit":
                    usd, who = draw.choice((25.5, 30.0, 35.0, 45.0)), draw.choice(("ann", "bea"))
                    if over or usd == asked:
                        await refused(shop, call, by=who, amount_usd=usd)
                        continue
                    await shop.edit(call, by=who, amount_usd=usd)
                    asked, agreed, changed = usd, False, False
                    authors.add(who)
                elif step in ("ann", "bea"):
                    counts = not over and not agreed and step not in authors
                    assert isinstance(await shop.vote(call, by=step), Committed) is counts
                    agreed = agreed or counts
                elif step == "no":
                    if draw.random() < 0.3:
                        assert isinstance(await shop.vote(call, yes=False), Stopped) is over
                        over = True
                elif step == "change":
                    shop.sql("UPDATE invoices SET item = ? WHERE id = ?", f"other {turn}", invoice)
                    changed = True
                elif step == "late":
                    if draw.random() < 0.2:
                        shop.clock.pass_s(3601)
                        over = over or not ran
                else:
                    answer = await shop.resume(call)
                    if agreed and not over and changed:
                        assert code_of(answer) == "record_changed"
                        agreed = changed = False
                    elif agreed and not over:
                        assert structured(answer)["amount_usd"] == asked
                        ran, over = [asked], True
                assert [effect.amount_cents / 100 for effect in shop.moved(invoice)] == ran
            assert shop.calls(CallState.IN_DOUBT) == []


async def test_the_agent_is_told_of_an_edit_no_more_than_it_may_read(tmp_path: Path) -> None:
    async with opened(tmp_path, private(send_reply={"approval": [{"role": "approver"}]})) as shop:
        ticket = await ticket_of(shop)
        token = structured(await shop.call("get_ticket", ticket_id=ticket))["customer_email"]
        reply = await drafted(shop, ticket)
        answer = await shop.call("send_reply", reply_id=reply, to=token, why=WHY)
        call = call_of(answer)
        await shop.edit(call, to="bob@example.org")
        waiting = await shop.resume(call)
        await shop.vote(call)
        done = await shop.resume(call)
        assert code_of(done) is None
        assert shop.sql("SELECT sent_to FROM replies WHERE id = ?", reply) == [("bob@example.org",)]
        again = await shop.call("send_reply", reply_id=reply, to=token, why=WHY)
        for told in (waiting, done, again):
            assert "A person changed the arguments." in told.text
            assert "@" not in f"{told.text}{told.structured}{told.meta}"


# -- evidence for a rollout -------------------------------------------------------------------------------------------


async def test_approvals_that_changed_nothing_are_counted_until_one_is_edited_or_denied(
    tmp_path: Path,
) -> None:
    def counted(shop: Shop) -> tuple[int, int]:
        row = shop.rows(ROLLOUTS, "issue_refund")["issue_refund"]
        return row["unedited"], row["edited"]

    async with opened(tmp_path, roomy) as shop:
        invoices = shop.paid()
        for invoice in invoices[:2]:
            call = await shop.pending(invoice, 25)
            await shop.vote(call)
            await shop.resume(call)
        assert counted(shop) == (2, 0)
        edited = await shop.pending(invoices[2], 45)
        await shop.edit(edited, amount_usd=40)
        assert counted(shop) == (0, 1)
        await shop.vote(edited)
        assert code_of(await shop.resume(edited)) is None
        assert counted(shop) == (0, 1)  # that one was not approved as it was proposed
        call = await shop.pending(invoices[3], 25)
        await shop.vote(call)
        await shop.resume(call)
        assert counted(shop) == (1, 1)
        await shop.vote(await shop.pending(invoices[4]), yes=False)
        assert counted(shop) == (0, 1)
