"""Lines of stdin over real pipes: order, bounds, answers to what is refused, and an end in every case."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_server.face.framing import FrameFault, FrameLimits
from comptroller_server.face.lines import CHUNK_BYTES, CHUNKS_AHEAD, ByteStream, LineReader

pytestmark = pytest.mark.anyio
SMALL = FrameLimits(bytes_max=64)


class Answers:
    """What the reader answered, as the reasons of its errors."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    async def __call__(self, line: bytes) -> None:
        error = json.loads(line)
        assert error["id"] is None
        assert error["error"]["code"] == -32700
        self.reasons.append(error["error"]["data"]["reason"])


async def read_all(stream: ByteStream, limits: FrameLimits | None = None) -> tuple[list[Any], list[str]]:
    answers = Answers()
    messages = [framed.message async for framed in LineReader(stream, answers, limits)]
    return messages, answers.reasons


class Dribble:
    """A stream that gives its bytes in the given portions, whatever is asked."""

    def __init__(self, portions: list[bytes]) -> None:
        self._portions = [portion for portion in portions if portion]

    def read(self, size: int, /) -> bytes:
        return self._portions.pop(0) if self._portions else b""


@pytest.fixture
def pipe() -> Iterator[tuple[io.FileIO, io.FileIO]]:
    """A real pipe, unbuffered at both ends."""
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as reader, open(writing, "wb", buffering=0) as writer:
        yield reader, writer


async def test_lines_come_in_order_and_refused_ones_are_answered_and_skipped() -> None:
    data = b'{"a":1}\n{"a":\n{"a":2}\r\n\n[1]\n{"a":NaN}\n{"a":3}\n'
    messages, reasons = await read_all(io.BytesIO(data))
    assert messages == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert reasons == ["not_json", "empty", "not_an_object", "not_a_number"]


async def test_a_last_line_without_a_newline_is_a_line() -> None:
    assert await read_all(io.BytesIO(b'{"a":1}\n{"a":2}')) == ([{"a": 1}, {"a": 2}], [])
    assert await read_all(io.BytesIO(b'{"a":1}\n{"a":')) == ([{"a": 1}], ["not_json"])
    assert await read_all(io.BytesIO(b"")) == ([], [])


async def test_only_a_newline_ends_a_line() -> None:
    data = '{"a":"\u2028\u2029\u0085"}\n'.encode()
    assert await read_all(io.BytesIO(data)) == ([{"a": "\u2028\u2029\u0085"}], [])
    assert await read_all(io.BytesIO(b'{"a":1}\r{"a":2}\n')) == ([], ["not_json"])


async def test_an_overlong_line_is_answered_once_and_the_next_line_is_served() -> None:
    line = b'{"a":"' + b"x" * 56 + b'"}\n'
    over = b'{"a":"' + b"x" * 57 + b'"}\n'
    messages, reasons = await read_all(io.BytesIO(line + over + b'{"b":1}\n' + over * 2 + line), SMALL)
    assert messages == [{"a": "x" * 56}, {"b": 1}, {"a": "x" * 56}]
    assert reasons == [FrameFault.TOO_LARGE] * 3


@pytest.mark.parametrize("width", [1, 7, 64, 65, 1000])
async def test_an_overlong_line_is_answered_once_however_it_is_cut(width: int) -> None:
    data = b'{"a":1}\n' + b"[" * 500 + b'\n{"a":2}\n' + b"y" * 500
    portions = [data[at : at + width] for at in range(0, len(data), width)]
    messages, reasons = await read_all(Dribble(portions), SMALL)
    assert messages == [{"a": 1}, {"a": 2}]
    assert reasons == [FrameFault.TOO_LARGE] * 2


async def test_fifty_megabytes_in_one_line_are_dropped_as_they_stream(
    pipe: tuple[io.FileIO, io.FileIO],
) -> None:
    reader, writer = pipe

    def send() -> None:
        piece = b"[" * 1_000_000
        with writer:
            for _ in range(50):
                sent = 0
                while sent < len(piece):
                    sent += writer.write(piece[sent:]) or 0
            writer.write(b'\n{"a":1}\n')

    sender = threading.Thread(target=send)
    tracemalloc.start()
    try:
        sender.start()
        messages, reasons = await read_all(reader)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        sender.join()
    assert messages == [{"a": 1}]
    assert reasons == [FrameFault.TOO_LARGE]
    assert peak < 16 * 1024 * 1024  # the bound is 4 MiB; a growing buffer is copied once or twice


async def test_a_line_is_answered_while_the_pipe_stays_open(pipe: tuple[io.FileIO, io.FileIO]) -> None:
    reader, writer = pipe
    lines = aiter(LineReader(reader, Answers()))
    for number in range(3):
        writer.write(b'{"a":%d}\n' % number)
        assert (await anext(lines)).message == {"a": number}
    writer.write(b'{"half"')
    waiting = asyncio.ensure_future(anext(lines))
    writer.write(b":1}\n")
    assert (await waiting).message == {"half": 1}
    writer.close()
    with pytest.raises(StopAsyncIteration):
        await anext(lines)


async def test_waiting_for_input_can_be_cancelled(pipe: tuple[io.FileIO, io.FileIO]) -> None:
    reader, writer = pipe
    lines = aiter(LineReader(reader, Answers()))
    writer.write(b"{}\n")
    await anext(lines)
    waiting = asyncio.ensure_future(anext(lines))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    writer.close()


async def test_a_client_that_floods_is_made_to_wait() -> None:
    class Flood:
        """10,000 chunks at once; notes how far the reading runs ahead of the taking."""

        def __init__(self) -> None:
            self.reads = 0
            self.taken = 0
            self.ahead = 0

        def read(self, size: int, /) -> bytes:
            assert size == CHUNK_BYTES
            self.reads += 1
            self.ahead = max(self.ahead, self.reads - self.taken)
            return b"{}\n" if self.reads <= 10_000 else b""

    stream = Flood()
    async for _ in LineReader(stream, Answers()):
        stream.taken += 1
    assert stream.taken == 10_000
    assert stream.ahead <= CHUNKS_AHEAD + 1  # one more: a chunk is taken before its line is counted here


async def test_refused_lines_do_not_starve_other_tasks() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    _, reasons = await read_all(io.BytesIO(b"x\n" * 100))
    task.cancel()
    assert len(reasons) == 100
    assert turns >= 100


async def test_a_message_keeps_the_bytes_that_were_received() -> None:
    data = '{"a":"€"} \n{"a":1,"a":2}\n {"b":[1.50]}\r\n'.encode()
    answers = Answers()
    lines = [framed.data async for framed in LineReader(io.BytesIO(data), answers)]
    assert lines == ['{"a":"€"} '.encode(), b' {"b":[1.50]}\r']
    assert answers.reasons == [FrameFault.DUPLICATE_KEY]


async def test_one_stdin_is_read_once() -> None:
    reader = LineReader(io.BytesIO(b"{}\n"), Answers())
    async for _ in reader:
        pass
    with pytest.raises(RuntimeError, match="being read already"):
        async for _ in reader:
            pass


async def test_a_buffered_stream_gives_a_line_before_its_buffer_is_full(
    pipe: tuple[io.FileIO, io.FileIO],
) -> None:
    reader, writer = pipe
    with io.BufferedReader(io.FileIO(os.dup(reader.fileno()))) as buffered:
        lines = aiter(LineReader(buffered, Answers()))
        writer.write(b'{"a":1}\n')
        assert (await anext(lines)).message == {"a": 1}
        writer.close()
        with pytest.raises(StopAsyncIteration):
            await anext(lines)


async def test_a_pipe_that_came_non_blocking_is_waited_for(pipe: tuple[io.FileIO, io.FileIO]) -> None:
    reader, writer = pipe
    os.set_blocking(reader.fileno(), False)
    lines = aiter(LineReader(reader, Answers()))
    waiting = asyncio.ensure_future(anext(lines))
    await asyncio.sleep(0)
    writer.write(b'{"a":1}\n')
    assert (await waiting).message == {"a": 1}
    writer.close()
    with pytest.raises(StopAsyncIteration):
        await anext(lines)


async def test_a_read_that_fails_is_the_end_of_input() -> None:
    class Broken:
        def read(self, size: int, /) -> bytes:
            raise OSError(5, "Input/output error")

    assert await read_all(Broken()) == ([], [])


LEAVES_WHILE_STDIN_IS_OPEN = """
import asyncio, sys
from comptroller_server.face.lines import LineReader

async def answer(line):
    pass

async def main():
    async for framed in LineReader(open(0, "rb", buffering=0, closefd=False), answer):
        print(framed.message, flush=True)
        return

asyncio.run(main())
"""


async def test_a_process_can_end_while_its_stdin_stays_open() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        LEAVES_WHILE_STDIN_IS_OPEN,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(b'{"a":1}\n')
    try:
        async with asyncio.timeout(30):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        out, errors = await process.communicate()
    assert (out, errors) == (b"{'a': 1}\n", b"")


portions = st.lists(st.text('{}":a1[]\n\r \\', max_size=12).map(str.encode), max_size=12)


@given(portions)
def test_how_the_bytes_are_cut_never_changes_what_is_read(cuts: list[bytes]) -> None:
    limits = FrameLimits(bytes_max=10)
    whole = asyncio.run(read_all(Dribble([b"".join(cuts)]), limits))
    assert asyncio.run(read_all(Dribble(cuts), limits)) == whole
