"""Requests to an upstream as they go out, and answers as they came, before the SDK reads them."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import anyio
import mcp_types as types
from mcp.shared.exceptions import MCPError
from mcp.shared.jsonrpc_dispatcher import (
    JSONRPCDispatcher,
    _Pending,  # pyright: ignore[reportPrivateUsage] -- the only way to be told of progress
)
from mcp.shared.message import SessionMessage
from pydantic import BaseModel, ValidationError

from comptroller_tools.upstream.bounds import TooManyParts, check_parts
from comptroller_tools.upstream.posting import BrokenOff, Posts
from comptroller_tools.upstream.speaking import Speaking

__all__ = ["Dispatcher", "FirstCall"]

_LISTS: Mapping[str, tuple[str, type[BaseModel]]] = {
    "tools/list": ("tools", types.Tool),
    "resources/list": ("resources", types.Resource),
    "resources/templates/list": ("resourceTemplates", types.ResourceTemplate),
    "prompts/list": ("prompts", types.Prompt),
}
"""Where a listing holds what, and how an entry must read."""
_ANSWERS = frozenset({"tools/call", "resources/read", "prompts/get", "completion/complete"})
TRACEPARENT = "traceparent"
"""The member of `_meta` (SEP-414), and the header of HTTP."""
_AMBIENT = frozenset({TRACEPARENT, "tracestate", "baggage"})
_STREAMS: tuple[Any, Any] = anyio.create_memory_object_stream[Any](0)
for _stream in _STREAMS:
    _stream.close()
TOLD_S = 0.25
"""How long an answer waits for what came before it to be told on."""
CANCEL_S = 1.0
"""For telling an upstream that nobody waits any more."""


class Dispatcher(JSONRPCDispatcher):
    """Keeps definitions as they came, so that they can be pinned, and drops `_meta` of answers unread.

    What is asked for a caller goes by `posts`, where there are any.
    """

    def __init__(self, read: Any, write: Any, speaking: Speaking, posts: Posts | None = None) -> None:
        super().__init__(read, write)
        self._speaking = speaking
        self._posts = posts
        self._handlers: tuple[Any, Any] | None = None
        self._telling: set[asyncio.Future[None]] | None = None
        self.page: list[Any] = []
        self.cursor: str | None = None
        self.ended = asyncio.Event()

    async def send_raw_request(
        self, method: str, params: Any, opts: Any = None, **more: Any
    ) -> dict[str, Any]:
        if method in _ANSWERS:
            self._speaking.stamp(params)
            opts = self._traced(opts)
            posts = self._posts
            if posts is not None and posts.usable and self._running:
                result = await self._posted(posts, method, params, opts or {})
            else:
                result = await super().send_raw_request(method, params, opts, **more)
            result.pop("_meta", None)
            _check(result, "structuredContent" if method == "tools/call" else None)
            return result
        result = await super().send_raw_request(method, params, opts, **more)
        _check(result)
        if method in _LISTS:
            key, shape = _LISTS[method]
            listed, cursor = result.get(key), result.get("nextCursor")
            self.page = list(cast("list[object]", listed)) if isinstance(listed, list) else []
            self.cursor = cursor if isinstance(cursor, str) else None
            # One entry that the SDK cannot read would cost the whole page.
            result[key] = [one for one in self.page if _readable(one, shape)]
        return result

    async def _write(self, message: types.JSONRPCMessage, metadata: Any = None) -> None:
        """Without what the SDK adds where the process is instrumented: somebody's trace, and whatever their baggage says."""
        if isinstance(message, types.JSONRPCRequest) and message.params is not None:
            meta = cast("dict[str, Any]", message.params.get("_meta") or {})
            for key in _AMBIENT.intersection(meta):
                del meta[key]
            if message.method in _ANSWERS and (trace := self._speaking.traceparent):
                message.params["_meta"] = {**meta, TRACEPARENT: trace}
        await super()._write(message, metadata)

    async def run(self, on_request: Any, on_notify: Any, *arguments: Any, **named: Any) -> None:
        on_request, on_notify = _bounded(on_request, told=False), _bounded(on_notify, told=True)
        self._handlers = (on_request, on_notify)
        try:
            await super().run(on_request, on_notify, *arguments, **named)
        finally:
            self.ended.set()

    def _traced(self, opts: Any) -> Any:
        """`opts` with the header that names the trace, where the upstream is told of one."""
        if not (trace := self._speaking.traceparent):
            return opts
        given: dict[str, Any] = dict(opts or {})
        headers: dict[str, str] = dict(given.get("headers") or {})
        return {**given, "headers": {**headers, TRACEPARENT: trace}}

    # -- by a connection of ours ----------------------------------------------------------------------------------

    async def _posted(
        self, posts: Posts, method: str, params: Mapping[str, Any], opts: Mapping[str, Any]
    ) -> dict[str, Any]:
        call = self._allocate_id()
        sent: list[bool] = []
        told: set[asyncio.Future[None]] = set()
        given = dict(params)
        meta = dict(given.get("_meta") or {})
        progress = opts.get("on_progress")
        if progress is not None:
            meta["progressToken"] = call
            # The SDK finds there whom to tell; nothing comes by the streams.
            self._pending[call] = _Pending(*_STREAMS, on_progress=progress)
        if trace := self._speaking.traceparent:
            meta[TRACEPARENT] = trace
        if meta:
            given["_meta"] = meta
        message = {"jsonrpc": "2.0", "id": call, "method": method, "params": given}
        try:
            result = await posts.ask(
                message,
                opts.get("headers") or {},
                lambda: sent.append(True),
                functools.partial(self._heard, told),
            )
            if told:  # it stands before the answer, so it is heard before it
                await asyncio.wait(told, timeout=TOLD_S)
            return result
        except BrokenOff as broken:
            self._pending.pop(call, None)
            # Never asked again: the SDK's transport fetches what is left of the same answer.
            await asyncio.sleep(broken.pause_s)
            rest: Any = {**opts, "request_id": call, "resumption_token": broken.event}
            return await super().send_raw_request(method, params, rest)
        except asyncio.CancelledError:
            if sent:
                await self._told_off(call)
            raise
        finally:
            self._pending.pop(call, None)

    async def _told_off(self, call: Any) -> None:
        """Nobody waits for `call`. Where ending its connection says so (MCP 2026-07-28), the transport drops the words."""
        params = {"requestId": call, "reason": "caller cancelled"}
        with anyio.move_on_after(CANCEL_S, shield=True):
            await self.notify("notifications/cancelled", params)

    async def _heard(self, told: set[asyncio.Future[None]], message: types.JSONRPCMessage) -> None:
        """What came before the answer, in the context of its call: to the SDK, as from its own transport.

        What handles it is in `told` until it has.
        """
        if self._handlers is None or self._tg is None:
            return
        # Notifications are handed out without an await, so that what is handed out meanwhile is this one's.
        self._telling = told if isinstance(message, types.JSONRPCNotification) else None
        try:
            await self._dispatch(SessionMessage(message), *self._handlers, contextvars.copy_context())
        finally:
            self._telling = None

    def _spawn(
        self,
        fn: Callable[..., Awaitable[Any]],
        *args: object,
        sender_ctx: contextvars.Context | None,
    ) -> None:
        told = self._telling
        if told is None:
            super()._spawn(fn, *args, sender_ctx=sender_ctx)
            return
        handled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        told.add(handled)

        async def handle(*given: object) -> None:
            try:
                await fn(*given)
            finally:
                told.discard(handled)
                handled.set_result(None)

        super()._spawn(handle, *args, sender_ctx=sender_ctx)


class FirstCall:
    """What the session writes down of a `types.CallToolRequest` with a name and JSON arguments alone, without that model."""

    name_param = types.CallToolRequest.name_param

    def __init__(self, tool: str, arguments: Mapping[str, Any]) -> None:
        self._params: dict[str, Any] = {"name": tool, "arguments": dict(arguments)}

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return {"method": "tools/call", "params": self._params}


def _check(message: Any, beside: str | None = None) -> None:
    """Raises `MCPError` for what has too many parts to be read."""
    try:
        check_parts(message, beside)
    except TooManyParts as error:
        raise MCPError(types.INTERNAL_ERROR, str(error)) from None


def _bounded(handle: Any, *, told: bool) -> Any:
    """What the upstream asks or tells unasked; what has too many parts to be read is refused, or dropped when `told`."""

    async def bounded(context: Any, method: str, params: Any) -> Any:
        try:
            _check(params)
        except MCPError:
            if told:
                return None
            raise
        return await handle(context, method, params)

    return bounded


def _readable(entry: Any, shape: type[BaseModel]) -> bool:
    try:
        shape.model_validate(entry, by_name=False)
    except ValidationError:
        return False
    return True
