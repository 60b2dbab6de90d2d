from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner, Result

from comptroller_server.app import running
from comptroller_server.cli import cli
from comptroller_server.config.loading import load_config
from comptroller_server.doctor import clients, database, disk, machine, record
from comptroller_server.doctor.lines import Level, Line, Patient
from comptroller_server.installation import Installation
from comptroller_server.setting_up.clients import CLIENTS, ClientKind

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """A store with a record in it, and its configuration; nothing of it is ever shared."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "shop" / "comptroller.yaml"

    @property
    def store(self) -> Path:
        return self.folder / "data" / "shop" / "comptroller.db"

    def patient(self) -> Patient:
        config = load_config(self.config, data_dir=self.folder / "data")
        return Patient(self.folder / "data", config, self.folder / "home", "linux", {"PATH": os.defpath})

    def doctor(self, code: int = 0) -> list[dict[str, str]]:
        """The lines of `doctor --json`, which must end with `code`."""
        result = comptroller(self.folder, "doctor", "--json", "--config", str(self.config))
        assert result.exit_code == code, (result.stdout, result.stderr)
        said = json.loads(result.stdout)
        assert said["ok"] == (code == 0)
        lines: list[dict[str, str]] = said["lines"]
        return lines


def comptroller(folder: Path, *words: str) -> Result:
    line = [*words, "--data-dir", str(folder / "data")]
    return CliRunner().invoke(
        cli, line, prog_name="comptroller", env={"HOME": str(folder / "home"), "XDG_CONFIG_HOME": None}
    )


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor")
    (folder / "home").mkdir()
    (folder / "home" / "tools.py").write_text(
        'def look_up(part: str) -> int:\n    """How many."""\n    return 1\n'
    )
    made = comptroller(
        folder, "init", str(folder / "shop"), "--yes", "--python", str(folder / "home" / "tools.py")
    )
    assert made.exit_code == 0, made.stderr
    return folder


@pytest.fixture
def place(begun: Path, tmp_path: Path) -> Iterator[Place]:
    """A copy, to be spoilt."""
    folder = tmp_path / "it"
    shutil.copytree(begun, folder)
    yield Place(folder)


def found(lines: list[dict[str, str]], topic: str, level: Level) -> list[str]:
    return [line["found"] for line in lines if line["topic"] == topic and line["level"] == level]


def levels(lines: Iterator[Line]) -> list[Level]:
    seen = list(lines)
    assert all(bool(line.means and line.do) == (line.level is not Level.OK) for line in seen)
    return [line.level for line in seen]


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_it_looks_at_everything_and_changes_nothing(place: Place) -> None:
    before = contents(place.folder)
    lines = place.doctor()
    assert contents(place.folder) == before
    topics = {
        "config",
        "versions",
        "sqlite",
        "disk",
        "file system",
        "fsync",
        "database",
        "keys",
        "files",
        "clock",
        "checkpoints",
        "clients",
    }
    assert {line["topic"] for line in lines} == topics
    assert all(bool(line["means"] and line["do"]) == (line["level"] != "ok") for line in lines)
    assert "on the same disk as the database" in found(lines, "checkpoints", Level.WARNING)[0]


def test_a_broken_configuration_is_told_and_the_rest_is_looked_at(place: Place) -> None:
    place.config.write_text(place.config.read_text().replace("max_tool_calls:", "max_tool_cals:"))
    lines = place.doctor(code=1)
    assert "max_tool_cals" in found(lines, "config", Level.PROBLEM)[0]
    assert {"versions", "disk", "fsync", "clients"} <= {line["topic"] for line in lines}
    place.config.unlink()
    assert "no configuration" in found(place.doctor(code=1), "config", Level.PROBLEM)[0]


def test_open_keys_are_a_problem_and_a_config_that_others_may_change_a_warning(place: Place) -> None:
    keys = place.store.with_name("keys.json")
    keys.chmod(0o640)
    place.config.chmod(0o666)
    lines = place.doctor(code=1)
    assert str(keys) in found(lines, "files", Level.PROBLEM)[0]
    assert [str(place.config) in one for one in found(lines, "files", Level.WARNING)] == [True]


def test_the_clock_is_held_against_the_newest_record(place: Place) -> None:
    patient = place.patient()
    assert patient.config is not None
    newest = int(place.store.stat().st_mtime * 1000)
    jump_ms = int(patient.config.limits.clock_jump_s_max * 1000)
    assert levels(record.clock(patient, newest + 60_000)) == [Level.OK]
    assert levels(record.clock(patient, newest - 3_600_000)) == [Level.PROBLEM]
    assert levels(record.clock(patient, newest + jump_ms + 60_000)) == [Level.WARNING]
    assert levels(record.clock(replace(patient, config=None), newest)) == [Level.OK]


@pytest.mark.anyio
async def test_a_store_that_is_older_than_its_checkpoints_is_a_problem(place: Place) -> None:
    patient, old = place.patient(), place.store.read_bytes()
    assert patient.config is not None
    async with running(Installation(patient.config)):
        assert Level.PROBLEM not in levels(record.checkpoints(patient))  # beside a server that writes
    assert Level.PROBLEM not in levels(record.checkpoints(patient))
    place.store.write_bytes(old)
    for beside in ("-wal", "-shm"):
        place.store.with_name(f"{place.store.name}{beside}").unlink(missing_ok=True)
    assert levels(record.checkpoints(patient))[-1] is Level.PROBLEM
    words = ("halt", "--reason", "stop", "--config", str(place.config))
    for _ in range(9):  # by which the copy becomes longer than what was signed
        assert (await asyncio.to_thread(comptroller, place.folder, *words)).exit_code == 0
    told = list(record.checkpoints(patient))[-1]
    assert told.level is Level.PROBLEM
    assert "does not begin with" in told.found


def refused(_handle: int) -> None:
    raise OSError(5, "Input/output error")


def test_the_disk_is_judged_by_room_kind_and_what_becomes_durable(place: Place) -> None:
    patient = place.patient()
    assert levels(disk.synced(patient, refused)) == [Level.PROBLEM]
    assert levels(disk.synced(patient, now_s=itertools.count(0, 0.1).__next__)) == [Level.WARNING]
    assert levels(disk.synced(patient, now_s=itertools.repeat(0.0).__next__)) == [Level.OK]
    room = {mib: levels(disk.room(patient, partial(told, mib * disk.MIB))) for mib in (10, 500, 5000)}
    assert room == {10: [Level.PROBLEM], 500: [Level.WARNING], 5000: [Level.OK]}
    kinds = {kind: levels(disk.kind(patient, partial(told, kind))) for kind in ("nfs4", "tmpfs", "ext4")}
    assert kinds == {"nfs4": [Level.PROBLEM], "tmpfs": [Level.WARNING], "ext4": [Level.OK]}


def test_the_log_of_a_very_large_store_is_left_to_the_verifier(place: Place) -> None:
    (line,) = database.whole(place.patient(), whole_bytes=0)
    assert line.level is Level.OK
    assert "audit verify" in line.found


def told(answer: T, _folder: Path) -> T:
    return answer


def test_what_cannot_be_looked_at_does_not_hide_the_rest(place: Place) -> None:
    place.store.write_bytes(b"no database" * 1000)
    lines = place.doctor(code=1)
    assert "is damaged" in found(lines, "database", Level.PROBLEM)[0]
    assert "could not be looked at" in found(lines, "clock", Level.WARNING)[0]
    assert found(lines, "clients", Level.OK)


def test_the_postgres_server_is_asked_for_its_version(place: Place, postgres_url: str) -> None:
    text = place.config.read_text()
    at = 'url: "sqlite:///{data_dir}/shop/comptroller.db"'
    assert at in text
    place.config.write_text(text.replace(at, f"url: {json.dumps(postgres_url)}"))
    assert levels(machine.postgres(place.patient())) == [Level.OK]
    gone = "postgresql+psycopg://app:hunter2-hunter2@127.0.0.1:1/x"
    place.config.write_text(text.replace(at, f"url: {json.dumps(gone)}"))
    lines = place.doctor(code=1)
    assert len(found(lines, "postgres", Level.PROBLEM)) == 1
    assert "hunter2-hunter2" not in json.dumps(lines)


def test_a_server_of_which_nothing_is_accepted_is_a_warning(place: Place) -> None:
    (place.folder / "shop" / "comptroller.d").mkdir()
    more = place.folder / "shop" / "comptroller.d" / "files.yaml"
    more.write_text("sources: {files: {mcp: {command: no-such-server-here}}}\n")
    assert "`files`" in found(place.doctor(), "upstreams", Level.WARNING)[0]


# -- clients ------------------------------------------------------------------------------------------------------


def client_file(place: Place, kind: ClientKind, text: str) -> None:
    path = CLIENTS[kind].places(place.folder / "home", "linux", {})[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def entry(
    place: Place, client: str, command: str = sys.executable, config: str | None = None
) -> dict[str, Any]:
    return {
        "command": command,
        "args": ["serve", "--client", client, "--config", config or str(place.config)],
    }


def test_clients_that_name_us_are_examined_one_by_one(place: Place) -> None:
    good, ours = entry(place, "claude-desktop"), "comptroller"
    client_file(
        place,
        ClientKind.CLAUDE_CODE,
        json.dumps(
            {
                "mcpServers": {"other": {"command": "/nowhere/other"}, ours: good},
                "projects": {
                    "/srv/notes": {"mcpServers": {ours: {"type": "http", "url": "http://127.0.0.1:8400/mcp"}}}
                },
            }
        ),
    )
    commented = '// mine\n{"servers": {/* http://x */ "gate": ' + json.dumps(
        entry(place, "vscode", "/nowhere/comptroller")
    )
    client_file(place, ClientKind.VSCODE, commented + "}}")
    client_file(place, ClientKind.CURSOR, json.dumps({"mcpServers": {ours: entry(place, "cursor")}}))
    client_file(
        place,
        ClientKind.CLAUDE_DESKTOP,
        json.dumps({"mcpServers": {ours: entry(place, "claude-desktop", config="/nowhere/c.yaml")}}),
    )
    client_file(place, ClientKind.WINDSURF, '{"mcpServers": {')
    lines = list(clients.clients(place.patient()))
    bad = {
        line.found.partition(",")[0].partition(":")[0]: line for line in lines if line.level is not Level.OK
    }
    assert {name: line.level for name, line in bad.items()} == {
        "VS Code": Level.PROBLEM,
        "Cursor": Level.PROBLEM,
        "Claude Desktop": Level.PROBLEM,
        "Windsurf": Level.WARNING,
    }
    assert "there is no /nowhere/comptroller" in bad["VS Code"].found
    assert "--client cursor" in bad["Cursor"].found and "clients" in bad["Cursor"].do
    assert "no configuration at /nowhere/c.yaml" in bad["Claude Desktop"].found
    well = [line.found for line in lines if line.level is Level.OK]
    assert len(well) == 2 and all("Claude Code" in one for one in well)
    assert not any("other" in line.found.partition("`")[2] for line in lines)


def test_a_command_in_a_cache_that_is_tidied_some_day_is_a_warning(place: Place, tmp_path: Path) -> None:
    environment = tmp_path / "cache" / "archive-v0" / "x1" / "bin"
    environment.mkdir(parents=True)
    (tmp_path / "cache" / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55")
    command = environment / "comptroller"
    command.symlink_to(sys.executable)
    written = {"mcpServers": {"comptroller": entry(place, "claude-desktop", str(command))}}
    client_file(place, ClientKind.CLAUDE_DESKTOP, json.dumps(written))
    (line,) = clients.clients(place.patient())
    assert (line.level, str(tmp_path / "cache") in line.found) == (Level.WARNING, True)
    (tmp_path / "cache" / "CACHEDIR.TAG").unlink()
    assert levels(clients.clients(place.patient())) == [Level.OK]


def test_a_command_that_a_client_must_look_for_is_a_warning(place: Place) -> None:
    client_file(
        place,
        ClientKind.CURSOR,
        json.dumps({"mcpServers": {"comptroller": entry(place, "claude-desktop", "sh")}}),
    )
    assert levels(clients.clients(place.patient())) == [Level.WARNING]


@pytest.mark.parametrize(
    ("platform", "place_of_desktop"),
    [
        ("linux", ".config/Claude/claude_desktop_config.json"),
        ("darwin", "Library/Application Support/Claude/claude_desktop_config.json"),
        ("win32", "AppData/Roaming/Claude/claude_desktop_config.json"),
    ],
)
def test_each_platform_keeps_the_files_elsewhere(platform: str, place_of_desktop: str) -> None:
    home = Path("/somebody")
    assert CLIENTS[ClientKind.CLAUDE_DESKTOP].places(home, platform, {}) == [home / place_of_desktop]
    assert all(client.places(home, platform, {}) for client in CLIENTS.values())
