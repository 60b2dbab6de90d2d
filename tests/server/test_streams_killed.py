"""A serving process that is killed while a stream delivers: every entry arrives, in order, on SQLite and on Postgres."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from comptroller_tools.desk.database import ensure
from tests.scenarios.kit import placed
from tests.server.stream_places import Hook, hook, receiver
from tests.server.test_cli_processes import Place, invoices, refund
from tests.server.test_drills_processes import roomy, served_at

pytestmark = [pytest.mark.anyio, pytest.mark.long]
WAIT_S_MAX = 60.0
LIVES = 3


@contextlib.asynccontextmanager
async def serving(place: Place, life: int) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str]]:
    log = (place.folder / f"server-{life}.log").open("ab")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *place.words("serve", "--http", "127.0.0.1:0"), env=place.environment,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=log,
    )  # fmt: skip
    try:
        yield process, await served_at(process, Path(log.name))
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()
        log.close()


async def refunds(place: Place, url: str, wanted: Sequence[str]) -> None:
    token = (place.folder / "tokens" / "triage-bot.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        for invoice in wanted:
            await client.call_tool("issue_refund", refund(invoice, 5))


async def killed_in_a_batch(place: Place, got: Hook, life: int, wanted: Sequence[str]) -> None:
    """Serve until the receiver has taken a batch or two more; it is killed before it hears of that."""
    async with serving(place, life) as (process, url):
        most = len(got.got) + 1 + life
        got.taken = lambda: os.kill(process.pid, signal.SIGKILL) if len(got.got) >= most else None
        work = asyncio.ensure_future(refunds(place, url, wanted))
        async with asyncio.timeout(WAIT_S_MAX):
            assert await process.wait() == -signal.SIGKILL
        got.taken = None
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


def index_of(record: str | bytes) -> int:
    index: int = json.loads(record)["index"]
    return index


def otlp_records(body: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(body)["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    return found


async def test_a_server_killed_while_a_batch_is_taken_sends_it_again_and_misses_nothing(
    store_url: str, tmp_path: Path
) -> None:
    copy = tmp_path / "stream" / "audit.jsonl"
    with hook() as got, hook() as collector, receiver() as siem:
        siem.cut_off = True

        def streamed(config: dict[str, Any]) -> None:
            roomy(config)
            quick = {"batch_records_max": 2, "interval_s": 0.01, "retry_s_max": 0.05}
            config["streams"] = {
                "soc": {"to": "webhook", "url": got.url, "secret": "secret://env/HOOK", **quick},
                "archive": {"to": "file", "file": str(copy), **quick},
                "siem": {"to": "syslog", "address": f"tcp://127.0.0.1:{siem.port}", **quick},
                "collector": {"to": "otlp", "url": collector.url, **quick},
            }

        placed(tmp_path, streamed, url=store_url)
        place = _Streamed(tmp_path)
        ensure(place.desk, 1)
        paid = invoices(place, 4 * (LIVES + 1))
        for life in range(LIVES):
            await killed_in_a_batch(place, got, life, paid[4 * life : 4 * life + 4])
        async with serving(place, LIVES) as (_, url):
            await refunds(place, url, paid[-4:])
        code, _, err = await place.run("streams", "run", "--once")
        assert code == 0, err
        size = (await place.json("audit", "verify"))["tenants"][0]["entries"]
    arrived = [json.loads(line)["index"] for _, body in got.got for line in body.splitlines()]
    assert sorted({*arrived}) == list(range(size))
    assert len(arrived) > size, "a batch that was taken and not heard of comes again"
    assert list(dict.fromkeys(arrived)) == list(range(size)), "in order, but for what comes again"
    kept = [json.loads(line)["index"] for line in copy.read_text().splitlines()]
    assert list(dict.fromkeys(kept)) == list(range(size))
    logged = [index_of(message[message.index(b"{") :]) for message in siem.messages()]
    assert list(dict.fromkeys(logged)) == list(range(size))
    collected = [
        index_of(record["body"]["stringValue"]) for _, body in collector.got for record in otlp_records(body)
    ]
    assert list(dict.fromkeys(collected)) == list(range(size))


class _Streamed(Place):
    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "HOOK": "a-secret-of-sixteen"}
