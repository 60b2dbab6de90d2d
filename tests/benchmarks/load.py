"""The client of the benchmark, in a process of its own: raw HTTP/1.1 over kept connections, every answer checked.

Reads orders as JSON lines, `{port, token, tool, calls, in_flight}`, and answers each with
`{seconds, latencies_ms}` once every call was answered as it must be. Bodies are built before the clock starts,
and no two of them have the same arguments.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.wire import say

_numbers = itertools.count()
_RUN = os.urandom(4).hex()
_META: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


@dataclass(frozen=True, slots=True)
class Call:
    """One request as bytes, and what its answer must hold."""

    request: bytes
    proof: bytes


@dataclass(slots=True)
class Round:
    """The calls of one order, taken by whichever connection is free."""

    calls: list[Call]
    done: asyncio.Future[None]
    latencies: list[float] = field(default_factory=list[float])
    next: int = 0


def build(port: int, token: str | None, tool: str) -> Call:
    """A new call of `tool` with arguments nothing else has."""
    number = next(_numbers)
    item = f"item-{_RUN}-{number}"
    arguments: dict[str, Any] = {"item_id": item}
    if tool == "move_stock":
        arguments |= {
            "quantity": 1 + number % 20_000,
            "reason_code": ("sold", "count")[number % 2],
            "why": {"reason": "order 4711 was packed", "citations": []},
        }
    params: dict[str, Any] = {"name": tool, "arguments": arguments, "_meta": _META}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    lines = [
        "POST /mcp HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        "MCP-Protocol-Version: 2026-07-28",
        "Mcp-Method: tools/call",
        f"Mcp-Name: {tool}",
        *([f"Authorization: Bearer {token}"] if token else []),
        f"Content-Length: {len(body)}",
    ]
    return Call("\r\n".join([*lines, "", ""]).encode() + body, f'"item_id":"{item}"'.encode())


class Connection(asyncio.Protocol):
    """One kept connection that has one call in flight at a time."""

    def __init__(self) -> None:
        self._round: Round | None = None
        self._buffer = b""
        self._call: Call | None = None
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def begin(self, round_: Round) -> None:
        self._round = round_
        self._send()

    def _send(self) -> None:
        round_ = self._round
        assert round_ is not None
        if round_.next == len(round_.calls):
            return
        self._call = round_.calls[round_.next]
        round_.next += 1
        self._sent = time.perf_counter()
        self.transport.write(self._call.request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            return
        now, round_, call = time.perf_counter(), self._round, self._call
        assert round_ is not None and call is not None
        self._buffer = b""
        if not head.startswith(b"HTTP/1.1 200") or call.proof not in body or b'"isError":true' in body:
            self._fail(f"wrong answer: {head[:40]!r} {body[:600]!r}")
            return
        round_.latencies.append(now - self._sent)
        if len(round_.latencies) == len(round_.calls):
            round_.done.set_result(None)
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was lost: {exc}")

    def _fail(self, why: str) -> None:
        if self._round is not None and not self._round.done.done():
            self._round.done.set_exception(RuntimeError(why))


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    raise RuntimeError(f"an answer without a length: {head[:200]!r}")


async def run(order: dict[str, Any]) -> dict[str, Any]:
    """One round on fresh connections, opened before the clock starts."""
    loop = asyncio.get_running_loop()
    port, token = order["port"], order.get("token")
    calls = [build(port, token, order["tool"]) for _ in range(order["calls"])]
    connections = [
        (await loop.create_connection(Connection, "127.0.0.1", port))[1] for _ in range(order["in_flight"])
    ]
    round_ = Round(calls, loop.create_future())
    gc.collect()
    gc.disable()
    began = time.perf_counter()
    for connection in connections:
        connection.begin(round_)
    await round_.done
    seconds = time.perf_counter() - began
    gc.enable()
    for connection in connections:
        connection.transport.abort()
    return {"seconds": seconds, "latencies_ms": [round(s * 1000, 4) for s in round_.latencies]}


def main() -> None:
    for line in sys.stdin:
        say(asyncio.run(run(json.loads(line))))


if __name__ == "__main__":
    main()
