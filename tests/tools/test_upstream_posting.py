"""Calls over kept connections of our own: what is sent and heard, and what every odd answer says of the effect."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from itertools import pairwise
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.exceptions import MCPError
from mcp_types import JSONRPCMessage, JSONRPCNotification

from comptroller_tools.source import Action, EffectHappened
from comptroller_tools.upstream import connections, posting
from comptroller_tools.upstream.connections import Connection
from comptroller_tools.upstream.events import Event, Events, TooLong
from comptroller_tools.upstream.posting import BrokenOff, Posts
from comptroller_tools.upstream.reaching import NOT_PUBLIC, Reach, reach_of
from comptroller_tools.upstream.refusals import Refusals
from comptroller_tools.upstream.settings import HttpEndpoint
from tests.scenarios.kit import until
from tests.tools.test_upstream_http import Elsewhere, open_server, reached

pytestmark = pytest.mark.anyio

Scripted = Callable[[dict[str, Any], asyncio.StreamWriter], Awaitable[None]]
MOST = 20_000


class Wire:
    """A server that reads requests and writes whatever bytes a test says."""

    def __init__(self) -> None:
        self.answer: Scripted = json_result
        self.heads: list[str] = []
        self.connections = 0
        self.ended = 0
        self.refusals = Refusals()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.heads.append(head)
                length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
                await self.answer(json.loads(await reader.readexactly(length)), writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.ended += 1
            writer.close()


@contextlib.asynccontextmanager
async def wired(**more: Any) -> AsyncGenerator[tuple[Wire, Posts]]:
    wire = Wire()
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    endpoint = HttpEndpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp?a=b", **more)
    async with httpx2.AsyncClient() as plain:
        posts = Posts(endpoint, MOST, wire.refusals, None, plain, reach_of(endpoint))
        try:
            yield wire, posts
        finally:
            await posts.aclose()
            server.close()
            await until(lambda: wire.ended == wire.connections)


async def ask(
    posts: Posts,
    call: int = 1,
    heard: list[JSONRPCMessage] | None = None,
    name: str = "look",
) -> Any:
    async def hear(message: JSONRPCMessage) -> None:
        if heard is not None:
            heard.append(message)

    message = {"jsonrpc": "2.0", "id": call, "method": "tools/call", "params": {"n": call}}
    return await posts.ask(message, {"Mcp-Name": name}, lambda: None, hear)


def head(kind: str = "application/json", status: str = "200 OK", **more: Any) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-type: {kind}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def plain(message: Any, **more: Any) -> bytes:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    given: dict[str, Any] = {"content_length": len(body), **more}
    return head(**given) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(message: Any) -> bytes:
    return b"event: message\r\ndata: " + json.dumps(message).encode() + b"\r\n\r\n"


def result(call: Any, **value: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": call, "result": value}


EVENTS = head("text/event-stream", transfer_encoding="chunked")


async def json_result(message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    writer.write(plain(result(message["id"], n=message["params"]["n"])))


async def event_result(message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    told = [
        {"jsonrpc": "2.0", "method": "notifications/message", "params": {"n": number}} for number in range(2)
    ]
    writer.write(EVENTS + chunk(b": hello\n\n"))
    for one in (*told, result(message["id"], n=message["params"]["n"])):
        writer.write(chunk(event(one)))
    await writer.drain()
    writer.write(b"0\r\n\r\n")


@pytest.mark.parametrize("answer", [json_result, event_result])
async def test_calls_one_after_the_other_use_one_connection(answer: Scripted) -> None:
    async with wired(headers={"X-Team": "ops"}) as (wire, posts):
        wire.answer = answer
        wire.refusals.session = "s-1"
        for number in range(4):
            assert await ask(posts, number) == {"n": number}
            kept = posts._connections._kept  # pyright: ignore[reportPrivateUsage]
            await until(lambda kept=kept: len(kept) == 1)  # type: ignore[misc]
        assert wire.connections == 1
    first = wire.heads[0].lower().split("\r\n")
    assert first[0] == "post /mcp?a=b http/1.1"
    for line in ("x-team: ops", "mcp-session-id: s-1", "mcp-name: look", "accept-encoding: identity"):
        assert line in first


async def test_many_calls_at_once_each_get_their_own_answer() -> None:
    async with wired() as (wire, posts):
        found = await asyncio.gather(*(ask(posts, number) for number in range(32)))
        assert found == [{"n": number} for number in range(32)]
        assert wire.connections <= 32


async def test_what_is_told_before_the_answer_is_heard_in_order() -> None:
    async with wired() as (wire, posts):
        wire.answer = event_result
        heard: list[JSONRPCMessage] = []
        assert await ask(posts, heard=heard) == {"n": 1}
    assert [one.params for one in heard if isinstance(one, JSONRPCNotification)] == [{"n": 0}, {"n": 1}]


ERROR = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "no"}}


@pytest.mark.parametrize(
    ("answer", "taken", "code"),
    [
        (plain(b"{}", status="401 Go"), False, None),
        (plain(b"{}", status="429 Go"), False, None),
        (plain(ERROR), True, -32602),
        (plain(ERROR, status="400 Bad"), True, -32602),
        (plain(b"no", status="500 Oh"), True, -32603),
        (plain(b"", status="202 Later"), True, -32600),
        (plain(b"<p>", kind="text/html"), True, -32600),
        (plain(b"{"), True, -32700),
        (plain(b"[" * 9_000), True, -32700),
        (plain({"jsonrpc": "2.0", "id": 1, "result": 7}), True, -32700),
        (plain(result(1, x="x" * MOST)), True, -32700),
        (plain(result(1), content_encoding="gzip"), True, -32099),
        (plain(result(1))[:-3], True, -32099),
        (b"", True, -32099),
        (b"SSH-2.0-x\r\n", True, -32099),
        (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", True, -32099),
        (EVENTS + chunk(event(result(2))), True, -32700),
        (EVENTS + chunk(b"data: {\n\n"), True, -32700),
        (EVENTS + chunk(b"data: " + b"x" * 2 * MOST), True, -32000),
        (EVENTS + b"0\r\n\r\n", True, -32000),
        (EVENTS + b"nonsense\r\n", True, -32099),
    ],
)
async def test_an_odd_answer_ends_the_call_and_says_whether_it_was_taken(
    answer: bytes, taken: bool, code: int | None
) -> None:
    async with wired() as (wire, posts):

        async def odd(_: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            writer.close()

        wire.answer = odd
        with pytest.raises(MCPError) as raised:
            async with asyncio.timeout(10):
                await ask(posts)
        assert wire.refusals.not_taken(raised.value.error.data) is not taken
        assert code in (None, raised.value.code)
        await until(lambda: wire.ended == 1)
        wire.answer = json_result
        assert await ask(posts, 5) == {"n": 5}


async def test_an_answer_that_ends_with_its_connection_counts() -> None:
    async with wired() as (wire, posts):

        async def odd(message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" + head() + json.dumps(result(1, n=3)).encode())
            writer.close()

        wire.answer = odd
        assert await ask(posts) == {"n": 3}


async def test_bytes_that_nobody_asked_for_are_the_answer_to_no_call() -> None:
    async with wired() as (wire, posts):

        async def twice(message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            writer.write(plain(result(message["id"], n="first")))
            writer.write(plain(result(message["id"] + 1, n="smuggled")))

        wire.answer = twice
        assert await ask(posts, 1) == {"n": "first"}
        wire.answer = json_result
        assert await ask(posts, 2) == {"n": 2}
        assert wire.connections == 2


@pytest.mark.parametrize("answered", [2, True, None, 1.5])
async def test_an_answer_to_another_call_is_none(answered: Any) -> None:
    async with wired() as (wire, posts):

        async def mixed_up(_: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            writer.write(plain(result(answered, n="theirs")))

        wire.answer = mixed_up
        with pytest.raises(MCPError):
            await ask(posts)


async def test_a_server_that_begins_to_redirect_is_left_to_the_session() -> None:
    async with wired() as (wire, posts):

        async def redirect(_: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            writer.write(plain(b"", status="307 There", location="/mcp"))

        wire.answer = redirect
        assert posts.usable
        with pytest.raises(MCPError) as raised:
            await ask(posts)
        assert not wire.refusals.not_taken(raised.value.error.data)
        assert not posts.usable
        assert len(wire.heads) == 1


async def test_headers_without_an_end_end_the_call() -> None:
    async with wired() as (wire, posts):

        async def endless(_: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 400_000)

        wire.answer = endless
        with pytest.raises(MCPError):
            async with asyncio.timeout(10):
                await ask(posts)


async def test_a_connection_that_lies_idle_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE_S", 0.05)
    async with wired() as (wire, posts):
        await ask(posts)
        await until(lambda: wire.ended == 1)
        assert await ask(posts, 2) == {"n": 2}


async def test_a_header_that_would_be_two_is_not_written() -> None:
    async with wired() as (wire, posts):
        with pytest.raises(MCPError) as raised:
            await ask(posts, name="a\r\nx-admin: 1")
        assert wire.refusals.not_taken(raised.value.error.data)
        assert wire.heads == []


async def test_calls_go_only_to_addresses_that_are_allowed() -> None:
    async with wired() as (wire, posts):
        other = reach_of(HttpEndpoint("http://elsewhere.example/mcp"))
        posts._connections._addresses = Reach(other.trust, other.screened).addresses  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(MCPError, match="private_network") as raised:
            await ask(posts)
        assert NOT_PUBLIC in str(raised.value)
        assert wire.refusals.not_taken(raised.value.error.data)
        assert wire.connections == 0


async def test_a_call_that_is_given_up_leaves_no_connection() -> None:
    async with wired() as (wire, posts):
        came = asyncio.Event()

        async def silence(_: dict[str, Any], __: asyncio.StreamWriter) -> None:
            came.set()

        wire.answer = silence
        task = asyncio.create_task(ask(posts))
        await came.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: wire.ended == 1)


async def test_a_stream_that_breaks_off_says_where_to_go_on() -> None:
    async with wired() as (wire, posts):

        async def broken(_: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            writer.write(EVENTS + chunk(b"id: e1\nretry: 1500\ndata:\n\n") + b"0\r\n\r\n")

        wire.answer = broken
        with pytest.raises(BrokenOff) as raised:
            await ask(posts)
        assert (raised.value.event, raised.value.pause_s) == ("e1", 1.5)


async def test_an_answer_is_read_no_faster_than_it_is_taken() -> None:
    wire = Wire()

    async def much(_: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(plain(b"x" * 16_000_000))

    wire.answer = much
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, *server.sockets[0].getsockname())
    connection.begin(b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}")
    await connection.head()
    await until(lambda: connection._paused)  # pyright: ignore[reportPrivateUsage]
    parts = [part async for part in _parts(connection)]
    assert sum(map(len, parts)) == 16_000_000
    assert max(map(len, parts)) <= 2 * connections.AHEAD_BYTES_MAX
    connection.abort()
    server.close()


async def _parts(connection: Connection) -> AsyncGenerator[bytes]:
    while (part := await connection.more()) is not None:
        yield part


LINES = st.lists(
    st.sampled_from(
        ["data: a", "data:b", "data", ": no", "id: 7", "event: x", "retry: 5", "", "odd", "\ufeffé"]
    )
)


@given(LINES, st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 60)))
def test_events_are_the_same_however_they_are_cut(lines: list[str], end: str, cuts: list[int]) -> None:
    whole = (end.join(lines) + end).encode() + b"data: last\n\n"
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    decoder = Events(10_000)
    found: list[Event] = []
    for start, stop in pairwise(places):
        found += decoder.feed(whole[start:stop])
    assert found == Events(10_000).feed(whole)
    assert "last" in found[-1].data


def test_an_event_without_an_end_is_not_kept() -> None:
    decoder = Events(1_000)
    with pytest.raises(TooLong):
        for _ in range(1_001):
            decoder.feed(b"data: x\n")


# -- through a source, at the SDK's own server ----------------------------------------------------------------------


class Watched(Elsewhere):
    """Also answers a call with a stream that breaks off, or not at all, and notes what else is said."""

    def __init__(self, era: str) -> None:
        super().__init__(era)
        self.cancelled: list[Any] = []
        self.left = asyncio.Event()
        self.call: Any = None
        self._receive: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "GET":
            last = dict(scope["headers"]).get(b"last-event-id")
            if last == b"e1":
                text = [{"type": "text", "text": "the rest"}]
                told = result(self.call, content=text, structuredContent={"result": "the rest"})
                await _events(send, event(told))
                return
        await super().__call__(scope, self._listening_to(receive), send)

    def _listening_to(self, receive: Any) -> Any:
        async def listen() -> Any:
            self._receive = receive
            message = await receive()
            with contextlib.suppress(ValueError, TypeError):
                said = json.loads(message.get("body", b""))
                if said["method"] == "notifications/cancelled":
                    self.cancelled.append(said["params"]["requestId"])
            return message

        return listen

    async def _turned_away(self, send: Any, body: bytes) -> None:
        receive = self._receive
        self.call = json.loads(body)["id"]
        if self.door == "broken":
            await _events(send, b"id: e1\nretry: 1\ndata:\n\n")
            return
        if self.door == "silence":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left.set()
            return
        await super()._turned_away(send, body)


async def _events(send: Any, body: bytes) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def test_a_broken_off_answer_is_fetched_and_the_call_not_repeated() -> None:
    elsewhere = Watched("legacy")
    async with open_server(elsewhere):
        source = await reached(elsewhere.url)
        elsewhere.door = "broken"
        outcome = await source.call(Action("write", {"path": "a"}, "key"), time.monotonic() + 30)
        await source.close()
    assert (outcome.effect, outcome.value) == (EffectHappened.DONE, {"result": "the rest"})
    assert len(elsewhere.headers) == 1


@pytest.mark.parametrize(
    ("door", "effect"), [("401", EffectHappened.NONE), ("compressed", EffectHappened.UNKNOWN)]
)
async def test_a_server_that_redirects_is_called_by_the_session_under_the_same_rules(
    monkeypatch: pytest.MonkeyPatch, door: str, effect: EffectHappened
) -> None:
    monkeypatch.setattr(posting.Posts, "usable", False)
    elsewhere = Elsewhere("modern")
    async with open_server(elsewhere):
        source = await reached(elsewhere.url)
        elsewhere.door = door
        outcome = await source.call(Action("write", {"path": "a"}, "key"), time.monotonic() + 30)
        await source.close()
    assert outcome.effect is effect


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_an_upstream_is_told_that_nobody_waits_in_the_way_of_its_era(era: str) -> None:
    elsewhere = Watched(era)
    async with open_server(elsewhere):
        source = await reached(elsewhere.url)
        elsewhere.door = "silence"
        given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        action = Action("write", {"path": "a"}, "key", given_up=given_up)
        calling = asyncio.create_task(source.call(action, time.monotonic() + 30))
        await until(lambda: elsewhere.call is not None)
        given_up.set_result(None)
        assert (await calling).effect is EffectHappened.UNKNOWN
        async with asyncio.timeout(10):
            await elsewhere.left.wait()
        await until(lambda: era == "modern" or elsewhere.cancelled == [elsewhere.call])
        await source.close()
    assert elsewhere.cancelled == ([] if era == "modern" else [elsewhere.call])
