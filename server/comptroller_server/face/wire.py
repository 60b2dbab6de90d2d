"""HTTP on the wire, around requests: how large a head may be, how long it may take, how many may connect, who must read.

Nobody has shown a token before, so each of these has a limit (CWE-400). uvicorn with httptools has none of its own.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

__all__ = [
    "CONNECTIONS_MAX",
    "HEAD_BYTES_MAX",
    "HEAD_WAIT_S",
    "READ_WAIT_S",
    "GuardedProtocol",
    "JoinedWrites",
]

HEAD_BYTES_MAX = 64 * 1024
"""Request line and headers of one request, bytes. Looked at after each read, which brings 256 KiB at most."""

HEAD_WAIT_S = 30.0
"""How long a request may take from its first byte, or a connection from its beginning, to the end of the headers; and
how long a client that was answered may go on sending a body that nobody reads. Seconds."""

CONNECTIONS_MAX = 500
"""Connections at a time: the store and the tools need file descriptors too. For one more, the one that has had no request
open for longest is closed; where all have one, the new one is."""

READ_WAIT_S = 60.0
"""How long a client may leave an answer unread that no buffer takes any more, seconds. Then its connection is closed."""

_TEXT = b"The request line and the headers are too large.\n"
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(_TEXT), _TEXT)
)


class JoinedWrites:
    """A transport that sends the head of an answer together with what follows it in the same turn of the loop.

    uvicorn writes the two one after the other, which is two system calls, two packets, and two reads at the client.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self._flushing: asyncio.Handle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 1"):
            self._head = data
            if self._flushing is None:
                self._flushing = self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        self._flushing = None
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)


class GuardedProtocol(HttpToolsProtocol):
    """One connection, with limits until its request's head is complete."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._head_open = True
        self._waiting: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._idle_since = self.loop.time()
        self._makes_room = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(cast("asyncio.Transport", JoinedWrites(transport, self.loop)))
        if len(self.connections) > CONNECTIONS_MAX and not self._found_room():
            self.logger.warning("More than %d connections; one was closed.", CONNECTIONS_MAX)
            transport.abort()
            return
        self._wait()

    def _found_room(self) -> bool:
        """Close the connection that has been idle for longest, so that whoever holds many of them locks nobody out."""
        others = [one for one in cast("set[object]", self.connections) if isinstance(one, GuardedProtocol)]
        idle = [one for one in others if one is not self and one.is_idle]
        if not idle:
            return False
        oldest = min(idle, key=lambda one: one._idle_since)
        oldest._makes_room = True
        oldest.transport.abort()
        return True

    @property
    def is_idle(self) -> bool:
        """Whether no request is open here: none came yet, or each was answered."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return not self._makes_room and (cycle is None or cycle.response_complete)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._head_open:
            self._head_bytes += len(data)
            self._wait()
        super().data_received(data)
        if self._head_open and self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self.logger.warning("A request whose headers do not end was refused.")
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Blanks around a value are no part of it (RFC 9110 §5.5); the parser leaves those behind it."""
        super().on_header(name, value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        self._head_open = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head_open, self._head_bytes = True, 0
        self._stop_waiting()

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        if not self._head_open:
            self._wait()  # the rest of a body that was refused
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(READ_WAIT_S, self._give_up_on_reader)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_waiting_for_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_waiting_for_reader()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(HEAD_WAIT_S, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _too_slow(self) -> None:
        self._waiting = None
        if not self.transport.is_closing():
            self.transport.abort()

    def _stop_waiting_for_reader(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _give_up_on_reader(self) -> None:
        self._unread = None
        self.logger.warning("A client that did not read its answer was let go.")
        self.transport.abort()
