"""A loop that is broken, a budget that runs out, and the package a person gets then."""

from __future__ import annotations

from comptroller_server.demo.servers import Agent, Reply
from comptroller_server.demo.setups import MAIN
from comptroller_server.demo.story import Story

__all__ = ["play"]

CALLS_MAX = 15


async def play(story: Story) -> None:
    stage = story.stage
    server = await stage.served(MAIN)
    async with server.agent("eager-bot") as agent:
        story.scene("An agent begins a task and asks for the same invoice again and again.")
        first, *others = stage.invoices(1)
        begun = await story.read(
            agent, "begin", "task_begin", request="Find out what happened to the refund."
        )
        looped = await _until(story, agent, "identical_calls", [first.invoice] * CALLS_MAX)
        story.tell("loop", f"lookup_invoice {first.invoice}, once more", looped)
        story.must(looped.code == "identical_calls", "the loop was broken, and the reason is in the text")

        story.scene("It goes on with other invoices, until the task's budget is used up.")
        spent = await _until(story, agent, "budget_exhausted", [one.invoice for one in others[:CALLS_MAX]])
        story.tell("spent", "lookup_invoice, another one", spent)
        story.must(spent.code == "budget_exhausted", "the refusal says which budget, and what is left")
        limits = stage.begin("budgets", "--task", begun.task)

        story.quote(f"budgets --task {begun.task}", await limits.printed(), 8)

        story.scene("So it hands the rest to a person, with the whole context and the exact step.")
        handed = await story.read(
            agent, "hand_off", "hand_off", reason="The budget is used up, and the refund is not found."
        )
        story.must(handed.structured.get("outcome") == "handed_off", "the hand-off is on record")
        package = stage.begin("handoffs", "show", begun.task)
        after = await story.refund(agent, "after", first, 5, [])
        story.must(
            after.code == "task_handed_off", "what was handed over is not done behind the person's back"
        )
        story.must(stage.refunds_made(after.call) == 0, "and nothing was")
        story.quote(f"handoffs show {begun.task}", await package.printed(), 14)


async def _until(story: Story, agent: Agent, code: str, invoices: list[str]) -> Reply:
    """Look invoices up, one after the other, up to the first answer with `code`."""
    reply = Reply("", False, {}, {})
    for invoice in invoices:
        reply = story.note(await agent.call("lookup_invoice", invoice_id=invoice))
        if reply.code == code:
            break
    return reply
