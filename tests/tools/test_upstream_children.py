"""Processes of upstreams that are begun before the server is loaded: used once, and never left behind."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from comptroller_tools.source import Action, EffectHappened
from comptroller_tools.upstream import children
from comptroller_tools.upstream.children import HeadStarts
from comptroller_tools.upstream.settings import StdioCommand
from comptroller_tools.upstream.source import UpstreamSource
from tests.scenarios import stubborn_upstream
from tests.scenarios.kit import until
from tests.scenarios.upstream_kit import Upstream
from tests.server.test_upstream_processes import gone, pids

pytestmark = pytest.mark.anyio


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    return Upstream(tmp_path / "files")


def command_of(upstream: Upstream) -> StdioCommand:
    command = upstream.settings().transport
    assert isinstance(command, StdioCommand)
    return command


async def looked(source: UpstreamSource) -> EffectHappened:
    return (await source.call(Action("look", {"path": "a.txt"}, "key"), time.monotonic() + 30)).effect


async def test_the_first_connection_takes_the_process_that_was_begun_ahead(upstream: Upstream) -> None:
    async with HeadStarts() as ahead:
        await ahead.begin({"files": command_of(upstream)})
        await until(lambda: (upstream.folder / "pid").exists())
        begun = upstream.pid
        source = UpstreamSource("files", upstream.settings(), upstream.pins(), head_starts=ahead)
        try:
            assert await looked(source) is EffectHappened.DONE
            assert upstream.pid == begun
        finally:
            await source.close()
        assert gone(begun)


async def test_a_source_that_is_started_otherwise_by_now_gets_a_process_of_its_own(
    upstream: Upstream,
) -> None:
    other = dataclasses.replace(command_of(upstream), env={"OTHER": "1"})
    async with HeadStarts() as ahead:
        await ahead.begin({"files": other})
        await until(lambda: (upstream.folder / "pid").exists())
        begun = upstream.pid
        source = UpstreamSource("files", upstream.settings(), upstream.pins(), head_starts=ahead)
        try:
            assert await looked(source) is EffectHappened.DONE
            assert upstream.pid != begun
        finally:
            await source.close()
        assert not gone(begun)
    assert gone(begun)


async def test_only_as_many_are_begun_as_have_a_core_to_start_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "_cores", lambda: 3)
    upstreams = [Upstream(tmp_path / f"{number}") for number in range(3)]
    async with HeadStarts() as ahead:
        commands = {f"{number}": command_of(one) for number, one in enumerate(upstreams)}
        await ahead.begin(commands)
        taken = [ahead.take(name, command) for name, command in commands.items()]
        assert [child is not None for child in taken] == [True, True, False]
        await asyncio.gather(*(child.end() for child in taken if child is not None))


async def test_a_command_that_is_not_there_is_left_to_its_first_connection(upstream: Upstream) -> None:
    nowhere = StdioCommand(str(upstream.folder / "not-there"))
    async with HeadStarts() as ahead:
        await ahead.begin({"files": nowhere})
        assert ahead.take("files", nowhere) is None


BREAKS_ONCE_IT_RUNS = """
import pathlib, time

until = time.monotonic() + 30
while not pathlib.Path(__file__).with_name("pid").exists() and time.monotonic() < until:
    time.sleep(0.02)
raise RuntimeError("this source does not load")
"""


def test_a_server_that_cannot_start_leaves_no_upstream_behind(tmp_path: Path) -> None:
    (tmp_path / "world.py").write_text(BREAKS_ONCE_IT_RUNS)
    mcp = {"command": sys.executable, "args": ["-I", "-S", stubborn_upstream.__file__, str(tmp_path)]}
    config = tmp_path / "comptroller.yaml"
    config.write_text(json.dumps({"sources": {"files": {"mcp": mcp}, "world": {"python": "world.py"}}}))
    command = [sys.executable, "-m", "comptroller_server.cli", "serve", "--http", "127.0.0.1:0"]
    options = ["--config", str(config), "--data-dir", str(tmp_path / "data")]
    ended = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2, ended.stderr
    assert "this source does not load" in ended.stderr
    assert all(gone(pid) for pid in pids(tmp_path))
    assert len(pids(tmp_path)) == 3
