"""What a malicious or confused agent tries behind a real connection, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.unit import Committed, Stopped
from comptroller_audit.vocabulary import CallState, RecordType
from comptroller_budgets.history import HISTORY
from comptroller_policy.approvals import Assurance
from comptroller_policy.switches import SwitchScope
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import WHY, Changes, call_of, code_of, opened, tool_of

pytestmark = pytest.mark.anyio
ODD = Path(__file__).with_name("odd_tools.py")


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ODD_TOOLS_LEDGER", str(tmp_path / "odd.txt"))
    return tmp_path / "odd.txt"


def lines(ledger: Path) -> list[str]:
    return ledger.read_text().splitlines() if ledger.exists() else []


def only_managers_read_invoices(config: dict[str, Any]) -> None:
    tool_of(config, "lookup_invoice")["roles"] = ["manager"]


def odd(*tools: dict[str, Any]) -> Changes:
    def change(config: dict[str, Any]) -> None:
        config["sources"]["odd"] = {"python": str(ODD)}
        config["tools"] += tools

    return change


# -- what facts tell ------------------------------------------------------------------------------------------------


async def test_a_refusal_by_facts_the_caller_may_not_read_says_nothing_of_them(tmp_path: Path) -> None:
    async with opened(tmp_path, only_managers_read_invoices) as shop:
        invoice = shop.paid()[0]
        shop.sql(
            "UPDATE invoices SET paid_cents = 700, amount_cents = 700, refunded_cents = 0 WHERE id = ?",
            invoice,
        )
        denied = await shop.refund(invoice, 8)
        missing = await shop.refund("inv_none", 8)
        assert code_of(await shop.call("lookup_invoice", invoice_id=invoice)) == "unknown_tool"
        assert code_of(denied) == code_of(missing)
        assert denied.text.replace(call_of(denied), "") == missing.text.replace(call_of(missing), "")
        # The record keeps the rule that decided.
        assert shop.packets(RecordType.REFUSED)[0]["decision"]["policies"] == ["refund-within-paid"]


async def test_a_read_back_the_caller_may_not_read_is_not_quoted_to_it(tmp_path: Path) -> None:
    async with opened(tmp_path, only_managers_read_invoices) as shop:
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.SHORT, times=1))
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "verification_failed"
        assert "refunded_usd" not in answer.text
        (check,) = shop.packets(RecordType.AUDIT)[0]["verification"]["checks"]
        assert check["path"] == "refunded_usd"


# -- resume_call ----------------------------------------------------------------------------------------------------


async def test_a_read_cannot_be_had_again_through_resume_call(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        read = await shop.call("lookup_invoice", invoice_id=shop.paid()[0])
        again = await shop.resume(call_of(read))
        assert code_of(again) == "call_unknown"


@pytest.mark.parametrize(
    ("scope", "name"), [(SwitchScope.GLOBAL, ""), (SwitchScope.TOOL, "issue_refund")], ids=["global", "tool"]
)
async def test_a_halted_tool_gives_nothing_through_resume_call(
    tmp_path: Path, scope: SwitchScope, name: str
) -> None:
    async with opened(tmp_path) as shop:
        done = await shop.refund(shop.paid()[0], 5)
        await shop.halt(scope, name)
        assert code_of(await shop.resume(call_of(done))) == "halted"
        await shop.lift(scope, name)
        assert code_of(await shop.resume(call_of(done))) is None


# -- ids that are no ids --------------------------------------------------------------------------------------------

NASTY = ("\0", "a\0b", "\x1b[2J", "x" * 10_000, "..", "' OR 1=1 --", "%", "\u202e", ":", "a|b")


async def test_a_call_id_of_any_characters_is_an_unknown_call_with_a_record(
    store_url: str, tmp_path: Path
) -> None:
    async with opened(tmp_path, url=store_url) as shop:
        for text in NASTY:
            answer = await shop.resume(text)
            assert code_of(answer) == "call_unknown"
            assert shop.state(call_of(answer)) == "refused"


async def test_a_citation_of_any_characters_is_refused_with_a_record(store_url: str, tmp_path: Path) -> None:
    async with opened(tmp_path, url=store_url) as shop:
        for text in NASTY:
            answer = await shop.refund(shop.paid()[0], 5, why={**WHY, "citations": [text]})
            assert code_of(answer) == ("citation_stale" if len(text) <= 64 else "invalid_arguments")
            assert answer.text.isprintable()
            assert shop.state(call_of(answer)) == "refused"
        assert shop.moved() == []


async def test_a_record_key_of_any_characters_is_guarded_and_recorded_as_itself(
    store_url: str, tmp_path: Path
) -> None:
    tools = odd(
        {"name": "counted_read", "allow_actions": ["read"]},
        {
            "name": "guarded",
            "allow_actions": ["update"],
            "resource": "thing:{input.key}",
            "facts": {"thing": {"tool": "counted_read", "arguments": {"key": "{input.key}"}}},
            "verify": [{"fact": "thing", "expect": {"key": "input.key"}}],
        },
    )
    keys = ("a", "a:b", "a|b", "a/b", "a\0b", "a\nb", "\u202eb", "record:odd:thing:a")
    async with opened(tmp_path, tools, url=store_url) as shop:
        for key in keys:
            answer = await shop.call("guarded", key=key, why=WHY)
            assert code_of(answer) is None, answer.text
        records = [packet["record"] for packet in shop.packets(RecordType.ACTION)]
        assert records == [{"kind": "thing", "key": key} for key in keys]
        guards = [row for packet in shop.packets(RecordType.ACTION) for row in packet["counted"]]
        assert len(set(guards)) == len(keys)
        assert {row["count"] for row in shop.rows(HISTORY, *guards).values()} == {0}


async def test_a_tool_of_any_name_is_unknown_with_a_record(store_url: str, tmp_path: Path) -> None:
    names = ("\0", "issue_refund\0", "ISSUE_REFUND", "issue_refund ", "x" * 200_000, "issue_refund:after", "")
    async with opened(tmp_path, url=store_url) as shop:
        for name in names:
            answer = await shop.call(name, invoice_id=shop.paid()[0])
            assert code_of(answer) == "unknown_tool"
            assert shop.state(call_of(answer)) == "refused"
        assert all(len(packet["tool"]) <= 128 for packet in shop.packets(RecordType.REFUSED))
        assert shop.moved() == []


# -- _meta ----------------------------------------------------------------------------------------------------------


async def test_a_meta_key_of_ours_that_is_not_understood_is_never_passed_over(tmp_path: Path) -> None:
    """A narrowing that is ignored would let more happen than was asked for."""
    keys = ("grant", "Task", "request", "Idempotency-Key", "idempotency_key", "WHY", "", "unknown")
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        done = await shop.refund(invoice, 5)
        for key in [*(f"comptroller/{key}" for key in keys), "Comptroller/why"]:
            for answer in (
                await shop.refund(invoice, 6, meta={key: "x"}),
                await shop.call("lookup_invoice", invoice_id=invoice, meta={key: "x"}),
                await shop.call("resume_call", call=call_of(done), meta={key: "x"}),
            ):
                assert code_of(answer) == "invalid_arguments"
                assert "_meta" in answer.text
        assert len(shop.moved()) == 1


async def test_meta_keys_of_others_do_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        meta = {"progressToken": 1, "io.other/comptroller": 1, "comptrollers/x": 1, "traceparent": "00"}
        assert code_of(await shop.refund(shop.paid()[0], 5, meta=meta)) is None


async def test_two_reasons_that_disagree_are_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        other = {"comptroller/why": {"reason": "Something else."}}
        assert code_of(await shop.refund(invoice, 5, meta=other)) == "invalid_arguments"
        assert shop.moved() == []
        assert code_of(await shop.refund(invoice, 5, meta={"comptroller/why": dict(WHY)})) is None


# -- the same thing, spelled otherwise ------------------------------------------------------------------------------


async def test_a_default_that_is_spelled_out_makes_no_other_action(tmp_path: Path, ledger: Path) -> None:
    async with opened(tmp_path, odd({"name": "noted", "allow_actions": ["create"]})) as shop:
        first = await shop.call("noted", key="a", why=WHY)
        spelled: tuple[dict[str, Any], ...] = ({"note": ""}, {"urgent": False}, {"urgent": False, "note": ""})
        for same in spelled:
            again = await shop.call("noted", {"key": "a", "why": WHY, **same})
            assert again.meta.get("comptroller/replayed") is True
            assert call_of(again) == call_of(first)
        assert code_of(await shop.call("noted", key="a", note="other", why=WHY)) is None
        assert len(lines(ledger)) == 2


@pytest.mark.parametrize("assurance", list(Assurance))
async def test_a_yes_can_be_taken_back_until_it_is_used(tmp_path: Path, assurance: Assurance) -> None:
    async with opened(tmp_path) as shop:
        first, second = shop.paid()[:2]
        call = await shop.pending(first)
        await shop.vote(call)
        assert isinstance(await shop.vote(call, yes=False, assurance=assurance), Committed)
        assert code_of(await shop.resume(call)) == "approval_denied"
        assert shop.moved() == []
        used = await shop.pending(second)
        await shop.vote(used)
        assert code_of(await shop.resume(used)) is None
        assert isinstance(await shop.vote(used, yes=False), Stopped)
        assert shop.state(used) == "done"


# -- burying evidence -----------------------------------------------------------------------------------------------


async def test_repeats_cannot_push_a_vote_out_of_the_calls_record(tmp_path: Path) -> None:
    def roomy(config: dict[str, Any]) -> None:
        config["limits"] = {"attempts_per_minute_max": 10_000, "refusal_records_per_minute_max": 10_000}

    async with opened(tmp_path, roomy) as shop:
        invoice = shop.paid()[0]
        call = await shop.pending(invoice)
        for _ in range(105):
            assert code_of(await shop.refund(invoice, 30)) == "approval_pending"
        await shop.vote(call)
        assert code_of(await shop.resume(call)) is None
        listed = {int(text) for text in shop.row(call)["records"].split(",")}
        (decided,) = shop.log(RecordType.APPROVAL_DECIDED)
        assert decided.index in listed


async def test_refusals_of_huge_proposals_do_not_fill_the_disk(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        huge = "x" * 1_000_000
        answers = [
            await shop.call("nothing", junk=huge),
            await shop.call("issue_refund", junk=huge),
            await shop.call("issue_refund", junk={huge: [huge]}, why=WHY),
            await shop.resume(huge),
            await shop.refund("inv_" + huge, 5),
            await shop.refund(shop.paid()[0], 5, why={"reason": huge}),
        ]
        assert all(a.is_error for a in answers)
        kept = shop.store.read_now(
            lambda reader: reader.connection.execute("SELECT sum(length(sealed)) FROM log_payload").fetchone()
        )
        assert kept[0] < 6 * 70_000
        assert [p["v"] for p in shop.packets(RecordType.REFUSED)] == [1] * 6
        assert shop.calls(CallState.DONE) == []
