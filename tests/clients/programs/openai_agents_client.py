"""openai-agents: its MCP server classes, called directly: no runner, so nothing is said of what a model sees."""

from __future__ import annotations

import asyncio
from typing import Any

import scenario
from agents.mcp import MCPServerStdio, MCPServerStreamableHttp


def server() -> Any:
    if scenario.HTTP:
        return MCPServerStreamableHttp({"url": scenario.URL, "headers": scenario.HEADERS})
    return MCPServerStdio(
        {"command": scenario.COMMAND, "args": scenario.ARGUMENTS, "env": scenario.ENVIRONMENT},
        client_session_timeout_seconds=60,
    )


async def main() -> None:
    async with server() as comptroller:

        async def call(name: str, arguments: dict[str, Any]) -> tuple[str, bool | None]:
            result = await comptroller.call_tool(name, arguments)
            failed = result.is_error if hasattr(result, "is_error") else result.isError
            return scenario.text_of(result.content), failed

        await scenario.play([tool.name for tool in await comptroller.list_tools()], call)


asyncio.run(main())
