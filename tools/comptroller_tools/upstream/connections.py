"""Kept HTTP/1.1 connections to one endpoint, an exchange at a time on each: what a call to an upstream goes through.

A general client costs several times what the call itself does. This one knows one endpoint, `POST`, and answers framed
as HTTP/1.1 frames them; everything it holds is bounded, and the other side may be anybody.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import Awaitable, Callable
from typing import cast

import httptools

__all__ = ["IDLE_S", "Connection", "Connections", "Lost", "NotReached"]

IDLE_S = 4.0
"""How long a connection is kept unused: less than servers wait (5 s and up), so that none is taken as it is closed."""
CONNECT_S = 10.0
END_S = 1.0
"""For the end of a stream of events after the answer."""
HEAD_BYTES_MAX = 65_536
"""Of headers, and of whatever else is no part of a body: sizes and extensions of chunks, trailers."""
AHEAD_BYTES_MAX = 262_144
"""What is read of an answer before somebody takes it; then the other side has to wait."""


class NotReached(Exception):
    """There is no connection, so nothing was sent."""


class Lost(Exception):
    """The connection ended, or spoke no HTTP, after the request was written."""


class Connection(asyncio.Protocol):
    """One connection. `begin`, `head`, then `more` until it says None; it may be used again when `reusable`."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.idle_since = 0.0
        self.answered = False
        """Set by who uses it: what is still to come of this exchange is of no interest."""
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._parts: list[bytes] = []
        self._ahead = 0
        self._dry_bytes = 0
        self._head_done = self._complete = self._interim = self._paused = self._stays = False
        self._lost: str | None = None

    @property
    def open(self) -> bool:
        return self._lost is None and self._transport is not None and not self._transport.is_closing()

    @property
    def quiet(self) -> bool:
        """Whether it is open and nothing came on it since, an end not yet noticed included."""
        if not self.open or self._transport is None:
            return False
        looked = select.poll()
        looked.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not looked.poll(0)

    @property
    def complete(self) -> bool:
        """Whether the answer has come to its end."""
        return self._complete

    @property
    def reusable(self) -> bool:
        """Whether the last exchange ended as it should and the other side keeps the connection."""
        return self.open and self._complete and self._stays

    def begin(self, request: bytes) -> None:
        """Write a whole request."""
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self.status, self.headers, self._parts = 0, {}, []
        self._ahead = self._dry_bytes = 0
        self._head_done = self._complete = self._interim = self._stays = self.answered = False
        self._transport.write(request)

    async def head(self) -> None:
        """Wait for the status and the headers. Raises `Lost`."""
        while not self._head_done:
            await self._wait()

    async def more(self) -> bytes | None:
        """The next part of the body; None at its end. Raises `Lost`."""
        while not self._parts:
            if self._complete:
                return None
            await self._wait()
        part = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts, self._ahead = [], 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return part

    def abort(self) -> None:
        """End it at once."""
        self._lost = self._lost or "it was given up"
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    # -- asyncio's side -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self._complete:  # nobody asked
            self.abort()
            return
        self._dry_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._lost = self._lost or "it spoke no HTTP"
        if self._dry_bytes > HEAD_BYTES_MAX:
            self._lost = self._lost or "its headers have no end"
        if self._lost is not None:
            self.abort()
            return
        if self._ahead > AHEAD_BYTES_MAX and not self._complete and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        framed = "content-length" in self.headers or "transfer-encoding" in self.headers
        if self._head_done and not framed and exc is None and self._lost is None:
            self._complete = True  # such a body ends with its connection
        self._lost = self._lost or "it was closed"
        self._wake()

    # -- the parser's side ----------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:  # a trailer: nothing of ours reads one
            return
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        if self._complete:
            return
        self.status = self._parser.get_status_code()
        self._interim = 100 <= self.status < 200
        if self._interim:
            self.headers = {}
            return
        self._head_done = True

    def on_body(self, body: bytes) -> None:
        if self._complete:  # of a second answer, which is nobody's
            return
        self._dry_bytes = 0
        self._parts.append(body)
        self._ahead += len(body)

    def on_message_begin(self) -> None:
        if self._complete:
            self._lost = "it answered twice"

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            return
        assert self._parser is not None
        self._stays = bool(self._parser.should_keep_alive())  # the parser knows it only now
        self._complete = True

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        if self._lost is not None:
            raise Lost(self._lost)
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connections:
    """Those to one host. `addresses` says where its name may lead, and raises what it raises."""

    def __init__(
        self,
        host: str,
        port: int,
        trust: ssl.SSLContext | None,
        addresses: Callable[[str, int], Awaitable[list[str]]],
    ) -> None:
        self._host = host
        self._port = port
        self._trust = trust
        self._addresses = addresses
        self._kept: list[Connection] = []
        self._taken: set[Connection] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._closed = False

    async def take(self) -> Connection:
        """A connection for one exchange. Raises `NotReached` and what `addresses` raises."""
        if self._closed:
            raise NotReached("the connections were closed")
        since = asyncio.get_running_loop().time() - IDLE_S
        while self._kept:
            connection = self._kept.pop()
            if connection.idle_since > since and connection.quiet:
                self._taken.add(connection)
                return connection
            connection.abort()
        connection = await self._made()
        if self._closed:
            connection.abort()
            raise NotReached("the connections were closed")
        self._taken.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep it for the next exchange, or end it where it cannot be used again."""
        self._taken.discard(connection)
        if not self._closed and connection.answered and connection.open and not connection.complete:
            # After the event with the answer comes the end of the stream, in a moment.
            ending = asyncio.get_running_loop().create_task(self._end(connection))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            return
        if self._closed or not connection.reusable:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._kept.append(connection)
        if self._sweeping is None:
            self._sweeping = loop.call_later(IDLE_S, self._sweep)

    def close(self) -> None:
        """End them all; exchanges that run are lost."""
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for ending in self._ending:
            ending.cancel()
        for connection in (*self._kept, *self._taken):
            connection.abort()
        self._kept.clear()

    async def _end(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(END_S):
                await connection.more()
                await connection.more()
        except (Lost, TimeoutError):
            pass
        finally:
            connection.answered = False
            self.give_back(connection)

    async def _made(self) -> Connection:
        loop = asyncio.get_running_loop()
        name = self._host.strip("[]") if self._trust is not None else None
        why = "no address"
        for address in await self._addresses(self._host, self._port):
            try:
                async with asyncio.timeout(CONNECT_S):
                    _, connection = await loop.create_connection(
                        Connection, address, self._port, ssl=self._trust, server_hostname=name
                    )
            except (OSError, TimeoutError) as error:
                why = type(error).__name__
            else:
                return connection
        raise NotReached(why)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        since = loop.time() - IDLE_S
        old = [one for one in self._kept if one.idle_since <= since or not one.open]
        self._kept = [one for one in self._kept if one not in old]
        for connection in old:
            connection.abort()
        self._sweeping = loop.call_later(IDLE_S, self._sweep) if self._kept else None
