"""Semantic Kernel's MCP plugins: each tool a function of the kernel."""

from __future__ import annotations

import asyncio
from typing import Any

import scenario
from semantic_kernel import Kernel
from semantic_kernel.connectors.mcp import MCPStdioPlugin, MCPStreamableHttpPlugin


def plugin() -> Any:
    if scenario.HTTP:
        return MCPStreamableHttpPlugin(
            name="comptroller", url=scenario.URL, headers=scenario.HEADERS, load_prompts=False
        )
    return MCPStdioPlugin(
        name="comptroller",
        command=scenario.COMMAND,
        args=scenario.ARGUMENTS,
        env=scenario.ENVIRONMENT,
        load_prompts=False,
    )


async def main() -> None:
    async with plugin() as comptroller:
        kernel = Kernel()
        functions = kernel.add_plugin(comptroller).functions

        async def call(name: str, arguments: dict[str, Any]) -> tuple[str, bool | None]:
            result = await kernel.invoke(functions[name], **arguments)
            return "\n".join(str(part) for part in result.value), None

        await scenario.play(list(functions), call)


asyncio.run(main())
