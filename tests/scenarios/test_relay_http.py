"""Resources and prompts from the SDK's own server over HTTP, to its own client over HTTP, in both eras on both sides."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import Context
from mcp_types import (
    GetPromptRequest,
    GetPromptRequestParams,
    GetPromptResult,
    ReadResourceRequest,
    ReadResourceRequestParams,
    ReadResourceResult,
    TextContent,
    TextResourceContents,
)

from comptroller_server.face.http import build_app, serve_http, subject_of
from comptroller_server.face.protocol import build_server
from comptroller_tools.upstream.pins import LOCK_NAME, write_pins
from comptroller_tools.upstream.settings import HttpEndpoint, UpstreamSettings
from comptroller_tools.upstream.source import UpstreamSource
from tests.scenarios.kit import opened
from tests.tools.test_upstream_http import Elsewhere, open_server

pytestmark = pytest.mark.anyio


def noted(era: str) -> Elsewhere:
    made = Elsewhere(era)

    @made.app.resource("note://{name}")
    async def note(name: str, context: Context[Any, Any]) -> str:
        made.ran.append(name)
        await context.report_progress(1, 2, "looking it up")
        return f"about {name}"

    @made.app.prompt()
    async def greet(name: str, context: Context[Any, Any]) -> str:
        await context.report_progress(1, 3, f"looking at {name}")
        return f"Greet {name}."

    return made


@pytest.mark.parametrize(("theirs", "ours"), [("modern", "legacy"), ("legacy", "auto")])
async def test_both_sides_over_http_in_either_era(tmp_path: Path, theirs: str, ours: Any) -> None:
    elsewhere = noted(theirs)
    told: list[tuple[float, float | None, str | None]] = []

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    def change(config: dict[str, Any]) -> None:
        config["sources"]["notes"] = {"mcp": {"url": elsewhere.url}}
        reads = {"source": "notes", "allow_actions": ["read"], "roles": ["support_agent"]}
        config["tools"] += [
            {"name": "notes_resource", "source_tool": "resource:*", **reads},
            {"name": "greet", "source_tool": "prompt:greet", **reads},
        ]

    async with open_server(elsewhere):
        first = UpstreamSource("notes", UpstreamSettings(HttpEndpoint(elsewhere.url), {}), {})
        write_pins(tmp_path / LOCK_NAME, {"notes": (await first.listing()).tools})
        await first.close()
        async with opened(tmp_path, change) as shop:
            service = shop.service
            server = build_server(
                service.pipeline, subject_of=subject_of, version="1", offers=service.offers, news=service.news
            )
            stop, url = asyncio.Event(), asyncio.get_running_loop().create_future()
            identity = service.installation.identity
            app = build_app(server, identity)
            serving = asyncio.create_task(
                serve_http(app, "127.0.0.1", 0, ready=url.set_result, stop=stop, drain_s=2)
            )
            token = identity.token_file("triage-bot").read_text().strip()
            async with (
                httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as http,
                Client(streamable_http_client(await url, http_client=http), mode=ours) as client,
            ):
                (template,) = (await client.list_resource_templates()).resource_templates
                assert template.uri_template == "note://{name}"
                (content,) = (await client.read_resource("note://ann")).contents
                assert isinstance(content, TextResourceContents)
                assert content.text == "about ann"
                said = (await client.get_prompt("greet", {"name": "Ann"})).messages[0].content
                assert isinstance(said, TextContent)
                assert said.text == "Greet Ann."
                bob = ReadResourceRequest(params=ReadResourceRequestParams(uri="note://bob"))
                await client.session.send_request(bob, ReadResourceResult, progress_callback=tell)
                to_bob = GetPromptRequestParams(name="greet", arguments={"name": "Bob"})
                prompt = GetPromptRequest(params=to_bob)
                await client.session.send_request(prompt, GetPromptResult, progress_callback=tell)
            stop.set()
            await serving
    assert elsewhere.ran == ["ann", "bob"]
    assert told == [(1, 2, "looking it up"), (1, 3, "looking at Bob")]
