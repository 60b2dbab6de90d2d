"""The canary: refunds of some invoices go without a person, always the same ones, until one of them goes wrong."""

from __future__ import annotations

from comptroller_server.demo.servers import Agent, Reply
from comptroller_server.demo.setups import CANARY
from comptroller_server.demo.stage import Invoice
from comptroller_server.demo.story import Story, propose_refund
from comptroller_tools.desk.faults import Fault, FaultKind

__all__ = ["play"]

TRIES_MAX = 24
"""Invoices tried until some are in and some out; half of them are in, so that fewer than ten do."""


async def play(story: Story) -> None:
    stage = story.stage
    server = await stage.served(CANARY)
    story.scene(
        "A second configuration is in force now (`canary/comptroller.yaml`): a person agrees to every refund, except for half of the "
        "invoices. Which ones is drawn by the invoice, so that trying again changes nothing."
    )
    inside: list[Invoice] = []
    outside: list[Invoice] = []
    async with server.agent("canary-bot") as agent:
        for number, invoice in enumerate(stage.invoices(2_000)[:TRIES_MAX]):
            await agent.call("task_begin", request="A small refund.")
            reply = await _small(agent, invoice, 1)
            standing = "waits for a person" if reply.is_error else "went without a person"
            story.say(f"  issue_refund {invoice.invoice} 1.00 USD: {standing}\n    call {reply.call}")
            story.calls[f"{story.chapter}.{number}"] = story.note(reply).call
            (outside if reply.code == "approval_pending" else inside).append(invoice)
            await agent.call("task_finish", claim="abandoned")
            if min(len(inside), len(outside)) >= 2:
                break
        story.must(len(inside) >= 2 and len(outside) >= 2, "some are in the canary, some are not")

        story.scene(
            "One of those in the canary goes wrong. That is a breach, and demotes the tool by itself."
        )
        with stage.misbehaving(Fault(tool="issue_refund", kind=FaultKind.SHORT, cents=1)):
            wrong = story.tell(
                "breach", f"issue_refund {inside[0].invoice} 2.00 USD", await _small(agent, inside[0], 2)
            )
        story.must(wrong.failure_class == "silent_wrong", "it differed, and was reversed")
        await agent.call("task_finish", claim="abandoned")
        asked = story.tell(
            "after", f"issue_refund {inside[1].invoice} 2.00 USD", await _small(agent, inside[1], 2)
        )
        story.must(
            asked.code == "approval_pending", "from the next commit on, a person is asked about all of them"
        )
        await story.command("rollout", "status", "--tool", "issue_refund")


async def _small(agent: Agent, invoice: Invoice, amount: float) -> Reply:
    read = await agent.call("lookup_invoice", invoice_id=invoice.invoice)
    return await propose_refund(agent, invoice, amount, read.refs)
