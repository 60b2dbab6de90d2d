"""A Temporal workflow whose activities are governed calls: retried by Temporal, done once; a signal says "decided".

    COMPTROLLER_URL=... COMPTROLLER_TOKEN=... python temporal_refunds.py TEMPORAL_HOST:PORT

runs a worker. pip install temporalio mcp. Start the workflow with an id that names the work, such as `refund-TICKET`:
the id is part of the idempotency key. The client of this token is an `orchestrator` in Comptroller's configuration, so
that the request it states is on record as trusted.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client as Temporal
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    import httpx2
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

QUEUE = "refunds"
LOOK_AGAIN = timedelta(hours=4)
"""How long the workflow waits for the signal before it looks for itself."""


@dataclass
class Governed:
    """One call: the tool, its arguments, and the task it belongs to. A `request` begins the task."""

    tool: str
    arguments: dict[str, Any]
    task: str | None = None
    request: str | None = None


@activity.defn
async def governed_call(call: Governed) -> dict[str, Any]:
    """Make one call. Every attempt of an activity has the same key, so what an earlier one did is not done again."""
    info = activity.info()
    meta: dict[str, Any] = {"comptroller/idempotency-key": f"{info.workflow_id}/{info.activity_id}"}
    if call.task is not None:
        meta["comptroller/task"] = call.task
    if call.request is not None:
        meta["comptroller/request"] = call.request
    headers = {"Authorization": f"Bearer {os.environ['COMPTROLLER_TOKEN']}"}
    async with (
        httpx2.AsyncClient(headers=headers) as http,
        Client(streamable_http_client(os.environ["COMPTROLLER_URL"], http_client=http)) as comptroller,
    ):
        answer = await comptroller.call_tool(call.tool, call.arguments, meta=meta)
    refusal = (answer.meta or {}).get("comptroller/refusal")
    if refusal is None:
        return {"answer": answer.structured_content}
    if refusal["code"] == "approval_pending":
        return {"pending": refusal["call"]}
    text, retry = answer.content[0].text, refusal["retry"]
    if retry.startswith("after:"):
        delay = timedelta(seconds=float(retry.removeprefix("after:")))
        raise ApplicationError(text, type=refusal["code"], next_retry_delay=delay)
    raise ApplicationError(text, type=refusal["code"], non_retryable=retry != "same_call")


@workflow.defn
class Refund:
    """Look the invoice up, refund, wait for a person where one must agree, and end the task."""

    def __init__(self) -> None:
        self._decided = False
        self._task: str | None = None

    @workflow.signal
    def decided(self) -> None:
        """Somebody decided. It is a hint to look, no more: Comptroller knows whether the call is approved."""
        self._decided = True

    @workflow.run
    async def run(self, request: str, invoice: str, amount_usd: float) -> dict[str, Any]:
        begun = await self._call("begin", "task_begin", {"request": request}, request=request)
        self._task = begun["answer"]["task"]
        try:
            done = await self._refund(request, invoice, amount_usd)
        except ActivityError as error:
            await self._call("hand-off", "hand_off", {"reason": str(error.cause)})
            raise
        await self._call("finish", "task_finish", {"claim": "succeeded"})
        return done

    async def _refund(self, request: str, invoice: str, amount_usd: float) -> dict[str, Any]:
        read = await self._call("look", "lookup_invoice", {"invoice_id": invoice})
        why = {"reason": request, "citations": [read["answer"]["refs"][0]["ref"]]}
        refund = {
            "invoice_id": invoice,
            "amount_usd": amount_usd,
            "reason_code": "duplicate_charge",
            "why": why,
        }
        result = await self._call("refund", "issue_refund", refund)
        looks = 0
        while "pending" in result:
            await self._wait_for_a_person()
            looks += 1
            result = await self._call(f"resume-{looks}", "resume_call", {"call": result["pending"]})
        return result["answer"]

    async def _wait_for_a_person(self) -> None:
        try:
            await workflow.wait_condition(lambda: self._decided, timeout=LOOK_AGAIN)
        except TimeoutError:
            workflow.logger.info("Nobody has signalled; looking anyway.")
        self._decided = False

    async def _call(
        self, name: str, tool: str, arguments: dict[str, Any], request: str | None = None
    ) -> dict[str, Any]:
        return await workflow.execute_activity(
            governed_call,
            Governed(tool, arguments, self._task, request),
            activity_id=name,
            start_to_close_timeout=timedelta(seconds=60),
            retry_policy=RetryPolicy(maximum_attempts=5),
        )


async def main() -> None:
    temporal = await Temporal.connect(sys.argv[1])
    await Worker(temporal, task_queue=QUEUE, workflows=[Refund], activities=[governed_call]).run()


if __name__ == "__main__":
    asyncio.run(main())
