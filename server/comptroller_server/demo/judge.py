"""A local stand-in for a model endpoint: the demo's judge. It says so aloud, and judges by one plain rule."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator

__all__ = ["LocalJudge", "local_judge"]


class LocalJudge:
    """An OpenAI-compatible endpoint on 127.0.0.1. It finds a promise where the draft says `promise`.

    While `is_down` it answers every question with 503.
    """

    def __init__(self) -> None:
        self.url = ""
        self.is_down = False
        self.asked = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(head.partition("content-length:")[2].split("\r\n")[0] or 0)
            question = json.loads(await reader.readexactly(length))
            self.asked += 1
            writer.write(self._response(question["messages"][-1]["content"]))
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def _response(self, shown: str) -> bytes:
        draft = shown.partition("END ")[0]  # what stands in the fence; the question itself speaks of promises
        answer = {"answer": "yes" if "promise" in draft.lower() else "no"}
        message = {"role": "assistant", "content": json.dumps(answer)}
        usage = {"prompt_tokens": 180, "completion_tokens": 4}
        body = json.dumps(
            {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
        ).encode()
        status = "503 Service Unavailable" if self.is_down else "200 OK"
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        return f"{head}connection: close\r\n\r\n".encode() + body


@contextlib.asynccontextmanager
async def local_judge() -> AsyncGenerator[LocalJudge]:
    """A judge that listens on a free port of this machine until the block ends."""
    judge = LocalJudge()
    server = await asyncio.start_server(judge.serve, "127.0.0.1", 0)
    judge.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield judge
    finally:
        server.close()
        await server.wait_closed()
