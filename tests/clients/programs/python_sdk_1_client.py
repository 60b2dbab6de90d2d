"""The official Python SDK 1.x."""

from __future__ import annotations

import asyncio
from typing import Any

import scenario
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client


def transport() -> Any:
    if scenario.HTTP:
        return streamablehttp_client(scenario.URL, headers=scenario.HEADERS)
    return stdio_client(
        StdioServerParameters(command=scenario.COMMAND, args=scenario.ARGUMENTS, env=scenario.ENVIRONMENT)
    )


async def main() -> None:
    async with transport() as streams, ClientSession(streams[0], streams[1]) as session:
        await session.initialize()

        async def call(name: str, arguments: dict[str, Any]) -> tuple[str, bool | None]:
            result = await session.call_tool(name, arguments)
            return scenario.text_of(result.content), result.isError

        await scenario.play([tool.name for tool in (await session.list_tools()).tools], call)


asyncio.run(main())
