"""What the README tells people to paste into their client: it is what the program prints, it starts, and it is answered."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from comptroller_server.cli import cli
from comptroller_server.config.loading import data_directory
from comptroller_server.setting_up.clients import CLIENTS, ClientKind
from comptroller_server.setting_up.starting import start_words
from tests.clients.served_desk import serving

README = (Path(__file__).parents[2] / "README.md").read_text()
PROGRAM, CONFIG, ADDRESS = (
    "/path/to/checkout/.venv/bin/comptroller",
    "/path/to/comptroller.yaml",
    "127.0.0.1:8765",
)
OVER_HTTP = [kind for kind in ClientKind if kind is not ClientKind.CLAUDE_DESKTOP]
COMMAND_S_MAX = 60


@dataclass(frozen=True)
class Place:
    """The quick start of the README in `folder`, and what a client hands on to what it starts: little, nothing of ours."""

    folder: Path
    environment: dict[str, str]

    @property
    def config(self) -> Path:
        return self.folder / "comptroller.yaml"

    def printed(self, kind: ClientKind, *words: str) -> str:
        """By `comptroller config snippet`."""
        return self._said("config", "snippet", kind.value, *words).removesuffix("\n")

    def actors(self) -> list[str]:
        """Of the calls on record."""
        return [call["actor"] for call in json.loads(self._said("calls", "list", "--json"))["calls"]]

    def _said(self, *words: str) -> str:
        ended = CliRunner().invoke(cli, [*words, "--config", str(self.config)])
        assert ended.exit_code == 0, ended.output
        return ended.stdout


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for language, name in (("python", "shelf.py"), ("yaml", "comptroller.yaml")):
        found = re.search(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
        assert found is not None
        (tmp_path / name).write_text(found[1])
    home = tmp_path / "home"
    home.mkdir()
    own = {"HOME": str(home), "XDG_DATA_HOME": str(home / "data")}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
    return Place(tmp_path, kept | own)


def shown(kind: ClientKind) -> list[str]:
    """In the README: for stdio, then for HTTP where the client can."""
    part = README.partition(f"<summary>{CLIENTS[kind].title}</summary>")[2].partition("</details>")[0]
    if kind is ClientKind.CLAUDE_CODE:
        return re.findall(r"^    (.+)$", part, re.MULTILINE)
    return re.findall(r"^```json\n(.*?)\n```$", part, re.MULTILINE | re.DOTALL)


def pasted(text: str, kind: ClientKind, place: Place) -> dict[str, Any]:
    """The entry that the client has after `text` was pasted, or run in a shell whose `claude` says what it was told."""
    if kind is not ClientKind.CLAUDE_CODE:
        entry: dict[str, Any] = json.loads(text)[CLIENTS[kind].key]["comptroller"]
        return entry
    claude = place.folder / "bin" / "claude"
    claude.parent.mkdir(exist_ok=True)
    claude.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    claude.chmod(0o755)
    environment = place.environment | {"PATH": f"{claude.parent}:{os.environ['PATH']}"}
    told = subprocess.run(
        ["/bin/sh", "-c", text],
        capture_output=True,
        check=True,
        text=True,
        timeout=COMMAND_S_MAX,
        env=environment,
    ).stdout.split("\0")[:-1]
    if "--" in told:
        assert told[:4] == ["mcp", "add", "comptroller", "--"]
        return {"command": told[4], "args": told[5:]}
    assert told[:5] == ["mcp", "add", "--transport", "http", "comptroller"] and told[6] == "--header"
    name, _, value = told[7].partition(": ")
    return {"url": told[5], "headers": {name: value}}


async def tell_of_bolts(client: Client) -> None:
    answer = await client.call_tool("look_up_part", {"part": "bolt"})
    told: dict[str, Any] = answer.structured_content or {}
    assert not answer.is_error and told["part"] == "bolt"


async def over_stdio(entry: dict[str, Any], place: Place) -> None:
    started = StdioServerParameters(
        command=entry["command"], args=entry["args"], env=place.environment, cwd=place.environment["HOME"]
    )
    with (place.folder / "log").open("w") as log:
        async with Client(stdio_client(started, errlog=log)) as client:
            await tell_of_bolts(client)


async def over_http(address: str, headers: dict[str, str]) -> None:
    async with (
        create_mcp_http_client(headers=headers) as http,
        Client(streamable_http_client(address, http_client=http)) as client,
    ):
        await tell_of_bolts(client)


@pytest.mark.parametrize("kind", ClientKind)
def test_the_readme_shows_what_config_snippet_prints(kind: ClientKind, place: Place) -> None:
    texts = [place.printed(kind)]
    if kind in OVER_HTTP:
        texts.append(place.printed(kind, "--http", ADDRESS))
    token = data_directory(None) / "tokens" / f"{kind}.token"
    own = {PROGRAM: start_words()[0], CONFIG: str(place.config), f"/path/to/{kind}.token": str(token)}
    expected = shown(kind)
    for written, real in own.items():
        expected = [text.replace(written, real) for text in expected]
    assert texts == expected


@pytest.mark.clients
@pytest.mark.parametrize("kind", ClientKind)
def test_what_is_pasted_for_stdio_starts_and_answers_as_that_client(kind: ClientKind, place: Place) -> None:
    asyncio.run(over_stdio(pasted(place.printed(kind), kind, place), place))
    assert place.actors() == [kind]


@pytest.mark.clients
def test_what_is_pasted_for_http_finds_the_server_and_answers_as_that_client(place: Place) -> None:
    command = [*start_words(), "serve", "--http", "127.0.0.1:0", "--config", str(place.config)]
    with serving(command, place.environment, place.folder / "serve.log") as url:
        for kind in OVER_HTTP:
            entry = pasted(place.printed(kind, "--http", url.split("/")[2]), kind, place)
            [(name, value)] = entry["headers"].items()
            if (
                variable := CLIENTS[kind].expands
            ) and kind is not ClientKind.CLAUDE_CODE:  # there the shell read it
                token = data_directory(None) / "tokens" / f"{kind}.token"
                value = value.replace(variable, token.read_text().strip())
            asyncio.run(over_http(entry[CLIENTS[kind].url_key], {name: value}))
        assert place.actors() == OVER_HTTP[::-1]
