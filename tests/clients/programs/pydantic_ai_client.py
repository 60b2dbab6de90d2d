"""A pydantic-ai agent with an MCP toolset; its model, a function, proposes the calls and gets their answers."""

from __future__ import annotations

import asyncio
from typing import Any

import scenario
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

offered: list[str] = []


def transport() -> Any:
    if scenario.HTTP:
        return StreamableHttpTransport(scenario.URL, headers=scenario.HEADERS)
    return StdioTransport(scenario.COMMAND, scenario.ARGUMENTS, env=scenario.ENVIRONMENT, keep_alive=False)


async def main() -> None:
    async with MCPToolset(transport()) as toolset:

        async def ask(name: str = "", arguments: dict[str, Any] | None = None) -> tuple[str, bool | None]:
            def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
                offered[:] = [tool.name for tool in info.function_tools]
                if name and len(messages) == 1:
                    return ModelResponse(parts=[ToolCallPart(name, arguments)])
                told = messages[-1].parts[-1]
                content = told.model_response() if hasattr(told, "model_response") else told.content
                text = content if isinstance(content, str) else str(content)
                return ModelResponse(parts=[TextPart(text)])

            return (await Agent(FunctionModel(model), toolsets=[toolset]).run("Go on.")).output, None

        await ask()
        await scenario.play(list(offered), ask)


asyncio.run(main())
