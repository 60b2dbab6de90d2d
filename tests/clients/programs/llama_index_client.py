"""The tools of llama-index-tools-mcp, called as an agent of LlamaIndex calls them."""

from __future__ import annotations

import asyncio
from typing import Any

import scenario
from llama_index.tools.mcp import BasicMCPClient, McpToolSpec


async def main() -> None:
    client = (
        BasicMCPClient(scenario.URL, headers=scenario.HEADERS)
        if scenario.HTTP
        else BasicMCPClient(scenario.COMMAND, args=scenario.ARGUMENTS, env=scenario.ENVIRONMENT)
    )
    tools = {tool.metadata.name: tool for tool in await McpToolSpec(client).to_tool_list_async()}

    async def call(name: str, arguments: dict[str, Any]) -> tuple[str, bool | None]:
        output = await tools[name].acall(**arguments)
        return str(output.content), None

    await scenario.play(list(tools), call)


asyncio.run(main())
