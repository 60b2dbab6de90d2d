from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp_types import TextContent

from comptroller_server.call.proposal import Answer, Proposal
from comptroller_server.face.claiming import Wire
from comptroller_server.face.identity import LocalIdentity
from comptroller_server.face.protocol import build_server
from comptroller_server.face.stdio import UNANSWERED_MAX, serve_stdio
from tests.server.small_governor import SECRET, SmallGovernor

pytestmark = pytest.mark.anyio

ERAS = ["auto", "legacy"]
SERVER = str(Path(__file__).with_name("stdio_server.py"))
MODERN: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


def parameters(drain_s: float = 5) -> StdioServerParameters:
    return StdioServerParameters(command=sys.executable, args=[SERVER, str(drain_s)])


class Lines:
    """The client's end of a connection, line by line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def call(self, request: Any, method: str, /, **params: Any) -> None:
        body = {"jsonrpc": "2.0", "id": request, "method": method, "params": {**params, "_meta": MODERN}}
        self.write(json.dumps(body).encode() + b"\n")

    async def answer(self) -> dict[str, Any]:
        async with asyncio.timeout(60):
            answer: dict[str, Any] = json.loads(await self._reader.readline())
        return answer

    async def end(self) -> list[dict[str, Any]]:
        """Close our end; what else was answered until the server closed its own."""
        self.writer.close()
        async with asyncio.timeout(60):
            return [json.loads(line) for line in (await self._reader.read()).splitlines()]


@dataclass
class Served:
    """`serve_stdio` in this process, on pipes; `left` is what it returns."""

    lines: Lines
    governor: SmallGovernor
    serving: asyncio.Task[int]
    stop: asyncio.Event
    stdout: int

    async def left(self) -> int:
        async with asyncio.timeout(60):
            return await self.serving


@asynccontextmanager
async def served(drain_s: float = 5, *, reading: bool = True) -> AsyncGenerator[Served]:
    """With `reading` false the client has its end of stdout and never reads it."""
    governor = SmallGovernor()
    subject = LocalIdentity("test", "ana", [], ["bot"], Path("/nonexistent")).stdio_subject("bot")
    server = build_server(governor, subject_of=lambda ctx: subject, version="1")
    (stdin, to_server), (from_server, stdout) = os.pipe(), os.pipe()
    stop = asyncio.Event()
    wire = Wire(io.FileIO(stdin, "rb", closefd=False), stdout)
    serving = asyncio.create_task(serve_stdio(server, wire=wire, drain_s=drain_s, stop=stop))
    serving.add_done_callback(lambda _: os.close(stdout))
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**24)
    protocol = asyncio.StreamReaderProtocol(reader)
    receiving: asyncio.ReadTransport | None = None
    if reading:
        receiving, _ = await loop.connect_read_pipe(lambda: protocol, open(from_server, "rb"))  # noqa: ASYNC230, SIM115 - a pipe, closed by its transport
    sending, flow = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, open(to_server, "wb"))  # noqa: ASYNC230, SIM115 - a pipe, closed by its transport
    writer = asyncio.StreamWriter(sending, flow, None, loop)
    try:
        yield Served(Lines(reader, writer), governor, serving, stop, from_server)
    finally:
        writer.close()
        stop.set()
        governor.release.set()
        await asyncio.wait({serving})
        if receiving is not None:
            receiving.close()
        os.close(stdin)


@dataclass
class Child:
    process: asyncio.subprocess.Process
    lines: Lines


@asynccontextmanager
async def child(*more: str) -> AsyncGenerator[Child]:
    """A server process of its own."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, SERVER, "5", *more, stdin=pipe, stdout=pipe, stderr=pipe
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Child(process, Lines(process.stdout, process.stdin))
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("era", ERAS)
async def test_a_real_client_over_stdio(era: Any) -> None:
    heard: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    async with Client(parameters(), mode=era) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        result = await client.call_tool("whoami", {"q": "ü" * 10_000})
        await client.call_tool("steps", {}, progress_callback=hear)
        broken = await client.call_tool("broken", {})
        noisy = [await client.call_tool("noisy", {}) for _ in range(2)]
        try:
            await client.call_tool("for-admins", {})
        except MCPError as error:
            assert (error.code, error.message) == (-32602, "Unknown tool: for-admins")
        else:
            pytest.fail("a hidden tool was answered")
    assert "whoami" in names
    assert "for-admins" not in names
    assert result.structured_content == {
        "principal": "local:test|ana",
        "actor": "bot",
        "arguments": {"q": "ü" * 10_000},
    }
    assert heard == [1, 2, 3]
    assert SECRET not in broken.model_dump_json()
    assert [result.content for result in noisy] == [[TextContent(text="noisy done")]] * 2


async def test_stdout_holds_the_protocol_and_nothing_else() -> None:
    async with child() as server:
        server.lines.call(1, "tools/call", name="noisy", arguments={})
        assert (await server.lines.answer())["id"] == 1
        assert await server.lines.end() == []
        assert server.process.stderr is not None
        err = await server.process.stderr.read()
    for noise in (b"printed before serving", b"printed by a tool", b"written to fd 1", b"from a child"):
        assert noise in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_ends_it_in_order(number: signal.Signals) -> None:
    async with child("release") as server:
        server.lines.call(1, "tools/call", name="hold", arguments={})
        server.lines.call(2, "tools/call", name="whoami", arguments={})
        assert (await server.lines.answer())["id"] == 2
        server.process.send_signal(number)
        assert (await server.lines.answer())["id"] == 1
        async with asyncio.timeout(30):
            assert await server.process.wait() == 0


async def test_a_closed_stdout_is_named() -> None:
    command = f"exec {sys.executable} {SERVER} 1 >&-"
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("sh", "-c", command, stdin=pipe, stderr=pipe)
    _, err = await process.communicate()
    assert b"TransportError: stdin or stdout is closed" in err


_BAD_LINES = [
    (b"[" * 10_000, None, -32700),
    (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', None, -32700),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"n":NaN}}', None, -32700),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping\xff"}', None, -32700),
    (b"not json", None, -32700),
    (b"", None, -32700),
    (b"[]", None, -32700),
    (b'{"jsonrpc":"2.0"}', None, -32600),
    (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', 1, -32600),
    (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', None, -32600),
    (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', None, -32600),
    (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', None, -32600),
    (b'{"jsonrpc":"2.0","id":"x","method":7}', "x", -32600),
]
_HELLO: dict[str, Any] = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "raw", "version": "1"},
}


@pytest.mark.parametrize("era", ERAS)
async def test_a_bad_line_is_answered_and_never_ends_or_decides_the_connection(era: str) -> None:
    async def all_bad_lines(lines: Lines) -> None:
        for line, request, code in _BAD_LINES:
            lines.write(line + b"\n")
            answer = await lines.answer()
            assert (answer["id"], answer["error"]["code"]) == (request, code), line

    async with served() as on:
        await all_bad_lines(on.lines)
        envelope = MODERN
        if era == "legacy":
            body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": _HELLO}
            on.lines.write(json.dumps(body).encode() + b"\n")
            assert (await on.lines.answer())["result"]["protocolVersion"] == "2025-11-25"
            on.lines.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
            envelope = {}
        body = {"jsonrpc": "2.0", "id": "list", "method": "tools/list", "params": {"_meta": envelope}}
        for _ in range(2):
            on.lines.write(json.dumps(body).encode() + b"\n")
            assert "tools" in (await on.lines.answer())["result"]
            await all_bad_lines(on.lines)
        assert await on.lines.end() == []
        assert await on.left() == 0


async def test_a_line_far_too_long_is_answered_once_and_the_next_one_works() -> None:
    async with served() as on:
        for _ in range(50):
            on.lines.write(b"x" * 1_000_000)
            await on.lines.writer.drain()
        on.lines.write(b"\n")
        assert (await on.lines.answer())["error"]["data"] == {"reason": "too_large"}
        on.lines.call(2, "tools/call", name="whoami", arguments={})
        assert (await on.lines.answer())["id"] == 2
        assert await on.lines.end() == []


async def test_long_and_short_answers_and_refusals_arrive_whole() -> None:
    async with served() as on:
        for number in range(40):  # some fit into a pipe at once, some only in pieces
            fill = "x" * (number % 5) * 60_000
            on.lines.call(number, "tools/call", name="whoami", arguments={"fill": fill})
            on.lines.write(b"no json\n" * 5)
        answers = await on.lines.end()
    assert sorted(answer["id"] for answer in answers if "result" in answer) == list(range(40))
    assert sum(1 for answer in answers if "error" in answer) == 200


async def test_the_end_of_input_waits_for_a_call_in_flight() -> None:
    async with served() as on:
        on.lines.call(1, "tools/call", name="hold", arguments={})
        await on.governor.held.wait()
        ending = asyncio.create_task(on.lines.end())
        on.lines.writer.close()
        await asyncio.wait({on.serving}, timeout=0.1)
        assert not on.serving.done()
        on.governor.release.set()
        assert [answer["id"] for answer in await ending if "result" in answer] == [1]
        assert await on.left() == 0


async def test_the_end_of_input_does_not_wait_for_ever() -> None:
    async with served(0.1) as on:
        on.lines.call(1, "tools/call", name="hold", arguments={})
        await on.governor.held.wait()
        assert [answer["id"] for answer in await on.lines.end() if "error" in answer] == [1]
        assert await on.left() == 1
        assert on.governor.ended == []


async def test_a_cancelled_call_goes_on_and_the_end_waits_for_it_and_for_no_answer() -> None:
    async with served(60) as on:
        on.lines.call(1, "tools/call", name="hold", arguments={})
        await on.governor.held.wait()
        on.lines.write(b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}\n')
        on.lines.call(2, "tools/call", name="whoami", arguments={})
        assert (await on.lines.answer())["id"] == 2
        on.lines.writer.close()
        await asyncio.wait({on.serving}, timeout=0.1)
        assert not on.serving.done()
        on.governor.release.set()
        assert await on.lines.end() == []
        assert await on.left() == 0
        assert on.governor.ended == ["whoami", "hold"]


async def test_a_client_that_never_reads_cannot_hold_up_the_end() -> None:
    async with served(0.1, reading=False) as on:
        for number in range(20):
            on.lines.call(number, "tools/call", name="whoami", arguments={"fill": "x" * 100_000})
        await on.lines.writer.drain()
        on.lines.writer.close()
        assert await on.left() == 0
        assert len(on.governor.ended) == 20
        os.close(on.stdout)


async def test_a_client_that_floods_and_never_reads_is_not_read_either() -> None:
    async with served(0.1, reading=False) as on:
        for number in range(UNANSWERED_MAX + 500):
            on.lines.call(number, "tools/call", name="whoami", arguments={"fill": "x" * 1_000})
        async with asyncio.timeout(60):
            while len(on.governor.seen) < UNANSWERED_MAX:  # noqa: ASYNC110 - the flood has no event
                await asyncio.sleep(0.01)
            before = -1
            while len(on.governor.seen) > before:
                before = len(on.governor.seen)
                await asyncio.wait({on.serving}, timeout=0.2)
        assert len(on.governor.seen) < UNANSWERED_MAX + 200  # what fitted into the pipe had an answer
        os.close(on.stdout)


async def test_a_client_that_stops_listening_ends_the_server() -> None:
    async with served(reading=False) as on:
        os.close(on.stdout)
        on.lines.call(1, "tools/call", name="whoami", arguments={})
        assert await on.left() == 0  # its stdin is still open
        assert on.governor.ended == ["whoami"]


async def test_an_answer_that_is_no_unicode_is_still_an_answer() -> None:
    class Halved(SmallGovernor):
        async def call(self, proposal: Proposal) -> Answer:
            return Answer("half a character: \ud800")

    async with served() as on:
        on.governor.call = Halved().call  # type: ignore[method-assign]
        on.lines.call(1, "tools/call", name="whoami", arguments={})
        answer = await on.lines.answer()
        assert (answer["id"], answer["error"]["code"]) == (1, -32603)
        on.lines.call(2, "tools/list")
        assert (await on.lines.answer())["id"] == 2
