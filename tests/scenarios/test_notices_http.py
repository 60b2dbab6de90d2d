"""News from the SDK's own server over HTTP, to its own client over HTTP, in each era on either side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import Context
from mcp_types import (
    EmptyResult,
    LoggingMessageNotification,
    LoggingMessageNotificationParams,
    SubscribeRequestParams,
)

from comptroller_server.face.http import build_app, serve_http, subject_of
from comptroller_server.face.protocol import build_server
from comptroller_tools.upstream.pins import LOCK_NAME, write_pins
from comptroller_tools.upstream.settings import HttpEndpoint, UpstreamSettings
from comptroller_tools.upstream.source import UpstreamSource
from tests.scenarios.kit import Changes, Shop, opened
from tests.scenarios.test_notices import Heard, subscribed
from tests.tools.test_upstream_http import Elsewhere, open_server

pytestmark = pytest.mark.anyio

READS = {"source": "notes", "allow_actions": ["read"], "roles": ["support_agent"]}
BOARD = "note://board"


def telling(era: str) -> Elsewhere:
    """The SDK's server with a resource, subscriptions in both eras, and a tool that says that the resource changed."""
    made = Elsewhere(era)
    sessions: list[Any] = []

    @made.app.resource(BOARD)
    def board() -> str:
        return "what is new"

    @made.app.tool()
    async def pin_up(context: Context[Any, Any]) -> str:
        said = LoggingMessageNotificationParams(level="warning", data="pinning up")
        await context.report_progress(1, 2, "half of it")
        # The SDK's own method for this is deprecated, and what it sends is not.
        await context.session.send_notification(
            LoggingMessageNotification(params=said), context.request_context.request_id
        )
        for session in sessions:
            await session.send_resource_updated(BOARD)
        await context.notify_resource_updated(BOARD)
        return "pinned up"

    async def subscribe(context: Any, params: SubscribeRequestParams) -> EmptyResult:
        sessions.append(context.session)
        return EmptyResult()

    server: Any = made.app._lowlevel_server  # pyright: ignore[reportPrivateUsage] -- it has no other door
    server.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribe)
    return made


def behind(elsewhere: Elsewhere) -> Changes:
    def change(config: dict[str, Any]) -> None:
        config["sources"]["notes"] = {"mcp": {"url": elsewhere.url}}
        config["tools"] += [
            {"name": "notes_resource", "source_tool": "resource:*", **READS},
            {"name": "pin_up", **READS},
        ]

    return change


async def accept_all(elsewhere: Elsewhere, folder: Path) -> None:
    first = UpstreamSource("notes", UpstreamSettings(HttpEndpoint(elsewhere.url), {}), {})
    write_pins(folder / LOCK_NAME, {"notes": (await first.listing()).tools})
    await first.close()


@asynccontextmanager
async def client_over_http(
    shop: Shop, era: Any, heard: Heard | None = None, stop: asyncio.Event | None = None
) -> AsyncGenerator[Client]:
    service = shop.service
    server = build_server(
        service.pipeline, subject_of=subject_of, version="1", offers=service.offers, news=service.news
    )
    stop, url = stop or asyncio.Event(), asyncio.get_running_loop().create_future()
    identity = service.installation.identity
    app = build_app(server, identity)
    serving = asyncio.create_task(serve_http(app, "127.0.0.1", 0, ready=url.set_result, stop=stop, drain_s=2))
    token = identity.token_file("triage-bot").read_text().strip()
    try:
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as http,
            Client(
                streamable_http_client(await url, http_client=http),
                mode=era,
                message_handler=heard,
                log_level="info",
            ) as client,
        ):
            yield client
    finally:
        stop.set()
        await serving


@pytest.mark.parametrize(("theirs", "ours"), [("modern", "legacy"), ("legacy", "auto"), ("modern", "auto")])
async def test_news_of_a_resource_and_of_a_call_come_through_over_http_in_either_era(
    tmp_path: Path, theirs: str, ours: Any
) -> None:
    elsewhere, heard = telling(theirs), Heard()
    noted: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        noted.append((progress, total, message))

    async with open_server(elsewhere):
        await accept_all(elsewhere, tmp_path)
        async with opened(tmp_path, behind(elsewhere)) as shop, client_over_http(shop, ours, heard) as client:
            assert client.server_capabilities.resources is not None
            assert client.server_capabilities.resources.subscribe
            async with subscribed(client, ours, BOARD):
                await client.call_tool("pin_up", {}, progress_callback=note)
                await heard.wait("notifications/resources/updated")
                await heard.wait("notifications/message")
    assert set(heard.uris) == {BOARD}
    assert heard.said == [("warning", "notes", "pinning up")]
    assert noted == [(1, 2, "half of it")]


async def test_a_server_that_ends_ends_its_streams_in_order_and_does_not_wait_for_them(
    tmp_path: Path,
) -> None:
    elsewhere, stop = telling("modern"), asyncio.Event()
    async with open_server(elsewhere):
        await accept_all(elsewhere, tmp_path)
        async with (
            opened(tmp_path, behind(elsewhere)) as shop,
            client_over_http(shop, "auto", stop=stop) as client,
            client.listen(tools_list_changed=True) as stream,
        ):
            stop.set()
            with pytest.raises(StopAsyncIteration):  # not `SubscriptionLost`
                await anext(stream)
