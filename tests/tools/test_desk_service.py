"""Tickets, replies, access requests and the wiki: what each tool changes, what it refuses, how it is found again."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comptroller_tools.desk import database, tools
from comptroller_tools.desk.ledger import EffectKind, effects, faults_in_records
from comptroller_tools.errors import NotDone

OPEN, WAITING, CLOSED = tools.TicketStatus.OPEN, tools.TicketStatus.WAITING, tools.TicketStatus.CLOSED


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "desk.db"
    monkeypatch.setenv("COMPTROLLER_DESK", str(path))
    database.ensure(path, 3)
    yield path
    assert faults_in_records(path) == []
    database.close_all()


def query(desk: Path, sql: str, *values: object) -> list[Any]:
    with contextlib.closing(sqlite3.connect(desk)) as connection:
        return connection.execute(sql, values).fetchall()


def ticket_in(desk: Path, status: tools.TicketStatus) -> str:
    return str(query(desk, "SELECT id FROM tickets WHERE status = ? ORDER BY id", status)[0][0])


def pending_request(desk: Path) -> str:
    return str(query(desk, "SELECT id FROM access_requests WHERE status = 'pending' ORDER BY id")[0][0])


def read_ticket(ticket: str) -> tools.Ticket:
    return tools.get_ticket(tools.TicketRequest(ticket_id=ticket))


def set_status(ticket: str, status: tools.TicketStatus, key: str = "call-1") -> tools.StatusChange:
    return tools.set_ticket_status(tools.TicketStatusRequest(ticket_id=ticket, status=status), key)


def undo(change: tools.StatusChange, key: str = "undo-1") -> tools.StatusChange:
    return tools.undo_status_change(tools.TicketStatusUndo(change_id=change.change_id), key)


def draft(ticket: str, body: str = "Hello, we look into it.", key: str = "call-1") -> tools.Reply:
    return tools.draft_reply(tools.ReplyDraft(ticket_id=ticket, body=body), key)


def send(reply: tools.Reply, to: str, key: str = "call-2") -> tools.Reply:
    return tools.send_reply(tools.ReplySend(reply_id=reply.reply_id, to=to), key)


def recall(reply: tools.Reply, key: str = "call-3") -> tools.Reply:
    return tools.recall_draft(tools.DraftRecall(reply_id=reply.reply_id), key)


def read_request(request: str) -> tools.AccessRequest:
    return tools.get_access_request(tools.AccessRequestLookup(request_id=request))


def grant(request: str, role: str = "viewer", days: int = 7, key: str = "call-1") -> tools.Access:
    return tools.grant_access(
        tools.AccessGrant(request_id=request, role=tools.AccessRole(role), days=days), key
    )


def revoke(access: tools.Access, key: str = "call-2") -> tools.Access:
    return tools.revoke_access(tools.AccessRevoke(access_id=access.access_id), key)


def happened(desk: Path, key: str) -> list[tuple[EffectKind, str, str, str]]:
    return [(e.kind, e.record_id, e.about_id, e.detail) for e in effects(desk, key)]


# ----------------------------------------------------------------------------------------------------- tickets


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        (OPEN, WAITING, True),
        (OPEN, CLOSED, True),
        (WAITING, OPEN, True),
        (WAITING, CLOSED, True),
        (CLOSED, OPEN, True),
        (CLOSED, WAITING, False),
        (OPEN, OPEN, False),
        (CLOSED, CLOSED, False),
    ],
)
def test_a_ticket_goes_only_where_its_status_leads(
    desk: Path, before: tools.TicketStatus, after: tools.TicketStatus, allowed: bool
) -> None:
    ticket = ticket_in(desk, before)
    then = read_ticket(ticket)
    if not allowed:
        with pytest.raises(NotDone):
            set_status(ticket, after)
        assert read_ticket(ticket) == then
        assert effects(desk, "call-1") == []
        return
    change = set_status(ticket, after)
    now = read_ticket(ticket)
    assert (now.status, change.previous_status, change.status) == (after, before, after)
    assert now.updated_at == change.updated_at > then.updated_at
    expected = (EffectKind.TICKET_STATUS_SET, change.change_id, ticket, f"{before}>{after}")
    assert happened(desk, "call-1") == [expected]


def test_undoing_a_close_opens_the_ticket_as_it_was(desk: Path) -> None:
    ticket = ticket_in(desk, WAITING)
    change = set_status(ticket, CLOSED)
    undone = undo(change)
    assert (undone.undone, undone.updated_at > change.updated_at) == (True, True)
    assert read_ticket(ticket).status is WAITING
    expected = (EffectKind.TICKET_STATUS_UNDONE, change.change_id, ticket, "closed>waiting")
    assert happened(desk, "undo-1") == [expected]


def test_only_the_last_change_of_a_ticket_can_be_undone_and_only_once(desk: Path) -> None:
    ticket = ticket_in(desk, OPEN)
    first, second = set_status(ticket, WAITING, "k1"), set_status(ticket, CLOSED, "k2")
    with pytest.raises(NotDone, match="not the ticket's last change"):
        undo(first)
    undo(second, "u2")
    with pytest.raises(NotDone, match="not the ticket's last change"):
        undo(second, "u2 again")
    undo(first, "u1")
    assert read_ticket(ticket).status is OPEN
    assert [len(effects(desk, key)) for key in ("u2", "u2 again", "u1")] == [1, 0, 1]


@settings(max_examples=15)
@given(steps=st.lists(st.one_of(st.sampled_from(list(tools.TicketStatus)), st.none()), max_size=8))
def test_however_a_ticket_is_moved_and_moved_back_table_and_ledger_agree(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tools.TicketStatus | None]
) -> None:
    """`None` undoes the last change in force."""
    path = tmp_path_factory.mktemp("desk") / "desk.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPTROLLER_DESK", str(path))
        database.ensure(path, 3)
        ticket = ticket_in(path, OPEN)
        made: list[tools.StatusChange] = []
        versions = [read_ticket(ticket).updated_at]
        for number, step in enumerate(steps):
            with contextlib.suppress(NotDone, IndexError):
                if step is None:
                    undo(made[-1], f"k{number}")
                    made.pop()
                else:
                    made.append(set_status(ticket, step, f"k{number}"))
                versions.append(read_ticket(ticket).updated_at)
        assert read_ticket(ticket).status is (made[-1].status if made else OPEN)
        assert versions == sorted(set(versions))
        assert faults_in_records(path) == []
        database.close_all()


# ----------------------------------------------------------------------------------------------------- replies


def test_a_reply_is_drafted_and_then_sent_once(desk: Path) -> None:
    ticket = ticket_in(desk, OPEN)
    written = draft(ticket, "Hello, here is the answer.")
    assert (written.status, written.sent_to, written.sent_at) == ("draft", None, None)
    assert written.customer_email == read_ticket(ticket).customer_email
    sent = send(written, written.customer_email)
    assert sent == tools.get_reply(tools.ReplyLookup(reply_id=written.reply_id))
    assert (sent.status, sent.sent_to, sent.body) == ("sent", written.customer_email, written.body)
    assert sent.updated_at == sent.sent_at
    assert sent.updated_at > written.updated_at
    late: list[Callable[[], object]] = [lambda: send(sent, "o@example.com", "k3"), lambda: recall(sent)]
    for again in late:
        with pytest.raises(NotDone, match="sent already"):
            again()
    drafted = (EffectKind.REPLY_DRAFTED, written.reply_id, ticket, "")
    assert happened(desk, "call-1") == [drafted]
    assert happened(desk, "call-2") == [
        (EffectKind.REPLY_SENT, written.reply_id, ticket, written.customer_email)
    ]
    assert happened(desk, "call-3") == []


def test_the_desk_sends_to_whomever_it_is_told_and_answers_closed_tickets(desk: Path) -> None:
    """That is for policy to catch, with the address on record that every reply shows."""
    written = draft(ticket_in(desk, CLOSED))
    sent = send(written, "stranger@elsewhere.example")
    assert sent.sent_to == "stranger@elsewhere.example" != sent.customer_email


@pytest.mark.parametrize(
    "to", ["nobody", "a b@example.com", "a@b", "@example.com", "a@example.com\nBcc: b@c.example"]
)
def test_what_is_no_address_gets_no_mail(desk: Path, to: str) -> None:
    written = draft(ticket_in(desk, OPEN))
    with pytest.raises(NotDone, match="no e-mail address"):
        send(written, to)
    assert effects(desk, "call-2") == []


def test_a_draft_can_be_recalled_and_is_then_gone(desk: Path) -> None:
    written = draft(ticket_in(desk, OPEN))
    recalled = recall(written)
    assert (recalled.status, recalled.updated_at > written.updated_at) == ("recalled", True)
    late: list[Callable[[], object]] = [lambda: send(written, "a@b.example"), lambda: recall(written, "k4")]
    for again in late:
        with pytest.raises(NotDone, match="recalled already"):
            again()
    assert [e.kind for e in effects(desk, "call-3")] == [EffectKind.DRAFT_RECALLED]
    assert effects(desk, "k4") == effects(desk, "call-2") == []


# ------------------------------------------------------------------------------------------------------ access


def test_access_is_granted_and_taken_away(desk: Path) -> None:
    request = pending_request(desk)
    asked = read_request(request)
    access = grant(request, "editor", 30)
    given = read_request(request)
    assert (given.status, given.access_id, given.granted_role, given.granted_days) == (
        "granted",
        access.access_id,
        "editor",
        30,
    )
    assert (access.holder_id, access.resource, access.status) == (
        asked.requester_id,
        asked.resource,
        "active",
    )
    assert given.updated_at > asked.updated_at
    revoked = revoke(access)
    assert revoked == tools.get_access(tools.AccessLookup(access_id=access.access_id))
    assert (revoked.status, revoked.updated_at > access.updated_at) == ("revoked", True)
    after = read_request(request)
    assert (after.status, after.access_id, after.granted_role) == ("revoked", None, None)
    assert happened(desk, "call-1") == [(EffectKind.ACCESS_GRANTED, access.access_id, request, "editor")]
    assert happened(desk, "call-2") == [(EffectKind.ACCESS_REVOKED, access.access_id, request, "editor")]


def test_the_desk_gives_more_than_was_asked_or_agreed_also_to_who_left(desk: Path) -> None:
    [[request, days_max]] = query(
        desk,
        "SELECT q.id, s.days_max FROM access_requests q JOIN employees e ON e.id = q.requester_id "
        "JOIN resources s ON s.id = q.resource WHERE q.status = 'pending' AND NOT e.active AND q.role <> 'admin' "
        "ORDER BY s.days_max LIMIT 1",
    )
    before = read_request(request)
    assert (before.requester_active, before.days_max) == (False, days_max)
    access = grant(request, "admin", 365)
    assert (access.role, access.days) == ("admin", 365)


def test_one_request_has_one_access_in_force_and_may_be_granted_again_after_it(desk: Path) -> None:
    request = pending_request(desk)
    first = grant(request, key="k1")
    with pytest.raises(NotDone, match=first.access_id):
        grant(request, key="k2")
    revoke(first, "k3")
    with pytest.raises(NotDone, match="revoked already"):
        revoke(first, "k4")
    assert grant(request, key="k5").access_id != first.access_id
    assert [len(effects(desk, f"k{n}")) for n in range(1, 6)] == [1, 0, 1, 0, 1]


def test_of_many_grants_at_once_one_is_written(desk: Path) -> None:
    request = pending_request(desk)

    def attempt(number: int) -> bool:
        try:
            grant(request, key=f"k{number}")
        except NotDone:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1
    assert query(desk, "SELECT count(*) FROM accesses WHERE request_id = ?", request) == [(1,)]


def test_access_requests_are_found_by_words_and_status(desk: Path) -> None:
    everything = tools.search_access_requests(limit=50)
    assert everything.total == len(everything.requests) + 14 == 64
    pending = tools.search_access_requests(status=tools.RequestStatus.PENDING, limit=2)
    assert pending.total > len(pending.requests) == 2
    assert {request.status for request in pending.requests} == {"pending"}
    some = pending.requests[0]
    found = tools.search_access_requests(query=f"{some.requester_name.upper()} {some.resource}", limit=50)
    assert some.request_id in [request.request_id for request in found.requests]
    assert tools.search_access_requests(query="%").total == 0
    assert desk.exists()


# -------------------------------------------------------------------------------------------------------- wiki


def test_the_best_page_comes_first_and_says_who_wrote_it(desk: Path) -> None:
    found = tools.search_policy(query="refund limit")
    assert found.pages[0].slug == "community-refund-tips", [page.slug for page in found.pages]
    assert found.pages[0].origin is tools.Origin.CUSTOMER
    ours = tools.search_policy(query="REFUND", origin=tools.Origin.STAFF)
    assert ours.pages[0].slug == "refunds"
    assert {page.origin for page in ours.pages} == {tools.Origin.STAFF}
    assert tools.search_policy(query="zebra").total == 0
    assert tools.search_policy(limit=20).total == 16
    assert desk.exists()


def test_an_excerpt_shows_where_the_word_is(desk: Path) -> None:
    [hit] = tools.search_policy(query="mandatory").pages
    assert "mandatory" in hit.excerpt
    assert hit.excerpt.startswith("…")
    page = tools.get_policy(tools.PolicyLookup(slug=hit.slug))
    assert hit.excerpt.strip("…") in page.body
    assert (page.page_id, page.updated_at) == (hit.page_id, hit.updated_at)
    assert desk.exists()


def test_the_page_on_writing_names_what_must_not_be_said(desk: Path) -> None:
    barred = tools.get_policy(tools.PolicyLookup(slug="replies")).barred_phrases
    assert "we guarantee" in barred
    assert all(phrase == phrase.lower() for phrase in barred)
    [[body], *_] = query(desk, "SELECT body FROM replies WHERE status = 'draft' AND body LIKE '%guarantee%'")
    assert [phrase for phrase in barred if phrase in body.lower()]


# ------------------------------------------------------------------------------------------------ found again


def test_every_write_is_found_by_the_key_of_its_call(desk: Path) -> None:
    ticket, request = ticket_in(desk, OPEN), pending_request(desk)
    change = set_status(ticket, CLOSED, "set")
    undo(change, "undo")
    sent = send(draft(ticket, key="draft"), "a@b.example", "send")
    dropped = recall(draft(ticket, key="draft 2"), "recall")
    access = grant(request, key="grant")
    revoke(access, "revoke")
    for key in ("set", "undo"):
        assert (found := tools.find_status_change(key)).change
        assert (found.count, found.change.change_id, found.change.undone) == (1, change.change_id, True)
    for key, reply in (("draft", sent), ("send", sent), ("draft 2", dropped), ("recall", dropped)):
        assert (tools.find_reply(key).count, tools.find_reply(key).reply) == (1, reply)
    for key in ("grant", "revoke"):
        assert (again := tools.find_access(key)).access
        assert (again.count, again.access.access_id, again.access.status) == (1, access.access_id, "revoked")
    finders: list[Callable[[str], Any]] = [tools.find_status_change, tools.find_reply, tools.find_access]
    for find in (*finders, tools.find_cancelled_refund):
        absent = find("another")
        assert (absent.found, absent.count) == (False, 0)


def test_a_cancelled_refund_is_found_by_the_key_of_the_call_that_cancelled_it(desk: Path) -> None:
    [[invoice], *_] = query(desk, "SELECT id FROM invoices WHERE status = 'paid' ORDER BY id")
    asked = tools.RefundRequest.model_validate(
        {"invoice_id": invoice, "amount_usd": 5, "reason_code": "goodwill"}
    )
    refund = tools.issue_refund(asked, "issue")
    assert tools.find_cancelled_refund("issue").found is False
    cancelled = tools.cancel_refund(tools.RefundCancel(refund_id=refund.refund_id), "cancel")
    assert tools.find_cancelled_refund("cancel").refund == cancelled
    assert tools.get_refund(tools.RefundLookup(refund_id=refund.refund_id)) == cancelled
    assert tools.find_refund("cancel").found is False


def test_what_is_not_there_is_refused_and_nothing_is_written(desk: Path) -> None:
    count = len(effects(desk))
    gone = tools.Reply.model_construct(reply_id="rep_none")
    impossible: list[Callable[[], object]] = [
        lambda: set_status("tic_none", OPEN),
        lambda: tools.undo_status_change(tools.TicketStatusUndo(change_id="chg_none"), "k"),
        lambda: draft("tic_none"),
        lambda: send(gone, "a@b.example"),
        lambda: recall(gone),
        lambda: tools.get_reply(tools.ReplyLookup(reply_id="rep_none")),
        lambda: read_request("req_none"),
        lambda: grant("req_none"),
        lambda: tools.revoke_access(tools.AccessRevoke(access_id="acc_none"), "k"),
        lambda: tools.get_access(tools.AccessLookup(access_id="acc_none")),
        lambda: tools.get_refund(tools.RefundLookup(refund_id="ref_none")),
        lambda: tools.get_policy(tools.PolicyLookup(slug="none")),
    ]
    for attempt in impossible:
        with pytest.raises(NotDone, match="There is no"):
            attempt()
    assert len(effects(desk)) == count
