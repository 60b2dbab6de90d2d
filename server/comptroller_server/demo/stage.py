"""What the demo plays on: a folder of its own, the desk, real server processes, and a real MCP client."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import anyio
import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from comptroller_tools.desk.faults import Fault, clear_faults, set_faults
from comptroller_tools.desk.ledger import effects
from comptroller_tools.desk.records import generate

__all__ = ["Invoice", "Reply", "Stage"]

PROCESS_WAIT_S = 30.0
POLL_S = 0.01
_DROP_IN = """\
# What the demo adds to the desk's configuration. One person, one machine: the approver's credential file belongs to
# the same user as the server, which proves less than a credential elsewhere would.
approvals: {allow_same_uid_file: true}
identity: {local: {clients: {web-bot: {}, careful-bot: {}, unlucky-bot: {}, unluckier-bot: {}}}}
"""


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice with a ticket about it, as the demo's customer names them."""

    invoice: str
    ticket: str
    refundable_cents: int


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
        return str(self.refusal.get("call") or self.meta.get("comptroller/call"))

    @property
    def code(self) -> str:
        return str(self.refusal.get("code", ""))

    @property
    def refs(self) -> list[str]:
        return [str(ref["ref"]) for ref in self.structured.get("refs", [])]


class Stage:
    """One run of the demo in `folder`. Everything it starts, it ends."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.desk = folder / "desk.db"
        self.config = folder / "comptroller.yaml"
        self.data = folder / "data"
        self.credential = folder / "olga.credential"
        self.random = random.Random(seed)  # noqa: S311 -- it picks what the demo talks about
        self._seed = seed

    # -- setting up -----------------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """The desk's own configuration, its records from the seed, and an enrolled approver."""
        origin = files("comptroller_tools.desk")
        (self.folder / "policies").mkdir(parents=True, exist_ok=True)
        (self.folder / "comptroller.d").mkdir(exist_ok=True)
        if not self.config.exists():
            self.config.write_text((origin / "comptroller.yaml").read_text())
            for policy in (origin / "policies").iterdir():
                if policy.name.endswith(".cedar"):
                    (self.folder / "policies" / policy.name).write_text(policy.read_text())
        (self.folder / "comptroller.d" / "demo.yaml").write_text(_DROP_IN)
        generate(self.desk, self._seed)
        self.cli("approver", "add", "olga", "--role", "approver", "--credential-out", str(self.credential))

    def invoices(self, at_least_cents: int, below_cents: int = 1 << 40) -> list[Invoice]:
        """Invoices with that much left to refund and a ticket about them, shuffled by the seed."""
        with contextlib.closing(sqlite3.connect(f"file:{self.desk}?mode=ro", uri=True)) as connection:
            rows = connection.execute(
                "SELECT i.id, t.id, i.paid_cents - i.refunded_cents FROM invoices i "
                "JOIN tickets t ON t.invoice_id = i.id "
                "WHERE i.paid_cents - i.refunded_cents >= ? AND i.paid_cents - i.refunded_cents < ? GROUP BY i.id ORDER BY i.id",
                (at_least_cents, below_cents),
            ).fetchall()
        found = [Invoice(*row) for row in rows]
        self.random.shuffle(found)
        return found

    def refunds_made(self, call: str) -> int:
        """How many refunds the desk's own ledger has under a call's effect key."""
        return len(effects(self.desk, call))

    @contextlib.contextmanager
    def misbehaving(self, fault: Fault) -> Any:
        """The desk misbehaves as told, in every process, until the block ends."""
        set_faults(self.desk, [fault])
        try:
            yield
        finally:
            clear_faults(self.desk)

    # -- processes ------------------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")}
        return {**kept, "COMPTROLLER_DESK": str(self.desk), "NO_COLOR": "1"}

    @property
    def options(self) -> list[str]:
        return ["--config", str(self.config), "--data-dir", str(self.data)]

    def cli(self, *words: str, check: bool = True) -> str:
        """Run one `comptroller` command as its own process; what it printed."""
        done = subprocess.run(  # noqa: S603 -- our own program
            [sys.executable, "-m", "comptroller_server.cli", *self.options, *words],
            check=False,  # below, with what it said
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PROCESS_WAIT_S,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode != 0:
            raise RuntimeError(
                f"comptroller {' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}"
            )
        return done.stdout

    def spawn(self, words: list[str], log: Path) -> subprocess.Popen[bytes]:
        """A Python process that says what it has to say into `log`."""
        with log.open("wb") as said:
            return subprocess.Popen(  # noqa: S603 -- our own program
                [sys.executable, *words],
                env=self.environment,
                cwd=self.folder,
                stderr=said,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def cli_json(self, *words: str) -> Any:
        return json.loads(self.cli(*words, "--json"))

    @contextlib.asynccontextmanager
    async def over_stdio(self, client: str) -> AsyncGenerator[Agent]:
        """A server of its own, started by a real MCP client over stdio."""
        words = ["-m", "comptroller_server.cli", *self.options, "serve", "--client", client]
        parameters = StdioServerParameters(
            command=sys.executable, args=words, env=self.environment, cwd=self.folder
        )
        with (self.folder / "server.log").open("a") as log:
            async with Client(stdio_client(parameters, errlog=log)) as mcp_client:
                yield Agent(mcp_client)

    @contextlib.asynccontextmanager
    async def over_http(self, client: str, pause: str | None = None) -> AsyncGenerator[tuple[Agent, Server]]:
        """A server in a process of its own on loopback, and a real MCP client with the client's token."""
        server = await Server.start(self, pause)
        token = (self.data / "tokens" / f"{client}.token").read_text().strip()
        try:
            async with (
                httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, trust_env=False) as http,
                Client(streamable_http_client(server.url, http_client=http)) as mcp_client,
            ):
                yield Agent(mcp_client), server
        finally:
            await server.end()


class Agent:
    """A scripted agent behind a real MCP client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(self, tool: str, **arguments: Any) -> Reply:
        result = await self._client.call_tool(tool, arguments)
        text = "\n".join(getattr(block, "text", "") for block in result.content)
        return Reply(text, bool(result.is_error), result.structured_content or {}, dict(result.meta or {}))


class Server:
    """`comptroller serve --http` in a process of its own; with `pause`, it stops at that point of a call."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, reached: Path) -> None:
        self.process = process
        self.url = url
        self.reached = reached

    @classmethod
    async def start(cls, stage: Stage, pause: str | None) -> Server:
        number = stage.random.randrange(1 << 30)
        reached, log = stage.folder / f"reached-{number}", stage.folder / f"server-{number}.log"
        words = ["-m", "comptroller_server.cli", *stage.options, "serve", "--http", "127.0.0.1:0"]
        if pause is not None:
            words = ["-m", "comptroller_server.demo.pause", *stage.options, pause, str(reached)]
        process = stage.spawn(words, log)
        with anyio.move_on_after(PROCESS_WAIT_S):
            while process.poll() is None:
                if found := re.search(r"http://127\.0\.0\.1:\d+/\S*?mcp", log.read_text()):
                    return cls(process, found[0], reached)
                await anyio.sleep(POLL_S)
        process.kill()
        process.wait()
        raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")

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
