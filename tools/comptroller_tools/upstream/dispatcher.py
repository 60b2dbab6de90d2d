"""Requests to an upstream as they go out, and answers as they came, before the SDK reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import mcp_types as types
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from pydantic import BaseModel, ValidationError

from comptroller_tools.upstream.speaking import Speaking

__all__ = ["Dispatcher"]

_LISTS: Mapping[str, tuple[str, type[BaseModel]]] = {
    "tools/list": ("tools", types.Tool),
    "resources/list": ("resources", types.Resource),
    "resources/templates/list": ("resourceTemplates", types.ResourceTemplate),
    "prompts/list": ("prompts", types.Prompt),
}
"""Where a listing holds what, and how an entry must read."""
_ANSWERS = frozenset({"tools/call", "resources/read", "prompts/get", "completion/complete"})


class Dispatcher(JSONRPCDispatcher):
    """Keeps definitions as they came, so that they can be pinned, and drops `_meta` of answers unread."""

    def __init__(self, read: Any, write: Any, speaking: Speaking) -> None:
        super().__init__(read, write)
        self._speaking = speaking
        self.page: list[Any] = []
        self.cursor: str | None = None
        self.ended = asyncio.Event()

    async def send_raw_request(
        self, method: str, params: Any, opts: Any = None, **more: Any
    ) -> dict[str, Any]:
        if method in _ANSWERS:
            self._speaking.stamp(params)
        result = await super().send_raw_request(method, params, opts, **more)
        if method in _ANSWERS:
            result.pop("_meta", None)
        if method in _LISTS:
            key, shape = _LISTS[method]
            listed, cursor = result.get(key), result.get("nextCursor")
            self.page = list(cast("list[object]", listed)) if isinstance(listed, list) else []
            self.cursor = cursor if isinstance(cursor, str) else None
            # One entry that the SDK cannot read would cost the whole page.
            result[key] = [one for one in self.page if _readable(one, shape)]
        return result

    async def run(self, *arguments: Any, **named: Any) -> None:
        try:
            await super().run(*arguments, **named)
        finally:
            self.ended.set()


def _readable(entry: Any, shape: type[BaseModel]) -> bool:
    try:
        shape.model_validate(entry, by_name=False)
    except ValidationError:
        return False
    return True
