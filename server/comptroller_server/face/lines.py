"""Bytes in over stdio: one JSON-RPC message a line, scanned before the SDK sees it.

A line that is refused is answered here and goes no further; the connection goes on. Nothing beyond one
line's bound is ever held: the rest of an overlong line is dropped as it streams.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from typing import Final, Protocol, cast

from comptroller_server.face.framing import Framed, FrameLimits, FrameRefusal, scan, too_large

__all__ = ["CHUNKS_AHEAD", "CHUNK_BYTES", "ByteStream", "LineReader"]

CHUNK_BYTES: Final = 64 * 1024
"""Bytes asked of the stream at once."""

CHUNKS_AHEAD: Final = 2
"""Chunks read and not yet taken; then the thread waits, and with it the client."""


class ByteStream(Protocol):
    """What is read: `io.FileIO`, `io.BytesIO`, or anything whose `read` blocks until it has some bytes.

    A stream with `read1` (`io.BufferedReader`) is read by that, for its `read` waits for all it was asked.
    Give an unbuffered one for real stdin: the interpreter cannot end while a thread holds a buffer's lock.
    """

    def read(self, size: int, /) -> bytes | None: ...


class LineReader:
    """The messages of one stdin, in order; a single pass.

    `async for framed in reader` gives `Framed` values. `answer` gets the JSON-RPC error for a refused line,
    without its newline, and must be the same locked writer that the server's own lines use. Raises
    RuntimeError when iterated a second time.
    """

    def __init__(
        self,
        stream: ByteStream,
        answer: Callable[[bytes], Awaitable[None]],
        limits: FrameLimits | None = None,
    ) -> None:
        self._stream = stream
        self._answer = answer
        self._limits = limits or FrameLimits()
        self._started = False

    def __aiter__(self) -> AsyncIterator[Framed]:
        return self._messages()

    async def _messages(self) -> AsyncGenerator[Framed, None]:
        if self._started:
            raise RuntimeError(
                "this stdin is being read already; make one LineReader for it and iterate that once"
            )
        self._started = True
        lines = _Lines(self._limits)
        chunks = _ChunkThread(self._stream)
        try:
            while chunk := await chunks.take():
                for line in lines.feed(chunk):
                    if isinstance(line, Framed):
                        yield line
                    else:
                        await self._refuse(line)
            last = lines.end()
            if isinstance(last, Framed):
                yield last
            elif last is not None:
                await self._refuse(last)
        finally:
            chunks.close()

    async def _refuse(self, refusal: FrameRefusal) -> None:
        await self._answer(refusal.answer)
        await asyncio.sleep(0)  # a flood of bad lines must not starve the calls that are running


class _Lines:
    """Cuts chunks into lines and scans them. Holds at most one line's bound."""

    def __init__(self, limits: FrameLimits) -> None:
        self._limits = limits
        self._pending = bytearray()
        self._dropping = False

    def feed(self, chunk: bytes) -> Iterator[Framed | FrameRefusal]:
        """The lines that `chunk` completes, scanned one at a time as they are asked for."""
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            line = self._line(chunk[start:end])
            start = end + 1
            if line is not None:
                yield line
        rest = chunk[start:]
        if self._dropping or not rest:
            return
        self._pending += rest
        if len(self._pending) > self._limits.bytes_max:
            self._pending = bytearray()
            self._dropping = True
            yield too_large(self._limits)

    def _line(self, tail: bytes) -> Framed | FrameRefusal | None:
        """A line that ends with `tail`; None for one that was answered while it streamed."""
        if self._dropping:
            self._dropping = False
            return None
        if not self._pending:
            return scan(tail, self._limits)
        line = bytes(self._pending) + tail
        self._pending = bytearray()
        return scan(line, self._limits)

    def end(self) -> Framed | FrameRefusal | None:
        """What the stream ended with, if its last line had no newline."""
        return scan(bytes(self._pending), self._limits) if self._pending else None


class _ChunkThread:
    """One daemon thread reads the stream; the event loop takes what it read.

    A thread of our own, because a read of stdin cannot be cancelled and a pool's thread would have to be
    joined. It costs one hop a chunk. `take` gives b"" at the end of input, which a read error is too.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._read = cast(Callable[[int], bytes | None], getattr(stream, "read1", stream.read))
        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self._room = threading.Semaphore(CHUNKS_AHEAD)
        self._closed = False
        _make_blocking(stream)
        threading.Thread(target=self._run, name="comptroller-stdin", daemon=True).start()

    async def take(self) -> bytes:
        chunk = await self._chunks.get()
        self._room.release()
        return chunk

    def close(self) -> None:
        """Let the thread end; one that is blocked in a read ends with the process."""
        self._closed = True
        self._room.release()

    def _run(self) -> None:
        chunk: bytes | None = b"-"
        while chunk:
            self._room.acquire()
            if self._closed:
                return
            try:
                chunk = self._read(CHUNK_BYTES)
            except (OSError, ValueError):  # closed under us, or the terminal is gone
                chunk = b""
            try:
                self._loop.call_soon_threadsafe(self._chunks.put_nowait, chunk or b"")
            except RuntimeError:  # the loop closed first
                return


def _make_blocking(stream: ByteStream) -> None:
    """A parent may hand over a non-blocking pipe, where an empty read would look like the end."""
    fileno = cast(Callable[[], int] | None, getattr(stream, "fileno", None))
    if fileno is None:
        return
    try:
        os.set_blocking(fileno(), True)
    except (OSError, ValueError):  # no descriptor (io.BytesIO), or one that is closed: the read will say so
        return
