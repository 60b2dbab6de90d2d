"""Facts decide, and tell nobody what they say: look-ups are bounded, few, and refuse alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.vocabulary import RecordType
from comptroller_server.config.loading import load_config
from comptroller_server.errors import ConfigInvalid
from comptroller_server.installation import Installation
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import WHY, Changes, code_of, details_of, opened, placed, tool_of

pytestmark = pytest.mark.anyio
ODD = Path(__file__).with_name("odd_tools.py")


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ODD_TOOLS_LEDGER", str(tmp_path / "odd.txt"))
    return tmp_path / "odd.txt"


def lines(ledger: Path) -> list[str]:
    return ledger.read_text().splitlines() if ledger.exists() else []


def guarded(**more: Any) -> Changes:
    def change(config: dict[str, Any]) -> None:
        config["sources"]["odd"] = {"python": str(ODD)}
        config["budgets"] = {}
        config["limits"] = {"attempts_per_minute_max": 100_000, "refusal_records_per_minute_max": 5}
        config["tools"].append({"name": "counted_read", "allow_actions": ["read"]})
        fact = {"tool": "counted_read", "arguments": {"key": "{input.key}"}}
        config["tools"].append(
            {"name": "guarded", "allow_actions": ["update"], "facts": {"thing": fact}, "resource": "thing:{input.key}"}
            | more
        )  # fmt: skip

    return change


async def test_a_fact_that_cannot_be_read_denies_with_one_text_for_every_record(
    tmp_path: Path, ledger: Path
) -> None:
    rule = """
        @id("mine") @reason("Only what is yours.")
        forbid (principal, action == Comptroller::Action::"issue_refund", resource)
        when { context.facts.invoice.status == "never" };
    """
    async with opened(tmp_path, cedar=rule) as shop:
        missing = await shop.refund("inv_none", 5)
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.RAISE))
        existing = await shop.refund(shop.paid()[0], 5)
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.LIE))
        broken = await shop.refund(shop.paid()[0], 5)
        answers = [missing, existing, broken]
        assert {code_of(a) for a in answers} == {"lookup_failed"}
        texts = {a.text.replace(str(details_of(a)["call"]), "CALL") for a in answers}
        assert len(texts) == 1
        assert len({(details_of(a)["class"], details_of(a)["retry"]) for a in answers}) == 1
        assert shop.moved() == []


async def test_a_thousand_denied_proposals_cause_no_look_up(tmp_path: Path, ledger: Path) -> None:
    rule = """
        @id("facts-too") @reason("Only what is yours.")
        forbid (principal, action == Comptroller::Action::"guarded", resource)
        when { context.facts.thing.owner != "me" };
    """
    async with opened(tmp_path, guarded(constraints={"one_of": {"key": ["mine"]}}), cedar=rule) as shop:
        for at in range(1_000):
            answer = await shop.call("guarded", key=f"other-{at}", why=WHY)
            assert code_of(answer) == "denied", answer.text
        assert lines(ledger) == []
        assert code_of(await shop.call("guarded", key="mine", why=WHY)) is None
        assert [line.split()[0] for line in lines(ledger)] == ["read", "changed"]
        assert code_of(await shop.call("guarded", key="missing", why=WHY)) == "denied"


async def test_a_fact_is_looked_up_only_where_something_reads_it(tmp_path: Path, ledger: Path) -> None:
    async with opened(tmp_path, guarded()) as shop:
        assert code_of(await shop.call("guarded", key="mine", why=WHY)) is None
        assert [line.split()[0] for line in lines(ledger)] == ["changed"]
        (action,) = shop.packets(RecordType.ACTION)
        assert action["facts"] == {}


async def test_a_look_up_may_need_another_and_the_same_question_is_asked_once(
    tmp_path: Path, ledger: Path
) -> None:
    rule = """
        @id("not-yours") @reason("Only what is yours.")
        forbid (principal, action == Comptroller::Action::"guarded", resource)
        when { context.facts.above.owner == "me" || context.facts.twin.owner != "me" };
    """

    def needs(key: str) -> dict[str, Any]:
        return {"tool": "counted_read", "arguments": {"key": key}}

    facts = {
        "above": needs("{facts.thing.owner}"),
        "thing": needs("{input.key}"),
        "twin": needs("{input.key}"),
    }
    async with opened(tmp_path, guarded(facts=facts), cedar=rule) as shop:
        assert code_of(await shop.call("guarded", key="mine", why=WHY)) is None
        assert [line.split()[:2] for line in lines(ledger)] == [
            ["read", "mine"],
            ["read", "me"],
            ["changed", "mine"],
        ]
        (action,) = shop.packets(RecordType.ACTION)
        assert action["facts"]["above"] == {"key": "me", "owner": "someone else"}
        assert code_of(await shop.call("guarded", key="other", why=WHY)) == "denied"
        assert len(lines(ledger)) == 5


def test_look_ups_that_need_each_other_are_found_at_load(tmp_path: Path, ledger: Path) -> None:
    def circle(config: dict[str, Any]) -> None:
        guarded()(config)
        tool = config["tools"][-1]
        tool["facts"]["more"] = {"tool": "counted_read", "arguments": {"key": "{facts.thing.owner}"}}
        tool["facts"]["thing"] = {"tool": "counted_read", "arguments": {"key": "{facts.more.owner}"}}

    installation = Installation(load_config(placed(tmp_path, circle), data_dir=tmp_path))
    with pytest.raises(ConfigInvalid, match="looks up what it itself is needed for"):
        installation.check()


async def test_a_look_up_is_not_charged_as_a_call_and_stands_in_its_parents_packet(tmp_path: Path) -> None:
    def one(config: dict[str, Any]) -> None:
        config["budgets"] = {"max_tool_calls": 1}

    async with opened(tmp_path, one) as shop:
        assert code_of(await shop.refund(shop.paid()[0], 5)) is None
        (action,) = shop.packets(RecordType.ACTION)
        assert action["facts"]["invoice"]["invoice_id"] == shop.paid()[0]
        assert shop.log(RecordType.READ) == []
        assert len(shop.calls()) == 1


async def test_a_secret_that_a_look_up_reads_reaches_no_packet(tmp_path: Path, ledger: Path) -> None:
    rule = """
        @id("not-nobodys") @reason("Somebody owns it.")
        forbid (principal, action == Comptroller::Action::"guarded", resource)
        when { context.facts.thing.owner == "nobody" };
    """
    async with opened(tmp_path, guarded(), cedar=rule, secrets=("someone else",)) as shop:
        assert code_of(await shop.call("guarded", key="other", why=WHY)) is None
        (action,) = shop.packets(RecordType.ACTION)
        assert action["facts"]["thing"] == {"key": "other", "owner": "[withheld: secret]"}
        assert "someone else" not in str(shop.packets())


async def test_a_source_that_raises_in_a_look_up_denies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as shop:
        source = shop.service.installation.sources["desk"]

        async def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(source, "call", broken)
        assert code_of(await shop.refund(shop.paid()[0], 5)) == "lookup_failed"
        assert shop.moved() == []


async def test_look_ups_that_raise_count_for_their_source_like_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touchy(config: dict[str, Any]) -> None:
        config["sources"]["desk"]["breaker"] = {"failures": 2, "reset_s": 60}

    async with opened(tmp_path, touchy) as shop:

        async def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(shop.service.installation.sources["desk"], "call", broken)
        one, two = shop.paid()[:2]
        assert [code_of(await shop.refund(each, 5)) for each in (one, two)] == ["lookup_failed"] * 2
        assert code_of(await shop.call("lookup_invoice", invoice_id=one)) == "source_down"


async def test_a_look_up_obeys_the_rules_of_the_tool_it_uses(tmp_path: Path) -> None:
    rule = """
        @id("no-reads") @reason("Not now.")
        forbid (principal, action == Comptroller::Action::"lookup_invoice", resource)
        when { context.input.invoice_id != "inv_x" };
    """
    async with opened(tmp_path, cedar=rule) as shop:
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "lookup_failed"
        assert "no-reads" not in answer.text
        assert shop.moved() == []


async def test_a_derived_value_without_an_exact_result_denies(tmp_path: Path) -> None:
    def thirds(config: dict[str, Any]) -> None:
        tool_of(config, "issue_refund")["derived"]["remaining_usd"] = (
            "facts.invoice.paid_usd * 0.00001 - facts.invoice.refunded_usd"
        )

    async with opened(tmp_path, thirds) as shop:
        shop.sql("UPDATE invoices SET paid_cents = 12345")
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) in ("lookup_failed", "denied")
        assert shop.moved() == []
