"""What a web page, a greedy client or a thief of session ids would try on our HTTP face, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from comptroller_server.face import http as http_module
from comptroller_server.face import notices, wire
from comptroller_server.face.http import PATH, build_app, serve_http, subject_of
from comptroller_server.face.protocol import build_server
from tests.scenarios.kit import Shop, opened, until
from tests.scenarios.test_relay import behind
from tests.scenarios.test_telemetry import watched
from tests.scenarios.test_upstreams import READS
from tests.scenarios.upstream_kit import LOOK, Upstream
from tests.server.test_exchange import CALL
from tests.server.test_http import Running, modern, running, send, with_headers
from tests.server.test_http_wire import connected, ended

pytestmark = pytest.mark.anyio

TYPES = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
INITIALIZE: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "raw", "version": "1"},
    },
}


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
async def test_what_a_page_may_send_without_asking_is_no_call_on_any_road(tmp_path: Path, kind: Any) -> None:
    """Browsers send these to other origins without a question first, so they are refused beside all else."""
    async with running(tmp_path) as on:
        got = await send(on, **with_headers(CALL, **{"Content-Type": kind}))
        assert got.status_code == 400
        assert on.governor.seen == []


# -- pages and names --------------------------------------------------------------------------------------------------

ROUTES = [
    "/mcp",
    "/metrics",
    "/readyz",
    "/healthz",
    "/decide/",
    "/decide/0191f1de-0000-7000-8000-000000000000",
]


@asynccontextmanager
async def whole_face(shop: Shop) -> AsyncGenerator[str]:
    """Everything that `serve --http` serves, with metrics; `host:port`."""
    service = shop.service
    server = build_server(
        service.pipeline, subject_of=subject_of, version="1", offers=service.offers, news=service.news
    )
    assert service.metrics is not None
    stop, url = asyncio.Event(), asyncio.get_running_loop().create_future()
    identity = service.installation.identity
    app = build_app(server, identity, metrics=service.metrics.answer, readiness=service.readiness.look)
    serving = asyncio.create_task(serve_http(app, "127.0.0.1", 0, ready=url.set_result, stop=stop, drain_s=2))
    try:
        yield (await url).removesuffix(PATH).removeprefix("http://")
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await serving


async def said_to(authority: str, head: str) -> bytes:
    """The whole answer to one raw request."""
    host, port = authority.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.replace("\n", "\r\n").encode("latin-1"))
    answer = await ended(reader)
    writer.close()
    return answer


async def test_no_route_answers_under_another_name_or_for_another_page(tmp_path: Path) -> None:
    """DNS rebinding, a page of another port, a file, a proxy's absolute form: each gets a refusal and nothing else."""
    async with opened(tmp_path, watched()) as shop, whole_face(shop) as own:
        port = own.rpartition(":")[2]
        token = shop.service.installation.identity.token_file("triage-bot").read_text().strip()
        wrong = {
            "Host: evil.example": 421,
            f"Host: evil.example:{port}": 421,
            f"Host: 127.0.0.1.evil.example:{port}": 421,
            f"Host: {own}\nHost: evil.example": 421,
            f"Host: {own}, evil.example": 421,
            f"Host: user@{own}": 421,
            "Host: 127.0.0.1:1": 421,
            "Host:": 421,
            "X-Forwarded-Host: 127.0.0.1": 421,
            f"Host: {own}\nOrigin: http://evil.example": 403,
            f"Host: {own}\nOrigin: null": 403,
            f"Host: {own}\nOrigin: http://127.0.0.1:1": 403,
            f"Host: {own}\nOrigin: https://{own}": 403,
            f"Host: {own}\nOrigin: http://{own}\nOrigin: http://evil.example": 403,
            f"Host: {own}\nOrigin: http://{own}.evil.example": 403,
        }
        for route in ROUTES:
            for method in ("GET", "POST", "OPTIONS"):
                for headers, status in wrong.items():
                    more = f"{headers}\nAuthorization: Bearer {token}\nContent-Length: 0\nConnection: close"
                    answer = await said_to(own, f"{method} {route} HTTP/1.1\n{more}\n\n")
                    assert answer.startswith(b"HTTP/1.1 %d " % status), (route, method, headers, answer)
                    assert b"access-control" not in answer.lower()
                    assert b"comptroller_" not in answer
            for head in (
                f"GET http://evil.example{route} HTTP/1.1\nHost: evil.example\nConnection: close",
                f"GET {route} HTTP/1.0",
            ):
                answer = await said_to(own, f"{head}\n\n")
                assert b" 421 " in answer.partition(b"\r\n")[0], (head, answer)
        assert b" 200 " in await said_to(own, f"GET /metrics HTTP/1.1\nHost: {own}\nConnection: close\n\n")


@pytest.mark.parametrize(
    "route",
    ["/metrics/", "//metrics", "/./metrics", "/%6detrics", "/metrics;x", "/METRICS", "/mcp/../metrics"],
)
async def test_a_guarded_route_has_one_spelling(tmp_path: Path, route: str) -> None:
    """A proxy in front that shuts `/metrics` sees the same path as we do."""
    async with opened(tmp_path, watched()) as shop, whole_face(shop) as own:
        answer = await said_to(own, f"GET {route} HTTP/1.1\nHost: {own}\nConnection: close\n\n")
        assert b"comptroller_ready" not in answer or route == "/%6detrics", answer


async def test_what_anybody_may_ask_names_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, watched()) as shop, whole_face(shop) as own:
        for route in ("/healthz", "/readyz", "/decide/", "/"):
            answer = await said_to(own, f"GET {route} HTTP/1.1\nHost: {own}\nConnection: close\n\n")
            for word in ("desk", "refund", str(tmp_path), "triage", shop.service.installation.principal_key):
                assert word.encode() not in answer


# -- connections ------------------------------------------------------------------------------------------------------


async def session_of(on: Running, who: str = "bot", **headers: str) -> dict[str, str]:
    """The headers of a session of the 2025 era that `who` opened."""
    mine = {**TYPES, **on.bearer(who)}
    answer = await send(on, json=INITIALIZE, headers={**mine, **headers})
    assert answer.status_code == 200, answer.text
    return {
        **mine,
        "Mcp-Session-Id": answer.headers["mcp-session-id"],
        "MCP-Protocol-Version": "2025-11-25",
    }


@asynccontextmanager
async def streaming(on: Running, headers: dict[str, str]) -> AsyncGenerator[httpx.Response]:
    """A stream of the session that stays open, and is not read."""
    async with (
        httpx.AsyncClient(trust_env=False) as http,
        http.stream("GET", on.url, headers=headers) as answer,
    ):
        yield answer


async def test_a_client_that_holds_streams_open_leaves_connections_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have a thousand sessions, each with a stream: more than there are connections."""
    monkeypatch.setattr(http_module, "OPEN_MAX", 3)
    async with running(tmp_path) as on:
        sessions = [await session_of(on) for _ in range(4)]
        async with AsyncExitStack() as held:
            for session in sessions[:3]:
                assert (await held.enter_async_context(streaming(on, session))).status_code == 200
            requests: tuple[dict[str, Any], ...] = (
                {"method": "GET", "headers": sessions[3]},
                {"json": PING, "headers": sessions[0]},
                modern("tools/call", {"name": "whoami"}, "whoami"),
            )
            for request in requests:
                refused = await send(on, **request)
                assert refused.status_code == 503
                assert "end a stream" in refused.text
            other = await session_of(on, "desk")
            async with streaming(on, other) as answer:
                assert answer.status_code == 200
        async with asyncio.timeout(20):
            while (await send(on, json=PING, headers=sessions[0])).status_code != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("begin", [b"", b"GET /healthz HTTP/1.1\r\nX-More: "])
async def test_connections_without_a_request_lock_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    """Nobody needs a token to connect, so whoever connects most would be the only one."""
    monkeypatch.setattr(wire, "CONNECTIONS_MAX", 3)
    async with running(tmp_path) as on:
        asked = b"GET /healthz HTTP/1.1\r\nHost: %s\r\n\r\n" % on.authority.encode()
        held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        for _ in range(10):
            reader, writer = await connected(on)
            held.append((reader, writer))
            writer.write(asked)  # answered, and kept open
            async with asyncio.timeout(20):
                assert b" 200 " in await reader.readline()
                await reader.readuntil(b"ok\n")
            writer.write(begin)
            assert (await send(on, **modern("tools/call", {"name": "whoami"}, "whoami"))).status_code == 200
        reads = [asyncio.create_task(_hang_up(reader)) for reader, _ in held]
        await until(lambda: sum(one.done() for one in reads) >= 7)
        for (_, writer), one in zip(held, reads, strict=True):
            writer.close()
            await one


async def _hang_up(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        assert await reader.read(1) == b""


async def test_a_connection_with_an_open_request_makes_room_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "CONNECTIONS_MAX", 1)
    async with running(tmp_path) as on:
        asking = asyncio.create_task(send(on, **modern("tools/call", {"name": "hold"}, "hold")))
        await on.governor.held.wait()
        for _ in range(5):
            reader, writer = await connected(on)
            assert await ended(reader) == b""
            writer.close()
        on.governor.release.set()
        assert "hold done" in (await asking).text


async def test_a_client_that_reads_no_answer_holds_no_connection_for_ever_and_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "READ_WAIT_S", 0.2)
    async with running(tmp_path) as on:
        host, port = on.authority.split(":")
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, (host, int(port)))
        call = modern("tools/call", {"name": "whoami", "arguments": {"echo": "x" * 500_000}}, "whoami")
        head = {**call["headers"], **on.bearer(), "Host": on.authority}
        head["Content-Length"] = str(len(call["content"]))
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        request = f"POST /mcp HTTP/1.1\r\n{lines}\r\n".encode() + call["content"]
        with raw, contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                for _ in range(200):  # more than the machine's own buffers take
                    await asyncio.get_running_loop().sock_sendall(raw, request)
            raise AssertionError("whoever reads nothing was served for ever")
        assert 0 < len(on.governor.seen) < 200
        assert on.server.in_flight == 0
        assert (await send(on, **modern("tools/call", {"name": "whoami"}, "whoami"))).status_code == 200


# -- sessions ---------------------------------------------------------------------------------------------------------


async def test_a_session_id_that_somebody_made_up_becomes_nobodys_session(tmp_path: Path) -> None:
    """Fixation: the id is handed to the victim's client, which would go on in the thief's session."""
    async with running(tmp_path) as on:
        for made_up in ("0" * 32, "a", "..", "x" * 5_000, "é"):
            headers = {**TYPES, **on.bearer(), "Mcp-Session-Id": made_up.encode("latin-1")}
            for body in (INITIALIZE, PING):
                answer = await send(on, json=body, headers=headers)
                assert answer.status_code in (400, 404), (made_up, body["method"])
                assert answer.headers.get("mcp-session-id") != made_up
                assert made_up not in answer.text or made_up in ("a", "..")
            assert (await send(on, "GET", headers=headers)).status_code in (400, 404)


async def test_an_id_of_one_clients_session_opens_nothing_for_another_in_any_form(tmp_path: Path) -> None:
    async with running(tmp_path) as on:
        victim = await session_of(on)
        session = victim["Mcp-Session-Id"]
        thief = {**TYPES, **on.bearer("desk"), "MCP-Protocol-Version": "2025-11-25"}
        own = await session_of(on, "desk")
        forms: list[dict[str, str]] = [
            {"Mcp-Session-Id": session},
            {"Mcp-Session-Id": session.upper()},
            {"Mcp-Session-Id": session, "MCP-Protocol-Version": "2024-11-05"},
            {"Cookie": f"mcp-session-id={session}"},
            {"Mcp-Session-Id": session, "Last-Event-Id": "1"},
        ]
        for form in forms:
            for method, body in (("POST", PING), ("GET", None), ("DELETE", None)):
                answer = await send(on, method, headers={**thief, **form}, json=body)
                assert answer.status_code in (400, 404), (form, method)
        listed = [*thief.items(), ("Mcp-Session-Id", own["Mcp-Session-Id"]), ("Mcp-Session-Id", session)]
        async with httpx.AsyncClient(trust_env=False) as http:
            both = await http.post(on.url, headers=listed, json=INITIALIZE)
        assert both.status_code == 400
        assert (await send(on, json=PING, headers=victim)).status_code == 200
        assert (await send(on, json=PING, headers=own)).status_code == 200


async def test_a_message_in_a_session_is_for_whoever_the_token_of_that_very_request_proves(
    tmp_path: Path,
) -> None:
    """An open session proves nobody: neither without a token nor with a word that looks like one."""
    async with running(tmp_path) as on:
        session = await session_of(on)
        call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "whoami"}}
        for wrong in ("", "Bearer", "Bearer x", "Basic eDp4", f"{session['Authorization']} x"):
            answer = await send(on, json=call, headers={**session, "Authorization": wrong})
            assert answer.status_code == 401, wrong
        assert on.governor.seen == []
        assert (await send(on, json=call, headers=session)).status_code == 200
        (seen,) = on.governor.seen
        assert seen.subject.actor.id == "bot"


async def test_an_idle_session_is_freed_and_its_id_opens_nothing_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "SESSION_IDLE_S", 0.05)
    monkeypatch.setattr(http_module, "SESSIONS_MAX", 2)
    async with running(tmp_path) as on:
        sessions = [await session_of(on) for _ in range(2)]
        async with asyncio.timeout(20):
            for session in sessions:
                while (await send(on, json=PING, headers=session)).status_code == 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
            await session_of(on)  # there is room again
        assert (await send(on, json=PING, headers=sessions[0])).status_code == 404


async def test_a_session_that_its_client_ended_is_over_for_its_open_stream_too(tmp_path: Path) -> None:
    async with running(tmp_path) as on:
        session = await session_of(on)
        async with streaming(on, session) as answer:
            assert (await send(on, "GET", headers=session)).status_code == 409
            assert (await send(on, "DELETE", headers=session)).status_code == 200
            async with asyncio.timeout(20):
                assert [part async for part in answer.aiter_bytes() if part.strip(b":\r\n ")] == []
        assert (await send(on, json=PING, headers=session)).status_code == 404


async def test_a_client_that_uses_up_its_listening_streams_leaves_the_others_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clients of one person are one principal: what is counted by that alone is common to them."""
    monkeypatch.setattr(notices, "STREAMS_MAX", 2)
    upstream = Upstream(tmp_path / "files", LOOK)
    upstream.accept(tmp_path, "files")

    def two(config: dict[str, Any]) -> None:
        watched()(config)
        behind(upstream, READS)(config)
        config["identity"]["local"]["clients"]["other-bot"] = {}

    async with opened(tmp_path, two) as shop, whole_face(shop) as own, AsyncExitStack() as held:
        identity = shop.service.installation.identity

        async def listen(client: str) -> httpx.Response:
            request = modern("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
            token = identity.token_file(client).read_text().strip()
            http = await held.enter_async_context(httpx.AsyncClient(trust_env=False))
            headers = {**request["headers"], "Authorization": f"Bearer {token}"}
            stream = http.stream("POST", f"http://{own}/mcp", content=request["content"], headers=headers)
            return await held.enter_async_context(stream)

        reading = list[AsyncIterator[str]]()  # a reader that is let go ends its stream

        async def begins(answer: httpx.Response) -> str:
            reading.append(answer.aiter_lines())
            async with asyncio.timeout(20):
                async for line in reading[-1]:
                    if line.startswith(("data: {", "{")):
                        return line
            raise AssertionError("the stream said nothing")

        for _ in range(2):
            assert "acknowledged" in await begins(await listen("triage-bot"))
        assert "No more streams now" in await begins(await listen("triage-bot"))
        assert "acknowledged" in await begins(await listen("other-bot"))


# -- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        "".join(f"X-{n}: {n}\n" for n in range(40_000)),
        f"Cookie: {'x' * 400_000}\n",
        f"Mcp-Session-Id: {'x' * 400_000}\n",
        f"{'X' * 400_000}: 1\n",
    ],
)
async def test_a_head_that_is_huge_in_any_way_is_refused_before_a_token_is_looked_at(
    tmp_path: Path, more: str
) -> None:
    """Larger than what one read of the socket may bring."""
    async with running(tmp_path) as on:
        head = f"POST /mcp HTTP/1.1\nHost: {on.authority}\n{more}Content-Length: 0\n\n"
        answer = await said_to(on.authority, head)
        assert answer == b"" or answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")), answer[:80]
        assert (await send(on, **modern("tools/call", {"name": "whoami"}, "whoami"))).status_code == 200


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 5\nContent-Length: 6",
        "Content-Length: 5\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Content-Length: +5",
        "Content-Length: 0x5",
        "Content-Length: -1",
        "Content-Length : 5",
    ],
)
async def test_a_body_with_two_lengths_is_no_second_request(tmp_path: Path, framing: str) -> None:
    """Smuggling: what one reader takes for a body, the next takes for a request with somebody else's token before it."""
    async with running(tmp_path) as on:
        call = modern("tools/call", {"name": "whoami"}, "whoami")
        inner = "".join(f"{name}: {value}\n" for name, value in {**call["headers"], **on.bearer()}.items())
        smuggled = (
            f"POST /mcp HTTP/1.1\nHost: {on.authority}\n{inner}Content-Length: {len(call['content'])}\n\n"
        )
        outer = f"POST /mcp HTTP/1.1\nHost: {on.authority}\nConnection: close\n{framing}\n\n0\n\n"
        answer = await said_to(on.authority, outer + smuggled + call["content"].decode())
        assert on.governor.seen == [], framing
        assert answer.count(b"HTTP/1.1 ") <= 1
        assert b" 200 " not in answer


async def test_requests_in_a_row_on_one_connection_are_each_their_own_tokens(tmp_path: Path) -> None:
    async with running(tmp_path) as on:
        call = modern("tools/call", {"name": "whoami"}, "whoami")
        rows = ""
        for who in ("bot", "desk", None):
            more = on.bearer(who) if who is not None else {}
            lines = "".join(f"{name}: {value}\n" for name, value in {**call["headers"], **more}.items())
            rows += (
                f"POST /mcp HTTP/1.1\nHost: {on.authority}\n{lines}Content-Length: {len(call['content'])}\n"
            )
            rows += ("" if who else "Connection: close\n") + "\n" + call["content"].decode()
        answer = await said_to(on.authority, rows)
        assert [proposal.subject.actor.id for proposal in on.governor.seen] == ["bot", "desk"]
        assert answer.count(b"HTTP/1.1 200 ") == 2
        assert answer.count(b"HTTP/1.1 401 ") == 1


async def test_a_flood_of_looks_at_readiness_and_metrics_leaves_calls_their_turn(tmp_path: Path) -> None:
    """Anybody on the machine may look, without a token."""
    async with opened(tmp_path, watched()) as shop, whole_face(shop) as own:
        looked = 0
        done = asyncio.Event()

        async def look(route: str) -> None:
            nonlocal looked
            async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
                while not done.is_set():
                    assert (await http.get(f"http://{own}{route}")).status_code == 200
                    looked += 1

        flood = [asyncio.create_task(look(route)) for route in ("/readyz", "/metrics") for _ in range(4)]
        await until(lambda: looked > 20)
        for invoice in shop.paid()[:3]:
            assert not (await shop.call("lookup_invoice", invoice_id=invoice)).is_error
        done.set()
        await asyncio.gather(*flood)
