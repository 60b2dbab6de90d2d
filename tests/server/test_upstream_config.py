"""`sources.NAME.mcp`: what loads, what it stands for, and what is refused with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comptroller_server.config.loading import Config, load_config
from comptroller_server.errors import ConfigInvalid
from comptroller_tools.upstream.pins import LOCK_NAME
from comptroller_tools.upstream.settings import HttpEndpoint, OAuthClient, StdioCommand
from tests.scenarios.upstream_kit import LOOK, Upstream

OAUTH = {
    "client_id": "us",
    "client_secret": "secret://env/HOME",
    "token_url": "https://login.example.com/token",
}


def loaded(folder: Path, mcp: dict[str, Any], **more: Any) -> Config:
    path = folder / "comptroller.yaml"
    path.write_text(json.dumps({"sources": {"files": {"mcp": mcp}}, **more}))
    return load_config(path, data_dir=folder / "data")


def problems(folder: Path, mcp: dict[str, Any], **more: Any) -> list[str]:
    with pytest.raises(ConfigInvalid) as raised:
        loaded(folder, mcp, **more)
    return [finding.message for finding in raised.value.findings]


def test_a_command_gets_its_folder_and_its_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FILES_TOKEN", "hunter2")
    config = loaded(
        tmp_path, {"command": "npx", "args": ["-y", "x"], "env": {"TOKEN": "secret://env/FILES_TOKEN"}}
    )
    settings = config.upstreams["files"]
    assert settings.transport == StdioCommand(
        "npx", ("-y", "x"), {"TOKEN": "hunter2"}, tmp_path / "data" / "upstreams" / "files"
    )
    assert "hunter2" in config.secrets
    assert "hunter2" not in repr(config)
    assert "hunter2" not in json.dumps([settings.identity, config.digest_material()], default=dict)
    assert settings.identity["env"] == {"TOKEN": "secret://env/FILES_TOKEN"}


def test_a_source_is_told_of_traces_only_where_there_are_some(tmp_path: Path) -> None:
    mcp = {"command": "npx", "trace": True}
    traces = {"endpoint": "http://127.0.0.1:4318/v1/traces"}
    assert loaded(tmp_path, mcp, telemetry={"traces": traces}).upstreams["files"].trace
    (problem,) = problems(tmp_path, mcp)
    assert "`sources.files.mcp.trace`" in problem
    assert "telemetry.traces" in problem
    (other,) = problems(tmp_path, mcp, telemetry={"traces": {"endpoint": 7}})
    assert "sources.files" not in other


def test_an_endpoint_gets_its_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API", "sesame-1")
    mcp = {"url": "https://mcp.example.com/mcp", "headers": {"X-Team": "ops"}, "bearer": "secret://env/API"}
    settings = loaded(tmp_path, mcp, tools=[]).upstreams["files"]
    assert settings.transport == HttpEndpoint(
        "https://mcp.example.com/mcp", {"X-Team": "ops", "authorization": "Bearer sesame-1"}
    )
    assert "sesame-1" not in repr(settings)


def test_an_oauth_client_gets_its_secret_and_the_endpoint_as_its_resource(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter-77")
    oauth = {**OAUTH, "client_secret": "secret://env/SECRET", "scope": "a b"}
    mcp = {"url": "https://mcp.example.com/mcp", "oauth": oauth, "private_network": True}
    config = loaded(tmp_path, mcp, tools=[])
    transport = config.upstreams["files"].transport
    assert isinstance(transport, HttpEndpoint)
    assert transport.private_network
    assert transport.oauth == OAuthClient(
        "us", "hunter-77", "https://mcp.example.com/mcp", "https://login.example.com/token", None, "a b"
    )
    assert "hunter-77" in config.secrets
    assert "hunter-77" not in repr(config) + json.dumps([config.digest_material()], default=dict)


@pytest.mark.parametrize(
    ("mcp", "says"),
    [
        ({}, "needs `command` or `url`"),
        ({"command": "x", "url": "https://a.example/mcp"}, "only one of them"),
        ({"command": "x", "bearer": "secret://env/HOME"}, "`bearer` means nothing with `command`"),
        ({"url": "https://a.example/mcp", "args": ["-y"]}, "`args` means nothing with `url`"),
        ({"url": "http://a.example/mcp"}, "must begin with https://"),
        ({"url": "https://me:pw@a.example/mcp"}, "a credential belongs in `bearer`"),
        ({"url": "https://a.example/mcp", "bearer": "abc"}, "must be a reference"),
        ({"url": "https://a.example/mcp", "headers": {"Authorization": "Bearer abc"}}, "must be a reference"),
        (
            {"url": "https://a.example/mcp", "headers": {"Comptroller-Task": "x"}},
            "written by Comptroller itself",
        ),
        ({"url": "https://a.example/mcp", "headers": {"X-A": "1", "x-a": "2"}}, "differ by case only"),
        ({"url": "https://a.example/mcp", "headers": {"X-A": "a\nb"}}, "no HTTP header can hold"),
        ({"url": "https://a.example/mcp", "oauth": {**OAUTH, "client_secret": "abc"}}, "must be a reference"),
        ({"url": "https://a.example/mcp", "oauth": {**OAUTH, "issuer": "https://b.example"}}, "keep one"),
        (
            {"url": "https://a.example/mcp", "oauth": {**OAUTH, "token_url": "http://a.example/t"}},
            "must begin with https://",
        ),
        (
            {"url": "https://a.example/mcp", "oauth": OAUTH, "bearer": "secret://env/HOME"},
            "are one header; keep one",
        ),
        ({"url": "https://a.example/mcp", "ca_file": "nowhere.pem"}, "a file that is not there"),
        ({"url": "https://a.example/mcp", "ca_file": "comptroller.yaml"}, "must be PEM"),
        ({"command": "x", "private_network": True}, "`private_network` means nothing with `command`"),
        ({"command": "x", "env": {"A": "secret://env/NOT_SET_ANYWHERE"}}, "which is not set"),
        ({"command": "x", "env": {"LD_PRELOAD": "./evil.so"}}, "would load code"),
        ({"command": "x", "args": ["--token", "secret://env/HOME"]}, "takes no secret"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, mcp: dict[str, Any], says: str) -> None:
    found = problems(tmp_path, mcp)
    assert len(found) == 1
    assert says in found[0]


def test_accepted_definitions_are_part_of_what_is_in_force(tmp_path: Path) -> None:
    upstream = Upstream(tmp_path / "files")
    upstream.accept(tmp_path)
    before = loaded(tmp_path, upstream.config()["mcp"]).digest_material()
    upstream.accept(tmp_path, "files", {**LOOK, "description": "Another."})
    assert loaded(tmp_path, upstream.config()["mcp"]).digest_material() != before


@pytest.mark.parametrize("change", ["description", "digest", "name"])
def test_a_lock_file_that_was_changed_by_hand_does_not_load(tmp_path: Path, change: str) -> None:
    upstream = Upstream(tmp_path / "files")
    upstream.accept(tmp_path)
    lock = json.loads((tmp_path / LOCK_NAME).read_text())
    entry = lock["sources"]["files"]["look"]
    if change == "digest":
        entry["digest"] = "0" * 64
    else:
        entry["definition"][change] = "something else"
    (tmp_path / LOCK_NAME).write_text(json.dumps(lock))
    assert "was changed by hand" in problems(tmp_path, upstream.config()["mcp"])[0]


@pytest.mark.parametrize("text", ["", "[]", '{"v": 2, "sources": {}}', '{"v": 1, "sources": {"a": 1}}'])
def test_what_is_no_lock_file_does_not_load(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK_NAME).write_text(text)
    assert "no lock file" in problems(tmp_path, {"command": "x"})[0]
