"""Between a request and its answer: progress and log messages to the client that waits, and whether it still does."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from mcp.server.context import ServerRequestContext
from mcp.server.session import ServerSession

from comptroller_server.call.proposal import Proposal
from comptroller_server.face.leaving import Leaving
from comptroller_server.face.logs import LogRelay

__all__ = [
    "PROGRESS_MESSAGE_CHARS_MAX",
    "PROGRESS_REPORTS_MAX",
    "PROGRESS_WAIT_S",
    "OnTheWay",
    "ProgressRelay",
]

PROGRESS_REPORTS_MAX = 1_000
"""Progress notifications relayed for one call; a tool that reports more is not heard further."""

PROGRESS_MESSAGE_CHARS_MAX = 500
PROGRESS_WAIT_S = 1.0
"""How long one progress report may wait for a client that does not read, seconds. Then it is dropped."""


class OnTheWay:
    """One request, for `with`: what is proposed inside by `of` is told of, and given up when its caller goes."""

    def __init__(self, ctx: ServerRequestContext[Any, Any], log_level: str | None) -> None:
        self._ctx = ctx
        self._progress = ProgressRelay(ctx)
        self._logs = LogRelay(ctx, log_level)
        self._leaving = Leaving()
        self.call = ""
        """The id of what was proposed, once it has one."""
        self._named: asyncio.Event | None = None

    def of(self, proposal: Proposal) -> Proposal:
        return replace(
            proposal,
            progress=self._progress,
            log=self._logs,
            log_level=self._logs.least,
            left=self._leaving.left,
            cancelled=self._leaving.cancelled,
            begun=self._begun,
        )

    def _begun(self, call: str) -> None:
        self.call = call
        if self._named is not None:
            self._named.set()

    async def named(self) -> None:
        """Until `call` is known."""
        if not self.call:
            self._named = asyncio.Event()
            await self._named.wait()

    def give_up(self) -> None:
        """The caller says, in another request, that it wants no answer any more."""
        self._leaving.say()

    def resume(self, ctx: ServerRequestContext[Any, Any]) -> None:
        """The same call goes on in another request: from here on that one is told, and its caller is the one who waits."""
        self._ctx = ctx
        self._progress.resume(ctx)
        self._logs.resume(ctx)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, asyncio.CancelledError):
            self._leaving.note(self._ctx)
        self._progress.close()
        self._logs.close()


class ProgressRelay:
    """Relays a tool's progress to a client that asked for it. It never fails or holds up the call.

    Progress must increase (MCP "Progress"), so what does not is dropped, as is what is not a number.
    """

    def __init__(self, ctx: ServerRequestContext[Any, Any]) -> None:
        self._session: ServerSession | None = ctx.session  # itself silent when the client did not ask
        self._last = -math.inf
        self._left = PROGRESS_REPORTS_MAX

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        if self._session is None or not math.isfinite(progress) or progress <= self._last or self._left == 0:
            return
        self._last = progress
        self._left -= 1
        finite_total = total if total is not None and math.isfinite(total) else None
        text = None if message is None else _cut(message)
        try:
            async with asyncio.timeout(PROGRESS_WAIT_S):
                await self._session.report_progress(progress, finite_total, text)
        except Exception:  # noqa: BLE001 - progress never fails a call
            self._session = None  # the client is gone or does not read: stop trying

    def resume(self, ctx: ServerRequestContext[Any, Any]) -> None:
        """Another request of the same call: what counts up goes on counting."""
        self._session = ctx.session

    def close(self) -> None:
        """The request was answered or given up: a report after that would be a protocol error."""
        self._session = None


def _cut(text: str) -> str:
    most = PROGRESS_MESSAGE_CHARS_MAX
    return text if len(text) <= most else text[: most - 1] + "…"
