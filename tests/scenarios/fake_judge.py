"""An OpenAI-compatible endpoint on this machine that answers as it is told, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, cast

__all__ = ["Asked", "FakeJudge", "Reply", "chat", "fake_judge", "http", "outside_the_fence"]

BEGIN = re.compile(r"`BEGIN label (\w+)`")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came in."""

    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        return cast("dict[str, Any]", json.loads(self.raw))

    @property
    def system(self) -> str:
        return str(self.body["messages"][0]["content"])

    @property
    def user(self) -> str:
        return str(self.body["messages"][1]["content"])

    @property
    def nonce(self) -> str:
        found = BEGIN.search(self.system)
        assert found is not None
        return found[1]

    def shown(self) -> dict[str, Any]:
        """The values in the fence, by label, as anyone would read them who keeps to the marks."""
        lines = self.user.splitlines()
        return {
            line.split()[1]: json.loads(lines[at + 1])
            for at, line in enumerate(lines)
            if line.startswith("BEGIN ") and line.endswith(f" {self.nonce}")
        }


Reply = bytes | None
"""Raw bytes to answer with; None keeps the line open and says nothing."""


def outside_the_fence(asked: Asked) -> str:
    """The user's message without what stands between marks with the right nonce."""
    kept: list[str] = []
    inside = False
    for line in asked.user.splitlines():
        if re.fullmatch(rf"BEGIN \w+ {asked.nonce}", line):
            inside = True
        elif re.fullmatch(rf"END \w+ {asked.nonce}", line):
            inside = False
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def chat(content: Any, usage: dict[str, Any] | None = None, **choice: Any) -> bytes:
    """A whole HTTP response with one chat completion."""
    body: dict[str, Any] = {
        "choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop", **choice}]
    }
    if usage is not None:
        body["usage"] = usage
    return http(200, json.dumps(body).encode())


def http(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", "connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass
class FakeJudge:
    """`reply` makes the answer to each request; `asked` are the requests so far."""

    url: str
    reply: Callable[[Asked], Reply] = lambda _: chat("yes")
    asked: list[Asked] = field(default_factory=list[Asked])

    def says(self, content: Any, usage: dict[str, Any] | None = None) -> None:
        self.reply = lambda _: chat(content, usage)

    def answers(self, reply: Reply) -> None:
        self.reply = lambda _: reply

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            raw = await reader.readexactly(int(headers.get("content-length", "0")))
            asked = Asked(first.split()[1], headers, raw)
            self.asked.append(asked)
            reply = self.reply(asked)
            if reply is None:
                await reader.read()  # until the other side gives up
            else:
                writer.write(reply)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def fake_judge() -> AsyncGenerator[FakeJudge]:
    judge = FakeJudge("")
    server = await asyncio.start_server(judge.serve, "127.0.0.1", 0)
    judge.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield judge
    finally:
        server.close()
        await server.wait_closed()
