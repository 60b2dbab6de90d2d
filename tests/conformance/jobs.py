"""The tools that the suite's scenarios of the Tasks extension ask for, as an ordinary MCP server behind Comptroller.

It knows nothing of the extension: what takes long here becomes a task in front of it. What takes no time, or asks before
it begins, does not. `protocol_error_job` needs roots of its client, which the suite does not have.
"""

from __future__ import annotations

from typing import Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolRequestParams,
    CallToolResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
)

LONG_S = 0.6
"""Longer than a call may take here before it is a task (`tests.conformance.__main__`), seconds."""
_TEXT, _YES = {"type": "string"}, {"type": "boolean"}
TOOLS: dict[str, dict[str, Any]] = {
    "greet": {"name": _TEXT},
    "slow_compute": {"seconds": {"type": "number"}, "label": _TEXT},
    "failing_job": {},
    "protocol_error_job": {},
    "confirm_delete": {"filename": _TEXT},
    "multi_input": {},
    "test_tool_with_task": {},
}


async def _list(ctx: Any, params: PaginatedRequestParams | None) -> ListToolsResult:
    del ctx, params
    schemas = {name: {"type": "object", "properties": fields} for name, fields in TOOLS.items()}
    return ListToolsResult(
        tools=[
            Tool(name=name, description=f"{name}.", input_schema=schema) for name, schema in schemas.items()
        ]
    )


async def _call(
    ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams
) -> CallToolResult | InputRequiredResult:
    del ctx
    given, answers = params.arguments or {}, params.input_responses or {}
    match params.name:
        case "greet":
            return _said(f"Hello, {given['name']}!")
        case "slow_compute":
            await anyio.sleep(given["seconds"])
            return _said("computed")
        case "failing_job":
            await anyio.sleep(LONG_S)
            return _said("it failed", is_error=True)
        case "protocol_error_job":
            await anyio.sleep(LONG_S)
            needs: dict[str, Any] = {"requiredCapabilities": {"roots": {}}}
            raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "This needs roots.", needs)
        case "test_tool_with_task":
            if not answers:
                return _asking(user_name=_TEXT)
            await anyio.sleep(LONG_S)
            return _said(f"Hello, {_content(answers['user_name'])}!")
        case "confirm_delete":
            if not answers:
                await anyio.sleep(LONG_S)
                return _asking(confirm=_YES)
            return _said(f"{given.get('filename')} is gone")
        case _:
            if not answers:
                await anyio.sleep(LONG_S)
                return _asking(first=_TEXT, second=_TEXT)
            return _said(f"{sorted(answers)}")


def _asking(**fields: Any) -> InputRequiredResult:
    """One form for each field."""
    asked = {
        name: ElicitRequest(
            params=ElicitRequestFormParams(
                message=f"{name}?",
                requested_schema={"type": "object", "properties": {"name": kind}},
            )
        )
        for name, kind in fields.items()
    }
    return InputRequiredResult(input_requests={**asked}, request_state="asked")


def _content(answer: Any) -> Any:
    return (answer.content or {}).get("name") if isinstance(answer, ElicitResult) else None


def _said(text: str, *, is_error: bool = False) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=text)], is_error=is_error)


async def _serve() -> None:
    server = Server[Any]("jobs", version="1", on_list_tools=_list, on_call_tool=_call)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    anyio.run(_serve)
