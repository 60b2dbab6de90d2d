"""The sessions of the 2025 era: each client's own, and streams for those that can be asked while their call is open.

A session is of one kind. Most are answered in plain JSON, which costs less; over that nothing can be asked, and nothing
told on the way (MCP 2025-11-25 "Streamable HTTP"). Where upstreams may have something to say, all are streams.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, cast

from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import LOG_LEVEL_META_KEY
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.types import Message, Send

from comptroller_audit.vocabulary import JsonObject
from comptroller_server.face.protocol import GovernedServer

__all__ = ["SESSION_HEADER", "ClientSessions", "StreamedSessions", "opens_one", "wants_stream"]

SESSION_HEADER = b"mcp-session-id"


def opens_one(message: JsonObject, *, always: bool = False) -> bool:
    """Whether a message opens a session whose client says that it can ask its person; `always` takes any session."""
    if message.get("method") != "initialize":
        return False
    if always:
        return True
    params = message.get("params")
    declared = params.get("capabilities") if isinstance(params, dict) else None
    return isinstance(declared, dict) and isinstance(declared.get("elicitation"), dict)


def wants_stream(version: str | None, accept: str | None, message: JsonObject) -> bool:
    """Whether the answer may have to be a stream. Streams cost a little more, so only those who ask get one.

    Only in the 2026 era, where each request stands alone; a 2025 session is of one kind.
    """
    if version in (None, *HANDSHAKE_PROTOCOL_VERSIONS):
        return False
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    return (
        isinstance(meta, dict)
        and ("progressToken" in meta or LOG_LEVEL_META_KEY in meta)
        and "text/event-stream" in (accept or "")
    )


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


class ClientSessions:
    """The sessions of one client: `most` of each kind, so that no client uses up those of another.

    An idle one ends after `idle_s` seconds; a body has `bytes_max` bytes.
    """

    def __init__(self, server: GovernedServer, bytes_max: int, most: int, idle_s: float) -> None:
        def manager(*, json_response: bool) -> StreamableHTTPSessionManager:
            return StreamableHTTPSessionManager(
                server,
                json_response=json_response,
                max_request_body_size=bytes_max,
                max_sessions=most,
                session_idle_timeout=idle_s,
                # Host and Origin are checked in http.py, by exact port; the SDK's own check takes any port.
                security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
            )

        self.plain = manager(json_response=True)
        self.streaming = manager(json_response=False)
        self.streamed = StreamedSessions(most)

    def of(self, session: str | None) -> StreamableHTTPSessionManager:
        """Who has `session`, or would open one."""
        return self.streaming if session in self.streamed else self.plain
