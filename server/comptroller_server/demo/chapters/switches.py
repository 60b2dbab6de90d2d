"""A kill switch: set by a person, obeyed on the next commit, lifted again."""

from __future__ import annotations

from comptroller_server.demo.setups import MAIN
from comptroller_server.demo.story import Story

__all__ = ["play"]


async def play(story: Story) -> None:
    stage = story.stage
    server = await stage.served(MAIN)
    invoice = stage.invoices(2_000)[0]
    async with server.agent("web-bot") as agent:
        story.scene("A person stops one tool, while the server runs. When the command ends, it is stopped.")
        story.quote("halt --tool issue_refund --reason …", await stage.halt("issue_refund"))
        halted = await story.refund(agent, "halted", invoice, 4, [])
        story.must(halted.code == "halted" and not stage.refunds_made(halted.call), "nothing was moved")
        read = await story.read(agent, "read", "lookup_invoice", invoice_id=invoice.invoice)
        story.must(not read.is_error, "reading goes on: only the one tool is stopped")
        story.quote(
            "resume --tool issue_refund --reason …  (Olga's credential)", await stage.lift("issue_refund")
        )
        again = await story.refund(agent, "again", invoice, 4, read.refs)
        story.must(not again.is_error, "and it works again")
