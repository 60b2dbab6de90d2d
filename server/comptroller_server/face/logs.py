"""Log messages of upstreams on their way to the client that waits for the call they are about.

They are somebody else's words: released and bounded before they come here, marked, and named after the upstream.
(MCP 2025-11-25 and 2026-07-28, "Logging".)
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from mcp.server.context import ServerRequestContext
from mcp_types import LoggingMessageNotification, LoggingMessageNotificationParams, RequestId

from comptroller_audit.vocabulary import Json
from comptroller_server.call.upstream_words import META_UNTRUSTED

__all__ = ["LOG_WAIT_S", "LogRelay", "log_message"]

LOG_WAIT_S = 1.0
"""How long one message may wait for a client that does not read, seconds. Then no more are sent."""


class LogRelay:
    """The log messages of one request; `least` says which it asked for, None for none. It never fails or holds up the call."""

    def __init__(self, ctx: ServerRequestContext[Any, Any], least: str | None) -> None:
        self.least = least
        self._session = ctx.session if least is not None else None
        self._request: RequestId | None = ctx.request_id

    async def __call__(self, source: str, level: str, data: Json) -> None:
        if self._session is None:
            return
        try:
            async with asyncio.timeout(LOG_WAIT_S):
                # Beside the answer to this request: elsewhere it would not be heard, or by the wrong one.
                await self._session.send_notification(log_message(source, level, data), self._request)
        except Exception:  # noqa: BLE001 -- a log message never fails a call
            self._session = None  # the client is gone or does not read: stop trying

    def resume(self, ctx: ServerRequestContext[Any, Any]) -> None:
        """Another request of the same call."""
        self._session = ctx.session if self.least is not None else None
        self._request = ctx.request_id

    def close(self) -> None:
        """The request was answered or given up."""
        self._session = None


def log_message(source: str, level: str, data: Json) -> LoggingMessageNotification:
    """Released words of an upstream, marked as such."""
    marks: dict[str, Any] = {META_UNTRUSTED: source}
    params = LoggingMessageNotificationParams(level=cast("Any", level), logger=source, data=data, _meta=marks)
    return LoggingMessageNotification(params=params)
