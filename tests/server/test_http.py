from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from comptroller_audit.vocabulary import Subject
from comptroller_server.errors import IdentityError, TransportError
from comptroller_server.face import http as http_module
from comptroller_server.face.http import build_app, serve_http, subject_of
from comptroller_server.face.identity import LocalIdentity
from comptroller_server.face.protocol import GovernedServer, RequestContext, SubjectOf, build_server
from tests.server.small_governor import SECRET, SmallGovernor

pytestmark = pytest.mark.anyio

ERAS = ["auto", "legacy"]
MODERN = "2026-07-28"
_ENVELOPE: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}


@dataclass
class Running:
    url: str
    governor: SmallGovernor
    server: GovernedServer
    identity: LocalIdentity
    stop: asyncio.Event
    serving: asyncio.Task[None]

    @property
    def authority(self) -> str:
        return urlsplit(self.url).netloc

    def bearer(self, client: str = "bot") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.identity.token_file(client).read_text().strip()}"}


@asynccontextmanager
async def running(
    folder: Path, roles: tuple[str, ...] = (), *, who: SubjectOf = subject_of, **options: Any
) -> AsyncGenerator[Running]:
    """A real uvicorn on a free loopback port, with clients `bot` and `desk`."""
    governor = SmallGovernor()
    identity = LocalIdentity("test", "ana", roles, ["bot", "desk"], folder / "tokens")
    server = build_server(governor, subject_of=who, version="1")
    stop, url = asyncio.Event(), asyncio.get_running_loop().create_future()
    app = build_app(server, identity, **options)
    serving = asyncio.create_task(serve_http(app, "127.0.0.1", 0, ready=url.set_result, stop=stop, drain_s=2))
    try:
        yield Running(await url, governor, server, identity, stop, serving)
    finally:
        governor.release.set()
        stop.set()
        async with asyncio.timeout(30):
            await serving


@asynccontextmanager
async def client_of(on: Running, era: Any = "auto", who: str = "bot") -> AsyncGenerator[Client]:
    async with (
        httpx2.AsyncClient(headers=on.bearer(who)) as http,
        Client(streamable_http_client(on.url, http_client=http), mode=era) as client,
    ):
        yield client


def modern(method: str, params: Mapping[str, Any] | None = None, name: str | None = None) -> dict[str, Any]:
    """Keyword arguments of a POST in the 2026 era."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**(params or {}), "_meta": _ENVELOPE}}
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method, **({"Mcp-Name": name} if name else {})}
    return {"content": json.dumps(body).encode(), "headers": {**_TYPES, **headers}}


_TYPES = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
_INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "raw", "version": "1"},
    },
}


async def send(on: Running, method: str = "POST", **request: Any) -> httpx.Response:
    """One raw request with the token of `bot`; a header given as None is left out."""
    headers = {**on.bearer(), **request.pop("headers", {})}
    kept = {name: value for name, value in headers.items() if value is not None}
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.request(method, request.pop("url", on.url), headers=kept, **request)


def with_headers(request: dict[str, Any], **headers: Any) -> dict[str, Any]:
    return {**request, "headers": {**request["headers"], **headers}}


@pytest.mark.parametrize("era", ERAS)
async def test_the_token_names_the_actor_of_every_request(tmp_path: Path, era: str) -> None:
    async with running(tmp_path) as on:
        for who in ("bot", "desk"):
            async with client_of(on, era, who) as client:
                result = await client.call_tool("whoami", {"q": 1})
                assert result.structured_content == {
                    "principal": "local:test|ana",
                    "actor": who,
                    "arguments": {"q": 1},
                }


@pytest.mark.parametrize("era", ERAS)
async def test_the_listing_over_http_is_per_principal(tmp_path: Path, era: str) -> None:
    for roles, shown in (((), False), (("admin",), True)):
        async with running(tmp_path, roles) as on, client_of(on, era) as client:
            assert ("for-admins" in {tool.name for tool in (await client.list_tools()).tools}) is shown


async def test_a_hidden_tool_equals_a_missing_one_byte_for_byte(tmp_path: Path) -> None:
    async with running(tmp_path) as on:
        answers: list[tuple[int, bytes]] = []
        for name in ("for-admins", "not-a-tool"):
            request = modern("tools/call", {"name": name, "arguments": {"region": "eu"}}, name)
            # the hidden tool declares this header, and a mismatch would betray it
            response = await send(on, **with_headers(request, **{"Mcp-Param-Region": "us"}))
            answers.append((response.status_code, response.content.replace(name.encode(), b"NAME")))
    assert answers[0] == answers[1]
    assert b"Unknown tool: NAME" in answers[0][1]


async def test_a_declared_header_that_disagrees_is_refused_for_those_who_see_the_tool(tmp_path: Path) -> None:
    request = modern("tools/call", {"name": "for-admins", "arguments": {"region": "eu"}}, "for-admins")
    async with running(tmp_path, ("admin",)) as on:
        agree = await send(on, **with_headers(request, **{"Mcp-Param-Region": "eu"}))
        differ = await send(on, **with_headers(request, **{"Mcp-Param-Region": "us"}))
    assert (agree.status_code, differ.status_code) == (200, 400)
    assert differ.json()["error"]["code"] == -32020


async def test_without_a_good_token_nothing_is_served(tmp_path: Path) -> None:
    async with running(tmp_path) as on:
        good = on.bearer()["Authorization"]
        wrong = [
            None,
            "",
            "Bearer",
            "Basic Ym90",
            good + "A",
            good[:-1],
            good.replace("Bearer ", ""),
        ]
        for value in wrong:
            response = await send(on, **with_headers(modern("tools/list"), Authorization=value))
            assert response.status_code == 401, value
            expected = 'Bearer realm="comptroller"' + ("" if value is None else ', error="invalid_token"')
            assert response.headers["www-authenticate"] == expected
        token = good.removeprefix("Bearer ")
        query = await send(
            on, url=f"{on.url}?access_token={token}", **with_headers(modern("tools/list"), Authorization=None)
        )
        assert query.status_code == 401
        for method in ("GET", "DELETE", "PUT", "OPTIONS"):
            assert (await send(on, method, headers={"Authorization": None})).status_code == 401
        assert (await send(on, **modern("tools/list"))).status_code == 200
    assert on.governor.seen == []


async def test_two_tokens_in_one_request_prove_nobody(tmp_path: Path) -> None:
    async with running(tmp_path) as on:
        request = modern("tools/list")
        headers = [*request["headers"].items(), *on.bearer().items(), *on.bearer("desk").items()]
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.post(on.url, content=request["content"], headers=headers)).status_code == 401


async def test_the_token_never_reaches_a_handler(tmp_path: Path) -> None:
    kept: list[str] = []

    def remember(ctx: RequestContext) -> Subject:
        assert ctx.request is not None
        scope = ctx.request.scope
        kept.append(repr(scope) + str(scope["user"].access_token.token))
        return subject_of(ctx)

    async with running(tmp_path, who=remember) as on:
        assert (await send(on, **modern("tools/list"))).status_code == 200
    assert len(kept) == 1
    assert on.identity.token_file("bot").read_text().strip() not in kept[0]


async def test_a_request_under_another_host_name_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as on:
        port = on.authority.rpartition(":")[2]
        for host in (
            f"evil.test:{port}",
            "127.0.0.1",
            "localhost",
            f"127.0.0.1:{int(port) + 1}",
            "",
            f"127.0.0.1.nip.io:{port}",
            f"localhost.:{port}",
        ):
            for path in ("/mcp", "/healthz"):
                request = with_headers(modern("tools/list"), Host=host)
                response = await send(on, url=on.url.replace("/mcp", path), **request)
                assert response.status_code == 421, host
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"):
            assert (await send(on, **with_headers(modern("tools/list"), Host=host))).status_code == 200


async def test_a_page_from_elsewhere_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as on:
        port = on.authority.rpartition(":")[2]
        for origin in (
            "http://evil.test",
            "null",
            "",
            "http://localhost",
            f"https://localhost:{port}",
            f"http://localhost:{port}.evil.test",
            f"http://127.0.0.1:{int(port) + 1}",
        ):
            response = await send(on, **with_headers(modern("tools/list"), Origin=origin))
            assert response.status_code == 403, origin
        own = with_headers(modern("tools/list"), Origin=f"http://localhost:{port}")
        assert (await send(on, **own)).status_code == 200


async def test_health_needs_no_token_and_tells_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as on:
        url = on.url.replace("/mcp", "/healthz")
        response = await send(on, "GET", url=url, headers={"Authorization": None})
        assert (response.status_code, response.text) == (200, "ok\n")
        assert (await send(on, "POST", url=url)).status_code == 405
        for path in ("/", "/mcp/", "/mcp/x", "//mcp", "/healthz/", "/docs"):
            assert (await send(on, "GET", url=on.url.replace("/mcp", path))).status_code == 404


_NAN = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"whoami","arguments":{"n":NaN}}}'
_TWICE = (
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"erase","name":"whoami","arguments":{}}}'
)


_ATTACKS = [
    (b"[" * 10_000, 400, "too_deep"),
    (_NAN, 400, "not_a_number"),
    (_TWICE, 400, "duplicate_key"),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping\xff"}', 400, "not_utf8"),
    ('{"jsonrpc":"2.0","id":1,"method":"ping"}'.encode("utf-16"), 400, "not_utf8"),
    (b"[]", 400, "not_an_object"),
    (b"", 400, "empty"),
    (b" " * 5_000_000, 413, "too_large"),
]


async def test_a_framing_attack_is_answered_before_the_sdk_sees_it(tmp_path: Path) -> None:
    async with running(tmp_path) as on:
        for body, status, reason in _ATTACKS:
            for headers in (modern("tools/call", name="whoami")["headers"], _TYPES):
                response = await send(on, content=body, headers=headers)
                assert response.status_code == status, reason
                answer = response.json()
                assert (answer["id"], answer["error"]["code"]) == (None, -32700)
                assert answer["error"]["data"] == {"reason": reason}
        async with client_of(on) as client:
            assert not (await client.call_tool("whoami", {})).is_error
    assert [proposal.tool for proposal in on.governor.seen] == ["whoami"]


async def test_a_request_with_an_unusable_id_is_refused_in_both_eras(tmp_path: Path) -> None:
    async with running(tmp_path) as on:
        for request in (b"null", b"1.5", b"true", b"[]"):
            body = b'{"jsonrpc":"2.0","id":' + request + b',"method":"ping"}'
            for headers in (modern("ping")["headers"], _TYPES):
                response = await send(on, content=body, headers=headers)
                assert response.status_code == 400
                assert (response.json()["id"], response.json()["error"]["code"]) == (None, -32600)


async def test_progress_reaches_a_client_that_asked_over_http(tmp_path: Path) -> None:
    heard: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    async with running(tmp_path) as on, client_of(on) as client:
        asked = await client.call_tool("steps", {}, progress_callback=hear)
        silent = await client.call_tool("steps", {})
    assert heard == [1, 2, 3]
    assert asked.content == silent.content


async def test_a_call_outlives_a_client_that_hangs_up_on_its_progress(tmp_path: Path) -> None:
    async def hear(progress: float, total: float | None, message: str | None) -> None:
        pass

    async with running(tmp_path) as on:
        async with client_of(on) as client:
            asking = asyncio.create_task(client.call_tool("hold", {}, progress_callback=hear))
            await on.governor.held.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        on.governor.release.set()
        assert await on.server.drain(5) == 0
        assert on.governor.ended == ["hold"]


async def test_a_body_that_streams_without_end_is_cut_off(tmp_path: Path) -> None:
    async with running(tmp_path) as on:
        host, port = on.authority.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /mcp HTTP/1.1\r\nHost: {on.authority}\r\nTransfer-Encoding: chunked\r\n"
        head += f"Authorization: {on.bearer()['Authorization']}\r\nContent-Type: application/json\r\n\r\n"
        writer.write(head.encode())
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                writer.write(b"10000\r\n" + b" " * 65_536 + b"\r\n")
                await writer.drain()
                sent += 65_536

        flooding = asyncio.create_task(flood())
        async with asyncio.timeout(30):
            # The server answers and hangs up on bytes still under way, so a reset can overtake the answer.
            with contextlib.suppress(ConnectionError):
                assert b" 413 " in await reader.readline()
            await asyncio.wait({flooding})
        assert isinstance(flooding.exception(), OSError)
        assert sent < 50_000_000
        writer.close()


async def test_another_subject_cannot_use_a_session(tmp_path: Path) -> None:
    async with running(tmp_path) as on:
        opened = await send(on, json=_INITIALIZE, headers=_TYPES)
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"], "MCP-Protocol-Version": "2025-11-25"}
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        stranger = {**_TYPES, **session, **on.bearer("desk")}
        missing = {**stranger, "Mcp-Session-Id": "0" * 32}
        hijack, unknown = (
            await send(on, json=ping, headers=stranger),
            await send(on, json=ping, headers=missing),
        )
        assert (hijack.status_code, hijack.content) == (404, unknown.content)
        for method in ("GET", "DELETE"):
            assert (await send(on, method, headers=stranger)).status_code == 404
        assert (await send(on, json=ping, headers={**_TYPES, **session})).status_code == 200


async def test_a_client_that_uses_up_its_sessions_leaves_the_others_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "SESSIONS_MAX", 2)
    async with running(tmp_path) as on:
        opened = [(await send(on, json=_INITIALIZE, headers=_TYPES)).status_code for _ in range(3)]
        assert opened == [200, 200, 503]
        other = await send(on, json=_INITIALIZE, headers={**_TYPES, **on.bearer("desk")})
        assert other.status_code == 200


async def test_a_deleted_token_file_leaves_no_session_behind(tmp_path: Path) -> None:
    async with running(tmp_path) as on:
        opened = await send(on, json=_INITIALIZE, headers=_TYPES)
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"], "MCP-Protocol-Version": "2025-11-25"}
        request = {"json": {"jsonrpc": "2.0", "id": 1, "method": "ping"}, "headers": {**_TYPES, **session}}
        assert (await send(on, **with_headers(request, Authorization=None))).status_code == 401


@pytest.mark.parametrize("era", ERAS)
async def test_a_broken_pipeline_shows_nothing_of_itself_over_http(tmp_path: Path, era: str) -> None:
    async with running(tmp_path) as on, client_of(on, era) as client:
        assert SECRET not in (await client.call_tool("broken", {})).model_dump_json()


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_outlives_a_client_that_hangs_up(tmp_path: Path, era: str) -> None:
    async with running(tmp_path) as on:
        async with client_of(on, era) as client:
            asking = asyncio.create_task(client.call_tool("hold", {}))
            await on.governor.held.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert on.server.in_flight == 1
        on.governor.release.set()
        assert await on.server.drain(5) == 0
        assert on.governor.ended == ["hold"]


async def test_the_end_waits_for_a_call_in_flight_and_takes_no_new_one(tmp_path: Path) -> None:
    async with running(tmp_path) as on:
        asking = asyncio.create_task(send(on, **modern("tools/call", {"name": "hold"}, "hold")))
        await on.governor.held.wait()
        on.stop.set()
        async with asyncio.timeout(30):
            while await _accepts(on):  # noqa: ASYNC110 - the listening socket of uvicorn has no event
                await asyncio.sleep(0.01)
        assert not asking.done()
        on.governor.release.set()
        assert "hold done" in (await asking).text


async def test_the_end_waits_for_a_call_whose_client_has_gone(tmp_path: Path) -> None:
    async with running(tmp_path, drain_s=10) as on:
        request = modern("tools/call", {"name": "hold"}, "hold")
        streamed = request["content"].replace(b'"_meta": {', b'"_meta": {"progressToken": 1, ')
        asking = asyncio.create_task(send(on, **{**request, "content": streamed}))
        await on.governor.held.wait()
        asking.cancel()
        on.stop.set()
        await asyncio.wait({on.serving}, timeout=0.5)
        assert not on.serving.done()
        on.governor.release.set()
        await on.serving
        assert on.governor.ended == ["hold"]


async def _accepts(on: Running) -> bool:
    host, port = on.authority.split(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionError:
        return False
    writer.close()
    return True


async def test_the_end_does_not_wait_for_open_listening_streams(tmp_path: Path) -> None:
    async with running(tmp_path) as on, client_of(on, "legacy") as client:
        await client.call_tool("whoami", {})
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 1


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "192.0.2.7", "example.com", "", "localhost.evil.test", "10.0.0.1"],  # noqa: S104 - refused
)
async def test_an_address_that_is_not_loopback_refuses_to_start(host: str) -> None:
    with pytest.raises(TransportError, match="until an identity provider is configured"):
        await serve_http(lambda scope, receive, send: asyncio.sleep(0), host, 0)


async def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TransportError, match=f"127.0.0.1:{port} cannot be bound"):
            await serve_http(lambda scope, receive, send: asyncio.sleep(0), "localhost", port)


def test_a_token_file_open_to_others_stops_the_start(tmp_path: Path) -> None:
    identity = LocalIdentity("test", "ana", (), ["bot"], tmp_path / "tokens")
    identity.load_tokens()
    identity.token_file("bot").chmod(0o644)
    with pytest.raises(IdentityError, match="open to other users"):
        build_app(build_server(SmallGovernor(), subject_of=subject_of, version="1"), identity)


async def test_an_unknown_tool_over_http_is_a_protocol_error(tmp_path: Path) -> None:
    async with running(tmp_path) as on, client_of(on) as client:
        try:
            await client.call_tool("not-a-tool", {})
        except MCPError as error:
            assert (error.code, error.message) == (-32602, "Unknown tool: not-a-tool")
        else:
            pytest.fail("it was answered")
