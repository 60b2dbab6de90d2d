"""Canaries at every place a source can put something, in every disguise: then every road out is searched for them.

Real processes over stdio and HTTP: the bytes on the wire, standard error, the files of the store, and what every
command prints afterwards.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.scenarios import leaky_tools
from tests.scenarios.kit import WHY, placed
from tests.server.cli_kit import run_in_thread

pytestmark = pytest.mark.anyio

TOOLS = Path(leaky_tools.__file__)
WAIT_S_MAX = 60.0
ERA = "2026-07-28"
META: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": ERA,
    "io.modelcontextprotocol/clientCapabilities": {},
}
SECRET_PART = "hunter2-swordfish"
PLANTED = (SECRET_PART, leaky_tools.ADDRESS, leaky_tools.KEY, leaky_tools.PHONE, leaky_tools.NAME)
HALVES = ("mira.holt", "swordfish", "ple.org", leaky_tools.WIDE[:9], "20 7946")
"""What a canary that was cut in two would show."""


def forms(text: str) -> set[bytes]:
    """A canary as it is, and in base64 at each of the places it can begin at, percent-encoded, escaped and in hex."""
    raw = text.encode()
    found = {raw, quote(text, safe="").encode(), json.dumps(text)[1:-1].encode(), raw.hex().encode()}
    for before in range(3):
        letters = base64.b64encode(bytes(before) + raw)
        found.add(letters[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6])
    return found


CANARIES = {form: text for text in (*PLANTED, *HALVES) for form in forms(text)}


def seen_in(where: Mapping[str, bytes]) -> list[str]:
    return [
        f"{text} as {form!r} in {name}"
        for name, data in where.items()
        for form, text in CANARIES.items()
        if form in data
    ]


def desk(folder: Path) -> None:
    """The desk's configuration with the tools that leak, and everything that is to be withheld."""

    def change(config: dict[str, Any]) -> None:
        config["store"]["url"] = "secret://env/LEAKY_SECRET"
        config["sources"]["leaky"] = {"python": str(TOOLS)}
        config["budgets"] = {}
        config["safety"] = {
            "pii_redaction": ["email", "phone", "card_number", "card_last4", "iban", "national_id"]
        }
        config["logging"] = {"trace_level": "tool_calls+retrieval+decisions"}
        read: dict[str, Any] = {"allow_actions": ["read"]}
        config["tools"] += [
            {"name": "profile", "records": [{"kind": "profile", "id": "{output.profile_id}"}], **read},
            {"name": "shelf", "redact": [{"path": "full_name"}], **read},
            {"name": "confide", **read},
            {"name": "grumble", **read},
            {"name": "clerk", "redact": [{"path": "full_name", "as": "name"}], **read},
            {"name": "ledger_entry", "takes_tokens": ["mail"], **read},
            {
                "name": "post",
                "allow_actions": ["create"],
                "resource": "shelf:{input.shelf_id}",
                "takes_tokens": ["to", "note"],
                "facts": {"shelf": {"tool": "clerk", "arguments": {"shelf_id": "{input.shelf_id}"}}},
                "verify": [{"fact": "shelf", "expect": {"full_name": "input.note", "to": "input.note"}}],
                "approval": [{"role": "approver", "when": 'context.input.note == "ask first"'}],
            },
        ]

    placed(folder, change)


class Server(ABC):
    """A server process, and every byte it has said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = b""
        self._next = 0

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The result of one `tools/call`, with progress asked for."""
        params: dict[str, Any] = {
            "name": tool,
            "arguments": arguments,
            "_meta": {**META, "progressToken": f"p{self._next}"},
        }
        result: dict[str, Any] = (await self.ask("tools/call", params))["result"]
        return result

    async def ask(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        self._next += 1
        body = {"jsonrpc": "2.0", "id": self._next, "method": method, "params": params}
        async with asyncio.timeout(WAIT_S_MAX):
            return await self.send(body, str(params.get("name", "")))

    @abstractmethod
    async def send(self, body: dict[str, Any], name: str) -> dict[str, Any]: ...

    async def end(self) -> bytes:
        """Stop it in order; its standard error."""
        if self.process.returncode is None:
            self.process.terminate()
        async with asyncio.timeout(WAIT_S_MAX):
            out, err = await self.process.communicate()
        self.said += out
        return err


class Stdio(Server):
    async def send(self, body: dict[str, Any], name: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(body).encode() + b"\n")
        while True:
            line = await self.process.stdout.readline()
            self.said += line
            answer: dict[str, Any] = json.loads(line)
            if answer.get("id") == body["id"]:
                return answer


class Http(Server):
    def __init__(self, process: asyncio.subprocess.Process, url: str, token: str) -> None:
        super().__init__(process)
        self._url = url
        self._headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": ERA,
        }

    async def send(self, body: dict[str, Any], name: str) -> dict[str, Any]:
        method = {"Mcp-Method": body["method"], **({"Mcp-Name": name} if name else {})}
        async with httpx.AsyncClient(trust_env=False, timeout=WAIT_S_MAX) as http:
            response = await http.post(
                self._url, content=json.dumps(body), headers={**self._headers, **method}
            )
        self.said += response.content + repr(response.headers).encode()
        text = response.text
        events = [line.removeprefix("data:") for line in text.splitlines() if line.startswith("data:")] or [
            text
        ]
        answers: list[dict[str, Any]] = [json.loads(event) for event in events if event.strip()]
        return next(answer for answer in answers if answer.get("id") == body["id"])


def environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COMPTROLLER")}
    secret = f"sqlite:///{folder}/{SECRET_PART}.db"
    return {
        **kept,
        "LEAKY_SECRET": secret,
        "LEAKY_LEDGER": str(folder / "ledger.txt"),
        "PYTHONUNBUFFERED": "1",
    }


async def started(folder: Path, *words: str) -> asyncio.subprocess.Process:
    options = ["--config", str(folder / "comptroller.yaml"), "--data-dir", str(folder)]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "comptroller_server.cli", *options, *words,
        env=environment(folder), stdin=pipe, stdout=pipe, stderr=pipe, limit=2**24,
    )  # fmt: skip


async def ran(folder: Path, *words: str) -> bytes:
    """What one command prints, on either stream."""
    result = await run_in_thread(folder, *words)
    assert result.exit_code == 0, (words, result.output)
    return (result.stdout + result.stderr).encode()


def token_in(line: bytes) -> str:
    """The token in the file that a line of standard error names."""
    return Path(line.decode().rpartition(": ")[2].strip()).read_text().strip()


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file that the server has written."""
    return {
        file.name: file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.suffix not in (".yaml", ".cedar", ".txt")
    }


@asynccontextmanager
async def serving(folder: Path, transport: str) -> AsyncGenerator[tuple[Server, list[bytes]]]:
    """The server, and a list that holds its standard error once it has ended."""
    heard: list[bytes] = []
    if transport == "stdio":
        server: Server = Stdio(await started(folder, "serve"))
    else:
        process = await started(folder, "serve", "--http", "127.0.0.1:0")
        assert process.stderr is not None
        token = ""
        async with asyncio.timeout(WAIT_S_MAX):
            while not (line := await process.stderr.readline()).startswith(b"comptroller: serving at"):
                heard.append(line)
                if line.startswith(b"comptroller: token of"):
                    token = token_in(line)
        server = Http(process, line.decode().rpartition(" ")[2].strip(), token)
    try:
        yield server, heard
    finally:
        heard.append(await server.end())


async def everything_is_said(server: Server) -> dict[str, str]:
    """Every road a source has out through a call; the ids of the calls by what they were."""
    await server.ask("tools/list", {"_meta": META})
    calls: dict[str, str] = {}

    async def call(what: str, tool: str, **arguments: Any) -> dict[str, Any]:
        result = await server.call(tool, **arguments)
        calls[what] = result["_meta"]["comptroller/call"]
        return result

    read = await call("read", "profile", profile_id="p-1")
    assert not read["isError"], read
    shown = read["structuredContent"]
    token = shown["customer"]["email"]
    assert token.startswith("⟦email:")
    assert shown["customer"]["name"].startswith("⟦name:")
    assert isinstance(shown["customer"]["card_last4"], str)
    assert shown["customer"]["mood"] == "cross"
    assert shown["refs"][0]["key"] == "p-1"
    assert not (await call("schemaless", "shelf", shelf_id="s-1"))["isError"]
    assert not (await call("progress", "grumble"))["isError"]
    assert (await call("told", "confide", how="told"))["isError"]
    assert (await call("raised", "confide", how="raised"))["isError"]
    found = await call("token taken", "ledger_entry", mail=token)
    assert json.loads(found["content"][0]["text"].splitlines()[0]) == {"mail": token, "known": True}
    differs = await call("differs", "post", shelf_id="s-1", to=token, note=f"to {token}", why=WHY)
    assert "verification_failed" in differs["content"][0]["text"], differs
    assert "should be" in differs["content"][0]["text"]
    why = {"reason": f"They asked from {token}."}
    again = await call("again", "post", shelf_id="s-1", to=token, note=f"to {token}", why=why)
    assert "recorded result" in again["content"][0]["text"], again
    asked = await call("asked", "post", shelf_id="s-2", to=token, note="ask first", why=why)
    assert "approval_pending" in asked["content"][0]["text"], asked
    wrong = await call("wrong", "ledger_entry", mail=token, mira=token)
    assert "invalid_arguments" in wrong["content"][0]["text"]
    return calls


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_no_canary_leaves_on_any_road(
    tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    desk(tmp_path)
    async with serving(tmp_path, transport) as (server, heard):
        calls = await everything_is_said(server)
        stored = files_of(tmp_path)
    assert any(name.endswith("-wal") for name in stored)
    assert seen_in(stored) == []
    assert (
        leaky_tools.ADDRESS in (tmp_path / "ledger.txt").read_text()
    )  # the source got what the token stands for
    assert seen_in({"the wire": server.said, "standard error": b"".join(heard)}) == []
    commands = [
        ("audit", "tail", "-n", "1000", "--json"),
        ("calls", "list"),
        ("approvals", "show", calls["asked"], "--json"),
        ("approvals", "show", calls["asked"]),
        *(("calls", "show", calls[what], "--json") for what in ("read", "schemaless")),
        *(("why", calls[what]) for what in ("differs", "told", "asked")),
    ]
    for command in commands:
        printed = await ran(tmp_path, *command)
        assert len(printed) > 100
        assert seen_in({" ".join(command): printed}) == []


def test_the_search_itself_finds_every_canary_in_every_form() -> None:
    said = [
        *leaky_tools.profile("p").notes,
        str(leaky_tools.profile("p")),
        json.dumps(leaky_tools.shelf("s")),
    ]
    text = "\n".join(said).replace(leaky_tools.SECRET, SECRET_PART).encode()
    found = "\n".join(seen_in({"there": text}))
    for planted in PLANTED:
        assert planted in found
    for form in CANARIES:
        assert seen_in({"there": b"x" + form + b"x"}) != []
