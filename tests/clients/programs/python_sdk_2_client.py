"""The official Python SDK 2.x, in the era of its second argument: auto or legacy."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import scenario
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client


def transport() -> Any:
    if scenario.HTTP:
        return streamable_http_client(
            scenario.URL, http_client=create_mcp_http_client(headers=scenario.HEADERS)
        )
    return StdioServerParameters(command=scenario.COMMAND, args=scenario.ARGUMENTS, env=scenario.ENVIRONMENT)


async def main() -> None:
    async with Client(transport(), mode=sys.argv[2]) as client:

        async def call(name: str, arguments: dict[str, Any]) -> tuple[str, bool | None]:
            result = await client.call_tool(name, arguments)
            return scenario.text_of(result.content), result.is_error

        await scenario.play([tool.name for tool in (await client.list_tools()).tools], call)


asyncio.run(main())
