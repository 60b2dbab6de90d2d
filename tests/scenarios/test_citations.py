"""What a side effect relies on: records read in this task, not long ago, one by one, and as they still are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.vocabulary import RecordType
from comptroller_policy.approvals import APPROVALS
from comptroller_server.call.proposal import Answer
from comptroller_server.errors import ConfigInvalid
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import (
    Changes,
    Clock,
    Shop,
    call_of,
    code_of,
    details_of,
    opened,
    structured,
    tool_of,
    until,
)
from tests.server.cli_kit import run_in_thread

pytestmark = pytest.mark.anyio
BOOK_TOOLS = Path(__file__).with_name("book_tools.py")
Book = Callable[..., dict[str, Any]]
"""The book as it is, after `entries` were written into it behind everybody's back."""


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    path = tmp_path / "book.json"
    monkeypatch.setenv("BOOK", str(path))
    path.write_text('{"reads": 0, "entries": {}}')

    def of(entries: dict[str, Any] | None = None) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(path.read_text())
        if entries is not None:
            path.write_text(json.dumps({**found, "entries": entries}))
        return found

    return of


class Still(Clock):
    """Time that passes only when a test says so."""

    def monotonic(self) -> float:
        return self._passed


def citing(*kinds: str, **sections: Any) -> Changes:
    """Refunds cite these kinds; `sections` are set in the configuration."""

    def change(config: dict[str, Any]) -> None:
        config["budgets"] = {}
        if kinds:
            tool_of(config, "issue_refund")["cites"] = list(kinds)
        config.update(sections)

    return change


async def ref_of(shop: Shop, tool: str, **arguments: Any) -> str:
    """Read one record; its ref."""
    return str(structured(await shop.call(tool, **arguments))["refs"][0]["ref"])


async def read_invoice(shop: Shop, invoice: str) -> str:
    return await ref_of(shop, "lookup_invoice", invoice_id=invoice)


async def read_ticket(shop: Shop) -> str:
    ((ticket,), *_) = shop.sql("SELECT id FROM tickets ORDER BY id")
    return await ref_of(shop, "get_ticket", ticket_id=str(ticket))


def meanwhile(shop: Shop, invoice: str) -> None:
    """Somebody else works on the invoice."""
    change = (
        "refunded_cents = refunded_cents + 700, item = 'Another', updated_at = '2027-01-01T00:00:00.000000Z'"
    )
    shop.sql(f"UPDATE invoices SET {change} WHERE id = ?", invoice)  # noqa: S608 -- no text from outside


def citations(*refs: str) -> dict[str, Any]:
    return {"reason": "The customer was charged twice.", "citations": list(refs)}


async def test_a_ref_does_not_follow_its_call_into_a_task_that_began_meanwhile(tmp_path: Path) -> None:
    async with opened(tmp_path, citing("invoice")) as shop:
        invoice = shop.paid()[0]
        ref = await read_invoice(shop, invoice)
        go, reached = tmp_path / "go-on", tmp_path / "reached"
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.HANG, until=go, reached=reached, times=1))
        refunding = asyncio.create_task(shop.refund(invoice, 5, why=citations(ref)))
        await until(reached.exists)
        assert code_of(await shop.call("task_begin", request="Something else.")) is None
        go.touch()
        answer = await refunding
        assert code_of(answer) == "citation_stale"
        assert "no ref of this task" in answer.text
        assert shop.moved() == []


# -- what must be cited -------------------------------------------------------------------------------------------


async def test_a_tool_that_cites_needs_a_ref_of_each_kind_and_of_the_record_it_acts_on(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, citing("ticket", "invoice")) as shop:
        mine, other = shop.paid()[:2]
        right, wrong, ticket = (
            await read_invoice(shop, mine),
            await read_invoice(shop, other),
            await read_ticket(shop),
        )
        told: list[str] = []
        for refs in ((), (ticket,), (right,), (ticket, wrong)):
            answer = await shop.refund(mine, 5, why=citations(*refs))
            assert code_of(answer) == "citation_missing"
            assert details_of(answer)["class"] == "tool_mismatch"
            told.append(answer.text)
        assert all(f'the invoice "{mine}" it acts on (with `lookup_invoice`)' in told[at] for at in (0, 1, 3))
        assert "a ticket (with `get_ticket`)" in told[2] and mine not in told[2]
        assert "refs from lists do not" in told[0]
        assert shop.moved() == []
        assert code_of(await shop.refund(mine, 5, why=citations(ticket, right, wrong))) is None
        assert len(shop.moved(mine)) == 1


async def test_where_every_side_effect_must_cite_one_ref_of_its_record_is_enough(tmp_path: Path) -> None:
    async with opened(tmp_path, citing(safety={"require_citations": True})) as shop:
        invoice = shop.paid()[0]
        assert code_of(await shop.refund(invoice, 5)) == "citation_missing"
        assert (
            code_of(await shop.refund(invoice, 5, why=citations(await read_ticket(shop))))
            == "citation_missing"
        )
        assert (
            code_of(await shop.refund(invoice, 5, why=citations(await read_invoice(shop, invoice)))) is None
        )
        assert len(shop.moved()) == 1


async def test_a_tool_that_needs_no_why_needs_one_where_citations_are_demanded(tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["safety"] = {"require_citations": True}
        tool_of(config, "issue_refund")["why"] = False

    async with opened(tmp_path, change) as shop:
        invoice = shop.paid()[0]
        assert code_of(await shop.refund(invoice, 5, why=None)) == "why_missing"
        beside = {"comptroller/why": citations(await read_invoice(shop, invoice))}
        assert code_of(await shop.refund(invoice, 5, why=None, meta=beside)) is None


async def test_lines_of_a_list_do_not_count(tmp_path: Path) -> None:
    async with opened(tmp_path, citing("ticket")) as shop:
        listed = structured(await shop.call("search_tickets"))["refs"][0]
        invoice = shop.paid()[0]
        read = await read_invoice(shop, invoice)
        answer = await shop.refund(invoice, 5, why=citations(read, listed["ref"]))
        assert code_of(answer) == "citation_missing" and "a ticket" in answer.text
        alone = await ref_of(shop, "get_ticket", ticket_id=listed["key"])
        assert code_of(await shop.refund(invoice, 5, why=citations(read, listed["ref"], alone))) is None


async def test_the_listing_tells_models_what_to_cite_in_300_characters(tmp_path: Path) -> None:
    sections = {"retrieval": {"freshness_sla_minutes": 5}}
    async with opened(tmp_path, citing("ticket", "invoice", **sections)) as shop:
        tools = {tool.name: tool for tool in shop.service.pipeline.listing(shop.subject)}
        refund, cancel = tools["issue_refund"], tools["cancel_refund"]
        note = refund.description.partition("Needs `why.citations`")[1:]
        assert len("".join(note)) <= 300
        for word in ("the invoice it acts on", "a ticket", "lists do not count", "5 minutes"):
            assert word in "".join(note), word
        why = refund.input_schema["properties"]["why"]
        assert why["required"] == ["reason", "citations"]
        assert why["properties"]["citations"]["minItems"] == 1
        assert "why" in refund.input_schema["required"]
        assert "why.citations" not in cancel.description
        assert cancel.input_schema["properties"]["why"]["required"] == ["reason"]


# -- which refs count ---------------------------------------------------------------------------------------------


async def test_a_ref_of_another_task_is_no_evidence(tmp_path: Path) -> None:
    async with opened(tmp_path, citing("invoice")) as shop:
        invoice = shop.paid()[0]
        for other in (shop.other(actor="other-bot"), shop.other(subject="somebody")):
            read = await shop.call("lookup_invoice", invoice_id=invoice, subject=other)
            foreign = structured(read)["refs"][0]["ref"]
            assert code_of(await shop.refund(invoice, 5, why=citations(foreign))) == "citation_stale"
        mine = await read_invoice(shop, invoice)
        shop.clock.pass_s(301)  # the implied task ends
        assert code_of(await shop.refund(invoice, 5, why=citations(mine))) == "citation_stale"
        assert shop.moved() == []


async def test_a_ref_can_be_cited_to_the_last_millisecond_of_its_freshness(tmp_path: Path) -> None:
    sections = {"retrieval": {"freshness_sla_minutes": 1}}
    async with opened(tmp_path, citing("invoice", **sections), clock=Still()) as shop:
        first, second = shop.paid()[:2]
        one, two = await read_invoice(shop, first), await read_invoice(shop, second)
        shop.clock.pass_s(60)
        assert code_of(await shop.refund(first, 5, why=citations(one))) is None
        shop.clock.pass_s(0.001)
        answer = await shop.refund(second, 5, why=citations(two))
        assert code_of(answer) == "citation_stale"
        assert details_of(answer)["class"] == "stale_context"
        assert f'invoice "{second}" (ref {two})' in answer.text and "Read the record again" in answer.text
        assert code_of(await shop.refund(second, 5, why=citations(await read_invoice(shop, second)))) is None
        assert [effect.invoice_id for effect in shop.moved()] == [first, second]


async def test_a_clock_set_back_makes_no_ref_young_again(tmp_path: Path) -> None:
    sections = {"retrieval": {"freshness_sla_minutes": 1}}
    async with opened(tmp_path, citing("invoice", **sections)) as shop:
        invoice, other = shop.paid()[:2]
        old = await read_invoice(shop, invoice)
        shop.clock.pass_s(61)
        await read_invoice(shop, other)
        shop.clock.jump_s(-61)
        assert code_of(await shop.refund(invoice, 5, why=citations(old))) == "citation_stale"
        assert shop.moved() == []


async def test_only_reads_of_the_listed_sources_can_be_cited(tmp_path: Path) -> None:
    def split(*sources: str) -> Changes:
        def change(config: dict[str, Any]) -> None:
            citing("invoice")(config)
            config["sources"] = {
                "desk": {"python": "comptroller_tools.desk.tools"},
                "wiki": {"python": "comptroller_tools.desk.wiki"},
            }
            for tool in config["tools"]:
                tool["source"] = "desk"
            page = [{"kind": "page", "id": "{output.page_id}", "version": "{output.updated_at}"}]
            policy = {"name": "get_policy", "source": "wiki", "allow_actions": ["read"], "records": page}
            config["tools"].append(policy)
            if sources:
                config["retrieval"] = {"sources": list(sources)}

        return change

    async with opened(tmp_path, split()) as shop:
        page = await ref_of(shop, "get_policy", slug="refunds")
        invoice = shop.paid()[0]
    async with opened(tmp_path, split("desk")) as shop:  # the same task goes on under other rules
        assert "refs" not in structured(await shop.call("get_policy", slug="refunds"))
        read = await read_invoice(shop, invoice)
        answer = await shop.refund(invoice, 5, why=citations(read, page))
        assert code_of(answer) == "citation_missing" and page in answer.text
        assert code_of(await shop.refund(invoice, 5, why=citations(read))) is None
    with pytest.raises(ConfigInvalid, match="no call could ever cite an `invoice`"):
        async with opened(tmp_path, split("wiki")):
            pass


async def test_a_record_whose_key_is_withheld_gives_no_ref(tmp_path: Path, book: Book) -> None:
    secret = "hunter2-swordfish"
    book(entries={"e1": {"entry_id": secret, "amount": 10, "owner": "ann", "version": 1}})
    async with opened(tmp_path, booked(), secrets=(secret,)) as shop:
        answer = await shop.call("show_entry", entry_id="e1")
        assert secret not in answer.text and "refs" not in structured(answer)
        (read,) = shop.packets(RecordType.READ)
        assert read["refs"] == []


# -- whether it still is so ---------------------------------------------------------------------------------------


async def test_a_record_that_changed_since_it_was_read_is_stale_and_the_text_says_how(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        old = await read_invoice(shop, invoice)
        meanwhile(shop, invoice)
        answer = await shop.refund(invoice, 5, why=citations(old))
        assert code_of(answer) == "citation_stale"
        assert details_of(answer)["class"] == "stale_context"
        assert f'invoice "{invoice}" (ref {old}) has changed since you read it' in answer.text
        assert "refunded_usd was 0.0 and is 7.0" in answer.text
        assert 'and is "Another"' in answer.text
        assert "paid_usd" not in answer.text
        assert shop.moved() == []
        new = await read_invoice(shop, invoice)
        assert code_of(await shop.refund(invoice, 5, why=citations(old, new))) == "citation_stale"
        assert code_of(await shop.refund(invoice, 5, why=citations(new))) is None


def booked(*, version: bool = True, **more: Any) -> Changes:
    """A book beside the desk: `change_entry` cites an entry and looks it up with `audit_entry`."""

    def change(config: dict[str, Any]) -> None:
        config["budgets"] = {}
        config["limits"] = {"attempts_per_minute_max": 100_000, "refusal_records_per_minute_max": 5}
        config["sources"]["book"] = {"python": str(BOOK_TOOLS)}
        rule = {"kind": "entry", "id": "{output.entry_id}"} | (
            {"version": "{output.version}"} if version else {}
        )
        each = {"kind": "entry", "id": "{output.entries[].entry_id}"}
        for name in ("show_entry", "audit_entry"):
            config["tools"].append({"name": name, "allow_actions": ["read"], "records": [rule]})
        config["tools"].append({"name": "list_entries", "allow_actions": ["read"], "records": [each]})
        fact = {"tool": "audit_entry", "arguments": {"entry_id": "{input.entry_id}"}}
        update = {"name": "change_entry", "allow_actions": ["update"], "resource": "entry:{input.entry_id}"}
        config["tools"].append(update | {"cites": ["entry"], "facts": {"entry": fact}} | more)

    return change


async def change_entry(shop: Shop, entry: str, amount: int, *refs: str) -> Answer:
    return await shop.call("change_entry", entry_id=entry, amount=amount, why=citations(*refs))


async def test_what_changed_is_told_only_to_those_who_may_read_the_fact(tmp_path: Path, book: Book) -> None:
    def auditors_only(config: dict[str, Any]) -> None:
        booked()(config)
        tool_of(config, "audit_entry")["roles"] = ["auditor"]

    async with opened(tmp_path, auditors_only) as shop:
        ref = await ref_of(shop, "show_entry", entry_id="e1")
        book(entries={"e1": {"entry_id": "e1", "amount": 99, "owner": "ann", "version": 2}})
        answer = await change_entry(shop, "e1", 5, ref)
        assert code_of(answer) == "lookup_failed"
        told, _ = answer.text.split("(call ")  # an id may hold any two characters
        for word in ("changed", "99", "version", "e1"):
            assert word not in told, told
        assert "changes" not in book()


async def test_two_tools_that_show_one_record_are_compared_by_its_declared_version(
    tmp_path: Path, book: Book
) -> None:
    async with opened(tmp_path, booked()) as shop:
        ref = await ref_of(shop, "show_entry", entry_id="e1")
        assert code_of(await change_entry(shop, "e1", 5, ref)) is None
        answer = await change_entry(shop, "e1", 6, ref)
        assert code_of(answer) == "citation_stale"
        assert "was 10" not in answer.text  # another tool had read it; only that it changed can be told
        assert book()["changes"] == 1


async def test_without_a_declared_version_any_change_of_what_one_tool_shows_is_a_change(
    tmp_path: Path, book: Book
) -> None:
    async with opened(tmp_path, booked(version=False)) as shop:
        other = await ref_of(shop, "show_entry", entry_id="e1")
        ref = await ref_of(shop, "audit_entry", entry_id="e1")
        book(entries={"e1": {"entry_id": "e1", "amount": 10, "owner": "bob", "version": 1}})
        answer = await change_entry(shop, "e1", 5, ref)
        assert code_of(answer) == "citation_stale"
        assert 'owner was "ann" and is "bob"' in answer.text
        # What two tools show differs by itself, so without a version nothing can be compared between them.
        assert code_of(await change_entry(shop, "e1", 5, other)) is None


async def test_what_is_withheld_from_models_counts_as_a_change_and_is_not_told(
    tmp_path: Path, book: Book
) -> None:
    def hiding(config: dict[str, Any]) -> None:
        booked(version=False)(config)
        config["safety"] = {"pii_redaction": ["email"]}

    entry = {"entry_id": "e1", "amount": 10, "owner": "ann@example.org", "version": 1}
    book(entries={"e1": entry})
    async with opened(tmp_path, hiding) as shop:
        read = await shop.call("audit_entry", entry_id="e1")
        assert "ann@example.org" not in read.text
        ref = str(structured(read)["refs"][0]["ref"])
        book(entries={"e1": {**entry, "owner": "eve@example.org"}})
        answer = await change_entry(shop, "e1", 5, ref)
        assert code_of(answer) == "citation_stale"
        for word in ("ann", "eve", "example.org"):
            assert word not in answer.text, answer.text
        book(entries={"e1": entry})
        assert code_of(await change_entry(shop, "e1", 5, ref)) is None


async def test_thousands_of_proposals_without_evidence_cause_no_upstream_read(
    tmp_path: Path, book: Book
) -> None:
    async with opened(tmp_path, booked(constraints={"max_amount": 50})) as shop:
        ref = await ref_of(shop, "show_entry", entry_id="e0")
        listed = structured(await shop.call("list_entries", entry_ids=["e1"]))["refs"][0]["ref"]
        reads = book()["reads"]
        for at in range(500):
            for refs in ((), (ref,), (listed,), ("aaaaaaaa",)):
                assert (await change_entry(shop, f"e{1 + at}", at % 50, *refs)).is_error
        assert code_of(await change_entry(shop, "e0", 51, ref)) == "denied"
        assert book()["reads"] == reads and "changes" not in book()
        assert code_of(await change_entry(shop, "e0", 5, ref)) is None
        assert book()["reads"] > reads


# -- repeats and people -------------------------------------------------------------------------------------------


async def test_a_repeat_gets_its_calls_answer_whatever_it_cites_by_now(tmp_path: Path) -> None:
    sections = {"retrieval": {"freshness_sla_minutes": 1}}
    async with opened(tmp_path, citing("invoice", **sections)) as shop:
        invoice = shop.paid()[0]
        why = citations(await read_invoice(shop, invoice))
        first = await shop.refund(invoice, 5, why=why)
        assert code_of(first) is None
        again = await shop.refund(invoice, 5, why=why)  # its own refund has changed the record
        assert again.meta["comptroller/replayed"] is True
        shop.clock.pass_s(61)
        late = await shop.refund(invoice, 5, why=why)
        assert structured(late) == structured(first)
        assert len(shop.moved()) == 1
        other = await shop.refund(invoice, 6, why=why)
        assert code_of(other) == "citation_stale"
        assert len(shop.moved()) == 1


async def test_a_person_may_take_an_hour_and_only_a_changed_record_asks_again(tmp_path: Path) -> None:
    sections = {"retrieval": {"freshness_sla_minutes": 1}}
    async with opened(tmp_path, citing("invoice", **sections)) as shop:
        first, second = shop.paid()[:2]
        calls: list[str] = []
        for invoice in (first, second):
            answer = await shop.refund(invoice, 30, why=citations(await read_invoice(shop, invoice)))
            assert code_of(answer) == "approval_pending"
            calls.append(call_of(answer))
        shop.clock.pass_s(3_600)
        meanwhile(shop, second)
        for call in calls:
            await shop.vote(call)
        assert code_of(await shop.resume(calls[0])) is None
        assert code_of(await shop.resume(calls[1])) == "record_changed"
        assert [effect.invoice_id for effect in shop.moved()] == [first]
        await shop.vote(calls[1])
        assert code_of(await shop.resume(calls[1])) is None
        assert [effect.invoice_id for effect in shop.moved()] == [first, second]


async def test_the_identical_repeat_of_an_approved_call_runs_though_its_ref_is_old(tmp_path: Path) -> None:
    sections = {"retrieval": {"freshness_sla_minutes": 1}}
    async with opened(tmp_path, citing("invoice", **sections)) as shop:
        invoice = shop.paid()[0]
        why = citations(await read_invoice(shop, invoice))
        call = call_of(await shop.refund(invoice, 30, why=why))
        shop.clock.pass_s(120)
        assert code_of(await shop.refund(invoice, 30, why=why)) == "approval_pending"
        await shop.vote(call)
        assert code_of(await shop.refund(invoice, 30, why=why)) is None
        assert len(shop.moved()) == 1


async def test_a_repeat_that_would_run_again_is_a_new_call_and_needs_citations_that_hold(
    tmp_path: Path, book: Book
) -> None:
    async with opened(tmp_path, booked()) as shop:
        ref = await ref_of(shop, "show_entry", entry_id="e1")
        assert code_of(await change_entry(shop, "e1", 5, ref)) is None
        assert code_of(await change_entry(shop, "e1", 5, ref)) == "citation_stale"  # its own change
        assert code_of(await change_entry(shop, "e1", 5)) == "citation_missing"
        assert book()["changes"] == 1
        fresh = await ref_of(shop, "show_entry", entry_id="e1")
        assert code_of(await change_entry(shop, "e1", 5, fresh)) is None
        assert book()["changes"] == 2


# -- records ------------------------------------------------------------------------------------------------------


async def test_the_record_of_a_call_says_what_it_cited_at_which_version_and_age(tmp_path: Path) -> None:
    async with opened(tmp_path, citing("invoice"), clock=Still()) as shop:
        invoice = shop.paid()[0]
        read = await shop.call("lookup_invoice", invoice_id=invoice)
        ref = structured(read)["refs"][0]
        shop.clock.pass_s(40)
        assert code_of(await shop.refund(invoice, 5, why=citations(ref["ref"]))) is None
        (action,) = shop.packets(RecordType.ACTION)
        assert action["citations"] == [
            {**ref, "listed": False, "call": call_of(read), "tool": "lookup_invoice", "age_ms": 40_000}
        ]


async def test_why_and_the_card_of_an_approver_tell_what_was_read_and_when(tmp_path: Path) -> None:
    async with opened(tmp_path, citing("invoice"), clock=Still()) as shop:
        invoice = shop.paid()[0]
        read = await shop.call("lookup_invoice", invoice_id=invoice)
        ref = structured(read)["refs"][0]["ref"]
        shop.clock.pass_s(40)
        call = call_of(await shop.refund(invoice, 30, why=citations(ref)))
        told = (await run_in_thread(tmp_path, "why", call)).stdout
        (line,) = [line for line in told.splitlines() if line.split()[:1] == ["read"]]
        for word in (
            f"invoice {invoice}",
            "40 s before",
            f"by lookup_invoice (call {call_of(read)})",
            f"ref {ref}",
        ):
            assert word in line, word
        (card,) = shop.rows(APPROVALS, shop.row(call)["approval"])
        shown = (await run_in_thread(tmp_path, "approvals", "show", card)).stdout
        assert f"citing invoice {invoice} (ref {ref}, read 40 s before)" in shown


async def test_an_argument_that_does_not_match_its_pattern_is_denied_by_a_rule_with_a_name(
    tmp_path: Path,
) -> None:
    def change(config: dict[str, Any]) -> None:
        tool_of(config, "issue_refund")["constraints"]["pattern"] = {"invoice_id": "inv_[a-f0-9]+"}

    async with opened(tmp_path, change) as shop:
        invoice = next(one for one in shop.paid() if set(one[4:]) - set("abcdef0123456789"))
        answer = await shop.refund(invoice, 5)
        assert code_of(answer) == "denied"
        assert "invoice_id must match inv_[a-f0-9]+. (rule issue_refund.pattern.invoice_id)" in answer.text
        assert shop.moved() == []
