"""The client of fastmcp."""

from __future__ import annotations

import asyncio
from typing import Any

import scenario
from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport


def transport() -> Any:
    if scenario.HTTP:
        return StreamableHttpTransport(scenario.URL, headers=scenario.HEADERS)
    return StdioTransport(scenario.COMMAND, scenario.ARGUMENTS, env=scenario.ENVIRONMENT, keep_alive=False)


async def main() -> None:
    async with Client(transport()) as client:

        async def call(name: str, arguments: dict[str, Any]) -> tuple[str, bool | None]:
            result = await client.call_tool(name, arguments, raise_on_error=False)
            return scenario.text_of(result.content), result.is_error

        await scenario.play([tool.name for tool in await client.list_tools()], call)


asyncio.run(main())
