"""Asking over streamable HTTP, in both eras, with the official client on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from comptroller_audit.vocabulary import RecordType
from comptroller_server.face.http import build_app, serve_http, subject_of
from comptroller_server.face.http_sessions import StreamedSessions
from comptroller_server.face.protocol import build_server
from tests.scenarios.kit import Shop, opened, until
from tests.scenarios.test_confirmations import ERAS, Person, code, confirming, refund_of

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def served(shop: Shop, wait_s: float = 20) -> AsyncGenerator[str]:
    server = build_server(
        shop.service.pipeline, subject_of=subject_of, version="1", elicitation_wait_s=wait_s
    )
    stop, url = asyncio.Event(), asyncio.get_running_loop().create_future()
    app = build_app(server, shop.service.installation.identity)
    serving = asyncio.create_task(serve_http(app, "127.0.0.1", 0, ready=url.set_result, stop=stop, drain_s=2))
    try:
        yield await url
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await serving


def bearer(shop: Shop, client: str = "triage-bot") -> dict[str, str]:
    token = shop.service.installation.identity.token_file(client).read_text().strip()
    return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def client_at(shop: Shop, url: str, era: Any, person: Any) -> AsyncGenerator[Client]:
    async with (
        httpx2.AsyncClient(headers=bearer(shop)) as http,
        Client(
            streamable_http_client(url, http_client=http), mode=era, elicitation_callback=person
        ) as client,
    ):
        yield client


@pytest.mark.parametrize("era", ERAS)
async def test_a_person_confirms_over_http(tmp_path: Path, era: str) -> None:
    person = Person()
    async with (
        opened(tmp_path, confirming()) as shop,
        served(shop) as url,
        client_at(shop, url, era, person) as client,
    ):
        done = await client.call_tool("issue_refund", refund_of(shop.paid()[0]))
        assert code(done) is None
        assert len(shop.moved()) == len(person.asked) == 1
        again = await client.call_tool("lookup_invoice", {"invoice_id": shop.paid()[0]})
        assert code(again) is None


async def test_a_client_of_the_2025_era_that_goes_away_while_asked_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    asked = asyncio.Event()

    async def silent(*_: object) -> Any:
        asked.set()
        await asyncio.Event().wait()

    async with opened(tmp_path, confirming()) as shop, served(shop, 0.5) as url:
        async with client_at(shop, url, "legacy", silent) as client:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(client.call_tool, "issue_refund", refund_of(shop.paid()[0]))
                    await asked.wait()
                    scope.cancel()
        await until(lambda: shop.packets(RecordType.CONFIRMATION_ASKED))
        assert shop.moved() == []
        assert shop.calls() == [] or {row["state"] for _, row in shop.calls()} == {"refused"}


async def test_a_session_whose_client_cannot_ask_is_answered_in_plain_json(tmp_path: Path) -> None:
    async with opened(tmp_path, confirming()) as shop, served(shop) as url:
        kinds: list[tuple[dict[str, Any], str]] = [
            ({}, "application/json"),
            ({"elicitation": {}}, "text/event-stream"),
        ]
        for capabilities, kind in kinds:
            hello = {
                "jsonrpc": "2.0",
                "id": 0,
                "method": "initialize",
                "params": {
                    "protocolVersion": "2025-11-25",
                    "capabilities": capabilities,
                    "clientInfo": {"name": "raw", "version": "1"},
                },
            }
            headers = {**bearer(shop), "Accept": "application/json, text/event-stream"}
            async with httpx.AsyncClient(trust_env=False, headers=headers) as http:
                answer = await http.post(url, json=hello)
                assert answer.headers["content-type"].partition(";")[0] == kind
                session = {
                    "Mcp-Session-Id": answer.headers["mcp-session-id"],
                    "MCP-Protocol-Version": "2025-11-25",
                }
                ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
                assert (await http.post(url, json=ready, headers=session)).status_code == 202
                listed = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
                answer = await http.post(url, json=listed, headers=session)
                assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, kind)
                # Another client's token does not get into this session, whichever kind it is.
                foreign = await http.post(url, json=listed, headers=session | bearer(shop, "other"))
                assert foreign.status_code == 404
                assert (await http.delete(url, headers=session)).status_code == 200


async def test_only_so_many_streamed_sessions_are_remembered() -> None:
    known = StreamedSessions(2)

    async def drop(message: Any) -> None:
        del message

    for name in (b"one", b"two", b"three"):
        start = {"type": "http.response.start", "status": 200, "headers": [(b"Mcp-Session-Id", name)]}
        await known.noting(drop)(start)
    assert [name in known for name in ("one", "two", "three")] == [False, True, True]
    assert None not in known
