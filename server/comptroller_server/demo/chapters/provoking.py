"""One scripted agent for each refusal code, against the desk as it is and as it misbehaves.

A scene brings about one code, or several that come together; `SCENES` holds them by the codes they bring.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import anyio
from mcp.client.context import ClientRequestContext
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult

from comptroller_audit.vocabulary import Code
from comptroller_server.demo.chapters.refunds import limit_usd
from comptroller_server.demo.servers import Agent, Reply, Server, reply_of
from comptroller_server.demo.stage import Invoice, Stage
from comptroller_server.demo.story import Story, propose_refund
from comptroller_tools.desk.faults import Fault, FaultKind, Point

__all__ = ["NOBODY", "SCENES", "WHY", "House", "Scene"]

WHY = {"reason": "The customer asked for it."}
NOBODY = "01900000-0000-7000-8000-000000000000"
"""The id of no call and no task."""
FORGED_ANSWER = "comptroller.confirm"
TRIES_MAX = 20
SOON_SPENT_CENTS = (2_150, 3_950)
"""Left on an invoice: enough for 21 USD, until somebody has taken up to 19.50 of it."""


@dataclass
class House:
    """What a scene plays on: the server, the desk, where refusals are noted, and which codes are still missing."""

    story: Story
    server: Server
    missing: Collection[Code] = ()

    @property
    def stage(self) -> Stage:
        return self.story.stage

    def agent(self, code: Code, **client: Any) -> AbstractAsyncContextManager[Agent]:
        """Each code has a client of its own in the configuration, and so a task of its own."""
        return self.server.agent(code.value, **client)

    def note(self, reply: Reply) -> Reply:
        return self.story.note(reply)

    def invoice(self, at_least_cents: int = 3_000) -> Invoice:
        return self.stage.invoices(at_least_cents)[0]

    def ticket(self) -> str:
        return self.invoice().ticket

    async def refund(self, agent: Agent, invoice: Invoice, amount: float, **more: Any) -> Reply:
        """A refund that cites what was just read."""
        read = await agent.call("lookup_invoice", invoice_id=invoice.invoice)
        return self.note(await propose_refund(agent, invoice, amount, read.refs, **more))


Scene = Callable[[House], Awaitable[None]]


# -- one proposal is enough --------------------------------------------------------------------------------------


async def _wrong_words(house: House) -> None:
    async with house.agent(Code.UNKNOWN_TOOL) as agent:
        house.note(await agent.call("delete_everything"))
        bad: dict[str, Any] = {"invoice_id": "inv_1", "amount_usd": "a lot", "reason_code": "goodwill"}
        house.note(await agent.call("issue_refund", **bad, why=WHY))
        house.note(await agent.call("set_ticket_status", ticket_id=house.ticket(), status="closed"))
        house.note(await agent.call("resume_call", call=NOBODY))
        house.note(await agent.call("search_tickets", {"comptroller/task": NOBODY}))
        house.note(await agent.call("get_ticket", ticket_id="tic_nothing"))


async def _citations(house: House) -> None:
    async with house.agent(Code.CITATION_MISSING) as agent:
        house.note(await propose_refund(agent, house.invoice(), 3, []))
        house.note(await propose_refund(agent, house.invoice(), 3, ["zzzzzzzz"]))


async def _result_gone(house: House) -> None:
    async with house.agent(Code.RESULT_GONE) as agent:
        house.note(await agent.call("result_more", more="nothing-1"))


async def _denied(house: House) -> None:
    async with house.agent(Code.DENIED) as agent:
        await house.refund(agent, house.invoice(), limit_usd(house.story) + 10)


async def _secret(house: House) -> None:
    async with house.agent(Code.SECRET_IN_ARGUMENTS) as agent:
        body = "The password: Sommer-2026x is yours."
        house.note(await agent.call("draft_reply", ticket_id=house.ticket(), body=body, why=WHY))


async def _lookup_failed(house: House) -> None:
    async with house.agent(Code.LOOKUP_FAILED) as agent:
        house.note(await agent.call("set_ticket_status", ticket_id="tic_nothing", status="closed", why=WHY))


async def _check_and_judge(house: House) -> None:
    async with house.agent(Code.CHECK_FAILED) as agent:
        for body, down in (("Ask your lawyer.", False), ("We promise.", False), ("Hello.", True)):
            house.story.judge.is_down = down
            house.note(await agent.call("draft_reply", ticket_id=house.ticket(), body=body, why=WHY))
        house.story.judge.is_down = False


# -- one after the other ------------------------------------------------------------------------------------------


async def _key_conflict(house: House) -> None:
    async with house.agent(Code.KEY_CONFLICT) as agent:
        invoice, meta = house.invoice(), {"comptroller/idempotency-key": "order-7"}
        for amount in (3, 4):
            await house.refund(agent, invoice, amount, meta=meta)


async def _loop_and_budget(house: House) -> None:
    async with house.agent(Code.IDENTICAL_CALLS) as agent:
        words = ["refund"] * 4 + [f"refund {number}" for number in range(TRIES_MAX)]
        for word in words:
            if house.note(await agent.call("search_tickets", query=word)).code == Code.BUDGET_EXHAUSTED:
                break


async def _tasks(house: House) -> None:
    async with house.agent(Code.TASK_OPEN) as agent:
        await agent.call("task_begin", request="One.", unit=f"ticket:{house.ticket()}")
        house.note(await agent.call("task_begin", request="And another."))
        house.note(await agent.call("task_finish", claim="succeeded"))
    async with house.agent(Code.TASK_HANDED_OFF) as agent:
        await agent.call("task_begin", request="Too much for me.")
        await agent.call("hand_off", reason="I cannot tell who is right.")
        closing: dict[str, Any] = {"ticket_id": house.ticket(), "status": "closed", "why": WHY}
        house.note(await agent.call("set_ticket_status", **closing))


async def _halted(house: House) -> None:
    async with house.agent(Code.HALTED) as agent:
        await house.stage.halt("set_ticket_status")
        closing: dict[str, Any] = {"ticket_id": house.ticket(), "status": "closed", "why": WHY}
        house.note(await agent.call("set_ticket_status", **closing))
        await house.stage.lift("set_ticket_status")


# -- a desk that misbehaves -----------------------------------------------------------------------------------------


async def _slow_and_down(house: House) -> None:
    async with house.agent(Code.TIMEOUT) as agent:
        with house.stage.misbehaving(Fault(tool="get_policy", kind=FaultKind.SLOW, seconds=0.8)):
            house.note(await agent.call("get_policy", slug="refunds"))
        with house.stage.misbehaving(Fault(tool="search_policy", kind=FaultKind.RAISE)):
            for word in ("refund", "credit", "invoice"):
                house.note(await agent.call("search_policy", query=word))


async def _lies(house: House) -> None:
    async with house.agent(Code.OUTPUT_INVALID) as agent:
        with house.stage.misbehaving(Fault(tool="get_ticket", kind=FaultKind.LIE)):
            house.note(await agent.call("get_ticket", ticket_id=house.ticket()))


async def _differs(house: House) -> None:
    ((ticket,),) = house.stage.sql("SELECT id FROM tickets WHERE status = 'open' ORDER BY id LIMIT 1")
    async with house.agent(Code.VERIFICATION_FAILED) as agent:
        closing: dict[str, Any] = {"ticket_id": ticket, "status": "closed", "why": WHY}
        waits = Fault(tool="set_ticket_status", kind=FaultKind.ALTERED, other="waiting")
        with house.stage.misbehaving(waits):
            house.note(await agent.call("set_ticket_status", **closing))


async def _compensated(house: House) -> None:
    async with house.agent(Code.COMPENSATED) as agent:
        with house.stage.misbehaving(Fault(tool="issue_refund", kind=FaultKind.SHORT, cents=1)):
            await house.refund(agent, house.invoice(), 3)


async def _in_doubt(house: House) -> None:
    """The desk makes the refund and dies; a look-up of ours finds it later."""
    async with house.agent(Code.IN_DOUBT) as agent:
        invoice = house.invoice()
        dies = Fault(tool="issue_refund", kind=FaultKind.RAISE, point=Point.AFTER_WRITE)
        with house.stage.misbehaving(dies):
            reply = await house.refund(agent, invoice, 3)
        if Code.ALREADY_DONE in house.missing:
            for _ in range(TRIES_MAX):
                if (await house.stage.json("calls", "show", reply.call))["state"] == "done":
                    break
            await house.refund(agent, invoice, 3)


async def _in_progress(house: House) -> None:
    stage = house.stage
    reached, go = stage.folder / "hanging", stage.folder / "go-on"
    hang = Fault(tool="draft_reply", kind=FaultKind.HANG, reached=reached, until=go)
    draft: dict[str, Any] = {"ticket_id": house.ticket(), "body": "We have it.", "why": WHY}
    async with house.agent(Code.IN_PROGRESS) as one, house.server.agent("second") as two:
        with stage.misbehaving(hang):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: one.call("draft_reply", **draft))
                await house.server.until_reached(reached)
                house.note(await two.call("draft_reply", **draft))
                go.touch()


# -- people ---------------------------------------------------------------------------------------------------------


async def _decided(house: House) -> None:
    """Three wait; Olga says no to one and yes to two.

    Then the record of one has moved, and of another invoice too little is left, because a second agent was faster.
    """
    stage = house.stage
    spent = stage.invoices(*SOON_SPENT_CENTS)[0]
    moved, unwanted = [one for one in stage.invoices(6_000) if one != spent][:2]
    async with house.agent(Code.APPROVAL_PENDING) as agent, house.server.agent("second") as second:
        calls = [(await house.refund(agent, one, 21)).call for one in (unwanted, moved, spent)]
        async with anyio.create_task_group() as tasks:
            for verb, call in zip(("deny", "approve", "approve"), calls, strict=True):
                tasks.start_soon(stage.decide, verb, call)
        stage.sql("UPDATE invoices SET item = item || ' (new)' WHERE id = ?", moved.invoice)
        await house.refund(second, spent, spent.refundable_cents / 100 - 20)
        for call in (*calls, calls[2]):  # the last one is void from its first try on
            house.note(await agent.call("resume_call", call=call))


async def _confirmations(house: House) -> None:
    request, role = _access_request(house)
    wanted: dict[str, Any] = {"request_id": request, "role": role, "days": 7, "why": WHY}

    async def declines(*_: object) -> ElicitResult:
        return ElicitResult(action="decline")

    async def agrees_late(_: ClientRequestContext, __: ElicitRequestParams) -> ElicitResult:
        """Each time the request has changed once more by the time the person agrees."""
        house.stage.sql("UPDATE access_requests SET days = days + 1 WHERE id = ?", request)
        return ElicitResult(action="accept", content={"confirm": True})

    async def is_away(*_: object) -> ElicitResult:
        await anyio.sleep_forever()
        raise AssertionError

    async with house.agent(Code.CONFIRMATION_NEEDED) as agent:
        house.note(await agent.call("grant_access", **wanted))
    async with house.agent(Code.CONFIRMATION_STALE, person=agrees_late) as agent:
        house.note(await agent.call("grant_access", **wanted))
    async with house.agent(Code.CONFIRMATION_DECLINED, person=declines) as agent:
        house.note(await agent.call("grant_access", **wanted))
    async with house.agent(Code.CONFIRMATION_EXPIRED, person=is_away, era="legacy") as agent:
        longer: dict[str, Any] = {**wanted, "days": 8}
        house.note(await agent.call("grant_access", **longer))
    async with house.agent(Code.CONFIRMATION_INVALID, person=declines) as agent:
        forged = await agent.client.session.call_tool(
            "grant_access",
            wanted,
            input_responses={FORGED_ANSWER: ElicitResult(action="accept", content={"confirm": True})},
            request_state="what-nobody-was-asked",
            allow_input_required=True,
        )
        assert isinstance(forged, CallToolResult)
        house.note(reply_of(forged))


def _access_request(house: House) -> tuple[str, str]:
    """An access request that nobody has decided yet, and the role it asks for."""
    ((request, role),) = house.stage.sql(
        "SELECT id, role FROM access_requests WHERE id NOT IN (SELECT request_id FROM accesses) ORDER BY id LIMIT 1"
    )
    return str(request), str(role)


SCENES: tuple[tuple[tuple[Code, ...], Scene], ...] = (
    (
        (
            Code.UNKNOWN_TOOL,
            Code.INVALID_ARGUMENTS,
            Code.WHY_MISSING,
            Code.CALL_UNKNOWN,
            Code.TASK_UNKNOWN,
            Code.TOOL_FAILED,
        ),
        _wrong_words,
    ),
    ((Code.CITATION_MISSING, Code.CITATION_STALE), _citations),
    ((Code.RESULT_GONE,), _result_gone),
    ((Code.DENIED,), _denied),
    ((Code.SECRET_IN_ARGUMENTS,), _secret),
    ((Code.LOOKUP_FAILED,), _lookup_failed),
    ((Code.CHECK_FAILED, Code.JUDGE_REFUSED, Code.JUDGE_UNAVAILABLE), _check_and_judge),
    ((Code.KEY_CONFLICT,), _key_conflict),
    ((Code.IDENTICAL_CALLS, Code.BUDGET_EXHAUSTED), _loop_and_budget),
    ((Code.TASK_OPEN, Code.SUCCESS_NOT_FOUND, Code.TASK_HANDED_OFF), _tasks),
    ((Code.HALTED,), _halted),
    ((Code.TIMEOUT, Code.SOURCE_DOWN), _slow_and_down),
    ((Code.OUTPUT_INVALID,), _lies),
    ((Code.VERIFICATION_FAILED,), _differs),
    ((Code.COMPENSATED,), _compensated),
    ((Code.IN_DOUBT, Code.ALREADY_DONE), _in_doubt),
    ((Code.IN_PROGRESS,), _in_progress),
    (
        (Code.APPROVAL_PENDING, Code.APPROVAL_DENIED, Code.RECORD_CHANGED, Code.APPROVAL_VOID),
        _decided,
    ),
    (
        (
            Code.CONFIRMATION_NEEDED,
            Code.CONFIRMATION_STALE,
            Code.CONFIRMATION_DECLINED,
            Code.CONFIRMATION_EXPIRED,
            Code.CONFIRMATION_INVALID,
        ),
        _confirmations,
    ),
)
