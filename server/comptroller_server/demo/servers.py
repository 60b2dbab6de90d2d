"""Real server processes of the demo, and scripted agents behind real MCP clients."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import anyio
import httpx2
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.session import ElicitationFnT
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult

from comptroller_audit.vocabulary import Code, RefusalClass

__all__ = ["PROCESS_WAIT_S", "Agent", "Place", "Reply", "Server", "over_stdio", "reply_of"]

PROCESS_WAIT_S = 60.0
POLL_S = 0.01
Era = Literal["legacy", "auto"]


class Place(Protocol):
    """Where servers run: their folder, environment and options."""

    @property
    def folder(self) -> Path: ...
    @property
    def environment(self) -> dict[str, str]: ...
    @property
    def options(self) -> list[str]: ...
    def token(self, client: str) -> str: ...
    def number(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client got back."""

    text: str
    is_error: bool
    structured: dict[str, Any]
    meta: dict[str, Any]

    @property
    def refusal(self) -> dict[str, Any]:
        refusal: dict[str, Any] = self.meta.get("comptroller/refusal") or {}
        return refusal

    @property
    def call(self) -> str:
        return str(self.refusal.get("call") or self.meta.get("comptroller/call") or "")

    @property
    def code(self) -> str:
        return str(self.refusal.get("code", ""))

    @property
    def failure_class(self) -> str:
        return str(self.refusal.get("class", ""))

    @property
    def retry(self) -> str:
        return str(self.refusal.get("retry", ""))

    @property
    def task(self) -> str:
        return str(self.meta.get("comptroller/task") or "")

    @property
    def refs(self) -> list[str]:
        return [str(ref["ref"]) for ref in self.structured.get("refs", [])]


class Agent:
    """A scripted agent behind a real MCP client."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, tool: str, meta: Mapping[str, Any] | None = None, **arguments: Any) -> Reply:
        """Call a tool. An unknown one is answered by the protocol with an error of its own, without a call id."""
        try:
            result = await self.client.call_tool(tool, arguments, meta=dict(meta) if meta else None)  # type: ignore[arg-type]  # a TypedDict with extra items
        except MCPError as error:
            if not str(error).startswith("Unknown tool"):
                raise
            refusal = {"code": Code.UNKNOWN_TOOL, "class": RefusalClass.TOOL_MISMATCH, "retry": "never"}
            return Reply(str(error), True, {}, {"comptroller/refusal": refusal})
        return reply_of(result)


def reply_of(result: CallToolResult) -> Reply:
    text = "\n".join(getattr(block, "text", "") for block in result.content)
    return Reply(text, bool(result.is_error), result.structured_content or {}, dict(result.meta or {}))


@contextlib.asynccontextmanager
async def over_stdio(place: Place, client: str) -> AsyncGenerator[Agent]:
    """A server of its own, started by a real MCP client over stdio."""
    words = ["-m", "comptroller_server.cli", *place.options, "serve", "--client", client]
    parameters = StdioServerParameters(
        command=sys.executable, args=words, env=place.environment, cwd=place.folder
    )
    with (place.folder / "server.log").open("a") as log:
        async with Client(stdio_client(parameters, errlog=log)) as mcp_client:
            yield Agent(mcp_client)


class Server:
    """`comptroller serve --http` in a process of its own. Its end is asked for, or brought about (`kill`)."""

    def __init__(self, place: Place, process: subprocess.Popen[bytes], url: str, reached: Path) -> None:
        self._place = place
        self.process = process
        self.url = url
        self.reached = reached

    @classmethod
    async def start(cls, place: Place, fault: str | None = None) -> Server:
        """With `fault`, what goes wrong in it is up to the demo (`demo/faulty.py`)."""
        number = place.number()
        reached, log = place.folder / f"reached-{number}", place.folder / f"server-{number}.log"
        words = ["-m", "comptroller_server.cli", *place.options, "serve", "--http", "127.0.0.1:0"]
        if fault is not None:
            words = ["-m", "comptroller_server.demo.faulty", *place.options, fault, str(reached)]
        process = _spawn(place, words, log)
        with anyio.move_on_after(PROCESS_WAIT_S):
            while process.poll() is None:
                if found := re.search(r"http://127\.0\.0\.1:\d+/\S*?mcp", log.read_text()):
                    return cls(place, process, found[0], reached)
                await anyio.sleep(POLL_S)
        process.kill()
        process.wait()
        raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")

    @contextlib.asynccontextmanager
    async def agent(
        self, client: str, person: ElicitationFnT | None = None, era: Era = "auto"
    ) -> AsyncGenerator[Agent]:
        """A real MCP client with the token of one configured client; `person` answers what it is asked."""
        headers = {"Authorization": f"Bearer {self._place.token(client)}"}
        async with (
            httpx2.AsyncClient(headers=headers, trust_env=False, timeout=PROCESS_WAIT_S) as http,
            Client(
                streamable_http_client(self.url, http_client=http), mode=era, elicitation_callback=person
            ) as mcp_client,
        ):
            yield Agent(mcp_client)

    async def until_reached(self, file: Path | None = None) -> None:
        """Wait until the server says it stands at its point."""
        with anyio.fail_after(PROCESS_WAIT_S):
            while not (file or self.reached).exists():  # noqa: ASYNC110 -- another process makes the file
                await anyio.sleep(POLL_S)

    async def kill(self) -> None:
        """SIGKILL: no clean-up, no last word."""
        self.process.kill()
        await anyio.to_thread.run_sync(self.process.wait)

    async def end(self) -> None:
        """SIGTERM, and SIGKILL for one that does not heed it."""
        self.process.terminate()
        try:
            await anyio.to_thread.run_sync(lambda: self.process.wait(PROCESS_WAIT_S))
        except subprocess.TimeoutExpired:
            await self.kill()


def _spawn(place: Place, words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A Python process that says what it has to say into `log`."""
    with log.open("wb") as said:
        return subprocess.Popen(  # noqa: S603 -- our own program
            [sys.executable, *words],
            env=place.environment,
            cwd=place.folder,
            stderr=said,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
