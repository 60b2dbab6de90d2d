from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult

from comptroller_tools.desk.database import ensure
from comptroller_tools.desk.faults import Fault, FaultKind, Point, set_faults
from comptroller_tools.desk.ledger import effects
from tests.scenarios.kit import BEFORE, Changes, placed, tool_of
from tests.server.cli_kit import accepting_own_files, at_work, run_in_thread

pytestmark = pytest.mark.anyio

WAIT_S_MAX = 60.0


@dataclass
class Place:
    """A configuration, its desk, and `comptroller` as a process."""

    folder: Path

    @property
    def desk(self) -> Path:
        return self.folder / "desk.db"

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("COMPTROLLER")}
        return {**kept, "COMPTROLLER_DESK": str(self.desk), "PYTHONUNBUFFERED": "1"}

    def words(self, *words: str) -> list[str]:
        options = ["--config", str(self.folder / "comptroller.yaml"), "--data-dir", str(self.folder)]
        return ["-m", "comptroller_server.cli", *options, *words]

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            sys.executable, *self.words(*words), env=self.environment, stdin=pipe, stdout=pipe, stderr=pipe
        )

    async def run(self, *words: str) -> tuple[int, str, str]:
        """One command to its end: exit code, standard output, standard error."""
        process = await self.start(*words)
        async with asyncio.timeout(WAIT_S_MAX):
            out, err = await process.communicate(b"")
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def json(self, *words: str) -> Any:
        code, out, err = await self.run(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    async def look(self, *words: str) -> Any:
        """What a command says that needs no process of its own, as JSON."""
        return json.loads(await self.read(*words, "--json"))

    async def read(self, *words: str) -> str:
        """The same in words."""
        ended = await run_in_thread(self.folder, *words)
        assert ended.exit_code == 0, ended.stderr
        return ended.stdout

    def refunds(self) -> list[str]:
        """The oracle: invoices that money moved on, from the desk's own ledger."""
        return [e.invoice_id for e in effects(self.desk) if not e.effect_key.startswith(BEFORE)]

    @asynccontextmanager
    async def client(self, name: str = "triage-bot") -> AsyncGenerator[Client]:
        """A real MCP client that starts its server over stdio."""
        parameters = StdioServerParameters(
            command=sys.executable, args=self.words("serve", "--client", name), env=self.environment
        )
        with (self.folder / "server.log").open("a") as log:
            async with Client(stdio_client(parameters, errlog=log)) as client:
                yield client

    def log(self) -> str:
        return (self.folder / "server.log").read_text()


async def made(folder: Path, changes: Changes | None = accepting_own_files) -> Place:
    placed(folder, changes)
    place = Place(folder)
    ensure(place.desk, 1)
    credential = str(folder / "olga.credential")
    await place.read("approver", "add", "olga", "--role", "approver", "--credential-out", credential)
    return place


def invoices(place: Place, count: int) -> list[str]:
    with closing(sqlite3.connect(place.desk)) as desk, desk:
        found = desk.execute(
            "SELECT id FROM invoices WHERE paid_cents - refunded_cents >= 10000 ORDER BY id LIMIT ?", (count,)
        ).fetchall()
    desk.close()
    return [str(row[0]) for row in found]


def refund(invoice: str, usd: float) -> dict[str, Any]:
    why = {"reason": "The customer was charged twice."}
    return {"invoice_id": invoice, "amount_usd": usd, "reason_code": "goodwill", "why": why}


def code_of(result: CallToolResult) -> str | None:
    refusal: dict[str, Any] | None = (result.meta or {}).get("comptroller/refusal")
    return str(refusal["code"]) if refusal else None


async def test_a_call_approved_by_another_process_is_resumed_over_stdio_and_everything_is_on_record(
    tmp_path: Path,
) -> None:
    place = await made(tmp_path)
    [invoice] = invoices(place, 1)
    async with place.client() as client:
        pending = await client.call_tool("issue_refund", refund(invoice, 30))
        assert code_of(pending) == "approval_pending"
        call = str((pending.meta or {})["comptroller/call"])
        words = (
            "approvals",
            "approve",
            call,
            "--yes",
            "--credential-file",
            str(tmp_path / "olga.credential"),
        )
        assert (await place.json(*words))["ok"] is True
        done = await client.call_tool("resume_call", {"call": call})
        assert code_of(done) is None, place.log()
        assert place.refunds() == [invoice]
    assert "serving triage-bot over stdio" in place.log()
    assert "a last checkpoint" in place.log()
    verified = await place.json("audit", "verify")
    assert verified["ok"] is True
    assert verified["tenants"][0]["beyond"] == 0  # signed once more at the end
    assert "olga agreed" in await place.read("why", call)


async def test_a_configuration_that_does_not_load_says_all_that_is_wrong_and_nothing_on_stdout(
    tmp_path: Path,
) -> None:
    def wrong(config: dict[str, Any]) -> None:
        config["environment"] = "no good"
        tool_of(config, "issue_refund")["verify"][0]["fact"] = "nothing"

    placed(tmp_path, wrong)
    code, out, err = await Place(tmp_path).run("serve")
    assert code == 2
    assert out == ""
    assert "environment" in err
    assert "`tools[4].verify[0].fact`" in err


async def test_stdio_needs_a_client_where_several_are_configured(tmp_path: Path) -> None:
    def two(config: dict[str, Any]) -> None:
        config["identity"]["local"]["clients"] = {"one": {}, "two": {}}

    placed(tmp_path, two)
    code, out, err = await Place(tmp_path).run("serve")
    assert (code, out) == (2, "")
    assert "--client (one, two)" in err


async def test_over_http_stderr_names_url_and_token_files_and_sigterm_ends_in_a_checkpoint(
    tmp_path: Path,
) -> None:
    place = await made(tmp_path)
    [invoice] = invoices(place, 1)
    process = await place.start("serve", "--http", "127.0.0.1:0")
    assert process.stderr is not None
    said = ""
    async with asyncio.timeout(WAIT_S_MAX):
        while "serving at" not in said:
            said += (await process.stderr.readline()).decode()
    token_file = tmp_path / "tokens" / "triage-bot.token"
    token = token_file.read_text().strip()
    url = said.split("serving at ")[1].split()[0]
    assert str(token_file) in said
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        assert code_of(await client.call_tool("lookup_invoice", {"invoice_id": invoice})) is None
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(WAIT_S_MAX):
        out, err = await process.communicate()
    assert process.returncode == 0
    assert out == b""
    assert token not in said + err.decode()
    assert (await place.look("audit", "verify"))["tenants"][0]["beyond"] == 0


async def test_after_halt_from_another_process_nothing_that_waited_is_dispatched(tmp_path: Path) -> None:
    def one_at_a_time(config: dict[str, Any]) -> None:
        tool_of(config, "issue_refund")["limits"] = {"timeout_s": 60, "concurrency_max": 1}
        config["budgets"] = {}

    place = await made(tmp_path, one_at_a_time)
    wanted = invoices(place, 24)
    reached, go_on = tmp_path / "reached", tmp_path / "go-on"
    hang = Fault(
        tool="issue_refund",
        kind=FaultKind.HANG,
        point=Point.BEFORE_WRITE,
        reached=reached,
        until=go_on,
    )
    set_faults(place.desk, [hang])
    codes: list[str | None] = []

    async with place.client() as client, anyio.create_task_group() as tasks:

        async def propose(invoice: str) -> None:
            codes.append(code_of(await client.call_tool("issue_refund", refund(invoice, 5))))

        for invoice in wanted:
            tasks.start_soon(propose, invoice)
        with anyio.fail_after(WAIT_S_MAX):
            while not reached.exists():  # noqa: ASYNC110 -- another process makes the file
                await anyio.sleep(0.01)
        told = await place.json("halt", "--tool", "issue_refund", "--reason", "stop")
        [owner] = told["owners"]
        assert (owner["acknowledged"], owner["dispatched"]) == (True, 1)
        go_on.touch()
    assert len(place.refunds()) == 1
    assert sorted(set(map(str, codes))) == ["None", "halted"]
    assert codes.count("halted") == len(wanted) - 1


async def test_the_next_start_tells_what_it_recovered(tmp_path: Path) -> None:
    place = await made(tmp_path)
    [invoice] = invoices(place, 1)
    set_faults(place.desk, [Fault(tool="issue_refund", kind=FaultKind.KILL, point=Point.AFTER_WRITE)])
    with pytest.raises(BaseException):  # noqa: B017 -- however the client says that its server was killed
        async with place.client() as client:
            with anyio.fail_after(WAIT_S_MAX):
                await client.call_tool("issue_refund", refund(invoice, 5))
    set_faults(place.desk, [])
    [call] = (await place.look("calls", "list", "--state", "committed"))["calls"]
    assert "not known yet" in await place.read("why", call["call"])
    async with place.client() as client:
        await client.list_tools()
    assert f"recovered call {call['call']} (issue_refund): done" in place.log()
    assert (await place.look("calls", "show", call["call"]))["state"] == "done"
    assert "looked up with find_refund" in await place.read("why", call["call"])
    assert place.refunds() == [invoice]


async def test_following_the_log_ends_quietly_when_interrupted(tmp_path: Path) -> None:
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a suite in the background ignores it, and children too
    place = await made(tmp_path)
    process = await place.start("audit", "tail", "-f")
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_S_MAX):
        assert b"approver_added" in await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(WAIT_S_MAX):
        _, err = await process.communicate()
    assert process.returncode == 0
    assert err == b""


async def test_a_credential_typed_on_the_terminal_approves_and_is_not_shown(tmp_path: Path) -> None:
    async with at_work(tmp_path, None) as desk:  # a file of our own user would not count here
        call = await desk.shop.pending(desk.shop.paid()[0])
        credential = desk.credential.read_text().strip()
        ours, theirs = os.openpty()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *Place(tmp_path).words("approvals", "approve", call, "--yes", "--json"),
            env=Place(tmp_path).environment,
            stdin=theirs,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # no other terminal to ask
        )
        os.close(theirs)
        assert process.stderr is not None
        async with asyncio.timeout(WAIT_S_MAX):
            asked = await process.stderr.readuntil(b": ")
            os.write(ours, credential.encode() + b"\n")
            out, err = await process.communicate()
        os.close(ours)
        told = json.loads(out)
        assert (told["ok"], told["by"], told["state"]) == (True, "olga", "approved"), err
        assert [vote["assurance"] for vote in told["votes"]] == ["credential"]
        assert credential not in (asked + out + err).decode()
        assert not (await desk.shop.resume(call)).is_error
