"""A task begun, worked and finished, its success looked up; and one that claims what is not so."""

from __future__ import annotations

from comptroller_server.demo.setups import FULL
from comptroller_server.demo.story import Story

__all__ = ["play"]


async def play(story: Story) -> None:
    stage = story.stage
    server = await stage.served(FULL)
    done, left = stage.invoices(2_000)[:2]
    story.scene(
        "Another configuration (`full/comptroller.yaml`): a task about a ticket has succeeded when the "
        "ticket is closed."
    )
    async with server.agent("case-bot") as agent:
        begun = await story.read(
            agent, "begin", "task_begin", request="Settle the overcharge.", unit=f"ticket:{done.ticket}"
        )
        read = await agent.call("lookup_invoice", invoice_id=done.invoice)
        await agent.call("get_ticket", ticket_id=done.ticket)
        refund = await story.refund(agent, "refund", done, 6.5, read.refs)
        closing = {"ticket_id": done.ticket, "status": "closed", "why": {"reason": "The refund was made."}}
        closed = await story.read(agent, "close", "set_ticket_status", **closing)
        finished = await story.read(
            agent, "finish", "task_finish", claim="succeeded", summary="Refunded and closed."
        )
        story.must(not refund.is_error and not closed.is_error, "the refund and the closing were read back")
        story.must(finished.structured.get("outcome") == "succeeded", "success was looked up, not believed")
        shown = stage.begin("tasks", "show", begun.task)
    async with server.agent("hasty-bot") as agent:
        story.scene("Another agent does nothing, and says that all is well.")
        await agent.call("task_begin", request="Settle the overcharge.", unit=f"ticket:{left.ticket}")
        false = await story.read(agent, "false", "task_finish", claim="succeeded", summary="All done!")
        story.must(
            (false.code, false.failure_class) == ("success_not_found", "silent_wrong"),
            "a false claim is `silent_wrong`, and the task is closed as failed",
        )
    story.quote(f"tasks show {begun.task}  (the first of the two)", await shown.printed(), 16)
