"""The desk's tools as a source offers them: names, schemas, identity, and answers that keep to them."""

from __future__ import annotations

import contextlib
import importlib
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comptroller_tools.desk import database
from comptroller_tools.functions import FunctionSource
from comptroller_tools.source import Action, EffectHappened, Outcome
from comptroller_tools.validation import compile_schema, screen

DIGESTS = {
    "get_ticket": "4e4b2be4c4e7b9213b388df155ae1e2c472242daae7af621ab7ff5b7af43ab21",
    "search_tickets": "d5cdb1c038d16a7a37226f501bc6431d5585299aef42516f889e0dfc55b57e0d",
    "lookup_invoice": "f939818890482b60a548fde394b1aa390870f795bb2158716c6fa880e49e1934",
    "issue_refund": "3827ca5cef76372ed65ed96c0066eeae73c653f9bad27fcdfaf7d539334f7178",
    "cancel_refund": "8b92e221d47c01e52bc473d835dbb06305d820a2ed1719fbf5b7819b025b7b51",
    "find_refund": "69641ebc2ba40d5a72ae0ee8cb453ded2ae0e43d9edbe4971904224445b5ac05",
}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FunctionSource]:
    """Every tool, on an own desk made from seed 3."""
    path = tmp_path / "desk.db"
    monkeypatch.setenv("COMPTROLLER_DESK", str(path))
    database.ensure(path, 3)
    yield FunctionSource("desk", "comptroller_tools.desk.tools")
    database.close_all()


def one(sql: str) -> str:
    """The first value of what `sql` finds on the desk."""
    with contextlib.closing(sqlite3.connect(database.desk_path())) as connection:
        return str(connection.execute(sql).fetchone()[0])


async def call(source: FunctionSource, tool: str, key: str = "call-1", **arguments: Any) -> Outcome:
    return await source.call(Action(tool, arguments, key), time.monotonic() + 30)


def test_the_definitions_that_approvals_and_packets_name_have_not_changed(source: FunctionSource) -> None:
    """A tool's digest is part of what a person approves: changing one voids approvals that wait."""
    offered = source.definitions()
    assert {name: offered[name].digest for name in DIGESTS} == DIGESTS


def test_every_tool_is_offered_with_a_schema_a_config_can_name(source: FunctionSource) -> None:
    offered = source.definitions()
    assert {name: tool.input_schema["title"] for name, tool in offered.items()} == {
        "get_ticket": "TicketRequest",
        "search_tickets": "search_tickets_arguments",
        "set_ticket_status": "TicketStatusRequest",
        "undo_status_change": "TicketStatusUndo",
        "find_status_change": "find_status_change_arguments",
        "draft_reply": "ReplyDraft",
        "send_reply": "ReplySend",
        "recall_draft": "DraftRecall",
        "get_reply": "ReplyLookup",
        "find_reply": "find_reply_arguments",
        "lookup_invoice": "InvoiceLookup",
        "issue_refund": "RefundRequest",
        "cancel_refund": "RefundCancel",
        "get_refund": "RefundLookup",
        "find_refund": "find_refund_arguments",
        "find_cancelled_refund": "find_cancelled_refund_arguments",
        "search_access_requests": "search_access_requests_arguments",
        "get_access_request": "AccessRequestLookup",
        "grant_access": "AccessGrant",
        "revoke_access": "AccessRevoke",
        "get_access": "AccessLookup",
        "find_access": "find_access_arguments",
        "search_policy": "search_policy_arguments",
        "get_policy": "PolicyLookup",
    }
    assert {name for name, tool in offered.items() if tool.stores_effect_key} == {
        "issue_refund",
        "cancel_refund",
        "set_ticket_status",
        "undo_status_change",
        "draft_reply",
        "send_reply",
        "recall_draft",
        "grant_access",
        "revoke_access",
    }
    assert [problem for tool in offered.values() for problem in screen(tool)] == []
    assert all(tool.description for tool in offered.values())


SUBJECTS = {"tickets": 5, "replies": 5, "billing": 6, "access": 6, "wiki": 2}


def test_each_subject_is_a_source_of_its_own_and_together_they_are_the_desk(source: FunctionSource) -> None:
    parts = {name: FunctionSource(name, f"comptroller_tools.desk.{name}").definitions() for name in SUBJECTS}
    assert {name: len(tools) for name, tools in parts.items()} == SUBJECTS
    together = {name: tool for tools in parts.values() for name, tool in tools.items()}
    assert together == source.definitions()


def test_code_that_a_module_only_passes_on_is_part_of_its_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "desk_front.py").write_text("from desk_back import f\n__all__ = ['f']\n")

    def identity(body: str) -> object:
        (tmp_path / "desk_back.py").write_text(f"def f() -> int:\n    {body}\n")
        importlib.invalidate_caches()
        for name in ("desk_front", "desk_back"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        return FunctionSource("s", "desk_front").identity["code_sha256"]

    first = identity("return 1")
    assert first == identity("return 1")
    assert first != identity("return 2")


@pytest.mark.parametrize("amount", [0, -1, 0.001, 10.005, 1_000_000.01, "10", None, True])
def test_an_amount_that_is_no_price_is_refused_by_the_schema(source: FunctionSource, amount: Any) -> None:
    validator = compile_schema(source.definitions()["issue_refund"].input_schema)
    assert validator.check({"invoice_id": "inv_1", "amount_usd": 0.07, "reason_code": "goodwill"}) == []
    assert validator.check({"invoice_id": "inv_1", "amount_usd": amount, "reason_code": "goodwill"}) != []


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("set_ticket_status", {"ticket_id": "tic_1", "status": "solved"}),
        ("set_ticket_status", {"ticket_id": "inv_1", "status": "open"}),
        ("draft_reply", {"ticket_id": "tic_1", "body": ""}),
        ("draft_reply", {"ticket_id": "tic_1", "body": " \n"}),
        ("draft_reply", {"ticket_id": "tic_1", "body": "x" * 4001}),
        ("send_reply", {"reply_id": "rep_1"}),
        ("send_reply", {"reply_id": "rep_1", "to": "a" * 255}),
        ("send_reply", {"reply_id": "rep_1", "to": "a@b.example", "cc": "c@d.example"}),
        ("grant_access", {"request_id": "req_1", "role": "owner", "days": 1}),
        ("grant_access", {"request_id": "req_1", "role": "viewer", "days": 0}),
        ("grant_access", {"request_id": "req_1", "role": "viewer", "days": 366}),
        ("grant_access", {"request_id": "req_1", "role": "viewer", "days": 1.5}),
        ("revoke_access", {"access_id": "req_1"}),
        ("get_policy", {"slug": "../refunds"}),
        ("search_policy", {"query": "x" * 101}),
        ("search_access_requests", {"status": "open"}),
    ],
)
def test_arguments_that_no_record_could_have_are_refused_by_the_schema(
    source: FunctionSource, tool: str, arguments: dict[str, Any]
) -> None:
    assert compile_schema(source.definitions()[tool].input_schema).check(arguments) != []


@pytest.mark.anyio
async def test_every_answer_of_every_tool_fits_its_output_schema(source: FunctionSource) -> None:
    asked: set[str] = set()

    async def ask(tool: str, key: str = "call-1", **arguments: Any) -> Any:
        definition = source.definitions()[tool]
        assert compile_schema(definition.input_schema).check(arguments) == [], tool
        outcome = await call(source, tool, key, **arguments)
        assert outcome.effect is EffectHappened.DONE, (tool, outcome)
        assert compile_schema(definition.output_schema or {}).check(outcome.value) == [], tool
        asked.add(tool)
        return outcome.value

    invoice = one("SELECT id FROM invoices WHERE status = 'paid' AND paid_cents >= 4000")
    await ask("lookup_invoice", invoice_id=invoice)
    refund = await ask("issue_refund", "k1", invoice_id=invoice, amount_usd=12.1, reason_code="goodwill")
    assert refund["amount_usd"] == 12.1
    await ask("cancel_refund", "k2", refund_id=refund["refund_id"])
    await ask("get_refund", refund_id=refund["refund_id"])
    ticket = one("SELECT id FROM tickets WHERE invoice_id IS NULL AND status = 'open'")
    await ask("get_ticket", ticket_id=ticket)
    change = await ask("set_ticket_status", "k3", ticket_id=ticket, status="closed")
    await ask("undo_status_change", "k4", change_id=change["change_id"])
    reply = await ask("draft_reply", "k5", ticket_id=ticket, body="Hello")
    await ask("get_reply", reply_id=reply["reply_id"])
    await ask("send_reply", "k6", reply_id=reply["reply_id"], to=reply["customer_email"])
    reply = await ask("draft_reply", "k7", ticket_id=ticket, body="Hello")
    await ask("recall_draft", "k8", reply_id=reply["reply_id"])
    request = one("SELECT id FROM access_requests WHERE status = 'pending'")
    await ask("get_access_request", request_id=request)
    access = await ask("grant_access", "k9", request_id=request, role="viewer", days=7)
    await ask("get_access_request", request_id=request)
    await ask("revoke_access", "k10", access_id=access["access_id"])
    await ask("get_access", access_id=access["access_id"])
    for tool, key in (
        ("find_refund", "k1"),
        ("find_cancelled_refund", "k2"),
        ("find_status_change", "k4"),
        ("find_reply", "k6"),
        ("find_access", "k10"),
    ):
        assert (await ask(tool, effect_key=key))["found"] is True
        assert (await ask(tool, effect_key="absent"))["found"] is False
    await ask("search_tickets", status="open", limit=50, query="charged")
    await ask("search_access_requests", status="pending", limit=3, query="report")
    await ask("search_policy", origin="staff", limit=3, query="refund")
    await ask("get_policy", slug="replies")
    assert asked == set(source.definitions())
