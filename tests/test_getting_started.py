"""The page of the first hour is run: its commands, its functions, and what its agent reads."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from comptroller_audit.vocabulary import Effect, JsonObject
from comptroller_server.app import running
from comptroller_server.call.proposal import Answer, Proposal
from comptroller_server.cli import cli
from comptroller_server.config.loading import load_config
from comptroller_server.installation import Installation

PAGE = (Path(__file__).parents[1] / "docs" / "getting-started.md").read_text()
SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
DATA = "data"


def blocks(section: int, language: str) -> list[str]:
    """The fenced blocks of the numbered section."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", SECTIONS[section - 1], re.MULTILINE | re.DOTALL)
    assert SECTIONS[section - 1].startswith(f"{section}. ")
    return [str(block) for block in found]


def run_commands(section: int) -> str:
    """Run what the section tells to run, in this folder; everything it prints."""
    said = ""
    for line in "".join(blocks(section, "console")).splitlines():
        assert line.startswith("$ comptroller ")
        words = [*shlex.split(line)[2:], "--data-dir", DATA]
        result = CliRunner().invoke(cli, words, prog_name="comptroller")
        assert result.exit_code == 0, (line, result.stdout, result.stderr)
        said += result.stdout
    return said


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPTROLLER_DESK", str(tmp_path / "shop" / "desk.db"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path


async def the_agent(folder: Path) -> list[Answer]:
    """What section 3 asks the agent for, each as a call."""
    installation = Installation(load_config(folder / "shop" / "comptroller.yaml", data_dir=folder / DATA))
    subject = installation.identity.stdio_subject("claude-desktop")
    why: JsonObject = {"reason": "The service was down."}
    first, other = re.findall(r"tic_\w+", SECTIONS[2])

    async with running(installation) as service:

        async def call(tool: str, arguments: JsonObject) -> Answer:
            return await service.pipeline.call(Proposal(subject, tool, arguments))

        async def refund(ticket: str, usd: float) -> Answer:
            read = (await call("get_ticket", {"ticket_id": ticket})).structured
            assert read is not None
            refund: JsonObject = {
                "invoice_id": read["invoice_id"],
                "amount_usd": usd,
                "reason_code": "goodwill",
            }
            return await call("issue_refund", {**refund, "why": why})

        return [
            await refund(first, 11.47),
            await refund(first, 60),
            await refund(first, 18),
            await refund(other, 49),
        ]


def test_the_page_can_be_followed_from_the_first_command_to_the_proof(here: Path) -> None:
    run_commands(1)
    for path in re.findall(r"^\| `(\S+)` \|", SECTIONS[0], re.MULTILINE):
        assert (here / path).is_file(), path
    assert '"claude-desktop"' in run_commands(2)
    done, *refused = asyncio.run(the_agent(here))
    assert not done.is_error
    ours = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
    assert [ours.sub("CALL", one.text) for one in refused] == [text.strip() for text in blocks(3, "text")]
    assert "issue_refund" in run_commands(4)
    run_commands(5)


def test_the_functions_of_the_page_are_proposed_as_it_says(here: Path) -> None:
    (here / "bank.py").write_text(blocks(6, "python")[0])
    run_commands(6)
    tools = {
        tool.name: tool
        for tool in load_config(here / "bank" / "comptroller.yaml", data_dir=here / DATA).tools
    }
    assert {name: tool.effect for name, tool in tools.items()} == {
        "get_balance": Effect.READ,
        "pay": Effect.EXECUTE,
    }
    assert tools["pay"].approval and tools["pay"].constraints["max_amount_eur"] == 25
