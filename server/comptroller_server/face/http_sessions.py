"""Which sessions of the 2025 era get streams: those whose client can be asked while its call is open.

A session is of one kind. Most are answered in plain JSON, which costs less; over that nothing can be asked
(MCP 2025-11-25 "Streamable HTTP").
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, cast

from starlette.types import Message, Send

from comptroller_audit.vocabulary import JsonObject

__all__ = ["SESSION_HEADER", "StreamedSessions", "opens_one"]

SESSION_HEADER = b"mcp-session-id"


def opens_one(message: JsonObject) -> bool:
    """Whether a message opens a session whose client says that it can ask its person."""
    if message.get("method") != "initialize":
        return False
    params = message.get("params")
    declared = params.get("capabilities") if isinstance(params, dict) else None
    return isinstance(declared, dict) and isinstance(declared.get("elicitation"), dict)


class StreamedSessions:
    """Remembers the ids of streamed sessions, `most` of them; a forgotten one is unknown to the client's next call."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._ids: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, session: str | None) -> bool:
        if session is None or session not in self._ids:
            return False
        self._ids.move_to_end(session)
        return True

    def noting(self, send: Send) -> Send:
        """`send` that remembers the id of the session that its answer opens."""

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                for name, value in cast("Mapping[str, Any]", message)["headers"]:
                    if name.lower() == SESSION_HEADER:
                        self._keep(value.decode("latin-1"))
            await send(message)

        return note

    def _keep(self, session: str) -> None:
        self._ids[session] = None
        while len(self._ids) > self._most:
            self._ids.popitem(last=False)
