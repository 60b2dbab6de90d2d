"""`logging:` each trace level adds record kinds of its own, none drops a packet, and old payloads go after their days."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.published import check_packet
from comptroller_audit.verify import verify
from comptroller_audit.vocabulary import RecordType
from comptroller_server.call.traces import TraceLevel, trace_levels
from comptroller_server.errors import ConfigInvalid
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import Changes, Clock, Shop, call_of, code_of, opened, structured

pytestmark = pytest.mark.anyio

TOOL_CALLS, RETRIEVAL, DECISIONS = (
    RecordType.TRACE_TOOL_CALLS,
    RecordType.TRACE_RETRIEVAL,
    RecordType.TRACE_DECISIONS,
)
TRACES = (TOOL_CALLS, RETRIEVAL, DECISIONS)


def level(text: str) -> Changes:
    return lambda config: config.update(logging={"trace_level": text})


async def played(shop: Shop) -> list[RecordType]:
    """A read, a refund, a refusal by rule; the record types they left."""
    invoice = shop.paid()[0]
    before = len(shop.log())
    structured(await shop.call("lookup_invoice", invoice_id=invoice))
    structured(await shop.refund(invoice, 5))
    assert code_of(await shop.refund(invoice, 50.5)) == "denied"
    return [entry.type for entry in shop.log()[before:]]


PACKETS = [RecordType.READ, RecordType.ACTION, RecordType.AUDIT, RecordType.REFUSED]


@pytest.mark.parametrize(
    ("text", "added"),
    [
        ("packets", set[RecordType]()),
        ("tool_calls", {TOOL_CALLS}),
        ("retrieval", {RETRIEVAL}),
        ("decisions", {DECISIONS}),
        ("tool_calls+retrieval", {TOOL_CALLS, RETRIEVAL}),
        ("packets + tool_calls + retrieval + decisions", set(TRACES)),
    ],
)
async def test_each_level_adds_its_own_records_and_none_drops_a_packet(
    tmp_path: Path, text: str, added: set[RecordType]
) -> None:
    async with opened(tmp_path, level(text)) as shop:
        left = await played(shop)
        assert [kind for kind in left if kind not in TRACES] == PACKETS
        assert {kind for kind in left if kind in TRACES} == added
        for entry in shop.log(*TRACES):
            assert entry.packet is not None
            check_packet(entry.type, entry.packet)


async def test_tool_calls_tell_each_hand_over_with_its_time_and_size(tmp_path: Path) -> None:
    async with opened(tmp_path, level("tool_calls")) as shop:
        answer = await shop.refund(shop.paid()[0], 5)
        [packet] = shop.packets(TOOL_CALLS)
        [told] = packet["entries"]
        assert (packet["call"], told["tool"], told["source"]) == (call_of(answer), "issue_refund", "desk")
        assert (told["effect"], told["error"]) == ("done", None)
        assert told["took_ms"] > 0
        assert 0 < told["bytes_in"] < 300 < told["bytes_out"] + 200


async def test_a_hand_over_that_failed_is_told_too(tmp_path: Path) -> None:
    async with opened(tmp_path, level("tool_calls")) as shop:
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.RAISE))
        assert code_of(await shop.refund(shop.paid()[0], 5)) == "in_doubt"
        [packet] = shop.packets(TOOL_CALLS)
        assert packet["entries"][0]["effect"] == "unknown"
        assert packet["entries"][0]["error"]


async def test_retrieval_tells_what_was_looked_up_before_and_after_and_what_was_shown(tmp_path: Path) -> None:
    async with opened(tmp_path, level("retrieval")) as shop:
        invoice = shop.paid()[0]
        read = structured(await shop.call("lookup_invoice", invoice_id=invoice))
        await shop.refund(invoice, 5)
        shown, before, after = shop.packets(RETRIEVAL)
        assert [ref["key"] for ref in shown["entries"][0]["refs"]] == [invoice]
        assert [told["fact"] for told in before["entries"]] == ["invoice"]
        assert before["entries"][0]["found"]["refunded_usd"] == read["refunded_usd"]
        assert after["entries"][0]["found"]["refunded_usd"] == read["refunded_usd"] + 5


async def test_decisions_tell_the_whole_question_and_the_policies_that_were_asked(tmp_path: Path) -> None:
    async with opened(tmp_path, level("decisions")) as shop:
        await shop.refund(shop.paid()[0], 50.5)
        [packet] = shop.packets(DECISIONS)
        last = packet["entries"][-1]
        assert last["verdict"] == "deny"
        assert last["decided_by"] == ["issue_refund.max_amount_usd"]
        assert {"issue_refund.allow", "refund-within-paid", *last["decided_by"]} <= set(last["policies"])
        assert last["asked"]["input"]["amount_usd"] == 50.5


async def test_a_traces_record_stands_before_the_one_the_receipt_names(tmp_path: Path) -> None:
    async with opened(tmp_path, level("tool_calls+retrieval+decisions")) as shop:
        answer = await shop.call("lookup_invoice", invoice_id=shop.paid()[0])
        receipt: Any = answer.meta["comptroller/receipt"]
        index: int = receipt["index"]
        assert shop.log()[index].type is RecordType.READ


async def test_a_secret_stands_in_no_trace(tmp_path: Path) -> None:
    secret = "tok-1f93-not-for-eyes"
    async with opened(tmp_path, level("tool_calls+retrieval+decisions"), secrets=(secret,)) as shop:
        ticket = shop.sql("SELECT id FROM tickets ORDER BY id")[0][0]
        shop.sql("UPDATE tickets SET body = ? WHERE id = ?", secret, ticket)
        await shop.call("get_ticket", ticket_id=ticket)
        assert shop.packets(*TRACES)
        assert secret not in str(shop.packets())


def test_the_floor_is_always_there() -> None:
    assert trace_levels("retrieval") == {TraceLevel.PACKETS, TraceLevel.RETRIEVAL}


@pytest.mark.parametrize("text", ["", "everything", "tool_calls,retrieval", "tool_calls+", "none"])
async def test_an_unknown_level_is_a_finding_that_lists_the_words(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        ConfigInvalid, match=r"logging\.trace_level.*packets, tool_calls, retrieval, decisions"
    ):
        async with opened(tmp_path, level(text)):
            pass


def days(count: int) -> Changes:
    return lambda config: config.update(logging={"retention_days": count})


async def test_after_its_days_a_calls_payloads_are_gone_and_its_envelopes_prove_it(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, days(30), clock=clock) as shop:
        invoice = shop.paid()[0]
        done = await shop.refund(invoice, 5)
        waiting = await shop.pending(shop.paid()[1])
        for _ in range(5):  # a week at a time: a jump of a month would be no clock to trust
            clock.pass_s(6.5 * 86_400)
            await shop.service.retention.round("local")
        rows = {entry.index: entry for entry in shop.log()}
        assert {rows[i].packet is None for i in _entries_of(shop, call_of(done))} == {True}
        assert {rows[i].packet is None for i in _entries_of(shop, waiting)} == {False}
        again = await shop.refund(invoice, 5, meta={"comptroller/idempotency-key": "k"})
        assert code_of(again) is None
    assert verify(f"sqlite:///{tmp_path / 'comptroller.db'}", ring=tmp_path / "keys.json").ok


async def test_the_days_decide_when(tmp_path: Path) -> None:
    for count, gone in ((3, True), (10, False)):
        clock = Clock()
        async with opened(tmp_path / str(count), days(count), clock=clock) as shop:
            done = await shop.refund(shop.paid()[0], 5)
            clock.pass_s(5 * 86_400)
            await shop.service.retention.round("local")
            entry = shop.log()[_entries_of(shop, call_of(done))[0]]
            assert (entry.packet is None) is gone


async def test_a_replay_of_an_erased_call_says_so_and_does_nothing_again(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, days(1), clock=clock) as shop:
        invoice, key = shop.paid()[0], {"comptroller/idempotency-key": "k"}
        await shop.refund(invoice, 5, meta=key)
        clock.pass_s(2 * 86_400)
        await shop.service.retention.round("local")
        again = await shop.refund(invoice, 5, meta=key)
        assert code_of(again) == "already_done"
        assert "erased" in again.text
        assert len(shop.moved(invoice)) == 1


def _entries_of(shop: Shop, call: str) -> list[int]:
    return [int(index) for index in shop.row(call)["records"].split(",")]
