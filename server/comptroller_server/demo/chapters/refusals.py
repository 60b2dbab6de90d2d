"""Every refusal code there is, produced for real, and where each is on record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comptroller_audit.vocabulary import Code, RefusalClass
from comptroller_server.demo.chapters import hurrying, provoking, upstream
from comptroller_server.demo.chapters.provoking import WHY, House
from comptroller_server.demo.faulty import TROUBLE
from comptroller_server.demo.setups import FULL, TIGHT
from comptroller_server.demo.story import Story

__all__ = ["NEVER_RECORDED", "play"]

NEVER_RECORDED = frozenset({Code.STORE_UNAVAILABLE})
"""Without a store that takes it there is no record, by design: nothing was done either."""
ENTRIES_MAX = 100_000


async def play(story: Story) -> None:
    stage = story.stage
    story.scene(
        f"{len(story.refusals)} of {len(Code)} codes have been seen so far. Scripted agents, one a code, bring about the others."
    )
    if Code.TOOL_QUARANTINED not in story.refusals:
        await upstream.play(story)
    house = House(story, await stage.served(FULL))
    for codes, scene in provoking.SCENES:
        if missing := set(codes) - story.refusals.keys():
            house.missing = missing
            await scene(house)
    story.scene(
        "A second server starts on the same store with other rules (`tight/comptroller.yaml`), for somebody in a hurry. Its "
        "store is told to fail now and then: a full disk, and a defect of our own making."
    )
    async with stage.beside(TIGHT, TROUBLE) as hurried:
        for _, scene in hurrying.SCENES:
            await scene(House(story, hurried))
        async with house.agent(Code.BUNDLE_CHANGED) as agent:  # the first server, which is behind now
            closing: dict[str, Any] = {"ticket_id": house.ticket(), "status": "closed", "why": WHY}
            story.note(await agent.call("set_ticket_status", **closing))
    await _table(story)


async def _table(story: Story) -> None:
    tail = await story.stage.json("audit", "tail", "-n", str(ENTRIES_MAX))
    calls = {str(entry["envelope"].get("call", "")) for entry in tail["entries"]}
    story.scene(
        "What a refusal looks like: each code, whether to try again, and the call it is on record as."
    )
    for group in RefusalClass:
        story.say(f"  {group.value}", fg="cyan")
        for code in [one for one, shown in story.refusals.items() if shown.failure_class == group]:
            shown = story.refusals[code]
            if not shown.call:  # the protocol's own error carries no call id
                shown = story.refusals[code] = replace(shown, call=_call_with(code, tail["entries"]))
            is_recorded = shown.call in calls
            where = f"call {shown.call}" if is_recorded else "no record, by design"
            story.say(f"    {code.value:22} {shown.retry:16} {where}")
            if is_recorded:
                story.calls[f"refusals.{code.value}"] = shown.call
            elif code not in NEVER_RECORDED:
                story.must(False, f"{code.value} is on record")
    missing = [code.value for code in Code if code not in story.refusals]
    story.must(
        not missing, f"all {len(Code)} codes were produced{': not ' + ', '.join(missing) if missing else ''}"
    )


def _call_with(code: Code, entries: list[dict[str, Any]]) -> str:
    """The newest call whose refusal is recorded with this code; empty if there is none."""
    newest = ""
    for entry in entries:
        packet: dict[str, Any] = entry["packet"] or {}
        refusal: dict[str, Any] = packet.get("refusal") or {}
        if refusal.get("code") == code:
            newest = str(entry["envelope"]["call"])
    return newest
