"""Through the MCP face with a real client: one that goes away, tools that will not stop, and people without a key."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from mcp import Client

from comptroller_audit.vocabulary import CallState, RecordType
from comptroller_server.face.protocol import build_server
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import WHY, Clock, Shop, call_of, code_of, opened, placed, until

pytestmark = pytest.mark.anyio
ODD = Path(__file__).with_name("odd_tools.py")


@asynccontextmanager
async def client_of(shop: Shop, era: str) -> AsyncGenerator[Client]:
    server = build_server(shop.service.pipeline, subject_of=lambda ctx: shop.subject, version="1")
    async with Client(server, mode=cast("Any", era), cache=None) as client:
        yield client


def refund_of(invoice: str, usd: float = 5) -> dict[str, Any]:
    return {"invoice_id": invoice, "amount_usd": usd, "reason_code": "goodwill", "why": WHY}


def odd(config: dict[str, Any]) -> None:
    config["sources"]["odd"] = {"python": str(ODD)}
    limits = {"timeout_s": 1, "concurrency_max": 2}
    config["tools"] += [
        {"name": "deaf", "allow_actions": ["update"], "limits": limits},
        {"name": "escape", "allow_actions": ["read"]},
    ]


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_client_reads_refunds_and_is_refused(tmp_path: Path, era: str) -> None:
    async with opened(tmp_path) as shop, client_of(shop, era) as client:
        invoice = shop.paid()[0]
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert "why" in tools["issue_refund"].input_schema["properties"]
        assert "why" not in tools["lookup_invoice"].input_schema["properties"]
        read = await client.call_tool("lookup_invoice", {"invoice_id": invoice})
        assert read.structured_content is not None
        ref = read.structured_content["refs"][0]["ref"]
        why = {"reason": "Charged twice.", "citations": [ref]}
        done = await client.call_tool("issue_refund", refund_of(invoice) | {"why": why})
        again = await client.call_tool("issue_refund", refund_of(invoice))
        assert not done.is_error
        assert done.structured_content == again.structured_content
        refused = await client.call_tool("issue_refund", refund_of(invoice, 500))
        assert refused.is_error
        assert refused.structured_content is None
        assert len(shop.moved()) == 1


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_call_whose_client_goes_away_is_finished_and_recorded(tmp_path: Path, era: str) -> None:
    async with opened(tmp_path) as shop:
        invoice, reached, go = shop.paid()[0], tmp_path / "reached", tmp_path / "go"
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.HANG, until=go, reached=reached))
        async with client_of(shop, era) as client:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(client.call_tool, "issue_refund", refund_of(invoice))
                    await until(reached.exists)
                    scope.cancel()
        (call, _) = shop.calls(CallState.COMMITTED)[0]
        go.touch()
        await until(lambda: shop.state(call) == "done")
        assert len(shop.moved()) == 1
        (audit,) = shop.packets(RecordType.AUDIT)
        assert audit["verification"]["result"] == "matched"
        assert call_of(await shop.refund(invoice, 5)) == call


async def test_a_caller_cancelled_at_any_moment_leaves_one_effect_or_none_and_a_record(
    tmp_path: Path,
) -> None:
    def roomy(config: dict[str, Any]) -> None:
        config["budgets"] = {}

    async with opened(tmp_path, roomy) as shop:
        invoices = shop.paid()
        async with client_of(shop, "auto") as client:
            for at in range(12):
                with anyio.move_on_after(at * 0.002):
                    await client.call_tool("issue_refund", refund_of(invoices[at]))
        await until(lambda: not shop.calls(CallState.COMMITTED))
        done = {call for call, _ in shop.calls(CallState.DONE)}
        assert {effect.effect_key for effect in shop.moved()} == done
        assert shop.calls(CallState.IN_DOUBT) == []


async def test_a_tool_that_ignores_cancellation_is_left_behind_and_its_call_is_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = tmp_path / "odd.txt"
    monkeypatch.setenv("ODD_TOOLS_LEDGER", str(ledger))
    async with opened(tmp_path, odd) as shop:
        answer = await shop.call("deaf", seconds=3, why=WHY)
        assert code_of(answer) == "in_doubt"
        assert not ledger.exists()
        assert code_of(await shop.refund(shop.paid()[0], 5)) is None
        await until(ledger.exists)
        assert ledger.read_text() == f"deaf {call_of(answer)}\n"
        assert shop.state(call_of(answer)) == "in_doubt"


async def test_a_tool_cannot_end_the_server(tmp_path: Path) -> None:
    async with opened(tmp_path, odd) as shop:
        assert code_of(await shop.call("escape")) == "tool_failed"
        assert code_of(await shop.refund(shop.paid()[0], 5)) is None


async def test_a_process_without_terminal_and_credential_gets_no_gated_call_through(tmp_path: Path) -> None:
    def demo(config: dict[str, Any]) -> None:
        config["approvals"] = {"allow_same_uid_file": True}

    config = ["--config", str(placed(tmp_path, demo)), "--data-dir", str(tmp_path)]
    enrol = ["approver", "add", "ann", "--role", "approver", "--credential-out", str(tmp_path / "ann")]
    enrolled = await asyncio.to_thread(run_alone, [*config, *enrol])
    assert enrolled.returncode == 0, enrolled.stderr
    async with opened(tmp_path, demo, clock=Clock(time.time_ns() // 1_000_000)) as shop:
        call = await shop.pending(shop.paid()[0])
        approval = str(shop.row(call)["approval"])
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.RAISE))
        doubtful = call_of(await shop.refund(shop.paid()[1], 5))
        shop.behave()
        forged = tmp_path / "forged"
        forged.write_text("ann.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
        forged.chmod(0o600)
        attempts = [
            ["approvals", "approve", approval, "--yes"],
            ["approvals", "approve", approval, "--yes", "--credential-file", str(forged)],
            ["approver", "add", "mallory", "--role", "approver"],
            [
                "calls",
                "resolve",
                doubtful,
                "--as",
                "not_done",
                "--reason",
                "x",
                "--credential-file",
                str(forged),
            ],
        ]
        for words in attempts:
            ended = await asyncio.to_thread(run_alone, [*config, *words])
            assert b"Usage:" not in ended.stderr, ended.stderr
            assert code_of(await shop.resume(call)) == "approval_pending", words
        assert shop.state(call) == "pending"
        assert shop.state(doubtful) == "in_doubt"
        assert shop.moved() == []
        # The same words with Ann's credential do it: it was the credential that was missing.
        told = await asyncio.to_thread(
            run_alone, [*config, *attempts[0], "--credential-file", str(tmp_path / "ann")]
        )
        assert told.returncode == 0, told.stdout + told.stderr
        assert code_of(await shop.resume(call)) is None


def run_alone(words: list[str]) -> subprocess.CompletedProcess[bytes]:
    """The command line in a session of its own, without terminal or input."""
    command = [sys.executable, "-c", "from comptroller_server.cli import main; main()", *words]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True, timeout=60, check=False,
        env=dict(os.environ),
    )  # fmt: skip
