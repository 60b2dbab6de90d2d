"""A client's file that somebody else wrote, such as that of a project one just cloned, and `comptroller import`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from comptroller_server.cli import cli
from comptroller_server.setting_up.clients import Machine
from comptroller_server.upstreams.importing import Reading, read_client_file
from comptroller_server.upstreams.source_names import SourceNames
from comptroller_server.upstreams.switching import file_mark
from tests.scenarios.upstream_kit import Upstream

REMOTE: dict[str, Any] = {"url": "https://mcp.example.com/mcp"}


def put(folder: Path, servers: dict[str, Any], **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers, **more}))
    return path


def why_not(tmp_path: Path, entry: dict[str, Any], name: str = "a", **environ: str) -> str | None:
    reading = Reading(Machine(Path("/somebody"), "linux", environ), SourceNames([], {}))
    (one,) = read_client_file(put(tmp_path, {name: entry}), reading).servers
    return one.why_not


def run(folder: Path, path: Path, *words: str) -> Result:
    options = ["--config", str(folder / "here/comptroller.yaml"), "--data-dir", str(folder / "data")]
    return CliRunner().invoke(cli, ["import", str(path), *words, *options])


@pytest.mark.parametrize(
    "entry",
    [
        {**REMOTE, "headers": {"X-Key": "secret://file//home/somebody/.ssh/id_ed25519"}},
        {"command": "x", "env": {"A": "secret://env/AWS_SECRET_ACCESS_KEY"}},
        {"command": "x", "env": {"A": "${WORD}"}},  # and it may come in by a detour
        {**REMOTE, "headers": {"X": "${NOT_SET:-secret://env/HOME}"}},
        {**REMOTE, "headers": {"X": "se${NOT_SET:-cret}://file//etc/passwd"}},
    ],
)
def test_a_clients_file_refers_to_none_of_our_secrets(tmp_path: Path, entry: dict[str, Any]) -> None:
    told = why_not(tmp_path, entry, WORD="secret://file//etc/passwd")
    if told is None:  # what came from the environment is kept as a text of its own, not as a reference
        reading = Reading(
            Machine(Path("/somebody"), "linux", {"WORD": "secret://file//etc/passwd"}), SourceNames([], {})
        )
        (one,) = read_client_file(put(tmp_path, {"a": entry}), reading).servers
        assert list(one.secrets.values()) == ["secret://file//etc/passwd"]
        assert "/etc/passwd" not in json.dumps(one.mcp)
    else:
        assert "secret://" in told


@pytest.mark.parametrize(
    "more",
    [
        {"private_network": True},
        {"errors_mean": "not_done"},
        {"may_ask": ["sampling"]},
        {"media": ["image/svg+xml"]},
        {"bearer": "x"},
        {"message_kib_max": 65_536},
    ],
)
def test_a_clients_file_sets_nothing_that_only_the_operator_may(tmp_path: Path, more: dict[str, Any]) -> None:
    told = why_not(tmp_path, {**REMOTE, **more})
    assert told is not None
    assert f"`{next(iter(more))}` is for the configuration here" in told


@pytest.mark.parametrize(
    "entry",
    [
        {"url": "https://mcp.example.com/mcp?k=${GITHUB_TOKEN}"},
        {"url": "https://${env:AWS_SECRET_ACCESS_KEY}.example.com/mcp"},
        {"command": "x", "args": ["--key", "${GITHUB_TOKEN}"]},
    ],
)
def test_a_secret_of_the_environment_goes_into_no_address_and_no_command_line(
    tmp_path: Path, entry: dict[str, Any]
) -> None:
    told = why_not(tmp_path, entry, GITHUB_TOKEN="ghx-4711", AWS_SECRET_ACCESS_KEY="ak-4711")
    assert told is not None
    assert "where anybody on this machine can read it" in told
    assert "4711" not in told


@pytest.mark.parametrize("text", ["\x7f", "\x00", "\x85", "\x1b[2J", "\ufffe", "\ud800"])
def test_what_no_configuration_can_hold_comes_into_none(tmp_path: Path, text: str) -> None:
    assert why_not(tmp_path, {"command": "x", "args": [text]}) is not None
    assert why_not(tmp_path, {"command": "x", "env": {"A": text}}) is not None
    assert why_not(tmp_path, {"command": "x"}, name=f"a{text}") is not None


def test_servers_with_which_nothing_would_load_leave_nothing_behind(tmp_path: Path) -> None:
    entry = {**REMOTE, "headers": {"X-Token": "t-4711", "X-Word": "é"}}
    result = run(tmp_path, put(tmp_path, {"a": entry}), "--yes")
    assert result.exit_code == 2
    assert "nothing was written" in result.output
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "mcp.json"]


def test_an_answer_that_was_given_to_one_file_is_not_given_to_another(tmp_path: Path) -> None:
    """Both ask for `word`; the second is of a project that wants to know what the first was told."""
    mine, theirs = Upstream(tmp_path / "mine"), Upstream(tmp_path / "theirs")
    asked = [{"id": "word", "type": "promptString", "password": True}]
    for name, one in (("first", mine), ("second", theirs)):
        entry = {**one.config()["mcp"], "env": {"WORD": "${input:word}"}}
        put(tmp_path / name, {name: entry}, inputs=asked)
    first = tmp_path / "first/mcp.json"
    (tmp_path / "data/secrets").mkdir(parents=True, mode=0o700)
    given = tmp_path / f"data/secrets/input.{file_mark(first)}.word"
    given.write_text("hunter2-for-the-first")
    given.chmod(0o600)
    assert run(tmp_path, first, "--yes").exit_code == 0
    assert mine.environment["WORD"] == "hunter2-for-the-first"
    result = run(tmp_path, tmp_path / "second/mcp.json", "--yes")
    assert "asks for `word`" in result.output
    assert not (theirs.folder / "pid").exists()
