"""The ready-made checks on the desk: an agent that errs is stopped before, a desk that misbehaves is found out after.

The oracle is the desk's own ledger.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.vocabulary import RecordType
from comptroller_tools.checks import CallView, Citation, Failed, Passed, Unknown, frozen
from comptroller_tools.checks_changes import not_above
from comptroller_tools.checks_records import cites_the_record, values_agree
from comptroller_tools.checks_totals import lines_sum_to, sum_within
from comptroller_tools.checks_wording import says_nothing_barred
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import WHY, Shop, call_of, code_of, opened, structured, tool_of
from tests.tools.test_desk_governed import proper_request, whole_desk

pytestmark = pytest.mark.anyio

RECORDS = "comptroller_tools.checks_records"
TOTALS = "comptroller_tools.checks_totals"
WORDING = "comptroller_tools.checks_wording"
CHANGES = "comptroller_tools.checks_changes"
ROLES = ["viewer", "editor", "admin"]
INVOICE = {"facts": ["invoice"]}
REFUND_CHECKS: list[dict[str, Any]] = [
    {
        "python": f"{RECORDS}:cites_the_record",
        "when": "before",
        "options": {"kind": "invoice", "key": "input.invoice_id"},
    },
    {
        "python": f"{RECORDS}:values_agree",
        "when": "before",
        **INVOICE,
        "options": {"left": "input.invoice_id", "right": "facts.invoice.invoice_id"},
    },
    {
        "python": f"{TOTALS}:lines_sum_to",
        "when": "before",
        **INVOICE,
        "options": {
            "lines": "facts.invoice.payments",
            "field": "amount_usd",
            "total": "facts.invoice.paid_usd",
        },
    },
    {
        "python": f"{TOTALS}:sum_within",
        "when": "before",
        **INVOICE,
        "options": {
            "parts": ["facts.invoice.refunded_usd", "input.amount_usd"],
            "most": "facts.invoice.paid_usd",
        },
    },
    {
        "python": f"{CHANGES}:changes_only",
        "when": "after",
        **INVOICE,
        "options": {"fact": "invoice", "fields": ["refunded_usd", "status", "updated_at"]},
    },
]
REPLY_CHECKS: list[dict[str, Any]] = [
    {
        "python": f"{WORDING}:says_nothing_barred",
        "when": "before",
        "facts": ["policy"],
        "options": {
            "text": "input.body",
            "phrases": "facts.policy.barred_phrases",
            "also": ["full refund today"],
        },
    }
]
ACCESS_CHECKS: list[dict[str, Any]] = [
    {
        "python": f"{CHANGES}:holds",
        "when": "before",
        "facts": ["asked"],
        "options": {"values": ["facts.asked.manager_agreed", "facts.asked.requester_active"]},
    },
    {
        "python": f"{CHANGES}:not_above",
        "when": "before",
        "facts": ["asked"],
        "options": {"value": "input.role", "limit": "facts.asked.role", "order": ROLES},
    },
    {
        "python": f"{CHANGES}:not_above",
        "when": "before",
        "facts": ["asked"],
        "options": {"value": "input.days", "limit": "facts.asked.days_max"},
    },
    {
        "python": f"{CHANGES}:not_above",
        "when": "after",
        "facts": ["asked"],
        "options": {"value": "after.asked.granted_role", "limit": "input.role", "order": ROLES},
    },
]


def checked_desk(config: dict[str, Any]) -> None:
    """The whole desk with the checks in place of its rules and read-backs."""
    whole_desk(config)
    refund, reply, access = (
        tool_of(config, name) for name in ("issue_refund", "draft_reply", "grant_access")
    )
    for tool in (refund, reply, access):
        tool.pop("verify")
    reply["facts"]["policy"] = {"tool": "get_policy", "arguments": {"slug": "replies"}}
    refund["checks"], reply["checks"], access["checks"] = REFUND_CHECKS, REPLY_CHECKS, ACCESS_CHECKS


async def read(shop: Shop, invoice: str) -> str:
    """Read an invoice; its ref."""
    answer = structured(await shop.call("lookup_invoice", invoice_id=invoice))
    return str(answer["refs"][0]["ref"])


async def refund(shop: Shop, invoice: str, usd: float, ref: str) -> Any:
    return await shop.refund(invoice, usd, why={"reason": "Charged twice.", "citations": [ref]})


# -- the right record ------------------------------------------------------------------------------------------------


async def test_a_refund_that_cites_its_own_invoice_is_paid(tmp_path: Path) -> None:
    async with opened(tmp_path, checked_desk, bare=True) as shop:
        invoice = shop.paid()[0]
        assert code_of(await refund(shop, invoice, 5, await read(shop, invoice))) is None
        assert [effect.amount_cents for effect in shop.moved(invoice)] == [500]


async def test_a_refund_on_another_invoice_than_the_one_that_was_read_is_stopped(tmp_path: Path) -> None:
    async with opened(tmp_path, checked_desk, bare=True) as shop:
        right, wrong = shop.paid()[:2]
        answer = await refund(shop, wrong, 5, await read(shop, right))
        assert code_of(answer) == "check_failed"
        assert f"is for invoice {wrong} and cites invoice {right}" in answer.text
        uncited = await shop.refund(wrong, 5)
        assert f"read invoice {wrong} and cite its ref" in uncited.text
        assert shop.moved() == []


async def test_a_look_up_that_answers_with_another_record_is_found_out(tmp_path: Path) -> None:
    async with opened(tmp_path, checked_desk, bare=True) as shop:
        invoice, other = shop.paid()[:2]
        ref = await read(shop, invoice)
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.WRONG_RECORD, other=other))
        answer = await refund(shop, invoice, 5, ref)
        assert code_of(answer) == "check_failed"
        assert "input.invoice_id and facts.invoice.invoice_id are not the same" in answer.text
        assert shop.moved() == []


# -- totals ----------------------------------------------------------------------------------------------------------


async def test_refunds_beyond_what_was_paid_are_stopped(tmp_path: Path) -> None:
    async with opened(tmp_path, checked_desk, bare=True) as shop:
        invoice = shop.paid()[0]
        shop.sql("UPDATE invoices SET refunded_cents = paid_cents - 400 WHERE id = ?", invoice)
        ref = await read(shop, invoice)
        answer = await refund(shop, invoice, 4.01, ref)
        assert code_of(answer) == "check_failed"
        assert "come to more than facts.invoice.paid_usd" in answer.text
        assert shop.moved() == []
        assert code_of(await refund(shop, invoice, 4, ref)) is None


async def test_nothing_is_refunded_on_an_invoice_whose_payments_do_not_add_up(tmp_path: Path) -> None:
    async with opened(tmp_path, checked_desk, bare=True) as shop:
        invoice = shop.paid()[0]
        shop.sql("UPDATE payments SET amount_cents = amount_cents - 1 WHERE invoice_id = ?", invoice)
        answer = await refund(shop, invoice, 5, await read(shop, invoice))
        assert code_of(answer) == "check_failed"
        assert "amount_usd of all facts.invoice.payments does not come to" in answer.text
        assert shop.moved() == []


async def test_a_refund_that_changes_more_than_the_refund_is_handed_over(tmp_path: Path) -> None:
    async with opened(tmp_path, checked_desk, bare=True) as shop:
        invoice, other = shop.paid()[:2]
        ref = await read(shop, invoice)
        # The first look-up from here on is the decision's, the second one reads back.
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.WRONG_RECORD, other=other, skip=1))
        answer = await refund(shop, invoice, 5, ref)
        assert code_of(answer) == "verification_failed"
        assert "of invoice changed too" in answer.text
        assert shop.state(call_of(answer)) == "handed_off"


# -- wording ---------------------------------------------------------------------------------------------------------


async def test_a_draft_that_promises_what_policy_bars_is_not_written(tmp_path: Path) -> None:
    bodies = (
        "We guarantee it.",
        "WE\n  GUARANTEE it.",
        "We are sorry, it was our\u00a0fault.",
        "The money is back with\u00adin 24 hours!",
        "\uff57\uff45 \uff47\uff55\uff41\uff52\uff41\uff4e\uff54\uff45\uff45 it",
        "A full refund, today.",
    )
    async with opened(tmp_path, roomy, bare=True) as shop:
        ticket = shop.sql("SELECT id FROM tickets WHERE status = 'open' ORDER BY id")[0][0]
        for body in bodies:
            answer = await shop.call("draft_reply", ticket_id=ticket, body=body, why=WHY)
            assert code_of(answer) == "check_failed", body
            assert "which policy bars" in answer.text
        assert shop.moved() == []


def roomy(config: dict[str, Any]) -> None:
    checked_desk(config)
    config["budgets"] = {}


async def test_a_draft_in_plain_kind_words_is_written(tmp_path: Path) -> None:
    async with opened(tmp_path, checked_desk, bare=True) as shop:
        ticket = shop.sql("SELECT id FROM tickets WHERE status = 'open' ORDER BY id")[0][0]
        body = "Hello, billing looks into it. Is the invoice from within 240 hours of the default date?"
        assert code_of(await shop.call("draft_reply", ticket_id=ticket, body=body, why=WHY)) is None
        assert len(shop.moved()) == 1


async def test_a_policy_page_that_bars_nothing_lets_nothing_through(tmp_path: Path) -> None:
    def no_other_phrase(config: dict[str, Any]) -> None:
        checked_desk(config)
        options = {"text": "input.body", "phrases": "facts.policy.barred_phrases"}
        tool_of(config, "draft_reply")["checks"] = [{**REPLY_CHECKS[0], "options": options}]

    async with opened(tmp_path, no_other_phrase, bare=True) as shop:
        shop.misbehave(Fault(tool="get_policy", kind=FaultKind.WRONG_RECORD, other="refunds"))
        ticket = shop.sql("SELECT id FROM tickets WHERE status = 'open' ORDER BY id")[0][0]
        answer = await shop.call("draft_reply", ticket_id=ticket, body="Hello.", why=WHY)
        assert code_of(answer) == "check_failed"
        assert "nothing to check against" in answer.text
        assert shop.moved() == []


# -- changes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("whose", "role", "days", "said"),
    [
        ("NOT q.manager_agreed AND e.active", None, 1, "facts.asked.manager_agreed must be true"),
        ("q.manager_agreed AND NOT e.active", None, 1, "facts.asked.requester_active must be true"),
        (
            "q.manager_agreed AND e.active AND q.role = 'viewer'",
            "admin",
            1,
            "input.role is above facts.asked.role",
        ),
        (
            "q.manager_agreed AND e.active AND s.days_max < 365",
            None,
            365,
            "input.days is above facts.asked.days_max",
        ),
    ],
)
async def test_access_beyond_the_rules_is_not_given(
    tmp_path: Path, whose: str, role: str | None, days: int, said: str
) -> None:
    async with opened(tmp_path, checked_desk, bare=True) as shop:
        request, asked = shop.sql(
            "SELECT q.id, q.role FROM access_requests q JOIN employees e ON e.id = q.requester_id "  # noqa: S608 -- ours
            f"JOIN resources s ON s.id = q.resource WHERE q.status = 'pending' AND {whose} ORDER BY q.id"
        )[0]
        answer = await shop.call("grant_access", request_id=request, role=role or asked, days=days, why=WHY)
        assert code_of(answer) == "check_failed"
        assert said in answer.text
        assert shop.moved() == []


@pytest.mark.parametrize(("other", "code"), [(None, None), ("admin", "verification_failed")])
async def test_access_that_was_agreed_is_given_and_more_than_that_is_found_out(
    tmp_path: Path, other: str | None, code: str | None
) -> None:
    async with opened(tmp_path, checked_desk, bare=True) as shop:
        asked = await proper_request(shop)
        if other is not None:
            shop.misbehave(Fault(tool="grant_access", kind=FaultKind.ALTERED, other=other))
        arguments = {name: asked[name] for name in ("request_id", "role", "days")}
        answer = await shop.call("grant_access", arguments, why=WHY)
        assert code_of(answer) == code
        assert [effect.detail for effect in shop.moved()] == [other or asked["role"]]
        (audit,) = shop.packets(RecordType.AUDIT)
        assert audit["verification"]["result"] == ("matched" if code is None else "differs")


# -- the functions alone ---------------------------------------------------------------------------------------------


def view(**values: Any) -> CallView:
    return CallView(tool="t", input=frozen(values))


def test_a_record_is_cited_by_its_kind_and_its_key() -> None:
    call = CallView(tool="t", input=frozen({"id": 7}), citations=(Citation("r", "ticket", "7", "v1"),))
    assert isinstance(cites_the_record(call, kind="ticket", key="input.id"), Passed)
    assert isinstance(cites_the_record(call, kind="invoice", key="input.id"), Failed)


def test_true_is_not_one_and_no_number_is_a_truth() -> None:
    assert isinstance(values_agree(view(a=1, b=True), left="input.a", right="input.b"), Failed)
    assert isinstance(values_agree(view(a=1, b=1.0), left="input.a", right="input.b"), Passed)
    for wrong in (True, "5", None):
        with pytest.raises(TypeError):
            sum_within(view(a=wrong, b=9), parts=("input.a",), most="input.b")
        with pytest.raises(TypeError):
            not_above(view(a=wrong, b=9), value="input.a", limit="input.b")


@given(st.lists(st.integers(-10_000, 10_000), max_size=20))
def test_lines_in_cents_sum_exactly(cents: list[int]) -> None:
    lines = [{"usd": amount / 100} for amount in cents]
    exact = view(lines=lines, total=sum(cents) / 100)
    off = view(lines=lines, total=(sum(cents) + 1) / 100)
    assert isinstance(lines_sum_to(exact, lines="input.lines", field="usd", total="input.total"), Passed)
    assert isinstance(lines_sum_to(off, lines="input.lines", field="usd", total="input.total"), Failed)


_FORMS = st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"])


@given(_FORMS, st.sampled_from([str.upper, str.lower, str.title]), st.text("\u200b\u00ad\ufeff", max_size=3))
def test_a_phrase_is_found_however_it_is_written(form: Any, case: Any, hidden: str) -> None:
    phrase = "wé don’t guarantee"
    said = unicodedata.normalize(form, case(phrase)).replace("g", f"g{hidden}").replace("G", f"G{hidden}")
    call = view(text=f"Dear all, {said}! Yours")
    assert isinstance(says_nothing_barred(call, text="input.text", also=(phrase,)), Failed)


@given(st.text())
def test_any_text_can_be_checked_and_phrases_are_whole_words(text: str) -> None:
    assert not isinstance(says_nothing_barred(view(text=text), text="input.text", also=("fault",)), Unknown)
    call = view(text="our default answer")
    assert isinstance(says_nothing_barred(call, text="input.text", also=("our fault", "def")), Passed)
