"""A write that differs is reversed by a governed call of its own; a person takes back what a task did."""

from __future__ import annotations

from comptroller_server.demo.setups import FULL
from comptroller_server.demo.story import Story
from comptroller_tools.desk.faults import Fault, FaultKind

__all__ = ["play"]


async def play(story: Story) -> None:
    stage = story.stage
    server = await stage.served(FULL)
    wrong, one, two = stage.invoices(2_000)[:3]
    async with server.agent("undoing-bot") as agent:
        story.scene(
            "The desk books a cent less again. Here the refund names what reverses it: `cancel_refund`."
        )
        before = stage.refunded_cents(wrong.invoice)
        read = await agent.call("lookup_invoice", invoice_id=wrong.invoice)
        with stage.misbehaving(Fault(tool="issue_refund", kind=FaultKind.SHORT, cents=1)):
            reversed_ = await story.refund(agent, "compensated", wrong, 8, read.refs)
        story.must(reversed_.code == "compensated", "it was made, was wrong, and was reversed")
        story.must(stage.refunded_cents(wrong.invoice) == before, "the desk's books are as before")

        story.scene("Two refunds are fine, and a person takes the task back anyway, newest first.")
        begun = await agent.call("task_begin", request="Be generous.")
        before = stage.refunded_cents(one.invoice) + stage.refunded_cents(two.invoice)
        for name, invoice in (("one", one), ("two", two)):
            read = await agent.call("lookup_invoice", invoice_id=invoice.invoice)
            await story.refund(agent, name, invoice, 3, read.refs)
        credential = ("--credential-file", str(stage.credential))
        printed = await stage.command("tasks", "rollback", begun.task, "--yes", *credential)
        story.quote(f"tasks rollback {begun.task} --yes  (Olga's credential)", printed)
        after = stage.refunded_cents(one.invoice) + stage.refunded_cents(two.invoice)
        story.must(after == before, "nothing of the task stands on the desk")
