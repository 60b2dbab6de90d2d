"""`comptroller import`: a client's servers become sources, its file is switched last, and can be had back."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from comptroller_server.cli import cli
from comptroller_server.config.loading import load_config
from comptroller_tools.upstream.pins import LOCK_NAME
from tests.scenarios.upstream_kit import LOOK, WRITE, Upstream

READ_HINT = {"annotations": {"readOnlyHint": True}}
TOKEN = "tok-4711-very-private"


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    return Upstream(tmp_path / "files", {**LOOK, **READ_HINT}, WRITE)


def client_file(folder: Path, upstream: Upstream, **more: Any) -> Path:
    """A client's file as people keep them: odd spacing, other settings, no line end."""
    entry = {**upstream.config()["mcp"], "env": {"API_TOKEN": TOKEN, "LEVEL": "info"}}
    servers = {"My Files": entry, **more}
    path = folder / "claude_desktop_config.json"
    text = json.dumps({"theme": "dark", "mcpServers": servers}, indent=7, separators=(" , ", " :  "))
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    path.chmod(0o640)
    return path


def run(folder: Path, *words: str) -> Result:
    options = ["--config", str(folder / "here" / "comptroller.yaml"), "--data-dir", str(folder / "data")]
    result = CliRunner().invoke(cli, ["import", str(folder / "claude_desktop_config.json"), *words, *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def entries(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())["mcpServers"]
    return found


def test_without_a_yes_nothing_is_written_and_no_secret_is_shown(tmp_path: Path, upstream: Upstream) -> None:
    path = client_file(tmp_path, upstream)
    before = path.read_bytes()
    result = run(tmp_path)
    assert result.exit_code == 0
    assert "My Files: becomes source `My_Files`" in result.stdout
    assert TOKEN not in result.output
    assert path.read_bytes() == before
    assert not (tmp_path / "here").exists()
    assert not (tmp_path / "data").exists()
    assert not (upstream.folder / "pid").exists()


def test_a_yes_writes_sources_moves_secrets_pins_and_switches_the_client_last(
    tmp_path: Path, upstream: Upstream
) -> None:
    path = client_file(tmp_path, upstream)
    result = run(tmp_path, "--yes")
    assert result.exit_code == 0, result.output
    config = load_config(tmp_path / "here" / "comptroller.yaml", data_dir=tmp_path / "data")
    assert list(config.pins["My_Files"]) == ["look", "write"]
    assert TOKEN in config.secrets
    written = "".join(file.read_text() for file in (tmp_path / "here").rglob("*") if file.is_file())
    assert TOKEN not in written + result.output
    secret = tmp_path / "data" / "secrets" / "My_Files.API_TOKEN"
    assert (secret.read_text(), stat.S_IMODE(secret.stat().st_mode)) == (TOKEN, 0o600)
    assert upstream.environment["API_TOKEN"] == TOKEN
    assert upstream.environment["LEVEL"] == "info"
    assert list(entries(path)) == ["comptroller"]
    assert json.loads(path.read_bytes())["theme"] == "dark"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert upstream.ran == []


def test_a_client_that_is_not_configured_is_told_before_anything_is_written(
    tmp_path: Path, upstream: Upstream
) -> None:
    client_file(tmp_path, upstream)
    here = tmp_path / "here"
    here.mkdir()
    (here / "comptroller.yaml").write_text("identity: {local: {clients: {cursor: {}}}}\n")
    result = run(tmp_path, "--yes")
    assert result.exit_code == 2 and "'claude-desktop' is no client" in result.stderr
    assert [path.name for path in here.iterdir()] == ["comptroller.yaml"]
    assert not (upstream.folder / "pid").exists()
    assert run(tmp_path, "--yes", "--client", "cursor").exit_code == 0


def test_a_server_is_the_same_however_the_configuration_is_named(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = client_file(tmp_path, upstream)
    monkeypatch.chdir(tmp_path)
    words = ["import", str(path), "--yes", "--keep-client", "--data-dir", "data"]
    for at in ("here/comptroller.yaml", str(tmp_path / "here" / "comptroller.yaml"), "here/comptroller.yaml"):
        result = CliRunner().invoke(cli, [*words, "--config", at])
        assert "Traceback" not in result.output and result.exit_code in (0, 1), result.output
    config = load_config(tmp_path / "here" / "comptroller.yaml", data_dir=tmp_path / "data")
    assert list(config.sources) == ["My_Files"]


@pytest.mark.anyio
async def test_the_client_works_through_its_new_entry(tmp_path: Path, upstream: Upstream) -> None:
    import asyncio

    upstream.does("look", text="hello")
    path = client_file(tmp_path, upstream)
    await asyncio.to_thread(run, tmp_path, "--yes")
    entry = entries(path)["comptroller"]
    parameters = StdioServerParameters(command=entry["command"], args=entry["args"], env=dict(os.environ))
    with (tmp_path / "log").open("w") as log:
        async with Client(stdio_client(parameters, errlog=log)) as client:
            assert {"look", "write"} <= {tool.name for tool in (await client.list_tools()).tools}
            answer = await client.call_tool("look", {"path": "a"})
            assert answer.structured_content == {"text": "hello"}
            why = {"reason": "It was asked for."}
            gated = await client.call_tool("write", {"path": "a", "why": why})
            assert gated.is_error
    assert upstream.ran == [{"tool": "look", "arguments": {"path": "a"}}]


def test_undo_gives_the_file_back_byte_for_byte_and_only_where_nobody_changed_it(
    tmp_path: Path, upstream: Upstream
) -> None:
    path = client_file(tmp_path, upstream)
    before = path.read_bytes()
    run(tmp_path, "--yes")
    switched = path.read_bytes()
    path.write_bytes(switched + b" ")
    refused = run(tmp_path, "--undo")
    assert refused.exit_code == 2
    assert path.read_bytes() == switched + b" "
    path.write_bytes(switched)
    assert run(tmp_path, "--undo").exit_code == 0
    assert path.read_bytes() == before
    assert run(tmp_path, "--undo").exit_code == 2
    assert path.read_bytes() == before


def test_a_server_that_cannot_be_started_leaves_the_client_as_it_was_until_it_can(
    tmp_path: Path, upstream: Upstream
) -> None:
    path = client_file(tmp_path, upstream)
    before = path.read_bytes()
    told = upstream.folder / "behaviour.json"
    told.rename(upstream.folder / "away")
    result = run(tmp_path, "--yes")
    assert result.exit_code == 1
    assert "cannot be asked" in result.stdout
    assert f"take it out of {path}, or let it stay there ungoverned (--leave 'My Files')" in result.stdout
    assert f"{path} is as it was: there is something left to accept" in result.stdout.splitlines()[-1]
    assert path.read_bytes() == before
    (upstream.folder / "away").rename(told)
    assert run(tmp_path, "--yes").exit_code == 0
    assert list(entries(path)) == ["comptroller"]
    assert len(list((tmp_path / "here" / "comptroller.d").glob("imported*.yaml"))) == 1


def test_scripts_get_one_document_and_no_secret(tmp_path: Path, upstream: Upstream) -> None:
    path = client_file(tmp_path, upstream)
    looked = json.loads(run(tmp_path, "--json").stdout)
    assert (looked["switched"], looked["servers"][0]["secrets"]) == (False, ["My_Files.API_TOKEN"])
    done = json.loads(run(tmp_path, "--json", "--yes").stdout)
    assert done["switched"] is True
    assert Path(done["kept"]).exists()
    assert TOKEN not in json.dumps([looked, done])
    assert json.loads(run(tmp_path, "--json", "--undo").stdout) == {"restored": str(path)}


def test_what_cannot_be_governed_stays_in_the_clients_file(tmp_path: Path, upstream: Upstream) -> None:
    old = {"type": "sse", "url": "https://old.example/sse"}
    path = client_file(tmp_path, upstream, old=old, odd={"command": "./server.py"}, none=5)
    result = run(tmp_path, "--yes")
    assert result.exit_code == 0, result.output
    assert set(entries(path)) == {"comptroller", "old", "odd", "none"}
    assert entries(path)["old"] == old
    assert "old: stays as it is and is not governed" in result.stdout


def test_a_server_that_somebody_leaves_stays_in_the_clients_file_and_the_others_are_governed(
    tmp_path: Path, upstream: Upstream
) -> None:
    dead = {"command": "/nowhere/server", "args": ["--of", "notes"]}
    path = client_file(tmp_path, upstream, notes=dead)
    before = path.read_bytes()
    refused = run(tmp_path, "--yes", "--leave", "note")
    assert refused.exit_code == 2
    assert "--leave note: no such server; these are listed: My Files, notes" in refused.output
    assert not (tmp_path / "here").exists()
    assert run(tmp_path, "--yes").exit_code == 1
    assert path.read_bytes() == before
    result = run(tmp_path, "--yes", "--leave", "notes")
    assert result.exit_code == 0, result.output
    assert "notes: stays as it is and is not governed: --leave says so" in result.stdout
    assert (set(entries(path)), entries(path)["notes"]) == ({"comptroller", "notes"}, dead)
    assert run(tmp_path, "--undo").exit_code == 0
    assert path.read_bytes() == before


def test_a_file_that_names_the_tools_accepts_only_those(tmp_path: Path, upstream: Upstream) -> None:
    path = client_file(tmp_path, upstream)
    (tmp_path / "yes.yaml").write_text("My_Files: {look: read}\n")
    assert run(tmp_path, "--accept", str(tmp_path / "yes.yaml"), "--keep-client").exit_code == 1
    assert "My Files" in entries(path)
    lock = json.loads((tmp_path / "here" / LOCK_NAME).read_text())
    assert list(lock["sources"]["My_Files"]) == ["look"]


def test_another_server_of_the_same_name_is_not_taken_for_the_first(
    tmp_path: Path, upstream: Upstream
) -> None:
    client_file(tmp_path, upstream)
    assert run(tmp_path, "--yes", "--keep-client").exit_code == 1
    other = Upstream(tmp_path / "other", LOOK)
    path = client_file(tmp_path, other)
    result = run(tmp_path, "--yes")
    assert result.exit_code == 2
    assert "is another server" in result.stderr
    assert "My Files" in entries(path)


@pytest.mark.parametrize("text", ["", "[]", "// comment\n{}", '{"mcpServers": []}'])
def test_what_is_no_clients_file_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "claude_desktop_config.json"
    path.write_text(text)
    assert run(tmp_path, "--yes").exit_code == 2
    assert path.read_text() == text
