"""A refund must cite the invoice it acts on: read in this task, lately, and still as it was."""

from __future__ import annotations

from comptroller_server.demo.setups import FULL
from comptroller_server.demo.story import Story

__all__ = ["play"]


async def play(story: Story) -> None:
    stage = story.stage
    server = await stage.served(FULL)
    invoice, other = stage.invoices(2_000)[:2]
    async with server.agent("citing-bot") as agent:
        story.scene("Here a refund must cite the invoice it acts on.")
        bare = await story.refund(agent, "bare", invoice, 7, [])
        story.must(bare.code == "citation_missing", "without a citation it is refused, and told what to read")
        made_up = await story.refund(agent, "made_up", invoice, 7, ["zzzzzzzz"])
        story.must(made_up.code == "citation_stale", "a ref that no read gave in this task is none")

        story.scene("It reads the invoice. Before it acts, a colleague changes the same invoice.")
        read = await agent.call("lookup_invoice", invoice_id=invoice.invoice)
        stage.sql(
            "UPDATE invoices SET item = item || ' (corrected)', updated_at = ? WHERE id = ?",
            "2026-12-01T09:00:00.000000Z",
            invoice.invoice,
        )
        changed = await story.refund(agent, "changed", invoice, 7, read.refs)
        story.must(
            changed.code == "citation_stale", "what it read is no longer so, and the text says what changed"
        )
        again = await agent.call("lookup_invoice", invoice_id=invoice.invoice)
        done = await story.refund(agent, "done", invoice, 7, again.refs)
        story.must(not done.is_error, "with the record as it is now, it goes through")
        story.must(
            sum(stage.refunds_made(reply.call) for reply in (bare, made_up, changed, done)) == 1
            and other.invoice != invoice.invoice,
            "the ledger has one refund for the four attempts",
        )
