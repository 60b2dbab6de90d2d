"""The other worked pages on servers that people wrote: a database, a folder of files, and a task across three servers."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.vocabulary import RecordType
from tests.scenarios.kit import WHY, call_of, code_of, structured
from tests.scenarios.real_upstreams import program, program_of_node
from tests.scenarios.test_real_upstreams import block, classified, service

pytestmark = [pytest.mark.anyio, pytest.mark.long]


async def accepted(folder: Path, page: str, yes: str) -> None:
    (folder / "comptroller.yaml").write_text(page)
    (folder / "yes.yaml").write_text(yes)
    await asyncio.to_thread(classified, folder, "--accept", str(folder / "yes.yaml"))


def notes(path: Path) -> list[str]:
    """The database itself is the oracle."""
    with closing(sqlite3.connect(path)) as opened, opened:
        rows = opened.execute("SELECT text FROM notes ORDER BY id").fetchall()
    opened.close()
    return [str(row[0]) for row in rows]


async def test_rows_are_added_as_the_page_says_and_deleted_when_a_person_agreed(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    with closing(sqlite3.connect(path)) as made, made:
        made.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)")
        made.execute("INSERT INTO notes (text) VALUES ('keep'), ('old')")
    made.close()
    page = block("yaml sqlite").replace("/srv/notes.db", str(path))
    page = page.replace("command: mcp-server-sqlite", f"command: {program('mcp-server-sqlite')}")
    await accepted(tmp_path, page, block("yaml sqlite-accepted"))
    async with service(tmp_path) as shop:
        seen = structured(await shop.call("read_query", {"query": "SELECT text FROM notes WHERE id = 2"}))
        assert "old" in seen["text"]
        for name, query in (
            ("read_query", "DELETE FROM notes"),
            ("add_note", "DROP TABLE notes"),
            ("add_note", "INSERT INTO notes (text) VALUES ('a'); DELETE FROM notes"),
            ("delete_note", "DELETE FROM notes WHERE id = 1 OR 1 = 1"),
        ):
            why = {} if name == "read_query" else {"why": WHY}
            assert code_of(await shop.call(name, {"query": query, **why})) == "denied", query
        assert notes(path) == ["keep", "old"]

        add = "INSERT INTO notes (text) VALUES ('new')"
        assert code_of(await shop.call("add_note", {"query": add, "why": WHY})) is None
        asked = await shop.call("delete_note", {"query": "DELETE FROM notes WHERE id = 2", "why": WHY})
        assert code_of(asked) == "approval_pending"
        assert notes(path) == ["keep", "old", "new"]
        await shop.vote(call_of(asked))
        assert code_of(await shop.resume(call_of(asked))) is None
        assert notes(path) == ["keep", "new"]


async def test_files_are_written_below_their_folder_restored_and_deleted_by_leave(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    for name in ("notes", "trash"):
        (docs / name).mkdir(parents=True)
    note, other, trash = docs / "notes" / "a.txt", docs / "b.txt", docs / "trash" / "a.txt"
    note.write_text("one")
    other.write_text("mine")
    (tmp_path / "policies").mkdir()
    policies = block("cedar files").replace("/srv/docs", str(docs))
    (tmp_path / "policies" / "files.cedar").write_text(policies)
    page = block("yaml files").replace("/srv/docs", str(docs))
    there = program_of_node("mcp-server-filesystem")
    await accepted(
        tmp_path,
        page.replace("command: mcp-server-filesystem", f"command: {there}"),
        block("yaml files-accepted"),
    )
    async with service(tmp_path) as shop:

        async def write(path: str, content: str) -> str | None:
            return code_of(await shop.call("write_file", {"path": path, "content": content, "why": WHY}))

        assert await write(str(note), "two") is None
        assert await write(str(note), "DRAFT three") == "compensated"
        assert await write(str(other), "yours") == "denied"
        assert await write(f"{docs}/notes/../b.txt", "yours") == "denied"
        assert (note.read_text(), other.read_text()) == ("two", "mine")

        moved = {"source": str(note), "destination": str(other.with_name("c.txt")), "why": WHY}
        assert code_of(await shop.call("trash_file", moved)) == "denied"
        asked = await shop.call("trash_file", {**moved, "destination": str(trash)})
        assert code_of(asked) == "approval_pending"
        assert note.exists()
        await shop.vote(call_of(asked))
        assert code_of(await shop.resume(call_of(asked))) is None
        assert (note.exists(), trash.read_text()) == (False, "two")


async def test_one_task_is_worked_across_two_servers(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "identity": {"local": {"roles": ["clerk"]}},
        "sources": {
            "everything": {"mcp": {"command": program_of_node("mcp-server-everything")}},
            "time": {"mcp": {"command": program("mcp-server-time")}},
        },
        "tools": [
            {"name": "add", "source": "everything", "source_tool": "get-sum", "allow_actions": ["read"]},
            {"name": "say", "source": "everything", "source_tool": "echo", "allow_actions": ["read"]},
            {"name": "convert_time", "source": "time", "allow_actions": ["read"]},
        ],
    }
    yes = {"everything": {"get-sum": "read", "echo": "read"}, "time": {"convert_time": "read"}}
    await accepted(tmp_path, json.dumps(config), json.dumps(yes))
    async with service(tmp_path) as shop:
        zones = {"source_timezone": "Etc/UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
        there = structured(await shop.call("convert_time", zones))["target"]["datetime"][11:16]
        total = structured(await shop.call("add", {"a": 40, "b": 2}))["text"]
        said = structured(await shop.call("say", {"message": f"At {there}: {total}"}))["text"]
        assert said == f"Echo: At 21:00: {total}"
        assert "42" in total
        recorded = shop.packets(RecordType.READ)
        assert [packet["tool"] for packet in recorded] == ["convert_time", "add", "say"]
        assert len({packet["task"] for packet in recorded}) == 1
