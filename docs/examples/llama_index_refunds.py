"""A LlamaIndex workflow: reads run side by side, then a refund; a pending call asks a person and waits.

    COMPTROLLER_URL=... COMPTROLLER_TOKEN=... python llama_index_refunds.py start kept.json INVOICE INVOICE...
    COMPTROLLER_URL=... COMPTROLLER_TOKEN=... python llama_index_refunds.py resume kept.json

The workflow's context is kept in `kept.json`, so the process may end while a person decides. pip install
llama-index-tools-mcp. Where a model would choose stands `propose`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from llama_index.tools.mcp import BasicMCPClient
from workflows import Context, Workflow, step
from workflows.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent


class Read(Event):
    invoice: str


class Found(Event):
    invoice: str
    paid_usd: float
    ref: str


class Propose(Event):
    found: list[Found]
    refused: list[str]


class Waiting(InputRequiredEvent):
    call: str


class Decided(HumanResponseEvent):
    call: str


class Refunds(Workflow):
    """Looks invoices up, and refunds 30 USD of the one that was paid most."""

    def __init__(self, comptroller: BasicMCPClient) -> None:
        super().__init__(timeout=60)
        self._comptroller = comptroller

    async def _call(self, tool: str, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The answer of a tool, and the refusal, which is empty where there is none."""
        answer = await self._comptroller.call_tool(tool, arguments)
        refusal = (answer.meta or {}).get("comptroller/refusal", {})
        return (answer.content[0].text if refusal else answer.structured_content), refusal

    @step
    async def begin(self, ctx: Context, event: StartEvent) -> Read | None:
        await ctx.store.set("wanted", len(event.invoices))
        for invoice in event.invoices:
            ctx.send_event(Read(invoice=invoice))
        return None

    @step(num_workers=4)
    async def read(self, ctx: Context, event: Read) -> Found:
        found, _ = await self._call("lookup_invoice", {"invoice_id": event.invoice})
        return Found(invoice=event.invoice, paid_usd=found["paid_usd"], ref=found["refs"][0]["ref"])

    @step
    async def compare(self, ctx: Context, event: Found) -> Propose | None:
        found = ctx.collect_events(event, [Found] * await ctx.store.get("wanted"))
        return None if found is None else Propose(found=found, refused=[])

    @step
    async def propose(self, ctx: Context, event: Propose) -> Propose | Waiting | StopEvent:
        """A model would choose here: it gets the reason code wrong, then asks for more than the invoice holds."""
        most = max(event.found, key=lambda found: (found.paid_usd, found.invoice))
        choices = [(30, "because"), (most.paid_usd + 1, "goodwill"), (30, "goodwill")]
        amount, reason = choices[len(event.refused)]
        why = {"reason": "The customer was charged twice.", "citations": [most.ref]}
        arguments = {"invoice_id": most.invoice, "amount_usd": amount, "reason_code": reason, "why": why}
        return await self._next(event, *await self._call("issue_refund", arguments))

    @step
    async def decided(self, ctx: Context, event: Decided) -> Waiting | StopEvent:
        answer, refusal = await self._call("resume_call", {"call": event.call})
        if refusal.get("code") == "approval_pending":
            return Waiting(call=event.call)
        return StopEvent(result=answer)

    async def _next(
        self, event: Propose, answer: Any, refusal: dict[str, Any]
    ) -> Propose | Waiting | StopEvent:
        if not refusal:
            return StopEvent(result=answer)
        if refusal["code"] == "approval_pending":
            return Waiting(call=refusal["call"])
        return Propose(found=event.found, refused=[*event.refused, answer])


async def played(invoices: list[str], was: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What came of it, and what must be kept where the workflow waits for a person."""
    headers = {"Authorization": f"Bearer {os.environ['COMPTROLLER_TOKEN']}"}
    workflow = Refunds(BasicMCPClient(os.environ["COMPTROLLER_URL"], headers=headers))
    if was is None:
        handler = workflow.run(invoices=invoices)
    else:
        handler = workflow.run(ctx=Context.from_dict(workflow, was["context"]))
        handler.ctx.send_event(Decided(call=was["call"]))
    async for event in handler.stream_events():
        if isinstance(event, Waiting):
            keep = {"call": event.call, "context": handler.ctx.to_dict()}
            await handler.cancel_run()
            return {"waits": event.call}, keep
    return {"done": await handler}, {}


def main() -> None:
    word, file, *invoices = sys.argv[1:]
    was = json.loads(Path(file).read_text()) if word == "resume" else None
    result, keep = asyncio.run(played(invoices, was))
    Path(file).write_text(json.dumps(keep))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
