"""What a model reads of Comptroller: the list of tools, whole and in parts, and what governing adds to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp import Client

from comptroller_server.face.protocol import build_server
from tests.scenarios.kit import opened

__all__ = ["Part", "list_parts"]

BUILT_IN = ("resume_call", "task_begin", "task_status", "task_finish", "hand_off")
_NOT_FOR_MODELS = ("outputSchema", "annotations")
"""Clients keep these to themselves: model APIs take a name, a description and a schema of input."""


@dataclass(frozen=True, slots=True)
class Part:
    """`text` is what is counted; `parts` how many tools it holds."""

    name: str
    tools: int
    text: str


async def list_parts(folder: Path) -> list[Part]:
    """The list of the embedded desk (`docs/getting-started.md`) as its client gets it, and what of it reaches a model."""
    async with opened(folder) as shop:
        server = build_server(shop.service.pipeline, subject_of=lambda _: shop.subject, version="1")
        async with Client(server) as client:
            listed = (await client.list_tools()).tools
    whole = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listed]
    read = [{key: value for key, value in tool.items() if key not in _NOT_FOR_MODELS} for tool in whole]
    own = [tool for tool in read if tool["name"] not in BUILT_IN]
    added = [tool for tool in read if tool["name"] in BUILT_IN]
    bare = [_without_why(tool) for tool in own]
    return [
        Part("the desk's tools, as their functions declare them", len(own), _text(bare)),
        Part("the same with `why` on those that change something", len(own), _text(own)),
        Part("the built-in tools (`resume_call`, tasks, `hand_off`)", len(added), _text(added)),
        Part("all that a model reads", len(read), _text(read)),
        Part("the whole list on the wire, with output schemas and annotations", len(whole), _text(whole)),
    ]


def _without_why(tool: dict[str, Any]) -> dict[str, Any]:
    schema = tool["inputSchema"]
    properties = {name: one for name, one in schema["properties"].items() if name != "why"}
    required = [name for name in schema.get("required", ()) if name != "why"]
    return {**tool, "inputSchema": {**schema, "properties": properties, "required": required}}


def _text(tools: Sequence[dict[str, Any]]) -> str:
    return json.dumps(tools, separators=(",", ":"), ensure_ascii=False)
