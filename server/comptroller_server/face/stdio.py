"""MCP over stdin and stdout, where one stray byte on stdout breaks the client.

The protocol gets descriptors of its own; fd 0 becomes empty and fd 1 becomes stderr, so what a tool or its
children print, or try to read, never meets the wire. A line that is no message is answered, and the
connection goes on. (MCP 2026-07-28 "stdio"; JSON-RPC 2.0 §5.1 for the codes.)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
from collections.abc import Awaitable, Callable

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import (
    INTERNAL_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)

from comptroller_server.face.claiming import Wire, claim_stdio
from comptroller_server.face.framing import FrameLimits
from comptroller_server.face.lines import LineReader
from comptroller_server.face.protocol import GovernedServer, not_a_message, parse_message
from comptroller_server.signals import stop_on_signals

__all__ = ["DRAIN_S", "FLUSH_S", "UNANSWERED_MAX", "serve_stdio"]

DRAIN_S = 10.0
"""How long the end waits for calls in flight, seconds. What remains is in doubt, and recovery finds it."""

FLUSH_S = 1.0
"""How long the end waits for a client to take the last answers, seconds."""

UNANSWERED_MAX = 1_024
"""Requests read and not yet answered; at this many, reading waits."""

_log = structlog.get_logger("comptroller.stdio")

_Inbound = MemoryObjectSendStream[SessionMessage | Exception]
_Outbound = MemoryObjectReceiveStream[SessionMessage]


async def serve_stdio(
    server: GovernedServer,
    *,
    wire: Wire | None = None,
    limits: FrameLimits | None = None,
    drain_s: float = DRAIN_S,
    stop: asyncio.Event | None = None,
) -> int:
    """Serve one client until its end of input, or `stop` (by default SIGINT or SIGTERM).

    Requests already read are answered, `drain_s` seconds at most. Returns how many calls had not ended then.
    """
    connection = _Connection(wire or claim_stdio(), limits)
    loop = asyncio.get_running_loop()
    inbound, read_stream = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write_stream, outbound = anyio.create_memory_object_stream[SessionMessage](0)
    deadline = loop.time()

    async def feed(asked: asyncio.Event) -> None:
        nonlocal deadline
        async with inbound:
            await _first_of(lambda: connection.read(inbound), asked.wait, connection.gone.wait)
            deadline = loop.time() + drain_s
            server.stop_asking()
            with anyio.move_on_after(drain_s):
                await connection.settled()

    with stop_on_signals(stop) as asked:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feed, asked)
            tasks.start_soon(connection.write, outbound)
            await server.run(read_stream, write_stream, server.create_initialization_options())
            with anyio.move_on_after(FLUSH_S):
                await connection.written.wait()
            tasks.cancel_scope.cancel()
        left = await server.drain(max(0.0, deadline - loop.time()))
    if left:
        _log.warning("calls_left_in_doubt", count=left)
    return left


async def _first_of(*waits: Callable[[], Awaitable[object]]) -> None:
    """Await them all; when one ends, the others are cancelled."""
    async with anyio.create_task_group() as tasks:

        async def one(wait: Callable[[], Awaitable[object]]) -> None:
            await wait()
            tasks.cancel_scope.cancel()

        for wait in waits:
            tasks.start_soon(one, wait)


class _Connection:
    """One client: its lines in, our lines out, and which of its requests are still unanswered."""

    def __init__(self, wire: Wire, limits: FrameLimits | None) -> None:
        self._lines = LineReader(wire.stdin, self._line, limits)
        self._stdout = wire.stdout
        self._writing = asyncio.Lock()
        self._unanswered: set[RequestId] = set()
        self._moved = asyncio.Event()
        self.gone = asyncio.Event()
        """Set when stdout has no reader left."""
        self.written = asyncio.Event()
        """Set when every answer was handed to the client."""

    async def read(self, inbound: _Inbound) -> None:
        """Pass messages on until the end of input."""
        async for framed in self._lines:
            message = parse_message(framed.message)
            if message is None:
                await self._line(_encode(not_a_message(framed.message)))
                continue
            if isinstance(message, JSONRPCRequest):
                while len(self._unanswered) >= UNANSWERED_MAX:
                    await self._next_move()
                self._unanswered.add(message.id)
            elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
                self._answered((message.params or {}).get("requestId"))
            await inbound.send(SessionMessage(message))

    async def write(self, outbound: _Outbound) -> None:
        """Write what the server says until it has no more to say."""
        async with outbound:
            async for session_message in outbound:
                message = session_message.message
                await self._line(_encode(message))
                if isinstance(message, JSONRPCResponse | JSONRPCError):
                    self._answered(message.id)
        self.written.set()

    async def settled(self) -> None:
        """Wait until every request that was read has its answer, or was cancelled by the client."""
        while self._unanswered and not self.gone.is_set():
            await self._next_move()

    def _answered(self, request: object) -> None:
        if isinstance(request, str | int):
            self._unanswered.discard(request)
            self._moved.set()

    async def _next_move(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    async def _line(self, line: bytes) -> None:
        """Write one whole line; lines of the server and of the framing never mix."""
        async with self._writing:
            if self.gone.is_set():
                return
            try:
                await _write(self._stdout, line + b"\n")
            except OSError:
                self.gone.set()
                self._moved.set()


async def _write(descriptor: int, data: bytes) -> None:
    """Write all of `data` and never block the event loop, whatever the other end does.

    A pipe that polls writable takes `PIPE_BUF` bytes at once (`select.PIPE_BUF`), so a short line costs no
    thread. A longer one gets a daemon thread, because a client that does not read must not hold the exit up.
    """
    if len(data) <= select.PIPE_BUF and _writable(descriptor):
        written = os.write(descriptor, data)
        if written == len(data):
            return
        data = data[written:]
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: OSError | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def write_all() -> None:
        error = _write_blocking(descriptor, data)
        with contextlib.suppress(RuntimeError):  # the loop closed first
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=write_all, name="comptroller-stdout", daemon=True).start()
    await done


def _writable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


def _write_blocking(descriptor: int, data: bytes) -> OSError | None:
    left = memoryview(data)
    try:
        os.set_blocking(descriptor, True)
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError as error:
        return error
    return None


def _encode(message: JSONRPCMessage) -> bytes:
    """The message as JSON. One that has no UTF-8 is replaced by an error, so its request is still answered."""
    try:
        return message.model_dump_json(by_alias=True, exclude_unset=True).encode()
    except ValueError as error:
        _log.error("answer_not_encodable", error=type(error).__qualname__)
        request = message.id if isinstance(message, JSONRPCResponse | JSONRPCError) else None
        text = "Internal error: the answer could not be written as JSON; the operator's log names it."
        return _encode(
            JSONRPCError(jsonrpc="2.0", id=request, error=ErrorData(code=INTERNAL_ERROR, message=text))
        )
