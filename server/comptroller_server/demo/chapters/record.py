"""The proof: why one call was as it was, the four buckets from the record, and an independent verifier."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from comptroller_audit.vocabulary import RefusalClass
from comptroller_server.demo.story import Story
from comptroller_tools.desk.ledger import faults_in_sums

__all__ = ["play", "refusal_in"]

ENTRIES_MAX = 100_000
_BUCKETS = {
    RefusalClass.TOOL_MISMATCH: "wrong tool or wrong parameters",
    RefusalClass.STALE_CONTEXT: "it acted on what is no longer so",
    RefusalClass.POLICY_VIOLATION: "it tried what a rule or a person forbids",
    RefusalClass.SILENT_WRONG: "it looked done, and was wrong",
}


async def play(story: Story) -> None:
    stage = story.stage
    await stage.close()
    call = story.calls.get("refunds.pending") or next(iter(story.calls.values()), "")
    why = stage.begin("why", call) if call else None
    tail = stage.begin("audit", "tail", "-n", str(ENTRIES_MAX), "--json")
    verified = stage.begin("audit", "verify")

    if why is not None:
        story.scene("Who authorised this, what did it read, what did it change, and can we shut it off?")
        story.quote(f"why {call}", await why.printed())

    story.scene("The four failure buckets of this run, counted from the record.")
    entries = json.loads(await tail.printed())["entries"]
    counted = Counter(str(refusal_in(entry).get("class", "")) for entry in entries)
    for bucket, meaning in _BUCKETS.items():
        story.say(f"  {bucket.value:17} {counted[bucket.value]:4}   {meaning}")
    others = sum(counted[one.value] for one in RefusalClass if one not in _BUCKETS)
    story.say(f"  {'others':17} {others:4}   budget, upstream, in_doubt, internal, and nobody's fault")

    story.scene("The record, checked by a verifier that shares no code with its writer.")
    printed = await verified.printed()
    story.quote("audit verify", printed)
    story.must("the log is whole" in printed, "the log verifies")
    story.must(not faults_in_sums(stage.desk), "the desk's books balance")


def refusal_in(entry: dict[str, Any]) -> dict[str, Any]:
    """The refusal that a log entry records, or what was wrong with a call that ran; empty for neither."""
    packet: dict[str, Any] = entry["packet"] or {}
    return packet.get("refusal") or packet.get("problem") or {}
