"""The support desk: records from a seed, tools that move money, a ledger of its own, and faults on demand."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comptroller_tools.desk import database, tools
from comptroller_tools.desk.faults import (
    Fault,
    FaultKind,
    InjectedFault,
    Point,
    clear_faults,
    faults_file,
    set_faults,
)
from comptroller_tools.desk.ledger import EffectKind, effects, faults_in_sums
from comptroller_tools.desk.records import INVOICES, generate
from comptroller_tools.errors import NotDone
from comptroller_tools.functions import FunctionSource
from comptroller_tools.source import Action, EffectHappened, Outcome


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An own desk for the test, made from seed 3 on first use."""
    path = tmp_path / "desk.db"
    monkeypatch.setenv("COMPTROLLER_DESK", str(path))
    monkeypatch.setenv("COMPTROLLER_DESK_SEED", "3")
    yield path
    database.close_all()


def some_invoice(desk: Path, number: int = 0) -> str:
    """A fully paid invoice with at least 40 dollars left."""
    database.ensure(desk, 3)
    [row] = query(
        desk,
        "SELECT id FROM invoices WHERE status = 'paid' AND paid_cents >= 4000 ORDER BY id LIMIT 1 OFFSET ?",
        number,
    )
    return str(row[0])


def query(desk: Path, sql: str, *values: object) -> list[Any]:
    with contextlib.closing(sqlite3.connect(desk)) as connection:
        return connection.execute(sql, values).fetchall()


def refund(invoice: str, usd: float = 10, key: str = "call-1") -> tools.Refund:
    request = tools.RefundRequest.model_validate(
        {"invoice_id": invoice, "amount_usd": usd, "reason_code": "goodwill"}
    )
    return tools.issue_refund(request, key)


def look_up(invoice: str) -> tools.Invoice:
    return tools.lookup_invoice(tools.InvoiceLookup(invoice_id=invoice))


@pytest.mark.parametrize("seed", [1, 2, 77])
def test_the_sums_of_a_new_desk_reconcile(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "desk.db"
    generate(path, seed)
    assert faults_in_sums(path) == []
    count = {t: query(path, f"SELECT count(*) FROM {t}")[0][0] for t in ("invoices", "tickets", "payments")}  # noqa: S608 -- our tables
    assert count["invoices"] == INVOICES
    assert min(count.values()) >= 50
    # Enough to work with: paid invoices that a ticket names, with 60 dollars or more to refund.
    assert len(query(path, "SELECT DISTINCT i.id FROM invoices i JOIN tickets t ON t.invoice_id = i.id "
                           "WHERE i.status = 'paid' AND i.paid_cents >= 6000")) >= 10  # fmt: skip


def test_the_same_seed_gives_the_same_records_and_another_seed_other_ids(tmp_path: Path) -> None:
    def dump(name: str, seed: int) -> str:
        generate(tmp_path / name, seed)
        with contextlib.closing(sqlite3.connect(tmp_path / name)) as connection:
            return hashlib.sha256("\n".join(connection.iterdump()).encode()).hexdigest()

    assert dump("a", 5) == dump("b", 5)
    assert dump("c", 6) != dump("d", 5)
    ids = [{row[0] for row in query(tmp_path / name, "SELECT id FROM invoices")} for name in ("a", "c")]
    assert not ids[0] & ids[1]


def test_a_desk_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    generate(path, 1)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        generate(path, 2)
    database.ensure(path, 2)
    assert path.read_bytes() == before


def test_when_many_come_first_at_once_one_desk_is_made(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "desk.db"
    with ThreadPoolExecutor(4) as pool:
        for made in [pool.submit(database.ensure, path, seed) for seed in range(4)]:
            made.result()
    assert faults_in_sums(path) == []
    assert [entry.name for entry in path.parent.iterdir()] == ["desk.db"]


def test_a_ticket_leads_to_its_invoice(desk: Path) -> None:
    found = tools.search_tickets(query="REFUND invoice", limit=3)
    assert found.total >= len(found.tickets) == 3
    ticket = tools.get_ticket(tools.TicketRequest(ticket_id=found.tickets[0].ticket_id))
    assert ticket.invoice_id is not None
    assert ticket.claimed_usd is not None
    invoice = look_up(ticket.invoice_id)
    assert invoice.number in ticket.body
    assert f"{ticket.claimed_usd:.2f}" in ticket.body
    assert sum(payment.amount_usd for payment in invoice.payments) == invoice.paid_usd
    assert desk.exists()


def test_a_search_is_text_and_never_sql_or_a_pattern(desk: Path) -> None:
    for text in ("'; DROP TABLE tickets; --", "100%", "_", '"', "?1"):
        assert tools.search_tickets(query=text).total <= 80
    assert tools.search_tickets(query="%%%").total == 0
    assert tools.search_tickets().total > 50
    assert tools.search_tickets(status=tools.TicketStatus.OPEN).total < tools.search_tickets().total
    assert desk.exists()


def test_a_refund_moves_money_and_the_version(desk: Path) -> None:
    invoice = some_invoice(desk)
    before = look_up(invoice)
    done = refund(invoice, 12.35)
    after = look_up(invoice)
    assert after.refunded_usd == before.refunded_usd + done.amount_usd
    assert after.status == "part_refunded"
    assert after.updated_at > before.updated_at
    assert done.updated_at == after.updated_at
    [effect] = effects(desk, "call-1")
    assert (effect.kind, effect.refund_id, effect.amount_cents) == (
        EffectKind.REFUND_ISSUED,
        done.refund_id,
        1235,
    )
    assert faults_in_sums(desk) == []


@settings(max_examples=10)
@given(cents=st.lists(st.integers(1, 5_000), min_size=1, max_size=5))
def test_whatever_is_refunded_and_cancelled_the_sums_reconcile(
    tmp_path_factory: pytest.TempPathFactory, cents: list[int]
) -> None:
    path = tmp_path_factory.mktemp("desk") / "desk.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPTROLLER_DESK", str(path))
        invoice = some_invoice(path)
        made = [refund(invoice, amount / 100, f"k{n}") for n, amount in enumerate(cents)]
        assert look_up(invoice).refunded_usd * 100 == sum(cents)
        for done in made[::2]:
            tools.cancel_refund(tools.RefundCancel(refund_id=done.refund_id), "cancel")
        assert look_up(invoice).refunded_usd * 100 == sum(cents[1::2])
        assert faults_in_sums(path) == []
        database.close_all()


def test_every_write_gives_another_version_however_fast(desk: Path) -> None:
    invoice = some_invoice(desk)
    versions = [look_up(invoice).updated_at]
    for n in range(20):
        refund(invoice, 0.01, f"k{n}")
        versions.append(look_up(invoice).updated_at)
    assert versions == sorted(set(versions))


def test_the_desk_itself_refunds_more_than_was_paid(desk: Path) -> None:
    invoice = some_invoice(desk)
    paid = look_up(invoice).paid_usd
    refund(invoice, float(paid) + 100)
    assert look_up(invoice).refunded_usd == paid + 100
    assert look_up(invoice).status == "refunded"


def test_what_cannot_be_is_refused_and_nothing_is_written(desk: Path) -> None:
    done = refund(some_invoice(desk))
    cancel = tools.RefundCancel(refund_id=done.refund_id)
    assert tools.cancel_refund(cancel, "c1").status == "cancelled"
    count = len(effects(desk))
    impossible: list[Callable[[], object]] = [
        lambda: refund("inv_none"),
        lambda: look_up("inv_none"),
        lambda: tools.get_ticket(tools.TicketRequest(ticket_id="tic_none")),
        lambda: tools.cancel_refund(tools.RefundCancel(refund_id="ref_none"), "c2"),
        lambda: tools.cancel_refund(cancel, "c3"),
    ]
    for attempt in impossible:
        with pytest.raises(NotDone):
            attempt()
    assert len(effects(desk)) == count
    assert faults_in_sums(desk) == []


def test_a_refund_is_found_by_the_key_of_its_call_and_absence_is_an_answer(desk: Path) -> None:
    done = refund(some_invoice(desk), key="call-9")
    found = tools.find_refund("call-9")
    assert (found.found, found.count) == (True, 1)
    assert found.refund == done
    absent = tools.find_refund("call-10")
    assert (absent.found, absent.count, absent.refund) == (False, 0, None)


def test_two_refunds_under_one_key_are_both_in_the_ledger(desk: Path) -> None:
    """The desk enforces no key, so a doubled effect shows."""
    invoice = some_invoice(desk)
    refund(invoice, key="twice")
    refund(invoice, key="twice")
    assert len(effects(desk, "twice")) == 2
    assert tools.find_refund("twice").count == 2


def test_the_ledger_cannot_be_rewritten(desk: Path) -> None:
    refund(some_invoice(desk))
    for sql in ("UPDATE effects SET amount_cents = 1", "DELETE FROM effects"):
        with pytest.raises(sqlite3.IntegrityError, match="append only"):
            query(desk, sql)


def test_the_sum_check_sees_a_changed_row(desk: Path) -> None:
    invoice = some_invoice(desk)
    with database.writing(desk) as connection:
        connection.execute("UPDATE invoices SET refunded_cents = 1 WHERE id = ?", (invoice,))
    assert len(faults_in_sums(desk)) == 2


def test_parallel_refunds_all_count(desk: Path) -> None:
    invoice = some_invoice(desk)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(refund, invoice, 1, f"k{n}") for n in range(32)]:
            done.result()
    assert look_up(invoice).refunded_usd == 32
    assert faults_in_sums(desk) == []


def test_a_desk_that_was_replaced_is_opened_again(desk: Path) -> None:
    invoice = some_invoice(desk)
    refund(invoice)
    other = desk.with_name("other.db")
    generate(other, 8)
    for tail in ("-wal", "-shm"):
        desk.with_name(desk.name + tail).unlink(missing_ok=True)
    other.replace(desk)
    with pytest.raises(NotDone):
        look_up(invoice)


# ------------------------------------------------------------------------------------------------- as a source


async def call(source: FunctionSource, tool: str, within_s: float = 30, **arguments: Any) -> Outcome:
    return await source.call(Action(tool, arguments, "call-1"), time.monotonic() + within_s)


@pytest.fixture
def source(desk: Path) -> FunctionSource:
    assert desk.parent.is_dir()
    return FunctionSource("desk", "comptroller_tools.desk.tools")


def refund_arguments(invoice: str, usd: float = 10) -> dict[str, Any]:
    return {"invoice_id": invoice, "amount_usd": usd, "reason_code": "goodwill"}


# ------------------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize(
    ("fault", "written", "effect"),
    [
        (Fault(tool="issue_refund", kind=FaultKind.RAISE), 0, EffectHappened.UNKNOWN),
        (Fault(tool="issue_refund", kind=FaultKind.RAISE, point=Point.IN_WRITE), 0, EffectHappened.UNKNOWN),
        (
            Fault(tool="issue_refund", kind=FaultKind.RAISE, point=Point.AFTER_WRITE),
            1000,
            EffectHappened.UNKNOWN,
        ),
        (Fault(tool="issue_refund", kind=FaultKind.REFUSE), 0, EffectHappened.NONE),
        (Fault(tool="issue_refund", kind=FaultKind.SHORT), 999, EffectHappened.DONE),
        (Fault(tool="issue_refund", kind=FaultKind.NOT_WRITTEN), 0, EffectHappened.DONE),
        (Fault(tool="issue_refund", kind=FaultKind.LIE), 1000, EffectHappened.DONE),
        (Fault(tool="*", kind=FaultKind.SLOW, seconds=0), 1000, EffectHappened.DONE),
        (Fault(tool="lookup_invoice", kind=FaultKind.RAISE), 1000, EffectHappened.DONE),
    ],
)
@pytest.mark.anyio
async def test_a_fault_does_what_it_says_to_money_and_to_the_answer(
    source: FunctionSource, desk: Path, fault: Fault, written: int, effect: EffectHappened
) -> None:
    invoice = some_invoice(desk)
    set_faults(desk, [fault])
    outcome = await call(source, "issue_refund", **refund_arguments(invoice))
    assert outcome.effect is effect
    assert sum(e.amount_cents for e in effects(desk, "call-1")) == written
    assert faults_in_sums(desk) == []
    if outcome.value is not None:
        assert (outcome.value["amount_usd"], outcome.value["invoice_id"]) == (10, invoice)


def test_a_refund_can_land_on_another_invoice_than_the_answer_names(desk: Path) -> None:
    invoice, other = some_invoice(desk), some_invoice(desk, 1)
    set_faults(desk, [Fault(tool="issue_refund", kind=FaultKind.WRONG_INVOICE, other=other)])
    assert refund(invoice).invoice_id == invoice
    assert [effect.invoice_id for effect in effects(desk, "call-1")] == [other]


def test_a_look_up_can_answer_with_another_record(desk: Path) -> None:
    invoice, other = some_invoice(desk), some_invoice(desk, 1)
    set_faults(desk, [Fault(tool="lookup_invoice", kind=FaultKind.WRONG_RECORD, other=other)])
    assert look_up(invoice).invoice_id == other


def test_an_answer_can_be_flooded(desk: Path) -> None:
    set_faults(desk, [Fault(tool="*", kind=FaultKind.FLOOD, bytes=300_000)])
    assert len(look_up(some_invoice(desk)).item) > 300_000
    assert len(refund(some_invoice(desk)).note) == 300_000


def test_a_fault_hits_only_the_calls_it_is_aimed_at(desk: Path) -> None:
    invoice, other = some_invoice(desk), some_invoice(desk, 1)
    fault = Fault(tool="lookup_invoice", kind=FaultKind.RAISE, when={"invoice_id": invoice}, skip=1, times=2)
    set_faults(desk, [fault])
    look_up(other)
    look_up(invoice)
    for _ in range(2):
        with pytest.raises(InjectedFault):
            look_up(invoice)
    look_up(invoice)
    clear_faults(desk)
    look_up(invoice)


def test_faults_that_do_not_parse_stop_the_desk(desk: Path) -> None:
    invoice = some_invoice(desk)
    for text in ("[", '[{"tool": "*"}]', '[{"tool": "*", "kind": "slow", "typo": 1}]'):
        faults_file(desk).write_text(text)
        with pytest.raises(ValueError, match="validation error"):
            refund(invoice)
    assert effects(desk, "call-1") == []


@pytest.mark.anyio
async def test_a_hanging_refund_is_unknown_and_lands_when_it_is_let_go(
    source: FunctionSource, desk: Path, tmp_path: Path
) -> None:
    invoice = some_invoice(desk)
    reached, go = tmp_path / "reached", tmp_path / "go"
    set_faults(desk, [Fault(tool="issue_refund", kind=FaultKind.HANG, reached=reached, until=go)])
    with anyio.fail_after(30):
        outcome = await call(source, "issue_refund", within_s=0.1, **refund_arguments(invoice))
        assert outcome.effect is EffectHappened.UNKNOWN
        while not reached.exists():  # noqa: ASYNC110 -- the thread says so with a file, as another process would
            await anyio.sleep(0.005)
        assert effects(desk, "call-1") == []
        go.touch()
        while source.busy:  # noqa: ASYNC110 -- a thread that was given up has no event
            await anyio.sleep(0.005)
    assert len(effects(desk, "call-1")) == 1


CHILD = """
import sys
from comptroller_tools.desk import tools
tools.issue_refund(
    tools.RefundRequest(invoice_id=sys.argv[1], amount_usd="10", reason_code="goodwill"), "call-1"
)
print("returned")
"""


@pytest.mark.parametrize(
    ("point", "written"), [(Point.BEFORE_WRITE, 0), (Point.IN_WRITE, 0), (Point.AFTER_WRITE, 1)]
)
@pytest.mark.parametrize("by", ["itself", "the test"])
def test_another_process_killed_at_a_point_leaves_a_whole_desk(
    desk: Path, tmp_path: Path, point: Point, written: int, by: str
) -> None:
    invoice = some_invoice(desk)
    reached = tmp_path / "reached"
    kind = FaultKind.KILL if by == "itself" else FaultKind.HANG
    set_faults(desk, [Fault(tool="issue_refund", kind=kind, point=point, reached=reached)])
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, invoice], env=dict(os.environ), stdout=subprocess.PIPE
    )
    try:
        if by == "the test":
            end = time.monotonic() + 30
            while not reached.exists() and time.monotonic() < end:
                time.sleep(0.005)
            child.kill()
        out, _ = child.communicate(timeout=30)
    finally:
        child.kill()
        child.wait()
    assert (child.returncode, out) == (-signal.SIGKILL, b"")
    assert len(effects(desk, "call-1")) == written
    assert faults_in_sums(desk) == []
    clear_faults(desk)
    assert tools.find_refund("call-1").count == written
