"""LangGraph's ToolNode with the tools of langchain-mcp-adapters."""

from __future__ import annotations

import asyncio
from typing import Any

import scenario
from langchain_core.messages import AIMessage
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

HTTP = {"transport": "streamable_http", "url": scenario.URL, "headers": scenario.HEADERS}
STDIO = {
    "transport": "stdio",
    "command": scenario.COMMAND,
    "args": scenario.ARGUMENTS,
    "env": scenario.ENVIRONMENT,
}


async def main() -> None:
    client = MultiServerMCPClient({"comptroller": HTTP if scenario.HTTP else STDIO})
    async with client.session("comptroller") as session:
        tools = await load_mcp_tools(session)
        graph = StateGraph(MessagesState)
        graph.add_node("tools", ToolNode(tools))
        graph.add_edge(START, "tools")
        graph.add_edge("tools", END)
        compiled = graph.compile()

        async def call(name: str, arguments: dict[str, Any]) -> tuple[str, bool | None]:
            proposed = AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": "turn"}])
            message = (await compiled.ainvoke({"messages": [proposed]}))["messages"][-1]
            return message.text, message.status == "error"

        await scenario.play([tool.name for tool in tools], call)


asyncio.run(main())
