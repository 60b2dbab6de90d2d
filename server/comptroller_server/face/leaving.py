"""A caller that waits no more: gone in any way, or saying so. (MCP 2025-11-25 and 2026-07-28, "Cancellation".)

Over HTTP a later client cancels by closing the stream, which is all that a lost connection does too. So only the
notification counts as the caller's word.
"""

from __future__ import annotations

import asyncio
from typing import Any

from mcp.server.context import ServerRequestContext

__all__ = ["Leaving"]


class Leaving:
    """One request's caller. Both futures stay open while it waits."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.left: asyncio.Future[None] = loop.create_future()
        self.cancelled: asyncio.Future[None] = loop.create_future()

    def note(self, ctx: ServerRequestContext[Any, Any]) -> None:
        """The request's handler is being cancelled."""
        # The SDK tells a handler nothing of why; its own context of the request knows.
        outbound = ctx.session._request_outbound  # pyright: ignore[reportPrivateUsage]
        _set(self.left)
        if outbound.cancel_requested.is_set():
            _set(self.cancelled)

    def say(self) -> None:
        """The caller itself says that it waits no more."""
        _set(self.left)
        _set(self.cancelled)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
