"""`/readyz`: whether the server can act, whatever its upstreams do, told to anybody on this machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from comptroller_audit.owners import Owner
from comptroller_server.face.http import build_app, serve_http, subject_of
from comptroller_server.face.identity import LocalIdentity
from comptroller_server.face.protocol import build_server
from tests.scenarios.kit import opened
from tests.scenarios.upstream_kit import Upstream
from tests.server.small_governor import SmallGovernor

pytestmark = pytest.mark.anyio


async def test_an_upstream_that_is_down_is_counted_and_a_lost_lock_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = Upstream(tmp_path / "files")
    upstream.accept(tmp_path)

    def change(config: dict[str, Any]) -> None:
        config["sources"]["files"] = upstream.config()
        config["sources"]["broken"] = {"mcp": {"command": "./no-such-server"}}

    def lost(_owner: Owner) -> bool:
        return False

    async with opened(tmp_path, change) as shop:
        source: Any = shop.service.installation.sources["files"]
        await source.listing()
        readiness = shop.service.readiness
        assert await readiness.look() == (True, "ready\nupstreams up: 1 of 2")
        monkeypatch.setattr(Owner, "held", lost)
        assert (await readiness.look())[0] is False


async def test_the_probe_answers_without_a_token_by_its_status(tmp_path: Path) -> None:
    identity = LocalIdentity("test", "ana", [], ["bot"], tmp_path / "tokens")
    state = [True]

    async def look() -> tuple[bool, str]:
        return state[0], "words"

    server = build_server(SmallGovernor(), subject_of=subject_of, version="1")
    app = build_app(server, identity, readiness=look)
    stop, url = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve_http(app, "127.0.0.1", 0, ready=url.set_result, stop=stop, drain_s=2))
    async with httpx.AsyncClient(trust_env=False, base_url=(await url).removesuffix("/mcp")) as http:
        assert (await http.get("/readyz")).status_code == 200
        state[0] = False
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.post("/readyz")).status_code == 405
        assert (await http.get("/readyz", headers={"host": "evil.test"})).status_code == 421
    stop.set()
    await serving
