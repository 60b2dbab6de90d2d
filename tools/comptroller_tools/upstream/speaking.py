"""Log messages of one upstream: whose call each belongs to, made fit to be told, and no more than so many.

Over HTTP a message comes with the answer of its call. Otherwise nothing in the protocol says whose it is, so it is told
only while one principal alone has used the connection: a message about one's call is no business of another.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, cast

import mcp_types as types
from mcp.client.session import ClientSession
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from comptroller_tools.questions import Asks
from comptroller_tools.source import Action
from comptroller_tools.upstream.asking import Asking, capabilities
from comptroller_tools.upstream.cleaning import seen
from comptroller_tools.upstream.news import LEVELS, is_at_least

__all__ = ["LOGS_MAX", "LOG_CHARS_MAX", "During", "Speaking"]

LOGS_MAX = 200
"""Log messages that are told of one call."""
LOG_CHARS_MAX = 4_000
"""Of one message; a longer one is cut, an object then told as the text of its JSON."""
SENDING_MAX = 16
"""Messages of one call on their way to the client at once; what comes then is dropped."""
ANSWER_S = 2.0


class _Spoken:
    """One call that is running."""

    def __init__(self, action: Action, asking: Asking | None) -> None:
        self.action = action
        self.asking = asking
        self.left = LOGS_MAX
        self.sending = 0


_CALL: ContextVar[_Spoken | None] = ContextVar("_CALL", default=None)


class During:
    """One call that is running, for `with`. A generator for it costs each call twice as much."""

    def __init__(self, running: list[_Spoken], spoken: _Spoken) -> None:
        self._running = running
        self._spoken = spoken

    def __enter__(self) -> None:
        self._running.append(self._spoken)
        self._token = _CALL.set(self._spoken)

    def __exit__(self, *_: object) -> None:
        _CALL.reset(self._token)
        self._running.remove(self._spoken)


class Speaking:
    """Lives as long as one connection. `idle` is told of messages that come while nothing runs: (whom, level, data)."""

    def __init__(self, idle: Callable[[str, str, Any], None]) -> None:
        self._idle = idle
        self._running: list[_Spoken] = []
        self._callers: set[str] = set()
        self._level: str | None = None

    def during(self, action: Action, asking: Asking | None = None) -> During:
        """What comes with the answers to requests made inside belongs to `action`, and is asked by `asking`."""
        if len(self._callers) < 2:
            self._callers.add(action.whom)
        return During(self._running, _Spoken(action, asking))

    async def ask(self, session: ClientSession, level: str | None) -> None:
        """Ask an upstream of the 2025 era for messages of `level`, if it was asked for less so far. It may not answer."""
        if level is None or session.protocol_version in MODERN_PROTOCOL_VERSIONS:
            return
        has = session.server_capabilities
        if has is None or has.logging is None or (self._level and is_at_least(level, self._level)):
            return
        self._level = level
        request = types.SetLevelRequest(params=types.SetLevelRequestParams(level=cast("Any", level)))
        with contextlib.suppress(MCPError, ValidationError, TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                await session.send_request(request, types.EmptyResult)

    def stamp(self, params: dict[str, Any] | None) -> None:
        """Ask a later upstream for messages about the request that has `params`, in its own way."""
        spoken = _CALL.get()
        meta: dict[str, Any] = (params or {}).get("_meta") or {}
        if types.CLIENT_CAPABILITIES_META_KEY in meta:
            # What is declared is what can be asked in this very call, and nothing in one that nobody waits for.
            kinds = (
                spoken.asking.kinds if spoken is not None and spoken.asking is not None else frozenset[Asks]()
            )
            meta[types.CLIENT_CAPABILITIES_META_KEY] = capabilities(kinds)
        if spoken is None or spoken not in self._running or spoken.action.log_level is None:
            return
        if types.PROTOCOL_VERSION_META_KEY in meta:
            meta[types.LOG_LEVEL_META_KEY] = spoken.action.log_level

    @property
    def traceparent(self) -> str:
        """The trace context of the call that is made here; empty where the upstream is told of none."""
        spoken = _CALL.get()
        return spoken.action.traceparent if spoken is not None and spoken in self._running else ""

    @property
    def asked_in(self) -> Asking | None:
        """The call that a question belongs to, in the context in which it came; None where that is not certain.

        Over HTTP it comes with the answer of its call. On standard streams it is that of the only call that runs.
        """
        spoken = _CALL.get()
        if spoken is not None:
            return spoken.asking if spoken in self._running else None
        return self._running[0].asking if len(self._running) == 1 else None

    async def heard(self, level: str, data: Any) -> None:
        """One message, called in the context in which it came."""
        spoken = _CALL.get()
        if spoken not in self._running:
            if len(self._callers) != 1:
                return
            spoken = self._running[-1] if self._running else None
        if spoken is None:
            (whom,) = self._callers
            if whom and level in LEVELS:
                self._idle(whom, level, _fit(data))
            return
        if spoken.left <= 0 or spoken.sending >= SENDING_MAX:
            return
        if not is_at_least(level, spoken.action.log_level):
            return
        spoken.left -= 1
        spoken.sending += 1
        try:
            await spoken.action.log(level, _fit(data))
        finally:
            spoken.sending -= 1


def _fit(data: Any) -> Any:
    if isinstance(data, str):
        return _cut(seen(data[: 2 * LOG_CHARS_MAX]))
    if isinstance(data, dict | list):
        text = json.dumps(data, ensure_ascii=False)
        return _cleaned(data) if len(text) <= LOG_CHARS_MAX else _cut(seen(text[: 2 * LOG_CHARS_MAX]))
    return data


def _cleaned(data: Any) -> Any:
    if isinstance(data, str):
        return seen(data)
    if isinstance(data, list):
        return [_cleaned(one) for one in cast("list[object]", data)]
    if isinstance(data, dict):
        return {seen(key): _cleaned(one) for key, one in cast("dict[str, object]", data).items()}
    return data


def _cut(text: str) -> str:
    return text if len(text) <= LOG_CHARS_MAX else f"{text[:LOG_CHARS_MAX]}…"
