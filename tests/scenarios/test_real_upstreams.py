"""Servers that other people wrote, governed: the worked page with `mcp-server-git`, and `mcp-server-time`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mcp import Client, MCPError
from mcp_types import BlobResourceContents, EmbeddedResource, TextResourceContents

from comptroller_audit.ambient import RandomIds
from comptroller_server.app import running
from comptroller_server.cli import cli
from comptroller_server.config.loading import load_config
from comptroller_server.face.protocol import build_server
from comptroller_server.installation import Ambient, Installation
from tests.scenarios.kit import WHY, Clock, Faults, Shop, call_of, code_of, structured
from tests.scenarios.real_upstreams import program, program_of_node

pytestmark = [pytest.mark.anyio, pytest.mark.long]

PAGE = Path(__file__).parents[2] / "docs" / "upstream.md"


def block(label: str) -> str:
    found = re.search(rf"^```{label}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, label
    return found[1]


class Repository:
    """A real repository; git itself is the oracle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.email", "notes@example.com")
        self.git("config", "user.name", "Notes")
        self.write("first", "one\n")
        self.git("add", ".")
        self.git("commit", "--quiet", "--message=begin")

    def git(self, *words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(self.folder), *words], check=True, capture_output=True, text=True
        ).stdout

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    @property
    def commits(self) -> list[str]:
        return self.git("log", "--format=%s").split("\n")[:-1]

    @property
    def staged(self) -> str:
        return self.git("diff", "--cached", "--name-only").strip()


def classified(folder: Path, *words: str) -> None:
    options = ["--config", str(folder / "comptroller.yaml"), "--data-dir", str(folder)]
    result = CliRunner().invoke(cli, ["classify", *words, *options])
    assert result.exit_code == 0, result.output


@contextlib.asynccontextmanager
async def service(folder: Path) -> AsyncGenerator[Shop]:
    clock, faults = Clock(), Faults()
    config = load_config(folder / "comptroller.yaml", data_dir=folder)
    installation = Installation(config, Ambient(clock, RandomIds(clock), faults))
    async with running(installation) as made:
        subject = installation.identity.stdio_subject("default")
        yield Shop(made, folder, clock, faults, subject)


async def test_a_commit_needs_somebody_who_has_seen_exactly_what_is_staged(tmp_path: Path) -> None:
    notes = Repository(tmp_path / "notes")
    written = block("yaml git").replace("/srv/notes", str(notes.folder))
    written = written.replace("command: mcp-server-git", f"command: {program('mcp-server-git')}")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "commits.cedar").write_text(block("cedar git"))
    (tmp_path / "comptroller.yaml").write_text(written)
    (tmp_path / "yes.yaml").write_text(block("yaml git-accepted"))
    await asyncio.to_thread(classified, tmp_path, "--accept", str(tmp_path / "yes.yaml"))
    assert not (tmp_path / "comptroller.d").exists(), "every tool had its entry already"
    here = {"repo_path": str(notes.folder)}
    commit = {**here, "message": "two", "why": WHY}
    async with service(tmp_path) as shop:
        denied = await shop.call("git_commit", commit)
        assert code_of(denied) == "denied"
        assert "Nothing is staged" in denied.text

        notes.write("second", "two\n")
        assert code_of(await shop.call("git_add", {**here, "files": ["second"]})) is None
        assert notes.staged == "second"
        seen = structured(await shop.call("git_diff_staged", here))
        assert "+two" in seen["text"]

        asked = await shop.call("git_commit", commit)
        assert code_of(asked) == "approval_pending"
        await shop.vote(call_of(asked))
        notes.write("second", "two, and something nobody has seen\n")
        notes.git("add", "second")
        assert code_of(await shop.resume(call_of(asked))) == "record_changed"
        assert notes.commits == ["begin"]

        await shop.vote(call_of(asked))
        done = await shop.resume(call_of(asked))
        assert code_of(done) is None, done.text
        assert "committed successfully" in done.text
        assert done.text.startswith("Data from the upstream server `git`")
        assert notes.commits == ["two", "begin"]
        assert shop.state(call_of(done)) == "done"

        outside = await shop.call("git_add", {"repo_path": str(tmp_path), "files": ["comptroller.yaml"]})
        assert code_of(outside) == "tool_failed"
        assert "outside the allowed repository" in outside.text
    assert notes.commits == ["two", "begin"]


async def test_a_server_with_structured_answers_is_checked_against_its_own_schema(tmp_path: Path) -> None:
    mcp: dict[str, Any] = {"command": program("mcp-server-time")}
    (tmp_path / "comptroller.yaml").write_text(json.dumps({"sources": {"time": {"mcp": mcp}}}))
    await asyncio.to_thread(classified, tmp_path, "--yes")
    async with service(tmp_path) as shop:
        arguments = {"source_timezone": "Etc/UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
        answer = structured(await shop.call("convert_time", arguments))
        assert answer["target"]["datetime"].endswith("21:00:00+09:00")
        wrong = await shop.call("convert_time", {**arguments, "time": "noon"})
        assert code_of(wrong) == "tool_failed"
        assert len(wrong.text.splitlines()) == 1


FILES = {
    "sources": {"files": {"mcp": {"errors_mean": "not_done"}}},
    "tools": [
        {"name": "read_text_file", "source": "files", "allow_actions": ["read"]},
        {"name": "restore_file", "source": "files", "source_tool": "write_file", "allow_actions": ["update"]},
        {
            "name": "write_file",
            "source": "files",
            "allow_actions": ["update"],
            "facts": {"now": {"tool": "read_text_file", "arguments": {"path": "{input.path}"}}},
            "verify": [{"fact": "now", "expect": {"content": "input.content"}}],
            "compensate": {
                "tool": "restore_file",
                "arguments": {"path": "{input.path}", "content": "{facts.now.content}"},
            },
            "limits": {"timeout_s": 20},
        },
    ],
    "policies": ["policies/*.cedar"],
}
DRAFTS = """
@id("no-drafts") @reason("A draft is not to be kept.")
forbid (principal, action == Comptroller::Action::"write_file:after", resource)
when { context.after.now.content like "DRAFT*" };
"""


async def test_a_file_is_written_read_back_and_restored_when_it_should_not_be_so(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    note, outside = docs / "note.txt", tmp_path / "outside.txt"
    note.write_text("one")
    outside.write_text("mine")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "drafts.cedar").write_text(DRAFTS)
    config: dict[str, Any] = json.loads(json.dumps(FILES))
    config["sources"]["files"]["mcp"] |= {
        "command": program_of_node("mcp-server-filesystem"),
        "args": [str(docs)],
    }
    (tmp_path / "comptroller.yaml").write_text(json.dumps(config))
    (tmp_path / "yes.yaml").write_text("files: {read_text_file: read, write_file: update}\n")
    await asyncio.to_thread(classified, tmp_path, "--accept", str(tmp_path / "yes.yaml"))
    async with service(tmp_path) as shop:

        async def write(path: Path, content: str) -> str | None:
            return code_of(await shop.call("write_file", {"path": str(path), "content": content, "why": WHY}))

        assert await write(note, "two") is None
        assert note.read_text() == "two"
        assert await write(note, "DRAFT three") == "compensated"
        assert note.read_text() == "two"
        assert await write(outside, "yours") == "lookup_failed"
        assert outside.read_text() == "mine"


async def test_resources_and_prompts_of_the_reference_server_are_read_as_they_were_accepted(
    tmp_path: Path,
) -> None:
    mcp: dict[str, Any] = {"command": program_of_node("mcp-server-everything"), "media": ["text/plain"]}
    (tmp_path / "comptroller.yaml").write_text(json.dumps({"sources": {"everything": {"mcp": mcp}}}))
    accepted = {
        "template:demo://resource/dynamic/text/{resourceId}": "read",
        "template:demo://resource/dynamic/blob/{resourceId}": "read",
        "resource:demo://resource/static/document/features.md": "read",
        "prompt:args-prompt": "read",
        "prompt:resource-prompt": "read",
    }
    (tmp_path / "yes.yaml").write_text(json.dumps({"everything": accepted}))
    await asyncio.to_thread(classified, tmp_path, "--accept", str(tmp_path / "yes.yaml"))
    async with service(tmp_path) as shop:
        offers = shop.service.offers
        server = build_server(
            shop.service.pipeline, subject_of=lambda _: shop.subject, version="1", offers=offers
        )
        async with Client(server, cache=None) as client:
            assert len((await client.list_resources()).resources) == 1
            assert len((await client.list_resource_templates()).resource_templates) == 2
            (text,) = (await client.read_resource("demo://resource/dynamic/text/7")).contents
            assert isinstance(text, TextResourceContents)
            assert "Resource 7" in text.text
            (blob,) = (await client.read_resource("demo://resource/dynamic/blob/7")).contents
            assert isinstance(blob, BlobResourceContents)
            (page,) = (await client.read_resource("demo://resource/static/document/features.md")).contents
            assert isinstance(page, TextResourceContents)
            assert page.text.startswith("#")
            with pytest.raises(MCPError, match="Unknown resource"):
                await client.read_resource("demo://resource/static/document/startup.md")
            (said,) = (await client.get_prompt("args-prompt", {"city": "Bern"})).messages
            assert "Bern" in said.content.model_dump_json()
            prompts = {prompt.name for prompt in (await client.list_prompts()).prompts}
            assert prompts == {"args-prompt", "resource-prompt"}
            embedded = (
                await client.get_prompt("resource-prompt", {"resourceType": "Text", "resourceId": "1"})
            ).messages
            part = embedded[-1].content
            assert isinstance(part, EmbeddedResource)
            assert isinstance(part.resource, TextResourceContents)
            assert "plaintext resource" in part.resource.text
            assert part.meta == {"comptroller/untrusted": "everything"}
