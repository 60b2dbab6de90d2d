"""The proof: why one call was as it was, the four buckets and the cost from the record, an independent verifier."""

from __future__ import annotations

import re

from comptroller_audit.vocabulary import RefusalClass
from comptroller_server.demo.story import Story
from comptroller_tools.desk.ledger import faults_in_sums

__all__ = ["play"]

BUCKETS = {
    RefusalClass.TOOL_MISMATCH: "wrong tool or wrong parameters",
    RefusalClass.STALE_CONTEXT: "it acted on what is no longer so",
    RefusalClass.POLICY_VIOLATION: "it tried what a rule or a person forbids",
    RefusalClass.SILENT_WRONG: "it looked done, and was wrong",
}
"""The four that most incidents fall into, and what each means."""


async def play(story: Story) -> None:
    stage = story.stage
    await stage.close()
    call = story.calls.get("refunds.pending") or next(iter(story.calls.values()), "")
    why = stage.begin("why", call) if call else None
    report = stage.begin("report", "--since", "all", "--html", str(story.page))
    verified = stage.begin("audit", "verify")

    if why is not None:
        story.scene("Who authorised this, what did it read, what did it change, and can we shut it off?")
        story.quote(f"why {call}", await why.printed())

    story.scene("The whole run in figures: outcomes, cost for each success, containment, failures.")
    printed = await report.printed()
    story.quote(f"report --html {story.page}", printed.partition("\nLATENCY")[0])
    story.say()
    for bucket, meaning in BUCKETS.items():
        found = re.search(rf"^{bucket.value} +(\d+)", printed, re.MULTILINE)
        story.say(f"  {bucket.value:17} {found[1] if found else 0:>4}   {meaning}")

    story.scene("The record, checked by a verifier that shares no code with its writer.")
    printed = await verified.printed()
    story.quote("audit verify", printed)
    story.must("the log is whole" in printed, "the log verifies")
    story.must(not faults_in_sums(stage.desk), "the desk's books balance")
