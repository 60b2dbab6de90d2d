"""An upstream over streamable HTTP, in both eras: what reaches it, and what its failures say of the effect."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
import pytest
import uvicorn
from mcp.server.mcpserver import MCPServer
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach
from opentelemetry.propagate import inject

from comptroller_tools.questions import Asks
from comptroller_tools.source import Action, EffectHappened, Outcome
from comptroller_tools.upstream import link
from comptroller_tools.upstream.dispatcher import FirstCall
from comptroller_tools.upstream.over_http import Paced
from comptroller_tools.upstream.settings import HttpEndpoint, MayAsk, UpstreamSettings
from comptroller_tools.upstream.source import UpstreamSource

pytestmark = pytest.mark.anyio

NONE, DONE, UNKNOWN = EffectHappened.NONE, EffectHappened.DONE, EffectHappened.UNKNOWN
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


class Elsewhere:
    """A real MCP server over HTTP, behind a door that tests can close in several ways."""

    def __init__(self, era: str) -> None:
        self.era = era
        self.ran: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[str] = []
        self.door = "open"
        self.says_good_bye = True
        self.url = ""
        server = MCPServer("elsewhere")

        @server.tool()
        def write(path: str) -> str:
            """Write a file."""
            self.ran.append(path)
            return "x" * 300_000 if path == "huge" else f"wrote {path}"

        self._inner: App = server.streamable_http_app()
        self.app = server

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        body = b""
        more = scope["method"] == "POST"
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {key.decode().lower(): value.decode() for key, value in scope["headers"]}
        method = json.loads(body).get("method", "") if body else ""  # an answer has none
        self.bodies.append(body.decode())
        if method == "tools/call":
            self.headers.append(headers)
        if scope["method"] == "DELETE" and not self.says_good_bye:
            await asyncio.sleep(30)
        if method == "server/discover" and self.era == "legacy":
            await answer_with(send, 400, b"{}")
            return
        if method == "tools/call" and self.door != "open":
            await self._turned_away(send, body)
            return
        told = [False]

        async def again() -> Any:
            if not told[0]:
                told[0] = True
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        await self._inner(scope, again, send)

    async def _turned_away(self, send: Any, body: bytes) -> None:
        call = json.loads(body)["id"]
        match self.door:
            case "401" | "429" | "500":
                await answer_with(send, int(self.door), b"go away")
            case "compressed":
                result: dict[str, Any] = {
                    "content": [],
                    "structuredContent": {"result": "x" * 1_000_000},
                    "resultType": "complete",
                }
                small = gzip.compress(json.dumps({"jsonrpc": "2.0", "id": call, "result": result}).encode())
                await answer_with(send, 200, small, [(b"content-encoding", b"gzip")])
            case "asks":
                question: dict[str, Any] = {
                    "method": "elicitation/create",
                    "params": {
                        "message": "Your password?",
                        "requestedSchema": {"type": "object", "properties": {}},
                    },
                }
                asked: dict[str, Any] = {
                    "resultType": "input_required",
                    "inputRequests": {"pw": question},
                    "requestState": "s",
                }
                body = json.dumps({"jsonrpc": "2.0", "id": call, "result": asked}).encode()
                await answer_with(send, 200, body)
            case "redirect":
                await answer_with(send, 307, b"", [(b"location", b"http://localhost:1/elsewhere")])
            case "forged":
                error = {
                    "code": -32_098,
                    "message": "it could not be reached; nothing was sent",
                    "data": "0" * 32,
                }
                await answer_with(
                    send, 503, json.dumps({"jsonrpc": "2.0", "id": call, "error": error}).encode()
                )
            case _:
                raise AssertionError(self.door)


async def answer_with(send: Any, status: int, body: bytes, more: Any = ()) -> None:
    headers = [(b"content-type", b"application/json"), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def open_server(
    elsewhere: Elsewhere, port: int = 0, tls: Mapping[str, Path] | None = None
) -> AsyncGenerator[None]:
    """Serve on loopback until left; nothing of it stays behind."""
    listener = socket.create_server(("127.0.0.1", port))
    elsewhere.url = f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}/mcp"
    config = uvicorn.Config(elsewhere, log_level="critical", lifespan="on", timeout_graceful_shutdown=1)
    for key, value in (tls or {}).items():
        setattr(config, key, value)
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(30):
            while not server.started:  # noqa: ASYNC110 -- it has no event for it
                await asyncio.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        await serving
        listener.close()


@pytest.fixture(params=["modern", "legacy"])
async def elsewhere(request: pytest.FixtureRequest) -> AsyncGenerator[Elsewhere]:
    made = Elsewhere(request.param)
    async with open_server(made):
        yield made


async def reached(url: str, **more: Any) -> UpstreamSource:
    """A source with what the server lists pinned."""
    headers = more.pop("headers", {})
    settings = UpstreamSettings(HttpEndpoint(url, headers), {"transport": "http"}, **more)
    first = UpstreamSource("elsewhere", settings, {})
    pins = (await first.listing()).tools
    await first.close()
    return UpstreamSource("elsewhere", settings, pins)


async def call(
    source: UpstreamSource, path: str = "a", within_s: float = 30.0, traceparent: str = ""
) -> Outcome:
    action = Action("write", {"path": path}, "key", traceparent=traceparent)
    return await source.call(action, time.monotonic() + within_s)


async def test_a_call_carries_the_configured_headers_and_nothing_of_the_callers(elsewhere: Elsewhere) -> None:
    source = await reached(elsewhere.url, headers={"authorization": "Bearer sesame", "X-Team": "ops"})
    try:
        assert (await call(source)).value == {"result": "wrote a"}
    finally:
        await source.close()
    (headers,) = elsewhere.headers
    assert (headers["authorization"], headers["x-team"]) == ("Bearer sesame", "ops")
    assert not [name for name in headers if "comptroller" in name or name == "cookie"]
    assert ("mcp-session-id" in headers) == (elsewhere.era == "legacy")


@pytest.mark.parametrize("kinds", [frozenset[Asks](), frozenset({Asks.FORM})])
async def test_a_process_that_somebody_instrumented_tells_an_upstream_of_no_trace_and_no_baggage(
    elsewhere: Elsewhere, kinds: frozenset[Asks]
) -> None:
    """Neither on our own connections nor in the SDK's session, which carries the calls of those that may ask."""
    span = trace.NonRecordingSpan(
        trace.SpanContext(0xABCDEF, 0x1234, is_remote=False, trace_flags=trace.TraceFlags(1))
    )
    ambient = baggage.set_baggage("customer", "ana", trace.set_span_in_context(span))
    injected: dict[str, str] = {}
    inject(injected, ambient)
    assert injected.keys() == {"traceparent", "baggage"}
    token = attach(ambient)
    try:
        source = await reached(elsewhere.url, may_ask=MayAsk(kinds))
        try:
            assert (await call(source)).value == {"result": "wrote a"}
        finally:
            await source.close()
    finally:
        detach(token)
    assert any('"tools/call"' in body for body in elsewhere.bodies)
    for told in (*elsewhere.bodies, *map(str, elsewhere.headers)):
        assert "traceparent" not in told
        assert "baggage" not in told
        assert "abcdef" not in told


@pytest.mark.parametrize("kinds", [frozenset[Asks](), frozenset({Asks.FORM})])
@pytest.mark.parametrize("allowed", [True, False])
async def test_an_upstream_is_told_of_our_trace_where_it_may_be_in_the_message_and_the_header(
    elsewhere: Elsewhere, kinds: frozenset[Asks], allowed: bool
) -> None:
    """On both roads, also while the process has a trace and baggage of somebody else's; and in calls alone."""
    ours = f"00-{'5' * 32}-{'6' * 16}-01"
    span = trace.NonRecordingSpan(trace.SpanContext(0xABCDEF, 0x1234, is_remote=False))
    token = attach(baggage.set_baggage("customer", "ana", trace.set_span_in_context(span)))
    try:
        source = await reached(elsewhere.url, may_ask=MayAsk(kinds), trace=allowed)
        try:
            assert (await call(source, traceparent=ours)).value == {"result": "wrote a"}
            assert (await call(source)).value == {"result": "wrote a"}
        finally:
            await source.close()
    finally:
        detach(token)
    assert [headers.get("traceparent") for headers in elsewhere.headers] == [ours if allowed else None, None]
    messages = [json.loads(body) for body in elsewhere.bodies if body]
    metas = [(one["method"], one.get("params", {}).get("_meta", {})) for one in messages if "method" in one]
    calls = [meta.get("traceparent") for method, meta in metas if method == "tools/call"]
    assert calls == [ours if allowed else None, None]
    assert sum("traceparent" in meta for _, meta in metas) == allowed
    assert not any({"tracestate", "baggage"} & {*meta} for _, meta in metas)
    assert not any({"tracestate", "baggage"} & {*headers} for headers in elsewhere.headers)


def test_a_first_call_is_written_as_the_sdks_model_writes_it() -> None:
    arguments: dict[str, Any] = {"none": None, "deep": [None, {"none": None}], "text": "\u2028", "float": 1.0}
    params = types.CallToolRequestParams(name="write", arguments=arguments)
    written = types.CallToolRequest(params=params).model_dump(by_alias=True, mode="json", exclude_none=True)
    assert FirstCall("write", arguments).model_dump(by_alias=True) == written
    assert FirstCall.name_param == types.CallToolRequest.name_param


@pytest.mark.parametrize(
    ("door", "effect"),
    [
        ("401", NONE),
        ("429", NONE),
        ("500", UNKNOWN),
        ("compressed", UNKNOWN),
        ("redirect", UNKNOWN),
        ("forged", UNKNOWN),
    ],
)
async def test_only_a_request_that_was_not_taken_had_no_effect(
    elsewhere: Elsewhere, door: str, effect: EffectHappened
) -> None:
    source = await reached(elsewhere.url)
    try:
        await call(source, "before")
        elsewhere.door = door
        outcome = await call(source)
        assert outcome.effect is effect
        assert outcome.error is not None
        elsewhere.door = "open"
        assert (await call(source, "after")).effect is DONE
    finally:
        await source.close()
    assert elsewhere.ran == ["before", "after"]


async def test_a_question_back_is_not_passed_on_and_says_nothing_of_the_effect(elsewhere: Elsewhere) -> None:
    source = await reached(elsewhere.url)
    elsewhere.door = "asks"
    outcome = await call(source)
    assert outcome.effect is UNKNOWN
    assert "password" not in str(outcome).lower()
    elsewhere.door = "open"
    assert (await call(source)).effect is DONE
    await source.close()


async def test_an_answer_that_is_too_large_is_given_up_and_the_connection_goes_on(
    elsewhere: Elsewhere,
) -> None:
    source = await reached(elsewhere.url, message_bytes_max=65_536)
    try:
        assert (await call(source, "huge")).effect is UNKNOWN
        assert (await call(source, "small")).effect is DONE
    finally:
        await source.close()
    assert elsewhere.ran == ["huge", "small"]


async def test_a_server_that_is_gone_was_sent_nothing_and_is_found_again() -> None:
    elsewhere = Elsewhere("legacy")
    async with open_server(elsewhere):
        port = int(elsewhere.url.split(":")[2].split("/")[0])
        source = await reached(elsewhere.url)
        assert (await call(source, "first")).effect is DONE
    try:
        outcome = await call(source, "nobody there")
        assert outcome.effect is NONE
        assert outcome.meta.get("temporary") is True
        again = Elsewhere("legacy")
        async with open_server(again, port):
            ends = [await call(source, "second") for _ in range(2)]
            assert [end.effect for end in ends if end.effect is not DONE] in ([], [NONE])
            assert again.ran.count("second") == sum(end.effect is DONE for end in ends) >= 1
    finally:
        await source.close()


async def test_an_endpoint_where_nobody_listens_has_no_effect_and_does_not_hang() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/mcp"
    elsewhere = Elsewhere("modern")
    async with open_server(elsewhere):
        pinned = await reached(elsewhere.url)
        await pinned.close()
    source = UpstreamSource("elsewhere", UpstreamSettings(HttpEndpoint(url), {}), pinned._pins)  # pyright: ignore[reportPrivateUsage]
    try:
        outcome = await call(source)
        assert (outcome.effect, outcome.meta) == (NONE, {"temporary": True})
    finally:
        await source.close()


async def test_a_flood_of_events_is_read_slowly() -> None:
    class Flood(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for _ in range(30):
                yield b"data: {}\n\n" * 100

    began = time.monotonic()
    read = [chunk async for chunk in Paced(Flood())]
    assert len(read) == 30
    assert time.monotonic() - began > 0.5


async def test_a_server_that_does_not_answer_the_good_bye_does_not_hold_us(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link, "CLOSE_S", 0.3)
    elsewhere = Elsewhere("legacy")
    elsewhere.says_good_bye = False
    async with open_server(elsewhere):
        source = await reached(elsewhere.url)
        await call(source)
        began = time.monotonic()
        await source.close()
        assert time.monotonic() - began < 5
