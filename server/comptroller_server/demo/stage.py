"""What the demo plays on: a folder of its own, the desk in it, and `comptroller` commands as processes of their own."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import anyio

from comptroller_server.demo.servers import PROCESS_WAIT_S, Server
from comptroller_server.demo.setups import MAIN, Setup
from comptroller_tools.desk.faults import Fault, clear_faults, set_faults
from comptroller_tools.desk.ledger import EffectKind, effects
from comptroller_tools.desk.records import generate

__all__ = ["Command", "Invoice", "Stage"]

_DROP_IN = """\
# What the demo adds to the desk's configuration. One person, one machine: the approver's credential file belongs to
# the same user as the server, which proves less than a credential elsewhere would.
approvals: {allow_same_uid_file: true}
identity: {local: {clients: {web-bot: {}, careful-bot: {}, unlucky-bot: {}, unluckier-bot: {}, eager-bot: {}}}}
"""


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice with an open ticket about it, as the demo's customer names them."""

    invoice: str
    ticket: str
    refundable_cents: int


class Command:
    """A `comptroller` command at work in a process of its own, while the demo goes on."""

    def __init__(self, line: str, process: subprocess.Popen[bytes], said: Path) -> None:
        self._line = line
        self._process = process
        self._said = said

    def wait(self) -> str:
        """What it printed, once it has ended. Raises `RuntimeError` when it did not end with 0."""
        code = self._process.wait(PROCESS_WAIT_S)
        printed, errors = (self._said.with_suffix(kind) for kind in (".out", ".err"))
        if code != 0:
            raise RuntimeError(f"comptroller {self._line} ended with {code}: {errors.read_text()[-2000:]}")
        return printed.read_text()

    async def printed(self) -> str:
        return await anyio.to_thread.run_sync(self.wait)


class Stage:
    """One run of the demo in `folder`. Everything it starts, it ends.

    One store holds the whole run; `setup` is the configuration in force. A server over HTTP is kept for the next
    chapter as long as that asks for the same configuration (`served`), because starting one takes a second.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.desk = folder / "desk.db"
        self.data = folder / "data"
        self.credential = folder / "olga.credential"
        self.random = random.Random(seed)  # noqa: S311 -- it picks what the demo talks about
        self.setup = MAIN
        self.judge_url = ""
        self._seed = seed
        self._numbers = itertools.count(1)
        self._server: tuple[Setup, Server] | None = None

    # -- setting up -----------------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """The desk's own configuration, its records from the seed, and an enrolled approver."""
        origin = files("comptroller_tools.desk")
        config = self.folder / "comptroller.yaml"
        (self.folder / "policies").mkdir(parents=True, exist_ok=True)
        (self.folder / "comptroller.d").mkdir(exist_ok=True)
        if not config.exists():
            config.write_text((origin / "comptroller.yaml").read_text())
            for policy in (origin / "policies").iterdir():
                if policy.name.endswith(".cedar"):
                    (self.folder / "policies" / policy.name).write_text(policy.read_text())
        (self.folder / "comptroller.d" / "demo.yaml").write_text(_DROP_IN)
        generate(self.desk, self._seed)
        words = ("approver", "add", "olga", "--role", "approver", "--credential-out", str(self.credential))
        self.begin(*words).wait()

    async def use(self, setup: Setup) -> None:
        """Make `setup` the configuration in force for what is started from now on; a server of another one ends."""
        if self._server is not None and self._server[0] is not setup:
            await self.close()
        if setup is not self.setup:
            await anyio.to_thread.run_sync(lambda: setup.write(self.folder, judge=self.judge_url))
            self.setup = setup

    async def served(self, setup: Setup) -> Server:
        """A running server over HTTP under `setup`: the one that is there, or a new one."""
        await self.use(setup)
        if self._server is None:
            self._server = (setup, await Server.start(self))
        return self._server[1]

    @contextlib.asynccontextmanager
    async def beside(self, setup: Setup, fault: str) -> AsyncGenerator[Server]:
        """A second server under another configuration, beside the one that is kept; `fault` as in `Server.start`."""
        await anyio.to_thread.run_sync(lambda: setup.write(self.folder, judge=self.judge_url))
        first, self.setup = self.setup, setup
        try:
            server = await Server.start(self, fault)
        finally:
            self.setup = first
        try:
            yield server
        finally:
            await server.end()

    def let_go(self) -> None:
        """Forget the server that was kept: somebody has killed it."""
        self._server = None

    async def close(self) -> None:
        """End the server that was kept."""
        if self._server is not None:
            kept, self._server = self._server, None
            await kept[1].end()

    # -- the desk -------------------------------------------------------------------------------------------------

    def invoices(self, at_least_cents: int, below_cents: int = 1 << 40) -> list[Invoice]:
        """Invoices with that much left to refund and an open ticket about them, shuffled by the seed."""
        rows = self.sql(
            "SELECT i.id, t.id, i.paid_cents - i.refunded_cents FROM invoices i "
            "JOIN tickets t ON t.invoice_id = i.id WHERE t.status <> 'closed' "
            "AND i.paid_cents - i.refunded_cents >= ? AND i.paid_cents - i.refunded_cents < ? "
            "GROUP BY i.id ORDER BY i.id",
            at_least_cents,
            below_cents,
        )
        found = [Invoice(*row) for row in rows]
        self.random.shuffle(found)
        return found

    def refunds_made(self, call: str) -> int:
        """How many refunds the desk's own ledger has under a call's effect key."""
        return sum(effect.kind is EffectKind.REFUND_ISSUED for effect in effects(self.desk, call))

    def refunded_cents(self, invoice: str) -> int:
        """What the desk itself says was given back on an invoice."""
        return int(self.sql("SELECT refunded_cents FROM invoices WHERE id = ?", invoice)[0][0])

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Look at the desk, or change it as a colleague would who works beside the agent."""
        with contextlib.closing(sqlite3.connect(self.desk, timeout=10)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def misbehaving(self, *faults: Fault) -> Generator[None]:
        """The desk misbehaves as told, in every process, until the block ends."""
        set_faults(self.desk, faults)
        try:
            yield
        finally:
            clear_faults(self.desk)

    # -- processes ------------------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")}
        more = {k: v for k, v in os.environ.items() if k == "PYTHONPATH"}
        return {**kept, **more, "COMPTROLLER_DESK": str(self.desk), "NO_COLOR": "1"}

    @property
    def options(self) -> list[str]:
        return ["--config", str(self.setup.path(self.folder)), "--data-dir", str(self.data)]

    def token(self, client: str) -> str:
        return (self.data / "tokens" / f"{client}.token").read_text().strip()

    def number(self) -> int:
        """For the names of files, different in one run."""
        return next(self._numbers)

    def begin(self, *words: str) -> Command:
        """Start one `comptroller` command as its own process, under the configuration in force now."""
        said = self.folder / f"command-{self.number()}"
        line = [sys.executable, "-m", "comptroller_server.cli", *self.options, *words]
        with said.with_suffix(".out").open("wb") as out, said.with_suffix(".err").open("wb") as errors:
            process = subprocess.Popen(  # noqa: S603 -- our own program
                line,
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
            )
        return Command(" ".join(words), process, said)

    async def command(self, *words: str) -> str:
        """What one command printed. Raises `RuntimeError` with its errors when it did not end with 0."""
        return await self.begin(*words).printed()

    async def json(self, *words: str) -> Any:
        return json.loads(await self.command(*words, "--json"))

    async def halt(self, tool: str) -> str:
        """Stop one tool, as a person does."""
        return await self.command("halt", "--tool", tool, "--reason", "it looks odd today")

    async def lift(self, tool: str) -> str:
        """Lift that, on Olga's word."""
        words = ("resume", "--tool", tool, "--reason", "all is well")
        return await self.command(*words, "--credential-file", str(self.credential))

    async def decide(self, verb: str, call: str, card: str = "") -> str:
        """Olga's yes (`approve`) or no (`deny`) to a call, with her credential, in a process of its own.

        With a `card` that she was shown, her yes is to the digest that stands on it, else to whatever there is.
        """
        words = ["approvals", verb, call, "--credential-file", str(self.credential)]
        if verb == "approve":
            words += ["--digest", card.rpartition("sha256 ")[2][:64]] if card else ["--yes"]
        return await self.command(*words)
