"""A LangGraph graph: two reads side by side, then an agent that refunds; a pending call interrupts the graph.

    COMPTROLLER_URL=... COMPTROLLER_TOKEN=... python langgraph_refunds.py start graph.db TICKET INVOICE
    COMPTROLLER_URL=... COMPTROLLER_TOKEN=... python langgraph_refunds.py resume graph.db

The graph is kept in `graph.db`, so the process may end while a person decides. pip install langgraph
langgraph-checkpoint-sqlite langchain-mcp-adapters. Where a model would stand is `Scripted`.
"""

from __future__ import annotations

import asyncio
import json
import operator
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypedDict

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.interceptors import MCPToolCallRequest, MCPToolCallResult
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, interrupt


async def interrupt_while_pending(
    request: MCPToolCallRequest, handler: Callable[[MCPToolCallRequest], Awaitable[MCPToolCallResult]]
) -> MCPToolCallResult:
    """Stop the graph where a person must agree.

    When it is resumed, LangGraph runs the node again from its beginning. The call that is sent then is the one that
    was approved: Comptroller knows it by its arguments, and runs it once.
    """
    while True:
        result = await handler(request)
        refusal = (result.meta or {}).get("comptroller/refusal", {})
        if refusal.get("code") != "approval_pending":
            return result
        interrupt({"call": refusal["call"], "tool": request.name, "arguments": request.args})


class State(TypedDict):
    ticket: str
    invoice: str
    found: Annotated[list[str], operator.add]
    messages: Annotated[list[AnyMessage], add_messages]


class Scripted(BaseChatModel):
    """Proposes what a model might: wrong arguments, too much, what a person has to agree to, and that once more."""

    def _generate(
        self, messages: list[Any], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> ChatResult:
        invoice = str(messages[0].content).split()[-1]
        told = [message for message in messages if isinstance(message, ToolMessage)]
        amounts: list[Any] = ["forty", 400, 40, 40]
        if len(told) == len(amounts):
            answer = AIMessage("Done: " + str(told[-1].text))
        else:
            why = {"reason": "The customer was charged twice."}
            amount = amounts[len(told)]
            arguments = {
                "invoice_id": invoice,
                "amount_usd": amount,
                "reason_code": "duplicate_charge",
                "why": why,
            }
            call = {"name": "issue_refund", "args": arguments, "id": f"turn-{len(told)}"}
            answer = AIMessage("", tool_calls=[call])
        return ChatResult(generations=[ChatGeneration(message=answer)])

    @property
    def _llm_type(self) -> str:
        return "scripted"


async def build(comptroller: MultiServerMCPClient, saver: AsyncSqliteSaver) -> Any:
    tools = {tool.name: tool for tool in await comptroller.get_tools()}
    model = Scripted()

    async def read_ticket(state: State) -> dict[str, Any]:
        return {"found": [str(await tools["get_ticket"].ainvoke({"ticket_id": state["ticket"]}))]}

    async def read_invoice(state: State) -> dict[str, Any]:
        return {"found": [str(await tools["lookup_invoice"].ainvoke({"invoice_id": state["invoice"]}))]}

    async def think(state: State) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(State)
    graph.add_node("read_ticket", read_ticket)
    graph.add_node("read_invoice", read_invoice)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode([tools["issue_refund"]]))
    graph.add_edge(START, "read_ticket")
    graph.add_edge(START, "read_invoice")
    graph.add_edge(["read_ticket", "read_invoice"], "think")
    graph.add_conditional_edges("think", tools_condition, {"tools": "tools", END: END})
    graph.add_edge("tools", "think")
    return graph.compile(checkpointer=saver)


async def main() -> None:
    word, kept, *rest = sys.argv[1:]
    connection = {
        "transport": "streamable_http",
        "url": os.environ["COMPTROLLER_URL"],
        "headers": {"Authorization": f"Bearer {os.environ['COMPTROLLER_TOKEN']}"},
    }
    comptroller = MultiServerMCPClient(
        {"comptroller": connection}, tool_interceptors=[interrupt_while_pending]
    )
    async with AsyncSqliteSaver.from_conn_string(kept) as saver:
        graph = await build(comptroller, saver)
        given: Any = Command(resume=True)
        if word == "start":
            ticket, invoice = rest
            request = HumanMessage(f"Work on ticket {ticket}: the charge of {invoice}")
            given = {"ticket": ticket, "invoice": invoice, "found": [], "messages": [request]}
        state = await graph.ainvoke(given, {"configurable": {"thread_id": "ticket"}})
    told = [message.text for message in state["messages"] if isinstance(message, ToolMessage)]
    waits = [stop.value for stop in state.get("__interrupt__", [])]
    print(
        json.dumps(
            {"found": len(state["found"]), "told": told, "waits": waits, "last": state["messages"][-1].text}
        )
    )


if __name__ == "__main__":
    asyncio.run(main())
