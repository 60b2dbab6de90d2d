"""SIGKILL twice: before the desk was asked, and after it had acted. Each time exactly one refund is made."""

from __future__ import annotations

import contextlib
from pathlib import Path

import anyio

from comptroller_server.demo.chapters.refunds import limit_usd
from comptroller_server.demo.servers import Agent, Server
from comptroller_server.demo.setups import MAIN
from comptroller_server.demo.stage import Invoice
from comptroller_server.demo.story import Story, propose_refund
from comptroller_tools.desk.faults import Fault, FaultKind, Point
from comptroller_tools.desk.ledger import EffectKind, effects

__all__ = ["play"]


async def play(story: Story) -> None:
    stage = story.stage
    await stage.use(MAIN)
    before, after = stage.invoices(int(limit_usd(story) * 200))[3:5]

    story.scene("The server is killed (SIGKILL) after the action was committed, before it was dispatched.")
    await stage.close()
    server, had = await Server.start(stage, "dispatch.before"), _made_on(story, before)
    await _kill(server, "unlucky-bot", before, 7.5, server.reached)
    story.must(_made_on(story, before) == had, "the ledger has nothing")
    await _next_start(story, "before", "unlucky-bot", before, 7.5, "not_done")
    story.must(_made_on(story, before) == had + 1, "the retry left exactly one refund")

    story.scene("Killed again, after the desk made the refund and before its outcome was written.")
    reached, had = stage.folder / "made", _made_on(story, after)
    hang = Fault(
        tool="issue_refund",
        kind=FaultKind.HANG,
        point=Point.AFTER_WRITE,
        reached=reached,
        until=stage.folder / "never",
    )
    with stage.misbehaving(hang):
        await _kill(await stage.served(MAIN), "unluckier-bot", after, 8.25, reached)
        stage.let_go()
    story.must(_made_on(story, after) == had + 1, "the ledger has it once")
    await _next_start(story, "after", "unluckier-bot", after, 8.25, "done")
    story.must(_made_on(story, after) == had + 1, "and still once after the retry")


async def _kill(server: Server, client: str, invoice: Invoice, amount: float, reached: Path) -> None:
    """Propose a refund, and kill the server once it stands at its point."""
    with contextlib.suppress(Exception):  # the client of a killed server ends in an error of its own
        async with server.agent(client) as agent, anyio.create_task_group() as tasks:
            tasks.start_soon(_refund_silently, agent, invoice, amount)
            await server.until_reached(reached)
            await server.kill()
            tasks.cancel_scope.cancel()
    await server.kill()


async def _refund_silently(agent: Agent, invoice: Invoice, amount: float) -> None:
    with contextlib.suppress(Exception):
        await propose_refund(agent, invoice, amount, [])


def _made_on(story: Story, invoice: Invoice) -> int:
    """Refunds on an invoice in the desk's own ledger."""
    return sum(
        one.kind is EffectKind.REFUND_ISSUED and one.about_id == invoice.invoice
        for one in effects(story.stage.desk)
    )


async def _next_start(
    story: Story, name: str, client: str, invoice: Invoice, amount: float, state: str
) -> None:
    """A new server looks the effect up before it serves; then the agent tries again."""
    stage = story.stage
    server = await stage.served(MAIN)
    listed = await stage.json("calls", "list")
    call, found = next((str(c["call"]), c["state"]) for c in listed["calls"] if c["actor"] == client)
    story.calls[f"{story.chapter}.{name}"] = call
    story.say(f"  the call that was under way\n    call {call}")
    story.must(found == state, f"the next start looked it up with find_refund: {found}")
    async with server.agent(client) as agent:
        retry = await story.refund(agent, f"{name}_retry", invoice, amount, [])
    expected = not retry.is_error if state == "not_done" else retry.code == "already_done"
    story.must(expected, "the agent's retry gets what is so")
