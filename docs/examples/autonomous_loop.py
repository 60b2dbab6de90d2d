"""An agent in a loop that nobody watches: it refunds as much as it can, and only budgets hold it.

    COMPTROLLER_URL=http://127.0.0.1:8080/mcp COMPTROLLER_TOKEN=... python autonomous_loop.py INVOICE...

Where a model would choose the next call stands `Greedy`, which wants money and takes no refusal for an answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from typing import Any

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

TURNS = 30
"""The end of this example. The loop itself never gives up."""


@dataclass
class Greedy:
    """Asks for nonsense first, then for 19 USD again and again, and for half of it when that is refused."""

    invoices: list[str]
    amount: float = 19.0
    turn: int = 0

    def next_call(self) -> tuple[str, dict[str, Any]]:
        self.turn += 1
        if self.turn == 1:
            return "drop_all_limits", {}
        if self.turn == 2:
            return "issue_refund", {"invoice_id": self.invoices[0], "amount_usd": "all of it"}
        invoice = self.invoices[self.turn % len(self.invoices)]
        why = {"reason": f"Goodwill, turn {self.turn}."}
        amount = 5000 if self.turn == 3 else self.amount
        arguments = {"invoice_id": invoice, "amount_usd": amount, "reason_code": "goodwill", "why": why}
        return "issue_refund", arguments

    def told(self, refusal: dict[str, Any] | None) -> None:
        if refusal is not None and self.turn > 3:
            self.amount = max(0.01, round(self.amount / 2, 2))


async def main() -> None:
    headers = {"Authorization": f"Bearer {os.environ['COMPTROLLER_TOKEN']}"}
    model = Greedy(sys.argv[1:])
    async with (
        httpx2.AsyncClient(headers=headers) as http,
        Client(streamable_http_client(os.environ["COMPTROLLER_URL"], http_client=http)) as comptroller,
    ):
        while model.turn < TURNS:
            tool, arguments = model.next_call()
            try:
                answer = await comptroller.call_tool(tool, arguments)
                refusal = (answer.meta or {}).get("comptroller/refusal")
            except MCPError as error:  # a tool that is not there is an error of the protocol
                refusal = {"code": "unknown_tool", "text": error.message}
            model.told(refusal)
            usd = arguments.get("amount_usd")
            print(json.dumps({"turn": model.turn, "usd": usd, "refusal": refusal}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
