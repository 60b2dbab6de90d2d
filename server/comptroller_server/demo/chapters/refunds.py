"""Reads, a refund, the limit, a retry and an approval (stdio); then a desk that books something else (HTTP)."""

from __future__ import annotations

import re

import anyio

from comptroller_server.demo.servers import Agent, over_stdio
from comptroller_server.demo.setups import MAIN
from comptroller_server.demo.stage import Invoice
from comptroller_server.demo.story import Story
from comptroller_tools.desk.faults import Fault, FaultKind

__all__ = ["limit_usd", "play"]


async def play(story: Story) -> None:
    stage = story.stage
    await stage.use(MAIN)
    limit = limit_usd(story)
    first, second, third = stage.invoices(int(limit * 200))[:3]
    small = stage.random.randrange(300, 1500) / 100
    async with over_stdio(stage, "triage-bot") as agent, anyio.create_task_group() as tasks:
        tasks.start_soon(stage.served, MAIN)  # for the second part; starting takes a second
        story.scene("The agent reads the ticket and its invoice, over stdio.")
        await story.read(agent, "ticket", "get_ticket", ticket_id=first.ticket)
        read = await story.read(agent, "read", "lookup_invoice", invoice_id=first.invoice)
        story.must(bool(read.refs), f"the read gave a ref to cite: {', '.join(read.refs)}")

        story.scene("A refund within limits runs, and the invoice is read back.")
        done = await story.refund(agent, "refund", first, small, read.refs)
        story.must(not done.is_error, "the refund was made")
        story.must(stage.refunds_made(done.call) == 1, "the desk's own ledger has it once")

        await _over_the_limit(story, agent, first, limit, read.refs)

        story.scene("The same refund again is answered from the record.")
        again = await story.refund(agent, "again", first, small, read.refs)
        story.must(again.call == done.call, "it is the same call")
        story.must(stage.refunds_made(done.call) == 1, "the ledger still has it once")

        await _approval(story, agent, second, limit - 5)
    await _differs(story, third)


def limit_usd(story: Story) -> float:
    """The configured limit, so that the demo works for any."""
    found = re.search(r"max_amount_usd: ([0-9.]+)", MAIN.path(story.stage.folder).read_text())
    return float(found[1]) if found else 50.0


async def _over_the_limit(
    story: Story, agent: Agent, invoice: Invoice, limit: float, refs: list[str]
) -> None:
    stage = story.stage
    story.scene("Over the limit: refused, with the rule and the next step.")
    over = await story.refund(agent, "over", invoice, limit + 10, refs)
    story.must(over.code == "denied" and stage.refunds_made(over.call) == 0, "nothing was moved")
    few = stage.invoices(1, int(limit * 100))[0]
    left = few.refundable_cents / 100
    more = await story.refund(agent, "more_than_left", few, min(left + 1, limit), [])
    story.must(
        more.code == "denied" and stage.refunds_made(more.call) == 0,
        f"only {left:.2f} is left on that invoice, and nothing was moved",
    )


async def _approval(story: Story, agent: Agent, invoice: Invoice, amount: float) -> None:
    stage = story.stage
    story.scene("One that needs a person: it waits, is approved outside the agent's channel, and runs once.")
    pending = await story.refund(agent, "pending", invoice, amount, [])
    story.must(
        pending.code == "approval_pending" and stage.refunds_made(pending.call) == 0,
        "nothing has happened yet",
    )
    early = await story.read(agent, "early", "resume_call", call=pending.call)
    story.must(early.code == "approval_pending", "resuming it too early changes nothing")
    card = await story.command("approvals", "show", pending.call)
    decided = await stage.decide("approve", pending.call, card)
    story.quote("approvals approve CALL --digest …  (another process, Olga's credential)", decided)
    ran = await story.read(agent, "resumed", "resume_call", call=pending.call)
    story.must(not ran.is_error and stage.refunds_made(pending.call) == 1, "the ledger has it once")
    await agent.call("resume_call", call=pending.call)
    story.must(stage.refunds_made(pending.call) == 1, "resuming again did not run it again")


async def _differs(story: Story, invoice: Invoice) -> None:
    stage = story.stage
    server = await stage.served(MAIN)
    async with server.agent("careful-bot") as agent:
        story.scene(f"Over HTTP ({server.url}): the desk books a cent less than it says.")
        read = await agent.call("lookup_invoice", invoice_id=invoice.invoice)
        with stage.misbehaving(Fault(tool="issue_refund", kind=FaultKind.SHORT, cents=1)):
            wrong = await story.refund(agent, "differs", invoice, 12.34, read.refs)
        story.must(wrong.code == "verification_failed", "reading the record back found the difference")
