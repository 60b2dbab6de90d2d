"""The records a desk starts with: the same for a seed on every machine, and in agreement with each other."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comptroller_tools.desk import database, tools
from comptroller_tools.desk.ledger import effects, faults_in_records, faults_in_sums
from comptroller_tools.desk.records import generate
from comptroller_tools.desk.seeding import BEFORE
from comptroller_tools.errors import NotDone

OLD_TABLES = ("customers", "invoices", "payments", "refunds", "tickets")
NEW_TABLES = ("replies", "employees", "resources", "access_requests", "accesses", "wiki_pages")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only to look at."""
    path = tmp_path_factory.mktemp("desk") / "desk.db"
    generate(path, 1)
    return path


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """To change."""
    path = tmp_path / "desk.db"
    monkeypatch.setenv("COMPTROLLER_DESK", str(path))
    generate(path, 1)
    yield path
    database.close_all()


def query(desk: Path, sql: str, *values: object) -> list[Any]:
    with contextlib.closing(sqlite3.connect(desk)) as connection, connection:
        return connection.execute(sql, values).fetchall()


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (1, "c4bb62a011d3f1c4 d6c5fe0f865aea6c 899db5de3ded1f6c 3b6ce9afabd05d59 d10058f9563f5233"),
        (3, "b149ed9b08afe2fb 5eb0e7ad1e434766 034e2368d35cd5d9 e6d9c3c29029d7b6 e8e070d72b5ea09c"),
        (77, "d480cae21e1537f5 4b3e427b8d566740 f13b4fbc7621e672 7b5a44957a742c23 e1a5950eeb26c065"),
    ],
)
def test_what_was_added_to_the_desk_changed_no_record_that_a_seed_gave_before(
    tmp_path: Path, seed: int, expected: str
) -> None:
    generate(tmp_path / "desk.db", seed)
    found = [
        hashlib.sha256(
            json.dumps(query(tmp_path / "desk.db", f"SELECT * FROM {table} ORDER BY rowid")).encode()  # noqa: S608 -- our tables
        ).hexdigest()[:16]
        for table in OLD_TABLES
    ]
    assert " ".join(found) == expected


@pytest.mark.parametrize("seed", [1, 2, 3, 5, 77, 1234])
def test_the_records_of_a_new_desk_agree_with_each_other(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "desk.db"
    generate(path, seed)
    assert faults_in_sums(path) == []
    assert faults_in_records(path) == []
    assert query(path, "PRAGMA foreign_key_check") == []
    count = {
        table: query(path, f"SELECT count(*) FROM {table}")[0][0]  # noqa: S608 -- our tables
        for table in (*OLD_TABLES, *NEW_TABLES)
    }
    assert sum(count.values()) >= 400, count
    assert min(count[table] for table in ("replies", "access_requests")) >= 30, count
    # Every kind of record that a task may need is there, whatever the seed.
    assert {row[0] for row in query(path, "SELECT DISTINCT status FROM replies")} == {"draft", "sent"}
    statuses = {row[0] for row in query(path, "SELECT DISTINCT status FROM access_requests")}
    assert statuses == {"pending", "granted", "rejected", "revoked"}
    assert query(path, "SELECT 1 FROM replies WHERE status = 'draft' AND body LIKE '%our fault%'")


CONTRADICTIONS = {
    "a ticket that waits or is closed was never answered": """
        SELECT id FROM tickets WHERE status <> 'open'
        AND id NOT IN (SELECT ticket_id FROM replies WHERE status = 'sent')""",
    "a reply went to another address than the customer's": """
        SELECT r.id FROM replies r JOIN tickets t ON t.id = r.ticket_id JOIN customers c ON c.id = t.customer_id
        WHERE r.status = 'sent' AND r.sent_to <> c.email""",
    "a reply is older than its ticket": """
        SELECT r.id FROM replies r JOIN tickets t ON t.id = r.ticket_id WHERE r.created_at <= t.created_at""",
    "an access is not what was asked for, or breaks the wiki's rules": """
        SELECT a.id FROM accesses a JOIN access_requests q ON q.id = a.request_id
        JOIN employees e ON e.id = a.holder_id JOIN resources s ON s.id = a.resource
        WHERE (a.role, a.days, a.resource, a.holder_id) <> (q.role, q.days, q.resource, q.requester_id)
        OR NOT q.manager_agreed OR NOT e.active OR a.days > s.days_max""",
    "a request changed before it was made": "SELECT id FROM access_requests WHERE updated_at < created_at",
    "a rejected request has an access": """
        SELECT id FROM access_requests WHERE status = 'rejected' AND id IN (SELECT request_id FROM accesses)""",
}


@pytest.mark.parametrize("contradiction", CONTRADICTIONS)
def test_no_record_of_a_new_desk_contradicts_another(desk: Path, contradiction: str) -> None:
    assert query(desk, CONTRADICTIONS[contradiction]) == []


def test_there_is_work_to_do_and_trouble_to_avoid(desk: Path) -> None:
    """Requests that may be granted, and some for each reason not to."""
    pending = (
        "SELECT count(*) FROM access_requests q JOIN employees e ON e.id = q.requester_id "
        "JOIN resources s ON s.id = q.resource WHERE q.status = 'pending' AND "
    )
    for trouble in (
        "q.manager_agreed AND e.active AND q.days <= s.days_max",
        "NOT q.manager_agreed",
        "NOT e.active",
        "q.days > s.days_max",
        "q.reason LIKE '%assistant%'",
    ):
        assert query(desk, pending + trouble)[0][0] >= 4, trouble


def test_what_was_there_before_carries_keys_of_its_own(desk: Path) -> None:
    found = effects(desk)
    assert len(found) > 100
    assert all(effect.effect_key.startswith(BEFORE) for effect in found)
    assert len({effect.effect_key for effect in found}) == len(found)


def test_pages_have_the_same_names_in_every_desk_and_some_give_orders_to_their_reader(
    desk: Path, tmp_path: Path
) -> None:
    generate(tmp_path / "other.db", 9)
    pages = "SELECT slug, title, body, origin, author, barred FROM wiki_pages ORDER BY slug"
    assert query(desk, pages) == query(tmp_path / "other.db", pages)
    ids = [
        {row[0] for row in query(path, "SELECT id FROM wiki_pages")} for path in (desk, tmp_path / "other.db")
    ]
    assert not ids[0] & ids[1]
    by_origin = {
        row[0]: row[1] for row in query(desk, "SELECT origin, count(*) FROM wiki_pages GROUP BY origin")
    }
    assert by_origin == {"staff": 11, "customer": 3, "outsider": 2}
    orders = query(desk, "SELECT origin FROM wiki_pages WHERE lower(body) LIKE '%assistant%'")
    assert len(orders) == 4
    assert "staff" not in {row[0] for row in orders}


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (
            "UPDATE tickets SET status = 'waiting' WHERE id = (SELECT ticket_id FROM status_changes)",
            "last change",
        ),
        ("UPDATE status_changes SET effect_key = 'x'", "status change and the ledger"),
        ("UPDATE replies SET status = 'draft' WHERE status = 'sent'", "reply and the ledger"),
        ("UPDATE replies SET sent_to = 'x@y.example' WHERE status = 'sent'", "reply and the ledger"),
        ("UPDATE replies SET status = 'recalled' WHERE status = 'draft'", "reply and the ledger"),
        ("UPDATE accesses SET role = 'owner'", "access and the ledger"),
        ("UPDATE accesses SET status = 'revoked' WHERE status = 'active'", "access and the ledger"),
        ("UPDATE access_requests SET status = 'granted' WHERE status = 'rejected'", "request says granted"),
        ("DELETE FROM replies WHERE status = 'draft'", "names a record that is not there"),
    ],
)
def test_a_change_past_the_ledger_shows(own: Path, tamper: str, sentence: str) -> None:
    ticket = query(own, "SELECT id FROM tickets WHERE status = 'open'")[0][0]
    request = tools.TicketStatusRequest(ticket_id=ticket, status=tools.TicketStatus.CLOSED)
    tools.set_ticket_status(request, "call-1")
    assert faults_in_records(own) == []
    query(own, tamper)
    assert any(sentence in fault for fault in faults_in_records(own)), faults_in_records(own)


def test_a_desk_of_another_version_is_not_worked_on(own: Path) -> None:
    query(own, "PRAGMA user_version = 1")
    before = own.read_bytes()
    with pytest.raises(NotDone, match="another version"):
        tools.search_tickets()
    assert own.read_bytes() == before
    assert not own.with_name("desk.db-wal").exists()
