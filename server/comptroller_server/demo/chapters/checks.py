"""Before a side effect: a check of the operator's own, and a narrow judge. Both can only refuse."""

from __future__ import annotations

from typing import Any

from comptroller_server.demo.servers import Agent, Reply
from comptroller_server.demo.setups import FULL
from comptroller_server.demo.story import Story
from comptroller_tools.desk.ledger import EffectKind, effects

__all__ = ["play"]


async def play(story: Story) -> None:
    stage = story.stage
    server = await stage.served(FULL)
    ticket = stage.invoices(2_000)[0].ticket
    async with server.agent("writer-bot") as agent:
        story.scene("A check of the operator's own (`full/house_rules.py`) looks at each draft.")
        lawyers = await _draft(story, agent, "check", ticket, "Our lawyers will be in touch.")
        story.must(lawyers.code == "check_failed", "the check said no, and its reason is in the text")

        story.scene(
            f"Then a judge is asked one question. Here it is a stand-in for a model, part of this demo, at "
            f"{story.judge.url}: it finds a promise wherever a draft says so."
        )
        promise = await _draft(story, agent, "judge", ticket, "We promise you 500 USD by tomorrow.")
        story.must(promise.code == "judge_refused", "the judge's answer let it not go on")
        story.judge.is_down = True
        down = await _draft(story, agent, "judge_down", ticket, "We are looking into it.")
        story.judge.is_down = False
        story.must(down.code == "judge_unavailable", "no judge, no draft: it fails closed")
        fine = await _draft(story, agent, "fine", ticket, "We are looking into your invoice.")
        story.must(not fine.is_error, "a harmless draft passes both")
        made = [e for e in effects(stage.desk) if e.kind is EffectKind.REPLY_DRAFTED and e.about_id == ticket]
        story.must([e.effect_key for e in made][-1:] == [fine.call], "and is the one that the desk has")


async def _draft(story: Story, agent: Agent, name: str, ticket: str, body: str) -> Reply:
    arguments: dict[str, Any] = {"ticket_id": ticket, "body": body, "why": {"reason": "They asked."}}
    return story.tell(name, f'draft_reply {ticket} "{body}"', await agent.call("draft_reply", **arguments))
