"""What a client's file holds to start us again outlives the place that we happened to run from."""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from comptroller_server import __version__
from comptroller_server.setting_up import starting
from comptroller_server.setting_up.starting import CACHE_TAG, serve_words, start_words


class Installed(Distribution):
    """Ours, as an installer left it: with where it came from, or without."""

    def __init__(self, origin: object) -> None:
        self._origin = origin

    def read_text(self, filename: str) -> str | None:
        assert filename == "direct_url.json"
        return None if self._origin is None else json.dumps(self._origin)

    def locate_file(self, path: str | os.PathLike[str]) -> Path:
        raise NotImplementedError


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)
    return path


def run_from(prefix: Path, monkeypatch: pytest.MonkeyPatch, origin: object = None) -> None:
    monkeypatch.setattr(sys, "prefix", str(prefix))
    monkeypatch.setattr(sys, "executable", str(program(prefix / "bin" / "python")))

    def installed(name: str) -> Installed:
        assert name == "comptroller"
        return Installed(origin)

    monkeypatch.setattr(starting, "distribution", installed)
    program(prefix / "bin" / "comptroller")


def cached(tmp_path: Path, runner: str) -> Path:
    cache = tmp_path / "cache" / runner
    (cache / "made" / "once").mkdir(parents=True)
    (cache / CACHE_TAG).touch()
    return cache / "made" / "once"


@pytest.fixture(autouse=True)
def nothing_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("UV", raising=False)


def test_an_environment_of_ones_own_is_named_by_its_console_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_from(tmp_path / "venv", monkeypatch)
    (tmp_path / "venv" / CACHE_TAG).touch()  # as uv marks every environment it makes
    program(tmp_path / "bin" / "uv")
    assert start_words() == [str(tmp_path / "venv" / "bin" / "comptroller")]


@pytest.mark.parametrize(
    ("origin", "spelled"),
    [
        (None, f"comptroller=={__version__}"),
        ({"url": "file:///srv/my%20files/c.whl", "archive_info": {}}, "/srv/my files/c.whl"),
        ({"url": "https://example.org/c.whl", "archive_info": {}}, "https://example.org/c.whl"),
        (
            {"url": "https://example.org/c", "vcs_info": {"vcs": "git", "commit_id": "4f1e"}},
            "comptroller @ git+https://example.org/c@4f1e",
        ),
    ],
)
def test_what_uvx_started_is_started_by_uv_again_and_not_from_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: object, spelled: str
) -> None:
    run_from(cached(tmp_path, "uv"), monkeypatch, origin)
    uv = program(tmp_path / "elsewhere" / "uv")
    monkeypatch.setenv("UV", str(uv))  # uv tells what it starts where it is
    words = serve_words("cursor", tmp_path / "c.yaml", None)
    assert words[:6] == [str(uv), "tool", "run", "--from", spelled, "comptroller"]
    assert words[6:] == ["serve", "--client", "cursor", "--config", str(tmp_path / "c.yaml")]


def test_what_pipx_run_started_is_started_by_pipx_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_from(cached(tmp_path, "pipx"), monkeypatch)
    pipx = program(tmp_path / "bin" / "pipx")
    assert start_words() == [str(pipx), "run", "--spec", f"comptroller=={__version__}", "comptroller"]


@pytest.mark.parametrize("runner", ["uv", "pipx"])
def test_without_its_runner_the_place_in_the_cache_is_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str
) -> None:
    run_from(cached(tmp_path, runner), monkeypatch)
    assert start_words() == [str(tmp_path / "cache" / runner / "made" / "once" / "bin" / "comptroller")]
