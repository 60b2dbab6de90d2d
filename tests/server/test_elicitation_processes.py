"""The official client against `comptroller serve`, in both eras: confirmed, declined, left alone, gone."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from tests.scenarios.test_confirmations import ERAS, Person, code, confirming, refund_of
from tests.server.test_cli_processes import Place, invoices, made

pytestmark = pytest.mark.anyio


async def confirmed_at(folder: Path, **limits: Any) -> Place:
    def change(config: dict[str, Any]) -> None:
        confirming()(config)
        config["approvals"]["allow_same_uid_file"] = True
        config["limits"] = limits

    return await made(folder, change)


@asynccontextmanager
async def stdio_of(place: Place, era: str, person: Any) -> AsyncGenerator[Client]:
    words = place.words("serve", "--client", "triage-bot")
    parameters = StdioServerParameters(command=sys.executable, args=words, env=place.environment)
    with (place.folder / "server.log").open("a") as log:
        transport = stdio_client(parameters, errlog=log)
        async with Client(transport, mode=cast("Any", era), elicitation_callback=person) as client:
            yield client


@pytest.mark.parametrize("era", ERAS)
async def test_a_person_confirms_over_stdio(tmp_path: Path, era: str) -> None:
    place, person = await confirmed_at(tmp_path), Person()
    [invoice] = invoices(place, 1)
    async with stdio_of(place, era, person) as client:
        done = await client.call_tool("issue_refund", refund_of(invoice))
        assert code(done) is None, place.log()
        assert place.refunds() == [invoice]
        assert len(person.asked) == 1
        told = await place.look("why", str((done.meta or {})["comptroller/call"]))
        assert "client_asserted" in str(told)


async def test_a_person_who_says_nothing_is_waited_for_as_long_as_the_config_says(tmp_path: Path) -> None:
    place = await confirmed_at(tmp_path, elicitation_wait_s=0.2)
    [invoice] = invoices(place, 1)
    asked = asyncio.Event()

    async def silent(*_: object) -> Any:
        asked.set()
        await asyncio.Event().wait()

    async with stdio_of(place, "legacy", silent) as client:
        began = time.monotonic()
        refused = await client.call_tool("issue_refund", refund_of(invoice))
        assert code(refused) == "confirmation_expired"
        assert asked.is_set()
        assert 0.2 <= time.monotonic() - began < 20
        assert place.refunds() == []


async def test_a_client_that_goes_away_while_it_is_asked_leaves_nothing_behind(tmp_path: Path) -> None:
    place = await confirmed_at(tmp_path)
    [invoice] = invoices(place, 1)
    asked = asyncio.Event()

    async def silent(*_: object) -> Any:
        asked.set()
        await asyncio.Event().wait()

    began = time.monotonic()
    async with stdio_of(place, "legacy", silent) as client:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(client.call_tool, "issue_refund", refund_of(invoice))
                await asked.wait()
                scope.cancel()
    assert time.monotonic() - began < 20
    assert place.refunds() == []
    assert (await place.look("calls", "list"))["calls"] == []
    assert (await place.look("audit", "verify"))["ok"] is True


async def test_a_client_that_ends_its_input_while_asked_gives_no_answer_and_the_server_ends(
    tmp_path: Path,
) -> None:
    place = await confirmed_at(tmp_path)
    [invoice] = invoices(place, 1)
    hello: dict[str, Any] = {
        "protocolVersion": "2025-11-25",
        "capabilities": {"elicitation": {}},
        "clientInfo": {"name": "raw", "version": "1"},
    }
    lines: list[dict[str, Any]] = [
        {"id": 0, "method": "initialize", "params": hello},
        {"method": "notifications/initialized"},
        {
            "id": 1,
            "method": "tools/call",
            "params": {"name": "issue_refund", "arguments": refund_of(invoice)},
        },
    ]
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        *place.words("serve", "--client", "triage-bot"),
        env=place.environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    async with asyncio.timeout(60):
        for line in lines:
            server.stdin.write(json.dumps({"jsonrpc": "2.0", **line}).encode() + b"\n")
        while b"elicitation/create" not in await server.stdout.readline():
            pass
        server.stdin.close()
        answers = [json.loads(line) async for line in server.stdout]
        assert await server.wait() == 0
    (result,) = [answer["result"] for answer in answers if answer.get("id") == 1]
    assert result["_meta"]["comptroller/refusal"]["code"] == "confirmation_expired"
    (call,) = (await place.look("calls", "list"))["calls"]
    assert (call["state"], call["code"]) == ("refused", "confirmation_expired")
    assert place.refunds() == []
