"""The desk's own truth: an append-only table of what really happened, written with the change itself.

It is the oracle of simulation and kill tests: it knows nothing of Comptroller's tables, and triggers refuse
any change to what it holds.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

__all__ = [
    "LEDGER_SCHEMA",
    "DeskEffect",
    "EffectKind",
    "append",
    "effects",
    "faults_in_records",
    "faults_in_sums",
]

LEDGER_SCHEMA = """
CREATE TABLE effects (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    effect_key TEXT NOT NULL,
    record_id TEXT NOT NULL,
    about_id TEXT NOT NULL,
    amount_cents INTEGER NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX effects_by_key ON effects (effect_key);
CREATE TRIGGER effects_no_update BEFORE UPDATE ON effects BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER effects_no_delete BEFORE DELETE ON effects BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""


class EffectKind(StrEnum):
    REFUND_ISSUED = "refund_issued"
    REFUND_CANCELLED = "refund_cancelled"
    TICKET_STATUS_SET = "ticket_status_set"
    TICKET_STATUS_UNDONE = "ticket_status_undone"
    REPLY_DRAFTED = "reply_drafted"
    REPLY_SENT = "reply_sent"
    DRAFT_RECALLED = "draft_recalled"
    ACCESS_GRANTED = "access_granted"
    ACCESS_REVOKED = "access_revoked"


_MONEY = frozenset({EffectKind.REFUND_ISSUED, EffectKind.REFUND_CANCELLED})


@dataclass(frozen=True, slots=True)
class DeskEffect:
    """One thing that happened on the desk, in order of `seq`. `at` is UTC, RFC 3339.

    `record_id` is what was written (a refund, reply, status change or access), `about_id` what it is about (an
    invoice, ticket or access request). `amount_cents` is 0 unless money moved. `detail` is the one thing that
    matters beside them: where a reply went, `open>closed`, or the role that was given; else empty.
    """

    seq: int
    at: str
    kind: EffectKind
    effect_key: str
    record_id: str
    about_id: str
    amount_cents: int
    detail: str

    @property
    def refund_id(self) -> str:
        """The refund, when money moved; else empty."""
        return self.record_id if self.kind in _MONEY else ""

    @property
    def invoice_id(self) -> str:
        """The invoice, when money moved; else empty."""
        return self.about_id if self.kind in _MONEY else ""


def append(
    connection: sqlite3.Connection,
    *,
    at: str,
    kind: EffectKind,
    effect_key: str,
    record_id: str,
    about_id: str,
    amount_cents: int = 0,
    detail: str = "",
) -> None:
    """Add one line, in the transaction that `connection` has open."""
    connection.execute(
        "INSERT INTO effects (at, kind, effect_key, record_id, about_id, amount_cents, detail) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (at, kind.value, effect_key, record_id, about_id, amount_cents, detail),
    )


def effects(path: Path, effect_key: str | None = None) -> list[DeskEffect]:
    """All effects of the desk at `path`, oldest first, or those of one call. Empty when there is no file."""
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as connection:
        rows = connection.execute(
            "SELECT seq, at, kind, effect_key, record_id, about_id, amount_cents, detail FROM effects "
            "WHERE :key IS NULL OR effect_key = :key ORDER BY seq",
            {"key": effect_key},
        ).fetchall()
    return [DeskEffect(row[0], row[1], EffectKind(row[2]), *row[3:]) for row in rows]


_SUM_CHECKS = {
    "paid is not the sum of the payments": """
        SELECT i.id FROM invoices i WHERE i.paid_cents <>
        (SELECT COALESCE(SUM(amount_cents), 0) FROM payments WHERE invoice_id = i.id)""",
    "refunded is not the sum of the refunds in force": """
        SELECT i.id FROM invoices i WHERE i.refunded_cents <>
        (SELECT COALESCE(SUM(amount_cents), 0) FROM refunds WHERE invoice_id = i.id AND status = 'issued')""",
    "the refunds in force are not what the ledger says": """
        SELECT i.id FROM invoices i WHERE i.refunded_cents <>
        (SELECT COALESCE(SUM(CASE kind WHEN 'refund_issued' THEN amount_cents
                             WHEN 'refund_cancelled' THEN -amount_cents ELSE 0 END), 0)
         FROM effects WHERE about_id = i.id)""",
}

_RECORD_CHECKS = {
    "the ticket's status is not where its last change in force left it": """
        SELECT t.id FROM tickets t JOIN status_changes c ON c.rowid =
            (SELECT MAX(rowid) FROM status_changes WHERE ticket_id = t.id AND undone_by_key IS NULL)
        WHERE c.to_status <> t.status""",
    "the status change and the ledger disagree": """
        SELECT c.id FROM status_changes c WHERE
            1 <> (SELECT COUNT(*) FROM effects WHERE record_id = c.id AND kind = 'ticket_status_set'
                  AND about_id = c.ticket_id AND detail = c.from_status || '>' || c.to_status
                  AND effect_key = c.effect_key)
            OR (c.undone_by_key IS NOT NULL) <>
               (SELECT COUNT(*) FROM effects WHERE record_id = c.id AND kind = 'ticket_status_undone')""",
    "the reply and the ledger disagree": """
        SELECT r.id FROM replies r WHERE
            1 <> (SELECT COUNT(*) FROM effects WHERE record_id = r.id AND kind = 'reply_drafted'
                  AND about_id = r.ticket_id AND effect_key = r.drafted_by_key)
            OR (r.status = 'sent') <> (SELECT COUNT(*) FROM effects WHERE record_id = r.id
                  AND kind = 'reply_sent' AND detail = r.sent_to AND effect_key = r.sent_by_key)
            OR (r.status = 'recalled') <>
               (SELECT COUNT(*) FROM effects WHERE record_id = r.id AND kind = 'draft_recalled')""",
    "the access and the ledger disagree": """
        SELECT a.id FROM accesses a WHERE
            1 <> (SELECT COUNT(*) FROM effects WHERE record_id = a.id AND kind = 'access_granted'
                  AND about_id = a.request_id AND detail = a.role AND effect_key = a.granted_by_key)
            OR (a.status = 'revoked') <>
               (SELECT COUNT(*) FROM effects WHERE record_id = a.id AND kind = 'access_revoked')""",
    "the request says granted and not one access is in force, or the other way round": """
        SELECT q.id FROM access_requests q WHERE (q.status = 'granted') <>
        (SELECT COUNT(*) FROM accesses WHERE request_id = q.id AND status = 'active')""",
    "the ledger names a record that is not there": """
        SELECT e.record_id FROM effects e WHERE e.record_id NOT IN
        (SELECT id FROM refunds UNION ALL SELECT id FROM status_changes
         UNION ALL SELECT id FROM replies UNION ALL SELECT id FROM accesses)""",
}


def faults_in_sums(path: Path) -> list[str]:
    """Where the desk's own sums do not reconcile: one sentence per invoice, empty when all is well."""
    return _found(path, _SUM_CHECKS)


def faults_in_records(path: Path) -> list[str]:
    """Where tickets, replies and accesses are not what the ledger says: one sentence each, empty when all is well."""
    return _found(path, _RECORD_CHECKS)


def _found(path: Path, checks: Mapping[str, str]) -> list[str]:
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as connection:
        return [
            f"{row[0]}: {sentence}"
            for sentence, query in checks.items()
            for row in connection.execute(query).fetchall()
        ]
