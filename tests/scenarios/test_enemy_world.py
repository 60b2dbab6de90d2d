"""Clocks that are set, tables that are written past us, tools and configurations that are careless or hostile."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.errors import StoreUnsuitable
from comptroller_audit.vocabulary import RecordType
from comptroller_server.errors import ConfigInvalid
from tests.scenarios.kit import WHY, Changes, call_of, code_of, opened, structured, tool_of
from tests.server.cli_kit import RealClock, run_in_thread

pytestmark = pytest.mark.anyio
ODD = Path(__file__).with_name("odd_tools.py")
DAY_S = 86_400


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ODD_TOOLS_LEDGER", str(tmp_path / "odd.txt"))
    return tmp_path / "odd.txt"


# -- time -----------------------------------------------------------------------------------------------------------


def one_a(window: str) -> Changes:
    def change(config: dict[str, Any]) -> None:
        limit = {"scope": "principal", "window": window, "unit": "refunded_usd", "max": 10}
        config["budgets"] = {"windows": [limit]}

    return change


@pytest.mark.parametrize(("window", "back_s"), [("hour", 3_600), ("day", DAY_S), ("month", 40 * DAY_S)])
async def test_a_clock_set_back_into_an_earlier_window_spends_no_budget_twice(
    tmp_path: Path, window: str, back_s: int
) -> None:
    async with opened(tmp_path, one_a(window)) as shop:
        first, second = shop.paid()[:2]
        assert code_of(await shop.refund(first, 10)) is None
        shop.clock.jump_s(-back_s)
        assert code_of(await shop.refund(second, 10)) == "budget_exhausted"
        assert len(shop.moved()) == 1


async def test_a_clock_set_back_makes_no_rule_over_history_forget(tmp_path: Path) -> None:
    rule = """
        @id("one-a-day") @reason("One refund a day.")
        forbid (principal, action == Comptroller::Action::"issue_refund", resource)
        when { context.history.principal.refunds_today >= 1 };
    """
    async with opened(tmp_path, cedar=rule) as shop:
        first, second = shop.paid()[:2]
        assert code_of(await shop.refund(first, 5)) is None
        shop.clock.jump_s(-DAY_S)
        assert code_of(await shop.refund(second, 5)) == "denied"


async def test_an_approval_that_expired_does_not_revive_when_the_clock_goes_back(tmp_path: Path) -> None:
    def short(config: dict[str, Any]) -> None:
        config["approvals"] = {"expires_s": 600}

    async with opened(tmp_path, short) as shop:
        call = await shop.pending(shop.paid()[0])
        await shop.vote(call)
        shop.clock.jump_s(601)
        assert code_of(await shop.call("search_tickets")) is None  # record time moves on
        shop.clock.jump_s(-601)
        assert (await shop.resume(call)).is_error
        assert shop.moved() == []


# -- somebody with the database, without the keys -------------------------------------------------------------------


AGREED = """
    UPDATE approvals SET state = 'approved', approved_digest = requested_digest, votes = ?
    WHERE call = ? AND state = 'pending'
"""


def rewrite(folder: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(folder / "comptroller.db", timeout=10)) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


def yes(at_ms: int = 1) -> str:
    vote = {"approver": "ann", "roles": ["approver"], "assurance": "credential", "yes": True, "reason": ""}
    return json.dumps([{**vote, "self_approved": False, "at_ms": at_ms}])


async def test_an_approval_written_into_the_table_opens_no_gate(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        call = await shop.pending(shop.paid()[0])
        rewrite(tmp_path, AGREED, yes(), call)
        assert code_of(await shop.resume(call)) == "approval_void"
        assert shop.moved() == []


async def test_the_votes_for_another_call_open_no_gate(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        agreed, other = shop.paid()[:2]
        call = await shop.pending(agreed)
        await shop.vote(call)
        (vote,) = [packet["vote"] for packet in shop.packets(RecordType.APPROVAL_DECIDED)]
        forged = await shop.pending(other)
        rewrite(tmp_path, AGREED, json.dumps([vote]), forged)
        mixed = f"{shop.row(call)['records']},{shop.row(forged)['records']}"
        rewrite(tmp_path, "UPDATE calls SET records = ? WHERE id = ?", mixed, forged)
        assert code_of(await shop.resume(forged)) == "approval_void"
        assert shop.moved() == []


@pytest.mark.parametrize("reordered", [False, True])
async def test_the_votes_for_an_earlier_state_of_the_record_open_no_gate(
    tmp_path: Path, reordered: bool
) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        call = await shop.pending(invoice)
        await shop.vote(call)
        (vote,) = [packet["vote"] for packet in shop.packets(RecordType.APPROVAL_DECIDED)]
        shop.sql("UPDATE invoices SET refunded_cents = 100 WHERE id = ?", invoice)
        assert code_of(await shop.resume(call)) == "record_changed"
        rewrite(tmp_path, AGREED, json.dumps([vote]), call)
        if reordered:
            older_last = ",".join(reversed(shop.row(call)["records"].split(",")))
            rewrite(tmp_path, "UPDATE calls SET records = ? WHERE id = ?", older_last, call)
        assert code_of(await shop.resume(call)) == ("record_changed" if reordered else "approval_void")
        assert shop.moved() == []


async def test_a_stored_proposal_of_another_call_does_not_run_under_an_approval(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        small, large = shop.paid()[:2]
        agreed, wanted = await shop.pending(small, 21), await shop.pending(large, 49)
        await shop.vote(agreed)
        swapped = f"{shop.row(agreed)['records']},{shop.row(wanted)['records']}"
        rewrite(tmp_path, "UPDATE calls SET records = ? WHERE id = ?", swapped, agreed)
        assert (await shop.resume(agreed)).is_error
        assert shop.moved() == []


# -- careless and hostile tools -------------------------------------------------------------------------------------


def odd(*tools: dict[str, Any]) -> Changes:
    def change(config: dict[str, Any]) -> None:
        config["sources"]["odd"] = {"python": str(ODD)}
        config["tools"] += tools

    return change


@pytest.mark.parametrize("how", ["interrupt", "exit", "custom", "generator"])
async def test_nothing_an_async_tool_raises_ends_the_server(tmp_path: Path, how: str) -> None:
    async with opened(tmp_path, odd({"name": "burst", "allow_actions": ["execute"]})) as shop:
        assert code_of(await shop.call("burst", how=how, why=WHY)) == "in_doubt"
        assert code_of(await shop.call("search_tickets")) is None


async def test_refs_a_tool_makes_up_prove_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, odd({"name": "forge", "allow_actions": ["read"]})) as shop:
        answer = await shop.call("forge")
        (ref,) = structured(answer)["refs"]
        assert not any(
            key not in ("comptroller/call", "comptroller/task", "comptroller/receipt") for key in answer.meta
        )
        refund = await shop.refund(shop.paid()[0], 5, why={**WHY, "citations": [ref["ref"]]})
        assert code_of(refund) == "citation_stale"


async def test_a_pattern_that_could_search_for_ever_refuses_soon(tmp_path: Path) -> None:
    async with opened(tmp_path, odd({"name": "searched", "allow_actions": ["read"]})) as shop:
        answer = await shop.call("searched", text="a" * 45 + "b")
        assert code_of(answer) == "invalid_arguments"


# -- honest mistakes of the operator --------------------------------------------------------------------------------


async def test_recovery_by_a_key_that_the_tool_does_not_store_is_a_load_error(tmp_path: Path) -> None:
    """Its look-up would always say that nothing happened, and the agent would do it again."""

    def change(config: dict[str, Any]) -> None:
        odd({"name": "keyless", "allow_actions": ["create"]})(config)
        tool_of(config, "keyless")["recover"] = dict(tool_of(config, "issue_refund")["recover"])

    with pytest.raises(ConfigInvalid, match=r"recover\.arguments.*`keyless` never gets"):
        async with opened(tmp_path, change):
            pass


async def test_a_tool_that_was_renamed_voids_its_pending_calls_and_takes_nothing_with_it(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as shop:
        call = await shop.pending(shop.paid()[0])
        await shop.vote(call)

    def gone(config: dict[str, Any]) -> None:
        config["tools"] = [tool for tool in config["tools"] if tool["name"] != "issue_refund"]
        config["budgets"] = {}

    async with opened(tmp_path, gone, bare=True) as shop:
        assert code_of(await shop.resume(call)) in ("approval_void", "call_unknown")
        assert code_of(await shop.call("search_tickets")) is None
        assert shop.moved() == []


async def test_a_call_proposed_under_other_roles_does_not_run_when_they_are_gone(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        call = await shop.pending(shop.paid()[0])
        await shop.vote(call)

    def demoted(config: dict[str, Any]) -> None:
        config["identity"]["local"]["roles"] = ["reader"]

    async with opened(tmp_path, demoted) as shop:
        answer = await shop.resume(call)
        assert code_of(answer) in ("denied", "call_unknown")
        assert shop.moved() == []
        assert call_of(answer)


# -- an old copy of the store ---------------------------------------------------------------------------------------


async def test_a_store_older_than_its_newest_checkpoint_is_not_served(tmp_path: Path) -> None:
    database, kept = tmp_path / "comptroller.db", tmp_path / "copy.db"
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
    with closing(sqlite3.connect(database)) as connection, closing(sqlite3.connect(kept)) as copy:
        connection.backup(copy)
    async with opened(tmp_path) as shop:
        assert code_of(await shop.refund(invoice, 5)) is None
    for tail in ("-wal", "-shm"):
        database.with_name(database.name + tail).unlink(missing_ok=True)
    kept.replace(database)
    for _ in range(2):
        with pytest.raises(StoreUnsuitable, match="comptroller db adopt"):
            async with opened(tmp_path):
                pass
    (tmp_path / "checkpoints.log").rename(tmp_path / "old.log")
    async with opened(tmp_path) as shop:
        assert code_of(await shop.refund(invoice, 5)) is None  # what the refusal warned of
        assert len(shop.moved()) == 2


@pytest.mark.parametrize("records", [1, 3, 8])
async def test_an_old_copy_that_commands_went_on_with_is_not_served_however_long_it_is_by_now(
    tmp_path: Path, records: int
) -> None:
    """Each `halt` and each `hold` adds a record, so the copy's log becomes as long as what was signed of the other, and longer."""
    database, kept = tmp_path / "comptroller.db", tmp_path / "copy.db"
    async with opened(tmp_path, clock=RealClock()) as shop:
        await shop.call("search_tickets")
    with closing(sqlite3.connect(database)) as connection, closing(sqlite3.connect(kept)) as copy:
        connection.backup(copy)
    async with opened(tmp_path, clock=RealClock()) as shop:
        await shop.call("lookup_invoice", invoice_id=shop.paid()[0])
    for tail in ("-wal", "-shm"):
        database.with_name(database.name + tail).unlink(missing_ok=True)
    kept.replace(database)
    for _ in range(records):
        assert (await run_in_thread(tmp_path, "halt", "--reason", "stop")).exit_code == 0
    with pytest.raises(StoreUnsuitable, match="comptroller db adopt"):
        async with opened(tmp_path, clock=RealClock()):
            pass
    told = await run_in_thread(tmp_path, "db", "adopt", "--reason", "the disk died")
    assert told.exit_code == 0, told.stderr
    async with opened(tmp_path, clock=RealClock()) as shop:
        assert code_of(await shop.call("search_tickets")) == "halted"
