"""MCP over the standard streams of a child process: the transport half, for the SDK's client session.

The SDK's own keeps a line in memory however long it grows, and its child can outlive us. Here a line has a limit while
it is read, messages come at a bounded rate, and the child is started through `guard`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator

import anyio
import mcp_types as types
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage

from comptroller_tools.upstream.children import HeadStarts, start_child
from comptroller_tools.upstream.settings import StdioCommand

__all__ = ["Ended", "Pace", "stdio_streams"]

CHUNK_BYTES = 65_536
MESSAGES_PER_S_MAX = 2_000
"""Beyond it the child is read more slowly, until it blocks on its own pipe."""
ERR_LINES_MAX = 20
ERR_LINE_BYTES_MAX = 300

Incoming = SessionMessage | Exception


class Ended:
    """Why a stream ended, and what the child last said on its standard error (untrusted)."""

    def __init__(self) -> None:
        self.why: str | None = None
        self.said: deque[str] = deque(maxlen=ERR_LINES_MAX)

    def because(self, why: str) -> None:
        self.why = self.why or why


@contextlib.asynccontextmanager
async def stdio_streams(
    name: str,
    command: StdioCommand,
    message_bytes_max: int,
    ended: Ended,
    head_starts: HeadStarts | None = None,
) -> AsyncGenerator[tuple[MemoryObjectReceiveStream[Incoming], MemoryObjectSendStream[SessionMessage]]]:
    """The streams of a started child. It is ended on leaving, whatever it does. Raises `CannotStart`."""
    begun = head_starts.take(name, command) if head_starts is not None else None
    child = begun or await start_child(command)
    process = child.process
    to_session, from_child = anyio.create_memory_object_stream[Incoming](0)
    to_child, from_session = anyio.create_memory_object_stream[SessionMessage](0)
    tasks = [
        asyncio.create_task(_read(process, to_session, message_bytes_max, ended), name="upstream-out"),
        asyncio.create_task(_write(process, from_session, to_session, ended), name="upstream-in"),
        asyncio.create_task(_listen_to_errors(process, ended), name="upstream-err"),
    ]
    try:
        yield from_child, to_child
    finally:
        try:
            await child.end()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for stream in (to_session, from_child, to_child, from_session):
                stream.close()


async def _read(
    process: asyncio.subprocess.Process,
    to_session: MemoryObjectSendStream[Incoming],
    most: int,
    ended: Ended,
) -> None:
    """Lines to messages. Ends at the first line that is too long: there is no way to tell whose answer it was."""
    assert process.stdout is not None
    pace = Pace()
    held = bytearray()
    try:
        async with to_session:
            while chunk := await process.stdout.read(CHUNK_BYTES):
                *lines, rest = chunk.split(b"\n")
                for line in lines:
                    held += line
                    if len(held) > most:
                        break
                    await to_session.send(_message(bytes(held)))
                    held.clear()
                    await pace.keep()
                held += rest
                if len(held) > most:
                    ended.because(f"it sent a message of more than {most} bytes")
                    return
            ended.because("it closed its output")
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        ended.because("the connection was closed")


def _message(line: bytes) -> Incoming:
    try:
        return SessionMessage(types.jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError:
        return ValueError("a line that is no JSON-RPC message")  # never its text: it may hold anything


class Pace:
    """No more than `MESSAGES_PER_S_MAX` messages in any second."""

    def __init__(self) -> None:
        self._since = 0.0
        self._count = 0

    async def keep(self, messages: int = 1) -> None:
        """Wait where so many more would be too many."""
        now = asyncio.get_running_loop().time()
        if now - self._since >= 1:
            self._since, self._count = now, 0
        self._count += messages
        if self._count >= MESSAGES_PER_S_MAX:
            await asyncio.sleep(max(0.0, 1 - (now - self._since)))


async def _write(
    process: asyncio.subprocess.Process,
    from_session: MemoryObjectReceiveStream[SessionMessage],
    to_session: MemoryObjectSendStream[Incoming],
    ended: Ended,
) -> None:
    assert process.stdin is not None
    try:
        async with from_session:
            async for message in from_session:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                process.stdin.write(text.encode() + b"\n")
                await process.stdin.drain()
    except (anyio.ClosedResourceError, anyio.BrokenResourceError, OSError):
        ended.because("it closed its input")
        to_session.close()  # what waits for an answer learns that there will be none


async def _listen_to_errors(process: asyncio.subprocess.Process, ended: Ended) -> None:
    """Its last lines are kept for the operator; the rest is read and dropped, so that the child never blocks."""
    assert process.stderr is not None
    held = b""
    while chunk := await process.stderr.read(CHUNK_BYTES):
        *lines, held = (held + chunk).split(b"\n")
        held = held[:ERR_LINE_BYTES_MAX]
        for line in lines[-ERR_LINES_MAX:]:
            if line.strip():
                ended.said.append(line[:ERR_LINE_BYTES_MAX].decode("utf-8", "replace"))
