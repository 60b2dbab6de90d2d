"""A client that cancels its call: an upstream is told, and the record says what is known."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from comptroller_audit.vocabulary import CallState, RecordType
from tests.scenarios.kit import WHY, opened, until
from tests.scenarios.test_notices import client_of
from tests.scenarios.test_upstreams import READS, WRITES, behind
from tests.scenarios.upstream_kit import Upstream

pytestmark = pytest.mark.anyio


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    made = Upstream(tmp_path / "files")
    made.accept(tmp_path)
    return made


async def cancelled(client: Client, upstream: Upstream, tool: str, arguments: dict[str, Any]) -> None:
    """Call a tool, and give the call up once the upstream runs it."""
    calling = asyncio.create_task(client.call_tool(tool, arguments))
    await until(lambda: upstream.ran)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)


def was_told(upstream: Upstream) -> bool:
    """Whether the upstream heard that the very request was cancelled."""
    received = upstream.received
    calls = {one["id"] for one in received if one.get("method") == "tools/call"}
    return any(
        one.get("method") == "notifications/cancelled" and one["params"]["requestId"] in calls
        for one in received
    )


@pytest.mark.parametrize("era", ["legacy", "auto"])
async def test_a_read_that_nobody_waits_for_is_cancelled_upstream_and_recorded(
    tmp_path: Path, upstream: Upstream, era: str
) -> None:
    def change(config: dict[str, Any]) -> None:
        behind(upstream, READS)(config)
        config["sources"]["files"]["breaker"] = {"failures": 1}

    upstream.does("look", "silence")
    async with opened(tmp_path, change) as shop, client_of(shop, era) as client:
        await cancelled(client, upstream, "look", {"path": "a"})
        await until(lambda: was_told(upstream))
        await until(lambda: shop.packets(RecordType.REFUSED))
        (record,) = shop.packets(RecordType.REFUSED)
        assert record["refusal"]["text"].startswith("`look` was cancelled by its client")
        upstream.does("look")
        assert not (await shop.call("look", path="b")).is_error  # its server is not to blame
    assert len(upstream.ran) == 2


async def test_a_side_effect_that_its_client_cancels_in_words_is_in_doubt(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.does("write", "silence")
    async with opened(tmp_path, behind(upstream, WRITES)) as shop, client_of(shop, "legacy") as client:
        await cancelled(client, upstream, "write", {"path": "a", "why": WHY})
        await until(lambda: was_told(upstream))
        await until(lambda: shop.calls(CallState.IN_DOUBT))
        assert shop.packets()[-1]["outcome"]["error"].startswith(
            "its client cancelled it; the upstream was told"
        )
    assert len(upstream.ran) == 1


async def test_a_side_effect_goes_on_when_its_client_is_merely_gone(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.does("write", "wait", file="go-on")
    async with opened(tmp_path, behind(upstream, WRITES)) as shop, client_of(shop, "auto") as client:
        await cancelled(client, upstream, "write", {"path": "a", "why": WHY})
        (upstream.folder / "go-on").touch()
        await until(lambda: shop.calls(CallState.DONE))
    assert not was_told(upstream)
    assert len(upstream.ran) == 1
