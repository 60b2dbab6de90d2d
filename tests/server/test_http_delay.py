from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from comptroller_server.face.http import build_app, serve_http, subject_of
from comptroller_server.face.identity import LocalIdentity
from comptroller_server.face.protocol import build_server
from tests.server.small_governor import SmallGovernor

pytestmark = pytest.mark.anyio

DELAYED_ACK_S = 0.040


async def test_an_answer_is_not_held_back_until_the_client_acknowledges_its_head(tmp_path: Path) -> None:
    identity = LocalIdentity("test", "ana", [], ["bot"], tmp_path / "tokens")
    app = build_app(build_server(SmallGovernor(), subject_of=subject_of, version="1"), identity)
    stop, url = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve_http(app, "127.0.0.1", 0, ready=url.set_result, stop=stop, drain_s=2))
    taken: list[float] = []
    async with httpx.AsyncClient(trust_env=False, base_url=(await url).removesuffix("/mcp")) as http:
        for _ in range(20):
            began = time.perf_counter()
            assert (await http.get("/healthz")).text == "ok\n"
            taken.append(time.perf_counter() - began)
    stop.set()
    await serving
    # A new connection is acknowledged at once for a while; after that every answer would wait.
    assert min(taken[10:]) < DELAYED_ACK_S * 0.75
