"""The refusals that need a server with hardly any time and room, a full disk, or a defect."""

from __future__ import annotations

import anyio

from comptroller_audit.vocabulary import Code
from comptroller_server.demo.chapters.provoking import House, Scene
from comptroller_server.demo.faulty import DEFECT, NO_SPACE
from comptroller_server.demo.story import propose_refund

__all__ = ["SCENES"]

PAUSE_S = 1.1
"""A little more than `approvals.expires_s` and `budgets.timeout_seconds` of this configuration."""
ATTEMPTS_MAX = 40
TRIES_MAX = 8


async def _no_time(house: House) -> None:
    """Thinking between two calls is active time too, and there is one second of it."""
    async with house.agent(Code.TIME_EXHAUSTED) as agent:
        for pause_s in (PAUSE_S, 0):
            house.note(await agent.call("lookup_invoice", invoice_id=house.invoice().invoice))
            await anyio.sleep(pause_s)


async def _no_room(house: House) -> None:
    """One may wait for a person, for one second. On a slow machine that may be over before the second one comes."""
    invoices, waits = house.stage.invoices(3_000), ""
    async with house.agent(Code.APPROVAL_EXPIRED) as agent:
        for first, second in zip(invoices[0:TRIES_MAX:2], invoices[1:TRIES_MAX:2], strict=False):
            waits = (await propose_refund(agent, first, 21, [])).call
            if house.note(await propose_refund(agent, second, 21, [])).code == Code.APPROVALS_FULL:
                break
        await anyio.sleep(PAUSE_S)
        house.note(await agent.call("resume_call", call=waits))


async def _full_disk(house: House) -> None:
    async with house.agent(Code.STORE_UNAVAILABLE) as agent:
        house.server.reached.write_text(NO_SPACE)
        house.note(await agent.call("search_tickets", query="refund"))
        house.server.reached.unlink()


async def _defect(house: House) -> None:
    async with house.agent(Code.INTERNAL) as agent:
        house.server.reached.write_text(DEFECT)
        house.note(await agent.call("search_tickets", query="invoice"))


async def _flood(house: House) -> None:
    """Attempts that lead to nothing are limited, whatever client they come from."""
    async with house.agent(Code.OVERLOADED) as agent:
        for number in range(ATTEMPTS_MAX):
            reply = await agent.call("search_tickets", limit=1_000 + number)
            if reply.code == Code.OVERLOADED:
                house.note(reply)
                break


SCENES: tuple[tuple[tuple[Code, ...], Scene], ...] = (
    ((Code.TIME_EXHAUSTED,), _no_time),
    ((Code.APPROVALS_FULL, Code.APPROVAL_EXPIRED), _no_room),
    ((Code.STORE_UNAVAILABLE,), _full_disk),
    ((Code.INTERNAL,), _defect),
    ((Code.OVERLOADED,), _flood),
)
