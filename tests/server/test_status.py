"""What a client gets from a server that could not start: one tool that says what to fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp_types import CallToolResult, TextContent

from comptroller_server.face.status import CHARS_MAX, STATUS, StatusOnly
from tests.scenarios.kit import placed, tool_of
from tests.server.test_cli_processes import Place

pytestmark = pytest.mark.anyio


def text_of(result: CallToolResult) -> str:
    [block] = result.content
    assert isinstance(block, TextContent)
    return block.text


async def told(client: Client) -> str:
    result = await client.call_tool(STATUS, {})
    assert not result.is_error
    return text_of(result)


async def test_a_client_of_a_server_that_cannot_start_is_told_what_to_fix_and_where(tmp_path: Path) -> None:
    def wrong(config: dict[str, Any]) -> None:
        config["environment"] = "no good"
        tool_of(config, "issue_refund")["verify"][0]["fact"] = "nothing"

    placed(tmp_path, wrong)
    place = Place(tmp_path)
    async with place.client() as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == [STATUS]
        text = await told(client)
        assert "did not start" in text
        assert str(tmp_path / "comptroller.yaml") in text
        assert "environment" in text
        assert "`tools[4].verify[0].fact`" in text
        refused = await client.call_tool("issue_refund", {"invoice_id": "inv_1"})
        assert refused.is_error
        assert STATUS in text_of(refused)
    assert "environment" in place.log()
    assert place.refunds() == []


async def test_without_a_configuration_the_client_is_told_where_one_was_looked_for(tmp_path: Path) -> None:
    async with Place(tmp_path).client() as client:
        assert str(tmp_path / "comptroller.yaml") in await told(client)


async def test_a_store_that_does_not_open_is_told_too(tmp_path: Path) -> None:
    placed(tmp_path)
    (tmp_path / "comptroller.db").write_bytes(b"this is no database, and never was one" * 100)
    async with Place(tmp_path).client() as client:
        assert "not a database" in await told(client)


async def test_a_server_that_started_is_none_of_this(tmp_path: Path) -> None:
    placed(tmp_path)
    async with Place(tmp_path).client() as client:
        assert STATUS not in [tool.name for tool in (await client.list_tools()).tools]
        with pytest.raises(MCPError):
            await client.call_tool(STATUS, {})


async def test_a_long_story_is_cut_and_says_so() -> None:
    governor = StatusOnly("x" * (CHARS_MAX + 1))
    answer = governor._answer  # pyright: ignore[reportPrivateUsage] -- the text it gives everybody
    assert "more in the log" in answer
    assert len(answer) < CHARS_MAX + 1_000
