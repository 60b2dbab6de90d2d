"""A person at the client confirms: exactly this action, once, and only a client that has a person is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from mcp import Client
from mcp.client.context import ClientRequestContext
from mcp_types import (
    CallToolResult,
    ElicitRequestFormParams,
    ElicitRequestParams,
    ElicitResult,
    TextContent,
)

from comptroller_audit.vocabulary import CallState, RecordType
from comptroller_budgets.tasks import TASKS
from comptroller_server.call.proposal import Answer, Ask, Confirmation, Proposal, Reply
from comptroller_server.face.elicitation import QUESTION
from comptroller_server.face.protocol import build_server
from comptroller_server.people.confirmations import ANSWER_S_MAX
from tests.scenarios.kit import (
    WHY,
    Changes,
    Shop,
    call_of,
    code_of,
    details_of,
    opened,
    placed,
    structured,
    tool_of,
)
from tests.server.cli_kit import run, run_in_thread

pytestmark = pytest.mark.anyio
ERAS = ["auto", "legacy"]
YES = ElicitResult(action="accept", content={"confirm": True})


def confirming(*roles: str, interactive: bool = True) -> Changes:
    """The desk where a refund needs the requester, and whoever else is named."""

    def change(config: dict[str, Any]) -> None:
        config["identity"]["local"]["clients"] = {
            "triage-bot": {"interactive": interactive},
            "other": {"interactive": True},
        }
        config["approvals"] = {"requester_may": ["money"]}
        tool_of(config, "issue_refund")["approval"] = [{"role": role} for role in ("requester", *roles)]

    return change


@dataclass
class Person:
    """Whoever sits at the client. `says` answers each question; `asked` is what they were shown."""

    says: Callable[[], ElicitResult] = lambda: YES
    asked: list[ElicitRequestParams] = field(default_factory=list[ElicitRequestParams])

    async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        del context
        self.asked.append(params)
        return self.says()

    @property
    def shown(self) -> str:
        return self.asked[-1].message


@asynccontextmanager
async def client_of(
    shop: Shop, era: str, person: Person | None, wait_s: float = 20
) -> AsyncGenerator[Client]:
    server = build_server(
        shop.service.pipeline, subject_of=lambda _: shop.subject, version="1", elicitation_wait_s=wait_s
    )
    async with Client(server, mode=cast("Any", era), cache=None, elicitation_callback=person) as client:
        yield client


def refund_of(invoice: str, usd: float = 5, **more: Any) -> dict[str, Any]:
    return {"invoice_id": invoice, "amount_usd": usd, "reason_code": "goodwill", "why": WHY, **more}


def code(result: CallToolResult) -> str | None:
    if not result.is_error:
        return None
    assert result.meta is not None
    return str(result.meta["comptroller/refusal"]["code"])


async def proposed(
    shop: Shop, usd: float = 5, *, confirmation: Confirmation | None = None, invoice: str = "", **more: Any
) -> Answer:
    """One leg of a refund, from a client that can ask."""
    arguments = refund_of(invoice or shop.paid()[0], usd, **more)
    return await leg(shop, "issue_refund", arguments, confirmation)


async def leg(shop: Shop, tool: str, arguments: Any, confirmation: Confirmation | None = None) -> Answer:
    proposal = Proposal(shop.subject, tool, arguments, can_ask=True, confirmation=confirmation)
    return await shop.service.pipeline.call(proposal)


def ask_of(answer: Answer) -> Ask:
    assert answer.asks is not None, answer.text
    return answer.asks


def yes(answer: Answer) -> Confirmation:
    return Confirmation(ask_of(answer).state, Reply.ACCEPT, confirmed=True)


@pytest.mark.parametrize("era", ERAS)
async def test_the_person_at_the_client_confirms_and_the_call_runs_once(tmp_path: Path, era: str) -> None:
    person = Person()
    async with opened(tmp_path, confirming()) as shop, client_of(shop, era, person) as client:
        invoice = shop.paid()[0]
        done = await client.call_tool("issue_refund", refund_of(invoice))
        assert not done.is_error, done
        (effect,) = shop.moved()
        assert (effect.invoice_id, effect.amount_cents) == (invoice, 500)
        (asked,) = person.asked
        assert isinstance(asked, ElicitRequestFormParams)
        assert list(asked.requested_schema["properties"]) == ["confirm"]
        (action,) = shop.packets(RecordType.ACTION)
        (word,) = action["approvals"]
        assert word["assurance"] == "client_asserted"
        assert word["roles"] == ["requester"]
        (question,) = shop.log(RecordType.CONFIRMATION_ASKED)
        assert question.index == word["asked"]
        assert question.packet is not None
        assert question.packet["message"] == person.shown
        assert question.packet["call"] == action["call"]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    "said",
    [
        ElicitResult(action="decline"),
        ElicitResult(action="cancel"),
        ElicitResult(action="accept", content={"confirm": False}),
        ElicitResult(action="accept", content={}),
        ElicitResult(action="accept", content={"confirm": "true"}),
    ],
    ids=["decline", "cancel", "no", "nothing", "text"],
)
async def test_whatever_is_no_yes_does_nothing_and_is_on_record(
    tmp_path: Path, era: str, said: ElicitResult
) -> None:
    person = Person(lambda: said)
    async with opened(tmp_path, confirming()) as shop, client_of(shop, era, person) as client:
        refused = await client.call_tool("issue_refund", refund_of(shop.paid()[0]))
        assert code(refused) == "confirmation_declined"
        assert shop.moved() == []
        (record,) = shop.packets(RecordType.REFUSED)
        assert record["refusal"]["code"] == "confirmation_declined"
        assert record["refusal"]["class"] == "policy_violation"
        assert record["arguments"]["invoice_id"] == shop.paid()[0]
        (question,) = shop.packets(RecordType.CONFIRMATION_ASKED)
        assert question["call"] == record["call"]


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_that_would_accept_by_itself_is_not_asked_unless_it_is_interactive(
    tmp_path: Path, era: str
) -> None:
    person = Person()
    async with (
        opened(tmp_path, confirming(interactive=False)) as shop,
        client_of(shop, era, person) as client,
    ):
        refused = await client.call_tool("issue_refund", refund_of(shop.paid()[0]))
        assert code(refused) == "confirmation_needed"
        assert isinstance(refused.content[0], TextContent)
        assert "interactive: true" in refused.content[0].text
        assert person.asked == []
        assert shop.moved() == []
        assert shop.packets(RecordType.CONFIRMATION_ASKED) == []


@pytest.mark.parametrize("era", ERAS)
async def test_an_interactive_client_that_declares_no_forms_is_told_what_to_do(
    tmp_path: Path, era: str
) -> None:
    async with opened(tmp_path, confirming("approver")) as shop, client_of(shop, era, None) as client:
        refused = await client.call_tool("issue_refund", refund_of(shop.paid()[0]))
        assert code(refused) == "confirmation_needed"
        assert isinstance(refused.content[0], TextContent)
        assert "elicitation" in refused.content[0].text
        assert "1 with role approver" in refused.content[0].text
        assert shop.calls(CallState.PENDING) == []


async def test_a_forged_answer_of_a_client_that_was_never_asked_opens_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, confirming()) as shop, client_of(shop, "auto", Person()) as client:
        for state in (None, "", "x", "seal-00000000.AAAA"):
            result = await client.session.call_tool(
                "issue_refund",
                refund_of(shop.paid()[0]),
                input_responses={QUESTION: YES},
                request_state=state,
                allow_input_required=True,
            )
            assert isinstance(result, CallToolResult)
            assert code(result) == "confirmation_invalid"
        assert shop.moved() == []
        assert len(shop.packets(RecordType.REFUSED)) == 4


# -- what an answer is for --------------------------------------------------------------------------------------------


async def test_an_answer_that_is_sent_twice_or_by_many_at_once_runs_the_call_once(
    store_url: str, tmp_path: Path
) -> None:
    async with opened(tmp_path, confirming(), url=store_url) as shop:
        given = yes(await proposed(shop))
        answers = await asyncio.gather(*(proposed(shop, confirmation=given) for _ in range(6)))
        assert len(shop.moved()) == 1
        call = shop.moved()[0].effect_key
        assert {code_of(answer) for answer in answers} <= {None, "in_progress", "confirmation_invalid"}
        again = await proposed(shop, confirmation=given)
        assert code_of(again) == "confirmation_invalid"
        assert details_of(again)["call"] == call
        assert (await leg(shop, "resume_call", {"call": call})).meta["comptroller/replayed"] is True
        assert len(shop.moved()) == 1


async def test_a_call_that_was_declined_cannot_be_confirmed_afterwards(tmp_path: Path) -> None:
    async with opened(tmp_path, confirming()) as shop:
        given = yes(await proposed(shop))
        assert code_of(await proposed(shop, confirmation=replace(given, reply=Reply.DECLINE))) == (
            "confirmation_declined"
        )
        assert code_of(await proposed(shop, confirmation=given)) == "confirmation_invalid"
        assert shop.moved() == []


async def test_an_answer_survives_a_restart_and_is_good_in_another_process_on_the_store(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, confirming()) as shop:
        given, clock = yes(await proposed(shop)), shop.clock
    async with (
        opened(tmp_path, confirming(), clock=clock) as one,
        opened(tmp_path, confirming(), clock=clock) as two,
    ):
        answers = await asyncio.gather(*(proposed(shop, confirmation=given) for shop in (one, two)))
        assert None in {code_of(answer) for answer in answers}
        assert len(one.moved()) == 1


@pytest.mark.parametrize("late", [ANSWER_S_MAX - 5, ANSWER_S_MAX + 1])
async def test_an_answer_that_comes_too_late_does_nothing(tmp_path: Path, late: int) -> None:
    async with opened(tmp_path, confirming()) as shop:
        given = yes(await proposed(shop))
        shop.clock.pass_s(late)
        answer = await proposed(shop, confirmation=given)
        assert code_of(answer) == (None if late < ANSWER_S_MAX else "confirmation_expired")
        assert len(shop.moved()) == (1 if late < ANSWER_S_MAX else 0)


async def test_a_clock_that_is_set_back_makes_no_late_answer_good_again(tmp_path: Path) -> None:
    async with opened(tmp_path, confirming()) as shop:
        given = yes(await proposed(shop))
        shop.clock.jump_s(ANSWER_S_MAX + 1)
        await shop.call("search_tickets", {"query": "refund"})
        shop.clock.jump_s(-ANSWER_S_MAX)
        assert code_of(await proposed(shop, confirmation=given)) == "confirmation_expired"
        assert shop.moved() == []


async def test_a_state_that_somebody_changed_is_refused_and_recorded(tmp_path: Path) -> None:
    async with opened(tmp_path, confirming()) as shop:
        given = yes(await proposed(shop))
        for at in range(0, len(given.state), 29):
            other = "A" if given.state[at] != "A" else "B"
            bad = replace(given, state=given.state[:at] + other + given.state[at + 1 :])
            # Another amount each time: the same call is not refused for ever in the same words.
            assert code_of(await proposed(shop, 6 + at / 100, confirmation=bad)) == "confirmation_invalid"
        refused = [record["refusal"]["code"] for record in shop.packets(RecordType.REFUSED)]
        assert set(refused) == {"confirmation_invalid"}
        assert shop.moved() == []
        assert code_of(await proposed(shop, confirmation=given)) is None


async def test_an_answer_is_good_for_its_own_client_and_person_only(tmp_path: Path) -> None:
    async with opened(tmp_path, confirming()) as shop:
        given = yes(await proposed(shop))
        mine = shop.subject
        for other in (shop.other(actor="other"), shop.other(subject="somebody")):
            shop.subject = other
            assert code_of(await proposed(shop, confirmation=given)) == "confirmation_invalid"
        shop.subject = mine
        assert code_of(await proposed(shop, confirmation=given)) is None


async def test_a_client_that_is_no_longer_interactive_cannot_use_an_answer(tmp_path: Path) -> None:
    async with opened(tmp_path, confirming()) as shop:
        given, clock = yes(await proposed(shop)), shop.clock
    async with opened(tmp_path, confirming(interactive=False), clock=clock) as shop:
        assert code_of(await proposed(shop, confirmation=given)) == "confirmation_invalid"
        assert shop.moved() == []


@pytest.mark.parametrize(
    "other",
    [{"usd": 6}, {"reason_code": "billing_error"}, {"why": {"reason": "Words that were not shown."}}],
    ids=["amount", "code", "why"],
)
async def test_a_yes_is_for_exactly_what_was_shown(tmp_path: Path, other: dict[str, Any]) -> None:
    async with opened(tmp_path, confirming()) as shop:
        given = yes(await proposed(shop))
        answer = await proposed(shop, confirmation=given, **other)
        assert answer.asks is not None
        assert shop.moved() == []


async def test_a_record_that_moves_while_the_person_reads_is_shown_once_more_and_then_no_more(
    tmp_path: Path,
) -> None:
    def moves(shop: Shop) -> None:
        invoice = shop.paid()[0]
        shop.sql("UPDATE invoices SET paid_cents = paid_cents + 100 WHERE id = ?", invoice)

    async with opened(tmp_path, confirming()) as shop:
        first = await proposed(shop)
        moves(shop)
        second = await proposed(shop, confirmation=yes(first))
        assert call_of(second) == call_of(first)
        assert ask_of(second).message != ask_of(first).message
    folder = tmp_path / "again"
    folder.mkdir()
    async with opened(folder, confirming()) as shop:
        first = await proposed(shop)
        moves(shop)
        second = await proposed(shop, confirmation=yes(first))
        moves(shop)
        third = await proposed(shop, confirmation=yes(second))
        assert code_of(third) == "confirmation_stale"
        assert details_of(third)["class"] == "stale_context"
        assert shop.moved() == []
    folder = tmp_path / "calm"
    folder.mkdir()
    async with opened(folder, confirming()) as shop:
        first = await proposed(shop)
        moves(shop)
        second = await proposed(shop, confirmation=yes(first))
        assert code_of(await proposed(shop, confirmation=yes(second))) is None
        assert len(shop.moved()) == 1


CONFIRMED_READ = """
@id("ask-first") @reason("Tickets of this desk are read with the person's knowledge.") @approval("requester")
forbid (principal, action == Comptroller::Action::"get_ticket", resource)
unless { context.approvals.requester >= 1 };
"""


async def test_an_operators_own_gate_asks_the_person_before_a_read_and_releases_nothing_until_then(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, confirming(), cedar=CONFIRMED_READ) as shop:
        ((ticket, subject),) = shop.sql("SELECT id, subject FROM tickets ORDER BY id LIMIT 1")
        wanted = {"ticket_id": ticket}
        asked = await leg(shop, "get_ticket", wanted)
        assert "read with the person's knowledge. (rule ask-first)" in ask_of(asked).message
        assert str(subject) not in asked.text + ask_of(asked).message
        read = await leg(shop, "get_ticket", wanted, yes(asked))
        assert structured(read)["subject"] == subject
        (packet,) = shop.packets(RecordType.READ)
        assert [word["assurance"] for word in packet["approvals"]] == ["client_asserted"]
        assert code_of(await leg(shop, "get_ticket", wanted, yes(asked))) == "confirmation_invalid"


# -- and somebody else after them -------------------------------------------------------------------------------------


async def test_a_call_that_needs_both_is_confirmed_first_and_resumed_without_asking_again(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, confirming("approver")) as shop:
        first = await proposed(shop, 30)
        assert "1 with role approver must agree too" in ask_of(first).message
        waiting = await proposed(shop, 30, confirmation=yes(first))
        assert code_of(waiting) == "approval_pending"
        call = call_of(waiting)
        assert call == call_of(first)
        (pending,) = shop.packets(RecordType.PENDING)
        assert pending["roles"] == {"approver": 1}
        assert pending["confirmation"]["assurance"] == "client_asserted"
        assert code_of(await leg(shop, "resume_call", {"call": call})) == "approval_pending"
        await shop.vote(call)
        done = await shop.resume(call)  # by a client that could not even ask
        assert structured(done)["amount_usd"] == 30
        (action,) = shop.packets(RecordType.ACTION)
        assert [vote["assurance"] for vote in action["approvals"]] == ["credential", "client_asserted"]
        assert len(shop.packets(RecordType.CONFIRMATION_ASKED)) == 1


async def test_a_record_that_changed_under_a_confirmed_pending_call_is_confirmed_again_and_approved_again(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, confirming("approver")) as shop:
        invoice = shop.paid()[0]
        call = call_of(await proposed(shop, 30, confirmation=yes(await proposed(shop, 30))))
        await shop.vote(call)
        shop.sql("UPDATE invoices SET paid_cents = paid_cents + 100 WHERE id = ?", invoice)
        assert code_of(await shop.resume(call)) == "confirmation_needed"
        asked = await leg(shop, "resume_call", {"call": call})
        assert ask_of(asked).message
        changed = await leg(shop, "resume_call", {"call": call}, yes(asked))
        assert code_of(changed) == "record_changed"
        assert shop.moved() == []
        await shop.vote(call)
        assert code_of(await shop.resume(call)) is None
        assert len(shop.moved()) == 1


async def test_an_approver_cannot_stand_in_for_the_person_at_the_client(tmp_path: Path) -> None:
    async with opened(tmp_path, confirming("approver")) as shop:
        invoice = shop.paid()[0]
        call = call_of(await proposed(shop, 30, confirmation=yes(await proposed(shop, 30))))
        await shop.vote(call, roles=("approver", "requester"))
        shop.sql("UPDATE invoices SET paid_cents = paid_cents + 100 WHERE id = ?", invoice)
        assert code_of(await shop.resume(call)) == "confirmation_needed"
        assert shop.moved() == []


# -- who is not asked -------------------------------------------------------------------------------------------------


async def test_a_repeat_of_what_was_done_or_waits_asks_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path, confirming("approver")) as shop:
        given = yes(await proposed(shop, 30))
        call = call_of(await proposed(shop, 30, confirmation=given))
        assert code_of(await proposed(shop, 30)) == "approval_pending"
        assert code_of(await proposed(shop, 30, confirmation=given)) == "approval_pending"
        await shop.vote(call)
        assert code_of(await proposed(shop, 30)) is None
        again = await proposed(shop, 30)
        assert again.meta["comptroller/replayed"] is True
        assert len(shop.packets(RecordType.CONFIRMATION_ASKED)) == 1
        assert len(shop.moved()) == 1


async def test_a_call_that_policy_denies_is_denied_without_asking(tmp_path: Path) -> None:
    async with opened(tmp_path, confirming()) as shop:
        assert code_of(await proposed(shop, 500)) == "denied"
        assert shop.packets(RecordType.CONFIRMATION_ASKED) == []


async def test_questions_are_attempts_so_an_agent_cannot_pester_without_end(tmp_path: Path) -> None:
    def few(config: dict[str, Any]) -> None:
        confirming()(config)
        config["limits"] = {"attempts_per_minute_max": 3}

    async with opened(tmp_path, few) as shop:
        answers = [await proposed(shop, 1 + at) for at in range(5)]
        assert [answer.asks is not None for answer in answers] == [True, True, True, False, False]
        assert code_of(answers[-1]) == "overloaded"


@pytest.mark.parametrize(
    ("reply", "again"), [(Reply.DECLINE, False), (Reply.ACCEPT, False), (Reply.CANCEL, True)]
)
async def test_a_person_who_said_no_is_not_asked_the_same_again_at_once(
    tmp_path: Path, reply: Reply, again: bool
) -> None:
    async with opened(tmp_path, confirming()) as shop:
        said = Confirmation(ask_of(await proposed(shop)).state, reply, confirmed=False)
        assert code_of(await proposed(shop, confirmation=said)) == "confirmation_declined"
        second = await proposed(shop, why={"reason": "Other words for the same."})
        assert (second.asks is not None) == again
        assert again or code_of(second) == "confirmation_declined"
        assert (await proposed(shop, 6)).asks is not None
        shop.clock.pass_s(ANSWER_S_MAX + 1)
        assert (await proposed(shop)).asks is not None


async def test_the_time_in_which_the_person_is_asked_is_not_the_tasks(tmp_path: Path) -> None:
    async with opened(tmp_path, confirming()) as shop:
        invoices = shop.paid()
        await shop.call("lookup_invoice", {"invoice_id": invoices[0]})
        for invoice in invoices[:2]:
            asked = await proposed(shop, invoice=invoice)
            shop.clock.pass_s(25)
            assert code_of(await proposed(shop, invoice=invoice, confirmation=yes(asked))) is None
        call = shop.moved()[-1].effect_key
        task = shop.row(call)["task"]
        active_s = shop.rows(TASKS, task)[task]["active_ms"] / 1000
        assert active_s < 25


async def test_the_question_quotes_and_escapes_and_never_cuts_the_arguments(tmp_path: Path) -> None:
    async with opened(tmp_path, confirming(), secrets=("hunter2-of-the-desk",)) as shop:
        invoice = shop.paid()[0]
        shop.sql("UPDATE invoices SET item = ? WHERE id = ?", "hunter2-of-the-desk", invoice)
        words = 'Fine.\nAlready approved by the owner. \u202e"'
        message = ask_of(await proposed(shop, why={"reason": words})).message
        lines = message.splitlines()
        assert f'"invoice_id":"{invoice}"' in message
        assert "hunter2" not in message
        assert "\u202e" not in message
        assert lines[-1].startswith("The agent's own words, checked by nobody: \"Fine.\\nAlready approved")
        assert "only when the person it is done for confirms it" in message
        assert "http" not in message


# -- a call that waits for somebody else ------------------------------------------------------------------------------


def approving_only(config: dict[str, Any]) -> None:
    approving(config)
    config["approvals"] = {}


def approving(config: dict[str, Any]) -> None:
    confirming()(config)
    tool_of(config, "issue_refund")["approval"] = [{"role": "approver"}]


@pytest.mark.parametrize("era", ERAS)
async def test_the_person_at_the_client_is_told_how_a_waiting_call_is_decided(
    tmp_path: Path, era: str
) -> None:
    person = Person()
    async with opened(tmp_path, approving) as shop, client_of(shop, era, person) as client:
        waiting = await client.call_tool("issue_refund", refund_of(shop.paid()[0]))
        assert code(waiting) == "approval_pending"  # whatever was pressed, it decided nothing
        ((call, _),) = shop.calls(CallState.PENDING)
        assert f"comptroller approvals approve {call}" in person.shown
        assert "1 with role approver" in person.shown
        assert "http" not in person.shown
        (asked,) = person.asked
        assert isinstance(asked, ElicitRequestFormParams)
        assert asked.requested_schema["properties"] == {}
        assert (waiting.meta or {})["comptroller/refusal"]["call"] == call
        assert shop.moved() == []


@pytest.mark.parametrize("reply", [Reply.ACCEPT, Reply.CANCEL, Reply.NO_ANSWER])
@pytest.mark.parametrize("tool", ["issue_refund", "resume_call"])
async def test_a_call_that_was_decided_while_its_person_read_that_goes_on_at_once(
    tmp_path: Path, reply: Reply, tool: str
) -> None:
    async with opened(tmp_path, approving) as shop:
        arguments = refund_of(shop.paid()[0])
        told = await leg(shop, "issue_refund", arguments)
        assert code_of(told) == "approval_pending"
        call = call_of(told)
        back = Confirmation(ask_of(told).state, reply, confirmed=True)
        again = arguments if tool == "issue_refund" else {"call": call}
        still = await leg(shop, tool, again, back)
        assert (code_of(still), still.asks) == ("approval_pending", None)
        await shop.vote(call)
        shop.clock.pass_s(ANSWER_S_MAX + 1)
        done = await leg(shop, tool, again, back)
        assert (code_of(done), call_of(done)) == (None, call)
        assert len(shop.moved()) == 1


async def test_having_been_told_is_no_confirmation(tmp_path: Path) -> None:
    async with opened(tmp_path, approving) as shop:
        told, clock = await proposed(shop), shop.clock
        await shop.vote(call_of(told), yes=False)
    async with opened(tmp_path, confirming(), clock=clock) as shop:
        answer = await proposed(shop, confirmation=Confirmation(ask_of(told).state, Reply.ACCEPT, True))
        assert answer.asks is not None
        assert shop.moved() == []


async def test_nobody_is_told_at_a_client_without_a_person(tmp_path: Path) -> None:
    def alone(config: dict[str, Any]) -> None:
        approving(config)
        config["identity"]["local"]["clients"] = {"triage-bot": {}}

    async with opened(tmp_path, alone) as shop:
        answer = await proposed(shop)
        assert (code_of(answer), answer.asks) == ("approval_pending", None)


def test_what_hangs_on_a_clients_word_is_told_by_check(tmp_path: Path) -> None:
    for changes, told in ((confirming(), True), (approving_only, False)):
        folder = tmp_path / str(told)
        placed(folder, changes)
        assert ("requester_may` is on (money)" in run(folder, "check").stdout) == told


async def test_who_confirmed_is_shown_with_how_sure_that_is(tmp_path: Path) -> None:
    async with opened(tmp_path, confirming("approver")) as shop:
        call = call_of(await proposed(shop, confirmation=yes(await proposed(shop))))
        card = await run_in_thread(tmp_path, "approvals", "show", call)
        assert "confirmed" in card.stdout
        assert "client_asserted" in card.stdout
        await shop.vote(call)
        assert code_of(await shop.resume(call)) is None
        told = await run_in_thread(tmp_path, "why", call)
        assert "client_asserted" in told.stdout
        explained = await run_in_thread(tmp_path, "policy", "explain", call, "--json")
        assert json.loads(explained.stdout)["now"]["verdict"] == "allow", explained.stdout
