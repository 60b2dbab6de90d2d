"""The baseline: the warehouse's tools on the SDK's bare low-level server, over HTTP or stdio.

`python -m tests.benchmarks.bare_server http` prints its port and the counts asked for; `… stdio` speaks MCP.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult, TextContent, Tool
from pydantic import BaseModel

from tests.benchmarks.warehouse import Item, Moved, move_stock, read_item
from tests.benchmarks.wire import Counts, answer_counts, bound_socket

_TEXT = {"type": "string"}
_TOOLS = {
    "read_item": Tool(
        name="read_item",
        description="Read one item.",
        input_schema={"type": "object", "properties": {"item_id": _TEXT}, "required": ["item_id"]},
        output_schema=Item.model_json_schema(),
    ),
    "move_stock": Tool(
        name="move_stock",
        description="Take items out of the stock.",
        input_schema={
            "type": "object",
            "properties": {
                "item_id": _TEXT,
                "quantity": {"type": "integer"},
                "reason_code": {"type": "string", "enum": ["sold", "damaged", "count"]},
                "why": {"type": "object"},
            },
            "required": ["item_id", "quantity", "reason_code", "why"],
        },
        output_schema=Moved.model_json_schema(),
    ),
}


async def _list(_ctx: Any, _params: Any) -> ListToolsResult:
    return ListToolsResult(tools=list(_TOOLS.values()))


async def _call(_ctx: Any, params: CallToolRequestParams) -> CallToolResult:
    arguments = dict(params.arguments or {})
    arguments.pop("why", None)
    result: BaseModel = await (read_item if params.name == "read_item" else move_stock)(**arguments)
    shown = result.model_dump(mode="json")
    return CallToolResult(content=[TextContent(text=json.dumps(shown))], structured_content=shown)


def _schema(name: str) -> Mapping[str, Any] | None:
    tool = _TOOLS.get(name)
    return tool.input_schema if tool else None


def bare_server() -> Server[Any]:
    """The SDK's server with nothing of ours around the two tools."""
    return Server("bare", version="1", on_list_tools=_list, on_call_tool=_call, get_tool_input_schema=_schema)


async def _http() -> None:
    bound, port = bound_socket()
    app = bare_server().streamable_http_app(json_response=True)
    config = uvicorn.Config(app, loop="asyncio", http="httptools", access_log=False, log_config=None)
    server = uvicorn.Server(config)
    answer_counts({"port": port}, lambda: Counts(0))
    await server.serve(sockets=[bound])


async def _stdio() -> None:
    server = bare_server()
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(_stdio() if sys.argv[1:] == ["stdio"] else _http())
