"""SIGKILL twice: before the desk was asked, and after it had acted. Each time exactly one refund is made."""

from __future__ import annotations

import contextlib

import anyio

from comptroller_server.demo.chapters.refunds import limit_usd
from comptroller_server.demo.servers import Agent, Server
from comptroller_server.demo.setups import MAIN
from comptroller_server.demo.stage import Invoice
from comptroller_server.demo.story import Story, propose_refund
from comptroller_tools.desk.faults import Fault, FaultKind, Point

__all__ = ["play"]


async def play(story: Story) -> None:
    stage = story.stage
    await stage.use(MAIN)
    before, after = stage.invoices(int(limit_usd(story) * 200))[3:5]

    story.scene("The server is killed (SIGKILL) after the action was committed, before it was dispatched.")
    call = await _kill_at(story, "unlucky-bot", before, 7.5, pause="dispatch.before")
    story.must(stage.refunds_made(call) == 0, "the ledger has nothing")
    await _next_start(story, "before", "unlucky-bot", call, before, 7.5, "not_done")

    story.scene("Killed again, after the desk made the refund and before its outcome was written.")
    call = await _kill_at(story, "unluckier-bot", after, 8.25, pause=None)
    story.must(stage.refunds_made(call) == 1, "the ledger has it once")
    await _next_start(story, "after", "unluckier-bot", call, after, 8.25, "done")


async def _kill_at(story: Story, client: str, invoice: Invoice, amount: float, pause: str | None) -> str:
    """Have a refund stop at a point in a server process, and kill that process there."""
    stage = story.stage
    await stage.close()
    reached = stage.folder / f"desk-{client}"
    hang = Fault(
        tool="issue_refund",
        kind=FaultKind.HANG,
        point=Point.AFTER_WRITE,
        reached=reached,
        until=stage.folder / "never",
    )
    with contextlib.ExitStack() as stack:
        if pause is None:
            stack.enter_context(stage.misbehaving(hang))
        server = await Server.start(stage, pause)
        with contextlib.suppress(Exception):  # the client of a killed server ends in an error of its own
            async with server.agent(client) as agent, anyio.create_task_group() as tasks:
                tasks.start_soon(_refund_silently, agent, invoice, amount)
                await server.until_reached(reached if pause is None else None)
                await server.kill()
                tasks.cancel_scope.cancel()
        await server.kill()
    listed = await stage.json("calls", "list", "--state", "committed")
    call = str(listed["calls"][0]["call"])
    story.say(f"  killed; on record: call {call} is committed, its outcome is not known")
    return call


async def _refund_silently(agent: Agent, invoice: Invoice, amount: float) -> None:
    with contextlib.suppress(Exception):
        await propose_refund(agent, invoice, amount, [])


async def _next_start(
    story: Story, name: str, client: str, call: str, invoice: Invoice, amount: float, state: str
) -> None:
    """A new server looks the effect up before it serves; then the agent tries again."""
    stage = story.stage
    story.calls[f"{story.chapter}.{name}"] = call
    server = await stage.served(MAIN)
    async with server.agent(client) as agent:
        shown = await stage.json("calls", "show", call)
        story.must(shown["state"] == state, f"the next start looked it up with find_refund: {shown['state']}")
        retry = await story.refund(agent, f"{name}_retry", invoice, amount, [])
        made = stage.refunds_made(call) + (stage.refunds_made(retry.call) if retry.call != call else 0)
        expected = not retry.is_error if state == "not_done" else retry.code == "already_done"
        story.must(expected and made == 1, "the agent's retry leaves exactly one refund")
